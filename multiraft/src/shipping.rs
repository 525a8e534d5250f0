//! Snapshots on their way out of one worker: which are ordered, which are being sent, and that no more are than may be.
//! The stream's source runs on the network's threads and comes back as an event.

use crate::bulk::{Bulk, BulkHandle, BulkOutcome, BulkSource};
use crate::event::Event;
use crate::inbox::InboxSender;
use crate::network::RaftNetwork;
use crate::snapshot::{Address, Sent, SnapshotEvent, SnapshotReader};
use crate::storage::RaftStorage;
use crate::types::{GroupId, Index, Life, NodeId};
use crate::wire;
use bytes::Bytes;
use raft_core::{OrderId, SnapshotOutcome};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The order of one replica; ids are its own.
type Key = (GroupId, Life, OrderId);

/// An order of raft-core's, with all that it takes to carry it out.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) address: Address,
    pub(crate) life: Life,
    pub(crate) node: NodeId,
    pub(crate) id: OrderId,
    pub(crate) at_least: Index,
}

impl Order {
    fn key(&self) -> Key {
        (self.address.group, self.life, self.id)
    }
}

/// One worker's snapshots on their way out.
#[derive(Debug)]
pub(crate) struct Shipping {
    /// The worker's own inbox. Without it nothing can be sent, for nobody would hear of the end.
    back: Option<InboxSender>,
    waiting: VecDeque<Order>,
    sending: BTreeMap<Key, Sending>,
    most: usize,
}

#[derive(Debug)]
struct Sending {
    handle: BulkHandle,
    /// Every byte has left: to stop it now would only hide how it ended.
    is_out: Arc<AtomicBool>,
}

impl Shipping {
    /// At most `most` at a time.
    pub(crate) fn new(most: usize) -> Shipping {
        Shipping {
            back: None,
            waiting: VecDeque::new(),
            sending: BTreeMap::new(),
            most,
        }
    }

    pub(crate) fn connect(&mut self, back: InboxSender) {
        self.back = Some(back);
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.waiting.push_back(order);
    }

    /// Gives an order up. What is on its way comes back as ended; what still waits does not.
    pub(crate) fn cancel(&mut self, group: GroupId, life: Life, id: OrderId) {
        let key = (group, life, id);
        self.waiting.retain(|order| order.key() != key);
        if let Some(sending) = self.sending.get(&key)
            && !sending.is_out.load(Ordering::Relaxed)
        {
            sending.handle.cancel();
        }
    }

    /// A stream has ended: its place is free.
    pub(crate) fn ended(&mut self, sent: &Sent) {
        self.sending.remove(&(sent.group, sent.life, sent.order));
    }

    /// How many are being sent, and how many wait.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.sending.len(), self.waiting.len())
    }

    /// Begins as many as may be sent.
    pub(crate) fn start(&mut self, storage: &mut impl RaftStorage, network: &impl RaftNetwork) {
        let Some(back) = &self.back else { return };
        while self.sending.len() < self.most
            && let Some(order) = self.waiting.pop_front()
        {
            let is_out = Arc::new(AtomicBool::new(false));
            let key = order.key();
            let source = Source {
                reader: storage.snapshot(order.address.group),
                is_open: false,
                is_out: Arc::clone(&is_out),
                back: back.clone(),
                order,
            };
            let handle = network.send_bulk(Bulk {
                to: source.order.node,
                header: wire::encode_address(&source.order.address),
                source: Box::new(source),
            });
            self.sending.insert(key, Sending { handle, is_out });
        }
    }
}

/// One stream's bytes: the head, then what the store's reader gives.
struct Source {
    reader: Box<dyn SnapshotReader>,
    is_open: bool,
    is_out: Arc<AtomicBool>,
    back: InboxSender,
    order: Order,
}

impl BulkSource for Source {
    fn next(&mut self) -> Result<Option<Bytes>, String> {
        if !self.is_open {
            self.is_open = true;
            let head = self.reader.open()?;
            if head.snapshot.index < self.order.at_least {
                return Err(format!("the state reflects {} only", head.snapshot));
            }
            return wire::encode_head(&head).map(Some);
        }
        let piece = self.reader.next()?;
        self.is_out.store(piece.is_none(), Ordering::Relaxed);
        Ok(piece)
    }

    fn ended(self: Box<Self>, outcome: BulkOutcome) {
        let (outcome, words) = match outcome {
            BulkOutcome::Taken(answer) => match wire::decode_position(&answer) {
                Some(index) => (SnapshotOutcome::Taken(index), String::new()),
                None => (SnapshotOutcome::Failed, "an answer without a position".to_owned()),
            },
            BulkOutcome::Refused(words) => (SnapshotOutcome::Failed, format!("refused: {words}")),
            BulkOutcome::Cancelled(words) => (SnapshotOutcome::Failed, format!("cancelled: {words}")),
            BulkOutcome::NotSent(words) => (SnapshotOutcome::Failed, format!("not sent: {words}")),
            BulkOutcome::Lost(words) => (SnapshotOutcome::Failed, format!("lost: {words}")),
        };
        self.back.push(Event::Snapshot(SnapshotEvent::Sent(Sent {
            group: self.order.address.group,
            life: self.order.life,
            peer: self.order.address.to,
            order: self.order.id,
            outcome,
            words,
        })));
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot {:?}", self.order)
    }
}
