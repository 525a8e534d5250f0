//! What every `RaftStorage` must do, as one suite: the in-memory disk and the real store run the same checks.

use crate::network::{Frame, Lane, Outgoing};
use crate::storage::{
    BatchId, Birth, Completion, CutId, FetchRequest, GroupRow, GroupWrite, Install, LogBatch, RaftStorage,
    RestoredGroup, Split, StagingId, Tombstone,
};
use crate::types::{
    Entry, EntryId, GroupId, HardState, Index, Life, Membership, NodeId, Payload, ReplicaId, Stamp, Term,
};
use bytes::Bytes;
use raft_core::WriteId;

/// One node's store with one worker, which the suite opens, crashes and opens again. A harness begins with nothing.
pub trait StorageHarness {
    /// The worker's handle.
    type Storage: RaftStorage;

    /// Opens the store, first or again; what it finds.
    fn open(&mut self) -> (Self::Storage, Vec<RestoredGroup>);

    /// The next completion. Waits for it; fails the test when none comes.
    fn completion(&mut self) -> Completion;

    /// The process dies here. What was not acknowledged may be lost; what was must not be.
    fn crash(&mut self, storage: Self::Storage);

    /// Makes the store want a checkpoint: `cut_wanted` says so at the latest when this returns.
    fn want_checkpoint(&mut self);

    /// Stages a snapshot without rows, durably.
    fn stage(&mut self) -> StagingId;

    /// The group was split in the state machine: the child's state is what the parent's was from `start` on.
    fn split_state(&mut self, parent: GroupId, child: GroupId, start: &[u8]);

    /// The state machine's part of the cut, before `RaftStorage::freeze`. The suite's groups hold no state.
    fn freeze_state(&mut self, cut: CutId);
}

/// Runs every check, each with a harness of its own.
pub fn storage_suite<H: StorageHarness>(mut make: impl FnMut() -> H) {
    an_empty_store_restores_nothing(&mut make());
    what_is_acknowledged_survives(&mut make());
    completions_come_in_order_and_echo(&mut make());
    what_is_not_acknowledged_survives_as_a_prefix(&mut make());
    entries_replace_what_stood_there(&mut make());
    hard_state_and_entries_do_not_disturb_each_other(&mut make());
    every_payload_survives(&mut make());
    fetches_are_prefixes_within_their_bytes(&mut make());
    a_checkpoint_moves_applied_and_allows_truncation(&mut make());
    a_group_may_begin_above_zero(&mut make());
    groups_do_not_mix(&mut make());
    an_install_replaces_the_log(&mut make());
    a_snapshot_at_or_below_commit_installs_nothing(&mut make());
    a_tombstone_forbids_lower_replicas(&mut make());
    a_removed_replica_is_gone_and_a_higher_one_may_be_born(&mut make());
    a_child_needs_its_parent_until_a_checkpoint_holds_it(&mut make());
}

const GROUP: GroupId = GroupId(7);

fn an_empty_store_restores_nothing<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    assert_eq!(run.restored.len(), 0);
    assert!(run.storage().room().log_bytes > 0);
    assert!(run.storage().room().memory_bytes > 0);
    assert_eq!(run.storage().cut_wanted(), None);
}

fn what_is_acknowledged_survives<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=3))]);
    run.await_durable();
    let mut second = write(GROUP, 2, commands(1, 4..=4));
    second.commit = Index(3);
    run.submit(Vec::new(), vec![second]);
    run.await_durable();
    run.reopen();
    let found = run.group(GROUP);
    assert_eq!(found.replica, ReplicaId(70));
    assert_eq!(found.descriptor, Bytes::from_static(b"range"));
    assert_eq!(found.restored.membership, birth(GROUP).membership);
    assert_eq!(found.restored.hard_state, hard_state(1));
    assert_eq!(found.restored.entries, commands(1, 1..=4));
    assert_eq!(found.restored.commit, Index(3));
    assert_eq!(
        (found.restored.applied, found.restored.truncated),
        (Index(0), EntryId::ZERO)
    );
}

fn completions_come_in_order_and_echo<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP), birth(GroupId(8))], Vec::new());
    for number in 1..=20 {
        let writes = vec![
            write(GROUP, number, commands(1, number..=number)),
            write(GroupId(8), number, Vec::new()),
        ];
        run.submit(Vec::new(), writes);
    }
    assert_eq!(run.await_durable(), (BatchId(1), Vec::new()));
    for number in 1..=20 {
        let echo = |group| (group, Life(5), WriteId(number));
        assert_eq!(
            run.await_durable(),
            (BatchId(number + 1), vec![echo(GROUP), echo(GroupId(8))])
        );
    }
}

