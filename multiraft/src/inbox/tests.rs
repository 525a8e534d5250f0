//! Order by class, bounds, and one wake per sleep.

use super::*;
use crate::storage::{BatchId, Birth, Completion};
use crate::types::{AnswerSink, EntryId, GroupId, Membership, NodeId, ReplicaId, Term, Ticket};
use bytes::Bytes;
use raft_core::Envelope;
use raft_core::ReadPolicy;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Bell {
    rings: AtomicU64,
}

impl Doorbell for Bell {
    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
    }
    fn now(&self) -> Instant {
        Instant(7)
    }
}

#[derive(Default)]
struct Answers {
    overloaded: AtomicU64,
}

impl AnswerSink for Answers {
    fn answer(&self, _number: u64, outcome: Outcome) {
        assert_eq!(outcome, Outcome::Refused(Refusal::Overloaded));
        self.overloaded.fetch_add(1, Ordering::Relaxed);
    }
}

fn ticket(answers: &Arc<Answers>) -> Ticket {
    let sink = Arc::clone(answers) as Arc<dyn AnswerSink>;
    Ticket { sink, number: 1 }
}

fn propose(answers: &Arc<Answers>) -> Event {
    Event::Propose {
        group: GroupId(2),
        payload: Bytes::new(),
        ticket: ticket(answers),
    }
}

fn read(answers: &Arc<Answers>) -> Event {
    Event::Read {
        policy: ReadPolicy::Confirmed,
        group: GroupId(2),
        query: Bytes::new(),
        ticket: ticket(answers),
    }
}

fn messages(count: usize) -> Event {
    let message = GroupMessage {
        group: GroupId(2),
        envelope: Envelope {
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: Term(1),
            message: Message::TimeoutNow,
        },
    };
    Event::Messages {
        from: NodeId(1),
        messages: vec![message; count],
    }
}

fn durable() -> Event {
    Event::Storage(Completion::Durable {
        batch: BatchId(1),
        writes: Vec::new(),
        then_send: Vec::new(),
    })
}

#[test]
fn a_drain_takes_everything_by_class() {
    let (mut inbox, sender) = Inbox::new(InboxLimits::default(), Arc::new(SilentBell));
    let answers = Arc::new(Answers::default());
    sender.push(Event::Control(Control::Stop));
    let birth = Birth {
        group: GroupId(2),
        replica: ReplicaId(2),
        membership: Membership::default(),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    };
    let birth = Event::Control(Control::Create(birth));
    sender.push_all([propose(&answers), read(&answers), messages(1), birth, durable()]);
    assert!(!inbox.is_empty());
    let classes: Vec<usize> = inbox.drain().events.map(|event| class_of(&event)).collect();
    assert_eq!(classes, [0, 1, 2, 3, 4, 5]);
    assert!(inbox.is_empty());
    assert_eq!(inbox.drain().events.count(), 0);
}

#[test]
fn only_the_first_push_after_sleep_rings() {
    let bell = Arc::new(Bell::default());
    let (mut inbox, sender) = Inbox::new(InboxLimits::default(), Arc::clone(&bell) as Arc<dyn Doorbell>);
    let rings = || bell.rings.load(Ordering::Relaxed);
    sender.push(durable());
    assert_eq!(rings(), 0, "the worker is awake");
    assert!(!inbox.listen(), "something is waiting");
    assert_eq!(inbox.drain().events.count(), 1);
    assert!(inbox.listen());
    sender.push_all([durable(), durable()]);
    sender.push(durable());
    assert_eq!(rings(), 1);
}

#[test]
fn requests_beyond_the_bound_are_refused_at_once_and_messages_dropped() {
    let limits = InboxLimits {
        messages_max: 10,
        message_bytes_max: 1000,
        reads_max: 2,
        proposals_max: 3,
        request_bytes_max: 100,
    };
    let (mut inbox, sender) = Inbox::new(limits, Arc::new(Bell::default()));
    let answers = Arc::new(Answers::default());
    sender.push_all((0..5).flat_map(|_| [propose(&answers), read(&answers), durable()]));
    assert_eq!(answers.overloaded.load(Ordering::Relaxed), 2 + 3);
    sender.push_all([messages(20), messages(1)]);
    assert_eq!(
        inbox.dropped_messages(),
        1,
        "one frame always fits, the next one does not"
    );
    {
        let drained = inbox.drain();
        assert_eq!(drained.oldest_request, Some(Instant(7)));
        assert_eq!(drained.events.count(), 5 + 1 + 2 + 3);
    }
    sender.push_all([messages(6), messages(4), messages(1)]);
    assert_eq!(inbox.dropped_messages(), 2);
}

#[test]
fn requests_are_bounded_in_bytes_too() {
    let limits = InboxLimits {
        request_bytes_max: 100,
        ..InboxLimits::default()
    };
    let (mut inbox, sender) = Inbox::new(limits, Arc::new(SilentBell));
    let answers = Arc::new(Answers::default());
    let propose = |bytes: usize| Event::Propose {
        group: GroupId(2),
        payload: Bytes::from(vec![0; bytes]),
        ticket: ticket(&answers),
    };
    sender.push_all([propose(60), propose(41), propose(40), propose(1)]);
    assert_eq!(answers.overloaded.load(Ordering::Relaxed), 2);
    assert_eq!(inbox.drain().events.count(), 2);
    sender.push(propose(100));
    assert_eq!(inbox.drain().events.count(), 1);
}

#[test]
fn a_flooded_group_leaves_room_for_the_others() {
    let limits = InboxLimits {
        proposals_max: 100,
        ..InboxLimits::default()
    };
    let (mut inbox, sender) = Inbox::new(limits, Arc::new(SilentBell));
    // How many of these proposals to a group are taken.
    let taken = |group, count: u64| {
        let answers = Arc::new(Answers::default());
        sender.push_all((0..count).map(|_| Event::Propose {
            group: GroupId(group),
            payload: Bytes::new(),
            ticket: ticket(&answers),
        }));
        count - answers.overloaded.load(Ordering::Relaxed)
    };
    for (flooded, other) in [(2, 3), (3, 2)] {
        assert_eq!(taken(flooded, 200), 81, "four fifths, and one more");
        assert_eq!(taken(other, 30), 16, "four fifths of what is left");
        assert_eq!((taken(4, 10), taken(5, 1)), (3, 0), "and so on, until it is full");
        assert_eq!(inbox.drain().events.count(), 100);
    }
    let many: u64 = (0..100).map(|group| taken(group, 1)).sum();
    assert_eq!(many, 100, "many groups fill it together");
}

#[test]
fn a_group_with_large_requests_leaves_bytes_for_the_others() {
    let limits = InboxLimits {
        request_bytes_max: 1000,
        ..InboxLimits::default()
    };
    let (mut inbox, sender) = Inbox::new(limits, Arc::new(SilentBell));
    let (flood, other) = (Arc::new(Answers::default()), Arc::new(Answers::default()));
    let read_of = |group, bytes, answers: &Arc<Answers>| {
        sender.push(Event::Read {
            policy: ReadPolicy::Confirmed,
            group: GroupId(group),
            query: Bytes::from(vec![0; bytes]),
            ticket: ticket(answers),
        });
    };
    (0..100).for_each(|_| read_of(2, 50, &flood));
    read_of(3, 100, &other);
    assert_eq!(other.overloaded.load(Ordering::Relaxed), 0);
    assert_eq!(flood.overloaded.load(Ordering::Relaxed), 100 - 17);
    assert_eq!(inbox.drain().events.count(), 17 + 1);
}
