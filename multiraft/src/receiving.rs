//! Snapshots on their way into a node: the receiving end of their streams. It asks the group's worker before it takes
//! bytes, has the store stage them, and hands the whole to the worker; the sender hears when it is installed.
//! [`Snapshots`] runs on the network's threads, and blocks them; [`Incoming`] is the same step by step, and never waits.

use crate::bulk::{BulkReceiver, BulkSink};
use crate::event::Event;
use crate::inbox::InboxSender;
use crate::limits::{SNAPSHOT_ANSWER_TIMEOUT, SNAPSHOTS_IN_MAX};
use crate::snapshot::{
    Address, Arrival, Offer, SnapshotEvent, SnapshotHead, SnapshotStaging, SnapshotWriter, Verdict,
};
use crate::types::{GroupId, NodeId};
use crate::wire;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

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
        Ok(Box::new(self.admit(from, &header)?))
    }
}

impl Snapshots {
    /// A stream begins whose owner waits for nothing: it asks [`Question::poll`] when it likes. An error refuses the
    /// stream.
    pub fn admit(&self, from: NodeId, header: &Bytes) -> Result<Incoming, String> {
        let address = wire::decode_address(header).map_err(|error| error.to_string())?;
        let place = Arc::clone(&self.places);
        if Arc::strong_count(&place) > SNAPSHOTS_IN_MAX + 1 {
            return Err("too many snapshots are being taken".to_owned());
        }
        Ok(Incoming {
            node: from,
            address,
            worker: (self.way)(address.group),
            staging: Arc::clone(&self.staging),
            stage: Stage::Head,
            _place: place,
        })
    }
}

/// One snapshot that is being taken: its first piece becomes a question to the worker; once that is answered well,
/// [`Incoming::welcome`], the other pieces, and [`Incoming::arrive`], which is a question again. Dropped: forgotten.
pub struct Incoming {
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
    /// The worker was asked.
    Asked(SnapshotHead),
    /// It is news: rows come.
    Body(SnapshotHead, Box<dyn SnapshotWriter>),
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a snapshot for {} from {}", self.address.group, self.node)
    }
}

/// What the group's worker was asked about a snapshot, and will answer in a turn.
#[derive(Debug)]
pub struct Question(Receiver<Verdict>);

impl Question {
    /// The worker's answer, which is what the sender hears of an arrival; an error refuses the stream. None: not yet.
    pub fn poll(&self) -> Option<Result<Bytes, String>> {
        match self.0.try_recv() {
            Ok(verdict) => Some(verdict.map(wire::encode_position)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(NO_ANSWER.to_owned())),
        }
    }

    fn wait(&self) -> Result<Bytes, String> {
        let verdict = self.0.recv_timeout(SNAPSHOT_ANSWER_TIMEOUT);
        let verdict = verdict.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()));
        verdict.map(wire::encode_position)
    }
}

const NO_ANSWER: &str = "the group's worker gives no answer";

impl Incoming {
    /// The next piece. After the first there is a question, and no more pieces are taken before
    /// [`Incoming::welcome`]. An error refuses the stream.
    pub fn take(&mut self, piece: Bytes) -> Result<Option<Question>, String> {
        match &mut self.stage {
            Stage::Body(_, writer) => writer.piece(piece).map(|()| None),
            Stage::Asked(_) => Err("a piece before the answer".to_owned()),
            Stage::Head => {
                let head = wire::decode_head(&piece).map_err(|error| error.to_string())?;
                if head.snapshot.term > self.address.term {
                    return Err(format!("{} is of a later term than its leader", head.snapshot));
                }
                let question = self.offer(&head);
                self.stage = Stage::Asked(head);
                Ok(Some(question))
            }
        }
    }

    /// The worker wants it: the store makes room. An error refuses the stream.
    pub fn welcome(&mut self) -> Result<(), String> {
        let writer = self.staging.stage()?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Asked(head) => Stage::Body(head, writer),
            Stage::Head | Stage::Body(..) => return Err("nobody was asked".to_owned()),
        };
        Ok(())
    }

    /// All pieces have come: they are staged, durably, and the worker is told. An error refuses the whole.
    pub fn arrive(self) -> Result<Question, String> {
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
        Ok(Question(answer))
    }

    /// Asks the worker whether it wants what this head speaks of.
    fn offer(&self, head: &SnapshotHead) -> Question {
        let (reply, answer) = sync_channel(1);
        self.worker.push(Event::Snapshot(SnapshotEvent::Offered(Offer {
            node: self.node,
            address: self.address,
            snapshot: head.snapshot,
            reply,
        })));
        Question(answer)
    }
}

impl BulkReceiver for Incoming {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        let Some(question) = self.take(piece)? else {
            return Ok(());
        };
        question.wait()?;
        self.welcome()
    }

    fn finish(self: Box<Self>) -> Result<Bytes, String> {
        self.arrive()?.wait()
    }
}
