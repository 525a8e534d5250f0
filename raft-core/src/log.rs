//! The log in memory: the terms of every entry after the base, and the entries of its tail.
//! It knows nothing of commit, durability or roles; who may cut or evict is decided by the callers.
//!
//! ```text
//!   gone          known by term only         in memory
//! |---------|-----------------------------|-----------------|
//!     truncated                          cold             last
//! ```

use crate::limits::MILESTONE_BYTES;
use crate::types::{Entry, EntryId, Index, Term};
use std::collections::VecDeque;

/// One replica's log. Indexes are contiguous and terms never fall (I2) by construction: `push` asserts it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    truncated: EntryId,
    /// Where each term begins, after `truncated`.
    runs: VecDeque<Run>,
    /// Entries up to here must be fetched; later ones are in `tail`.
    cold: Index,
    tail: VecDeque<Slot>,
    /// Total cost of everything ever pushed up to and including `cold`.
    cost_through_cold: u64,
    /// The same total as of some entries that are not in memory, oldest first; those that are gone count as the base.
    milestones: VecDeque<(Index, u64)>,
    cost_through_base: u64,
    last: EntryId,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: Index,
    term: Term,
}

/// An entry with the running total of costs, so that the cost of any span is one subtraction and cannot leak.
#[derive(Clone, Debug)]
struct Slot {
    entry: Entry,
    cost_through: u64,
}

impl Log {
    /// An empty log that continues after `truncated`.
    pub(crate) fn new(truncated: EntryId) -> Log {
        Log {
            truncated,
            runs: VecDeque::new(),
            cold: truncated.index,
            tail: VecDeque::new(),
            cost_through_cold: 0,
            milestones: VecDeque::new(),
            cost_through_base: 0,
            last: truncated,
        }
    }

    /// The last entry that is gone.
    pub(crate) fn truncated(&self) -> EntryId {
        self.truncated
    }

    /// The last index that is not in memory.
    pub(crate) fn cold(&self) -> Index {
        self.cold
    }

    /// The last entry.
    pub(crate) fn last(&self) -> EntryId {
        self.last
    }

