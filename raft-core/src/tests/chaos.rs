//! Seeded chaos: a few replicas under loss, reordering, duplication, crashes and partial syncs, with the
//! rules over all replicas checked after every event (`testing::Checker`) and I1..I8 inside each replica. At
//! the end everything is healed and the group must work again.
//!
//! Each seed draws how likely each fault is, some not at all: a run where everything happens equally often
//! sees little of the rare paths. A failing seed prints the end of its transcript.
//! `FLOTILLA_CHAOS_SEED=n` runs one seed, `FLOTILLA_CHAOS_SEEDS=n` that many.

use crate::rng::Rng;
use crate::testing::{Cluster, Link};
use crate::{Index, MemberChange, NodeId, Options, ReadId, ReadPolicy, Replica, ReplicaId};
use bytes::Bytes;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

const SEEDS: u64 = 2_000;
const STEPS: usize = 2_500;
const TRANSCRIPT_LINES: usize = 120;
/// Replicas that ever exist are numbered up to here.
const IDS: u64 = 7;

/// What can happen, each with the greatest weight that a seed may draw for it.
const EVENTS: [(Event, u64); 28] = [
    (Event::Deliver, 400),
    (Event::DeliverLate, 60),
    (Event::Lose, 40),
    (Event::Duplicate, 20),
    (Event::Sync, 300),
    (Event::Persist, 100),
    (Event::Propose, 100),
    (Event::Read, 30),
    (Event::Advance, 60),
    (Event::Tick, 15),
    (Event::Crash, 6),
    (Event::Restart, 20),
    (Event::Campaign, 4),
    (Event::Transfer, 6),
    (Event::Apply, 80),
    (Event::Checkpoint, 20),
    (Event::Fetched, 60),
    (Event::Partition, 4),
    (Event::Pause, 4),
    (Event::Usurp, 4),
    (Event::Change, 120),
    (Event::Hold, 120),
    (Event::ReadSnapshot, 60),
    (Event::Arrive, 60),
    (Event::ArriveAgain, 10),
    (Event::LoseSnapshot, 10),
    (Event::Truncate, 10),
    (Event::Unreachable, 10),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Deliver,
    DeliverLate,
    Lose,
    Duplicate,
    Sync,
    /// A sync whose report is held up until the next one's.
    Persist,
    Propose,
    Read,
    Advance,
    Tick,
    Crash,
    Restart,
    Campaign,
    Transfer,
    Apply,
    Checkpoint,
    Fetched,
    Partition,
    /// A process stands still for a while: a leader that wakes up must not believe in its lease.
    Pause,
    /// Somebody tries to lead behind the back of a leader that may trust its lease.
    Usurp,
    Change,
    /// Several inputs share one `ready`.
    Hold,
    ReadSnapshot,
    Arrive,
    /// A copy of what arrives stays on its way.
    ArriveAgain,
    LoseSnapshot,
    Truncate,
    Unreachable,
}

