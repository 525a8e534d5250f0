//! Histories that have an order because they were made from one, for the proofs and measurements of this checker. What
//! happens is decided at one instant between call and answer, against one value and one counter of versions; nothing of
//! the checker's model is used.

use super::operation::{Answer, Ask, Expect, Operation, Outcome, Seen};
use crate::sim::Rng;

/// What kind of history.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Keys; each has its own clients.
    pub keys: u64,
    /// Clients of a key, each with one operation at a time.
    pub clients: u32,
    /// Operations of each client.
    pub operations: u32,
    /// Only puts of unique values and gets.
    pub only_registers: bool,
    /// How many of 1000 operations are never answered.
    pub unknown: u64,
    /// How many of 1000 gets are told a version.
    pub versions: u64,
}

/// The history of this shape that `seed` names.
pub fn history(seed: u64, shape: &Shape) -> Vec<Operation> {
    drawn(&mut Rng::new(seed), shape)
}

pub(super) fn drawn(rng: &mut Rng, shape: &Shape) -> Vec<Operation> {
    (0..shape.keys).flat_map(|key| of_key(rng, shape, key)).collect()
}

/// An operation before it is known what it came to.
struct Plan {
    client: u32,
    called: u64,
    /// When it takes effect.
    happens: u64,
    /// None: never answered.
    answered: Option<u64>,
}

fn of_key(rng: &mut Rng, shape: &Shape, key: u64) -> Vec<Operation> {
    let mut plans: Vec<Plan> = (0..shape.clients)
        .flat_map(|client| plans_of(rng, shape, client))
        .collect();
    plans.sort_by_key(|plan| plan.happens);
    let mut register = Register::default();
    let mut operations = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let unique = i64::try_from(number).expect("few operations a key") + 1;
        let ask = draw(rng, shape, &register, unique);
        let happens = plan.answered.is_some() || rng.chance(600);
        let answer = happens.then(|| register.perform(ask, rng.chance(shape.versions)));
        register.version += rng.below(3);
        let outcome = match (plan.answered, answer) {
            (Some(at), Some(answer)) => Outcome::Answered(at, answer),
            _ => Outcome::Unknown,
        };
        let (client, called) = (plan.client, plan.called);
        operations.push(Operation {
            client,
            key,
            called,
            ask,
            outcome,
        });
    }
    operations
}

fn plans_of(rng: &mut Rng, shape: &Shape, client: u32) -> Vec<Plan> {
    let mut now = 1;
    let mut plan = |number: u32| {
        now += rng.around(20);
        let called = now;
        let happens = called + rng.around(20);
        if rng.chance(shape.unknown) {
            // Nobody waits for it: its client goes on as if it were another.
            let happens = happens + rng.below(200);
            let client = client + (number + 1) * 1000;
            return Plan {
                client,
                called,
                happens,
                answered: None,
            };
        }
        now = happens + rng.around(20);
        Plan {
            client,
            called,
            happens,
            answered: Some(now),
        }
    };
    (0..shape.operations).map(&mut plan).collect()
}

fn draw(rng: &mut Rng, shape: &Shape, register: &Register, unique: i64) -> Ask {
    if shape.only_registers {
        return if rng.chance(500) {
            Ask::Get
        } else {
            Ask::Put(unique)
        };
    }
    // Sometimes a value that was used before: values need not be unique.
    let value = if rng.chance(150) {
        rng.between(1, 3).cast_signed()
    } else {
        unique
    };
    match rng.below(100) {
        0..35 => Ask::Get,
        35..55 => Ask::Put(value),
        55..63 => Ask::PutIfAbsent(value),
        63..70 => Ask::PutIfPresent(value),
        70..80 => Ask::Add(1),
        80..88 => Ask::Delete,
        _ => {
            let expect = match rng.below(6) {
                0 => Expect::Absent,
                1 => Expect::Present,
                2 => Expect::Value(register.value.unwrap_or(1)),
                3 => Expect::Value(rng.between(1, 3).cast_signed()),
                4 => Expect::Version(register.version),
                _ => Expect::Version(register.written),
            };
            Ask::Cas(expect, rng.chance(800).then_some(value))
        }
    }
}

/// What the key really is.
#[derive(Default)]
struct Register {
    value: Option<i64>,
    /// The counter, which writes to other keys move on too.
    version: u64,
    /// The counter when the key was written last.
    written: u64,
}

impl Register {
    fn write(&mut self, value: Option<i64>) {
        self.version += 1;
        self.written = self.version;
        self.value = value;
    }

    fn write_if(&mut self, holds: bool, value: i64) -> Answer {
        if holds {
            self.write(Some(value));
        }
        Answer::Written(holds)
    }

    fn perform(&mut self, ask: Ask, tells_version: bool) -> Answer {
        match ask {
            Ask::Get => {
                let version = tells_version.then_some(self.written);
                Answer::Found(self.value.map(|value| Seen { value, version }))
            }
            Ask::Put(value) => {
                self.write(Some(value));
                Answer::Done
            }
            Ask::PutIfAbsent(value) => self.write_if(self.value.is_none(), value),
            Ask::PutIfPresent(value) => self.write_if(self.value.is_some(), value),
            Ask::Add(delta) => {
                let sum = self.value.unwrap_or(0) + delta;
                self.write(Some(sum));
                Answer::Sum(sum)
            }
            Ask::Delete => {
                let existed = self.value.is_some();
                if existed {
                    self.write(None);
                }
                Answer::Deleted(existed)
            }
            Ask::Cas(expect, value) => self.cas(expect, value),
        }
    }

    fn cas(&mut self, expect: Expect, value: Option<i64>) -> Answer {
        let holds = match expect {
            Expect::Absent => self.value.is_none(),
            Expect::Present => self.value.is_some(),
            Expect::Value(value) => self.value == Some(value),
            Expect::Version(version) => self.value.is_some() && self.written == version,
        };
        if !holds {
            return Answer::Mismatch(self.value.map(|_| self.written));
        }
        if value.is_some() || self.value.is_some() {
            self.write(value);
        }
        Answer::Swapped(self.version)
    }
}
