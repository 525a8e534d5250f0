//! The state machine as a whole: what commands do, and that replicas agree however entries are batched.

use super::command::{Condition, Expect, ExpireCondition, Lifetime, Operation};
use super::limits::{FLUSH_KEYS_MAX, PURGE_KEYS_MAX};
use super::*;
use bytes::Bytes;
use multiraft::{Queried, Stamp};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Rows = BTreeMap<Bytes, Bytes>;

fn apply(rows: &mut Rows, stamp: u64, command: Command<'_>) -> Answer {
    let mut applier = Applier::begin(rows);
    let answer = applier.command(Stamp(stamp), &command.encode());
    applier.finish();
    Answer::decode(answer).expect("an answer")
}

fn ask(rows: &Rows, stamp: u64, query: Query<'_>) -> Option<Answer> {
    match evaluate(rows, &query.encode(), Stamp(stamp)) {
        Queried::Answer(bytes) => Some(Answer::decode(bytes).expect("an answer")),
        Queried::AdvanceClock => None,
    }
}

fn key(text: &str) -> Slice<'_> {
    Slice(text.as_bytes())
}

fn put<'a>(name: &'a str, value: &'a str) -> Command<'a> {
    Command::Put {
        key: key(name),
        value: key(value),
    }
}

fn set<'a>(name: &'a str, value: &'a str, lifetime: Lifetime) -> Command<'a> {
    Command::Set {
        key: key(name),
        value: key(value),
        condition: Condition::Always,
        lifetime,
        get: false,
    }
}

fn get(rows: &Rows, stamp: u64, name: &str) -> Option<Option<String>> {
    match ask(rows, stamp, Query::Get { key: key(name) })? {
        Answer::Record(record) => Some(Some(String::from_utf8_lossy(&record.value).into_owned())),
        Answer::Nil => Some(None),
        other => panic!("{other:?}"),
    }
}

