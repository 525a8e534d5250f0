//! Pages that redb wrote and that wait for its next sync. redb writes a transaction's pages in no order, and a sync
//! of all of them fills the device's queue, in which the log's next write then stands for a tenth of a second. So
//! they wait here and go to the disk in the order of their places, a little at a time. It knows nothing of the log.

use crate::disk::Disk;
use crate::limits::{BLOCK_BYTES, WAITING_BYTES_MAX, WINDOW_BYTES, WINDOW_RUNS};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

type Pages = BTreeMap<u64, Arc<[u8]>>;

/// The pages that wait. Written by redb's one writer; read by everybody.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pages: RwLock<Pages>,
    /// Of all pages; 0 most of the time, and then reads need no lock.
    bytes: AtomicU64,
}

impl Waiting {
    /// Takes a write: keeps whole pages, passes on everything else.
    pub(crate) fn write(&self, disk: &dyn Disk, offset: u64, data: &[u8]) -> io::Result<()> {
        let bytes = data.len() as u64;
        if bytes == 0 || !offset.is_multiple_of(BLOCK_BYTES) || !bytes.is_multiple_of(BLOCK_BYTES) {
            self.write_over(disk, offset, data)?;
            return disk.write_at(offset, data);
        }
        if self.bytes.load(Ordering::Acquire) + bytes > WAITING_BYTES_MAX {
            self.drain(disk)?;
        }
        if !self.is_alone(offset, bytes) {
            self.write_over(disk, offset, data)?;
        }
        let old = self.lock().insert(offset, data.into());
        let freed = old.map_or(0, |old| old.len() as u64);
        self.bytes.fetch_add(bytes - freed, Ordering::AcqRel);
        Ok(())
    }

    /// True when a page there is new, or replaces one of its own shape.
    fn is_alone(&self, offset: u64, bytes: u64) -> bool {
        let pages = self.pages();
        overlapping(&pages, offset..offset + bytes)
            .all(|(at, page)| *at == offset && page.len() as u64 == bytes)
    }

    /// What waits below a write of another shape goes to the disk first.
    fn write_over(&self, disk: &dyn Disk, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        let is_free = overlapping(&self.pages(), range).next().is_none();
        match is_free {
            true => Ok(()),
            false => self.drain(disk),
        }
    }

