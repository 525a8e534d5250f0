//! Our contender's log in memory, durable at once, and its state machine that counts: as lean as those of the others.

use crate::ENTRIES_PER_CUT;
use bytes::Bytes;
use multiraft::{
    Completion, CompletionSink, CutId, Entry, EntryId, FetchRequest, GroupId, GroupRow, Index, LogBatch,
    Payload, Queried, RaftStorage, ReplicaId, Room, Stamp, StateMachine,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// One worker's log. Asks for a checkpoint after as many entries as openraft asks for a snapshot.
pub struct MemLog {
    sink: Arc<dyn CompletionSink>,
    /// By group: they are numbered from 1.
    logs: Vec<VecDeque<Entry>>,
    entries_since_cut: u64,
    cuts: u64,
}

impl MemLog {
    pub fn new(sink: Arc<dyn CompletionSink>) -> MemLog {
        MemLog {
            sink,
            logs: Vec::new(),
            entries_since_cut: 0,
            cuts: 1,
        }
    }
}

fn place(group: GroupId) -> usize {
    usize::try_from(group.0 - 1).expect("a few groups")
}

impl RaftStorage for MemLog {
    fn submit(&mut self, batch: LogBatch) {
        for birth in batch.births {
            let groups = self.logs.len().max(place(birth.group) + 1);
            self.logs.resize_with(groups, VecDeque::new);
        }
        let mut writes = Vec::with_capacity(batch.writes.len());
        for write in batch.writes {
            writes.push((write.group, write.life, write.write));
            let Some(first) = write.entries.first() else {
                continue;
            };
            let log = &mut self.logs[place(write.group)];
            while log.back().is_some_and(|last| last.id.index >= first.id.index) {
                log.pop_back();
            }
            self.entries_since_cut += write.entries.len() as u64;
            log.extend(write.entries);
        }
        self.sink.complete(Completion::Durable {
            batch: batch.id,
            writes,
            then_send: batch.then_send,
        });
    }

    fn fetch(&mut self, request: FetchRequest) {
        let log = &self.logs[place(request.group)];
        let is_whole = log
            .front()
            .is_some_and(|first| first.id.index <= *request.range.start());
        let wanted = log
            .iter()
            .filter(|entry| is_whole && request.range.contains(&entry.id.index));
        let entries = wanted.take(1024).cloned().collect();
        self.sink.complete(Completion::Fetched {
            group: request.group,
            life: request.life,
            peer: request.peer,
            entries,
        });
    }

    fn truncate(&mut self, group: GroupId, index: Index) {
        let log = &mut self.logs[place(group)];
        while log.front().is_some_and(|first| first.id.index <= index) {
            log.pop_front();
        }
    }

    fn cut_wanted(&mut self) -> Option<CutId> {
        (self.entries_since_cut >= ENTRIES_PER_CUT * self.logs.len().max(1) as u64)
            .then_some(CutId(self.cuts))
    }

    fn freeze(&mut self, _cut: CutId, rows: Vec<GroupRow>) {
        self.cuts += 1;
        self.entries_since_cut = 0;
        let rows = rows
            .into_iter()
            .map(|row| (row.group, row.life, row.applied.index))
            .collect();
        self.sink.complete(Completion::Checkpointed { rows });
    }

    fn room(&self) -> Room {
        Room::UNBOUNDED
    }

    fn may_bear(&self, _group: GroupId, _replica: ReplicaId) -> bool {
        true
    }

    fn is_settled(&self, _group: GroupId) -> bool {
        true
    }
}

/// Counts the commands of all groups.
#[derive(Default)]
pub struct Count {
    commands: u64,
    clock: Stamp,
}

impl StateMachine for Count {
    fn apply(&mut self, _group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>) {
        for entry in entries {
            if let Payload::Command(stamp, _) = &entry.payload {
                self.commands += 1;
                self.clock = self.clock.max(*stamp);
            }
            answers.push(Bytes::new());
        }
    }

    fn query(&mut self, _group: GroupId, _query: &Bytes, _stamp: Stamp) -> Queried {
        Queried::Answer(Bytes::copy_from_slice(&self.commands.to_le_bytes()))
    }

    fn clock(&self, _group: GroupId) -> Stamp {
        self.clock
    }

    fn freeze(&mut self, _cut: CutId) {}

    fn descriptor(&self, _group: GroupId) -> Bytes {
        Bytes::new()
    }

    fn open(&mut self, _group: GroupId, _descriptor: &Bytes, _applied: EntryId) {}

    /// No snapshots are taken here: the hosts have no [`multiraft::Snapshots`].
    fn install(&mut self, _group: GroupId, _descriptor: &Bytes, _snapshot: EntryId) {
        unreachable!("nobody sends snapshots");
    }
}