fn what_is_not_acknowledged_survives_as_a_prefix<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=1))]);
    run.await_durable();
    for number in 2..=9 {
        run.submit(
            Vec::new(),
            vec![write(GROUP, number, commands(1, number..=number))],
        );
    }
    run.reopen();
    let entries = run.group(GROUP).restored.entries.clone();
    assert!(!entries.is_empty(), "the first batch was acknowledged");
    let last = entries.len() as u64;
    assert_eq!(
        entries,
        commands(1, 1..=last),
        "a prefix of what was submitted, without holes"
    );
}

fn entries_replace_what_stood_there<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=6))]);
    run.submit(Vec::new(), vec![write(GROUP, 2, commands(2, 3..=4))]);
    run.await_durable();
    run.await_durable();
    let replaced = [commands(1, 1..=2), commands(2, 3..=4)].concat();
    assert_eq!(run.fetch(GROUP, 1, 9, usize::MAX), replaced);
    run.reopen();
    assert_eq!(run.group(GROUP).restored.entries, replaced);
    assert_eq!(run.group(GROUP).restored.hard_state, hard_state(2));
}

fn hard_state_and_entries_do_not_disturb_each_other<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=2))]);
    let mut vote = write(GROUP, 2, Vec::new());
    vote.hard_state = Some(hard_state(4));
    run.submit(Vec::new(), vec![vote]);
    let mut plain = write(GROUP, 3, commands(1, 3..=3));
    plain.hard_state = None;
    run.submit(Vec::new(), vec![plain]);
    (0..3).for_each(|_| drop(run.await_durable()));
    run.reopen();
    assert_eq!(run.group(GROUP).restored.hard_state, hard_state(4));
    assert_eq!(run.group(GROUP).restored.entries, commands(1, 1..=3));
}

fn every_payload_survives<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let mut joint = membership(GROUP);
    joint.outgoing = joint.voters.clone();
    joint.learners.insert(ReplicaId(99));
    joint.nodes.insert(ReplicaId(99), NodeId(9));
    let payloads = [
        Payload::Noop(Stamp(0)),
        Payload::Noop(Stamp(1_800_000_000_000)),
        Payload::Command(Stamp(17), Bytes::new()),
        Payload::Command(Stamp(u64::MAX), Bytes::from(vec![0xa5; 1 << 20])),
        Payload::Membership(Box::new(joint)),
        Payload::Command(Stamp(18), Bytes::from_static(b"last")),
    ];
    let entries = payloads.into_iter().zip(1..).map(|(payload, index)| Entry {
        id: EntryId::new(1, index),
        payload,
    });
    let entries: Vec<Entry> = entries.collect();
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, entries.clone())]);
    run.await_durable();
    assert_eq!(run.fetch(GROUP, 1, 6, usize::MAX), entries);
    run.reopen();
    assert_eq!(run.group(GROUP).restored.entries, entries);
}

fn fetches_are_prefixes_within_their_bytes<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let entries = commands(1, 1..=10);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, entries.clone())]);
    run.await_durable();
    assert_eq!(run.fetch(GROUP, 4, 6, usize::MAX), entries[3..6]);
    assert_eq!(run.fetch(GROUP, 4, 6, 1), entries[3..4], "at least one entry");
    let two = entries[0].cost() * 2;
    let some = run.fetch(GROUP, 1, 10, two);
    assert!(!some.is_empty() && some[..] == entries[..some.len()], "a prefix");
    assert!(some.len() <= 2, "{} entries in the bytes of two", some.len());
}

fn a_checkpoint_moves_applied_and_allows_truncation<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let entries = commands(1, 1..=10);
    let mut first = write(GROUP, 1, entries.clone());
    first.commit = Index(8);
    run.submit(vec![birth(GROUP)], vec![first]);
    run.await_durable();
    run.checkpoint(GROUP, EntryId::new(1, 8));
    run.storage().truncate(GROUP, Index(5));
    run.submit(Vec::new(), vec![write(GROUP, 2, commands(1, 11..=11))]);
    run.await_durable();
    run.reopen();
    let restored = &run.group(GROUP).restored;
    assert_eq!((restored.applied, restored.checkpointed), (Index(8), Index(8)));
    assert!(restored.commit >= Index(8));
    assert!(restored.truncated.index <= Index(5), "only what may go is gone");
    let gone = usize::try_from(restored.truncated.index.0).expect("small");
    assert_eq!(restored.entries, commands(1, 1..=11)[gone..]);
    assert_eq!(run.group(GROUP).descriptor, Bytes::from_static(b"a later range"));
    let rest = run.fetch(GROUP, 6, 11, usize::MAX);
    assert_eq!(
        rest,
        commands(1, 6..=11),
        "what was kept can be fetched after a restart"
    );
}