/// One seed's run.
struct Chaos {
    rng: Rng,
    cluster: Cluster,
    weights: Vec<(Event, u64)>,
    reads: u64,
    commands: u64,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut rng = Rng::new(seed);
        let voters = 1 + rng.next() % 5;
        let membership = Cluster::membership(voters, rng.next() % 2);
        let small = rng.next().is_multiple_of(2);
        let leases = rng.next().is_multiple_of(2);
        let options = Options {
            append_bytes_max: if small { 80 } else { 1 << 16 },
            inflight_bytes_max: if small { 300 } else { 1 << 18 },
            inflight_messages_max: if small { 3 } else { 64 },
            uncommitted_bytes_max: if small { 2_000 } else { 1 << 20 },
            tail_bytes_max: if small { 200 } else { 1 << 20 },
            kept_bytes_max: [0, 0, 100, 1_000, u64::MAX][(rng.next() % 5) as usize],
            leases,
            ..Options::default()
        };
        let mut cluster = Cluster::new(membership, options, seed);
        cluster.apply_at_once = rng.next().is_multiple_of(2);
        for id in (1..=IDS).map(ReplicaId) {
            // As far as a lease allows for.
            cluster.rates.insert(id, 90 + rng.next() % 21);
        }
        let weights = draw_weights(&mut rng);
        Chaos {
            rng,
            cluster,
            weights,
            reads: 0,
            commands: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next() % bound as u64) as usize
    }

    /// The replicas to which something can happen.
    fn running(&self) -> Vec<ReplicaId> {
        let mut up = self.cluster.up();
        up.retain(|id| !self.cluster.paused.contains(id));
        up
    }

    fn any_up(&mut self) -> Option<ReplicaId> {
        let up = self.running();
        (!up.is_empty()).then(|| up[self.below(up.len())])
    }

    fn any_leader(&mut self) -> Option<ReplicaId> {
        let up = self.running().into_iter();
        let leaders: Vec<ReplicaId> = up
            .filter(|id| self.cluster.replica(*id).is_some_and(Replica::is_leader))
            .collect();
        (!leaders.is_empty()).then(|| leaders[self.below(leaders.len())])
    }

    fn any_message(&mut self) -> Option<(Link, usize)> {
        let links = self.cluster.links.iter().filter(|(_, queue)| !queue.is_empty());
        let links: Vec<(Link, usize)> = links.map(|(link, queue)| (*link, queue.len())).collect();
        (!links.is_empty()).then(|| links[self.below(links.len())])
    }

    fn step(&mut self) {
        let total: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.next() % total;
        let mut event = Event::Deliver;
        for (candidate, weight) in &self.weights {
            event = *candidate;
            if drawn < *weight {
                break;
            }
            drawn -= weight;
        }
        match event {
            Event::Deliver | Event::DeliverLate | Event::Lose | Event::Duplicate => self.message_event(event),
            Event::Propose | Event::Read | Event::Transfer | Event::Change => self.leader_event(event),
            Event::Partition => self.partition(),
            Event::Usurp => self.usurp(),
            Event::ReadSnapshot | Event::Arrive | Event::ArriveAgain | Event::LoseSnapshot => {
                self.snapshot_event(event);
            }
            Event::Pause if !self.cluster.paused.is_empty() => self.cluster.paused.clear(),
            _ => self.replica_event(event),
        }
    }

    fn message_event(&mut self, event: Event) {
        let Some((link, waiting)) = self.any_message() else {
            return;
        };
        let position = self.below(waiting);
        match event {
            Event::Deliver => self.cluster.deliver(link, 0),
            Event::DeliverLate => self.cluster.deliver(link, position),
            Event::Lose => self.cluster.lose(link, position),
            _ => self.cluster.duplicate(link, position),
        }
    }

    fn snapshot_event(&mut self, event: Event) {
        if self.cluster.parcels.is_empty() {
            return self.message_event(Event::Deliver);
        }
        let position = self.below(self.cluster.parcels.len());
        let parcel = self.cluster.parcels[position].clone();
        let (from, to) = (parcel.from, parcel.order.peer);
        match event {
            Event::ReadSnapshot => self.cluster.read_snapshot(from, to),
            Event::Arrive => self.cluster.arrive(from, to),
            Event::ArriveAgain if parcel.snapshot.is_some() => {
                self.cluster.parcels.insert(position, parcel);
                self.cluster.arrive(from, to);
            }
            Event::ArriveAgain => {}
            _ => self.cluster.lose_snapshot(from, to),
        }
    }

    fn leader_event(&mut self, event: Event) {
        let Some(id) = self.any_leader().or_else(|| self.any_up()) else {
            return;
        };
        match event {
            Event::Propose => {
                let count = 1 + self.below(3);
                let payloads = (0..count).map(|_| {
                    self.commands += 1;
                    Bytes::from(format!("c{}", self.commands))
                });
                let payloads = payloads.collect();
                self.cluster.propose(id, payloads);
            }
            Event::Read => {
                self.reads += 1;
                let policy = self.any_policy();
                let id = match policy {
                    ReadPolicy::Here | ReadPolicy::Within(_) => self.any_up().unwrap_or(id),
                    ReadPolicy::Confirmed | ReadPolicy::Lease => id,
                };
                self.cluster.read(id, ReadId(self.reads), policy);
            }
            Event::Transfer => {
                let target = self.any_up().unwrap_or(id);
                self.cluster.transfer(id, target);
            }
            _ => self.change(id),
        }
    }

    fn any_policy(&mut self) -> ReadPolicy {
        match self.rng.next() % 6 {
            0 => ReadPolicy::Confirmed,
            1..=3 => ReadPolicy::Lease,
            4 => ReadPolicy::Here,
            _ => ReadPolicy::Within(Duration::from_millis(self.rng.next() % 400)),
        }
    }

    /// Some replicas join, some leave, some become voters or learners, all at once.
    fn change(&mut self, id: ReplicaId) {
        let Some(replica) = self.cluster.replica(id) else {
            return;
        };
        let membership = replica.membership().clone();
        let mut changes = Vec::new();
        for member in (1..=IDS).map(ReplicaId) {
            let change = match self.rng.next() % 20 {
                0 => MemberChange::Add(member, NodeId(member.0)),
                1 => MemberChange::Remove(member),
                2 => MemberChange::Demote(member),
                3..=5 => MemberChange::Promote(member),
                _ => continue,
            };
            changes.push(change);
            if membership.changed(&changes).is_err() {
                changes.pop();
            }
        }
        self.cluster.change(id, &changes);
    }

    fn replica_event(&mut self, event: Event) {
        if event == Event::Restart {
            let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
            let down: Vec<ReplicaId> = ids
                .into_iter()
                .filter(|id| self.cluster.replica(*id).is_none())
                .collect();
            if !down.is_empty() {
                let id = down[self.below(down.len())];
                self.cluster.restart(id);
            }
            return;
        }
        let Some(id) = self.any_up() else { return };
        match event {
            Event::Sync => self.cluster.sync(id),
            Event::Persist => self.cluster.persist(id),
            Event::Advance => {
                let duration = Duration::from_millis(self.rng.next() % 80);
                self.cluster.advance(duration);
            }
            Event::Tick => self.cluster.tick(id),
            Event::Crash => self.cluster.crash(id),
            Event::Campaign => self.cluster.campaign(id),
            Event::Pause => {
                self.cluster.paused.insert(id);
            }
            Event::Hold if self.cluster.held.contains(&id) => self.cluster.release(id),
            Event::Hold => {
                self.cluster.held.insert(id);
            }
            Event::Apply => {
                let count = 1 + self.below(4);
                self.cluster.apply(id, count);
            }
            Event::Checkpoint => self.cluster.checkpoint(id),
            Event::Truncate => {
                let index = Index(self.rng.next() % (self.cluster.hosts[&id].applied.0 + 2));
                self.cluster.truncate(id, index);
            }
            Event::Unreachable => {
                let peer = self.any_up().expect("one is up");
                self.cluster.unreachable(id, peer);
            }
            _ => {
                let count = self.below(4);
                self.cluster.fetched(id, count);
            }
        }
    }

    fn partition(&mut self) {
        let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
        if !self.cluster.cut.is_empty() {
            self.cluster.cut.clear();
            return;
        }
        let side = self.rng.next();
        if side.is_multiple_of(2) {
            // Any link, each direction for itself: bridges, deaf and mute replicas.
            let links = ids.iter().flat_map(|from| ids.iter().map(|to| (*from, *to)));
            let some: Vec<Link> = links.filter(|_| self.rng.next().is_multiple_of(3)).collect();
            self.cluster.cut.extend(some);
            return;
        }
        let far = |id: ReplicaId| side >> id.0 & 1 == 1;
        for from in &ids {
            let others = ids.iter().filter(|to| far(**to) != far(*from));
            self.cluster.cut.extend(others.map(|to| (*from, *to)));
        }
    }

    /// Cuts a leader off, perhaps with a transfer under way; some of the others restart and one campaigns. Then the leader is
    /// asked for a lease read, which must not be old.
    fn usurp(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        let mut others = self.running();
        others.retain(|id| *id != leader);
        if others.is_empty() {
            return;
        }
        let rival = others[self.below(others.len())];
        if self.rng.next().is_multiple_of(2) {
            self.cluster.transfer(leader, rival);
            self.settle(&others);
        }
        let cut = self
            .cluster
            .hosts
            .keys()
            .flat_map(|id| [(*id, leader), (leader, *id)]);
        self.cluster.cut.extend(cut.collect::<Vec<_>>());
        for id in &others {
            if self.rng.next().is_multiple_of(3) {
                self.cluster.restart(*id);
            }
        }
        self.cluster.advance(Duration::from_millis(self.rng.next() % 300));
        self.cluster.campaign(rival);
        (0..4).for_each(|_| self.settle(&others));
        self.commands += 1;
        let command = Bytes::from(format!("c{}", self.commands));
        self.cluster.propose(rival, vec![command]);
        (0..2).for_each(|_| self.settle(&others));
        self.reads += 1;
        self.cluster.read(leader, ReadId(self.reads), ReadPolicy::Lease);
    }

    /// Heals everything; then a command must become committed on all members within a few seconds of their
    /// time.
    fn recover(&mut self) {
        self.cluster.cut.clear();
        self.cluster.paused.clear();
        let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
        for id in &ids {
            self.cluster.release(*id);
            if self.cluster.replica(*id).is_none() {
                self.cluster.restart(*id);
            }
        }
        let mut proposed = None;
        for _ in 0..300 {
            self.settle(&ids);
            if let Some(leader) = self.any_leader() {
                let last = self.cluster.replica(leader).expect("it leads").last().index;
                let members: Vec<ReplicaId> = self.members(leader);
                let done = |id: &ReplicaId| self.cluster.hosts[id].applied >= last;
                if proposed.is_some_and(|proposed| last >= proposed) && members.iter().all(done) {
                    return;
                }
                if proposed.is_none() && members.iter().all(done) {
                    self.cluster.propose(leader, vec![Bytes::from_static(b"healed")]);
                    // Refused while leadership is being handed over.
                    let now_last = self.cluster.replica(leader).expect("it leads").last().index;
                    proposed = Some(now_last).filter(|now_last| *now_last > last);
                }
            }
            self.cluster.advance(Duration::from_millis(20));
        }
        panic!("the healed group does not work");
    }

    fn members(&self, leader: ReplicaId) -> Vec<ReplicaId> {
        let replica = self.cluster.replica(leader).expect("it leads");
        replica.membership().replicas().collect()
    }

    /// Delivers and syncs what is there now, twice.
    fn settle(&mut self, ids: &[ReplicaId]) {
        for _ in 0..2 {
            for id in ids {
                for _ in 0..self.cluster.hosts[id].unsynced.len() {
                    self.cluster.sync(*id);
                }
                self.cluster.report(*id);
                while self.cluster.fetches.iter().any(|(from, _)| from == id) {
                    self.cluster.fetched(*id, usize::MAX);
                }
                self.cluster.apply(*id, usize::MAX);
            }
            for parcel in self.cluster.parcels.clone() {
                let (from, to) = (parcel.from, parcel.order.peer);
                self.cluster.read_snapshot(from, to);
                self.cluster.arrive(from, to);
            }
            let links: Vec<Link> = self.cluster.links.keys().copied().collect();
            for link in links {
                for _ in 0..self.cluster.links[&link].len() {
                    self.cluster.deliver(link, 0);
                }
            }
        }
    }
}

