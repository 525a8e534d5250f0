//! The worker: one thread's groups, and the turn they take together. Sans-IO: it is told the time, it is handed what
//! arrived, it calls the three traits and never waits. How the thread sleeps between turns is the host's business.
//!
//! A turn costs what its touched groups cost. A group nobody spoke to, and whose deadline has not come, is not looked
//! at; a thousand silent groups are as cheap as none.
//!
//! **Entry cache.** Each replica keeps the tail of its log in memory (`Options::tail_bytes_max`), so that followers a
//! little behind are served without reading a disk. That tail is this crate's entry cache; there is no second copy.
//! The worker divides [`WorkerOptions::tail_bytes`] among its groups when they are made: an equal share for each, not
//! below [`TAIL_BYTES_PER_GROUP_MIN`], not above the replica's own maximum. A silent group's tail shrinks to what is
//! not yet applied and durable plus its share, so the sum is bounded by the budget, or by the minimum times the groups.
//!
//! **Losing leadership.** A proposal that waits when its leader steps down is not answered at once: the next leader
//! usually commits it within an election. It is `Answered` when its own entry is applied here, refused as `NotLeader`
//! (definitely without effect) when another entry is applied at its index, and `Unknown` when neither happened within
//! [`WorkerOptions::patience`].

use crate::counters::{Counters, Sample, Samples, Stage};
use crate::event::{Control, Event};
use crate::group::{Answers, Group, Moment};
use crate::inbox::Inbox;
use crate::inbox::InboxSender;
use crate::limits::{
    APPEND_BYTES_MAX, DEPUTY_EVENTS_MAX, PAYLOAD_BYTES_MAX, SNAPSHOTS_OUT_MAX, TAIL_BYTES_PER_GROUP_MIN,
    TAIL_BYTES_PER_WORKER, WAITING_BYTES_PER_WORKER_MAX, WAITING_PER_GROUP_MAX, WAITING_PER_WORKER_MAX,
};
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::outbox::Outbox;
use crate::room::Allowance;
use crate::shares::is_fair;
use crate::shipping::Shipping;
use crate::storage::{
    BatchId, Birth, Completion, FetchRequest, GroupWrite, LogBatch, RaftStorage, RestoredGroup,
};
use crate::timers::Timers;
use crate::types::{
    Entry, EntryId, GroupId, HardState, Index, Instant, Life, Membership, NodeId, Outcome, Payload, Refusal,
    ReplicaId, Stamp, Ticket,
};
use crate::wire::GroupMessage;
use bytes::Bytes;
use raft_core::{
    LeadershipChange, LogWrite, MemberChange, Message, Options, ReadPolicy, Ready, Replica, Restored, Status,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The host's clocks. Read after the inbox is drained.
pub trait Clock {
    /// Monotonic; never goes back.
    fn now(&self) -> Instant;
    /// The wall clock, in milliseconds.
    fn stamp(&self) -> Stamp;
}

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// For every replica; `tail_bytes_max` is the most one group may keep.
    pub replica: Options,
    /// Bytes of log tail that all groups keep in memory together.
    pub tail_bytes: usize,
    /// Reads and proposals one group may have waiting; more are refused as `Overloaded`.
    pub waiting_per_group_max: usize,
    /// The same for all groups together.
    pub waiting_max: usize,
    /// Bytes of proposals that may wait, of all groups together; more are refused as `Overloaded`.
    pub waiting_bytes_max: usize,
    /// Largest payload of a proposal, where the log takes less than `PAYLOAD_BYTES_MAX`; larger ones are refused as
    /// `TooLarge`.
    pub payload_bytes_max: usize,
    /// How long proposals wait for their fate after their leader stepped down.
    pub patience: Duration,
    /// Snapshots sent at a time; more wait.
    pub snapshots_max: usize,
    /// Seeds the replicas' election timeouts.
    pub seed: u64,
    /// A deputy (see `host::Host::deputies`) takes a turn only while no more than this many events wait. `usize::MAX`: it
    /// takes every turn it can, and the worker's thread gives back what a deadline brought it; for programs whose own
    /// threads should do all the work, on one thread above all. They must not block: nobody takes their place.
    pub deputy_events_max: usize,
}

