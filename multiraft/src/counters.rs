//! What a worker counts and times: plain numbers that the host exports as it likes. No metrics crate, no histograms.

use crate::room::Refusals;
use crate::types::Instant;
use raft_core::Ignored;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything since the worker started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns taken.
    pub turns: u64,
    /// Groups that had work, summed over the turns.
    pub touched: u64,
    /// Raft messages stepped.
    pub messages_in: u64,
    /// Raft messages folded into frames.
    pub messages_out: u64,
    /// Messages for groups that do not live here.
    pub unknown_group: u64,
    /// Messages that another node than the sender's replica lives on has sent, or for another replica.
    pub misaddressed: u64,
    /// Messages to replicas that the membership no longer names.
    pub unroutable: u64,
    /// Messages without effect, by reason.
    pub ignored: BTreeMap<Ignored, u64>,
    /// Completions for an earlier life of a replica.
    pub stale_completions: u64,
    /// Log batches submitted.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Proposals taken by a replica.
    pub proposed: u64,
    /// Entries applied.
    pub applied: u64,
    /// Reads evaluated.
    pub reads: u64,
    /// Requests refused because too much was waiting or the store was full.
    pub overloaded: u64,
    /// What was refused for want of room, by reason.
    pub refusals: Refusals,
    /// Proposals whose outcome is not known.
    pub unknown: u64,
    /// Times a replica here began to lead.
    pub elected: u64,
    /// Snapshots that replicas here ordered for peers: the log those need is truncated away.
    pub snapshots_wanted: u64,
    /// Snapshots that peers have taken.
    pub snapshots_sent: u64,
    /// Streams of snapshots that ended otherwise: refused, lost, given up.
    pub snapshots_failed: u64,
    /// Snapshots that took the place of a group's state here.
    pub snapshots_installed: u64,
    /// Snapshots that were not wanted here.
    pub snapshots_declined: u64,
}

/// A part of a write's way, with one duration each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From its arrival in the inbox to the turn that took it.
    Queue,
    /// A log batch, from submit to the turn that learnt it is durable.
    Durable,
    /// From proposing to committed and durable here.
    Commit,
    /// One turn's calls of the state machine.
    Apply,
    /// From its arrival in the inbox to its answer.
    Answer,
}

impl Stage {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Durable => "durable",
            Stage::Commit => "commit",
            Stage::Apply => "apply",
            Stage::Answer => "answer",
        }
    }
}

/// `count` writes (batches for `Durable` and `Apply`: one) spent `duration` in a stage. Requests of one turn count
/// from the arrival of the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where.
    pub stage: Stage,
    /// How long.
    pub duration: Duration,
    /// How many.
    pub count: u32,
}

/// The samples of one turn. What shares stage and start is one sample.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    taken: Vec<Sample>,
    /// Arrival of writes that are being answered, and how many.
    answered: Vec<(Instant, u32)>,
}

impl Samples {
    pub(crate) fn add(&mut self, stage: Stage, from: Instant, to: Instant, count: u32) {
        let duration = to - from;
        match self.taken.last_mut() {
            Some(last) if last.stage == stage && last.duration == duration => last.count += count,
            _ => self.taken.push(Sample {
                stage,
                duration,
                count,
            }),
        }
    }

    /// A write that arrived then is answered in this turn.
    pub(crate) fn add_answer(&mut self, arrived: Instant) {
        match self.answered.last_mut() {
            Some((last, count)) if *last == arrived => *count += 1,
            _ => self.answered.push((arrived, 1)),
        }
    }

    /// True when the time of the answers is wanted.
    pub(crate) fn has_answers(&self) -> bool {
        !self.answered.is_empty()
    }

    /// The answers leave now.
    pub(crate) fn close_answers(&mut self, now: Instant) {
        for (arrived, count) in std::mem::take(&mut self.answered) {
            self.add(Stage::Answer, arrived, now, count);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.taken)
    }
}
