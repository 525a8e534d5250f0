//! Births, splits, installs, removals, and what becomes of slots: each rule has a test here that fails without it.

use super::node::{Node, Seen, append, birth_of, kill, put, replica, rows, split};
use super::world::{IDENTITY, Sink, options, run};
use crate::committer::Committed;
use crate::limits::{DELETED_ROWS_MAX, SNAPSHOTS_MAX, STAGED_BYTES_MAX};
use crate::{Disk, NoSnapshot, SimDisk, Store};
use bytes::Bytes;
use multiraft::{
    Birth, Completion, EntryId, GroupId, HardState, Index, Install, Life, LogBatch, Membership, RaftStorage,
    ReplicaId, Restored, Term,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PARENT: GroupId = GroupId(2);
const CHILD: GroupId = GroupId(4);

fn new_disk() -> Arc<SimDisk> {
    Arc::new(SimDisk::new())
}

/// A group with a few keys, all of it in a checkpoint.
fn founded(disk: &Arc<SimDisk>) -> Node {
    let mut node = Node::open(disk);
    node.found(PARENT, replica(PARENT));
    node.write(PARENT, 1, &[put("a", "1"), put("m", "2"), put("z", "3")], 0);
    node.commit();
    node.checkpoint();
    node
}

const FOUNDED: &[(&str, &str)] = &[("a", "1"), ("m", "2"), ("z", "3")];

// Installs.

#[test]
fn an_install_replaces_state_and_log() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("b", "4"), put("c", "5")], 2); // never committed: another leader's log wins
    node.commit();
    let staging = node.stage(&[("m", "20"), ("n", "21")]);
    node.install(PARENT, staging, EntryId::new(7, 9));
    node.commit();
    assert_eq!(node.is_installed, Some(true));
    assert_eq!(node.group(PARENT), rows(&[("m", "20"), ("n", "21")]));
    node.write(PARENT, 7, &[put("o", "22")], 0);
    node.commit();
    let node = Node::open(&kill(node, &disk));
    let found = &node.restored[0].restored;
    assert_eq!((found.truncated, found.applied), (EntryId::new(7, 9), Index(9)));
    assert_eq!(node.restored[0].descriptor, Bytes::from_static(b"installed"));
    assert_eq!(node.group(PARENT), rows(&[("m", "20"), ("n", "21"), ("o", "22")]));
}

/// The ring's tail is one checkpoint behind: what the log held before the install is still there, and is replayed.
#[test]
fn a_replayed_ring_does_not_bring_back_the_log_before_an_install() {
    let disk = new_disk();
    let mut node = founded(&disk);
    let many: Vec<Bytes> = (0..9).map(|number| put("stale", &number.to_string())).collect();
    node.write(PARENT, 1, &many, 9);
    node.submit(); // the same record as the install and what follows it
    let staging = node.stage(&[("m", "20")]);
    node.install(PARENT, staging, EntryId::new(7, 6));
    node.commit();
    node.checkpoint();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert_eq!(
        node.groups[&PARENT].last,
        EntryId::new(7, 6),
        "nothing of the old log"
    );
    node.write(PARENT, 7, &[append("m", "x")], 0);
    node.commit();
    node.checkpoint();
    let node = Node::open(&kill(node, &disk));
    assert_eq!(node.group(PARENT), rows(&[("m", "20x")]));
}

#[test]
fn an_install_is_all_or_nothing_at_every_power_cut() {
    let script = |disk: &Arc<SimDisk>| {
        let mut node = founded(disk);
        let begun = disk.operations();
        let staging = node.stage(&[("m", "20"), ("n", "21")]);
        node.install(PARENT, staging, EntryId::new(7, 9));
        node.commit();
        (begun, node)
    };
    let calm = new_disk();
    let (begun, node) = script(&calm);
    let end = calm.operations();
    drop(node);
    assert!(end > begun + 5, "staging writes");
    for operation in begun..=end {
        let disk = new_disk();
        disk.fail_at(operation);
        let acknowledged = run(|| drop(script(&disk))).is_ok();
        let node = Node::open(&Arc::new(disk.crash(operation)));
        let old = node.group(PARENT) == rows(FOUNDED) && node.groups[&PARENT].applied.index == Index(3);
        let new = node.group(PARENT) == rows(&[("m", "20"), ("n", "21")])
            && node.groups[&PARENT].applied == EntryId::new(7, 9);
        assert!(
            new || (old && !acknowledged),
            "after {operation}: {:?}",
            node.group(PARENT)
        );
    }
}

