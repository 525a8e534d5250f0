//! Forwarding to the node that leads: what is submitted while nothing can be sent gathers into one batch per node.
//! No timers: a batch leaves as soon as there is something to send and a slot for it.

use super::Shared;
use super::limits::{FORWARD_BATCHES_MAX, FORWARD_BYTES_MAX, FORWARD_QUEUE_BYTES_MAX, FORWARD_REQUESTS_MAX};
use super::wire::{self, Item};
use bytes::Bytes;
use multiraft::{AnswerSink, NodeId, Outcome, Refusal};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};

/// How a call to another node failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// Nothing left this node.
    NotSent,
    /// The other node may have got it.
    Lost,
}

/// The answer to a call, to come.
pub type Calling = Pin<Box<dyn Future<Output = Result<Bytes, CallFailed>> + Send>>;
/// Sends a batch to a node and brings its answers.
pub type Call = Arc<dyn Fn(NodeId, Bytes) -> Calling + Send + Sync>;

/// The queues towards all other nodes.
pub(super) struct Links {
    queues: BTreeMap<NodeId, Queue>,
    call: Call,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<(u64, Item)>,
    bytes: usize,
}

impl Links {
    pub(super) fn new(peers: impl IntoIterator<Item = NodeId>, call: Call) -> Links {
        Links {
            queues: peers.into_iter().map(|node| (node, Queue::default())).collect(),
            call,
        }
    }

    /// Queues a request; says why not.
    pub(super) fn send(&self, to: NodeId, number: u64, item: Item) -> Result<(), Refusal> {
        let queue = self.queues.get(&to).ok_or(Refusal::NotLeader(None))?;
        let mut waiting = queue.lock();
        if waiting.bytes + item.payload.len() > FORWARD_QUEUE_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        waiting.bytes += item.payload.len();
        waiting.items.push_back((number, item));
        drop(waiting);
        queue.wake.notify_one();
        Ok(())
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.queues.keys().copied()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch: numbers and items.
    fn gather(&self) -> (Vec<u64>, Vec<Item>) {
        let (mut numbers, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut waiting = self.lock();
        while items.len() < FORWARD_REQUESTS_MAX && bytes < FORWARD_BYTES_MAX {
            let Some((number, item)) = waiting.items.pop_front() else {
                break;
            };
            bytes += item.payload.len();
            numbers.push(number);
            items.push(item);
        }
        waiting.bytes -= bytes;
        (numbers, items)
    }
}

/// Sends what is queued for one node, until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId) {
    let slots = Arc::new(Semaphore::new(FORWARD_BATCHES_MAX));
    let queue = &shared.links.queues[&node];
    loop {
        queue.wake.notified().await;
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let (numbers, items) = queue.gather();
            if items.is_empty() {
                break;
            }
            let calling = (shared.links.call)(node, wire::encode_batch(items.iter()));
            let shared = shared.clone();
            tokio::spawn(async move {
                let outcomes = outcomes(calling.await, numbers.len());
                for (number, outcome) in numbers.into_iter().zip(outcomes) {
                    shared.answer(number, outcome);
                }
                drop(slot);
            });
        }
    }
}

/// One outcome per request, whatever came back.
fn outcomes(answered: Result<Bytes, CallFailed>, count: usize) -> Vec<Outcome> {
    match answered.map(wire::decode_answers) {
        Ok(Ok(outcomes)) if outcomes.len() == count => outcomes,
        Ok(_) | Err(CallFailed::Lost) => vec![Outcome::Unknown; count],
        Err(CallFailed::NotSent) => vec![Outcome::Refused(Refusal::NotLeader(None)); count],
    }
}

/// Collects the outcomes of one batch that another node forwarded.
pub(super) struct Arrived {
    state: Mutex<Collected>,
}

struct Collected {
    outcomes: Vec<Outcome>,
    left: usize,
    whole: Option<tokio::sync::oneshot::Sender<Vec<Outcome>>>,
}

impl Arrived {
    /// A batch of `count` requests, and where its outcomes will be.
    pub(super) fn new(count: usize) -> (Arc<Arrived>, tokio::sync::oneshot::Receiver<Vec<Outcome>>) {
        let (whole, wait) = tokio::sync::oneshot::channel();
        let state = Mutex::new(Collected {
            outcomes: vec![Outcome::Unknown; count],
            left: count,
            whole: Some(whole),
        });
        (Arc::new(Arrived { state }), wait)
    }
}

impl AnswerSink for Arrived {
    fn answer(&self, number: u64, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outcomes[number as usize] = outcome;
        state.left -= 1;
        if state.left == 0 {
            let outcomes = std::mem::take(&mut state.outcomes);
            if let Some(whole) = state.whole.take() {
                // The link may be gone: then nobody waits.
                let _ = whole.send(outcomes);
            }
        }
    }
}
