//! The gateway over a service of two in-memory ranges, split at `m`.

use super::*;
use flotilla_client::protocol::Operation;
use multiraft::{GroupId, Queried, Stamp};
use std::collections::BTreeMap;
use std::sync::mpsc;

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
struct TwoRanges {
    states: Mutex<BTreeMap<GroupId, Rows>>,
    /// Answered instead, when set.
    outcome: Mutex<Option<Outcome>>,
    /// Kept instead of answered.
    kept: Mutex<Vec<Ticket>>,
    keep: bool,
}

impl Service for TwoRanges {
    fn submit(&self, request: service::Request, ticket: Ticket) {
        if self.keep {
            self.kept.lock().expect("sound").push(ticket);
            return;
        }
        if let Some(outcome) = self.outcome.lock().expect("sound").clone() {
            return ticket.answer(outcome);
        }
        let group = match &request.target {
            Target::Key(key) => self.group_of(key),
            Target::Group(group) => *group,
        };
        let mut states = self.states.lock().expect("sound");
        let state = states.entry(group).or_default();
        let answer = match request.kind {
            Kind::Write => {
                let mut applier = kv::Applier::begin(state);
                let answer = applier.command(Stamp(1), &request.payload);
                applier.finish();
                answer
            }
            Kind::Read => match kv::evaluate(state, &request.payload, Stamp(1)) {
                Queried::Answer(answer) => answer,
                Queried::AdvanceClock => panic!("nothing expires here"),
            },
        };
        ticket.answer(Outcome::Answered(answer));
    }

    fn group_of(&self, key: &[u8]) -> GroupId {
        GroupId(if key < &b"m"[..] { 2 } else { 3 })
    }

    fn ranges(&self) -> Vec<RangeRoute> {
        let border = Bytes::from("m");
        vec![
            RangeRoute {
                group: GroupId(2),
                start: Bytes::new(),
                end: Some(border.clone()),
            },
            RangeRoute {
                group: GroupId(3),
                start: border,
                end: None,
            },
        ]
    }
}

struct Nobody;

impl Admin for Nobody {
    fn status(&self) -> Status {
        Status {
            node: 7,
            ..Status::default()
        }
    }

    fn ranges(&self) -> Vec<RangeRow> {
        vec![RangeRow {
            id: 2,
            ..RangeRow::default()
        }]
    }

    fn routes(&self, _with_ranges: bool) -> Routes {
        Routes::default()
    }

    fn nodes(&self) -> Vec<NodeRow> {
        vec![NodeRow {
            id: 7,
            ..NodeRow::default()
        }]
    }
}

struct Sent(mpsc::Sender<Bytes>);

impl Reply for Sent {
    fn send(self, payload: Bytes) {
        self.0.send(payload).expect("the test waits");
    }
}

struct Gateway {
    native: Native<Sent>,
    service: Arc<TwoRanges>,
}

impl Gateway {
    fn over(service: TwoRanges) -> Gateway {
        let limits = RequestLimits {
            key_bytes_max: 8,
            value_bytes_max: 16,
            ..RequestLimits::default()
        };
        let service = Arc::new(service);
        Gateway {
            native: Native::new(service.clone(), Arc::new(Nobody), limits),
            service,
        }
    }

    fn new() -> Gateway {
        Gateway::over(TwoRanges::default())
    }

    fn raw(&self, payload: &Bytes) -> Bytes {
        let (sender, receiver) = mpsc::channel();
        self.native.call(payload, Sent(sender));
        receiver.try_recv().expect("answered at once")
    }

    /// Asks and shows the response as text.
    fn ask(&self, request: Request<'_>) -> String {
        let mut frame = bytes::BytesMut::new();
        Call {
            timeout_ms: 1000,
            request,
        }
        .encode_frame(1, &mut frame);
        let payload = self.raw(&frame.freeze().slice(flotilla_client::protocol::HEAD_BYTES..));
        format!(
            "{:?}",
            Response::decode(&payload).expect("the gateway speaks the protocol")
        )
    }

