//! One link: a connection on which both sides have said hello, its queues and its tasks; and the peer it
//! leads to, which outlives its links. How a link comes about is the business of `dial.rs` and `accept.rs`.
//!
//! A link's queues die with it: what they held is lost, calls not yet written are `NotSent`, the others
//! `LinkLost`. Nothing is ever sent again by itself.

use crate::calls::{self, CallQueue};
use crate::framing::FrameError;
use crate::hello::{self, HelloError, StreamKind};
use crate::lanes::{self, LaneCounters, LaneQueue};
use crate::transport::Shared;
use crate::writing;
use multiraft::{Lane, NodeId};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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

/// Why a connection was closed: the application error code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The node is shutting down.
    Stopping = 0,
    /// The hello or the certificate does not fit; the reason says how.
    Refused = 1,
    /// Another connection between the two nodes is preferred.
    Duplicate = 2,
    /// The other side broke the protocol.
    Protocol = 3,
    /// Too many connections.
    Busy = 4,
    /// A link's stream ended without a violation.
    Lost = 5,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> VarInt {
        VarInt::from_u32(code as u32)
    }
}

/// Where the link to a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The peer has the lower id: it dials.
    Awaited,
    /// We dial for the first time.
    Dialing,
    /// Both sides have said hello.
    Up {
        /// Who dialed.
        dialer: NodeId,
        /// The peer's incarnation.
        incarnation: u64,
    },
    /// The last link or attempt ended; another attempt follows.
    Down {
        /// How.
        reason: String,
    },
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkState::Awaited => write!(f, "awaited"),
            LinkState::Dialing => write!(f, "dialing"),
            LinkState::Up { dialer, incarnation } => {
                write!(
                    f,
                    "up (dialed by node {}, peer's incarnation {incarnation})",
                    dialer.0
                )
            }
            LinkState::Down { reason } => write!(f, "down: {reason}"),
        }
    }
}

/// One lane's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Frames that wait now.
    pub queued_frames: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Frames handed to the connection.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Frames dropped because the queue was full or the frame too long.
    pub dropped: u64,
    /// Frames dropped because no link was up, or lost in the queue with their link.
    pub unlinked: u64,
}

/// The figures of the link to one peer. Counters cover all links to it since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The peer.
    pub peer: NodeId,
    /// Where it is dialed.
    pub address: String,
    /// Where the link stands.
    pub state: LinkState,
    /// Smoothed round trip; zero while down.
    pub rtt: Duration,
    /// UDP payload bytes sent.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets sent and lost.
    pub lost_packets: u64,
    /// Links that came up after the first.
    pub reconnects: u64,
    /// The control lane.
    pub control: LaneStats,
    /// The entries lane.
    pub entries: LaneStats,
    /// Calls to the peer without an answer.
    pub calls: usize,
    /// Their bytes.
    pub calls_bytes: usize,
}

/// A live link.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    dialer: NodeId,
    incarnation: u64,
    control: LaneQueue,
    entries: LaneQueue,
    pub(crate) calls: CallQueue,
    since: Instant,
}

impl Link {
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

    fn close(&self, code: Code, reason: &str) {
        self.connection.close(code.into(), reason.as_bytes());
        self.control.close();
        self.entries.close();
        self.calls.close();
    }

    /// True when this link is kept although `newcomer` came later: the peer's older process is calling, or
    /// both sides dialed at once and this is the one that the node with the lower id dialed.
    fn outranks(&self, newcomer: &Link, lower: NodeId) -> bool {
        if newcomer.incarnation != self.incarnation {
            return newcomer.incarnation < self.incarnation;
        }
        let alive = self.connection.close_reason().is_none();
        alive && self.dialer == lower && newcomer.dialer != lower
    }
}

/// Another node, linked or not.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    address: Mutex<String>,
    /// The link, while one is up. Changed only under `changes`.
    current: watch::Sender<Option<Arc<Link>>>,
    /// Held while the link changes and the sink hears of it, so that it hears in order.
    changes: Mutex<Totals>,
    /// Follows `current`, and says more while no link is up.
    state: watch::Sender<LinkState>,
    control: Arc<LaneCounters>,
    entries: Arc<LaneCounters>,
    links: AtomicU64,
}

/// Figures of links that are gone.
#[derive(Clone, Copy, Default)]
struct Totals {
    sent_bytes: u64,
    received_bytes: u64,
    sent_packets: u64,
    lost_packets: u64,
}

impl Totals {
    fn add(&mut self, connection: &Connection) {
        let stats = connection.stats();
        self.sent_bytes += stats.udp_tx.bytes;
        self.received_bytes += stats.udp_rx.bytes;
        self.sent_packets += stats.path.sent_packets;
        self.lost_packets += stats.path.lost_packets;
    }
}

impl Peer {
    pub(crate) fn new(id: NodeId, address: String) -> Peer {
        Peer {
            id,
            address: Mutex::new(address),
            current: watch::Sender::new(None),
            changes: Mutex::default(),
            state: watch::Sender::new(LinkState::Awaited),
            control: Arc::default(),
            entries: Arc::default(),
            links: AtomicU64::new(0),
        }
    }

