//! Space on the disk: what is free against what the next checkpoints may need, at worst. Decides when the state must
//! not grow any more, when a checkpoint may be tried, when the ring may grow. Knows nothing of commands.
//!
//! A checkpoint writes copies of the pages that it changes, and the old ones are free only after it. So its need is
//! bounded by what it changes, and by all that redb's part holds. Growth is refused when a *second* checkpoint might
//! not fit after the one that what is in memory needs: that second one is for deletes, and a delete must be written
//! before it can free anything. While space is short, checkpoints start at a fraction of the memtables' limit, so that
//! the second one is small.
//!
//! Free space is asked for once a second and after every checkpoint; in between the memtables' growth counts against
//! it. Pages that are free inside redb's part count only once they were counted, which reads the whole part: that is
//! done only when the disk's own free space does not suffice, and seldom.

use crate::engine::{Engine, lock};
use crate::limits::{
    DELETED_ENTRY_BYTES, NEED_BYTES_FIXED, PAGE_BYTES, PAGES_PER_ENTRY_PERCENT, SHORT_SHARE,
    SPACE_COUNT_PATIENCE, STAGED_BYTES_MAX,
};
use crate::memory::{Frozen, Size};
use crate::tables::Broken;
use multiraft::Space;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Space as last looked at. All in bytes.
#[derive(Debug)]
pub(crate) struct Watch {
    /// What the disk says.
    free: AtomicU64,
    /// What a checkpoint can have: free, without what the ring still has to be filled with, and what redb can reuse.
    available: AtomicU64,
    /// What redb's part takes on the disk.
    written: AtomicU64,
    /// Of that, pages that hold nothing, as of the last count.
    reusable: AtomicU64,
    /// An entry of what was frozen last, on average: for the estimate of what is staged.
    entry_bytes: AtomicU64,
    /// The reserve is taken.
    is_reserved: AtomicBool,
    /// The checkpoint's thread has work that waits for space.
    pub(crate) is_blocked: AtomicBool,
    /// As last worked out; see `Engine::disk_space`.
    state: AtomicU8,
    counted: Mutex<Counted>,
    told: Mutex<Space>,
}

/// The last count of redb's pages.
#[derive(Debug, Default)]
struct Counted {
    /// When, and how long it took.
    at: Option<(Instant, Duration)>,
    /// Checkpoints before it.
    checkpoints: u64,
    /// Checkpoints without news since space became short: what one frees can be reused only after the next.
    settled: u64,
}

/// What a checkpoint may have to write.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// Keys written or removed, and their bytes in memory.
    entries: u64,
    bytes: u64,
    /// Bytes of the log that may go to the cold table.
    log_bytes: u64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            free: AtomicU64::new(u64::MAX),
            available: AtomicU64::new(u64::MAX),
            written: AtomicU64::new(0),
            reusable: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(2 * crate::limits::MEMTABLE_ENTRY_OVERHEAD),
            is_reserved: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            state: AtomicU8::new(0),
            counted: Mutex::default(),
            told: Mutex::default(),
        }
    }
}

impl Watch {
    fn get(&self, value: fn(&Watch) -> &AtomicU64) -> u64 {
        value(self).load(Ordering::Relaxed)
    }

    /// What the disk has free, as last looked at; `u64::MAX`: not known.
    pub(crate) fn free(&self) -> u64 {
        self.get(|watch| &watch.free)
    }

    /// Pages inside redb's part that hold nothing, as last counted.
    pub(crate) fn reusable(&self) -> u64 {
        self.get(|watch| &watch.reusable)
    }

    /// False: the disk says nothing about its space.
    fn is_known(&self) -> bool {
        self.free() != u64::MAX
    }
}

impl Engine {
    /// The file was opened: what an earlier process kept as its reserve is given back, and taken again if there is
    /// plenty.
    pub(crate) fn begin_watch(&self) -> io::Result<()> {
        let found = self.file.space()?;
        if found.free != u64::MAX {
            self.file.release_reserve(self.options.memtable_bytes)?;
        }
        self.look_at_space();
        Ok(())
    }