#[test]
fn a_snapshot_at_or_below_commit_installs_nothing() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("b", "4")], 0);
    node.commit();
    for index in [3, 4] {
        let staging = node.stage(&[("old", "0")]);
        node.install(PARENT, staging, EntryId::new(1, index));
        node.commit();
        assert_eq!(node.is_installed, Some(false));
    }
    let all = rows(&[("a", "1"), ("b", "4"), ("m", "2"), ("z", "3")]);
    assert_eq!(node.group(PARENT), all);
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert_eq!(node.group(PARENT), all);
    node.checkpoint();
    node.checkpoint();
    node.tidy();
    assert_eq!(rows_in_redb(&node), 4, "what was staged is gone");
}

/// The checkpoint runs while the install becomes durable: what was frozen before it belongs to a dead slot and a log
/// that is gone.
#[test]
fn what_was_frozen_before_an_install_does_not_come_back() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("b", "4")], 0);
    node.commit();
    let staging = node.stage(&[("m", "20")]);
    node.freeze();
    node.write(PARENT, 1, &[put("c", "5")], 0); // applied, and not frozen
    node.commit();
    node.install(PARENT, staging, EntryId::new(7, 9));
    node.commit();
    assert!(node.store.checkpoint_once());
    assert_eq!(node.group(PARENT), rows(&[("m", "20")]));
    node.tidy();
    node.checkpoint();
    node.tidy();
    assert_eq!(rows_in_redb(&node), 1);
    let node = Node::open(&kill(node, &disk));
    assert_eq!(node.group(PARENT), rows(&[("m", "20")]));
}

#[test]
fn what_waits_to_be_staged_is_bounded() {
    let node = founded(&new_disk());
    let mut staging = node.store.stage().unwrap();
    let piece = || vec![(Bytes::from_static(b"k"), Bytes::from(vec![1; 1 << 20]))];
    let taken = (0..100).take_while(|_| staging.offer(piece()).is_ok()).count();
    assert_eq!(taken, STAGED_BYTES_MAX >> 20);
    assert!(node.store.tidy_once());
    assert!(staging.is_durable() && staging.offer(piece()).is_ok());
}

#[test]
fn an_abandoned_staging_is_deleted_at_once_and_after_a_restart() {
    let disk = new_disk();
    let mut node = founded(&disk);
    let offer = |node: &Node| {
        let mut staging = node.store.stage().unwrap();
        staging
            .offer(vec![(Bytes::from_static(b"k"), Bytes::from(vec![1; 9000]))])
            .unwrap();
        assert!(node.store.tidy_once() && staging.is_durable());
        staging
    };
    drop(offer(&node));
    node.tidy();
    assert_eq!(
        rows_in_redb(&node),
        3,
        "the rest of the process run must not keep it"
    );
    let staging = offer(&node);
    let disk = kill(node, &disk); // the process dies before it could say so
    std::mem::forget(staging);
    let mut node = Node::open(&disk);
    assert_eq!(rows_in_redb(&node), 4);
    node.tidy();
    assert_eq!((rows_in_redb(&node), chunks_in_redb(&node)), (3, 0));
    assert_eq!(node.group(PARENT), rows(FOUNDED));
}

// Tombstones.

