//! One group on one worker, whose checkpoints wait until the test takes them.

use super::world::{IDENTITY, birth, command, options, replica};
use crate::{Disk, OpenError, Store, WorkerState, WorkerStorage};
use bytes::Bytes;
use multiraft::{
    BatchId, Completion, CompletionSink, Entry, EntryId, GroupId, GroupRow, GroupWrite, HardState, Index,
    Life, LogBatch, Membership, RaftStorage, Term, WriteId,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const GROUP: GroupId = GroupId(4);

/// Counts batches that became durable.
#[derive(Default)]
struct Acknowledged(AtomicU64);

impl CompletionSink for Acknowledged {
    fn complete(&self, completion: Completion) {
        let is_batch = matches!(completion, Completion::Durable { .. });
        self.0.fetch_add(u64::from(is_batch), Ordering::Relaxed);
    }
}

/// See the module's text.
pub(super) struct Lone {
    pub(super) store: Store,
    pub(super) storage: WorkerStorage,
    pub(super) state: WorkerState,
    sink: Arc<Acknowledged>,
    batches: u64,
    /// The last entry submitted, and the last one applied.
    pub(super) last: u64,
    applied: u64,
}

impl Lone {
    /// Opens; what was committed before is applied again.
    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Lone, OpenError> {
        let opened = Store::open_on(disk, IDENTITY, options(1))?;
        let sink = Arc::new(Acknowledged::default());
        opened.store.connect(vec![Arc::clone(&sink) as _]);
        let mut lone = Lone {
            storage: opened.store.storage(0),
            state: opened.store.state(0),
            store: opened.store,
            sink,
            batches: 0,
            last: 0,
            applied: 0,
        };
        match opened.groups.into_iter().find(|found| found.group == GROUP) {
            None => lone.submit(Some(GROUP), None, Vec::new()),
            Some(found) => {
                lone.applied = found.restored.applied.0;
                lone.last = found.restored.truncated.index.0 + found.restored.entries.len() as u64;
                for entry in &found.restored.entries {
                    if entry.id.index.0 > lone.applied {
                        lone.apply(entry);
                    }
                }
            }
        }
        Ok(lone)
    }

    pub(super) fn submit(&mut self, born: Option<GroupId>, term: Option<u64>, entries: Vec<Entry>) {
        self.batches += 1;
        self.last += entries.len() as u64;
        let group = born.unwrap_or(GROUP);
        self.storage.submit(LogBatch {
            id: BatchId(self.batches),
            births: born.map(birth).into_iter().collect(),
            writes: vec![GroupWrite {
                group,
                replica: replica(group),
                life: Life(1),
                write: WriteId(self.batches),
                hard_state: term.map(|term| HardState {
                    term: Term(term),
                    vote: None,
                }),
                entries,
                commit: Index(0),
            }],
            ..LogBatch::default()
        });
    }

    /// Writes a key durably and applies it: a value of so many bytes, or none.
    pub(super) fn write(&mut self, key: u64, length: usize) {
        let entry = command(1, self.last + 1, key, length);
        self.submit(None, None, vec![entry.clone()]);
        self.commit_all("one write");
        self.apply(&entry);
    }

    fn apply(&mut self, entry: &Entry) {
        if let multiraft::Payload::Command(_, bytes) = &entry.payload {
            match bytes.len() {
                8 => self.state.delete(GROUP, &bytes[..8]),
                _ => self.state.put(GROUP, &bytes[..8], bytes.slice(8..)),
            }
        }
        self.state.mark_applied(GROUP, entry.id);
        self.applied = entry.id.index.0;
    }

    pub(super) fn commit_all(&mut self, what: &str) {
        while self.store.commit_once() {}
        let acknowledged = self.sink.0.load(Ordering::Relaxed);
        assert_eq!(acknowledged, self.batches, "{what}: {:?}", self.store.stats());
    }

    /// Freezes if a checkpoint is wanted, and tries to write it.
    pub(super) fn try_checkpoint(&mut self) -> bool {
        if let Some(cut) = self.storage.cut_wanted() {
            self.state.freeze(cut);
            let row = GroupRow {
                group: GROUP,
                replica: replica(GROUP),
                life: Life(1),
                applied: match self.applied {
                    0 => EntryId::ZERO,
                    index => EntryId::new(1, index),
                },
                membership: Membership::default(),
                descriptor: Bytes::new(),
            };
            self.storage.freeze(cut, vec![row]);
        }
        let is_done = self.store.checkpoint_once();
        if is_done {
            self.storage.truncate(GROUP, Index(self.applied));
        }
        is_done
    }

    pub(super) fn checkpoint(&mut self) {
        self.store.want_checkpoint();
        assert!(self.try_checkpoint());
    }
}
