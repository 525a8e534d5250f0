//! What a run has come to: one table, and whether it passed, failed, or proved too little to pass (INVALID).

use super::nemesis::Kind;
use super::{Plan, SERVICE_BACK_MAX};
use crate::history::{Ask, Judgement, Operation, Outcome, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A fault that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// When it began and was healed, on the record's clock.
    pub(super) began: u64,
    pub(super) healed: u64,
    /// From healing until every range took writes through every node; None: never.
    pub(super) back: Option<Duration>,
    /// It was really there.
    pub(super) happened: bool,
    /// Operations answered between its beginning and its healing.
    pub(super) answered: u64,
}

/// What a run has come to.
#[derive(Debug)]
pub struct Report {
    pub(super) plan: Plan,
    pub(super) took: Duration,
    pub(super) faults: Vec<Fault>,
    pub(super) history: Vec<Operation>,
    pub(super) judgement: Judgement,
    pub(super) judged_in: Duration,
    pub(super) acknowledged_writes: usize,
    /// Everything that must not be.
    pub(super) failures: Vec<String>,
}

impl Report {
    /// Why the run failed, or why it proves too little; None: it passed.
    pub fn failure(&self) -> Option<String> {
        let mut all = self.failures.clone();
        match &self.judgement.verdict {
            Verdict::Linearizable => {}
            Verdict::Violated(explanation) => all.push(format!("not linearizable: {explanation}")),
            Verdict::Undecided { key, operations } => {
                all.push(format!(
                    "INVALID: nobody knows whether key {key} with {operations} operations has an order"
                ));
            }
        }
        all.extend(self.faults.iter().filter_map(late));
        all.extend(self.shortfall().map(|why| format!("INVALID: {why}")));
        (!all.is_empty()).then(|| all.join("\n"))
    }

    /// What the run promised and did not do.
    fn shortfall(&self) -> Option<String> {
        let seconds = self.plan.seconds;
        let answered = self.history.iter().filter(|one| one.answered().is_some()).count() as u64;
        if answered < self.plan.answered_min() {
            return Some(format!("{answered} operations answered in {seconds} s: too few"));
        }
        let unknown = self.history.iter().filter(|one| one.is_unknown()).count();
        if unknown == 0 {
            return Some("no operation of unknown outcome: the faults came where nobody was".into());
        }
        let few = self.asked().into_iter().find(|(_, count)| *count < 20);
        if let Some((ask, count)) = few {
            return Some(format!("{count} operations of the kind `{ask}`: too few"));
        }
        let times = |kind| {
            self.faults
                .iter()
                .filter(|fault| fault.kind == kind && fault.happened)
                .count() as u64
        };
        let least = self.plan.times_min();
        let rare = Kind::ALL.into_iter().find(|kind| times(*kind) < least);
        if let Some(kind) = rare {
            return Some(format!(
                "`{}` happened {} times, {least} were promised",
                kind.name(),
                times(kind)
            ));
        }
        let during: u64 = self.faults.iter().map(|fault| fault.answered).sum();
        (during < answered / 50).then(|| format!("{during} operations answered during faults: too few"))
    }

    /// How many of each kind of question were answered.
    fn asked(&self) -> BTreeMap<&'static str, u64> {
        let mut asked: BTreeMap<&str, u64> = KINDS.iter().map(|kind| (*kind, 0)).collect();
        for one in self.history.iter().filter(|one| one.answered().is_some()) {
            *asked.entry(kind_of(one.ask)).or_default() += 1;
        }
        asked
    }

    /// The longest time a client waited from answer to answer, around a fault.
    fn gap(&self, fault: &Fault) -> Duration {
        let until = fault.healed + nanos(fault.back.unwrap_or_default()) + nanos(SERVICE_BACK_MAX);
        let mut ends: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for one in &self.history {
            let Some((end, _)) = one.answered() else { continue };
            if (fault.began..until).contains(&end) && one.client < super::READERS_FROM {
                ends.entry(one.client).or_default().push(end);
            }
        }
        let longest = |mut ends: Vec<u64>| {
            ends.push(fault.began);
            ends.sort_unstable();
            ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
        };
        Duration::from_nanos(ends.into_values().map(longest).max().unwrap_or(0))
    }
}

