//! What happens to a scripted node's groups besides writes: births, splits, snapshots that arrive, removals; and the
//! deletion of what they leave behind. Each is an operation by chance, whose outcome the model knows.

use super::history::{
    Arrival, CHILD_BASE, Contents, Groups, Log, Newborn, Origin, Said, SplitOff, membership, replica,
};
use super::model::Batch;
use super::random::Random;
use super::world::{Doing, Phase, Running, WORKERS, World};
use crate::engine::lock;
use crate::tables::DATA;
use crate::{Rows, Staging, worker_of};
use bytes::Bytes;
use multiraft::{
    BatchId, EntryId, GroupId, HardState, Membership, RaftStorage, ReplicaId, StagingId, Term, Tombstone,
};
use redb::ReadableTableMetadata;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

/// Groups of a node, at most, besides those of its script.
const GROUPS_MAX: usize = 12;

/// A piece of a snapshot has fewer rows.
const PIECE_ROWS: u64 = 12;

/// What happened to groups in one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lived {
    /// Snapshots installed.
    pub installs: u64,
    /// Snapshots that were not, because the log was further.
    pub stale_installs: u64,
    /// Splits applied.
    pub splits: u64,
    /// Groups removed.
    pub burials: u64,
    /// Groups that came back as a later replica.
    pub rebirths: u64,
    /// Transactions that wrote staged rows or deleted a slice.
    pub tidied: u64,
}

impl AddAssign for Lived {
    fn add_assign(&mut self, other: Lived) {
        self.installs += other.installs;
        self.stale_installs += other.stale_installs;
        self.splits += other.splits;
        self.burials += other.burials;
        self.rebirths += other.rebirths;
        self.tidied += other.tidied;
    }
}

impl fmt::Display for Lived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} installs and {} stale ones, {} splits, {} removals, {} groups back, {} tidied",
            self.installs, self.stale_installs, self.splits, self.burials, self.rebirths, self.tidied
        )
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Arriving {
    group: GroupId,
    replica: ReplicaId,
    staging: Staging,
    /// Not offered yet.
    pieces: VecDeque<Rows>,
    contents: Contents,
}

impl World {
    /// True once in so many times as the script says.
    fn is_fated(&mut self, rarer: u64) -> bool {
        let one_in = self.setting.script.fate_one_in * rarer;
        one_in > 0 && self.model.random.one_in(one_in)
    }

    /// Snapshots arrive piece by piece; what is staged or dead waits for its transaction.
    pub(super) fn stage_some(&mut self) {
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        for group in groups {
            if self.is_fated(1) && self.arriving.iter().all(|arriving| arriving.group != group) {
                self.begin_to_stage(group);
            }
        }
        for arriving in &mut self.arriving {
            if self.model.random.one_in(2)
                && let Some(piece) = arriving.pieces.pop_front()
                && let Err(refused) = arriving.staging.offer(piece)
            {
                arriving.pieces.push_front(refused);
            }
        }
        if self.setting.script.fate_one_in > 0 && self.model.random.one_in(4) {
            self.tidy();
        }
    }

    fn begin_to_stage(&mut self, group: GroupId) {
        let Some(staging) = self.store.stage() else { return };
        self.sabotage.begins_to_stage(&self.store, &staging, group);
        let random = &mut self.model.random;
        let script = &self.setting.script;
        let count = random.below(script.keys.min(60) + 1);
        let rows = (0..count).map(|_| {
            let key = random.below(script.keys).to_be_bytes().to_vec();
            let length = 1 + random.index(usize::try_from(script.value_bytes).expect("small"));
            (key, Bytes::from(vec![random.below(256) as u8; length]))
        });
        let contents: Contents = rows.collect();
        self.arriving.push(Arriving {
            group,
            replica: self.running[&group].replica,
            staging,
            pieces: pieces_of(&contents, random),
            contents,
        });
    }

    /// One transaction of the checkpointer's own.
    fn tidy(&mut self) -> bool {
        self.setting.progress.enter(Phase::Tidying);
        let is_tidied = self.store.tidy_once();
        self.setting.progress.enter(Phase::Committing);
        self.lived.tidied += u64::from(is_tidied);
        is_tidied
    }