    fn put(&self, key: &str, value: &str) {
        let request = Request::Put {
            key: Slice(key.as_bytes()),
            value: Slice(value.as_bytes()),
        };
        assert_eq!(self.ask(request), "Done");
    }
}

fn get(key: &[u8]) -> Request<'_> {
    Request::Get { key: Slice(key) }
}

fn scan(start: &'static str, end: Option<&'static str>, limit: u32) -> Request<'static> {
    Request::Scan {
        start: Slice(start.as_bytes()),
        end: end.map(|end| Slice(end.as_bytes())),
        limit,
        values: false,
    }
}

fn shown(response: &Response<'_>) -> String {
    format!("{response:?}")
}

fn page(keys: &[&str], next: Option<&str>) -> String {
    let row = |key: &&'static str| Row {
        key: Slice(key.as_bytes()),
        value: None,
    };
    let keys: Vec<&'static str> = keys
        .iter()
        .map(|key| &*String::leak((*key).to_string()))
        .collect();
    let rows = keys.iter().map(row).collect();
    shown(&Response::Page {
        rows,
        next: next.map(|key| Slice(key.as_bytes())),
    })
}

#[test]
fn keys_are_written_read_and_removed() {
    let gateway = Gateway::new();
    assert_eq!(gateway.ask(get(b"k")), shown(&Response::Value(None)));
    gateway.put("k", "v");
    assert!(
        gateway
            .ask(get(b"k"))
            .starts_with("Value(Some(Versioned { value: Slice([118])")
    );
    assert_eq!(gateway.ask(Request::Delete { key: Slice(b"k") }), "Deleted(true)");
    assert_eq!(
        gateway.ask(Request::Delete { key: Slice(b"k") }),
        "Deleted(false)"
    );
    assert_eq!(gateway.native.waiting(), 0);
}

#[test]
fn compare_and_set_tells_the_version() {
    let gateway = Gateway::new();
    let cas = |expect| Request::Cas {
        key: Slice(b"k"),
        expect,
        value: Some(Slice(b"v")),
    };
    assert_eq!(gateway.ask(cas(Expect::Present)), "Mismatch(None)");
    let swapped = gateway.ask(cas(Expect::Absent));
    let version = swapped
        .strip_prefix("Swapped(")
        .and_then(|v| v.strip_suffix(')'))
        .expect("it is absent");
    let version: u64 = version.parse().expect("a number");
    assert_eq!(
        gateway.ask(cas(Expect::Absent)),
        format!("Mismatch(Some({version}))")
    );
    assert!(gateway.ask(cas(Expect::Version(version))).starts_with("Swapped("));
    assert!(
        gateway
            .ask(cas(Expect::Value(Slice(b"v"))))
            .starts_with("Swapped(")
    );
}

#[test]
fn scans_walk_from_range_to_range() {
    let gateway = Gateway::new();
    ["a", "b", "n", "o"].iter().for_each(|key| gateway.put(key, "v"));
    assert_eq!(gateway.ask(scan("", None, 1)), page(&["a"], Some("b")));
    assert_eq!(gateway.ask(scan("b", None, 9)), page(&["b"], Some("m")));
    assert_eq!(gateway.ask(scan("m", None, 9)), page(&["n", "o"], None));
    assert_eq!(gateway.ask(scan("a", Some("b"), 9)), page(&["a"], None));
    assert_eq!(gateway.ask(scan("a", Some("m"), 9)), page(&["a", "b"], None));
    assert_eq!(gateway.ask(scan("a", Some("o"), 9)), page(&["a", "b"], Some("m")));
    assert_eq!(gateway.ask(scan("m", Some("o"), 9)), page(&["n"], None));
}

#[test]
fn batches_stay_within_a_tag() {
    let gateway = Gateway::new();
    let put = |key: &'static [u8]| Operation::Put(Slice(key), Slice(b"v"));
    let together = Request::Batch {
        operations: vec![put(b"{t}a"), put(b"{t}b")],
    };
    assert_eq!(gateway.ask(together), "Done");
    assert!(gateway.ask(get(b"{t}b")).starts_with("Value(Some"));
    let apart = Request::Batch {
        operations: vec![put(b"a"), put(b"b")],
    };
    assert_eq!(gateway.ask(apart), "Rejected(CrossRange)");
    assert_eq!(gateway.ask(Request::Batch { operations: vec![] }), "Done");
}

