//! Every limit of the Redis gateway that is not an option, and how limits relate. All apply before authentication.

use crate::kv::limits::VALUE_BYTES_MAX;

/// An inline command, or one header line, must end within this many bytes.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest argument the protocol takes (bytes); longer ones end the connection.
pub(super) const BULK_BYTES_MAX: usize = VALUE_BYTES_MAX as usize;
/// Longest argument taken from a client that has not authenticated.
pub(super) const BULK_BYTES_MAX_UNAUTHENTICATED: usize = 16 << 10;
/// Most arguments of one command.
pub(super) const ARGUMENTS_MAX: usize = 1 << 20;
/// Most arguments of one command from a client that has not authenticated.
pub(super) const ARGUMENTS_MAX_UNAUTHENTICATED: usize = 10;
/// Bytes of one command with all its arguments.
pub(super) const COMMAND_BYTES_MAX: usize = 32 << 20;
/// Bytes of one request to a group.
pub(super) const PAYLOAD_BYTES_MAX: usize = multiraft::limits::PAYLOAD_BYTES_MAX;
/// Commands of one connection that wait for their replies; reading stops there.
pub(super) const PIPELINE_COMMANDS_MAX: usize = 1024;
/// Bytes of requests of one connection under way; reading stops there.
pub(super) const PIPELINE_BYTES_MAX: usize = 32 << 20;
/// Unsent replies (bytes) at which no more commands are read and no more replies are written out.
pub(super) const OUTPUT_BYTES_SOFT: usize = 1 << 20;
/// Longest reply of a command that gathers parts (MGET, KEYS).
pub(super) const GATHERED_BYTES_MAX: usize = 64 << 20;
/// Parts of one command: one for each group it touches.
pub(super) const PARTS_MAX: usize = 1 << PARTS_BITS;
/// Bits of a ticket's number that name the part.
pub(super) const PARTS_BITS: u32 = 20;
/// Bytes read at once, at least.
pub(super) const READ_BYTES: usize = 16 << 10;
/// An empty query buffer larger than this is given back.
pub(super) const KEPT_BUFFER_BYTES: usize = 64 << 10;
/// Scan positions remembered by one node.
pub(super) const CURSORS_MAX: usize = 16 << 10;
/// Bytes of those positions.
pub(super) const CURSOR_BYTES_MAX: usize = 8 << 20;
/// Keys a scan looks at when COUNT is not given.
pub(super) const SCAN_COUNT_DEFAULT: u32 = 10;
/// Keys that one connection watches.
pub(super) const WATCHED_MAX: usize = 4096;
/// Longest client name or library name.
pub(super) const CLIENT_NAME_BYTES_MAX: usize = 256;

const _: () = assert!(COMMAND_BYTES_MAX > BULK_BYTES_MAX && PAYLOAD_BYTES_MAX >= BULK_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX >= PAYLOAD_BYTES_MAX && PIPELINE_BYTES_MAX >= PAYLOAD_BYTES_MAX);
const _: () = assert!(GATHERED_BYTES_MAX > BULK_BYTES_MAX && OUTPUT_BYTES_SOFT < GATHERED_BYTES_MAX);
const _: () = assert!(LINE_BYTES_MAX <= KEPT_BUFFER_BYTES && READ_BYTES <= KEPT_BUFFER_BYTES);
