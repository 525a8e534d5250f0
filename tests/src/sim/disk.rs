//! A simulated disk under one worker: the durable logs of its groups, the writes on their way, checkpoints, snapshots.
//! What was not synced is lost in a crash (or, as real disks do, sometimes kept). The world decides when things happen.

use super::bugs::Bug;
use super::machine::{GroupState, Image, Machine};
use super::rng::Rng;
use super::staging::{Reader, Staging};
use multiraft::{
    BatchId, Birth, Completion, CutId, Entry, EntryId, FetchRequest, GroupId, GroupRow, GroupWrite,
    HardState, Index, Install, LogBatch, Membership, Payload, RaftStorage, ReplicaId, RestoredGroup, Room,
    SnapshotReader, Term,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Marks a batch whose completion was made up.
const REPORTED: BatchId = BatchId(0);

/// One group's log: contiguous from `base`.
#[derive(Clone, Debug)]
pub(super) struct GroupLog {
    pub(super) replica: ReplicaId,
    pub(super) hard_state: HardState,
    /// The log up to and including this entry is gone.
    pub(super) truncated: EntryId,
    /// As of `truncated`.
    membership: Membership,
    entries: VecDeque<Entry>,
    pub(super) commit: Index,
    /// The last entry that the durable state reflects.
    pub(super) checkpointed: EntryId,
    /// As of `checkpointed`.
    pub(super) row: Membership,
    pub(super) descriptor: bytes::Bytes,
}

/// What a log says about a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// At or below the truncation: it was there.
    Truncated,
    /// This entry.
    Entry(EntryId),
    /// Past the end.
    Absent,
}

impl GroupLog {
    fn born(birth: &Birth) -> GroupLog {
        GroupLog {
            replica: birth.replica,
            hard_state: HardState {
                term: birth.base.term,
                vote: None,
            },
            truncated: birth.base,
            membership: birth.membership.clone(),
            entries: VecDeque::new(),
            commit: birth.base.index,
            checkpointed: birth.base,
            row: birth.membership.clone(),
            descriptor: birth.descriptor.clone(),
        }
    }

    /// The last entry, or what it followed.
    pub(super) fn last(&self) -> EntryId {
        self.entries.back().map_or(self.truncated, |entry| entry.id)
    }

    /// The entry at a position.
    pub(super) fn held(&self, index: Index) -> Held {
        if index < self.truncated.index {
            return Held::Truncated;
        }
        if index == self.truncated.index {
            return Held::Entry(self.truncated);
        }
        self.get(index)
            .map_or(Held::Absent, |entry| Held::Entry(entry.id))
    }

    fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.truncated.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    fn write(&mut self, write: &GroupWrite) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            self.cut(first.id.index);
            assert_eq!(self.last().index.next(), first.id.index, "logs have no holes");
            self.entries.extend(write.entries.iter().cloned());
        }
        self.commit = self.commit.max(write.commit);
    }

    /// A snapshot takes the place of log and state.
    fn install(&mut self, install: &Install) {
        self.hard_state = install.hard_state;
        self.truncated = install.snapshot;
        self.membership = install.membership.clone();
        self.entries.clear();
        self.commit = install.snapshot.index;
        self.checkpointed = install.snapshot;
        self.row = install.membership.clone();
        self.descriptor = install.descriptor.clone();
    }

    /// The memberships of entries after `index`; the one before the first of them, if the log says.
    pub(super) fn memberships_after(&self, index: Index) -> impl Iterator<Item = &Membership> {
        let later = self.entries.iter().filter(move |entry| entry.id.index > index);
        later.filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            Payload::Noop(_) | Payload::Command(..) => None,
        })
    }

    /// Drops everything at and after `index`.
    fn cut(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.truncated.index.0 + 1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    fn truncate(&mut self, index: Index) {
        while self.entries.front().is_some_and(|entry| entry.id.index <= index) {
            let entry = self.entries.pop_front().expect("just seen");
            self.truncated = entry.id;
            if let Payload::Membership(membership) = entry.payload {
                self.membership = *membership;
            }
        }
    }

    fn restored(&self) -> raft_core::Restored {
        raft_core::Restored {
            hard_state: self.hard_state,
            truncated: self.truncated,
            membership: self.membership.clone(),
            entries: self.entries.iter().cloned().collect(),
            commit: self.commit.max(self.checkpointed.index),
            applied: self.checkpointed.index,
            checkpointed: self.checkpointed.index,
        }
    }

    fn read(&self, request: &FetchRequest) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        let mut index = *request.range.start();
        while let Some(entry) = self.get(index).filter(|_| index <= *request.range.end()) {
            bytes += entry.cost();
            if bytes > request.bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            index = index.next();
        }
        entries
    }
}

