//! One node's disk in memory: a log for all workers, made durable by explicit syncs, and checkpoints.
//! It outlives the node's crashes; what was not synced does not.

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::room::Room;
use crate::snapshot::{SnapshotHead, SnapshotReader, SnapshotStaging, SnapshotWriter, Staged};
use crate::storage::{
    Birth, Completion, CompletionSink, CutId, FetchRequest, GroupRow, GroupWrite, Install, LogBatch,
    RaftStorage, RestoredGroup, StagingId, Tombstone,
};
use crate::types::{Entry, EntryId, GroupId, HardState, Index, Life, Membership, Payload, ReplicaId};
use bytes::Bytes;
use raft_core::Restored;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// When queued batches become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// At [`MemDisk::sync`] and [`MemDisk::sync_one`].
    Explicit,
    /// Within `submit`: a disk without latency.
    AtOnce,
}

/// The disk. Cheap to clone: all clones are the same disk.
#[derive(Clone)]
pub struct MemDisk {
    shared: Arc<Mutex<Disk>>,
}

/// One worker's handle.
#[derive(Debug)]
pub struct MemStorage {
    disk: MemDisk,
    worker: usize,
}

impl MemDisk {
    /// An empty disk.
    pub fn new(mode: SyncMode) -> MemDisk {
        let disk = Disk {
            mode,
            sinks: Vec::new(),
            logs: BTreeMap::new(),
            rows: BTreeMap::new(),
            states: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            staged: BTreeMap::new(),
            stagings: 0,
            queue: VecDeque::new(),
            fetches: VecDeque::new(),
            holds_fetches: false,
            cut: None,
            cuts: 0,
            room: Room::UNBOUNDED,
        };
        MemDisk {
            shared: Arc::new(Mutex::new(disk)),
        }
    }

    /// Starts, after `restore` if anything is on the disk; `sinks[w]` hears worker w's completions.
    pub fn start(&self, sinks: Vec<Arc<dyn CompletionSink>>) {
        self.lock().sinks = sinks;
    }

    /// Worker w's log.
    pub fn storage(&self, worker: usize) -> MemStorage {
        MemStorage {
            disk: self.clone(),
            worker,
        }
    }

    /// Every group, as a restart finds it.
    pub fn restore(&self) -> Vec<RestoredGroup> {
        let disk = self.lock();
        disk.logs
            .iter()
            .map(|(group, log)| log.restore(*group, disk.rows.get(group)))
            .collect()
    }

    /// Makes everything queued durable, and answers fetches.
    pub fn sync(&self) {
        while self.sync_one() {}
    }

    /// Makes the oldest batch durable, or else answers the oldest fetch. False: there was nothing to do.
    pub fn sync_one(&self) -> bool {
        let done = self.lock().sync_one();
        let found = done.is_some();
        if let Some((sink, completions)) = done {
            for completion in completions {
                sink.complete(completion); // outside the lock: the sink may lead back here
            }
        }
        found
    }

    /// Whether fetches wait from now on, as behind a slow disk. What waits is answered by the next sync after that.
    pub fn hold_fetches(&self, is_held: bool) {
        self.lock().holds_fetches = is_held;
    }

    /// Fetches that wait.
    pub fn fetches(&self) -> usize {
        self.lock().fetches.len()
    }

    /// Batches and fetches that wait.
    pub fn queued(&self) -> usize {
        let disk = self.lock();
        disk.queue.len() + disk.fetches.len()
    }

    /// Asks every worker to freeze for a checkpoint. False: one is under way.
    pub fn want_checkpoint(&self) -> bool {
        let mut disk = self.lock();
        if disk.cut.is_some() {
            return false;
        }
        disk.cuts += 1;
        disk.cut = Some(Cut::new(CutId(disk.cuts)));
        true
    }

    /// Commits the checkpoint that every worker has frozen for. False: there is none. Like a real store, it first
    /// makes durable what was submitted before: a row never reflects entries that the log has lost.
    pub fn commit_checkpoint(&self) -> bool {
        let workers = self.lock().sinks.len();
        if self
            .lock()
            .cut
            .as_ref()
            .is_none_or(|cut| cut.frozen.len() < workers)
        {
            return false;
        }
        self.sync();
        let rows = self.lock().commit_checkpoint();
        for (sink, rows) in rows {
            sink.complete(Completion::Checkpointed { rows });
        }
        true
    }

