//! Replicas, their disks, and the links between them. Every public call is one event: it is followed by
//! `ready`, its outputs are carried out and told to the transcript, and the global rules are checked.

use super::checker::Checker;
use super::host::{Arriving, Disk, Host};
use crate::{
    EntryId, Envelope, Ignored, Index, Instant, LogFetch, MemberChange, Membership, NodeId, Options, OrderId,
    Ready, Refused, Replica, ReplicaId, Snapshot, SnapshotOrder, SnapshotOutcome, Stamp, Term,
};
use crate::{ReadId, ReadPolicy, RoleKind};
use bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::time::Duration;

/// A link's two ends: from, to.
pub type Link = (ReplicaId, ReplicaId);

/// A group under test.
#[derive(Debug)]
pub struct Cluster {
    /// The replicas, up or down.
    pub hosts: BTreeMap<ReplicaId, Host>,
    /// Messages on their way, oldest first.
    pub links: BTreeMap<Link, VecDeque<Envelope>>,
    /// Links that lose everything.
    pub cut: BTreeSet<Link>,
    /// Cold entries asked for and not yet answered.
    pub fetches: Vec<(ReplicaId, LogFetch)>,
    /// Snapshots ordered, and not yet there.
    pub parcels: Vec<Parcel>,
    /// The true time.
    pub now: Instant,
    /// How fast a replica's clock runs, in percent of the true one; 100 if it is not named.
    pub rates: BTreeMap<ReplicaId, u64>,
    /// Replicas whose process stands still: they get nothing, and their clock goes on.
    pub paused: BTreeSet<ReplicaId>,
    /// Committed entries are applied as soon as they are handed out.
    pub apply_at_once: bool,
    /// Replicas whose outputs wait: several inputs then share one `ready`.
    pub held: BTreeSet<ReplicaId>,
    /// The rules over all replicas.
    pub checker: Checker,
    options: Options,
    seed: u64,
    transcript: Option<Vec<String>>,
}

/// An ordered snapshot.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Who sends it.
    pub from: ReplicaId,
    /// The order.
    pub order: SnapshotOrder,
    /// What was read for it, once it was.
    pub snapshot: Option<Snapshot>,
}

impl Cluster {
    /// A group born with `membership`, on empty disks. All replicas are up.
    pub fn new(membership: Membership, options: Options, seed: u64) -> Cluster {
        options.check().expect("the options of a test are sound");
        let mut cluster = Cluster {
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            fetches: Vec::new(),
            parcels: Vec::new(),
            now: Instant(0),
            rates: BTreeMap::new(),
            paused: BTreeSet::new(),
            apply_at_once: true,
            held: BTreeSet::new(),
            checker: Checker::default(),
            options,
            seed,
            transcript: None,
        };
        cluster.checker.on_founded(&membership);
        for id in membership.replicas() {
            let disk = Disk {
                membership: membership.clone(),
                ..Disk::default()
            };
            cluster.hosts.insert(id, Host::new(id, disk));
            cluster.restart(id);
        }
        cluster
    }

    /// A simple membership: voters `1..=voters`, then learners, each on the node of its number.
    pub fn membership(voters: u64, learners: u64) -> Membership {
        let at_home = |id| (ReplicaId(id), NodeId(id));
        let mut membership = Membership::of_voters((1..=voters).map(at_home));
        for id in voters + 1..=voters + learners {
            membership.learners.insert(ReplicaId(id));
            membership.nodes.insert(ReplicaId(id), NodeId(id));
        }
        membership
    }

    /// Starts to keep a transcript.
    pub fn record(&mut self) {
        self.transcript = Some(Vec::new());
    }

    /// What happened since the last call.
    pub fn take_transcript(&mut self) -> Vec<String> {
        self.transcript.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Adds a line to the transcript.
    pub fn tell(&mut self, line: impl Display) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(line.to_string());
        }
    }

    /// A replica that is up.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.hosts.get(&id)?.replica.as_ref()
    }

    /// The replicas that are up.
    pub fn up(&self) -> Vec<ReplicaId> {
        let up = self.hosts.values().filter(|host| host.replica.is_some());
        up.map(|host| host.id).collect()
    }
}

