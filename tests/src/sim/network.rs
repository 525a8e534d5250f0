//! The simulated network: takes encoded frames, decides when (and how often, and whether) each arrives.
//! Frames of one lane keep their order unless the run says otherwise, as after a reconnect.

use super::bugs::Bug;
use super::clock::Nanos;
use super::options;
use super::rng::Rng;
use multiraft::wire::{self, GroupMessage};
use multiraft::{Entry, Index, Lane, NodeId, Outgoing, Payload, RaftNetwork};
use raft_core::{AppendOutcome, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// A node's way out: collects what its workers and its disks' completions send.
#[derive(Clone, Debug, Default)]
pub(super) struct Port(Arc<Mutex<Vec<Outgoing>>>);

impl Port {
    /// What was sent since the last look.
    pub(super) fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut *self.0.lock().expect("one thread runs the world"))
    }
}

impl RaftNetwork for Port {
    fn send(&self, outgoing: Outgoing) {
        self.0.lock().expect("one thread runs the world").push(outgoing);
    }
}

/// What lies between the nodes.
#[derive(Debug)]
pub(super) struct Network {
    rng: Rng,
    /// How bad it is now.
    pub(super) options: options::Network,
    /// Directions in which nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last frame of a lane arrives.
    last: BTreeMap<(NodeId, NodeId, Lane), Nanos>,
}

impl Network {
    /// A network with these faults.
    pub(super) fn new(rng: Rng, options: options::Network) -> Network {
        Network {
            rng,
            options,
            cut: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    /// When a frame sent now arrives: empty if never.
    pub(super) fn deliveries(&mut self, now: Nanos, from: NodeId, to: NodeId, lane: Lane) -> Vec<Nanos> {
        if self.is_cut(from, to) || self.rng.chance(self.options.loss) {
            return Vec::new();
        }
        let copies = if self.rng.chance(self.options.duplicates) {
            2
        } else {
            1
        };
        let times = (0..copies).map(|copy| self.delivery(now, (from, to, lane), copy > 0));
        times.collect()
    }

    /// An arrival; a duplicate comes from a lost connection's buffers and overtakes nobody's order.
    fn delivery(&mut self, now: Nanos, link: (NodeId, NodeId, Lane), is_copy: bool) -> Nanos {
        let mut delay = self.rng.between(self.options.delay_min, self.options.delay_max);
        let late = self.rng.chance(self.options.late);
        if late {
            delay += self.rng.between(0, self.options.late_max);
        }
        if self.options.reorder || is_copy || late {
            return now + delay;
        }
        let last = self.last.entry(link).or_default();
        *last = (now + delay).max(*last + 1);
        *last
    }

    /// True while nothing passes from one to the other: what is on its way is lost too.
    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts one direction.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Everything passes again.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }
}

/// Breaks messages on their way, if that is this run's bug.
pub(super) fn tamper(bug: Option<Bug>, messages: &mut [GroupMessage]) {
    for GroupMessage { envelope, .. } in messages {
        match (bug, &mut envelope.message) {
            (Some(Bug::NetworkForgesVotes), Message::VoteReply { granted }) => *granted = true,
            (Some(Bug::NetworkRaisesMatches), Message::AppendReply(AppendOutcome::Matched { index })) => {
                *index = index.next()
            }
            (
                Some(Bug::NetworkRaisesCommits),
                Message::Append {
                    commit,
                    entries,
                    previous,
                    ..
                },
            ) => {
                let last = entries.last().map_or(previous.index, |entry| entry.id.index);
                *commit = last.min(Index(commit.0 + 2)).max(*commit);
            }
            (Some(Bug::NetworkAltersCommands), Message::Append { entries, .. }) => alter(entries),
            _ => {}
        }
    }
}

/// One command in 64 becomes another.
fn alter(entries: &mut [Entry]) {
    for entry in entries.iter_mut().filter(|entry| entry.id.index.0 % 64 == 63) {
        if let Payload::Command(_, bytes) = &mut entry.payload {
            let mut altered = bytes.to_vec();
            altered[0] ^= 1;
            *bytes = altered.into();
        }
    }
}

/// The frame's messages, as the production codec reads them.
pub(super) fn decode(outgoing: &Outgoing) -> Vec<GroupMessage> {
    let bytes = outgoing.frame.to_bytes();
    wire::decode(&bytes).expect("a frame that the codec wrote can be read")
}
