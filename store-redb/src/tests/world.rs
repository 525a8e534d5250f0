//! A scripted node for tests: it submits, applies, freezes and truncates as workers do, and knows what must be found
//! after a crash.

use crate::{
    ClusterId, Disk, ExitReason, Identity, OpenError, Opened, Options, Store, WorkerState, WorkerStorage,
};
use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, GroupId, GroupRow, GroupWrite, HardState,
    Index, Life, LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId, Restored, RestoredGroup,
    Stamp, Term, WriteId,
};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub(super) const IDENTITY: Identity = Identity {
    cluster: ClusterId([7; 16]),
    node: NodeId(3),
};

pub(super) const WORKERS: usize = 2;

/// Small sizes, so that short scripts go through every state.
pub(super) fn options(workers: usize) -> Options {
    Options {
        ring_bytes: 256 << 10,
        segment_bytes: 64 << 10,
        memtable_bytes: 16 << 10,
        cache_bytes: 1 << 20,
        entropy: || Ok(*b"0123456789abcdefsaltsalt"),
        fatal,
        ..Options::new(workers)
    }
}

fn fatal(reason: ExitReason, message: String) -> ! {
    std::panic::resume_unwind(Box::new(Ended { reason, message }))
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) reason: ExitReason,
    pub(super) message: String,
}

/// Runs something that may end the process.
pub(super) fn run<T>(what: impl FnOnce() -> T) -> Result<T, Ended> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|payload| match payload.downcast::<Ended>() {
        Ok(ended) => *ended,
        Err(other) => std::panic::resume_unwind(other),
    })
}

/// Collects completions.
#[derive(Debug, Default)]
pub(super) struct Sink {
    queue: Mutex<VecDeque<Completion>>,
    arrived: Condvar,
}

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        if matches!(&completion, Completion::Checkpointed { rows } if rows.is_empty()) {
            return; // only a wake
        }
        self.queue.lock().unwrap().push_back(completion);
        self.arrived.notify_all();
    }
}

impl Sink {
    pub(super) fn take(&self) -> Option<Completion> {
        self.queue.lock().unwrap().pop_front()
    }

    pub(super) fn wait(&self, limit: Duration) -> Completion {
        let queue = self.queue.lock().unwrap();
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(queue, limit, |queue| queue.is_empty())
            .unwrap();
        queue.pop_front().expect("a completion arrives in time")
    }
}

/// A small deterministic generator.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a group's log must be, and everything that was ever committed in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Expected {
    pub(super) hard_state: HardState,
    /// From index 1 on, as if nothing were ever truncated.
    pub(super) entries: Vec<Entry>,
    pub(super) commit: u64,
}

type Groups = BTreeMap<GroupId, Expected>;

/// A node with its workers, taken step by step.
pub(super) struct World {
    store: Store,
    storages: Vec<WorkerStorage>,
    states: Vec<WorkerState>,
    sinks: Vec<Arc<Sink>>,
    pub(super) model: Model,
    applied: BTreeMap<GroupId, u64>,
    batches: Vec<u64>,
}

/// What the outside may rely on: it outlives crashes.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) random: Random,
    /// As of the last acknowledged batch.
    pub(super) acknowledged: Groups,
    /// As of every batch submitted later, in order.
    submitted: Vec<Groups>,
    pub(super) checkpoints: u64,
    pub(super) values: usize,
}

impl Model {
    pub(super) fn new(seed: u64) -> Model {
        Model {
            random: Random(seed),
            acknowledged: Groups::new(),
            submitted: Vec::new(),
            checkpoints: 0,
            values: 300,
        }
    }

    fn newest(&self) -> &Groups {
        self.submitted.last().unwrap_or(&self.acknowledged)
    }
}

pub(super) fn replica(group: GroupId) -> ReplicaId {
    ReplicaId(group.0 * 10)
}

pub(super) fn membership(group: GroupId, extra: u64) -> Membership {
    Membership::of_voters((0..3 + extra).map(|n| (ReplicaId(group.0 * 10 + n), NodeId(n + 1))))
}

pub(super) fn birth(group: GroupId) -> Birth {
    Birth {
        group,
        replica: replica(group),
        membership: membership(group, 0),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::from(format!("range of {group}")),
    }
}

pub(super) fn command(term: u64, index: u64, key: u64, length: usize) -> Entry {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(8 + length, (index % 251) as u8);
    Entry {
        id: EntryId::new(term, index),
        payload: Payload::Command(Stamp(index), bytes.into()),
    }
}

