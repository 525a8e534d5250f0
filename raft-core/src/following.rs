//! The follower's side of replication: accepting entries and heartbeats, and acknowledging what is durable.

use crate::bugs::{self, Bug};
use crate::message::{AppendOutcome, Message};
use crate::ready::Ignored;
use crate::replica::Replica;
use crate::role::Role;
use crate::types::{Entry, EntryId, Index, ReplicaId, Round};

impl Replica {
    /// A message that only the leader of our term sends: it leads, and it is in contact.
    pub(crate) fn follow(&mut self, leader: ReplicaId) {
        let known = match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.id),
        };
        let term = self.hard.term;
        assert!(
            known.is_none_or(|known| known == leader),
            "two leaders in term {term}: {known:?} and {leader}"
        );
        if !matches!(self.role, Role::Follower(_)) {
            self.become_follower(term, Some(leader));
        }
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        follower.leader = Some(leader);
        follower.contact = Some(self.now);
        follower.deadline = self.now + follower.timeout;
    }

    pub(crate) fn on_append(
        &mut self,
        from: ReplicaId,
        previous: EntryId,
        mut entries: Vec<Entry>,
        marks: (Index, Index),
    ) -> Result<(), Ignored> {
        let (commit, replicated) = marks;
        self.follow(from);
        let base = self.log.truncated().index;
        let is_known = previous.index < base && !bugs::is_on(Bug::BaseTakenForConflict);
        if !is_known && !self.log.contains(previous) {
            self.reject(from, previous);
            return Ok(());
        }
        let mut matched = Index(previous.index.0 + entries.len() as u64).max(base);
        let known = self.count_known(previous, &entries);
        if bugs::is_on(Bug::ShortAppendCuts) && known == entries.len() && matched < self.log.last().index {
            self.cut(matched.next());
        }
        if known > 0 {
            entries.drain(..known);
        }
        self.accept(entries);
        if bugs::is_on(Bug::AcknowledgesBeyondAppend) {
            matched = self.log.last().index;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.matched = follower.matched.max(matched);
        }
        // Only what this append vouches for may be committed here: what lies beyond may be another leader's.
        self.commit_to(commit.min(matched));
        self.learn_replicated(replicated);
        self.acknowledge(from, matched);
        Ok(())
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: ReplicaId,
        round: Round,
        marks: (Index, Index),
    ) -> Result<(), Ignored> {
        let (commit, replicated) = marks;
        self.follow(from);
        let Role::Follower(follower) = &self.role else {
            return Err(Ignored::StaleReply);
        };
        let known = follower.matched;
        self.commit_to(commit.min(known));
        self.learn_replicated(replicated);
        let matched = if self.is_term_durable() {
            known.min(self.writes.durable())
        } else {
            Index(0)
        };
        let pledge = self.pledge();
        self.send(
            from,
            Message::HeartbeatReply {
                round,
                matched,
                pledge,
            },
        );
        self.ask_again();
        Ok(())
    }

    /// Sends the acknowledgement that waited for a write which had already left when the append came.
    pub(crate) fn pay_owed_acknowledgement(&mut self) {
        let durable = self.writes.durable();
        let is_term_durable = self.is_term_durable();
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(leader) = follower.leader else { return };
        if let Some(index) = follower
            .owed
            .take_if(|index| *index <= durable && is_term_durable)
        {
            self.send(leader, Message::AppendReply(AppendOutcome::Matched { index }));
        }
    }

    /// How many of the first entries are already in our log. An append that ends inside our log proves
    /// nothing about what follows, so nothing may be cut for it (openraft 9540c904, CCF #5991).
    fn count_known(&self, previous: EntryId, entries: &[Entry]) -> usize {
        let base = self.log.truncated().index;
        let gone = base.0.saturating_sub(previous.index.0);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(entries.len());
        let rest = entries[gone..].iter();
        gone + rest.take_while(|entry| self.log.contains(entry.id)).count()
    }

    /// Appends entries that are new here, cutting what conflicts with the first of them (Raft §5.3).
    fn accept(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.id.index) else {
            return;
        };
        if first <= self.log.last().index {
            self.cut(first);
        }
        for entry in entries {
            self.memberships.on_appended(&entry);
            self.log.push(entry);
        }
    }

    fn cut(&mut self, first: Index) {
        let commit = self.marks.commit;
        assert!(first > commit, "I5: entry {first} is replaced, commit {commit}");
        self.log.cut_from(first);
        self.memberships.roll_back(first);
        self.writes.clip(first);
    }

    fn reject(&mut self, leader: ReplicaId, previous: EntryId) {
        let hint = self.log.last_not_after(previous);
        let previous = previous.index;
        self.send(
            leader,
            Message::AppendReply(AppendOutcome::Rejected { previous, hint }),
        );
    }

    /// Says that our log equals the leader's up to `index`, as soon as that is durable (I8).
    pub(crate) fn acknowledge(&mut self, leader: ReplicaId, index: Index) {
        let message = Message::AppendReply(AppendOutcome::Matched { index });
        let is_durable = self.is_term_durable() && index <= self.writes.durable();
        if is_durable || bugs::is_on(Bug::AcknowledgementLeavesEarly) {
            self.send(leader, message);
        } else if self.is_write_due() {
            self.send_after_write(leader, message);
        } else if let Role::Follower(follower) = &mut self.role {
            follower.owed = follower.owed.max(Some(index));
        }
    }

    fn is_term_durable(&self) -> bool {
        self.writes.hard_durable().term == self.hard.term
    }
}
