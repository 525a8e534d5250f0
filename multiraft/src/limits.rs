//! Every number this crate does not exceed, with the relations between them asserted at compile time.
//! Numbers of one replica are in `raft_core::Options`.

/// Most bytes of one payload (one command).
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// A frame is closed, and a new one begun, once it holds this many bytes.
pub const FRAME_BYTES_SOFT: usize = 1 << 20;

/// Most bytes of a frame on the wire. Larger ones are refused by the receiver before they are read.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Payloads of at least this many bytes stay a chunk of their own: sent without being copied.
pub const CHUNK_BYTES_MIN: usize = 4 << 10;

/// Frames up to this size are pinned by their payloads without further thought (see `wire`).
pub const PIN_FRAME_BYTES_MAX: usize = 4 << 10;

/// A larger frame is pinned only by a message that makes up at least one part in this many of it.
pub const PIN_PARTS_MAX: usize = 4;

/// Most replicas in a membership, in any role.
pub const MEMBERS_MAX: usize = 64;

/// Most entries in one append.
pub const ENTRIES_MAX: usize = 1 << 16;

/// Most messages in one frame.
pub const MESSAGES_MAX: usize = 1 << 20;

const _: () = {
    assert!(
        FRAME_BYTES_SOFT + 2 * PAYLOAD_BYTES_MAX <= FRAME_BYTES_MAX,
        "an open frame must have room for one more append: append_bytes_max and one oversized payload"
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
