//! Commands that touch several groups: their parts' answers become one reply. Some parts take several steps.
//! Each part is atomic, the whole is not.

use super::call::Refused;
use super::cursors::Cursors;
use super::limits::GATHERED_BYTES_MAX;
use super::pipeline::{Keys, Part};
use super::reply::Reply;
use super::shape::{failure_text, refusal_text};
use super::table::Spec;
use super::transaction_commands::{Replies, Watch};
use crate::kv::answer::Page;
use crate::kv::limits::SCAN_EXAMINED_MAX;
use crate::kv::{Answer, Command, Query, Scan, Slice};
use crate::service::{Kind, RangeRoute, Service, Target};
use bytes::Bytes;
use multiraft::{GroupId, Outcome};
use std::sync::Arc;

/// What becomes of the parts' answers.
pub(super) enum Join {
    /// Their sum.
    Sum(i64),
    /// Values in the order of the command's keys: `places[part]` says which keys a part asked for.
    Values {
        /// Per part.
        places: Vec<Vec<usize>>,
        /// Per key.
        values: Vec<Option<Bytes>>,
    },
    /// All keys that match.
    Keys {
        /// The glob.
        pattern: Bytes,
        /// Found so far.
        keys: Vec<Bytes>,
    },
    /// Empty groups.
    Flush,
    /// One page of a scan.
    Scan(Box<ScanStep>),
    /// WATCH.
    Watch(Arc<Watch>),
    /// EXEC.
    Transaction(Replies),
}

/// A SCAN under way.
pub(super) struct ScanStep {
    /// Where positions get their numbers.
    pub(super) cursors: Arc<Cursors>,
    /// The glob.
    pub(super) pattern: Option<Bytes>,
    /// COUNT.
    pub(super) examine: u32,
    /// The range being scanned.
    pub(super) range: RangeRoute,
    /// Its page, once there is one worth returning.
    pub(super) keys: Vec<Bytes>,
    /// Where the next SCAN goes on; None: the end.
    pub(super) next: Option<Bytes>,
}

/// Which part an answer is for.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its number.
    pub(super) part: usize,
    /// Whom it was sent to.
    pub(super) group: GroupId,
}

/// See the module.
pub(super) struct Gather {
    join: Join,
    bytes: usize,
    error: Option<Problem>,
}

enum Problem {
    Refused(Outcome),
    Failed(crate::kv::Failure),
    Other(&'static str),
}

/// What follows an answer to a part.
pub(super) enum Next {
    /// The part is complete.
    Done,
    /// Its next step.
    More(Part),
}

impl Gather {
    pub(super) fn new(join: Join) -> Gather {
        Gather {
            join,
            bytes: 0,
            error: None,
        }
    }

    /// Takes one answer.
    pub(super) fn take(&mut self, at: Place, outcome: Outcome, service: &dyn Service) -> Next {
        let bytes = match outcome {
            Outcome::Answered(bytes) => bytes,
            other => return self.fail(Problem::Refused(other)),
        };
        self.bytes += bytes.len();
        if self.bytes > GATHERED_BYTES_MAX {
            return self.fail(Problem::Other(
                "ERR the reply would be too long: ask for fewer keys, or use SCAN",
            ));
        }
        match Answer::decode(bytes) {
            None => self.fail(Problem::Other(
                "ERR the answer is not in a format this node understands",
            )),
            Some(answer) => self.take_answer(at, answer, service),
        }
    }

    /// Takes one answer that is decoded.
    pub(super) fn take_answer(&mut self, at: Place, answer: Answer, service: &dyn Service) -> Next {
        match answer {
            Answer::Failed(failure) => self.fail(Problem::Failed(failure)),
            answer if self.error.is_none() => self.join.take(at, answer, service),
            _ => Next::Done,
        }
    }

    fn fail(&mut self, problem: Problem) -> Next {
        self.join.forget();
        self.error.get_or_insert(problem);
        Next::Done
    }

