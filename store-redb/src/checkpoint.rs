//! Checkpoints: one consistent cut of all workers goes to redb in one transaction, then the ring's tail advances.
//! The tail follows one cut behind: entries get a whole interval to be truncated before they are copied to the cold
//! table. Also the clean stop, which is a last checkpoint that empties the ring.

use crate::codec::put_varint;
use crate::engine::{Engine, lock};
use crate::group_log::{LogIndex, Placed};
use crate::header::{Position, Remembered};
use crate::limits::{CUT_SHARE, SPACE_INTERVAL};
use crate::memory::{Frozen, Memory};
use crate::slots::Chores;
use crate::span::{Piece, Places};
use crate::tables::{
    Base, Broken, CHUNKS, COLD, DATA, DataWriter, GROUPS, IDENTITY, IDENTITY_KEY, TOMBSTONES, cold_key,
    group_key, seal,
};
use multiraft::{Completion, CutId, EntryId, GroupId, GroupRow, Index, ReplicaId};
use redb::{Durability, WriteTransaction};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// The cut under way.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    /// The newest cut.
    id: CutId,
    state: CutState,
    /// Somebody who waits for room wants another one as soon as the running one is done.
    again: bool,
}

#[derive(Debug, Default)]
enum CutState {
    #[default]
    Idle,
    /// Workers freeze; each one's rows once it did.
    Wanted(Vec<Option<Vec<GroupRow>>>),
    /// All froze; redb is being written.
    Running,
}

/// Everything a checkpoint writes besides the data, as of one look at the index.
#[derive(Debug)]
struct Plan {
    rows: Vec<(GroupId, ReplicaId, Vec<u8>)>,
    tombstones: Vec<(GroupId, ReplicaId)>,
    /// Groups that have no row any more.
    gone: Vec<GroupId>,
    /// What no row maps once this plan is durable.
    died: Vec<Piece>,
    /// Entries to copy to the cold table.
    spill: Vec<(GroupId, Index, Placed)>,
    /// Rows of the cold table to remove.
    remove: Vec<(GroupId, Range<u64>)>,
    /// What the cold table holds afterwards.
    cold: Vec<(GroupId, Option<(Index, Index)>)>,
    /// Where the tail goes.
    bound: Position,
    /// The rows reflect every record before this one.
    reflected: u64,
}

impl Engine {
    /// The cut that this worker has not frozen for yet; begins one when it is time.
    pub(crate) fn cut_wanted(&self, worker: usize) -> Option<CutId> {
        let (id, begun) = {
            let mut cuts = lock(&self.cuts);
            let begun = self.is_cut_due() && cuts.begin(self.options.workers);
            match &cuts.state {
                CutState::Wanted(rows) if rows[worker].is_none() => (Some(cuts.id), begun),
                _ => (None, begun),
            }
        };
        if begun {
            self.wake_workers(Some(worker));
        }
        id
    }

    /// Begins a cut, at once or after the one that is running, and wakes the workers.
    pub(crate) fn want_cut(&self) {
        let begun = lock(&self.cuts).want(self.options.workers);
        if begun {
            self.wake_workers(None);
        }
    }

    /// Completions without rows: the workers' next turn asks `cut_wanted`.
    fn wake_workers(&self, except: Option<usize>) {
        for worker in (0..self.options.workers).filter(|worker| Some(*worker) != except) {
            self.complete(worker, Completion::Checkpointed { rows: Vec::new() });
        }
    }

    fn is_cut_due(&self) -> bool {
        let log_bytes = self.log_bytes_since_cut.load(Ordering::Relaxed);
        self.active_bytes() >= self.memtable_limit()
            || log_bytes >= self.options.ring_bytes / CUT_SHARE
            || self.is_ring_crowded()
    }

