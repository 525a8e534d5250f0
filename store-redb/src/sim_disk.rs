//! A disk in memory that forgets: un-synced writes are lost, kept or torn at a crash, by seed. For tests and the
//! simulator; deterministic.

use crate::disk::Disk;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

type Pages = BTreeMap<u64, Box<[u8; PAGE]>>;

/// Contents of a file: absent pages are zeros.
#[derive(Clone, Debug, Default)]
struct Contents {
    len: u64,
    pages: Pages,
}

/// Something that no sync covered yet.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Clear(Range<u64>),
}

#[derive(Debug, Default)]
struct Simulated {
    /// What reads see.
    current: Contents,
    /// What certainly survives.
    durable: Contents,
    /// What lies between them, in order.
    pending: Vec<Change>,
    /// Changing operations so far.
    operations: u64,
    /// The operation that fails, and with it all later ones.
    fail_at: Option<u64>,
}

/// A simulated disk.
#[derive(Debug, Default)]
pub struct SimDisk {
    inner: Mutex<Simulated>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Makes the changing operation number `operation` (counted from 0 over the disk's life) fail halfway, and
    /// everything after it fail too: the power is cut there.
    pub fn fail_at(&self, operation: u64) {
        self.lock().fail_at = Some(operation);
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// True once the power was cut.
    pub fn is_dead(&self) -> bool {
        self.lock().is_dead()
    }

    /// What the next start finds after a crash now: every un-synced change survives or not, torn or whole, by seed.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let inner = self.lock();
        let mut random = Random(seed | 1);
        let mut contents = inner.durable.clone();
        for change in &inner.pending {
            survive(&mut contents, change, &mut random);
        }
        SimDisk::holding(contents)
    }

    /// What the next start finds when the process died but the system lived: everything.
    pub fn kill(&self) -> SimDisk {
        SimDisk::holding(self.lock().current.clone())
    }

    /// Flips one bit, durably: the medium decays.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        let mut inner = self.lock();
        let Simulated { current, durable, .. } = &mut *inner;
        for contents in [current, durable] {
            let mut byte = [0];
            contents.read(offset, &mut byte);
            contents.write(offset, &[byte[0] ^ (1 << bit)]);
        }
    }

    fn holding(contents: Contents) -> SimDisk {
        SimDisk {
            inner: Mutex::new(Simulated {
                current: contents.clone(),
                durable: contents,
                ..Simulated::default()
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Simulated> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut inner = self.lock();
        let failed = inner.begin();
        if failed != Failed::Before {
            inner.current.apply(&change);
            inner.pending.push(change);
        }
        failed.result()
    }
}

impl Disk for SimDisk {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.lock().current.len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        if inner.is_dead() {
            return Err(power_cut());
        }
        if offset + out.len() as u64 > inner.current.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.current.read(offset, out);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let failed = inner.begin();
        if failed != Failed::Before {
            let change = Change::Write(offset, data.to_vec());
            inner.current.apply(&change);
            if failed == Failed::Not {
                inner.durable.apply(&change);
            } else {
                inner.pending.push(change);
            }
        }
        failed.result()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.change(Change::Clear(range))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let failed = inner.begin();
        if failed == Failed::Not {
            let Simulated { durable, pending, .. } = &mut *inner;
            pending.drain(..).for_each(|change| durable.apply(&change));
        }
        failed.result()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// The operation works.
    Not,
    /// The power is cut during it.
    During,
    /// The power was cut before it.
    Before,
}

impl Failed {
    fn result(self) -> io::Result<()> {
        match self {
            Failed::Not => Ok(()),
            Failed::During | Failed::Before => Err(power_cut()),
        }
    }
}

impl Simulated {
    fn begin(&mut self) -> Failed {
        let operation = self.operations;
        self.operations += 1;
        match self.fail_at {
            Some(at) if operation == at => Failed::During,
            Some(at) if operation > at => Failed::Before,
            _ => Failed::Not,
        }
    }

    fn is_dead(&self) -> bool {
        self.fail_at.is_some_and(|at| self.operations > at)
    }
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::SetLen(len) => self.set_len(*len),
            Change::Clear(range) => self.clear(range.start, range.end.min(self.len)),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        for_pages(offset, out.len(), |page, within, part| {
            match self.pages.get(&page) {
                Some(bytes) => out[part.clone()].copy_from_slice(&bytes[within..within + part.len()]),
                None => out[part].fill(0),
            };
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        for_pages(offset, data.len(), |page, within, part| {
            let data = &data[part];
            if data.iter().all(|byte| *byte == 0) && !self.pages.contains_key(&page) {
                return;
            }
            let bytes = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE]));
            bytes[within..within + data.len()].copy_from_slice(data);
        });
    }

    fn clear(&mut self, start: u64, end: u64) {
        let touched: Vec<u64> = self
            .pages
            .range(start / PAGE as u64..)
            .map(|(page, _)| *page)
            .collect();
        for page in touched {
            let first = page * PAGE as u64;
            let from = start.max(first);
            let to = end.min(first + PAGE as u64);
            if from < to {
                self.write(
                    from,
                    &vec![0; usize::try_from(to - from).expect("at most a page")],
                );
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, self.len);
        }
        self.len = len;
    }
}

/// Calls `each(page, offset within it, range of the buffer)` for every page a buffer touches.
fn for_pages(offset: u64, length: usize, mut each: impl FnMut(u64, usize, Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE as u64).expect("below a page");
        let part = (PAGE - within).min(length - done);
        each(at / PAGE as u64, within, done..done + part);
        done += part;
    }
}

/// Applies what a crash leaves of one un-synced change.
fn survive(contents: &mut Contents, change: &Change, random: &mut Random) {
    match (change, random.below(3)) {
        (_, 0) => {}
        (Change::Write(offset, data), 1) => {
            for (number, sector) in data.chunks(SECTOR).enumerate() {
                if random.below(2) == 0 {
                    contents.write(offset + (number * SECTOR) as u64, sector);
                }
            }
        }
        (change, _) => contents.apply(change),
    }
}

fn power_cut() -> io::Error {
    io::Error::other("the power was cut")
}

/// A small deterministic generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
