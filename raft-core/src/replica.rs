//! One replica: the public calls, dispatch by message and role, and the outputs.
//! What the calls decide lives in the rooms: `election`, `replication`, `following`, `read`, `shipping`, `installing`.

use crate::bugs::{self, Bug};
use crate::invariants::Checked;
use crate::limits::{COMMITTED_BYTES_MAX, TAIL_STRETCH};
use crate::log::Log;
use crate::membership::{MemberChange, Memberships};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::options::Options;
use crate::progress::Progress;
use crate::read::{Asking, ReadPolicy};
use crate::ready::{
    Ignored, LeadershipChange, LogFetch, OrderId, ReadGrant, Ready, Refused, Snapshot, SnapshotOrder,
    SnapshotOutcome, Status,
};
use crate::rng::Rng;
use crate::role::{Follower, Role};
use crate::shipping::Shipments;
use crate::types::{
    Entry, EntryId, HardState, Index, Instant, Membership, Payload, ReadId, ReplicaId, Stamp, Term, WriteId,
};
use crate::writes::Writes;
use bytes::Bytes;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a replica is rebuilt from after a restart, or born with.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Its durable term and vote.
    pub hard_state: HardState,
    /// The log up to and including this entry is gone.
    pub truncated: EntryId,
    /// The membership as of `truncated`; memberships in `entries` follow on top.
    pub membership: Membership,
    /// Every durable entry after `truncated`, contiguous.
    pub entries: Vec<Entry>,
    /// The durable commit mark; at least `applied`.
    pub commit: Index,
    /// The state machine already reflects the log up to here.
    pub applied: Index,
    /// The state up to here survives any crash without the log.
    pub checkpointed: Index,
}

/// One replica of one Raft group, sans-IO.
///
/// Calls come in four kinds:
/// * inputs: `step`, `tick`, `campaign`, `propose`, `propose_stamp`, `propose_change`, `read`,
///   `transfer_leadership`, `offer`, `install`, `truncate`, `unreachable`
/// * completions: `on_durable`, `on_applied`, `on_checkpointed`, `on_fetched`, `on_snapshot_sent`
/// * outputs: `ready`, `deadline`
/// * questions: `status`, `is_leader`, `leader`, `membership`
///
/// Messages may be lost, duplicated and reordered; completions may not. `now` never goes back.
///
/// A group of one, and what its host does for it:
///
/// ```
/// use raft_core::{Instant, Membership, NodeId, Options, Payload, Replica, ReplicaId, Restored, Stamp};
///
/// let me = ReplicaId(1);
/// let restored = Restored { membership: Membership::of_voters([(me, NodeId(1))]), ..Restored::default() };
/// let mut replica = Replica::new(me, restored, Options::default(), 7, Instant(0));
/// replica.campaign(Instant(0));
///
/// let mut applied = Vec::new();
/// for now in 1..=4 {
///     let now = Instant(now);
///     if now == Instant(3) {
///         replica.propose(now, Stamp(0), vec!["hello".into()]).expect("it leads");
///     }
///     let ready = replica.ready(); // there are no peers, and so no messages to send
///     if let Some(write) = ready.write {
///         // Term, vote and entries go to the disk here. Then:
///         replica.on_durable(now, write.id);
///     }
///     if let Some(last) = ready.committed.last() {
///         applied.extend(ready.committed.iter().map(|entry| entry.payload.clone()));
///         replica.on_applied(last.id.index);
///     }
/// }
/// assert!(replica.is_leader());
/// assert_eq!(applied.last(), Some(&Payload::Command(Stamp(0), "hello".into())));
/// ```
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    /// The time of the last call that told it.
    pub(crate) now: Instant,
    /// Term and vote as decided; durable or not.
    pub(crate) hard: HardState,
    pub(crate) role: Role,
    pub(crate) log: Log,
    pub(crate) memberships: Memberships,
    pub(crate) writes: Writes,
    pub(crate) marks: Marks,
    /// Until then it supports nobody but a leader that it answered, or may have answered before it restarted.
    pub(crate) pledged_until: Instant,
    pub(crate) asking: Asking,
    pub(crate) outbox: Outbox,
    pub(crate) shipments: Shipments,
    /// The snapshot that takes log and state's place, until that is durable.
    pub(crate) installing: Option<Index>,
    /// The term and leader last reported in `Ready`.
    pub(crate) reported: (Term, Option<ReplicaId>),
    pub(crate) checked: Checked,
}

