//! What a replica is at the moment, and the state that only that role has. Transitions go through `become_*`
//! here; each resets what the role before owned.
//!
//! ```text
//!                  timeout              quorum would vote           quorum voted
//!   Follower ---------------> PreCandidate -----------> Candidate ---------------> Leader
//!      ^                           |                        |                         |
//!      +---------------------------+------------------------+-------------------------+
//!     a leader is heard, a higher term is seen, the campaign is lost, or the quorum is out of contact
//! ```

use crate::bugs::{self, Bug};
use crate::message::Message;
use crate::progress::Peer;
use crate::read::{Reads, Rounds};
use crate::ready::{ReadGrant, Refused, RoleKind};
use crate::replica::Replica;
use crate::types::{HardState, Index, Instant, Payload, ReplicaId, Round, Stamp, Term};
use std::time::Duration;

/// A replica's role with the state it owns.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower(Follower),
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leader>),
}

/// Follows a leader, or waits for one.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// Who leads this term, if known.
    pub(crate) leader: Option<ReplicaId>,
    /// When the leader was last heard in this term.
    pub(crate) contact: Option<Instant>,
    /// How much silence it bears, drawn anew for each term.
    pub(crate) timeout: Duration,
    /// When to campaign.
    pub(crate) deadline: Instant,
    /// Our log is known to equal the leader's up to here, durable or not.
    pub(crate) matched: Index,
    /// To be acknowledged as soon as it is durable; the write that makes it so had already left.
    pub(crate) owed: Option<Index>,
}

/// Collects votes, or promises of votes.
#[derive(Clone, Debug)]
pub(crate) struct Campaign {
    /// Who answered what; each voter once.
    pub(crate) answers: Vec<(ReplicaId, bool)>,
    /// When to begin again.
    pub(crate) deadline: Instant,
}

impl Campaign {
    /// Records an answer. The first one counts.
    pub(crate) fn record(&mut self, voter: ReplicaId, granted: bool) {
        if self.answer(voter).is_none() {
            self.answers.push((voter, granted));
        }
    }

    pub(crate) fn answer(&self, voter: ReplicaId) -> Option<bool> {
        let found = self.answers.iter().find(|(replica, _)| *replica == voter);
        found.map(|(_, granted)| *granted)
    }
}

/// Leads.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    /// Every other member, in id order.
    pub(crate) peers: Vec<Peer>,
    /// The first entry of this term: until it is committed no read is granted and nothing older is counted.
    pub(crate) first: Index,
    /// When to contact the peers again.
    pub(crate) heartbeat_at: Instant,
    /// The last round of contact that left.
    pub(crate) round: Round,
    /// When the last rounds left.
    pub(crate) rounds: Rounds,
    pub(crate) reads: Reads,
    /// No lease reads for the rest of this term.
    pub(crate) is_lease_given_up: bool,
    pub(crate) transfer: Option<Transfer>,
    /// Something may be sendable; cleared by `ready`.
    pub(crate) sends_due: bool,
}

impl Leader {
    pub(crate) fn peer(&mut self, id: ReplicaId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// A value of each member's: ours, a peer's, or the least there is for somebody unknown.
    pub(crate) fn of_member<T: Default>(
        &self,
        id: ReplicaId,
        own: (ReplicaId, T),
        of_peer: impl Fn(&Peer) -> T,
    ) -> T {
        if id == own.0 {
            return own.1;
        }
        let peer = self.peers.iter().find(|peer| peer.id == id);
        peer.map_or_else(T::default, of_peer)
    }
}

/// Leadership is being handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) target: ReplicaId,
    /// When to give up and accept proposals again.
    pub(crate) deadline: Instant,
    /// The target was told; it campaigns or the message was lost.
    pub(crate) told: bool,
}

