//! Which membership is in force, and how the leader changes it. In force is the last one in the log, committed
//! or not (Raft §6); it is rolled back with the log. Tallies over memberships are in `quorum.rs`.
//!
//! ```text
//!              change voters                    committed
//!   simple ----------------------> joint ------------------------> simple, without the outgoing half
//!      |  add or remove learners
//!      +-----------------------> simple
//! ```
//!
//! Voters change by way of a joint membership only, even one at a time: the single-step algorithm needs rules
//! of its own to be safe, and moving a replica with it passes through a group of an even size. A new member is a
//! learner first, so that an empty log never counts for anything.

use crate::bugs::{self, Bug};
use crate::limits::MEMBERS_MAX;
use crate::progress::{Peer, Progress};
use crate::quorum;
use crate::ready::{ChangeRefused, Refused};
use crate::replica::Replica;
use crate::role::{Leader, Role};
use crate::types::{Entry, Index, Membership, NodeId, Payload, ReplicaId};
use std::collections::BTreeSet;

/// What becomes of one replica. A change is a list of these, each about another replica, made all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Becomes a learner. The id was never a member before; the node has no member of the group.
    Add(ReplicaId, NodeId),
    /// A learner that has caught up becomes a voter.
    Promote(ReplicaId),
    /// A voter becomes a learner.
    Demote(ReplicaId),
    /// A voter or learner leaves the group.
    Remove(ReplicaId),
}

impl MemberChange {
    /// The replica it is about.
    pub fn replica(self) -> ReplicaId {
        match self {
            MemberChange::Add(id, _)
            | MemberChange::Promote(id)
            | MemberChange::Demote(id)
            | MemberChange::Remove(id) => id,
        }
    }
}

impl Membership {
    /// What follows from this simple membership by `changes`: joint if the voters change. The rules that need no
    /// more than the memberships themselves are checked here.
    pub fn changed(&self, changes: &[MemberChange]) -> Result<Membership, ChangeRefused> {
        if self.is_joint() {
            return Err(ChangeRefused::InFlight);
        }
        let mut next = self.clone();
        let mut named = BTreeSet::new();
        for change in changes {
            if !named.insert(change.replica()) {
                return Err(ChangeRefused::NamedTwice(change.replica()));
            }
            next.make(*change)?;
        }
        if next == *self {
            return Err(ChangeRefused::Nothing);
        } else if next.voters.is_empty() && !bugs::is_on(Bug::LastVoterRemoved) {
            return Err(ChangeRefused::NoVoters);
        }
        if next.voters != self.voters {
            next.outgoing.clone_from(&self.voters);
        }
        let gone = self.outgoing_nodes(&next);
        next.nodes.extend(gone);
        if next.nodes.len() > MEMBERS_MAX {
            return Err(ChangeRefused::TooMany);
        }
        Ok(next)
    }

    /// The joint membership without its outgoing half.
    pub fn left(&self) -> Membership {
        let mut next = self.clone();
        next.outgoing.clear();
        let Membership { voters, learners, .. } = self;
        next.nodes
            .retain(|id, _| voters.contains(id) || learners.contains(id));
        next
    }

    /// True when a leader may append this one after `before` (I9).
    pub fn may_follow(&self, before: &Membership) -> bool {
        if before.is_joint() {
            *self == before.left()
        } else if self.is_joint() {
            self.outgoing == before.voters && !self.voters.is_empty() && self.voters != before.voters
        } else {
            self.voters == before.voters
        }
    }

    fn make(&mut self, change: MemberChange) -> Result<(), ChangeRefused> {
        let id = change.replica();
        match change {
            MemberChange::Add(_, node) => return self.add(id, node),
            _ if !self.nodes.contains_key(&id) => return Err(ChangeRefused::NoSuchMember(id)),
            MemberChange::Promote(_) if !self.learners.remove(&id) => {
                return Err(ChangeRefused::NotLearner(id));
            }
            MemberChange::Demote(_) if !self.voters.remove(&id) => return Err(ChangeRefused::NotVoter(id)),
            MemberChange::Promote(_) => {
                self.voters.insert(id);
            }
            MemberChange::Demote(_) => {
                self.learners.insert(id);
            }
            MemberChange::Remove(_) => {
                self.voters.remove(&id);
                self.learners.remove(&id);
                self.nodes.remove(&id);
            }
        }
        Ok(())
    }

