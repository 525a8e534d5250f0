//! Follows one write at a time through its stages on the node that leads, and records where its time went.
//! Costs a relaxed load for every write that is not followed. Changes nothing: a lost mark loses one sample.
//!
//! The same `Bytes` travels from `submit` into the log batch and back out of `apply`, so its address names the write.

use crate::metrics::{Stage, Stages};
use bytes::Bytes;
use multiraft::{BatchId, Entry, GroupId, GroupWrite, Payload};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Points in time between the stages, in the order in which they pass.
#[derive(Clone, Copy)]
enum Mark {
    Submitted,
    Taken,
    Handed,
    Durable,
    Committed,
    Applied,
}

/// How many marks a write passes before it is answered.
const MARKS: usize = 6;

/// One followed write. `address` is 0 while none is.
pub struct Follower {
    origin: Instant,
    address: AtomicUsize,
    group: AtomicU64,
    batch: AtomicU64,
    marks: [AtomicU64; MARKS],
}

/// No batch: ids start at 0 and grow by one.
const NO_BATCH: u64 = u64::MAX;

impl Default for Follower {
    fn default() -> Follower {
        Follower {
            origin: Instant::now(),
            address: AtomicUsize::new(0),
            group: AtomicU64::new(0),
            batch: AtomicU64::new(NO_BATCH),
            marks: [const { AtomicU64::new(0) }; MARKS],
        }
    }
}

impl Follower {
    /// Starts to follow this write, unless another is being followed. The caller must then `finish` or `abandon`.
    pub fn begin(&self, group: GroupId, payload: &Bytes) -> bool {
        let address = payload.as_ptr() as usize;
        if payload.is_empty() || self.address.load(Ordering::Relaxed) != 0 {
            return false;
        }
        // 1 is no address of a payload: marks of the write before must not match while the fields change.
        let claimed = self
            .address
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        if claimed.is_err() {
            return false;
        }
        self.group.store(group.0, Ordering::Relaxed);
        self.batch.store(NO_BATCH, Ordering::Relaxed);
        for mark in &self.marks {
            mark.store(0, Ordering::Relaxed);
        }
        self.mark(Mark::Submitted);
        self.address.store(address, Ordering::Release);
        true
    }

    /// A worker's turn looks at this group's proposals.
    pub fn taken(&self, group: GroupId) {
        if self.follows(group) {
            self.mark(Mark::Taken);
        }
    }

    /// The worker hands this batch to the disk.
    pub fn handed(&self, batch: BatchId, writes: &[GroupWrite]) {
        let address = self.address.load(Ordering::Acquire);
        if address <= 1 || self.batch.load(Ordering::Relaxed) != NO_BATCH {
            return;
        }
        let group = self.group.load(Ordering::Relaxed);
        let write = writes.iter().find(|write| write.group.0 == group);
        if write.is_some_and(|write| holds(&write.entries, address)) {
            self.batch.store(batch.0, Ordering::Relaxed);
            self.mark(Mark::Handed);
        }
    }

    /// This batch is durable here.
    pub fn durable(&self, batch: BatchId) {
        if self.address.load(Ordering::Acquire) > 1 && self.batch.load(Ordering::Relaxed) == batch.0 {
            self.mark(Mark::Durable);
        }
    }

    /// These entries are about to be applied; true when the followed write is among them.
    pub fn committed(&self, group: GroupId, entries: &[Entry]) -> bool {
        let found = self.follows(group) && holds(entries, self.address.load(Ordering::Acquire));
        if found {
            self.mark(Mark::Committed);
        }
        found
    }

    /// The entries that `committed` said hold the write are applied.
    pub fn applied(&self) {
        self.mark(Mark::Applied);
    }

