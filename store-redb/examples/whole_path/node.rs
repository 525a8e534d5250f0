//! Our side: one worker over a node file of default sizes. Appends, applies what is durable, takes part in
//! checkpoints, truncates the log when they are done.

use crate::Slice;
use crate::device::Device;
use crate::load::{self, BATCH, Batch, GROUPS, Load, Write};
use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, GroupId, GroupRow, GroupWrite, Index, Life,
    LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId, Stamp, WriteId,
};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_redb::{ClusterId, Identity, Options, Stats, Store, WorkerState, WorkerStorage};

/// The memtables' limit decides when a checkpoint begins, not the ring's; a small one comes round sooner.
const RING_BYTES: u64 = 256 << 20;
/// Batches in flight while the file is filled.
const PRELOAD_OUTSTANDING: usize = 32;

/// By then redb has used every page of its part before.
const WARM_UP_CHECKPOINTS: usize = 4;

/// Notes when it happened, in the thread in which it happened.
struct Sink(Mutex<Sender<(Completion, Instant)>>);

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        let sender = self.0.lock().expect("no completion panics");
        // Nobody listens any more once the run is over.
        let _ = sender.send((completion, Instant::now()));
    }
}

/// A batch that was handed to the log.
struct Submitted {
    /// When it was, or should have been.
    due: Instant,
    /// A checkpoint was running.
    is_beside_checkpoint: bool,
    writes: Batch,
}

/// How long one batch's append took.
pub(crate) struct Sample {
    pub(crate) latency: Duration,
    /// A checkpoint was running at its start or at its end.
    pub(crate) is_beside_checkpoint: bool,
}

pub(crate) struct Node {
    path: PathBuf,
    store: Store,
    storage: WorkerStorage,
    state: WorkerState,
    events: Receiver<(Completion, Instant)>,
    load: Load,
    lasts: Vec<u64>,
    applied: Vec<u64>,
    batches: u64,
    applied_batches: u64,
    in_flight: VecDeque<Submitted>,
    /// Batches that each running checkpoint holds: the next one may begin before the last one's end was heard of.
    freezing: VecDeque<(u64, Instant)>,
    /// Batches that the last checkpoint holds.
    frozen_batches: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) checkpoints: Vec<Duration>,
    /// Time in which nothing could be proposed, because memtables or ring were full.
    pub(crate) refused: Duration,
}

