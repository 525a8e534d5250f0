//! Another node as this one sees it: where it listens, the link to it while one is up, what is counted over all
//! links, and which of two connections is kept. It outlives its links; how they come about is the business of
//! `dial.rs` and `accept.rs`.

use crate::calls::{Done, NotSent};
use crate::hello::Hello;
use crate::lanes::{LaneCounters, LaneQueue, Pushed, WhenFull};
use crate::link::{Greeted, Link};
use crate::refusal::Code;
use crate::status::{LaneStats, LinkState, LinkStats};
use crate::transport::Shared;
use bytes::Bytes;
use multiraft::{Frame, Lane, NodeId};
use quinn::Connection;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, watch};

/// Another node, linked or not.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    address: Mutex<String>,
    /// The link, while one is up. Changed only under `changes`.
    current: watch::Sender<Option<Arc<Link>>>,
    /// Held while the link changes and the sink hears of it, so that it hears in order.
    changes: Mutex<Past>,
    /// Follows `current`, and says more while no link is up.
    state: watch::Sender<LinkState>,
    /// True once the node is no member any more. Changed under `changes`.
    removed: watch::Sender<bool>,
    /// The peer wants the link, which this node dialed, dialed anew.
    pub(crate) redial_asked: Notify,
    pub(crate) control: Arc<LaneCounters>,
    pub(crate) entries: Arc<LaneCounters>,
    links: AtomicU64,
    renewals: AtomicU64,
}

/// What links that were leave behind.
#[derive(Default)]
struct Past {
    totals: Totals,
    /// Links that were replaced and have not ended.
    replaced: Vec<Arc<Link>>,
    /// The newest process of the peer that was ever linked.
    newest: Option<Process>,
}

/// One process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) incarnation: u64,
    /// Random: two processes with one incarnation are told apart by it.
    pub(crate) number: u64,
}

impl Process {
    pub(crate) fn of(hello: &Hello) -> Process {
        Process {
            incarnation: hello.incarnation,
            number: hello.process,
        }
    }
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

/// Why a connection on which both sides have said hello does not become the link.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Declined {
    #[error("another link between the two nodes is preferred")]
    Outranked,
    #[error("{0}")]
    DuplicateNode(String),
    #[error("the node is no member any more")]
    Removed,
}

impl Declined {
    pub(crate) fn code(&self) -> Code {
        match self {
            Declined::Outranked => Code::Duplicate,
            Declined::DuplicateNode(_) => Code::DuplicateNode,
            Declined::Removed => Code::Removed,
        }
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
            removed: watch::Sender::new(false),
            redial_asked: Notify::new(),
            control: Arc::default(),
            entries: Arc::default(),
            links: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
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
        self.until(Option::is_some).await;
    }

    /// Waits until no link is up.
    pub(crate) async fn down(&self) {
        self.until(Option::is_none).await;
    }

    /// Waits until this link is not the peer's any more.
    pub(crate) async fn left(&self, link: &Arc<Link>) {
        let other = |current: &Option<Arc<Link>>| !current.as_ref().is_some_and(|c| Arc::ptr_eq(c, link));
        self.until(other).await;
    }

    async fn until(&self, holds: impl FnMut(&Option<Arc<Link>>) -> bool) {
        let mut current = self.current.subscribe();
        let waited = current.wait_for(holds).await.map(|_| ());
        waited.expect("the sender is this peer's own");
    }

    /// Waits until the node is no member any more.
    pub(crate) async fn removed(&self) {
        let mut removed = self.removed.subscribe();
        let waited = removed.wait_for(|removed| *removed).await.map(|_| ());
        waited.expect("the sender is this peer's own");
    }

    /// Ends the link and every attempt at one, for good.
    pub(crate) fn remove(&self) {
        let _unchanged = lock(&self.changes);
        self.removed.send_replace(true);
        if let Some(link) = self.link() {
            link.close(Code::Removed, "the node was removed from the cluster");
        }
    }

