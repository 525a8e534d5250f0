//! The decoders of this crate as functions of bytes. Each says whether it took the bytes for what they should be,
//! and panics when a promise is broken. For fuzzers, and for the tests that replay what they found.

use crate::descriptor::RangeDescriptor;
use crate::kv::answer::Page;
use crate::kv::record::Record;
use crate::kv::{
    Answer, Applier, Command, Condition, Expect, ExpireCondition, Failure, Lifetime, Operation, Query, Scan,
    Slice, Step, Watched, evaluate,
};
use bytes::Bytes;
use multiraft::{GroupId, NodeId, Queried, ReplicaId, Stamp};
use std::collections::BTreeMap;

pub use crate::gateway::resp::fuzzing::{resp, resp_seeds};
pub use crate::options::fuzzing::{config, config_seeds};
pub use crate::requests::fuzzing::{forwarded, forwarded_seeds};

/// A command of the log.
pub fn command(data: &[u8]) -> bool {
    let Ok(command) = Command::decode(data) else {
        return false;
    };
    let again = command.encode();
    assert_eq!(
        Command::decode(&again),
        Ok(command),
        "what is read can be written and read again"
    );
    true
}

/// A command of the log, applied twice to a state with a few keys: whatever it is, there is an answer.
pub fn apply(data: &[u8]) -> bool {
    let mut rows = rows();
    let answers: Vec<Answer> = [1_000, 2_000]
        .into_iter()
        .map(|stamp| {
            let mut applier = Applier::begin(&mut rows);
            let answer = applier.command(Stamp(stamp), data);
            applier.finish();
            Answer::decode(answer).expect("apply answers with an answer")
        })
        .collect();
    answers[0] != Answer::Failed(Failure::Undecodable)
}

/// A query, evaluated on a state with a few keys.
pub fn query(data: &[u8]) -> bool {
    if let Queried::Answer(answer) = evaluate(&rows(), data, Stamp(1_500)) {
        Answer::decode(answer).expect("a query answers with an answer");
    }
    let Ok(query) = Query::decode(data) else {
        return false;
    };
    let again = query.encode();
    assert_eq!(
        Query::decode(&again),
        Ok(query),
        "what is read can be written and read again"
    );
    true
}

/// An answer. Answers have one form only.
pub fn answer(data: &[u8]) -> bool {
    let Some(answer) = Answer::decode(Bytes::copy_from_slice(data)) else {
        return false;
    };
    assert_eq!(answer.encode(), data, "{answer:?}");
    true
}

/// A descriptor of a range.
pub fn descriptor(data: &[u8]) -> bool {
    let Ok(descriptor) = RangeDescriptor::decode(&Bytes::copy_from_slice(data)) else {
        return false;
    };
    let again = RangeDescriptor::decode(&descriptor.encode());
    assert_eq!(
        again,
        Ok(descriptor),
        "what is read can be written and read again"
    );
    true
}

/// A state: text, a number, a key with a deadline.
fn rows() -> BTreeMap<Bytes, Bytes> {
    let mut rows = BTreeMap::new();
    let mut applier = Applier::begin(&mut rows);
    for command in [
        set(b"key", b"value", 0),
        set(b"n", b"41", 0),
        set(b"soon", b"gone", 600),
    ] {
        applier.command(Stamp(900), &command.encode());
    }
    applier.finish();
    rows
}

fn set<'a>(key: &'a [u8], value: &'a [u8], milliseconds: i64) -> Command<'a> {
    Command::Set {
        key: Slice(key),
        value: Slice(value),
        condition: Condition::Always,
        lifetime: match milliseconds {
            0 => Lifetime::Forever,
            _ => Lifetime::After(milliseconds),
        },
        get: milliseconds > 0,
    }
}