fn a_group_may_begin_above_zero<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let mut born = birth(GROUP);
    born.base = EntryId::new(5, 10);
    run.submit(vec![born], vec![write(GROUP, 1, commands(5, 11..=12))]);
    run.await_durable();
    run.reopen();
    let restored = &run.group(GROUP).restored;
    assert_eq!(restored.truncated, EntryId::new(5, 10));
    assert_eq!((restored.applied, restored.checkpointed), (Index(10), Index(10)));
    assert_eq!(restored.entries, commands(5, 11..=12));
    assert!(restored.commit >= Index(10));
}

fn groups_do_not_mix<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let groups: Vec<GroupId> = (1..=50).map(GroupId).collect();
    run.submit(groups.iter().map(|group| birth(*group)).collect(), Vec::new());
    run.await_durable();
    for round in 1..=4 {
        let taking = groups.iter().filter(|group| group.0.is_multiple_of(round));
        let writes = taking.map(|group| write(*group, round, commands(group.0, round..=round)));
        // A group that sat a round out starts its next entry where its log ends: see `commands_of`.
        let writes = writes.map(|mut write| {
            write.entries = commands_of(write.group, round);
            write
        });
        run.submit(Vec::new(), writes.collect());
        run.await_durable();
    }
    run.reopen();
    assert_eq!(run.restored.len(), groups.len());
    for group in groups {
        let expected: Vec<Entry> = (1..=4)
            .filter(|round| group.0.is_multiple_of(*round))
            .flat_map(|round| commands_of(group, round))
            .collect();
        assert_eq!(run.group(group).restored.entries, expected, "{group}");
    }
}

fn an_install_replaces_the_log<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=9))]);
    run.await_durable();
    let install = run.install(EntryId::new(4, 6));
    let batch = LogBatch {
        installs: vec![install.clone()],
        writes: vec![write(GROUP, 2, commands(5, 7..=8))],
        ..LogBatch::default()
    };
    run.submit_batch(batch);
    assert!(run.await_installed(&install));
    run.await_durable();
    for _ in 0..2 {
        assert_eq!(run.fetch(GROUP, 7, 9, usize::MAX), commands(5, 7..=8));
        run.reopen();
        let found = run.group(GROUP);
        assert_eq!(found.restored.truncated, EntryId::new(4, 6));
        assert_eq!(
            (found.restored.applied, found.restored.checkpointed),
            (Index(6), Index(6))
        );
        assert_eq!(found.restored.hard_state, hard_state(5));
        assert_eq!(found.restored.membership, install.membership);
        assert_eq!(found.restored.entries, commands(5, 7..=8));
        assert_eq!(found.descriptor, install.descriptor);
    }
}

fn a_snapshot_at_or_below_commit_installs_nothing<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let mut first = write(GROUP, 1, commands(1, 1..=9));
    first.commit = Index(6);
    run.submit(vec![birth(GROUP)], vec![first]);
    run.await_durable();
    for index in [5, 6] {
        let install = run.install(EntryId::new(1, index));
        run.submit_batch(LogBatch {
            installs: vec![install.clone()],
            ..LogBatch::default()
        });
        assert!(!run.await_installed(&install));
        run.await_durable();
    }
    run.reopen();
    assert_eq!(run.group(GROUP).restored.entries, commands(1, 1..=9));
    assert_eq!(run.group(GROUP).restored.truncated, EntryId::ZERO);
}

fn a_tombstone_forbids_lower_replicas<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    for lowest in [75, 71] {
        run.bury(lowest);
    }
    for _ in 0..2 {
        assert!(!run.storage().may_bear(GROUP, ReplicaId(74)));
        assert!(run.storage().may_bear(GROUP, ReplicaId(75)));
        assert!(run.storage().may_bear(GroupId(8), ReplicaId(1)));
        run.submit(vec![birth(GROUP)], Vec::new());
        run.await_durable();
        run.reopen();
        assert_eq!(run.restored.len(), 0, "the birth was ignored");
    }
}