/// A checkpoint on its way.
#[derive(Debug)]
struct Checkpoint {
    rows: Vec<GroupRow>,
    image: Image,
}

/// What survives, and what is on its way.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) durable: BTreeMap<GroupId, GroupLog>,
    /// Durable and submitted together: what the replicas believe their logs to be.
    pub(super) accepted: BTreeMap<GroupId, GroupLog>,
    image: Image,
    /// Submitted, in order, not durable.
    pending: VecDeque<LogBatch>,
    /// How many of them the running sync covers.
    pub(super) syncing: usize,
    checkpoint: Option<Checkpoint>,
    fetches: VecDeque<FetchRequest>,
    bytes: u64,
    cut: CutId,
    pub(super) is_full: bool,
    machine: Machine,
    staging: Staging,
    options: Limits,
    /// What the worker asked for since the last look.
    pub(super) news: News,
}

/// Since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Writes; as submitted, with the entry each was put after.
    pub(super) writes: Vec<(GroupWrite, EntryId)>,
    pub(super) truncations: Vec<(GroupId, Index)>,
    /// Snapshots that take a log's place in a batch that is on its way.
    pub(super) installs: Vec<(GroupId, EntryId)>,
    pub(super) fetches: usize,
    pub(super) checkpoint_begun: bool,
    pub(super) batches: usize,
}

/// What never changes about a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A checkpoint is wanted after this many bytes of log.
    pub(super) checkpoint_bytes: u64,
    pub(super) bug: Option<Bug>,
}

/// What the worker owns; the simulation holds the other end.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<Contents>>);