fn versions(rows: &Rows, stamp: u64, names: &[&str]) -> Vec<Option<u64>> {
    let keys = names.iter().map(|name| key(name)).collect();
    match ask(rows, stamp, Query::Versions { keys }) {
        Some(Answer::Values(values)) => values
            .into_iter()
            .map(|value| Some(u64::from_le_bytes(value?[..].try_into().unwrap())))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Adds one to `n` and reads it, if `watched` is as it was.
fn counted(rows: &mut Rows, stamp: u64, watched: &str, version: Option<u64>) -> Answer {
    let add = Command::Add {
        key: key("n"),
        delta: 1,
    }
    .encode();
    let read = Query::Get { key: key("n") }.encode();
    let watched = vec![Watched {
        key: key(watched),
        version,
    }];
    let steps = vec![Step::Write(Slice(&add)), Step::Read(Slice(&read))];
    apply(rows, stamp, Command::Transaction { watched, steps })
}

#[test]
fn a_transaction_does_all_of_it_or_nothing() {
    let mut rows = Rows::new();
    apply(&mut rows, 1, put("w", "1"));
    let seen = versions(&rows, 1, &["w", "absent"]);
    assert!(seen[0].is_some() && seen[1].is_none());
    let Answer::Many(answers) = counted(&mut rows, 2, "w", seen[0]) else {
        panic!("nothing was changed");
    };
    assert_eq!(answers[0], Answer::Integer(1));
    assert!(
        matches!(&answers[1], Answer::Record(record) if record.value == "1"),
        "a step sees those before it"
    );
    apply(&mut rows, 3, put("w", "1"));
    assert_eq!(
        counted(&mut rows, 4, "w", seen[0]),
        Answer::Nil,
        "written, though with the same value"
    );
    assert_eq!(counted(&mut rows, 4, "absent", Some(7)), Answer::Nil);
    assert_eq!(counted(&mut rows, 4, "w", None), Answer::Nil);
    assert_eq!(get(&rows, 4, "n"), Some(Some("1".to_owned())));
    assert!(matches!(counted(&mut rows, 5, "absent", None), Answer::Many(_)));
}

#[test]
fn a_watched_key_that_expires_has_changed() {
    let mut rows = Rows::new();
    apply(&mut rows, 1, set("w", "1", Lifetime::After(100)));
    let seen = versions(&rows, 50, &["w"])[0];
    assert!(matches!(counted(&mut rows, 100, "w", seen), Answer::Many(_)));
    assert_eq!(counted(&mut rows, 101, "w", seen), Answer::Nil);
}

#[test]
fn a_step_that_fails_stops_no_other_and_what_is_no_step_stops_all() {
    let mut rows = Rows::new();
    apply(&mut rows, 1, put("text", "x"));
    let wrong = Command::Add {
        key: key("text"),
        delta: 1,
    }
    .encode();
    let right = put("a", "1").encode();
    let steps = vec![Step::Write(Slice(&wrong)), Step::Write(Slice(&right))];
    let inner = Command::Transaction {
        watched: vec![],
        steps,
    };
    assert_eq!(
        apply(&mut rows, 2, inner.clone()),
        Answer::Many(vec![Answer::Failed(Failure::NotInteger), Answer::Done])
    );
    let (inner, other) = (inner.encode(), put("b", "1").encode());
    for bad in [&inner[..], b"", b"\x01\xff", b"\x02"] {
        let steps = vec![Step::Write(Slice(&other)), Step::Write(Slice(bad))];
        let command = Command::Transaction {
            watched: vec![],
            steps,
        };
        assert_eq!(apply(&mut rows, 3, command), Answer::Failed(Failure::Undecodable));
        assert_eq!(get(&rows, 3, "b"), Some(None));
    }
}

#[test]
fn a_transaction_names_the_keys_of_its_steps() {
    let mut rows = Rows::new();
    let span = Span {
        start: b"a",
        end: Some(b"m"),
    };
    let (inside, outside) = (put("b", "1").encode(), put("z", "1").encode());
    let read = Query::Versions {
        keys: vec![key("b"), key("z")],
    }
    .encode();
    let rename = Command::Rename {
        key: key("b"),
        to: key("z"),
        absent: false,
    };
    let transaction = |step| Command::Transaction {
        watched: vec![],
        steps: vec![Step::Write(Slice(&inside)), step],
    };
    let watching = Command::Transaction {
        watched: vec![Watched {
            key: key("z"),
            version: None,
        }],
        steps: vec![Step::Write(Slice(&inside))],
    };
    for command in [
        transaction(Step::Write(Slice(&outside))),
        transaction(Step::Read(Slice(&read))),
        watching,
        rename,
    ] {
        let mut applier = Applier::begin_within(&mut rows, span);
        let answer = applier.command(Stamp(1), &command.encode());
        applier.finish();
        assert_eq!(
            Answer::decode(answer),
            Some(Answer::Failed(Failure::WrongRange)),
            "{command:?}"
        );
        assert_eq!(get(&rows, 1, "b"), Some(None));
    }
}

#[test]
fn a_value_moves_with_its_deadline() {
    let mut rows = Rows::new();
    let rename = |absent| Command::Rename {
        key: key("a"),
        to: key("b"),
        absent,
    };
    assert_eq!(apply(&mut rows, 1, rename(false)), Answer::Nil);
    apply(&mut rows, 1, set("a", "v", Lifetime::After(100)));
    apply(&mut rows, 1, set("b", "w", Lifetime::After(50)));
    assert_eq!(apply(&mut rows, 2, rename(true)), Answer::Integer(0));
    assert_eq!(apply(&mut rows, 2, rename(false)), Answer::Integer(1));
    assert_eq!(get(&rows, 60, "a"), Some(None));
    assert_eq!(get(&rows, 60, "b"), Some(Some("v".to_owned())));
    assert_eq!(ask(&rows, 2, Query::Count), Some(Answer::Integer(1)));
    apply(&mut rows, 101, Command::Delete { keys: vec![] });
    assert_eq!(
        ask(&rows, 101, Query::Count),
        Some(Answer::Integer(0)),
        "purged by its own deadline"
    );
    assert_eq!(next_expiry(&rows), None);
}

#[test]
fn a_deadline_between_clock_and_stamp_asks_for_the_clock_to_advance() {
    let mut rows = Rows::new();
    apply(&mut rows, 1000, set("k", "v", Lifetime::After(100)));
    assert_eq!(next_expiry(&rows), Some(1100));
    assert_eq!(get(&rows, 1099, "k"), Some(Some("v".into())));
    assert_eq!(get(&rows, 1100, "k"), None, "undecided until the clock is there");
    assert_eq!(
        ask(
            &rows,
            1100,
            Query::Scan(Scan {
                examine: 10,
                ..Scan::default()
            })
        ),
        None
    );
    let mut applier = Applier::begin(&mut rows);
    applier.stamp(Stamp(1100));
    applier.finish();
    assert_eq!(clock(&rows), Stamp(1100));
    assert_eq!(
        get(&rows, 1050, "k"),
        Some(None),
        "an older stamp does not bring it back"
    );
    assert_eq!(next_expiry(&rows), None);
    assert_eq!(rows.len(), 1, "only the counters are left");
}

#[test]
fn the_clock_never_goes_back() {
    let mut rows = Rows::new();
    apply(&mut rows, 1000, put("a", "1"));
    apply(&mut rows, 500, set("b", "1", Lifetime::After(10)));
    assert_eq!(clock(&rows), Stamp(1000));
    assert_eq!(next_expiry(&rows), Some(1010));
}

#[test]
fn purging_is_bounded_and_goes_on_with_later_entries() {
    let mut rows = Rows::new();
    for number in 0..PURGE_KEYS_MAX + 1 {
        apply(&mut rows, 1, set(&number.to_string(), "v", Lifetime::Until(10)));
    }
    let mut applier = Applier::begin(&mut rows);
    applier.stamp(Stamp(10));
    applier.finish();
    assert_eq!(ask(&rows, 10, Query::Count), Some(Answer::Integer(1)));
    assert_eq!(
        next_expiry(&rows),
        Some(10),
        "the leader is told that more is due"
    );
    apply(&mut rows, 11, put("x", "y"));
    assert_eq!(next_expiry(&rows), None);
    assert_eq!(ask(&rows, 11, Query::Count), Some(Answer::Integer(1)));
}

#[test]
fn versions_grow_and_compare_and_set_holds_to_them() {
    let mut rows = Rows::new();
    let cas = |expect, value| Command::CompareAndSet {
        key: key("k"),
        expect,
        value,
        lifetime: Lifetime::Forever,
    };
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Absent, Some(key("a")))),
        Answer::Integer(1)
    );
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Absent, Some(key("b")))),
        Answer::Mismatch { version: Some(1) }
    );
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Version(1), Some(key("c")))),
        Answer::Integer(2)
    );
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Value(key("a")), None)),
        Answer::Mismatch { version: Some(2) }
    );
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Value(key("c")), None)),
        Answer::Integer(3)
    );
    assert_eq!(
        apply(&mut rows, 1, cas(Expect::Present, None)),
        Answer::Mismatch { version: None }
    );
}

