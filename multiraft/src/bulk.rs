//! The contract of bulk streams: one node hands another a long run of bytes, too long for a frame, beside the lanes and
//! without delaying them. What the bytes are (a snapshot) is known to the two ends only.
//!
//! ```text
//!   RaftNetwork::send_bulk -- header --> BulkSink::begin -- refuses --> BulkOutcome::Refused
//!   BulkSource::next ------- pieces --> BulkReceiver::piece           (pulled at the pace the network and the receiver allow)
//!   BulkSource::ended <-- its answer -- BulkReceiver::finish          (after the last piece, whole and unchanged)
//! ```
//!
//! A stream that does not reach its end leaves nothing behind: the receiver is dropped without `finish`, and whoever
//! wants the bytes there begins again from the start. Both ends may block; each has a thread for that.

use crate::types::NodeId;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Most bytes of a header.
pub const BULK_HEADER_BYTES_MAX: usize = 64 << 10;

/// Most bytes of a piece.
pub const BULK_PIECE_BYTES_MAX: usize = 256 << 10;

/// Most bytes of the receiver's answer, be it an acknowledgement or a refusal.
pub const BULK_ANSWER_BYTES_MAX: usize = 64 << 10;

/// Most bytes a network may pull ahead of what the receiver has taken.
pub const BULK_AHEAD_BYTES_MAX: usize = 16 << 20;

/// A stream to be sent.
pub struct Bulk {
    /// The receiver.
    pub to: NodeId,
    /// Says what comes; at most [`BULK_HEADER_BYTES_MAX`].
    pub header: Bytes,
    /// Where it comes from.
    pub source: Box<dyn BulkSource>,
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bulk stream to node {}, header of {} bytes",
            self.to.0,
            self.header.len()
        )
    }
}

/// The sending end's bytes.
pub trait BulkSource: Send {
    /// The next piece, neither empty nor longer than [`BULK_PIECE_BYTES_MAX`]; None: that was all. May block. An error
    /// cancels the stream.
    fn next(&mut self) -> Result<Option<Bytes>, String>;

    /// How it ended. Called once, last.
    fn ended(self: Box<Self>, outcome: BulkOutcome);
}

/// How a stream ended, as its sender knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BulkOutcome {
    /// The receiver has it all, and answers this.
    Taken(Bytes),
    /// The receiver does not want it, or not the rest; its words.
    Refused(String),
    /// The source failed, or the sender gave up: the receiver has forgotten it.
    Cancelled(String),
    /// Nothing of it was sent: no link, too many streams already, or bad bounds.
    NotSent(String),
    /// The way was lost before the answer: the receiver may have taken it all, or has forgotten it.
    Lost(String),
}

/// Takes streams that other nodes send.
pub trait BulkSink: Send + Sync {
    /// Node `from` begins a stream. An error refuses it in words that its sender hears. Must not block.
    fn begin(&self, from: NodeId, header: Bytes) -> Result<Box<dyn BulkReceiver>, String>;
}

/// The receiving end of one stream. Dropped without `finish` when the stream does not reach its end.
pub trait BulkReceiver: Send {
    /// The next piece, in order and unchanged. May block, which holds the sender. An error refuses the rest. The bytes
    /// may pin more than themselves: copy what is kept.
    fn piece(&mut self, piece: Bytes) -> Result<(), String>;

    /// All pieces have come. The answer, at most [`BULK_ANSWER_BYTES_MAX`], goes back to the sender: give it when what
    /// it promises is true. May block. An error refuses the whole.
    fn finish(self: Box<Self>) -> Result<Bytes, String>;
}

/// Refuses every stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBulk;

impl BulkSink for NoBulk {
    fn begin(&self, _: NodeId, _: Bytes) -> Result<Box<dyn BulkReceiver>, String> {
        Err("this node takes no bulk streams".to_owned())
    }
}

/// A stream under way. Dropping it changes nothing.
#[derive(Clone)]
pub struct BulkHandle {
    cancel: Arc<dyn Fn() + Send + Sync>,
}

impl BulkHandle {
    /// `cancel` may be called at any time, more than once, and after the stream has ended.
    pub fn new(cancel: impl Fn() + Send + Sync + 'static) -> BulkHandle {
        BulkHandle {
            cancel: Arc::new(cancel),
        }
    }

    /// Gives the stream up. Its source hears of the end as usual: it may have been taken already.
    pub fn cancel(&self) {
        (self.cancel)();
    }
}

impl fmt::Debug for BulkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkHandle").finish_non_exhaustive()
    }
}

/// Ends a stream that cannot be sent.
pub fn refuse_bulk(bulk: Bulk, why: &str) -> BulkHandle {
    bulk.source.ended(BulkOutcome::NotSent(why.to_owned()));
    BulkHandle::new(|| {})
}

const _: () = assert!(BULK_AHEAD_BYTES_MAX >= 4 * BULK_PIECE_BYTES_MAX);
