//! What one turn may still take, so that nothing fills up: the log keeps a reserve for hard states and births, the
//! memtables and the disk a bound. Decides who is refused and why; what is full is the storage's to say.
//!
//! * A proposal that does not fit is refused as `Overloaded`: a checkpoint will make room.
//! * A proposal that grows the state is refused as `NoSpace` while this node is short of disk space, or while so many
//!   others are that a quorum would have to be among them. What shrinks the state still works.
//! * An append whose commands do not fit here is dropped, as the network may. Its leader sends it again, one append a
//!   heartbeat, until there is room. So is an append with a command that this node's log can never take: the replica
//!   stays behind, but the process lives.
//!
//! Entries without a command (a new leader's first, membership changes) are never refused: the reserve is for them.

use crate::limits::ENTRY_ROOM_OVERHEAD;
use crate::types::{Entry, Instant, Membership, NodeId, Payload, Refusal, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a store still takes from one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of entries that fit into the log before its reserve.
    pub log_bytes: u64,
    /// Bytes by which the applied state may grow in memory.
    pub memory_bytes: u64,
    /// Space on disk.
    pub space: Space,
}

/// How much space there is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Enough.
    #[default]
    Ample,
    /// The state must not grow any more: leaders refuse it.
    Short,
    /// It must not grow whoever asks: followers leave it, too. What is left is for what shrinks it.
    Low,
    /// Not even what shrinks the state can be written out: only hard states and the like are taken.
    Gone,
}

impl Room {
    /// No bound at all.
    pub const UNBOUNDED: Room = Room {
        log_bytes: u64::MAX,
        memory_bytes: u64::MAX,
        space: Space::Ample,
    };

    /// Nothing more until a checkpoint made room.
    pub const NONE: Room = Room {
        log_bytes: 0,
        memory_bytes: 0,
        space: Space::Ample,
    };
}

/// What was refused, by reason. Proposals were answered so; appends were dropped and come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Proposals: too much waits already.
    pub waiting: u64,
    /// Proposals: the log is full up to its reserve.
    pub log: u64,
    /// Proposals: the memtables are full.
    pub memory: u64,
    /// Proposals: disk space is short, here or on too many other nodes.
    pub space: u64,
    /// Proposals: larger than the log can ever take.
    pub too_large: u64,
    /// Appends: the log is full up to its reserve, or the memtables are.
    pub appends_full: u64,
    /// Appends: there is no disk space.
    pub appends_space: u64,
    /// Appends: an entry is larger than the log can ever take.
    pub appends_too_large: u64,
}

/// What this turn may take.
#[derive(Debug)]
pub(crate) struct Allowance {
    room: Room,
    /// Nodes that said they are short of space, and until when that counts.
    short: BTreeMap<NodeId, Instant>,
    pub(crate) refusals: Refusals,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance {
            room: Room::UNBOUNDED,
            short: BTreeMap::new(),
            refusals: Refusals::default(),
        }
    }
}

impl Allowance {
    /// A turn begins.
    pub(crate) fn begin(&mut self, now: Instant, room: Room) {
        self.room = room;
        self.short.retain(|_, until| *until > now);
    }

    /// Whether other nodes should hear that this one is short of space.
    pub(crate) fn is_short(&self) -> bool {
        self.room.space > Space::Ample
    }

    /// A node says that it is short of space. It says so in every frame, so silence means that it no longer is.
    pub(crate) fn on_short(&mut self, node: NodeId, now: Instant, patience: Duration) {
        self.short.insert(node, now + patience);
    }

    /// A proposal of `bytes` that may let the state grow by `growth` bytes.
    pub(crate) fn propose(
        &mut self,
        membership: &Membership,
        bytes: usize,
        growth: u64,
    ) -> Result<(), Refusal> {
        let is_spaceless = match self.room.space {
            Space::Ample => growth > 0 && self.too_many_are_short(membership),
            Space::Short | Space::Low => growth > 0,
            Space::Gone => true,
        };
        let (log, memory) = cost(bytes, growth);
        if is_spaceless {
            self.refusals.space += 1;
            return Err(Refusal::NoSpace);
        } else if log > self.room.log_bytes {
            self.refusals.log += 1;
            return Err(Refusal::Overloaded);
        } else if memory > self.room.memory_bytes {
            self.refusals.memory += 1;
            return Err(Refusal::Overloaded);
        }
        self.take(log, memory);
        Ok(())
    }

    /// Whether an append's entries are taken. `growth` is the state machine's.
    pub(crate) fn append(
        &mut self,
        entries: &[Entry],
        payload_bytes_max: usize,
        growth: impl Fn(&[u8]) -> u64,
    ) -> bool {
        let (mut log, mut memory) = (0, 0);
        let (mut is_too_large, mut grows) = (false, false);
        for entry in entries {
            if let Payload::Command(_, bytes) = &entry.payload {
                let growth = growth(bytes);
                let (in_log, in_memory) = cost(bytes.len(), growth);
                grows |= growth > 0;
                log += in_log;
                memory += in_memory;
                is_too_large |= bytes.len() > payload_bytes_max;
            }
        }
        if log == 0 {
            return true;
        } else if is_too_large {
            self.refusals.appends_too_large += 1;
        } else if self.room.space == Space::Gone || (grows && self.room.space == Space::Low) {
            self.refusals.appends_space += 1;
        } else if log > self.room.log_bytes || memory > self.room.memory_bytes {
            self.refusals.appends_full += 1;
        } else {
            self.take(log, memory);
            return true;
        }
        false
    }