#[test]
fn a_flush_is_bounded_and_says_what_is_left() {
    let mut rows = Rows::new();
    for number in 0..FLUSH_KEYS_MAX + 3 {
        apply(&mut rows, 1, set(&number.to_string(), "v", Lifetime::Until(100)));
    }
    assert_eq!(apply(&mut rows, 2, Command::Flush), Answer::Integer(3));
    assert_eq!(apply(&mut rows, 2, Command::Flush), Answer::Integer(0));
    assert_eq!(rows.len(), 1, "no index row is left behind");
}

#[test]
fn a_scan_walks_in_pages() {
    let mut rows = Rows::new();
    for name in ["a", "b", "c", "d"] {
        apply(&mut rows, 1, put(name, name));
    }
    let scan = Scan {
        start: key("b"),
        end: Some(key("d")),
        pattern: None,
        examine: 1,
        values: true,
    };
    let Some(Answer::Page(page)) = ask(&rows, 1, Query::Scan(scan.clone())) else {
        panic!("no page")
    };
    assert_eq!(page.rows, [("b".into(), Some("b".into()))]);
    assert_eq!(page.next, Some("c".into()));
    let Some(Answer::Page(page)) = ask(
        &rows,
        1,
        Query::Scan(Scan {
            start: key("c"),
            ..scan
        }),
    ) else {
        panic!("no page")
    };
    assert_eq!(page.rows, [("c".into(), Some("c".into()))]);
    assert_eq!(page.next, None);
}

