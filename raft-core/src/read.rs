//! Linearizable reads without a log entry, and reads that may be a little old.
//!
//! * **Confirmed** (thesis §6.4, "ReadIndex"): a read may be served from the state at the commit index of its
//!   arrival, once a round of heartbeats that left after it was answered by a quorum. All reads that wait join
//!   the next round; one round is in flight at a time.
//! * **By lease**: as long as a quorum is pledged to the leader, nobody else can lead, and no round is needed.
//!   A pledge is counted from the moment its heartbeat left, and shortened by what the clocks may drift.
//! * **At a follower**: it asks the leader for an index and serves the read from its own state. All reads that
//!   wait share one question. A question that is not answered is asked anew, with another number, when the
//!   leader is heard.
//! * **Within a bound**: what was confirmed at some moment says what the state must hold to be no older than
//!   that moment. No clock of another replica is involved.

use crate::bugs::{self, Bug};
use crate::limits::ROUNDS_REMEMBERED;
use crate::message::Message;
use crate::quorum;
use crate::ready::{Ignored, ReadGrant, Refused};
use crate::replica::Replica;
use crate::rng::Rng;
use crate::role::Role;
use crate::types::{Index, Instant, ReadId, ReplicaId, Round};
use std::collections::VecDeque;
use std::time::Duration;

/// What a read asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadPolicy {
    /// Linearizable, at the leader, confirmed by a quorum after the read arrived.
    #[default]
    Confirmed,
    /// Linearizable, at the leader, as long as no clock of the group drifts more than
    /// `Options::clock_drift_percent`: by the leader's lease, or confirmed if it has none.
    Lease,
    /// Linearizable, here, whoever leads.
    Here,
    /// Here, and no older than this: sees whatever was committed that long before it arrived.
    Within(Duration),
}

/// A leader's reads, its own and its followers'.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Waiting>,
    flight: Option<Flight>,
}

/// A read that must see `index`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    reader: Reader,
    index: Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Host(ReadId),
    /// A follower and the number of its question.
    Follower(ReplicaId, u64),
}

#[derive(Clone, Debug)]
struct Flight {
    round: Round,
    reads: Vec<Waiting>,
}

impl Reads {
    /// A read arrived when the commit index was `index`.
    pub(crate) fn add(&mut self, read: ReadId, index: Index) {
        let reader = Reader::Host(read);
        self.waiting.push(Waiting { reader, index });
    }

    /// A follower asked. A newer question of the same follower takes the place of an older one.
    fn add_for(&mut self, follower: ReplicaId, request: u64, index: Index) {
        let is_older =
            |waiting: &Waiting| matches!(waiting.reader, Reader::Follower(id, _) if id == follower);
        self.waiting.retain(|waiting| !is_older(waiting));
        let reader = Reader::Follower(follower, request);
        self.waiting.push(Waiting { reader, index });
    }

    /// True when the next round should leave.
    pub(crate) fn is_round_due(&self) -> bool {
        self.flight.is_none() && !self.waiting.is_empty()
    }

    /// All waiting reads join `round`.
    fn start(&mut self, round: Round) {
        assert!(self.flight.is_none(), "one round of reads is in flight at a time");
        self.flight = Some(Flight {
            round,
            reads: std::mem::take(&mut self.waiting),
        });
    }

    /// A quorum echoed `round`: the reads that it confirms.
    fn confirm(&mut self, round: Round) -> Vec<Waiting> {
        match self.flight.take_if(|flight| flight.round <= round) {
            Some(flight) => flight.reads,
            None => Vec::new(),
        }
    }

    /// No round is needed: the waiting reads.
    fn take_waiting(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    /// Leadership is over: every read of our own host that was not granted. Followers notice by themselves.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = ReadId> + use<> {
        let flight = self.flight.take().map(|flight| flight.reads).unwrap_or_default();
        let all = flight.into_iter().chain(self.take_waiting());
        all.filter_map(|waiting| match waiting.reader {
            Reader::Host(read) => Some(read),
            Reader::Follower(..) => None,
        })
    }
}

/// When a leader's last rounds of contact left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    sent: VecDeque<(Round, Instant)>,
}

impl Rounds {
    pub(crate) fn on_sent(&mut self, round: Round, now: Instant) {
        if self.sent.len() == ROUNDS_REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((round, now));
    }