impl Role {
    pub(crate) fn kind(&self) -> RoleKind {
        match self {
            Role::Follower(_) => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }
}

impl Replica {
    /// Follows `leader` in `term`, which is this term or a later one.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        self.enter_term(term, None);
        self.refuse_asked(leader);
        let timeout = self.draw_timeout();
        let follower = Follower {
            leader,
            contact: leader.map(|_| self.now),
            timeout,
            deadline: self.now + timeout,
            matched: Index(0),
            owed: None,
        };
        let before = std::mem::replace(&mut self.role, Role::Follower(follower));
        if let Role::Leader(mut before) = before {
            let refused = Refused::NotLeader(leader);
            let reads = before.reads.take_all().map(|read| (read, refused));
            self.outbox.reads_refused.extend(reads);
            if bugs::is_on(Bug::DeposedLeaderServes) {
                let index = self.marks.commit;
                let refused = std::mem::take(&mut self.outbox.reads_refused).into_iter();
                let served = refused.map(|(read, _)| ReadGrant { read, index });
                self.outbox.reads.extend(served);
            }
        }
    }

    /// Asks whether a campaign would succeed, without disturbing anyone (thesis §9.6).
    pub(crate) fn become_pre_candidate(&mut self) {
        assert!(!self.is_leader(), "a leader does not campaign");
        self.refuse_asked(None);
        let campaign = self.new_campaign(vec![(self.id, true)]);
        self.role = Role::PreCandidate(campaign);
        let last = self.log.last();
        let term = self.hard.term.next();
        for voter in self.other_voters() {
            self.send_as(term, voter, Message::PreVote { last });
        }
        self.conclude_campaign();
    }

    /// Campaigns in the next term. Nothing leaves, and our own vote does not count, before the vote is
    /// durable (I1).
    pub(crate) fn become_candidate(&mut self, transfer: bool) {
        assert!(!self.is_leader(), "a leader does not campaign");
        assert!(
            transfer || !self.is_pledged(),
            "I11: {} campaigns and is pledged",
            self.id
        );
        self.refuse_asked(None);
        self.enter_term(self.hard.term.next(), Some(self.id));
        let campaign = self.new_campaign(Vec::new());
        self.role = Role::Candidate(campaign);
        let last = self.log.last();
        for voter in self.other_voters() {
            self.send_after_write(voter, Message::Vote { last, transfer });
        }
    }

    /// Leads the term whose votes were won, beginning with an entry of its own (Raft §8).
    pub(crate) fn become_leader(&mut self) {
        assert!(
            matches!(self.role, Role::Candidate(_)) && self.writes.hard_durable() == self.hard,
            "I1: a leader's own vote is durable"
        );
        let last = self.log.last().index;
        let members = self.memberships.effective().replicas();
        let peers = members.filter(|member| *member != self.id);
        self.role = Role::Leader(Box::new(Leader {
            peers: peers.map(|peer| Peer::new(peer, last, self.now)).collect(),
            first: last.next(),
            heartbeat_at: self.now + self.options.heartbeat_interval,
            round: Round(0),
            rounds: Rounds::default(),
            reads: Reads::default(),
            is_lease_given_up: false,
            transfer: None,
            sends_due: true,
        }));
        self.append_own(Payload::Noop(Stamp(0)));
    }

    fn new_campaign(&mut self, answers: Vec<(ReplicaId, bool)>) -> Campaign {
        assert!(self.may_campaign(), "I12: only a voter campaigns");
        let deadline = self.now + self.draw_timeout();
        Campaign { answers, deadline }
    }

    fn enter_term(&mut self, term: Term, vote: Option<ReplicaId>) {
        assert!(term >= self.hard.term, "I1: term {term} after {}", self.hard.term);
        if term > self.hard.term {
            self.hard = HardState { term, vote };
            self.writes.forget_older_terms(term);
        }
    }

    pub(crate) fn draw_timeout(&mut self) -> Duration {
        let Replica { rng, options, .. } = self;
        rng.duration(options.election_timeout_min, options.election_timeout_max) + options.campaign_delay
    }

    fn other_voters(&self) -> Vec<ReplicaId> {
        let membership = self.memberships.effective();
        let voters = membership
            .replicas()
            .filter(|replica| membership.is_voter(*replica));
        voters.filter(|voter| *voter != self.id).collect()
    }
}
