//! The in-memory parts pass the suites.

use super::*;
use crate::bulk::{Bulk, BulkOutcome, BulkSink};
use crate::network::RaftNetwork;
use crate::storage::{
    Completion, CompletionSink, CutId, GroupRow, LogBatch, RaftStorage, RestoredGroup, StagingId,
};
use crate::types::{GroupId, NodeId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Collected {
    completions: Mutex<VecDeque<Completion>>,
}

impl CompletionSink for Collected {
    fn complete(&self, completion: Completion) {
        self.completions.lock().unwrap().push_back(completion);
    }
}

struct DiskHarness {
    disk: MemDisk,
    collected: Arc<Collected>,
}

impl StorageHarness for DiskHarness {
    type Storage = MemStorage;

    fn open(&mut self) -> (MemStorage, Vec<RestoredGroup>) {
        let restored = self.disk.restore();
        self.disk
            .start(vec![Arc::clone(&self.collected) as Arc<dyn CompletionSink>]);
        (self.disk.storage(0), restored)
    }

    fn completion(&mut self) -> Completion {
        while self.collected.completions.lock().unwrap().is_empty() {
            assert!(
                self.disk.sync_one() || self.disk.commit_checkpoint(),
                "nothing is under way"
            );
        }
        self.collected.completions.lock().unwrap().pop_front().unwrap()
    }

    fn crash(&mut self, _storage: MemStorage) {
        self.disk.crash();
        self.collected.completions.lock().unwrap().clear();
    }

    fn want_checkpoint(&mut self) {
        assert!(self.disk.want_checkpoint());
    }

    fn stage(&mut self) -> StagingId {
        self.disk.stage_snapshot(Bytes::new())
    }

    fn split_state(&mut self, _parent: GroupId, _child: GroupId, _start: &[u8]) {}

    fn freeze_state(&mut self, _cut: CutId) {}
}

#[test]
fn the_disk_passes_with_explicit_syncs() {
    storage_suite(|| DiskHarness {
        disk: MemDisk::new(SyncMode::Explicit),
        collected: Arc::default(),
    });
}

#[test]
fn the_disk_passes_when_it_syncs_at_once() {
    storage_suite(|| DiskHarness {
        disk: MemDisk::new(SyncMode::AtOnce),
        collected: Arc::default(),
    });
}

type Arrived = Arc<Mutex<VecDeque<(NodeId, Bytes)>>>;

struct LinkHarness {
    links: [(NodeId, MemLink); 2],
    arrived: [Arrived; 2],
}

impl LinkHarness {
    fn new() -> LinkHarness {
        let network = MemNetwork::new();
        let nodes = [NodeId(1), NodeId(2)];
        let arrived = [Arrived::default(), Arrived::default()];
        for (node, arrived) in nodes.into_iter().zip(&arrived) {
            let arrived = Arc::clone(arrived);
            let receive = move |from, bytes| arrived.lock().unwrap().push_back((from, bytes));
            network.listen(node, Arc::new(receive));
        }
        LinkHarness {
            links: nodes.map(|node| (node, network.link(node))),
            arrived,
        }
    }
}

impl NetworkHarness for LinkHarness {
    type Network = MemLink;

    fn ends(&self) -> [(NodeId, &MemLink); 2] {
        let [(one, first), (two, second)] = &self.links;
        [(*one, first), (*two, second)]
    }

    fn receive(&mut self, node: NodeId) -> Option<(NodeId, Bytes)> {
        let index = usize::from(node == NodeId(2));
        self.arrived[index].lock().unwrap().pop_front()
    }

    fn take_bulk(&mut self, node: NodeId, sink: Arc<dyn BulkSink>) {
        self.links[0].1.network().take_bulk(node, sink);
    }
}

#[test]
fn the_network_passes() {
    network_suite(LinkHarness::new);
}

#[test]
fn the_network_passes_with_bulk_streams() {
    bulk_suite(LinkHarness::new);
}

#[test]
fn a_broken_bulk_stream_is_never_finished_and_a_lost_answer_is_no_refusal() {
    for (fault, expected) in [
        (BulkFault::LostAfter(5000), BulkSeen::Dropped(5000)),
        (BulkFault::AnswerLost, BulkSeen::Finished(vec![7; 10_000])),
    ] {
        let harness = LinkHarness::new();
        let (recorder, seen) = BulkRecorder::new();
        let one = &harness.links[0].1;
        one.network().take_bulk(NodeId(2), Arc::new(recorder));
        one.network().break_bulk(fault);
        let (source, watch) = BulkRun::new(Bytes::from(vec![7; 10_000]), 1000, false);
        let (to, header) = (NodeId(2), Bytes::new());
        one.send_bulk(Bulk { to, header, source });
        let outcome = watch.outcome();
        assert!(matches!(outcome, BulkOutcome::Lost(_)), "{outcome:?}");
        let met: Vec<BulkSeen> = seen.try_iter().skip(1).collect();
        assert_eq!(met, [expected], "{fault:?}");
    }
}

#[test]
fn a_cut_link_carries_nothing_one_way() {
    let mut harness = LinkHarness::new();
    let network = harness.links[0].1.network().clone();
    network.set_cut(NodeId(1), NodeId(2), true);
    for (from, to) in [(0, NodeId(2)), (1, NodeId(1))] {
        let outgoing = crate::Outgoing {
            to,
            lane: crate::Lane::Control,
            frame: crate::Frame {
                chunks: vec![Bytes::from_static(b"x")],
            },
        };
        harness.links[from].1.send(outgoing);
    }
    assert_eq!(harness.receive(NodeId(2)), None);
    assert_eq!(
        harness.receive(NodeId(1)),
        Some((NodeId(2), Bytes::from_static(b"x")))
    );
}

struct TallyHarness {
    disk: MemDisk,
    storage: MemStorage,
}

impl TallyHarness {
    fn new() -> TallyHarness {
        let disk = MemDisk::new(SyncMode::Explicit);
        let storage = disk.storage(0);
        TallyHarness { disk, storage }
    }
}

impl MachineHarness for TallyHarness {
    type Machine = Tally;

    fn start(&mut self) -> (Tally, Vec<RestoredGroup>) {
        let restored = self.disk.restore();
        self.disk.start(vec![Arc::<Collected>::default()]);
        (Tally::new(self.disk.clone()), restored)
    }

    fn submit(&mut self, batch: LogBatch) {
        self.storage.submit(batch);
        self.disk.sync();
    }

    fn descriptor(&self, _group: GroupId) -> Bytes {
        Bytes::new()
    }

    fn command(&self, number: u64) -> Bytes {
        Tally::add(number)
    }

    fn queries(&self) -> Vec<Bytes> {
        vec![Bytes::new(), Bytes::from_static(b"clock")]
    }

    fn cut(&mut self) -> CutId {
        assert!(self.disk.want_checkpoint());
        self.storage.cut_wanted().unwrap()
    }

    fn keep(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        self.storage.freeze(cut, rows);
        assert!(self.disk.commit_checkpoint());
    }

    fn crash(&mut self, _machine: Tally) {
        self.disk.crash();
    }
}

#[test]
fn the_tally_passes() {
    machine_suite(TallyHarness::new);
}