    /// When `round`, or the last one before it that is remembered, left.
    pub(crate) fn left_at(&self, round: Round) -> Option<Instant> {
        let mut newest_first = self.sent.iter().rev();
        newest_first.find(|(sent, _)| *sent <= round).map(|(_, at)| *at)
    }
}

/// The reads of a replica that does not lead.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    /// The number of the last question. Begins at random: an answer to a question of an earlier life must not
    /// pass for one to ours (etcd #20418).
    number: u64,
    waiting: Vec<ReadId>,
    flight: Option<Question>,
    /// What the state must hold to be no older than that moment.
    known: Option<(Instant, Index)>,
}

#[derive(Clone, Debug)]
struct Question {
    number: u64,
    sent: Instant,
    reads: Vec<ReadId>,
}

impl Asking {
    pub(crate) fn new(seed: u64) -> Asking {
        Asking {
            number: match bugs::is_on(Bug::QuestionReused) {
                true => 0,
                false => Rng::new(!seed).next() >> 20,
            },
            waiting: Vec::new(),
            flight: None,
            known: None,
        }
    }

    /// True when a question should leave.
    pub(crate) fn is_due(&self) -> bool {
        self.flight.is_none() && !self.waiting.is_empty()
    }

    /// True while some read waits for the leader's answer.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.flight.is_some() || !self.waiting.is_empty()
    }

    /// The next question, for every read that waits or whose question seems lost.
    fn ask(&mut self, now: Instant) -> u64 {
        self.number += 1;
        let mut reads = self.flight.take().map(|flight| flight.reads).unwrap_or_default();
        reads.append(&mut self.waiting);
        self.flight = Some(Question {
            number: self.number,
            sent: now,
            reads,
        });
        self.number
    }

    fn take_all(&mut self) -> impl Iterator<Item = ReadId> + use<> {
        let flight = self.flight.take().map(|flight| flight.reads).unwrap_or_default();
        flight.into_iter().chain(std::mem::take(&mut self.waiting))
    }
}

/// At the leader.
impl Replica {
    pub(crate) fn add_read(&mut self, read: ReadId, policy: ReadPolicy) -> Result<(), Refused> {
        let Role::Leader(leader) = &mut self.role else {
            return self.add_read_here(read, policy);
        };
        // Everything committed before this term is before its first entry, known to us as committed or not.
        let index = self.marks.commit.max(leader.first);
        let is_early = bugs::is_on(Bug::ReadBeforeFirstCommit);
        let index = if is_early { self.marks.commit } else { index };
        let may_know = self.marks.commit >= leader.first || is_early;
        let is_known = match policy {
            _ if !may_know => false,
            ReadPolicy::Confirmed if bugs::is_on(Bug::ReadBeforeRound) => true,
            ReadPolicy::Confirmed | ReadPolicy::Here => false,
            ReadPolicy::Lease => self.now < self.lease_end(),
            ReadPolicy::Within(bound) => self.confirmed_at().is_some_and(|at| self.now - at <= bound),
        };
        match &mut self.role {
            Role::Leader(leader) if !is_known => leader.reads.add(read, index),
            _ => self.outbox.reads.push(ReadGrant { read, index }),
        }
        Ok(())
    }

    pub(crate) fn on_read_index(&mut self, from: ReplicaId, request: u64) -> Result<(), Ignored> {
        self.hear(from)?;
        if let Role::Leader(leader) = &mut self.role {
            let index = self.marks.commit.max(leader.first);
            leader.reads.add_for(from, request, index);
        }
        Ok(())
    }