    /// The term at `index`; None when it is gone or not there yet. The base itself is known.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        if index < self.truncated.index || index > self.last.index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[after - 1].term)
    }

    /// True when `id` names an entry of this log, its base, or index 0 of an untruncated one.
    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// Appends the next entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        let id = entry.id;
        assert!(
            id.index == self.last.index.next() && id.term >= self.last.term,
            "I2: {id} cannot follow {}",
            self.last
        );
        if self.runs.back().is_none_or(|run| run.term != id.term) {
            self.runs.push_back(Run {
                first: id.index,
                term: id.term,
            });
        }
        let cost_through = self.cost_through(self.last.index) + entry.cost() as u64;
        self.tail.push_back(Slot { entry, cost_through });
        self.last = id;
    }

    /// Removes the entries at and after `first`, which must be in memory.
    pub(crate) fn cut_from(&mut self, first: Index) {
        assert!(
            first > self.cold,
            "cut at {first} reaches below memory {}",
            self.cold
        );
        let keep = self.position(first);
        self.tail.truncate(keep);
        while self.runs.back().is_some_and(|run| run.first >= first) {
            self.runs.pop_back();
        }
        let index = first.previous();
        let term = self.runs.back().map_or(self.truncated.term, |run| run.term);
        self.last = EntryId { term, index };
    }

    /// Forgets everything up to `index`.
    pub(crate) fn truncate(&mut self, index: Index) {
        let term = self
            .term(index)
            .expect("I3: the log is truncated within its bounds");
        self.cost_through_base = self.cost_at(index);
        self.evict_through(index);
        let gone = self.milestones.partition_point(|(at, _)| *at <= index);
        self.milestones.drain(..gone);
        while self.runs.get(1).is_some_and(|run| run.first <= index.next()) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(index.next());
        }
        self.truncated = EntryId { term, index };
        if self.last.index == index {
            self.runs.clear();
        }
    }

    /// Drops the entries up to `index` from memory; their terms stay.
    pub(crate) fn evict_through(&mut self, index: Index) {
        while self.cold < index {
            let slot = self
                .tail
                .pop_front()
                .expect("eviction stays below the last entry");
            self.cost_through_cold = slot.cost_through;
            self.cold = slot.entry.id.index;
            let before = self
                .milestones
                .back()
                .map_or(self.cost_through_base, |(_, cost)| *cost);
            if self.cost_through_cold >= before + MILESTONE_BYTES {
                self.milestones.push_back((self.cold, self.cost_through_cold));
            }
        }
    }

    /// What the entries after `after` cost, up to and including `through`, as far as they are not gone. Where one of
    /// the two is not in memory, this is wrong by less than `MILESTONE_BYTES`.
    pub(crate) fn cost_between(&self, after: Index, through: Index) -> u64 {
        let base = self.truncated.index;
        self.cost_at(through.max(base)) - self.cost_at(after.max(base))
    }

    /// The least index behind which the entries up to `through` cost at most `bytes`. Where it is not in memory,
    /// they cost less than that, by less than `MILESTONE_BYTES`.
    pub(crate) fn keeping(&self, bytes: u64, through: Index) -> Index {
        let enough = self.cost_at(through).saturating_sub(bytes);
        if enough <= self.cost_through_base {
            return self.truncated.index;
        }
        if enough > self.cost_through_cold {
            let gone = self.tail.partition_point(|slot| slot.cost_through < enough);
            return Index(self.cold.0 + gone as u64 + 1).min(through);
        }
        let gone = self.milestones.partition_point(|(_, cost)| *cost < enough);
        let found = self.milestones.get(gone).map_or(self.cold, |(index, _)| *index);
        found.min(through)
    }

    fn cost_at(&self, index: Index) -> u64 {
        if index >= self.cold {
            return self.cost_through(index);
        }
        let before = self.milestones.partition_point(|(at, _)| *at <= index);
        let milestone = before.checked_sub(1).map(|at| self.milestones[at].1);
        milestone.unwrap_or(self.cost_through_base)
    }

    /// Drops entries from memory, oldest first, until at most `bytes_max` remain or `limit` is reached.
    pub(crate) fn evict(&mut self, limit: Index, bytes_max: u64) {
        while self.cold < limit && self.bytes_in_memory() > bytes_max {
            self.evict_through(self.cold.next());
        }
    }

    /// What the entries in memory cost.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        self.cost_through(self.last.index) - self.cost_through_cold
    }

    /// What the entries after `after` cost; they must be in memory.
    pub(crate) fn cost_after(&self, after: Index) -> u64 {
        self.cost_through(self.last.index) - self.cost_through(after)
    }

    /// Copies `first..=last`, which must be in memory. Cheap: payloads are shared.
    pub(crate) fn slice(&self, first: Index, last: Index) -> Vec<Entry> {
        let range = self.position(first)..self.position(last.next());
        self.tail.range(range).map(|slot| slot.entry.clone()).collect()
    }

    /// As `slice`, but stops after `bytes_max`; at least one entry.
    pub(crate) fn batch(&self, first: Index, last: Index, bytes_max: u64) -> Vec<Entry> {
        let before = self.cost_through(first.previous());
        let range = self.position(first)..self.position(last.next());
        let fits = |slot: &&Slot| slot.cost_through - before <= bytes_max;
        let count = self.tail.range(range).take_while(fits).count().max(1);
        self.slice(first, Index(first.0 + count as u64 - 1))
    }

    /// The last entry at or before `at.index` whose term is at most `at.term`: where two logs may still
    /// agree. Below the base nothing is known and the question itself is returned.
    pub(crate) fn last_not_after(&self, at: EntryId) -> EntryId {
        if at.index < self.truncated.index {
            return at;
        }
        let mut index = at.index.min(self.last.index);
        while index > self.truncated.index {
            let run = self.runs[self.runs.partition_point(|run| run.first <= index) - 1];
            if run.term <= at.term {
                return EntryId {
                    term: run.term,
                    index,
                };
            }
            index = run.first.previous();
        }
        self.truncated
    }

    /// True when the parts fit together; O(1).
    pub(crate) fn is_consistent(&self) -> bool {
        self.truncated.index <= self.cold
            && self.cold.0 + self.tail.len() as u64 == self.last.index.0
            && self.tail.back().is_none_or(|slot| slot.entry.id == self.last)
            && self.runs.back().is_none_or(|run| run.term == self.last.term)
    }

    fn position(&self, index: Index) -> usize {
        assert!(
            index > self.cold,
            "entry {index} is not in memory: cold {}",
            self.cold
        );
        usize::try_from(index.0 - self.cold.0 - 1).expect("entries in memory fit usize")
    }

    fn cost_through(&self, index: Index) -> u64 {
        if index == self.cold {
            self.cost_through_cold
        } else {
            self.tail[self.position(index)].cost_through
        }
    }
}
