//! A disk that fills up: growth is refused while everything can still be written, deletes free space, nothing ends
//! that was asked first; and what ends because the disk filled up behind our back comes back as it was.

use super::lone::{GROUP, Lone};
use super::world::{IDENTITY, Random, options, run};
use crate::limits::RING_AT;
use crate::{Closed, Disk, DiskSpace, ExitReason, OpenError, SimDisk, Store};
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
