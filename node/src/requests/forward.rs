//! Both ends of forwarding: what a call to another node is, and where the answer of a request that another node sent
//! here goes. What is submitted together travels together: the transport writes all waiting calls at once.

use super::{code_of, wire};
use crate::metrics::{Api, Metrics, Op};
use crate::stages::Follower;
use bytes::Bytes;
use multiraft::{AnswerSink, NodeId, Outcome, Refusal, Ticket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// How a call to another node failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// No link is up; nothing left this node.
    NoLink,
    /// Too much waits for that node; nothing left this one.
    Full,
    /// The other node may have got it.
    Lost,
}

/// Runs once with the answer or the failure. Must not block.
pub type Done = Box<dyn FnOnce(Result<Bytes, CallFailed>) + Send>;
/// Sends a request to a node. Never blocks; may run `Done` at once.
pub type Call = Arc<dyn Fn(NodeId, Bytes, Done) + Send + Sync>;
/// Takes the answer to a request that another node sent.
pub type Reply = Box<dyn FnOnce(Bytes) + Send>;

/// What became of a call.
pub(super) fn outcome(answered: Result<Bytes, CallFailed>) -> Outcome {
    match answered.map(wire::decode_outcome) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(wire::Malformed)) | Err(CallFailed::Lost) => Outcome::Unknown,
        Err(CallFailed::NoLink) => Outcome::Refused(Refusal::NotLeader(None)),
        Err(CallFailed::Full) => Outcome::Refused(Refusal::Overloaded),
    }
}

/// A request that another node sent, while it is open here.
pub(super) struct Arrived {
    reply: Mutex<Option<Reply>>,
    op: Op,
    started: Instant,
    metrics: Arc<Metrics>,
    /// Who follows its stages, if anybody does.
    follower: Option<Arc<Follower>>,
}

impl Arrived {
    /// The ticket whose answer goes back to the other node.
    pub(super) fn ticket(
        op: Op,
        metrics: Arc<Metrics>,
        follower: Option<Arc<Follower>>,
        reply: Reply,
    ) -> Ticket {
        let arrived = Arrived {
            reply: Mutex::new(Some(reply)),
            op,
            started: Instant::now(),
            metrics,
            follower,
        };
        let sink = Arc::new(arrived);
        Ticket { sink, number: 0 }
    }
}

impl AnswerSink for Arrived {
    fn answer(&self, _number: u64, outcome: Outcome) {
        match (&self.follower, &outcome) {
            (Some(follower), Outcome::Answered(_)) => follower.finish(&self.metrics.stages),
            (Some(follower), _) => follower.abandon(),
            (None, _) => {}
        }
        let requests = &self.metrics.requests;
        requests.finished(Api::Peer, self.op, code_of(&outcome), self.started.elapsed());
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reply = reply.expect("a ticket is answered once");
        reply(wire::encode_outcome(&outcome));
    }
}
