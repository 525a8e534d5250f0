//! Real threads on a real file, with a ring far too small for the load: everything goes on, nothing is lost.

use super::world::{IDENTITY, WORKERS, birth, command, options, replica};
use crate::{Store, WorkerState, WorkerStorage};
use bytes::Bytes;
use multiraft::{
    BatchId, Completion, CompletionSink, EntryId, GroupId, GroupRow, GroupWrite, Index, Life, LogBatch,
    Membership, RaftStorage, WriteId,
};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BATCHES: u64 = 300;
const OUTSTANDING: usize = 8;
const ENTRIES: u64 = 4;

struct Sink(Mutex<Sender<Completion>>);

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        // The worker may be done already.
        let _ = self.0.lock().unwrap().send(completion);
    }
}

/// One worker with one group.
struct Worker {
    group: GroupId,
    storage: WorkerStorage,
    state: WorkerState,
    completions: Receiver<Completion>,
    submitted: u64,
    in_flight: VecDeque<u64>,
    applied: u64,
    is_told: bool,
}

impl Worker {
    fn run(mut self) {
        while self.submitted < BATCHES || !self.in_flight.is_empty() {
            while self.submitted < BATCHES && self.in_flight.len() < OUTSTANDING {
                self.submit();
            }
            self.take(Duration::from_secs(60))
                .expect("a completion arrives in time");
            self.freeze();
        }
        // The other worker may still need cuts.
        while self.take(Duration::from_millis(300)).is_some() {
            self.freeze();
        }
    }

    fn submit(&mut self) {
        let first = self.submitted * ENTRIES + 1;
        let entries: Vec<_> = (first..first + ENTRIES)
            .map(|index| command(1, index, index % 40, 5000))
            .collect();
        let births = if first == 1 {
            vec![birth(self.group)]
        } else {
            Vec::new()
        };
        self.submitted += 1;
        self.storage.submit(LogBatch {
            id: BatchId(self.submitted),
            births,
            writes: vec![GroupWrite {
                group: self.group,
                replica: replica(self.group),
                life: Life(1),
                write: WriteId(self.submitted),
                hard_state: None,
                commit: Index(first - 1),
                entries,
            }],
            ..LogBatch::default()
        });
        self.in_flight.push_back(self.submitted);
        self.storage.write_here();
    }

    fn take(&mut self, limit: Duration) -> Option<()> {
        match self.completions.recv_timeout(limit).ok()? {
            Completion::Durable { batch, .. } => {
                assert_eq!(Some(batch.0), self.in_flight.pop_front(), "in submit order");
                self.apply(batch.0);
            }
            Completion::Checkpointed { rows } => {
                rows.iter()
                    .for_each(|(group, _, index)| self.storage.truncate(*group, *index));
            }
            other => panic!("nothing like {other:?} was asked for"),
        }
        Some(())
    }

    fn apply(&mut self, batch: u64) {
        for index in (batch - 1) * ENTRIES + 1..=batch * ENTRIES {
            let key = (index % 40).to_be_bytes();
            self.state
                .put(self.group, &key, Bytes::from(index.to_be_bytes().to_vec()));
            self.state.mark_applied(self.group, EntryId::new(1, index));
            self.applied = index;
        }
        self.is_told = true;
    }

    fn freeze(&mut self) {
        let Some(cut) = self.storage.cut_wanted() else {
            return;
        };
        self.state.freeze(cut);
        let row = GroupRow {
            group: self.group,
            replica: replica(self.group),
            life: Life(1),
            applied: EntryId::new(1, self.applied),
            membership: Membership::default(),
            descriptor: Bytes::new(),
        };
        self.storage
            .freeze(cut, if self.is_told { vec![row] } else { Vec::new() });
    }
}

#[test]
fn a_full_ring_waits_for_checkpoints_and_goes_on() {
    fill_a_ring(false);
}

#[test]
fn workers_that_write_the_log_themselves_lose_nothing_either() {
    fill_a_ring(true);
}

fn fill_a_ring(workers_write: bool) {
    let options = || crate::Options {
        workers_write,
        ..options(WORKERS)
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node");
    let opened = Store::open(&path, IDENTITY, options()).unwrap();
    let (sinks, receivers): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| channel()).unzip();
    opened.store.start(
        sinks
            .into_iter()
            .map(|sender| Arc::new(Sink(Mutex::new(sender))) as _)
            .collect(),
    );
    let workers = receivers
        .into_iter()
        .enumerate()
        .map(|(worker, completions)| Worker {
            group: GroupId(2 + worker as u64),
            storage: opened.store.storage(worker),
            state: opened.store.state(worker),
            completions,
            submitted: 0,
            in_flight: VecDeque::new(),
            applied: 0,
            is_told: false,
        });
    let threads: Vec<_> = workers
        .map(|worker| std::thread::spawn(move || worker.run()))
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let stats = opened.store.stats();
    assert_eq!(stats.batches, BATCHES * WORKERS as u64);
    assert!(
        stats.log_bytes > 20 * stats.ring_bytes && stats.checkpoints > 5,
        "{stats:?}"
    );
    drop(opened);

    let opened = Store::open(&path, IDENTITY, options()).unwrap();
    for found in &opened.groups {
        let last = found.restored.truncated.index.0 + found.restored.entries.len() as u64;
        assert_eq!(last, BATCHES * ENTRIES, "{}", found.group);
        let state = opened.store.state(crate::worker_of(found.group, WORKERS));
        let applied = found.restored.applied.0;
        for index in (applied - 39)..=applied {
            let value = state.get(found.group, &(index % 40).to_be_bytes()).unwrap();
            assert_eq!(&value[..], index.to_be_bytes(), "{} at {applied}", found.group);
        }
    }
}