    /// Takes one worker's rows; its memtable is frozen already.
    pub(crate) fn freeze(&self, worker: usize, cut: CutId, rows: Vec<GroupRow>) {
        let frozen = self.memory(worker).frozen.as_ref().map(|frozen| frozen.cut);
        assert_eq!(
            frozen,
            Some(cut),
            "worker {worker} froze its state before it says so"
        );
        let mut cuts = lock(&self.cuts);
        assert_eq!(cuts.id, cut, "worker {worker} froze for a cut that nobody wants");
        let CutState::Wanted(frozen) = &mut cuts.state else {
            panic!("worker {worker} froze for cut {}, which is not wanted", cut.0);
        };
        assert!(
            frozen[worker].is_none(),
            "worker {worker} froze twice for cut {}",
            cut.0
        );
        frozen[worker] = Some(rows);
        drop(cuts);
        self.cut_ready.notify_one();
    }

    /// Writes the checkpoint for which all workers froze. False: there is none.
    pub(crate) fn checkpoint_once(&self) -> bool {
        let is_ready = lock(&self.cuts).is_ready();
        if !is_ready || !self.may_checkpoint(&self.frozen()) {
            return false;
        }
        let Some(mut rows) = lock(&self.cuts).take_ready() else {
            return false;
        };
        self.abort_overdue_snapshots();
        self.check_rows(&rows);
        let frozen = self.frozen();
        let moved = moved(&frozen);
        let plan = {
            let mut index = lock(&self.index);
            for rows in &mut rows {
                rows.retain(|row| index.froze(row, moved.get(&row.group)));
            }
            index.plan(None)
        };
        self.log_bytes_since_cut.store(0, Ordering::Relaxed);
        let mut chores = self.take_chores();
        self.store(&plan, &frozen, &mut chores);
        self.advance_tail(&plan);
        self.finish_chores(chores);
        for (worker, rows) in rows.into_iter().enumerate() {
            let rows = rows
                .into_iter()
                .map(|row| (row.group, row.life, row.applied.index))
                .collect();
            self.complete(worker, Completion::Checkpointed { rows });
        }
        self.look_at_space();
        if lock(&self.cuts).finish(self.options.workers) {
            self.wake_workers(None);
        }
        true
    }

    /// State never runs ahead of its row: what a worker froze must be named by its rows.
    fn check_rows(&self, rows: &[Vec<GroupRow>]) {
        for (worker, rows) in rows.iter().enumerate() {
            let memory = self.memory(worker);
            let frozen = memory.frozen.as_ref().expect("every worker froze");
            let rows: BTreeMap<GroupId, EntryId> = rows.iter().map(|row| (row.group, row.applied)).collect();
            for (group, progress) in &frozen.table.groups {
                let reflected = rows.get(group).copied();
                assert!(
                    progress.applied <= reflected && (!progress.is_written || reflected.is_some()),
                    "{group} froze at {:?}, its row says {reflected:?}",
                    progress.applied
                );
            }
            // Parent and child: one without the other would lose the child's keys.
            for group in frozen.table.moved.keys() {
                assert!(
                    rows.contains_key(group),
                    "{group} was split and froze without a row"
                );
            }
        }
    }

    pub(crate) fn frozen(&self) -> Vec<Arc<Frozen>> {
        (0..self.options.workers)
            .filter_map(|worker| self.memory(worker).frozen.clone())
            .collect()
    }

    /// Makes the plan and the frozen data durable, and lets reads see them there.
    fn store(&self, plan: &Plan, frozen: &[Arc<Frozen>], chores: &mut Chores) {
        if let Err(broken) = self.commit_checkpoint(plan, frozen, chores) {
            self.broken("write a checkpoint", broken);
        }
        self.read_newest(|memory, base| {
            memory.base = Some(base);
            let frozen = memory.frozen.take();
            self.memtable_stored(frozen.map(|frozen| frozen.table.size).unwrap_or_default());
        });
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    /// Every worker's reads see what was committed last: `switch` changes the base, and what goes with it.
    pub(crate) fn read_newest(&self, switch: impl Fn(&mut Memory, Arc<Base>)) {
        let base = self.begin_read().and_then(|transaction| Base::open(&transaction));
        let base = base.unwrap_or_else(|broken| self.broken("read a checkpoint", broken));
        let base = Arc::new(base);
        for worker in 0..self.options.workers {
            switch(&mut self.memory(worker), Arc::clone(&base));
        }
    }

    /// A transaction that is durable once it is committed, and that a restart need not check. Only the checkpointer
    /// begins one.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, Broken> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn commit_checkpoint(
        &self,
        plan: &Plan,
        frozen: &[Arc<Frozen>],
        chores: &mut Chores,
    ) -> Result<(), Broken> {
        let transaction = self.begin_write()?;
        write_data(&transaction, frozen, chores)?;
        self.write_cold(&transaction, plan)?;
        write_rows(&transaction, plan)?;
        write_tombstones(&transaction, plan)?;
        self.write_identity(&transaction, plan)?;
        Ok(transaction.commit()?)
    }