impl Node {
    /// A new file with every key written and checkpointed.
    pub(crate) fn open(path: &Path) -> Node {
        crate::fresh(path);
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
        };
        let options = Options {
            cache_bytes: load::CACHE_BYTES,
            ..Options::new(1).with_ring(RING_BYTES)
        };
        let opened = Store::open(path, identity, options).expect("the directory is writable");
        let (sender, events) = channel();
        opened.store.start(vec![Arc::new(Sink(Mutex::new(sender)))]);
        let mut node = Node {
            path: path.to_path_buf(),
            storage: opened.store.storage(0),
            state: opened.store.state(0),
            store: opened.store,
            events,
            load: Load::uniform(),
            lasts: vec![0; GROUPS as usize],
            applied: vec![0; GROUPS as usize],
            batches: 0,
            applied_batches: 0,
            in_flight: VecDeque::new(),
            freezing: VecDeque::new(),
            frozen_batches: 0,
            samples: Vec::new(),
            checkpoints: Vec::new(),
            refused: Duration::ZERO,
        };
        node.bear();
        node.preload();
        node
    }

    fn bear(&mut self) {
        let births = (0..GROUPS).map(|group| Birth {
            group: GroupId(group),
            replica: ReplicaId(group + 1),
            membership: membership(group),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        });
        let births = births.collect();
        self.storage.submit(LogBatch {
            births,
            ..LogBatch::default()
        });
        self.note(Instant::now(), Vec::new());
        self.drain();
    }

    /// A whole lap of the ring, so that the log writes to recycled space as it does from then on.
    fn preload(&mut self) {
        for batch in crate::preload() {
            self.wait_for_slot(PRELOAD_OUTSTANDING);
            self.submit(Instant::now(), batch);
        }
        let first_lap = |stats: Stats| stats.log_bytes < stats.ring_bytes + stats.ring_bytes / 16;
        while first_lap(self.store.stats()) {
            self.wait_for_slot(PRELOAD_OUTSTANDING);
            let batch = self.load.next_batch();
            self.submit(Instant::now(), batch);
        }
        for _ in 0..WARM_UP_CHECKPOINTS {
            self.run_to_checkpoint(PRELOAD_OUTSTANDING);
        }
        self.settle();
        self.samples.clear();
        self.checkpoints.clear();
        self.refused = Duration::ZERO;
    }

    /// Keeps `outstanding` batches in the log. The measured time runs from the end of one checkpoint to the end of
    /// another, so that it holds as much work of checkpoints as its writes cause, no matter how long it is.
    pub(crate) fn run_for(&mut self, device: &Device, time: Duration, outstanding: usize) -> Slice {
        self.run_to_checkpoint(outstanding);
        let begun = device.begin();
        let before = self.applied_batches;
        while begun.started.elapsed() < time {
            self.run_to_checkpoint(outstanding);
        }
        let slice = begun.end((self.applied_batches - before) * BATCH as u64);
        self.settle();
        slice
    }

    /// Writes until a checkpoint ends.
    fn run_to_checkpoint(&mut self, outstanding: usize) {
        let done = self.checkpoints.len();
        while self.checkpoints.len() == done {
            self.wait_for_slot(outstanding);
            let batch = self.load.next_batch();
            self.submit(Instant::now(), batch);
        }
    }

    /// One batch every `period`, whatever the log does; latencies count from when a batch was due. Returns how many
    /// batches were due but refused, because memtables or ring were full.
    pub(crate) fn run_paced(&mut self, time: Duration, period: Duration) -> u64 {
        let mut due = Instant::now();
        let end = due + time;
        let mut refused = 0;
        while due < end {
            while let Some(wait) = due
                .checked_duration_since(Instant::now())
                .filter(|wait| !wait.is_zero())
            {
                if let Ok(event) = self.events.recv_timeout(wait) {
                    self.take(event);
                }
            }
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            if self.is_full() {
                refused += 1;
            } else {
                let batch = self.load.next_batch();
                self.submit(due, batch);
            }
            due += period;
        }
        self.settle();
        refused
    }

    /// True when a batch may not fit.
    fn is_full(&self) -> bool {
        let room = self.storage.room();
        room.log_bytes.min(room.memory_bytes) < 1 << 20
    }

    fn wait_for_slot(&mut self, outstanding: usize) {
        if self.is_full() {
            let started = Instant::now();
            while self.is_full() {
                self.take_next();
            }
            self.refused += started.elapsed();
        }
        while self.in_flight.len() >= outstanding {
            self.take_next();
        }
    }

    fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.take_next();
        }
    }

    /// Waits until a checkpoint holds everything.
    fn settle(&mut self) {
        self.drain();
        while self.frozen_batches < self.batches {
            self.store.want_checkpoint();
            self.take_next();
        }
    }

    fn submit(&mut self, due: Instant, batch: Batch) {
        let of_one_group = batch.chunk_by(|write, next| write.group == next.group);
        let writes = of_one_group.map(|writes| {
            let last = &mut self.lasts[writes[0].group as usize];
            let first = *last + 1;
            *last += writes.len() as u64;
            group_write(writes, first)
        });
        let writes = writes.collect();
        self.storage.submit(LogBatch {
            id: BatchId(self.batches + 1),
            writes,
            ..LogBatch::default()
        });
        self.note(due, batch);
    }

    fn note(&mut self, due: Instant, writes: Batch) {
        self.batches += 1;
        self.in_flight.push_back(Submitted {
            due,
            is_beside_checkpoint: !self.freezing.is_empty(),
            writes,
        });
    }

    fn take_next(&mut self) {
        let event = self.events.recv().expect("the store lives");
        self.take(event);
    }

    fn take(&mut self, (completion, at): (Completion, Instant)) {
        match completion {
            Completion::Durable { .. } => self.apply(at),
            Completion::Checkpointed { rows } if !rows.is_empty() => {
                let rows = rows.iter();
                rows.for_each(|(group, _, index)| self.storage.truncate(*group, *index));
                let (batches, started) = self.freezing.pop_front().expect("a cut was frozen");
                self.frozen_batches = batches;
                self.checkpoints.push(at.duration_since(started));
            }
            _ => {}
        }
        self.freeze_if_wanted();
    }

    fn apply(&mut self, at: Instant) {
        let done = self.in_flight.pop_front().expect("one was in flight");
        self.applied_batches += 1;
        self.samples.push(Sample {
            latency: at.saturating_duration_since(done.due),
            is_beside_checkpoint: done.is_beside_checkpoint || !self.freezing.is_empty(),
        });
        for write in done.writes {
            let group = GroupId(write.group);
            let applied = &mut self.applied[write.group as usize];
            *applied += 1;
            self.state.put(group, write.key(), write.value());
            self.state.mark_applied(group, EntryId::new(1, *applied));
        }
    }

    fn freeze_if_wanted(&mut self) {
        let Some(cut) = self.storage.cut_wanted() else {
            return;
        };
        self.state.freeze(cut);
        let rows = (0..GROUPS).zip(&self.applied).map(|(group, applied)| GroupRow {
            group: GroupId(group),
            replica: ReplicaId(group + 1),
            life: Life(1),
            applied: EntryId::new(u64::from(*applied > 0), *applied),
            membership: membership(group),
            descriptor: Bytes::new(),
        });
        let rows = rows.collect();
        self.freezing.push_back((self.applied_batches, Instant::now()));
        self.storage.freeze(cut, rows);
    }

    pub(crate) fn entries_per_commit(&self) -> f64 {
        let stats = self.store.stats();
        stats.entries as f64 / stats.commits as f64
    }

    /// Compares the state with the model, stops cleanly, removes the file.
    pub(crate) fn close(mut self) {
        let state = &self.state;
        self.load.check(|group, key| state.get(GroupId(group), key));
        let Node {
            path,
            store,
            storage,
            state,
            ..
        } = self;
        drop((storage, state));
        assert_eq!(store.close(), store_redb::Closed::Plain);
        crate::fresh(&path);
    }
}

fn membership(group: u64) -> Membership {
    Membership::of_voters([(ReplicaId(group + 1), NodeId(1))])
}

fn group_write(writes: &[Write], first: u64) -> GroupWrite {
    let entry = |(index, write): (u64, &Write)| Entry {
        id: EntryId::new(1, index),
        payload: Payload::Command(Stamp(1_700_000_000_000), write.pair.clone()),
    };
    let group = writes[0].group;
    GroupWrite {
        group: GroupId(group),
        replica: ReplicaId(group + 1),
        life: Life(1),
        write: WriteId(first),
        hard_state: None,
        commit: Index(first - 1),
        entries: (first..).zip(writes).map(entry).collect(),
    }
}
