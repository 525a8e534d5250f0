//! One link: a connection on which both sides have said hello, its queues and its tasks. Which connection
//! becomes the link is the business of `peer.rs`.
//!
//! A link's queues die with it: what they held is lost, calls not yet written are `NotSent`, the others
//! `LinkLost`. Nothing is ever sent again by itself. A link that a newer one replaces while both sides live loses
//! nothing: it takes nothing more, writes what waits, ends its streams, hears the other side's to their end, and
//! only then closes.

use crate::calls::{self, CallQueue};
use crate::framing::FrameError;
use crate::hello::{self, HelloError, StreamKind};
use crate::lanes::{self, LaneQueue};
use crate::limits::{REPLACED_LINGER, REPLACED_TIMEOUT};
use crate::peer::{Peer, Process};
use crate::refusal::{By, Code, Refusal, describe, refusal};
use crate::status::LinkState;
use crate::transport::Shared;
use crate::writing;
use multiraft::{Lane, NodeId};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Votes and beats go before everything.
const CONTROL_PRIORITY: i32 = 20;
/// Replication goes before new work.
const ENTRIES_PRIORITY: i32 = 10;
/// Calls and replies.
const CALLS_PRIORITY: i32 = 5;
/// Long-lived streams of a link: two lanes and the calls, each way.
const STREAMS: usize = 6;

/// A connection on which both sides have said hello.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) dialer: NodeId,
    pub(crate) process: Process,
    /// The wire version agreed on.
    pub(crate) wire: u16,
    /// Under which of our certificates.
    pub(crate) credentials: u64,
}

/// A live link.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) dialer: NodeId,
    pub(crate) process: Process,
    pub(crate) wire: u16,
    pub(crate) credentials: u64,
    control: LaneQueue,
    entries: LaneQueue,
    pub(crate) calls: CallQueue,
    since: Instant,
    /// True once either side has begun to end its streams.
    ending: watch::Sender<bool>,
}

impl Link {
    pub(crate) fn new(peer: &Peer, greeted: Greeted) -> Link {
        Link {
            connection: greeted.connection,
            dialer: greeted.dialer,
            process: greeted.process,
            wire: greeted.wire,
            credentials: greeted.credentials,
            control: peer.new_lane(Lane::Control),
            entries: peer.new_lane(Lane::Entries),
            calls: CallQueue::new(),
            since: Instant::now(),
            ending: watch::Sender::new(false),
        }
    }

    pub(crate) fn lane(&self, lane: Lane) -> &LaneQueue {
        match lane {
            Lane::Control => &self.control,
            Lane::Entries => &self.entries,
        }
    }

    /// How long the link has lived.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn state(&self) -> LinkState {
        LinkState::Up {
            dialer: self.dialer,
            incarnation: self.process.incarnation,
        }
    }

    pub(crate) fn close(&self, code: Code, reason: &str) {
        self.connection.close(code.into(), reason.as_bytes());
        self.control.close();
        self.entries.close();
        self.calls.close();
    }

    /// Takes nothing more, and ends when everything has arrived on both sides.
    pub(crate) fn retire(&self) {
        self.control.finish();
        self.entries.finish();
        self.calls.finish();
        self.ending.send_replace(true);
    }

    /// Returns when streams have been ending for so long that the other side will not end the rest.
    async fn overdue(&self) {
        let mut ending = self.ending.subscribe();
        let waited = ending.wait_for(|ending| *ending).await.map(|_| ());
        waited.expect("the sender is this link's own");
        // pace: the other side has this long to end its streams.
        tokio::time::sleep(REPLACED_TIMEOUT).await;
    }

    /// Asks the peer, which dialed this link, to dial a new one.
    pub(crate) async fn ask_for_redial(&self) -> Result<(), HelloError> {
        let stream = self.connection.open_uni().await?;
        hello::begin(stream, StreamKind::Redial, CONTROL_PRIORITY)
            .await?
            .finish();
        Ok(())
    }
}

