//! The writes a group's log carries: types and their encoding. What they do is in `apply.rs`.
//! All keys of one command belong to one group; the proposer sees to that, apply checks nothing but sizes.

use super::transaction::{Step, Watched};
use bytes::Bytes;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// First byte of every command and query. Others are refused: an older node must not guess.
pub(crate) const FORMAT: u8 = 1;

/// Borrowed bytes, encoded as one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slice<'a>(pub &'a [u8]);

impl<'a> From<&'a [u8]> for Slice<'a> {
    fn from(bytes: &'a [u8]) -> Slice<'a> {
        Slice(bytes)
    }
}

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Slice<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Slice<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("borrowed bytes")
            }
            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Slice<'de>, E> {
                Ok(Slice(bytes))
            }
        }
        deserializer.deserialize_bytes(Borrowed)
    }
}

/// A write. Variants are only ever appended: their order is the wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Writes a value and removes any deadline. Answers `Done`.
    Put {
        /// The key.
        #[serde(borrow)]
        key: Slice<'a>,
        /// Its new value.
        value: Slice<'a>,
    },
    /// Writes under a condition, with a lifetime. Answers `Done`, or `Nil` if the condition failed;
    /// with `get` the old value or `Nil` in either case.
    Set {
        /// The key.
        key: Slice<'a>,
        /// Its new value.
        value: Slice<'a>,
        /// When to write.
        condition: Condition,
        /// How long the value lives.
        lifetime: Lifetime,
        /// Answer with the old value.
        get: bool,
    },
    /// Removes keys. Answers `Integer`: how many there were.
    Delete {
        /// The keys.
        keys: Vec<Slice<'a>>,
    },
    /// Removes a key and answers with its value (`Value` or `Nil`).
    Take {
        /// The key.
        key: Slice<'a>,
    },
    /// Changes a key's lifetime and answers with its value (`Value` or `Nil`).
    Touch {
        /// The key.
        key: Slice<'a>,
        /// `Forever` removes the deadline.
        lifetime: Lifetime,
    },
    /// Writes pairs at once and removes their deadlines. Answers `Integer`: 1, or 0 if `absent` held it back.
    PutMany {
        /// Keys and values; a later pair wins.
        pairs: Vec<(Slice<'a>, Slice<'a>)>,
        /// Write only if none of the keys exists.
        absent: bool,
    },
    /// Adds to an integer value (absent: 0). Answers `Integer`: the sum.
    Add {
        /// The key.
        key: Slice<'a>,
        /// What to add.
        delta: i64,
    },
    /// Adds to a value with a fraction (absent: 0). Answers `Value`: the sum's text.
    AddFloat {
        /// The key.
        key: Slice<'a>,
        /// What to add, as decimal text.
        delta: Slice<'a>,
    },
    /// Appends to a value. Answers `Integer`: the new length.
    Append {
        /// The key.
        key: Slice<'a>,
        /// What to append.
        value: Slice<'a>,
        /// The result must not be longer than this.
        bytes_max: u64,
    },
    /// Overwrites part of a value, padding with zero bytes. Answers `Integer`: the new length.
    SetRange {
        /// The key.
        key: Slice<'a>,
        /// Where to begin (bytes).
        offset: u64,
        /// What to write there; empty changes nothing.
        value: Slice<'a>,
        /// The result must not be longer than this.
        bytes_max: u64,
    },
    /// Sets or removes a key's deadline. Answers `Integer`: 1 if it was changed.
    Expire {
        /// The key.
        key: Slice<'a>,
        /// The new deadline.
        lifetime: Lifetime,
        /// When to change it.
        condition: ExpireCondition,
    },
    /// Writes or deletes one key if it is as expected. Answers `Integer`: the new version; or `Mismatch`.
    CompareAndSet {
        /// The key.
        key: Slice<'a>,
        /// What must hold.
        expect: Expect<'a>,
        /// The new value; None deletes.
        value: Option<Slice<'a>>,
        /// How long the value lives.
        lifetime: Lifetime,
    },
    /// Puts and deletes at once. Answers `Done`.
    Batch {
        /// In this order.
        operations: Vec<Operation<'a>>,
    },
    /// Removes up to `limits::FLUSH_KEYS_MAX` keys. Answers `Integer`: how many are left; repeat until 0.
    Flush,
    /// Takes steps with nothing in between, if no watched key has changed. Answers `Many`, one answer a step; `Nil` if one
    /// has.
    Transaction {
        /// What must be as it was.
        watched: Vec<Watched<'a>>,
        /// In this order.
        steps: Vec<Step<'a>>,
    },
    /// Moves a value with its deadline. Answers `Integer`: 1, or 0 if `absent` held it back; `Nil`: there is no such key.
    Rename {
        /// From here.
        key: Slice<'a>,
        /// To here; what was there is gone.
        to: Slice<'a>,
        /// Only if there is nothing.
        absent: bool,
    },
}

