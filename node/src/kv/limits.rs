//! Every limit of the state machine, and the relations between them. All are part of the deterministic behaviour:
//! changing one needs a new command format.

/// No value grows beyond this (bytes), whatever a command asks for.
pub const VALUE_BYTES_MAX: u64 = 16 << 20;
/// Expired keys removed while one entry is applied.
pub const PURGE_KEYS_MAX: usize = 64;
/// Keys removed by one `Command::Flush`; the answer says how many are left.
pub const FLUSH_KEYS_MAX: usize = 4096;
/// Keys that one `Query::Scan` looks at, whether they match or not.
pub const SCAN_EXAMINED_MAX: u32 = 4096;
/// Bytes of keys and values after which a scan's page ends.
pub const SCAN_BYTES_MAX: usize = 1 << 20;
/// Bytes of values that one `Query::GetMany` returns.
pub const GET_MANY_BYTES_MAX: usize = 32 << 20;
/// Longest decimal text taken as a number with a fraction.
pub const FLOAT_TEXT_MAX: usize = 512;
/// Largest deadline (milliseconds since 1970): what a signed 64-bit reply can say.
pub const DEADLINE_MAX: u64 = i64::MAX as u64;

const _: () = assert!(PURGE_KEYS_MAX > 0 && FLUSH_KEYS_MAX > PURGE_KEYS_MAX);
const _: () =
    assert!(SCAN_BYTES_MAX as u64 <= VALUE_BYTES_MAX && VALUE_BYTES_MAX <= GET_MANY_BYTES_MAX as u64);
