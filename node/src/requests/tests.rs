//! Routing against a scripted worker and scripted links.

use super::*;
use crate::descriptor::RangeDescriptor;
use crate::metrics::Identity;
use multiraft::ReplicaId;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};

const GROUP: GroupId = GroupId(2);
const WAIT: Duration = Duration::from_secs(10);

/// Collects outcomes.
struct Gateway(Mutex<Sender<(u64, Outcome)>>);

impl AnswerSink for Gateway {
    fn answer(&self, number: u64, outcome: Outcome) {
        let answers = self.0.lock().unwrap();
        answers.send((number, outcome)).unwrap();
    }
}

/// Node 1 of nodes 1 to 3, with what it hands to its worker and to its links.
struct Node {
    requests: Requests,
    worker: Receiver<Event>,
    calls: Receiver<(NodeId, Item, Done)>,
    gateway: Arc<Gateway>,
    answers: Receiver<(u64, Outcome)>,
    metrics: Arc<Metrics>,
}

fn route() -> Routes {
    let nodes = [1, 2, 3];
    Routes::new(vec![RangeDescriptor {
        group: GROUP,
        start: Bytes::new(),
        end: None,
        generation: 1,
        replicas: BTreeMap::from(nodes.map(|id| (ReplicaId(id), NodeId(id)))),
    }])
}

fn node() -> Node {
    let metrics = Arc::new(Metrics::new(&Identity {
        cluster: "c".into(),
        node: 1,
    }));
    let (to_worker, worker) = channel();
    let to_worker = Mutex::new(to_worker);
    let (to_calls, calls) = channel();
    let to_calls = Mutex::new(to_calls);
    let wiring = Wiring {
        node: NodeId(1),
        routes: route(),
        push: Arc::new(move |_, event| to_worker.lock().unwrap().send(event).unwrap()),
        call: Arc::new(move |to, request, done| {
            let item = wire::decode_request(request).unwrap();
            to_calls.lock().unwrap().send((to, item, done)).unwrap();
        }),
        metrics: metrics.clone(),
        followers: vec![Arc::default()],
    };
    let (to_answers, answers) = channel();
    Node {
        requests: Requests::start(wiring),
        worker,
        calls,
        gateway: Arc::new(Gateway(Mutex::new(to_answers))),
        answers,
        metrics,
    }
}

impl Node {
    fn submit(&self, number: u64, kind: Kind, timeout: Duration) {
        let request = Request {
            target: Target::Key(Bytes::from_static(b"k")),
            kind,
            payload: Bytes::from_static(b"payload"),
            timeout,
        };
        let ticket = Ticket {
            sink: self.gateway.clone(),
            number,
        };
        self.requests.door(Api::Resp).submit(request, ticket);
    }