    /// Who begins to exist with a worker's next batch: children that were split off, the script's own groups, those
    /// that come back, and replicas that know nothing yet.
    pub(super) fn births(&mut self, worker: usize, next: &mut Groups) -> Batch {
        let children = std::mem::take(&mut self.unborn[worker]);
        let mut born = children;
        let script = self.setting.script.groups;
        let own = (0..script).map(|number| GroupId(2 + worker as u64 + WORKERS as u64 * number));
        for group in own.collect::<Vec<_>>() {
            if self.is_free(group, next) && !next.tombstones.contains_key(&group) {
                born.push(self.bear(worker, group, replica(group), membership(group, 0)));
            }
        }
        let buried = next.tombstones.iter().map(|(group, lowest)| (*group, *lowest));
        for (group, lowest) in buried.collect::<Vec<_>>() {
            let is_mine = worker_of(group, WORKERS) == worker && self.is_free(group, next);
            if is_mine && self.has_place() && self.is_fated(3) {
                let replica = ReplicaId(lowest.0 + self.model.random.below(2));
                born.push(self.bear_some(worker, group, replica));
                self.lived.rebirths += 1;
            }
        }
        if self.has_place() && self.is_fated(2) {
            let group = self.new_group(Some(worker));
            born.push(self.bear_some(worker, group, replica(group)));
        }
        born.into_iter()
            .map(Said::Born)
            .inspect(|said| said.apply(0, next))
            .collect()
    }

    /// Nobody lives there, and nobody is being removed.
    fn is_free(&self, group: GroupId, next: &Groups) -> bool {
        !next.logs.contains_key(&group) && !self.running.contains_key(&group)
    }

    fn has_place(&self) -> bool {
        self.running.len() < GROUPS_MAX
    }

    /// An id that no group ever had.
    fn new_group(&mut self, of: Option<usize>) -> GroupId {
        let random = &mut self.model.random;
        let worker = of.map_or_else(|| random.below(WORKERS as u64), |worker| worker as u64);
        // Each life draws the same numbers as the one before.
        let number = (self.model.incarnation << 24) + 1000 + random.below(1 << 20);
        GroupId(number * WORKERS as u64 + worker)
    }

    /// With members or without: such a replica only votes, until a split or a snapshot makes it a member.
    fn bear_some(&mut self, worker: usize, group: GroupId, replica: ReplicaId) -> Newborn {
        let members = match self.model.random.one_in(2) {
            true => membership(group, 0),
            false => Membership::default(),
        };
        self.bear(worker, group, replica, members)
    }

    fn bear(&mut self, worker: usize, group: GroupId, replica: ReplicaId, members: Membership) -> Newborn {
        let origin = Origin::new(EntryId::ZERO, members, Contents::new());
        let running = Running::new(worker, replica, Arc::clone(&origin), self.pace());
        self.running.insert(group, running);
        Newborn {
            group,
            replica,
            origin,
            split: None,
        }
    }

    /// By chance the last of a write's entries splits its group. The child's replica may exist before, and vote.
    pub(super) fn split_some(
        &mut self,
        worker: usize,
        said: &mut Said,
        log: &Log,
        next: &mut Groups,
    ) -> Option<Said> {
        let Said::Wrote { entries, .. } = said else {
            return None;
        };
        let last = entries.last_mut()?;
        let one_in = self.setting.script.fate_one_in.div_ceil(4);
        if one_in == 0 || !self.has_place() || !self.model.random.one_in(one_in) {
            return None;
        }
        let first = self.model.random.below(self.setting.script.keys);
        let keys = first..first + 1 + self.model.random.below(self.setting.script.keys);
        let is_taken = |other: &SplitOff| other.keys.start < keys.end && keys.start < other.keys.end;
        if log.splits.iter().any(|(_, other)| is_taken(other)) {
            return None;
        }
        let exists = self.model.random.one_in(3);
        let child = self.new_group(exists.then_some(worker));
        let split = SplitOff {
            child,
            replica: replica(child),
            keys,
        };
        *last = split.entry(last.id);
        exists.then(|| {
            let said = Said::Born(self.bear(worker, child, replica(child), Membership::default()));
            said.apply(0, next);
            said
        })
    }

