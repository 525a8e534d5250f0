//! The applied state of one worker's groups: memtables over redb. One per worker, used by its state machine.

use crate::engine::{Engine, lock};
use crate::memory::{Key, Memory, Remembered};
use crate::order::Order;
use crate::slot::SLOT_BYTES;
use crate::span::{Piece, Span};
use crate::tables::{Base, Broken};
use bytes::Bytes;
use multiraft::{CutId, EntryId, GroupId, ReplicaId};
use std::collections::btree_map;
use std::fmt;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Takes a key and its value; says whether the scan goes on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What a split makes of the child on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// It begins to exist.
    Born,
    /// It exists already: this is a replay.
    Known,
    /// It existed and was removed: a tombstone forbids it.
    Forbidden,
}

/// The applied state of one worker's groups, ordered bytes to bytes within each group.
/// A group that was never born is empty.
pub struct WorkerState {
    engine: Arc<Engine>,
    worker: usize,
}

impl WorkerState {
    pub(crate) fn new(engine: Arc<Engine>, worker: usize) -> WorkerState {
        WorkerState { engine, worker }
    }

    /// The value of a key.
    pub fn get(&self, group: GroupId, key: &[u8]) -> Option<Bytes> {
        let (slot, base) = {
            let memory = self.engine.memory(self.worker);
            let slot = memory.places.get(&group)?.slot_of(key)?;
            if let Remembered::Written(value) = memory.find(slot, key) {
                return value;
            }
            (slot, open_base(&memory))
        };
        base.get(&slot.key(key))
            .unwrap_or_else(|broken| self.engine.broken("read the state", broken))
    }

    /// Sets a key. `value` is kept as it is until a checkpoint: a slice of a larger buffer pins that buffer.
    pub fn put(&mut self, group: GroupId, key: &[u8], value: Bytes) {
        let grown = self.engine.memory(self.worker).write(group, key, Some(value));
        self.engine.memtable_grew(grown);
    }

    /// Removes a key, present or not.
    pub fn delete(&mut self, group: GroupId, key: &[u8]) {
        let grown = self.engine.memory(self.worker).write(group, key, None);
        self.engine.memtable_grew(grown);
    }

    /// Visits keys in `[start, end)` (`None`: to the end) in byte order until the visitor breaks.
    /// The visitor must not call back into this state.
    pub fn scan(&self, group: GroupId, start: &[u8], end: Option<&[u8]>, visit: &mut Visit<'_>) {
        let end = end.map(Bytes::copy_from_slice);
        let Some(span) = Span::between(Bytes::copy_from_slice(start), end) else {
            return;
        };
        let memory = self.engine.memory(self.worker);
        let Some(places) = memory.places.get(&group) else {
            return;
        };
        let base = open_base(&memory);
        for piece in places.within(&span) {
            match Merge::new(&memory, &piece).run(&base, &piece, visit) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(broken) => self.engine.broken("scan the state", broken),
            }
        }
    }

    /// Tells that everything up to and including this entry is reflected in this state. Call it at the end of every
    /// `StateMachine::apply`: a clean stop writes the state out together with this position.
    pub fn mark_applied(&mut self, group: GroupId, applied: EntryId) {
        self.engine.memory(self.worker).mark_applied(group, applied);
    }

    /// The parent's entry that splits it is being applied: from here on the keys in `[start, end)` are the child's. They
    /// stay where they are; all other keys of the child are new. A child that is [`Child::Born`] is to be frozen with
    /// the same cut as its parent and born, by a `Birth` with this split, in this worker's next batch.
    pub fn split(
        &mut self,
        parent: GroupId,
        child: (GroupId, ReplicaId),
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Child {
        let end = end.map(Bytes::copy_from_slice);
        let span = Span::between(Bytes::copy_from_slice(start), end).expect("a split moves some keys");
        let (group, replica) = child;
        let fate = lock(&self.engine.index).fate_of(group, replica);
        let mut memory = self.engine.memory(self.worker);
        let places = Arc::clone(memory.places(parent));
        if fate == Child::Born {
            let places = places.child(&span, self.engine.new_slot());
            memory.drop_group(group);
            memory.place(group, Arc::new(places));
        }
        memory.place(parent, Arc::new(places.without(&span)));
        fate
    }

    /// `Completion::Installed` said that a snapshot is this group's state now: reads and writes go there.
    pub fn install(&mut self, group: GroupId) {
        let places = {
            let index = lock(&self.engine.index);
            let log = index.groups.get(&group).expect("what was installed is there");
            Arc::clone(&log.places)
        };
        let mut memory = self.engine.memory(self.worker);
        memory.drop_group(group);
        memory.places.insert(group, places);
    }

    /// The replica was removed from this node: its state is not readable any more.
    pub fn forget(&mut self, group: GroupId) {
        self.engine.memory(self.worker).drop_group(group);
    }

    /// Freezes the memtables: writes from now on belong to the next cut. Call it from `StateMachine::freeze`.
    pub fn freeze(&mut self, cut: CutId) {
        let mut memory = self.engine.memory(self.worker);
        memory.freeze(cut);
        let frozen = memory.frozen.as_ref().map(|frozen| frozen.table.size);
        self.engine.memtable_froze(frozen.unwrap_or_default());
    }
}