    /// What `room` says from now on.
    pub fn set_room(&self, room: Room) {
        self.lock().room = room;
    }

    /// The node crashes: everything queued and every unfinished checkpoint is gone, nobody hears about anything.
    pub fn crash(&self) {
        let mut disk = self.lock();
        disk.queue.clear();
        disk.fetches.clear();
        disk.sinks.clear();
        disk.staged.clear();
        disk.cut = None;
    }

    /// Takes a snapshot's state, durably, for an install to name.
    pub fn stage_snapshot(&self, state: Bytes) -> StagingId {
        let mut disk = self.lock();
        disk.stagings += 1;
        let staging = StagingId(disk.stagings);
        disk.staged.insert(staging, state);
        staging
    }

    /// The state machine's part of a checkpoint: the group's state as frozen for `cut`.
    pub fn stage_state(&self, cut: CutId, group: GroupId, state: Bytes) {
        let mut disk = self.lock();
        let staged = disk.cut.as_mut().filter(|staged| staged.id == cut);
        staged
            .expect("states are staged for the cut under way")
            .states
            .insert(group, state);
    }

    /// Snapshots that are staged and not installed.
    pub fn staged(&self) -> usize {
        self.lock().staged.len()
    }

    /// The group's state in the last committed checkpoint.
    pub fn state(&self, group: GroupId) -> Option<Bytes> {
        self.lock().states.get(&group).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.shared
            .lock()
            .expect("nothing panics while it holds the disk")
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").finish_non_exhaustive()
    }
}

impl RaftStorage for MemStorage {
    fn submit(&mut self, batch: LogBatch) {
        let at_once = {
            let mut disk = self.disk.lock();
            disk.check_settled(&batch);
            disk.queue.push_back((self.worker, batch));
            disk.mode == SyncMode::AtOnce
        };
        if at_once {
            self.disk.sync();
        }
    }

    fn fetch(&mut self, request: FetchRequest) {
        let at_once = {
            let mut disk = self.disk.lock();
            disk.fetches.push_back((self.worker, request));
            disk.mode == SyncMode::AtOnce
        };
        if at_once {
            self.disk.sync();
        }
    }

    fn truncate(&mut self, group: GroupId, index: Index) {
        let mut disk = self.disk.lock();
        let checkpointed = disk.rows.get(&group).map_or(Index(0), |row| row.applied.index);
        assert!(
            index <= checkpointed,
            "{group} truncated to {index}, checkpointed {checkpointed}"
        );
        if let Some(log) = disk.logs.get_mut(&group) {
            log.truncate(index);
        }
    }

    fn want_checkpoint(&mut self) {
        if self.disk.want_checkpoint() {
            let sinks = self.disk.lock().sinks.clone();
            let wake = || Completion::Checkpointed { rows: Vec::new() };
            sinks.iter().for_each(|sink| sink.complete(wake()));
        }
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        let disk = self.disk.lock();
        let cut = disk.cut.as_ref()?;
        (!cut.frozen.contains(&self.worker)).then_some(cut.id)
    }

    fn freeze(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        let at_once = {
            let mut disk = self.disk.lock();
            let staged = disk.cut.as_mut().filter(|staged| staged.id == cut);
            let staged = staged.expect("workers freeze for the cut under way");
            assert!(
                staged.frozen.insert(self.worker),
                "a worker freezes once for a cut"
            );
            staged.rows.extend(rows.into_iter().map(|row| (self.worker, row)));
            disk.mode == SyncMode::AtOnce
        };
        if at_once {
            self.disk.commit_checkpoint();
        }
    }

    fn room(&self) -> Room {
        self.disk.lock().room
    }

    fn snapshot(&mut self, group: GroupId) -> Box<dyn SnapshotReader> {
        Box::new(MemReader {
            disk: self.disk.clone(),
            group,
            state: Bytes::new(),
        })
    }

    fn may_bear(&self, group: GroupId, replica: ReplicaId) -> bool {
        !self.disk.lock().is_forbidden(group, replica)
    }