impl Disk {
    /// An empty disk of a node that stages its snapshots there.
    pub(super) fn new(options: Limits, staging: Staging) -> Disk {
        Disk(Arc::new(Mutex::new(Contents {
            durable: BTreeMap::new(),
            accepted: BTreeMap::new(),
            image: Image::new(),
            pending: VecDeque::new(),
            syncing: 0,
            checkpoint: None,
            fetches: VecDeque::new(),
            bytes: 0,
            cut: CutId(0),
            is_full: false,
            machine: Machine::new(Image::new(), options.bug),
            staging,
            options,
            news: News::default(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("one thread runs the world")
    }
}

impl Contents {
    /// The process starts: what is durable is all there is. Returns its groups, and the machine with their state.
    pub(super) fn open(&mut self) -> (Vec<RestoredGroup>, Machine) {
        self.accepted = self.durable.clone();
        self.machine = Machine::new(self.image.clone(), self.options.bug);
        let groups = self.durable.iter().map(|(group, log)| RestoredGroup {
            group: *group,
            replica: log.replica,
            restored: log.restored(),
            descriptor: log.descriptor.clone(),
            after: None,
        });
        (groups.collect(), self.machine.clone())
    }

    /// The process ends: everything on its way is lost, but for a few writes the disk had taken already.
    pub(super) fn crash(&mut self, rng: &mut Rng, survivors: bool) {
        let kept = if survivors {
            rng.index(self.pending.len() + 1)
        } else {
            0
        };
        for batch in std::mem::take(&mut self.pending).into_iter().take(kept) {
            self.persist(&batch);
        }
        self.syncing = 0;
        self.checkpoint = None;
        self.fetches.clear();
        self.news = News::default();
        self.is_full = false;
        self.break_durable();
    }

    fn break_durable(&mut self) {
        for log in self.durable.values_mut() {
            match self.options.bug {
                Some(Bug::DiskForgetsVotes) => log.hard_state.vote = None,
                Some(Bug::DiskLosesTail) => {
                    let keep = log.checkpointed.index.0.max(log.last().index.0.saturating_sub(3));
                    log.cut(Index(keep + 1));
                    log.commit = log.commit.min(Index(keep));
                }
                _ => {}
            }
        }
    }

    /// Begins a sync of all that is pending, unless one runs. True when one began.
    pub(super) fn begin_sync(&mut self) -> bool {
        let begins = self.syncing == 0 && !self.pending.is_empty();
        if begins {
            self.syncing = self.pending.len();
        }
        begins
    }

    /// The running sync returned: persists its next batch. Its completions are told before the next one is persisted,
    /// so that checkers judge what leaves by what was durable then. What was made up before is not told again.
    pub(super) fn persist_next(&mut self) -> Option<Vec<Completion>> {
        self.syncing = self.syncing.checked_sub(1)?;
        let mut batch = self.pending.pop_front().expect("a sync covers pending batches");
        let mut completions = self.persist(&batch);
        if batch.id != REPORTED {
            completions.push(completion(&mut batch));
        }
        Some(completions)
    }

    /// Makes up completions of what is not durable yet, and keeps the batches for the real sync.
    pub(super) fn report_early(&mut self) -> Vec<Completion> {
        let only_entries = match self.options.bug {
            Some(Bug::DiskReportsEarly) => false,
            Some(Bug::DiskReportsEntriesEarly) => true,
            _ => return Vec::new(),
        };
        let mut completions = Vec::new();
        for batch in self.pending.iter_mut().filter(|batch| batch.id != REPORTED) {
            let has_votes = batch.writes.iter().any(|write| write.hard_state.is_some());
            if only_entries && (has_votes || batch.then_send.is_empty()) || !batch.installs.is_empty() {
                break; // completions stay in order
            }
            completions.push(completion(batch));
            batch.id = REPORTED;
        }
        completions
    }

    fn persist(&mut self, batch: &LogBatch) -> Vec<Completion> {
        for birth in &batch.births {
            self.durable.insert(birth.group, GroupLog::born(birth));
        }
        let installed = batch
            .installs
            .iter()
            .map(|install| self.install(install))
            .collect();
        for write in &batch.writes {
            let log = self.durable.get_mut(&write.group).expect("births come first");
            log.write(write);
        }
        installed
    }

    fn install(&mut self, install: &Install) -> Completion {
        let group = install.group;
        let state = self.staging.take(install.staging);
        let log = self.durable.get_mut(&group).expect("births come first");
        let is_installed = install.snapshot.index > log.commit.max(log.checkpointed.index);
        if is_installed {
            log.install(install);
            self.machine.expect(group, state.clone());
            self.image.insert(group, state);
        }
        Completion::Installed {
            group,
            life: install.life,
            staging: install.staging,
            is_installed,
        }
    }

    /// The replica of this group was removed, and its node lets go of it: nothing of it is left. Only while the
    /// process is down.
    pub(super) fn bury(&mut self, group: GroupId) {
        self.durable.remove(&group);
        self.image.remove(&group);
    }

    /// The group's state as of its row, for a snapshot.
    pub(super) fn state(&self, group: GroupId) -> Option<(&GroupLog, &GroupState)> {
        let (log, state) = (self.durable.get(&group)?, self.image.get(&group)?);
        assert_eq!(log.checkpointed, state.applied, "{group}: its row, and its state");
        Some((log, state))
    }

    /// Makes up the completion of the checkpoint that has only begun.
    pub(super) fn report_checkpoint_early(&self) -> Option<Completion> {
        let rows = self.checkpoint.as_ref()?.rows.iter();
        let rows = rows.map(|row| (row.group, row.life, row.applied.index));
        Some(Completion::Checkpointed { rows: rows.collect() })
    }

    /// Every group whose state moved since its last row has one now, and it names what the frozen state reflects.
    fn check_rows(&self, rows: &[GroupRow], image: &Image) {
        for (group, state) in image {
            let row = rows.iter().find(|row| row.group == *group).map(|row| row.applied);
            let before = self
                .durable
                .get(group)
                .map_or(EntryId::ZERO, |log| log.checkpointed);
            let named = row.unwrap_or(before);
            if before.index > state.applied.index {
                continue; // a snapshot was installed that the machine has not heard of
            }
            assert_eq!(
                state.applied, named,
                "{group}: the row of a checkpoint, and the state it froze"
            );
        }
    }

    /// The running checkpoint is durable.
    pub(super) fn end_checkpoint(&mut self) -> Option<Completion> {
        let checkpoint = self.checkpoint.take()?;
        let mut told = Vec::new();
        for row in checkpoint.rows {
            let log = self.durable.get_mut(&row.group);
            let log = log.expect("a row follows its group's birth");
            if row.applied.index < log.checkpointed.index {
                continue; // a snapshot overtook it
            }
            log.checkpointed = row.applied;
            log.row = row.membership;
            log.descriptor = row.descriptor;
            told.push((row.group, row.life, row.applied.index));
        }
        for (group, state) in checkpoint.image {
            if self.durable[&group].checkpointed == state.applied {
                self.image.insert(group, state);
            }
        }
        Some(Completion::Checkpointed { rows: told })
    }

    /// The oldest fetch is read.
    pub(super) fn end_fetch(&mut self) -> Option<Completion> {
        let request = self.fetches.pop_front()?;
        let log = self
            .durable
            .get(&request.group)
            .expect("only groups that exist ask");
        Some(Completion::Fetched {
            group: request.group,
            life: request.life,
            peer: request.peer,
            entries: log.read(&request),
        })
    }

    /// The term and vote that a crash now would leave.
    pub(super) fn durable_hard_state(&self, group: GroupId) -> HardState {
        self.durable.get(&group).map_or(
            HardState {
                term: Term(0),
                vote: None,
            },
            |log| log.hard_state,
        )
    }

    fn note(&mut self, batch: &LogBatch) {
        for birth in &batch.births {
            self.accepted.insert(birth.group, GroupLog::born(birth));
        }
        for install in &batch.installs {
            let log = self.accepted.get_mut(&install.group);
            log.expect("births come first").install(install);
            self.news.installs.push((install.group, install.snapshot));
        }
        for write in &batch.writes {
            let log = self.accepted.get_mut(&write.group).expect("births come first");
            let first = write
                .entries
                .first()
                .map_or(log.last().index.next(), |entry| entry.id.index);
            let after = match log.held(first.previous()) {
                Held::Entry(id) => id,
                Held::Truncated | Held::Absent => EntryId::ZERO,
            };
            self.bytes += write.entries.iter().map(|entry| entry.cost() as u64).sum::<u64>();
            log.write(write);
            self.news.writes.push((write.clone(), after));
        }
        self.news.batches += 1;
    }
}

fn completion(batch: &mut LogBatch) -> Completion {
    Completion::Durable {
        batch: batch.id,
        writes: batch
            .writes
            .iter()
            .map(|write| (write.group, write.life, write.write))
            .collect(),
        then_send: std::mem::take(&mut batch.then_send),
    }
}

impl RaftStorage for Disk {
    fn submit(&mut self, batch: LogBatch) {
        assert!(batch.tombstones.is_empty(), "workers remove no replica yet");
        let mut contents = self.lock();
        contents.note(&batch);
        contents.pending.push_back(batch);
    }

    fn fetch(&mut self, request: FetchRequest) {
        let mut contents = self.lock();
        contents.fetches.push_back(request);
        contents.news.fetches += 1;
    }

    fn truncate(&mut self, group: GroupId, index: Index) {
        let contents = &mut *self.lock();
        contents.news.truncations.push((group, index));
        for logs in [&mut contents.durable, &mut contents.accepted] {
            if let Some(log) = logs.get_mut(&group) {
                log.truncate(index);
            }
        }
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        let mut contents = self.lock();
        // A row says what a group has become: it comes after the record of its birth.
        let all_born = contents.durable.len() == contents.accepted.len();
        let wanted =
            all_born && contents.checkpoint.is_none() && contents.bytes > contents.options.checkpoint_bytes;
        wanted.then(|| {
            contents.bytes = 0;
            contents.cut.0 += 1;
            contents.cut
        })
    }

    fn freeze(&mut self, cut: CutId, mut rows: Vec<GroupRow>) {
        let mut contents = self.lock();
        let mut image = contents.machine.take_frozen(cut);
        if contents.options.bug == Some(Bug::CheckpointRunsAhead) {
            claim_less(&mut rows, &contents.durable, &mut image);
        } else {
            contents.check_rows(&rows, &image);
        }
        contents.checkpoint = Some(Checkpoint { rows, image });
        contents.news.checkpoint_begun = true;
    }

    fn room(&self) -> Room {
        match self.lock().is_full {
            true => Room::NONE,
            false => Room::UNBOUNDED,
        }
    }

    fn snapshot(&mut self, group: GroupId) -> Box<dyn SnapshotReader> {
        Box::new(Reader::new(self.clone(), group))
    }

    /// Replicas are removed only while their process is down.
    fn may_bear(&self, _group: GroupId, _replica: ReplicaId) -> bool {
        true
    }

    /// No group of this world is split.
    fn is_settled(&self, _group: GroupId) -> bool {
        true
    }
}

/// Makes every row name the entry before the one its state reflects.
fn claim_less(rows: &mut [GroupRow], durable: &BTreeMap<GroupId, GroupLog>, image: &mut Image) {
    for row in rows {
        let before = durable
            .get(&row.group)
            .map(|log| log.held(row.applied.index.previous()));
        if let (Some(Held::Entry(id)), Some(state)) = (before, image.get_mut(&row.group)) {
            row.applied = id;
            state.applied = id;
        }
    }
}
