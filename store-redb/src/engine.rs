//! Everything that the threads, the workers' parts and the face of a store share, and the ways to die.
//! The steps themselves are in `committer`, `fetcher`, `checkpoint` and `recover`.

use crate::checkpoint::Cuts;
use crate::committer::Queue;
use crate::error::ExitReason;
use crate::fetcher::Fetches;
use crate::group_log::LogIndex;
use crate::header::Position;
use crate::install::Stagings;
use crate::memory::{Memory, Size};
use crate::node_file::NodeFile;
use crate::options::Options;
use crate::ring::Ring;
use crate::scrub::Scrub;
use crate::slot::Slot;
use crate::snapshot::Readers;
use crate::space::Watch;
use crate::tables::Broken;
use multiraft::{Completion, CompletionSink};
use redb::Database;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// The ring, and how often room was released in it.
#[derive(Debug)]
pub(crate) struct RingState {
    pub(crate) ring: Ring,
    pub(crate) releases: u64,
    /// Up to here room was given back.
    tail: Position,
}

impl RingState {
    pub(crate) fn new(ring: Ring, tail: Position) -> RingState {
        RingState {
            ring,
            releases: 0,
            tail,
        }
    }

    /// Gives back what lies before `bound`. A checkpoint of a log that stood still has the same bound as the one before
    /// it: when that was the end of a lap, the offset says nothing any more, so it is not given to the ring twice.
    pub(crate) fn release(&mut self, bound: Position) {
        if bound.sequence > self.tail.sequence {
            self.ring.release(bound.offset);
            self.tail = bound;
        }
        self.releases += 1;
    }

    /// Everything before may be overwritten, nothing behind it.
    pub(crate) fn tail(&self) -> Position {
        self.tail
    }
}

/// Plain counters; see `store::Stats`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) fetched: AtomicU64,
    pub(crate) spilled: AtomicU64,
    pub(crate) scrub_passes: AtomicU64,
    pub(crate) scrub_bytes: AtomicU64,
    pub(crate) scrub_errors: AtomicU64,
    /// When the last pass ended, in seconds since 1970; 0: none did.
    pub(crate) scrub_ended: AtomicU64,
}

/// The shared parts of an open node file. Locks are taken in the order of the fields, and never two memories at once;
/// completions are delivered without any lock held.
pub(crate) struct Engine {
    pub(crate) file: Arc<NodeFile>,
    pub(crate) options: Options,
    pub(crate) incarnation: u64,
    pub(crate) salt: u64,
    /// Held while a slice is scrubbed.
    pub(crate) scrub: Mutex<Scrub>,
    /// The store stops.
    pub(crate) scrub_wake: Condvar,
    pub(crate) readers: Mutex<Readers>,
    /// `None` once closed.
    pub(crate) database: RwLock<Option<Database>>,
    pub(crate) cuts: Mutex<Cuts>,
    /// Every worker froze, or there are chores, or the store stops.
    pub(crate) cut_ready: Condvar,
    pub(crate) stagings: Mutex<Stagings>,
    /// Staged rows became durable, or the store stops.
    pub(crate) staged: Condvar,
    /// Held while a record is taken from the queue, written and acknowledged: records keep their order.
    pub(crate) writing: Mutex<()>,
    /// How long durable writes take of late, in microseconds.
    pub(crate) write_micros: AtomicU64,
    pub(crate) queue: Mutex<Queue>,
    /// A batch waits, or the store stops.
    pub(crate) work: Condvar,
    pub(crate) fetches: Mutex<Fetches>,
    /// A fetch may have become possible, or the store stops.
    pub(crate) fetch_work: Condvar,
    pub(crate) index: Mutex<LogIndex>,
    /// Held while a segment is filled.
    pub(crate) filling: Mutex<()>,
    pub(crate) ring: Mutex<RingState>,
    /// Room was released, or the ring wants to grow, or the store stops.
    pub(crate) ring_changed: Condvar,
    memories: Vec<Mutex<Memory>>,
    /// Batches of each worker acknowledged so far.
    pub(crate) acknowledged: Vec<AtomicU64>,
    pub(crate) stopping: AtomicBool,
    pub(crate) sinks: OnceLock<Vec<Arc<dyn CompletionSink>>>,
    slots: AtomicU32,
    active: Held,
    frozen: Held,
    /// Log bytes since the last checkpoint looked at the log.
    pub(crate) log_bytes_since_cut: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) space: Watch,
}

/// What recovery hands to a new engine.
pub(crate) struct Parts {
    pub(crate) file: Arc<NodeFile>,
    pub(crate) options: Options,
    pub(crate) incarnation: u64,
    pub(crate) salt: u64,
    pub(crate) database: Database,
    pub(crate) index: LogIndex,
    pub(crate) ring: Ring,
    pub(crate) memories: Vec<Memory>,
}

