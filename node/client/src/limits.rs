//! Every limit of the client and the protocol, and the relations between them.

use std::time::Duration;

/// Largest payload of a request. What nodes accept as a value is less.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Largest payload of a response: a page of a scan may end with one large value.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Operations in one batch.
pub const BATCH_OPERATIONS_MAX: usize = 4096;
/// Bytes that wait in the client for the connection; beyond them a call is refused at once.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Calls outstanding on one connection.
pub const OUTSTANDING_MAX: usize = 1 << 20;
/// Most bytes handed to the connection in one write.
pub const WRITE_BYTES_MAX: usize = 64 << 10;
/// How long an endpoint may take to shake hands and answer the first request.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The next endpoint is dialed as well when the one before has not answered for this long.
pub const DIAL_STAGGER: Duration = Duration::from_millis(150);
/// Wait after a failed round of dialing; doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest such wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A connection is given up when nothing was heard for this long: a node that was killed says nothing. Far shorter than
/// the usual deadline of a call, so that a read can still be asked elsewhere; a node that is silent for longer than an
/// election timeout is taken for dead by the other nodes, too.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Packets that need an acknowledgement before one is sent for them; fewer wait up to [`ACK_DELAY_MAX`], or for a packet
/// that goes the other way anyway.
pub const PACKETS_PER_ACK: u32 = 8;
/// How long packets wait for their acknowledgement. Far below any timeout of ours.
pub const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
/// Bytes a fresh connection may have on their way. More than [`PACKETS_PER_ACK`] packets, or it would stand still until
/// the delay is over; nodes and clients are near each other, and a burst of requests must not be paced.
pub const INITIAL_WINDOW: u64 = 1 << 20;
/// A silent connection is probed this often.
pub const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// A pool asks again who leads what when it knows it this long, and is used.
pub const ROUTES_AGE_MAX: Duration = Duration::from_secs(1);
/// How long a node may take to tell.
pub const ROUTES_TIMEOUT: Duration = Duration::from_millis(500);
/// Socket buffers asked for, in bytes.
pub const SOCKET_BYTES: usize = 4 << 20;
/// Bytes of answers that may be on their way to us.
pub const RECEIVE_WINDOW: u32 = 8 << 20;
/// Bytes of requests that may be on their way from us.
pub const SEND_WINDOW: u32 = 8 << 20;

const _: () = assert!(REQUEST_BYTES_MAX < QUEUE_BYTES_MAX);
const _: () = assert!(OUTSTANDING_MAX < u32::MAX as usize);
const _: () = assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
const _: () = assert!(DIAL_STAGGER.as_millis() * 4 < DIAL_TIMEOUT.as_millis());
const _: () = assert!(INITIAL_WINDOW > 2 * PACKETS_PER_ACK as u64 * 1500);