impl Default for WorkerOptions {
    fn default() -> WorkerOptions {
        let replica = Options::default();
        WorkerOptions {
            patience: replica.election_timeout_max * 2,
            replica,
            tail_bytes: TAIL_BYTES_PER_WORKER,
            waiting_per_group_max: WAITING_PER_GROUP_MAX,
            waiting_max: WAITING_PER_WORKER_MAX,
            waiting_bytes_max: WAITING_BYTES_PER_WORKER_MAX,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            snapshots_max: SNAPSHOTS_OUT_MAX,
            seed: 0,
            deputy_events_max: DEPUTY_EVENTS_MAX,
        }
    }
}

/// What follows from a turn, beyond what went to network, storage, machine and tickets.
#[derive(Debug, Default)]
pub struct Turn {
    /// When it took place.
    pub now: Instant,
    /// When the next turn is due if nothing arrives before. In the past or present: at once. None: never.
    pub deadline: Option<Instant>,
    /// Who leads now, where that changed; in group order.
    pub leadership: Vec<(GroupId, LeadershipChange)>,
    /// Snapshots that did not get to a peer, and why.
    pub snapshots_failed: Vec<(GroupId, ReplicaId, String)>,
    /// How long things took.
    pub samples: Vec<Sample>,
    /// Frames left at once.
    pub has_sent: bool,
    /// The store was given something to write.
    pub has_submitted: bool,
}

/// One thread's groups.
#[derive(Debug)]
pub struct Worker<S, N, M> {
    options: WorkerOptions,
    storage: S,
    network: N,
    machine: M,
    moment: Moment,
    groups: BTreeMap<GroupId, Box<Group>>,
    timers: Timers,
    /// Groups with work for this turn, or for the next.
    busy: Vec<GroupId>,
    /// Groups the last turn touched.
    touched: Vec<GroupId>,
    dirty: Vec<GroupId>,
    sends: Outbox,
    after_fsync: Outbox,
    batch: LogBatch,
    in_flight: VecDeque<(BatchId, Instant)>,
    committed: Vec<(GroupId, Vec<Entry>)>,
    results: Vec<Bytes>,
    answers: Answers,
    waiting: usize,
    waiting_bytes: usize,
    ids: Ids,
    stopped: bool,
    allowance: Allowance,
    shipping: Shipping,
    /// Who waits for a checkpoint.
    wishes: Vec<Wish>,
    /// Nodes to which frames were lost, as told in this turn.
    unreachable: BTreeSet<NodeId>,
    turn: Turn,
    samples: Samples,
    counters: Counters,
}

/// Numbers this worker gives out.
#[derive(Debug, Default)]
struct Ids {
    batch: u64,
    read: u64,
    life: u64,
}

impl<S: RaftStorage, N: RaftNetwork, M: StateMachine> Worker<S, N, M> {
    /// A worker with what a restart found. Every group has work in the first turn: committed entries to apply again,
    /// and deadlines to arm.
    pub fn new(
        storage: S,
        network: N,
        machine: M,
        restored: Vec<RestoredGroup>,
        options: WorkerOptions,
        now: Instant,
    ) -> Worker<S, N, M> {
        options
            .replica
            .check()
            .expect("the options of replicas were checked");
        let snapshots_max = options.snapshots_max;
        let append_bytes = options.replica.append_bytes_max;
        assert!(
            append_bytes <= APPEND_BYTES_MAX,
            "appends of {append_bytes} bytes may not fit into a frame"
        );
        let mut worker = Worker {
            options,
            storage,
            network,
            machine,
            moment: Moment {
                now,
                ..Moment::default()
            },
            groups: BTreeMap::new(),
            timers: Timers::default(),
            busy: Vec::new(),
            touched: Vec::new(),
            dirty: Vec::new(),
            sends: Outbox::default(),
            after_fsync: Outbox::default(),
            batch: LogBatch::default(),
            in_flight: VecDeque::new(),
            committed: Vec::new(),
            results: Vec::new(),
            answers: Answers::new(),
            waiting: 0,
            waiting_bytes: 0,
            ids: Ids::default(),
            stopped: false,
            allowance: Allowance::default(),
            shipping: Shipping::new(snapshots_max),
            wishes: Vec::new(),
            unreachable: BTreeSet::new(),
            turn: Turn::default(),
            samples: Samples::default(),
            counters: Counters::default(),
        };
        let expected = restored.len();
        for group in restored {
            worker.open(
                group.group,
                group.replica,
                group.restored,
                &group.descriptor,
                expected,
            );
        }
        worker
    }