    /// Writes the reply.
    pub(super) fn write(self, reply: &mut Reply<'_>, spec: &Spec) {
        let error: Refused = match self.error {
            None => return self.join.write(reply),
            Some(Problem::Refused(outcome)) => refusal_text(&outcome).into(),
            Some(Problem::Failed(failure)) => failure_text(failure, spec),
            Some(Problem::Other(text)) => text.into(),
        };
        reply.error(&error.0);
    }
}

impl Join {
    fn take(&mut self, at: Place, answer: Answer, service: &dyn Service) -> Next {
        match (self, answer) {
            (Join::Sum(sum), Answer::Integer(number)) => *sum += number,
            (Join::Values { places, values }, Answer::Values(found)) => {
                for (place, value) in places[at.part].iter().zip(found) {
                    values[*place] = value;
                }
            }
            (Join::Keys { pattern, keys }, Answer::Page(page)) => {
                keys.extend(page.rows.into_iter().map(|(key, _)| key));
                if let Some(next) = page.next {
                    return Next::More(keys_part(at.group, &next, pattern));
                }
            }
            (Join::Flush, Answer::Integer(left)) if left > 0 => {
                return Next::More(flush_part(at.group));
            }
            (Join::Flush, Answer::Integer(_)) => {}
            (Join::Scan(step), Answer::Page(page)) => return step.take(page, service),
            (Join::Watch(watch), Answer::Values(versions)) => watch.settle(Some(versions)),
            (Join::Transaction(replies), Answer::Many(answers)) => replies.take(answers, service),
            (Join::Transaction(replies), Answer::Nil) => replies.void(),
            (_, other) => unreachable!("{other:?}"),
        }
        Next::Done
    }

    /// It has failed: there will be nothing to reply.
    fn forget(&mut self) {
        match self {
            Join::Keys { keys, .. } => *keys = Vec::new(),
            Join::Values { values, .. } => values.iter_mut().for_each(|value| *value = None),
            Join::Watch(watch) => watch.settle(None),
            Join::Sum(_) | Join::Flush | Join::Scan(_) | Join::Transaction(_) => {}
        }
    }

    fn write(self, reply: &mut Reply<'_>) {
        match self {
            Join::Sum(sum) => reply.integer(sum),
            Join::Flush | Join::Watch(_) => reply.ok(),
            Join::Transaction(replies) => replies.write(reply),
            Join::Values { values, .. } => {
                reply.array(values.len());
                for value in values {
                    match value {
                        Some(value) => reply.bulk(&value),
                        None => reply.null(),
                    }
                }
            }
            Join::Keys { keys, .. } => write_keys(reply, &keys),
            Join::Scan(step) => {
                let cursor = step.next.map_or(0, |next| step.cursors.number(next));
                reply.array(2);
                reply.bulk(cursor.to_string().as_bytes());
                write_keys(reply, &step.keys);
            }
        }
    }
}

fn write_keys(reply: &mut Reply<'_>, keys: &[Bytes]) {
    reply.array(keys.len());
    for key in keys {
        reply.bulk(key);
    }
}

impl ScanStep {
    /// Goes on in the next range if this one had nothing to return.
    fn take(&mut self, page: Page, service: &dyn Service) -> Next {
        self.keys = page.rows.into_iter().map(|(key, _)| key).collect();
        self.next = page.next.or_else(|| self.range.end.clone());
        let Some(next) = &self.next else { return Next::Done };
        if !self.keys.is_empty() || Some(next) != self.range.end.as_ref() {
            return Next::Done;
        }
        let Some(range) = range_of(service, next) else {
            return Next::Done;
        };
        let part = scan_part(&range, next, self.pattern.as_deref(), self.examine);
        self.range = range;
        Next::More(part)
    }
}

/// Empties a group, a bounded number of keys at a time.
pub(super) fn flush_part(group: GroupId) -> Part {
    Part {
        group,
        target: Target::Group(group),
        kind: Kind::Write,
        payload: Command::Flush.encode(),
        keys: Keys::Several,
    }
}

/// Counts a group's keys.
pub(super) fn count_part(group: GroupId) -> Part {
    Part {
        group,
        target: Target::Group(group),
        kind: Kind::Read,
        payload: Query::Count.encode(),
        keys: Keys::Several,
    }
}

/// All keys of a group from here on that match.
pub(super) fn keys_part(group: GroupId, start: &[u8], pattern: &[u8]) -> Part {
    let query = Query::Scan(Scan {
        start: Slice(start),
        pattern: Some(Slice(pattern)),
        examine: SCAN_EXAMINED_MAX,
        ..Scan::default()
    });
    Part {
        group,
        target: Target::Group(group),
        kind: Kind::Read,
        payload: query.encode(),
        keys: Keys::Several,
    }
}

/// A page of a range from here on.
pub(super) fn scan_part(range: &RangeRoute, start: &[u8], pattern: Option<&[u8]>, examine: u32) -> Part {
    let query = Query::Scan(Scan {
        start: Slice(start.max(&range.start[..])),
        end: range.end.as_deref().map(Slice),
        pattern: pattern.map(Slice),
        examine,
        values: false,
    });
    Part {
        group: range.group,
        target: Target::Group(range.group),
        kind: Kind::Read,
        payload: query.encode(),
        keys: Keys::Several,
    }
}

/// The range that holds this key.
pub(super) fn range_of(service: &dyn Service, key: &[u8]) -> Option<RangeRoute> {
    let ranges = service.ranges();
    let after = ranges.partition_point(|range| range.start <= key);
    ranges.into_iter().nth(after.checked_sub(1)?)
}
