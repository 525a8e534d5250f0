//! A small worker for tests of births, splits, installs and removals: it writes, applies, freezes and replays like a
//! real one, step by step, over a simulated disk.

use super::world::{IDENTITY, Sink, contents, options};
use crate::{Child, Disk, OpenError, Rows, SimDisk, Store, WorkerState, WorkerStorage};
use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, Entry, EntryId, GroupId, GroupRow, GroupWrite, HardState, Index, Install,
    Life, LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId, RestoredGroup, Split, StagingId,
    Stamp, Term, Tombstone, WriteId,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all groups hold, as their readers see it.
pub(super) type Seen = BTreeMap<GroupId, BTreeMap<Vec<u8>, Bytes>>;

/// One group of the worker.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) replica: ReplicaId,
    pub(super) applied: EntryId,
    pub(super) last: EntryId,
    descriptor: Bytes,
    /// As of `applied`.
    membership: Membership,
    /// Entries that are not applied yet.
    waiting: Vec<Entry>,
}

/// The worker and its store.
pub(super) struct Node {
    pub(super) store: Store,
    pub(super) storage: WorkerStorage,
    pub(super) state: WorkerState,
    sink: Arc<Sink>,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) restored: Vec<RestoredGroup>,
    batches: u64,
    next: LogBatch,
    /// What `Installed` said last.
    pub(super) is_installed: Option<bool>,
}

/// A command that sets a key.
pub(super) fn put(key: &str, value: &str) -> Bytes {
    Bytes::from(format!("p{key}={value}"))
}

/// A command that appends to the value of a key: to apply it twice shows.
pub(super) fn append(key: &str, value: &str) -> Bytes {
    Bytes::from(format!("+{key}={value}"))
}

/// A command that splits its group: the keys from `start` on are the child's.
pub(super) fn split(child: GroupId, start: &str) -> Bytes {
    Bytes::from(format!("s{}={start}", child.0))
}

pub(super) fn replica(group: GroupId) -> ReplicaId {
    ReplicaId(group.0 * 10)
}

pub(super) fn members(group: GroupId) -> Membership {
    Membership::of_voters([
        (replica(group), NodeId(3)),
        (ReplicaId(group.0 * 10 + 1), NodeId(4)),
    ])
}

/// Where children begin.
const CHILD_BASE: EntryId = EntryId {
    term: Term(5),
    index: Index(5),
};

impl Node {
    pub(super) fn open(disk: &Arc<SimDisk>) -> Node {
        Node::try_open(disk).unwrap()
    }

    pub(super) fn try_open(disk: &Arc<SimDisk>) -> Result<Node, OpenError> {
        Node::open_on(Arc::clone(disk) as _)
    }

    pub(super) fn open_on(disk: Arc<dyn Disk>) -> Result<Node, OpenError> {
        let opened = Store::open_on(disk, IDENTITY, options(1))?;
        let sink = Arc::new(Sink::default());
        opened.store.connect(vec![Arc::clone(&sink) as _]);
        let mut node = Node {
            storage: opened.store.storage(0),
            state: opened.store.state(0),
            store: opened.store,
            sink,
            groups: BTreeMap::new(),
            restored: opened.groups.clone(),
            batches: 0,
            next: LogBatch::default(),
            is_installed: None,
        };
        let (children, others): (Vec<_>, Vec<_>) =
            opened.groups.into_iter().partition(|group| group.after.is_some());
        others
            .into_iter()
            .chain(children)
            .for_each(|group| node.replay(group));
        Ok(node)
    }

    /// Applies what a restart found to be committed.
    fn replay(&mut self, found: RestoredGroup) {
        let restored = found.restored;
        let at = |index: Index| match index == restored.truncated.index {
            true => restored.truncated,
            false => restored.entries[(index.0 - restored.truncated.index.0 - 1) as usize].id,
        };
        let last = restored
            .entries
            .last()
            .map_or(restored.truncated, |entry| entry.id);
        let group = Group {
            replica: found.replica,
            applied: at(restored.applied),
            last,
            descriptor: found.descriptor,
            membership: restored.membership.clone(),
            waiting: restored
                .entries
                .iter()
                .filter(|entry| entry.id.index > restored.applied)
                .cloned()
                .collect(),
        };
        self.groups.insert(found.group, group);
        self.apply(found.group, restored.commit.0);
    }

