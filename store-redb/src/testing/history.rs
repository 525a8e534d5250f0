//! What groups are after some ops: their logs, the states that the logs make, who was removed. A step at a time, as the
//! rules of births, splits, installs and tombstones say (`DESIGN.md`, "Lives"). Knows nothing of files or crashes.

use bytes::Bytes;
use multiraft::{
    Entry, EntryId, GroupId, HardState, Index, Membership, NodeId, Payload, ReplicaId, Restored,
    RestoredGroup, Split, Stamp, Term, Tombstone,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// What applied entries make.
pub type Contents = BTreeMap<Vec<u8>, Bytes>;

/// Where the logs of children begin.
pub(super) const CHILD_BASE: EntryId = EntryId {
    term: Term(5),
    index: Index(5),
};

/// The first bytes of a command that splits its group; no key of a script.
const SPLITS: [u8; 8] = [0xff; 8];

/// What a log begins with, all of it as of `base`.
#[derive(Debug)]
pub struct Origin {
    /// The log's entries follow this one.
    pub base: EntryId,
    /// Who is in the group.
    pub membership: Membership,
    /// The state.
    pub contents: Arc<Contents>,
    /// What committed entries make of it: in one history that never changes again.
    known: Mutex<BTreeMap<u64, Arc<Contents>>>,
}

impl Origin {
    /// Of a log behind `base`.
    pub fn new(base: EntryId, membership: Membership, contents: Contents) -> Arc<Origin> {
        Arc::new(Origin {
            base,
            membership,
            contents: Arc::new(contents),
            known: Mutex::default(),
        })
    }

    /// The same, in another history.
    fn again(&self) -> Arc<Origin> {
        Origin::new(self.base, self.membership.clone(), (*self.contents).clone())
    }
}

/// A split as its entry names it: these keys become the child's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOff {
    /// The child.
    pub child: GroupId,
    /// Its replica on this node.
    pub replica: ReplicaId,
    /// The keys that move.
    pub keys: Range<u64>,
}

impl SplitOff {
    /// The entry that says so.
    pub fn entry(&self, id: EntryId) -> Entry {
        let mut bytes = SPLITS.to_vec();
        for number in [self.child.0, self.replica.0, self.keys.start, self.keys.end] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let payload = Payload::Command(Stamp(1), bytes.into());
        Entry { id, payload }
    }

