//! The only place that routes, forwards, resends and knows deadlines. Answers each ticket exactly once.
//!
//! A request goes straight into the inbox of this node's worker when this node leads its group, as far as is known,
//! and otherwise to the node that does. It is sent again only after a definite refusal; a write whose link or leader
//! was lost after hand-over is `Unknown`. A forwarded request is never forwarded again.

mod forward;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod keeper;
pub mod limits;
mod open;
mod routes;
mod wire;

pub use forward::{Call, CallFailed, Done, Reply};
pub use routes::Routes;

use crate::metrics::{Api, Code, Metrics, Op};
use crate::service::{Kind, RangeRoute, Request, Service, Target};
use crate::stages::Follower;
use arc_swap::ArcSwap;
use bytes::Bytes;
use forward::Arrived;
use keeper::Keeper;
use limits::{BACKOFF_MAX, BACKOFF_MIN};
use multiraft::host::worker_of;
use multiraft::{AnswerSink, Event, GroupId, NodeId, Outcome, ReadPolicy, Refusal, Ticket};
use open::{Open, Place, Table};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Item;

/// Puts an event into the inbox of the worker that owns its group.
pub type Push = Arc<dyn Fn(GroupId, Event) + Send + Sync>;

/// What `Requests` is wired to.
pub struct Wiring {
    /// This node.
    pub node: NodeId,
    /// All ranges.
    pub routes: Routes,
    /// This node's workers.
    pub push: Push,
    /// The other nodes.
    pub call: Call,
    /// Counts what happens here.
    pub metrics: Arc<Metrics>,
    /// Each worker's follower of writes.
    pub followers: Vec<Arc<Follower>>,
}

/// Routes the requests of one node. Cheap to clone.
#[derive(Clone)]
pub struct Requests {
    shared: Arc<Shared>,
    keeper: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    /// Itself: every ticket holds it.
    me: Weak<Shared>,
    node: NodeId,
    table: Table,
    routes: ArcSwap<Routes>,
    call: Call,
    keeper: Keeper,
    push: Push,
    metrics: Arc<Metrics>,
    followers: Vec<Arc<Follower>>,
}

impl Requests {
    /// Starts to route.
    pub fn start(wiring: Wiring) -> Requests {
        let shared = Arc::new_cyclic(|me| Shared {
            me: me.clone(),
            node: wiring.node,
            table: Table::default(),
            routes: ArcSwap::from_pointee(wiring.routes),
            call: wiring.call,
            keeper: Keeper::default(),
            push: wiring.push,
            metrics: wiring.metrics,
            followers: wiring.followers,
        });
        let keeps = shared.clone();
        let keeper = std::thread::Builder::new()
            .name(format!("requests-{}", wiring.node.0))
            .spawn(move || keeper::run(&keeps))
            .expect("the system can start a thread");
        Requests {
            shared,
            keeper: Arc::new(Mutex::new(Some(keeper))),
        }
    }

    /// The service as seen through one door.
    pub fn door(&self, api: Api) -> Arc<dyn Service> {
        let shared = self.shared.clone();
        Arc::new(Door { shared, api })
    }

    /// The route table now.
    pub fn routes(&self) -> Arc<Routes> {
        self.shared.routes.load_full()
    }

    /// This node's own replica heard who leads the group, or that nobody does. It knows before any answer or refusal: without
    /// this, requests went to a node that was cut off until its link counted as lost.
    pub fn note_leader(&self, group: GroupId, leader: Option<NodeId>) {
        let routes = self.shared.routes.load();
        match (leader, routes.leader(group)) {
            (Some(leader), _) => routes.learn(group, leader),
            (None, Some(before)) => routes.forget(group, before),
            (None, None) => {}
        }
    }

    /// Tries a request that another node forwarded, here and nowhere else. Bytes that are no request get an empty
    /// reply: what the sender wanted is not known, so neither is its outcome.
    pub fn serve(&self, request: Bytes, reply: Reply) {
        let Ok(item) = wire::decode_request(request) else {
            return reply(Bytes::new());
        };
        let follower = self.shared.follower(item.group);
        let followed = item.kind == Kind::Write && follower.begin(item.group, &item.payload);
        let follower = followed.then(|| follower.clone());
        let ticket = Arrived::ticket(op_of(item.kind), self.shared.metrics.clone(), follower, reply);
        let event = event(item.group, item.kind, item.payload, ticket);
        (self.shared.push)(item.group, event);
    }

    /// Answers everything open and ends the timekeeper. Call it after the gateways stopped.
    pub fn stop(&self) {
        self.shared.keeper.stop();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            keeper.join().expect("the timekeeper does not panic");
        }
        for open in self.shared.table.take_all() {
            self.shared.give_up(open, Refusal::Stopping);
        }
    }

    /// Requests submitted and not yet answered.
    pub fn open(&self) -> i64 {
        self.shared.metrics.requests.inflight.get()
    }
}

