//! One connection with many outstanding calls. Callers append whole frames to a shared buffer and wait for their slot;
//! one task writes what has gathered in few large writes, reads answers and hands them to the slots. When the
//! connection is lost every slot is dropped, which tells its caller, and the task dials again.

use crate::dial::{Dialer, Link};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, OUTSTANDING_MAX, QUEUE_BYTES_MAX, WRITE_BYTES_MAX};
use crate::protocol::Call;
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};

/// What callers and the connection's task share.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    state: watch::Sender<State>,
}

/// Whether there is a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Frames are sent.
    Up,
    /// Dialing; why the last attempt failed.
    Down(String),
}

struct Queue {
    outgoing: BytesMut,
    waiting: Slab<Waiter>,
    stamp: u32,
    up: bool,
}

/// One outstanding call. The stamp tells it from others that used the same slot.
struct Waiter {
    stamp: u32,
    answer: oneshot::Sender<Bytes>,
}

/// Why a call was not queued. It definitely was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotQueued {
    /// There is no connection now.
    Down,
    /// Too much is waiting.
    Full,
}

/// A call under way. Dropping it gives up the slot: a late answer is ignored.
pub(crate) struct Outstanding {
    shared: Arc<Shared>,
    number: u64,
    pub(crate) answer: oneshot::Receiver<Bytes>,
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        // Answered or lost: the slot is free already.
        if self.answer.is_terminated() {
            return;
        }
        let mut queue = self.shared.lock();
        let (stamp, slot) = split(self.number);
        if queue
            .waiting
            .get(slot)
            .is_some_and(|waiter| waiter.stamp == stamp)
        {
            queue.waiting.remove(slot);
        }
    }
}

/// A request's number names its slot and the slot's user.
fn number(stamp: u32, slot: usize) -> u64 {
    u64::from(stamp) << 32 | slot as u64
}

fn split(number: u64) -> (u32, usize) {
    ((number >> 32) as u32, (number & u64::from(u32::MAX)) as usize)
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let queue = Queue {
            outgoing: BytesMut::new(),
            waiting: Slab::new(),
            stamp: 0,
            up: false,
        };
        let (state, _) = watch::channel(State::Down("not dialed yet".to_string()));
        Shared {
            queue: Mutex::new(queue),
            wake: Notify::new(),
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Follows whether there is a connection.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Appends the call to what is sent next.
    pub(crate) fn enqueue(self: &Arc<Self>, call: &Call<'_>) -> Result<Outstanding, NotQueued> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.lock();
        if !queue.up {
            return Err(NotQueued::Down);
        }
        if queue.outgoing.len() >= QUEUE_BYTES_MAX || queue.waiting.len() >= OUTSTANDING_MAX {
            return Err(NotQueued::Full);
        }
        queue.stamp = queue.stamp.wrapping_add(1);
        let stamp = queue.stamp;
        let number = number(stamp, queue.waiting.insert(Waiter { stamp, answer }));
        let was_empty = queue.outgoing.is_empty();
        call.encode_frame(number, &mut queue.outgoing);
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
        Ok(Outstanding {
            shared: self.clone(),
            number,
            answer: receiver,
        })
    }

    /// What is to be written next, at most one large write.
    fn take(&self) -> Bytes {
        let mut queue = self.lock();
        let length = queue.outgoing.len().min(WRITE_BYTES_MAX);
        queue.outgoing.split_to(length).freeze()
    }

    fn answer(&self, frames: &mut Vec<(u64, Bytes)>) {
        let mut queue = self.lock();
        for (number, payload) in frames.drain(..) {
            let (stamp, slot) = split(number);
            if queue
                .waiting
                .get(slot)
                .is_some_and(|waiter| waiter.stamp == stamp)
            {
                // A caller that is gone has given up; nobody is told.
                let _ = queue.waiting.remove(slot).answer.send(payload);
            }
        }
    }

    fn up(&self) {
        self.lock().up = true;
        self.state.send_replace(State::Up);
    }

    /// Drops every slot: their callers learn that the connection is lost.
    fn down(&self, why: String) {
        let mut queue = self.lock();
        queue.up = false;
        queue.outgoing.clear();
        let lost = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(lost);
        self.state.send_replace(State::Down(why));
    }
}

/// Keeps the connection up for as long as it runs.
pub(crate) async fn keep(shared: Arc<Shared>, dialer: Dialer, mut link: Link) {
    loop {
        shared.up();
        let connection = link.connection.clone();
        let why = tokio::select! {
            why = write(&shared, link.send) => why,
            why = read(&shared, link.receive, link.frames) => why,
        };
        connection.close(0u32.into(), b"");
        tracing::debug!(%why, "connection lost");
        shared.down(why);
        link = redial(&shared, &dialer).await;
    }
}

async fn redial(shared: &Shared, dialer: &Dialer) -> Link {
    let mut backoff = BACKOFF_MIN;
    loop {
        match dialer.dial().await {
            Ok(link) => return link,
            Err(error) => shared.down(error.to_string()),
        }
        // pace: a cluster that is down is not dialed in a loop.
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Writes until the connection fails; the reason.
async fn write(shared: &Shared, mut send: quinn::SendStream) -> String {
    loop {
        let bytes = shared.take();
        if bytes.is_empty() {
            shared.wake.notified().await;
        } else if let Err(error) = send.write_chunk(bytes).await {
            return error.to_string();
        }
    }
}

/// Reads until the connection fails; the reason.
async fn read(shared: &Shared, mut receive: quinn::RecvStream, mut frames: crate::frames::Frames) -> String {
    let mut answers = Vec::new();
    loop {
        match receive.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => frames.push(&chunk.bytes),
            Ok(None) => return "the node closed the stream".to_string(),
            Err(error) => return error.to_string(),
        }
        loop {
            match frames.next() {
                Ok(Some(frame)) => answers.push(frame),
                Ok(None) => break,
                Err(malformed) => return malformed.to_string(),
            }
        }
        shared.answer(&mut answers);
    }
}
