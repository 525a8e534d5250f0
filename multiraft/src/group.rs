//! One replica and everyone who waits for it: requests of this turn, proposals by position, reads by grant.
//! Decides which answer a waiter gets; what the replica decides is raft-core's.

use crate::counters::{Samples, Stage};
use crate::limits::STRANGERS_MAX;
use crate::machine::{Queried, StateMachine};
use crate::storage::GroupRow;
use crate::types::{
    Entry, EntryId, GroupId, Index, Instant, Life, Membership, NodeId, Outcome, Payload, Refusal, ReplicaId,
    Stamp, Ticket,
};
use crate::worker::Installing;
use bytes::Bytes;
use raft_core::{LeadershipChange, MemberChange, ReadGrant, ReadId, ReadPolicy, Refused, Replica};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A group of this worker.
///
/// * `proposed` is ordered by index, and every index in it is above `applied`.
/// * `waiting()` requests of it count against the worker's limit; each is answered exactly once.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) replica: Replica,
    pub(crate) id: ReplicaId,
    pub(crate) life: Life,
    /// The last entry the state reflects.
    pub(crate) applied: EntryId,
    /// The deadline it is armed for in the worker's timers.
    pub(crate) armed: Option<Instant>,
    /// In the worker's list of groups with work.
    pub(crate) touched: bool,
    /// A log write or an applied entry since the last row.
    pub(crate) dirty: bool,
    /// The membership as of `applied`.
    membership: Membership,
    /// Whether this replica leads, as far as announced.
    leads: bool,
    /// Leadership was lost with proposals waiting: when those still waiting become `Unknown`.
    doubt: Option<Instant>,
    arriving: Arriving,
    proposed: VecDeque<Proposed>,
    /// A change of the membership that was proposed here and is not complete.
    changing: Option<Changing>,
    /// Where replicas live that spoke to this one and are in no membership it knows: a log that lags may be asked
    /// for its vote by a newer member.
    strangers: BTreeMap<ReplicaId, NodeId>,
    asked: BTreeMap<ReadId, Vec<Query>>,
    granted: Vec<Granted>,
    /// A snapshot that takes log and state's place, until that is durable.
    pub(crate) installing: Option<Installing>,
    reads_waiting: usize,
    /// Payload bytes of proposals taken and not answered.
    bytes: usize,
    /// The part of `bytes` that the worker has counted.
    counted: usize,
}

/// What a turn is taken with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// The host's clock, fixed for the turn.
    pub(crate) now: Instant,
    /// The wall clock.
    pub(crate) wall: Stamp,
    /// When the first request of this turn arrived.
    pub(crate) arrived: Instant,
}

/// Answers of a turn, delivered together at its end.
pub(crate) type Answers = Vec<(Ticket, Outcome)>;

/// Requests of this turn, not yet seen by the replica.
#[derive(Debug, Default)]
struct Arriving {
    reads: Vec<(ReadPolicy, Query)>,
    payloads: Vec<Bytes>,
    tickets: Vec<(Ticket, usize)>,
}

#[derive(Debug)]
struct Query {
    query: Bytes,
    ticket: Ticket,
}

/// A proposal in the log, not yet applied.
#[derive(Debug)]
struct Proposed {
    id: EntryId,
    ticket: Ticket,
    bytes: usize,
    arrived: Instant,
    proposed: Instant,
}

/// A change of the membership on its way: complete when a simple membership at or after its first entry is applied.
#[derive(Debug)]
struct Changing {
    id: EntryId,
    ticket: Ticket,
}

/// Reads that may be answered once `index` is applied.
#[derive(Debug)]
struct Granted {
    index: Index,
    /// The leader's clock at the grant.
    stamp: Stamp,
    /// Where nobody leads: refused when the index is not applied by then.
    until: Instant,
    queries: Vec<Query>,
}

impl Group {
    pub(crate) fn new(
        replica: Replica,
        id: ReplicaId,
        life: Life,
        applied: EntryId,
        membership: Membership,
    ) -> Group {
        Group {
            replica,
            id,
            life,
            applied,
            membership,
            armed: None,
            touched: false,
            dirty: true,
            leads: false,
            doubt: None,
            arriving: Arriving::default(),
            proposed: VecDeque::new(),
            changing: None,
            strangers: BTreeMap::new(),
            asked: BTreeMap::new(),
            granted: Vec::new(),
            installing: None,
            reads_waiting: 0,
            bytes: 0,
            counted: 0,
        }
    }