    fn of(entry: &Entry) -> Option<SplitOff> {
        let Payload::Command(_, bytes) = &entry.payload else {
            return None;
        };
        let rest = bytes.strip_prefix(&SPLITS)?;
        let number = |at: usize| {
            let bytes = rest[at * 8..][..8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        Some(SplitOff {
            child: GroupId(number(0)),
            replica: ReplicaId(number(1)),
            keys: number(2)..number(3),
        })
    }

    fn moves(&self, key: &[u8]) -> bool {
        self.keys.start.to_be_bytes()[..] <= *key && *key < self.keys.end.to_be_bytes()[..]
    }

    /// Everything of a state that becomes the child's.
    pub fn part(&self, contents: &Contents) -> Contents {
        let moved = contents.iter().filter(|(key, _)| self.moves(key));
        moved.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// What applying an entry does.
#[derive(Debug)]
pub enum Effect {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
    /// Keys become another group's.
    Split(SplitOff),
    /// Nothing: no command, or of a key that a split took away.
    Nothing,
}

/// What a group's log must be, and everything that was ever committed in it.
#[derive(Clone, Debug)]
pub struct Log {
    /// Whose.
    pub replica: ReplicaId,
    /// What it begins with.
    pub origin: Arc<Origin>,
    /// Term and vote.
    pub hard_state: HardState,
    /// All since the origin, as if nothing were ever truncated.
    pub entries: Vec<Entry>,
    /// The splits among them, by index.
    pub splits: Vec<(u64, SplitOff)>,
    /// The commit mark.
    pub commit: u64,
}

impl Log {
    /// False: it only keeps a vote.
    pub fn is_initialised(&self) -> bool {
        self.origin.base != EntryId::ZERO || !self.origin.membership.nodes.is_empty()
    }

    /// The last entry's index.
    pub fn last(&self) -> u64 {
        self.origin.base.index.0 + self.entries.len() as u64
    }

    /// Where the entry with this index stands in `entries`; of the base: where the first one does.
    pub fn place(&self, index: u64) -> Option<usize> {
        let behind = index.checked_sub(self.origin.base.index.0 + 1)?;
        usize::try_from(behind).ok()
    }

    /// The entry with this index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(self.place(index)?)
    }

    /// The entry with this index, or the base.
    pub fn id(&self, index: u64) -> Option<EntryId> {
        match index == self.origin.base.index.0 {
            true => Some(self.origin.base),
            false => self.entry(index).map(|entry| entry.id),
        }
    }

    /// The entries behind this index.
    pub fn behind(&self, index: u64) -> &[Entry] {
        let from = self.place(index + 1).unwrap_or(0);
        self.entries.get(from..).unwrap_or_default()
    }

    /// What applying this entry does.
    pub fn effect(&self, entry: &Entry) -> Effect {
        if let Some(split) = SplitOff::of(entry) {
            return Effect::Split(split);
        }
        let Payload::Command(_, bytes) = &entry.payload else {
            return Effect::Nothing;
        };
        let key = bytes.slice(..8);
        let mut before = self.splits.iter().take_while(|(at, _)| *at < entry.id.index.0);
        if before.any(|(_, split)| split.moves(&key)) {
            return Effect::Nothing;
        }
        match bytes.len() {
            8 => Effect::Delete(key),
            _ => Effect::Put(key, bytes.slice(8..)),
        }
    }

    /// What the entries up to `applied` make. They must be committed.
    pub fn contents(&self, applied: u64) -> Arc<Contents> {
        let mut known = self.origin.known.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = known.range(..=applied).next_back();
        let (from, mut contents) = newest.map_or_else(
            || (self.origin.base.index.0, Arc::clone(&self.origin.contents)),
            |(at, contents)| (*at, Arc::clone(contents)),
        );
        if from < applied {
            let changed = Arc::make_mut(&mut contents);
            let entries = self.behind(from).iter();
            let entries = entries.take_while(|entry| entry.id.index.0 <= applied);
            entries.for_each(|entry| self.apply(changed, entry));
            known.insert(applied, Arc::clone(&contents));
        }
        contents
    }

    fn apply(&self, contents: &mut Contents, entry: &Entry) {
        match self.effect(entry) {
            Effect::Put(key, value) => {
                contents.insert(key.to_vec(), value);
            }
            Effect::Delete(key) => {
                contents.remove(&key[..]);
            }
            Effect::Split(split) => contents.retain(|key, _| !split.moves(key)),
            Effect::Nothing => {}
        }
    }

    /// The membership as of `index`.
    pub fn membership(&self, index: u64) -> &Membership {
        let entries = self.entries.iter().rev();
        let mut entries = entries.skip_while(|entry| entry.id.index.0 > index);
        let changed = entries.find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        changed.unwrap_or(&self.origin.membership)
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let place = self.place(first.id.index.0).expect("behind the base");
        self.entries.truncate(place);
        self.splits.retain(|(at, _)| *at < first.id.index.0);
        self.entries.extend_from_slice(entries);
        let splits = entries
            .iter()
            .filter_map(|entry| Some((entry.id.index.0, SplitOff::of(entry)?)));
        self.splits.extend(splits);
    }

    /// What an earlier existence of the same replica promised is kept.
    fn keep_promises(&mut self, before: HardState) {
        let mine = self.hard_state;
        if before.term > mine.term || (before.term == mine.term && before.vote.is_some()) {
            self.hard_state = before;
        }
    }
}

/// A group that begins to exist.
#[derive(Clone, Debug)]
pub struct Newborn {
    /// Which.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// What it begins with.
    pub origin: Arc<Origin>,
    /// Where it comes from.
    pub split: Option<Split>,
}

/// A snapshot that takes a group's place.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Whose.
    pub group: GroupId,
    /// What the log then begins with.
    pub origin: Arc<Origin>,
    /// Term and vote afterwards.
    pub hard_state: HardState,
}

/// One op of a batch.
#[derive(Clone, Debug)]
pub enum Said {
    /// The group begins to exist.
    Born(Newborn),
    /// A snapshot takes its place.
    Installed(Arrival),
    /// The group's log changes.
    Wrote {
        /// Whose.
        group: GroupId,
        /// As which replica.
        replica: ReplicaId,
        /// A new term or vote.
        hard_state: Option<HardState>,
        /// They replace everything from the first one's index on.
        entries: Vec<Entry>,
        /// The commit mark.
        commit: u64,
    },
    /// The replica is removed.
    Buried(Tombstone),
}

impl Said {
    /// How many entries it has.
    pub fn entries(&self) -> usize {
        match self {
            Said::Wrote { entries, .. } => entries.len(),
            Said::Born(_) | Said::Installed(_) | Said::Buried(_) => 0,
        }
    }

    /// True when it changes whether or as what a group exists.
    pub fn is_fate(&self) -> bool {
        !matches!(self, Said::Wrote { .. })
    }

    /// Adds this op, with only the first `taken` of its entries, to what the groups are. The commit mark comes with
    /// the last entry.
    pub fn apply(&self, taken: usize, groups: &mut Groups) {
        match self {
            Said::Born(newborn) => groups.bear(newborn),
            Said::Installed(arrival) => groups.install(arrival),
            Said::Buried(tombstone) => groups.bury(*tombstone),
            Said::Wrote {
                group,
                replica,
                hard_state,
                entries,
                commit,
            } => {
                let log = groups.logs.get_mut(group).expect("born before it writes");
                assert_eq!(log.replica, *replica, "{group} writes as itself");
                let log = Arc::make_mut(log);
                log.hard_state = hard_state.unwrap_or(log.hard_state);
                log.append(&entries[..taken]);
                if taken == entries.len() {
                    log.commit = log.commit.max(*commit);
                }
            }
        }
    }
}

/// All groups of a node.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Those that are.
    pub logs: BTreeMap<GroupId, Arc<Log>>,
    /// The lowest replicas that may still be born.
    pub tombstones: BTreeMap<GroupId, ReplicaId>,
}

/// What a start found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The groups.
    pub groups: &'a [RestoredGroup],
    /// The lowest replicas that may still be born.
    pub tombstones: &'a BTreeMap<GroupId, ReplicaId>,
}

