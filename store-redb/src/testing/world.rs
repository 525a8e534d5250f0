//! A scripted node: it submits, applies, freezes and truncates as workers do, one step at a time and without threads,
//! on any disk, and compares what it finds with the model.

use super::bugs::{Bug, Sabotage};
use super::model::{Batch, Contents, Extent, Log, Model, Said, command, descriptor, membership, replica};
use super::random::Random;
use crate::{
    Closed, ClusterId, Disk, ExitReason, Identity, OpenError, Opened, Options, Store, WorkerState,
    WorkerStorage, worker_of,
};
use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, FetchRequest, GroupId, GroupRow, GroupWrite,
    Index, Life, LogBatch, NodeId, Payload, RaftStorage, RestoredGroup, Term, WriteId,
};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose file it is.
pub const IDENTITY: Identity = Identity {
    cluster: ClusterId([7; 16]),
    node: NodeId(3),
};

/// Workers of a scripted node.
pub const WORKERS: usize = 2;

/// A whole log, whatever it takes.
const FETCH_BYTES: usize = 1 << 30;

/// Small sizes, so that short scripts go through every state.
pub fn options(workers: usize) -> Options {
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
pub struct Ended {
    /// Its exit code stands for this.
    pub reason: ExitReason,
    /// What it said.
    pub message: String,
}

/// Runs something that may end the process. Other panics go on.
pub fn run<T>(what: impl FnOnce() -> T) -> Result<T, Ended> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|payload| match payload.downcast::<Ended>() {
        Ok(ended) => *ended,
        Err(other) => std::panic::resume_unwind(other),
    })
}

/// What a panic or the end of a process said.
pub fn told(payload: &(dyn Any + Send)) -> String {
    if let Some(ended) = payload.downcast_ref::<Ended>() {
        return format!("the process ended with {:?}: {}", ended.reason, ended.message);
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without text").to_string()
}

/// What a node does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It recovers.
    Opening,
    /// It makes records durable, or nothing.
    Committing,
    /// It writes a checkpoint.
    Checkpointing,
    /// It stops cleanly.
    Closing,
}

/// How far a node has come; seen by whoever watches its disk.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    acknowledged: AtomicUsize,
    submitted: Mutex<Vec<Arc<Batch>>>,
    records: Mutex<Vec<Extent>>,
}