/// The service, knowing by which door requests come in.
struct Door {
    shared: Arc<Shared>,
    api: Api,
}

impl Service for Door {
    fn submit(&self, request: Request, ticket: Ticket) {
        self.shared.submit(self.api, request, ticket);
    }

    fn group_of(&self, key: &[u8]) -> GroupId {
        self.shared.routes.load().group_of(key)
    }

    fn ranges(&self) -> Vec<RangeRoute> {
        self.shared.routes.load().ranges()
    }
}

impl AnswerSink for Shared {
    fn answer(&self, number: u64, outcome: Outcome) {
        let Some(open) = self.table.take(number) else {
            return self.metrics.requests.late.inc();
        };
        match outcome {
            Outcome::Answered(_) => {
                self.learn_leader(&open);
                self.deliver(open, outcome);
            }
            Outcome::Unknown if open.request.kind == Kind::Read => {
                self.routes.load().forget(open.group, self.place_of(&open));
                self.wait_and_retry(open, Refusal::NotLeader(None));
            }
            Outcome::Unknown => self.deliver(open, outcome),
            Outcome::Refused(Refusal::Stopping) if open.place == Place::Here => self.deliver(open, outcome),
            Outcome::Refused(
                Refusal::NotVoter | Refusal::TooLarge | Refusal::NoSpace | Refusal::Change(_),
            ) => self.deliver(open, outcome),
            Outcome::Refused(refusal) => self.refused(open, refusal),
        }
    }
}

impl Shared {
    fn submit(&self, api: Api, request: Request, ticket: Ticket) {
        let submitted = Instant::now();
        let group = match &request.target {
            Target::Key(key) => self.routes.load().group_of(key),
            Target::Group(group) => *group,
        };
        self.metrics.requests.inflight.inc();
        let deadline = submitted + request.timeout;
        self.dispatch(Open {
            request,
            group,
            ticket,
            api,
            submitted,
            deadline,
            refusals: 0,
            place: Place::Here,
            followed: false,
        });
        self.keeper.opened();
    }

    /// Hands the request to whoever leads its group, as far as is known.
    fn dispatch(&self, mut open: Open) {
        let Some(to) = self.choose(&open) else {
            return self.refuse(open, Refusal::NoSuchGroup);
        };
        if to == self.node {
            self.dispatch_here(open);
        } else {
            open.place = Place::At(to);
            self.dispatch_to(to, open);
        }
    }

    /// The known leader; without one, this node's own replica and then the others in turn.
    fn choose(&self, open: &Open) -> Option<NodeId> {
        let routes = self.routes.load();
        if let Some(leader) = routes.leader(open.group) {
            return Some(leader);
        }
        let nodes = routes.nodes(open.group);
        let own = nodes.iter().position(|&node| node == self.node).unwrap_or(0);
        let turn = (own + open.refusals as usize) % nodes.len().max(1);
        nodes.get(turn).copied()
    }

    fn dispatch_here(&self, mut open: Open) {
        open.place = Place::Here;
        let (group, kind) = (open.group, open.request.kind);
        let payload = open.request.payload.clone();
        open.followed = kind == Kind::Write && self.follower(group).begin(group, &payload);
        match self.table.insert(open) {
            Ok(number) => (self.push)(group, event(group, kind, payload, self.ticket(number))),
            Err(open) => self.refuse(*open, Refusal::Overloaded),
        }
    }

    fn dispatch_to(&self, to: NodeId, open: Open) {
        let item = Item {
            kind: open.request.kind,
            group: open.group,
            payload: open.request.payload.clone(),
        };
        let number = match self.table.insert(open) {
            Ok(number) => number,
            Err(open) => return self.refuse(*open, Refusal::Overloaded),
        };
        self.metrics.requests.forwarded.inc();
        let ticket = self.ticket(number);
        let done = Box::new(move |answered| ticket.answer(forward::outcome(answered)));
        (self.call)(to, wire::encode_request(&item), done);
    }

    fn ticket(&self, number: u64) -> Ticket {
        let sink = self.me.upgrade().expect("it lives while its methods run");
        Ticket { sink, number }
    }

    fn learn_leader(&self, open: &Open) {
        let leader = self.place_of(open);
        let routes = self.routes.load();
        if routes.leader(open.group) != Some(leader) {
            routes.learn(open.group, leader);
        }
    }

    /// The node that has, or had, the request.
    fn place_of(&self, open: &Open) -> NodeId {
        match open.place {
            Place::Here | Place::Waiting(_) => self.node,
            Place::At(node) => node,
        }
    }