/// Inputs.
impl Cluster {
    /// Campaigns at once.
    pub fn campaign(&mut self, id: ReplicaId) {
        self.input(id, |replica, now| replica.campaign(now));
    }

    /// Proposes one command per payload.
    pub fn propose(&mut self, id: ReplicaId, payloads: Vec<Bytes>) {
        let wanted = payloads.len() as u64;
        let result = self.input(id, |replica, now| replica.propose(now, Stamp(0), payloads));
        if let Some(Ok(range)) = &result {
            let left = wanted - (range.end().0 + 1 - range.start().0);
            if left > 0 {
                self.tell(format_args!(
                    "{id} refuses the last {left}: {}",
                    Refused::Overloaded
                ));
            }
        }
        self.tell_refusal(id, "proposal", result.and_then(Result::err));
    }

    /// Proposes a bare stamp.
    pub fn propose_stamp(&mut self, id: ReplicaId, stamp: Stamp) {
        let result = self.input(id, |replica, now| replica.propose_stamp(now, stamp));
        self.tell_refusal(id, "stamp", result.and_then(Result::err));
    }

    /// Proposes a change of the membership. Replicas that it adds are there, on empty disks.
    pub fn change(&mut self, id: ReplicaId, changes: &[MemberChange]) {
        for change in changes {
            if let MemberChange::Add(member, _) = change {
                self.make_room_for(*member);
            }
        }
        let result = self.input(id, |replica, now| replica.propose_change(now, changes));
        self.tell_refusal(id, "change", result.and_then(Result::err));
    }

    fn make_room_for(&mut self, member: ReplicaId) {
        if let Entry::Vacant(place) = self.hosts.entry(member) {
            place.insert(Host::new(member, Disk::default()));
            self.restart(member);
        }
    }

    /// Appends a membership at a leader, without the checks that belong to changing one.
    pub fn force_membership(&mut self, id: ReplicaId, membership: Membership) {
        membership
            .replicas()
            .for_each(|member| self.make_room_for(member));
        self.checker.on_forced();
        let payload = crate::Payload::Membership(Box::new(membership));
        let result = self.input(id, |replica, now| {
            replica.advance_clock(now);
            replica.append_proposals(std::iter::once(payload))
        });
        self.tell_refusal(id, "change", result.and_then(Result::err));
    }

    /// Asks for a read.
    pub fn read(&mut self, id: ReplicaId, read: ReadId, policy: ReadPolicy) {
        let rate = self.rate(id);
        let age = match policy {
            ReadPolicy::Within(bound) => Duration::from_nanos(bound.as_nanos() as u64 * 100 / rate),
            ReadPolicy::Confirmed | ReadPolicy::Lease | ReadPolicy::Here => Duration::ZERO,
        };
        self.checker.on_read(read, self.now, age);
        let result = self.input(id, |replica, now| replica.read_as(now, read, policy));
        self.tell_refusal(id, "read", result.and_then(Result::err));
    }

    /// Makes a replica wait longer before it campaigns.
    pub fn delay(&mut self, id: ReplicaId, delay: Duration) {
        self.input(id, |replica, _| replica.set_campaign_delay(delay));
    }

    /// Carries out the outputs of a replica that was held.
    pub fn release(&mut self, id: ReplicaId) {
        self.held.remove(&id);
        self.settle(id);
    }

    /// Asks to hand leadership over.
    pub fn transfer(&mut self, id: ReplicaId, target: ReplicaId) {
        let result = self.input(id, |replica, now| replica.transfer_leadership(now, target));
        self.tell_refusal(id, "transfer", result.and_then(Result::err));
    }

    /// Lets the time come that a replica waits for.
    pub fn tick(&mut self, id: ReplicaId) {
        let Some(deadline) = self.replica(id).and_then(Replica::deadline) else {
            self.tell(format_args!("{id} waits for nothing"));
            return;
        };
        self.now = self.now.max(self.true_time(id, deadline));
        self.input(id, Replica::tick);
    }