impl fmt::Debug for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerState({})", self.worker)
    }
}

fn open_base(memory: &Memory) -> Arc<Base> {
    Arc::clone(
        memory
            .base
            .as_ref()
            .expect("the workers stop before the store is closed"),
    )
}

type Writes<'a> = Peekable<btree_map::Range<'a, Key, Option<Bytes>>>;

/// The memtables' part of a scan: newer tables first.
struct Merge<'a> {
    tables: Vec<Writes<'a>>,
}

impl<'a> Merge<'a> {
    fn new(memory: &'a Memory, piece: &'a Piece) -> Merge<'a> {
        let bounds = (
            Bound::Included(&piece.span.start[..]),
            piece
                .span
                .end
                .as_deref()
                .map_or(Bound::Unbounded, Bound::Excluded),
        );
        let frozen = memory.frozen.as_ref().map(|frozen| &frozen.table);
        let tables = std::iter::once(&memory.active)
            .chain(frozen)
            .filter_map(|table| table.slots.get(&piece.slot))
            .map(|pairs| pairs.range::<[u8], _>(bounds).peekable())
            .collect();
        Merge { tables }
    }

    /// Walks redb's rows and the memtables' writes together. Says whether the visitor goes on.
    fn run(&mut self, base: &Base, piece: &Piece, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, Broken> {
        let lower = piece.span.lower(piece.slot);
        let upper = piece.span.upper(piece.slot);
        let mut order = Order::within(&lower, Some(&upper));
        for row in base.data.range(lower.as_slice()..upper.as_slice())? {
            let (stored_key, row) = row?;
            let stored_key = stored_key.value();
            order.pass(stored_key)?;
            let key = &stored_key[SLOT_BYTES..];
            if self.visit_before(key, visit).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let flow = match self.take(key) {
                Some(None) => ControlFlow::Continue(()),
                Some(Some(value)) => visit(key, &value),
                None => visit(key, &base.value(stored_key, row.value())?),
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        while let Some(key) = self.smallest() {
            if let Some(Some(value)) = self.take(key)
                && visit(key, &value).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Visits what was written in front of `key`.
    fn visit_before(&mut self, key: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        while let Some(smallest) = self.smallest().filter(|smallest| *smallest < key) {
            if let Some(Some(value)) = self.take(smallest) {
                visit(smallest, &value)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn smallest(&mut self) -> Option<&'a [u8]> {
        self.tables
            .iter_mut()
            .filter_map(|table| table.peek().map(|(key, _)| key.as_slice()))
            .min()
    }

    /// Passes `key`, which none of the tables is beyond; returns the newest write of it.
    fn take(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let mut newest = None;
        for table in &mut self.tables {
            if let Some((_, value)) = table.next_if(|(next, _)| next.as_slice() == key) {
                newest.get_or_insert_with(|| value.clone());
            }
        }
        newest
    }
}