/// How far the log has come on its way into the state (I3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    pub(crate) commit: Index,
    /// Handed out in `Ready.committed`.
    pub(crate) handed: Index,
    pub(crate) applied: Index,
    pub(crate) checkpointed: Index,
    /// Durable on every member, as far as known.
    pub(crate) replicated: Index,
    /// The host does not want the log up to here any more, whoever needs it.
    pub(crate) released: Index,
}

/// Outputs that wait for `ready`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<Envelope>,
    pub(crate) reads: Vec<ReadGrant>,
    pub(crate) reads_refused: Vec<(ReadId, Refused)>,
    pub(crate) fetch: Vec<LogFetch>,
    pub(crate) snapshots: Vec<SnapshotOrder>,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.reads.is_empty()
            && self.reads_refused.is_empty()
            && self.fetch.is_empty()
            && self.snapshots.is_empty()
    }
}

impl Replica {
    /// Rebuilds a replica, as a follower that has heard nobody yet. Everything in `restored` is durable.
    /// `seed` spreads election timeouts and numbers questions: replicas of a group need different ones, and so
    /// does every start of a replica.
    ///
    /// Panics when `restored` contradicts itself: a store must not hand out a damaged log.
    pub fn new(id: ReplicaId, restored: Restored, options: Options, seed: u64, now: Instant) -> Replica {
        options.check().expect("the host checked the options");
        let mut log = Log::new(restored.truncated);
        let mut memberships = Memberships::new(restored.truncated.index, restored.membership);
        for entry in restored.entries {
            memberships.on_appended(&entry);
            log.push(entry);
        }
        let mut rng = Rng::new(seed ^ id.0.rotate_left(32));
        let timeout = rng.duration(options.election_timeout_min, options.election_timeout_max);
        let timeout = timeout + options.campaign_delay;
        let follower = Follower {
            leader: None,
            contact: None,
            timeout,
            deadline: now + timeout,
            matched: Index(0),
            owed: None,
        };
        let hard = restored.hard_state;
        let may_have_pledged =
            options.leases && hard.term > Term(0) && !bugs::is_on(Bug::PledgeForgottenAtStart);
        let silence = if may_have_pledged {
            options.election_timeout_min
        } else {
            Duration::ZERO
        };
        let mut replica = Replica {
            id,
            options,
            rng,
            now,
            hard,
            role: Role::Follower(follower),
            writes: Writes::new(hard, log.last().index),
            log,
            memberships,
            marks: Marks {
                commit: restored.commit,
                handed: restored.applied,
                applied: restored.applied,
                checkpointed: restored.checkpointed,
                replicated: restored.truncated.index,
                released: Index(0),
            },
            pledged_until: now + silence,
            asking: Asking::new(seed ^ id.0.rotate_left(32)),
            outbox: Outbox::default(),
            shipments: Shipments::default(),
            installing: None,
            reported: (hard.term, None),
            checked: Checked::default(),
        };
        replica.evict();
        replica.check_invariants();
        replica
    }

    // Inputs.

    /// Takes a message from a peer. `Ignored` says why it had no effect: to be counted, never an error.
    pub fn step(&mut self, now: Instant, message: Envelope) -> Result<(), Ignored> {
        self.advance_clock(now);
        let result = self.dispatch(message);
        self.check_invariants();
        result
    }