    /// Applies up to and including an index.
    pub(super) fn apply(&mut self, group: GroupId, upto: u64) {
        loop {
            let found = self.groups.get_mut(&group).unwrap();
            if found.waiting.first().is_none_or(|entry| entry.id.index.0 > upto) {
                return;
            }
            let entry = found.waiting.remove(0);
            found.applied = entry.id;
            if let Payload::Membership(membership) = &entry.payload {
                found.membership = (**membership).clone();
            }
            if let Payload::Command(_, command) = entry.payload {
                self.execute(group, entry.id, std::str::from_utf8(&command).unwrap());
            }
            self.state.mark_applied(group, entry.id);
        }
    }

    fn execute(&mut self, group: GroupId, at: EntryId, command: &str) {
        let (name, value) = command[1..].split_once('=').unwrap();
        if command.starts_with('p') {
            let value = Bytes::from(value.to_string());
            return self.state.put(group, name.as_bytes(), value);
        }
        if command.starts_with('+') {
            let before = self.state.get(group, name.as_bytes()).unwrap_or_default();
            let after = [&before[..], value.as_bytes()].concat();
            return self.state.put(group, name.as_bytes(), after.into());
        }
        let child = GroupId(name.parse().unwrap());
        let fate = self
            .state
            .split(group, (child, replica(child)), value.as_bytes(), None);
        if fate == Child::Born {
            let birth = Birth {
                split: Some(Split {
                    parent: group,
                    at: at.index,
                    hard_state: HardState {
                        term: CHILD_BASE.term,
                        vote: None,
                    },
                }),
                base: CHILD_BASE,
                ..birth_of(child, replica(child))
            };
            self.bear(birth);
        }
    }

    /// A replica is born with the next batch.
    pub(super) fn bear(&mut self, birth: Birth) {
        let group = Group {
            replica: birth.replica,
            applied: birth.base,
            last: birth.base,
            descriptor: birth.descriptor.clone(),
            membership: birth.membership.clone(),
            waiting: Vec::new(),
        };
        self.groups.insert(birth.group, group);
        self.next.births.push(birth);
    }

    pub(super) fn found(&mut self, group: GroupId, replica: ReplicaId) {
        self.bear(birth_of(group, replica));
    }

    /// Commands for the group's log, in the next batch, with a commit mark so many entries behind its end.
    pub(super) fn write(&mut self, group: GroupId, term: u64, commands: &[Bytes], behind: u64) {
        let commands = commands.iter();
        let payloads: Vec<_> = commands
            .map(|command| Payload::Command(Stamp(1), command.clone()))
            .collect();
        self.write_payloads(group, term, &payloads, behind);
    }

    /// The same with entries of any kind.
    pub(super) fn write_payloads(&mut self, group: GroupId, term: u64, payloads: &[Payload], behind: u64) {
        let found = self.groups.get_mut(&group).unwrap();
        let entries: Vec<Entry> = payloads
            .iter()
            .map(|payload| {
                found.last = EntryId::new(term, found.last.index.0 + 1);
                Entry {
                    id: found.last,
                    payload: payload.clone(),
                }
            })
            .collect();
        found.waiting.extend(entries.iter().cloned());
        self.next.writes.push(GroupWrite {
            group,
            replica: found.replica,
            life: Life(1),
            write: WriteId(1),
            hard_state: Some(HardState {
                term: Term(term),
                vote: None,
            }),
            commit: Index(found.last.index.0 - behind),
            entries,
        });
    }

    /// Stages rows, durably.
    pub(super) fn stage(&mut self, rows: &[(&str, &str)]) -> StagingId {
        let mut staging = self.store.stage().unwrap();
        for (key, value) in rows {
            let row = (Bytes::from(key.to_string()), Bytes::from(value.to_string()));
            let rows: Rows = vec![row];
            staging.offer(rows).unwrap();
            assert!(self.store.tidy_once() && staging.is_durable());
        }
        staging.hand_over()
    }

    /// A snapshot takes the group's place, with the next batch.
    pub(super) fn install(&mut self, group: GroupId, staging: StagingId, snapshot: EntryId) {
        self.next.installs.push(Install {
            group,
            replica: self.groups[&group].replica,
            life: Life(1),
            staging,
            snapshot,
            membership: members(group),
            hard_state: HardState {
                term: snapshot.term,
                vote: None,
            },
            descriptor: Bytes::from_static(b"installed"),
        });
    }

