//! The native protocol's server side: decodes a request, hands it to the service with a ticket, and answers when the
//! outcome is known, on whatever thread brings it. No task per request, no state per connection. Routing, retries and
//! deadlines are the service's; framing and TLS are transport-quic's.

use crate::kv::{self, Answer, Command, Failure, Lifetime, Query};
use crate::options::RequestLimits;
use crate::service::{self, Kind, RangeRoute, Service, Target};
use bytes::Bytes;
use flotilla_client::limits::BATCH_OPERATIONS_MAX;
use flotilla_client::protocol::{
    Call, Expect, NodeRow, Operation, RangeRow, Reason, Rejection, Request, Response, Routes, Row, Slice,
    Status, Versioned,
};
use multiraft::{AnswerSink, Outcome, Refusal, Ticket};
use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use transport_quic::ClientSink;

/// What the node knows about the cluster. Called on network threads: must not block.
pub trait Admin: Send + Sync {
    /// The cluster in one screen.
    fn status(&self) -> Status;
    /// All ranges in key order.
    fn ranges(&self) -> Vec<RangeRow>;
    /// Who serves what; the ranges only if asked for.
    fn routes(&self, with_ranges: bool) -> Routes;
    /// All nodes by id.
    fn nodes(&self) -> Vec<NodeRow>;
}

/// The way back to a client. Dropping it unsent tells the client that the outcome is unknown.
pub trait Reply: Send + 'static {
    /// Sends the encoded response. Must not block.
    fn send(self, payload: Bytes);
}

/// Serves native clients. Cheap to clone.
pub struct Native<R>(Arc<Inner<R>>);

impl<R> Clone for Native<R> {
    fn clone(&self) -> Self {
        Native(self.0.clone())
    }
}

struct Inner<R> {
    service: Arc<dyn Service>,
    admin: Arc<dyn Admin>,
    limits: RequestLimits,
    waiting: Mutex<Slab<Waiting<R>>>,
}

/// A request whose outcome is not known yet.
struct Waiting<R> {
    reply: R,
    asked: Asked,
}

/// What was asked, as far as the answer needs it.
enum Asked {
    Get,
    Put,
    Delete,
    Cas,
    Batch,
    /// Where the scan goes on when this range has no more keys.
    Scan(Option<Bytes>),
}

/// A request for the service, or the answer at once.
type Prepared = Result<(service::Request, Asked), Box<Response<'static>>>;

impl<R: Reply> Native<R> {
    /// `limits` bound keys and values; a client names its own deadline.
    pub fn new(service: Arc<dyn Service>, admin: Arc<dyn Admin>, limits: RequestLimits) -> Native<R> {
        let waiting = Mutex::new(Slab::new());
        Native(Arc::new(Inner {
            service,
            admin,
            limits,
            waiting,
        }))
    }

    /// Takes one request of a client. Never blocks.
    pub fn call(&self, payload: &Bytes, reply: R) {
        match self.0.prepare(payload) {
            Ok((request, asked)) => {
                let number = self.0.lock().insert(Waiting { reply, asked }) as u64;
                self.0.service.submit(
                    request,
                    Ticket {
                        sink: self.0.clone(),
                        number,
                    },
                );
            }
            Err(response) => reply.send(response.encode()),
        }
    }

    /// Requests whose outcome is not known yet.
    pub fn waiting(&self) -> usize {
        self.0.lock().len()
    }
}

impl Reply for transport_quic::Reply {
    fn send(self, payload: Bytes) {
        transport_quic::Reply::send(self, payload);
    }
}

impl ClientSink for Native<transport_quic::Reply> {
    fn call(&self, _client: &Arc<transport_quic::Client>, payload: Bytes, reply: transport_quic::Reply) {
        Native::call(self, &payload, reply);
    }
}

impl<R: Reply> AnswerSink for Inner<R> {
    fn answer(&self, number: u64, outcome: Outcome) {
        let waiting = self.lock().try_remove(number as usize);
        let waiting = waiting.expect("a ticket is answered once");
        waiting.reply.send(encode(&waiting.asked, outcome));
    }
}

