//! The crate's fixed limits, with their relations asserted at compile time.
//! Knobs that an operator may turn are in `options.rs`.

/// Most bytes of committed entries handed out by one `ready` (one entry may exceed it).
pub(crate) const COMMITTED_BYTES_MAX: u64 = 1 << 20;

/// The in-memory tail may grow to this many times `tail_bytes_max` for the sake of peers that still read it.
pub(crate) const TAIL_STRETCH: u64 = 4;

/// How exactly the cost of entries is known that are not in memory.
pub(crate) const MILESTONE_BYTES: u64 = 64 << 10;

/// Rounds of contact whose sending time a leader remembers: more than are in flight to a peer that counts.
pub(crate) const ROUNDS_REMEMBERED: usize = 16;

/// Voters of one half whose tally needs no allocation.
pub(crate) const VOTERS_INLINE: usize = 8;

/// Members of one group, learners and both halves of a joint membership included.
pub const MEMBERS_MAX: usize = 64;

/// Fixed bytes every entry counts for, over its payload.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 32;

const _: () = assert!(
    COMMITTED_BYTES_MAX > ENTRY_OVERHEAD_BYTES as u64,
    "one ready must carry entries"
);
const _: () = assert!(
    TAIL_STRETCH >= 2,
    "a peer that lags by one tail must not need the disk"
);
const _: () = assert!(
    VOTERS_INLINE >= 7,
    "usual groups must be tallied without allocation"
);
