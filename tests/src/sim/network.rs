//! The simulated network: takes encoded frames, decides when (and how often, and whether) each arrives.
//! Frames of one lane keep their order unless the run says otherwise, as after a reconnect.

use super::bugs::Bug;
use super::clock::Nanos;
use super::options;
use super::rng::Rng;
use multiraft::wire::{self, GroupMessage};
use multiraft::{Bulk, BulkHandle, Entry, Index, Lane, NodeId, Outgoing, Payload, RaftNetwork};
use raft_core::{AppendOutcome, Message};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Frames that may be replayed.
const PAST_MAX: usize = 200;

/// A node's way out: collects what its workers and its disks' completions send.
#[derive(Clone, Debug, Default)]
pub(super) struct Port(Arc<Mutex<Departures>>);

/// What was sent since the last look.
#[derive(Debug, Default)]
pub(super) struct Departures {
    pub(super) frames: Vec<Outgoing>,
    pub(super) streams: Vec<Departure>,
}

/// A stream that begins.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) bulk: Bulk,
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Port {
    /// What was sent since the last look.
    pub(super) fn take(&self) -> Departures {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Departures> {
        self.0.lock().expect("one thread runs the world")
    }
}

impl RaftNetwork for Port {
    fn send(&self, outgoing: Outgoing) {
        self.lock().frames.push(outgoing);
    }

    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        self.lock().streams.push(Departure { bulk, cancelled });
        BulkHandle::new(move || flag.store(true, Ordering::Relaxed))
    }
}

/// A frame that was sent once: between whom, and what.
pub(super) type Past = (NodeId, NodeId, Vec<GroupMessage>);

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
    /// Frames of long ago, some of which come again.
    past: VecDeque<Past>,
}

impl Network {
    /// A network with these faults.
    pub(super) fn new(rng: Rng, options: options::Network) -> Network {
        Network {
            rng,
            options,
            cut: BTreeSet::new(),
            last: BTreeMap::new(),
            past: VecDeque::new(),
        }
    }

    /// How long the next piece of a stream takes.
    pub(super) fn pace(&mut self) -> Nanos {
        self.rng.between(self.options.delay_min, self.options.delay_max)
    }

    /// True when a stream breaks off here.
    pub(super) fn breaks(&mut self) -> bool {
        self.rng.chance(self.options.broken_streams)
    }

    /// Keeps a frame in mind; one of the past that comes again now, if any.
    pub(super) fn replay(
        &mut self,
        from: NodeId,
        to: NodeId,
        messages: &[GroupMessage],
    ) -> Option<(Nanos, Past)> {
        if self.options.replays == 0 {
            return None;
        }
        // Not every frame: what is kept must become old.
        if self.rng.chance(100) {
            self.past.push_back((from, to, messages.to_vec()));
        }
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
        let comes = !self.past.is_empty() && self.rng.chance(self.options.replays);
        comes.then(|| {
            let at = self.rng.index(self.past.len());
            (self.pace(), self.past[at].clone())
        })
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

    /// The link passes again.
    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.cut.remove(&(from, to));
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