    /// One turn: everything that has already happened goes in, everything that follows goes out. Never blocks.
    ///
    /// Order matters: completions before messages (an acknowledgement may free a window a message needs), births too
    /// (a message may already wait for the newborn), reads before proposals (a read never waits for the writes of its
    /// own turn), control last. Frames leave and the batch is submitted before anything is applied: the network and
    /// the disk work while the state machine does.
    pub fn turn(&mut self, inbox: &mut Inbox, clock: &impl Clock) -> Turn {
        let drained = inbox.drain();
        self.touched.clear();
        self.begin(clock, drained.oldest_request); // after the drain: a pause between must not make a lease look fresh
        for event in drained.events {
            self.dispatch(event);
        }
        self.expire();
        self.heed_losses();

        self.busy.sort_unstable();
        let room = std::mem::take(&mut self.touched);
        let touched = std::mem::replace(&mut self.busy, room);
        for &group in &touched {
            self.advance(group); // requests in, `ready` out, folded with the other groups'
        }

        self.send(); // one frame per node and lane: may leave now
        self.submit(); // one batch: what must be durable first, with what may leave only then
        self.apply(clock); // committed and durable here
        for &group in &touched {
            self.settle(group); // reads that can be served, deadlines, invariants
        }
        self.answer(clock);
        self.checkpoint();
        self.shipping.start(&mut self.storage, &self.network);
        self.end(touched)
    }

    /// Tells the worker the way into its own inbox: how the end of a snapshot's stream comes back. Without it, no snapshots
    /// are sent.
    pub fn connect(&mut self, back: InboxSender) {
        self.shipping.connect(back);
    }

    /// Snapshots being sent, and waiting to be.
    pub fn snapshots(&self) -> (usize, usize) {
        self.shipping.load()
    }

    /// What the last turns counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A replica at a glance.
    pub fn status(&self, group: GroupId) -> Option<Status> {
        self.groups.get(&group).map(|group| group.replica.status())
    }

    /// The groups that live here, in order.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// The groups the last turn touched, in order.
    pub fn touched(&self) -> &[GroupId] {
        &self.touched
    }

