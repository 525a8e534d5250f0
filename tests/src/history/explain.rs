//! Why a key has no order, in few lines. A history is cut to its shortest prefix without an order; then answers are
//! forgotten, many at a time and finally one by one, as long as what is left still has none. What remains contradicts
//! itself whatever all the others did.

use super::operation::{Answer, Ask, Expect, Operation, Outcome, Seen};
use super::{Finding, Limits, search, zones};
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

/// Attempts for each question asked while the history is cut down: an undecided one counts as "still has an order".
const LIMITS: Limits = Limits {
    steps: 20_000,
    words: 4 << 20,
};
/// The cutting ends after this time, with what it has come to.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answers of one key that contradict each other.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The key.
    pub key: u64,
    /// All its operations.
    pub operations: usize,
    /// Those whose answers contradict each other, in order of their calls.
    pub core: Vec<Operation>,
    /// Those that could have written what the core speaks of.
    pub writers: Vec<Operation>,
}

/// Cuts one key's operations, which have no order, down to the few that show it.
pub(super) fn explain(operations: &[Operation]) -> Explanation {
    let begin = Instant::now();
    let mut impossible = |some: &[Operation]| {
        let finding = || zones::order(some).unwrap_or_else(|| search::order(some, LIMITS));
        begin.elapsed() < PATIENCE && finding() == Finding::Impossible
    };
    let mut left = shortest_prefix(operations, &mut impossible);
    forget_answers(&mut left, &mut impossible);
    let mut core: Vec<Operation> = left
        .iter()
        .filter(|one| one.answered().is_some())
        .copied()
        .collect();
    core.sort_by_key(|one| one.called);
    let named: BTreeSet<i64> = core.iter().filter_map(names).collect();
    let writes_one = |one: &&Operation| one.ask.value().is_some_and(|value| named.contains(&value));
    let is_new = |one: &&Operation| !core.contains(one);
    let writers = operations
        .iter()
        .filter(writes_one)
        .filter(is_new)
        .copied()
        .collect();
    Explanation {
        key: operations.first().map_or(0, |one| one.key),
        operations: operations.len(),
        core,
        writers,
    }
}

/// The history up to the first answer with which it has no order any more.
fn shortest_prefix(
    operations: &[Operation],
    impossible: &mut impl FnMut(&[Operation]) -> bool,
) -> Vec<Operation> {
    let ends: BTreeSet<u64> = operations
        .iter()
        .filter_map(|one| Some(one.answered()?.0))
        .collect();
    let ends: Vec<u64> = ends.into_iter().collect();
    // The smallest number of answers that is one too many lies in (low, high].
    let (mut low, mut high) = (0, ends.len());
    while low + 1 < high {
        let middle = low.midpoint(high);
        match impossible(&until(operations, ends[middle - 1])) {
            true => high = middle,
            false => low = middle,
        }
    }
    match high {
        0 => operations.to_vec(),
        _ => until(operations, ends[high - 1]),
    }
}

fn until(operations: &[Operation], end: u64) -> Vec<Operation> {
    let known = |one: &Operation| match one.answered() {
        Some((at, _)) if at > end => one.unanswered(),
        _ => *one,
    };
    operations
        .iter()
        .filter(|one| one.called <= end)
        .map(known)
        .collect()
}

/// Forgets answers in ever smaller runs, the oldest first.
fn forget_answers(left: &mut Vec<Operation>, impossible: &mut impl FnMut(&[Operation]) -> bool) {
    left.sort_by_key(|one| one.called);
    let mut run = left.len().div_ceil(2);
    while run > 0 {
        for start in (0..left.len()).step_by(run) {
            let end = left.len().min(start + run);
            let mut less = left.clone();
            less[start..end]
                .iter_mut()
                .filter(|one| one.answered().is_some())
                .for_each(|one| *one = one.unanswered());
            if less[start..end] != left[start..end] && impossible(&less) {
                *left = less;
            }
        }
        run = if run == 1 { 0 } else { run.div_ceil(2) };
    }
}

