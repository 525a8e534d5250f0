//! The reads: types, encoding, and their evaluation against a group's applied state. They change nothing.

use super::answer::{self, Failure, Page};
use super::command::{Slice, Undecodable, decode, encode};
use super::glob;
use super::limits::{GET_MANY_BYTES_MAX, SCAN_BYTES_MAX, SCAN_EXAMINED_MAX};
use super::record::Record;
use super::span::Span;
use super::state::{Counters, State, user_key, user_row, user_rows};
use bytes::Bytes;
use multiraft::{Queried, Stamp};
use serde::{Deserialize, Serialize};
use std::ops::{Bound, ControlFlow};

/// A read. Variants are only ever appended: their order is the wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query<'a> {
    /// Answers `Record` or `Nil`.
    Get {
        /// The key.
        #[serde(borrow)]
        key: Slice<'a>,
    },
    /// Answers `Values`.
    GetMany {
        /// The keys.
        keys: Vec<Slice<'a>>,
    },
    /// Answers `Integer`: how many of these keys exist; one named twice counts twice.
    Exists {
        /// The keys.
        keys: Vec<Slice<'a>>,
    },
    /// Answers `Integer`: the length of the value, 0 if there is none.
    Length {
        /// The key.
        key: Slice<'a>,
    },
    /// Answers `Value`: the bytes from `start` to `end`, both included, negative ones counted from the end.
    Range {
        /// The key.
        key: Slice<'a>,
        /// First byte.
        start: i64,
        /// Last byte.
        end: i64,
    },
    /// Answers `Expiry`, or `Nil` if there is no such key.
    Expiry {
        /// The key.
        key: Slice<'a>,
    },
    /// Answers `Page`.
    Scan(Scan<'a>),
    /// Answers `Integer`: the keys of this group; those past their deadline but not yet purged count.
    Count,
    /// Answers `Values`: the version of each key, eight bytes, little-endian.
    Versions {
        /// The keys.
        keys: Vec<Slice<'a>>,
    },
}

/// What to scan. Looks at no more than `limits::SCAN_EXAMINED_MAX` keys and ends after `limits::SCAN_BYTES_MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan<'a> {
    /// First key, included.
    #[serde(borrow)]
    pub start: Slice<'a>,
    /// First key after it; None: to the end.
    pub end: Option<Slice<'a>>,
    /// Only keys that match this glob.
    pub pattern: Option<Slice<'a>>,
    /// Look at this many keys, whether they match or not.
    pub examine: u32,
    /// Return values too.
    pub values: bool,
}

impl<'a> Query<'a> {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        encode(self, 24 + self.routing_key().map_or(0, <[u8]>::len))
    }

    /// Reads what was sent.
    pub fn decode(payload: &'a [u8]) -> Result<Query<'a>, Undecodable> {
        decode(payload)
    }

    /// A key by which the query is routed; None: it names its group itself.
    pub fn routing_key(&self) -> Option<&'a [u8]> {
        match self {
            Query::Get { key } | Query::Length { key } | Query::Range { key, .. } | Query::Expiry { key } => {
                Some(key.0)
            }
            Query::GetMany { keys } | Query::Exists { keys } | Query::Versions { keys } => {
                keys.first().map(|key| key.0)
            }
            Query::Scan(_) | Query::Count => None,
        }
    }
}

/// Evaluates an encoded query of a group that serves every key, at the leader's clock.
pub fn evaluate<S: State + ?Sized>(state: &S, query: &[u8], stamp: Stamp) -> Queried {
    evaluate_within(state, query, stamp, Span::ALL)
}

/// Evaluates an encoded query of a group that serves these keys, at the leader's clock.
pub fn evaluate_within<S: State + ?Sized>(state: &S, query: &[u8], stamp: Stamp, span: Span<'_>) -> Queried {
    let Ok(query) = Query::decode(query) else {
        return Queried::Answer(answer::failed(Failure::Undecodable));
    };
    if !span.holds_query(&query) {
        return Queried::Answer(answer::failed(Failure::WrongRange));
    }
    let counters = Counters::load(state);
    let reader = Reader {
        state,
        clock: counters.clock,
        stamp: stamp.0.max(counters.clock),
    };
    match reader.answer(&query, &counters) {
        Ok(answer) => Queried::Answer(answer),
        Err(AdvanceClock) => Queried::AdvanceClock,
    }
}

/// Evaluates a query at the group's clock, which decides of every key whether it exists.
pub(crate) fn evaluate_now<S: State + ?Sized>(state: &S, query: &Query<'_>, counters: &Counters) -> Bytes {
    let (clock, stamp) = (counters.clock, counters.clock);
    let reader = Reader { state, clock, stamp };
    match reader.answer(query, counters) {
        Ok(answer) => answer,
        Err(AdvanceClock) => unreachable!("no deadline lies between the clock and itself"),
    }
}

/// A key's deadline lies between the group clock and the stamp: whether it exists is not yet decided.
struct AdvanceClock;

struct Reader<'s, S: ?Sized> {
    state: &'s S,
    clock: u64,
    stamp: u64,
}

