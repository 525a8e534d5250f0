//! Snapshots on their way into a node: the receiving end of their streams. It asks the group's worker before it takes
//! bytes, has the store stage them, and hands the whole to the worker; the sender hears when it is installed. Runs on
//! the network's threads, and blocks them.

use crate::bulk::{BulkReceiver, BulkSink};
use crate::event::Event;
use crate::inbox::InboxSender;
use crate::limits::{SNAPSHOT_ANSWER_TIMEOUT, SNAPSHOTS_IN_MAX};
use crate::snapshot::{
    Address, Arrival, Offer, SnapshotEvent, SnapshotHead, SnapshotStaging, SnapshotWriter, Verdict,
};
use crate::types::{GroupId, Index, NodeId};
use crate::wire;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Finds the inbox of the worker that owns a group.
pub type Way = Arc<dyn Fn(GroupId) -> InboxSender + Send + Sync>;

/// Takes the snapshots that other nodes send to the groups of this one.
pub struct Snapshots {
    staging: Arc<dyn SnapshotStaging>,
    way: Way,
    /// One clone per snapshot under way.
    places: Arc<()>,
}

impl Snapshots {
    /// They are staged by `staging` and handed to the workers at the end of `way`.
    pub fn new(staging: Arc<dyn SnapshotStaging>, way: Way) -> Snapshots {
        Snapshots {
            staging,
            way,
            places: Arc::new(()),
        }
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots({} under way)", Arc::strong_count(&self.places) - 1)
    }
}

impl BulkSink for Snapshots {
    fn begin(&self, from: NodeId, header: Bytes) -> Result<Box<dyn BulkReceiver>, String> {
        let address = wire::decode_address(&header).map_err(|error| error.to_string())?;
        let place = Arc::clone(&self.places);
        if Arc::strong_count(&place) > SNAPSHOTS_IN_MAX + 1 {
            return Err("too many snapshots are being taken".to_owned());
        }
        Ok(Box::new(Incoming {
            node: from,
            address,
            worker: (self.way)(address.group),
            staging: Arc::clone(&self.staging),
            stage: Stage::Head,
            _place: place,
        }))
    }
}

/// One snapshot that is being taken.
struct Incoming {
    node: NodeId,
    address: Address,
    worker: InboxSender,
    staging: Arc<dyn SnapshotStaging>,
    stage: Stage,
    _place: Arc<()>,
}

enum Stage {
    /// The head is still to come.
    Head,
    /// It is news: rows come.
    Body(SnapshotHead, Box<dyn SnapshotWriter>),
}

impl Incoming {
    /// Asks the worker whether it wants what this head speaks of.
    fn offer(&self, head: &SnapshotHead) -> Result<(), String> {
        let (reply, answer) = sync_channel(1);
        self.worker.push(Event::Snapshot(SnapshotEvent::Offered(Offer {
            node: self.node,
            address: self.address,
            snapshot: head.snapshot,
            reply,
        })));
        await_verdict(&answer).map(|_| ())
    }
}

impl BulkReceiver for Incoming {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        if let Stage::Body(_, writer) = &mut self.stage {
            return writer.piece(piece);
        }
        let head = wire::decode_head(&piece).map_err(|error| error.to_string())?;
        if head.snapshot.term > self.address.term {
            return Err(format!("{} is of a later term than its leader", head.snapshot));
        }
        self.offer(&head)?;
        let writer = self.staging.stage()?;
        self.stage = Stage::Body(head, writer);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Bytes, String> {
        let Stage::Body(head, writer) = self.stage else {
            return Err("a snapshot without a head".to_owned());
        };
        let staged = writer.finish()?;
        let (reply, answer) = sync_channel(1);
        self.worker.push(Event::Snapshot(SnapshotEvent::Arrived(Arrival {
            node: self.node,
            address: self.address,
            head,
            staged,
            reply,
        })));
        await_verdict(&answer).map(wire::encode_position)
    }
}

fn await_verdict(answer: &Receiver<Verdict>) -> Result<Index, String> {
    let verdict = answer.recv_timeout(SNAPSHOT_ANSWER_TIMEOUT);
    verdict.unwrap_or_else(|_| Err("the group's worker gives no answer".to_owned()))
}
