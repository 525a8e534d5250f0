//! The consensus state machine of one Raft replica: no I/O, no clock, no threads, no async, no global rng.
//!
//! # The contract
//!
//! A [`Replica`] is driven by its host with four kinds of calls.
//!
//! * **Inputs**: `step` (a message), `tick` (its deadline passed), `propose`, `propose_stamp`, `propose_change`,
//!   `read`, `read_as`, `transfer_leadership`, `campaign`, `offer` and `install` (a snapshot), `truncate`,
//!   `unreachable`. Messages may be lost, repeated and reordered; so may offers and installs.
//! * **Completions**: `on_durable`, `on_applied`, `on_checkpointed`, `on_fetched`, `on_snapshot_sent`. Each answers
//!   an output, in the order in which the outputs were given, and none is lost short of a crash. (Fetches and
//!   snapshots of different peers are answered in any order.)
//! * **Outputs**: `ready`, `deadline`. After any number of inputs and completions, and before the host waits
//!   again, it calls `ready` once and carries out what it says. What is decided in one turn is batched: one
//!   append per peer, one write, one round of heartbeats for all reads. `deadline` says when to call `tick`.
//! * **Questions**: `status` and the like.
//!
//! Time is an argument and never goes back. Equal inputs and an equal seed give equal outputs.
//!
//! **Durability is in the types**: a message that asserts something durable is inside the write that makes it
//! so ([`LogWrite::then_send`]) and leaves after it. Several writes may be on their way at once. Why inputs
//! may share a write, and what happens when entries of a write in flight are overwritten, is told in
//! `writes.rs`.
//!
//! # Invariants
//!
//! Asserted in release builds at the end of every call (`invariants.rs`) or where the act happens.
//!
//! * **I1** One vote per term, durable before it is sent, and before it counts for oneself.
//! * **I2** Log indexes are contiguous, terms never fall along the log, the last one is at most the current
//!   term.
//! * **I3** `truncated <= checkpointed <= applied <= min(committed, durable)`, `committed <= last`. While a snapshot is
//!   being installed, `truncated` is ahead already (`installing.rs`), and nothing is handed out.
//! * **I4** `durable <= submitted <= accepted = last`, of the log as it is now.
//! * **I5** The commit index never falls and committed entries never change.
//! * **I6** A leader appends entries of its own term at the end of its log, and overwrites nothing.
//! * **I7** A leader commits by counting only entries of its own term (Raft §5.4.2).
//! * **I8** An acknowledgement names only what is durable at its sender, in a term that is durable there too.
//! * **I9** A leader appends a membership only after the one before it is committed, voters change by way of a
//!   joint membership only, and a joint membership needs both majorities.
//! * **I10** `matched < next` for every peer, and what is in flight to it is bounded.
//! * **I11** A lease never outlives the quorum's loyalty: it is counted from the moment the heartbeat left, it is
//!   shorter than the pledge by what clocks may drift, a pledged replica neither votes nor campaigns in any term,
//!   one that restarts behaves as if it were pledged, and a leader gives its lease up before it tells another
//!   to campaign.
//! * **I12** Only a voter campaigns (of the membership in force, or of the committed one while its removal is
//!   not committed), and only voters are counted.
//!
//! # Where we differ from the paper, and why
//!
//! * Pre-vote, check-quorum and loyalty to a leader in contact are always on: a group must neither be
//!   disturbed by a replica that returns nor be held by a leader that reaches nobody.
//! * `campaign` skips the pre-vote: it is for founding a group and for tests, and a transfer's target does
//!   the same.
//! * Moving the commit index sends nothing: it rides on the next append or heartbeat. A follower may learn of
//!   a commit a heartbeat interval later, and a write costs a third fewer messages.
//! * Voters change through a joint membership only, never by the single step; a leader that removed itself tells the
//!   voter with most of its log to campaign instead of falling silent.
//! * A demoted voter stands in `outgoing` and in `learners` while the membership is joint, so no fourth list is
//!   needed for those that become learners afterwards.
//! * Lease reads rest on pledges, not on loyalty: loyalty to a leader ends with its term, a pledge does not.
//! * An append is not resent on a timer. The peer's answers to heartbeats say how far it is; a peer that does
//!   not answer gets heartbeats and no copies of the log.
//! * A follower whose entries were truncated here is not an error: the host is told to send a snapshot. Its bytes
//!   travel beside Raft; here it is an order, an offer, and a write that takes the place of log and state.
//!
//! # What is missing
//!
//! Node-level liveness (an idle group still exchanges heartbeats).

mod bugs;
mod describe;
mod election;
mod following;
mod installing;
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
mod shipping;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod types;
mod writes;

pub use limits::MEMBERS_MAX;
pub use membership::MemberChange;
pub use message::{AppendOutcome, Envelope, Message};
pub use options::Options;
pub use read::ReadPolicy;
pub use ready::{
    ChangeRefused, Ignored, LeadershipChange, LogFetch, LogWrite, OrderId, PeerStatus, Proposal, ReadGrant,
    Ready, Refused, RoleKind, Sending, Snapshot, SnapshotOrder, SnapshotOutcome, Status,
};
pub use replica::{Replica, Restored};
pub use types::{
    Entry, EntryId, HardState, Index, Instant, Membership, NodeId, Payload, ReadId, ReplicaId, Round, Stamp,
    Term, WriteId,
};
