//! The node file: durable log and state of all groups of a node in one redb file, one fsync per batch.
//! It never interprets an entry's payload, knows no sockets, and decides nothing about consensus.
//! Layout, invariants and assumptions about the medium: `DESIGN.md` beside this crate's manifest.

mod checkpoint;
mod codec;
mod committer;
mod direct;
mod disk;
mod engine;
mod error;
mod fetcher;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group_log;
mod header;
mod install;
mod limits;
mod lives;
mod memory;
mod node_file;
mod offline;
mod options;
mod order;
mod overlay;
mod pages;
mod record;
mod recover;
mod ring;
mod room;
mod scrub;
mod slot;
mod slots;
mod snapshot;
mod space;
mod span;
mod state;
mod storage;
mod store;
mod stream;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod waiting;

pub use disk::{Disk, DiskSpace, FileDisk};
pub use error::{ExitReason, Fatal, OpenError, exit_process};
pub use install::{Rows, Staging};
pub use offline::{Cell, Cells, Offline, Section, Take};
pub use options::{
    ClusterId, CommitSample, CommitTap, Entropy, Identity, Options, ScrubTap, Scrubbed, SpaceTap,
    system_entropy,
};
pub use snapshot::{Aborted, NoSnapshot, Snapshot};
pub use state::{Child, Visit, WorkerState};
pub use storage::WorkerStorage;
pub use store::{Closed, Opened, Stats, Store, worker_of};
#[cfg(any(test, feature = "testing"))]
pub use testing::SimDisk;