    /// The time that the next replica waits for.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines().map(|(deadline, _)| deadline).min()
    }

    /// What each running replica waits for, in true time.
    fn deadlines(&self) -> impl Iterator<Item = (Instant, ReplicaId)> + '_ {
        let running = self.hosts.values().filter(|host| !self.paused.contains(&host.id));
        running.filter_map(|host| {
            let deadline = host.replica.as_ref()?.deadline()?;
            Some((self.true_time(host.id, deadline), host.id))
        })
    }

    fn rate(&self, id: ReplicaId) -> u64 {
        self.rates.get(&id).copied().unwrap_or(100)
    }

    /// What a replica's clock says now.
    fn local_time(&self, id: ReplicaId) -> Instant {
        Instant(self.now.0 * self.rate(id) / 100)
    }

    /// When a replica's clock says `local`.
    fn true_time(&self, id: ReplicaId, local: Instant) -> Instant {
        Instant((local.0 * 100).div_ceil(self.rate(id)))
    }

    /// Lets time pass; whoever waits for something gets it when it is due.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            match self.deadlines().min() {
                Some((deadline, id)) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.input(id, Replica::tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Hands the message at `position` of a link to its receiver.
    pub fn deliver(&mut self, link: Link, position: usize) {
        let Some(envelope) = self.links.get_mut(&link).and_then(|queue| queue.remove(position)) else {
            return;
        };
        let text = self.transcript.is_some().then(|| envelope.to_string());
        let to = envelope.to;
        if self.paused.contains(&to) {
            let queue = self.links.get_mut(&link).expect("it was just there");
            queue.insert(position.min(queue.len()), envelope);
            return;
        }
        if let Some(Err(ignored)) = self.input(to, |replica, now| replica.step(now, envelope)) {
            self.tell(format_args!(
                "{to} ignores {}: {ignored}",
                text.unwrap_or_default()
            ));
        }
    }

    /// Makes the oldest write of a replica durable; its messages leave, and the replica is told.
    pub fn sync(&mut self, id: ReplicaId) {
        self.persist(id);
        self.report(id);
    }

    /// As `sync`, but the replica is not told yet: what its messages bring back may be there before.
    pub fn persist(&mut self, id: ReplicaId) {
        let host = self.host(id);
        let Some(write) = host.unsynced.pop_front() else {
            return;
        };
        host.disk.write(&write);
        if let Some(snapshot) = &write.install {
            // The state is the snapshot now; what was handed out before is in it.
            host.unapplied.clear();
            host.applied = snapshot.id.index;
        }
        self.tell(format_args!("{id} durable {}", write.id));
        for envelope in write.then_send {
            self.leave(id, envelope);
        }
        self.host(id).unreported = Some(write.id);
        if let Some(snapshot) = write.install {
            self.report(id);
            self.answer_parcel(id, SnapshotOutcome::Taken(snapshot.id.index));
        }
    }

    /// Tells a replica of everything that is durable.
    pub fn report(&mut self, id: ReplicaId) {
        if let Some(write) = self.host(id).unreported.take() {
            self.input(id, |replica, now| replica.on_durable(now, write));
        }
    }

    /// Applies up to `count` of the entries handed out.
    pub fn apply(&mut self, id: ReplicaId, count: usize) {
        let host = &self.hosts[&id];
        let count = count.min(host.unapplied.len());
        let Some(last) = host
            .unapplied
            .iter()
            .take(count)
            .last()
            .map(|entry| entry.id.index)
        else {
            return;
        };
        for entry in host.unapplied.iter().take(count) {
            self.checker.on_applied(host, entry);
        }
        let host = self.host(id);
        host.unapplied.drain(..count);
        host.applied = last;
        self.input(id, |replica, _| replica.on_applied(last));
    }

    /// Makes the applied state durable.
    pub fn checkpoint(&mut self, id: ReplicaId) {
        let host = self.host(id);
        let applied = host.applied;
        host.disk.checkpointed = applied;
        self.tell(format_args!("{id} checkpoint {applied}"));
        self.input(id, |replica, _| replica.on_checkpointed(applied));
    }

    /// Answers the oldest fetch of a replica with at most `count` entries.
    pub fn fetched(&mut self, id: ReplicaId, count: usize) {
        let Some(position) = self.fetches.iter().position(|(from, _)| *from == id) else {
            return;
        };
        let (_, fetch) = self.fetches.remove(position);
        let disk = &self.hosts[&id].disk;
        let range = fetch.range.start().0..=fetch.range.end().0;
        let entries = range.map_while(|index| disk.entry(Index(index)).cloned());
        let mut bytes = 0;
        let entries: Vec<_> = entries
            .take(count)
            .take_while(|entry| {
                let fits = bytes == 0 || bytes + entry.cost() <= fetch.bytes_max;
                bytes += entry.cost();
                fits
            })
            .collect();
        self.input(id, |replica, now| replica.on_fetched(now, fetch.peer, entries));
    }
}

