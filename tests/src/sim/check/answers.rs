//! Every request that a living process took is answered exactly once: refused, done or unknown, but not forgotten.

use super::{Verdict, require};
use crate::sim::clock::Nanos;
use multiraft::NodeId;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "every request is answered once";

/// Who waits where since when.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: BTreeMap<u64, (NodeId, Nanos)>,
    answered: BTreeSet<u64>,
}

impl Answers {
    pub(super) fn on_arrived(&mut self, node: NodeId, number: u64, now: Nanos) {
        self.waiting.insert(number, (node, now));
    }

    pub(super) fn on_answered(&mut self, number: u64) -> Verdict {
        self.waiting.remove(&number);
        let fresh = self.answered.insert(number);
        require(fresh, NAME, || format!("request {number} was answered twice"))
    }

    pub(super) fn on_crashed(&mut self, node: NodeId) {
        self.waiting.retain(|_, (at, _)| *at != node);
    }

    pub(super) fn is_someone_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn at_end(&self) -> Verdict {
        let forgotten = self.waiting.iter().next();
        require(forgotten.is_none(), NAME, || {
            format!("waits in vain: (request, (node, since)) {forgotten:?}")
        })
    }
}