    pub(crate) fn address(&self) -> String {
        lock(&self.address).clone()
    }

    pub(crate) fn set_address(&self, address: String) {
        *lock(&self.address) = address;
    }

    /// Tells where attempts to link stand. Says nothing while a link is up: an attempt may fail beside it.
    pub(crate) fn set_attempt(&self, state: LinkState) {
        let _unchanged = lock(&self.changes);
        if self.link().is_none() {
            self.set_state(state);
        }
    }

    fn set_state(&self, state: LinkState) {
        self.state.send_if_modified(|current| {
            let changes = *current != state;
            *current = state;
            changes
        });
    }

    /// Tells every change of the link's state.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// The link, if one is up.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.current.borrow().clone()
    }

    /// Waits until a link is up.
    pub(crate) async fn up(&self) {
        let waited = self
            .current
            .subscribe()
            .wait_for(Option::is_some)
            .await
            .map(|_| ());
        waited.expect("the sender is this peer's own");
    }

    /// Waits until no link is up.
    pub(crate) async fn down(&self) {
        let waited = self
            .current
            .subscribe()
            .wait_for(Option::is_none)
            .await
            .map(|_| ());
        waited.expect("the sender is this peer's own");
    }

    pub(crate) fn count_unlinked(&self, lane: Lane) {
        let counters = match lane {
            Lane::Control => &self.control,
            Lane::Entries => &self.entries,
        };
        counters.frames_unlinked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let mut totals = *lock(&self.changes);
        let link = self.link();
        if let Some(link) = &link {
            totals.add(&link.connection);
        }
        let (calls, calls_bytes) = link.as_ref().map_or((0, 0), |link| link.calls.waiting());
        LinkStats {
            peer: self.id,
            address: self.address(),
            state: self.state.borrow().clone(),
            rtt: link.as_ref().map_or(Duration::ZERO, |link| link.connection.rtt()),
            sent_bytes: totals.sent_bytes,
            received_bytes: totals.received_bytes,
            sent_packets: totals.sent_packets,
            lost_packets: totals.lost_packets,
            reconnects: self.links.load(Ordering::Relaxed).saturating_sub(1),
            control: lane_stats(&self.control, link.as_ref().map(|link| &link.control)),
            entries: lane_stats(&self.entries, link.as_ref().map(|link| &link.entries)),
            calls,
            calls_bytes,
        }
    }

    /// Makes a connection on which both sides have said hello the link, unless the one there is preferred.
    pub(crate) fn adopt(&self, shared: &Shared, greeted: Greeted) -> Result<Arc<Link>, &'static str> {
        let link = Arc::new(Link {
            connection: greeted.connection,
            dialer: greeted.dialer,
            incarnation: greeted.incarnation,
            control: LaneQueue::new(self.control.clone()),
            entries: LaneQueue::new(self.entries.clone()),
            calls: CallQueue::new(),
            since: Instant::now(),
        });
        let mut totals = lock(&self.changes);
        let old = self.link();
        if let Some(old) = &old
            && old.outranks(&link, shared.node.min(self.id))
        {
            return Err("another link between the two nodes is preferred");
        }
        self.current.send_replace(Some(link.clone()));
        self.set_state(LinkState::Up {
            dialer: link.dialer,
            incarnation: link.incarnation,
        });
        if let Some(old) = old {
            totals.add(&old.connection);
            let reason = "replaced by a newer link";
            old.close(Code::Duplicate, reason);
            self.tell(
                shared,
                LinkState::Down {
                    reason: reason.to_owned(),
                },
            );
        }
        self.links.fetch_add(1, Ordering::Relaxed);
        self.tell(
            shared,
            LinkState::Up {
                dialer: link.dialer,
                incarnation: link.incarnation,
            },
        );
        Ok(link)
    }

    /// Forgets a link that ended, unless it was replaced.
    fn forget(&self, shared: &Shared, link: &Arc<Link>, reason: String) {
        let mut totals = lock(&self.changes);
        if !self.link().is_some_and(|current| Arc::ptr_eq(&current, link)) {
            return;
        }
        totals.add(&link.connection);
        self.current.send_replace(None);
        self.tell(shared, LinkState::Down { reason });
    }

    /// Called under `changes`.
    fn tell(&self, shared: &Shared, state: LinkState) {
        shared.sinks.frames.link_changed(self.id, &state);
        self.set_state(state);
    }
}

fn lane_stats(counters: &LaneCounters, queue: Option<&LaneQueue>) -> LaneStats {
    let (queued_frames, queued_bytes) = queue.map_or((0, 0), LaneQueue::waiting);
    LaneStats {
        queued_frames,
        queued_bytes,
        sent: counters.frames_sent.load(Ordering::Relaxed),
        received: counters.frames_received.load(Ordering::Relaxed),
        dropped: counters.frames_dropped.load(Ordering::Relaxed),
        unlinked: counters.frames_unlinked.load(Ordering::Relaxed),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code that holds it panics")
}

/// A connection on which both sides have said hello.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) dialer: NodeId,
    pub(crate) incarnation: u64,
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
}

