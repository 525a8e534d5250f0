//! The consensus state machine of one Raft replica: no I/O, no clock, no threads, no async, no global rng.

mod message;
mod options;
mod ready;
mod replica;
mod types;

pub use message::{AppendOutcome, Envelope, Message};
pub use options::Options;
pub use ready::{
    Ignored, LeadershipChange, LogFetch, LogWrite, Proposal, ReadGrant, Ready, Refused, RoleKind,
    SnapshotOrder, Status,
};
pub use replica::{Replica, Restored};
pub use types::{
    Entry, EntryId, HardState, Index, Instant, Membership, NodeId, Payload, ReadId, ReplicaId, Round, Stamp,
    Term, WriteId,
};
