//! multiraft's suite against the real store: real files, real threads.

use super::world::{IDENTITY, Sink, options};
use crate::{Store, WorkerState, WorkerStorage};
use multiraft::testing::{StorageHarness, storage_suite};
use multiraft::{Completion, CutId, GroupId, ReplicaId, RestoredGroup, StagingId};
use std::sync::Arc;
use std::time::Duration;

struct Real {
    directory: tempfile::TempDir,
    open: Option<(Store, WorkerState, Arc<Sink>)>,
}

impl StorageHarness for Real {
    type Storage = WorkerStorage;

    fn open(&mut self) -> (WorkerStorage, Vec<RestoredGroup>) {
        let path = self.directory.path().join("node");
        let mut options = options(1);
        options.ring_bytes = 16 << 20;
        options.segment_bytes = 8 << 20;
        let opened = Store::open(&path, IDENTITY, options).unwrap();
        let sink = Arc::new(Sink::default());
        opened.store.start(vec![Arc::clone(&sink) as _]);
        let storage = opened.store.storage(0);
        let state = opened.store.state(0);
        self.open = Some((opened.store, state, sink));
        (storage, opened.groups)
    }

    fn completion(&mut self) -> Completion {
        let (_, _, sink) = self.open.as_ref().expect("open");
        sink.wait(Duration::from_secs(20))
    }

    fn crash(&mut self, storage: WorkerStorage) {
        drop(storage);
        self.open = None;
    }

    fn want_checkpoint(&mut self) {
        self.open.as_ref().expect("open").0.want_checkpoint();
    }

    fn stage(&mut self) -> StagingId {
        let mut staging = self
            .open
            .as_ref()
            .expect("open")
            .0
            .stage()
            .expect("few at a time");
        staging.offer(Vec::new()).expect("nothing waits");
        assert!(staging.wait_until_durable());
        staging.hand_over()
    }

    fn split_state(&mut self, parent: GroupId, child: GroupId, start: &[u8]) {
        let state = &mut self.open.as_mut().expect("open").1;
        state.split(parent, (child, ReplicaId(child.0 * 10)), start, None);
    }

    fn freeze_state(&mut self, cut: CutId) {
        self.open.as_mut().expect("open").1.freeze(cut);
    }
}

#[test]
fn the_store_passes_the_storage_suite() {
    storage_suite(|| Real {
        directory: tempfile::tempdir().unwrap(),
        open: None,
    });
}
