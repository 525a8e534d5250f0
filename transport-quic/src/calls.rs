//! Numbered requests and their replies on one long-lived stream, in both roles: the node that calls and the
//! node that answers. What a payload means is not known here.
//!
//! # The bytes
//!
//! The caller opens a bidirectional stream. Both directions carry messages, nothing else:
//!
//! ```text
//! u32 BE  length of what follows in this message: 8 + payload, at most 8 + CALL_BYTES_MAX
//! u64 BE  number, chosen by the caller; the reply to a request repeats it
//! bytes   payload
//! ```
//!
//! Replies come in any order. A reply with an empty payload means that the server dropped the request:
//! whether it had an effect is unknown. A caller must not reuse a number while it is unanswered. A length
//! outside the limits ends the connection ([`Code::Protocol`](crate::Code)). When a stream or connection
//! ends, the outcome of every unanswered request is unknown.
//!
//! **Clients** (ALPN `flotilla/1`) open such streams as they are: no header, no hello; up to 8 per
//! connection, all alike. They prove themselves with a certificate `client-<name>` (or `node-<id>`) and
//! demand the server name `flotilla-node`, which every node certificate carries. A client opens no
//! unidirectional streams.
//!
//! **Nodes** (ALPN `flotilla-peer/1`) put the two bytes of a stream header before the first message
//! (`hello.rs`).
//!
//! Many messages travel in one write; a reader must not expect message and packet borders to agree.

use crate::framing::{FrameError, FrameReader, Stream};
use crate::limits::{
    CALL_BYTES_MAX, CALLS_BYTES_MAX, CALLS_MAX, REPLIES_BYTES_MAX, REQUESTS_MAX, WRITE_BYTES,
};
use crate::writing::{self, Message, More, Outbound};
use bytes::{Buf, Bytes};
use quinn::RecvStream;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use thiserror::Error;
use tokio::sync::Notify;

/// Bytes of a number.
const NUMBER: usize = 8;
/// The longest and shortest message.
const LENGTHS: std::ops::RangeInclusive<usize> = NUMBER..=NUMBER + CALL_BYTES_MAX;

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// It never left this node: it may be sent elsewhere.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// It left, and no answer will come: it may or may not have had an effect.
    #[error("the link was lost before the answer")]
    LinkLost,
}

/// Why a call never left this node.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotSent {
    /// The node is unknown, or no link to it is up.
    #[error("no link is up")]
    NoLink,
    /// Too many calls to the node, or too many bytes of them, are unanswered.
    #[error("too many calls are waiting")]
    Full,
    /// Longer than [`CALL_BYTES_MAX`].
    #[error("the payload is too long")]
    TooLong,
}

/// Takes the outcome of a call. Runs on a network thread, or on the caller's when the call is not sent: must
/// not block and must not call the transport while holding a lock of its own.
pub(crate) type Done = Box<dyn FnOnce(Result<Bytes, CallError>) + Send>;

/// A call that was taken, or `done` and why it was not.
pub(crate) type Admitted = Result<(), (Done, NotSent)>;

struct Call {
    number: u64,
    payload: Bytes,
    done: Done,
}

struct Sent {
    bytes: usize,
    done: Done,
}

/// The calls of one link: what waits to be written and what waits for its reply.
pub(crate) struct CallQueue {
    state: Mutex<CallState>,
    wake: Notify,
}

struct CallState {
    open: bool,
    next: u64,
    /// Payload bytes of `unsent` and `sent`.
    bytes: usize,
    unsent: VecDeque<Call>,
    sent: HashMap<u64, Sent>,
}

impl CallQueue {
    pub(crate) fn new() -> CallQueue {
        let state = CallState {
            open: true,
            next: 1,
            bytes: 0,
            unsent: VecDeque::new(),
            sent: HashMap::new(),
        };
        CallQueue {
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }

    /// Queues a call, or gives `done` back with the reason. Gives everything back when no call is taken any more.
    pub(crate) fn push(&self, payload: Bytes, done: Done) -> Result<Admitted, (Bytes, Done)> {
        let mut state = self.lock();
        if !state.open {
            return Err((payload, done));
        }
        if let Err(why) = state.admits(payload.len()) {
            return Ok(Err((done, why)));
        }
        let number = state.next;
        state.next += 1;
        state.bytes += payload.len();
        state.unsent.push_back(Call {
            number,
            payload,
            done,
        });
        let first = state.unsent.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
        Ok(Ok(()))
    }

    /// Takes nothing more; what waits is written and answered.
    pub(crate) fn finish(&self) {
        self.lock().open = false;
        self.wake.notify_one();
    }

    /// Unanswered calls and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.unsent.len() + state.sent.len(), state.bytes)
    }

