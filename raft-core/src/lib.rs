//! The consensus state machine of one Raft replica: no I/O, no clock, no threads, no async, no global rng.

mod describe;
mod election;
mod following;
mod invariants;
mod limits;
mod log;
mod membership;
mod message;
mod options;
mod progress;
mod quorum;
mod read;
mod ready;
mod replica;
mod replication;
mod rng;
mod role;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod types;
mod writes;

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