/// The state that entries make: the key is the first eight bytes; empty values remove it.
fn apply_to(state: &mut BTreeMap<Vec<u8>, Bytes>, entry: &Entry) {
    if let Payload::Command(_, bytes) = &entry.payload {
        let key = bytes[..8].to_vec();
        match bytes.len() {
            8 => state.remove(&key),
            _ => state.insert(key, bytes.slice(8..)),
        };
    }
}

pub(super) fn contents(state: &WorkerState, group: GroupId) -> BTreeMap<Vec<u8>, Bytes> {
    let mut found = BTreeMap::new();
    state.scan(group, &[], None, &mut |key, value| {
        found.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    });
    found
}

impl World {
    /// Opens, compares what is found with the model, and replays as workers do.
    pub(super) fn open(disk: Arc<dyn Disk>, model: Model) -> Result<World, OpenError> {
        let Opened { store, groups, .. } = Store::open_on(disk, IDENTITY, options(WORKERS))?;
        let sinks: Vec<Arc<Sink>> = (0..WORKERS).map(|_| Arc::default()).collect();
        store.connect(sinks.iter().map(|sink| Arc::clone(sink) as _).collect());
        let mut world = World {
            storages: (0..WORKERS).map(|worker| store.storage(worker)).collect(),
            states: (0..WORKERS).map(|worker| store.state(worker)).collect(),
            store,
            sinks,
            model,
            applied: BTreeMap::new(),
            batches: vec![0; WORKERS],
        };
        world.check_restored(&groups);
        Ok(world)
    }

    /// Everything acknowledged is there, nothing half; the state is exactly what its row says.
    fn check_restored(&mut self, groups: &[RestoredGroup]) {
        let mut candidates = std::iter::once(&self.model.acknowledged).chain(&self.model.submitted);
        let found = candidates.find(|candidate| matches(candidate, groups));
        let Some(found) = found.cloned() else {
            panic!(
                "found:
{}
expected one of:
{}",
                summary(groups),
                self.model.summary()
            );
        };
        self.model.acknowledged = found;
        self.model.submitted.clear();
        for restored in groups {
            self.check_state(restored);
            self.applied.insert(restored.group, restored.restored.applied.0);
        }
        self.apply_committed();
    }

    fn check_state(&self, group: &RestoredGroup) {
        let log = &self.model.acknowledged[&group.group];
        let Restored {
            applied,
            truncated,
            membership: found,
            ..
        } = &group.restored;
        let mut expected = BTreeMap::new();
        let mut members = membership(group.group, 0);
        for entry in &log.entries[..applied.0 as usize] {
            apply_to(&mut expected, entry);
            if let Payload::Membership(changed) = &entry.payload
                && entry.id.index <= truncated.index
            {
                members = changed.clone();
            }
        }
        assert_eq!(*found, members, "the membership as of {truncated}");
        assert_eq!(
            contents(self.state(group.group), group.group),
            expected,
            "{} at {applied}",
            group.group
        );
    }