#[test]
fn a_tombstone_forbids_lower_replicas_for_good() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.bury(PARENT, 25);
    node.commit();
    node.bury(PARENT, 22); // only moves forward
    node.commit();
    let mut disk = kill(node, &disk);
    for round in 0..4 {
        let mut node = Node::open(&disk);
        assert!(node.restored.is_empty(), "round {round}");
        assert!(!node.storage.may_bear(PARENT, ReplicaId(24)));
        assert!(node.storage.may_bear(PARENT, ReplicaId(25)));
        node.found(PARENT, ReplicaId(24));
        node.commit();
        assert!(crate::engine::lock(&node.store.engine().index).groups.is_empty());
        node.groups.clear();
        // The second one lets the ring forget the tombstone's record.
        (0..round).for_each(|_| node.checkpoint());
        disk = kill(node, &disk);
    }
    let mut node = Node::open(&disk);
    node.found(PARENT, ReplicaId(25));
    node.commit();
    assert!(node.group(PARENT).is_empty(), "a new life begins empty");
    let node = Node::open(&kill(node, &disk));
    assert_eq!(node.groups[&PARENT].replica, ReplicaId(25));
    assert!(node.group(PARENT).is_empty());
}

#[test]
fn a_removed_group_leaves_neither_log_nor_data() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("b", "4")], 1);
    node.commit();
    (0..3).for_each(|_| node.checkpoint()); // the log is in the cold table now
    node.bury(PARENT, 21);
    node.commit();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert!(node.restored.is_empty());
    node.checkpoint();
    node.tidy();
    assert_eq!((rows_in_redb(&node), cold_in_redb(&node)), (0, 0));
    assert!(Node::open(&kill(node, &disk)).restored.is_empty());
}

/// A checkpoint is being written when the tombstone becomes durable.
#[test]
fn a_checkpoint_does_not_bring_a_removed_group_back() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("b", "4")], 0);
    node.commit();
    node.freeze();
    node.bury(PARENT, 21);
    node.commit();
    assert!(node.store.checkpoint_once());
    node.checkpoint();
    node.tidy();
    assert_eq!(rows_in_redb(&node), 0);
    assert!(Node::open(&kill(node, &disk)).restored.is_empty());
}

// Births.

/// A parent that was split, and whose log does not know yet that this is committed; the child is not born durably.
fn split_in_memory(disk: &Arc<SimDisk>) -> Node {
    let mut node = founded(disk);
    node.write(PARENT, 1, &[put("n", "4"), split(CHILD, "m")], 2);
    node.commit();
    node.apply(PARENT, 5);
    node
}

const LEFT: &[(&str, &str)] = &[("a", "1")];
const RIGHT: &[(&str, &str)] = &[("m", "2"), ("n", "4"), ("z", "3")];

fn assert_split(node: &Node) {
    assert_eq!(node.group(PARENT), rows(LEFT));
    assert_eq!(node.group(CHILD), rows(RIGHT));
}

#[test]
fn a_birth_carries_its_parent_past_the_split() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.commit();
    assert_split(&node);
    node.write(CHILD, 6, &[put("q", "5")], 0);
    node.commit();
    let disk = kill(node, &disk);
    let node = Node::open(&disk);
    let child = node.restored.iter().find(|group| group.group == CHILD).unwrap();
    assert_eq!(child.after, Some(PARENT));
    assert_eq!(node.groups[&PARENT].applied, EntryId::new(1, 5));
    assert_eq!(node.group(PARENT), rows(LEFT));
    assert_eq!(node.group(CHILD), rows(&[RIGHT, &[("q", "5")]].concat()));
}

/// The cut sees the split applied, but the record of the birth is not durable.
#[test]
fn a_checkpoint_never_holds_half_a_split() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.checkpoint();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert_split(&node);
    node.tidy();
    assert_split(&node);
}

#[test]
fn a_birth_is_history_once_the_child_has_a_row() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.freeze();
    node.commit(); // the birth
    assert!(node.store.checkpoint_once());
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert_split(&node);
    node.write(CHILD, 6, &[append("q", "5")], 0);
    node.commit();
    // Its row reflects the entry; the ring still holds the birth.
    node.checkpoint();
    let disk = kill(node, &disk);
    let node = Node::open(&disk);
    assert_eq!(node.groups[&CHILD].applied, EntryId::new(6, 6));
    assert_eq!(node.group(CHILD), rows(&[RIGHT, &[("q", "5")]].concat()));
}

