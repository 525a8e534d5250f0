//! The node file: durable log and state of all groups of a node in one redb file, one fsync per batch.
//! It never interprets an entry's payload, knows no sockets, and decides nothing about consensus.
//! Layout, invariants and assumptions about the medium: `DESIGN.md` beside this crate's manifest.

mod error;
mod options;
mod state;
mod storage;
mod store;

pub use error::{ExitReason, Fatal, OpenError, exit_process};
pub use options::{ClusterId, CommitSample, CommitTap, Identity, Options};
pub use state::WorkerState;
pub use storage::WorkerStorage;
pub use store::{Closed, Opened, Stats, Store, worker_of};
