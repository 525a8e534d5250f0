//! A disk that fills up: growth is refused while everything can still be written, deletes free space, nothing ends
//! that was asked first; and what ends because the disk filled up behind our back comes back as it was.

use super::lone::{GROUP, Lone};
use super::world::{IDENTITY, Random, options, run};
use crate::limits::RING_AT;
use crate::{Closed, Disk, DiskSpace, ExitReason, OpenError, Options, SimDisk, Store};
use bytes::Bytes;
use multiraft::{RaftStorage, Space};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A disk with so many bytes for the file; holes are free.
#[derive(Debug)]
struct Small {
    inner: SimDisk,
    capacity: AtomicU64,
    pages: Mutex<BTreeSet<u64>>,
    refused: AtomicU64,
}

impl Small {
    fn new(capacity: u64) -> Arc<Small> {
        Arc::new(Small {
            inner: SimDisk::new(),
            capacity: AtomicU64::new(capacity),
            pages: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    fn resize(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.pages.lock().unwrap().len() as u64 * PAGE
    }

    /// Takes pages, all or none.
    fn take(&self, range: Range<u64>) -> io::Result<()> {
        let mut pages = self.pages.lock().unwrap();
        let wanted = range.start / PAGE..range.end.div_ceil(PAGE);
        let new: Vec<u64> = wanted.filter(|page| !pages.contains(page)).collect();
        let capacity = self.capacity.load(Ordering::Relaxed);
        if !new.is_empty() && (pages.len() + new.len()) as u64 * PAGE > capacity {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::StorageFull.into());
        }
        pages.extend(new);
        Ok(())
    }

    fn give_back(&self, range: Range<u64>) {
        let mut pages = self.pages.lock().unwrap();
        let gone: Vec<u64> = pages
            .range(range.start.div_ceil(PAGE)..range.end / PAGE)
            .copied()
            .collect();
        gone.iter().for_each(|page| {
            pages.remove(page);
        });
    }

    /// Whether the page at this offset takes space.
    fn holds(&self, offset: u64) -> bool {
        self.pages.lock().unwrap().contains(&(offset / PAGE))
    }

    /// Writes that found no space.
    fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Disk for Small {
    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(offset..offset + data.len() as u64)?;
        self.inner.write_at(offset, data)
    }
    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(offset..offset + data.len() as u64)?;
        self.inner.write_durable(offset, data)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.give_back(len..u64::MAX);
        self.inner.set_len(len)
    }
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.give_back(range.clone());
        self.inner.clear(range)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn space(&self) -> io::Result<DiskSpace> {
        let used = self.used();
        let free = self.capacity.load(Ordering::Relaxed).saturating_sub(used);
        Ok(DiskSpace { free, used })
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.take(range)
    }
}

fn space_of(lone: &Lone) -> Space {
    lone.storage.room().space
}

/// Writes values of up to `most` bytes to random keys until growth is refused. Returns the keys.
fn fill_disk(lone: &mut Lone, random: &mut Random, most: u64) -> BTreeSet<u64> {
    let mut keys = BTreeSet::new();
    while space_of(lone) == Space::Ample {
        let key = random.below(100_000);
        lone.write(key, 1 + random.below(most) as usize);
        lone.try_checkpoint();
        keys.insert(key);
        assert!(keys.len() < 50_000, "{:?}", lone.store.stats());
    }
    keys
}

#[test]
fn growth_is_refused_in_time_and_deletes_make_room() {
    for seed in 0..3 {
        let disk = Small::new([4, 5, 8][seed as usize % 3] * MIB);
        let mut lone = Lone::open(disk.clone()).unwrap();
        let mut random = Random(seed);
        let most = [60, 1_500, 9_000][seed as usize % 3];
        let written = fill_disk(&mut lone, &mut random, most);
        assert!(
            written.len() > 50,
            "seed {seed}: only {} writes fitted",
            written.len()
        );
        assert_eq!(space_of(&lone), Space::Short, "seed {seed}");
        let mut deletes = 0;
        for key in written {
            assert_ne!(space_of(&lone), Space::Gone, "seed {seed}: deletes still work");
            lone.write(key, 0);
            deletes += 1;
            lone.try_checkpoint();
            if space_of(&lone) == Space::Ample {
                break;
            }
        }
        for _ in 0..3 {
            lone.checkpoint();
        }
        let stats = lone.store.stats();
        assert_eq!(
            space_of(&lone),
            Space::Ample,
            "seed {seed}: {deletes} deletes, {stats:?}"
        );
        assert_eq!(
            disk.refused(),
            0,
            "seed {seed}: a write found no space: {stats:?}"
        );
    }
}

/// Deletes are small, and each may change a page of its own, however large what was written before them is.
#[test]
fn a_checkpoint_of_deletes_fits_as_long_as_they_are_taken() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    let keys = fill_disk(&mut lone, &mut Random(1), 3_000);
    let is_taken = |space: Space| matches!(space, Space::Ample | Space::Short);
    let mut taken = 0;
    for key in &keys {
        if !is_taken(space_of(&lone)) {
            break;
        }
        lone.state.delete(GROUP, &key.to_be_bytes()); // in the memtable: no checkpoint comes in between
        taken += 1;
    }
    assert!(50 < taken && taken < keys.len(), "{taken} of {}", keys.len());
    lone.checkpoint();
    assert_eq!(disk.refused(), 0);
}