impl Groups {
    fn is_forbidden(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.tombstones
            .get(&group)
            .is_some_and(|lowest| replica < *lowest)
    }

    fn bear(&mut self, newborn: &Newborn) {
        let Newborn { group, replica, .. } = *newborn;
        if self.is_forbidden(group, replica) {
            return;
        }
        if let Some(split) = newborn.split {
            let parent = self.logs.get_mut(&split.parent).expect("a parent stays");
            let parent = Arc::make_mut(parent);
            parent.commit = parent.commit.max(split.at.0);
        }
        let promised = match self.logs.get_mut(&group) {
            Some(log) if log.replica > replica => return,
            Some(log) if log.replica == replica && log.is_initialised() => {
                let split = newborn.split.expect("only a child's row comes before its birth");
                Arc::make_mut(log).keep_promises(split.hard_state);
                return;
            }
            Some(log) if log.replica == replica => Some(log.hard_state),
            _ => None,
        };
        let fresh = HardState {
            term: newborn.origin.base.term,
            vote: None,
        };
        let mut log = Log {
            replica,
            origin: Arc::clone(&newborn.origin),
            hard_state: newborn.split.map_or(fresh, |split| split.hard_state),
            entries: Vec::new(),
            splits: Vec::new(),
            commit: newborn.origin.base.index.0,
        };
        promised
            .into_iter()
            .for_each(|promised| log.keep_promises(promised));
        self.logs.insert(group, Arc::new(log));
    }

    fn install(&mut self, arrival: &Arrival) {
        let log = self
            .logs
            .get_mut(&arrival.group)
            .expect("born before it is installed");
        if arrival.origin.base.index.0 <= log.commit {
            return;
        }
        *log = Arc::new(Log {
            replica: log.replica,
            origin: Arc::clone(&arrival.origin),
            hard_state: arrival.hard_state,
            entries: Vec::new(),
            splits: Vec::new(),
            commit: arrival.origin.base.index.0,
        });
    }

    fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { group, lowest } = tombstone;
        let known = self.tombstones.entry(group).or_insert(lowest);
        *known = lowest.max(*known);
        if self.logs.get(&group).is_some_and(|log| log.replica < lowest) {
            self.logs.remove(&group);
        }
    }

    /// The history goes on differently from here: what was worked out in the other one does not count.
    pub fn branch(&mut self) {
        for log in self.logs.values_mut() {
            let log = Arc::make_mut(log);
            log.origin = log.origin.again();
        }
    }

    /// These groups as a start must find them, if what it found fits. A checkpoint may know more than the log: entries
    /// that were applied are committed, and children of splits that were applied exist.
    pub fn fit(&self, found: Found<'_>) -> Option<Groups> {
        if self.tombstones != *found.tombstones {
            return None;
        }
        let mut groups = self.clone();
        for found in found.groups {
            groups.learn(found);
        }
        let fits = |found: &RestoredGroup| {
            let log = groups.logs.get(&found.group);
            log.is_some_and(|log| log.replica == found.replica && log.fits(&found.restored))
        };
        (groups.logs.len() == found.groups.len() && found.groups.iter().all(fits)).then_some(groups)
    }

    /// What a row says by how far its group had been applied.
    fn learn(&mut self, found: &RestoredGroup) {
        let applied = found.restored.applied.0;
        let Some(log) = self.logs.get_mut(&found.group) else {
            return;
        };
        if log.commit < applied {
            Arc::make_mut(log).commit = applied;
        }
        let parent = Arc::clone(log);
        if !parent.fits(&found.restored) {
            return; // of another moment: what its entries make is not what was applied
        }
        let applied = parent.splits.iter().take_while(|(at, _)| *at <= applied);
        for (at, split) in applied.filter(|(at, _)| *at <= parent.last()) {
            let is_known = |log: &Arc<Log>| {
                log.replica > split.replica || (log.replica == split.replica && log.is_initialised())
            };
            if !self.logs.get(&split.child).is_some_and(is_known) {
                self.bear(&parent.child(found.group, *at, split, None));
            }
        }
    }
}

impl Log {
    /// The child that a split of this log makes, with the promises that its birth names.
    pub fn child(
        &self,
        parent: GroupId,
        at: u64,
        split: &SplitOff,
        hard_state: Option<HardState>,
    ) -> Newborn {
        let contents = split.part(&self.contents(at - 1));
        let fresh = HardState {
            term: CHILD_BASE.term,
            vote: None,
        };
        Newborn {
            group: split.child,
            replica: split.replica,
            origin: Origin::new(CHILD_BASE, membership(split.child, 0), contents),
            split: Some(Split {
                parent,
                at: Index(at),
                hard_state: hard_state.unwrap_or(fresh),
            }),
        }
    }

    fn fits(&self, restored: &Restored) -> bool {
        let truncated = restored.truncated.index.0;
        let ends = self.last() == truncated + restored.entries.len() as u64;
        self.hard_state == restored.hard_state
            && self.commit == restored.commit.0
            && self.id(truncated) == Some(restored.truncated)
            && ends
            && self.behind(truncated) == &restored.entries[..]
            && restored.truncated.index <= restored.applied
            && restored.applied <= restored.commit
            && restored.checkpointed == restored.applied
    }
}

/// The replica of a group on this node.
pub fn replica(group: GroupId) -> ReplicaId {
    ReplicaId(group.0 * 10)
}

/// A membership of a group, with `extra` voters more than three.
pub fn membership(group: GroupId, extra: u64) -> Membership {
    Membership::of_voters((0..3 + extra).map(|n| (ReplicaId(group.0 * 10 + n), NodeId(n + 1))))
}

/// A group's descriptor once it applied so much.
pub fn descriptor(group: GroupId, applied: u64) -> Bytes {
    Bytes::from(format!("range of {group} at {applied}"))
}

/// A command that sets a key to `length` bytes; to none: removes it.
pub fn command(term: u64, index: u64, key: u64, length: usize) -> Entry {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(8 + length, (index % 251) as u8);
    Entry {
        id: EntryId::new(term, index),
        payload: Payload::Command(Stamp(index), bytes.into()),
    }
}