    /// Fails everything that waits. Nothing can be queued afterwards.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.bytes = 0;
        let unsent = std::mem::take(&mut state.unsent);
        let sent = std::mem::take(&mut state.sent);
        drop(state);
        self.wake.notify_one();
        unsent
            .into_iter()
            .for_each(|call| (call.done)(Err(CallError::NotSent(NotSent::NoLink))));
        sent.into_values()
            .for_each(|call| (call.done)(Err(CallError::LinkLost)));
    }

    fn complete(&self, number: u64, payload: Bytes) {
        let mut state = self.lock();
        let Some(sent) = state.sent.remove(&number) else {
            return;
        };
        state.bytes -= sent.bytes;
        drop(state);
        (sent.done)(if payload.is_empty() {
            Err(CallError::LinkLost)
        } else {
            Ok(payload)
        });
    }

    fn lock(&self) -> MutexGuard<'_, CallState> {
        self.state.lock().expect("no code that holds it panics")
    }
}

impl Outbound for CallQueue {
    /// Moves what fits into one write from unsent to sent.
    fn take(&self, batch: &mut Vec<Message>) -> More {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some(call) = state.unsent.pop_front()
        {
            bytes += call.payload.len() + NUMBER;
            let sent = Sent {
                bytes: call.payload.len(),
                done: call.done,
            };
            state.sent.insert(call.number, sent);
            batch.push(Message::Numbered(call.number, call.payload));
        }
        if state.open { More::Later } else { More::Never }
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }
}

impl Drop for CallQueue {
    /// Even a transport that dies with its runtime answers every call.
    fn drop(&mut self) {
        self.close();
    }
}

impl CallState {
    fn admits(&self, bytes: usize) -> Result<(), NotSent> {
        if bytes > CALL_BYTES_MAX {
            Err(NotSent::TooLong)
        } else if self.unsent.len() + self.sent.len() >= CALLS_MAX || self.bytes + bytes > CALLS_BYTES_MAX {
            Err(NotSent::Full)
        } else {
            Ok(())
        }
    }
}

/// Reads replies until the stream ends.
pub(crate) async fn read_replies(queue: &CallQueue, stream: RecvStream) -> Result<(), FrameError> {
    let mut reader = FrameReader::new(stream, LENGTHS);
    while let Some((number, payload)) = next_message(&mut reader).await? {
        queue.complete(number, payload);
    }
    Ok(())
}

async fn next_message(reader: &mut FrameReader) -> Result<Option<(u64, Bytes)>, FrameError> {
    let message = reader.next().await?;
    Ok(message.map(|mut message| (message.get_u64(), message)))
}

/// The way back to whoever asked. Answer it once, from any thread, whenever the answer is known. Dropping it
/// unanswered tells the caller that the outcome is unknown.
pub struct Reply {
    queue: Arc<ReplyQueue>,
    number: u64,
    answered: bool,
}

impl Reply {
    /// Sends the answer. An empty one, or one longer than [`CALL_BYTES_MAX`], tells the caller that the
    /// outcome is unknown. Never blocks; does nothing when the caller is gone.
    pub fn send(mut self, payload: Bytes) {
        self.answered = true;
        let payload = if payload.len() > CALL_BYTES_MAX {
            Bytes::new()
        } else {
            payload
        };
        self.queue.push(self.number, payload);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            self.queue.push(self.number, Bytes::new());
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reply {}", self.number)
    }
}

/// The replies of one stream.
struct ReplyQueue {
    state: Mutex<ReplyState>,
    /// Tells the writer that there is something to write.
    wake: Notify,
    /// Tells the reader that there is room for more requests.
    room: Notify,
}

struct ReplyState {
    open: bool,
    /// No more requests will come; what was asked is still answered.
    finished: bool,
    /// Requests delivered whose replies are not written.
    requests: usize,
    /// Bytes of the replies not written.
    bytes: usize,
    pending: VecDeque<(u64, Bytes)>,
}

impl ReplyQueue {
    fn new() -> ReplyQueue {
        let state = ReplyState {
            open: true,
            finished: false,
            requests: 0,
            bytes: 0,
            pending: VecDeque::new(),
        };
        ReplyQueue {
            state: Mutex::new(state),
            wake: Notify::new(),
            room: Notify::new(),
        }
    }

    fn push(&self, number: u64, payload: Bytes) {
        let mut state = self.lock();
        if !state.open {
            return;
        }
        state.bytes += payload.len();
        state.pending.push_back((number, payload));
        let first = state.pending.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
    }

