//! Turns of three workers in one thread: what leaves when, who is answered what, what a restart finds.

use super::*;
use crate::bulk::{Bulk, BulkHandle};
use crate::inbox::{InboxLimits, InboxSender, SilentBell};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::network::{Lane, Outgoing};
use crate::room::{Room, Space};
use crate::storage::CompletionSink;
use crate::testing::{MemDisk, MemStorage, SyncMode, Tally};
use crate::types::{AnswerSink, Term};
use crate::wire;
use raft_core::{AppendOutcome, Message, RoleKind};
use std::cell::Cell;
use std::sync::{Arc, Mutex};

mod members;
mod snapshots;

const NODES: usize = 3;
const GROUP: GroupId = GroupId(1);

/// Frames a node sent and nobody delivered yet.
#[derive(Clone, Debug, Default)]
struct Wire {
    frames: Arc<Mutex<Vec<Outgoing>>>,
    bulks: Arc<Mutex<Vec<Bulk>>>,
}

impl RaftNetwork for Wire {
    fn send(&self, outgoing: Outgoing) {
        self.frames.lock().unwrap().push(outgoing);
    }

    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        self.bulks.lock().unwrap().push(bulk);
        BulkHandle::new(|| {})
    }
}

struct Sink {
    wire: Wire,
    inbox: InboxSender,
}

impl CompletionSink for Sink {
    fn complete(&self, mut completion: Completion) {
        if let Completion::Durable { then_send, .. } = &mut completion {
            then_send.drain(..).for_each(|outgoing| self.wire.send(outgoing));
        }
        self.inbox.push(Event::Storage(completion));
    }
}

#[derive(Default)]
struct Clerk {
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
}

impl AnswerSink for Clerk {
    fn answer(&self, number: u64, outcome: Outcome) {
        let before = self.outcomes.lock().unwrap().insert(number, outcome);
        assert_eq!(before, None, "{number} is answered twice");
    }
}

#[derive(Debug, Default)]
struct TestClock {
    now: Cell<u64>,
    wall: Cell<u64>,
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant(self.now.get())
    }
    fn stamp(&self) -> Stamp {
        Stamp(self.wall.get())
    }
}

struct Node {
    disk: MemDisk,
    wire: Wire,
    inbox: Inbox,
    sender: InboxSender,
    worker: Worker<MemStorage, Wire, Tally>,
    deadline: Option<Instant>,
}

impl Node {
    fn start(disk: MemDisk, options: &WorkerOptions, now: Instant) -> Node {
        let (inbox, sender) = Inbox::new(InboxLimits::default(), Arc::new(SilentBell));
        let wire = Wire::default();
        let restored = disk.restore();
        disk.start(vec![Arc::new(Sink {
            wire: wire.clone(),
            inbox: sender.clone(),
        })]);
        let machine = Tally::new(disk.clone());
        let mut worker = Worker::new(
            disk.storage(0),
            wire.clone(),
            machine,
            restored,
            options.clone(),
            now,
        );
        worker.connect(sender.clone());
        Node {
            disk,
            wire,
            inbox,
            sender,
            worker,
            deadline: Some(now),
        }
    }
}

/// Three nodes with the same groups.
struct Trio {
    nodes: Vec<Node>,
    clock: TestClock,
    clerk: Arc<Clerk>,
    options: WorkerOptions,
    /// Nodes that nothing reaches and nothing leaves.
    cut_off: Vec<usize>,
    tickets: u64,
}

impl Trio {
    fn new(groups: u64) -> Trio {
        Trio::with_options(groups, WorkerOptions::default())
    }

    fn with_options(groups: u64, options: WorkerOptions) -> Trio {
        let start = |_| Node::start(MemDisk::new(SyncMode::Explicit), &options, Instant(0));
        let trio = Trio {
            nodes: (0..NODES).map(start).collect(),
            clock: TestClock::default(),
            clerk: Arc::default(),
            options,
            cut_off: Vec::new(),
            tickets: 0,
        };
        trio.clock.wall.set(1_000_000);
        for group in 1..=groups {
            for node in 0..NODES {
                let birth = birth(GroupId(group), node);
                trio.nodes[node]
                    .sender
                    .push(Event::Control(Control::Create(birth)));
            }
        }
        trio
    }

    /// Node 0 leads every group, and everyone knows.
    fn led_by_first(groups: u64) -> Trio {
        let mut trio = Trio::new(groups);
        trio.lead(0, groups);
        trio
    }