    /// Looks how much space there is. On the checkpoint's thread.
    pub(crate) fn look_at_space(&self) {
        // A disk that can not say it now said it before.
        let Ok(found) = self.file.space() else { return };
        self.space.free.store(found.free, Ordering::Relaxed);
        if !self.space.is_known() {
            return;
        }
        let (ready, unfilled) = {
            let ring = &lock(&self.ring).ring;
            (ring.ready(), ring.capacity() - ring.ready())
        };
        let log_part = ready + 2 * PAGE_BYTES + self.reserved();
        let written = found.used.saturating_sub(log_part).min(self.file.redb_bytes());
        self.space.written.store(written, Ordering::Relaxed);
        let free = found.free.saturating_sub(unfilled);
        if free >= self.needed() {
            self.space.reusable.store(0, Ordering::Relaxed);
        } else {
            self.count_pages(written);
        }
        let available = free.saturating_add(self.space.reusable());
        self.space.available.store(available, Ordering::Relaxed);
        self.keep_reserve();
        self.tell_space();
    }

    /// How much space there is, as far as is known now.
    pub(crate) fn disk_space(&self) -> Space {
        if !self.space.is_known() {
            return Space::Ample;
        }
        let available = self.space.get(|watch| &watch.available);
        let first = self.need(self.work());
        let (second, with_reserve) = (self.second(), available.saturating_add(self.reserved()));
        let now = if available >= first + second {
            Space::Ample
        } else if with_reserve >= first + second / 2 {
            Space::Short
        } else if with_reserve >= first {
            Space::Low
        } else {
            Space::Gone
        };
        self.space.state.store(now as u8, Ordering::Relaxed);
        now
    }

    fn is_space_ample(&self) -> bool {
        self.space.state.load(Ordering::Relaxed) == Space::Ample as u8
    }

    /// What must be available for the state to grow.
    pub(crate) fn needed(&self) -> u64 {
        self.need(self.work()) + self.second()
    }

    /// The memtables' bytes at which a checkpoint starts.
    pub(crate) fn memtable_limit(&self) -> u64 {
        match self.is_space_ample() {
            true => self.options.memtable_bytes,
            false => self.options.memtable_bytes / SHORT_SHARE,
        }
    }

    /// Whether the ring may get another segment.
    pub(crate) fn may_fill(&self) -> bool {
        self.space.free() >= self.options.segment_bytes + NEED_BYTES_FIXED
    }

    /// Whether the checkpoint of what is frozen fits. If it does not, snapshots that are read are ended, for the pages
    /// that they pin, and the reserve goes.
    pub(crate) fn may_checkpoint(&self, frozen: &[Arc<Frozen>]) -> bool {
        let tables = frozen.iter().map(|frozen| &frozen.table);
        let pairs = tables.clone().flat_map(|table| table.slots.values());
        let work = Work {
            entries: pairs.map(|pairs| pairs.len() as u64).sum(),
            bytes: tables.map(|table| table.size.bytes).sum(),
            ..self.work()
        };
        if let Some(average) = work.bytes.checked_div(work.entries) {
            self.space.entry_bytes.store(average.max(1), Ordering::Relaxed);
        }
        let has_chores = self.has_chores();
        self.fits_or_waits(if has_chores { self.with_chores(work) } else { work })
    }

    /// Whether staged rows and deletions fit, beside the checkpoint of what is in memory.
    pub(crate) fn may_tidy(&self) -> bool {
        self.fits_or_waits(self.with_chores(self.work()))
    }

    fn with_chores(&self, work: Work) -> Work {
        let rows = STAGED_BYTES_MAX as u64 / self.space.get(|watch| &watch.entry_bytes);
        Work {
            entries: work.entries + rows + self.options.slice_rows as u64,
            bytes: work.bytes + STAGED_BYTES_MAX as u64,
            ..work
        }
    }

    fn fits_or_waits(&self, work: Work) -> bool {
        let fits = self.fits(work);
        if !fits {
            self.space.is_blocked.store(true, Ordering::Relaxed);
        }
        fits
    }

    /// Whether a checkpoint of everything fits, after which the log is empty.
    pub(crate) fn may_close(&self) -> bool {
        self.look_at_space();
        let log_bytes = lock(&self.ring).ring.used();
        self.fits(Work {
            log_bytes,
            ..self.work()
        })
    }