/// The cut is from before the split; the record of the birth is there before the checkpoint is written.
#[test]
fn a_checkpoint_from_before_a_split_holds_no_row_of_the_child() {
    let disk = new_disk();
    let mut node = founded(&disk);
    node.write(PARENT, 1, &[put("n", "4"), split(CHILD, "m")], 2);
    node.commit();
    node.freeze();
    node.apply(PARENT, 5);
    node.commit(); // the birth
    assert!(node.store.checkpoint_once());
    assert!(
        !node.storage.is_settled(PARENT),
        "the child's keys are its parent's in redb"
    );
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    let child = node.restored.iter().find(|group| group.group == CHILD).unwrap();
    assert_eq!(child.after, Some(PARENT));
    assert_split(&node);
    (0..2).for_each(|_| node.checkpoint());
    assert!(node.storage.is_settled(PARENT));
    assert_split(&Node::open(&kill(node, &disk)));
}

/// Checkpoints between a restart and the replay of the parent keep the record of the birth.
#[test]
fn checkpoints_before_the_replay_of_a_split_lose_nothing() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.commit();
    let disk = kill(node, &disk);
    let opened = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options(1)).unwrap();
    opened.store.connect(vec![Arc::new(Sink::default())]);
    let (mut storage, mut state) = (opened.store.storage(0), opened.store.state(0));
    for _ in 0..3 {
        opened.store.want_checkpoint();
        let cut = storage.cut_wanted().unwrap();
        state.freeze(cut);
        storage.freeze(cut, Vec::new());
        assert!(opened.store.checkpoint_once());
    }
    assert!(!storage.is_settled(PARENT));
    drop((storage, state));
    assert_eq!(opened.store.close(), crate::Closed::WithLog);
    let node = Node::open(&Arc::new(disk.kill()));
    assert!(
        node.restored.iter().any(|group| group.group == CHILD),
        "born once"
    );
    assert_split(&node);
}

#[test]
fn a_removed_child_is_not_born_again_by_a_replay() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.commit();
    node.bury(CHILD, 41);
    node.commit();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert!(!node.groups.contains_key(&CHILD));
    assert_eq!(node.group(PARENT), rows(LEFT));
    node.checkpoint();
    node.checkpoint();
    node.tidy();
    assert_eq!(rows_in_redb(&node), 1, "the keys that the split took away");
}

#[test]
fn a_parent_is_neither_installed_nor_removed_before_its_child_has_a_row() {
    for removes in [true, false] {
        let disk = new_disk();
        let mut node = split_in_memory(&disk);
        node.commit();
        assert!(!node.storage.is_settled(PARENT));
        let disk = kill(node, &disk);
        let mut node = Node::open(&disk);
        assert!(!node.storage.is_settled(PARENT), "a restart does not forget it");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            replace_parent(&mut node, removes);
        }));
        if outcome.is_ok() {
            let node = Node::open(&kill(node, &disk));
            assert_eq!(node.group(CHILD), rows(RIGHT), "the child's keys");
            panic!("the parent was let go");
        }
    }
}

/// A checkpoint with a row of the child is being written while the record of its birth becomes durable: not settled.
#[test]
fn a_checkpoint_under_way_settles_nothing() {
    let inner = new_disk();
    drop(split_in_memory(&inner));
    let disk = Arc::new(Meddled::new(&inner));
    let mut node = Node::open_on(Arc::clone(&disk) as _).unwrap();
    node.apply(PARENT, 5);
    node.submit();
    node.freeze();
    let (engine, storage) = (Arc::clone(node.store.engine()), node.store.storage(0));
    let seen = Arc::new(Mutex::new(None));
    let sees = Arc::clone(&seen);
    disk.meddle(move || {
        let committed = engine.commit_once() == Committed::One;
        *sees.lock().unwrap() = Some((committed, storage.is_settled(PARENT)));
    });
    assert!(node.store.checkpoint_once());
    assert_eq!(*seen.lock().unwrap(), Some((true, false)), "durable, not settled");
    assert!(node.storage.is_settled(PARENT));
}

/// A worker freezes at the end of the very turn that submits a birth.
#[test]
fn a_cut_in_the_turn_of_a_birth_waits_for_nobody() {
    let disk = new_disk();
    let mut node = Node::open(&disk);
    node.found(PARENT, replica(PARENT));
    node.submit();
    node.checkpoint();
    node.commit();
    node.checkpoint();
    let node = Node::open(&kill(node, &disk));
    assert_eq!(node.groups[&PARENT].replica, replica(PARENT));
}