fn a_removed_replica_is_gone_and_a_higher_one_may_be_born<H: StorageHarness>(harness: &mut H) {
    let mut run = Run::open(harness);
    let mut first = write(GROUP, 1, commands(3, 1..=9));
    first.commit = Index(9);
    run.submit(vec![birth(GROUP)], vec![first]);
    run.await_durable();
    run.checkpoint(GROUP, EntryId::new(3, 8));
    run.bury(71);
    run.reopen();
    assert_eq!(run.restored.len(), 0);
    let born = Birth {
        replica: ReplicaId(71),
        ..birth(GROUP)
    };
    run.submit(vec![born], Vec::new());
    run.await_durable();
    for _ in 0..2 {
        run.reopen();
        let found = run.group(GROUP);
        assert_eq!(found.replica, ReplicaId(71));
        assert_eq!(found.restored.entries, Vec::new());
        assert_eq!(
            (found.restored.commit, found.restored.applied),
            (Index(0), Index(0))
        );
        assert_eq!(found.restored.hard_state, HardState::default());
    }
}

fn a_child_needs_its_parent_until_a_checkpoint_holds_it<H: StorageHarness>(harness: &mut H) {
    const CHILD: GroupId = GroupId(9);
    let mut run = Run::open(harness);
    run.submit(vec![birth(GROUP)], vec![write(GROUP, 1, commands(1, 1..=4))]);
    run.await_durable();
    assert!(run.storage().is_settled(GROUP));
    run.harness.split_state(GROUP, CHILD, b"k");
    let split = Split {
        parent: GROUP,
        at: Index(3),
        hard_state: hard_state(8),
    };
    let child = Birth {
        base: EntryId::new(5, 5),
        split: Some(split),
        ..birth(CHILD)
    };
    run.submit(vec![child], Vec::new());
    assert!(!run.storage().is_settled(GROUP), "from the birth on");
    run.await_durable();
    run.reopen();
    assert!(!run.storage().is_settled(GROUP), "a restart does not forget it");
    assert!(
        run.group(GROUP).restored.commit >= Index(3),
        "replayed past the split"
    );
    let found = run.group(CHILD);
    assert_eq!(found.after, Some(GROUP));
    assert_eq!(found.restored.hard_state, hard_state(8), "a vote is kept");
    assert_eq!(found.restored.truncated, EntryId::new(5, 5));
    run.harness.split_state(GROUP, CHILD, b"k"); // the replay
    run.checkpoint_all(&[(GROUP, EntryId::new(1, 3)), (CHILD, EntryId::new(5, 5))]);
    assert!(run.storage().is_settled(GROUP));
    run.bury(71);
    run.reopen();
    assert_eq!(run.restored.len(), 1);
    assert_eq!(run.group(CHILD).after, None);
}

/// The entry that a group writes in a round, if it takes part in rounds that divide its id.
fn commands_of(group: GroupId, round: u64) -> Vec<Entry> {
    let index = (1..=round).filter(|round| group.0.is_multiple_of(*round)).count() as u64;
    commands(group.0, index..=index)
}

/// One opened store at a time.
struct Run<'a, H: StorageHarness> {
    harness: &'a mut H,
    storage: Option<H::Storage>,
    restored: Vec<RestoredGroup>,
    batches: u64,
    /// Frames that came with the batches, to be compared with what was submitted.
    frames: u64,
}