/// Snapshots on their way.
impl Cluster {
    /// Reads, off the sender's disk, the oldest snapshot ordered for `to` that was not read yet.
    pub fn read_snapshot(&mut self, from: ReplicaId, to: ReplicaId) {
        let snapshot = self.hosts[&from].disk.snapshot();
        let mut parcels = self.parcels.iter_mut();
        let unread = parcels
            .find(|parcel| (parcel.from, parcel.order.peer) == (from, to) && parcel.snapshot.is_none());
        if let Some(parcel) = unread {
            assert!(
                snapshot.id.index >= parcel.order.at_least,
                "{from} truncated its log beyond its state"
            );
            parcel.snapshot = Some(snapshot);
        }
    }

    /// Hands the oldest snapshot that was read for `to` over.
    pub fn arrive(&mut self, from: ReplicaId, to: ReplicaId) {
        let read =
            |parcel: &Parcel| (parcel.from, parcel.order.peer) == (from, to) && parcel.snapshot.is_some();
        let Some(position) = self.parcels.iter().position(read) else {
            return;
        };
        let parcel = self.parcels.remove(position);
        let snapshot = parcel.snapshot.clone().expect("it was read");
        let order = parcel.order.id;
        if self.cut.contains(&(from, to)) {
            return self.tell_sender(from, to, order, SnapshotOutcome::Failed);
        }
        // A duplicate has no order any more.
        let start = self.hosts[&from].starts;
        let arriving = Arriving { from, start, order };
        self.tell(format_args!("{from}->{to} snapshot {snapshot}"));
        match self.install(to, from, parcel.order.term, snapshot, arriving) {
            Some(Ok(())) => {}
            Some(Err(Ignored::KnownSnapshot)) => {
                let commit = self.replica(to).map_or(Index(0), |replica| replica.marks.commit);
                self.tell_sender(from, to, order, SnapshotOutcome::Taken(commit));
            }
            _ => self.tell_sender(from, to, order, SnapshotOutcome::Failed),
        }
    }

    fn install(
        &mut self,
        id: ReplicaId,
        from: ReplicaId,
        term: Term,
        snapshot: Snapshot,
        arriving: Arriving,
    ) -> Option<Result<(), Ignored>> {
        self.replica(id)?;
        self.checker.on_installed(id, snapshot.id);
        let before = self.host(id).arriving.replace(arriving);
        let result = self.input(id, |replica, now| replica.install(now, from, term, snapshot));
        if let Some(Err(ignored)) = result {
            self.host(id).arriving = before;
            self.tell(format_args!("{id} ignores the snapshot: {ignored}"));
        }
        result
    }

    /// Offers a snapshot of the sender's, in its term, before its bytes would travel.
    pub fn offer(&mut self, from: ReplicaId, to: ReplicaId, snapshot: EntryId) {
        let term = self.hosts[&from].disk.hard_state.term;
        let result = self.input(to, |replica, now| replica.offer(now, from, term, snapshot));
        match result {
            Some(Err(ignored)) => self.tell(format_args!("{to} wants no snapshot {snapshot}: {ignored}")),
            _ => self.tell(format_args!("{to} wants snapshot {snapshot}")),
        }
    }

    /// Loses the oldest snapshot ordered for `to`; its sender is told.
    pub fn lose_snapshot(&mut self, from: ReplicaId, to: ReplicaId) {
        let fits = |parcel: &Parcel| (parcel.from, parcel.order.peer) == (from, to);
        if let Some(position) = self.parcels.iter().position(fits) {
            let parcel = self.parcels.remove(position);
            self.tell(format_args!("lost snapshot {from}->{to}"));
            self.tell_sender(from, to, parcel.order.id, SnapshotOutcome::Failed);
        }
    }

    fn tell_sender(&mut self, from: ReplicaId, to: ReplicaId, order: OrderId, outcome: SnapshotOutcome) {
        self.input(from, |replica, now| {
            replica.on_snapshot_sent(now, to, order, outcome);
        });
    }

