//! The public face: opens a node file, starts its threads, hands out the workers' parts, stops cleanly.

use crate::committer::Committed;
use crate::disk::{Disk, FileDisk};
use crate::engine::{Engine, lock};
use crate::error::OpenError;
use crate::install::Staging;
use crate::node_file::io_error;
use crate::options::{Identity, Options};
use crate::record::RECORD_OVERHEAD_MAX;
use crate::recover::recover;
use crate::snapshot::{NoSnapshot, Snapshot};
use crate::state::WorkerState;
use crate::storage::WorkerStorage;
use crate::stream::Door;
use multiraft::{CompletionSink, GroupId, RestoredGroup, SnapshotStaging, Space};
use redb::Database;
use std::fs::{OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Permissions of a new node file: its owner's alone. An existing file keeps what it has.
const FILE_MODE: u32 = 0o600;

/// An open node file.
#[derive(Debug)]
pub struct Store {
    pub(crate) engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

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
    /// Entries copied to the cold table because they outlived their place in the ring.
    pub spilled: u64,
    /// Bytes of the ring that hold records not yet released.
    pub ring_used_bytes: u64,
    /// Bytes of the ring in total.
    pub ring_bytes: u64,
    /// Applied bytes that no checkpoint holds yet.
    pub memtable_bytes: u64,
    /// Length of the redb part of the file.
    pub redb_bytes: u64,
    /// Disk space: whether the state may grow.
    pub space: Space,
    /// Bytes free on the disk; `u64::MAX`: not known.
    pub free_bytes: u64,
    /// Bytes in free pages of redb's part; counted only when `free_bytes` does not suffice.
    pub reusable_bytes: u64,
    /// Bytes of both that must be there for the state to grow.
    pub needed_bytes: u64,
    /// Passes of the scrubber over the whole file.
    pub scrub_passes: u64,
    /// Bytes the scrubber read and verified.
    pub scrub_bytes: u64,
    /// Damage the scrubber found: a header slot that was written again, or what ends the process.
    pub scrub_errors: u64,
    /// When the scrubber's last pass ended, in seconds since 1970; 0: none did.
    pub scrub_ended: u64,
}

/// The worker that owns a group.
pub fn worker_of(group: GroupId, workers: usize) -> usize {
    usize::try_from(group.0 % workers as u64).expect("less than a usize")
}

impl Store {
    /// Opens or creates the node file. When it returns, the new incarnation is durable.
    pub fn open(path: &Path, identity: Identity, options: Options) -> Result<Opened, OpenError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path);
        let file = file.map_err(|source| io_error(&format!("open {}", path.display()), source))?;
        match file.try_lock() {
            Ok(()) => Store::open_on(Arc::new(FileDisk::new(file)), identity, options),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(io_error(&format!("lock {}", path.display()), source)),
        }
    }

    /// Opens or creates a node file on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, identity: Identity, options: Options) -> Result<Opened, OpenError> {
        let (engine, groups) = recover(disk, identity, options)?;
        engine
            .begin_watch()
            .map_err(|source| io_error("look for free disk space", source))?;
        let incarnation = engine.incarnation;
        let file_uuid = engine.file.header().file_uuid;
        let store = Store {
            engine: Arc::new(engine),
            threads: Mutex::default(),
        };
        Ok(Opened {
            store,
            groups,
            incarnation,
            file_uuid,
        })
    }

    /// Starts the threads; `sinks[w]` hears worker w's completions. To be called once, before anything is submitted.
    pub fn start(&self, sinks: Vec<Arc<dyn CompletionSink>>) {
        self.connect(sinks);
        let threads = [
            self.spawn("log", Engine::commit_until_stopped),
            self.spawn("checkpoint", Engine::checkpoint_until_stopped),
            self.spawn("fetch", Engine::fetch_until_stopped),
            self.spawn("fill", Engine::fill_until_stopped),
            self.spawn("scrub", Engine::scrub_until_stopped),
        ];
        lock(&self.threads).extend(threads);
    }

    /// Instead of `start`: no threads; the caller takes the steps below.
    pub fn connect(&self, sinks: Vec<Arc<dyn CompletionSink>>) {
        assert_eq!(sinks.len(), self.engine.options.workers, "one sink per worker");
        assert!(self.engine.sinks.set(sinks).is_ok(), "a store is started once");
    }

    /// Makes the oldest waiting record durable. False: nothing waits, or the ring is full.
    pub fn commit_once(&self) -> bool {
        self.engine.commit_once() == Committed::One
    }

    /// Writes the checkpoint for which all workers froze. False: there is none.
    pub fn checkpoint_once(&self) -> bool {
        self.engine.checkpoint_once()
    }

    /// Answers the oldest fetch that can be answered. False: there is none.
    pub fn fetch_once(&self) -> bool {
        self.engine.fetch_once()
    }

    /// Writes staged rows and deletes a slice of what no group maps any more. False: there is nothing to do.
    pub fn tidy_once(&self) -> bool {
        self.engine.tidy_once()
    }

    /// Begins to stage a snapshot that arrives. `None`: too many are being staged already, or disk space is short.
    pub fn stage(&self) -> Option<Staging> {
        Staging::begin(Arc::clone(&self.engine))
    }

    /// The way in for snapshots that arrive as bytes, as [`WorkerStorage`] gives them out. It does not keep the store open.
    pub fn staging(&self) -> Arc<dyn SnapshotStaging> {
        Arc::new(Door(Arc::downgrade(&self.engine)))
    }

    /// Begins to read a group's state as of its last durable checkpoint.
    pub fn snapshot(&self, group: GroupId) -> Result<Snapshot, NoSnapshot> {
        Snapshot::begin(&self.engine, group)
    }

    /// Looks how much disk space there is, as the checkpoint's thread does every second.
    pub fn look_at_space(&self) {
        self.engine.look_at_space();
    }

    /// Asks for a checkpoint now, whatever the limits say.
    pub fn want_checkpoint(&self) {
        self.engine.want_cut();
    }

    /// For tests that look inside.
    #[cfg(test)]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Worker w's log. To be taken once per worker.
    pub fn storage(&self, worker: usize) -> WorkerStorage {
        assert!(
            worker < self.engine.options.workers,
            "worker {worker} does not exist"
        );
        WorkerStorage::new(Arc::clone(&self.engine), worker)
    }

    /// Worker w's applied state. To be taken once per worker.
    pub fn state(&self, worker: usize) -> WorkerState {
        assert!(
            worker < self.engine.options.workers,
            "worker {worker} does not exist"
        );
        WorkerState::new(Arc::clone(&self.engine), worker)
    }

    /// Stops cleanly: makes queued batches durable, writes a last checkpoint, removes the log region. Call it after
    /// the workers stopped; blocks.
    pub fn close(self) -> Closed {
        self.stop_threads();
        while self.engine.commit_once() == Committed::One {}
        if !self.engine.final_checkpoint() {
            return Closed::WithLog;
        }
        self.engine.close_plain();
        Closed::Plain
    }

    /// The largest payload of an entry that this file's ring takes: appending a larger one ends the process.
    pub fn payload_bytes_max(&self) -> usize {
        self.engine.record_bytes_max() - RECORD_OVERHEAD_MAX
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let counters = &self.engine.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (ring_used_bytes, ring_bytes) = {
            let state = lock(&self.engine.ring);
            (state.ring.used(), state.ring.capacity())
        };
        Stats {
            commits: read(&counters.commits),
            batches: read(&counters.batches),
            entries: read(&counters.entries),
            log_bytes: read(&counters.log_bytes),
            checkpoints: read(&counters.checkpoints),
            fetched: read(&counters.fetched),
            spilled: read(&counters.spilled),
            ring_used_bytes,
            ring_bytes,
            memtable_bytes: self.engine.memtable_bytes(),
            redb_bytes: self.engine.file.redb_bytes(),
            space: self.engine.disk_space(),
            free_bytes: self.engine.space.free(),
            reusable_bytes: self.engine.space.reusable(),
            needed_bytes: self.engine.needed(),
            scrub_passes: read(&counters.scrub_passes),
            scrub_bytes: read(&counters.scrub_bytes),
            scrub_errors: read(&counters.scrub_errors),
            scrub_ended: read(&counters.scrub_ended),
        }
    }

    fn spawn(&self, name: &str, run: fn(&Engine)) -> JoinHandle<()> {
        let engine = Arc::clone(&self.engine);
        std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || run(&engine))
            .expect("the system starts a handful of threads")
    }

    /// A thread that panicked has told why already.
    fn stop_threads(&self) {
        self.engine.stop();
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    /// Not a clean stop: what was not committed is not committed, the next open replays the log.
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl Engine {
    /// After the final checkpoint: redb closes its part, then the log region goes.
    fn close_plain(&self) {
        for worker in 0..self.options.workers {
            self.memory(worker).base = None;
        }
        let database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Err(error)) = database.map(Database::close) {
            self.write_failed("close redb's part of the node file", &error);
        }
        if let Err(error) = self.file.detach() {
            self.write_failed("remove the log region", &error);
        }
    }

    /// The filler's thread: the ring's next segment is filled before the head reaches it.
    fn fill_until_stopped(&self) {
        loop {
            let ready = {
                let mut state = lock(&self.ring);
                while !state.ring.grows_soon(self.options.segment_bytes) || !self.may_fill() {
                    if self.is_stopping() {
                        return;
                    }
                    state = self
                        .ring_changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                state.ring.ready()
            };
            if self.is_stopping() {
                return;
            }
            self.fill_once(ready);
        }
    }
}