    /// The next ticket that the worker gets.
    fn at_worker(&self) -> Ticket {
        match self.worker.recv_timeout(WAIT).unwrap() {
            Event::Read { ticket, .. } | Event::Propose { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// The next call to another node.
    fn called(&self) -> (NodeId, Item, Done) {
        self.calls.recv_timeout(WAIT).unwrap()
    }

    fn outcome(&self) -> (u64, Outcome) {
        self.answers.recv_timeout(WAIT).unwrap()
    }
}

fn answered() -> Outcome {
    Outcome::Answered(Bytes::from_static(b"answer"))
}

fn yes() -> Result<Bytes, CallFailed> {
    Ok(wire::encode_outcome(&answered()))
}

fn not_leader(hint: Option<u64>) -> Outcome {
    Outcome::Refused(Refusal::NotLeader(hint.map(NodeId)))
}

#[test]
fn a_request_goes_to_the_own_worker_first_and_its_answer_back() {
    let node = node();
    node.submit(7, Kind::Write, WAIT);
    node.at_worker().answer(answered());
    assert_eq!(node.outcome(), (7, answered()));
    assert_eq!(node.requests.routes().leader(GROUP), Some(NodeId(1)));
    assert_eq!(node.requests.open(), 0);
}

#[test]
fn a_refusal_that_names_the_leader_forwards_at_once_and_the_hint_is_kept() {
    let node = node();
    node.submit(1, Kind::Write, WAIT);
    node.at_worker().answer(not_leader(Some(3)));
    let (to, item, done) = node.called();
    assert_eq!((to, item.group), (NodeId(3), GROUP));
    done(yes());
    assert_eq!(node.outcome(), (1, answered()));
    node.submit(2, Kind::Read, WAIT);
    let (to, _, done) = node.called();
    assert_eq!(to, NodeId(3));
    done(yes());
    assert_eq!(node.outcome(), (2, answered()));
}

#[test]
fn a_lost_link_makes_a_write_unknown_and_a_read_go_again() {
    let node = node();
    node.requests.routes().learn(GROUP, NodeId(2));
    node.submit(1, Kind::Write, WAIT);
    (node.called().2)(Err(CallFailed::Lost));
    assert_eq!(node.outcome(), (1, Outcome::Unknown));
    node.submit(2, Kind::Read, WAIT);
    (node.called().2)(Err(CallFailed::Lost));
    (node.called().2)(yes());
    assert_eq!(node.outcome(), (2, answered()));
}

#[test]
fn an_unsent_call_is_tried_elsewhere_even_for_a_write() {
    let node = node();
    node.requests.routes().learn(GROUP, NodeId(2));
    node.submit(1, Kind::Write, WAIT);
    (node.called().2)(Err(CallFailed::NoLink));
    let (to, _, done) = node.called();
    assert_eq!(to, NodeId(2), "the next after the own replica");
    done(Err(CallFailed::NoLink));
    let (to, _, done) = node.called();
    assert_eq!(to, NodeId(3));
    done(yes());
    assert_eq!(node.outcome(), (1, answered()));
}

#[test]
fn a_silent_worker_makes_a_write_unknown_and_a_read_refused_and_late_answers_are_dropped() {
    let node = node();
    node.submit(1, Kind::Write, Duration::from_millis(40));
    let late = node.at_worker();
    assert_eq!(node.outcome(), (1, Outcome::Unknown));
    node.submit(2, Kind::Read, Duration::from_millis(40));
    let _silent = node.at_worker();
    assert_eq!(node.outcome(), (2, not_leader(None)));
    late.answer(answered());
    assert_eq!(node.metrics.requests.late.get(), 1);
    assert!(node.answers.try_recv().is_err());
}

#[test]
fn without_a_leader_a_write_is_refused_not_unknown() {
    let node = node();
    node.submit(1, Kind::Write, Duration::from_millis(60));
    let mut refuses = 0;
    while node.requests.open() > 0 {
        if let Ok(Event::Propose { ticket, .. }) = node.worker.try_recv() {
            ticket.answer(not_leader(None));
            refuses += 1;
        }
        if let Ok((_, _, done)) = node.calls.try_recv() {
            done(Ok(wire::encode_outcome(&not_leader(None))));
            refuses += 1;
        }
        std::thread::yield_now();
    }
    assert!(refuses >= 2, "tried again: {refuses}");
    assert_eq!(node.outcome(), (1, not_leader(None)));
}

#[test]
fn stopping_answers_everything_that_is_open() {
    let node = node();
    node.submit(1, Kind::Write, WAIT);
    node.submit(2, Kind::Read, WAIT);
    node.requests.stop();
    let mut outcomes = [node.outcome(), node.outcome()];
    outcomes.sort_by_key(|(number, _)| *number);
    assert_eq!(outcomes[0], (1, Outcome::Unknown));
    assert_eq!(outcomes[1], (2, Outcome::Refused(Refusal::Stopping)));
}

#[test]
fn a_forwarded_request_is_tried_here_only() {
    let node = node();
    let item = Item {
        kind: Kind::Write,
        group: GROUP,
        payload: Bytes::from_static(b"p"),
    };
    for outcome in [not_leader(Some(2)), answered()] {
        let (reply, replied) = channel();
        let reply: Reply = Box::new(move |bytes| reply.send(bytes).unwrap());
        node.requests.serve(wire::encode_request(&item), reply);
        node.at_worker().answer(outcome.clone());
        let replied = replied.recv_timeout(WAIT).unwrap();
        assert_eq!(wire::decode_outcome(replied).unwrap(), outcome);
    }
    assert!(node.calls.try_recv().is_err(), "never forwarded again");
}

#[test]
fn bytes_that_are_no_request_get_an_empty_reply() {
    let (reply, replied) = channel();
    let reply: Reply = Box::new(move |bytes| reply.send(bytes).unwrap());
    node().requests.serve(Bytes::from_static(b"junk"), reply);
    assert_eq!(replied.recv_timeout(WAIT).unwrap(), Bytes::new());
}

#[test]
fn the_timekeeper_wakes_after_it_fell_asleep() {
    let node = node();
    let keeper = &node.requests.shared.keeper;
    let started = Instant::now();
    while !keeper.sleeps() {
        assert!(started.elapsed() < WAIT, "never falls asleep");
        std::thread::yield_now();
    }
    node.submit(1, Kind::Write, Duration::from_millis(30));
    assert_eq!(node.outcome(), (1, Outcome::Unknown));
}

#[test]
fn what_the_own_replica_hears_of_leaders_counts_at_once() {
    let node = node();
    node.requests.note_leader(GROUP, Some(NodeId(3)));
    node.submit(1, Kind::Write, WAIT);
    assert_eq!(node.called().0, NodeId(3), "and it never answers");
    node.requests.note_leader(GROUP, Some(NodeId(2)));
    node.submit(2, Kind::Write, WAIT);
    assert_eq!(node.called().0, NodeId(2));
    node.requests.note_leader(GROUP, None);
    node.submit(3, Kind::Write, WAIT);
    node.at_worker();
}

#[test]
fn a_node_that_let_the_time_pass_is_not_the_first_to_be_asked_again() {
    let node = node();
    node.requests.note_leader(GROUP, Some(NodeId(3)));
    node.submit(1, Kind::Write, Duration::from_millis(30));
    let (to, _, _unanswered) = node.called();
    assert_eq!((to, node.outcome()), (NodeId(3), (1, Outcome::Unknown)));
    node.submit(2, Kind::Write, WAIT);
    node.at_worker();
}
