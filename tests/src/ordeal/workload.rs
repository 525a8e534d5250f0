//! What clients ask for, drawn from a seed. A few keys at a time, so that clients meet on them; after some hundred
//! operations the next ones, so that no history grows long; all of them are read again at the end.

use super::record::Record;
use crate::history::{Answer, Ask, Expect, NOT_A_VALUE, Operation, Outcome, Seen};
use crate::sim::Rng;
use std::collections::BTreeMap;

/// Keys in use at a time.
const KEYS: u64 = 6;
/// Operations until the next ones come.
const OPERATIONS_PER_KEY: u64 = 200;

/// Of these, the first so many are registers.
const REGISTERS: u64 = 3;
/// An unknown outcome stays open for ever and may cost the judgement dearly: keys that have some are retired sooner.
const UNKNOWN_WEIGHT: u64 = 40;
/// Not so where all values are unique and nothing is conditional.
const UNKNOWN_WEIGHT_OF_REGISTERS: u64 = 4;

/// How a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Unique puts and gets.
    Register,
    /// Also conditions and removals.
    Conditional,
    /// Increments and gets: whatever happens twice, or never, shows in every later answer.
    Counter,
}

fn class_of(key: u64) -> Class {
    match key % KEYS {
        0..REGISTERS => Class::Register,
        3 => Class::Conditional,
        _ => Class::Counter,
    }
}

/// How much of a key's life this operation takes.
pub(super) fn weight(operation: &Operation) -> u64 {
    match (operation.is_unknown(), class_of(operation.key)) {
        (false, _) => 1,
        (true, Class::Register) => UNKNOWN_WEIGHT_OF_REGISTERS,
        (true, _) => UNKNOWN_WEIGHT,
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

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What the native protocol has: versions and compare-and-set.
    Native,
    /// What Redis has: SET NX and XX, INCR.
    Redis,
    /// Gets of one of the registers only.
    Watcher(u64),
    /// Unique puts to one of the registers only.
    Hasty(u64),
}

/// One client's stream of operations.
#[derive(Debug)]
pub(super) struct Draws {
    pub(super) client: u32,
    rng: Rng,
    part: Part,
    written: i64,
    /// What this client saw last, for compare-and-set.
    seen: BTreeMap<u64, Seen>,
}

impl Draws {
    pub(super) fn new(seed: u64, client: u32, part: Part) -> Draws {
        Draws {
            client,
            rng: Rng::new(seed).fork(&format!("client {client}")),
            part,
            written: 0,
            seen: BTreeMap::new(),
        }
    }

    /// The next operation: key and question.
    pub(super) fn draw(&mut self, record: &Record) -> (u64, Ask) {
        let generation = record.issued() / (KEYS * OPERATIONS_PER_KEY);
        let place = match self.part {
            Part::Watcher(place) | Part::Hasty(place) => place,
            Part::Native | Part::Redis => self.rng.below(KEYS),
        };
        let key = generation * KEYS + place;
        let ask = match (class_of(key), self.part) {
            (_, Part::Watcher(_)) => Ask::Get,
            (_, Part::Hasty(_)) => self.put(),
            (Class::Register, _) => self.one_of([Draws::put, Draws::get]),
            (Class::Counter, Part::Native) => Ask::Get,
            (Class::Counter, Part::Redis) => self.one_of([Draws::add, Draws::add, Draws::get]),
            (Class::Conditional, Part::Redis) => self.one_of([
                Draws::get,
                Draws::get,
                Draws::put,
                Draws::put_if_absent,
                Draws::put_if_present,
                Draws::delete,
            ]),
            (Class::Conditional, Part::Native) if self.rng.chance(500) => self.cas(key),
            (Class::Conditional, Part::Native) => {
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