    fn lead(&mut self, node: usize, groups: u64) {
        self.settle();
        for group in 1..=groups {
            self.nodes[node]
                .sender
                .push(Event::Control(Control::Campaign(GroupId(group))));
        }
        self.settle();
        for group in 1..=groups {
            assert_eq!(self.status(node, GroupId(group)).role, RoleKind::Leader);
        }
    }

    fn turn(&mut self, node: usize) -> Turn {
        self.clock.now.set(self.clock.now.get() + 1_000);
        let found = &mut self.nodes[node];
        let turn = found.worker.turn(&mut found.inbox, &self.clock);
        found.deadline = turn.deadline;
        turn
    }

    fn sent(&self, node: usize) -> Vec<Outgoing> {
        self.nodes[node].wire.frames.lock().unwrap().clone()
    }

    /// Frames of a node reach their receivers' inboxes.
    fn deliver(&mut self, node: usize) -> usize {
        let frames = std::mem::take(&mut *self.nodes[node].wire.frames.lock().unwrap());
        let count = frames.len();
        for outgoing in frames {
            let to = outgoing.to.0 as usize - 1;
            if self.cut_off.contains(&node) || self.cut_off.contains(&to) {
                continue;
            }
            let (from, frame) = (NodeId(node as u64 + 1), outgoing.frame.to_bytes());
            if wire::is_short(&frame) {
                self.nodes[to].sender.push(Event::Short(from));
            }
            let messages = wire::decode(&frame).expect("our own frame");
            self.nodes[to].sender.push(Event::Messages { from, messages });
        }
        count
    }

