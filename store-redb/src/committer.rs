//! Group commit: the batches of all workers that wait are one record, one write, one fsync. While a record is being
//! written the next one gathers; there is no timer. Acknowledgements leave in submit order, after the index knows.

use crate::engine::{Engine, lock};
use crate::group_log::LogIndex;
use crate::header::Position;
use crate::limits::{
    BLOCK_BYTES, QUICK_WRITE_MICROS, RECORD_BYTES_MAX, RECORD_BYTES_SOFT, SPARE_BUFFERS_MAX,
};
use crate::options::CommitSample;
use crate::record::{Acknowledgement, Change, Fate, OpId, PlacedWrite, Record};
use crate::ring::Place;
use multiraft::{Completion, GroupWrite, LogBatch};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records that gather or wait to be written.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The last one gathers; the others are sealed.
    records: VecDeque<Record>,
    spare: Vec<Record>,
    /// Batches of each worker so far.
    pub(crate) submitted: Vec<u64>,
    /// Ring bytes of the record that is being placed and written.
    placing: u64,
}

/// What one step of the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// Nothing waits.
    Idle,
    /// One record is durable and acknowledged.
    One,
    /// The ring has no room; this many releases were seen.
    Full(u64),
}

impl Queue {
    pub(crate) fn new(workers: usize) -> Queue {
        Queue {
            records: VecDeque::new(),
            spare: Vec::new(),
            submitted: vec![0; workers],
            placing: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Ring bytes that everything queued will take.
    pub(crate) fn ring_bytes(&self) -> u64 {
        let queued = self.records.iter().map(|record| ring_bytes(record.bytes.len()));
        self.placing + queued.sum::<u64>()
    }

    /// Takes the oldest record out.
    fn take(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.placing = ring_bytes(record.bytes.len());
        Some(record)
    }

    /// There was no room for it.
    fn put_back(&mut self, record: Record) {
        self.placing = 0;
        self.records.push_front(record);
    }

    /// The record that gathers.
    fn gathering(&mut self) -> &mut Record {
        if self
            .records
            .back()
            .is_none_or(|record| record.bytes.len() >= RECORD_BYTES_SOFT)
        {
            self.begin();
        }
        self.records.back_mut().expect("begun above")
    }

    fn begin(&mut self) -> &mut Record {
        let mut record = self.spare.pop().unwrap_or_default();
        record.start();
        self.records.push_back(record);
        self.records.back_mut().expect("pushed above")
    }

    /// The record that holds what was put last; a new one when nothing waits.
    fn last(&mut self) -> &mut Record {
        if self.records.is_empty() {
            self.begin();
        }
        self.records.back_mut().expect("begun above")
    }

    fn put_fate(&mut self, fate: Fate, bytes_max: usize) {
        let bytes = fate.bytes_bound();
        let record = self.gathering();
        let fits = record.bytes.len() + bytes <= bytes_max || record.has_no_payload();
        let record = if fits { record } else { self.begin() };
        record.put_fate(fate);
    }

    /// A write that does not fit into one record goes on in the next: a prefix of an unacknowledged write that
    /// survives a crash does no harm, its commit mark goes with the last part.
    fn put_write(&mut self, write: &GroupWrite, bytes_max: usize) {
        let mut done = 0;
        loop {
            let record = self.gathering();
            let Some(taken) = record.put_write(write, done, bytes_max) else {
                assert!(
                    !record.has_no_payload(),
                    "an entry of {} is larger than a record",
                    write.group
                );
                self.begin();
                continue;
            };
            done += taken;
            if done == write.entries.len() {
                return;
            }
        }
    }

    fn recycle(&mut self, mut record: Record) {
        self.placing = 0;
        record.empty();
        if self.spare.len() < SPARE_BUFFERS_MAX && record.bytes.capacity() <= 2 * RECORD_BYTES_SOFT {
            self.spare.push(record);
        }
    }
}

impl Engine {
    /// Queues a worker's batch. Returns at once.
    pub(crate) fn submit(&self, worker: usize, batch: LogBatch) {
        let fates = self.fates(worker, &batch);
        let bytes_max = self.record_bytes_max();
        let mut queue = lock(&self.queue);
        if self.is_stopping() {
            return;
        }
        fates.into_iter().for_each(|fate| queue.put_fate(fate, bytes_max));
        batch
            .writes
            .iter()
            .for_each(|write| queue.put_write(write, bytes_max));
        for tombstone in batch.tombstones {
            queue.put_fate(Fate::Buried(tombstone), bytes_max);
        }
        queue.submitted[worker] += 1;
        queue.last().acknowledgements.push(Acknowledgement {
            worker,
            batch: batch.id,
            writes: batch
                .writes
                .iter()
                .map(|write| (write.group, write.life, write.write))
                .collect(),
            then_send: batch.then_send,
        });
        drop(queue);
        if !self.workers_write() {
            self.work.notify_one();
        }
    }

    /// Whether a worker that submitted writes the batch itself, at the end of its turn.
    fn workers_write(&self) -> bool {
        self.options.workers_write && self.write_micros.load(Ordering::Relaxed) <= QUICK_WRITE_MICROS
    }

    /// Writes what waits, unless another thread is writing: that one looks again when it is done. What is left after
    /// one record is the log thread's.
    pub(crate) fn commit_here(&self) {
        if !self.options.workers_write || lock(&self.queue).is_empty() {
            return;
        }
        if self.workers_write() {
            let Ok(writing) = self.writing.try_lock() else {
                return;
            };
            self.commit_next();
            drop(writing);
            if lock(&self.queue).is_empty() {
                return;
            }
        }
        self.work.notify_one();
    }

    /// The largest record of this ring: whole blocks.
    pub(crate) fn record_bytes_max(&self) -> usize {
        let share = self.options.ring_bytes / 8 / BLOCK_BYTES * BLOCK_BYTES;
        usize::try_from(RECORD_BYTES_MAX.min(share)).expect("at most RECORD_BYTES_MAX")
    }

    /// Makes the oldest waiting record durable and acknowledges what it holds.
    pub(crate) fn commit_once(&self) -> Committed {
        let _writing = lock(&self.writing);
        self.commit_next()
    }

    /// To be called while `writing` is held.
    fn commit_next(&self) -> Committed {
        let Some(mut record) = lock(&self.queue).take() else {
            return Committed::Idle;
        };
        if !record.has_no_payload() {
            match self.place(record.bytes.len()) {
                Err(releases) => {
                    lock(&self.queue).put_back(record);
                    return Committed::Full(releases);
                }
                Ok(offset) => self.write(&mut record, offset),
            }
        }
        self.acknowledge(&mut record);
        lock(&self.queue).recycle(record);
        Committed::One
    }

    /// Room for a record in the ring, or how many releases were seen when there was none.
    fn place(&self, bytes: usize) -> Result<u64, u64> {
        let length = ring_bytes(bytes);
        let may_grow = self.may_fill();
        loop {
            let mut state = lock(&self.ring);
            match state.ring.place(length, may_grow) {
                Place::At(offset) => {
                    if state.ring.grows_soon(self.options.segment_bytes) {
                        self.ring_changed.notify_all();
                    }
                    return Ok(offset);
                }
                Place::Full => return Err(state.releases),
                Place::Grow => {
                    let ready = state.ring.ready();
                    drop(state);
                    self.fill_once(ready);
                }
            }
        }
    }

    /// Adds a segment to the ring, unless somebody did since `ready` was read.
    pub(crate) fn fill_once(&self, ready: u64) {
        let _filling = lock(&self.filling);
        if lock(&self.ring).ring.ready() != ready {
            return;
        }
        match self.file.fill_segment() {
            Ok(ready) => lock(&self.ring).ring.grow(ready),
            Err(error) => self.write_failed("extend the log", &error),
        }
    }

    /// One durable write; then the index knows what it held.
    fn write(&self, record: &mut Record, offset: u64) {
        let sequence = lock(&self.index).durable.sequence;
        record.finish(self.salt, self.incarnation, sequence);
        let started = Instant::now();
        if let Err(error) = self.file.write_ring(offset, &record.bytes) {
            self.write_failed("write the log", &error);
        }
        let took = started.elapsed();
        self.learn_speed(took);
        self.count(record, took);
        record.told = lock(&self.index).take(record, Position { offset, sequence });
    }

    /// Follows the median of the last writes in steps of an eighth: a rare stall says nothing about the next write.
    fn learn_speed(&self, took: Duration) {
        let before = self.write_micros.load(Ordering::Relaxed);
        let step = before / 8 + 1;
        let now = if took.as_micros() > u128::from(before) {
            before + step
        } else {
            before - step.min(before)
        };
        self.write_micros.store(now, Ordering::Relaxed);
    }

    fn count(&self, record: &Record, sync: Duration) {
        let counters = &self.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters
            .batches
            .fetch_add(record.acknowledgements.len() as u64, Ordering::Relaxed);
        counters
            .entries
            .fetch_add(record.entries.len() as u64, Ordering::Relaxed);
        counters
            .log_bytes
            .fetch_add(record.bytes.len() as u64, Ordering::Relaxed);
        self.log_bytes_since_cut
            .fetch_add(record.bytes.len() as u64, Ordering::Relaxed);
        if let Some(tap) = &self.options.on_commit {
            tap(CommitSample {
                sync,
                batches: record.acknowledgements.len(),
                entries: record.entries.len(),
                fates: record.fates(),
                bytes: record.bytes.len(),
            });
        }
    }

    fn acknowledge(&self, record: &mut Record) {
        for (worker, completion) in record.told.drain(..) {
            self.complete(worker, completion);
        }
        for done in record.acknowledgements.drain(..) {
            self.acknowledged[done.worker].fetch_add(1, Ordering::Release);
            self.complete(
                done.worker,
                Completion::Durable {
                    batch: done.batch,
                    writes: done.writes,
                    then_send: done.then_send,
                },
            );
        }
        if !lock(&self.fetches).is_empty() {
            self.fetch_work.notify_one();
        }
    }

    /// The committer's thread: ends when the store stops and nothing waits, or nothing can be written any more.
    pub(crate) fn commit_until_stopped(&self) {
        loop {
            match self.commit_once() {
                Committed::One => {}
                Committed::Idle => {
                    let mut queue = lock(&self.queue);
                    while queue.is_empty() {
                        if self.is_stopping() {
                            return;
                        }
                        queue = self
                            .work
                            .wait(queue)
                            .unwrap_or_else(std::sync::PoisonError::into_inner);
                    }
                }
                Committed::Full(releases) => {
                    self.want_cut();
                    if !self.wait_for_room(releases) {
                        return;
                    }
                }
            }
        }
    }

    /// False: the store stops.
    fn wait_for_room(&self, releases: u64) -> bool {
        let mut state = lock(&self.ring);
        while state.releases == releases {
            if self.is_stopping() {
                return false;
            }
            state = self
                .ring_changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        true
    }
}

/// What a record takes in the ring: whole blocks.
fn ring_bytes(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(BLOCK_BYTES)
}

impl LogIndex {
    /// Takes over what a durable record holds; returns what workers hear beside the acknowledgements.
    fn take(&mut self, record: &mut Record, at: Position) -> Vec<(usize, Completion)> {
        let mut told = Vec::new();
        let mut changes = std::mem::take(&mut record.changes);
        for change in changes.drain(..) {
            match change {
                Change::Write(write) => self.take_write(record, write, at),
                Change::Fate(number, fate) => {
                    let op = OpId {
                        sequence: at.sequence,
                        number,
                    };
                    told.extend(self.befall(*fate, op));
                }
            }
        }
        record.changes = changes;
        self.durable = Position {
            offset: at.offset + record.bytes.len() as u64,
            sequence: at.sequence + 1,
        };
        told
    }

    fn take_write(&mut self, record: &Record, write: PlacedWrite, at: Position) {
        let log = self
            .groups
            .get_mut(&write.group)
            .expect("a group is born before it writes");
        assert_eq!(
            log.replica, write.replica,
            "{} writes as another replica",
            write.group
        );
        log.mark(write.hard_state, write.commit);
        log.append(at, &record.entries[write.entries]);
        log.memberships.extend(write.memberships);
    }
}