#[test]
fn bytes_that_are_no_command_are_refused_and_change_nothing_but_the_clock() {
    let mut rows = Rows::new();
    for garbage in [
        &b""[..],
        b"\0",
        b"\x01",
        b"\x01\xff",
        b"\x02\0\x01k\x01v",
        b"\x01\0\x01k\x01v!",
    ] {
        let mut applier = Applier::begin(&mut rows);
        let answer = applier.command(Stamp(1), garbage);
        applier.finish();
        assert_eq!(Answer::decode(answer), Some(Answer::Failed(Failure::Undecodable)));
        let Queried::Answer(answer) = evaluate(&rows, garbage, Stamp(1)) else {
            panic!("no answer")
        };
        assert_eq!(Answer::decode(answer), Some(Answer::Failed(Failure::Undecodable)));
    }
    assert_eq!(rows.len(), 1);
}

#[test]
fn answers_survive_the_wire() {
    let answers = [
        Answer::Done,
        Answer::Nil,
        Answer::Integer(-5),
        Answer::Value("v".into()),
        Answer::Values(vec![None, Some("".into()), Some("x".into())]),
        Answer::Expiry {
            deadline: None,
            stamp: 7,
        },
        Answer::Expiry {
            deadline: Some(8),
            stamp: 7,
        },
        Answer::Mismatch { version: None },
        Answer::Failed(Failure::WrongRange),
        Answer::Many(vec![Answer::Nil, Answer::Integer(3)]),
        Answer::Many(vec![]),
    ];
    for answer in answers {
        assert_eq!(Answer::decode(answer.encode()), Some(answer));
    }
}

/// One entry of a history: an encoded command or a bare stamp, and the time since the entry before.
#[derive(Clone, Debug)]
struct Logged {
    after: u64,
    command: Option<Bytes>,
}

fn lifetimes() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        Just(Lifetime::Forever),
        Just(Lifetime::Keep),
        (-5i64..20).prop_map(Lifetime::After),
        (0i64..300).prop_map(Lifetime::Until),
    ]
}

fn within_a_transaction(name: Slice<'_>, other: Slice<'_>, value: Slice<'_>) -> Bytes {
    let rename = Command::Rename {
        key: other,
        to: name,
        absent: false,
    };
    let (rename, take) = (rename.encode(), Command::Take { key: name }.encode());
    let (put, read) = (
        Command::Put { key: name, value }.encode(),
        Query::Get { key: other }.encode(),
    );
    let watched = vec![Watched {
        key: other,
        version: None,
    }];
    let writes = [&rename, &put, &take].map(|command| Step::Write(Slice(command)));
    let steps = [writes[0], writes[1], Step::Read(Slice(&read)), writes[2]].to_vec();
    Command::Transaction { watched, steps }.encode()
}

