//! What applications call. Every call has a deadline; what a lost answer means depends on the request.

use crate::dial::Dialer;
use crate::error::{ConnectError, Error};
use crate::limits::{BATCH_OPERATIONS_MAX, REQUEST_BYTES_MAX};
use crate::link::{NotQueued, Outstanding, Shared, State, keep};
use crate::protocol::{
    Call, Expect, NodeRow, Operation, RangeRow, Reason, Rejection, Request, Response, Routes, Row, Slice,
    Status,
};
use crate::tls::Tls;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of nodes; any of them serves every request.
    pub endpoints: Vec<String>,
    /// Certificates.
    pub tls: Tls,
    /// How long a call may take.
    pub timeout: Duration,
    /// Which endpoint is tried first; spreads several clients over the nodes.
    pub first: usize,
}

impl ClientOptions {
    /// Calls may take five seconds.
    pub fn new<T: Into<String>>(endpoints: impl IntoIterator<Item = T>, tls: Tls) -> ClientOptions {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        ClientOptions {
            endpoints,
            tls,
            timeout: Duration::from_secs(5),
            first: 0,
        }
    }
}

/// A connection to a cluster. Cheap to clone: clones share the connection, which ends with the last of them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    _task: Arc<Task>,
}

/// Ends the connection's task with the last client.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// Changes with every write to the key.
    pub version: u64,
}

/// Part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in order, each with its value if values were asked for.
    pub rows: Vec<(Bytes, Option<Bytes>)>,
    /// Where to go on; None: the end was reached.
    pub next: Option<Bytes>,
}

/// What [`Client::cas`] demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this version.
    Version(u64),
    /// The key has this value.
    Value(&'a [u8]),
}

/// How [`Client::cas`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// Written; the key has this version now.
    Yes(u64),
    /// The key is not as expected and was left alone; its version, None if it does not exist.
    No(Option<u64>),
}

/// One part of [`Client::batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Writes a value.
    Put(&'a [u8], &'a [u8]),
    /// Removes a key.
    Delete(&'a [u8]),
}