    /// Call when `deadline()` has passed. Harmless earlier.
    pub fn tick(&mut self, now: Instant) {
        self.advance_clock(now);
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            match self.role {
                Role::Leader(_) => self.tick_leader(),
                // Who may not campaign waits only for whom it asked.
                Role::Follower(_) if !self.may_campaign() => self.refuse_asked(None),
                Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => self.begin_campaign(),
            }
        }
        self.check_invariants();
    }

    /// Campaigns now, without waiting for the election timeout and without asking first. For a group that is
    /// known to have no leader, as when it is founded. A leader and a non-voter do nothing, nor does a replica
    /// that is pledged to a leader.
    pub fn campaign(&mut self, now: Instant) {
        self.advance_clock(now);
        if self.may_campaign() && !self.is_leader() && !self.is_pledged() {
            self.become_candidate(false);
        }
        self.check_invariants();
    }

    /// Appends one command per payload, the first ones, as far as there is room for uncommitted entries: the range is
    /// shorter than `payloads` if the rest was refused as `Overloaded`. They are decided when they come out of
    /// `Ready.committed` with this term and index; when leadership is lost before, their outcome is unknown.
    pub fn propose(
        &mut self,
        now: Instant,
        stamp: Stamp,
        payloads: Vec<Bytes>,
    ) -> Result<RangeInclusive<Index>, Refused> {
        assert!(!payloads.is_empty(), "a proposal carries at least one payload");
        self.advance_clock(now);
        let commands = payloads.into_iter().map(|bytes| Payload::Command(stamp, bytes));
        let result = self.append_proposals(commands);
        self.check_invariants();
        result
    }

    /// One no-op entry that only carries a stamp, so that the group clock advances.
    pub fn propose_stamp(&mut self, now: Instant, stamp: Stamp) -> Result<Index, Refused> {
        self.advance_clock(now);
        let result = self.append_proposals(std::iter::once(Payload::Noop(stamp)));
        self.check_invariants();
        result.map(|range| *range.end())
    }

    /// Changes the membership: by way of a joint one, which the leader leaves as soon as it is committed, if the voters
    /// change. The index is that of the first entry; the change is complete when a simple membership at or after it is
    /// applied. When leadership is lost before, the next leader completes the change or its log does not hold it.
    pub fn propose_change(&mut self, now: Instant, changes: &[MemberChange]) -> Result<Index, Refused> {
        self.advance_clock(now);
        let result = self.begin_change(changes);
        self.check_invariants();
        result
    }

    /// Asks to read what is committed now, as `ReadPolicy::Confirmed`.
    pub fn read(&mut self, now: Instant, read: ReadId) -> Result<(), Refused> {
        self.read_as(now, read, ReadPolicy::Confirmed)
    }

    /// Asks to read. Answered by `Ready.reads` or `Ready.reads_refused`, once.
    pub fn read_as(&mut self, now: Instant, read: ReadId, policy: ReadPolicy) -> Result<(), Refused> {
        self.advance_clock(now);
        let result = self.add_read(read, policy);
        self.check_invariants();
        result
    }

    /// This replica has just been made, on this or any disk, and never ran before: it cannot have pledged
    /// itself to anyone, so it need not keep silent as after a restart.
    pub fn never_ran(&mut self) {
        self.pledged_until = Instant(0);
    }

    /// Waits this much longer than others before it campaigns, from its next wait on: a hint that they should
    /// lead rather. See `Options::campaign_delay`.
    pub fn set_campaign_delay(&mut self, delay: Duration) {
        self.options.campaign_delay = delay;
    }

    /// Hands leadership to `target`, a voter: proposals are refused until it leads or an election timeout has
    /// passed.
    pub fn transfer_leadership(&mut self, now: Instant, target: ReplicaId) -> Result<(), Refused> {
        self.advance_clock(now);
        let result = self.begin_transfer(target);
        self.check_invariants();
        result
    }

    /// The leader of `term` offers a snapshot that reflects its log up to `snapshot`. Ok: it is news, and its bytes are
    /// welcome. `KnownSnapshot`: we hold that much; the leader is told how far we are.
    pub fn offer(
        &mut self,
        now: Instant,
        from: ReplicaId,
        term: Term,
        snapshot: EntryId,
    ) -> Result<(), Ignored> {
        self.advance_clock(now);
        let result = self.weigh(from, term, snapshot);
        self.check_invariants();
        result
    }

    /// The bytes of a snapshot are here, durably; it takes the place of log and state with the next write
    /// ([`LogWrite::install`](crate::LogWrite::install)). An error, as for `offer`: it does not, and the bytes can go.
    ///
    /// Nothing is handed out until that write is durable; `on_applied` must not be called for what was handed out
    /// before, once it is.
    pub fn install(
        &mut self,
        now: Instant,
        from: ReplicaId,
        term: Term,
        snapshot: Snapshot,
    ) -> Result<(), Ignored> {
        self.advance_clock(now);
        let result = self.weigh(from, term, snapshot.id);
        if result.is_ok() {
            self.reset(from, snapshot);
        }
        self.check_invariants();
        result
    }

    /// What was sent to `peer` last was probably lost: it gets nothing more until it shows a sign of life, and then
    /// everything from what it acknowledged on.
    pub fn unreachable(&mut self, now: Instant, peer: ReplicaId) {
        self.advance_clock(now);
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peer(peer)
        {
            peer.on_unreachable(now);
        }
        self.check_invariants();
    }

    /// Lets go of the log up to `index` even where a member still needs it, which then needs a snapshot. What no
    /// checkpoint holds stays, until one does.
    pub fn truncate(&mut self, index: Index) {
        self.marks.released = self.marks.released.max(index);
        self.check_invariants();
    }

    // Completions.

    /// `write` and all writes before it are durable. Their `then_send` may leave as soon as that is so, even before
    /// this call.
    pub fn on_durable(&mut self, now: Instant, write: WriteId) {
        self.advance_clock(now);
        self.writes.complete(write);
        self.finish_install();
        self.count_own_vote();
        self.advance_commit();
        self.pay_owed_acknowledgement();
        self.check_invariants();
    }

    /// The state machine reflects the log up to `applied`, which was handed out.
    pub fn on_applied(&mut self, applied: Index) {
        let Marks {
            applied: before,
            handed,
            ..
        } = self.marks;
        assert!(
            before <= applied && applied <= handed,
            "I3: applied {applied} after {before}, handed out {handed}"
        );
        self.marks.applied = applied;
        self.check_invariants();
    }

    /// The state up to here survives any crash without the log.
    pub fn on_checkpointed(&mut self, checkpointed: Index) {
        self.marks.checkpointed = self.marks.checkpointed.max(checkpointed);
        self.check_invariants();
    }

    /// The entries of a `LogFetch`, or a prefix of them; none when they are not there any more.
    pub fn on_fetched(&mut self, now: Instant, peer: ReplicaId, entries: Vec<Entry>) {
        self.advance_clock(now);
        self.send_fetched(peer, entries);
        self.check_invariants();
    }

    /// How an ordered snapshot fared. Of an order that was cancelled, nothing need be said, and nothing is heard.
    pub fn on_snapshot_sent(
        &mut self,
        now: Instant,
        peer: ReplicaId,
        order: OrderId,
        outcome: SnapshotOutcome,
    ) {
        self.advance_clock(now);
        self.conclude_order(now, peer, order, outcome);
        self.check_invariants();
    }

    // Outputs.

    /// Everything decided since the last call. After any number of inputs, and before the host waits: call it
    /// once and carry out what it says.
    pub fn ready(&mut self) -> Ready {
        self.start_reads();
        let snapshots_cancelled = self.take_cancelled();
        self.send_appends();
        let truncate = self.take_truncation();
        self.evict();
        let write = self.writes.take(self.hard, &self.log, self.marks.commit);
        let committed = self.take_committed();
        let leadership = self.take_leadership();
        let outbox = std::mem::take(&mut self.outbox);
        self.check_invariants();
        Ready {
            messages: outbox.messages,
            write,
            committed,
            reads: outbox.reads,
            reads_refused: outbox.reads_refused,
            fetch: outbox.fetch,
            snapshots: outbox.snapshots,
            snapshots_cancelled,
            truncate,
            leadership,
        }
    }

    /// True when `ready` would return something.
    pub fn has_ready(&self) -> bool {
        !self.outbox.is_empty()
            || self.is_write_due()
            || self.committed_through() > self.marks.handed
            || self.are_appends_due()
            || self.are_reads_due()
            || self.are_orders_void()
            || self.truncation_point() > self.log.truncated().index
            || self.reported != self.reportable()
    }

    /// When to call `tick`; None: nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Follower(follower) => {
                (self.may_campaign() || self.asking.is_waited_for()).then_some(follower.deadline)
            }
            Role::PreCandidate(campaign) | Role::Candidate(campaign) => Some(campaign.deadline),
            Role::Leader(leader) if leader.peers.is_empty() => None,
            Role::Leader(leader) => {
                let transfer = leader.transfer.map(|transfer| transfer.deadline);
                Some(transfer.map_or(leader.heartbeat_at, |at| at.min(leader.heartbeat_at)))
            }
        }
    }

    // Questions.

    /// Its state at a glance.
    pub fn status(&self) -> Status {
        let (peers, since_quorum_contact) = match &self.role {
            Role::Leader(leader) => (
                leader.peers.iter().map(|peer| peer.status(self.now)).collect(),
                Some(self.now - self.quorum_contact()),
            ),
            _ => (Vec::new(), None),
        };
        Status {
            id: self.id,
            role: self.role.kind(),
            hard_state: self.hard,
            leader: self.leader(),
            last: self.log.last(),
            durable: self.writes.durable(),
            commit: self.marks.commit,
            applied: self.marks.applied,
            truncated: self.log.truncated().index,
            membership: self.membership().clone(),
            peers,
            since_quorum_contact,
        }
    }

    /// True when it leads its term, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Who leads its term, if known.
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.id),
        }
    }

    /// The membership in force, committed or not.
    pub fn membership(&self) -> &Membership {
        self.memberships.effective()
    }

    /// The state up to here survives any crash without the log.
    pub fn checkpointed(&self) -> Index {
        self.marks.checkpointed
    }

    /// The last entry, durable or not.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }
}

