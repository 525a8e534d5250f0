//! What a command or query answers, as bytes. The first byte is the kind; a key's row is an answer as it stands,
//! and the frequent answers are static, so that most answers cost no allocation and no copy.

use super::record::{RECORD_FORMAT, Record};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A decoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A key's row.
    Record(Record),
    /// It was done; there is nothing to say.
    Done,
    /// There is no such key, or the condition did not hold.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(Bytes),
    /// A value or None for each key asked for, in that order.
    Values(Vec<Option<Bytes>>),
    /// Part of a scan.
    Page(Page),
    /// A key's deadline.
    Expiry {
        /// Milliseconds since 1970; None: it lives until it is removed.
        deadline: Option<u64>,
        /// The leader's clock when it answered.
        stamp: u64,
    },
    /// `CompareAndSet` found something else.
    Mismatch {
        /// The version of what it found; None: the key does not exist.
        version: Option<u64>,
    },
    /// The command was refused and changed nothing.
    Failed(Failure),
    /// The answers of a transaction's steps.
    Many(Vec<Answer>),
}

/// Part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in order, each with its value if values were asked for.
    pub rows: Vec<(Bytes, Option<Bytes>)>,
    /// Where to go on: the first key not looked at is this one or later. None: the end was reached.
    pub next: Option<Bytes>,
}

/// Why the state machine refuses a command. Deterministic: part of the answer, not an error of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Failure {
    /// The bytes are no command or query of a known format.
    #[error("not a command this node understands")]
    Undecodable = 1,
    /// The stored value is not an integer.
    #[error("value is not an integer or out of range")]
    NotInteger = 2,
    /// The sum does not fit into 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow = 3,
    /// The stored value, or the addend, is not a number.
    #[error("value is not a valid float")]
    NotFloat = 4,
    /// The sum is not finite.
    #[error("increment would produce NaN or Infinity")]
    NotFinite = 5,
    /// The value would grow beyond the limit.
    #[error("string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong = 6,
    /// The lifetime does not fit into 64 bits of milliseconds.
    #[error("invalid expire time")]
    InvalidLifetime = 7,
    /// The key does not belong to this group any more.
    #[error("the key has moved to another range")]
    WrongRange = 8,
    /// The answer would be longer than `limits::GET_MANY_BYTES_MAX`.
    #[error("the answer would be too long: ask for fewer keys")]
    AnswerTooLong = 9,
}

impl Failure {
    fn from_code(code: u8) -> Option<Failure> {
        use Failure::*;
        [
            Undecodable,
            NotInteger,
            Overflow,
            NotFloat,
            NotFinite,
            TooLong,
            InvalidLifetime,
            WrongRange,
            AnswerTooLong,
        ]
        .into_iter()
        .find(|failure| *failure as u8 == code)
    }
}

const DONE: u8 = 0x02;
const NIL: u8 = 0x03;
const INTEGER: u8 = 0x04;
const VALUE: u8 = 0x05;
const VALUES: u8 = 0x06;
const PAGE: u8 = 0x07;
const EXPIRY: u8 = 0x08;
const MISMATCH: u8 = 0x09;
const FAILED: u8 = 0x0a;
const MANY: u8 = 0x0b;
/// Marks an absent value or key where a length would stand.
const NONE: u32 = u32::MAX;

/// `Done`.
pub(crate) fn done() -> Bytes {
    Bytes::from_static(&[DONE])
}

/// `Nil`.
pub(crate) fn nil() -> Bytes {
    Bytes::from_static(&[NIL])
}

/// `Integer`.
pub(crate) fn integer(number: i64) -> Bytes {
    match number {
        0 => Bytes::from_static(&[INTEGER, 0, 0, 0, 0, 0, 0, 0, 0]),
        1 => Bytes::from_static(&[INTEGER, 1, 0, 0, 0, 0, 0, 0, 0]),
        _ => {
            let mut bytes = [INTEGER; 9];
            bytes[1..].copy_from_slice(&number.to_le_bytes());
            Bytes::copy_from_slice(&bytes)
        }
    }
}

/// `Failed`.
pub(crate) fn failed(failure: Failure) -> Bytes {
    Bytes::copy_from_slice(&[FAILED, failure as u8])
}

/// `Value`.
pub(crate) fn value(value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + value.len());
    bytes.put_u8(VALUE);
    bytes.put_slice(value);
    bytes.freeze()
}

/// `Expiry`.
pub(crate) fn expiry(deadline: Option<u64>, stamp: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17);
    bytes.put_u8(EXPIRY);
    bytes.put_u64_le(stamp);
    if let Some(deadline) = deadline {
        bytes.put_u64_le(deadline);
    }
    bytes.freeze()
}

/// `Mismatch`.
pub(crate) fn mismatch(version: Option<u64>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u8(MISMATCH);
    if let Some(version) = version {
        bytes.put_u64_le(version);
    }
    bytes.freeze()
}