    /// While space is short, whatever was deleted is written soon, and twice more so that its pages can be reused.
    pub(crate) fn hurry_checkpoint(&self) {
        if self.is_space_ample() {
            return;
        }
        let is_news = self.active_bytes() > 0;
        let mut counted = lock(&self.space.counted);
        counted.settled = if is_news { 0 } else { counted.settled + 1 };
        let is_due = counted.settled <= 2;
        drop(counted);
        if is_due {
            self.want_cut();
        }
    }

    fn fits(&self, work: Work) -> bool {
        let fits = || self.space.get(|watch| &watch.available) >= self.need(work);
        if !self.space.is_known() || fits() {
            return true;
        }
        self.abort_snapshots(Duration::ZERO);
        self.release_reserve();
        self.look_at_space();
        fits()
    }

    /// What is in memory now.
    fn work(&self) -> Work {
        let Size { entries, bytes } = self.memtable_size();
        let since_cut = self.log_bytes_since_cut.load(Ordering::Relaxed);
        Work {
            entries,
            bytes,
            log_bytes: lock(&self.ring).ring.used().saturating_sub(since_cut),
        }
    }

    /// Need of the checkpoint that must fit after the next one. It is for deletes, whatever was written before them: small
    /// entries, many of which change as many pages.
    fn second(&self) -> u64 {
        let bytes = self.options.memtable_bytes / SHORT_SHARE;
        self.need(Work {
            entries: bytes / DELETED_ENTRY_BYTES,
            bytes,
            log_bytes: 2 * bytes, // deletes take less in the log than in memory
        })
    }

    /// Bytes that a checkpoint may write to places that hold nothing, at most.
    fn need(&self, work: Work) -> u64 {
        let written = self.space.get(|watch| &watch.written);
        let changed = work.entries * PAGE_BYTES * PAGES_PER_ENTRY_PERCENT / 100;
        let added = 2 * (work.bytes + work.log_bytes);
        let allocator = written / PAGE_BYTES / 2;
        changed.min(written) + added + allocator + NEED_BYTES_FIXED
    }

    /// Counts what redb can reuse. Reads all of redb's part, so it is repeated only when something changed and the
    /// last count is long ago, compared with what it took.
    fn count_pages(&self, written: u64) {
        let checkpoints = self.counters.checkpoints.load(Ordering::Relaxed);
        let mut counted = lock(&self.space.counted);
        let is_tired = |(at, took): (Instant, Duration)| at.elapsed() < took * SPACE_COUNT_PATIENCE;
        if counted.at.is_some() && (counted.checkpoints == checkpoints || counted.at.is_some_and(is_tired)) {
            return;
        }
        let started = Instant::now();
        let held = self
            .held_bytes()
            .unwrap_or_else(|broken| self.broken("count free pages", broken));
        let reusable = written.saturating_sub(held);
        self.space.reusable.store(reusable, Ordering::Relaxed);
        counted.at = Some((started, started.elapsed()));
        counted.checkpoints = checkpoints;
    }

    fn held_bytes(&self) -> Result<u64, Broken> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Ok(u64::MAX);
        };
        let transaction = database.begin_write()?;
        let stats = transaction.stats()?;
        transaction.abort()?;
        Ok(stats.allocated_pages() * stats.page_size() as u64)
    }

    /// Bytes of the reserve, while it is taken.
    fn reserved(&self) -> u64 {
        match self.space.is_reserved.load(Ordering::Relaxed) {
            true => self.options.memtable_bytes,
            false => 0,
        }
    }

    /// Takes the reserve while there is plenty.
    fn keep_reserve(&self) {
        let reserve = self.options.memtable_bytes;
        let is_plenty = self.space.free() >= self.needed() + 2 * reserve;
        if is_plenty && self.reserved() == 0 && self.file.take_reserve(reserve).is_ok() {
            self.space.is_reserved.store(true, Ordering::Relaxed);
        }
    }

    fn release_reserve(&self) {
        if self.space.is_reserved.swap(false, Ordering::Relaxed)
            && let Err(error) = self.file.release_reserve(self.options.memtable_bytes)
        {
            self.write_failed("release the reserved space", &error);
        }
    }

    fn tell_space(&self) {
        let now = self.disk_space();
        let before = std::mem::replace(&mut *lock(&self.space.told), now);
        if let Some(tap) = self.options.on_space.as_ref().filter(|_| before != now) {
            tap(now);
        }
    }
}