/// When `Set` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// In any case.
    #[default]
    Always,
    /// Only a key that does not exist (NX).
    Absent,
    /// Only a key that exists (XX).
    Present,
}

/// How long a value lives. What lies in the past removes the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// No deadline.
    #[default]
    Forever,
    /// As before (KEEPTTL).
    Keep,
    /// This many milliseconds after the stamp of the entry.
    After(i64),
    /// Until this many milliseconds since 1970.
    Until(i64),
}

/// When `Expire` changes a deadline. No flag: in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four flags of the protocol, each free of the others"
)]
pub struct ExpireCondition {
    /// Only if there is none (NX).
    pub none: bool,
    /// Only if there is one (XX).
    pub some: bool,
    /// Only if the new one is later (GT); none is later than any.
    pub later: bool,
    /// Only if the new one is earlier (LT).
    pub earlier: bool,
}

/// What `CompareAndSet` demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this version.
    Version(u64),
    /// The key has this value.
    Value(#[serde(borrow)] Slice<'a>),
}

/// One part of `Batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// Writes a value and removes any deadline.
    Put(#[serde(borrow)] Slice<'a>, Slice<'a>),
    /// Removes a key.
    Delete(Slice<'a>),
}

/// Bytes that are no command or query of a format this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command or query of format {FORMAT}")]
pub struct Undecodable;

impl<'a> Command<'a> {
    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        encode(self, self.size_hint())
    }

    /// Reads the bytes of a log entry.
    pub fn decode(payload: &'a [u8]) -> Result<Command<'a>, Undecodable> {
        decode(payload)
    }

    /// A key by which the command is routed: all its keys live in one group. None: it names its group itself.
    pub fn routing_key(&self) -> Option<&'a [u8]> {
        let key = match self {
            Command::Put { key, .. }
            | Command::Set { key, .. }
            | Command::Take { key }
            | Command::Touch { key, .. }
            | Command::Add { key, .. }
            | Command::AddFloat { key, .. }
            | Command::Append { key, .. }
            | Command::SetRange { key, .. }
            | Command::Expire { key, .. }
            | Command::CompareAndSet { key, .. }
            | Command::Rename { key, .. } => key,
            Command::Delete { keys } => keys.first()?,
            Command::PutMany { pairs, .. } => &pairs.first()?.0,
            Command::Batch { operations } => match operations.first()? {
                Operation::Put(key, _) | Operation::Delete(key) => key,
            },
            Command::Transaction { watched, steps } => match watched.first() {
                Some(one) => &one.key,
                None => return steps.first()?.routing_key(),
            },
            Command::Flush => return None,
        };
        Some(key.0)
    }

    fn size_hint(&self) -> usize {
        const FIXED: usize = 40;
        FIXED
            + match self {
                Command::Put { key, value }
                | Command::Set { key, value, .. }
                | Command::Append { key, value, .. }
                | Command::SetRange { key, value, .. } => key.0.len() + value.0.len(),
                Command::Transaction { steps, .. } => steps.iter().map(|step| 4 + step.len()).sum(),
                _ => self.routing_key().map_or(0, <[u8]>::len),
            }
    }
}

/// Format byte and postcard.
pub(crate) fn encode<T: Serialize>(value: &T, size_hint: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size_hint);
    bytes.push(FORMAT);
    postcard::to_extend(value, bytes)
        .expect("these types always encode")
        .into()
}

/// The reverse; refuses trailing bytes.
pub(crate) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Undecodable> {
    let (format, rest) = payload.split_first().ok_or(Undecodable)?;
    if *format != FORMAT {
        return Err(Undecodable);
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        _ => Err(Undecodable),
    }
}
