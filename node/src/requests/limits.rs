//! Bounds on routing and forwarding, and their relations.

use std::time::Duration;

/// Shards of the table of open requests: submitting threads and answering workers rarely meet in one.
pub const SHARDS: usize = 16;
/// Open requests in one shard; more are refused as overloaded.
pub const OPEN_PER_SHARD_MAX: usize = 1 << 16;
/// First wait before a refused request is sent again.
pub const BACKOFF_MIN: Duration = Duration::from_millis(2);
/// Longest wait before a refused request is sent again.
pub const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// How often open requests are checked against their deadlines: a request ends at most this much late.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(25);
/// Sweeps that find nothing open before the timekeeper sleeps until it is woken.
pub const IDLE_SWEEPS: u32 = 40;
/// Bodies of forwarded requests and answers at least this long are kept as slices of the buffer they came in.
pub const SLICE_BYTES_MIN: usize = 16 << 10;

const _: () = assert!(SHARDS.is_power_of_two() && SHARDS <= 1 << super::open::SHARD_BITS);
const _: () = assert!(OPEN_PER_SHARD_MAX <= 1 << super::open::INDEX_BITS);
const _: () = assert!(BACKOFF_MIN.as_nanos() < BACKOFF_MAX.as_nanos());
