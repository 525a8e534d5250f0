//! The contract of the network between nodes. Implemented by the simulator, by `mem`, and by transport-quic.

use crate::bulk::{Bulk, BulkHandle, refuse_bulk};
use crate::types::NodeId;
use bytes::Bytes;
use std::sync::Arc;

/// Which stream of a link a frame travels on. FIFO within a lane while the link lives; no order across lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes, heartbeats, every reply: small, ahead of entries.
    Control,
    /// Appends, the empty ones too: they must not overtake each other.
    Entries,
}

/// An encoded frame: the concatenation of these chunks (large payloads stay their own chunk, uncopied).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// In order.
    pub chunks: Vec<Bytes>,
}

impl Frame {
    /// Total bytes.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// The frame as one run of bytes: copied, unless it is a single chunk.
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [only] => only.clone(),
            chunks => Bytes::from(chunks.concat()),
        }
    }

    /// True for a frame without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame on its way to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The receiver.
    pub to: NodeId,
    /// The lane.
    pub lane: Lane,
    /// The bytes.
    pub frame: Frame,
}

/// Best effort: may drop, delay, duplicate and (across lanes or reconnects) reorder frames. Never blocks, never
/// corrupts. Shared: the worker sends from its turn, the store's completion sink sends what waited for an fsync.
pub trait RaftNetwork: Send + Sync {
    /// Sends, or drops when the node's queue is full or no link is up.
    fn send(&self, outgoing: Outgoing);

    /// Opens a bulk stream beside the lanes; see [`bulk`](crate::bulk). Returns at once. How many may be open is the
    /// network's to say: one too many ends as not sent.
    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        refuse_bulk(bulk, "this network has no bulk streams")
    }
}

impl<N: RaftNetwork + ?Sized> RaftNetwork for Arc<N> {
    fn send(&self, outgoing: Outgoing) {
        (**self).send(outgoing);
    }

    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        (**self).send_bulk(bulk)
    }
}