impl Ended {
    fn code(&self) -> Code {
        match self {
            Ended::Stream(error) if error.is_violation() => Code::Protocol,
            Ended::Header(error) if error.is_violation() => Code::Protocol,
            _ => Code::Lost,
        }
    }
}

/// Runs an adopted link until it ends, then cleans up.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) {
    let (id, dialer, incarnation) = (peer.id.0, link.dialer.0, link.incarnation);
    tracing::info!(peer = id, dialer, incarnation, "link up");
    let ended = run_streams(&shared, &peer, &link).await;
    let code = ended.code();
    if code == Code::Protocol {
        shared.violations.fetch_add(1, Ordering::Relaxed);
    }
    // What the other side said counts more than what a stream noticed of it.
    let reason = link
        .connection
        .close_reason()
        .map_or_else(|| ended.to_string(), |e| describe(&e));
    link.close(code, &reason);
    peer.forget(&shared, &link, reason.clone());
    if !shared.stopping() {
        tracing::warn!(peer = id, %reason, "link lost");
    }
}

/// A connection error in words an operator can use.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "the peer restarted".to_owned(),
        ConnectionError::TimedOut => "no packets from the peer".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        other => other.to_string(),
    }
}

/// Runs all streams; returns when the first ends. Dropping the set ends the others.
async fn run_streams(shared: &Arc<Shared>, peer: &Arc<Peer>, link: &Arc<Link>) -> Ended {
    let mut tasks: JoinSet<Result<(), Ended>> = JoinSet::new();
    tasks.spawn(write_lane(link.clone(), Lane::Control));
    tasks.spawn(write_lane(link.clone(), Lane::Entries));
    tasks.spawn(call(link.clone()));
    loop {
        let connection = &link.connection;
        let accepted = tokio::select! {
            stream = connection.accept_uni() => stream.map(Accepted::One),
            stream = connection.accept_bi() => stream.map(|(send, receive)| Accepted::Both(send, receive)),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Err(ended)) => return ended,
                Ok(Ok(())) | Err(_) => return Ended::Finished,
            },
        };
        match accepted {
            Ok(stream) => drop(tasks.spawn(receive(shared.clone(), peer.clone(), stream))),
            Err(error) => return error.into(),
        }
    }
}

enum Accepted {
    One(RecvStream),
    Both(SendStream, RecvStream),
}

/// Reads what the peer sends on a stream it opened.
async fn receive(shared: Arc<Shared>, peer: Arc<Peer>, stream: Accepted) -> Result<(), Ended> {
    let id = peer.id;
    match stream {
        Accepted::One(mut stream) => {
            let counters = match hello::read_kind(&mut stream).await? {
                StreamKind::Control => &peer.control,
                StreamKind::Entries => &peer.entries,
                other => return Err(HelloError::Unexpected(other).into()),
            };
            let deliver = |frame| shared.sinks.frames.deliver(id, frame);
            Ok(lanes::read_frames(stream, counters, deliver).await?)
        }
        Accepted::Both(send, mut receive) => {
            match hello::read_kind(&mut receive).await? {
                StreamKind::Calls => {}
                other => return Err(HelloError::Unexpected(other).into()),
            }
            let send = hello::prioritized(send, CALLS_PRIORITY);
            let deliver = |payload, reply| shared.sinks.calls.call(id, payload, reply);
            Ok(calls::serve((send, receive), deliver).await?)
        }
    }
}

async fn write_lane(link: Arc<Link>, lane: Lane) -> Result<(), Ended> {
    let (kind, priority) = match lane {
        Lane::Control => (StreamKind::Control, CONTROL_PRIORITY),
        Lane::Entries => (StreamKind::Entries, ENTRIES_PRIORITY),
    };
    let stream = hello::begin(link.connection.open_uni().await?, kind, priority).await?;
    Ok(writing::write_all(link.lane(lane), stream).await?)
}

async fn call(link: Arc<Link>) -> Result<(), Ended> {
    let (send, receive) = link.connection.open_bi().await?;
    let send = hello::begin(send, StreamKind::Calls, CALLS_PRIORITY).await?;
    let writing = writing::write_all(&link.calls, send);
    let reading = calls::read_replies(&link.calls, receive);
    tokio::select! {
        ended = writing => Ok(ended?),
        ended = reading => Ok(ended?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let up = LinkState::Up {
            dialer: NodeId(1),
            incarnation: 7,
        };
        assert_eq!(up.to_string(), "up (dialed by node 1, peer's incarnation 7)");
        let down = LinkState::Down {
            reason: "no packets from the peer".to_owned(),
        };
        assert_eq!(down.to_string(), "down: no packets from the peer");
    }
}
