//! Measures durable appends against a bare loop of `pwritev2(RWF_DSYNC)` over written space, in alternating rounds of
//! one run, because machines are noisy: `cargo run --release --example append -- DIRECTORY [SECONDS]`.

use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, GroupId, GroupRow, GroupWrite, Index, Life,
    LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId, Stamp, WriteId,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_redb::{ClusterId, Disk, FileDisk, Identity, Options, Store, WorkerState, WorkerStorage};

const GROUPS: u64 = 1000;
const VALUE_BYTES: usize = 256;
const BARE_BYTES: u64 = 256 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let seconds: f64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let bare = Bare::open(&directory.join("append-bare"));
    for (batch, outstanding, is_applied) in [
        (1, 1, false),
        (256, 1, false),
        (256, 2, false),
        (1, 1, true),
        (256, 1, true),
        (256, 2, true),
    ] {
        let mut run = Run::open(&directory.join("append-node"), batch, is_applied);
        let (mut ours, mut theirs) = (Rate::default(), Rate::default());
        for _ in 0..3 {
            let record = run.record_bytes();
            theirs.add(bare.write_for(record, Duration::from_secs_f64(seconds / 3.0)));
            ours.add(run.append_for(outstanding, Duration::from_secs_f64(seconds / 3.0)));
        }
        run.report(outstanding, ours, theirs);
    }
}

/// Operations in a time.
#[derive(Clone, Copy, Default)]
struct Rate {
    operations: u64,
    time: Duration,
}

impl Rate {
    fn add(&mut self, (operations, time): (u64, Duration)) {
        self.operations += operations;
        self.time += time;
    }

    fn per_second(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64()
    }
}

/// What the disk can do.
struct Bare {
    disk: FileDisk,
}

impl Bare {
    fn open(path: &Path) -> Bare {
        let file = std::fs::File::create(path).expect("the directory is writable");
        let disk = FileDisk::new(file);
        let zeros = vec![0; 1 << 20];
        for offset in (0..BARE_BYTES).step_by(zeros.len()) {
            disk.write_at(offset, &zeros).expect("there is room");
        }
        disk.sync().expect("the disk syncs");
        disk.forget(0..BARE_BYTES);
        Bare { disk }
    }

    fn write_for(&self, bytes: usize, time: Duration) -> (u64, Duration) {
        let record = vec![0x5a; bytes];
        let started = Instant::now();
        let mut operations = 0;
        let mut offset = 0;
        while started.elapsed() < time {
            self.disk.write_durable(offset, &record).expect("the disk writes");
            operations += 1;
            offset += bytes as u64;
            if offset + bytes as u64 > BARE_BYTES {
                offset = 0;
            }
        }
        (operations, started.elapsed())
    }
}

struct Sink(Mutex<Sender<Completion>>);

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        // Nobody listens any more once the run is over.
        let _ = self.0.lock().expect("no completion panics").send(completion);
    }
}

/// One store under load: each batch appends to random groups.
struct Run {
    path: PathBuf,
    store: Store,
    storage: WorkerStorage,
    state: WorkerState,
    completions: Receiver<Completion>,
    value: Bytes,
    batch: u64,
    is_applied: bool,
    random: u64,
    batches: u64,
    lasts: Vec<u64>,
    applied: BTreeMap<GroupId, u64>,
    in_flight: std::collections::VecDeque<Vec<(GroupId, u64)>>,
}