/// Dispatch.
impl Replica {
    fn dispatch(&mut self, envelope: Envelope) -> Result<(), Ignored> {
        let Envelope {
            from,
            to,
            term,
            message,
        } = envelope;
        if to != self.id || from == self.id {
            return Err(Ignored::WrongReplica);
        }
        match message {
            Message::PreVote { last } if term >= self.hard.term => return self.on_pre_vote(from, term, last),
            Message::PreVoteReply { granted } => return self.on_pre_vote_reply(from, term, granted),
            _ if term < self.hard.term => return self.refuse_stale(from, &message),
            _ if term > self.hard.term => self.enter_later_term(from, term, &message)?,
            _ => {}
        }
        match message {
            Message::PreVote { .. } | Message::PreVoteReply { .. } => Err(Ignored::StaleReply),
            Message::Vote { last, transfer } => self.on_vote(from, last, transfer),
            Message::VoteReply { granted } => self.on_vote_reply(from, granted),
            Message::Append {
                previous,
                entries,
                commit,
                replicated,
            } => self.on_append(from, previous, entries, (commit, replicated)),
            Message::AppendReply(AppendOutcome::Matched { index }) => self.on_matched(from, index),
            Message::AppendReply(AppendOutcome::Rejected { previous, hint }) => {
                self.on_rejected(from, previous, hint)
            }
            Message::Heartbeat {
                commit,
                replicated,
                round,
            } => self.on_heartbeat(from, round, (commit, replicated)),
            Message::HeartbeatReply {
                round,
                matched,
                pledge,
            } => self.on_heartbeat_reply(from, round, matched, pledge),
            Message::ReadIndex { request } => self.on_read_index(from, request),
            Message::ReadIndexReply { request, index } => self.on_read_index_reply(request, index),
            Message::TimeoutNow => self.on_timeout_now(from),
        }
    }