fn steps() -> impl Strategy<Value = Logged> {
    let names = prop::sample::select(vec!["a", "b", "c", "{t}1", "{t}2"]);
    let values = prop::sample::select(vec!["", "1", "-7", "2.5", "text"]);
    let conditions = prop::sample::select(vec![Condition::Always, Condition::Absent, Condition::Present]);
    let command = (
        0..14u8,
        names.clone(),
        names,
        values,
        lifetimes(),
        conditions,
        any::<bool>(),
    )
        .prop_map(|(kind, name, other, value, lifetime, condition, flag)| {
            let (name, other, value) = (key(name), key(other), key(value));
            let command = match kind {
                0 => Command::Put { key: name, value },
                12 => Command::Rename {
                    key: name,
                    to: other,
                    absent: flag,
                },
                13 => return within_a_transaction(name, other, value),
                1 | 2 => Command::Set {
                    key: name,
                    value,
                    condition,
                    lifetime,
                    get: flag,
                },
                3 => Command::Delete {
                    keys: vec![name, other],
                },
                4 => Command::Take { key: name },
                5 => Command::Touch { key: name, lifetime },
                6 => Command::PutMany {
                    pairs: vec![(name, value), (other, value)],
                    absent: flag,
                },
                7 => Command::Add { key: name, delta: 3 },
                8 => Command::Append {
                    key: name,
                    value,
                    bytes_max: 64,
                },
                9 => Command::Expire {
                    key: name,
                    lifetime,
                    condition: ExpireCondition {
                        none: flag,
                        ..Default::default()
                    },
                },
                10 => Command::Batch {
                    operations: vec![Operation::Put(name, value), Operation::Delete(other)],
                },
                _ if flag => Command::Flush,
                _ => Command::SetRange {
                    key: name,
                    offset: 3,
                    value,
                    bytes_max: 64,
                },
            };
            command.encode()
        });
    (0..15u64, prop::option::weighted(0.9, command)).prop_map(|(after, command)| Logged { after, command })
}

/// Applies a history in batches of these sizes (repeated), checking the rows after every batch.
fn replay(history: &[Logged], batches: &[usize]) -> (Rows, Vec<Bytes>) {
    let (mut rows, mut answers, mut now) = (Rows::new(), Vec::new(), 0);
    let mut rest = history;
    for size in batches.iter().cycle() {
        let (batch, later) = rest.split_at((*size).min(rest.len()));
        let mut applier = Applier::begin(&mut rows);
        for step in batch {
            now += step.after;
            match &step.command {
                Some(command) => answers.push(applier.command(Stamp(now), command)),
                None => applier.stamp(Stamp(now)),
            }
        }
        applier.finish();
        check_rows(&rows);
        rest = later;
        if rest.is_empty() {
            return (rows, answers);
        }
    }
    unreachable!("batches repeat")
}

/// The counters and the index say exactly what the rows say.
fn check_rows(rows: &Rows) {
    let counters = state::Counters::load(rows);
    let mut index: Vec<Bytes> = rows
        .keys()
        .filter(|row| state::read_deadline_row(row).is_some())
        .cloned()
        .collect();
    let mut keys = 0;
    for (row, bytes) in rows {
        let Some(key) = state::user_key(row) else { continue };
        keys += 1;
        let record = record::Record::decode(bytes.clone()).expect("a record");
        assert!(record.version <= counters.version);
        if let Some(deadline) = record.deadline {
            assert!(deadline >= counters.next_expiry);
            index.retain(|row| *row != state::deadline_row(deadline, key));
        }
    }
    assert_eq!(keys, counters.keys);
    assert!(index.is_empty(), "index rows without a key: {index:?}");
}

proptest! {
    #[test]
    fn replicas_agree_however_entries_are_batched(
        history in prop::collection::vec(steps(), 1..120),
        batches in prop::collection::vec(1usize..9, 1..6),
    ) {
        prop_assert_eq!(replay(&history, &[1]), replay(&history, &batches));
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = vec![1];
        framed.extend_from_slice(&bytes);
        let mut rows = Rows::new();
        Applier::begin(&mut rows).command(Stamp(1), &framed);
        evaluate(&rows, &framed, Stamp(1));
        let _ = Answer::decode(bytes.into());
    }
}