impl<R> Inner<R> {
    fn lock(&self) -> MutexGuard<'_, Slab<Waiting<R>>> {
        self.waiting
            .lock()
            .expect("nothing panics while it holds the slab")
    }

    fn prepare(&self, payload: &Bytes) -> Prepared {
        let call = Call::decode(payload).map_err(|malformed| bad_request(malformed.to_string()))?;
        self.check(&call.request)?;
        let (target, kind, body, asked) = match &call.request {
            Request::Ping => return Err(Box::new(Response::Done)),
            Request::Status => return Err(Box::new(Response::Status(self.admin.status()))),
            Request::RangeLs => return Err(Box::new(Response::Ranges(self.admin.ranges()))),
            Request::NodeLs => return Err(Box::new(Response::Nodes(self.admin.nodes()))),
            Request::Routes { with_ranges } => {
                return Err(Box::new(Response::Routes(self.admin.routes(*with_ranges))));
            }
            Request::Get { key } => {
                let target = Target::Key(payload.slice_ref(key.0));
                (
                    target,
                    Kind::Read,
                    Query::Get { key: to_kv(*key) }.encode(),
                    Asked::Get,
                )
            }
            Request::Scan {
                start,
                end,
                limit,
                values,
            } => {
                let end = end.map(|end| end.0);
                let (range, end, goes_on) = part_of_scan(self.service.ranges(), start.0, end);
                let end = end.as_deref().map(kv::Slice);
                let scan = kv::Scan {
                    start: to_kv(*start),
                    end,
                    pattern: None,
                    examine: *limit,
                    values: *values,
                };
                (
                    Target::Group(range.group),
                    Kind::Read,
                    Query::Scan(scan).encode(),
                    Asked::Scan(goes_on),
                )
            }
            write => {
                let Some((key, command, asked)) = command(write) else {
                    return Err(Box::new(Response::Done));
                };
                (
                    Target::Key(payload.slice_ref(key.0)),
                    Kind::Write,
                    command.encode(),
                    asked,
                )
            }
        };
        let timeout = Duration::from_millis(u64::from(call.timeout_ms));
        Ok((
            service::Request {
                target,
                kind,
                payload: body,
                timeout,
            },
            asked,
        ))
    }

    /// Refuses what is too large or does not belong together.
    fn check(&self, request: &Request<'_>) -> Result<(), Box<Response<'static>>> {
        match request {
            Request::Get { key } | Request::Delete { key } => self.check_sizes(*key, None),
            Request::Put { key, value } => self.check_sizes(*key, Some(*value)),
            Request::Cas { key, value, .. } => self.check_sizes(*key, *value),
            Request::Batch { operations } => self.check_batch(operations),
            Request::Scan {
                start, end, limit, ..
            } => {
                self.check_sizes(*start, None)?;
                self.check_sizes(end.unwrap_or_default(), None)?;
                if *limit == 0 {
                    Err(bad_request("a scan of no keys".to_string()))
                } else {
                    Ok(())
                }
            }
            Request::Ping | Request::Status | Request::RangeLs | Request::NodeLs | Request::Routes { .. } => {
                Ok(())
            }
        }
    }

    fn check_sizes(&self, key: Slice<'_>, value: Option<Slice<'_>>) -> Result<(), Box<Response<'static>>> {
        let most = self.limits.key_bytes_max;
        if key.0.len() > most {
            return Err(reject(Rejection::KeyTooLarge(most as u64)));
        }
        let most = self.limits.value_bytes_max;
        match value {
            Some(value) if value.0.len() > most => Err(reject(Rejection::ValueTooLarge(most as u64))),
            _ => Ok(()),
        }
    }

    fn check_batch(&self, operations: &[Operation<'_>]) -> Result<(), Box<Response<'static>>> {
        if operations.len() > BATCH_OPERATIONS_MAX {
            return Err(bad_request(format!(
                "more than {BATCH_OPERATIONS_MAX} operations in a batch"
            )));
        }
        for one in operations {
            match *one {
                Operation::Put(key, value) => self.check_sizes(key, Some(value))?,
                Operation::Delete(key) => self.check_sizes(key, None)?,
            }
            if !kv::tag::together(key_of(&operations[0]).0, key_of(one).0) {
                return Err(reject(Rejection::CrossRange));
            }
        }
        Ok(())
    }
}

fn reject(rejection: Rejection) -> Box<Response<'static>> {
    Box::new(Response::Rejected(rejection))
}

fn bad_request(why: String) -> Box<Response<'static>> {
    reject(Rejection::BadRequest(why))
}

fn to_kv(slice: Slice<'_>) -> kv::Slice<'_> {
    kv::Slice(slice.0)
}

fn key_of<'a>(operation: &Operation<'a>) -> Slice<'a> {
    match *operation {
        Operation::Put(key, _) | Operation::Delete(key) => key,
    }
}

fn operation<'a>(operation: &Operation<'a>) -> kv::Operation<'a> {
    match *operation {
        Operation::Put(key, value) => kv::Operation::Put(to_kv(key), to_kv(value)),
        Operation::Delete(key) => kv::Operation::Delete(to_kv(key)),
    }
}