    /// Somebody is in a later term: so are we now, unless it is a campaign against a leader that we hear.
    /// Only the leader itself may lift that loyalty, and only for the next term.
    fn enter_later_term(&mut self, from: ReplicaId, term: Term, message: &Message) -> Result<(), Ignored> {
        let leader = match message {
            Message::Vote { transfer, .. } => {
                let asked_by_leader = *transfer && term == self.hard.term.next();
                if (self.is_leader_in_contact() || self.is_pledged()) && !asked_by_leader {
                    return Err(Ignored::LeaderInContact);
                }
                None
            }
            Message::Append { .. } | Message::Heartbeat { .. } | Message::TimeoutNow => Some(from),
            _ => None,
        };
        self.become_follower(term, leader);
        Ok(())
    }

    pub(crate) fn advance_clock(&mut self, now: Instant) {
        assert!(
            now >= self.now,
            "time goes back from {} to {} ns",
            self.now.0,
            now.0
        );
        self.now = now;
    }
}

/// Parts that the rooms share.
impl Replica {
    /// A voter may, and so may a replica whose removal is not committed yet: it may be the only one whose log
    /// is long enough to win, and nobody could lead otherwise (openraft #2091). Its own vote does not count
    /// then.
    pub(crate) fn may_campaign(&self) -> bool {
        let committed = self.memberships.at(self.marks.commit);
        if bugs::is_on(Bug::DemotedLeaderRefusesToLead) {
            return self.memberships.effective().voters.contains(&self.id);
        }
        self.memberships.effective().is_voter(self.id) || committed.is_voter(self.id)
    }