/// What the memtables of all workers hold.
#[derive(Debug, Default)]
struct Held {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Held {
    fn get(&self) -> Size {
        Size {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn add(&self, size: Size) {
        self.entries.fetch_add(size.entries, Ordering::Relaxed);
        self.bytes.fetch_add(size.bytes, Ordering::Relaxed);
    }

    fn subtract(&self, size: Size) {
        self.entries.fetch_sub(size.entries, Ordering::Relaxed);
        self.bytes.fetch_sub(size.bytes, Ordering::Relaxed);
    }
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Engine {
        let workers = parts.options.workers;
        assert_eq!(parts.memories.len(), workers, "one memory per worker");
        let used = parts.ring.used();
        let tail = parts.index.captured;
        Engine {
            file: parts.file,
            incarnation: parts.incarnation,
            salt: parts.salt,
            scrub: Mutex::default(),
            scrub_wake: Condvar::new(),
            readers: Mutex::default(),
            database: RwLock::new(Some(parts.database)),
            cuts: Mutex::new(Cuts::default()),
            cut_ready: Condvar::new(),
            stagings: Mutex::default(),
            staged: Condvar::new(),
            writing: Mutex::default(),
            write_micros: AtomicU64::new(0),
            queue: Mutex::new(Queue::new(workers)),
            work: Condvar::new(),
            fetches: Mutex::default(),
            fetch_work: Condvar::new(),
            index: Mutex::new(parts.index),
            filling: Mutex::default(),
            ring: Mutex::new(RingState::new(parts.ring, tail)),
            ring_changed: Condvar::new(),
            memories: parts.memories.into_iter().map(Mutex::new).collect(),
            acknowledged: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            stopping: AtomicBool::new(false),
            sinks: OnceLock::new(),
            slots: AtomicU32::new(0),
            active: Held::default(),
            frozen: Held::default(),
            log_bytes_since_cut: AtomicU64::new(used),
            counters: Counters::default(),
            space: Watch::default(),
            options: parts.options,
        }
    }

    /// One worker's memtables.
    pub(crate) fn memory(&self, worker: usize) -> MutexGuard<'_, Memory> {
        lock(&self.memories[worker])
    }

    /// Delivers a completion. Nothing completes before the sinks are known.
    pub(crate) fn complete(&self, worker: usize, completion: Completion) {
        let sinks = self
            .sinks
            .get()
            .expect("sinks are given before anything is submitted");
        sinks[worker].complete(completion);
    }

    /// A slot that no group ever had.
    pub(crate) fn new_slot(&self) -> Slot {
        Slot {
            incarnation: self.incarnation,
            counter: self.slots.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(crate) fn memtable_grew(&self, size: Size) {
        self.active.add(size);
    }

    pub(crate) fn memtable_froze(&self, size: Size) {
        self.active.subtract(size);
        self.frozen.add(size);
    }

    pub(crate) fn memtable_stored(&self, size: Size) {
        self.frozen.subtract(size);
    }

    /// Bytes in active memtables.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.active.get().bytes
    }

    /// What all memtables hold.
    pub(crate) fn memtable_size(&self) -> Size {
        let mut size = self.active.get();
        size += self.frozen.get();
        size
    }

    /// Bytes in all memtables.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        self.memtable_size().bytes
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Tells every thread to end. Each condition is signalled under its lock, so no thread can miss it.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(lock(&self.scrub));
        self.scrub_wake.notify_all();
        drop(lock(&self.cuts));
        self.cut_ready.notify_all();
        drop(lock(&self.stagings));
        self.staged.notify_all();
        drop(lock(&self.queue));
        self.work.notify_all();
        drop(lock(&self.fetches));
        self.fetch_work.notify_all();
        drop(lock(&self.ring));
        self.ring_changed.notify_all();
    }

    /// A write, fsync or commit failed: what reached the disk is unknown.
    pub(crate) fn write_failed(&self, action: &str, error: &dyn fmt::Display) -> ! {
        let message =
            format!("cannot {action}: {error}; what reached the disk is unknown, so this node stops");
        (self.options.fatal)(ExitReason::WriteFailed, message)
    }

    /// Something stored is not what was written.
    pub(crate) fn corrupt(&self, action: &str, what: &str) -> ! {
        let message = format!(
            "cannot {action}: the node file is damaged ({what}); do not restart this node: move its data directory \
             away and let the cluster replace it"
        );
        (self.options.fatal)(ExitReason::Corrupt, message)
    }

    /// Either of the two.
    pub(crate) fn broken(&self, action: &str, broken: Broken) -> ! {
        match broken {
            Broken::Corrupt(what) => self.corrupt(action, &what),
            Broken::Failed(error) => self.write_failed(action, &error),
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// Locks. A poisoned lock only occurs in tests, whose fatal hook panics: production aborts on a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Place;

    #[test]
    fn the_end_of_a_lap_is_given_back_once() {
        let start = Position::default();
        let mut state = RingState::new(Ring::new(8, 8, 0), start);
        let end = Position {
            offset: 8,
            sequence: 2,
        };
        assert_eq!(
            (state.ring.place(4, true), state.ring.place(4, true)),
            (Place::At(0), Place::At(4))
        );
        state.release(Position {
            offset: 4,
            sequence: 1,
        });
        assert_eq!(
            state.ring.place(2, true),
            Place::At(0),
            "the next lap begins before this one is given back"
        );
        state.release(end);
        state.release(end); // a checkpoint while the log stood still
        assert_eq!((state.ring.used(), state.releases), (2, 3));
    }
}