    /// The parent applied the split, and the child does not exist yet: it is born with the worker's next batch.
    pub(super) fn split_off(&mut self, worker: usize, parent: GroupId, log: &Log, at: u64, split: &SplitOff) {
        let newest = self.model.newest();
        let before = newest.logs.get(&split.child);
        let before = before.filter(|log| log.replica == split.replica);
        let promised = before.map(|log| log.hard_state);
        let random = &mut self.model.random;
        let hard_state = match promised.filter(|_| random.one_in(2)) {
            Some(promised) if promised.term >= CHILD_BASE.term => promised,
            Some(_) => HardState {
                term: CHILD_BASE.term,
                vote: None,
            },
            None => HardState {
                term: Term(CHILD_BASE.term.0 + random.below(3)),
                vote: promised
                    .is_none()
                    .then_some(split.replica)
                    .filter(|_| random.one_in(2)),
            },
        };
        let newborn = log.child(parent, at, split, Some(hard_state));
        let running = Running::new(worker, split.replica, Arc::clone(&newborn.origin), self.pace());
        self.running.insert(split.child, running);
        self.unborn[worker].push(newborn);
    }

    /// Snapshots that are complete take their groups' places; and their names for the store.
    pub(super) fn installs(
        &mut self,
        worker: usize,
        births: &[Said],
        next: &mut Groups,
    ) -> (Batch, Vec<StagingId>) {
        let (mut said, mut stagings) = (Batch::new(), Vec::new());
        for arriving in std::mem::take(&mut self.arriving) {
            let running = self.running.get(&arriving.group);
            let is_current = |running: &&Running| running.replica == arriving.replica && running.is_usual();
            let Some(running) = running.filter(is_current) else {
                continue; // abandoned
            };
            let is_mine = running.worker == worker && next.logs.contains_key(&arriving.group);
            let is_complete = self.sabotage.takes_unstaged() || arriving.staging.is_durable();
            let is_due = is_mine && arriving.pieces.is_empty() && is_complete;
            let is_due = is_due && !is_awaited(next, arriving.group);
            if !is_due || !self.is_settled(arriving.group, births) || self.model.random.one_in(2) {
                self.arriving.push(arriving);
                continue;
            }
            let arrival = self.arrival(&arriving, &next.logs[&arriving.group]);
            let said_so = Said::Installed(arrival);
            said_so.apply(0, next);
            said.push(said_so);
            if self.sabotage.takes_unstaged() {
                arriving.staging.believe();
            }
            stagings.push(arriving.staging.hand_over());
        }
        (said, stagings)
    }

    /// What a snapshot brings: mostly something newer than the log, now and then something older.
    fn arrival(&mut self, arriving: &Arriving, log: &Log) -> Arrival {
        let group = arriving.group;
        let running = self.running.get_mut(&group).expect("seen by the caller");
        let known = log.commit.max(running.learned).max(running.applied.index.0);
        let random = &mut self.model.random;
        let is_stale = random.one_in(6);
        let index = match is_stale {
            true => random.below(log.commit + 1),
            false => known + 1 + random.below(20),
        };
        let term = 1 + log.hard_state.term.0 + random.below(2);
        let origin = Origin::new(
            EntryId::new(term, index),
            membership(group, random.below(3)),
            arriving.contents.clone(),
        );
        running.doing = Doing::Installing(Arc::clone(&origin), !is_stale);
        let hard_state = HardState {
            term: Term(term),
            vote: random.one_in(2).then_some(log.replica),
        };
        Arrival {
            group,
            origin,
            hard_state,
        }
    }

    /// An install is durable.
    pub(super) fn installed(&mut self, worker: usize, group: GroupId, is_installed: bool) {
        let running = self.running.get_mut(&group).expect("it waits for this");
        let doing = std::mem::replace(&mut running.doing, Doing::Usual);
        let Doing::Installing(origin, is_progress) = doing else {
            panic!("{group} is installed out of the blue");
        };
        assert_eq!(is_installed, is_progress, "[lives] {group}'s install");
        if is_installed {
            self.states[worker].install(group);
            running.applied = origin.base;
            running.learned = origin.base.index.0;
            running.origin = origin;
            running.is_changed = true;
            running.is_new = true;
        }
        self.lived.installs += u64::from(is_installed);
        self.lived.stale_installs += u64::from(!is_installed);
    }

