//! Judges what clients saw: is there, for each key, one order of its operations that explains every answer and in which
//! nothing takes effect before it was called or after it was answered (linearizability, Herlihy and Wing 1990)?
//!
//! Keys are judged one by one: a map is linearizable if each of its keys is. Values are numbers, so that counting is one
//! operation among others; a client that reads something else reports it as `NOT_A_VALUE`, which nobody wrote. Expiry is
//! not judged.
//!
//! | part | its one idea |
//! |---|---|
//! | `operation` | what a client asked and what it was told |
//! | `model` | what one key answers, one operation after the other |
//! | `zones` | only puts of unique values and gets: order the values (Gibbons and Korach 1997), n log n |
//! | `search` | everything else: look for an order, never twice from the same place (Wing and Gong 1993, Lowe 2017) |
//! | `explain` | the few answers that contradict each other already |
//! | `durability` | the last reads show no acknowledged write undone: an oracle of its own, without any search |
//!
//! An operation whose outcome its client does not know may take effect at any later time, or never. A refused one has
//! none. A search that takes too long is `Undecided`, which is no pass.

#[cfg(test)]
mod brute;
mod durability;
mod explain;
mod model;
mod operation;
pub mod random;
mod search;
#[cfg(test)]
mod tests;
mod zones;

pub use durability::{Loss, losses};
pub use explain::Explanation;
pub use model::State;
pub use operation::{Answer, Ask, Expect, NOT_A_VALUE, Operation, Outcome, Seen};

use std::collections::BTreeMap;

/// Bounds of the search for one key; beyond them the verdict is `Undecided`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts to place an operation.
    pub steps: u64,
    /// Memory of the places that were searched, in 64-bit words.
    pub words: usize,
}

impl Default for Limits {
    /// Some seconds and 256 MiB at most.
    fn default() -> Limits {
        Limits {
            steps: 20_000_000,
            words: 32 << 20,
        }
    }
}

/// What is to be said about a history. Only `Linearizable` is a pass.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every key has an order that explains its answers.
    Linearizable,
    /// A key has none.
    Violated(Box<Explanation>),
    /// Nobody knows: the search for this key was given up.
    Undecided {
        /// The key.
        key: u64,
        /// How many operations it has.
        operations: usize,
    },
}

/// A verdict and what it rests on.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The first violation, or else the first key that is undecided.
    pub verdict: Verdict,
    /// Keys judged.
    pub keys: usize,
    /// Of these, judged by the fast path.
    pub keys_by_zones: usize,
    /// Operations judged.
    pub operations: usize,
    /// Of these, with unknown outcome.
    pub unknown: usize,
}

/// Whether one key's operations have an order, and how that was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Ordered,
    Impossible,
    GaveUp,
}

/// Judges all keys.
pub fn judge(history: &[Operation], limits: Limits) -> Judgement {
    let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let mut judgement = Judgement {
        verdict: Verdict::Linearizable,
        keys: keys.len(),
        keys_by_zones: 0,
        operations: history.len(),
        unknown: history.iter().filter(|one| one.is_unknown()).count(),
    };
    for (&key, operations) in &keys {
        let by_zones = zones::order(operations);
        judgement.keys_by_zones += usize::from(by_zones.is_some());
        match by_zones.unwrap_or_else(|| search::order(operations, limits)) {
            Finding::Ordered => {}
            Finding::Impossible => {
                judgement.verdict = Verdict::Violated(Box::new(explain::explain(operations)));
                return judgement;
            }
            Finding::GaveUp => {
                let operations = operations.len();
                judgement.verdict = Verdict::Undecided { key, operations };
            }
        }
    }
    judgement
}

impl Judgement {
    /// Fails the test unless every key is linearizable.
    pub fn require(&self) {
        match &self.verdict {
            Verdict::Linearizable => {}
            Verdict::Violated(explanation) => panic!("not linearizable\n{explanation}"),
            Verdict::Undecided { key, operations } => {
                panic!("INVALID: the search over key {key} with {operations} operations was given up")
            }
        }
    }
}
