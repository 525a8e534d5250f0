//! What the store knows in memory about each group's log: where its live entries lie, its hard state and marks.
//! Positions only, no entry bytes; filled by the committer and by recovery, read by fetches and checkpoints.

use crate::codec::{Malformed, Reader, put_bytes, put_entry_id, put_hard_state, put_membership, put_varint};
use crate::header::Position;
use crate::lives::Lives;
use crate::record::{Born, Installed, OpId, PlacedEntry};
use crate::span::Places;
use bytes::Bytes;
use multiraft::{EntryId, GroupId, GroupRow, HardState, Index, Membership, ReplicaId, Split, Term};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where one entry's bytes lie: in a record of the ring, or in the cold table. 16 bytes, as there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The record's number; 0 for the cold table (records count from 1).
    sequence: u64,
    /// Ring offset in the upper 40 bits, length in the lower 24.
    packed: u64,
}

impl Placed {
    /// In the cold table, under (group, index).
    pub(crate) const COLD: Placed = Placed {
        sequence: 0,
        packed: 0,
    };

    pub(crate) fn in_ring(sequence: u64, offset: u64, length: u32) -> Placed {
        assert!(
            sequence > 0 && offset < 1 << 40 && length < 1 << 24,
            "{sequence}, {offset}, {length}"
        );
        Placed {
            sequence,
            packed: offset << 24 | u64::from(length),
        }
    }

    pub(crate) fn is_cold(self) -> bool {
        self.sequence == 0
    }

    pub(crate) fn ring_offset(self) -> u64 {
        self.packed >> 24
    }

    pub(crate) fn length(self) -> usize {
        (self.packed & 0xff_ffff) as usize
    }
}

/// All groups, and up to where the log is durable. One lock covers both, so that a checkpoint sees them agree.
#[derive(Debug, Default)]
pub(crate) struct LogIndex {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    /// Where the next record goes at the earliest, and its number: everything before is durable and indexed.
    pub(crate) durable: Position,
    /// `durable` as the last checkpoint saw it: the next one moves the tail there.
    pub(crate) captured: Position,
    /// Counts releases of ring space: what was read before and after the same count was not overwritten meanwhile.
    pub(crate) releases: u64,
    /// Who may be born, who needs whom, and what nobody needs any more.
    pub(crate) lives: Lives,
}

/// The entry that a group was split off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitAt {
    pub(crate) parent: GroupId,
    /// In the parent's log.
    pub(crate) at: Index,
}

impl From<Split> for SplitAt {
    fn from(split: Split) -> SplitAt {
        let Split { parent, at, .. } = split;
        SplitAt { parent, at }
    }
}

/// One group's log.
#[derive(Clone, Debug)]
pub(crate) struct GroupLog {
    pub(crate) replica: ReplicaId,
    /// The birth or install that this log began with: what the ring says of the group before is history.
    pub(crate) began: OpId,
    /// Where its data lives, as of `applied`.
    pub(crate) places: Arc<Places>,
    /// What another group must be replayed past to make this one's state, until a durable row holds it.
    pub(crate) parent: Option<SplitAt>,
    /// A durable checkpoint holds a row of this replica.
    pub(crate) has_row: bool,
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    pub(crate) descriptor: Bytes,
    /// What the state in redb reflects, as of the last row.
    pub(crate) applied: EntryId,
    /// What the state in redb durably reflects: the log may be truncated up to here.
    pub(crate) checkpointed: Index,
    /// The log up to here is gone.
    pub(crate) truncated: EntryId,
    /// The membership as of `truncated`.
    pub(crate) membership: Membership,
    /// Memberships in live entries, in index order.
    pub(crate) memberships: VecDeque<(Index, Membership)>,
    /// From `truncated.index + 1` on. Cold ones first; then in record order.
    entries: VecDeque<Placed>,
    /// The live entries' terms: each run's first index and its term.
    terms: VecDeque<(Index, Term)>,
    /// Rows that the cold table holds, as of the last checkpoint.
    pub(crate) cold: Option<(Index, Index)>,
    /// Changed since its last row.
    pub(crate) is_dirty: bool,
    /// Counts truncations and replaced entries.
    pub(crate) changes: u64,
}

impl GroupLog {
    pub(crate) fn born(born: &Born, began: OpId) -> GroupLog {
        let birth = &born.birth;
        let fresh = HardState {
            term: birth.base.term,
            vote: None,
        };
        GroupLog {
            parent: birth.split.map(SplitAt::from),
            hard_state: birth.split.map_or(fresh, |split| split.hard_state),
            descriptor: birth.descriptor.clone(),
            ..GroupLog::begin(
                birth.replica,
                began,
                Arc::clone(&born.places),
                birth.base,
                birth.membership.clone(),
            )
        }
    }

    /// The log after a snapshot took the place of `before`.
    pub(crate) fn installed(installed: &Installed, began: OpId, before: &GroupLog) -> GroupLog {
        let install = &installed.install;
        GroupLog {
            has_row: before.has_row,
            hard_state: install.hard_state,
            descriptor: install.descriptor.clone(),
            changes: before.changes + 1,
            ..GroupLog::begin(
                install.replica,
                began,
                Arc::clone(&installed.places),
                install.snapshot,
                install.membership.clone(),
            )
        }
    }