/// The child's replica had voted before this node applied the split.
#[test]
fn a_vote_from_before_the_birth_is_kept() {
    for (checkpoints, freezes) in [(0, false), (1, false), (2, true), (0, true)] {
        let disk = new_disk();
        let mut node = founded(&disk);
        node.bear(Birth {
            membership: Membership::default(),
            ..birth_of(CHILD, replica(CHILD))
        });
        node.write(CHILD, 9, &[], 0);
        node.commit();
        (0..checkpoints).for_each(|_| node.checkpoint());
        node.write(PARENT, 1, &[put("n", "4"), split(CHILD, "m")], 2);
        node.commit();
        node.apply(PARENT, 5);
        if freezes {
            node.checkpoint(); // with a row of the child, but not its birth
        }
        node.commit();
        let mut node = Node::open(&kill(node, &disk));
        assert_split(&node);
        let child = node.restored.iter().find(|group| group.group == CHILD).unwrap();
        assert_eq!(
            child.restored.hard_state.term,
            Term(9),
            "{checkpoints}, {freezes}"
        );
        assert_eq!(child.restored.truncated, EntryId::new(5, 5));
        node.checkpoint();
        node.tidy();
        assert_split(&node);
    }
}

/// The child's row is durable, then a vote from before the split becomes durable, and the birth does not.
#[test]
fn a_vote_that_is_late_does_not_take_a_child_back_before_its_first_term() {
    for checkpoints in [0, 1, 2] {
        let disk = new_disk();
        let mut node = founded(&disk);
        node.bear(Birth {
            membership: Membership::default(),
            ..birth_of(CHILD, replica(CHILD))
        });
        node.write(PARENT, 1, &[put("n", "4"), split(CHILD, "m")], 2);
        node.commit();
        node.write(CHILD, 2, &[], 0);
        node.submit();
        node.apply(PARENT, 5);
        node.checkpoint();
        node.settle(&[]); // the vote
        (0..checkpoints).for_each(|_| node.checkpoint());
        let node = Node::open(&kill(node, &disk));
        assert_split(&node);
        let child = node.restored.iter().find(|group| group.group == CHILD).unwrap();
        let Restored {
            hard_state,
            truncated,
            ..
        } = &child.restored;
        assert_eq!((hard_state.term, *truncated), (Term(5), EntryId::new(5, 5)));
    }
}

/// A group is removed while a checkpoint copies its log to the cold table.
#[test]
fn a_removal_during_a_checkpoint_leaves_no_cold_entries() {
    let inner = new_disk();
    let mut node = founded(&inner);
    node.write(PARENT, 1, &[put("b", "4")], 1);
    node.commit();
    node.checkpoint();
    drop(node);
    let disk = Arc::new(Meddled::new(&inner));
    let mut node = Node::open_on(Arc::clone(&disk) as _).unwrap();
    node.checkpoint();
    node.freeze();
    node.bury(PARENT, 21);
    node.submit();
    let engine = Arc::clone(node.store.engine());
    disk.meddle(move || assert_eq!(engine.commit_once(), Committed::One));
    assert!(node.store.checkpoint_once() && disk.has_meddled());
    assert!(node.store.stats().spilled > 0, "the checkpoint copies entries");
    node.checkpoint();
    let node = Node::open(&kill(node, &inner));
    assert!(node.restored.is_empty());
    assert_eq!(cold_in_redb(&node), 0);
}

/// A disk that lets something happen in the middle of a write of redb's part.
struct Meddled {
    disk: Arc<SimDisk>,
    deed: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meddled {
    fn new(disk: &Arc<SimDisk>) -> Meddled {
        Meddled {
            disk: Arc::clone(disk),
            deed: Mutex::new(None),
        }
    }

    fn meddle(&self, deed: impl FnOnce() + Send + 'static) {
        *self.deed.lock().unwrap() = Some(Box::new(deed));
    }

    fn has_meddled(&self) -> bool {
        self.deed.lock().unwrap().is_none()
    }
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddled")
    }
}