    pub(super) fn state(&self, group: GroupId) -> &WorkerState {
        &self.states[crate::worker_of(group, WORKERS)]
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// One turn of every worker, by chance: writes, commits, checkpoints, truncations.
    pub(super) fn step(&mut self) {
        for worker in 0..WORKERS {
            if self.model.random.below(4) > 0 {
                self.submit_some(worker);
            }
        }
        if self.model.random.below(3) > 0 {
            while self.store.commit_once() {}
            self.take_completions();
        }
        for worker in 0..WORKERS {
            self.freeze_if_wanted(worker);
        }
        if self.model.random.below(2) == 0 && self.store.checkpoint_once() {
            self.model.checkpoints += 1;
        }
        self.take_completions();
        while self.store.fetch_once() {}
        self.take_completions();
    }

    fn submit_some(&mut self, worker: usize) {
        let mut batch = LogBatch::default();
        let mut next = self.model.newest().clone();
        for number in 0..3 {
            let group = GroupId(2 + worker as u64 + WORKERS as u64 * number);
            if self.model.random.below(3) == 0 {
                continue;
            }
            if !next.contains_key(&group) {
                batch.births.push(birth(group));
            }
            let log = next.entry(group).or_default();
            batch.writes.push(self.write_some(group, log));
        }
        self.batches[worker] += 1;
        batch.id = BatchId(self.batches[worker]);
        self.model.submitted.push(next);
        self.storages[worker].submit(batch);
    }

    fn write_some(&mut self, group: GroupId, log: &mut Expected) -> GroupWrite {
        let random = &mut self.model.random;
        let mut hard_state = None;
        let mut count = random.below(6);
        if random.below(5) == 0 || log.hard_state.term.0 == 0 {
            log.hard_state.term = Term(log.hard_state.term.0 + 1);
            log.hard_state.vote = (random.below(2) == 0).then(|| replica(group));
            hard_state = Some(log.hard_state);
            // A new leader replaces what was not committed, with at least one entry.
            count = count.max(1);
            let kept = log.commit + random.below(log.entries.len() as u64 - log.commit + 1);
            log.entries.truncate(kept as usize);
        }
        let first = log.entries.len();
        for _ in 0..count {
            let index = log.entries.len() as u64 + 1;
            let key = random.below(40);
            let length = if random.below(20) == 0 {
                9000
            } else {
                random.below(self.model.values as u64) as usize
            };
            let mut entry = command(log.hard_state.term.0, index, key, length);
            if random.below(15) == 0 {
                entry.payload = Payload::Membership(membership(group, random.below(3)));
            }
            log.entries.push(entry);
        }
        let acknowledged = self
            .model
            .acknowledged
            .get(&group)
            .map_or(0, |log| log.entries.len() as u64);
        let durable = acknowledged.min(first as u64);
        log.commit = log.commit.max(durable - random.below(4).min(durable));
        GroupWrite {
            group,
            replica: replica(group),
            life: Life(1),
            write: WriteId(1),
            hard_state,
            entries: log.entries[first..].to_vec(),
            commit: Index(log.commit),
        }
    }

    fn take_completions(&mut self) {
        let mut others = Vec::new();
        for worker in 0..WORKERS {
            while let Some(completion) = self.sinks[worker].take() {
                match completion {
                    // Batches are acknowledged in submit order, over all workers.
                    Completion::Durable { .. } => self.model.acknowledged_one(),
                    other => others.push((worker, other)),
                }
            }
        }
        self.apply_committed();
        for (worker, completion) in others {
            match completion {
                Completion::Checkpointed { rows } => self.truncate(worker, &rows),
                Completion::Fetched { group, entries, .. } => self.check_fetched(group, &entries),
                other => unreachable!("taken above, or never asked for: {other:?}"),
            }
        }
    }

    fn truncate(&mut self, worker: usize, rows: &[(GroupId, Life, Index)]) {
        for (group, _, applied) in rows {
            let lag = self.model.random.below(30);
            self.storages[worker].truncate(*group, Index(applied.0.saturating_sub(lag)));
            self.fetch(*group, applied.0.saturating_sub(lag) + 1);
        }
    }

    /// Asks for everything from `first` on.
    fn fetch(&mut self, group: GroupId, first: u64) {
        let request = multiraft::FetchRequest {
            group,
            life: Life(1),
            peer: replica(group),
            range: Index(first)..=Index(u64::MAX - 1),
            bytes_max: 20_000,
        };
        self.storages[crate::worker_of(group, WORKERS)].fetch(request);
    }

    fn check_fetched(&self, group: GroupId, entries: &[Entry]) {
        let log = &self.model.acknowledged[&group];
        if let Some(first) = entries.first() {
            let start = first.id.index.0 as usize - 1;
            assert_eq!(
                entries,
                &log.entries[start..start + entries.len()],
                "fetched from {group}"
            );
        }
    }

    /// What is committed and durable is applied, as workers do.
    fn apply_committed(&mut self) {
        for (group, log) in &self.model.acknowledged {
            let applied = self.applied.entry(*group).or_insert(0);
            let commit = log.commit.min(log.entries.len() as u64);
            let state = &mut self.states[crate::worker_of(*group, WORKERS)];
            for entry in &log.entries[*applied as usize..commit.max(*applied) as usize] {
                if let Payload::Command(_, bytes) = &entry.payload {
                    match bytes.len() {
                        8 => state.delete(*group, &bytes[..8]),
                        _ => state.put(*group, &bytes[..8], bytes.slice(8..)),
                    }
                }
                state.mark_applied(*group, entry.id);
            }
            *applied = commit.max(*applied);
        }
    }

    fn freeze_if_wanted(&mut self, worker: usize) {
        let Some(cut) = self.storages[worker].cut_wanted() else {
            return;
        };
        self.states[worker].freeze(cut);
        let mine = self
            .applied
            .iter()
            .filter(|(group, _)| crate::worker_of(**group, WORKERS) == worker);
        let rows = mine.map(|(group, applied)| {
            let log = &self.model.acknowledged[group];
            GroupRow {
                group: *group,
                replica: replica(*group),
                life: Life(1),
                applied: applied
                    .checked_sub(1)
                    .map_or(EntryId::ZERO, |at| log.entries[at as usize].id),
                membership: membership(*group, 0),
                descriptor: Bytes::from(format!("range of {group}")),
            }
        });
        let rows = rows.collect();
        self.storages[worker].freeze(cut, rows);
    }

    /// Everything readable is what the applied entries make.
    pub(super) fn check_contents(&self) {
        for (group, applied) in &self.applied {
            let mut expected = BTreeMap::new();
            for entry in &self.model.acknowledged[group].entries[..*applied as usize] {
                apply_to(&mut expected, entry);
            }
            let state = self.state(*group);
            assert_eq!(contents(state, *group), expected, "{group}");
            for key in (0..40_u64).map(u64::to_be_bytes) {
                assert_eq!(
                    state.get(*group, &key),
                    expected.get(&key[..]).cloned(),
                    "{group}"
                );
            }
        }
    }

    /// Makes everything submitted durable and applies it.
    pub(super) fn settle(&mut self) {
        while self.store.commit_once() {}
        self.take_completions();
    }

    /// Settles, then writes a checkpoint of all that.
    pub(super) fn checkpoint(&mut self) {
        self.settle();
        self.store.want_checkpoint();
        (0..WORKERS).for_each(|worker| self.freeze_if_wanted(worker));
        assert!(self.store.checkpoint_once(), "every worker froze");
        self.model.checkpoints += 1;
        self.take_completions();
    }

    /// A clean stop.
    pub(super) fn close(mut self) -> (crate::Closed, Model) {
        self.settle();
        let World {
            store,
            storages,
            states,
            model,
            ..
        } = self;
        drop((storages, states));
        (store.close(), model)
    }

    /// What was acknowledged before the process died counts.
    pub(super) fn note_acknowledged(&mut self) {
        for sink in &self.sinks {
            while let Some(completion) = sink.take() {
                if matches!(completion, Completion::Durable { .. }) {
                    self.model.acknowledged_one();
                }
            }
        }
    }

    /// The process dies.
    pub(super) fn kill(self) -> Model {
        self.model
    }
}

impl Model {
    fn summary(&self) -> String {
        let mut text = String::new();
        for (number, groups) in std::iter::once(&self.acknowledged)
            .chain(&self.submitted)
            .enumerate()
        {
            for (group, log) in groups {
                let last = log.entries.last().map(|entry| entry.id);
                text += &format!(
                    "{number}: {group} {:?} commit {} last {last:?}\n",
                    log.hard_state, log.commit
                );
            }
        }
        text
    }