const KINDS: [&str; 7] = [
    "get",
    "put",
    "put if absent",
    "put if present",
    "add",
    "delete",
    "compare and set",
];

fn kind_of(ask: Ask) -> &'static str {
    match ask {
        Ask::Get => KINDS[0],
        Ask::Put(_) => KINDS[1],
        Ask::PutIfAbsent(_) => KINDS[2],
        Ask::PutIfPresent(_) => KINDS[3],
        Ask::Add(_) => KINDS[4],
        Ask::Delete => KINDS[5],
        Ask::Cas(..) => KINDS[6],
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a run shorter than centuries")
}

fn late(fault: &Fault) -> Option<String> {
    let (name, at) = (fault.kind.name(), fault.healed as f64 / 1e9);
    match fault.back {
        Some(back) if back <= SERVICE_BACK_MAX => None,
        Some(back) => Some(format!(
            "`{name}`, healed at {at:.1} s: the service was back after {back:.2?}"
        )),
        None => Some(format!(
            "`{name}`, healed at {at:.1} s: the service never came back"
        )),
    }
}

/// Median and maximum, in seconds.
struct Spread(Vec<Duration>);

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        match sorted.last() {
            Some(last) => {
                let middle = sorted[sorted.len() / 2];
                write!(f, "{:>8.2} {:>8.2}", middle.as_secs_f64(), last.as_secs_f64())
            }
            None => write!(f, "{:>8} {:>8}", "-", "-"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, faults: &[&Fault]| {
            let answered: u64 = faults.iter().map(|fault| fault.answered).sum();
            let back = Spread(faults.iter().filter_map(|fault| fault.back).collect());
            let gap = Spread(faults.iter().map(|fault| self.gap(fault)).collect());
            writeln!(f, "{name:<24} {:>5} {answered:>9} {back} {gap}", faults.len())
        };
        let (seed, took) = (self.plan.seed, self.took.as_secs());
        writeln!(
            f,
            "kill test, seed {seed}, {took} s: 3 nodes, {} ranges, {} clients",
            super::RANGES,
            super::CLIENTS
        )?;
        writeln!(
            f,
            "{:<24} {:>5} {:>9} {:>17} {:>17}",
            "", "", "answered", "service back", "longest wait of"
        )?;
        writeln!(
            f,
            "{:<24} {:>5} {:>9} {:>17} {:>17}",
            "fault", "times", "meanwhile", "p50 s    max s", "a client, p50 max"
        )?;
        for kind in Kind::ALL {
            let of_kind: Vec<&Fault> = self
                .faults
                .iter()
                .filter(|fault| fault.kind == kind && fault.happened)
                .collect();
            row(f, kind.name(), &of_kind)?;
        }
        row(
            f,
            "all",
            &self
                .faults
                .iter()
                .filter(|fault| fault.happened)
                .collect::<Vec<_>>(),
        )?;
        self.show_history(f)
    }
}

impl Report {
    fn show_history(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |of: fn(&Operation) -> bool| self.history.iter().filter(|one| of(one)).count();
        let answered = count(|one| one.answered().is_some());
        let refused = count(|one| one.outcome == Outcome::Refused);
        let Judgement {
            operations,
            unknown,
            keys,
            keys_by_zones,
            ..
        } = self.judgement;
        let asked: Vec<String> = self
            .asked()
            .iter()
            .map(|(ask, count)| format!("{count} {ask}"))
            .collect();
        writeln!(
            f,
            "{operations} operations: {answered} answered ({}), {refused} refused, {unknown} unknown",
            asked.join(", ")
        )?;
        writeln!(
            f,
            "{keys} keys ({keys_by_zones} by zones) judged in {:.2?}",
            self.judged_in
        )?;
        match self.failure() {
            None => write!(
                f,
                "passed: every key is linearizable, all {} acknowledged writes are accounted for through every node",
                self.acknowledged_writes
            ),
            Some(why) => write!(f, "FAILED: {why}"),
        }
    }
}