/// The value that an operation's answer speaks of.
fn names(one: &Operation) -> Option<i64> {
    match (one.ask, one.answered()?.1) {
        (Ask::Get, Answer::Found(Some(seen))) => Some(seen.value),
        (Ask::Cas(Expect::Value(value), _), Answer::Swapped(_)) => Some(value),
        _ => None,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, all, core) = (self.key, self.operations, self.core.len());
        writeln!(
            f,
            "key {key}: no order of its {all} operations explains their answers. Whatever the others did, these {core} contradict each other:"
        )?;
        let from = self.core.iter().map(|one| one.called).min().unwrap_or(0);
        let to = self.core.iter().map(last_moment).max().unwrap_or(0);
        for one in &self.core {
            writeln!(f, "  |{}| {one}", bar(one, from, to))?;
        }
        if !self.writers.is_empty() {
            writeln!(f, "written by:")?;
        }
        for one in &self.writers {
            writeln!(f, "  |{}| {one}", bar(one, from, to))?;
        }
        Ok(())
    }
}

fn last_moment(one: &Operation) -> u64 {
    one.answered().map_or(one.called, |(at, _)| at)
}

/// Where the operation lies in the window.
fn bar(one: &Operation, from: u64, to: u64) -> String {
    const COLUMNS: u64 = 40;
    let span = (to - from).max(1);
    let column =
        |at: u64| u128::from(at.saturating_sub(from).min(span)) * u128::from(COLUMNS - 1) / u128::from(span);
    let first = column(one.called);
    let last = one
        .answered()
        .map_or(u128::from(COLUMNS - 1), |(at, _)| column(at));
    let sign = if one.answered().is_some() { '=' } else { '-' };
    let place = |at: u64| {
        if (first..=last).contains(&u128::from(at)) {
            sign
        } else {
            ' '
        }
    };
    (0..COLUMNS).map(place).collect()
}

/// Seconds to the microsecond.
struct At(u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000 / 1_000
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} {} ", self.client, self.ask)?;
        match self.outcome {
            Outcome::Answered(at, answer) => write!(f, "-> {answer} ({} s to {} s)", At(self.called), At(at)),
            Outcome::Refused => write!(f, "-> refused ({} s)", At(self.called)),
            Outcome::Unknown => write!(f, "-> unknown ({} s)", At(self.called)),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Get => write!(f, "get"),
            Ask::Put(value) => write!(f, "put {value}"),
            Ask::PutIfAbsent(value) => write!(f, "put {value} if absent"),
            Ask::PutIfPresent(value) => write!(f, "put {value} if present"),
            Ask::Add(delta) => write!(f, "add {delta}"),
            Ask::Delete => write!(f, "delete"),
            Ask::Cas(expect, Some(value)) => write!(f, "put {value} if {expect}"),
            Ask::Cas(expect, None) => write!(f, "delete if {expect}"),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Absent => write!(f, "absent"),
            Expect::Present => write!(f, "present"),
            Expect::Version(version) => write!(f, "version is {version}"),
            Expect::Value(value) => write!(f, "value is {value}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Found(None) => write!(f, "absent"),
            Answer::Found(Some(Seen { value, version: None })) => write!(f, "{value}"),
            Answer::Found(Some(Seen {
                value,
                version: Some(version),
            })) => write!(f, "{value} version {version}"),
            Answer::Done => write!(f, "done"),
            Answer::Written(true) => write!(f, "written"),
            Answer::Written(false) => write!(f, "left alone"),
            Answer::Sum(sum) => write!(f, "{sum}"),
            Answer::Deleted(true) => write!(f, "deleted"),
            Answer::Deleted(false) => write!(f, "nothing to delete"),
            Answer::Swapped(version) => write!(f, "done, version {version}"),
            Answer::Mismatch(None) => write!(f, "left alone, absent"),
            Answer::Mismatch(Some(version)) => write!(f, "left alone, version {version}"),
        }
    }
}