    /// Everything that can happen without time passing happens.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut busy = false;
            for node in 0..NODES {
                self.nodes[node].disk.sync();
                let now = Instant(self.clock.now.get());
                if !self.nodes[node].inbox.is_empty()
                    || self.nodes[node].deadline.is_some_and(|due| due <= now)
                {
                    self.turn(node);
                    busy = true;
                }
                busy |= self.deliver(node) > 0 || self.nodes[node].disk.queued() > 0;
            }
            if !busy {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Time passes, in steps of 10 ms.
    fn pass(&mut self, duration: Duration) {
        let until = Instant(self.clock.now.get()) + duration;
        while Instant(self.clock.now.get()) < until {
            self.clock.now.set(self.clock.now.get() + 10_000_000);
            self.clock.wall.set(self.clock.wall.get() + 10);
            self.settle();
        }
    }

    /// Time passes until one of these nodes leads.
    fn await_leader(&mut self, nodes: std::ops::Range<usize>) -> usize {
        for _ in 0..300 {
            self.pass(Duration::from_millis(10));
            let leads = |node: &usize| self.status(*node, GROUP).role == RoleKind::Leader;
            if let Some(leader) = nodes.clone().find(leads) {
                return leader;
            }
        }
        panic!("nobody of {nodes:?} leads");
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket {
            sink: Arc::clone(&self.clerk) as Arc<dyn AnswerSink>,
            number: self.tickets,
        }
    }

    fn propose(&mut self, node: usize, group: GroupId, payload: Bytes) -> u64 {
        let ticket = self.ticket();
        self.nodes[node].sender.push(Event::Propose {
            group,
            payload,
            ticket,
        });
        self.tickets
    }

    fn read(&mut self, node: usize, group: GroupId, query: &'static [u8]) -> u64 {
        let (ticket, query) = (self.ticket(), Bytes::from_static(query));
        let policy = ReadPolicy::Confirmed;
        self.nodes[node].sender.push(Event::Read {
            group,
            query,
            policy,
            ticket,
        });
        self.tickets
    }

    fn outcome(&self, ticket: u64) -> Option<Outcome> {
        self.clerk.outcomes.lock().unwrap().get(&ticket).cloned()
    }

    fn status(&self, node: usize, group: GroupId) -> Status {
        self.nodes[node]
            .worker
            .status(group)
            .expect("the group lives here")
    }

    fn counters(&self, node: usize) -> Counters {
        self.nodes[node].worker.counters().clone()
    }

    fn crash(&mut self, node: usize) {
        let disk = self.nodes[node].disk.clone();
        disk.crash();
        self.nodes[node] = Node::start(disk, &self.options, Instant(self.clock.now.get()));
    }
}

fn birth(group: GroupId, node: usize) -> Birth {
    let replica = |node: u64| ReplicaId(group.0 * 10 + node);
    Birth {
        group,
        replica: replica(node as u64 + 1),
        membership: Membership::of_voters((1..=NODES as u64).map(|node| (replica(node), NodeId(node)))),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    }
}

fn answered(number: u64) -> Option<Outcome> {
    Some(Outcome::Answered(Tally::add(number)))
}

fn refused(refusal: Refusal) -> Option<Outcome> {
    Some(Outcome::Refused(refusal))
}

fn messages(frames: &[Outgoing]) -> Vec<GroupMessage> {
    let decoded = frames
        .iter()
        .map(|outgoing| wire::decode(&outgoing.frame.to_bytes()));
    decoded
        .flat_map(|messages| messages.expect("our own frame"))
        .collect()
}

fn entry_counts(frames: &[Outgoing]) -> Vec<usize> {
    let counts = messages(frames)
        .into_iter()
        .map(|message| match message.envelope.message {
            Message::Append { entries, .. } => entries.len(),
            _ => 0,
        });
    counts.collect()
}

#[test]
fn many_groups_share_one_frame_per_node_and_lane_and_one_log_batch() {
    let mut trio = Trio::led_by_first(20);
    for group in 1..=20 {
        trio.propose(0, GroupId(group), Tally::add(1));
    }
    let before = trio.counters(0);
    trio.turn(0);
    let sent = trio.sent(0);
    let ways: Vec<_> = sent.iter().map(|outgoing| (outgoing.to, outgoing.lane)).collect();
    assert_eq!(ways, [(NodeId(2), Lane::Entries), (NodeId(3), Lane::Entries)]);
    assert_eq!(entry_counts(&sent), [1; 40]);
    let after = trio.counters(0);
    assert_eq!(
        (after.batches - before.batches, after.entries - before.entries),
        (1, 20)
    );
    assert_eq!(trio.nodes[0].disk.queued(), 1);
    trio.settle();
    assert!((1..=20).all(|ticket| trio.outcome(ticket) == answered(1)));
}

#[test]
fn proposals_of_one_turn_become_one_append_and_are_answered_in_order() {
    let mut trio = Trio::led_by_first(1);
    let tickets: Vec<u64> = (0..100).map(|_| trio.propose(0, GROUP, Tally::add(1))).collect();
    trio.turn(0);
    assert_eq!(entry_counts(&trio.sent(0)), [100; 2]);
    trio.settle();
    for (ticket, sum) in tickets.into_iter().zip(1..) {
        assert_eq!(trio.outcome(ticket), answered(sum));
    }
    assert_eq!(trio.nodes[0].worker.waiting(), 0);
}

#[test]
fn an_acknowledgement_leaves_only_after_the_followers_own_sync() {
    let mut trio = Trio::led_by_first(1);
    let ticket = trio.propose(0, GROUP, Tally::add(5));
    trio.turn(0);
    trio.deliver(0);
    trio.turn(1);
    assert_eq!(trio.sent(1), [], "not durable yet");
    assert!(trio.nodes[1].disk.sync_one());
    let sent = messages(&trio.sent(1));
    let expected = AppendOutcome::Matched { index: Index(2) };
    assert_eq!(sent[0].envelope.message, Message::AppendReply(expected));
    trio.deliver(1);
    trio.turn(0);
    assert_eq!(trio.outcome(ticket), None, "a majority of disks, not of memories");
    assert!(trio.nodes[0].disk.sync_one());
    trio.turn(0);
    assert_eq!(trio.outcome(ticket), answered(5));
}

#[test]
fn reads_of_one_turn_share_one_round_and_see_what_was_answered_before() {
    let mut trio = Trio::led_by_first(1);
    trio.propose(0, GROUP, Tally::add(3));
    trio.settle();
    let tickets: Vec<u64> = (0..50).map(|_| trio.read(0, GROUP, b"")).collect();
    trio.turn(0);
    assert_eq!(messages(&trio.sent(0)).len(), 2, "one heartbeat per follower");
    assert_eq!(trio.outcome(tickets[0]), None, "leadership is not confirmed yet");
    trio.settle();
    assert!(tickets.iter().all(|ticket| trio.outcome(*ticket) == answered(3)));
    assert_eq!(trio.counters(0).reads, 50);
}

#[test]
fn a_read_that_needs_a_later_clock_commits_one_stamp_for_all() {
    let mut trio = Trio::led_by_first(1);
    trio.settle();
    trio.clock.wall.set(2_000_000);
    let last = trio.status(0, GROUP).last;
    let tickets: Vec<u64> = (0..5).map(|_| trio.read(0, GROUP, b"clock")).collect();
    trio.settle();
    assert!(
        tickets
            .iter()
            .all(|ticket| trio.outcome(*ticket) == answered(2_000_000))
    );
    assert_eq!(trio.status(0, GROUP).last.index, last.index.next());
    assert_eq!(trio.nodes[0].worker.waiting(), 0);
}

#[test]
fn a_follower_refuses_and_names_the_leader() {
    let mut trio = Trio::led_by_first(1);
    let (write, read) = (trio.propose(1, GROUP, Tally::add(1)), trio.read(1, GROUP, b""));
    let unknown = trio.propose(1, GroupId(99), Tally::add(1));
    trio.turn(1);
    assert_eq!(trio.outcome(write), refused(Refusal::NotLeader(Some(NodeId(1)))));
    assert_eq!(trio.outcome(read), refused(Refusal::NotLeader(Some(NodeId(1)))));
    assert_eq!(trio.outcome(unknown), refused(Refusal::NoSuchGroup));
    assert_eq!(trio.nodes[1].worker.waiting(), 0);
}

#[test]
fn a_proposal_whose_leader_lost_contact_is_unknown_after_its_patience() {
    let mut trio = Trio::led_by_first(1);
    trio.cut_off.push(0);
    let ticket = trio.propose(0, GROUP, Tally::add(1));
    trio.pass(Duration::from_millis(600));
    assert_ne!(
        trio.status(0, GROUP).role,
        RoleKind::Leader,
        "it lost contact with a quorum"
    );
    assert_eq!(trio.outcome(ticket), None, "the next leader may still commit it");
    trio.pass(trio.options.patience);
    assert_eq!(trio.outcome(ticket), Some(Outcome::Unknown));
    assert_eq!(
        (trio.counters(0).unknown, trio.nodes[0].worker.waiting_bytes()),
        (1, 0)
    );
}

#[test]
fn a_proposal_that_the_next_leader_commits_is_answered() {
    let mut trio = Trio::led_by_first(1);
    let ticket = trio.propose(0, GROUP, Tally::add(7));
    trio.turn(0);
    trio.deliver(0);
    trio.cut_off.push(0); // the others hold it; the leader never hears that
    let leader = trio.await_leader(1..NODES);
    trio.cut_off.clear();
    assert_eq!(trio.outcome(ticket), None);
    trio.pass(Duration::from_millis(200));
    assert_ne!(
        trio.status(0, GROUP).leader,
        Some(ReplicaId(11)),
        "node {leader} leads"
    );
    assert_eq!(trio.outcome(ticket), answered(7));
}

#[test]
fn a_proposal_that_another_leader_replaced_is_refused_for_good() {
    let mut trio = Trio::led_by_first(1);
    trio.cut_off.push(0);
    let ticket = trio.propose(0, GROUP, Tally::add(7));
    let leader = trio.await_leader(1..NODES);
    trio.cut_off.clear();
    trio.pass(Duration::from_millis(300));
    let hint = Some(NodeId(leader as u64 + 1));
    assert_eq!(trio.outcome(ticket), refused(Refusal::NotLeader(hint)));
    assert_eq!(trio.nodes[0].worker.machine().sum(GROUP), 0);
}

#[test]
fn proposals_beyond_the_log_of_a_leader_that_won_it_back_are_given_up() {
    let mut trio = Trio::led_by_first(1);
    trio.cut_off.push(0);
    let tickets = [1, 2, 3].map(|number| trio.propose(0, GROUP, Tally::add(number)));
    let leader = trio.await_leader(1..NODES);
    trio.cut_off.clear();
    trio.pass(Duration::from_millis(200)); // one entry of the next leader replaces all three
    let order = Control::Transfer {
        group: GROUP,
        target: ReplicaId(11),
        ticket: trio.ticket(),
    };
    trio.nodes[leader].sender.push(Event::Control(order));
    trio.settle();
    assert_eq!(trio.status(0, GROUP).role, RoleKind::Leader);
    assert_eq!(trio.status(0, GROUP).last.index, Index(3));
    trio.pass(trio.options.patience); // nobody proposes
    for ticket in &tickets[..2] {
        let outcome = trio.outcome(*ticket);
        assert!(
            matches!(outcome, Some(Outcome::Refused(Refusal::NotLeader(_)))),
            "another entry stands there: {outcome:?}"
        );
    }
    assert_eq!(trio.outcome(tickets[2]), Some(Outcome::Unknown));
    let worker = &trio.nodes[0].worker;
    assert_eq!((worker.waiting(), worker.waiting_bytes()), (0, 0));
}

#[test]
fn votes_may_arrive_before_the_report_that_the_request_for_them_could_leave() {
    let mut trio = Trio::new(1);
    trio.settle();
    trio.nodes[0]
        .sender
        .push(Event::Control(Control::Campaign(GROUP)));
    trio.turn(0);
    trio.nodes[0].disk.sync(); // the requests leave from here; the report gets held up
    let report: Vec<Event> = trio.nodes[0].inbox.drain().events.collect();
    assert!(matches!(report[..], [Event::Storage(Completion::Durable { .. })]));
    trio.deliver(0);
    for node in 1..NODES {
        trio.turn(node);
        trio.nodes[node].disk.sync();
        trio.deliver(node);
    }
    trio.turn(0);
    assert_eq!(trio.status(0, GROUP).role, RoleKind::Candidate);
    trio.nodes[0].sender.push_all(report);
    trio.settle();
    assert_eq!(trio.status(0, GROUP).role, RoleKind::Leader);
}

#[test]
fn too_much_waiting_is_refused_at_once() {
    let mut trio = Trio::with_options(
        3,
        WorkerOptions {
            waiting_per_group_max: 2,
            waiting_max: 5,
            payload_bytes_max: PAYLOAD_BYTES_MAX - 1,
            ..WorkerOptions::default()
        },
    );
    trio.lead(0, 3);
    let first: Vec<u64> = (0..3).map(|_| trio.propose(0, GROUP, Tally::add(1))).collect();
    let others: Vec<u64> = (0..4)
        .map(|n| trio.propose(0, GroupId(2 + n / 2), Tally::add(1)))
        .collect();
    let large = trio.propose(0, GROUP, Bytes::from(vec![0; PAYLOAD_BYTES_MAX]));
    trio.turn(0);
    assert_eq!(trio.outcome(first[2]), refused(Refusal::Overloaded));
    assert_eq!(trio.outcome(others[3]), refused(Refusal::Overloaded));
    assert_eq!(trio.outcome(large), refused(Refusal::TooLarge));
    assert_eq!(trio.nodes[0].worker.waiting(), 5);
    trio.settle();
    assert_eq!(trio.outcome(others[2]), answered(1));
    trio.nodes[0].disk.set_room(Room::NONE);
    let (write, read) = (trio.propose(0, GROUP, Tally::add(1)), trio.read(0, GROUP, b""));
    trio.settle();
    assert_eq!(
        trio.outcome(write),
        refused(Refusal::Overloaded),
        "a full store takes no writes"
    );
    assert_eq!(trio.outcome(read), answered(2));
}

/// Time passes in steps of a heartbeat, and everything happens that can.
fn pass(trio: &mut Trio, beats: u64) {
    for _ in 0..beats {
        let interval = trio.options.replica.heartbeat_interval.as_nanos() as u64;
        trio.clock.now.set(trio.clock.now.get() + interval);
        (0..NODES).for_each(|node| drop(trio.turn(node)));
        trio.settle();
    }
}

#[test]
fn a_full_follower_takes_no_entries_but_votes_and_catches_up_later() {
    let mut trio = Trio::led_by_first(1);
    (1..3).for_each(|node| trio.nodes[node].disk.set_room(Room::NONE));
    let write = trio.propose(0, GROUP, Tally::add(7));
    pass(&mut trio, 5);
    assert_eq!(trio.outcome(write), None, "no quorum holds it");
    assert!(
        trio.counters(1).refusals.appends_full >= 2,
        "it is sent again and again"
    );
    assert_eq!(
        trio.status(1, GROUP).last.index,
        Index(1),
        "only the leader's first entry"
    );
    trio.nodes[1]
        .sender
        .push(Event::Control(Control::Campaign(GROUP)));
    trio.nodes[2].disk.set_room(Room::UNBOUNDED);
    pass(&mut trio, 2);
    let terms = [0, 1, 2].map(|node| trio.status(node, GROUP).hard_state.term);
    assert!(terms[1] >= Term(2), "hard states go through: {terms:?}");
    trio.nodes[1].disk.set_room(Room::UNBOUNDED);
    pass(&mut trio, 20);
    let lasts = [0, 1, 2].map(|node| trio.status(node, GROUP).last);
    assert!(lasts[0] == lasts[1] && lasts[1] == lasts[2], "{lasts:?}");
}

#[test]
fn an_entry_too_large_for_a_follower_leaves_it_behind_and_alive() {
    let mut trio = Trio::led_by_first(1);
    let small = WorkerOptions {
        payload_bytes_max: 100,
        ..trio.options.clone()
    };
    trio.nodes[2].worker.options = small;
    let write = trio.propose(0, GROUP, Bytes::from(vec![0; 101]));
    trio.settle();
    assert!(matches!(trio.outcome(write), Some(Outcome::Answered(_))));
    pass(&mut trio, 3);
    assert_eq!(trio.status(2, GROUP).last.index, Index(1));
    assert!(trio.counters(2).refusals.appends_too_large > 0);
    let next = trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    assert!(
        matches!(trio.outcome(next), Some(Outcome::Answered(_))),
        "the others go on"
    );
}

#[test]
fn a_leader_hears_that_a_quorum_is_short_of_space() {
    let mut trio = Trio::led_by_first(1);
    let short = Room {
        space: Space::Short,
        ..Room::UNBOUNDED
    };
    (1..3).for_each(|node| trio.nodes[node].disk.set_room(short));
    pass(&mut trio, 2);
    let write = trio.propose(0, GROUP, Tally::add(1));
    trio.turn(0);
    assert_eq!(trio.outcome(write), refused(Refusal::NoSpace));
    trio.nodes[1].disk.set_room(Room::UNBOUNDED);
    let patience = trio.options.replica.election_timeout_max;
    pass(&mut trio, 2 + (patience.as_millis() / 100) as u64);
    let write = trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    assert!(matches!(trio.outcome(write), Some(Outcome::Answered(_))));
}

#[test]
fn too_many_bytes_waiting_are_refused_until_some_are_answered() {
    let options = WorkerOptions {
        waiting_bytes_max: 100,
        ..WorkerOptions::default()
    };
    let mut trio = Trio::with_options(2, options);
    trio.lead(0, 2);
    let payload = |bytes: usize| Bytes::from(vec![0; bytes]);
    let kept = [
        trio.propose(0, GROUP, payload(60)),
        trio.propose(0, GroupId(2), payload(40)),
    ];
    let excess = trio.propose(0, GROUP, payload(1));
    trio.turn(0);
    assert_eq!(trio.outcome(excess), refused(Refusal::Overloaded));
    assert_eq!(trio.nodes[0].worker.waiting_bytes(), 100);
    trio.settle();
    assert!(kept.iter().all(|ticket| trio.outcome(*ticket) == answered(0)));
    let follower = trio.propose(1, GROUP, payload(100));
    trio.settle();
    assert!(matches!(
        trio.outcome(follower),
        Some(Outcome::Refused(Refusal::NotLeader(_)))
    ));
    assert!((0..2).all(|node| trio.nodes[node].worker.waiting_bytes() == 0));
}

#[test]
fn a_stalled_group_holds_no_more_than_its_limit_and_leaves_the_others_theirs() {
    let mut trio = Trio::with_options(
        2,
        WorkerOptions {
            waiting_max: 50,
            replica: Options {
                uncommitted_bytes_max: 2000,
                ..Options::default()
            },
            ..WorkerOptions::default()
        },
    );
    trio.lead(0, 2);
    let payload = || Bytes::from(vec![0; 68]); // 100 bytes each, as the log counts
    let stalled: Vec<u64> = (0..30).map(|_| trio.propose(0, GROUP, payload())).collect();
    trio.turn(0);
    let overloaded = |trio: &Trio, tickets: &[u64]| {
        let is_refused = |ticket: &&u64| trio.outcome(**ticket) == refused(Refusal::Overloaded);
        tickets.iter().filter(is_refused).count()
    };
    assert_eq!(
        overloaded(&trio, &stalled),
        10,
        "a batch is taken as far as it fits"
    );
    assert_eq!(overloaded(&trio, &stalled[..20]), 0, "the first ones are");
    let more = [trio.propose(0, GROUP, payload())];
    trio.turn(0);
    assert_eq!(overloaded(&trio, &more), 1, "nothing was committed");

    // Reads have no such limit: they come until the others would get nothing.
    let reads: Vec<u64> = (0..50).map(|_| trio.read(0, GROUP, b"")).collect();
    let others: Vec<u64> = (0..5).map(|_| trio.propose(0, GroupId(2), payload())).collect();
    trio.turn(0);
    assert_eq!(
        overloaded(&trio, &reads),
        50 - 21,
        "41 of 50 are taken, 20 of them proposals"
    );
    assert_eq!(overloaded(&trio, &others), 0);
    trio.settle();
    assert!(others.iter().all(|ticket| trio.outcome(*ticket) == answered(0)));
    assert!(
        stalled[..20]
            .iter()
            .all(|ticket| trio.outcome(*ticket) == answered(0))
    );
    assert_eq!(
        (
            trio.nodes[0].worker.waiting(),
            trio.nodes[0].worker.waiting_bytes()
        ),
        (0, 0)
    );
}

#[test]
fn a_checkpoint_asked_for_is_answered_when_it_holds_what_was_applied() {
    let mut trio = Trio::led_by_first(1);
    let ask = |trio: &mut Trio, group| {
        let ticket = trio.ticket();
        let number = ticket.number;
        let order = Control::Checkpoint { group, ticket };
        trio.nodes[0].sender.push(Event::Control(order));
        number
    };
    let at = |index: u64| Some(Outcome::Answered(Bytes::copy_from_slice(&index.to_le_bytes())));
    trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    let first = ask(&mut trio, GROUP);
    trio.turn(0);
    // It froze for the first wish; what is applied now needs another checkpoint.
    trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    let second = ask(&mut trio, GROUP);
    trio.turn(0);
    assert_eq!((trio.outcome(first), trio.outcome(second)), (None, None));
    assert!(trio.nodes[0].disk.commit_checkpoint());
    trio.settle();
    assert_eq!((trio.outcome(first), trio.outcome(second)), (at(2), None));
    assert!(trio.nodes[0].disk.commit_checkpoint(), "it was asked for again");
    trio.settle();
    assert_eq!(trio.outcome(second), at(3));
    let again = ask(&mut trio, GROUP);
    let nobody = ask(&mut trio, GroupId(9));
    trio.turn(0);
    assert_eq!(trio.outcome(again), at(3), "there is nothing to write");
    assert!(!trio.nodes[0].disk.commit_checkpoint());
    assert_eq!(trio.outcome(nobody), refused(Refusal::NoSuchGroup));
    trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    let stopped = ask(&mut trio, GROUP);
    trio.nodes[0].sender.push(Event::Control(Control::Stop));
    trio.turn(0);
    assert_eq!(trio.outcome(stopped), refused(Refusal::Stopping));
}

#[test]
fn a_turn_without_events_touches_nothing() {
    let mut trio = Trio::led_by_first(10);
    let before = trio.counters(1);
    let turn = trio.turn(1);
    let after = trio.counters(1);
    assert_eq!(
        (after.turns - before.turns, after.touched - before.touched),
        (1, 0)
    );
    assert!(
        turn.deadline
            .is_some_and(|due| due > Instant(trio.clock.now.get()))
    );
}

#[test]
fn a_completion_for_an_earlier_life_is_dropped() {
    let mut trio = Trio::led_by_first(1);
    trio.nodes[0]
        .sender
        .push(Event::Storage(Completion::Checkpointed {
            rows: vec![(GROUP, Life(77), Index(1)), (GroupId(5), Life(1), Index(1))],
        }));
    trio.turn(0);
    assert_eq!(trio.counters(0).stale_completions, 2);
}

#[test]
fn a_message_from_a_node_that_does_not_hold_its_sender_is_dropped() {
    let mut trio = Trio::led_by_first(1);
    let envelope = raft_core::Envelope {
        from: ReplicaId(12),
        to: ReplicaId(11),
        term: Term(2),
        message: Message::Vote {
            last: EntryId::new(1, 9),
            transfer: true,
        },
    };
    for from in [NodeId(3), NodeId(2)] {
        let messages = vec![GroupMessage {
            group: GROUP,
            envelope: envelope.clone(),
        }];
        trio.nodes[0].sender.push(Event::Messages { from, messages });
        trio.turn(0);
        let is_forged = from == NodeId(3);
        assert_eq!(trio.status(0, GROUP).hard_state.term == Term(1), is_forged);
        assert_eq!(trio.counters(0).misaddressed, 1);
    }
}

#[test]
fn a_restart_finds_what_was_acknowledged_with_and_without_a_checkpoint() {
    let mut trio = Trio::led_by_first(3);
    for round in 0..30 {
        trio.propose(0, GroupId(1 + round % 3), Tally::add(round));
        trio.settle();
        if round == 15 {
            for node in 0..NODES {
                assert!(trio.nodes[node].disk.want_checkpoint());
                trio.turn(node);
                assert!(trio.nodes[node].disk.commit_checkpoint());
            }
            trio.settle();
        }
    }
    trio.pass(Duration::from_millis(300)); // the followers learn the commit index, the log is cut
    assert!(
        trio.status(1, GROUP).truncated > Index(0),
        "nobody needs the beginning any more"
    );
    (0..NODES).for_each(|node| trio.crash(node));
    trio.lead(1, 3);
    trio.pass(Duration::from_millis(300));
    for group in [1, 2, 3].map(GroupId) {
        let digest = trio.nodes[0].worker.machine().digest(group);
        assert!((1..NODES).all(|node| trio.nodes[node].worker.machine().digest(group) == digest));
        let expected: u64 = (0..30).filter(|round| 1 + round % 3 == group.0).sum();
        assert_eq!(trio.nodes[2].worker.machine().sum(group), expected);
    }
}

#[test]
fn a_checkpoint_has_rows_for_groups_that_changed_and_only_those() {
    let mut trio = Trio::led_by_first(3);
    let rows_after = |trio: &mut Trio| {
        trio.settle();
        assert!(trio.nodes[0].disk.want_checkpoint());
        trio.turn(0);
        trio.nodes[0].disk.commit_checkpoint();
        let found = trio.nodes[0].inbox.drain().events.find_map(|event| match event {
            Event::Storage(Completion::Checkpointed { rows }) => Some(rows),
            _ => None,
        });
        found
            .expect("it was committed")
            .into_iter()
            .map(|(group, _, _)| group.0)
            .collect::<Vec<u64>>()
    };
    assert_eq!(rows_after(&mut trio), [1, 2, 3]);
    trio.propose(0, GroupId(2), Tally::add(1));
    assert_eq!(rows_after(&mut trio), [2]);
    assert_eq!(rows_after(&mut trio), [] as [u64; 0]);
}

#[test]
fn leadership_moves_on_request_and_the_answer_says_it_began() {
    let mut trio = Trio::led_by_first(1);
    let ticket = trio.ticket();
    let number = ticket.number;
    trio.nodes[0].sender.push(Event::Control(Control::Transfer {
        group: GROUP,
        target: ReplicaId(13),
        ticket,
    }));
    trio.settle();
    assert_eq!(trio.outcome(number), Some(Outcome::Answered(Bytes::new())));
    assert_eq!(trio.status(2, GROUP).role, RoleKind::Leader);
}

#[test]
fn stopping_answers_everyone_once_and_takes_nothing_more() {
    let mut trio = Trio::led_by_first(2);
    let write = trio.propose(0, GROUP, Tally::add(1));
    let read = trio.read(0, GroupId(2), b"");
    trio.turn(0);
    let late = trio.propose(0, GROUP, Tally::add(1));
    trio.nodes[0].sender.push(Event::Control(Control::Stop));
    trio.turn(0);
    assert_eq!(trio.outcome(write), Some(Outcome::Unknown));
    assert_eq!(trio.outcome(read), refused(Refusal::Stopping));
    assert_eq!(trio.outcome(late), refused(Refusal::Stopping));
    let later = trio.read(0, GROUP, b"");
    trio.settle();
    assert_eq!(trio.outcome(later), refused(Refusal::Stopping));
    assert_eq!(
        (
            trio.nodes[0].worker.waiting(),
            trio.nodes[0].worker.waiting_bytes()
        ),
        (0, 0)
    );
}

#[test]
fn every_stage_of_a_write_is_timed() {
    let mut trio = Trio::led_by_first(1);
    trio.propose(0, GROUP, Tally::add(1));
    let mut stages = Vec::new();
    for _ in 0..4 {
        stages.extend(trio.turn(0).samples.into_iter().map(|sample| sample.stage));
        trio.nodes[0].disk.sync();
        trio.deliver(0);
        trio.turn(1);
        trio.nodes[1].disk.sync();
        trio.deliver(1);
    }
    stages.sort_unstable();
    stages.dedup();
    let all = [
        Stage::Queue,
        Stage::Durable,
        Stage::Commit,
        Stage::Apply,
        Stage::Answer,
    ];
    assert_eq!(stages, all);
}
