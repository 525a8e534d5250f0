//! The applied state of one worker's groups: memtables over redb. One per worker, used by its state machine.

use bytes::Bytes;
use multiraft::{CutId, EntryId, GroupId};
use std::ops::ControlFlow;

/// The applied state of one worker's groups, ordered bytes to bytes within each group.
#[derive(Debug)]
pub struct WorkerState {}

#[allow(unused_variables)]
impl WorkerState {
    /// The value of a key.
    pub fn get(&self, group: GroupId, key: &[u8]) -> Option<Bytes> {
        unimplemented!()
    }

    /// Sets a key. `value` is kept as it is until a checkpoint: a slice of a larger buffer pins that buffer.
    pub fn put(&mut self, group: GroupId, key: &[u8], value: Bytes) {
        unimplemented!()
    }

    /// Removes a key, present or not.
    pub fn delete(&mut self, group: GroupId, key: &[u8]) {
        unimplemented!()
    }

    /// Visits keys in `[start, end)` (`None`: to the end) in byte order until the visitor breaks.
    /// The visitor must not call back into this state.
    pub fn scan(
        &self,
        group: GroupId,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        unimplemented!()
    }

    /// Tells that everything up to and including this entry is reflected in this state. Call it at the end of every
    /// `StateMachine::apply`: a clean stop writes the state out together with this position.
    pub fn mark_applied(&mut self, group: GroupId, applied: EntryId) {
        unimplemented!()
    }

    /// Freezes the memtables: writes from now on belong to the next cut. Call it from `StateMachine::freeze`.
    pub fn freeze(&mut self, cut: CutId) {
        unimplemented!()
    }
}
