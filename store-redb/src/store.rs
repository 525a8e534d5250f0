//! The public face: opens a node file, starts its threads, hands out the workers' parts, stops cleanly.

use crate::error::OpenError;
use crate::options::{Identity, Options};
use crate::state::WorkerState;
use crate::storage::WorkerStorage;
use multiraft::{CompletionSink, GroupId, RestoredGroup};
use std::path::Path;
use std::sync::Arc;

/// An open node file.
#[derive(Debug)]
pub struct Store {}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// The open file; nothing is committed before [`Store::start`].
    pub store: Store,
    /// Every group of this node, in id order.
    pub groups: Vec<RestoredGroup>,
    /// Counts the starts of this node; already durable.
    pub incarnation: u64,
    /// Made at random with the file; tells copies of a data directory apart from a new one.
    pub file_uuid: [u8; 16],
}

/// How a clean stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Everything is in redb and the log region is gone: any redb tool opens the file.
    Plain,
    /// The log region is kept, because the state of some group was not known to be complete. Nothing is lost.
    WithLog,
}

/// Counters since the file was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Group commits: durable log writes.
    pub commits: u64,
    /// Worker batches made durable.
    pub batches: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Checkpoints committed.
    pub checkpoints: u64,
    /// Entries read back for lagging peers.
    pub fetched: u64,
    /// Bytes of the ring that hold records not yet released.
    pub ring_used_bytes: u64,
    /// Bytes of the ring in total.
    pub ring_bytes: u64,
    /// Applied bytes that no checkpoint holds yet.
    pub memtable_bytes: u64,
    /// Length of the redb part of the file.
    pub redb_bytes: u64,
}

/// The worker that owns a group.
pub fn worker_of(group: GroupId, workers: usize) -> usize {
    usize::try_from(group.0 % workers as u64).expect("less than a usize")
}

#[allow(unused_variables)]
impl Store {
    /// Opens or creates the node file. When it returns, the new incarnation is durable.
    pub fn open(path: &Path, identity: Identity, options: Options) -> Result<Opened, OpenError> {
        unimplemented!()
    }

    /// Starts the threads; `sinks[w]` hears worker w's completions. To be called once.
    pub fn start(&self, sinks: Vec<Arc<dyn CompletionSink>>) {
        unimplemented!()
    }

    /// Worker w's log. To be taken once per worker.
    pub fn storage(&self, worker: usize) -> WorkerStorage {
        unimplemented!()
    }

    /// Worker w's applied state. To be taken once per worker.
    pub fn state(&self, worker: usize) -> WorkerState {
        unimplemented!()
    }

    /// Stops cleanly: makes queued batches durable, writes a last checkpoint, removes the log region. Call it after
    /// the workers stopped; blocks.
    pub fn close(self) -> Closed {
        unimplemented!()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
