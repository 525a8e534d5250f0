//! What a node puts around its workers: the follower of writes looks over the log's shoulder, and the board listens.

use super::board::Board;
use crate::stages::Follower;
use multiraft::host::{Intake, Observer};
use multiraft::{
    Completion, CompletionSink, Counters, CutId, FetchRequest, GroupId, GroupRow, Index, Lane, LogBatch,
    NodeId, RaftStorage, ReplicaId, Room, SnapshotReader, Turn,
};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use store_redb::WorkerStorage;
use transport_quic::FrameSink;

/// Milliseconds since 1970; 0 before.
pub(super) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).expect("millions of years from now")
}

/// A worker's log, which tells the follower of writes what passes by.
pub(super) struct FollowedStorage {
    pub(super) log: WorkerStorage,
    pub(super) follower: Arc<Follower>,
}

impl RaftStorage for FollowedStorage {
    fn submit(&mut self, batch: LogBatch) {
        self.follower.handed(batch.id, &batch.writes);
        self.log.submit(batch);
    }

    fn fetch(&mut self, request: FetchRequest) {
        self.log.fetch(request);
    }

    fn truncate(&mut self, group: GroupId, index: Index) {
        self.log.truncate(group, index);
    }

    fn want_checkpoint(&mut self) {
        self.log.want_checkpoint();
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        self.log.cut_wanted()
    }

    fn freeze(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        self.log.freeze(cut, rows);
    }

    fn room(&self) -> Room {
        self.log.room()
    }

    fn may_bear(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.log.may_bear(group, replica)
    }

    fn snapshot(&mut self, group: GroupId) -> Box<dyn SnapshotReader> {
        self.log.snapshot(group)
    }

    fn is_settled(&self, group: GroupId) -> bool {
        self.log.is_settled(group)
    }

    fn write_here(&mut self) {
        self.log.write_here();
    }
}

/// Where one worker's completions go, past the follower of writes.
pub(super) struct FollowedSink {
    pub(super) sink: Arc<dyn CompletionSink>,
    pub(super) follower: Arc<Follower>,
}

impl CompletionSink for FollowedSink {
    fn complete(&self, completion: Completion) {
        if let Completion::Durable { batch, .. } = &completion {
            self.follower.durable(*batch);
        }
        self.sink.complete(completion);
    }
}

/// Where frames go.
pub(super) struct Frames(pub(super) Intake);

impl FrameSink for Frames {
    fn deliver(&self, from: NodeId, frame: bytes::Bytes) {
        if let Err(error) = self.0.deliver(from, &frame) {
            tracing::warn!(from = from.0, %error, "dropped a frame that does not decode");
        }
    }

    fn lane_full(&self, peer: NodeId, lane: Lane) {
        if lane == Lane::Entries {
            self.0.unreachable(peer);
        }
    }
}

impl Observer for Board {
    fn on_turn(&self, worker: usize, turn: &Turn, counters: &Counters) {
        self.note(worker, turn, counters);
    }
}