    fn take(&mut self, log: u64, memory: u64) {
        self.room.log_bytes -= log;
        self.room.memory_bytes -= memory;
    }

    /// Whether every quorum needs a node that is short of space.
    fn too_many_are_short(&self, membership: &Membership) -> bool {
        let is_short = |id: &&ReplicaId| {
            let node = membership.nodes.get(id);
            node.is_some_and(|node| self.short.contains_key(node))
        };
        let lacks =
            |half: &BTreeSet<ReplicaId>| half.iter().filter(is_short).count() * 2 >= half.len().max(1);
        !self.short.is_empty() && (lacks(&membership.voters) || lacks(&membership.outgoing))
    }
}

/// Bytes in the log and in memory.
fn cost(bytes: usize, growth: u64) -> (u64, u64) {
    let log = bytes as u64 + ENTRY_ROOM_OVERHEAD;
    (log, growth.max(bytes as u64) + ENTRY_ROOM_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryId, Stamp};
    use bytes::Bytes;

    fn three() -> Membership {
        Membership::of_voters((1..=3).map(|n| (ReplicaId(n), NodeId(n))))
    }

    fn with(room: Room) -> Allowance {
        let mut allowance = Allowance::default();
        allowance.begin(Instant(0), room);
        allowance
    }

    fn command(bytes: usize) -> Entry {
        Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Command(Stamp(0), Bytes::from(vec![0; bytes])),
        }
    }

    #[test]
    fn a_turn_takes_what_fits_and_no_more() {
        let each = 100 + ENTRY_ROOM_OVERHEAD;
        let mut log = with(Room {
            log_bytes: 2 * each,
            ..Room::UNBOUNDED
        });
        assert_eq!(log.propose(&three(), 100, 0), Ok(()));
        assert!(log.append(&[command(100)], 100, |_| 0));
        assert_eq!(log.propose(&three(), 100, 0), Err(Refusal::Overloaded));
        assert!(!log.append(&[command(100)], 100, |_| 0));
        assert_eq!((log.refusals.log, log.refusals.appends_full), (1, 1));
        let mut memory = with(Room {
            memory_bytes: each,
            ..Room::UNBOUNDED
        });
        assert_eq!(memory.propose(&three(), 1, each), Err(Refusal::Overloaded));
        assert_eq!(memory.propose(&three(), 100, 0), Ok(()));
        assert_eq!(memory.refusals.memory, 1);
    }

    #[test]
    fn the_reserve_is_for_entries_without_a_command() {
        let mut full = with(Room::NONE);
        let noop = Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Noop(Stamp(0)),
        };
        assert!(full.append(std::slice::from_ref(&noop), 100, |_| 0));
        assert!(!full.append(&[noop, command(1)], 100, |_| 0));
    }

    #[test]
    fn without_space_only_what_does_not_grow_is_taken_and_without_any_nothing() {
        let space = |space| {
            with(Room {
                space,
                ..Room::UNBOUNDED
            })
        };
        let mut short = space(Space::Short);
        assert_eq!(short.propose(&three(), 1, 1), Err(Refusal::NoSpace));
        assert_eq!(short.propose(&three(), 1, 0), Ok(()));
        assert!(short.append(&[command(1)], 9, |_| 1), "a follower goes on");
        let mut low = space(Space::Low);
        assert!(!low.append(&[command(1)], 9, |_| 1), "but not to its end");
        assert!(low.append(&[command(1)], 9, |_| 0));
        assert_eq!(low.propose(&three(), 1, 0), Ok(()));
        let mut gone = space(Space::Gone);
        assert_eq!(gone.propose(&three(), 1, 0), Err(Refusal::NoSpace));
        assert!(!gone.append(&[command(1)], 9, |_| 0));
    }

    #[test]
    fn growth_needs_a_quorum_of_nodes_with_space() {
        let mut allowance = with(Room::UNBOUNDED);
        let patience = Duration::from_secs(1);
        allowance.on_short(NodeId(2), Instant(0), patience);
        assert_eq!(
            allowance.propose(&three(), 1, 1),
            Ok(()),
            "two of three have space"
        );
        allowance.on_short(NodeId(3), Instant(5), patience);
        assert_eq!(allowance.propose(&three(), 1, 1), Err(Refusal::NoSpace));
        assert_eq!(allowance.propose(&three(), 1, 0), Ok(()));
        allowance.begin(Instant(0) + patience, Room::UNBOUNDED);
        assert_eq!(
            allowance.propose(&three(), 1, 1),
            Ok(()),
            "node 2 says so no more"
        );
    }

    #[test]
    fn an_entry_that_never_fits_is_not_taken() {
        let mut allowance = with(Room::UNBOUNDED);
        assert!(allowance.append(&[command(100)], 100, |_| 0));
        assert!(!allowance.append(&[command(101)], 100, |_| 0));
        assert_eq!(allowance.refusals.appends_too_large, 1);
    }
}