    fn is_settled(&self, group: GroupId) -> bool {
        self.disk.lock().is_settled(group)
    }
}

/// Reads a group's state as of its row, in pieces of a few bytes.
struct MemReader {
    disk: MemDisk,
    group: GroupId,
    state: Bytes,
}

impl SnapshotReader for MemReader {
    fn open(&mut self) -> Result<SnapshotHead, String> {
        let disk = self.disk.lock();
        let (row, state) = (disk.rows.get(&self.group), disk.states.get(&self.group));
        let (row, state) = row.zip(state).ok_or("no checkpoint holds the group yet")?;
        self.state = state.clone();
        Ok(SnapshotHead {
            snapshot: row.applied,
            membership: row.membership.clone(),
            descriptor: row.descriptor.clone(),
        })
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        const PIECE_BYTES: usize = 7;
        let piece = self.state.split_to(self.state.len().min(PIECE_BYTES));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// Collects a snapshot's pieces.
struct MemWriter {
    disk: MemDisk,
    state: Vec<u8>,
}

impl SnapshotWriter for MemWriter {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        self.state.extend_from_slice(&piece);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, String> {
        let staging = self.disk.stage_snapshot(self.state.into());
        Ok(Box::new(MemStaged {
            disk: self.disk,
            staging: Some(staging),
        }))
    }
}

/// What was staged, until somebody takes it over.
#[derive(Debug)]
struct MemStaged {
    disk: MemDisk,
    staging: Option<StagingId>,
}

impl Staged for MemStaged {
    fn hand_over(mut self: Box<Self>) -> StagingId {
        self.staging.take().expect("handed over once")
    }
}

impl Drop for MemStaged {
    fn drop(&mut self) {
        if let Some(staging) = self.staging {
            self.disk.lock().staged.remove(&staging);
        }
    }
}

impl SnapshotStaging for MemDisk {
    fn stage(&self) -> Result<Box<dyn SnapshotWriter>, String> {
        Ok(Box::new(MemWriter {
            disk: self.clone(),
            state: Vec::new(),
        }))
    }
}

struct Disk {
    mode: SyncMode,
    sinks: Vec<Arc<dyn CompletionSink>>,
    /// What a crash leaves: logs, rows, states.
    logs: BTreeMap<GroupId, Log>,
    rows: BTreeMap<GroupId, GroupRow>,
    states: BTreeMap<GroupId, Bytes>,
    /// The lowest replica ids that may still be born.
    tombstones: BTreeMap<GroupId, ReplicaId>,
    /// What it takes: the rest.
    staged: BTreeMap<StagingId, Bytes>,
    stagings: u64,
    queue: VecDeque<(usize, LogBatch)>,
    fetches: VecDeque<(usize, FetchRequest)>,
    holds_fetches: bool,
    cut: Option<Cut>,
    cuts: u64,
    room: Room,
}

/// A checkpoint in the making.
struct Cut {
    id: CutId,
    frozen: BTreeSet<usize>,
    rows: Vec<(usize, GroupRow)>,
    states: BTreeMap<GroupId, Bytes>,
}

impl Cut {
    fn new(id: CutId) -> Cut {
        Cut {
            id,
            frozen: BTreeSet::new(),
            rows: Vec::new(),
            states: BTreeMap::new(),
        }
    }
}

type Done = (Arc<dyn CompletionSink>, Vec<Completion>);
type Told = (Arc<dyn CompletionSink>, Vec<(GroupId, Life, Index)>);

impl Disk {
    fn sync_one(&mut self) -> Option<Done> {
        if let Some((worker, batch)) = self.queue.pop_front() {
            return Some((Arc::clone(&self.sinks[worker]), self.write(batch)));
        }
        if self.holds_fetches {
            return None;
        }
        let (worker, request) = self.fetches.pop_front()?;
        Some((Arc::clone(&self.sinks[worker]), vec![self.read(request)]))
    }

    /// A group whose child's state is made by its replay is neither replaced nor removed.
    fn check_settled(&self, batch: &LogBatch) {
        let installed = batch.installs.iter().map(|install| install.group);
        let removed = batch.tombstones.iter().map(|tombstone| tombstone.group);
        for group in installed.chain(removed) {
            let bears = batch.births.iter().any(|birth| is_child(birth, group));
            assert!(
                self.is_settled(group) && !bears,
                "a child of {group} needs its replay"
            );
        }
    }

    fn is_settled(&self, group: GroupId) -> bool {
        let mut waiting = self.queue.iter().flat_map(|(_, batch)| &batch.births);
        let needs = |child: &GroupId, log: &Log| log.parent == Some(group) && !self.rows.contains_key(child);
        !waiting.any(|birth| is_child(birth, group))
            && !self.logs.iter().any(|(child, log)| needs(child, log))
    }

    fn bear(&mut self, birth: Birth) {
        if self.is_forbidden(birth.group, birth.replica) {
            return;
        }
        if let Some(split) = birth.split {
            let parent = self.logs.get_mut(&split.parent).expect("a parent is there");
            parent.commit = parent.commit.max(split.at);
        }
        let group = birth.group;
        let mut born = Log::new(birth);
        if let Some(before) = self.logs.get(&group) {
            let is_newer = before.replica < born.replica || before.truncated < born.truncated;
            assert!(is_newer, "{group} is born twice");
            if before.hard_state.term > born.hard_state.term {
                born.hard_state = before.hard_state;
            }
        }
        self.logs.insert(group, born);
        self.rows.remove(&group);
        self.states.remove(&group);
    }

    fn is_forbidden(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.tombstones
            .get(&group)
            .is_some_and(|lowest| replica < *lowest)
    }

    fn install(&mut self, install: Install) -> Completion {
        let Install { group, life, .. } = install;
        let state = self.staged.remove(&install.staging);
        let state = state.expect("a snapshot is staged before it is installed");
        let log = self.logs.get_mut(&group).expect("a replica is born first");
        assert_eq!(log.replica, install.replica, "{group}: another replica's install");
        let applied = self.rows.get(&group).map_or(Index(0), |row| row.applied.index);
        let is_installed = install.snapshot.index > log.commit.max(applied);
        let staging = install.staging;
        if is_installed {
            self.rows.insert(group, log.install(install));
            self.states.insert(group, state);
        }
        Completion::Installed {
            group,
            life,
            staging,
            is_installed,
        }
    }

    fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { group, lowest } = tombstone;
        let known = self.tombstones.entry(group).or_insert(lowest);
        *known = lowest.max(*known);
        if self.logs.get(&group).is_some_and(|log| log.replica < lowest) {
            self.logs.remove(&group);
            self.rows.remove(&group);
            self.states.remove(&group);
        }
    }

    fn write(&mut self, batch: LogBatch) -> Vec<Completion> {
        batch.births.into_iter().for_each(|birth| self.bear(birth));
        let mut told: Vec<Completion> = batch
            .installs
            .into_iter()
            .map(|install| self.install(install))
            .collect();
        let mut writes = Vec::with_capacity(batch.writes.len());
        for write in batch.writes {
            writes.push((write.group, write.life, write.write));
            let log = self.logs.get_mut(&write.group).expect("writes follow a birth");
            log.write(write);
        }
        batch
            .tombstones
            .into_iter()
            .for_each(|tombstone| self.bury(tombstone));
        told.push(Completion::Durable {
            batch: batch.id,
            writes,
            then_send: batch.then_send,
        });
        told
    }

    fn read(&self, request: FetchRequest) -> Completion {
        let entries = match self.logs.get(&request.group) {
            Some(log) => log.read(&request),
            None => Vec::new(),
        };
        Completion::Fetched {
            group: request.group,
            life: request.life,
            peer: request.peer,
            entries,
        }
    }

    /// Per worker, what its replicas must hear.
    fn commit_checkpoint(&mut self) -> Vec<Told> {
        let cut = self.cut.take().expect("the caller checked");
        let mut told: Vec<_> = self
            .sinks
            .iter()
            .map(|sink| (Arc::clone(sink), Vec::new()))
            .collect();
        // What was replaced or removed since it was frozen stays so.
        let is_current = |log: &&Log, row: &GroupRow| {
            log.replica == row.replica && row.applied.index >= log.truncated.index
        };
        for (worker, row) in cut.rows {
            let group = row.group;
            if self
                .logs
                .get(&group)
                .filter(|log| is_current(log, &row))
                .is_none()
            {
                continue;
            }
            told[worker].1.push((group, row.life, row.applied.index));
            self.rows.insert(group, row);
            if let Some(state) = cut.states.get(&group) {
                self.states.insert(group, state.clone());
            }
        }
        told
    }
}

fn is_child(birth: &Birth, group: GroupId) -> bool {
    birth.split.is_some_and(|split| split.parent == group)
}

/// One group's durable log.
struct Log {
    replica: ReplicaId,
    /// The group it was split off.
    parent: Option<GroupId>,
    descriptor: Bytes,
    hard_state: HardState,
    truncated: EntryId,
    /// As of `truncated`.
    membership: Membership,
    entries: VecDeque<Entry>,
    commit: Index,
}

impl Log {
    fn new(birth: Birth) -> Log {
        let fresh = HardState {
            term: birth.base.term,
            vote: None,
        };
        Log {
            replica: birth.replica,
            parent: birth.split.map(|split| split.parent),
            descriptor: birth.descriptor,
            hard_state: birth.split.map_or(fresh, |split| split.hard_state),
            truncated: birth.base,
            membership: birth.membership,
            entries: VecDeque::new(),
            commit: birth.base.index,
        }
    }