impl Disk for Meddled {
    fn bytes(&self) -> std::io::Result<u64> {
        self.disk.bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let deed = self.deed.lock().unwrap().take();
        if let Some(deed) = deed {
            deed();
        }
        self.disk.write_at(offset, data)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.disk.write_durable(offset, data)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.disk.set_len(len)
    }

    fn clear(&self, range: std::ops::Range<u64>) -> std::io::Result<()> {
        self.disk.clear(range)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.disk.sync()
    }
}

fn replace_parent(node: &mut Node, removes: bool) {
    if removes {
        node.bury(PARENT, 21);
    } else {
        let staging = node.stage(&[("a", "9")]);
        node.install(PARENT, staging, EntryId::new(7, 9));
    }
    node.commit();
}

#[test]
fn a_checkpoint_settles_a_parent() {
    for removes in [true, false] {
        let disk = new_disk();
        let mut node = split_in_memory(&disk);
        node.freeze(); // with a row of the child, but not its birth
        node.commit();
        assert!(!node.storage.is_settled(PARENT), "the checkpoint is not durable");
        assert!(node.store.checkpoint_once());
        assert!(node.storage.is_settled(PARENT));
        replace_parent(&mut node, removes);
        let disk = kill(node, &disk);
        let mut node = Node::open(&disk);
        node.checkpoint();
        node.tidy();
        assert_eq!(node.group(CHILD), rows(RIGHT), "in the slot that it shared");
        let expected = if removes { rows(&[]) } else { rows(&[("a", "9")]) };
        assert_eq!(node.group(PARENT), expected);
    }
}

#[test]
fn a_stop_right_after_a_split_keeps_the_log() {
    let disk = new_disk();
    let node = split_in_memory(&disk);
    let Node {
        store,
        storage,
        state,
        ..
    } = node;
    drop((storage, state));
    assert_eq!(store.close(), crate::Closed::WithLog);
    let mut node = Node::open(&Arc::new(disk.crash(1)));
    assert_eq!(
        node.group(PARENT),
        rows(FOUNDED),
        "the split's commit was never durable"
    );
    node.apply(PARENT, 5);
    node.commit();
    assert_split(&node);
}

// Slots.

#[test]
fn a_shared_slot_keeps_what_is_mapped() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.commit();
    node.checkpoint();
    node.bury(PARENT, 21);
    node.commit();
    node.checkpoint();
    node.tidy();
    assert_eq!(node.group(CHILD), rows(RIGHT));
    assert_eq!(rows_in_redb(&node), RIGHT.len(), "and nothing else");
    let node = Node::open(&kill(node, &disk));
    assert_eq!(node.group(CHILD), rows(RIGHT));
}

/// What is dead is not stored: a start finds it by looking at what redb holds and rows map.
#[test]
fn deletion_goes_on_after_a_restart_in_bounded_slices() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    node.commit();
    let count = 2 * DELETED_ROWS_MAX + 100;
    for first in (0..count).step_by(50) {
        let commands: Vec<Bytes> = (first..first + 50)
            .map(|key| put(&format!("b{key}"), "v"))
            .collect();
        node.write(PARENT, 1, &commands, 0);
        node.commit();
        if node.storage.cut_wanted().is_some() || first % 500 == 0 {
            node.checkpoint();
            node.truncate();
        }
    }
    node.checkpoint();
    node.bury(PARENT, 21);
    node.commit();
    node.checkpoint();
    assert!(node.store.tidy_once());
    let left = rows_in_redb(&node);
    assert!(
        left + DELETED_ROWS_MAX >= count && left > DELETED_ROWS_MAX,
        "one slice went: {left}"
    );
    let mut node = Node::open(&kill(node, &disk));
    assert_eq!(rows_in_redb(&node), left);
    assert!(node.tidy() >= 2);
    assert_eq!(rows_in_redb(&node), RIGHT.len());
    assert_eq!(node.group(CHILD), rows(RIGHT));
}

// Snapshots.

