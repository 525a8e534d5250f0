//! Votes, promises of votes, and who supports whom: pre-vote, vote, stickiness, check-quorum, leadership
//! transfer.
//!
//! A replica that hears its leader supports nobody else (thesis §4.2.3), so a replica that was cut off cannot
//! disturb a working group; and a leader that does not hear a quorum for an election timeout steps down, so
//! that it does not hold a part of the group that could elect (openraft #2080).

use crate::bugs::{self, Bug};
use crate::message::{AppendOutcome, Message};
use crate::progress::Peer;
use crate::quorum::{self, Outcome};
use crate::ready::{Ignored, Refused};
use crate::replica::Replica;
use crate::role::{Role, Transfer};
use crate::types::{EntryId, Index, Instant, ReplicaId, Term};
use std::time::Duration;

impl Replica {
    /// The envelope's term is ours or later.
    pub(crate) fn on_pre_vote(&mut self, from: ReplicaId, term: Term, last: EntryId) -> Result<(), Ignored> {
        if self.is_leader_in_contact() || self.is_pledged() {
            return Err(Ignored::LeaderInContact);
        }
        let granted = (term > self.hard.term || self.may_vote_for(from)) && last >= self.log.last();
        // A grant speaks of the term asked for; a refusal teaches our own.
        let answered = if granted { term } else { self.hard.term };
        self.send_as(answered, from, Message::PreVoteReply { granted });
        if granted {
            Ok(())
        } else {
            Err(Ignored::VoteRefused)
        }
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: ReplicaId,
        term: Term,
        granted: bool,
    ) -> Result<(), Ignored> {
        if !granted && term > self.hard.term && !bugs::is_on(Bug::RefusedPreVoteTeachesNothing) {
            self.become_follower(term, None);
            return Ok(());
        }
        let asked = self.hard.term.next();
        let Role::PreCandidate(campaign) = &mut self.role else {
            return Err(Ignored::StaleReply);
        };
        if term != (if granted { asked } else { self.hard.term }) {
            return Err(Ignored::StaleReply);
        }
        campaign.record(from, granted);
        self.conclude_campaign();
        Ok(())
    }

    /// The envelope's term is ours by now.
    pub(crate) fn on_vote(&mut self, from: ReplicaId, last: EntryId, transfer: bool) -> Result<(), Ignored> {
        // A pledge outlives the term in which it was given. A campaign that a leader asked for is covered: that
        // leader gave its lease up first.
        if self.is_pledged() && !transfer {
            return Err(Ignored::LeaderInContact);
        }
        let is_as_long = bugs::is_on(Bug::LogsComparedByLength) && last.index >= self.log.last().index;
        let granted = self.may_vote_for(from) && (last >= self.log.last() || is_as_long);
        if !granted || bugs::is_on(Bug::StrangerRefusesToVote) && !self.may_campaign() {
            let granted = false;
            self.send(from, Message::VoteReply { granted });
            return Err(Ignored::VoteRefused);
        }
        self.hard.vote = Some(from);
        self.postpone_campaign();
        let reply = Message::VoteReply { granted };
        if self.writes.hard_durable() == self.hard || bugs::is_on(Bug::GrantLeavesEarly) {
            self.send(from, reply);
        } else if self.is_write_due() {
            self.send_after_write(from, reply);
        }
        // Else the write with this vote is on its way and carries the grant.
        Ok(())
    }

    pub(crate) fn on_vote_reply(&mut self, from: ReplicaId, granted: bool) -> Result<(), Ignored> {
        let Role::Candidate(campaign) = &mut self.role else {
            return Err(Ignored::StaleReply);
        };
        campaign.record(from, granted || bugs::is_on(Bug::RefusedVoteCounts));
        self.conclude_campaign();
        Ok(())
    }

    /// Our own vote became durable: now it counts.
    pub(crate) fn count_own_vote(&mut self) {
        if let Role::Candidate(campaign) = &mut self.role
            && self.writes.hard_durable() == self.hard
        {
            campaign.record(self.id, true);
            self.conclude_campaign();
        }
    }

    /// The wait is over. A pledge that still stands comes first.
    pub(crate) fn begin_campaign(&mut self) {
        if !self.is_pledged() {
            return self.become_pre_candidate();
        }
        let until = self.pledged_until;
        match &mut self.role {
            Role::Follower(follower) => follower.deadline = until,
            Role::PreCandidate(campaign) | Role::Candidate(campaign) => campaign.deadline = until,
            Role::Leader(_) => {}
        }
    }

    pub(crate) fn on_timeout_now(&mut self, from: ReplicaId) -> Result<(), Ignored> {
        self.follow(from);
        if !self.may_campaign() {
            return Err(Ignored::StaleReply);
        }
        self.become_candidate(true);
        Ok(())
    }

    /// Acts on a campaign that is won or lost.
    pub(crate) fn conclude_campaign(&mut self) {
        let (Role::PreCandidate(campaign) | Role::Candidate(campaign)) = &self.role else {
            return;
        };
        let outcome = quorum::outcome(self.memberships.effective(), |voter| campaign.answer(voter));
        match (outcome, &self.role) {
            (Outcome::Pending, _) => {}
            (Outcome::Won, Role::PreCandidate(_)) => self.become_candidate(false),
            // The others answered what left with our vote before the host told us that it is durable: it will,
            // and `count_own_vote` concludes then.
            (Outcome::Won, _) if self.writes.hard_durable() != self.hard => {}
            (Outcome::Won, _) => self.become_leader(),
            (Outcome::Lost, _) => self.become_follower(self.hard.term, None),
        }
    }