impl Client {
    /// Connects to the first endpoint that answers. Must be called within a tokio runtime.
    pub async fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        if options.endpoints.is_empty() {
            return Err(ConnectError(vec![(
                "endpoints".to_string(),
                "none are given".to_string(),
            )]));
        }
        let local = |e: std::io::Error| ConnectError(vec![("local socket".to_string(), e.to_string())]);
        let dialer = Dialer::new(options.endpoints.into(), options.first, &options.tls).map_err(local)?;
        let link = dialer.dial().await?;
        let shared = Arc::new(Shared::new());
        let mut state = shared.state();
        let task = tokio::spawn(keep(shared.clone(), dialer, link));
        let client = Client {
            shared,
            timeout: options.timeout,
            _task: Arc::new(Task(task.abort_handle())),
        };
        let up = state.wait_for(|state| *state == State::Up).await;
        up.expect("the sender lives as long as the client");
        Ok(client)
    }

    /// The same connection; calls may take this long.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client {
            timeout,
            ..self.clone()
        }
    }

    /// The value of a key, None if there is none. Linearizable.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>, Error> {
        let request = Request::Get { key: Slice(key) };
        self.call(request, |payload, response| match response {
            Response::Value(None) => Ok(None),
            Response::Value(Some(found)) => Ok(Some(Found {
                value: keep_slice(payload, found.value),
                version: found.version,
            })),
            other => unexpected(&other),
        })
        .await
    }

    /// Writes a key.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.call(
            Request::Put {
                key: Slice(key),
                value: Slice(value),
            },
            done,
        )
        .await
    }

    /// Removes a key; whether there was one.
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.call(
            Request::Delete { key: Slice(key) },
            |_, response| match response {
                Response::Deleted(existed) => Ok(existed),
                other => unexpected(&other),
            },
        )
        .await
    }

    /// One page of keys from `start` up to `end` (None: the end of the key space), at most `limit` of them. The node
    /// may end a page sooner: go on at `next`. Each page is linearizable by itself.
    pub async fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        values: bool,
    ) -> Result<Page, Error> {
        let request = Request::Scan {
            start: Slice(start),
            end: end.map(Slice),
            limit,
            values,
        };
        self.call(request, |payload, response| match response {
            Response::Page { rows, next } => {
                let keep = |slice: Slice<'_>| keep_slice(payload, slice);
                let row = |row: Row<'_>| (keep(row.key), row.value.map(keep));
                Ok(Page {
                    rows: rows.into_iter().map(row).collect(),
                    next: next.map(keep),
                })
            }
            other => unexpected(&other),
        })
        .await
    }

    /// Writes a key (None: deletes it) if it is as expected.
    pub async fn cas(
        &self,
        key: &[u8],
        condition: Condition<'_>,
        value: Option<&[u8]>,
    ) -> Result<Swapped, Error> {
        let expect = match condition {
            Condition::Absent => Expect::Absent,
            Condition::Present => Expect::Present,
            Condition::Version(version) => Expect::Version(version),
            Condition::Value(value) => Expect::Value(Slice(value)),
        };
        let request = Request::Cas {
            key: Slice(key),
            expect,
            value: value.map(Slice),
        };
        self.call(request, |_, response| match response {
            Response::Swapped(version) => Ok(Swapped::Yes(version)),
            Response::Mismatch(version) => Ok(Swapped::No(version)),
            other => unexpected(&other),
        })
        .await
    }

    /// Puts and deletes all at once. All keys must share one `{tag}` prefix.
    pub async fn batch(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        if writes.is_empty() {
            return Ok(());
        }
        if writes.len() > BATCH_OPERATIONS_MAX {
            return Err(Error::BadRequest(format!(
                "more than {BATCH_OPERATIONS_MAX} writes in a batch"
            )));
        }
        let operations = writes.iter().map(|write| operation(*write)).collect();
        self.call(Request::Batch { operations }, done).await
    }

    /// The cluster as the connected node sees it.
    pub async fn status(&self) -> Result<Status, Error> {
        self.call(Request::Status, |_, response| match response {
            Response::Status(status) => Ok(status),
            other => unexpected(&other),
        })
        .await
    }

    /// All ranges in key order, as the connected node sees them.
    pub async fn ranges(&self) -> Result<Vec<RangeRow>, Error> {
        self.call(Request::RangeLs, |_, response| match response {
            Response::Ranges(ranges) => Ok(ranges),
            other => unexpected(&other),
        })
        .await
    }

    /// All nodes by id, as the connected node sees them.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, Error> {
        self.call(Request::NodeLs, |_, response| match response {
            Response::Nodes(nodes) => Ok(nodes),
            other => unexpected(&other),
        })
        .await
    }

    /// Who serves what, as the connected node sees it.
    pub(crate) async fn routes(&self, with_ranges: bool) -> Result<Routes, Error> {
        let request = Request::Routes { with_ranges };
        self.call(request, |_, response| match response {
            Response::Routes(routes) => Ok(routes),
            other => unexpected(&other),
        })
        .await
    }

    /// Whether there is a connection now, as far as is known.
    pub fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    /// Sends the request and reads its answer. A write is sent once; a read is sent again if its connection is lost.
    async fn call<T>(
        &self,
        request: Request<'_>,
        read: impl Fn(&Bytes, Response<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        check_size(&request)?;
        let is_write = request.is_write();
        let deadline = Instant::now() + self.timeout;
        let mut call = Call {
            timeout_ms: 0,
            request,
        };
        for _ in 0..2 {
            let mut outstanding = self.send(&mut call, deadline).await?;
            match timeout_at(deadline, &mut outstanding.answer).await {
                Ok(Ok(payload)) => return understand(&payload, is_write, read),
                Ok(Err(_)) | Err(_) if is_write => return Err(Error::Unknown),
                Ok(Err(_lost)) => {}
                Err(_elapsed) => return Err(Error::TimedOut),
            }
        }
        Err(Error::Disconnected)
    }

    /// Queues the call, waiting for a connection if there is none. Every error means that it was not sent.
    async fn send(&self, call: &mut Call<'_>, deadline: Instant) -> Result<Outstanding, Error> {
        loop {
            call.timeout_ms = node_timeout(deadline);
            match self.shared.enqueue(call) {
                Ok(outstanding) => return Ok(outstanding),
                Err(NotQueued::Full) => return Err(Error::Refused(Reason::Overloaded)),
                Err(NotQueued::Down) => self.wait_until_up(deadline).await?,
            }
        }
    }

    async fn wait_until_up(&self, deadline: Instant) -> Result<(), Error> {
        let mut state = self.shared.state();
        match timeout_at(deadline, state.wait_for(|state| *state == State::Up)).await {
            Ok(up) => {
                up.expect("the sender lives as long as the client");
                return Ok(());
            }
            Err(_elapsed) => {}
        }
        match &*state.borrow() {
            State::Up => Err(Error::CannotConnect("connected too late".to_string())),
            State::Down(why) => Err(Error::CannotConnect(why.clone())),
        }
    }
}

