//! What a node does unasked: commits a stamp where keys have expired, brings mirrored metrics up to date before a
//! scrape, hands leadership over before it stops.

use super::board::Board;
use super::workers::wall_clock;
use crate::apply::Expiries;
use crate::gateway::resp::RespCounters;
use crate::kv::{Command, Query};
use crate::metrics::{Api, Metrics, raise};
use crate::requests::Requests;
use crate::service::{Kind, Request, Service, Target};
use bytes::Bytes;
use multiraft::host::{Host, Intake, Raft};
use multiraft::{AnswerSink, Control, GroupId, NodeId, Outcome, Status, Ticket};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store_redb::Store;
use tokio::sync::oneshot;
use transport_quic::{LinkState, Transport};

/// How often the node looks for expired keys.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// Stamps committed in a group per look: each purges a bounded number of keys.
const EXPIRY_ROUNDS: usize = 100;
/// How long a worker may take to give a sign of life.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often, and how many times, to look for a status that was asked for.
const STATUS_LOOK: Duration = Duration::from_millis(1);
const STATUS_LOOKS: usize = 20;
/// How often to look for leaders that are not known.
const LOCATE_INTERVAL: Duration = Duration::from_secs(1);
/// How long one stamp may take.
const EXPIRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Commits a stamp in every group led here in which a key has expired, so that expired keys leave the state without
/// traffic. Runs until it is dropped.
pub(super) async fn expire(expiries: &Expiries, board: &Board, service: &Arc<dyn Service>) {
    let payload = Command::Batch {
        operations: Vec::new(),
    }
    .encode();
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for _ in 0..EXPIRY_ROUNDS {
            let due = due_here(expiries, board);
            if due.is_empty() {
                break;
            }
            for group in due {
                let request = Request {
                    target: Target::Group(group),
                    kind: Kind::Write,
                    payload: payload.clone(),
                    timeout: EXPIRY_TIMEOUT,
                };
                // Whatever came of it, the next look shows whether there is more to do.
                let _ = ask(service, request).await;
            }
        }
    }
}

fn due_here(expiries: &Expiries, board: &Board) -> Vec<GroupId> {
    let mut due = expiries.due(wall_clock());
    if !due.is_empty() {
        let led = board.led_here();
        due.retain(|group| led.contains(group));
    }
    due
}

/// Finds the leaders of ranges that have no replica here, so that this node can tell who they are: a request that is
/// answered leaves its leader's name in the routes. Runs until it is dropped.
pub(super) async fn locate(requests: &Requests, node: NodeId, service: &Arc<dyn Service>) {
    let payload = Query::Count.encode();
    let mut interval = tokio::time::interval(LOCATE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let routes = requests.routes();
        let elsewhere = routes
            .descriptors()
            .filter(|range| range.replica_on(node).is_none());
        let unknown = elsewhere.filter(|range| routes.leader(range.group).is_none());
        for group in unknown.map(|range| range.group) {
            let request = Request {
                target: Target::Group(group),
                kind: Kind::Read,
                payload: payload.clone(),
                timeout: LOCATE_INTERVAL,
            };
            // Without an answer the next look asks again.
            let _ = ask(service, request).await;
        }
    }
}

/// One answer for one waiter.
struct Once(Mutex<Option<oneshot::Sender<Outcome>>>);

impl AnswerSink for Once {
    fn answer(&self, _number: u64, outcome: Outcome) {
        let waiter = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiter) = waiter {
            // It may have stopped waiting.
            let _ = waiter.send(outcome);
        }
    }
}

async fn ask(service: &Arc<dyn Service>, request: Request) -> Option<Outcome> {
    let (waiter, answer) = oneshot::channel();
    let sink = Arc::new(Once(Mutex::new(Some(waiter))));
    service.submit(request, Ticket { sink, number: 0 });
    answer.await.ok()
}

/// Asks a voter on a live other node to lead each group that this node leads.
pub(super) fn hand_over(board: &Board, host: &Host, live: &BTreeSet<NodeId>) {
    for group in board.led_here_with(live) {
        let status = status_of(&host.raft(group));
        let nodes = status.map(|status| status.membership.nodes).unwrap_or_default();
        if let Some((target, _)) = nodes.into_iter().find(|(_, home)| live.contains(home)) {
            let sink = Arc::new(Once(Mutex::new(None)));
            host.intake().order(Control::Transfer {
                group,
                target,
                ticket: Ticket { sink, number: 0 },
            });
        }
    }
}

