//! The clients: each makes one request after the other, of unique writes and of reads, to whom it takes for the leader.
//! What they know is what real clients know; whether it was right, the checkers say.

use super::check::{Call, Kind};
use super::clock::{Nanos, US};
use super::machine::{Command, Query};
use super::options::{Load, Options};
use super::rng::Rng;
use bytes::Bytes;
use multiraft::{AnswerSink, GroupId, NodeId, Outcome, ReadPolicy, Refusal};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Where workers put their answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered(Arc<Mutex<Vec<(u64, Outcome)>>>);

impl Answered {
    /// What was answered since the last look.
    pub(super) fn take(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut *self.0.lock().expect("one thread runs the world"))
    }
}

impl AnswerSink for Answered {
    fn answer(&self, number: u64, outcome: Outcome) {
        self.0
            .lock()
            .expect("one thread runs the world")
            .push((number, outcome));
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) client: usize,
    pub(super) call: Call,
    pub(super) node: NodeId,
    pub(super) bytes: Bytes,
    /// Of a read.
    pub(super) policy: ReadPolicy,
    pub(super) called: Nanos,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    rng: Rng,
    load: Load,
    /// Whom they can reach.
    pub(super) nodes: Vec<NodeId>,
    groups: u64,
    next: u64,
    /// Whom each client takes for each group's leader.
    routes: BTreeMap<(usize, GroupId), NodeId>,
    /// Requests whose clients wait.
    pub(super) waiting: BTreeMap<u64, Request>,
    /// Nobody calls any more.
    pub(super) is_quiet: bool,
}

impl Clients {
    pub(super) fn new(rng: Rng, options: &Options) -> Clients {
        Clients {
            rng,
            load: options.load.clone(),
            nodes: (1..=options.nodes).map(NodeId).collect(),
            groups: options.groups,
            next: 0,
            routes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            is_quiet: false,
        }
    }

    /// The next free number for a request.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A client's next request.
    pub(super) fn call(&mut self, client: usize, now: Nanos) -> Request {
        let number = self.number();
        let group = GroupId(self.rng.between(1, self.groups));
        let key = u8::try_from(self.rng.below(self.load.keys)).expect("few keys");
        let (kind, bytes) = if self.rng.chance(self.load.reads) {
            let ahead = self.rng.chance(self.load.ahead);
            (Kind::Read, Query { key, ahead }.encode())
        } else {
            let pad = self.rng.index(usize::try_from(self.load.pad).expect("small") + 1);
            (Kind::Write, Command { write: number, key }.encode(pad))
        };
        let guess = self.nodes[self.rng.index(self.nodes.len())];
        let known = self.routes.get(&(client, group)).copied();
        let known = known.filter(|node| self.nodes.contains(node));
        let policy = self.policy();
        let request = Request {
            client,
            call: Call {
                number,
                group,
                key,
                kind,
            },
            node: match policy {
                ReadPolicy::Here if kind == Kind::Read => guess,
                _ => known.unwrap_or(guess),
            },
            bytes,
            policy,
            called: now,
        };
        self.waiting.insert(number, request.clone());
        request
    }

    fn policy(&mut self) -> ReadPolicy {
        if self.rng.chance(self.load.here) {
            ReadPolicy::Here
        } else if self.rng.chance(self.load.lease) {
            ReadPolicy::Lease
        } else {
            ReadPolicy::Confirmed
        }
    }

    /// An answer arrived: the request, unless its client gave up before.
    pub(super) fn finish(&mut self, number: u64, outcome: &Outcome) -> Option<Request> {
        let request = self.waiting.remove(&number)?;
        let route = (request.client, request.call.group);
        match outcome {
            // A follower that answers a read is not the leader.
            Outcome::Answered(_) if request.call.kind == Kind::Read && request.policy == ReadPolicy::Here => {
            }
            Outcome::Answered(_) => {
                self.routes.insert(route, request.node);
            }
            Outcome::Refused(Refusal::NotLeader(Some(leader))) => {
                self.routes.insert(route, *leader);
            }
            Outcome::Refused(_) | Outcome::Unknown => {
                self.routes.remove(&route);
            }
        }
        Some(request)
    }

    /// A client gave up: the request, if it still waited.
    pub(super) fn give_up(&mut self, number: u64) -> Option<Request> {
        let request = self.waiting.remove(&number)?;
        self.routes.remove(&(request.client, request.call.group));
        Some(request)
    }

    /// How long a client pauses before its next request. Refusals are retried a little later, not at once.
    pub(super) fn pause(&mut self) -> Nanos {
        self.rng.between(100 * US, self.load.think)
    }

    /// How long a client waits.
    pub(super) fn patience(&self) -> Nanos {
        self.load.timeout
    }

    /// How long a request or an answer travels.
    pub(super) fn travel(&mut self) -> Nanos {
        self.rng.between(20 * US, 300 * US)
    }
}
