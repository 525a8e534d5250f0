//! One worker's handle to the log: the `RaftStorage` that its turns write to.

use crate::engine::{Engine, lock};
use crate::stream::Reader;
use multiraft::{
    CutId, FetchRequest, GroupId, GroupRow, Index, LogBatch, RaftStorage, ReplicaId, Room, SnapshotReader,
};
use std::sync::Arc;

/// One worker's log. Everything it is told is queued for the store's threads. A submit after the store began to stop
/// is dropped and never acknowledged.
#[derive(Debug)]
pub struct WorkerStorage {
    engine: Arc<Engine>,
    worker: usize,
}

impl WorkerStorage {
    pub(crate) fn new(engine: Arc<Engine>, worker: usize) -> WorkerStorage {
        WorkerStorage { engine, worker }
    }
}

impl RaftStorage for WorkerStorage {
    fn submit(&mut self, batch: LogBatch) {
        self.engine.submit(self.worker, batch);
    }

    fn fetch(&mut self, request: FetchRequest) {
        self.engine.fetch(self.worker, request);
    }

    /// Never beyond what a checkpoint holds.
    fn truncate(&mut self, group: GroupId, index: Index) {
        if let Some(log) = lock(&self.engine.index).groups.get_mut(&group) {
            log.truncate(index);
        }
    }

    fn want_checkpoint(&mut self) {
        self.engine.want_cut();
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        self.engine.cut_wanted(self.worker)
    }

    fn freeze(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        self.engine.freeze(self.worker, cut, rows);
    }

    fn room(&self) -> Room {
        self.engine.room()
    }

    fn may_bear(&self, group: GroupId, replica: ReplicaId) -> bool {
        !lock(&self.engine.index).lives.is_forbidden(group, replica)
    }

    fn snapshot(&mut self, group: GroupId) -> Box<dyn SnapshotReader> {
        Box::new(Reader::new(Arc::clone(&self.engine), group))
    }

    fn is_settled(&self, group: GroupId) -> bool {
        lock(&self.engine.index).is_settled(group)
    }

    fn write_here(&mut self) {
        self.engine.commit_here();
    }
}