impl<'a, H: StorageHarness> Run<'a, H> {
    fn open(harness: &'a mut H) -> Run<'a, H> {
        let (storage, restored) = harness.open();
        Run {
            harness,
            storage: Some(storage),
            restored,
            batches: 0,
            frames: 0,
        }
    }

    fn reopen(&mut self) {
        self.harness.crash(self.storage.take().expect("open"));
        let (storage, restored) = self.harness.open();
        self.storage = Some(storage);
        self.restored = restored;
    }

    fn storage(&mut self) -> &mut H::Storage {
        self.storage.as_mut().expect("open")
    }

    fn group(&self, group: GroupId) -> &RestoredGroup {
        let mut found = self.restored.iter().filter(|restored| restored.group == group);
        let only = found.next().expect("the group was born");
        assert!(found.next().is_none(), "{group} restored twice");
        only
    }

    fn submit(&mut self, births: Vec<Birth>, writes: Vec<GroupWrite>) {
        self.batches += 1;
        let batch = LogBatch {
            id: BatchId(self.batches),
            writes,
            births,
            then_send: vec![frame(self.batches)],
            ..LogBatch::default()
        };
        self.storage().submit(batch);
    }

    fn submit_batch(&mut self, batch: LogBatch) {
        self.batches += 1;
        self.storage.as_mut().expect("open").submit(LogBatch {
            id: BatchId(self.batches),
            then_send: vec![frame(self.batches)],
            ..batch
        });
    }

    /// A staged snapshot, ready for a batch.
    fn install(&mut self, snapshot: EntryId) -> Install {
        Install {
            group: GROUP,
            replica: ReplicaId(70),
            life: Life(5),
            staging: self.harness.stage(),
            snapshot,
            membership: membership(GroupId(17)),
            hard_state: hard_state(snapshot.term.0),
            descriptor: Bytes::from_static(b"installed"),
        }
    }

    fn await_installed(&mut self, install: &Install) -> bool {
        match self.harness.completion() {
            Completion::Installed {
                group,
                life,
                staging,
                is_installed,
            } => {
                assert_eq!(
                    (group, life, staging),
                    (GROUP, Life(5), install.staging),
                    "as asked"
                );
                is_installed
            }
            other => panic!("expected an install, got {other:?}"),
        }
    }

    /// Removes the group's replicas below `lowest`.
    fn bury(&mut self, lowest: u64) {
        self.submit_batch(LogBatch {
            tombstones: vec![Tombstone {
                group: GROUP,
                lowest: ReplicaId(lowest),
            }],
            ..LogBatch::default()
        });
        self.await_durable();
    }

    fn await_durable(&mut self) -> (BatchId, Vec<(GroupId, Life, WriteId)>) {
        match self.harness.completion() {
            Completion::Durable {
                batch,
                writes,
                then_send,
            } => {
                self.frames += 1;
                assert_eq!(
                    batch,
                    BatchId(self.frames),
                    "in submit order, none lost, none twice"
                );
                assert_eq!(then_send, [frame(batch.0)], "untouched");
                (batch, writes)
            }
            other => panic!("expected a durable batch, got {other:?}"),
        }
    }

    fn fetch(&mut self, group: GroupId, first: u64, last: u64, bytes_max: usize) -> Vec<Entry> {
        let request = FetchRequest {
            group,
            life: Life(5),
            peer: ReplicaId(71),
            range: Index(first)..=Index(last),
            bytes_max,
        };
        self.storage().fetch(request);
        match self.harness.completion() {
            Completion::Fetched {
                group: of,
                life,
                peer,
                entries,
            } => {
                assert_eq!((of, life, peer), (group, Life(5), ReplicaId(71)), "as asked");
                entries
            }
            other => panic!("expected entries, got {other:?}"),
        }
    }

    fn checkpoint(&mut self, group: GroupId, applied: EntryId) {
        self.checkpoint_all(&[(group, applied)]);
    }

    fn checkpoint_all(&mut self, groups: &[(GroupId, EntryId)]) {
        self.harness.want_checkpoint();
        let cut = self.storage().cut_wanted().expect("a checkpoint is wanted");
        self.harness.freeze_state(cut);
        let rows = groups.iter().map(|(group, applied)| GroupRow {
            group: *group,
            replica: ReplicaId(group.0 * 10),
            life: Life(5),
            applied: *applied,
            membership: membership(*group),
            descriptor: Bytes::from_static(b"a later range"),
        });
        self.storage().freeze(cut, rows.collect());
        assert_eq!(self.storage().cut_wanted(), None, "frozen once");
        let expected: Vec<_> = groups
            .iter()
            .map(|(group, at)| (*group, Life(5), at.index))
            .collect();
        match self.harness.completion() {
            Completion::Checkpointed { rows } => assert_eq!(rows, expected),
            other => panic!("expected a checkpoint, got {other:?}"),
        }
    }
}

fn membership(group: GroupId) -> Membership {
    Membership::of_voters((0..3).map(|n| (ReplicaId(group.0 * 10 + n), NodeId(n + 1))))
}

fn birth(group: GroupId) -> Birth {
    Birth {
        group,
        replica: ReplicaId(group.0 * 10),
        membership: membership(group),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::from_static(b"range"),
    }
}

fn hard_state(term: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: Some(ReplicaId(71)),
    }
}

/// A write of entries, with the hard state of their term.
fn write(group: GroupId, number: u64, entries: Vec<Entry>) -> GroupWrite {
    GroupWrite {
        group,
        replica: ReplicaId(group.0 * 10),
        life: Life(5),
        write: WriteId(number),
        hard_state: entries.last().map(|entry| hard_state(entry.id.term.0)),
        entries,
        commit: Index(0),
    }
}

fn commands(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let command = |index: u64| Entry {
        id: EntryId::new(term, index),
        payload: Payload::Command(
            Stamp(1000 + index),
            Bytes::from(format!("{index}@{term}").repeat(9)),
        ),
    };
    indexes.map(command).collect()
}

fn frame(number: u64) -> Outgoing {
    Outgoing {
        to: NodeId(2),
        lane: Lane::Control,
        frame: Frame {
            chunks: vec![Bytes::from(format!("frame {number}"))],
        },
    }
}
