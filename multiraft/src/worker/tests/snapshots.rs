//! Snapshots between workers: ordered when the log is cut, streamed on threads of the network's, installed by a batch.

use super::*;
use crate::bulk::{BulkOutcome, BulkSink};
use crate::receiving::Snapshots;
use crate::shipping::Order;
use crate::snapshot::SnapshotStaging;
use std::thread::JoinHandle;

/// What becomes of the bytes on their way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrive,
    LoseTheRest,
}

fn cutting(kept_bytes_max: u64) -> WorkerOptions {
    let mut options = WorkerOptions::default();
    options.replica.kept_bytes_max = kept_bytes_max;
    options
}

impl Trio {
    /// Node 0 leads, node 2 misses writes to all groups, and nobody has the log of them any more.
    fn with_one_left_behind(groups: u64) -> Trio {
        let mut trio = Trio::with_options(groups, cutting(0));
        trio.lead(0, groups);
        trio.cut_off.push(2);
        for group in 1..=groups {
            for number in 1..=20 {
                trio.propose(0, GroupId(group), Tally::add(number));
            }
        }
        trio.pass(Duration::from_millis(400));
        trio.checkpoint(0);
        trio.checkpoint(1);
        trio.cut_off.clear();
        assert!(trio.status(0, GROUP).truncated > trio.status(2, GROUP).last.index);
        trio
    }

    fn checkpoint(&mut self, node: usize) {
        assert!(self.nodes[node].disk.want_checkpoint());
        self.turn(node);
        assert!(self.nodes[node].disk.commit_checkpoint());
        self.settle();
    }

    /// Streams that a node began and nobody carries yet.
    fn bulks(&self, node: usize) -> usize {
        self.nodes[node].wire.bulks.lock().unwrap().len()
    }

    /// Carries a node's oldest stream on a thread.
    fn carry(&mut self, node: usize, fate: Fate) -> JoinHandle<()> {
        let bulk = self.nodes[node].wire.bulks.lock().unwrap().remove(0);
        let to = &self.nodes[bulk.to.0 as usize - 1];
        let sender = to.sender.clone();
        let staging: Arc<dyn SnapshotStaging> = Arc::new(to.disk.clone());
        let sink = Snapshots::new(staging, Arc::new(move |_| sender.clone()));
        let from = NodeId(node as u64 + 1);
        std::thread::spawn(move || {
            let mut source = bulk.source;
            let outcome = match sink.begin(from, bulk.header) {
                Err(words) => BulkOutcome::Refused(words),
                Ok(mut receiver) => loop {
                    match source.next() {
                        Err(words) => break BulkOutcome::Cancelled(words),
                        Ok(None) => match receiver.finish() {
                            Ok(answer) => break BulkOutcome::Taken(answer),
                            Err(words) => break BulkOutcome::Refused(words),
                        },
                        Ok(Some(piece)) => {
                            if let Err(words) = receiver.piece(piece) {
                                break BulkOutcome::Refused(words);
                            }
                            if fate == Fate::LoseTheRest {
                                break BulkOutcome::Lost("cut".to_owned());
                            }
                        }
                    }
                },
            };
            source.ended(outcome);
        })
    }

    /// Everything but time goes on until the stream has ended.
    fn settle_with(&mut self, stream: JoinHandle<()>) {
        while !stream.is_finished() {
            self.settle();
            std::thread::yield_now();
        }
        stream.join().unwrap();
        self.settle();
    }

    fn assert_same(&self, group: GroupId) {
        let digest = |node: usize| self.nodes[node].worker.machine().digest(group);
        assert_eq!(digest(0), digest(1));
        assert_eq!(digest(0), digest(2));
    }
}

#[test]
fn a_peer_whose_log_was_cut_comes_back_by_snapshot_and_then_gets_entries() {
    let mut trio = Trio::with_one_left_behind(1);
    trio.pass(Duration::from_millis(300));
    assert_eq!(trio.bulks(0), 1, "one snapshot is ordered");
    let stream = trio.carry(0, Fate::Arrive);
    trio.settle_with(stream);
    let proposal = trio.propose(0, GROUP, Tally::add(1));
    trio.pass(Duration::from_millis(300));
    assert_eq!(trio.outcome(proposal), answered(211));
    trio.assert_same(GROUP);
    assert_eq!(trio.counters(0).snapshots_sent, 1);
    assert_eq!(trio.counters(2).snapshots_installed, 1);
    assert_eq!(trio.nodes[2].disk.staged(), 0, "what was staged is used up");

    // And what was installed survives.
    trio.crash(2);
    trio.pass(Duration::from_millis(700));
    trio.assert_same(GROUP);
    assert_eq!(trio.counters(0).snapshots_wanted, 1);
}

#[test]
fn a_snapshot_that_breaks_off_leaves_nothing_and_is_sent_again() {
    let mut trio = Trio::with_one_left_behind(1);
    trio.pass(Duration::from_millis(300));
    let stream = trio.carry(0, Fate::LoseTheRest);
    trio.settle_with(stream);
    assert_eq!(trio.counters(0).snapshots_failed, 1);
    assert_eq!(trio.nodes[2].disk.staged(), 0);
    trio.pass(Duration::from_millis(200));
    assert_eq!(trio.bulks(0), 0, "not at once");
    trio.pass(Duration::from_millis(800));
    let stream = trio.carry(0, Fate::Arrive);
    trio.settle_with(stream);
    trio.pass(Duration::from_millis(300));
    trio.assert_same(GROUP);
}