    /// True once a turn has taken `Control::Stop`: everyone is answered, no turn need follow.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Reads and proposals taken and not answered.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of those proposals.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// How it behaves.
    #[cfg(feature = "host")]
    pub(crate) fn options(&self) -> &WorkerOptions {
        &self.options
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Lets the store write on this thread what the last turn submitted; see [`RaftStorage::write_here`].
    pub fn write_here(&mut self) {
        self.storage.write_here();
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    fn begin(&mut self, clock: &impl Clock, oldest_request: Option<Instant>) {
        let now = clock.now();
        assert!(
            now >= self.moment.now,
            "the host's clock went back: {now:?} < {:?}",
            self.moment.now
        );
        self.moment = Moment {
            now,
            wall: clock.stamp(),
            arrived: oldest_request.map_or(now, |oldest| oldest.min(now)),
        };
        self.allowance.begin(now, self.storage.room());
        self.sends.set_short(self.allowance.is_short());
        self.after_fsync.set_short(self.allowance.is_short());
        self.counters.turns += 1;
        if oldest_request.is_some() {
            self.samples.add(Stage::Queue, self.moment.arrived, now, 1);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Storage(Completion::Durable {
                batch,
                writes,
                then_send,
            }) => {
                then_send
                    .into_iter()
                    .for_each(|outgoing| self.network.send(outgoing));
                self.on_durable(batch, writes);
            }
            Event::Storage(Completion::Installed {
                group,
                life,
                is_installed,
                ..
            }) => self.on_installed(group, life, is_installed),
            Event::Storage(Completion::Checkpointed { rows }) => self.on_checkpointed(rows),
            Event::Storage(Completion::Fetched {
                group,
                life,
                peer,
                entries,
            }) => self.on_fetched(group, life, peer, entries),
            Event::Messages { from, messages } => self.on_messages(from, messages),
            Event::Short(node) => {
                let patience = self.options.replica.election_timeout_max;
                self.allowance.on_short(node, self.moment.now, patience);
            }
            Event::Unreachable(node) => {
                self.unreachable.insert(node);
            }
            Event::Snapshot(event) => self.on_snapshot(event),
            Event::Read {
                group,
                query,
                policy,
                ticket,
            } => self.on_read(group, query, policy, ticket),
            Event::Propose {
                group,
                payload,
                ticket,
            } => self.on_propose(group, payload, ticket),
            Event::Control(control) => self.on_control(control),
        }
    }

    fn on_durable(&mut self, batch: BatchId, writes: Vec<(GroupId, Life, raft_core::WriteId)>) {
        let (expected, submitted) = self
            .in_flight
            .pop_front()
            .expect("only submitted batches become durable");
        assert_eq!(batch, expected, "batches become durable in submit order");
        self.samples.add(Stage::Durable, submitted, self.moment.now, 1);
        let now = self.moment.now;
        for (group, life, write) in writes {
            if let Some(found) = self.live(group, life) {
                found.replica.on_durable(now, write);
            }
        }
    }

    fn on_checkpointed(&mut self, rows: Vec<(GroupId, Life, Index)>) {
        for (group, life, index) in rows {
            if let Some(found) = self.live(group, life) {
                found.replica.on_checkpointed(index);
            }
        }
        self.tell_of_checkpoints();
    }

    fn on_fetched(&mut self, group: GroupId, life: Life, peer: ReplicaId, entries: Vec<Entry>) {
        let now = self.moment.now;
        if let Some(found) = self.live(group, life) {
            found.replica.on_fetched(now, peer, entries);
        }
    }

    fn on_messages(&mut self, from: NodeId, messages: Vec<GroupMessage>) {
        let now = self.moment.now;
        for GroupMessage { group, envelope } in messages {
            self.counters.messages_in += 1;
            let Some(found) = self.groups.get_mut(&group) else {
                self.counters.unknown_group += 1;
                continue;
            };
            // A node speaks for the replicas that live on it. Who is not a member (yet) is raft-core's to judge.
            let home = found.replica.membership().nodes.get(&envelope.from);
            if envelope.to != found.id || home.is_some_and(|home| *home != from) {
                self.counters.misaddressed += 1;
                continue;
            }
            if let Message::Append { entries, .. } = &envelope.message {
                let (machine, most) = (&self.machine, self.options.payload_bytes_max);
                if !self
                    .allowance
                    .append(entries, most, |command| machine.growth(command))
                {
                    continue;
                }
            }
            let sender = envelope.from;
            let may_be_strange = home.is_none() || matches!(envelope.message, Message::Append { .. });
            if let Err(ignored) = found.replica.step(now, envelope) {
                *self.counters.ignored.entry(ignored).or_default() += 1;
            }
            // Also one that its own message removed: a leader that leaves waits for our acknowledgement.
            if may_be_strange && !found.replica.membership().nodes.contains_key(&sender) {
                found.on_stranger(sender, from);
            }
            touch(&mut self.busy, group, found);
        }
    }

    fn on_read(&mut self, group: GroupId, query: Bytes, policy: ReadPolicy, ticket: Ticket) {
        match self.admit(group, None) {
            Ok(found) => found.push_read(query, policy, ticket),
            Err(refusal) => ticket.answer(Outcome::Refused(refusal)),
        }
    }

    fn on_propose(&mut self, group: GroupId, payload: Bytes, ticket: Ticket) {
        if payload.len() > PAYLOAD_BYTES_MAX.min(self.options.payload_bytes_max) {
            self.allowance.refusals.too_large += 1;
            return ticket.answer(Outcome::Refused(Refusal::TooLarge));
        }
        let growth = self.machine.growth(&payload);
        match self.admit(group, Some((payload.len(), growth))) {
            Ok(found) => found.push_proposal(payload, ticket),
            Err(refusal) => ticket.answer(Outcome::Refused(refusal)),
        }
    }

    /// The group a request is for, unless it must be refused.
    fn admit(&mut self, group: GroupId, write: Option<(usize, u64)>) -> Result<&mut Group, Refusal> {
        if self.stopped {
            return Err(Refusal::Stopping);
        }
        let found = self.groups.get_mut(&group).ok_or(Refusal::NoSuchGroup)?;
        let bytes_max = self.options.waiting_bytes_max;
        let full = self.waiting >= self.options.waiting_max
            || found.waiting() >= self.options.waiting_per_group_max
            || !is_fair(found.waiting(), self.waiting, self.options.waiting_max)
            || write.is_some_and(|(bytes, _)| {
                self.waiting_bytes + bytes > bytes_max
                    || !is_fair(found.bytes(), self.waiting_bytes, bytes_max)
            });
        if full {
            self.counters.overloaded += 1;
            self.allowance.refusals.waiting += 1;
            return Err(Refusal::Overloaded);
        }
        if let Some((bytes, growth)) = write {
            let admitted = self.allowance.propose(found.replica.membership(), bytes, growth);
            self.counters.overloaded += u64::from(admitted == Err(Refusal::Overloaded));
            admitted?;
            self.waiting_bytes += bytes;
        }
        self.waiting += 1;
        touch(&mut self.busy, group, found);
        Ok(found)
    }

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Create(birth) => self.create(birth),
            Control::Campaign(group) => {
                let now = self.moment.now;
                if let Some(found) = self.groups.get_mut(&group) {
                    found.replica.campaign(now);
                    touch(&mut self.busy, group, found);
                }
            }
            Control::Transfer {
                group,
                target,
                ticket,
            } => ticket.answer(self.transfer(group, target)),
            Control::Change {
                group,
                changes,
                ticket,
            } => self.change(group, &changes, ticket),
            Control::Delay { group, delay } => {
                if let Some(found) = self.groups.get_mut(&group) {
                    found.replica.set_campaign_delay(delay);
                }
            }
            Control::Checkpoint { group, ticket } => self.want_checkpoint(group, ticket),
            Control::Truncate { group, index } => {
                if let Some(found) = self.groups.get_mut(&group) {
                    found.replica.truncate(index);
                    touch(&mut self.busy, group, found);
                }
            }
            Control::Stop => self.stop(),
        }
    }