#[test]
fn a_snapshot_is_one_moment_whatever_happens_meanwhile() {
    let disk = new_disk();
    let mut node = split_in_memory(&disk);
    assert_eq!(node.store.snapshot(CHILD).unwrap_err(), NoSnapshot::NotYet);
    node.commit();
    node.checkpoint();
    let mut snapshot = node.store.snapshot(CHILD).unwrap();
    assert_eq!(snapshot.applied(), EntryId::new(5, 5));
    assert_eq!(*snapshot.membership(), super::node::members(CHILD));
    let mut found = snapshot.next_rows(1).unwrap();
    assert_eq!(found.len(), 1, "bounded, but at least one");
    node.write(CHILD, 6, &[put("m", "new"), put("zz", "new")], 0);
    node.commit();
    node.checkpoint();
    while let Some(more) = Some(snapshot.next_rows(3).unwrap()).filter(|more| !more.is_empty()) {
        found.extend(more);
    }
    let found: Vec<_> = found
        .into_iter()
        .map(|(key, value)| (key.to_vec(), value))
        .collect();
    assert_eq!(found, rows(RIGHT).into_iter().collect::<Vec<_>>());
}

#[test]
fn snapshots_are_bounded_in_number_and_time() {
    let disk = new_disk();
    let node = founded(&disk);
    let mut open: Vec<_> = (0..SNAPSHOTS_MAX)
        .map(|_| node.store.snapshot(PARENT).unwrap())
        .collect();
    assert_eq!(node.store.snapshot(PARENT).unwrap_err(), NoSnapshot::TooMany);
    open.pop();
    let mut snapshot = node.store.snapshot(PARENT).unwrap();
    assert!(snapshot.next_rows(1).is_ok());
    node.store.engine().abort_snapshots(Duration::ZERO);
    assert!(snapshot.next_rows(1).is_err(), "its pages are free");
}

/// The row in redb is older than an install in the log: nobody could go on from there.
#[test]
fn a_row_of_a_replaced_log_makes_no_snapshot() {
    let disk = new_disk();
    let mut node = founded(&disk);
    let staging = node.stage(&[("m", "20")]);
    node.install(PARENT, staging, EntryId::new(7, 9));
    node.commit();
    assert_eq!(node.store.snapshot(PARENT).unwrap_err(), NoSnapshot::NotYet);
    node.checkpoint();
    assert_eq!(node.store.snapshot(PARENT).unwrap().applied(), EntryId::new(7, 9));
}

// All of it, with the power cut anywhere.

/// One step of a long life; each ends acknowledged.
fn step(node: &mut Node, number: usize) -> bool {
    match number {
        0 => node.found(PARENT, replica(PARENT)),
        1 => node.write(PARENT, 1, &[put("a", "1"), put("m", "2"), put("z", "3")], 0),
        2 => node.write(PARENT, 1, &[put("n", "4"), split(CHILD, "m")], 1),
        // As if the others had committed it: only the birth says so to this node's log.
        3 => node.apply(PARENT, 5),
        4 => node.write(CHILD, 6, &[append("q", "5"), append("m", "6")], 0),
        5 => node.write(PARENT, 1, &[append("a", "7")], 0),
        6 => {
            let staging = node.stage(&[("m", "20"), ("r", "21")]);
            node.install(CHILD, staging, EntryId::new(7, 30));
        }
        7 => node.write(CHILD, 7, &[append("r", "22")], 0),
        8 => {
            if !node.storage.is_settled(PARENT) {
                node.checkpoint();
            }
            node.bury(PARENT, 21);
        }
        9 => node.found(PARENT, ReplicaId(21)),
        10 => node.write(PARENT, 9, &[put("c", "8")], 0),
        11 => node.bury(CHILD, 50),
        _ => return false,
    }
    node.commit();
    if number % 3 == 2 {
        node.checkpoint();
        node.truncate();
        node.store.tidy_once();
    }
    true
}

/// Runs the steps from one on; how many were acknowledged, and what is seen then.
fn live(disk: &Arc<SimDisk>, from: usize, log: &mut Vec<Seen>) {
    let Ok(mut node) = Node::try_open(disk) else {
        return;
    };
    log.truncate(from);
    for number in from.. {
        log.push(node.seen());
        if !step(&mut node, number) {
            return;
        }
    }
}