    fn acknowledged_one(&mut self) {
        self.acknowledged = self.submitted.remove(0);
    }
}

fn summary(groups: &[RestoredGroup]) -> String {
    let line = |found: &RestoredGroup| {
        let Restored {
            hard_state,
            truncated,
            entries,
            commit,
            applied,
            ..
        } = &found.restored;
        let last = entries.last().map(|entry| entry.id);
        format!(
            "{} {hard_state:?} truncated {truncated} last {last:?} commit {commit} applied {applied}\n",
            found.group
        )
    };
    groups.iter().map(line).collect()
}

fn matches(candidate: &Groups, groups: &[RestoredGroup]) -> bool {
    candidate.len() == groups.len()
        && groups.iter().all(|found| {
            let restored = &found.restored;
            let truncated = restored.truncated.index.0 as usize;
            candidate.get(&found.group).is_some_and(|log| {
                log.hard_state == restored.hard_state
                    && log.commit == restored.commit.0
                    && log.entries.get(truncated..) == Some(&restored.entries[..])
                    && restored.truncated.index <= restored.applied
                    && restored.applied.0 <= log.commit
                    && (truncated == 0 || log.entries[truncated - 1].id == restored.truncated)
                    && found.descriptor == format!("range of {}", found.group)
            })
        })
}