    /// Nothing was proposed: it may be sent again, at once if the refusal names a new leader.
    fn refused(&self, mut open: Open, refusal: Refusal) {
        let asked = self.place_of(&open);
        let routes = self.routes.load();
        match refusal {
            Refusal::NotLeader(Some(leader)) if leader != asked => {
                routes.learn(open.group, leader);
                if open.refusals == 0 {
                    self.unfollow(&mut open);
                    open.refusals = 1;
                    self.metrics.requests.resent.inc();
                    return self.dispatch(open);
                }
            }
            Refusal::Overloaded
            | Refusal::NotVoter
            | Refusal::TooLarge
            | Refusal::NoSpace
            | Refusal::Change(_) => {}
            Refusal::NotLeader(_) | Refusal::NoSuchGroup | Refusal::Stopping => {
                routes.forget(open.group, asked);
            }
        }
        self.wait_and_retry(open, refusal);
    }

    fn wait_and_retry(&self, mut open: Open, refusal: Refusal) {
        self.unfollow(&mut open);
        open.refusals += 1;
        open.place = Place::Waiting(refusal);
        let when = Instant::now() + backoff(open.refusals);
        if when >= open.deadline {
            return self.refuse(open, refusal);
        }
        match self.table.insert(open) {
            Ok(number) => self.keeper.again(when, number),
            Err(open) => self.refuse(*open, refusal),
        }
    }

    /// The wait of a refused request is over. It may have been given up meanwhile.
    fn send_again(&self, number: u64) {
        if let Some(open) = self.table.take(number) {
            self.metrics.requests.resent.inc();
            self.dispatch(open);
        }
    }

    /// Gives up what is past its deadline; returns how many requests remain open.
    fn sweep(&self) -> usize {
        let (expired, left) = self.table.take_expired(Instant::now());
        for open in expired {
            self.give_up(open, Refusal::NotLeader(None));
        }
        left
    }

    /// Ends an open request without an answer: a write that somebody may still apply is `Unknown`.
    fn give_up(&self, open: Open, refusal: Refusal) {
        if let Place::At(silent) = open.place {
            self.routes.load().forget(open.group, silent);
        }
        match (open.place, open.request.kind) {
            (Place::Waiting(refusal), _) => self.refuse(open, refusal),
            (Place::Here | Place::At(_), Kind::Read) => self.refuse(open, refusal),
            (Place::Here | Place::At(_), Kind::Write) => self.deliver(open, Outcome::Unknown),
        }
    }

    /// Ends a request that nobody has taken.
    fn refuse(&self, open: Open, refusal: Refusal) {
        self.deliver(open, Outcome::Refused(refusal));
    }

    fn deliver(&self, mut open: Open, outcome: Outcome) {
        if open.followed && matches!(outcome, Outcome::Answered(_)) {
            self.follower(open.group).finish(&self.metrics.stages);
            open.followed = false;
        }
        self.unfollow(&mut open);
        let requests = &self.metrics.requests;
        requests.inflight.dec();
        let took = open.submitted.elapsed();
        requests.finished(open.api, op_of(open.request.kind), code_of(&outcome), took);
        open.ticket.answer(outcome);
    }

    fn follower(&self, group: GroupId) -> &Arc<Follower> {
        &self.followers[worker_of(group, self.followers.len())]
    }

    fn unfollow(&self, open: &mut Open) {
        if std::mem::take(&mut open.followed) {
            self.follower(open.group).abandon();
        }
    }
}

/// What a node that cannot serve yet replies to a forwarded request.
pub fn refusal(refusal: Refusal) -> Bytes {
    wire::encode_outcome(&Outcome::Refused(refusal))
}

fn event(group: GroupId, kind: Kind, payload: Bytes, ticket: Ticket) -> Event {
    match kind {
        Kind::Read => Event::Read {
            policy: ReadPolicy::Confirmed,
            group,
            query: payload,
            ticket,
        },
        Kind::Write => Event::Propose {
            group,
            payload,
            ticket,
        },
    }
}

/// Doubles from `BACKOFF_MIN` to `BACKOFF_MAX`.
fn backoff(refusals: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(1 << refusals.saturating_sub(1).min(16))
        .min(BACKOFF_MAX)
}

fn op_of(kind: Kind) -> Op {
    match kind {
        Kind::Read => Op::Read,
        Kind::Write => Op::Write,
    }
}

fn code_of(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Answered(_) => Code::Ok,
        Outcome::Unknown => Code::Unknown,
        Outcome::Refused(Refusal::NotLeader(_)) => Code::NotLeader,
        Outcome::Refused(Refusal::Overloaded) => Code::Overloaded,
        Outcome::Refused(Refusal::NoSpace) => Code::NoSpace,
        Outcome::Refused(Refusal::NoSuchGroup | Refusal::Stopping) => Code::Unavailable,
        Outcome::Refused(Refusal::NotVoter | Refusal::TooLarge | Refusal::Change(_)) => Code::Invalid,
    }
}

#[cfg(test)]
mod tests;
