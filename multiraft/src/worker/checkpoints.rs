//! Checkpoints that somebody asked for by hand. What the worker does for every checkpoint is in `worker`.

use super::Worker;
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::storage::RaftStorage;
use crate::types::{GroupId, Index, Life, Outcome, Refusal, Ticket};
use crate::wire::encode_position;

/// Somebody waits until a checkpoint holds what a group had applied.
#[derive(Debug)]
pub(super) struct Wish {
    group: GroupId,
    life: Life,
    applied: Index,
    ticket: Ticket,
}

impl<S: RaftStorage, N: RaftNetwork, M: StateMachine> Worker<S, N, M> {
    pub(super) fn want_checkpoint(&mut self, group: GroupId, ticket: Ticket) {
        let Some(found) = self.groups.get(&group) else {
            return ticket.answer(Outcome::Refused(Refusal::NoSuchGroup));
        };
        self.wishes.push(Wish {
            group,
            life: found.life,
            applied: found.applied.index,
            ticket,
        });
        self.tell_of_checkpoints();
    }

    /// Answers whose wish has come true, or never will. The checkpoint that was just written may have frozen a group
    /// before it was wished for: then another one is due.
    pub(super) fn tell_of_checkpoints(&mut self) {
        for wish in std::mem::take(&mut self.wishes) {
            match self.fate_of(&wish) {
                Some(outcome) => wish.ticket.answer(outcome),
                None => self.wishes.push(wish),
            }
        }
        if !self.wishes.is_empty() {
            self.storage.want_checkpoint();
        }
    }

    fn fate_of(&self, wish: &Wish) -> Option<Outcome> {
        if self.stopped {
            return Some(Outcome::Refused(Refusal::Stopping));
        }
        let found = self.groups.get(&wish.group);
        let Some(found) = found.filter(|found| found.life == wish.life) else {
            return Some(Outcome::Refused(Refusal::NoSuchGroup));
        };
        let checkpointed = found.replica.checkpointed();
        (checkpointed >= wish.applied).then(|| Outcome::Answered(encode_position(checkpointed)))
    }
}
