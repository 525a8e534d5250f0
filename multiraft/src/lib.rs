//! Many Raft replicas in one worker: one turn, one frame per node, one log batch. Sans-IO except `host`.

mod event;
pub mod limits;
mod machine;
mod network;
mod storage;
mod types;
pub mod wire;

pub use event::{Control, Event};
pub use machine::{Queried, StateMachine};
pub use network::{Frame, Lane, Outgoing, RaftNetwork};
pub use raft_core::{
    Entry, EntryId, HardState, Index, Instant, Membership, NodeId, Options, Payload, ReplicaId, Stamp, Term,
    WriteId,
};
pub use storage::{
    BatchId, Birth, Completion, CompletionSink, CutId, FetchRequest, GroupRow, GroupWrite, LogBatch,
    RaftStorage, RestoredGroup, node_of,
};
pub use types::{AnswerSink, GroupId, Life, Outcome, Refusal, Ticket};
