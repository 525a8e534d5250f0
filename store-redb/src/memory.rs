//! One worker's memtables: what was applied and no checkpoint holds yet. Shared between the worker, which writes and
//! freezes them, and the checkpoint, which takes what is frozen. Knows nothing of the log.

use crate::limits::MEMTABLE_ENTRY_OVERHEAD;
use crate::slot::Slot;
use crate::tables::Base;
use bytes::Bytes;
use multiraft::{CutId, EntryId, GroupId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One group's part of a memtable.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) slot: Slot,
    /// `None`: removed.
    pub(crate) pairs: BTreeMap<Box<[u8]>, Option<Bytes>>,
    /// The last entry reflected, as far as the state machine said.
    pub(crate) applied: Option<EntryId>,
    /// True when nothing was written since `applied` was told.
    pub(crate) is_marked: bool,
}

/// A memtable: all groups of a worker.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    pub(crate) groups: BTreeMap<GroupId, Pending>,
    /// What it takes in memory, roughly.
    pub(crate) bytes: u64,
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
    pub(crate) slots: BTreeMap<GroupId, Slot>,
    pub(crate) active: Memtable,
    /// Swapped together with `base`.
    pub(crate) frozen: Option<Arc<Frozen>>,
    /// `None` once the store is closed.
    pub(crate) base: Option<Arc<Base>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("active_bytes", &self.active.bytes)
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
    /// Sets or removes a key; returns how much the memtable grew.
    pub(crate) fn write(&mut self, group: GroupId, key: &[u8], value: Option<Bytes>) -> u64 {
        let slot = *self
            .slots
            .get(&group)
            .expect("a group is born before anything is applied to it");
        let pending = self.active.pending(group, slot);
        pending.is_marked = false;
        let new = cost(key, value.as_ref());
        let grown = match pending.pairs.get_mut(key) {
            Some(old) => {
                let before = cost(key, old.as_ref());
                *old = value;
                new.saturating_sub(before)
            }
            None => {
                pending.pairs.insert(key.into(), value);
                new
            }
        };
        self.active.bytes += grown;
        grown
    }

    /// Everything up to `applied` is reflected.
    pub(crate) fn mark_applied(&mut self, group: GroupId, applied: EntryId) {
        let slot = *self
            .slots
            .get(&group)
            .expect("a group is born before anything is applied to it");
        let pending = self.active.pending(group, slot);
        assert!(
            pending.applied <= Some(applied),
            "{group} applied {applied} after {:?}",
            pending.applied
        );
        pending.applied = Some(applied);
        pending.is_marked = true;
    }

    /// Looks in the active memtable, then in the frozen one.
    pub(crate) fn find(&self, group: GroupId, key: &[u8]) -> Remembered {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.table);
        for table in std::iter::once(&self.active).chain(frozen) {
            if let Some(value) = table
                .groups
                .get(&group)
                .and_then(|pending| pending.pairs.get(key))
            {
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
        for (group, pending) in newer.groups {
            self.active
                .groups
                .entry(group)
                .and_modify(|old| old.absorb(&pending))
                .or_insert(pending);
        }
    }
}

impl Memtable {
    fn pending(&mut self, group: GroupId, slot: Slot) -> &mut Pending {
        self.groups.entry(group).or_insert_with(|| Pending {
            slot,
            pairs: BTreeMap::new(),
            applied: None,
            is_marked: true,
        })
    }
}

impl Pending {
    /// Puts a newer part over this one.
    fn absorb(&mut self, newer: &Pending) {
        let pairs = newer
            .pairs
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()));
        self.pairs.extend(pairs);
        self.applied = newer.applied.or(self.applied);
        self.is_marked = newer.is_marked && (newer.applied.is_some() || self.is_marked);
    }
}

fn cost(key: &[u8], value: Option<&Bytes>) -> u64 {
    MEMTABLE_ENTRY_OVERHEAD + (key.len() + value.map_or(0, Bytes::len)) as u64
}