/// The other nodes that are linked to this one now.
pub(super) fn live_peers(transport: &Transport) -> BTreeSet<NodeId> {
    let links = transport.links().into_iter();
    links
        .filter(|link| matches!(link.state, LinkState::Up { .. }))
        .map(|link| link.peer)
        .collect()
}

/// The state of a group's replica on this node: None when there is none, or its worker is slow to tell.
pub(super) fn status_of(raft: &Raft) -> Option<Status> {
    let state = raft.metrics();
    for _ in 0..STATUS_LOOKS {
        let status = state.borrow().clone();
        if status.is_some() {
            return status;
        }
        std::thread::sleep(STATUS_LOOK); // pace: a turn takes less
    }
    None
}

/// Asks every worker for a sign of life: a request for a group that does not exist is refused in its next turn.
pub(super) fn ping(intake: &Intake) -> Result<(), String> {
    let workers = intake.workers() as u64;
    let (sent, answers) = std::sync::mpsc::channel();
    let sink = Arc::new(Signs(Mutex::new(sent)));
    for worker in 0..workers {
        let none = GroupId((u64::MAX / workers - 1) * workers + worker);
        let ticket = Ticket {
            sink: sink.clone(),
            number: worker,
        };
        intake.read(none, Bytes::new(), ticket);
    }
    for _ in 0..workers {
        answers
            .recv_timeout(PATIENCE)
            .map_err(|_| "a worker has not taken a turn for a second".to_owned())?;
    }
    Ok(())
}

struct Signs(Mutex<std::sync::mpsc::Sender<u64>>);

impl AnswerSink for Signs {
    fn answer(&self, number: u64, _outcome: Outcome) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asked may have stopped waiting.
        let _ = sender.send(number);
    }
}

/// Brings the figures that are kept elsewhere up to date.
pub(super) fn refresh(metrics: &Metrics, board: &Board, transport: &Transport, store: &Store) {
    board.export(&metrics.raft);
    refresh_links(metrics, transport);
    metrics.tls.note_refusals(&transport.stats().refusals);
    let (stats, storage) = (store.stats(), &metrics.storage);
    storage.ring_used_bytes.set(stats.ring_used_bytes.cast_signed());
    storage.ring_size_bytes.set(stats.ring_bytes.cast_signed());
    storage.memtable_bytes.set(stats.memtable_bytes.cast_signed());
    storage.file_bytes.set(stats.redb_bytes.cast_signed());
    raise(&storage.checkpoints, stats.checkpoints);
    let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    storage.free_bytes.set(shown(stats.free_bytes));
    storage.reusable_bytes.set(shown(stats.reusable_bytes));
    storage.needed_bytes.set(shown(stats.needed_bytes));
    storage.space_shortage.set(i64::from(stats.space as u8));
    raise(&storage.scrub_passes, stats.scrub_passes);
    raise(&storage.scrub_bytes, stats.scrub_bytes);
    raise(&storage.scrub_errors, stats.scrub_errors);
    storage.scrub_ended.set(shown(stats.scrub_ended));
    let refusals = storage.refusals.iter().zip(board.refusals());
    refusals.for_each(|(counter, total)| raise(counter, total));
}

/// The same for the gateways' connections.
pub(super) fn refresh_clients(metrics: &Metrics, transport: &Transport, resp: &RespCounters) {
    let open = |api, count: u64| metrics.clients.connections(api).set(count.cast_signed());
    open(Api::Native, transport.stats().clients);
    open(Api::Resp, resp.connections_open.load(Ordering::Relaxed));
}

fn refresh_links(metrics: &Metrics, transport: &Transport) {
    for link in transport.links() {
        let peer = metrics.peer(link.peer.0);
        peer.connected
            .set(i64::from(matches!(link.state, LinkState::Up { .. })));
        peer.rtt.set(link.rtt.as_secs_f64());
        let queued = link.control.queued_bytes + link.entries.queued_bytes + link.calls_bytes;
        peer.queue_bytes.set(i64::try_from(queued).unwrap_or(i64::MAX));
        raise(&peer.dropped, link.control.dropped + link.entries.dropped);
        raise(&peer.sent_bytes, link.sent_bytes);
        raise(&peer.received_bytes, link.received_bytes);
        raise(&peer.reconnects, link.reconnects);
        raise(&peer.renewals, link.renewals);
    }
}
