//! What will happen when: a queue ordered by true time, and by the order of scheduling where times are equal.

use super::clock::Nanos;
use super::faults::Fault;
use multiraft::wire::GroupMessage;
use multiraft::{NodeId, Outcome};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One life of a process: what was meant for an earlier one is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) worker: usize,
    pub(super) life: u64,
}

/// The closed list of what can happen in the world.
#[derive(Debug)]
pub(super) enum Happening {
    /// A worker's thread gets to run.
    Turn(Place),
    /// A worker's deadline comes.
    Timer(Place),
    /// A disk's sync returns.
    Synced(Place),
    /// A disk's checkpoint is durable.
    Checkpointed(Place),
    /// A disk has read what was asked for.
    Fetched(Place),
    /// A frame reaches a node.
    Frame {
        from: NodeId,
        to: NodeId,
        messages: Vec<GroupMessage>,
    },
    /// A client makes its next request.
    Call { client: usize },
    /// A request reaches a node.
    Arrive { number: u64 },
    /// An answer reaches its client.
    Answer { number: u64, outcome: Outcome },
    /// A client stops waiting.
    GiveUp { number: u64 },
    /// Something breaks.
    Fault(Fault),
    /// A process starts again.
    Restart { node: NodeId },
    /// All links pass again.
    Reconnect,
    /// One direction of one link stops passing frames, or passes them again.
    Swizzle { from: NodeId, to: NodeId, is_cut: bool },
    /// A snapshot's stream takes its next step.
    Carry { number: u64 },
    /// The faults are over, for some.
    Heal,
    /// Is everything back?
    Judge,
}

#[derive(Debug)]
struct Item {
    at: Nanos,
    order: u64,
    what: Happening,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Item) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order)) // the heap's top is the greatest: the earliest
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Item>,
    order: u64,
}

impl Schedule {
    pub(super) fn push(&mut self, at: Nanos, what: Happening) {
        self.order += 1;
        self.heap.push(Item {
            at,
            order: self.order,
            what,
        });
    }

    pub(super) fn pop(&mut self) -> Option<(Nanos, Happening)> {
        self.heap.pop().map(|item| (item.at, item.what))
    }
}
