//! One worker's handle to the log: the `RaftStorage` that its turns write to.

use multiraft::{CutId, FetchRequest, GroupId, GroupRow, Index, LogBatch, RaftStorage};

/// One worker's log. Everything it is told is queued for the store's threads.
#[derive(Debug)]
pub struct WorkerStorage {}

#[allow(unused_variables)]
impl RaftStorage for WorkerStorage {
    fn submit(&mut self, batch: LogBatch) {
        unimplemented!()
    }

    fn fetch(&mut self, request: FetchRequest) {
        unimplemented!()
    }

    fn truncate(&mut self, group: GroupId, index: Index) {
        unimplemented!()
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        unimplemented!()
    }

    fn freeze(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        unimplemented!()
    }

    fn is_full(&self) -> bool {
        unimplemented!()
    }
}