    /// Counts a request in; waits while too many are unanswered.
    async fn admit(&self) {
        loop {
            {
                let mut state = self.lock();
                if state.requests < REQUESTS_MAX && state.bytes < REPLIES_BYTES_MAX {
                    state.requests += 1;
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// The slot admitted last stays unused: the caller asks no more.
    fn finish(&self) {
        let mut state = self.lock();
        state.finished = true;
        state.requests -= 1;
        drop(state);
        self.wake.notify_one();
    }

    /// Forgets what is pending and takes nothing more: the caller is gone.
    fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.bytes = 0;
        state.pending.clear();
    }

    fn lock(&self) -> MutexGuard<'_, ReplyState> {
        self.state.lock().expect("no code that holds it panics")
    }
}

impl Outbound for ReplyQueue {
    fn take(&self, batch: &mut Vec<Message>) -> More {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some((number, payload)) = state.pending.pop_front()
        {
            bytes += payload.len() + NUMBER;
            state.bytes -= payload.len();
            state.requests -= 1;
            batch.push(Message::Numbered(number, payload));
        }
        if !batch.is_empty() {
            self.room.notify_one();
        }
        let answered = state.finished && state.requests == 0;
        if state.open && !answered {
            More::Later
        } else {
            More::Never
        }
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }
}

/// Closes the queue whatever way its stream ends, so that late replies are not kept.
struct Closing(Arc<ReplyQueue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Answers one stream of requests until it ends: each goes to `deliver` with the way back.
pub(crate) async fn serve(
    stream: (Stream, RecvStream),
    deliver: impl FnMut(Bytes, Reply),
) -> Result<(), FrameError> {
    let queue = Arc::new(ReplyQueue::new());
    let _closing = Closing(queue.clone());
    let reading = read_requests(&queue, FrameReader::new(stream.1, LENGTHS), deliver);
    let writing = writing::write_all(&*queue, stream.0);
    tokio::try_join!(reading, writing).map(|_| ())
}

async fn read_requests(
    queue: &Arc<ReplyQueue>,
    mut reader: FrameReader,
    mut deliver: impl FnMut(Bytes, Reply),
) -> Result<(), FrameError> {
    loop {
        queue.admit().await;
        let Some((number, payload)) = next_message(&mut reader).await? else {
            queue.finish();
            return Ok(());
        };
        deliver(
            payload,
            Reply {
                queue: queue.clone(),
                number,
                answered: false,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Poll, Waker};

    fn push(queue: &CallQueue, payload: &Bytes) -> Option<NotSent> {
        let admitted = queue.push(payload.clone(), Box::new(|_| {}));
        let admitted = admitted.unwrap_or_else(|_| panic!("the queue is open"));
        admitted.err().map(|(_, why)| why)
    }

    #[test]
    fn calls_are_bounded_by_number_and_by_bytes_until_they_are_answered() {
        let queue = CallQueue::new();
        let quarter = Bytes::from(vec![1; CALLS_BYTES_MAX / 4]);
        (0..4).for_each(|_| assert_eq!(push(&queue, &quarter), None, "up to the byte"));
        assert_eq!(
            push(&queue, &Bytes::from_static(b"x")),
            Some(NotSent::Full),
            "one byte more"
        );
        let mut taken = Vec::new();
        queue.take(&mut taken);
        assert_eq!(
            push(&queue, &Bytes::from_static(b"x")),
            Some(NotSent::Full),
            "written is not answered"
        );
        queue.complete(1, Bytes::from_static(b"done"));
        assert_eq!(push(&queue, &quarter), None);

        let queue = CallQueue::new();
        let empty = Bytes::new();
        (0..CALLS_MAX).for_each(|_| assert_eq!(push(&queue, &empty), None));
        assert_eq!(push(&queue, &empty), Some(NotSent::Full));
    }

    #[test]
    fn a_finished_queue_gives_calls_back_and_writes_what_it_took() {
        let queue = CallQueue::new();
        assert_eq!(push(&queue, &Bytes::from_static(b"taken")), None);
        queue.finish();
        assert!(queue.push(Bytes::from_static(b"late"), Box::new(|_| {})).is_err());
        let mut taken = Vec::new();
        assert_eq!((queue.take(&mut taken), taken.len()), (More::Never, 1));
        assert_eq!(queue.waiting().0, 1, "it still waits for its answer");
    }

    fn is_ready(future: impl Future) -> bool {
        let mut polling = std::task::Context::from_waker(Waker::noop());
        matches!(pin!(future).poll(&mut polling), Poll::Ready(_))
    }

    #[test]
    fn reading_pauses_while_too_many_requests_or_bytes_of_answers_wait() {
        let queue = ReplyQueue::new();
        (0..REQUESTS_MAX).for_each(|_| assert!(is_ready(queue.admit())));
        assert!(!is_ready(queue.admit()), "one request more");
        queue.push(1, Bytes::from_static(b"answer"));
        queue.take(&mut Vec::new());
        assert!(is_ready(queue.admit()), "one answer was written");

        let queue = ReplyQueue::new();
        let largest = Bytes::from(vec![1; CALL_BYTES_MAX]);
        for number in 0..(REPLIES_BYTES_MAX / CALL_BYTES_MAX) as u64 {
            assert!(is_ready(queue.admit()));
            queue.push(number, largest.clone());
        }
        assert!(
            !is_ready(queue.admit()),
            "a client that reads no answers is not read from"
        );
    }
}
