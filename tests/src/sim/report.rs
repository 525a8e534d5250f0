//! What came out of a run, and what must have happened in it for the result to count.

use super::check::Violation;
use super::options::Options;
use std::fmt;
use std::ops::AddAssign;

/// Counts of what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct Totals {
    pub turns: u64,
    pub elections: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub pauses: u64,
    pub transfers: u64,
    pub changes: u64,
    pub replaced: u64,
    pub writes: u64,
    pub reads: u64,
    pub refused: u64,
    pub unknown: u64,
    pub frames: u64,
    pub frames_lost: u64,
    pub frames_doubled: u64,
    pub syncs: u64,
    pub checkpoints: u64,
    pub truncations: u64,
    pub fetches: u64,
    pub replayed: u64,
    pub snapshots: u64,
    pub snapshots_broken: u64,
    pub installs: u64,
    pub replays: u64,
    pub sync_failures: u64,
    pub left_out: u64,
}

macro_rules! fields {
    ($macro:ident) => {
        $macro!(
            turns,
            elections,
            crashes,
            partitions,
            pauses,
            transfers,
            changes,
            replaced,
            writes,
            reads,
            refused,
            unknown,
            frames,
            frames_lost,
            frames_doubled,
            syncs,
            checkpoints,
            truncations,
            fetches,
            replayed,
            snapshots,
            snapshots_broken,
            installs,
            replays,
            sync_failures,
            left_out
        )
    };
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        macro_rules! add {
            ($($field:ident),*) => { $(self.$field += other.$field;)* };
        }
        fields!(add);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        macro_rules! show {
            ($first:ident, $($field:ident),*) => {
                write!(f, "{} {}", self.$first, stringify!($first))?;
                $(write!(f, ", {} {}", self.$field, stringify!($field).replace('_', " "))?;)*
            };
        }
        fields!(show);
        Ok(())
    }
}

impl Totals {
    /// Why the run proves too little, if it does: what its options promised did not happen.
    pub(super) fn shortfall(&self, options: &Options) -> Option<String> {
        // A rare fault may miss a short run; one that should have come three times must have come.
        let due = |every: Option<super::options::Every>| {
            u64::from(every.is_some_and(|every| every.gap * 3 <= options.safety))
        };
        let demands = [
            ("writes", self.writes, 20),
            ("reads", self.reads, 3),
            ("elections", self.elections, options.groups),
            ("crashes", self.crashes, due(options.crashes)),
            ("partitions", self.partitions, due(options.partitions)),
            ("pauses", self.pauses, due(options.pauses)),
            (
                "frames lost",
                self.frames_lost,
                u64::from(self.frames * options.network.loss > 20_000),
            ),
        ];
        let missed = demands.iter().find(|(_, is, wanted)| is < wanted);
        missed.map(|(name, is, wanted)| format!("{is} {name} where {wanted} were due"))
    }
}

/// One seed's result.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What it drew.
    pub options: Options,
    /// What happened.
    pub totals: Totals,
    /// The property that did not hold.
    pub violation: Option<Violation>,
    /// Why the run counts for nothing although no property failed.
    pub invalid: Option<String>,
    /// A number over every event: same seed and code, same number.
    pub hash: u64,
    /// Every event, if asked for.
    pub transcript: Option<String>,
}
