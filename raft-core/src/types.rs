//! The nouns of one Raft group: ids, positions, time, entries, membership.
//! No behaviour beyond arithmetic and ordering; consensus lives in `replica.rs` and its rooms.

use crate::limits::ENTRY_OVERHEAD_BYTES;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A leadership term (Raft §5.1). Term 0 is before any election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

/// A position in the log. The first entry has index 1; 0 is before the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    /// The position after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The position before this one; index 0 has none and stays 0.
    pub fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

/// Names an entry: no two different entries of a group ever share one (Raft §5.3). Printed `42@3`: index 42
/// of term 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term of the leader that proposed it. Compared first: ordering is Raft's "more up to date"
    /// (§5.4.1).
    pub term: Term,
    /// Its position.
    pub index: Index,
}

impl EntryId {
    /// The position before every log.
    pub const ZERO: EntryId = EntryId {
        term: Term(0),
        index: Index(0),
    };

    /// Names the entry at `index` of `term`.
    pub fn new(term: u64, index: u64) -> EntryId {
        EntryId {
            term: Term(term),
            index: Index(index),
        }
    }
}

/// One member of one group on one node. Never reused: removing a replica and adding it again makes a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// The node a replica lives on. Opaque to this crate: membership carries it so that the host can route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A point on the host's monotonic clock, in nanoseconds since an arbitrary start. This crate never reads a
/// clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(rhs.0))
    }
}

/// The proposer's wall clock in milliseconds, carried with every command and never interpreted here.
/// The state machine derives the group clock from it (the largest stamp applied).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// One log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// What it carries.
    pub payload: Payload,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which lets it commit its predecessors' entries (Raft §8), or a
    /// pure stamp.
    Noop(Stamp),
    /// Opaque bytes for the state machine, with the stamp of the leader that proposed them.
    Command(Stamp, Bytes),
    /// A new membership, effective as soon as it is appended (Raft §6). Boxed: it is rare, and every entry would be as
    /// large as it.
    Membership(Box<Membership>),
}

impl Entry {
    /// Bytes this entry counts for in every limit: payload plus a fixed overhead.
    pub fn cost(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Noop(_) => 0,
                Payload::Command(_, bytes) => bytes.len(),
                Payload::Membership(membership) => membership.nodes.len() * 24,
            }
    }
}

/// Who is in the group. Simple when `outgoing` is empty, joint otherwise (Raft §6): then both halves must
/// agree. How one follows from another is in `membership.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters of the (incoming) configuration.
    pub voters: BTreeSet<ReplicaId>,
    /// The voters of the outgoing configuration while joint; empty otherwise.
    pub outgoing: BTreeSet<ReplicaId>,
    /// Replicas that receive the log and do not count in the (incoming) configuration. A voter of the outgoing
    /// half that is among them is being demoted: it counts until the joint membership is left.
    pub learners: BTreeSet<ReplicaId>,
    /// Where each of them lives. Exactly the ids named above.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
}

impl Membership {
    /// A simple membership of voters.
    pub fn of_voters(voters: impl IntoIterator<Item = (ReplicaId, NodeId)>) -> Membership {
        let nodes: BTreeMap<ReplicaId, NodeId> = voters.into_iter().collect();
        Membership {
            voters: nodes.keys().copied().collect(),
            nodes,
            ..Membership::default()
        }
    }

    /// True while two configurations must both agree.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// True for a voter of either half.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.outgoing.contains(&replica)
    }

    /// Every replica named, in id order.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.nodes.keys().copied()
    }
}

/// What a replica must never forget: its term and its vote in it (Raft §5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Who got its vote in that term.
    pub vote: Option<ReplicaId>,
}

/// Numbers one replica's log writes; grows by one with each write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// The host's name for a batch of reads that wait together. Never reused by one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Numbers a leader's rounds of contact (heartbeats that confirm leadership for reads). Never reused within a
/// term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u64);

macro_rules! display {
    ($($type:ty => $format:literal),* $(,)?) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}
display!(Term => "{}", Index => "{}", ReplicaId => "r{}", NodeId => "n{}", WriteId => "{}", Round => "{}");

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
