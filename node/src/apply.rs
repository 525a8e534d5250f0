//! The replicated state machine of this node's worker: the key-value machine over the node file's state.
//! It adds to both what neither knows: which keys a group serves, and what the metrics and the expiry duty want to know.

use crate::descriptor::RangeDescriptor;
use crate::kv::{self, Applier, Span};
use crate::metrics::Metrics;
use crate::stages::Follower;
use bytes::Bytes;
use multiraft::{CutId, Entry, EntryId, GroupId, Payload, Queried, Stamp, StateMachine};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use store_redb::WorkerState;

#[cfg(test)]
mod tests;

/// The state machine of one worker's groups.
pub struct Machine {
    state: WorkerState,
    groups: BTreeMap<GroupId, Local>,
    watch: Watch,
}

/// Where a machine reports what it does. It changes no answer.
#[derive(Clone)]
pub struct Watch {
    /// Counts and times.
    pub metrics: Arc<Metrics>,
    /// Follows one write at a time.
    pub follower: Arc<Follower>,
    /// When keys expire.
    pub expiries: Arc<Expiries>,
}

/// One group, besides its rows.
struct Local {
    range: RangeDescriptor,
    clock: Stamp,
    expiry: Arc<AtomicU64>,
}

/// When the next key of each group on this node may expire, for the duty that proposes stamps.
#[derive(Default)]
pub struct Expiries {
    groups: Mutex<BTreeMap<GroupId, Arc<AtomicU64>>>,
}

/// No key of the group has a deadline.
const NEVER: u64 = u64::MAX;

impl Expiries {
    /// Groups in which a key may have expired at this time (milliseconds since 1970).
    pub fn due(&self, now: u64) -> Vec<GroupId> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let due = groups
            .iter()
            .filter(|(_, next)| next.load(Ordering::Relaxed) <= now);
        due.map(|(&group, _)| group).collect()
    }

    fn of(&self, group: GroupId) -> Arc<AtomicU64> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .entry(group)
            .or_insert_with(|| Arc::new(AtomicU64::new(NEVER)))
            .clone()
    }
}

impl Machine {
    /// A machine over this state; its groups are opened one by one.
    pub fn new(state: WorkerState, watch: Watch) -> Machine {
        Machine {
            state,
            groups: BTreeMap::new(),
            watch,
        }
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>) {
        let started = Instant::now();
        let followed = self.watch.follower.committed(group, entries);
        let local = self
            .groups
            .get_mut(&group)
            .expect("groups are opened before they apply");
        local.apply(group, &mut self.state, entries, answers);
        if let Some(last) = entries.last() {
            self.state.mark_applied(group, last.id);
        }
        if followed {
            self.watch.follower.applied();
        }
        let raft = &self.watch.metrics.raft;
        raft.applied_entries.inc_by(entries.len() as u64);
        raft.apply_duration.observe(started.elapsed().as_secs_f64());
    }

    fn query(&mut self, group: GroupId, query: &Bytes, stamp: Stamp) -> Queried {
        let local = self
            .groups
            .get(&group)
            .expect("groups are opened before they are read");
        let rows = Rows {
            state: &mut self.state,
            group,
        };
        kv::evaluate_within(&rows, query, stamp, local.range.span())
    }

    fn clock(&self, group: GroupId) -> Stamp {
        self.watch.follower.taken(group);
        self.groups.get(&group).map_or(Stamp(0), |local| local.clock)
    }

    fn freeze(&mut self, cut: CutId) {
        self.state.freeze(cut);
    }

    fn descriptor(&self, group: GroupId) -> Bytes {
        let local = self
            .groups
            .get(&group)
            .expect("groups are opened before they are described");
        local.range.encode()
    }

    fn growth(&self, command: &[u8]) -> u64 {
        kv::growth(command)
    }

    fn open(&mut self, group: GroupId, descriptor: &Bytes, _applied: EntryId) {
        let range = RangeDescriptor::decode(descriptor)
            .expect("descriptors were encoded by this program and their checksums verified");
        let rows = Rows {
            state: &mut self.state,
            group,
        };
        let local = Local {
            range,
            clock: kv::clock(&rows),
            expiry: self.watch.expiries.of(group),
        };
        local.publish_expiry(kv::next_expiry(&rows));
        self.groups.insert(group, local);
    }

    fn install(&mut self, group: GroupId, descriptor: &Bytes, snapshot: EntryId) {
        self.state.install(group);
        self.open(group, descriptor, snapshot);
    }
}

impl Local {
    fn apply(
        &mut self,
        group: GroupId,
        state: &mut WorkerState,
        entries: &[Entry],
        answers: &mut Vec<Bytes>,
    ) {
        let mut rows = Rows { state, group };
        let span: Span<'_> = self.range.span();
        let mut applier = Applier::begin_within(&mut rows, span);
        for entry in entries {
            answers.push(match &entry.payload {
                Payload::Command(stamp, payload) => {
                    self.clock = self.clock.max(*stamp);
                    applier.command(*stamp, payload)
                }
                Payload::Noop(stamp) => {
                    self.clock = self.clock.max(*stamp);
                    applier.stamp(*stamp);
                    Bytes::new()
                }
                Payload::Membership(_) => Bytes::new(),
            });
        }
        self.publish_expiry(applier.finish());
    }

    fn publish_expiry(&self, next: Option<u64>) {
        self.expiry.store(next.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

/// One group's rows in the worker's state.
struct Rows<'s> {
    state: &'s mut WorkerState,
    group: GroupId,
}

impl kv::State for Rows<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.state.get(self.group, key)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.state.put(self.group, &key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.state.delete(self.group, key);
    }

    fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) {
        let start = match start {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => after(key),
            Bound::Unbounded => Vec::new(),
        };
        let end = match end {
            Bound::Included(key) => Some(after(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        self.state
            .scan(self.group, &start, end.as_deref(), &mut |key, value| {
                visit(key, &Bytes::copy_from_slice(value))
            });
    }
}

/// The first key after this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