#[test]
fn a_checkpoint_that_may_not_fit_waits_and_nothing_is_lost() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    (0..60).for_each(|key| lone.write(key, 3_000));
    disk.resize(disk.used() + PAGE); // somebody else took the rest
    lone.store.look_at_space();
    lone.store.want_checkpoint();
    assert!(!lone.try_checkpoint(), "{:?}", lone.store.stats());
    assert_eq!(space_of(&lone), Space::Gone);
    lone.write(60, 0); // what was on its way is written: the ring has its space
    assert_eq!(disk.refused(), 0, "nothing was tried in vain");
    let lone = {
        drop(lone);
        Lone::open(disk.clone()).unwrap()
    };
    assert_eq!(space_of(&lone), Space::Gone, "as before");
    assert!((0..60).all(|key| lone.state.get(GROUP, &u64::to_be_bytes(key)).is_some()));
    let Lone {
        store,
        storage,
        state,
        ..
    } = lone;
    drop((storage, state));
    assert_eq!(store.close(), Closed::WithLog, "a clean stop keeps the log");
    disk.resize(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    assert_eq!(space_of(&lone), Space::Ample);
    lone.checkpoint();
    assert!((0..60).all(|key| lone.state.get(GROUP, &u64::to_be_bytes(key)).is_some()));
}

#[test]
fn the_reserve_lets_a_last_checkpoint_through() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    (0..20).for_each(|key| lone.write(key, 100));
    let reserve = RING_AT + options(1).ring_bytes;
    assert!(disk.holds(reserve), "there is plenty");
    // The least space with which the checkpoint still fits: without the reserve it would not.
    let mut capacity = 8 * MIB;
    while space_of(&lone) != Space::Gone {
        capacity -= PAGE;
        disk.resize(capacity);
        lone.store.look_at_space();
    }
    disk.resize(capacity + PAGE);
    lone.store.look_at_space();
    assert_eq!(space_of(&lone), Space::Low);
    lone.checkpoint();
    assert_eq!(disk.refused(), 0);
    assert!(!disk.holds(reserve), "it was given back");
}

#[test]
fn a_disk_that_fills_up_behind_our_back_ends_the_process_and_the_next_one_only_reads() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    (0..60).for_each(|key| lone.write(key, 3_000));
    lone.store.want_checkpoint();
    disk.resize(disk.used()); // after the store looked
    let ended = run(|| lone.try_checkpoint()).unwrap_err();
    assert_eq!(ended.reason, ExitReason::WriteFailed, "{}", ended.message);
    assert!(disk.refused() > 0);
    drop(lone);
    let mut lone = Lone::open(disk.clone()).unwrap();
    assert_eq!(space_of(&lone), Space::Gone);
    assert!((0..60).all(|key| lone.state.get(GROUP, &u64::to_be_bytes(key)).is_some()));
    disk.resize(8 * MIB);
    lone.store.look_at_space();
    assert_eq!(space_of(&lone), Space::Ample);
    lone.checkpoint();
}

#[test]
fn a_new_node_is_refused_when_its_ring_does_not_fit() {
    let disk = Small::new(MIB);
    let refused = Store::open_on(disk.clone(), IDENTITY, options(1)).unwrap_err();
    assert!(
        matches!(refused, OpenError::NoSpace { free: MIB, .. }),
        "{refused:?}"
    );
    assert_eq!((disk.used(), refused.code()), (0, 70));
}