fn draw_weights(rng: &mut Rng) -> Vec<(Event, u64)> {
    let mut weights: Vec<(Event, u64)> = Vec::new();
    for (event, most) in EVENTS {
        let weight = match rng.next() % 4 {
            0 => 0,
            1 => most / 4,
            _ => most,
        };
        // Without these nothing happens at all.
        let least = match event {
            Event::Deliver | Event::Sync | Event::Advance | Event::Propose => most / 2,
            Event::Restart | Event::Apply | Event::Fetched => 1,
            _ => 0,
        };
        weights.push((event, weight.max(least)));
    }
    if rng.next().is_multiple_of(2) {
        hurry_elections(&mut weights);
    }
    if rng.next().is_multiple_of(2) {
        calm_down(&mut weights);
    }
    if rng.next().is_multiple_of(2) {
        hurry_snapshots(&mut weights);
    }
    if rng.next().is_multiple_of(4) {
        hurry_leases(&mut weights);
    }
    weights
}

/// Terms that last a few events: what is committed under one leader and replaced under the next shows only
/// then.
fn hurry_elections(weights: &mut [(Event, u64)]) {
    for (event, weight) in weights {
        if matches!(
            event,
            Event::Crash | Event::Restart | Event::Campaign | Event::Transfer
        ) {
            *weight = *weight * 4 + 8;
        }
    }
}