    /// The pledge that goes with an answer to our leader. Only in a term that is durable: a replica that
    /// restarts in term 0 was never asked for one.
    pub(crate) fn pledge(&mut self) -> Duration {
        if !self.options.leases || self.writes.hard_durable().term != self.hard.term {
            return Duration::ZERO;
        }
        let pledge = self.options.election_timeout_min;
        self.pledged_until = self.now + pledge;
        pledge
    }

    /// True while a leader may count on this replica to support nobody else, whatever term it is in by now.
    pub(crate) fn is_pledged(&self) -> bool {
        self.now < self.pledged_until
    }

    /// True while this replica must not help anyone else to lead.
    pub(crate) fn is_leader_in_contact(&self) -> bool {
        let loyal = |since: Instant| self.now < since + self.options.election_timeout_min;
        match &self.role {
            Role::Follower(follower) => follower.contact.is_some_and(loyal),
            Role::Leader(_) => loyal(self.quorum_contact()),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    /// When a leader last knew that a quorum follows it.
    pub(crate) fn quorum_contact(&self) -> Instant {
        let Role::Leader(leader) = &self.role else {
            return Instant(0);
        };
        let own = (self.id, self.now);
        let heard = |id| leader.of_member(id, own, |peer| peer.heard);
        quorum::agreed(self.memberships.effective(), heard).unwrap_or_default()
    }

    /// A message of an older term: its sender is told ours, if it might go on unaware. Without this answer a
    /// replica with a higher term would ignore its leader for ever.
    pub(crate) fn refuse_stale(&mut self, from: ReplicaId, message: &Message) -> Result<(), Ignored> {
        let reply = match message {
            Message::PreVote { .. } => Message::PreVoteReply { granted: false },
            Message::Vote { .. } => Message::VoteReply { granted: false },
            Message::Append { previous, .. } => Message::AppendReply(AppendOutcome::Rejected {
                previous: previous.index,
                hint: EntryId::ZERO,
            }),
            Message::Heartbeat { round, .. } => Message::HeartbeatReply {
                round: *round,
                matched: Index(0),
                pledge: Duration::ZERO,
            },
            _ => return Err(Ignored::StaleTerm),
        };
        self.send(from, reply);
        Err(Ignored::StaleTerm)
    }

    pub(crate) fn begin_transfer(&mut self, target: ReplicaId) -> Result<(), Refused> {
        // One that is about to leave would lead for a moment only.
        let voter = self.memberships.effective().voters.contains(&target);
        let deadline = self.now + self.options.election_timeout_max;
        let refused = Refused::NotLeader(self.leader());
        let Role::Leader(leader) = &mut self.role else {
            return Err(refused);
        };
        match leader.transfer {
            _ if !voter && !bugs::is_on(Bug::TransferToLearner) => return Err(Refused::NotVoter),
            Some(transfer) if transfer.target != target => return Err(Refused::Transferring),
            Some(_) => return Ok(()),
            None if target == self.id => return Ok(()),
            None => {}
        }
        leader.transfer = Some(Transfer {
            target,
            deadline,
            told: false,
        });
        self.continue_transfer();
        Ok(())
    }

    /// Tells the target to campaign once it holds the whole log durably: then it can win.
    pub(crate) fn continue_transfer(&mut self) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(Transfer {
            target, told: false, ..
        }) = leader.transfer
        else {
            return;
        };
        let is_ready = |peer: &mut Peer| peer.matched == last || bugs::is_on(Bug::TransferTooEarly);
        if leader.peer(target).is_some_and(is_ready) {
            if let Some(transfer) = &mut leader.transfer {
                transfer.told = true;
            }
            leader.is_lease_given_up = !bugs::is_on(Bug::LeaseKeptInTransfer);
            self.send(target, Message::TimeoutNow);
        }
    }

    /// Gives a transfer up that took too long; what waited for its end goes on.
    pub(crate) fn expire_transfer(&mut self) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader
            .transfer
            .take_if(|transfer| transfer.deadline <= now)
            .is_some()
        {
            self.leave_joint();
        }
    }

    /// Tells the voter that holds most of our log to campaign: this leader is about to leave.
    pub(crate) fn name_successor(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let membership = self.memberships.effective();
        let voters = leader
            .peers
            .iter()
            .filter(|peer| membership.voters.contains(&peer.id));
        if let Some(id) = voters
            .max_by_key(|peer| (peer.matched, peer.heard))
            .map(|peer| peer.id)
        {
            self.send(id, Message::TimeoutNow);
        }
    }

    fn may_vote_for(&self, candidate: ReplicaId) -> bool {
        match self.hard.vote {
            Some(_) if bugs::is_on(Bug::VotesTwice) => true,
            Some(vote) => vote == candidate && !bugs::is_on(Bug::RepeatedVoteRefused),
            None => self.leader().is_none(),
        }
    }

    /// Gives the candidate we voted for the time to win.
    fn postpone_campaign(&mut self) {
        let timeout = self.draw_timeout();
        if let Role::Follower(follower) = &mut self.role {
            follower.deadline = self.now + timeout;
        }
    }
}
