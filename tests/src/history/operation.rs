//! One operation of one client: what it asked of one key, when, and what it was told. Serialized as one JSON line each.

use serde::{Deserialize, Serialize};

/// Stands for bytes that no client ever wrote.
pub const NOT_A_VALUE: i64 = i64::MIN;

/// An operation, from the call to the answer if there was one. Times are nanoseconds of one clock that all clients share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// Which key, by the number the workload gave it.
    pub key: u64,
    /// When, before the first byte left.
    pub called: u64,
    /// What was asked.
    pub ask: Ask,
    /// What is known about it.
    pub outcome: Outcome,
}

/// What can be asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ask {
    /// Its value.
    Get,
    /// Write it.
    Put(i64),
    /// Write it if it does not exist (SET NX).
    PutIfAbsent(i64),
    /// Write it if it exists (SET XX).
    PutIfPresent(i64),
    /// Add to it; an absent key counts as 0.
    Add(i64),
    /// Remove it.
    Delete,
    /// Write it, or remove it (None), if it is as expected.
    Cas(Expect, Option<i64>),
}

/// What `Cas` expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this version.
    Version(u64),
    /// The key has this value.
    Value(i64),
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The answer, and when it was there.
    Answered(u64, Answer),
    /// It definitely has no effect, ever.
    Refused,
    /// It may take effect at any time after the call, or never.
    Unknown,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Get`.
    Found(Option<Seen>),
    /// To `Put`.
    Done,
    /// To `PutIfAbsent` and `PutIfPresent`: whether it wrote.
    Written(bool),
    /// To `Add`.
    Sum(i64),
    /// To `Delete`: whether there was something to remove.
    Deleted(bool),
    /// To `Cas`: done, and the key's version since.
    Swapped(u64),
    /// To `Cas`: left alone, because the key has this version, or does not exist.
    Mismatch(Option<u64>),
}

/// A value that was read, with its version if the client's protocol tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The value.
    pub value: i64,
    /// Grows with every write to the key.
    pub version: Option<u64>,
}

impl Operation {
    /// When and what was answered.
    pub fn answered(&self) -> Option<(u64, Answer)> {
        match self.outcome {
            Outcome::Answered(at, answer) => Some((at, answer)),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// Whether it may take effect at any later time.
    pub fn is_unknown(&self) -> bool {
        self.outcome == Outcome::Unknown
    }

    /// The same, but nobody heard of its outcome.
    pub(super) fn unanswered(&self) -> Operation {
        let outcome = Outcome::Unknown;
        Operation { outcome, ..*self }
    }

    /// Whether its client was told that it changed the key.
    pub fn is_acknowledged_write(&self) -> bool {
        self.answered().is_some_and(|(_, answer)| answer.is_of_write())
    }
}

impl Answer {
    /// Whether it says that the key was changed.
    pub(super) fn is_of_write(self) -> bool {
        match self {
            Answer::Done | Answer::Sum(_) | Answer::Swapped(_) => true,
            Answer::Written(yes) | Answer::Deleted(yes) => yes,
            Answer::Found(_) | Answer::Mismatch(_) => false,
        }
    }
}

impl Ask {
    /// The value it would write, if that does not depend on the key.
    pub fn value(&self) -> Option<i64> {
        match *self {
            Ask::Put(value) | Ask::PutIfAbsent(value) | Ask::PutIfPresent(value) => Some(value),
            Ask::Cas(_, value) => value,
            Ask::Get | Ask::Add(_) | Ask::Delete => None,
        }
    }
}