/// A change takes a few undisturbed rounds: a group that is without a leader most of the time changes nothing.
fn calm_down(weights: &mut [(Event, u64)]) {
    for (event, weight) in weights {
        match event {
            Event::Crash | Event::Partition | Event::Pause | Event::Hold | Event::Advance => *weight /= 4,
            Event::Deliver | Event::Sync | Event::Restart => *weight = *weight * 2 + 20,
            _ => {}
        }
    }
}

/// Leaders that are replaced while they still trust their lease: many reads, restarts and cuts, little time between.
fn hurry_leases(weights: &mut [(Event, u64)]) {
    for (event, weight) in weights {
        match event {
            Event::Read => *weight += 200,
            Event::Advance | Event::Deliver | Event::Sync => *weight += 100,
            Event::Usurp | Event::Transfer | Event::Partition => *weight += 20,
            Event::Crash | Event::Pause => *weight += 10,
            _ => {}
        }
    }
}

/// Logs that hold a few entries: whoever misses one needs a snapshot.
fn hurry_snapshots(weights: &mut [(Event, u64)]) {
    for (event, weight) in weights {
        match event {
            Event::Checkpoint | Event::Truncate => *weight = *weight * 4 + 40,
            Event::Deliver | Event::ReadSnapshot | Event::Arrive => *weight += 100,
            _ => {}
        }
    }
}

