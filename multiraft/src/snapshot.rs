//! The contract of snapshots between a worker, its store and the bulk streams: who reads one, who stages one, what its
//! stream says first. What the pieces behind that are is known to the store's two ends only.
//!
//! ```text
//!   sender                                                   receiver
//!   raft-core orders ->  RaftStorage::snapshot               SnapshotStaging::stage
//!                          SnapshotReader::open  -- head -->  worker: is it news? (Event::Snapshot, offered)
//!                          SnapshotReader::next  - pieces ->  SnapshotWriter::piece
//!                                                             SnapshotWriter::finish: staged, durable
//!                                                             worker: Install in its next batch (arrived)
//!   raft-core hears  <-- BulkSource::ended  <--- position --  Completion::Installed
//! ```

use crate::bulk::BULK_PIECE_BYTES_MAX;
use crate::storage::StagingId;
use crate::types::{EntryId, GroupId, Index, Life, Membership, NodeId, ReplicaId, Term};
use bytes::Bytes;
use raft_core::{OrderId, SnapshotOutcome};
use std::fmt;
use std::sync::mpsc::SyncSender;

/// Most bytes of a snapshot's head: one piece.
pub const HEAD_BYTES_MAX: usize = BULK_PIECE_BYTES_MAX;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The last entry that it reflects.
    pub snapshot: EntryId,
    /// The membership as of `snapshot`.
    pub membership: Membership,
    /// As of `snapshot`; opaque here.
    pub descriptor: Bytes,
}

/// Reads a group's state from a store while writes go on. Used on a thread of the network's, which it may block.
pub trait SnapshotReader: Send {
    /// Begins to read. An error: not now, for this reason.
    fn open(&mut self) -> Result<SnapshotHead, String>;

    /// The next piece, as [`BulkSource::next`](crate::bulk::BulkSource::next).
    fn next(&mut self) -> Result<Option<Bytes>, String>;
}

/// A store's way in for snapshots. Shared by all workers of a node.
pub trait SnapshotStaging: Send + Sync {
    /// Begins to stage a snapshot that nobody sees yet. An error: not now, for this reason. Must not block.
    fn stage(&self) -> Result<Box<dyn SnapshotWriter>, String>;
}

/// A snapshot that is being staged. Dropped: forgotten. Used on a thread of the network's, which it may block.
pub trait SnapshotWriter: Send {
    /// The next piece, as some [`SnapshotReader`] gave it. An error: it can not be one.
    fn piece(&mut self, piece: Bytes) -> Result<(), String>;

    /// That was all of it. Returns when it is durable.
    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, String>;
}

/// A staged snapshot, complete and durable. Dropped: forgotten.
pub trait Staged: Send + fmt::Debug {
    /// Its name, for one [`Install`](crate::Install).
    fn hand_over(self: Box<Self>) -> StagingId;
}

/// Refuses to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoReader;

impl SnapshotReader for NoReader {
    fn open(&mut self) -> Result<SnapshotHead, String> {
        Err("this store reads no snapshots".to_owned())
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        Ok(None)
    }
}

/// The header of a snapshot's stream: who sends it to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) group: GroupId,
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    /// The sender leads in it.
    pub(crate) term: Term,
}

/// What happened to a snapshot, on this node or on its way from it.
#[derive(Debug)]
pub enum SnapshotEvent {
    /// A stream that this worker began has ended.
    Sent(Sent),
    /// A node offers a snapshot; its bytes are still there.
    Offered(Offer),
    /// A snapshot is staged here, durably.
    Arrived(Arrival),
}

/// How a stream ended.
#[derive(Debug)]
pub struct Sent {
    pub(crate) group: GroupId,
    pub(crate) life: Life,
    pub(crate) peer: ReplicaId,
    pub(crate) order: OrderId,
    pub(crate) outcome: SnapshotOutcome,
    /// Why, in words, when it failed.
    pub(crate) words: String,
}

/// Asks whether a snapshot is news.
#[derive(Debug)]
pub struct Offer {
    pub(crate) node: NodeId,
    pub(crate) address: Address,
    pub(crate) snapshot: EntryId,
    pub(crate) reply: Reply,
}

/// A snapshot to be installed.
#[derive(Debug)]
pub struct Arrival {
    pub(crate) node: NodeId,
    pub(crate) address: Address,
    pub(crate) head: SnapshotHead,
    pub(crate) staged: Box<dyn Staged>,
    pub(crate) reply: Reply,
}

/// Where the receiving end of a stream waits for the worker's word. Dropped: it will not come.
pub(crate) type Reply = SyncSender<Verdict>;

/// A worker's word on a snapshot: to an offer, that it is welcome (the index says nothing); to an arrival, how far this
/// replica reflects the log now, durably. Or why not.
pub(crate) type Verdict = Result<Index, String>;