    fn add(&mut self, id: ReplicaId, node: NodeId) -> Result<(), ChangeRefused> {
        let mut members = self.nodes.iter();
        if let Some((member, _)) = members.find(|(member, home)| **member == id || **home == node) {
            return Err(ChangeRefused::AlreadyMember(*member));
        }
        self.learners.insert(id);
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Where those live who are named only by the outgoing half of `next`.
    fn outgoing_nodes(&self, next: &Membership) -> Vec<(ReplicaId, NodeId)> {
        let outgoing = next.outgoing.iter();
        outgoing.map(|id| (*id, self.nodes[id])).collect()
    }
}

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
                self.history.push((entry.id.index, (**membership).clone()));
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

/// The leader's part.
impl Replica {
    /// Appends the membership that follows from `changes`, or says why not.
    pub(crate) fn begin_change(&mut self, changes: &[MemberChange]) -> Result<Index, Refused> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refused::NotLeader(self.leader()));
        };
        if leader.transfer.is_some() {
            return Err(Refused::Transferring);
        }
        let next = self.next_membership(leader, changes).map_err(Refused::Change)?;
        Ok(self.append_membership(next))
    }

    fn next_membership(
        &self,
        leader: &Leader,
        changes: &[MemberChange],
    ) -> Result<Membership, ChangeRefused> {
        // Without an entry of its own committed, a leader cannot know which memberships its predecessors
        // committed: two leaders could change the same one into two that share no majority (Raft-dev, 2015).
        if self.marks.commit < leader.first && !bugs::is_on(Bug::ChangeBeforeFirstCommit) {
            return Err(ChangeRefused::TermNotCommitted);
        }
        let is_in_flight = self.memberships.effective_since() > self.marks.commit;
        if is_in_flight && !bugs::is_on(Bug::SecondChangeInFlight) {
            return Err(ChangeRefused::InFlight);
        }
        let before = self.memberships.effective();
        let next = before.changed(changes)?;
        let mut promoted = next.voters.difference(&before.voters);
        if let Some(behind) = promoted.find(|id| !self.has_caught_up(leader, **id)) {
            return Err(ChangeRefused::Behind(*behind));
        }
        // Else the change would stop the group, or could never be completed.
        let is_active = |id| {
            id == self.id
                || leader
                    .peers
                    .iter()
                    .any(|peer| peer.id == id && self.is_active(peer))
        };
        match next.voters == before.voters || quorum::agreed(&next, is_active) == Some(true) {
            true => Ok(next),
            false => Err(ChangeRefused::QuorumInactive),
        }
    }

    /// It acknowledged something in this term, and answered within an election timeout.
    fn is_active(&self, peer: &Peer) -> bool {
        peer.matched > Index(0) && self.now - peer.heard < self.options.election_timeout_max
    }

    /// It takes entries as they come, and what it lacks of the committed ones fits into its window: counting on
    /// it does not stop the group.
    fn has_caught_up(&self, leader: &Leader, id: ReplicaId) -> bool {
        let commit = self.marks.commit;
        let lacks = |peer: &Peer| self.log.cost_between(peer.matched.min(commit), commit);
        let mut peers = leader.peers.iter().filter(|peer| peer.id == id);
        peers.any(|peer| {
            matches!(peer.progress, Progress::Replicate(_))
                && lacks(peer) <= self.options.inflight_bytes_max as u64
        })
    }

    fn append_membership(&mut self, next: Membership) -> Index {
        let (since, commit) = (self.memberships.effective_since(), self.marks.commit);
        assert!(
            since <= commit,
            "I9: a change at {since} is in flight, commit {commit}"
        );
        let before = self.memberships.effective();
        assert!(next.may_follow(before), "I9: {next} after {before}");
        let index = self.append_own(Payload::Membership(Box::new(next)));
        if let Role::Leader(leader) = &mut self.role {
            leader.sends_due = true;
        }
        // A smaller quorum may have echoed already what a larger one had not (raft-rs #345).
        if !bugs::is_on(Bug::ReadsForgottenByChange) {
            self.confirm_reads();
        }
        index
    }

    /// A joint membership that is committed is left at once, by whoever leads. Not while leadership is handed
    /// over: the target must hold our last entry.
    pub(crate) fn leave_joint(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let is_settled = self.memberships.effective_since() <= self.marks.commit;
        let may_leave = leader.transfer.is_none() && !bugs::is_on(Bug::JointNeverLeft);
        if self.memberships.effective().is_joint() && is_settled && may_leave {
            let next = self.memberships.effective().left();
            self.append_membership(next);
        }
    }

    /// A leader whose own removal is committed has finished. It names a successor, or the group would wait for
    /// an election timeout.
    pub(crate) fn leave_if_removed(&mut self) {
        let is_settled = self.memberships.effective_since() <= self.marks.commit;
        let stays = bugs::is_on(Bug::RemovedLeaderStays);
        if is_settled && !self.memberships.effective().is_voter(self.id) && !stays {
            self.name_successor();
            self.become_follower(self.hard.term, None);
        }
    }
}