/// Runs a seed and panics where a rule is broken.
pub(super) fn run_once(seed: u64) {
    run(&mut Chaos::new(seed));
}

fn run(chaos: &mut Chaos) {
    for _ in 0..STEPS {
        chaos.step();
    }
    chaos.recover();
}

/// What happened in a run.
#[derive(Debug, Default)]
struct Tally {
    committed: u64,
    terms: u64,
    memberships: u64,
    installs: u64,
}

impl Tally {
    fn of(chaos: &Chaos) -> Tally {
        let checker = &chaos.cluster.checker;
        Tally {
            committed: checker.committed().0,
            terms: checker.terms(),
            memberships: checker.memberships(),
            installs: checker.installs(),
        }
    }

    fn add(&mut self, other: &Tally) {
        self.committed += other.committed;
        self.terms += other.terms;
        self.memberships += other.memberships;
        self.installs += other.installs;
    }
}

/// Runs a seed; on failure once more with a transcript.
fn run_seed(seed: u64) -> Tally {
    let mut chaos = Chaos::new(seed);
    if std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut chaos))).is_ok() {
        return Tally::of(&chaos);
    }
    let mut chaos = Chaos::new(seed);
    chaos.cluster.record();
    let failure = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut chaos)));
    let transcript = chaos.cluster.take_transcript();
    let skipped = transcript.len().saturating_sub(TRANSCRIPT_LINES);
    println!("seed {seed} of raft-core chaos fails; the end of its transcript:");
    transcript[skipped..].iter().for_each(|line| println!("  {line}"));
    match failure {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => panic!("seed {seed} failed once and passed with a transcript: it is not deterministic"),
    }
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

#[test]
fn chaos_keeps_the_group_safe_and_ends_in_service() {
    if let Some(seed) = number_of("FLOTILLA_CHAOS_SEED") {
        run_seed(seed);
        return;
    }
    let seeds = number_of("FLOTILLA_CHAOS_SEEDS").unwrap_or(SEEDS);
    let mut total = Tally::default();
    (0..seeds).map(run_seed).for_each(|tally| total.add(&tally));
    println!("{seeds} seeds: {total:?}");
    // A run in which little happened would prove little.
    let is_enough = total.committed > seeds * 40
        && total.terms > seeds * 2
        && total.memberships > seeds
        && total.installs > seeds / 2;
    assert!(is_enough, "{total:?}");
}