/// A write's key to route by, and its command; None: there is nothing to write.
fn command<'a>(request: &Request<'a>) -> Option<(Slice<'a>, Command<'a>, Asked)> {
    Some(match request {
        Request::Put { key, value } => (
            *key,
            Command::Put {
                key: to_kv(*key),
                value: to_kv(*value),
            },
            Asked::Put,
        ),
        Request::Delete { key } => (
            *key,
            Command::Delete {
                keys: vec![to_kv(*key)],
            },
            Asked::Delete,
        ),
        Request::Cas { key, expect, value } => (*key, compare_and_set(*key, *expect, *value), Asked::Cas),
        Request::Batch { operations } => {
            let key = key_of(operations.first()?);
            let operations = operations.iter().map(operation).collect();
            (key, Command::Batch { operations }, Asked::Batch)
        }
        Request::Ping
        | Request::Status
        | Request::RangeLs
        | Request::NodeLs
        | Request::Routes { .. }
        | Request::Get { .. }
        | Request::Scan { .. } => return None,
    })
}

fn compare_and_set<'a>(key: Slice<'a>, expect: Expect<'a>, value: Option<Slice<'a>>) -> Command<'a> {
    let expect = match expect {
        Expect::Absent => kv::Expect::Absent,
        Expect::Present => kv::Expect::Present,
        Expect::Version(version) => kv::Expect::Version(version),
        Expect::Value(value) => kv::Expect::Value(to_kv(value)),
    };
    Command::CompareAndSet {
        key: to_kv(key),
        expect,
        value: value.map(to_kv),
        lifetime: Lifetime::Forever,
    }
}

/// The range that holds `start`, where the scan of it ends, and where the whole scan goes on after it.
fn part_of_scan(
    ranges: Vec<RangeRoute>,
    start: &[u8],
    end: Option<&[u8]>,
) -> (RangeRoute, Option<Bytes>, Option<Bytes>) {
    let holds = |range: &RangeRoute| range.end.as_ref().is_none_or(|end| start < &end[..]);
    let range = ranges.into_iter().find(holds).expect("ranges cover all keys");
    let before = |border: &Bytes| end.is_none_or(|end| &border[..] < end);
    match range.end.clone().filter(before) {
        Some(border) => (range, Some(border.clone()), Some(border)),
        None => (range, end.map(Bytes::copy_from_slice), None),
    }
}

/// The response to a request that had this outcome.
fn encode(asked: &Asked, outcome: Outcome) -> Bytes {
    let rejection = match outcome {
        Outcome::Answered(bytes) => match Answer::decode(bytes) {
            Some(answer) => return answered(asked, &answer),
            // The entry was applied by a version that answers otherwise.
            None => Rejection::Unknown,
        },
        Outcome::Refused(refusal) => refused(refusal),
        Outcome::Unknown => Rejection::Unknown,
    };
    Response::Rejected(rejection).encode()
}

fn refused(refusal: Refusal) -> Rejection {
    Rejection::Refused(match refusal {
        Refusal::NotLeader(_) | Refusal::NoSuchGroup | Refusal::NotVoter | Refusal::Change(_) => {
            Reason::NoLeader
        }
        Refusal::Overloaded => Reason::Overloaded,
        Refusal::NoSpace => Reason::NoSpace,
        Refusal::Stopping => Reason::Stopping,
        Refusal::TooLarge => return Rejection::BadRequest("too large for one log entry".to_string()),
    })
}

fn answered(asked: &Asked, answer: &Answer) -> Bytes {
    let response = match (asked, answer) {
        (Asked::Get, Answer::Nil) => Response::Value(None),
        (Asked::Get, Answer::Record(record)) => Response::Value(Some(Versioned {
            value: Slice(&record.value),
            version: record.version,
        })),
        (Asked::Put | Asked::Batch, Answer::Done) => Response::Done,
        (Asked::Delete, Answer::Integer(count)) => Response::Deleted(*count > 0),
        (Asked::Cas, Answer::Integer(version)) => Response::Swapped(version.cast_unsigned()),
        (Asked::Cas, Answer::Mismatch { version }) => Response::Mismatch(*version),
        (Asked::Scan(goes_on), Answer::Page(page)) => page_of(page, goes_on.as_ref()),
        (_, Answer::Failed(Failure::WrongRange)) => Response::Rejected(Rejection::Refused(Reason::Moved)),
        (_, Answer::Failed(failure)) => Response::Rejected(Rejection::BadRequest(failure.to_string())),
        (_, other) => {
            tracing::error!(?other, "the state machine answered another question");
            Response::Rejected(Rejection::Unknown)
        }
    };
    response.encode()
}

fn page_of<'a>(page: &'a kv::answer::Page, goes_on: Option<&'a Bytes>) -> Response<'a> {
    let row = |(key, value): &'a (Bytes, Option<Bytes>)| Row {
        key: Slice(key),
        value: value.as_deref().map(Slice),
    };
    let next = page.next.as_ref().or(goes_on);
    Response::Page {
        rows: page.rows.iter().map(row).collect(),
        next: next.map(|key| Slice(key)),
    }
}

#[cfg(test)]
mod tests;