impl Run {
    fn open(path: &Path, batch: u64, is_applied: bool) -> Run {
        let _ = std::fs::remove_file(path);
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
        };
        let opened = Store::open(path, identity, Options::new(1)).expect("the directory is writable");
        let (sender, completions) = channel();
        opened.store.start(vec![Arc::new(Sink(Mutex::new(sender)))]);
        let mut run = Run {
            path: path.to_path_buf(),
            storage: opened.store.storage(0),
            state: opened.store.state(0),
            store: opened.store,
            completions,
            value: Bytes::from(vec![0x5a; VALUE_BYTES]),
            batch,
            is_applied,
            random: 1,
            batches: 0,
            lasts: vec![0; GROUPS as usize],
            applied: BTreeMap::new(),
            in_flight: std::collections::VecDeque::new(),
        };
        run.bear();
        run
    }

    fn bear(&mut self) {
        let births = (0..GROUPS).map(|group| Birth {
            group: GroupId(group),
            replica: ReplicaId(group),
            membership: Membership::of_voters([(ReplicaId(group), NodeId(1))]),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        });
        let births = births.collect();
        self.storage.submit(LogBatch {
            births,
            ..LogBatch::default()
        });
        self.in_flight.push_back(Vec::new());
        self.complete_one();
    }

    /// Bytes of a record with one batch, for the bare loop.
    fn record_bytes(&self) -> usize {
        const HEADER: usize = 48;
        const PER_ENTRY: usize = 30;
        (HEADER + self.batch as usize * (VALUE_BYTES + PER_ENTRY)).next_multiple_of(4096)
    }

    fn append_for(&mut self, outstanding: usize, time: Duration) -> (u64, Duration) {
        let started = Instant::now();
        let mut operations = 0;
        while started.elapsed() < time {
            while self.in_flight.len() < outstanding {
                self.submit();
            }
            self.complete_one();
            operations += 1;
        }
        while !self.in_flight.is_empty() {
            self.complete_one();
            operations += 1;
        }
        (operations, started.elapsed())
    }

    fn next_group(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % GROUPS
    }

    fn submit(&mut self) {
        let mut written: BTreeMap<GroupId, Vec<Entry>> = BTreeMap::new();
        for _ in 0..self.batch {
            let group = self.next_group();
            let last = &mut self.lasts[group as usize];
            *last += 1;
            written.entry(GroupId(group)).or_default().push(Entry {
                id: EntryId::new(1, *last),
                payload: Payload::Command(Stamp(1_700_000_000_000), self.value.clone()),
            });
        }
        self.batches += 1;
        let note = written
            .iter()
            .map(|(group, entries)| (*group, entries.len() as u64))
            .collect();
        let writes = written.into_iter().map(|(group, entries)| GroupWrite {
            group,
            replica: ReplicaId(group.0),
            life: Life(1),
            write: WriteId(1),
            hard_state: None,
            commit: Index(entries[0].id.index.0 - 1),
            entries,
        });
        self.storage.submit(LogBatch {
            id: BatchId(self.batches),
            writes: writes.collect(),
            ..LogBatch::default()
        });
        self.in_flight.push_back(note);
    }

    /// Waits for the oldest batch, applies it if asked to, and takes part in checkpoints.
    fn complete_one(&mut self) {
        loop {
            match self.completions.recv().expect("the store lives") {
                Completion::Durable { .. } => break,
                Completion::Checkpointed { rows } => {
                    rows.iter()
                        .for_each(|(group, _, index)| self.storage.truncate(*group, *index));
                }
                Completion::Fetched { .. } | Completion::Installed { .. } => {}
            }
        }
        let done = self.in_flight.pop_front().expect("one was in flight");
        for (group, count) in done {
            self.apply(group, count);
        }
        self.freeze();
    }

    fn apply(&mut self, group: GroupId, count: u64) {
        for _ in 0..count {
            let applied = self.applied.entry(group).or_insert(0);
            *applied += 1;
            let index = *applied;
            if self.is_applied {
                let key = format!("key-{:07}", self.next_group());
                self.state.put(group, key.as_bytes(), self.value.clone());
            }
            self.state.mark_applied(group, EntryId::new(1, index));
        }
    }

    fn freeze(&mut self) {
        let Some(cut) = self.storage.cut_wanted() else {
            return;
        };
        self.state.freeze(cut);
        let rows = self.applied.iter().map(|(group, applied)| GroupRow {
            group: *group,
            replica: ReplicaId(group.0),
            life: Life(1),
            applied: EntryId::new(1, *applied),
            membership: Membership::of_voters([(ReplicaId(group.0), NodeId(1))]),
            descriptor: Bytes::new(),
        });
        let rows = rows.collect();
        self.storage.freeze(cut, rows);
    }

    fn report(self, outstanding: usize, ours: Rate, theirs: Rate) {
        let stats = self.store.stats();
        println!(
            "{:>3} x {VALUE_BYTES} B, {outstanding} outstanding, applied {:5}: {:>8.0} entries/s, {:>6.0} batches/s \
             ({:>6.0} records/s of {:>6} B); bare {:>6.0}/s; ratio {:.2}; checkpoints {}, spilled {}",
            self.batch,
            self.is_applied,
            ours.per_second() * self.batch as f64,
            ours.per_second(),
            stats.commits as f64 / ours.time.as_secs_f64(),
            stats.log_bytes / stats.commits,
            theirs.per_second(),
            ours.per_second() / theirs.per_second(),
            stats.checkpoints,
            stats.spilled,
        );
        let Run {
            path,
            store,
            storage,
            state,
            ..
        } = self;
        drop((storage, state));
        let started = Instant::now();
        let closed = store.close();
        println!("      clean stop: {closed:?} in {:?}", started.elapsed());
        let _ = std::fs::remove_file(path);
    }
}