    /// The log of a newborn group that is checkpointed before the record of its birth is durable.
    pub(crate) fn of_row(row: &GroupRow, places: Arc<Places>, next: Position) -> GroupLog {
        let began = OpId {
            sequence: next.sequence,
            number: 0,
        };
        GroupLog {
            descriptor: row.descriptor.clone(),
            ..GroupLog::begin(row.replica, began, places, row.applied, row.membership.clone())
        }
    }

    /// An empty log behind `base`.
    fn begin(
        replica: ReplicaId,
        began: OpId,
        places: Arc<Places>,
        base: EntryId,
        membership: Membership,
    ) -> GroupLog {
        GroupLog {
            replica,
            began,
            places,
            parent: None,
            has_row: false,
            hard_state: HardState {
                term: base.term,
                vote: None,
            },
            commit: base.index,
            descriptor: Bytes::new(),
            applied: base,
            checkpointed: base.index,
            truncated: base,
            membership,
            memberships: VecDeque::new(),
            entries: VecDeque::new(),
            terms: VecDeque::new(),
            cold: None,
            is_dirty: true,
            changes: 0,
        }
    }

    /// False: it only keeps a vote; it has neither members nor state yet.
    pub(crate) fn is_initialised(&self) -> bool {
        self.truncated != EntryId::ZERO || !self.membership.nodes.is_empty()
    }

    /// True when a row that was frozen before this log began says nothing about it.
    pub(crate) fn is_newer_than(&self, row: &GroupRow) -> bool {
        self.replica > row.replica || self.truncated.index > row.applied.index
    }

    /// Of two promises of the same replica the later one: terms only grow, and a vote within a term stays.
    pub(crate) fn keep_promises(&mut self, before: HardState) {
        if before.term > self.hard_state.term
            || (before.term == self.hard_state.term && before.vote.is_some())
        {
            self.hard_state = before;
            self.is_dirty = true;
        }
    }

    /// The membership as of `applied`.
    pub(crate) fn applied_membership(&self) -> &Membership {
        let upto = self
            .memberships
            .partition_point(|(index, _)| *index <= self.applied.index);
        match upto.checked_sub(1) {
            Some(last) => &self.memberships[last].1,
            None => &self.membership,
        }
    }

    /// The last live entry's index; `truncated` when there is none.
    pub(crate) fn last(&self) -> Index {
        Index(self.truncated.index.0 + self.entries.len() as u64)
    }

    /// The entry's place, if it is live.
    pub(crate) fn placed(&self, index: Index) -> Option<Placed> {
        let number = index.0.checked_sub(self.truncated.index.0 + 1)?;
        self.entries.get(usize::try_from(number).ok()?).copied()
    }

    /// The term of a live entry.
    pub(crate) fn term(&self, index: Index) -> Term {
        assert!(self.placed(index).is_some(), "{index} is not live");
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms[run
            .checked_sub(1)
            .expect("the first run starts at the first live entry")]
        .1
    }

    /// Takes over a durable term, vote and commit mark. They may be older than what is known: what a mere voter wrote
    /// can become durable after the row in which a split made it a member, with the term of the split.
    pub(crate) fn mark(&mut self, hard_state: Option<HardState>, commit: Index) {
        if let Some(hard_state) = hard_state {
            self.keep_promises(hard_state);
        }
        self.commit = self.commit.max(commit);
        self.is_dirty = true;
    }

    /// Takes over durable entries of one record: they replace everything at and after the first one's index.
    pub(crate) fn append(&mut self, record: Position, entries: &[PlacedEntry]) {
        let Some(first) = entries.first() else { return };
        self.cut(first.id.index);
        for entry in entries {
            let offset = record.offset + u64::from(entry.offset);
            self.push(entry.id, Placed::in_ring(record.sequence, offset, entry.length));
        }
    }

    /// Adds one entry at the end.
    pub(crate) fn push(&mut self, id: EntryId, placed: Placed) {
        assert_eq!(id.index, self.last().next(), "the log has no gaps");
        if self.terms.back().is_none_or(|(_, term)| *term != id.term) {
            self.terms.push_back((id.index, id.term));
        }
        self.entries.push_back(placed);
        self.is_dirty = true;
    }

    /// Drops entries from `from` on.
    pub(crate) fn cut(&mut self, from: Index) {
        assert!(
            from > self.truncated.index,
            "{from} is truncated: {}",
            self.truncated
        );
        assert!(
            from <= self.last().next(),
            "{from} would leave a gap behind {}",
            self.last()
        );
        if from > self.last() {
            return;
        }
        let kept = usize::try_from(from.0 - self.truncated.index.0 - 1).expect("fewer than the live entries");
        self.entries.truncate(kept);
        while self.terms.back().is_some_and(|(first, _)| *first >= from) {
            self.terms.pop_back();
        }
        while self.memberships.back().is_some_and(|(index, _)| *index >= from) {
            self.memberships.pop_back();
        }
        self.changes += 1;
    }