    /// Sends in our term, at once.
    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.send_as(self.hard.term, to, message);
    }

    /// Sends at once, speaking of `term`.
    pub(crate) fn send_as(&mut self, term: Term, to: ReplicaId, message: Message) {
        let envelope = Envelope {
            from: self.id,
            to,
            term,
            message,
        };
        self.check_leaving(&envelope);
        self.outbox.messages.push(envelope);
    }

    /// Sends once everything accepted so far is durable.
    pub(crate) fn send_after_write(&mut self, to: ReplicaId, message: Message) {
        self.writes.send_after(Envelope {
            from: self.id,
            to,
            term: self.hard.term,
            message,
        });
    }

    pub(crate) fn is_write_due(&self) -> bool {
        self.writes.is_due(self.hard, self.log.last().index)
    }

    pub(crate) fn commit_to(&mut self, index: Index) {
        let last = self.log.last().index;
        assert!(index <= last, "I3: commit {index} passes the last entry {last}");
        self.marks.commit = self.marks.commit.max(index);
    }
}

/// Parts of `ready`.
impl Replica {
    fn take_committed(&mut self) -> Vec<Entry> {
        let through = self.committed_through();
        if through <= self.marks.handed {
            return Vec::new();
        }
        let entries = self
            .log
            .batch(self.marks.handed.next(), through, COMMITTED_BYTES_MAX);
        self.marks.handed = entries.last().map_or(self.marks.handed, |entry| entry.id.index);
        entries
    }

    fn truncation_point(&self) -> Index {
        let Marks {
            checkpointed,
            replicated,
            released,
            ..
        } = self.marks;
        let needless = replicated.max(released);
        if needless >= checkpointed || self.installing.is_some() {
            return checkpointed;
        }
        match self.options.kept_bytes_max {
            u64::MAX => needless,
            most => needless.max(self.log.keeping(most, checkpointed)),
        }
    }

    /// The log up to here is in the checkpoint and on every member: nobody needs it. Or it is more than is kept for
    /// those who do.
    fn take_truncation(&mut self) -> Option<Index> {
        let point = self.truncation_point();
        if point <= self.log.truncated().index {
            return None;
        }
        self.log.truncate(point);
        self.memberships.truncate(point);
        Some(point)
    }

    /// Bounds the memory of the tail: what is applied may be fetched again. Peers that are reading it get
    /// some grace.
    fn evict(&mut self) {
        let bytes_max = self.options.tail_bytes_max as u64;
        if self.log.bytes_in_memory() <= bytes_max {
            return;
        }
        let limit = self.marks.applied.min(self.writes.durable());
        let needed = match &self.role {
            Role::Leader(leader) => {
                let live = leader
                    .peers
                    .iter()
                    .filter(|peer| matches!(peer.progress, Progress::Replicate(_)));
                live.map(|peer| peer.matched).min().unwrap_or(limit)
            }
            _ => limit,
        };
        self.log.evict(limit.min(needed), bytes_max);
        self.log.evict(limit, bytes_max * TAIL_STRETCH);
    }

    fn reportable(&self) -> (Term, Option<ReplicaId>) {
        match self.leader() {
            Some(leader) => (self.hard.term, Some(leader)),
            // Without a leader the term alone is no news.
            None => (self.reported.0, None),
        }
    }

    fn take_leadership(&mut self) -> Option<LeadershipChange> {
        let reportable = self.reportable();
        if self.reported == reportable {
            return None;
        }
        self.reported = reportable;
        Some(LeadershipChange {
            term: self.hard.term,
            leader: reportable.1,
            is_self: reportable.1 == Some(self.id),
        })
    }
}