    /// Becomes what the snapshot says; the row that goes with it.
    fn install(&mut self, install: Install) -> GroupRow {
        self.hard_state = install.hard_state;
        self.truncated = install.snapshot;
        self.membership = install.membership.clone();
        self.entries.clear();
        self.commit = install.snapshot.index;
        self.descriptor = install.descriptor.clone();
        GroupRow {
            group: install.group,
            replica: install.replica,
            life: install.life,
            applied: install.snapshot,
            membership: install.membership,
            descriptor: install.descriptor,
        }
    }

    fn write(&mut self, write: GroupWrite) {
        assert_eq!(
            write.replica, self.replica,
            "{}: another replica's write",
            write.group
        );
        if let Some(hard_state) = write.hard_state {
            assert!(
                hard_state.term >= self.hard_state.term,
                "{}: the term went back",
                write.group
            );
            self.hard_state = hard_state;
        }
        for entry in write.entries {
            self.append(entry);
        }
        self.commit = self.commit.max(write.commit);
    }

    fn append(&mut self, entry: Entry) {
        assert!(entry.cost() <= 2 * PAYLOAD_BYTES_MAX, "{} is oversized", entry.id);
        let next = self.truncated.index.0 + 1 + self.entries.len() as u64;
        let index = entry.id.index.0;
        assert!(
            index > self.truncated.index.0 && index <= next,
            "{} written after {}",
            entry.id,
            next - 1
        );
        let keep = index - self.truncated.index.0 - 1;
        self.entries
            .truncate(usize::try_from(keep).expect("less than what is in memory"));
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, index: Index) {
        while self.truncated.index < index {
            let first = self.entries.pop_front().expect("what is truncated was written");
            self.truncated = first.id;
            if let Payload::Membership(membership) = first.payload {
                self.membership = *membership;
            }
        }
    }

    fn read(&self, request: &FetchRequest) -> Vec<Entry> {
        if *request.range.start() <= self.truncated.index {
            return Vec::new();
        }
        let wanted = self
            .entries
            .iter()
            .filter(|entry| request.range.contains(&entry.id.index));
        let mut bytes = 0;
        let fitting = wanted.take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.cost();
            first || bytes <= request.bytes_max
        });
        fitting.cloned().collect()
    }

    fn restore(&self, group: GroupId, row: Option<&GroupRow>) -> RestoredGroup {
        let applied = row.map_or(self.truncated.index, |row| row.applied.index);
        RestoredGroup {
            group,
            replica: self.replica,
            restored: Restored {
                hard_state: self.hard_state,
                truncated: self.truncated,
                membership: self.membership.clone(),
                entries: self.entries.iter().cloned().collect(),
                commit: self.commit.max(applied),
                applied,
                checkpointed: applied,
            },
            descriptor: row.map_or(&self.descriptor, |row| &row.descriptor).clone(),
            after: self.parent.filter(|_| row.is_none()),
        }
    }
}
