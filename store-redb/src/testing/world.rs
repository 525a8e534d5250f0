//! A scripted node: it submits, applies, freezes and truncates as workers do, one step at a time and without threads,
//! on any disk, and compares what it finds with the model.

use super::bugs::{Bug, Sabotage};
use super::fates::{Arriving, Lived};
use super::history::{
    Contents, Effect, Found, Groups, Log, Newborn, Origin, Said, command, descriptor, membership, replica,
};
use super::model::{Batch, Extent, Model};
use super::random::Random;
use crate::engine::lock;
use crate::{
    Child, Closed, ClusterId, CommitSample, Disk, ExitReason, Identity, OpenError, Opened, Options, Store,
    WorkerState, WorkerStorage, worker_of,
};
use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, FetchRequest, GroupId, GroupRow, GroupWrite,
    HardState, Index, Install, Life, LogBatch, NodeId, Payload, RaftStorage, ReplicaId, RestoredGroup, Term,
    WriteId,
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

/// Rows that a transaction deletes at once: few, so that deletions take several.
const SLICE_ROWS: usize = 16;

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
    /// It writes staged rows, or deletes what nobody maps.
    Tidying,
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
            Phase::Tidying,
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

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn wrote_record(&self, sample: CommitSample) {
        let mut records = guard(&self.records);
        let last = records.last().copied().unwrap_or_default();
        records.push(Extent {
            batches: last.batches + sample.batches,
            entries: last.entries + sample.entries,
            fates: last.fates + sample.fates,
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
    /// One group in so many is installed, split or removed at a step; 0: none.
    pub fate_one_in: u64,
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
            fate_one_in: 0,
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
            fate_one_in: [8, 25, 60, 0][random.index(4)],
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

/// One group as its worker has it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) worker: usize,
    pub(super) replica: ReplicaId,
    /// What its log begins with.
    pub(super) origin: Arc<Origin>,
    pub(super) applied: EntryId,
    /// Committed as far as the worker knows; a durable mark may say less.
    pub(super) learned: u64,
    pub(super) doing: Doing,
    /// Since its last row.
    pub(super) is_changed: bool,
    /// Installed, and no row says so yet.
    pub(super) is_new: bool,
    /// Writes once in so many steps.
    pub(super) writes_one_in: u64,
}

/// What a group is busy with.
#[derive(Debug)]
pub(super) enum Doing {
    /// It writes and applies.
    Usual,
    /// Waits to hear of an install; what its log then begins with, and whether it should take place.
    Installing(Arc<Origin>, bool),
    /// Its tombstone is under way.
    Leaving,
}

impl Running {
    pub(super) fn new(worker: usize, replica: ReplicaId, origin: Arc<Origin>, writes_one_in: u64) -> Running {
        Running {
            worker,
            replica,
            applied: origin.base,
            learned: origin.base.index.0,
            origin,
            doing: Doing::Usual,
            is_changed: true,
            is_new: false,
            writes_one_in,
        }
    }

    pub(super) fn is_usual(&self) -> bool {
        matches!(self.doing, Doing::Usual)
    }
}

/// A node with its workers, taken step by step.
#[derive(Debug)]
pub struct World {
    pub(super) store: Store,
    pub(super) storages: Vec<WorkerStorage>,
    pub(super) states: Vec<WorkerState>,
    sinks: Vec<Arc<Sink>>,
    pub(super) setting: Setting,
    pub(super) sabotage: Sabotage,
    /// What must be there.
    pub model: Model,
    found: Vec<RestoredGroup>,
    pub(super) running: BTreeMap<GroupId, Running>,
    /// Children that each worker's next batch must bear.
    pub(super) unborn: Vec<Vec<Newborn>>,
    pub(super) arriving: Vec<Arriving>,
    /// Tombstones under way: of which worker's batch, and whose.
    pub(super) leaving: Vec<(usize, BatchId, GroupId)>,
    batches: Vec<u64>,
    /// What happened to groups.
    pub lived: Lived,
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
            on_commit: Some(Arc::new(move |sample| tap.wrote_record(sample))),
            slice_rows: SLICE_ROWS,
            ..options(WORKERS)
        };
        let sabotage = Sabotage::new(setting.bug);
        let opened = Store::open_on(sabotage.disk(disk), IDENTITY, options)?;
        let mut world = World::new(opened, model, setting, sabotage);
        world.check_restored();
        world.replay();
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
            "[incarnation] {} was used before",
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
            running: BTreeMap::new(),
            unborn: (0..WORKERS).map(|_| Vec::new()).collect(),
            arriving: Vec::new(),
            leaving: Vec::new(),
            batches: vec![0; WORKERS],
            lived: Lived::default(),
        }
    }

    /// Everything acknowledged is there, nothing half; the state is exactly what its row says.
    fn check_restored(&mut self) {
        let tombstones = lock(&self.store.engine.index).lives.tombstones.clone();
        self.model.settle(Found {
            groups: &self.found,
            tombstones: &tombstones,
        });
        for (group, lowest) in tombstones {
            let storage = &self.storages[0];
            assert!(!storage.may_bear(group, ReplicaId(lowest.0 - 1)) && storage.may_bear(group, lowest));
        }
        let found = std::mem::take(&mut self.found);
        for restored in &found {
            self.check_group(restored);
            let log = Arc::clone(&self.model.acknowledged.logs[&restored.group]);
            let worker = worker_of(elder(&found, restored), WORKERS);
            let (replica, origin) = (log.replica, Arc::clone(&log.origin));
            let mut running = Running::new(worker, replica, origin, self.pace());
            let applied = restored.restored.applied.0;
            running.applied = log.id(applied).expect("what was applied is in the log");
            running.learned = log.commit;
            self.running.insert(restored.group, running);
        }
        self.found = found;
    }

    fn check_group(&self, found: &RestoredGroup) {
        let (group, restored) = (found.group, &found.restored);
        let truncated = restored.truncated.index;
        let log = &self.model.acknowledged.logs[&group];
        assert_eq!(
            restored.membership,
            *log.membership(truncated.0),
            "[membership] {group}'s as of {truncated}"
        );
        self.check_descriptor(found);
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
        let base = self.model.acknowledged.logs[&group].origin.base.index.0;
        assert!(
            base <= at && at <= applied && found.descriptor == descriptor(group, at),
            "[descriptor] {group}: {told}, base {base}, applied {applied}"
        );
    }

    /// Replays what a start found to be committed, parents first: before that, a child's state is not there.
    fn replay(&mut self) {
        let mut waiting: Vec<(GroupId, Option<GroupId>)> = self
            .found
            .iter()
            .map(|found| (found.group, found.after))
            .collect();
        while !waiting.is_empty() {
            let left: Vec<GroupId> = waiting.iter().map(|(group, _)| *group).collect();
            let is_ready = |after: &Option<GroupId>| after.is_none_or(|parent| !left.contains(&parent));
            let (ready, others): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(_, after)| is_ready(after));
            assert!(!ready.is_empty(), "[lives] nobody can be replayed: {others:?}");
            for (group, _) in ready {
                self.check_state(group);
                self.apply_group(group);
            }
            waiting = others;
        }
    }

    /// A scan finds exactly what the applied entries make.
    fn check_state(&self, group: GroupId) {
        let Some(expected) = self.expected(group) else {
            return;
        };
        let applied = self.running[&group].applied;
        let mut left = expected.iter();
        self.state(group).scan(group, &[], None, &mut |key, value| {
            let next = left.next();
            assert!(
                next.is_some_and(|(known, expected)| known == key && expected == value),
                "[state] {group} at {applied}: {key:?} = {} bytes, expected {:?}",
                value.len(),
                next.map(|(key, value)| (key, value.len()))
            );
            ControlFlow::Continue(())
        });
        let missing = left.next().map(|(key, value)| (key, value.len()));
        assert_eq!(
            missing, None,
            "[state] {group} at {applied}: the scan ended early"
        );
    }

    /// What a running group holds; `None`: the model does not know its log yet, or not any more.
    pub(super) fn expected(&self, group: GroupId) -> Option<Arc<Contents>> {
        let running = &self.running[&group];
        match self.log_of(group) {
            Some(log) => Some(log.contents(running.applied.index.0)),
            None if running.applied == running.origin.base => Some(Arc::clone(&running.origin.contents)),
            None => None,
        }
    }

    /// The acknowledged log of a running group, if it is of the same life.
    fn log_of(&self, group: GroupId) -> Option<&Arc<Log>> {
        let running = &self.running[&group];
        let log = self.model.acknowledged.logs.get(&group);
        log.filter(|log| Arc::ptr_eq(&log.origin, &running.origin))
    }

    /// How seldom a group writes.
    pub(super) fn pace(&mut self) -> u64 {
        match self.setting.script.fate_one_in {
            0 => 1,
            _ => [1, 1, 2, 8][self.model.random.index(4)],
        }
    }

    /// The groups as they were found at the start.
    pub fn found(&self) -> &[RestoredGroup] {
        &self.found
    }

    /// The state of a group's worker.
    pub fn state(&self, group: GroupId) -> &WorkerState {
        &self.states[self.running[&group].worker]
    }

    /// The store under test.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One turn of every worker, by chance: writes, commits, checkpoints, truncations.
    pub fn step(&mut self) {
        self.stage_some();
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
        let new = self.running.iter().filter(|(_, running)| running.is_new);
        let new: Vec<GroupId> = new.map(|(group, _)| *group).collect();
        self.sabotage.before_checkpoint(&self.store, &new);
        self.setting.progress.enter(Phase::Checkpointing);
        let is_written = self.store.checkpoint_once();
        self.setting.progress.enter(Phase::Committing);
        self.sabotage.after_checkpoint(&self.store, is_written);
        self.model.checkpoints += u64::from(is_written);
        is_written
    }

    fn submit_some(&mut self, worker: usize) {
        let mut next = self.model.newest();
        let mut said = self.births(worker, &mut next);
        let (installs, stagings) = self.installs(worker, &said, &mut next);
        let (births, writes) = self.writes(worker, &mut next);
        // The order in which a record has them.
        said.extend(births);
        said.extend(installs);
        said.extend(writes);
        let burials = self.burials(worker, &said, &next);
        said.extend(burials);
        // A batch without ops is acknowledged without a record; nothing could be said about its place.
        if !said.is_empty() {
            self.submit(worker, said, stagings);
        }
    }

    fn submit(&mut self, worker: usize, said: Batch, stagings: Vec<multiraft::StagingId>) {
        self.batches[worker] += 1;
        let mut batch = LogBatch {
            id: BatchId(self.batches[worker]),
            ..LogBatch::default()
        };
        let mut stagings = stagings.into_iter();
        for said in &said {
            match said {
                Said::Born(newborn) => batch.births.push(birth_of(newborn)),
                Said::Installed(arrival) => batch.installs.push(Install {
                    group: arrival.group,
                    replica: self.running[&arrival.group].replica,
                    life: Life(1),
                    staging: stagings.next().expect("one for each install"),
                    snapshot: arrival.origin.base,
                    membership: arrival.origin.membership.clone(),
                    hard_state: arrival.hard_state,
                    descriptor: descriptor(arrival.group, arrival.origin.base.index.0),
                }),
                Said::Buried(tombstone) => {
                    self.leaving.push((worker, batch.id, tombstone.group));
                    batch.tombstones.push(*tombstone);
                }
                said => batch.writes.extend(group_write(said)),
            }
        }
        let said = Arc::new(said);
        self.model.submit(Arc::clone(&said));
        guard(&self.setting.progress.submitted).push(said);
        self.storages[worker].submit(self.sabotage.batch(batch));
    }

    /// What the groups of a worker write, and births of replicas that are going to be split off.
    fn writes(&mut self, worker: usize, next: &mut Groups) -> (Batch, Batch) {
        let mine = self
            .running
            .iter()
            .filter(|(_, running)| running.worker == worker);
        let mine: Vec<(GroupId, u64)> = mine
            .filter(|(_, running)| running.is_usual())
            .map(|(group, running)| (*group, running.writes_one_in))
            .collect();
        let (mut births, mut writes) = (Batch::new(), Batch::new());
        for (group, one_in) in mine {
            if self.model.random.one_in(3) || !self.model.random.one_in(one_in) {
                continue;
            }
            let Some(log) = next.logs.get(&group).cloned() else {
                continue; // its birth did not take place
            };
            self.learn(group, &log);
            if !log.is_initialised() {
                writes.push(self.promise_some(group, &log));
                continue;
            }
            let mut said = self.write_some(group, &log);
            births.extend(self.split_some(worker, &mut said, &log, next));
            writes.push(said);
        }
        (births, writes)
    }

    /// The worker hears that more of its log is committed.
    fn learn(&mut self, group: GroupId, newest: &Log) {
        if !self.model.random.one_in(3) {
            return;
        }
        let Some(log) = self.log_of(group) else { return };
        // Of what is durable, only what no leader is replacing.
        let is_same = |entry: &Entry| newest.id(entry.id.index.0) == Some(entry.id);
        let same = log.entries.partition_point(is_same);
        let most = match Arc::ptr_eq(&log.origin, &newest.origin) {
            true => log.origin.base.index.0 + same as u64,
            false => 0,
        };
        let running = self.running.get_mut(&group).expect("it writes");
        running.learned = running.learned.max(most);
    }

    fn promise_some(&mut self, group: GroupId, log: &Log) -> Said {
        let random = &mut self.model.random;
        let term = Term(log.hard_state.term.0 + 1 + random.below(4));
        let vote = random.one_in(2).then_some(log.replica);
        Said::Wrote {
            group,
            replica: log.replica,
            hard_state: Some(HardState { term, vote }),
            entries: Vec::new(),
            commit: 0,
        }
    }

    fn write_some(&mut self, group: GroupId, log: &Log) -> Said {
        let floor = log.commit.max(self.running[&group].learned);
        let random = &mut self.model.random;
        let mut hard_state = None;
        let mut count = random.below(self.setting.script.entries);
        let mut kept = log.last();
        if random.one_in(5) || log.hard_state.term.0 == 0 {
            let mut next = log.hard_state;
            next.term = Term(next.term.0 + 1);
            next.vote = random.one_in(2).then_some(log.replica);
            hard_state = Some(next);
            // A new leader replaces what was not committed, with at least one entry.
            count = count.max(1);
            kept = floor + random.below(kept - floor + 1);
        }
        let term = hard_state.unwrap_or(log.hard_state).term.0;
        let entries = (kept + 1..=kept + count)
            .map(|index| self.some_entry(group, term, index))
            .collect();
        let acknowledged = self.log_of(group);
        let durable = acknowledged.map_or(0, |log| log.last()).min(kept);
        let commit = durable - self.model.random.below(4).min(durable);
        Said::Wrote {
            group,
            replica: log.replica,
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
            entry.payload = Payload::Membership(Box::new(membership(group, random.below(3))));
        }
        entry
    }

    fn take_completions(&mut self) {
        let mut others = Vec::new();
        let mut durable = Vec::new();
        for worker in 0..WORKERS {
            while let Some(completion) = self.sinks[worker].take() {
                match completion {
                    // Batches are acknowledged in submit order, over all workers.
                    Completion::Durable { batch, .. } => {
                        self.model.acknowledge_one();
                        durable.push((worker, batch));
                    }
                    Completion::Installed {
                        group, is_installed, ..
                    } => self.installed(worker, group, is_installed),
                    other => others.push((worker, other)),
                }
            }
        }
        self.forget_buried(&durable);
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
            self.fetch(worker, *group, index.next(), 20_000);
        }
    }

    /// Asks for everything from `first` on.
    fn fetch(&mut self, worker: usize, group: GroupId, first: Index, bytes_max: usize) {
        let request = FetchRequest {
            group,
            life: Life(1),
            peer: replica(group),
            range: first..=Index(u64::MAX - 1),
            bytes_max,
        };
        self.storages[worker].fetch(request);
    }

    /// The part of a batch that is durable may be fetched before the batch is acknowledged.
    fn check_fetched(&self, group: GroupId, entries: &[Entry]) {
        let log = self.model.acknowledged.logs.get(&group);
        for entry in entries {
            let acknowledged = log.and_then(|log| log.entry(entry.id.index.0));
            assert!(
                acknowledged == Some(entry) || self.model.is_under_way(group, entry),
                "[fetch] from {group}: {:.100?}, expected {acknowledged:.100?}",
                entry
            );
        }
    }

    /// Every entry that was found at the start can be read back from where the index says it lies.
    pub fn check_log(&mut self) {
        let found = std::mem::take(&mut self.found);
        for found in &found {
            let truncated = found.restored.truncated.index;
            let worker = self.running[&found.group].worker;
            self.fetch(worker, found.group, truncated.next(), FETCH_BYTES);
            assert!(self.store.fetch_once(), "nothing is under way");
            let completion = self.sinks[worker].take();
            let Some(Completion::Fetched { entries, .. }) = completion else {
                panic!("a fetch is answered, not {completion:?}");
            };
            assert_eq!(
                entries, found.restored.entries,
                "[fetch] {}'s log, read back",
                found.group
            );
        }
        self.found = found;
    }

    /// What is committed and durable is applied, as workers do.
    fn apply_committed(&mut self) {
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        groups.into_iter().for_each(|group| self.apply_group(group));
    }

    fn apply_group(&mut self, group: GroupId) {
        if !self.running[&group].is_usual() {
            return;
        }
        let Some(log) = self.log_of(group).cloned() else {
            return;
        };
        let Running {
            worker,
            applied,
            learned,
            ..
        } = self.running[&group];
        let committed = log.commit.max(learned);
        for entry in log.behind(applied.index.0) {
            if entry.id.index.0 > committed {
                break;
            }
            self.apply(worker, group, &log, entry);
            let running = self.running.get_mut(&group).expect("nobody leaves meanwhile");
            running.applied = entry.id;
            running.is_changed = true;
        }
    }

    fn apply(&mut self, worker: usize, group: GroupId, log: &Log, entry: &Entry) {
        let state = &mut self.states[worker];
        match log.effect(entry) {
            Effect::Put(key, value) => state.put(group, &key, value),
            Effect::Delete(key) => state.delete(group, &key),
            Effect::Split(split) => {
                let keys = [split.keys.start, split.keys.end].map(u64::to_be_bytes);
                let child = (split.child, split.replica);
                if state.split(group, child, &keys[0], Some(&keys[1])) == Child::Born {
                    self.split_off(worker, group, log, entry.id.index.0, &split);
                }
                self.lived.splits += 1;
            }
            Effect::Nothing => {}
        }
        self.states[worker].mark_applied(group, entry.id);
    }

    fn freeze_if_wanted(&mut self, worker: usize) {
        let Some(cut) = self.storages[worker].cut_wanted() else {
            return;
        };
        self.states[worker].freeze(cut);
        let mut rows = Vec::new();
        let mine = self.running.iter_mut();
        for (group, running) in mine.filter(|(_, running)| running.worker == worker) {
            let is_idle = running.applied == running.origin.base;
            let is_passed_over = self.sabotage.passes_over(running.is_new && is_idle);
            if !std::mem::take(&mut running.is_changed) || is_passed_over {
                continue;
            }
            running.is_new = false;
            rows.push(GroupRow {
                group: *group,
                replica: running.replica,
                life: Life(1),
                applied: running.applied,
                membership: running.origin.membership.clone(),
                descriptor: descriptor(*group, running.applied.index.0),
            });
        }
        self.storages[worker].freeze(cut, rows);
    }

    /// Everything readable is what the applied entries make.
    pub fn check_contents(&self) {
        for group in self.running.keys() {
            self.check_state(*group);
            let Some(expected) = self.expected(*group) else {
                continue;
            };
            for key in (0..self.setting.script.keys).map(u64::to_be_bytes) {
                let found = self.state(*group).get(*group, &key);
                assert_eq!(found, expected.get(&key[..]).cloned(), "[state] {group}");
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
            arriving,
            model,
            setting,
            ..
        } = self;
        drop((storages, states, arriving));
        setting.progress.enter(Phase::Closing);
        (store.close(), model)
    }

    /// The process dies.
    pub fn kill(self) -> Model {
        self.model
    }
}

/// The group that must be replayed before this one; itself, if none.
fn elder(found: &[RestoredGroup], group: &RestoredGroup) -> GroupId {
    let parent = found.iter().find(|other| Some(other.group) == group.after);
    parent.map_or(group.group, |parent| elder(found, parent))
}

fn birth_of(newborn: &Newborn) -> Birth {
    Birth {
        group: newborn.group,
        replica: newborn.replica,
        membership: newborn.origin.membership.clone(),
        base: newborn.origin.base,
        split: newborn.split,
        descriptor: descriptor(newborn.group, newborn.origin.base.index.0),
    }
}

fn group_write(said: &Said) -> Option<GroupWrite> {
    let Said::Wrote {
        group,
        replica,
        hard_state,
        entries,
        commit,
    } = said
    else {
        return None;
    };
    Some(GroupWrite {
        group: *group,
        replica: *replica,
        life: Life(1),
        write: WriteId(1),
        hard_state: *hard_state,
        entries: entries.clone(),
        commit: Index(*commit),
    })
}
