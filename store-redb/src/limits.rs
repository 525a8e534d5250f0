//! Every limit of this crate, and the relations between them, checked at compile time.

use std::time::Duration;

/// Alignment and padding of records: the unit in which the disk is written.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Where the log region begins: the two header slots. Below lies redb's part of the file.
pub(crate) const LOG_AT: u64 = 1 << 40;

/// Where the ring begins.
pub(crate) const RING_AT: u64 = LOG_AT + (1 << 20);

/// A file of this length and more has a log region whose first header was not written yet; see `node_file`.
pub(crate) const MARKER_AT: u64 = LOG_AT + (1 << 39);

/// The largest ring.
pub(crate) const RING_BYTES_MAX: u64 = 1 << 38;

/// The smallest ring; only tests use rings this small.
pub(crate) const RING_BYTES_MIN: u64 = 64 * BLOCK_BYTES;

/// A ring is prepared in this many segments, unless that makes them too large or too small.
pub(crate) const SEGMENTS: u64 = 16;

/// Segments smaller than this cost a sync each for nothing.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// A record is sealed when it has grown past this: larger commits gain nothing and delay those that wait.
pub(crate) const RECORD_BYTES_SOFT: usize = 1 << 20;

/// The largest record, padding included; in small rings an eighth of the ring.
pub(crate) const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Larger records are written through the page cache: the buffer that direct writes copy them into stays small.
pub(crate) const DIRECT_BYTES_MAX: usize = 2 << 20;

/// Buffers kept for direct writes: the log's, and a header's beside it.
pub(crate) const DIRECT_BUFFERS_KEPT: usize = 2;

/// Entries must be shorter than this, encoded: their length has 24 bits in the index.
pub(crate) const ENTRY_BYTES_MAX: usize = (1 << 24) - 1;

/// A fetch answers with at most this many entries, whatever its byte limit.
pub(crate) const FETCH_ENTRIES_MAX: usize = 4096;

/// How far behind a bad record recovery looks for a newer one, which would prove that the bad one is not the torn
/// tail.
pub(crate) const LOOKAHEAD_BYTES: u64 = 4 * RECORD_BYTES_MAX;

/// Zeros are written this many bytes at a time when the ring grows; each piece is durable before the next.
pub(crate) const FILL_BYTES: usize = 256 << 10;

/// A checkpoint's pages go to the disk in windows of at most this many separate runs: the log's next write stands
/// behind at most so many requests of the device's queue.
pub(crate) const WINDOW_RUNS: usize = 64;

/// Windows hold at most this many bytes, for the same reason.
pub(crate) const WINDOW_BYTES: u64 = 1 << 20;

/// Pages of a checkpoint kept in memory until they can be written in order; more are written in several rounds.
pub(crate) const WAITING_BYTES_MAX: u64 = 256 << 20;

/// Values above this many bytes are cut into chunks: redb would round their pages up to a power of two.
pub(crate) const INLINE_BYTES_MAX: usize = 2048;

/// Bytes of a redb page that one chunk and its key may use, page overhead deducted.
pub(crate) const CHUNK_ROW_BYTES: usize = 4040;

/// Chunks hold at least this many bytes, however long the key is.
pub(crate) const CHUNK_BYTES_MIN: usize = 1024;

/// A worker writes on its own thread while a durable write takes no longer than this, in microseconds: two changes of
/// thread cost about as much as a quick disk, and a turn that waits gathers a larger batch.
pub(crate) const QUICK_WRITE_MICROS: u64 = 500;

/// Keys up to this many bytes lie in the memtable's own nodes.
pub(crate) const KEY_BYTES_INLINE: usize = 32;

/// What a memtable entry costs beyond its key and value, in bytes; roughly.
pub(crate) const MEMTABLE_ENTRY_OVERHEAD: u64 = 64;

/// What a deleted key takes in a memtable, at least about that.
pub(crate) const DELETED_ENTRY_BYTES: u64 = MEMTABLE_ENTRY_OVERHEAD + 16;

/// New proposals are refused when the memtables hold this many times their limit.
pub(crate) const MEMTABLE_FULL_FACTOR: u64 = 4;

/// Emptied record buffers kept for reuse; larger ones are given back.
pub(crate) const SPARE_BUFFERS_MAX: usize = 4;

/// Refused part of the ring: one `RESERVE_SHARE`th is kept for hard states and the like.
pub(crate) const RESERVE_SHARE: u64 = 8;

/// A checkpoint starts when a `CUT_SHARE`th of the ring was written since the last one. Two such intervals are live
/// at any time (see `checkpoint`), so this leaves half of the ring for what arrives while a checkpoint runs.
pub(crate) const CUT_SHARE: u64 = 4;