#[test]
fn a_ring_that_may_not_grow_wraps_early() {
    let disk = Small::new(4 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    disk.resize(disk.used() + PAGE);
    lone.store.look_at_space();
    for term in 1..200 {
        lone.submit(None, Some(term), Vec::new());
        while lone.store.commit_once() {}
        if lone.store.stats().ring_used_bytes > 40 << 10 {
            disk.resize(4 * MIB); // for checkpoints only: the ring does not look
            lone.checkpoint();
            lone.checkpoint();
            disk.resize(disk.used() + PAGE);
            lone.store.look_at_space();
        }
    }
    lone.commit_all("votes go on in the segments that are there");
    assert_eq!(disk.refused(), 0);
}

/// A node whose disk is short of space, with these keys.
fn short() -> (Arc<Small>, Lone, BTreeSet<u64>) {
    let disk = Small::new(5 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    let keys = fill_disk(&mut lone, &mut Random(1), 1_500);
    assert_eq!(space_of(&lone), Space::Short);
    (disk, lone, keys)
}

#[test]
fn a_short_disk_takes_no_snapshot_and_wants_small_checkpoints() {
    let (disk, lone, _) = short();
    assert!(lone.store.stage().is_none(), "a snapshot would grow the state");
    let limit = options(1).memtable_bytes;
    assert_eq!(
        lone.store.engine().memtable_limit(),
        limit / crate::limits::SHORT_SHARE
    );
    disk.resize(64 * MIB);
    lone.store.look_at_space();
    assert_eq!(lone.store.engine().memtable_limit(), limit);
}

/// What a delete frees can be used only after two more checkpoints; they come by themselves, and then no more.
#[test]
fn deletes_on_a_short_disk_are_settled_in_time() {
    let (disk, mut lone, keys) = short();
    let hurried = |lone: &mut Lone| {
        let before = lone.store.stats().checkpoints;
        lone.store.engine().hurry_checkpoint();
        lone.try_checkpoint();
        assert_eq!(space_of(lone), Space::Short, "{:?}", lone.store.stats());
        lone.store.stats().checkpoints > before
    };
    (0..3).for_each(|_| lone.checkpoint());
    while space_of(&lone) == Space::Ample {
        disk.resize(disk.capacity.load(Ordering::Relaxed) - 16 * PAGE);
        lone.store.look_at_space();
    }
    let rounds = (0..9).take_while(|_| hurried(&mut lone)).count();
    assert!(rounds <= 2, "nothing is new");
    lone.write(*keys.first().unwrap(), 0);
    let rounds = (0..9).take_while(|_| hurried(&mut lone)).count();
    assert_eq!(rounds, 3, "with the news, and twice more");
}

#[test]
fn an_ample_disk_is_never_hurried_nor_counted() {
    let disk = Small::new(64 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    (0..5).for_each(|key| lone.write(key, 100));
    lone.store.engine().hurry_checkpoint();
    assert!(!lone.try_checkpoint());
    let reads = disk.inner.reads();
    lone.store.look_at_space();
    assert_eq!(disk.inner.reads(), reads, "redb's pages are counted only in need");
}

/// Counting reads all of redb's part: not again while nothing changed.
#[test]
fn pages_are_counted_again_only_after_a_checkpoint() {
    let (disk, lone, _) = short();
    lone.store.look_at_space();
    let reads = disk.inner.reads();
    (0..5).for_each(|_| lone.store.look_at_space());
    assert_eq!(disk.inner.reads(), reads);
}

#[test]
fn a_checkpoint_that_does_not_fit_ends_the_snapshots_that_are_read() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    (0..60).for_each(|key| lone.write(key, 3_000));
    (0..2).for_each(|_| lone.checkpoint());
    let mut snapshot = lone.store.snapshot(GROUP).unwrap();
    assert_eq!(snapshot.next_rows(1).unwrap().len(), 1);
    (0..60).for_each(|key| lone.write(key, 2_000));
    disk.resize(disk.used() + PAGE);
    lone.store.look_at_space();
    lone.store.want_checkpoint();
    assert!(!lone.try_checkpoint());
    assert!(snapshot.next_rows(1).is_err(), "it pinned pages");
}

#[test]
fn what_the_ring_must_still_be_filled_with_is_not_there_for_checkpoints() {
    let disk = Small::new(8 * MIB);
    let lone = Lone::open(disk.clone()).unwrap();
    let unfilled = options(1).ring_bytes - options(1).segment_bytes;
    assert!(
        !disk.holds(RING_AT + options(1).segment_bytes),
        "one segment is ready"
    );
    let needed = lone.store.engine().needed();
    disk.resize(disk.used() + needed + unfilled);
    lone.store.look_at_space();
    assert_eq!(space_of(&lone), Space::Ample);
    disk.resize(disk.used() + needed + unfilled - 16 * PAGE);
    lone.store.look_at_space();
    assert_ne!(space_of(&lone), Space::Ample);
}

#[test]
fn the_reserve_is_taken_in_plenty_and_given_back_by_the_next_start() {
    let reserve = RING_AT + options(1).ring_bytes;
    let disk = Small::new(8 * MIB);
    let lone = Lone::open(disk.clone()).unwrap();
    assert!(disk.holds(reserve));
    drop(lone);
    disk.resize(disk.used() + 64 * PAGE); // too little to take another one
    let lone = Lone::open(disk.clone()).unwrap();
    assert!(!disk.holds(reserve), "an earlier process's");
    disk.resize(8 * MIB);
    lone.store.look_at_space();
    assert!(disk.holds(reserve), "there is plenty again");
}

#[test]
fn what_is_in_memory_counts_before_the_next_look() {
    let disk = Small::new(8 * MIB);
    let mut lone = Lone::open(disk.clone()).unwrap();
    disk.resize(disk.used() + lone.store.engine().needed() + options(1).ring_bytes);
    lone.store.look_at_space();
    assert_eq!(space_of(&lone), Space::Ample);
    let mut key = 0;
    while space_of(&lone) == Space::Ample {
        lone.write(key, 1_000);
        key += 1;
        assert!(key < 300, "{:?}", lone.store.stats());
    }
}

#[test]
fn staged_rows_and_deletions_wait_for_space() {
    let disk = Small::new(16 * MIB);
    let lone = Lone::open(disk.clone()).unwrap();
    let mut staging = lone.store.stage().unwrap();
    let row = (Bytes::from_static(b"k"), Bytes::from(vec![1; 4096]));
    staging.offer(vec![row]).unwrap();
    // A checkpoint of what is in memory would fit, with what is staged at most it would not.
    disk.resize(disk.used() + lone.store.engine().needed() + options(1).ring_bytes);
    lone.store.look_at_space();
    assert!(!lone.store.tidy_once() && !staging.is_durable());
    disk.resize(64 * MIB);
    lone.store.look_at_space();
    assert!(lone.store.tidy_once() && staging.is_durable());
    assert_eq!(disk.refused(), 0);
}

#[test]
fn a_node_that_stopped_cleanly_needs_a_segment() {
    let disk = Small::new(8 * MIB);
    let Lone {
        store,
        storage,
        state,
        ..
    } = Lone::open(disk.clone()).unwrap();
    drop((storage, state));
    assert_eq!(store.close(), Closed::Plain);
    disk.resize(disk.used() + PAGE);
    let used = disk.used();
    let refused = Store::open_on(disk.clone(), IDENTITY, options(1)).unwrap_err();
    assert!(matches!(refused, OpenError::NoSpace { .. }), "{refused:?}");
    assert_eq!(refused.code(), 70);
    assert!(disk.used() <= used, "nothing was written");
    disk.resize(8 * MIB);
    Lone::open(disk.clone()).unwrap();
}

#[test]
fn changes_of_space_are_told_once_each() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tap = Arc::clone(&told);
    let options = Options {
        on_space: Some(Arc::new(move |space| tap.lock().unwrap().push(space))),
        ..options(1)
    };
    let disk = Small::new(8 * MIB);
    let opened = Store::open_on(disk.clone(), IDENTITY, options).unwrap();
    for capacity in [8 * MIB, disk.used() + PAGE, disk.used() + PAGE, 8 * MIB, 8 * MIB] {
        disk.resize(capacity);
        opened.store.look_at_space();
    }
    assert_eq!(*told.lock().unwrap(), [Space::Gone, Space::Ample]);
}