    /// The replica is removed, with the next batch.
    pub(super) fn bury(&mut self, group: GroupId, lowest: u64) {
        self.groups.remove(&group);
        self.next.tombstones.push(Tombstone {
            group,
            lowest: ReplicaId(lowest),
        });
    }

    /// Submits the next batch, without making it durable.
    pub(super) fn submit(&mut self) {
        self.batches += 1;
        let mut batch = std::mem::take(&mut self.next);
        batch.id = BatchId(self.batches);
        self.storage.submit(batch);
    }

    /// Submits the next batch and makes it durable; what is committed is applied.
    pub(super) fn commit(&mut self) {
        let marks: Vec<_> = self
            .next
            .writes
            .iter()
            .map(|write| (write.group, write.commit))
            .collect();
        let installs = self.next.installs.clone();
        let buried: Vec<_> = self
            .next
            .tombstones
            .iter()
            .map(|tombstone| tombstone.group)
            .collect();
        self.submit();
        self.settle(&installs);
        buried.into_iter().for_each(|group| self.state.forget(group));
        for (group, mark) in marks {
            if self.groups.contains_key(&group) {
                self.apply(group, mark.0);
            }
        }
    }

    /// Makes everything submitted durable.
    pub(super) fn settle(&mut self, installs: &[Install]) {
        while self.store.commit_once() {}
        while let Some(completion) = self.sink.take() {
            if let Completion::Installed {
                group, is_installed, ..
            } = completion
            {
                let install = installs.iter().find(|install| install.group == group).unwrap();
                self.is_installed = Some(is_installed);
                if is_installed {
                    self.state.install(group);
                    let found = self.groups.get_mut(&group).unwrap();
                    found.applied = install.snapshot;
                    found.last = install.snapshot;
                    found.waiting.clear();
                    found.descriptor = install.descriptor.clone();
                    found.membership = install.membership.clone();
                }
            }
        }
    }

    /// Freezes for a checkpoint.
    pub(super) fn freeze(&mut self) {
        self.store.want_checkpoint();
        let cut = self.storage.cut_wanted().unwrap();
        self.state.freeze(cut);
        let rows = self.groups.iter().map(|(group, found)| GroupRow {
            group: *group,
            replica: found.replica,
            life: Life(1),
            applied: found.applied,
            membership: found.membership.clone(),
            descriptor: found.descriptor.clone(),
        });
        self.storage.freeze(cut, rows.collect());
    }

    /// A whole checkpoint.
    pub(super) fn checkpoint(&mut self) {
        self.freeze();
        assert!(self.store.checkpoint_once());
    }

    /// Truncates every log as far as it may be.
    pub(super) fn truncate(&mut self) {
        for (group, found) in &self.groups {
            self.storage.truncate(*group, found.applied.index);
        }
    }

    /// Deletes everything that nobody maps, as far as checkpoints allow; how many transactions that took.
    pub(super) fn tidy(&mut self) -> usize {
        std::iter::from_fn(|| self.store.tidy_once().then_some(())).count()
    }

    pub(super) fn seen(&self) -> Seen {
        let groups = self.groups.keys();
        groups
            .map(|group| (*group, contents(&self.state, *group)))
            .collect()
    }

    pub(super) fn group(&self, group: GroupId) -> BTreeMap<Vec<u8>, Bytes> {
        contents(&self.state, group)
    }
}

pub(super) fn birth_of(group: GroupId, replica: ReplicaId) -> Birth {
    Birth {
        group,
        replica,
        membership: members(group),
        base: EntryId::ZERO,
        descriptor: Bytes::from(format!("range of {group}")),
        split: None,
    }
}

/// Keys and values, for comparison with what is seen.
pub(super) fn rows(pairs: &[(&str, &str)]) -> BTreeMap<Vec<u8>, Bytes> {
    let owned = |(key, value): &(&str, &str)| (key.as_bytes().to_vec(), Bytes::from(value.to_string()));
    pairs.iter().map(owned).collect()
}

/// The process dies, the system lives.
pub(super) fn kill(node: Node, disk: &Arc<SimDisk>) -> Arc<SimDisk> {
    drop(node);
    Arc::new(disk.kill())
}
