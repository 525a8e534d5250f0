//! Many Raft replicas in one worker: one turn, one frame per node, one log batch. Sans-IO except `host`.

mod counters;
mod event;
mod group;
#[cfg(feature = "host")]
pub mod host;
mod inbox;
pub mod limits;
mod machine;
mod network;
mod outbox;
mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod timers;
mod types;
pub mod wire;
mod worker;

pub use counters::{Counters, Sample, Stage};
pub use event::{Control, Event};
pub use inbox::{Doorbell, Drained, Inbox, InboxLimits, InboxSender, SilentBell};
pub use machine::{Queried, StateMachine};
pub use network::{Frame, Lane, Outgoing, RaftNetwork};
pub use raft_core::{
    Entry, EntryId, HardState, Index, Instant, LeadershipChange, Membership, NodeId, Options, Payload,
    ReplicaId, Restored, RoleKind, Stamp, Status, Term, WriteId,
};
pub use storage::{
    BatchId, Birth, Completion, CompletionSink, CutId, FetchRequest, GroupRow, GroupWrite, LogBatch,
    RaftStorage, RestoredGroup, node_of,
};
pub use types::{AnswerSink, GroupId, Life, Outcome, Refusal, Ticket};
pub use worker::{Clock, Turn, Worker, WorkerOptions};
