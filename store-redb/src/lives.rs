//! Births, installs and tombstones: what each does to the index of logs once its record is durable, and whose state
//! still needs whom. Recovery asks the same questions of the ring. Rules: `DESIGN.md`, "Lives".

use crate::engine::{Engine, lock};
use crate::group_log::{GroupLog, LogIndex, SplitAt};
use crate::record::{Born, Fate, Installed, OpId};
use crate::span::{Piece, Places};
use crate::state::Child;
use multiraft::{Birth, Completion, EntryId, GroupId, GroupRow, Install, LogBatch, ReplicaId, Tombstone};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Who may be born, who needs whom, and what nobody needs any more.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// The lowest replica ids that may still be born.
    pub(crate) tombstones: BTreeMap<GroupId, ReplicaId>,
    /// Groups whose tombstone changed since the last checkpoint.
    pub(crate) unwritten: BTreeSet<GroupId>,
    /// Children that were submitted and are not durable yet, and their parents.
    pub(crate) expected: BTreeMap<GroupId, GroupId>,
    /// What some group's row maps for the last time: the next checkpoint's rows do not.
    pub(crate) dying: Vec<Piece>,
    /// What no row maps: to be deleted.
    pub(crate) dead: Vec<Piece>,
    /// Rows of the cold table whose logs are gone.
    pub(crate) gone_cold: Vec<(GroupId, Range<u64>)>,
}

impl Lives {
    /// True when a tombstone forbids this replica.
    pub(crate) fn is_forbidden(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.tombstones
            .get(&group)
            .is_some_and(|lowest| replica < *lowest)
    }

    /// Moves a tombstone forward. False: it says nothing new.
    pub(crate) fn bury(&mut self, tombstone: Tombstone) -> bool {
        let Tombstone { group, lowest } = tombstone;
        let is_news = self.tombstones.get(&group).is_none_or(|known| *known < lowest);
        if is_news {
            self.tombstones.insert(group, lowest);
            self.unwritten.insert(group);
        }
        is_news
    }

    /// A log ended: what it held in redb goes with the next checkpoints.
    pub(crate) fn discard(&mut self, group: GroupId, log: &GroupLog) {
        self.dying.extend_from_slice(log.places.pieces());
        if let Some((first, last)) = log.cold {
            self.gone_cold.push((group, first.0..last.0 + 1));
        }
    }
}

/// True when this birth is history to a group that is known already: it has a row, or was replaced by a later replica.
pub(crate) fn is_known(log: &GroupLog, birth: &Birth) -> bool {
    log.replica > birth.replica || (log.replica == birth.replica && log.is_initialised())
}

/// True when a snapshot brings this log further. The commit mark is the ring's and the rows', so that every replay
/// decides as the first time.
pub(crate) fn is_progress(log: &GroupLog, snapshot: EntryId) -> bool {
    snapshot.index > log.commit.max(log.checkpointed)
}

impl Engine {
    /// What a batch does to its groups' existence, in order; its tombstones come after its writes.
    pub(crate) fn fates(&self, worker: usize, batch: &LogBatch) -> Vec<Fate> {
        self.check_settled(batch);
        let births = batch.births.iter().map(|birth| {
            Fate::Born(Born {
                places: self.place_newborn(worker, birth),
                birth: birth.clone(),
            })
        });
        let installs = batch.installs.iter().map(|install| {
            Fate::Installed(Installed {
                places: Arc::new(Places::whole(self.take_staged(install.staging))),
                install: install.clone(),
                worker,
            })
        });
        births.chain(installs).collect()
    }

    /// A group that a child needs is neither replaced nor removed; the children of this batch count.
    fn check_settled(&self, batch: &LogBatch) {
        if batch.births.is_empty() && batch.installs.is_empty() && batch.tombstones.is_empty() {
            return; // the usual batch: not even a look at the index
        }
        let mut index = lock(&self.index);
        for birth in &batch.births {
            if let Some(split) = birth.split {
                index.lives.expected.insert(birth.group, split.parent);
            }
        }
        let installed = batch.installs.iter().map(|install| install.group);
        let removed = batch.tombstones.iter().map(|tombstone| tombstone.group);
        for group in installed.chain(removed) {
            assert!(index.is_settled(group), "a child of {group} needs its replay");
        }
    }

    /// Where a new replica's data will live. A split has said so already.
    fn place_newborn(&self, worker: usize, birth: &Birth) -> Arc<Places> {
        let mut memory = self.memory(worker);
        if birth.split.is_some() {
            return Arc::clone(memory.places(birth.group));
        }
        memory.drop_group(birth.group);
        let places = Arc::new(Places::whole(self.new_slot()));
        memory.places.insert(birth.group, Arc::clone(&places));
        places
    }
}

impl LogIndex {
    /// A durable record says this. Returns what its worker must hear.
    pub(crate) fn befall(&mut self, fate: Fate, at: OpId) -> Option<(usize, Completion)> {
        match fate {
            Fate::Born(born) => self.bear(&born, at),
            Fate::Installed(installed) => return Some(self.install(&installed, at)),
            Fate::Buried(tombstone) => self.bury(tombstone),
        }
        None
    }

