//! The named checks, run at the end of every call, in release builds too. Each is O(1) or O(peers).
//! The list with the full text is in the crate docs; I9 is asserted where memberships are appended.

use crate::message::{AppendOutcome, Envelope, Message};
use crate::quorum;
use crate::replica::Replica;
use crate::role::Role;
use crate::types::{EntryId, HardState, Index};

/// What the last check saw, for the rules about change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checked {
    hard: HardState,
    commit: EntryId,
}

impl Replica {
    /// Asserts I1..I12, as far as they exist.
    pub(crate) fn check_invariants(&mut self) {
        self.check_votes();
        self.check_log();
        self.check_marks();
        self.check_commit();
        self.check_role();
    }

    /// I1: the term never falls, and within a term a given vote never changes.
    fn check_votes(&mut self) {
        let (before, now) = (self.checked.hard, self.hard);
        assert!(
            now.term > before.term
                || (now.term == before.term && (before.vote.is_none() || now.vote == before.vote)),
            "I1: {before:?} became {now:?}"
        );
        self.checked.hard = now;
    }

    /// I2: indexes are contiguous, the last term is at most ours.
    fn check_log(&self) {
        let last = self.log.last();
        assert!(self.log.is_consistent(), "I2: the log's parts disagree at {last}");
        assert!(
            last.term <= self.hard.term,
            "I2: {last} in term {}",
            self.hard.term
        );
    }

    /// I3 and I4: each mark stays behind the one that it depends on.
    fn check_marks(&self) {
        let marks = &self.marks;
        let truncated = self.log.truncated().index;
        let (durable, submitted) = (self.writes.durable(), self.writes.submitted());
        let last = self.log.last().index;
        // Until an install is durable, the state is still what it was before.
        let is_base_held = truncated <= marks.checkpointed || self.installing.is_some();
        assert!(
            is_base_held
                && marks.checkpointed <= marks.applied
                && marks.applied <= marks.handed
                && marks.handed <= marks.commit.min(durable)
                && marks.commit <= last,
            "I3: truncated {truncated}, durable {durable}, last {last}, {marks:?}"
        );
        assert!(
            durable <= submitted && submitted <= last,
            "I4: durable {durable}, submitted {submitted}, last {last}"
        );
    }

    /// I5: what was committed stays as it was.
    fn check_commit(&mut self) {
        let before = self.checked.commit;
        let commit = self.marks.commit;
        assert!(
            commit >= before.index,
            "I5: commit fell from {} to {commit}",
            before.index
        );
        if before.index >= self.log.truncated().index {
            assert!(self.log.contains(before), "I5: committed entry {before} changed");
        }
        if commit != before.index {
            let term = self.log.term(commit).expect("I3: commit is within the log");
            self.checked.commit = EntryId { term, index: commit };
        }
    }

    /// I10 for a leader's peers, I12 for a campaign.
    fn check_role(&self) {
        match &self.role {
            Role::Follower(_) => {}
            Role::PreCandidate(_) | Role::Candidate(_) => {
                assert!(self.may_campaign(), "I12: {} campaigns and is no voter", self.id);
            }
            Role::Leader(leader) => {
                self.check_lease();
                let last = self.log.last().index;
                for peer in &leader.peers {
                    assert!(
                        peer.matched < peer.next && peer.matched <= last && peer.next <= last.next(),
                        "I10: last {last}, {peer:?}"
                    );
                }
            }
        }
    }

    /// I11: whoever is counted on was heard since, and will support nobody else for at most a timeout.
    fn check_lease(&self) {
        if !self.options.leases || quorum::is_sole_voter(self.memberships.effective(), self.id) {
            return;
        }
        let (end, contact) = (self.lease_end(), self.quorum_contact());
        assert!(
            end <= contact + self.options.election_timeout_min,
            "I11: a lease until {end:?}, contact at {contact:?}"
        );
    }

    /// I1 and I8 at the door: what leaves without waiting for a write asserts only what is durable already.
    pub(crate) fn check_leaving(&self, envelope: &Envelope) {
        let durable = self.writes.hard_durable();
        match &envelope.message {
            Message::Vote { .. } => panic!("I1: a vote is asked for only after it is durable"),
            Message::VoteReply { granted: true } => {
                let vote = HardState {
                    term: envelope.term,
                    vote: Some(envelope.to),
                };
                assert_eq!(durable, vote, "I1: a vote leaves before it is durable");
            }
            Message::AppendReply(AppendOutcome::Matched { index }) => {
                self.check_acknowledged(*index, durable);
            }
            Message::HeartbeatReply { matched, .. } if *matched > Index(0) => {
                self.check_acknowledged(*matched, durable);
            }
            _ => {}
        }
    }

    fn check_acknowledged(&self, index: Index, durable: HardState) {
        assert!(
            index <= self.writes.durable() && durable.term == self.hard.term,
            "I8: {index} is acknowledged, durable {} in {durable:?}",
            self.writes.durable()
        );
    }
}