    /// The write was answered: records its stages, if it passed them all.
    pub fn finish(&self, stages: &Stages) {
        let answered = self.now();
        let at = |mark: Mark| self.marks[mark as usize].load(Ordering::Relaxed);
        if self.marks.iter().all(|mark| mark.load(Ordering::Relaxed) != 0) {
            let steps = [
                (Stage::Queue, at(Mark::Submitted), at(Mark::Taken)),
                (Stage::Propose, at(Mark::Taken), at(Mark::Handed)),
                (Stage::Durable, at(Mark::Handed), at(Mark::Durable)),
                (Stage::Replicate, at(Mark::Durable), at(Mark::Committed)),
                (Stage::Apply, at(Mark::Committed), at(Mark::Applied)),
                (Stage::Answer, at(Mark::Applied), answered),
            ];
            for (stage, from, to) in steps {
                stages.observe(stage, Duration::from_nanos(to.saturating_sub(from)));
            }
        }
        self.abandon();
    }

    /// The write was refused or given up: nothing to record.
    pub fn abandon(&self) {
        self.address.store(0, Ordering::Release);
    }

    fn follows(&self, group: GroupId) -> bool {
        self.address.load(Ordering::Acquire) > 1 && self.group.load(Ordering::Relaxed) == group.0
    }

    /// The first time counts.
    fn mark(&self, mark: Mark) {
        let slot = &self.marks[mark as usize];
        let _ = slot.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).map_or(u64::MAX, |nanos| nanos.max(1))
    }
}

fn holds(entries: &[Entry], address: usize) -> bool {
    entries.iter().any(|entry| match &entry.payload {
        Payload::Command(_, bytes) => bytes.as_ptr() as usize == address,
        Payload::Noop(_) | Payload::Membership(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Identity, Metrics};
    use multiraft::{EntryId, Index, Life, ReplicaId, Stamp, WriteId};

    fn entry(payload: &Bytes) -> Entry {
        Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Command(Stamp(0), payload.clone()),
        }
    }

    fn write(group: GroupId, payload: &Bytes) -> GroupWrite {
        GroupWrite {
            group,
            replica: ReplicaId(1),
            life: Life(1),
            write: WriteId(1),
            hard_state: None,
            entries: vec![entry(payload)],
            commit: Index(0),
        }
    }

    fn samples(metrics: &Metrics, stage: &str) -> bool {
        let text = String::from_utf8(metrics.render()).expect("text");
        text.contains(&format!(
            "flotilla_write_stage_seconds_count{{stage=\"{stage}\"}} 1"
        ))
    }

    #[test]
    fn one_write_is_followed_from_submit_to_answer() {
        let metrics = Metrics::new(&Identity {
            cluster: "c".into(),
            node: 1,
        });
        let (follower, group) = (Follower::default(), GroupId(2));
        let (mine, other) = (Bytes::from(vec![1]), Bytes::from(vec![1]));
        assert!(follower.begin(group, &mine));
        assert!(!follower.begin(group, &other), "one at a time");
        follower.taken(group);
        follower.handed(BatchId(4), &[write(group, &other)]);
        follower.durable(BatchId(4));
        follower.handed(BatchId(5), &[write(group, &mine)]);
        follower.durable(BatchId(5));
        assert!(!follower.committed(group, &[entry(&other)]));
        assert!(follower.committed(group, &[entry(&mine)]));
        follower.applied();
        follower.finish(&metrics.stages);
        assert!(STAGE_NAMES.iter().all(|stage| samples(&metrics, stage)));
        assert!(follower.begin(group, &other), "free again");
    }

    const STAGE_NAMES: [&str; 6] = ["queue", "propose", "durable", "replicate", "apply", "answer"];

    #[test]
    fn a_write_that_missed_a_mark_records_nothing() {
        let metrics = Metrics::new(&Identity {
            cluster: "c".into(),
            node: 1,
        });
        let follower = Follower::default();
        assert!(follower.begin(GroupId(2), &Bytes::from(vec![1])));
        follower.finish(&metrics.stages);
        assert!(!STAGE_NAMES.iter().any(|stage| samples(&metrics, stage)));
    }
}