/// `Values`.
pub(crate) fn values(values: &[Option<Bytes>]) -> Bytes {
    let size: usize = values.iter().flatten().map(Bytes::len).sum();
    let mut bytes = BytesMut::with_capacity(5 + values.len() * 4 + size);
    bytes.put_u8(VALUES);
    bytes.put_u32_le(u32::try_from(values.len()).expect("as many as keys in a command"));
    for value in values {
        put_block(&mut bytes, value.as_deref());
    }
    bytes.freeze()
}

/// `Many`.
pub(crate) fn many(answers: &[Bytes]) -> Bytes {
    let size: usize = answers.iter().map(|answer| 4 + answer.len()).sum();
    let mut bytes = BytesMut::with_capacity(5 + size);
    bytes.put_u8(MANY);
    bytes.put_u32_le(u32::try_from(answers.len()).expect("as many as steps in a command"));
    for answer in answers {
        put_block(&mut bytes, Some(answer));
    }
    bytes.freeze()
}

/// `Page`.
pub(crate) fn page(page: &Page) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64 + page.rows.len() * 32);
    bytes.put_u8(PAGE);
    put_block(&mut bytes, page.next.as_deref());
    bytes.put_u32_le(u32::try_from(page.rows.len()).expect("limited by SCAN_EXAMINED_MAX"));
    for (key, value) in &page.rows {
        put_block(&mut bytes, Some(key));
        put_block(&mut bytes, value.as_deref());
    }
    bytes.freeze()
}

fn put_block(bytes: &mut BytesMut, block: Option<&[u8]>) {
    match block {
        None => bytes.put_u32_le(NONE),
        Some(block) => {
            bytes.put_u32_le(u32::try_from(block.len()).expect("limited by VALUE_BYTES_MAX"));
            bytes.put_slice(block);
        }
    }
}

fn get_block(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let length = bytes.try_get_u32_le().ok()?;
    if length == NONE {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    (bytes.len() >= length).then(|| Some(bytes.split_to(length)))
}

impl Answer {
    /// Reads an answer; None if these bytes are none (or the empty answer of an entry without a command).
    pub fn decode(mut bytes: Bytes) -> Option<Answer> {
        let kind = *bytes.first()?;
        if kind == RECORD_FORMAT {
            return Record::decode(bytes).map(Answer::Record);
        }
        bytes.advance(1);
        let answer = match kind {
            DONE => Answer::Done,
            NIL => Answer::Nil,
            INTEGER => Answer::Integer(bytes.try_get_i64_le().ok()?),
            VALUE => Answer::Value(bytes.split_off(0)),
            VALUES => Answer::Values(read_values(&mut bytes)?),
            PAGE => Answer::Page(read_page(&mut bytes)?),
            EXPIRY => {
                let stamp = bytes.try_get_u64_le().ok()?;
                Answer::Expiry {
                    deadline: bytes.try_get_u64_le().ok(),
                    stamp,
                }
            }
            MISMATCH => Answer::Mismatch {
                version: bytes.try_get_u64_le().ok(),
            },
            FAILED => Answer::Failed(Failure::from_code(bytes.try_get_u8().ok()?)?),
            MANY => Answer::Many(read_many(&mut bytes)?),
            _ => return None,
        };
        bytes.is_empty().then_some(answer)
    }

    /// The bytes of an answer.
    pub fn encode(&self) -> Bytes {
        match self {
            Answer::Record(record) => Record::encode(record.version, record.deadline, &[&record.value]),
            Answer::Done => done(),
            Answer::Nil => nil(),
            Answer::Integer(number) => integer(*number),
            Answer::Value(bytes) => value(bytes),
            Answer::Values(all) => values(all),
            Answer::Page(one) => page(one),
            Answer::Expiry { deadline, stamp } => expiry(*deadline, *stamp),
            Answer::Mismatch { version } => mismatch(*version),
            Answer::Failed(failure) => failed(*failure),
            Answer::Many(answers) => many(&answers.iter().map(Answer::encode).collect::<Vec<_>>()),
        }
    }
}

fn read_values(bytes: &mut Bytes) -> Option<Vec<Option<Bytes>>> {
    let count = bytes.try_get_u32_le().ok()?;
    (0..count).map(|_| get_block(bytes)).collect()
}

/// No step is a transaction: its answer holds no other's.
fn read_many(bytes: &mut Bytes) -> Option<Vec<Answer>> {
    let count = bytes.try_get_u32_le().ok()?;
    let answers = (0..count).map(|_| {
        let answer = get_block(bytes)??;
        (answer.first() != Some(&MANY)).then(|| Answer::decode(answer))?
    });
    answers.collect()
}

fn read_page(bytes: &mut Bytes) -> Option<Page> {
    let next = get_block(bytes)?;
    let count = bytes.try_get_u32_le().ok()?;
    let rows = (0..count)
        .map(|_| Some((get_block(bytes)??, get_block(bytes)?)))
        .collect::<Option<_>>()?;
    Some(Page { rows, next })
}