    /// Reads and proposals taken and not answered.
    pub(crate) fn waiting(&self) -> usize {
        let changing = usize::from(self.changing.is_some());
        self.arriving.tickets.len() + self.proposed.len() + self.reads_waiting + changing
    }

    pub(crate) fn push_read(&mut self, query: Bytes, policy: ReadPolicy, ticket: Ticket) {
        self.reads_waiting += 1;
        self.arriving.reads.push((policy, Query { query, ticket }));
    }

    /// Remembers that `replica` spoke from `node`, so that it can be answered.
    pub(crate) fn on_stranger(&mut self, replica: ReplicaId, node: NodeId) {
        if self.strangers.len() >= STRANGERS_MAX && !self.strangers.contains_key(&replica) {
            self.strangers.clear();
        }
        self.strangers.insert(replica, node);
    }

    /// The node of a replica: by the membership in force, or as it said itself.
    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let home = self.replica.membership().nodes.get(&replica);
        home.or_else(|| self.strangers.get(&replica)).copied()
    }

    pub(crate) fn push_proposal(&mut self, payload: Bytes, ticket: Ticket) {
        self.bytes += payload.len();
        self.counted += payload.len();
        self.arriving.tickets.push((ticket, payload.len()));
        self.arriving.payloads.push(payload);
    }

    /// Payload bytes of proposals taken and not answered.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that no longer wait since this was last called.
    pub(crate) fn released_bytes(&mut self) -> usize {
        std::mem::replace(&mut self.counted, self.bytes) - self.bytes
    }

    /// Hands this turn's reads to the replica, those of one policy as one.
    pub(crate) fn ask(&mut self, moment: &Moment, last_read: &mut u64, answers: &mut Answers) {
        while let Some((policy, _)) = self.arriving.reads.first() {
            let policy = *policy;
            let alike = self.arriving.reads.extract_if(.., |(other, _)| *other == policy);
            let queries = alike.map(|(_, query)| query).collect();
            *last_read += 1;
            self.ask_as(policy, queries, moment, ReadId(*last_read), answers);
        }
    }

    fn ask_as(
        &mut self,
        policy: ReadPolicy,
        queries: Vec<Query>,
        moment: &Moment,
        read: ReadId,
        answers: &mut Answers,
    ) {
        match self.replica.read_as(moment.now, read, policy) {
            Ok(()) => {
                let before = self.asked.insert(read, queries);
                assert!(before.is_none(), "read {read:?} was used before");
            }
            Err(refused) => self.refuse_reads(queries, refused, answers),
        }
    }

    /// Hands this turn's proposals to the replica, as one. Returns how many it took: the first ones, as far as it has room.
    pub(crate) fn propose(&mut self, moment: &Moment, stamp: Stamp, answers: &mut Answers) -> u64 {
        if self.arriving.tickets.is_empty() {
            return 0;
        }
        let payloads = std::mem::take(&mut self.arriving.payloads);
        let tickets = std::mem::take(&mut self.arriving.tickets);
        match self.replica.propose(moment.now, stamp, payloads) {
            Ok(range) => self.file(range, tickets, moment, answers),
            Err(refused) => {
                self.refuse_proposals(tickets, refused, answers);
                0
            }
        }
    }

    fn refuse_proposals(&mut self, tickets: Vec<(Ticket, usize)>, refused: Refused, answers: &mut Answers) {
        let outcome = Outcome::Refused(self.refusal(refused));
        for (ticket, bytes) in tickets {
            self.bytes -= bytes;
            answers.push((ticket, outcome.clone()));
        }
    }

    /// Proposes a change of the membership. True when it is on its way, and will be answered.
    pub(crate) fn change(
        &mut self,
        now: Instant,
        changes: &[MemberChange],
        ticket: Ticket,
        answers: &mut Answers,
    ) -> bool {
        match self.replica.propose_change(now, changes) {
            Ok(index) => {
                self.give_up_change(answers);
                let term = self.replica.last().term;
                let id = EntryId { term, index };
                self.changing = Some(Changing { id, ticket });
                true
            }
            Err(refused) => {
                ticket.answer(Outcome::Refused(self.refusal(refused)));
                false
            }
        }
    }

    fn give_up_change(&mut self, answers: &mut Answers) {
        answers.extend(self.changing.take().map(|lost| (lost.ticket, Outcome::Unknown)));
    }

    /// An entry is applied: is the change complete, or was it replaced?
    fn follow_change(&mut self, entry: &Entry, answers: &mut Answers) {
        let Some(changing) = &self.changing else { return };
        let is_simple = |payload: &Payload| matches!(payload, Payload::Membership(next) if !next.is_joint());
        let outcome = if entry.id.index < changing.id.index {
            return;
        } else if entry.id.index == changing.id.index && entry.id != changing.id {
            let refused = Refused::NotLeader(self.replica.leader());
            Outcome::Refused(self.refusal(refused))
        } else if is_simple(&entry.payload) {
            Outcome::Answered(Bytes::new())
        } else {
            return;
        };
        answers.extend(self.changing.take().map(|changing| (changing.ticket, outcome)));
    }

    /// Follows the replica's leadership. A proposal that waits when leadership is lost may still be committed by the
    /// next leader, or be replaced: both show when its index is applied. It waits for that, but no longer than `patience`.
    /// When leadership is won back, what our log still holds is applied once we commit; the rest is given up.
    pub(crate) fn on_leadership(
        &mut self,
        change: &LeadershipChange,
        now: Instant,
        patience: Duration,
        answers: &mut Answers,
    ) {
        self.leads = change.is_self;
        if change.is_self {
            // Nobody need ever propose again: their fate might never show.
            self.give_up_from(self.replica.last().index.next(), answers);
        }
        self.doubt = if change.is_self || (self.proposed.is_empty() && self.changing.is_none()) {
            None
        } else {
            self.doubt.or(Some(now + patience))
        };
    }

    /// A quorum confirmed the leadership these reads rely on.
    pub(crate) fn on_granted(&mut self, grant: ReadGrant, stamp: Stamp, until: Instant) {
        if let Some(queries) = self.asked.remove(&grant.read) {
            self.granted.push(Granted {
                index: grant.index,
                stamp,
                until,
                queries,
            });
        }
    }

    pub(crate) fn on_read_refused(&mut self, read: ReadId, refused: Refused, answers: &mut Answers) {
        if let Some(queries) = self.asked.remove(&read) {
            self.refuse_reads(queries, refused, answers);
        }
    }

    /// The state reflects these entries now. `results` is the state machine's, one per entry.
    pub(crate) fn on_applied(
        &mut self,
        entries: &[Entry],
        results: &mut Vec<Bytes>,
        answers: &mut Answers,
        samples: &mut Samples,
        now: Instant,
    ) {
        assert_eq!(results.len(), entries.len(), "one answer per applied entry");
        for (entry, result) in entries.iter().zip(results.drain(..)) {
            assert_eq!(
                entry.id.index,
                self.applied.index.next(),
                "applied in order, each once"
            );
            self.applied = entry.id;
            if let Payload::Membership(membership) = &entry.payload {
                self.membership = (**membership).clone();
            }
            self.complete(entry.id, result, answers, samples, now);
            self.follow_change(entry, answers);
        }
        self.replica.on_applied(self.applied.index);
    }

    /// The state is the snapshot's now. Proposals that it covers may be in it or not: what was applied is not told apart.
    pub(crate) fn on_installed(&mut self, snapshot: EntryId, membership: Membership, answers: &mut Answers) {
        self.applied = snapshot;
        self.membership = membership;
        while self
            .proposed
            .front()
            .is_some_and(|first| first.id.index <= snapshot.index)
        {
            let lost = self.proposed.pop_front().expect("there is a first one");
            self.bytes -= lost.bytes;
            answers.push((lost.ticket, Outcome::Unknown));
        }
        if self
            .changing
            .as_ref()
            .is_some_and(|changing| changing.id.index <= snapshot.index)
        {
            self.give_up_change(answers);
        }
        if self.proposed.is_empty() && self.changing.is_none() {
            self.doubt = None;
        }
    }

    /// Evaluates granted reads whose index is applied. Reads that need a later group clock wait for one stamp-only
    /// entry, all together, and are evaluated again with the same stamp.
    pub(crate) fn serve<M: StateMachine>(
        &mut self,
        group: GroupId,
        machine: &mut M,
        now: Instant,
        answers: &mut Answers,
    ) -> u64 {
        let mut served = 0;
        let mut early = Vec::new();
        let applied = self.applied.index;
        for granted in self.granted.extract_if(.., |granted| granted.index <= applied) {
            let Granted { stamp, until, .. } = granted;
            for query in granted.queries {
                match machine.query(group, &query.query, stamp) {
                    Queried::Answer(bytes) => {
                        served += 1;
                        self.reads_waiting -= 1;
                        answers.push((query.ticket, Outcome::Answered(bytes)));
                    }
                    Queried::AdvanceClock => early.push((stamp, until, query)),
                }
            }
        }
        if !early.is_empty() {
            self.advance_clock(now, early, answers);
        }
        served
    }

    /// Gives up on proposals whose fate has not shown in time, and on reads that a follower's state is not ready for: one
    /// that was removed from the group never will be.
    pub(crate) fn give_up(&mut self, now: Instant, answers: &mut Answers) {
        if self.reads_until().is_some_and(|until| until <= now) {
            let late: Vec<Granted> = self
                .granted
                .extract_if(.., |granted| granted.until <= now)
                .collect();
            let refused = Refused::NotLeader(self.replica.leader());
            for granted in late {
                self.refuse_reads(granted.queries, refused, answers);
            }
        }
        if self.doubt.is_some_and(|until| until <= now) {
            self.doubt = None;
            self.give_up_change(answers);
            // Not all that is counted: proposals of this turn may have arrived already.
            for lost in self.proposed.drain(..) {
                self.bytes -= lost.bytes;
                answers.push((lost.ticket, Outcome::Unknown));
            }
        }
    }

    /// Answers everyone: the worker stops.
    pub(crate) fn dismiss(&mut self, answers: &mut Answers) {
        let stopping = Outcome::Refused(Refusal::Stopping);
        let arriving = std::mem::take(&mut self.arriving);
        answers.extend(
            arriving
                .tickets
                .into_iter()
                .map(|(ticket, _)| (ticket, stopping.clone())),
        );
        answers.extend(
            self.proposed
                .drain(..)
                .map(|lost| (lost.ticket, Outcome::Unknown)),
        );
        self.give_up_change(answers);
        let asked = std::mem::take(&mut self.asked).into_values().flatten();
        let granted = self.granted.drain(..).flat_map(|granted| granted.queries);
        let arriving = arriving.reads.into_iter().map(|(_, query)| query);
        let reads = arriving.chain(asked).chain(granted);
        answers.extend(reads.map(|query| (query.ticket, stopping.clone())));
        self.reads_waiting = 0;
        self.bytes = 0;
        self.doubt = None;
    }

    /// When it wants to be woken next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let all = [self.replica.deadline(), self.doubt, self.reads_until()];
        all.into_iter().flatten().min()
    }

    fn reads_until(&self) -> Option<Instant> {
        let waiting = self.granted.iter().filter(|_| !self.leads);
        waiting.map(|granted| granted.until).min()
    }

    /// What a request that is not taken is told.
    pub(crate) fn refusal(&self, refused: Refused) -> Refusal {
        match refused {
            Refused::NotLeader(leader) => {
                let nodes = &self.replica.membership().nodes;
                Refusal::NotLeader(leader.and_then(|leader| nodes.get(&leader).copied()))
            }
            // While leadership is handed over, this node is still the one to ask.
            Refused::Overloaded | Refused::Transferring => Refusal::Overloaded,
            Refused::NotVoter => Refusal::NotVoter,
            Refused::Change(refused) => Refusal::Change(refused),
        }
    }

    /// Its line in a checkpoint.
    pub(crate) fn row(&self, group: GroupId, descriptor: Bytes) -> GroupRow {
        GroupRow {
            group,
            replica: self.id,
            life: self.life,
            applied: self.applied,
            membership: self.membership.clone(),
            descriptor,
        }
    }

    /// The invariants of the type, after a turn.
    pub(crate) fn check(&self, group: GroupId) {
        assert!(
            self.arriving.tickets.is_empty() && self.arriving.reads.is_empty(),
            "{group}: requests left over"
        );
        assert!(
            !self.proposed.is_empty() || self.bytes == 0,
            "{group}: {} bytes of nothing wait",
            self.bytes
        );
        if let (Some(first), Some(last)) = (self.proposed.front(), self.proposed.back()) {
            assert!(
                first.id.index > self.applied.index,
                "{group}: {} waits below applied",
                first.id
            );
            assert!(
                first.id.index <= last.id.index,
                "{group}: {} waits before {}",
                first.id,
                last.id
            );
            assert!(self.leads || self.doubt.is_some(), "{group}: waits for nothing");
        }
    }

    /// Remembers who waits for which position.
    fn file(
        &mut self,
        range: RangeInclusive<Index>,
        mut tickets: Vec<(Ticket, usize)>,
        moment: &Moment,
        answers: &mut Answers,
    ) -> u64 {
        let EntryId { term, index: last } = self.replica.last();
        let count = range.end().0 + 1 - range.start().0;
        assert_eq!(last, *range.end(), "proposals come last in the log");
        let taken = usize::try_from(count).expect("as many as tickets, at most");
        if taken < tickets.len() {
            self.refuse_proposals(tickets.split_off(taken), Refused::Overloaded, answers);
        }
        // Leftovers of an earlier term at these positions.
        self.give_up_from(*range.start(), answers);
        for (index, (ticket, bytes)) in (range.start().0..).zip(tickets) {
            let index = Index(index);
            self.proposed.push_back(Proposed {
                id: EntryId { term, index },
                ticket,
                bytes,
                arrived: moment.arrived,
                proposed: moment.now,
            });
        }
        count
    }

    /// Gives up on proposals at and after `first`, which our log does not hold: another leader's log replaced them
    /// here, but they may still be committed if its term never commits anything.
    fn give_up_from(&mut self, first: Index, answers: &mut Answers) {
        if self
            .changing
            .as_ref()
            .is_some_and(|changing| changing.id.index >= first)
        {
            self.give_up_change(answers);
        }
        while self.proposed.back().is_some_and(|last| last.id.index >= first) {
            let lost = self.proposed.pop_back().expect("there is a last one");
            self.bytes -= lost.bytes;
            answers.push((lost.ticket, Outcome::Unknown));
        }
    }

    /// Answers the proposal at this position, if it is still waiting.
    fn complete(
        &mut self,
        applied: EntryId,
        result: Bytes,
        answers: &mut Answers,
        samples: &mut Samples,
        now: Instant,
    ) {
        if self
            .proposed
            .front()
            .is_none_or(|first| first.id.index > applied.index)
        {
            return;
        }
        let first = self.proposed.pop_front().expect("there is a first one");
        self.bytes -= first.bytes;
        assert_eq!(
            first.id.index, applied.index,
            "applied passed over a waiting proposal"
        );
        if first.id == applied {
            samples.add(Stage::Commit, first.proposed, now, 1);
            samples.add_answer(first.arrived);
            answers.push((first.ticket, Outcome::Answered(result)));
        } else {
            // Another entry is committed at its position, so it never will be (Raft §5.4.3): a definite refusal.
            let refused = Refused::NotLeader(self.replica.leader());
            answers.push((first.ticket, Outcome::Refused(self.refusal(refused))));
        }
    }

    fn advance_clock(&mut self, now: Instant, early: Vec<(Stamp, Instant, Query)>, answers: &mut Answers) {
        let stamp = early.iter().map(|(stamp, ..)| *stamp).max().expect("not empty");
        match self.replica.propose_stamp(now, stamp) {
            Ok(index) => {
                for (stamp, until, query) in early {
                    self.granted.push(Granted {
                        index,
                        stamp,
                        until,
                        queries: vec![query],
                    });
                }
            }
            Err(refused) => {
                let queries = early.into_iter().map(|(.., query)| query).collect();
                self.refuse_reads(queries, refused, answers);
            }
        }
    }

    fn refuse_reads(&mut self, queries: Vec<Query>, refused: Refused, answers: &mut Answers) {
        let outcome = Outcome::Refused(self.refusal(refused));
        self.reads_waiting -= queries.len();
        answers.extend(queries.into_iter().map(|query| (query.ticket, outcome.clone())));
    }
}