    fn bear(&mut self, born: &Born, at: OpId) {
        let birth = &born.birth;
        let group = birth.group;
        self.lives.expected.remove(&group);
        if self.lives.is_forbidden(group, birth.replica) {
            self.lives.dying.extend_from_slice(born.places.pieces());
            return;
        }
        if let Some(split) = birth.split {
            let parent = self
                .groups
                .get_mut(&split.parent)
                .expect("a parent is not removed");
            parent.mark(None, split.at);
        }
        if let Some(log) = self.groups.get_mut(&group).filter(|log| is_known(log, birth)) {
            log.on_known_birth(birth);
            return;
        }
        let mut log = GroupLog::born(born, at);
        if let Some(before) = self.groups.remove(&group) {
            log.succeed(&before);
            self.lives.discard(group, &before);
        }
        self.groups.insert(group, log);
    }

    fn install(&mut self, installed: &Installed, at: OpId) -> (usize, Completion) {
        let Install { group, replica, .. } = installed.install;
        let log = self
            .groups
            .get_mut(&group)
            .expect("a replica is born before it is installed");
        assert_eq!(log.replica, replica, "{group} is installed as another replica");
        let is_installed = is_progress(log, installed.install.snapshot);
        if is_installed {
            let after = GroupLog::installed(installed, at, log);
            let before = std::mem::replace(log, after);
            self.lives.discard(group, &before);
        } else {
            self.lives.dying.extend_from_slice(installed.places.pieces());
        }
        let completion = Completion::Installed {
            group,
            life: installed.install.life,
            staging: installed.install.staging,
            is_installed,
        };
        (installed.worker, completion)
    }

    fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { group, lowest } = tombstone;
        if !self.lives.bury(tombstone) {
            return;
        }
        if self.groups.get(&group).is_some_and(|log| log.replica < lowest) {
            let log = self.groups.remove(&group).expect("just seen");
            self.lives.discard(group, &log);
        }
    }

    /// False while some child of this group needs its replay.
    pub(crate) fn is_settled(&self, group: GroupId) -> bool {
        let mut children = self
            .groups
            .values()
            .filter_map(|log| log.parent.map(|split| split.parent));
        let mut expected = self.lives.expected.values();
        !children.any(|parent| parent == group) && !expected.any(|parent| *parent == group)
    }

    /// Children whose state is not in redb with the next checkpoint: their parents froze, or were restored, before the
    /// split, and what is frozen lacks what they applied since. A row would say that nobody need be replayed.
    pub(crate) fn children_ahead(&self) -> BTreeSet<GroupId> {
        let is_ahead = |split: SplitAt| {
            let parent = self.groups.get(&split.parent).expect("a parent is not removed");
            parent.applied.index < split.at
        };
        let children = self.groups.iter();
        children
            .filter(|(_, log)| log.parent.is_some_and(is_ahead))
            .map(|(group, _)| *group)
            .collect()
    }

    /// What a split makes of the child.
    pub(crate) fn fate_of(&self, group: GroupId, replica: ReplicaId) -> Child {
        let is_known = |log: &GroupLog| log.replica == replica && log.is_initialised();
        match self.groups.get(&group) {
            _ if self.lives.is_forbidden(group, replica) => Child::Forbidden,
            Some(log) if log.replica > replica => Child::Forbidden,
            Some(log) if is_known(log) => Child::Known,
            _ => Child::Born,
        }
    }

    /// Takes over what a worker froze. False: the row is of a log that ended since, or of a group whose record of birth
    /// is not durable and will make a row of its own.
    pub(crate) fn froze(&mut self, row: &GroupRow, moved: Option<&Arc<Places>>) -> bool {
        let group = row.group;
        if self.lives.is_forbidden(group, row.replica) {
            return false;
        }
        match self.groups.get_mut(&group) {
            Some(log) if log.is_newer_than(row) => return false,
            Some(log) if log.replica == row.replica && (log.is_initialised() || moved.is_none()) => {
                log.froze(row);
                if let Some(moved) = moved {
                    self.lives.dying.extend_from_slice(log.places.pieces());
                    log.places = Arc::clone(moved);
                }
            }
            _ => match moved {
                Some(moved) => self.bear_by_row(row, moved),
                None => return false,
            },
        }
        true
    }

    /// Split off since the last checkpoint: its parent's row no longer holds its keys, so its own row must, though the
    /// record of its birth is not durable yet.
    fn bear_by_row(&mut self, row: &GroupRow, places: &Arc<Places>) {
        let mut log = GroupLog::of_row(row, Arc::clone(places), self.durable);
        if let Some(before) = self.groups.remove(&row.group) {
            log.succeed(&before);
            self.lives.discard(row.group, &before);
        }
        self.groups.insert(row.group, log);
    }

    /// What no row maps once the rows of the index as it is now are durable.
    pub(crate) fn take_dying(&mut self) -> Vec<Piece> {
        let dying = std::mem::take(&mut self.lives.dying);
        if dying.is_empty() {
            return dying;
        }
        Piece::subtract(&dying, self.groups.values().flat_map(|log| log.places.pieces()))
    }
}

impl GroupLog {
    /// The record of a birth comes after the row that holds it.
    fn on_known_birth(&mut self, birth: &Birth) {
        let Some(split) = birth.split else {
            panic!("{} is born twice as {}", birth.group, birth.replica);
        };
        if self.replica == birth.replica {
            self.keep_promises(split.hard_state);
            self.parent = Some(split.into()).filter(|_| !self.has_row);
        }
    }

    /// Takes the place of another log of the same group.
    pub(crate) fn succeed(&mut self, before: &GroupLog) {
        if before.replica == self.replica {
            self.keep_promises(before.hard_state);
        }
        self.changes = before.changes + 1;
    }
}