    /// A replica begins to exist: its birth is in this turn's batch, before anything of its own.
    fn create(&mut self, birth: Birth) {
        assert!(
            !self.groups.contains_key(&birth.group),
            "{} is born twice",
            birth.group
        );
        let restored = Restored {
            hard_state: HardState {
                term: birth.base.term,
                vote: None,
            },
            truncated: birth.base,
            membership: birth.membership.clone(),
            entries: Vec::new(),
            commit: birth.base.index,
            applied: birth.base.index,
            checkpointed: birth.base.index,
        };
        self.open(birth.group, birth.replica, restored, &birth.descriptor, 0);
        let born = self.groups.get_mut(&birth.group).expect("it was just opened");
        born.replica.never_ran();
        self.batch.births.push(birth);
    }

    fn transfer(&mut self, group: GroupId, target: ReplicaId) -> Outcome {
        let now = self.moment.now;
        let Some(found) = self.groups.get_mut(&group) else {
            return Outcome::Refused(Refusal::NoSuchGroup);
        };
        touch(&mut self.busy, group, found);
        match found.replica.transfer_leadership(now, target) {
            Ok(()) => Outcome::Answered(Bytes::new()),
            Err(refused) => Outcome::Refused(found.refusal(refused)),
        }
    }

    fn change(&mut self, group: GroupId, changes: &[MemberChange], ticket: Ticket) {
        if self.stopped {
            return ticket.answer(Outcome::Refused(Refusal::Stopping));
        }
        let now = self.moment.now;
        let Some(found) = self.groups.get_mut(&group) else {
            return ticket.answer(Outcome::Refused(Refusal::NoSuchGroup));
        };
        touch(&mut self.busy, group, found);
        if found.change(now, changes, ticket, &mut self.answers) {
            self.waiting += 1;
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.tell_of_checkpoints();
        for (id, group) in &mut self.groups {
            group.dismiss(&mut self.answers);
            touch(&mut self.busy, *id, group);
        }
    }

    /// Starts a replica; `expected` groups will share the tail budget.
    fn open(
        &mut self,
        id: GroupId,
        replica: ReplicaId,
        restored: Restored,
        descriptor: &Bytes,
        expected: usize,
    ) {
        let applied = entry_id_at(&restored, restored.applied);
        let membership = membership_at(&restored, applied.index);
        self.machine.open(id, descriptor, applied);
        let mut options = self.options.replica.clone();
        let share = self.options.tail_bytes / expected.max(self.groups.len() + 1);
        options.tail_bytes_max = share.max(TAIL_BYTES_PER_GROUP_MIN).min(options.tail_bytes_max);
        let seed = seed_of(self.options.seed, id, replica);
        let core = Replica::new(replica, restored, options, seed, self.moment.now);
        self.ids.life += 1;
        let mut group = Box::new(Group::new(
            core,
            replica,
            Life(self.ids.life),
            applied,
            membership,
        ));
        touch(&mut self.busy, id, &mut group);
        self.dirty.push(id);
        let before = self.groups.insert(id, group);
        assert!(before.is_none(), "{id} was restored twice");
    }

    /// The group a completion is for: not there, or another life, means that the replica is gone.
    fn live(&mut self, group: GroupId, life: Life) -> Option<&mut Group> {
        match self.groups.get_mut(&group) {
            Some(found) if found.life == life => {
                touch(&mut self.busy, group, found);
                Some(found)
            }
            _ => {
                self.counters.stale_completions += 1;
                None
            }
        }
    }

    /// Wakes the groups whose deadline has come.
    fn expire(&mut self) {
        let now = self.moment.now;
        while let Some((due, id)) = self.timers.pop(now) {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            if group.armed != Some(due) {
                continue; // void: an earlier one took its place
            }
            group.armed = None;
            touch(&mut self.busy, id, group);
            if group.replica.deadline().is_some_and(|due| due <= now) {
                group.replica.tick(now);
            }
            group.give_up(now, &mut self.answers);
        }
    }

    /// Hands the group its requests of this turn and folds what it asks for with what the others ask for.
    fn advance(&mut self, id: GroupId) {
        let moment = self.moment;
        let group = self.groups.get_mut(&id).expect("touched groups exist");
        group.ask(&moment, &mut self.ids.read, &mut self.answers);
        let stamp = moment.wall.max(self.machine.clock(id));
        self.counters.proposed += group.propose(&moment, stamp, &mut self.answers);
        let ready = group.replica.ready();
        if let Some(change) = ready.leadership {
            group.on_leadership(&change, moment.now, self.options.patience, &mut self.answers);
            self.counters.elected += u64::from(change.is_self);
            self.turn.leadership.push((id, change));
        }
        for grant in &ready.reads {
            group.on_granted(*grant, stamp, moment.now + self.options.patience);
        }
        for (read, refused) in &ready.reads_refused {
            group.on_read_refused(*read, *refused, &mut self.answers);
        }
        self.fold(id, ready);
    }

    fn fold(&mut self, id: GroupId, ready: Ready) {
        if let Some(snapshot) = ready.write.as_ref().and_then(|write| write.install.as_ref()) {
            self.install(id, snapshot);
        }
        let group = self.groups.get_mut(&id).expect("touched groups exist");
        let node_of = |replica| group.node_of(replica);
        self.counters.messages_out += ready.messages.len() as u64;
        self.counters.unroutable += self.sends.fold(id, &ready.messages, node_of);
        if let Some(write) = ready.write {
            self.counters.messages_out += write.then_send.len() as u64;
            self.counters.unroutable += self.after_fsync.fold(id, &write.then_send, node_of);
            self.counters.entries += write.entries.len() as u64;
            self.batch.writes.push(group_write(id, group, write));
            mark_dirty(&mut self.dirty, id, group);
        }
        if !ready.committed.is_empty() {
            self.committed.push((id, ready.committed));
        }
        if let Some(index) = ready.truncate {
            self.storage.truncate(id, index);
        }
        for fetch in ready.fetch {
            self.storage.fetch(FetchRequest {
                group: id,
                life: group.life,
                peer: fetch.peer,
                range: fetch.range,
                bytes_max: fetch.bytes_max,
            });
        }
        if !ready.snapshots.is_empty() || !ready.snapshots_cancelled.is_empty() {
            self.ship(id, ready.snapshots, ready.snapshots_cancelled);
        }
    }

    fn send(&mut self) {
        for outgoing in self.sends.take_frames() {
            self.turn.has_sent = true;
            self.network.send(outgoing);
        }
    }

    fn submit(&mut self) {
        self.batch.then_send = self.after_fsync.take_frames();
        if self.batch.is_empty() {
            assert!(
                self.batch.then_send.is_empty(),
                "what waits for an fsync comes with a write"
            );
            return;
        }
        self.ids.batch += 1;
        self.batch.id = BatchId(self.ids.batch);
        self.in_flight.push_back((self.batch.id, self.moment.now));
        self.counters.batches += 1;
        self.turn.has_submitted = true;
        self.storage.submit(std::mem::take(&mut self.batch));
    }

    fn apply(&mut self, clock: &impl Clock) {
        if self.committed.is_empty() {
            return;
        }
        let from = clock.now();
        let mut committed = std::mem::take(&mut self.committed);
        for (id, entries) in committed.drain(..) {
            self.results.clear();
            self.machine.apply(id, &entries, &mut self.results);
            let group = self.groups.get_mut(&id).expect("touched groups exist");
            group.on_applied(
                &entries,
                &mut self.results,
                &mut self.answers,
                &mut self.samples,
                self.moment.now,
            );
            mark_dirty(&mut self.dirty, id, group);
            self.counters.applied += entries.len() as u64;
        }
        self.committed = committed; // keeps its room
        self.samples.add(Stage::Apply, from, clock.now(), 1);
    }

    fn settle(&mut self, id: GroupId) {
        let group = self.groups.get_mut(&id).expect("touched groups exist");
        group.touched = false;
        self.waiting_bytes -= group.released_bytes();
        self.counters.reads += group.serve(id, &mut self.machine, self.moment.now, &mut self.answers);
        if group.replica.has_ready() {
            touch(&mut self.busy, id, group); // a turn of its own, at once: outputs leave in the order of the turn
        }
        let due = group.deadline();
        self.timers.arm(id, &mut group.armed, due);
        group.check(id);
    }

    fn answer(&mut self, clock: &impl Clock) {
        if self.samples.has_answers() {
            self.samples.close_answers(clock.now());
        }
        assert!(self.answers.len() <= self.waiting, "more answers than requests");
        self.waiting -= self.answers.len();
        for (ticket, outcome) in self.answers.drain(..) {
            match outcome {
                Outcome::Unknown => self.counters.unknown += 1,
                Outcome::Refused(Refusal::Overloaded) => self.counters.overloaded += 1,
                _ => {}
            }
            ticket.answer(outcome);
        }
    }

    /// This worker's part of a checkpoint: the turn is over, so what the machine froze is what the rows say.
    fn checkpoint(&mut self) {
        let Some(cut) = self.storage.cut_wanted() else {
            return;
        };
        self.machine.freeze(cut);
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        let rows = dirty.iter().filter_map(|id| {
            let group = self.groups.get_mut(id)?;
            group.dirty = false;
            Some(group.row(*id, self.machine.descriptor(*id)))
        });
        let rows = rows.collect();
        self.storage.freeze(cut, rows);
    }

    fn end(&mut self, touched: Vec<GroupId>) -> Turn {
        self.counters.refusals = self.allowance.refusals;
        self.counters.touched += touched.len() as u64;
        self.touched = touched;
        let mut turn = std::mem::take(&mut self.turn);
        turn.now = self.moment.now;
        turn.samples = self.samples.take();
        turn.deadline = match self.busy.is_empty() {
            true => self.timers.next(),
            false => Some(self.moment.now),
        };
        turn
    }
}

/// Notes that the group has work, once.
fn touch(busy: &mut Vec<GroupId>, id: GroupId, group: &mut Group) {
    if !group.touched {
        group.touched = true;
        busy.push(id);
    }
}

/// Notes that the next checkpoint needs a row of the group, once.
fn mark_dirty(dirty: &mut Vec<GroupId>, id: GroupId, group: &mut Group) {
    if !group.dirty {
        group.dirty = true;
        dirty.push(id);
    }
}

fn group_write(id: GroupId, group: &Group, write: LogWrite) -> GroupWrite {
    GroupWrite {
        group: id,
        replica: group.id,
        life: group.life,
        write: write.id,
        hard_state: write.hard_state,
        entries: write.entries,
        commit: write.commit,
    }
}

fn entry_id_at(restored: &Restored, index: Index) -> EntryId {
    if index == restored.truncated.index {
        return restored.truncated;
    }
    let found = restored.entries.iter().find(|entry| entry.id.index == index);
    found.expect("what is applied is in the log or just below it").id
}

fn membership_at(restored: &Restored, index: Index) -> Membership {
    let upto = restored
        .entries
        .iter()
        .rev()
        .skip_while(|entry| entry.id.index > index);
    let mut memberships = upto.filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(&**membership),
        _ => None,
    });
    memberships.next().unwrap_or(&restored.membership).clone()
}

/// Replicas of one group must not draw the same timeouts, nor the groups of one node.
fn seed_of(seed: u64, group: GroupId, replica: ReplicaId) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = [group.0, replica.0].iter().fold(seed, |sum, id| {
        let sum = (sum ^ id).wrapping_mul(ODD);
        sum ^ (sum >> 29)
    });
    mixed ^ (mixed >> 32)
}

mod checkpoints;
mod snapshots;
#[cfg(test)]
mod tests;

use checkpoints::Wish;
pub(crate) use snapshots::Installing;