#[test]
fn a_receiver_that_crashes_before_the_install_is_durable_is_where_it_was() {
    let mut trio = Trio::with_one_left_behind(1);
    trio.pass(Duration::from_millis(300));
    let stream = trio.carry(0, Fate::Arrive);
    // The batch with the install is submitted, and never synced.
    while trio.nodes[2].disk.queued() == 0 {
        assert!(!stream.is_finished());
        trio.turn(2);
        std::thread::yield_now();
    }
    trio.crash(2);
    trio.settle_with(stream);
    assert_eq!(trio.counters(0).snapshots_failed, 1, "nobody answers for it");
    assert!(trio.status(2, GROUP).last.index < trio.status(0, GROUP).truncated);
    trio.pass(Duration::from_millis(1_500));
    let stream = trio.carry(0, Fate::Arrive);
    trio.settle_with(stream);
    trio.pass(Duration::from_millis(300));
    trio.assert_same(GROUP);
}

#[test]
fn a_snapshot_that_is_no_news_is_declined_before_its_bytes_travel() {
    let mut trio = Trio::with_one_left_behind(1);
    trio.pass(Duration::from_millis(300));
    // Node 2 loses contact, and the order stands while another one brings it up to date.
    let late = trio.nodes[0].wire.bulks.lock().unwrap().remove(0);
    let order = order_of(&trio);
    trio.nodes[0].worker.shipping.order(order);
    trio.turn(0);
    let stream = trio.carry(0, Fate::Arrive);
    trio.settle_with(stream);
    trio.pass(Duration::from_millis(300));
    trio.assert_same(GROUP);
    trio.nodes[0].wire.bulks.lock().unwrap().push(late);
    let stream = trio.carry(0, Fate::Arrive);
    trio.settle_with(stream);
    assert_eq!(trio.counters(2).snapshots_declined, 1);
    assert_eq!(trio.counters(2).snapshots_installed, 1);
    assert_eq!(trio.nodes[2].disk.staged(), 0);
    trio.assert_same(GROUP);
}

fn order_of(trio: &Trio) -> Order {
    let status = trio.status(0, GROUP);
    Order {
        address: crate::snapshot::Address {
            group: GROUP,
            from: status.id,
            to: trio.status(2, GROUP).id,
            term: status.hard_state.term,
        },
        life: trio.nodes[0].worker.groups[&GROUP].life,
        node: NodeId(3),
        id: raft_core::OrderId(99),
        at_least: Index(0),
    }
}

#[test]
fn no_more_snapshots_leave_at_a_time_than_may() {
    let groups = 5;
    let mut trio = Trio::with_one_left_behind(groups);
    trio.pass(Duration::from_millis(300));
    assert_eq!(trio.nodes[0].worker.snapshots(), (2, 3));
    for _ in 1..=groups {
        assert!((1..=2).contains(&trio.bulks(0)));
        let stream = trio.carry(0, Fate::Arrive);
        trio.settle_with(stream);
    }
    trio.pass(Duration::from_millis(300));
    assert_eq!(trio.nodes[0].worker.snapshots(), (0, 0));
    (1..=groups).for_each(|group| trio.assert_same(GroupId(group)));
}

#[test]
fn a_log_is_cut_by_order_although_a_member_needs_it() {
    let mut trio = Trio::with_options(1, cutting(u64::MAX));
    trio.lead(0, 1);
    trio.cut_off.push(2);
    for number in 1..=20 {
        trio.propose(0, GROUP, Tally::add(number));
    }
    trio.pass(Duration::from_millis(300));
    trio.checkpoint(0);
    let before = trio.status(0, GROUP);
    let index = before.applied;
    assert!(before.truncated < index);
    let order = Control::Truncate { group: GROUP, index };
    trio.nodes[0].sender.push(Event::Control(order));
    trio.settle();
    assert_eq!(trio.status(0, GROUP).truncated, index);
}

#[test]
fn frames_that_were_lost_before_they_left_are_sent_again_at_the_next_sign_of_life() {
    let mut trio = Trio::led_by_first(1);
    trio.propose(0, GROUP, Tally::add(1));
    trio.turn(0);
    // The appends to node 2 are dropped by their lane, which says so.
    let frames = &trio.nodes[0].wire.frames;
    frames
        .lock()
        .unwrap()
        .retain(|outgoing| outgoing.to != NodeId(3) || outgoing.lane == Lane::Control);
    trio.nodes[0].sender.push(Event::Unreachable(NodeId(3)));
    trio.settle();
    assert!(trio.status(2, GROUP).last < trio.status(0, GROUP).last);
    // A heartbeat later, not an election timeout later.
    trio.pass(Duration::from_millis(120));
    assert_eq!(trio.status(2, GROUP).last, trio.status(0, GROUP).last);
}
