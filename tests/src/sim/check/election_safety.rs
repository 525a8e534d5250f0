//! Election safety: at most one replica leads a group in a term (Raft §5.2). Seen in what replicas believe and in what
//! they say: only a leader appends and beats.

use super::{Verdict, require};
use multiraft::wire::GroupMessage;
use multiraft::{GroupId, ReplicaId, RoleKind, Status, Term};
use raft_core::Message;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "election safety";

/// Who leads which group in which term.
#[derive(Debug, Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
    /// Leaderships seen in a replica's state, not only in what it said.
    shown: BTreeSet<(GroupId, Term)>,
}

impl ElectionSafety {
    /// True the first time a replica is seen to lead in its term.
    pub(super) fn is_new(&mut self, group: GroupId, status: &Status) -> bool {
        status.role == RoleKind::Leader && self.shown.insert((group, status.hard_state.term))
    }

    pub(super) fn on_status(&mut self, group: GroupId, status: &Status) -> Verdict {
        match status.role {
            RoleKind::Leader => self.leads(group, status.hard_state.term, status.id),
            _ => Ok(()),
        }
    }

    pub(super) fn on_sent(&mut self, message: &GroupMessage) -> Verdict {
        let envelope = &message.envelope;
        match &envelope.message {
            Message::Append { .. } | Message::Heartbeat { .. } | Message::TimeoutNow => {
                self.leads(message.group, envelope.term, envelope.from)
            }
            _ => Ok(()),
        }
    }

    fn leads(&mut self, group: GroupId, term: Term, replica: ReplicaId) -> Verdict {
        let first = *self.leaders.entry((group, term)).or_insert(replica);
        same(group, term, first, replica)
    }
}

fn same(group: GroupId, term: Term, first: ReplicaId, second: ReplicaId) -> Verdict {
    require(first == second, NAME, || {
        format!("{group}: {first} and {second} both lead in term {term}")
    })
}
