//! Every number this crate does not exceed, with the relations between them asserted at compile time.
//! Numbers of one replica are in `raft_core::Options`.

use std::time::Duration;

/// Most bytes of one payload (one command).
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// A frame is closed, and a new one begun, once it holds this many bytes.
pub const FRAME_BYTES_SOFT: usize = 1 << 20;

/// Most bytes of a frame on the wire. Larger ones are refused by the receiver before they are read.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// Most that `Options::append_bytes_max` may be.
pub const APPEND_BYTES_MAX: usize = 4 << 20;

/// Payloads of at least this many bytes stay a chunk of their own: sent without being copied.
pub const CHUNK_BYTES_MIN: usize = 4 << 10;

/// Frames up to this size are pinned by their payloads without further thought (see `wire`).
pub const PIN_FRAME_BYTES_MAX: usize = 4 << 10;

/// A larger frame is pinned only by a message that makes up at least one part in this many of it.
pub const PIN_PARTS_MAX: usize = 4;

/// Most replicas in a membership, in any role.
pub const MEMBERS_MAX: usize = 64;

/// Replicas outside the membership whose node a group remembers.
pub const STRANGERS_MAX: usize = 16;

/// Most entries in one append.
pub const ENTRIES_MAX: usize = 1 << 16;

/// Most messages in one frame.
pub const MESSAGES_MAX: usize = 1 << 20;

/// Most Raft messages waiting in one inbox.
pub const INBOX_MESSAGES_MAX: usize = 1 << 18;

/// Most bytes of entries in the messages waiting in one inbox.
pub const INBOX_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Most reads, and most proposals, waiting in one inbox.
pub const INBOX_REQUESTS_MAX: usize = 1 << 16;

/// Most bytes of reads and proposals waiting in one inbox.
pub const INBOX_REQUEST_BYTES_MAX: usize = 64 << 20;

/// Most bytes of proposals that a worker has taken and not answered.
pub const WAITING_BYTES_PER_WORKER_MAX: usize = 256 << 20;

/// Most reads and proposals of one group that a worker has taken and not answered.
pub const WAITING_PER_GROUP_MAX: usize = 1 << 16;

/// Most reads and proposals of all groups that a worker has taken and not answered.
pub const WAITING_PER_WORKER_MAX: usize = 1 << 18;

/// Where groups share a bound, one that holds more than this many times what is left gets no more.
pub const GREED: usize = 4;

/// Bytes of log tail that all groups of a worker keep in memory together, as a rule.
pub const TAIL_BYTES_PER_WORKER: usize = 64 << 20;

/// But each group may keep this many.
pub const TAIL_BYTES_PER_GROUP_MIN: usize = 64 << 10;

/// What `WorkerOptions::deputy_events_max` is as a rule: a deputy takes a turn only for a lone request. With more,
/// measured at 64 clients, turns beside deliveries on two threads are faster than one after the other on one.
pub const DEPUTY_EVENTS_MAX: usize = 1;

/// Turns that a deputy takes in a row before it leaves the rest to the worker's thread.
pub const HELPED_TURNS_MAX: u32 = 4;

/// Snapshots that one worker sends at a time; more wait.
pub const SNAPSHOTS_OUT_MAX: usize = 2;

/// Snapshots that a node takes at a time; more are refused, and come again.
pub const SNAPSHOTS_IN_MAX: usize = 4;

/// How long the receiving end of a snapshot waits for its group's worker: an install takes an fsync.
pub(crate) const SNAPSHOT_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What an entry takes in the log and in memory beyond its payload, at most, as a rule.
pub(crate) const ENTRY_ROOM_OVERHEAD: u64 = 128;

const _: () = {
    assert!(
        INBOX_REQUESTS_MAX <= WAITING_PER_GROUP_MAX,
        "a full inbox must fit into one idle group"
    );
    assert!(WAITING_PER_GROUP_MAX <= WAITING_PER_WORKER_MAX);
    assert!(INBOX_REQUEST_BYTES_MAX <= WAITING_BYTES_PER_WORKER_MAX);
    assert!(
        PAYLOAD_BYTES_MAX * (GREED + 1) <= WAITING_BYTES_PER_WORKER_MAX,
        "what one flooded group leaves is room for the largest payload of another"
    );
    assert!(
        PAYLOAD_BYTES_MAX <= INBOX_REQUEST_BYTES_MAX,
        "one request always fits into an empty inbox"
    );
    assert!(
        FRAME_BYTES_MAX <= INBOX_MESSAGE_BYTES_MAX,
        "the largest frame must fit beside others"
    );
    assert!(
        FRAME_BYTES_SOFT + APPEND_BYTES_MAX + PAYLOAD_BYTES_MAX + APPEND_BYTES_MAX <= FRAME_BYTES_MAX,
        "an open frame must have room for one more append whose last entry is oversized, headers included"
    );
    assert!(
        FRAME_BYTES_MAX <= u32::MAX as usize,
        "frames are counted in 32 bits on the wire"
    );
    assert!(
        CHUNK_BYTES_MIN >= 1024,
        "smaller chunks cost more to send than to copy"
    );
    assert!(PIN_PARTS_MAX >= 1, "a message is at most its whole frame");
};