impl Progress {
    /// What it does.
    pub fn phase(&self) -> Phase {
        let phases = [
            Phase::Opening,
            Phase::Committing,
            Phase::Checkpointing,
            Phase::Closing,
        ];
        phases[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Batches acknowledged since the start.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many batches were submitted since the start.
    pub fn submitted(&self) -> usize {
        guard(&self.submitted).len()
    }

    /// The batches submitted since the start.
    pub fn batches(&self) -> Vec<Arc<Batch>> {
        guard(&self.submitted).clone()
    }

    /// Where the records written since the start ended.
    pub fn records(&self) -> Arc<Vec<Extent>> {
        Arc::new(guard(&self.records).clone())
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn wrote_record(&self, batches: usize, entries: usize) {
        let mut records = guard(&self.records);
        let last = records.last().copied().unwrap_or_default();
        records.push(Extent {
            batches: last.batches + batches,
            entries: last.entries + entries,
        });
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects completions.
#[derive(Debug, Default)]
pub struct Sink {
    queue: Mutex<VecDeque<Completion>>,
    arrived: Condvar,
    progress: Arc<Progress>,
}

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        match &completion {
            Completion::Checkpointed { rows } if rows.is_empty() => return, // only a wake
            Completion::Durable { .. } => {
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        guard(&self.queue).push_back(completion);
        self.arrived.notify_all();
    }
}

impl Sink {
    /// The oldest completion.
    pub fn take(&self) -> Option<Completion> {
        guard(&self.queue).pop_front()
    }

    /// The oldest completion, once there is one.
    pub fn wait(&self, limit: Duration) -> Completion {
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(guard(&self.queue), limit, |queue| queue.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.pop_front().expect("a completion arrives in time")
    }
}

/// What a node's script looks like: chances and sizes.
#[derive(Clone, Debug)]
pub struct Script {
    /// Groups of each worker.
    pub groups: u64,
    /// Keys of each group.
    pub keys: u64,
    /// Ordinary values are shorter.
    pub value_bytes: u64,
    /// One value in so many is `large_bytes` long.
    pub large_one_in: u64,
    /// See `large_one_in`.
    pub large_bytes: usize,
    /// A write has fewer entries.
    pub entries: u64,
    /// One step in so many commits.
    pub commit_one_in: u64,
    /// One step in so many writes a checkpoint that is ready.
    pub checkpoint_one_in: u64,
    /// A log keeps fewer entries than this behind what is checkpointed.
    pub lag: u64,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            groups: 3,
            keys: 40,
            value_bytes: 300,
            large_one_in: 20,
            large_bytes: 9000,
            entries: 6,
            commit_one_in: 1,
            checkpoint_one_in: 2,
            lag: 30,
        }
    }
}

impl Script {
    /// One of many kinds of load.
    pub fn by_chance(random: &mut Random) -> Script {
        Script {
            groups: 1 + random.below(4),
            keys: [5, 40, 300][random.index(3)],
            value_bytes: [20, 300, 1500, 4000][random.index(4)],
            large_one_in: [5, 20, 1000][random.index(3)],
            large_bytes: [2100, 9000, 20_000][random.index(3)],
            entries: [2, 6, 20][random.index(3)],
            commit_one_in: 1 + random.below(4),
            checkpoint_one_in: [1, 2, 8, 30][random.index(4)],
            lag: [1, 30, 200][random.index(3)],
        }
    }
}

/// The birth of a group.
pub fn birth(group: GroupId) -> Birth {
    Birth {
        group,
        replica: replica(group),
        membership: membership(group, 0),
        base: EntryId::ZERO,
        split: None,
        descriptor: descriptor(group, 0),
    }
}

/// Everything that a worker's state holds of a group.
pub fn contents(state: &WorkerState, group: GroupId) -> Contents {
    let mut found = Contents::new();
    state.scan(group, &[], None, &mut |key, value| {
        found.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    });
    found
}

/// How a world is opened.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// The load.
    pub script: Script,
    /// Told how far the node comes.
    pub progress: Arc<Progress>,
    /// Breaks something on purpose.
    pub bug: Option<Bug>,
}

/// A node with its workers, taken step by step.
#[derive(Debug)]
pub struct World {
    store: Store,
    storages: Vec<WorkerStorage>,
    states: Vec<WorkerState>,
    sinks: Vec<Arc<Sink>>,
    setting: Setting,
    sabotage: Sabotage,
    /// What must be there.
    pub model: Model,
    found: Vec<RestoredGroup>,
    applied: BTreeMap<GroupId, u64>,
    batches: Vec<u64>,
}

impl World {
    /// Opens, compares what is found with the model, and replays as workers do.
    pub fn open(disk: Arc<dyn Disk>, model: Model) -> Result<World, OpenError> {
        World::open_with(disk, model, Setting::default())
    }

    /// As `open`, with a script of its own.
    pub fn open_with(disk: Arc<dyn Disk>, model: Model, setting: Setting) -> Result<World, OpenError> {
        let progress = Arc::clone(&setting.progress);
        progress.enter(Phase::Opening);
        let tap = Arc::clone(&progress);
        let options = Options {
            on_commit: Some(Arc::new(move |sample| {
                tap.wrote_record(sample.batches, sample.entries);
            })),
            ..options(WORKERS)
        };
        let sabotage = Sabotage::new(setting.bug);
        let opened = Store::open_on(sabotage.disk(disk), IDENTITY, options)?;
        let mut world = World::new(opened, model, setting, sabotage);
        world.check_restored();
        world.apply_committed();
        world.setting.progress.enter(Phase::Committing);
        Ok(world)
    }

    fn new(opened: Opened, mut model: Model, setting: Setting, sabotage: Sabotage) -> World {
        let store = opened.store;
        let sink = || Sink {
            progress: Arc::clone(&setting.progress),
            ..Sink::default()
        };
        let sinks: Vec<Arc<Sink>> = (0..WORKERS).map(|_| Arc::new(sink())).collect();
        store.connect(sinks.iter().map(|sink| Arc::clone(sink) as _).collect());
        assert!(
            opened.incarnation > model.incarnation,
            "incarnation {} was used before",
            opened.incarnation
        );
        model.incarnation = opened.incarnation;
        sabotage.opened(&store);
        World {
            storages: (0..WORKERS).map(|worker| store.storage(worker)).collect(),
            states: (0..WORKERS).map(|worker| store.state(worker)).collect(),
            store,
            sinks,
            setting,
            sabotage,
            model,
            found: opened.groups,
            applied: BTreeMap::new(),
            batches: vec![0; WORKERS],
        }
    }

    /// Everything acknowledged is there, nothing half; the state is exactly what its row says.
    fn check_restored(&mut self) {
        self.model.settle(&self.found);
        for found in &self.found {
            let (group, restored) = (found.group, &found.restored);
            let truncated = restored.truncated.index;
            let membership = self.model.membership(group, truncated);
            assert_eq!(
                restored.membership, membership,
                "{group}'s membership as of {truncated}"
            );
            self.check_descriptor(found);
            self.check_state(group, restored.applied.0);
            self.applied.insert(group, restored.applied.0);
        }
    }

    /// After a clean stop the descriptor may be older than the state: it is as of the last row that a worker froze.
    fn check_descriptor(&self, found: &RestoredGroup) {
        let applied = found.restored.applied.0;
        let told = std::str::from_utf8(&found.descriptor).expect("descriptors of tests are text");
        let at = told
            .rsplit_once(' ')
            .and_then(|(_, at)| at.parse().ok())
            .unwrap_or(u64::MAX);
        let group = found.group;
        assert!(
            at <= applied && found.descriptor == descriptor(group, at),
            "{group}: {told}, applied {applied}"
        );
    }

    /// A scan finds exactly what the entries up to `applied` make.
    fn check_state(&self, group: GroupId, applied: u64) {
        let expected = self.model.contents(group, applied);
        let mut left = expected.iter();
        self.state(group).scan(group, &[], None, &mut |key, value| {
            let next = left.next();
            assert!(
                next.is_some_and(|(known, expected)| known == key && expected == value),
                "{group} at {applied}: {key:?} = {} bytes, expected {:?}",
                value.len(),
                next.map(|(key, value)| (key, value.len()))
            );
            ControlFlow::Continue(())
        });
        assert_eq!(left.next(), None, "{group} at {applied}: the scan ended early");
    }

    /// The groups as they were found at the start.
    pub fn found(&self) -> &[RestoredGroup] {
        &self.found
    }

    /// The state of a group's worker.
    pub fn state(&self, group: GroupId) -> &WorkerState {
        &self.states[worker_of(group, WORKERS)]
    }

    /// The store under test.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One turn of every worker, by chance: writes, commits, checkpoints, truncations.
    pub fn step(&mut self) {
        for worker in 0..WORKERS {
            if self.model.random.below(4) > 0 {
                self.submit_some(worker);
            }
        }
        if self.model.random.one_in(self.setting.script.commit_one_in) {
            self.settle();
        }
        for worker in 0..WORKERS {
            self.freeze_if_wanted(worker);
        }
        self.sabotage.turn(&self.store);
        if self.model.random.one_in(self.setting.script.checkpoint_one_in) {
            self.checkpoint_if_ready();
        }
        self.take_completions();
        while self.store.fetch_once() {}
        self.take_completions();
    }

    fn checkpoint_if_ready(&mut self) -> bool {
        self.sabotage.before_checkpoint(&self.store);
        self.setting.progress.enter(Phase::Checkpointing);
        let is_written = self.store.checkpoint_once();
        self.setting.progress.enter(Phase::Committing);
        self.model.checkpoints += u64::from(is_written);
        is_written
    }

    fn submit_some(&mut self, worker: usize) {
        let mut next = self.model.newest();
        let mut said = Batch::new();
        for number in 0..self.setting.script.groups {
            let group = GroupId(2 + worker as u64 + WORKERS as u64 * number);
            if self.model.random.one_in(3) {
                continue;
            }
            let log = next.entry(group).or_insert_with(|| {
                said.push(Said::Born(group));
                Arc::default()
            });
            said.push(self.write_some(group, log));
        }
        // A batch without ops is acknowledged without a record; nothing could be said about its place.
        if !said.is_empty() {
            self.submit(worker, said);
        }
    }

    fn submit(&mut self, worker: usize, said: Batch) {
        self.batches[worker] += 1;
        let mut batch = LogBatch {
            id: BatchId(self.batches[worker]),
            ..LogBatch::default()
        };
        for said in &said {
            match said {
                Said::Born(group) => batch.births.push(birth(*group)),
                said => batch.writes.extend(group_write(said)),
            }
        }
        // Births come first in a record, whatever order they were told in.
        let (mut said, writes): (Batch, Batch) =
            said.into_iter().partition(|said| matches!(said, Said::Born(_)));
        said.extend(writes);
        let said = Arc::new(said);
        self.model.submit(Arc::clone(&said));
        guard(&self.setting.progress.submitted).push(said);
        self.storages[worker].submit(self.sabotage.batch(batch));
    }

    fn write_some(&mut self, group: GroupId, log: &Log) -> Said {
        let random = &mut self.model.random;
        let mut hard_state = None;
        let mut count = random.below(self.setting.script.entries);
        let mut kept = log.entries.len() as u64;
        if random.one_in(5) || log.hard_state.term.0 == 0 {
            let mut next = log.hard_state;
            next.term = Term(next.term.0 + 1);
            next.vote = random.one_in(2).then(|| replica(group));
            hard_state = Some(next);
            // A new leader replaces what was not committed, with at least one entry.
            count = count.max(1);
            kept = log.commit + random.below(kept - log.commit + 1);
        }
        let term = hard_state.unwrap_or(log.hard_state).term.0;
        let entries = (kept + 1..=kept + count)
            .map(|index| self.some_entry(group, term, index))
            .collect();
        let acknowledged = self.model.acknowledged.get(&group);
        let durable = acknowledged.map_or(0, |log| log.entries.len() as u64).min(kept);
        let commit = durable - self.model.random.below(4).min(durable);
        Said::Wrote {
            group,
            hard_state,
            entries,
            commit: log.commit.max(commit),
        }
    }

    fn some_entry(&mut self, group: GroupId, term: u64, index: u64) -> Entry {
        let random = &mut self.model.random;
        let script = &self.setting.script;
        let key = random.below(script.keys);
        let length = match random.one_in(script.large_one_in) {
            true => script.large_bytes,
            false => random.index(usize::try_from(script.value_bytes).expect("small")),
        };
        let mut entry = command(term, index, key, length);
        if random.one_in(15) {
            entry.payload = Payload::Membership(membership(group, random.below(3)));
        }
        entry
    }

    fn take_completions(&mut self) {
        let mut others = Vec::new();
        for worker in 0..WORKERS {
            while let Some(completion) = self.sinks[worker].take() {
                match completion {
                    // Batches are acknowledged in submit order, over all workers.
                    Completion::Durable { .. } => self.model.acknowledge_one(),
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
            let lag = self.model.random.below(self.setting.script.lag);
            let index = Index(applied.0.saturating_sub(lag));
            self.storages[worker].truncate(*group, index);
            self.fetch(*group, index.next(), 20_000);
        }
    }

    /// Asks for everything from `first` on.
    fn fetch(&mut self, group: GroupId, first: Index, bytes_max: usize) {
        let request = FetchRequest {
            group,
            life: Life(1),
            peer: replica(group),
            range: first..=Index(u64::MAX - 1),
            bytes_max,
        };
        self.storages[worker_of(group, WORKERS)].fetch(request);
    }

    /// The part of a batch that is durable may be fetched before the batch is acknowledged.
    fn check_fetched(&self, group: GroupId, entries: &[Entry]) {
        let log = &self.model.acknowledged[&group];
        for entry in entries {
            let acknowledged = log.entries.get(entry.id.index.0 as usize - 1);
            assert!(
                acknowledged == Some(entry) || self.model.is_under_way(group, entry),
                "fetched from {group}: {:.100?}, expected {acknowledged:.100?}",
                entry
            );
        }
    }

    /// Every entry that was found at the start can be read back from where the index says it lies.
    pub fn check_log(&mut self) {
        let found = std::mem::take(&mut self.found);
        for found in &found {
            let truncated = found.restored.truncated.index;
            self.fetch(found.group, truncated.next(), FETCH_BYTES);
            assert!(self.store.fetch_once(), "nothing is under way");
            let completion = self.sinks[worker_of(found.group, WORKERS)].take();
            let Some(Completion::Fetched { entries, .. }) = completion else {
                panic!("a fetch is answered, not {completion:?}");
            };
            assert_eq!(
                entries, found.restored.entries,
                "{}'s log, read back",
                found.group
            );
        }
        self.found = found;
    }

    /// What is committed and durable is applied, as workers do.
    fn apply_committed(&mut self) {
        for (group, log) in &self.model.acknowledged {
            let applied = self.applied.entry(*group).or_insert(0);
            let commit = log.commit.min(log.entries.len() as u64);
            let state = &mut self.states[worker_of(*group, WORKERS)];
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
            .filter(|(group, _)| worker_of(**group, WORKERS) == worker);
        let rows = mine.map(|(group, applied)| {
            let log = &self.model.acknowledged[group];
            let last = applied.checked_sub(1).map(|at| log.entries[at as usize].id);
            GroupRow {
                group: *group,
                replica: replica(*group),
                life: Life(1),
                applied: last.unwrap_or(EntryId::ZERO),
                membership: membership(*group, 0),
                descriptor: descriptor(*group, *applied),
            }
        });
        let rows = rows.collect();
        self.storages[worker].freeze(cut, rows);
    }

    /// Everything readable is what the applied entries make.
    pub fn check_contents(&self) {
        for (group, applied) in &self.applied {
            self.check_state(*group, *applied);
            let expected = self.model.contents(*group, *applied);
            for key in (0..self.setting.script.keys).map(u64::to_be_bytes) {
                let found = self.state(*group).get(*group, &key);
                assert_eq!(found, expected.get(&key[..]).cloned(), "{group}");
            }
        }
    }

    /// Makes everything submitted durable, as far as the ring has room, and applies it.
    pub fn settle(&mut self) {
        while self.store.commit_once() {}
        self.take_completions();
    }

    /// Settles, then writes a checkpoint of all that.
    pub fn checkpoint(&mut self) {
        self.settle();
        self.store.want_checkpoint();
        (0..WORKERS).for_each(|worker| self.freeze_if_wanted(worker));
        assert!(self.checkpoint_if_ready(), "every worker froze");
        self.take_completions();
    }

    /// A clean stop.
    pub fn close(mut self) -> (Closed, Model) {
        self.settle();
        let World {
            store,
            storages,
            states,
            model,
            setting,
            ..
        } = self;
        drop((storages, states));
        setting.progress.enter(Phase::Closing);
        (store.close(), model)
    }

    /// The process dies.
    pub fn kill(self) -> Model {
        self.model
    }
}

fn group_write(said: &Said) -> Option<GroupWrite> {
    let Said::Wrote {
        group,
        hard_state,
        entries,
        commit,
    } = said
    else {
        return None;
    };
    Some(GroupWrite {
        group: *group,
        replica: replica(*group),
        life: Life(1),
        write: WriteId(1),
        hard_state: *hard_state,
        entries: entries.clone(),
        commit: Index(*commit),
    })
}
