//! What the caller decides about a node file: whose it is, how large its parts are, who hears about commits.

use crate::error::{Fatal, exit_process};
use crate::limits::{
    BLOCK_BYTES, DELETED_ROWS_MAX, RING_BYTES_MAX, RING_BYTES_MIN, SCRUB_INTERVAL, SCRUB_RATE,
    SEGMENT_BYTES_MIN, SEGMENTS, SNAPSHOT_SECONDS,
};
use multiraft::{NodeId, Space};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// The id minted into the cluster's CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose node file this must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// What one group commit did.
#[derive(Clone, Copy, Debug)]
pub struct CommitSample {
    /// Duration of the durable write.
    pub sync: Duration,
    /// Worker batches folded into the record.
    pub batches: usize,
    /// Entries in the record.
    pub entries: usize,
    /// Births, installs and tombstones in it.
    pub fates: usize,
    /// Bytes written, padding included.
    pub bytes: usize,
}

/// Hears about every group commit, on the committer's thread. Must not block.
pub type CommitTap = Arc<dyn Fn(CommitSample) + Send + Sync>;

/// Hears when disk space becomes short, is gone, or is there again; on the checkpoint's thread. Must not block.
pub type SpaceTap = Arc<dyn Fn(Space) + Send + Sync>;

/// What the scrubber tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// A pass ended: everything stored was read, and is what was written.
    Pass {
        /// Bytes read.
        bytes: u64,
        /// From its beginning to its end.
        took: Duration,
    },
    /// A slot of the header had decayed, and was written again: the other one said the same.
    Repaired,
}

/// Hears from the scrubber, on its thread. Damage that can not be repaired ends the process instead.
pub type ScrubTap = Arc<dyn Fn(Scrubbed) + Send + Sync>;

/// Where a new file's random bytes come from.
pub type Entropy = fn() -> io::Result<[u8; 24]>;

/// The system's generator.
pub fn system_entropy() -> io::Result<[u8; 24]> {
    let mut random = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random)
}

/// How a node file is used. Sizes of the ring count only when a file gets a new log region.
#[derive(Clone)]
pub struct Options {
    /// Workers; group g belongs to worker `g % workers`.
    pub workers: usize,
    /// Whether a worker writes the log on its own thread while the disk is quick, instead of handing every batch to the
    /// log's thread. Its host must then call `RaftStorage::write_here` after each turn.
    pub workers_write: bool,
    /// Bytes of the log ring; a multiple of `segment_bytes`.
    pub ring_bytes: u64,
    /// Bytes zero-filled at a time before the ring grows into them.
    pub segment_bytes: u64,
    /// Applied bytes in memory that start a checkpoint.
    pub memtable_bytes: u64,
    /// redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// A snapshot that is read for longer is aborted: it pins pages of redb, and the file grows for good. Must exceed the
    /// time that the largest group takes at the rate at which snapshots are sent.
    pub snapshot_time: Duration,
    /// Bytes per second that the scrubber reads at most; 0: there is none.
    pub scrub_rate: u64,
    /// From the beginning of one of its passes to the next.
    pub scrub_interval: Duration,
    /// Rows and chunks that one transaction deletes of what no group maps any more.
    pub slice_rows: usize,
    /// 24 random bytes for a new file: its uuid, and the salt of its checksums.
    pub entropy: Entropy,
    /// Ends the process after a failed write or a failed checksum.
    pub fatal: Fatal,
    /// Hears about every group commit.
    pub on_commit: Option<CommitTap>,
    /// Hears about disk space.
    pub on_space: Option<SpaceTap>,
    /// Hears from the scrubber.
    pub on_scrub: Option<ScrubTap>,
}

impl Options {
    /// Production sizes: a ring of 1 GiB in segments of 64 MiB.
    pub fn new(workers: usize) -> Options {
        Options {
            workers,
            workers_write: false,
            ring_bytes: 1 << 30,
            segment_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            cache_bytes: 256 << 20,
            snapshot_time: Duration::from_secs(SNAPSHOT_SECONDS),
            scrub_rate: SCRUB_RATE,
            scrub_interval: SCRUB_INTERVAL,
            slice_rows: DELETED_ROWS_MAX,
            entropy: system_entropy,
            fatal: exit_process,
            on_commit: None,
            on_space: None,
            on_scrub: None,
        }
    }

    /// A ring of `bytes`, rounded up by less than one block per segment. Segments become a sixteenth of the ring, but
    /// neither larger than they were nor smaller than 1 MiB (or one block in rings below that).
    pub fn with_ring(self, bytes: u64) -> Options {
        let most = self.segment_bytes.max(BLOCK_BYTES);
        let share = bytes.div_ceil(SEGMENTS).max(SEGMENT_BYTES_MIN.min(bytes));
        let segments = bytes.div_ceil(share.clamp(1, most)).max(1);
        let segment_bytes = bytes.div_ceil(segments).next_multiple_of(BLOCK_BYTES);
        Options {
            ring_bytes: segments * segment_bytes,
            segment_bytes,
            ..self
        }
    }

    /// Refuses sizes that the log can not have.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Options {
            workers,
            ring_bytes,
            segment_bytes,
            ..
        } = *self;
        let problem = if workers == 0 {
            "there must be at least one worker"
        } else if segment_bytes == 0 || !segment_bytes.is_multiple_of(BLOCK_BYTES) {
            "segments must be a multiple of 4096 bytes"
        } else if ring_bytes == 0 || !ring_bytes.is_multiple_of(segment_bytes) {
            "the ring must be a multiple of its segments"
        } else if ring_bytes > RING_BYTES_MAX || ring_bytes / segment_bytes > u64::from(u32::MAX) {
            "the ring is too large"
        } else if ring_bytes < RING_BYTES_MIN {
            "the ring is too small"
        } else {
            return Ok(());
        };
        Err(problem)
    }

    /// Sizes for several nodes in one process: a ring of 64 MiB in segments of 8 MiB.
    pub fn small(workers: usize) -> Options {
        Options {
            ring_bytes: 64 << 20,
            segment_bytes: 8 << 20,
            memtable_bytes: 8 << 20,
            cache_bytes: 32 << 20,
            ..Options::new(workers)
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("workers", &self.workers)
            .field("ring_bytes", &self.ring_bytes)
            .field("segment_bytes", &self.segment_bytes)
            .field("memtable_bytes", &self.memtable_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}
