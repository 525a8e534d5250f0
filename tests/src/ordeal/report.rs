//! What a run has come to: one table, and whether it passed, failed, or proved too little to pass (INVALID).

use super::nemesis::Kind;
use super::probe::Comeback;
use super::{Plan, SERVICE_BACK_MAX, UP_MAX};
use crate::history::{Ask, Judgement, Operation, Outcome, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A fault that was.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// When it began and was healed, on the record's clock.
    pub(super) began: u64,
    pub(super) healed: u64,
    pub(super) back: Comeback,
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
        if all.is_empty() {
            all.extend(self.shortfall().map(|why| format!("INVALID: {why}")));
        }
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

    /// The longest time a patient client waited from answer to answer, around a fault.
    fn gap(&self, fault: &Fault) -> Duration {
        let Comeback { up, served, .. } = &fault.back;
        let back = up.unwrap_or_default() + served.unwrap_or_default();
        let until = fault.healed + nanos(back) + nanos(SERVICE_BACK_MAX);
        let mut ends: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for one in &self.history {
            let Some((end, _)) = one.answered() else { continue };
            if (fault.began..until).contains(&end) && one.client < super::CLIENTS {
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

/// What took too long, and what those who waited were told meanwhile.
fn late(fault: &Fault) -> Option<String> {
    let what = match (fault.back.up, fault.back.served) {
        (None, _) => "a process never came up".to_owned(),
        (Some(up), _) if up > UP_MAX => format!("the last process was up after {up:.2?}"),
        (_, None) => "the service never came back".to_owned(),
        (_, Some(served)) if served > SERVICE_BACK_MAX => {
            format!("the service was back after {served:.2?}")
        }
        _ => return None,
    };
    let (name, at) = (fault.kind.name(), fault.healed as f64 / 1e9);
    let obstacles = fault.back.obstacles.join("; ");
    Some(format!("`{name}`, healed at {at:.1} s: {what} ({obstacles})"))
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
        let (seed, took) = (self.plan.seed, self.took.as_secs());
        let (ranges, clients) = (super::RANGES, super::CLIENTS);
        let impatient = 3 * super::IMPATIENT.len();
        writeln!(
            f,
            "kill test, seed {seed}, {took} s: 3 nodes, {ranges} ranges, {clients} clients and {impatient} impatient ones"
        )?;
        let heads = |f: &mut fmt::Formatter<'_>, heads: [&str; 6]| {
            let [name, times, answered, up, back, wait] = heads;
            writeln!(
                f,
                "{name:<25} {times:>5} {answered:>9} {up:>17} {back:>17} {wait:>17}"
            )
        };
        heads(
            f,
            [
                "",
                "",
                "answered",
                "processes up",
                "then service",
                "longest wait of",
            ],
        )?;
        let spread = "p50 s    max s";
        heads(
            f,
            ["fault", "times", "meanwhile", spread, spread, "a client, p50 max"],
        )?;
        for kind in Kind::ALL {
            self.show_faults(f, kind.name(), |fault| fault.kind == kind)?;
        }
        self.show_faults(f, "all", |_| true)?;
        self.show_longest(f)?;
        self.show_history(f)
    }
}

impl Report {
    fn show_faults(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        of: impl Fn(&Fault) -> bool,
    ) -> fmt::Result {
        let faults: Vec<&Fault> = self
            .faults
            .iter()
            .filter(|fault| fault.happened && of(fault))
            .collect();
        let answered: u64 = faults.iter().map(|fault| fault.answered).sum();
        let up = Spread(faults.iter().filter_map(|fault| fault.back.up).collect());
        let served = Spread(faults.iter().filter_map(|fault| fault.back.served).collect());
        let gap = Spread(faults.iter().map(|fault| self.gap(fault)).collect());
        writeln!(
            f,
            "{name:<25} {:>5} {answered:>9} {up} {served} {gap}",
            faults.len()
        )
    }

    fn show_longest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(fault) = self.faults.iter().max_by_key(|fault| fault.back.served) else {
            return Ok(());
        };
        let (name, at, back) = (fault.kind.name(), fault.healed as f64 / 1e9, &fault.back);
        let served = back.served.unwrap_or_default();
        let obstacles = back.obstacles.join("; ");
        writeln!(
            f,
            "longest time to service after healing: {served:.2?}, after `{name}` at {at:.1} s ({obstacles})"
        )
    }

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