    /// Queues a frame on the link's lane, or drops and counts it. True: it is the first that a full lane costs.
    pub(crate) fn send(&self, lane: Lane, frame: Frame) -> bool {
        match self.try_push(frame, |link, frame| link.lane(lane).push(frame)) {
            Ok(Pushed::Queued) => false,
            Ok(Pushed::Dropped { first }) => first,
            Err(_) => {
                let counters = self.counters(lane);
                counters.frames_unlinked.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Queues a call, or gives `done` back with the reason.
    pub(crate) fn call(&self, payload: Bytes, done: Done) -> Result<(), (Done, NotSent)> {
        let pushed = self.try_push((payload, done), |link, (payload, done)| {
            link.calls.push(payload, done)
        });
        match pushed {
            Ok(outcome) => outcome,
            Err((_, done)) => Err((done, NotSent::NoLink)),
        }
    }

    /// A link that is replaced at this instant takes nothing more: then its successor is asked.
    fn try_push<T, R>(&self, item: T, push: impl Fn(&Link, T) -> Result<R, T>) -> Result<R, T> {
        let Some(link) = self.link() else { return Err(item) };
        match push(&link, item) {
            Ok(pushed) => Ok(pushed),
            Err(item) => match self.link() {
                Some(next) if !Arc::ptr_eq(&next, &link) => push(&next, item),
                _ => Err(item),
            },
        }
    }

    fn counters(&self, lane: Lane) -> &Arc<LaneCounters> {
        match lane {
            Lane::Control => &self.control,
            Lane::Entries => &self.entries,
        }
    }

    /// A queue for one lane of a new link. A vote or an acknowledgement says all that earlier ones said, so that
    /// the newest are kept; of appends each is useless without the one before, so that the oldest are kept.
    pub(crate) fn new_lane(&self, lane: Lane) -> LaneQueue {
        let when_full = match lane {
            Lane::Control => WhenFull::DropOldest,
            Lane::Entries => WhenFull::DropNewest,
        };
        LaneQueue::new(self.counters(lane).clone(), when_full)
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let past = lock(&self.changes);
        let mut totals = past.totals;
        let link = self.link();
        let living = past.replaced.iter().chain(&link);
        living.for_each(|link| totals.add(&link.connection));
        drop(past);
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
            renewals: self.renewals.load(Ordering::Relaxed),
            wire: link.as_ref().map_or(0, |link| link.wire),
            control: lane_stats(&self.control, link.as_ref().map(|link| link.lane(Lane::Control))),
            entries: lane_stats(&self.entries, link.as_ref().map(|link| link.lane(Lane::Entries))),
            calls,
            calls_bytes,
        }
    }

    /// Makes a connection on which both sides have said hello the link, unless the one there is preferred.
    pub(crate) fn adopt(&self, shared: &Shared, greeted: Greeted) -> Result<Arc<Link>, Declined> {
        let link = Arc::new(Link::new(self, greeted));
        let mut past = lock(&self.changes);
        let old = self.link();
        self.judge(&past, old.as_deref(), &link, shared.us.node)?;
        past.newest = Some(link.process);
        self.current.send_replace(Some(link.clone()));
        self.set_state(link.state());
        match old {
            Some(old) if old.process == link.process && old.is_alive() => {
                self.renewals.fetch_add(1, Ordering::Relaxed);
                old.retire();
                past.replaced.push(old);
            }
            old => {
                if let Some(old) = old {
                    self.supersede(shared, &old, &link);
                    past.replaced.push(old);
                }
                self.links.fetch_add(1, Ordering::Relaxed);
                self.tell(shared, link.state());
            }
        }
        Ok(link)
    }

    /// Whether a newcomer may become the link. Both sides judge alike, so that they keep the same one.
    fn judge(&self, past: &Past, old: Option<&Link>, newcomer: &Link, us: NodeId) -> Result<(), Declined> {
        if *self.removed.borrow() {
            return Err(Declined::Removed);
        }
        if let Some(newest) = past.newest
            && let Some(why) = self.duplicate(newest, old, newcomer)
        {
            return Err(Declined::DuplicateNode(why));
        }
        let lower = us.min(self.id);
        let crossing = |old: &&Link| {
            let same = old.process == newcomer.process && old.is_alive();
            same && old.dialer == lower && newcomer.dialer != lower
        };
        old.filter(crossing).map_or(Ok(()), |_| Err(Declined::Outranked))
    }

    /// Says so when the newcomer cannot be the same process as before, nor its successor: the incarnation is
    /// durable and grows with every start, so a lower one is an older process, a copied or a rolled back disk.
    fn duplicate(&self, newest: Process, old: Option<&Link>, newcomer: &Link) -> Option<String> {
        let (id, theirs) = (self.id.0, newcomer.process);
        if theirs.incarnation < newest.incarnation {
            return Some(format!(
                "node {id} calls with incarnation {}, but was seen with {}: an older process still runs, or its \
                 disk was copied, rolled back or replaced",
                theirs.incarnation, newest.incarnation
            ));
        }
        let old = old.filter(|old| old.is_alive())?;
        let twin = old.process.incarnation == theirs.incarnation && old.process != theirs;
        twin.then(|| {
            format!(
                "node {id} runs twice: another process with the same identity and incarnation is linked from {}",
                old.connection.remote_address()
            )
        })
    }

    /// Ends a link that a new process of the peer, or a new attempt after a loss, has replaced.
    fn supersede(&self, shared: &Shared, old: &Link, newcomer: &Link) {
        let incarnation = newcomer.process.incarnation;
        if old.process == newcomer.process {
            old.close(Code::Replaced, "replaced by a newer link");
        } else {
            let words = format!("a newer process of this node, incarnation {incarnation}, took its place");
            old.close(Code::DuplicateNode, &words);
        }
        let reason = "replaced by a newer link".to_owned();
        self.tell(shared, LinkState::Down { reason });
    }

    /// Forgets a link that ended.
    pub(crate) fn ended(&self, shared: &Shared, link: &Arc<Link>, reason: String) {
        let mut past = lock(&self.changes);
        past.totals.add(&link.connection);
        past.replaced.retain(|replaced| !Arc::ptr_eq(replaced, link));
        if self.link().is_some_and(|current| Arc::ptr_eq(&current, link)) {
            self.current.send_replace(None);
            self.tell(shared, LinkState::Down { reason });
        }
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