impl<S: State + ?Sized> Reader<'_, S> {
    fn answer(&self, query: &Query<'_>, counters: &Counters) -> Result<Bytes, AdvanceClock> {
        Ok(match query {
            Query::Get { key } => self.row(key.0)?.map_or_else(answer::nil, |(row, _)| row),
            Query::GetMany { keys } => {
                let values = self.get_many(keys)?;
                let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
                if bytes > GET_MANY_BYTES_MAX {
                    answer::failed(Failure::AnswerTooLong)
                } else {
                    answer::values(&values)
                }
            }
            Query::Exists { keys } => self.exists(keys)?,
            Query::Length { key } => answer::integer(signed(self.value(key.0)?.len())),
            Query::Range { key, start, end } => {
                let value = self.value(key.0)?;
                answer::value(&value[byte_range(value.len(), *start, *end)])
            }
            Query::Expiry { key } => match self.row(key.0)? {
                None => answer::nil(),
                Some((_, record)) => answer::expiry(record.deadline, self.stamp),
            },
            Query::Scan(scan) => answer::page(&self.scan(scan)?),
            Query::Count => answer::integer(counters.keys.cast_signed()),
            Query::Versions { keys } => answer::values(&self.versions(keys)?),
        })
    }

    /// The row of a key that exists, and what it says.
    fn row(&self, key: &[u8]) -> Result<Option<(Bytes, Record)>, AdvanceClock> {
        let Some(row) = self.state.get(&user_row(key)) else {
            return Ok(None);
        };
        let record = Record::decode(row.clone()).expect("rows are checked when they are read");
        Ok(self.is_live(&record)?.then_some((row, record)))
    }

    fn is_live(&self, record: &Record) -> Result<bool, AdvanceClock> {
        match record.deadline {
            Some(deadline) if deadline <= self.clock => Ok(false),
            Some(deadline) if deadline <= self.stamp => Err(AdvanceClock),
            _ => Ok(true),
        }
    }

    fn value(&self, key: &[u8]) -> Result<Bytes, AdvanceClock> {
        Ok(self.row(key)?.map_or_else(Bytes::new, |(_, record)| record.value))
    }

    fn get_many(&self, keys: &[Slice<'_>]) -> Result<Vec<Option<Bytes>>, AdvanceClock> {
        keys.iter()
            .map(|key| Ok(self.row(key.0)?.map(|(_, record)| record.value)))
            .collect()
    }

    fn versions(&self, keys: &[Slice<'_>]) -> Result<Vec<Option<Bytes>>, AdvanceClock> {
        let version = |record: Record| Bytes::copy_from_slice(&record.version.to_le_bytes());
        keys.iter()
            .map(|key| Ok(self.row(key.0)?.map(|(_, record)| version(record))))
            .collect()
    }

    fn exists(&self, keys: &[Slice<'_>]) -> Result<Bytes, AdvanceClock> {
        let mut count = 0;
        for key in keys {
            count += i64::from(self.row(key.0)?.is_some());
        }
        Ok(answer::integer(count))
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Page, AdvanceClock> {
        let start = user_row(scan.start.0);
        let end = scan.end.map(|end| user_row(end.0));
        let end = end
            .as_ref()
            .map_or(user_rows().1, |end| Bound::Excluded(&end[..]));
        let mut page = PageUnderWay::new(scan);
        let mut undecided = false;
        self.state.scan(Bound::Included(&start), end, &mut |row, bytes| {
            let key = user_key(row).expect("only user rows lie between the bounds");
            if page.is_full() {
                page.page.next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            let record = Record::decode(bytes.clone()).expect("rows are checked when they are read");
            match self.is_live(&record) {
                Ok(live) => page.look_at(key, live.then_some(&record.value)),
                Err(AdvanceClock) => undecided = true,
            }
            if undecided {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if undecided {
            Err(AdvanceClock)
        } else {
            Ok(page.page)
        }
    }
}

/// A scan's answer while it is put together.
struct PageUnderWay<'a> {
    scan: &'a Scan<'a>,
    page: Page,
    examined: u32,
    bytes: usize,
}

impl<'a> PageUnderWay<'a> {
    fn new(scan: &'a Scan<'a>) -> Self {
        PageUnderWay {
            scan,
            page: Page::default(),
            examined: 0,
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.examined >= self.scan.examine.clamp(1, SCAN_EXAMINED_MAX) || self.bytes >= SCAN_BYTES_MAX
    }

    fn look_at(&mut self, key: &[u8], live: Option<&Bytes>) {
        self.examined += 1;
        let Some(value) = live else { return };
        if self
            .scan
            .pattern
            .is_some_and(|pattern| !glob::matches(pattern.0, key))
        {
            return;
        }
        let value = self.scan.values.then(|| value.clone());
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.page.rows.push((Bytes::copy_from_slice(key), value));
    }
}

/// The bytes from `start` to `end`, both included, negative ones counted from the end, cut to the value.
fn byte_range(length: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let length = signed(length);
    if (start < 0 && end < 0 && start > end) || length == 0 {
        return 0..0;
    }
    let from_end = |at: i64| {
        if at < 0 {
            length.saturating_add(at).max(0)
        } else {
            at
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    if start > end {
        return 0..0;
    }
    let unsigned = |at: i64| usize::try_from(at).expect("between 0 and the length");
    unsigned(start)..unsigned(end) + 1
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).expect("limited by VALUE_BYTES_MAX")
}
