//! Every bound of this crate, and how the bounds must relate.

use multiraft::bulk::{BULK_AHEAD_BYTES_MAX, BULK_PIECE_BYTES_MAX};
use std::time::Duration;

/// The longest frame on a lane, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// The longest payload of one call or reply, in bytes.
pub const CALL_BYTES_MAX: usize = 16 << 20;
/// The longest hello, in bytes.
pub(crate) const HELLO_BYTES_MAX: usize = 1024;

/// Frames that may wait in one lane of one link.
pub const LANE_FRAMES_MAX: usize = 8192;
/// Bytes that may wait in one lane of one link.
pub const LANE_BYTES_MAX: usize = 64 << 20;
/// Calls to one node that may be unanswered.
pub const CALLS_MAX: usize = 32 << 10;
/// Bytes of the unanswered calls to one node.
pub const CALLS_BYTES_MAX: usize = 64 << 20;
/// Unanswered requests taken from one stream before reading pauses.
pub const REQUESTS_MAX: usize = 32 << 10;
/// Bytes of unwritten replies of one stream before reading pauses.
pub const REPLIES_BYTES_MAX: usize = 64 << 20;

/// Bytes gathered into one write.
pub(crate) const WRITE_BYTES: usize = 64 << 10;
/// From this size on a chunk travels uncopied.
pub(crate) const OWN_CHUNK_BYTES_MIN: usize = 4 << 10;
/// An uncopied chunk is cut into pieces of this size: acknowledged bytes are released piece by piece.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;
/// A reader takes at most this many bytes of a stream at a time.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;
/// A message gets a buffer of up to this size on the word of its sender; more only as it arrives.
pub(crate) const TRUSTED_BYTES_MAX: usize = 64 << 10;

/// Handshakes under way at once; more are refused.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// From this many handshakes on, callers must prove their address first.
pub(crate) const HANDSHAKES_UNVALIDATED_MAX: usize = 64;
/// Connections of clients; more are refused.
pub const CLIENTS_MAX: usize = 1024;
/// A connection must be authenticated and have said hello within this time.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes buffered for one connection attempt before it is accepted.
pub(crate) const INCOMING_BYTES_MAX: u64 = 64 << 10;
/// Bytes buffered for all of them.
pub(crate) const INCOMING_BYTES_TOTAL: u64 = 16 << 20;

/// One stream's receive window.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes in flight on one connection, over all streams.
pub(crate) const SEND_WINDOW: u64 = 32 << 20;
/// Unread bytes of one client connection.
pub(crate) const CLIENT_RECEIVE_WINDOW: u32 = 8 << 20;
/// Bidirectional streams the other side may open (a peer needs two: hello and calls).
pub(crate) const BIDI_STREAMS_MAX: u32 = 8;
/// Unidirectional streams the other side may open (a peer needs two lanes, and one now and then to ask for a redial).
pub(crate) const UNI_STREAMS_MAX: u32 = 8;
/// Streams on which one side of a link sends at will: two lanes, its calls, its replies.
const STREAMS_SENT: u64 = 4;
/// Bulk streams that a node sends at once; one more is not sent.
pub const BULK_OUT_MAX: usize = 2;
/// Bulk streams that a node receives at once; one more is refused.
pub const BULK_IN_MAX: usize = 2;
/// Bytes per second that all bulk streams of a node may send together, unless configured otherwise.
pub const BULK_BYTES_PER_SECOND: u64 = 100_000_000;
/// How far behind its rate bulk may catch up: as long as a timer may oversleep.
pub(crate) const BULK_BURST: Duration = Duration::from_millis(4);
/// Pieces pulled ahead of the connection, and pieces read ahead of the receiver.
pub(crate) const BULK_PIECES_AHEAD: usize = 4;
/// A bulk stream on which nothing moves for this long is given up.
pub(crate) const BULK_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a receiver may take from the last byte to its answer: it makes everything durable meanwhile.
pub(crate) const BULK_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a receiver that has answered waits for the sender to close.
pub(crate) const BULK_GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// Kernel buffers of the socket, each way.
pub(crate) const SOCKET_BYTES: usize = 4 << 20;