/// Commands: one of each kind.
pub fn command_seeds() -> Vec<Vec<u8>> {
    let (key, value, bytes_max) = (Slice(b"key"), Slice(b"val\x00ue"), 1 << 20);
    let compare = |expect, value| Command::CompareAndSet {
        key,
        expect,
        value,
        lifetime: Lifetime::Keep,
    };
    let commands = vec![
        Command::Put { key, value },
        set(b"key", b"value", 0),
        set(b"soon", b"value", 500),
        Command::Delete {
            keys: vec![key, Slice(b"n")],
        },
        Command::Take { key },
        Command::Touch {
            key,
            lifetime: Lifetime::Until(5_000),
        },
        Command::PutMany {
            pairs: vec![(key, value), (Slice(b"{key}2"), value)],
            absent: true,
        },
        Command::Add {
            key: Slice(b"n"),
            delta: -3,
        },
        Command::AddFloat {
            key: Slice(b"n"),
            delta: Slice(b"1.5e3"),
        },
        Command::Append {
            key,
            value,
            bytes_max,
        },
        Command::SetRange {
            key,
            offset: 10,
            value,
            bytes_max,
        },
        Command::Expire {
            key,
            lifetime: Lifetime::After(100),
            condition: ExpireCondition {
                later: true,
                ..ExpireCondition::default()
            },
        },
        compare(Expect::Absent, Some(value)),
        compare(Expect::Present, None),
        compare(Expect::Version(2), Some(value)),
        compare(Expect::Value(value), None),
        Command::Batch {
            operations: vec![Operation::Put(key, value), Operation::Delete(key)],
        },
        Command::Flush,
        Command::Rename {
            key,
            to: Slice(b"soon"),
            absent: false,
        },
        transaction(Some(2)),
        transaction(None),
    ];
    commands
        .into_iter()
        .map(|command| command.encode().to_vec())
        .collect()
}

/// Steps of both kinds behind a watched key.
fn transaction(version: Option<u64>) -> Command<'static> {
    const ADD: &[u8] = &[1, 6, 1, b'n', 6];
    const GET: &[u8] = &[1, 0, 1, b'n'];
    Command::Transaction {
        watched: vec![Watched {
            key: Slice(b"key"),
            version,
        }],
        steps: vec![Step::Write(Slice(ADD)), Step::Read(Slice(GET))],
    }
}

/// Queries: one of each kind.
pub fn query_seeds() -> Vec<Vec<u8>> {
    let (key, keys) = (Slice(b"key"), vec![Slice(b"key"), Slice(b"soon")]);
    let queries = vec![
        Query::Get { key },
        Query::GetMany { keys: keys.clone() },
        Query::Exists { keys },
        Query::Length { key },
        Query::Range {
            key,
            start: 1,
            end: -2,
        },
        Query::Expiry { key: Slice(b"soon") },
        Query::Scan(Scan {
            start: Slice(b"a"),
            end: Some(Slice(b"z")),
            pattern: Some(Slice(b"[a-n]*?\\y")),
            examine: 100,
            values: true,
        }),
        Query::Count,
        Query::Versions {
            keys: vec![key, Slice(b"soon")],
        },
    ];
    queries.into_iter().map(|query| query.encode().to_vec()).collect()
}

/// Answers: one of each kind.
pub fn answer_seeds() -> Vec<Vec<u8>> {
    let value = Bytes::from_static(b"value");
    let record = |deadline| {
        Answer::Record(Record {
            version: 3,
            deadline,
            value: value.clone(),
        })
    };
    let page = Page {
        rows: vec![(value.clone(), None), (value.clone(), Some(value.clone()))],
        next: Some(value.clone()),
    };
    let expiry = |deadline| Answer::Expiry { deadline, stamp: 70 };
    let answers = vec![
        record(None),
        record(Some(1_000)),
        Answer::Done,
        Answer::Nil,
        Answer::Integer(-5),
        Answer::Value(value.clone()),
        Answer::Values(vec![None, Some(value.clone())]),
        Answer::Page(page),
        expiry(None),
        expiry(Some(80)),
        Answer::Mismatch { version: None },
        Answer::Mismatch { version: Some(4) },
        Answer::Failed(Failure::NotInteger),
        Answer::Many(vec![Answer::Done, record(None), Answer::Nil]),
    ];
    answers
        .into_iter()
        .map(|answer| answer.encode().to_vec())
        .collect()
}

/// Descriptors.
pub fn descriptor_seeds() -> Vec<Vec<u8>> {
    let descriptor = RangeDescriptor {
        group: GroupId(7),
        start: Bytes::from_static(b"a"),
        end: Some(Bytes::from_static(b"b")),
        generation: 300,
        replicas: BTreeMap::from([(ReplicaId(1), NodeId(1)), (ReplicaId(9), NodeId(2))]),
    };
    vec![descriptor.encode().to_vec()]
}
