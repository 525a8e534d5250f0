//! A network in memory: frames go straight to whoever listens on the receiving node, bulk streams through a thread each.
//! Links can be cut, bulk streams broken in the middle.

use crate::bulk::{
    BULK_HEADER_BYTES_MAX, BULK_PIECE_BYTES_MAX, Bulk, BulkHandle, BulkOutcome, BulkReceiver, BulkSink,
    BulkSource, refuse_bulk,
};
use crate::network::{Outgoing, RaftNetwork};
use crate::types::NodeId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Takes frames that arrive at a node. Must not block.
pub type Receive = Arc<dyn Fn(NodeId, Bytes) + Send + Sync>;

/// All nodes of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemNetwork {
    receivers: Arc<RwLock<BTreeMap<NodeId, Receive>>>,
    cut: Arc<Mutex<BTreeSet<(NodeId, NodeId)>>>,
    bulk: Arc<RwLock<BTreeMap<NodeId, Arc<dyn BulkSink>>>>,
    fault: Arc<Mutex<Option<BulkFault>>>,
}

/// What befalls the next bulk stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkFault {
    /// The way is lost after so many bytes.
    LostAfter(usize),
    /// The way is lost after the last byte, before the answer.
    AnswerLost,
}

/// One node's end.
#[derive(Clone, Debug)]
pub struct MemLink {
    node: NodeId,
    network: MemNetwork,
}

impl MemNetwork {
    /// No nodes yet.
    pub fn new() -> MemNetwork {
        MemNetwork::default()
    }

    /// Frames for `node` go to `receive` from now on.
    pub fn listen(&self, node: NodeId, receive: Receive) {
        let mut receivers = self
            .receivers
            .write()
            .expect("nothing panics while it holds the receivers");
        receivers.insert(node, receive);
    }

    /// Bulk streams to `node` go to `sink` from now on.
    pub fn take_bulk(&self, node: NodeId, sink: Arc<dyn BulkSink>) {
        let mut sinks = self
            .bulk
            .write()
            .expect("nothing panics while it holds the sinks");
        sinks.insert(node, sink);
    }

    /// The next bulk stream breaks in this way.
    pub fn break_bulk(&self, fault: BulkFault) {
        *self
            .fault
            .lock()
            .expect("nothing panics while it holds the fault") = Some(fault);
    }

    fn is_cut(&self, way: (NodeId, NodeId)) -> bool {
        let cut = self.cut.lock().expect("nothing panics while it holds the cuts");
        cut.contains(&way)
    }

    /// Nobody listens on `node` any more.
    pub fn leave(&self, node: NodeId) {
        let mut receivers = self
            .receivers
            .write()
            .expect("nothing panics while it holds the receivers");
        receivers.remove(&node);
    }

    /// The end that `node` sends with.
    pub fn link(&self, node: NodeId) -> MemLink {
        MemLink {
            node,
            network: self.clone(),
        }
    }

    /// Cuts, or mends, the way from one node to another.
    pub fn set_cut(&self, from: NodeId, to: NodeId, is_cut: bool) {
        let mut cut = self.cut.lock().expect("nothing panics while it holds the cuts");
        match is_cut {
            true => cut.insert((from, to)),
            false => cut.remove(&(from, to)),
        };
    }
}

impl MemLink {
    /// The network it belongs to.
    pub fn network(&self) -> &MemNetwork {
        &self.network
    }
}

impl RaftNetwork for MemLink {
    fn send(&self, outgoing: Outgoing) {
        if self.network.is_cut((self.node, outgoing.to)) {
            return;
        }
        let receiver = {
            let receivers = self.network.receivers.read();
            receivers
                .expect("nothing panics while it holds the receivers")
                .get(&outgoing.to)
                .cloned()
        };
        if let Some(receive) = receiver {
            receive(self.node, outgoing.frame.to_bytes());
        }
    }

    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        let sinks = self.network.bulk.read();
        let sink = sinks
            .expect("nothing panics while it holds the sinks")
            .get(&bulk.to)
            .cloned();
        let Some(sink) = sink.filter(|_| !self.network.is_cut((self.node, bulk.to))) else {
            return refuse_bulk(bulk, "nobody is there");
        };
        if bulk.header.len() > BULK_HEADER_BYTES_MAX {
            return refuse_bulk(bulk, "the header is too long");
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let carrying = Carrying {
            way: (self.node, bulk.to),
            network: self.network.clone(),
            cancelled: cancelled.clone(),
            fault: self
                .network
                .fault
                .lock()
                .expect("nothing panics while it holds it")
                .take(),
        };
        std::thread::spawn(move || carrying.run(&*sink, bulk));
        BulkHandle::new(move || cancelled.store(true, Ordering::SeqCst))
    }
}

/// One bulk stream on its way.
struct Carrying {
    way: (NodeId, NodeId),
    network: MemNetwork,
    cancelled: Arc<AtomicBool>,
    fault: Option<BulkFault>,
}

impl Carrying {
    fn run(self, sink: &dyn BulkSink, bulk: Bulk) {
        let Bulk { header, source, .. } = bulk;
        let mut source = source;
        let outcome = match sink.begin(self.way.0, header) {
            Err(words) => BulkOutcome::Refused(words),
            Ok(receiver) => self.carry(&mut *source, receiver).unwrap_or_else(|ended| ended),
        };
        source.ended(outcome);
    }

    /// The receiver is dropped by the first error.
    fn carry(
        &self,
        source: &mut dyn BulkSource,
        mut receiver: Box<dyn BulkReceiver>,
    ) -> Result<BulkOutcome, BulkOutcome> {
        let mut carried = 0;
        while let Some(piece) = source.next().map_err(BulkOutcome::Cancelled)? {
            if piece.is_empty() || piece.len() > BULK_PIECE_BYTES_MAX {
                return Err(BulkOutcome::Cancelled("a piece out of bounds".to_owned()));
            }
            carried += piece.len();
            self.check(carried)?;
            receiver.piece(piece).map_err(BulkOutcome::Refused)?;
        }
        self.check(carried)?;
        let answer = receiver.finish().map_err(BulkOutcome::Refused)?;
        match self.fault {
            Some(BulkFault::AnswerLost) => Err(BulkOutcome::Lost("the answer was lost".to_owned())),
            _ => Ok(BulkOutcome::Taken(answer)),
        }
    }

    fn check(&self, carried: usize) -> Result<(), BulkOutcome> {
        let lost = matches!(self.fault, Some(BulkFault::LostAfter(bytes)) if carried > bytes);
        if self.cancelled.load(Ordering::SeqCst) {
            Err(BulkOutcome::Cancelled("cancelled by the sender".to_owned()))
        } else if lost || self.network.is_cut(self.way) {
            Err(BulkOutcome::Lost("the way was lost".to_owned()))
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for MemNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemNetwork").finish_non_exhaustive()
    }
}