    /// The snapshot that a replica was installing is there, or will never be.
    fn answer_parcel(&mut self, id: ReplicaId, outcome: SnapshotOutcome) {
        let Some(arriving) = self.host(id).arriving.take() else {
            return;
        };
        if self.hosts[&arriving.from].starts == arriving.start {
            self.tell_sender(arriving.from, id, arriving.order, outcome);
        }
    }
}

/// Faults.
impl Cluster {
    /// Stops a replica; what was not synced is lost.
    pub fn crash(&mut self, id: ReplicaId) {
        self.host(id).crash();
        self.held.remove(&id);
        self.paused.remove(&id);
        self.fetches.retain(|(from, _)| *from != id);
        self.parcels.retain(|parcel| parcel.from != id);
        self.answer_parcel(id, SnapshotOutcome::Failed);
    }

    /// What a replica sent to `peer` was lost, and it hears of it.
    pub fn unreachable(&mut self, id: ReplicaId, peer: ReplicaId) {
        self.input(id, |replica, now| replica.unreachable(now, peer));
    }

    /// Makes a replica let go of its log.
    pub fn truncate(&mut self, id: ReplicaId, index: Index) {
        self.input(id, |replica, _| replica.truncate(index));
    }

    /// Starts a replica from its disk.
    pub fn restart(&mut self, id: ReplicaId) {
        self.answer_parcel(id, SnapshotOutcome::Failed);
        let (options, seed, now) = (self.options.clone(), self.seed, self.local_time(id));
        let host = self.host(id);
        host.crash();
        host.restart(options, seed, now);
        self.settle(id);
    }

    /// Replaces a replica's disk and starts it from there.
    pub fn restore(&mut self, id: ReplicaId, disk: Disk) {
        self.checker.on_restored(&disk);
        let mut previous = disk.truncated;
        for entry in &disk.entries {
            self.checker.on_written(previous, entry);
            previous = entry.id;
        }
        self.host(id).disk = disk;
        self.restart(id);
    }

    /// Loses the message at `position` of a link.
    pub fn lose(&mut self, link: Link, position: usize) {
        if let Some(envelope) = self.links.get_mut(&link).and_then(|queue| queue.remove(position)) {
            self.tell(format_args!("lost {envelope}"));
        }
    }

    /// Puts a copy of the message at `position` at the end of its link.
    pub fn duplicate(&mut self, link: Link, position: usize) {
        if let Some(queue) = self.links.get_mut(&link)
            && let Some(envelope) = queue.get(position).cloned()
        {
            queue.push_back(envelope);
        }
    }
}

/// Carrying out outputs.
impl Cluster {
    fn host(&mut self, id: ReplicaId) -> &mut Host {
        self.hosts.get_mut(&id).expect("the replica exists")
    }

    /// Gives an input to a replica if it is up, then carries out what it says.
    fn input<T>(&mut self, id: ReplicaId, input: impl FnOnce(&mut Replica, Instant) -> T) -> Option<T> {
        let now = self.local_time(id);
        self.checker.on_time(self.now);
        let replica = self.hosts.get_mut(&id)?.replica.as_mut()?;
        let before = State::of(replica);
        let result = input(replica, now);
        let after = State::of(replica);
        if before != after {
            let text = after.since(before, id);
            self.tell(text);
        }
        self.settle(id);
        Some(result)
    }

    fn settle(&mut self, id: ReplicaId) {
        self.checker.check(&self.hosts, id);
        if self.held.contains(&id) {
            return;
        }
        while let Some(replica) = self
            .host(id)
            .replica
            .as_mut()
            .filter(|replica| replica.has_ready())
        {
            let ready = replica.ready();
            assert!(!ready.is_empty(), "{id} has outputs, and then has none");
            self.carry_out(id, ready);
        }
        self.check_nothing_left(id);
        let host = &self.hosts[&id];
        let leader = host.replica.as_ref().and_then(Replica::leader);
        assert_eq!(host.leader, leader, "{id} did not report who leads");
    }