    fn write_cold(&self, transaction: &WriteTransaction, plan: &Plan) -> Result<(), Broken> {
        let mut cold = transaction.open_table(COLD)?;
        for (group, indexes) in &plan.remove {
            for index in indexes.clone() {
                cold.remove(&cold_key(*group, Index(index)))?;
            }
        }
        for (group, index, placed) in &plan.spill {
            let bytes = self.read_ring_bytes(*placed)?;
            crate::codec::read_entry(*group, *index, &bytes)?;
            let key = cold_key(*group, *index);
            cold.insert(&key, seal(&key, &bytes).as_slice())?;
        }
        self.counters
            .spilled
            .fetch_add(plan.spill.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn write_identity(&self, transaction: &WriteTransaction, plan: &Plan) -> Result<(), Broken> {
        let header = self.file.header();
        let remembered = Remembered {
            identity: header.identity,
            file_uuid: header.file_uuid,
            salt: self.salt,
            incarnation: self.incarnation,
            tail: plan.bound,
            reflected: plan.reflected,
        };
        put_identity(transaction, &remembered)
    }

    /// The tail moved with the checkpoint: the index learns what is cold, then the room is free.
    fn advance_tail(&self, plan: &Plan) {
        lock(&self.index).stored(plan);
        lock(&self.ring).release(plan.bound);
        self.ring_changed.notify_all();
    }

    /// The checkpoint thread.
    pub(crate) fn checkpoint_until_stopped(&self) {
        loop {
            self.space.is_blocked.store(false, Ordering::Relaxed);
            while self.checkpoint_once() || (!self.is_stopping() && self.tidy_once()) {}
            self.look_at_space();
            let cuts = lock(&self.cuts);
            if self.is_stopping() {
                return;
            }
            let is_blocked = self.space.is_blocked.load(Ordering::Relaxed);
            if is_blocked || (!cuts.is_ready() && !self.has_chores()) {
                let waited = self.cut_ready.wait_timeout(cuts, SPACE_INTERVAL);
                let (cuts, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                drop(cuts);
                if waited.timed_out() {
                    self.hurry_checkpoint();
                }
            }
        }
    }

    /// After the workers and the threads ended: writes everything out and empties the ring. False: some group's
    /// state machine did not say up to where its state goes, a split is younger than its groups' rows or was not replayed,
    /// or there is no disk space: the log has to stay.
    pub(crate) fn final_checkpoint(&self) -> bool {
        if !self.may_close() {
            return false;
        }
        let cut = self.begin_final_cut();
        for worker in 0..self.options.workers {
            let mut memory = self.memory(worker);
            memory.unfreeze();
            let table = &memory.active;
            let is_unknown = table.groups.values().any(|progress| progress.is_unmarked);
            if is_unknown || !table.moved.is_empty() {
                return false;
            }
            memory.freeze(cut);
        }
        let frozen = self.frozen();
        let plan = {
            let mut index = lock(&self.index);
            index.take_applied(&frozen);
            if !index.children_ahead().is_empty() {
                return false;
            }
            let durable = index.durable;
            index.plan(Some(durable))
        };
        self.store(&plan, &frozen, &mut Chores::default());
        self.advance_tail(&plan);
        true
    }

    fn begin_final_cut(&self) -> CutId {
        let mut cuts = lock(&self.cuts);
        let started = std::mem::replace(&mut cuts.state, CutState::Running);
        if let CutState::Wanted(rows) = started {
            // Positions come from the memtables; descriptors only from here.
            let mut index = lock(&self.index);
            for row in rows.iter().flatten().flatten() {
                index.froze(row, None);
            }
        }
        cuts.id.0 += 1;
        cuts.id
    }
}

/// Where the keys of groups went in this cut.
fn moved(frozen: &[Arc<Frozen>]) -> BTreeMap<GroupId, Arc<Places>> {
    let moved = frozen.iter().flat_map(|frozen| &frozen.table.moved);
    moved
        .map(|(group, places)| (*group, Arc::clone(places)))
        .collect()
}

impl Cuts {
    /// False: one is under way.
    /// As `begin`. A cut that is running may have looked at the log already and free nothing of what was written
    /// since, so a wish that arrives meanwhile is kept: whoever wishes may be the only one still awake.
    fn want(&mut self, workers: usize) -> bool {
        self.again |= matches!(self.state, CutState::Running);
        self.begin(workers)
    }

    /// The running cut is durable. True: another one begins.
    fn finish(&mut self, workers: usize) -> bool {
        self.state = CutState::Idle;
        std::mem::take(&mut self.again) && self.begin(workers)
    }

    fn begin(&mut self, workers: usize) -> bool {
        if !matches!(self.state, CutState::Idle) {
            return false;
        }
        self.id.0 += 1;
        self.state = CutState::Wanted((0..workers).map(|_| None).collect());
        true
    }

    fn is_ready(&self) -> bool {
        matches!(&self.state, CutState::Wanted(rows) if rows.iter().all(Option::is_some))
    }

    fn take_ready(&mut self) -> Option<Vec<Vec<GroupRow>>> {
        if !self.is_ready() {
            return None;
        }
        match std::mem::replace(&mut self.state, CutState::Running) {
            CutState::Wanted(rows) => Some(rows.into_iter().flatten().collect()),
            CutState::Idle | CutState::Running => unreachable!("is_ready saw Wanted"),
        }
    }
}

impl LogIndex {
    /// What was applied since the groups' last rows.
    fn take_applied(&mut self, frozen: &[Arc<Frozen>]) {
        for (group, progress) in frozen.iter().flat_map(|frozen| &frozen.table.groups) {
            // Gone: a tombstone that the worker did not hear about.
            let Some(log) = self.groups.get_mut(group) else {
                continue;
            };
            log.applied = log.applied.max(progress.applied.unwrap_or_default());
            log.is_dirty = true;
        }
    }

    /// Decides what must be written so that everything before `bound` (or before the place that the last checkpoint
    /// saw) is no longer needed.
    fn plan(&mut self, bound: Option<Position>) -> Plan {
        let bound = bound.unwrap_or(self.captured);
        let ahead = self.children_ahead();
        let died = self.take_dying();
        let lives = &mut self.lives;
        let buried = std::mem::take(&mut lives.unwritten);
        let mut plan = Plan {
            rows: Vec::new(),
            tombstones: buried
                .iter()
                .map(|group| (*group, lives.tombstones[group]))
                .collect(),
            gone: Vec::new(),
            died,
            spill: Vec::new(),
            remove: std::mem::take(&mut lives.gone_cold),
            cold: Vec::new(),
            bound,
            reflected: self.durable.sequence,
        };
        for (group, log) in &mut self.groups {
            let keep = log.before(bound).map(|range| (*range.start(), *range.end()));
            if let Some((first, last)) = keep {
                let moves = (first.0..=last.0)
                    .map(|at| (*group, Index(at), log.placed(Index(at)).expect("live")))
                    .filter(|(_, _, placed)| !placed.is_cold());
                plan.spill.extend(moves);
            }
            if keep != log.cold {
                plan.remove
                    .extend(stale(log.cold, keep).map(|range| (*group, range)));
                plan.cold.push((*group, keep));
            }
            if !ahead.contains(group) && std::mem::take(&mut log.is_dirty) {
                plan.rows.push((*group, log.replica, log.encode_row()));
            }
        }
        plan.gone.extend(
            buried
                .into_iter()
                .filter(|group| !self.groups.contains_key(group)),
        );
        // The records of their births stay until a checkpoint has their rows.
        if ahead.is_empty() {
            self.captured = self.durable;
        }
        plan
    }

    /// The plan is durable.
    fn stored(&mut self, plan: &Plan) {
        self.releases += 1;
        for (group, cold) in &plan.cold {
            match (self.groups.get_mut(group), cold) {
                (Some(log), cold) => log.cold = *cold,
                // Removed while the plan was being written.
                (None, Some((first, last))) => self.lives.gone_cold.push((*group, first.0..last.0 + 1)),
                (None, None) => {}
            }
        }
        for (group, index, placed) in &plan.spill {
            if let Some(log) = self.groups.get_mut(group) {
                log.spilled(*index, *placed);
            }
        }
        for (group, replica, _) in &plan.rows {
            if let Some(log) = self.groups.get_mut(group).filter(|log| log.replica == *replica) {
                log.has_row = true;
                log.parent = None;
            }
        }
        for log in self.groups.values_mut() {
            log.checkpointed = log.applied.index;
        }
        self.lives.dead.extend_from_slice(&plan.died);
    }
}

/// Indexes in the cold table's old range that are not in its new one.
fn stale(old: Option<(Index, Index)>, new: Option<(Index, Index)>) -> impl Iterator<Item = Range<u64>> {
    let old = old.map_or(0..0, |(first, last)| first.0..last.0 + 1);
    let new = new.map_or(old.end..old.end, |(first, last)| first.0..last.0 + 1);
    let before = old.start..old.end.min(new.start);
    let after = old.start.max(new.end)..old.end;
    [before, after].into_iter().filter(|range| !range.is_empty())
}

pub(crate) fn write_data(
    transaction: &WriteTransaction,
    frozen: &[Arc<Frozen>],
    chores: &mut Chores,
) -> Result<(), Broken> {
    let mut writer = DataWriter {
        data: transaction.open_table(DATA)?,
        chunks: transaction.open_table(CHUNKS)?,
    };
    let mut slots: Vec<_> = frozen.iter().flat_map(|frozen| &frozen.table.slots).collect();
    slots.sort_by_key(|(slot, _)| **slot); // stable: what two workers hold of one slot has no key in common
    for (slot, pairs) in slots {
        for (key, value) in pairs {
            writer.write(&slot.key(key), value.as_deref())?;
        }
    }
    chores.run(&mut writer)
}

fn write_rows(transaction: &WriteTransaction, plan: &Plan) -> Result<(), Broken> {
    let mut table = transaction.open_table(GROUPS)?;
    for (group, _, row) in &plan.rows {
        let key = group_key(*group);
        table.insert(&key, seal(&key, row).as_slice())?;
    }
    for group in &plan.gone {
        table.remove(&group_key(*group))?;
    }
    Ok(())
}

fn write_tombstones(transaction: &WriteTransaction, plan: &Plan) -> Result<(), Broken> {
    let mut table = transaction.open_table(TOMBSTONES)?;
    for (group, lowest) in &plan.tombstones {
        let key = group_key(*group);
        let mut row = Vec::new();
        put_varint(&mut row, lowest.0);
        table.insert(&key, seal(&key, &row).as_slice())?;
    }
    Ok(())
}

/// Writes the identity row.
pub(crate) fn put_identity(transaction: &WriteTransaction, remembered: &Remembered) -> Result<(), Broken> {
    let row = seal(IDENTITY_KEY, &remembered.encode());
    transaction
        .open_table(IDENTITY)?
        .insert(IDENTITY_KEY, row.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committer waits for room, the workers wait for the committer: nobody would ask again.
    #[test]
    fn a_cut_wanted_while_one_is_running_begins_after_it() {
        let mut cuts = Cuts::default();
        assert!(cuts.want(1), "idle: begins at once");
        assert!(
            !cuts.want(1),
            "it has not looked at the log yet: the same one will do"
        );
        let CutState::Wanted(rows) = &mut cuts.state else {
            panic!("a cut is wanted")
        };
        rows[0] = Some(Vec::new());
        assert!(cuts.take_ready().is_some());
        assert!(!cuts.want(1), "running");
        assert!(cuts.finish(1), "the wish was kept");
        assert_eq!(cuts.id, CutId(2));
        let CutState::Wanted(rows) = &mut cuts.state else {
            panic!("a cut is wanted")
        };
        rows[0] = Some(Vec::new());
        assert!(cuts.take_ready().is_some());
        assert!(!cuts.finish(1), "and granted once");
    }
}