    /// Fills `out`, from here or from the disk.
    pub(crate) fn read(&self, disk: &dyn Disk, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return disk.read_at(offset, out);
        }
        let pages = self.pages();
        if let Some(page) = pages.get(&offset).filter(|page| page.len() >= out.len()) {
            out.copy_from_slice(&page[..out.len()]);
            return Ok(());
        }
        // The lock is kept: nothing that is read from the disk moves there meanwhile.
        disk.read_at(offset, out)?;
        for (at, page) in overlapping(&pages, offset..offset + out.len() as u64) {
            copy_overlap(offset, out, *at, page);
        }
        Ok(())
    }

    /// redb's part became shorter.
    pub(crate) fn cut(&self, bytes: u64) {
        let mut pages = self.lock();
        let gone = pages.split_off(&bytes);
        self.bytes.fetch_sub(total(&gone), Ordering::AcqRel);
    }

    /// Writes everything to the disk in the order of its places. Between two windows the disk writes out the first,
    /// so its queue never holds more than one of them. What was read here before is found on the disk afterwards.
    pub(crate) fn drain(&self, disk: &dyn Disk) -> io::Result<()> {
        let pages: Vec<(u64, Arc<[u8]>)> = self
            .pages()
            .iter()
            .map(|(at, page)| (*at, Arc::clone(page)))
            .collect();
        let mut window = Window::default();
        for (offset, page) in &pages {
            if window.is_full(*offset) {
                disk.write_out()?;
                window = Window::default();
            }
            disk.write_at(*offset, page)?;
            window.add(*offset, page.len() as u64);
        }
        // There is one writer, and it is here: nothing was added meanwhile.
        self.lock().clear();
        self.bytes.store(0, Ordering::Release);
        Ok(())
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was written since the disk last wrote out.
#[derive(Default)]
struct Window {
    runs: usize,
    bytes: u64,
    end: u64,
}

impl Window {
    /// True when a page at `offset` must wait for the next window.
    fn is_full(&self, offset: u64) -> bool {
        self.bytes >= WINDOW_BYTES || (self.runs >= WINDOW_RUNS && offset != self.end)
    }

    fn add(&mut self, offset: u64, bytes: u64) {
        self.runs += usize::from(self.runs == 0 || offset != self.end);
        self.bytes += bytes;
        self.end = offset + bytes;
    }
}

fn total(pages: &Pages) -> u64 {
    pages.values().map(|page| page.len() as u64).sum()
}

/// Pages that share bytes with a range; pages never share bytes with one another.
fn overlapping(pages: &Pages, range: Range<u64>) -> impl Iterator<Item = (&u64, &Arc<[u8]>)> {
    let before = pages.range(..range.start).next_back();
    let before = before.filter(|(at, page)| **at + page.len() as u64 > range.start);
    before.into_iter().chain(pages.range(range))
}

fn copy_overlap(offset: u64, out: &mut [u8], at: u64, page: &[u8]) {
    let start = offset.max(at);
    let end = (offset + out.len() as u64).min(at + page.len() as u64);
    let place = |from: u64| (start - from) as usize..(end - from) as usize;
    out[place(offset)].copy_from_slice(&page[place(at)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimDisk;
    use std::sync::Mutex;

    /// Notes the order of writes, and where the disk wrote out.
    #[derive(Debug, Default)]
    struct Noting {
        disk: SimDisk,
        notes: Mutex<Vec<Option<u64>>>,
    }

    impl Disk for Noting {
        fn bytes(&self) -> io::Result<u64> {
            self.disk.bytes()
        }
        fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.disk.read_at(offset, out)
        }
        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.notes.lock().unwrap().push(Some(offset / BLOCK_BYTES));
            self.disk.write_at(offset, data)
        }
        fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.disk.write_durable(offset, data)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.disk.set_len(len)
        }
        fn clear(&self, range: Range<u64>) -> io::Result<()> {
            self.disk.clear(range)
        }
        fn sync(&self) -> io::Result<()> {
            self.disk.sync()
        }
        fn write_out(&self) -> io::Result<()> {
            self.notes.lock().unwrap().push(None);
            Ok(())
        }
    }

    const PAGE: u64 = BLOCK_BYTES;

    fn page(byte: u8, count: usize) -> Vec<u8> {
        vec![byte; count * PAGE as usize]
    }

    fn read(waiting: &Waiting, disk: &Noting, offset: u64, bytes: u64) -> Vec<u8> {
        let mut out = vec![0; bytes as usize];
        waiting.read(disk, offset, &mut out).unwrap();
        out
    }

    #[test]
    fn pages_go_to_the_disk_in_order_and_in_windows() {
        let (waiting, disk) = (Waiting::default(), Noting::default());
        disk.set_len(1 << 30).unwrap();
        let places: Vec<u64> = (0..2 * WINDOW_RUNS as u64 + 1).map(|at| 2 * at).collect();
        for at in places.iter().rev() {
            waiting.write(&disk, at * PAGE, &page(1, 1)).unwrap();
        }
        assert!(disk.notes.lock().unwrap().is_empty(), "they wait");
        waiting.drain(&disk).unwrap();
        let notes = disk.notes.lock().unwrap().clone();
        let written: Vec<u64> = notes.iter().flatten().copied().collect();
        assert_eq!(written, places);
        let windows: Vec<usize> = notes.split(Option::is_none).map(<[_]>::len).collect();
        assert_eq!(windows, [WINDOW_RUNS, WINDOW_RUNS, 1]);
        assert_eq!(waiting.bytes.load(Ordering::Acquire), 0);
    }

    #[test]
    fn neighbours_are_one_run() {
        let (waiting, disk) = (Waiting::default(), Noting::default());
        disk.set_len(1 << 30).unwrap();
        let count = WINDOW_BYTES / PAGE + 1;
        (0..count).for_each(|at| waiting.write(&disk, at * PAGE, &page(1, 1)).unwrap());
        waiting.drain(&disk).unwrap();
        let notes = disk.notes.lock().unwrap().clone();
        let windows: Vec<usize> = notes.split(Option::is_none).map(<[_]>::len).collect();
        assert_eq!(windows, [count as usize - 1, 1]);
    }

    #[test]
    fn what_waits_is_read_before_and_after_it_is_written() {
        let (waiting, disk) = (Waiting::default(), Noting::default());
        disk.set_len(1 << 30).unwrap();
        waiting.write(&disk, 8 * PAGE, &page(8, 2)).unwrap();
        waiting.write(&disk, 4 * PAGE, &page(4, 1)).unwrap();
        waiting.write(&disk, 4 * PAGE, &page(5, 1)).unwrap();
        for _ in 0..2 {
            assert_eq!(read(&waiting, &disk, 8 * PAGE, 2 * PAGE), page(8, 2));
            assert_eq!(read(&waiting, &disk, 8 * PAGE, 100), page(8, 2)[..100]);
            assert_eq!(
                read(&waiting, &disk, 9 * PAGE, PAGE),
                page(8, 1),
                "its second half"
            );
            let around = [page(0, 3), page(5, 1), page(0, 3), page(8, 2), page(0, 1)].concat();
            assert_eq!(
                read(&waiting, &disk, PAGE, 10 * PAGE),
                around[..10 * PAGE as usize]
            );
            waiting.drain(&disk).unwrap();
        }
    }

    #[test]
    fn a_write_of_another_shape_comes_after_what_waits_below_it() {
        let (waiting, disk) = (Waiting::default(), Noting::default());
        disk.set_len(1 << 30).unwrap();
        waiting.write(&disk, 8 * PAGE, &page(8, 4)).unwrap();
        waiting.write(&disk, 9 * PAGE, &page(9, 1)).unwrap();
        waiting.write(&disk, 10 * PAGE + 100, &[7; 8]).unwrap();
        let mut wanted = [page(8, 1), page(9, 1), page(8, 2)].concat();
        let small = 2 * PAGE as usize + 100;
        wanted[small..small + 8].fill(7);
        for _ in 0..2 {
            assert_eq!(read(&waiting, &disk, 8 * PAGE, 4 * PAGE), wanted);
            waiting.drain(&disk).unwrap();
        }
    }

    #[test]
    fn what_lies_behind_a_new_end_is_gone() {
        let (waiting, disk) = (Waiting::default(), Noting::default());
        disk.set_len(1 << 30).unwrap();
        (0..4).for_each(|at| waiting.write(&disk, at * PAGE, &page(1, 1)).unwrap());
        waiting.cut(2 * PAGE);
        assert_eq!(waiting.bytes.load(Ordering::Acquire), 2 * PAGE);
        waiting.drain(&disk).unwrap();
        assert_eq!(*disk.notes.lock().unwrap(), [Some(0), Some(1)]);
    }
}