    /// `has_ready` forgets nothing. A copy is asked, so only scripts can afford it.
    fn check_nothing_left(&self, id: ReplicaId) {
        if self.transcript.is_some() {
            let left = self.replica(id).map(|replica| replica.clone().ready());
            assert!(
                left.is_none_or(|left| left.is_empty()),
                "{id} has outputs and says it has none"
            );
        }
    }

    fn carry_out(&mut self, id: ReplicaId, ready: Ready) {
        if let Some(change) = ready.leadership {
            self.host(id).leader = change.leader;
        }
        for envelope in ready.messages {
            self.leave(id, envelope);
        }
        if let Some(write) = ready.write {
            self.tell(format_args!("{id} {write}"));
            self.check_written(id, &write.entries);
            self.host(id).unsynced.push_back(write);
        }
        if let (Some(first), Some(last)) = (ready.committed.first(), ready.committed.last()) {
            self.tell(format_args!("{id} commits {}..={}", first.id, last.id));
            self.host(id).unapplied.extend(ready.committed);
        }
        for grant in ready.reads {
            self.tell(format_args!("{id} {grant}"));
            self.checker.on_grant(grant);
        }
        for (read, refused) in ready.reads_refused {
            self.tell(format_args!("{id} read {} refused: {refused}", read.0));
        }
        for fetch in ready.fetch {
            self.tell(format_args!("{id} {fetch}"));
            self.fetches.push((id, fetch));
        }
        for order in ready.snapshots_cancelled {
            self.tell(format_args!("{id} cancels the snapshot of order {}", order.0));
            self.parcels
                .retain(|parcel| parcel.from != id || parcel.order.id != order);
        }
        for order in ready.snapshots {
            self.tell(format_args!("{id} {order}"));
            self.parcels.push(Parcel {
                from: id,
                order,
                snapshot: None,
            });
        }
        if let Some(index) = ready.truncate {
            self.tell(format_args!("{id} truncates {index}"));
            self.host(id).disk.truncate(index);
        }
        if self.apply_at_once {
            self.apply_quietly(id);
        }
    }

    /// Applies everything handed out; the caller's loop sees to what follows.
    fn apply_quietly(&mut self, id: ReplicaId) {
        let host = &self.hosts[&id];
        for entry in &host.unapplied {
            self.checker.on_applied(host, entry);
        }
        let host = self.host(id);
        if let (Some(last), Some(replica)) = (host.unapplied.back(), &mut host.replica) {
            host.applied = last.id.index;
            replica.on_applied(host.applied);
        }
        self.host(id).unapplied.clear();
    }

    fn check_written(&mut self, id: ReplicaId, entries: &[crate::Entry]) {
        let Some(first) = entries.first() else { return };
        let replica = self.hosts[&id]
            .replica
            .as_ref()
            .expect("a write comes from a replica");
        let index = first.id.index.previous();
        let term = replica.log.term(index).expect("a write continues the log");
        let mut previous = EntryId { term, index };
        for entry in entries {
            self.checker.on_written(previous, entry);
            previous = entry.id;
        }
    }

    fn leave(&mut self, id: ReplicaId, envelope: Envelope) {
        self.tell(format_args!("{envelope}"));
        self.checker.on_leaving(&self.hosts[&id], &envelope);
        let link = (envelope.from, envelope.to);
        if self.cut.contains(&link) {
            return;
        }
        self.links.entry(link).or_default().push_back(envelope);
    }

    fn tell_refusal(&mut self, id: ReplicaId, what: &str, refused: Option<Refused>) {
        if let Some(refused) = refused {
            self.tell(format_args!("{id} refuses the {what}: {refused}"));
        }
    }
}

/// The part of a replica's state whose changes are told.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    term: u64,
    role: RoleKind,
    leader: Option<ReplicaId>,
}

impl State {
    fn of(replica: &Replica) -> State {
        State {
            term: replica.hard.term.0,
            role: replica.role.kind(),
            leader: replica.leader(),
        }
    }

    /// `r1@1 follower => candidate`, `r2@1 follower leader=r1`.
    fn since(self, before: State, id: ReplicaId) -> String {
        let mut text = format!("{id}@{} ", self.term);
        if self.role != before.role {
            text += &format!("{} => ", before.role);
        }
        text += &self.role.to_string();
        match self.leader {
            Some(leader) if leader != id => text + &format!(" leader={leader}"),
            _ => text,
        }
    }
}