/// A little less than what is left, so that the node's own verdict arrives before we give up.
fn node_timeout(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    let slack = (left / 10).min(Duration::from_millis(100));
    u32::try_from((left - slack).as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Refuses what no node would take, before it fills the queue.
fn check_size(request: &Request<'_>) -> Result<(), Error> {
    let size = match request {
        Request::Put { key, value } => key.0.len() + value.0.len(),
        Request::Cas { key, value, .. } => key.0.len() + value.map_or(0, |value| value.0.len()),
        Request::Get { key } | Request::Delete { key } => key.0.len(),
        Request::Batch { operations } => operations.iter().map(operation_size).sum(),
        _ => 0,
    };
    const OVERHEAD: usize = 64;
    if size + OVERHEAD > REQUEST_BYTES_MAX {
        return Err(Error::ValueTooLarge((REQUEST_BYTES_MAX - OVERHEAD) as u64));
    }
    Ok(())
}

fn operation(write: Write<'_>) -> Operation<'_> {
    match write {
        Write::Put(key, value) => Operation::Put(Slice(key), Slice(value)),
        Write::Delete(key) => Operation::Delete(Slice(key)),
    }
}

fn operation_size(operation: &Operation<'_>) -> usize {
    match operation {
        Operation::Put(key, value) => key.0.len() + value.0.len() + 16,
        Operation::Delete(key) => key.0.len() + 8,
    }
}

fn understand<T>(
    payload: &Bytes,
    is_write: bool,
    read: impl Fn(&Bytes, Response<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    match Response::decode(payload) {
        Ok(Response::Rejected(rejection)) => Err(rejected(rejection)),
        Ok(response) => read(payload, response),
        // What was done about a write whose answer cannot be read, nobody knows.
        Err(_) if is_write => Err(Error::Unknown),
        Err(_) if payload.is_empty() => Err(Error::Dropped),
        Err(malformed) => Err(malformed.into()),
    }
}

fn rejected(rejection: Rejection) -> Error {
    match rejection {
        Rejection::Refused(Reason::TimedOut) => Error::TimedOut,
        Rejection::Refused(reason) => Error::Refused(reason),
        Rejection::Unknown => Error::Unknown,
        Rejection::BadRequest(why) => Error::BadRequest(why),
        Rejection::KeyTooLarge(most) => Error::KeyTooLarge(most),
        Rejection::ValueTooLarge(most) => Error::ValueTooLarge(most),
        Rejection::CrossRange => Error::CrossRange,
    }
}

fn done(_: &Bytes, response: Response<'_>) -> Result<(), Error> {
    match response {
        Response::Done => Ok(()),
        other => unexpected(&other),
    }
}

fn unexpected<T>(response: &Response<'_>) -> Result<T, Error> {
    let shown: String = format!("{response:?}").chars().take(80).collect();
    Err(Error::Protocol(shown))
}

/// A large value pins the frame it came in; a small one is copied, because frames share buffers.
fn keep_slice(payload: &Bytes, slice: Slice<'_>) -> Bytes {
    const COPIED_MAX: usize = 4096;
    if slice.0.len() <= COPIED_MAX {
        Bytes::copy_from_slice(slice.0)
    } else {
        payload.slice_ref(slice.0)
    }
}