#[test]
fn a_power_cut_anywhere_in_a_long_life_loses_and_resurrects_nothing() {
    let calm = new_disk();
    let mut history = Vec::new();
    live(&calm, 0, &mut history);
    let operations = calm.operations();
    assert!(history.len() > 11 && operations > 100, "{operations} operations");
    for operation in 0..operations {
        let disk = new_disk();
        disk.fail_at(operation);
        let mut seen = Vec::new();
        let _ended = run(|| live(&disk, 0, &mut seen));
        let acknowledged = seen.len().saturating_sub(1);
        let disk = Arc::new(disk.crash(operation));
        let mut node = Node::open(&disk);
        let found = [acknowledged, acknowledged + 1];
        let at = found
            .into_iter()
            .find(|at| history.get(*at) == Some(&node.seen()));
        let Some(mut at) = at else {
            panic!(
                "after {operation}, {acknowledged} acknowledged: {:?}",
                node.seen()
            );
        };
        // Life goes on to the same end.
        while step(&mut node, at) {
            at += 1;
            assert_eq!(node.seen(), history[at], "step {at} after a cut at {operation}");
        }
        node.checkpoint();
        node.checkpoint();
        node.tidy();
        assert_eq!(
            rows_in_redb(&node),
            1,
            "after a cut at {operation} nothing is left behind"
        );
    }
}

#[test]
fn another_birth_of_a_living_replica_is_refused() {
    let mut node = founded(&new_disk());
    node.bear(birth_of(PARENT, replica(PARENT)));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.commit()));
    assert!(outcome.is_err());
}

fn rows_in_redb(node: &Node) -> usize {
    count(node, crate::tables::DATA)
}

fn chunks_in_redb(node: &Node) -> usize {
    count(node, crate::tables::CHUNKS)
}

fn cold_in_redb(node: &Node) -> usize {
    count(node, crate::tables::COLD)
}

fn count<K: redb::Key, V: redb::Value>(node: &Node, table: redb::TableDefinition<'_, K, V>) -> usize {
    use redb::ReadableTableMetadata;
    let transaction = node.store.engine().begin_read().unwrap();
    usize::try_from(transaction.open_table(table).unwrap().len().unwrap()).unwrap()
}

/// Real threads: more than may wait is offered, the checkpointer takes it piece by piece, an install makes it a group's.
#[test]
fn a_large_snapshot_streams_through_the_checkpointer() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Store::open(&directory.path().join("node"), IDENTITY, options(1)).unwrap();
    let sink = Arc::new(Sink::default());
    opened.store.start(vec![Arc::clone(&sink) as _]);
    let (store, mut storage, mut state) = (&opened.store, opened.store.storage(0), opened.store.state(0));
    let mut staging = store.stage().unwrap();
    let value = |number: u64| Bytes::from(vec![number as u8; 1 << 20]);
    for number in 0..12_u64 {
        let mut rows = vec![(Bytes::from(number.to_be_bytes().to_vec()), value(number))];
        while let Err(refused) = staging.offer(rows) {
            staging.wait_for_room();
            rows = refused;
        }
    }
    assert!(staging.wait_until_durable());
    let mut batch = LogBatch {
        births: vec![birth_of(PARENT, replica(PARENT))],
        ..LogBatch::default()
    };
    batch.installs.push(Install {
        group: PARENT,
        replica: replica(PARENT),
        life: Life(1),
        staging: staging.hand_over(),
        snapshot: EntryId::new(2, 7),
        membership: Membership::default(),
        hard_state: HardState::default(),
        descriptor: Bytes::new(),
    });
    storage.submit(batch);
    storage.write_here();
    let told = sink.wait(Duration::from_secs(30));
    assert!(
        matches!(
            told,
            Completion::Installed {
                is_installed: true,
                ..
            }
        ),
        "{told:?}"
    );
    state.install(PARENT);
    for number in 0..12_u64 {
        assert_eq!(state.get(PARENT, &number.to_be_bytes()), Some(value(number)));
    }
}