#[test]
fn limits_and_nonsense_are_refused_before_the_service() {
    let gateway = Gateway::new();
    assert_eq!(gateway.ask(get(b"123456789")), "Rejected(KeyTooLarge(8))");
    let value = Slice(b"12345678901234567");
    assert_eq!(
        gateway.ask(Request::Put {
            key: Slice(b"k"),
            value
        }),
        "Rejected(ValueTooLarge(16))"
    );
    assert!(gateway.ask(scan("", None, 0)).starts_with("Rejected(BadRequest"));
    for payload in [&b""[..], &[1], &[2, 0, 0], &[1, 0, 200], &[0xff; 64]] {
        let response = gateway.raw(&Bytes::copy_from_slice(payload));
        let response = Response::decode(&response).expect("refused in the protocol's own words");
        assert!(
            matches!(response, Response::Rejected(Rejection::BadRequest(_))),
            "{payload:?}"
        );
    }
    assert!(gateway.service.states.lock().expect("sound").is_empty());
}

#[test]
fn outcomes_are_not_blurred() {
    let gateway = Gateway::new();
    let cases = [
        (Outcome::Unknown, "Rejected(Unknown)"),
        (
            Outcome::Refused(Refusal::NotLeader(None)),
            "Rejected(Refused(NoLeader))",
        ),
        (
            Outcome::Refused(Refusal::Overloaded),
            "Rejected(Refused(Overloaded))",
        ),
        (Outcome::Refused(Refusal::NoSpace), "Rejected(Refused(NoSpace))"),
        (Outcome::Refused(Refusal::Stopping), "Rejected(Refused(Stopping))"),
        (Outcome::Answered(Bytes::from_static(b"?")), "Rejected(Unknown)"),
        (
            Outcome::Answered(Answer::Failed(Failure::WrongRange).encode()),
            "Rejected(Refused(Moved))",
        ),
    ];
    for (outcome, expected) in cases {
        *gateway.service.outcome.lock().expect("sound") = Some(outcome);
        assert_eq!(
            gateway.ask(Request::Put {
                key: Slice(b"k"),
                value: Slice(b"v")
            }),
            expected
        );
    }
}

#[test]
fn answers_may_come_late_and_in_any_order() {
    let gateway = Gateway::over(TwoRanges {
        keep: true,
        ..TwoRanges::default()
    });
    let receivers: Vec<_> = (0..3_u64)
        .map(|number| {
            let (sender, receiver) = mpsc::channel();
            let mut frame = bytes::BytesMut::new();
            Call {
                timeout_ms: 1000,
                request: get(b"k"),
            }
            .encode_frame(number, &mut frame);
            let payload = frame.freeze().slice(flotilla_client::protocol::HEAD_BYTES..);
            gateway.native.call(&payload, Sent(sender));
            receiver
        })
        .collect();
    assert_eq!(gateway.native.waiting(), 3);
    let kept = std::mem::take(&mut *gateway.service.kept.lock().expect("sound"));
    for (i, ticket) in kept.into_iter().enumerate().rev() {
        ticket.answer(Outcome::Answered(Answer::Nil.encode()));
        assert_eq!(receivers[i].try_recv(), Ok(Response::Value(None).encode()));
    }
    assert_eq!(gateway.native.waiting(), 0);
}

#[test]
fn the_node_tells_about_the_cluster() {
    let gateway = Gateway::new();
    assert_eq!(gateway.ask(Request::Ping), "Done");
    assert!(
        gateway
            .ask(Request::Status)
            .starts_with("Status(Status { cluster_id: \"\", node: 7")
    );
    assert!(
        gateway
            .ask(Request::RangeLs)
            .starts_with("Ranges([RangeRow { id: 2")
    );
    assert!(gateway.ask(Request::NodeLs).starts_with("Nodes([NodeRow { id: 7"));
}