/// A connection silent for this long is dead.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// An otherwise silent connection sends something this often.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Packets that need an acknowledgement before one is sent for them; fewer wait up to [`ACK_DELAY_MAX`], or for a packet
/// that goes the other way anyway.
pub(crate) const PACKETS_PER_ACK: u32 = 8;
/// How long packets wait for their acknowledgement. Far below any timeout of ours.
pub(crate) const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
/// Bytes a fresh connection may have on their way. More than [`PACKETS_PER_ACK`] packets, or it would stand still until
/// the delay is over; nodes and clients are near each other, and a burst of requests must not be paced.
pub(crate) const INITIAL_WINDOW: u64 = 1 << 20;
/// A link may always have this many bytes on their way, whatever was lost: several seconds of heartbeats and of requests
/// that nobody answers.
pub(crate) const WINDOW_FLOOR: u64 = 256 << 10;
/// Expected round trip before one is measured.
pub(crate) const INITIAL_RTT: Duration = Duration::from_millis(25);
/// A dial that has not led to an accepted hello by then is given up. Short, because a fresh attempt probes at
/// once while an old one backs off.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the node with the higher id waits for the other to dial.
pub(crate) const DIAL_GRACE: Duration = Duration::from_secs(2);
/// Pause after the first failed dial.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause between dials. Short beside [`DIAL_TIMEOUT`]: where packets vanish, that is the pause, and this comes on
/// top of it once the path is mended.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A link that lived this long ends the backoff.
pub(crate) const LINK_PROVEN: Duration = Duration::from_secs(10);
/// A link this old is dialed anew, so that certificates which were renewed, or have expired, take effect.
pub const REDIAL_INTERVAL: Duration = Duration::from_secs(3600);
/// After new certificates, the links of a node are dialed anew this far apart.
pub(crate) const REDIAL_STAGGER: Duration = Duration::from_millis(100);
/// After a renewal that failed or was asked for in vain, the next is tried this much later.
pub(crate) const REDIAL_PAUSE: Duration = Duration::from_secs(5);
/// A replaced link whose streams have not ended by then is closed: what it still carries is lost.
pub(crate) const REPLACED_TIMEOUT: Duration = Duration::from_secs(10);
/// A replaced link whose streams have ended stays open this long, for the other side to read them.
pub(crate) const REPLACED_LINGER: Duration = Duration::from_secs(1);
/// How long `shutdown` waits for the other sides to hear of it.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Refused strangers are logged at most this often.
pub(crate) const STRANGER_LOG_INTERVAL: Duration = Duration::from_secs(1);

const _: () = {
    // Else a stream that nobody reads starves the lanes: quinn shares the send window without priorities.
    assert!(SEND_WINDOW > STREAMS_SENT * STREAM_WINDOW as u64);
    // The same for bulk, although each stream has a connection of its own.
    assert!(SEND_WINDOW > BULK_OUT_MAX as u64 * STREAM_WINDOW as u64);
    assert!(
        2 * BULK_PIECES_AHEAD * BULK_PIECE_BYTES_MAX + STREAM_WINDOW as usize + READ_BYTES_MAX
            <= BULK_AHEAD_BYTES_MAX
    );
    assert!(KEEP_ALIVE.as_millis() < BULK_STALL_TIMEOUT.as_millis());
    assert!(BIDI_STREAMS_MAX >= 2 && UNI_STREAMS_MAX >= 2);
    assert!(LANE_BYTES_MAX >= FRAME_BYTES_MAX);
    assert!(CALLS_BYTES_MAX >= CALL_BYTES_MAX && CALL_BYTES_MAX <= u32::MAX as usize - 8);
    assert!(FRAME_BYTES_MAX <= u32::MAX as usize);
    assert!(REQUESTS_MAX >= CALLS_MAX);
    assert!(WRITE_BYTES >= OWN_CHUNK_BYTES_MIN && READ_BYTES_MAX >= TRUSTED_BYTES_MAX);
    assert!(KEEP_ALIVE.as_millis() * 2 < IDLE_TIMEOUT.as_millis());
    assert!(WINDOW_FLOOR <= INITIAL_WINDOW);
    assert!(BACKOFF_MIN.as_millis() <= BACKOFF_MAX.as_millis());
    // A new link comes up before the old one gives up, and renewals do not pile up.
    assert!(DIAL_TIMEOUT.as_millis() < REPLACED_TIMEOUT.as_millis());
    assert!(REPLACED_TIMEOUT.as_millis() + REPLACED_LINGER.as_millis() < REDIAL_INTERVAL.as_millis());
    assert!(HANDSHAKES_UNVALIDATED_MAX < HANDSHAKES_MAX);
};
const _: () = assert!(INITIAL_WINDOW > 2 * PACKETS_PER_ACK as u64 * 1500);
