//! One worker's memtables: what was applied and no checkpoint holds yet. Shared between the worker, which writes and
//! freezes them, and the checkpoint, which takes what is frozen. Knows nothing of the log.

use crate::limits::{KEY_BYTES_INLINE, MEMTABLE_ENTRY_OVERHEAD};
use crate::slot::Slot;
use crate::span::Places;
use crate::tables::Base;
use bytes::Bytes;
use multiraft::{CutId, EntryId, GroupId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::Arc;

/// A key of ordinary length lies in the tree's own nodes: a comparison that follows a pointer is a cache miss.
pub(crate) type Key = SmallVec<[u8; KEY_BYTES_INLINE]>;

/// Keys and their values; `None`: removed.
pub(crate) type Pairs = BTreeMap<Key, Option<Bytes>>;

/// How much memtables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Keys written or removed.
    pub(crate) entries: u64,
    /// What they take in memory, roughly.
    pub(crate) bytes: u64,
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

/// How far one group's part of a memtable goes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last entry reflected, as far as the state machine said.
    pub(crate) applied: Option<EntryId>,
    /// True when something was written since `applied` was told.
    pub(crate) is_unmarked: bool,
    /// True when something was written at all.
    pub(crate) is_written: bool,
}

/// A memtable: all groups of a worker. Writes are kept by slot, not by group: a group split off another one finds
/// what was applied to its keys before.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    pub(crate) slots: BTreeMap<Slot, Pairs>,
    pub(crate) groups: BTreeMap<GroupId, Progress>,
    /// Where the keys of these groups live now: it changed since the last freeze.
    pub(crate) moved: BTreeMap<GroupId, Arc<Places>>,
    /// What older tables say about these groups is void.
    dropped: BTreeSet<GroupId>,
    /// How much was written; what was dropped since still counts.
    pub(crate) size: Size,
}

/// A memtable that belongs to a cut.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) cut: CutId,
    pub(crate) table: Memtable,
}

/// Everything one worker's reads look at.
#[derive(Default)]
pub(crate) struct Memory {
    /// Where each group's data lives.
    pub(crate) places: BTreeMap<GroupId, Arc<Places>>,
    pub(crate) active: Memtable,
    /// Swapped together with `base`.
    pub(crate) frozen: Option<Arc<Frozen>>,
    /// `None` once the store is closed.
    pub(crate) base: Option<Arc<Base>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("active_bytes", &self.active.size.bytes)
            .finish_non_exhaustive()
    }
}

/// What the memtables know about a key.
pub(crate) enum Remembered {
    /// The newest write.
    Written(Option<Bytes>),
    /// Nothing: redb decides.
    Unknown,
}

impl Memory {
    /// Where a group's keys live.
    pub(crate) fn places(&self, group: GroupId) -> &Arc<Places> {
        self.places
            .get(&group)
            .expect("a group is born before anything is applied to it")
    }

    /// A group's keys live there from now on.
    pub(crate) fn place(&mut self, group: GroupId, places: Arc<Places>) {
        self.active.moved.insert(group, Arc::clone(&places));
        self.places.insert(group, places);
    }

    /// Sets or removes a key; returns how much the memtable grew.
    pub(crate) fn write(&mut self, group: GroupId, key: &[u8], value: Option<Bytes>) -> Size {
        let slot = self.places(group).slot_of(key);
        let slot = slot.expect("a group writes only keys that no split took away");
        let progress = self.active.groups.entry(group).or_default();
        progress.is_unmarked = true;
        progress.is_written = true;
        let mut grown = Size {
            entries: 1,
            bytes: cost(key, value.as_ref()),
        };
        let pairs = self.active.slots.entry(slot).or_default();
        if let Some(old) = pairs.get_mut(key) {
            grown.entries = 0;
            grown.bytes = grown.bytes.saturating_sub(cost(key, old.as_ref()));
            *old = value;
        } else {
            pairs.insert(Key::from_slice(key), value);
        }
        self.active.size += grown;
        grown
    }

    /// Everything up to `applied` is reflected.
    pub(crate) fn mark_applied(&mut self, group: GroupId, applied: EntryId) {
        assert!(
            self.places.contains_key(&group),
            "{group} is applied before its birth"
        );
        let progress = self.active.groups.entry(group).or_default();
        assert!(
            progress.applied <= Some(applied),
            "{group} applied {applied} after {:?}",
            progress.applied
        );
        progress.applied = Some(applied);
        progress.is_unmarked = false;
    }

    /// Looks in the active memtable, then in the frozen one.
    pub(crate) fn find(&self, slot: Slot, key: &[u8]) -> Remembered {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.table);
        for table in std::iter::once(&self.active).chain(frozen) {
            if let Some(value) = table.slots.get(&slot).and_then(|pairs| pairs.get(key)) {
                return Remembered::Written(value.clone());
            }
        }
        Remembered::Unknown
    }

    /// The active memtable now belongs to the cut; writes go to a new one.
    pub(crate) fn freeze(&mut self, cut: CutId) {
        assert!(
            self.frozen.is_none(),
            "cut {} while another one is running",
            cut.0
        );
        let table = std::mem::take(&mut self.active);
        self.frozen = Some(Arc::new(Frozen { cut, table }));
    }

    /// A stop ends the cut under way: what is frozen goes back below what is active.
    pub(crate) fn unfreeze(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let frozen = Arc::into_inner(frozen).expect("no checkpoint is running");
        let newer = std::mem::replace(&mut self.active, frozen.table);
        self.active.absorb(newer);
    }

    /// The group's state is replaced or gone: nothing applied to it so far counts. What is frozen stays, its slots are
    /// dead and the checkpoint passes over them.
    pub(crate) fn drop_group(&mut self, group: GroupId) {
        let Some(places) = self.places.remove(&group) else {
            return;
        };
        self.active.groups.remove(&group);
        self.active.moved.remove(&group);
        self.active.dropped.insert(group);
        for piece in places.pieces() {
            if let Some(pairs) = self.active.slots.get_mut(&piece.slot) {
                pairs.retain(|key, _| !piece.span.contains(key));
            }
        }
        self.active.slots.retain(|_, pairs| !pairs.is_empty());
    }
}

impl Memtable {
    /// Puts a newer table over this one.
    fn absorb(&mut self, newer: Memtable) {
        for group in &newer.dropped {
            self.groups.remove(group);
            self.moved.remove(group);
        }
        for (slot, pairs) in newer.slots {
            self.slots.entry(slot).or_default().extend(pairs);
        }
        for (group, progress) in newer.groups {
            self.groups.entry(group).or_default().absorb(&progress);
        }
        self.moved.extend(newer.moved);
        self.size += newer.size;
    }
}

impl Progress {
    fn absorb(&mut self, newer: &Progress) {
        self.applied = newer.applied.or(self.applied);
        self.is_written |= newer.is_written;
        self.is_unmarked = newer.is_unmarked || (self.is_unmarked && newer.applied.is_none());
    }
}

fn cost(key: &[u8], value: Option<&Bytes>) -> u64 {
    MEMTABLE_ENTRY_OVERHEAD + (key.len() + value.map_or(0, Bytes::len)) as u64
}
