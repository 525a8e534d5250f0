//! The nouns this crate adds to raft-core's: groups, tickets, outcomes.
//! What travels between nodes is in `wire.rs`; what is written to disk is described in `storage.rs`.

use bytes::Bytes;
pub(crate) use raft_core::{
    ChangeRefused, Entry, EntryId, HardState, Index, Instant, Membership, NodeId, Payload, ReplicaId, Stamp,
    Term,
};
use std::fmt;
use std::sync::Arc;

/// One Raft group: *who agrees*. Group 1 is the meta group; 0 is no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group that will place ranges. Data groups start above it.
    pub const META: GroupId = GroupId(1);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// Tags one existence of a replica in a process. A completion that carries another life is dropped:
/// a replica destroyed and made again must not take its predecessor's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(pub u64);

/// Where the answer to one proposal or read goes. Answered exactly once, or dropped with the process.
#[derive(Clone)]
pub struct Ticket {
    /// Who waits.
    pub sink: Arc<dyn AnswerSink>,
    /// The waiter's own number for the request.
    pub number: u64,
}

impl Ticket {
    /// Delivers the outcome.
    pub fn answer(self, outcome: Outcome) {
        self.sink.answer(self.number, outcome);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ticket {}", self.number)
    }
}

/// Takes answers. Called on the worker's thread: must not block; should only queue and wake.
pub trait AnswerSink: Send + Sync {
    /// The outcome of the request the waiter numbered `number`.
    fn answer(&self, number: u64, outcome: Outcome);
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied (a proposal) or evaluated (a read); the bytes are the state machine's answer.
    Answered(Bytes),
    /// Definitely had no effect: it may be sent again, or elsewhere.
    Refused(Refusal),
    /// It may or may not take effect: leadership was lost after it was proposed.
    Unknown,
}

/// Why a request definitely had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only the leader takes it; this node leads as far as is known here.
    NotLeader(Option<NodeId>),
    /// No replica of the group lives here.
    NoSuchGroup,
    /// Too much is waiting already; try again later.
    Overloaded,
    /// Leadership can only be handed to a voter of the group.
    NotVoter,
    /// The payload is larger than `limits::PAYLOAD_BYTES_MAX`, or than the leader's log takes; it never will be taken.
    TooLarge,
    /// The state may not grow: disk space is short on this node, or on so many others that no quorum is without them.
    NoSpace,
    /// The membership is not changed in this way, or not now.
    Change(ChangeRefused),
    /// The process is stopping.
    Stopping,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotLeader(Some(node)) => write!(f, "not the leader, ask {node}"),
            Refusal::NotLeader(None) => write!(f, "not the leader, none is known"),
            Refusal::NoSuchGroup => write!(f, "no replica of the group lives here"),
            Refusal::Overloaded => write!(f, "overloaded"),
            Refusal::NotVoter => write!(f, "leadership can only be handed to a voter"),
            Refusal::TooLarge => write!(f, "payload too large"),
            Refusal::NoSpace => write!(f, "disk space is short"),
            Refusal::Change(refused) => write!(f, "{refused}"),
            Refusal::Stopping => write!(f, "stopping"),
        }
    }
}