    /// No child needs this group's replay, not even one that this batch bears.
    fn is_settled(&self, group: GroupId, births: &[Said]) -> bool {
        let is_parent = |said: &Said| match said {
            Said::Born(newborn) => newborn.split.is_some_and(|split| split.parent == group),
            _ => false,
        };
        !births.iter().any(is_parent) && self.storages[0].is_settled(group)
    }

    /// Who is removed with a worker's next batch.
    pub(super) fn burials(&mut self, worker: usize, said: &[Said], next: &Groups) -> Batch {
        let mine = self
            .running
            .iter()
            .filter(|(_, running)| running.worker == worker);
        let mine = mine.filter(|(_, running)| running.is_usual());
        let mine: Vec<(GroupId, ReplicaId)> =
            mine.map(|(group, running)| (*group, running.replica)).collect();
        let mut buried = Batch::new();
        for (group, replica) in mine {
            let exists = next.logs.contains_key(&group) && self.is_fated(3);
            if !exists || is_awaited(next, group) || !self.is_settled(group, said) {
                continue;
            }
            let lowest = ReplicaId(replica.0 + 1 + self.model.random.below(2));
            self.running.get_mut(&group).expect("seen above").doing = Doing::Leaving;
            self.arriving.retain(|arriving| arriving.group != group);
            buried.push(Said::Buried(Tombstone { group, lowest }));
            self.lived.burials += 1;
        }
        buried
    }

    /// The tombstones of these batches are durable.
    pub(super) fn forget_buried(&mut self, durable: &[(usize, BatchId)]) {
        for (worker, batch, group) in std::mem::take(&mut self.leaving) {
            if durable.contains(&(worker, batch)) {
                self.states[worker].forget(group);
                self.running.remove(&group);
            } else {
                self.leaving.push((worker, batch, group));
            }
        }
    }

    /// Whether groups share slots, and whether rows are left that nobody maps.
    pub(super) fn sharing(&self) -> (bool, bool) {
        let index = lock(&self.store.engine.index);
        let mut slots = BTreeSet::new();
        let mut is_shared = false;
        for log in index.groups.values() {
            let mine: BTreeSet<_> = log.places.pieces().iter().map(|piece| piece.slot).collect();
            for slot in mine {
                is_shared |= !slots.insert(slot);
            }
        }
        (is_shared, !index.lives.dead.is_empty())
    }

    /// Once checkpoints and deletions had their turn, redb holds what groups have, and nothing else.
    pub fn check_nothing_left(&mut self) {
        self.arriving.clear();
        (0..2).for_each(|_| self.checkpoint());
        while self.tidy() {}
        self.check_contents();
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        let expected: usize = groups
            .iter()
            .map(|group| self.expected(*group).expect("everything is acknowledged").len())
            .sum();
        let transaction = self.store.engine.begin_read().expect("no fault");
        let rows = transaction.open_table(DATA).and_then(|table| Ok(table.len()?));
        assert_eq!(
            rows.expect("no fault"),
            expected as u64,
            "[rows] in redb, but not of any group"
        );
    }
}

/// Such a replica is the child of a split to come: the split makes it a member, and nothing else happens to it before.
fn is_awaited(next: &Groups, group: GroupId) -> bool {
    let is_named = |parent: &Arc<Log>| parent.splits.iter().any(|(_, split)| split.child == group);
    let is_voter = next.logs.get(&group).is_some_and(|log| !log.is_initialised());
    is_voter && next.logs.values().any(is_named)
}

fn pieces_of(contents: &Contents, random: &mut Random) -> VecDeque<Rows> {
    let mut rows: Rows = contents
        .iter()
        .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
        .collect();
    let mut pieces = VecDeque::new();
    while !rows.is_empty() {
        let taken = rows.len().min(1 + random.below(PIECE_ROWS) as usize);
        pieces.push_back(rows.drain(..taken).collect());
    }
    pieces
}
