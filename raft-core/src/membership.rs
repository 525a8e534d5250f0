//! Which membership is in force: the last one in the log, committed or not (Raft §6), rolled back with the
//! log. Changing memberships safely (joint steps, checks) is not here yet; tallies over them are in
//! `quorum.rs`.

use crate::types::{Entry, Index, Membership, Payload};

/// The memberships of one log, oldest first. Never empty: the first is the one as of the log's base.
#[derive(Clone, Debug)]
pub(crate) struct Memberships {
    history: Vec<(Index, Membership)>,
}

impl Memberships {
    /// The membership as of `base`.
    pub(crate) fn new(base: Index, membership: Membership) -> Memberships {
        Memberships {
            history: vec![(base, membership)],
        }
    }

    /// The membership in force.
    pub(crate) fn effective(&self) -> &Membership {
        &self.history.last().expect("the base membership stays").1
    }

    /// Where the membership in force stands in the log.
    pub(crate) fn effective_since(&self) -> Index {
        self.history.last().expect("the base membership stays").0
    }

    /// The membership that was in force at `index`, which is not truncated.
    pub(crate) fn at(&self, index: Index) -> &Membership {
        let mut older = self.history.iter().rev();
        let found = older.find(|(since, _)| *since <= index);
        &found.unwrap_or(&self.history[0]).1
    }

    /// An entry was appended; true when it changed the membership.
    pub(crate) fn on_appended(&mut self, entry: &Entry) -> bool {
        match &entry.payload {
            Payload::Membership(membership) => {
                self.history.push((entry.id.index, membership.clone()));
                true
            }
            Payload::Noop(_) | Payload::Command(..) => false,
        }
    }

    /// The log was cut from `first` on.
    pub(crate) fn roll_back(&mut self, first: Index) {
        while self.history.len() > 1 && self.history.last().is_some_and(|(index, _)| *index >= first) {
            self.history.pop();
        }
    }

    /// The log up to `base` is gone.
    pub(crate) fn truncate(&mut self, base: Index) {
        let covered = self
            .history
            .iter()
            .take_while(|(index, _)| *index <= base)
            .count();
        self.history.drain(..covered.saturating_sub(1));
    }
}