    /// Drops entries up to and including `index`, but none that the state in redb does not reflect.
    pub(crate) fn truncate(&mut self, index: Index) {
        let index = index.min(self.checkpointed).min(self.last());
        if index <= self.truncated.index {
            return;
        }
        let term = self.term(index);
        let dropped = usize::try_from(index.0 - self.truncated.index.0).expect("at most the live entries");
        self.entries.drain(..dropped);
        self.truncated = EntryId { term, index };
        while self.memberships.front().is_some_and(|(at, _)| *at <= index) {
            self.membership = self.memberships.pop_front().expect("checked").1;
        }
        self.drop_terms();
        self.is_dirty = true;
        self.changes += 1;
    }

    /// The first run must begin at the first live entry.
    fn drop_terms(&mut self) {
        let first = self.truncated.index.next();
        let runs_before = self.terms.partition_point(|(start, _)| *start <= first);
        self.terms.drain(..runs_before.saturating_sub(1));
        if self.entries.is_empty() {
            self.terms.clear();
        } else if let Some(run) = self.terms.front_mut() {
            run.0 = first;
        }
    }

    /// Takes over what a worker froze.
    pub(crate) fn froze(&mut self, row: &GroupRow) {
        assert_eq!(
            row.replica, self.replica,
            "a row of {} names another replica",
            row.group
        );
        assert!(
            row.applied.index >= self.applied.index,
            "{} went back to {}",
            row.group,
            row.applied
        );
        self.applied = row.applied;
        self.descriptor = row.descriptor.clone();
        self.is_dirty = true;
    }

    /// The live entries that lie in records before `bound`, cold ones included: what must be in the cold table before
    /// the ring's tail may move there.
    pub(crate) fn before(&self, bound: Position) -> Option<RangeInclusive<Index>> {
        let count = self
            .entries
            .partition_point(|placed| placed.sequence < bound.sequence);
        let first = self.truncated.index.next();
        (count > 0).then(|| first..=Index(self.truncated.index.0 + count as u64))
    }

    /// The entry is in the cold table now, unless it was replaced since.
    pub(crate) fn spilled(&mut self, index: Index, was: Placed) {
        let Some(number) = index.0.checked_sub(self.truncated.index.0 + 1) else {
            return;
        };
        let number = usize::try_from(number).expect("indexes of live entries are near each other");
        if let Some(placed) = self.entries.get_mut(number).filter(|placed| **placed == was) {
            *placed = Placed::COLD;
        }
    }

    /// The group's row in redb.
    pub(crate) fn encode_row(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.replica.0);
        put_varint(&mut out, self.began.sequence);
        put_varint(&mut out, u64::from(self.began.number));
        self.places.put(&mut out);
        put_hard_state(&mut out, self.hard_state);
        put_varint(&mut out, self.commit.0);
        put_entry_id(&mut out, self.applied);
        put_entry_id(&mut out, self.truncated);
        put_membership(&mut out, &self.membership);
        put_membership(&mut out, self.applied_membership());
        put_bytes(&mut out, &self.descriptor);
        out
    }
}

/// A group's row as it stands in redb.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) replica: ReplicaId,
    pub(crate) began: OpId,
    pub(crate) places: Places,
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    pub(crate) applied: EntryId,
    pub(crate) truncated: EntryId,
    /// As of `truncated`.
    pub(crate) membership: Membership,
    /// As of `applied`.
    pub(crate) applied_membership: Membership,
    pub(crate) descriptor: Bytes,
}

impl Row {
    /// Reads what `GroupLog::encode_row` wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Row, Malformed> {
        let mut reader = Reader::new(bytes);
        let row = Row {
            replica: ReplicaId(reader.varint()?),
            began: OpId {
                sequence: reader.varint()?,
                number: u32::try_from(reader.varint()?).map_err(|_| Malformed("an op's number"))?,
            },
            places: Places::read(&mut reader)?,
            hard_state: reader.hard_state()?,
            commit: Index(reader.varint()?),
            applied: reader.entry_id()?,
            truncated: reader.entry_id()?,
            membership: reader.membership()?,
            applied_membership: reader.membership()?,
            descriptor: reader.bytes()?,
        };
        match reader.is_empty() && row.truncated.index <= row.applied.index {
            true => Ok(row),
            false => Err(Malformed("a group's row contradicts itself")),
        }
    }

    /// The log that it stands for; its entries are added by recovery.
    pub(crate) fn into_log(self) -> GroupLog {
        GroupLog {
            has_row: true,
            hard_state: self.hard_state,
            commit: self.commit,
            applied: self.applied,
            checkpointed: self.applied.index,
            descriptor: self.descriptor,
            is_dirty: false,
            ..GroupLog::begin(
                self.replica,
                self.began,
                Arc::new(self.places),
                self.truncated,
                self.membership,
            )
        }
    }
}
