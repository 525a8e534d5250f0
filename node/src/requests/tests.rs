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
    calls: Receiver<(
        NodeId,
        Vec<Item>,
        tokio::sync::oneshot::Sender<Result<Bytes, CallFailed>>,
    )>,
    gateway: Arc<Gateway>,
    answers: Receiver<(u64, Outcome)>,
    metrics: Arc<Metrics>,
    _runtime: tokio::runtime::Runtime,
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
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
        peers: vec![NodeId(2), NodeId(3)],
        routes: route(),
        push: Arc::new(move |_, event| to_worker.lock().unwrap().send(event).unwrap()),
        call: Arc::new(move |to, batch| {
            let (answer, wait) = tokio::sync::oneshot::channel();
            let items = wire::decode_batch(batch).unwrap();
            to_calls.lock().unwrap().send((to, items, answer)).unwrap();
            Box::pin(async { wait.await.unwrap_or(Err(CallFailed::Lost)) })
        }),
        metrics: metrics.clone(),
        follower: Arc::default(),
    };
    let (to_answers, answers) = channel();
    Node {
        requests: Requests::start(wiring, runtime.handle()),
        worker,
        calls,
        gateway: Arc::new(Gateway(Mutex::new(to_answers))),
        answers,
        metrics,
        _runtime: runtime,
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

    fn outcome(&self) -> (u64, Outcome) {
        self.answers.recv_timeout(WAIT).unwrap()
    }
}

fn answered() -> Outcome {
    Outcome::Answered(Bytes::from_static(b"answer"))
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
    let (to, items, answer) = node.calls.recv_timeout(WAIT).unwrap();
    assert_eq!((to, items.len(), items[0].group), (NodeId(3), 1, GROUP));
    answer.send(Ok(wire::encode_answers(&[answered()]))).unwrap();
    assert_eq!(node.outcome(), (1, answered()));
    node.submit(2, Kind::Read, WAIT);
    let (to, _, answer) = node.calls.recv_timeout(WAIT).unwrap();
    assert_eq!(to, NodeId(3));
    answer.send(Ok(wire::encode_answers(&[answered()]))).unwrap();
    assert_eq!(node.outcome(), (2, answered()));
}

#[test]
fn what_is_submitted_together_is_forwarded_together() {
    let node = node();
    node.requests.routes().learn(GROUP, NodeId(2));
    for number in 0..200 {
        node.submit(number, Kind::Write, WAIT);
    }
    let (mut batches, mut count) = (0, 0);
    while count < 200 {
        let (_, items, answer) = node.calls.recv_timeout(WAIT).unwrap();
        (batches, count) = (batches + 1, count + items.len());
        let _ = answer.send(Ok(wire::encode_answers(&vec![answered(); items.len()])));
    }
    let mut numbers: Vec<u64> = (0..200).map(|_| node.outcome().0).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(batches < 200, "{batches} batches");
}

#[test]
fn a_lost_link_makes_a_write_unknown_and_a_read_go_again() {
    let node = node();
    node.requests.routes().learn(GROUP, NodeId(2));
    node.submit(1, Kind::Write, WAIT);
    node.calls
        .recv_timeout(WAIT)
        .unwrap()
        .2
        .send(Err(CallFailed::Lost))
        .unwrap();
    assert_eq!(node.outcome(), (1, Outcome::Unknown));
    node.submit(2, Kind::Read, WAIT);
    node.calls
        .recv_timeout(WAIT)
        .unwrap()
        .2
        .send(Err(CallFailed::Lost))
        .unwrap();
    let (_, _, again) = node.calls.recv_timeout(WAIT).unwrap();
    again.send(Ok(wire::encode_answers(&[answered()]))).unwrap();
    assert_eq!(node.outcome(), (2, answered()));
}

#[test]
fn an_unsent_call_is_tried_elsewhere_even_for_a_write() {
    let node = node();
    node.requests.routes().learn(GROUP, NodeId(2));
    node.submit(1, Kind::Write, WAIT);
    node.calls
        .recv_timeout(WAIT)
        .unwrap()
        .2
        .send(Err(CallFailed::NotSent))
        .unwrap();
    let (to, _, answer) = node.calls.recv_timeout(WAIT).unwrap();
    assert_eq!(to, NodeId(2), "the next after the own replica");
    answer.send(Err(CallFailed::NotSent)).unwrap();
    let (to, _, answer) = node.calls.recv_timeout(WAIT).unwrap();
    assert_eq!(to, NodeId(3));
    answer.send(Ok(wire::encode_answers(&[answered()]))).unwrap();
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
        if let Ok((_, items, answer)) = node.calls.try_recv() {
            let _ = answer.send(Ok(wire::encode_answers(&vec![not_leader(None); items.len()])));
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
fn a_forwarded_batch_is_tried_here_only() {
    let node = node();
    let items = [Kind::Read, Kind::Write].map(|kind| Item {
        kind,
        group: GROUP,
        payload: Bytes::from_static(b"p"),
    });
    let served = std::thread::scope(|scope| {
        let requests = node.requests.clone();
        let batch = wire::encode_batch(items.iter());
        let serving = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(requests.serve(batch))
        });
        node.at_worker().answer(not_leader(Some(2)));
        node.at_worker().answer(answered());
        serving.join().unwrap()
    });
    let outcomes = wire::decode_answers(served.unwrap()).unwrap();
    assert_eq!(outcomes, [not_leader(Some(2)), answered()]);
    assert!(node.calls.try_recv().is_err(), "never forwarded again");
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