/// Snapshots that may be staged at the same time.
pub(crate) const STAGINGS_MAX: usize = 16;

/// Bytes of staged rows that may wait for redb, of all snapshots together; one more piece is always taken.
pub(crate) const STAGED_BYTES_MAX: usize = 8 << 20;

/// Rows of a snapshot on its way in are handed on once they have this many bytes.
pub(crate) const OFFERED_BYTES: usize = 1 << 20;

/// Most bytes of one row of a snapshot: both ends hold a row whole.
pub(crate) const STREAMED_ROW_BYTES_MAX: usize = 64 << 20;

/// Rows and chunks that one transaction deletes of slots that nobody maps, unless the options say fewer.
pub(crate) const DELETED_ROWS_MAX: usize = 4096;

/// Snapshots that may be read at the same time: each pins pages of redb.
pub(crate) const SNAPSHOTS_MAX: usize = 8;

/// How long one snapshot may be read by default, in seconds: each pins pages of redb, and the file grows for good.
pub(crate) const SNAPSHOT_SECONDS: u64 = 300;
/// While disk space is short, checkpoints start at a `SHORT_SHARE`th of the memtables' limit.
pub(crate) const SHORT_SHARE: u64 = 8;

/// redb's page.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Pages that writing one key changes, at most, in percent: its leaf, and its share of the branches above.
pub(crate) const PAGES_PER_ENTRY_PERCENT: u64 = 125;

/// What every checkpoint may need besides: rows, the roots of the tables, redb's own tables.
pub(crate) const NEED_BYTES_FIXED: u64 = 1 << 20;

/// How often the disk is asked for its free space.
pub(crate) const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// redb's pages are counted again after this many times what the last count took.
pub(crate) const SPACE_COUNT_PATIENCE: u32 = 20;

const _: () = assert!(
    DIRECT_BYTES_MAX > RECORD_BYTES_SOFT,
    "sealed records are written directly"
);
/// What the scrubber reads by default, in bytes per second, and how often it begins a pass: 1 GB takes four minutes, and
/// 300 GB a day.
pub(crate) const SCRUB_RATE: u64 = 4 << 20;

/// From one pass of the scrubber to the next, by default.
pub(crate) const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The scrubber's first pass begins so long after the start, which has enough to do.
pub(crate) const SCRUB_DELAY: Duration = Duration::from_secs(60);

/// The scrubber reads so many slices a second, unless that makes them too large or too small.
pub(crate) const SCRUB_SLICES: u64 = 8;

/// A slice reads at least so many bytes: each begins at the root again.
pub(crate) const SCRUB_BYTES_MIN: u64 = 64 << 10;

/// A slice reads at most so many bytes, and then the page or the record it is at.
pub(crate) const SCRUB_BYTES_MAX: u64 = 1 << 20;

/// Other threads go first: what is added to the scrubber's niceness.
pub(crate) const SCRUB_NICE: i32 = 10;

const _: () = assert!(SCRUB_BYTES_MIN >= 16 * PAGE_BYTES && SCRUB_BYTES_MIN < SCRUB_BYTES_MAX);
const _: () = assert!(RING_AT.is_multiple_of(BLOCK_BYTES) && RING_AT >= LOG_AT + 2 * BLOCK_BYTES);
const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES) && SEGMENTS > 0);
const _: () = assert!(RING_AT + RING_BYTES_MAX <= MARKER_AT);
const _: () = assert!(
    RING_BYTES_MAX <= 1 << 40,
    "ring offsets have 40 bits in the index"
);
const _: () = assert!(
    RECORD_BYTES_MAX <= 1 << 24,
    "a record's length bounds its entries' lengths"
);
const _: () = assert!((RECORD_BYTES_SOFT as u64) < RECORD_BYTES_MAX);
const _: () = assert!(OFFERED_BYTES <= STAGED_BYTES_MAX);
const _: () = assert!(
    STREAMED_ROW_BYTES_MAX <= u32::MAX as usize && STREAMED_ROW_BYTES_MAX as u64 >= 2 * RECORD_BYTES_MAX
);
const _: () = assert!(LOOKAHEAD_BYTES >= 2 * RECORD_BYTES_MAX);
const _: () = assert!(
    2 * (RESERVE_SHARE - 2) >= 3 * RESERVE_SHARE / 2,
    "two cut intervals and half of one fit below the reserve and what a lap's end may waste"
);
const _: () = assert!(
    CUT_SHARE >= 3,
    "two intervals and the records that arrive during a checkpoint"
);
const _: () = assert!(CHUNK_BYTES_MIN < INLINE_BYTES_MAX && INLINE_BYTES_MAX < CHUNK_ROW_BYTES);