    pub(crate) fn are_reads_due(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                let may_know = self.marks.commit >= leader.first || bugs::is_on(Bug::ReadBeforeFirstCommit);
                leader.reads.is_round_due() && may_know
            }
            Role::Follower(follower) => follower.leader.is_some() && self.asking.is_due(),
            _ => false,
        }
    }

    /// Waiting reads leave with one round; a sole voter needs none.
    pub(crate) fn start_reads(&mut self) {
        if !self.are_reads_due() {
            return;
        }
        if !self.is_leader() {
            return self.ask_leader();
        }
        let alone = quorum::is_sole_voter(self.memberships.effective(), self.id);
        if !alone {
            self.broadcast_heartbeat();
        }
        if let Role::Leader(leader) = &mut self.role {
            if alone {
                let waiting = leader.reads.take_waiting();
                self.grant(waiting);
            } else {
                leader.reads.start(leader.round);
            }
        }
    }

    /// Grants the reads of the round in flight when a quorum echoed it or a later one.
    pub(crate) fn confirm_reads(&mut self) {
        let is_in_flight =
            |role: &Role| matches!(role, Role::Leader(leader) if leader.reads.flight.is_some());
        if !is_in_flight(&self.role) {
            return;
        }
        let round = self.confirmed_round();
        if let Role::Leader(leader) = &mut self.role {
            let confirmed = leader.reads.confirm(round);
            self.grant(confirmed);
        }
    }

    /// The last round that a quorum echoed.
    fn confirmed_round(&self) -> Round {
        let Role::Leader(leader) = &self.role else {
            return Round(0);
        };
        let own = (self.id, leader.round);
        let echoed = |id| leader.of_member(id, own, |peer| peer.round);
        quorum::agreed(self.memberships.effective(), echoed).unwrap_or_default()
    }

    /// When we were certainly the leader, and the only one.
    fn confirmed_at(&self) -> Option<Instant> {
        if quorum::is_sole_voter(self.memberships.effective(), self.id) {
            return Some(self.now);
        }
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        leader.rounds.left_at(self.confirmed_round())
    }

    /// Until when a quorum supports nobody else; `Instant(0)` without a lease. A leader that told another to
    /// campaign has none for the rest of its term: its followers' pledges do not hold against that one.
    pub(crate) fn lease_end(&self) -> Instant {
        let Role::Leader(leader) = &self.role else {
            return Instant(0);
        };
        if !self.options.leases || leader.is_lease_given_up {
            return Instant(0);
        }
        // We support nobody else as long as we lead.
        let own = (self.id, Instant(u64::MAX));
        let pledged = |id| leader.of_member(id, own, |peer| peer.pledged);
        quorum::agreed(self.memberships.effective(), pledged).unwrap_or_default()
    }

    fn grant(&mut self, reads: Vec<Waiting>) {
        for Waiting { reader, index } in reads {
            match reader {
                Reader::Host(read) => self.outbox.reads.push(ReadGrant { read, index }),
                Reader::Follower(id, request) => self.send(id, Message::ReadIndexReply { request, index }),
            }
        }
    }
}

/// At a follower.
impl Replica {
    fn add_read_here(&mut self, read: ReadId, policy: ReadPolicy) -> Result<(), Refused> {
        let refused = Err(Refused::NotLeader(self.leader()));
        if let ReadPolicy::Confirmed | ReadPolicy::Lease = policy {
            return refused;
        }
        let known = self.asking.known.filter(|(at, _)| match policy {
            ReadPolicy::Within(bound) => self.now - *at <= bound,
            _ => false,
        });
        match known {
            Some((_, index)) => self.outbox.reads.push(ReadGrant { read, index }),
            None if self.leader().is_none() => return refused,
            None => self.asking.waiting.push(read),
        }
        Ok(())
    }

    fn ask_leader(&mut self) {
        if let Some(leader) = self.leader() {
            let request = self.asking.ask(self.now);
            self.send(leader, Message::ReadIndex { request });
        }
    }

    /// The leader is heard: a question that it should have answered by now was lost.
    pub(crate) fn ask_again(&mut self) {
        let patience = self.options.heartbeat_interval;
        let flight = &self.asking.flight;
        if flight
            .as_ref()
            .is_some_and(|question| self.now - question.sent >= patience)
        {
            self.ask_leader();
        }
    }

    pub(crate) fn on_read_index_reply(&mut self, request: u64, index: Index) -> Result<(), Ignored> {
        let answered = self.asking.flight.take_if(|question| question.number == request);
        let Some(question) = answered else {
            return Err(Ignored::StaleReply);
        };
        self.asking.known = self.asking.known.max(Some((question.sent, index)));
        let grants = question.reads.into_iter().map(|read| ReadGrant { read, index });
        self.outbox.reads.extend(grants);
        Ok(())
    }

    /// Whoever led is not asked any more.
    pub(crate) fn refuse_asked(&mut self, leader: Option<ReplicaId>) {
        let refused = Refused::NotLeader(leader);
        let reads = self.asking.take_all().map(|read| (read, refused));
        self.outbox.reads_refused.extend(reads);
    }
}
