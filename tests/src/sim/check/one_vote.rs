//! I1: a replica votes for at most one candidate per term, and its vote is durable before it leaves (Raft §5.2, §5.4).
//! A candidate's own vote counts: it asks for others only once it is durable. Survives restarts.

use super::{Verdict, View, require};
use multiraft::wire::GroupMessage;
use multiraft::{GroupId, GroupWrite, HardState, NodeId, ReplicaId, Term};
use raft_core::Message;
use std::collections::BTreeMap;

const NAME: &str = "I1 one vote per term";

/// Every vote that was given or written, by voter and term.
#[derive(Debug, Default)]
pub(super) struct OneVote {
    given: BTreeMap<(GroupId, ReplicaId, Term), ReplicaId>,
    written: BTreeMap<(NodeId, GroupId), HardState>,
}

impl OneVote {
    pub(super) fn on_written(&mut self, view: &View, node: NodeId, write: &GroupWrite) -> Verdict {
        let Some(now) = write.hard_state else {
            return Ok(());
        };
        let before = self.written.insert((node, write.group), now);
        let before = before.or_else(|| view.durable(node, write.group, |log| log.hard_state));
        require(before.is_none_or(|before| now.term >= before.term), NAME, || {
            format!("{} {} went from {before:?} to {now:?}", node, write.group)
        })
    }

    /// What was written and not synced is as if it had never been.
    pub(super) fn on_crashed(&mut self, node: NodeId) {
        self.written.retain(|(other, _), _| *other != node);
    }

    pub(super) fn on_sent(&mut self, view: &View, node: NodeId, message: &GroupMessage) -> Verdict {
        let envelope = &message.envelope;
        let candidate = match &envelope.message {
            Message::Vote { .. } => envelope.from,
            Message::VoteReply { granted: true } => envelope.to,
            _ => return Ok(()),
        };
        let (group, voter, term) = (message.group, envelope.from, envelope.term);
        let first = *self.given.entry((group, voter, term)).or_insert(candidate);
        require(first == candidate, NAME, || {
            format!("{group}: {voter} voted for {first} and for {candidate} in term {term}")
        })?;
        let durable = view.disk(node, group).lock().durable_hard_state(group);
        let kept = durable.term > term || durable.term == term && durable.vote == Some(candidate);
        require(kept, NAME, || {
            format!("{group}: {voter}'s vote for {candidate} in term {term} left, durable is {durable:?}")
        })
    }
}