/// Why a link ended.
#[derive(Debug, Error)]
enum Ended {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Header(#[from] HelloError),
    #[error("{0}")]
    Stream(#[from] FrameError),
    #[error("the peer ended a stream")]
    Finished,
    #[error("replaced by a newer link")]
    Replaced,
}

impl Ended {
    fn code(&self) -> Code {
        match self {
            Ended::Stream(error) if error.is_violation() => Code::Protocol,
            Ended::Header(error) if error.is_violation() => Code::Protocol,
            Ended::Replaced => Code::Replaced,
            _ => Code::Lost,
        }
    }
}

/// Runs an adopted link until it ends, then cleans up.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) {
    let (id, dialer, incarnation) = (peer.id.0, link.dialer.0, link.process.incarnation);
    tracing::info!(peer = id, dialer, incarnation, wire = link.wire, "link up");
    let ended = run_streams(&shared, &peer, &link).await;
    let closed = link.connection.close_reason();
    count(&shared, &ended, closed.as_ref());
    // What the other side said counts more than what a stream noticed of it.
    let reason = closed.map_or_else(|| ended.to_string(), |closed| describe(&closed));
    link.close(ended.code(), &reason);
    let replaced = !peer.link().is_some_and(|current| Arc::ptr_eq(&current, &link));
    peer.ended(&shared, &link, reason.clone());
    if replaced || shared.stopping() {
        tracing::debug!(peer = id, %reason, "a replaced link ended");
    } else {
        tracing::warn!(peer = id, %reason, "link lost");
    }
}

/// A peer may find fault with us only after it was taken for the link: then it refused us after all.
fn count(shared: &Shared, ended: &Ended, closed: Option<&ConnectionError>) {
    if ended.code() == Code::Protocol {
        shared.violations.fetch_add(1, Ordering::Relaxed);
    }
    if let Some((By::OtherSide, refusal)) = closed.and_then(refusal)
        && refusal != Refusal::Protocol
    {
        shared.refusals.count(By::OtherSide, refusal);
    }
}

/// Runs all streams until they have ended on both sides, or one fails. Dropping the set ends the others.
async fn run_streams(shared: &Arc<Shared>, peer: &Arc<Peer>, link: &Arc<Link>) -> Ended {
    let mut tasks: JoinSet<Result<StreamKind, Ended>> = JoinSet::new();
    tasks.spawn(write_lane(link.clone(), Lane::Control));
    tasks.spawn(write_lane(link.clone(), Lane::Entries));
    tasks.spawn(call(link.clone()));
    let mut overdue = pin!(link.overdue());
    let mut open = STREAMS;
    while open > 0 {
        let connection = &link.connection;
        let accepted = tokio::select! {
            stream = connection.accept_uni() => stream.map(Accepted::One),
            stream = connection.accept_bi() => stream.map(|(send, receive)| Accepted::Both(send, receive)),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(StreamKind::Redial)) => continue,
                Ok(Ok(_)) => {
                    link.ending.send_replace(true);
                    open -= 1;
                    continue;
                }
                Ok(Err(ended)) => return ended,
                Err(_) => return Ended::Finished,
            },
            () = &mut overdue => return Ended::Finished,
        };
        match accepted {
            Ok(stream) => drop(tasks.spawn(receive(shared.clone(), peer.clone(), stream))),
            Err(error) => return error.into(),
        }
    }
    // The other side may not have read everything yet; whoever has waited longer closes.
    let closed = tokio::time::timeout(REPLACED_LINGER, link.connection.closed());
    closed.await.map_or(Ended::Replaced, Ended::Connection)
}

enum Accepted {
    One(RecvStream),
    Both(SendStream, RecvStream),
}

/// Reads what the peer sends on a stream it opened.
async fn receive(shared: Arc<Shared>, peer: Arc<Peer>, stream: Accepted) -> Result<StreamKind, Ended> {
    match stream {
        Accepted::One(mut stream) => {
            let kind = hello::read_kind(&mut stream).await?;
            let counters = match kind {
                StreamKind::Control => &peer.control,
                StreamKind::Entries => &peer.entries,
                StreamKind::Redial => {
                    peer.redial_asked.notify_one();
                    return Ok(kind);
                }
                other => return Err(HelloError::Unexpected(other).into()),
            };
            let deliver = |frame| shared.sinks.frames.deliver(peer.id, frame);
            lanes::read_frames(stream, counters, deliver).await?;
            Ok(kind)
        }
        Accepted::Both(send, mut receive) => {
            match hello::read_kind(&mut receive).await? {
                StreamKind::Calls => {}
                other => return Err(HelloError::Unexpected(other).into()),
            }
            let send = hello::prioritized(send, CALLS_PRIORITY);
            let deliver = |payload, reply| shared.sinks.calls.call(peer.id, payload, reply);
            calls::serve((send, receive), deliver).await?;
            Ok(StreamKind::Calls)
        }
    }
}

async fn write_lane(link: Arc<Link>, lane: Lane) -> Result<StreamKind, Ended> {
    let (kind, priority) = match lane {
        Lane::Control => (StreamKind::Control, CONTROL_PRIORITY),
        Lane::Entries => (StreamKind::Entries, ENTRIES_PRIORITY),
    };
    let stream = hello::begin(link.connection.open_uni().await?, kind, priority).await?;
    writing::write_all(link.lane(lane), stream).await?;
    Ok(kind)
}

async fn call(link: Arc<Link>) -> Result<StreamKind, Ended> {
    let (send, receive) = link.connection.open_bi().await?;
    let send = hello::begin(send, StreamKind::Calls, CALLS_PRIORITY).await?;
    let mut reading = pin!(calls::read_replies(&link.calls, receive));
    tokio::select! {
        biased;
        written = writing::write_all(&link.calls, send) => written?,
        read = &mut reading => {
            read?;
            return Err(Ended::Finished);
        }
    }
    // No more calls; what was asked is still answered.
    reading.await?;
    Ok(StreamKind::Calls)
}
