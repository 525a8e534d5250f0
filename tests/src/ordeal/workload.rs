//! What clients ask for, drawn from a seed. A few keys at a time, so that clients meet on them; after some hundred
//! operations the next ones, so that no history grows long; all of them are read again at the end.

use super::record::Record;
use crate::history::{Answer, Ask, Expect, NOT_A_VALUE, Operation, Outcome, Seen};
use crate::sim::Rng;
use std::collections::BTreeMap;

/// Keys in use at a time.
const KEYS: u64 = 6;
/// Operations until the next ones come.
const OPERATIONS_PER_KEY: u64 = 150;

/// How a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Unique puts and gets.
    Register,
    /// Also conditions and removals.
    Conditional,
    /// Increments and gets.
    Counter,
}

fn class_of(key: u64) -> Class {
    match key % KEYS {
        0..3 => Class::Register,
        3 | 4 => Class::Conditional,
        _ => Class::Counter,
    }
}

/// The bytes of a key. The leading digits spread keys over all ranges.
pub(super) fn key_name(key: u64) -> String {
    format!("{:02x}:key-{key}", Rng::new(key).below(256))
}

/// The bytes of a value. Counters are plain numbers, others carry a tail that shows whether they are whole.
pub(super) fn value_bytes(key: u64, value: i64) -> Vec<u8> {
    match class_of(key) {
        Class::Counter => value.to_string().into_bytes(),
        Class::Register | Class::Conditional => {
            let tail = usize::try_from(value.rem_euclid(256)).expect("below 256");
            format!("{value}:{}", "x".repeat(tail)).into_bytes()
        }
    }
}

/// The value that these bytes are, `NOT_A_VALUE` if they are not what `value_bytes` made.
pub(super) fn value_of(key: u64, bytes: &[u8]) -> i64 {
    let number = || std::str::from_utf8(bytes).ok()?.split(':').next()?.parse().ok();
    let whole = |value: &i64| value_bytes(key, *value) == bytes;
    number().filter(whole).unwrap_or(NOT_A_VALUE)
}

/// Which commands a client's protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Versions and compare-and-set.
    Native,
    /// SET NX and XX, INCR.
    Redis,
}

/// One client's stream of operations.
#[derive(Debug)]
pub(super) struct Draws {
    pub(super) client: u32,
    rng: Rng,
    protocol: Protocol,
    written: i64,
    /// What this client saw last, for compare-and-set.
    seen: BTreeMap<u64, Seen>,
}

impl Draws {
    pub(super) fn new(seed: u64, client: u32, protocol: Protocol) -> Draws {
        Draws {
            client,
            rng: Rng::new(seed).fork(&format!("client {client}")),
            protocol,
            written: 0,
            seen: BTreeMap::new(),
        }
    }

    /// The next operation: key and question.
    pub(super) fn draw(&mut self, record: &Record) -> (u64, Ask) {
        let generation = record.issued() / (KEYS * OPERATIONS_PER_KEY);
        let key = generation * KEYS + self.rng.below(KEYS);
        let ask = match (class_of(key), self.protocol) {
            (Class::Register, _) => self.one_of([Draws::put, Draws::get]),
            (Class::Counter, Protocol::Native) => Ask::Get,
            (Class::Counter, Protocol::Redis) => self.one_of([Draws::add, Draws::add, Draws::get]),
            (Class::Conditional, Protocol::Redis) => self.one_of([
                Draws::get,
                Draws::get,
                Draws::put,
                Draws::put_if_absent,
                Draws::put_if_present,
                Draws::delete,
            ]),
            (Class::Conditional, Protocol::Native) if self.rng.chance(500) => self.cas(key),
            (Class::Conditional, Protocol::Native) => {
                self.one_of([Draws::get, Draws::get, Draws::put, Draws::delete])
            }
        };
        (key, ask)
    }

    /// Remembers what the next compare-and-set may expect.
    pub(super) fn learn(&mut self, operation: &Operation) {
        if let Outcome::Answered(_, Answer::Found(Some(seen))) = operation.outcome {
            self.seen.insert(operation.key, seen);
            if self.seen.len() > 64 {
                self.seen.pop_first();
            }
        }
    }

    /// Until the next operation, in microseconds: `mean` on average.
    pub(super) fn pause_us(&mut self, mean: u64) -> u64 {
        self.rng.around(mean)
    }

    fn one_of<const N: usize>(&mut self, choices: [fn(&mut Draws) -> Ask; N]) -> Ask {
        self.rng.pick(&choices)(self)
    }

    /// A value that nobody ever writes again.
    fn unique(&mut self) -> i64 {
        self.written += 1;
        i64::from(self.client) * 1_000_000_000 + self.written
    }

    fn get(&mut self) -> Ask {
        Ask::Get
    }

    fn put(&mut self) -> Ask {
        Ask::Put(self.unique())
    }

    fn put_if_absent(&mut self) -> Ask {
        Ask::PutIfAbsent(self.unique())
    }

    fn put_if_present(&mut self) -> Ask {
        Ask::PutIfPresent(self.unique())
    }

    fn add(&mut self) -> Ask {
        Ask::Add(1)
    }

    fn delete(&mut self) -> Ask {
        Ask::Delete
    }

    fn cas(&mut self, key: u64) -> Ask {
        let expect = match (self.rng.below(4), self.seen.get(&key)) {
            (0, _) => Expect::Absent,
            (1, Some(seen)) => Expect::Value(seen.value),
            (
                2,
                Some(Seen {
                    version: Some(version),
                    ..
                }),
            ) => Expect::Version(*version),
            _ => Expect::Present,
        };
        Ask::Cas(expect, self.rng.chance(800).then(|| self.unique()))
    }
}
