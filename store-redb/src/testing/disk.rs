//! A disk in memory that forgets: un-synced writes are lost, kept or torn at a crash, by seed; calls fail on demand.
//! For tests and simulators; deterministic. It knows nothing of the node file's layout.

use super::random::Random;
use crate::disk::Disk;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Contents of a file: absent pages are zeros. Copies share pages until one of them is written.
#[derive(Clone, Debug, Default)]
struct Contents {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

/// Something that no sync covered yet.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
    Clear(Range<u64>),
}

/// One call that changes the disk or makes changes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `write_at` of this range.
    Write(Range<u64>),
    /// `write_durable` of this range.
    WriteDurable(Range<u64>),
    /// `set_len`.
    SetLen(u64),
    /// `clear`.
    Clear(Range<u64>),
    /// `sync`.
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power is cut during it: everything afterwards fails too.
    PowerCut,
    /// An error, and nothing was done.
    Refused,
    /// An error after a part of it was done; syncs do nothing.
    Short,
    /// The disk is full, after a part of it was done; syncs do nothing.
    Full,
    /// What should have become durable never will, though reads still see it: as an operating system that drops the
    /// dirty mark of pages it could not write. Calls that do not sync: as `Refused`.
    SyncFailed,
}

impl Fault {
    /// Every way a call can fail while the system lives.
    pub const WITHOUT_POWER_CUT: [Fault; 4] = [Fault::Refused, Fault::Short, Fault::Full, Fault::SyncFailed];

    fn error(self) -> io::Error {
        match self {
            Fault::PowerCut => io::Error::other("the power was cut"),
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::Refused | Fault::Short | Fault::SyncFailed => io::Error::other("the disk failed"),
        }
    }
}

/// The moment before a call takes effect, as its watcher sees it.
pub struct Moment<'a> {
    /// The call.
    pub operation: Operation,
    /// Changing calls before it.
    pub number: u64,
    inner: &'a Simulated,
    change: Option<&'a Change>,
}

impl fmt::Debug for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.number, self.operation)
    }
}

impl Moment<'_> {
    /// What a crash during this call leaves something of.
    pub fn remains(&self) -> Remains {
        let mut remains = self.inner.remains();
        remains.pending.extend(self.change.cloned());
        remains
    }
}

type Watch = Box<dyn FnMut(&Moment<'_>) + Send>;

#[derive(Default)]
struct Simulated {
    /// What reads see.
    current: Contents,
    /// What certainly survives.
    durable: Contents,
    /// What lies between them, in order.
    pending: Vec<Change>,
    /// Changing calls so far.
    operations: u64,
    reads: u64,
    fault: Option<(u64, Fault)>,
    failing_read: Option<u64>,
    is_dead: bool,
    /// Reads see something that will never be durable.
    is_poisoned: bool,
    watch: Option<Watch>,
}

/// A simulated disk.
#[derive(Default)]
pub struct SimDisk {
    inner: Mutex<Simulated>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(
            f,
            "SimDisk({} operations, {} pending)",
            inner.operations,
            inner.pending.len()
        )
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Makes the changing call number `operation` (counted from 0 over the disk's life) fail halfway, and everything
    /// after it fail too: the power is cut there.
    pub fn fail_at(&self, operation: u64) {
        self.fail(operation, Fault::PowerCut);
    }

    /// Makes the changing call number `operation` fail; unless the power is cut, later ones work.
    pub fn fail(&self, operation: u64, fault: Fault) {
        self.lock().fault = Some((operation, fault));
    }

    /// Makes the read number `read` (counted from 0 over the disk's life) fail; later ones work.
    pub fn fail_read(&self, read: u64) {
        self.lock().failing_read = Some(read);
    }

    /// From now on every call fails.
    pub fn cut_power(&self) {
        let mut inner = self.lock();
        inner.is_dead = true;
        inner.watch = None;
    }

    /// Changing calls so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// True once the power was cut.
    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// Shows every changing call to `watch` before it takes effect. The watcher must not call the disk.
    pub fn watch(&self, watch: impl FnMut(&Moment<'_>) + Send + 'static) {
        self.lock().watch = Some(Box::new(watch));
    }

    /// Ends `watch`.
    pub fn unwatch(&self) {
        self.lock().watch = None;
    }

    /// What a crash now leaves something of.
    pub fn remains(&self) -> Remains {
        self.lock().remains()
    }

    /// What the next start finds after a crash now: every un-synced change survives or not, torn or whole, by seed.
    pub fn crash(&self, seed: u64) -> SimDisk {
        self.remains().crash(&mut Random::new(seed)).0
    }

    /// What the next start finds when the process died but the system lived: everything, as un-synced as it was.
    pub fn kill(&self) -> SimDisk {
        let inner = self.lock();
        SimDisk::from(Simulated {
            current: inner.current.clone(),
            durable: inner.durable.clone(),
            pending: inner.pending.clone(),
            is_poisoned: inner.is_poisoned,
            ..Simulated::default()
        })
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

    /// The places of all blocks of 4096 bytes that hold something other than zeros, in order.
    pub fn blocks(&self) -> Vec<u64> {
        let is_used = |bytes: &[u8; PAGE]| bytes.iter().any(|byte| *byte != 0);
        let inner = self.lock();
        let used = inner.current.pages.iter().filter(|(_, bytes)| is_used(bytes));
        used.map(|(page, _)| page * PAGE as u64).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Simulated> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, operation: Operation, change: Change) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.begin(operation, Some(&change)) {
            None => {
                inner.current.apply(&change);
                inner.pending.push(change);
                Ok(())
            }
            Some(fault) => inner.half_done(&change, fault),
        }
    }
}

impl From<Simulated> for SimDisk {
    fn from(inner: Simulated) -> SimDisk {
        SimDisk {
            inner: Mutex::new(inner),
        }
    }
}

impl Disk for SimDisk {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.lock().current.len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.is_dead {
            return Err(Fault::PowerCut.error());
        }
        inner.reads += 1;
        if inner.failing_read == Some(inner.reads - 1) {
            return Err(Fault::Refused.error());
        }
        if offset + out.len() as u64 > inner.current.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.current.read(offset, out);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        self.change(Operation::Write(range), Change::Write(offset, data.into()))
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let range = offset..offset + data.len() as u64;
        let change = Change::Write(offset, data.into());
        match inner.begin(Operation::WriteDurable(range), Some(&change)) {
            None => {
                inner.current.apply(&change);
                inner.durable.apply(&change);
                Ok(())
            }
            Some(Fault::SyncFailed) => {
                inner.current.apply(&change);
                inner.is_poisoned = true;
                Err(Fault::SyncFailed.error())
            }
            Some(fault) => inner.half_done(&change, fault),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLen(len), Change::SetLen(len))
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.change(Operation::Clear(range.clone()), Change::Clear(range))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let fault = inner.begin(Operation::Sync, None);
        if matches!(fault, None | Some(Fault::SyncFailed)) {
            let Simulated { durable, pending, .. } = &mut *inner;
            let settled = pending.drain(..);
            match fault {
                None => settled.for_each(|change| durable.apply(&change)),
                Some(_) => inner.is_poisoned |= settled.count() > 0,
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    /// Pages that hold what was never written anywhere else are read from the medium again.
    fn forget(&self, range: Range<u64>) {
        let mut inner = self.lock();
        if inner.is_poisoned {
            let truth = inner.remains().everything();
            inner.current.copy(&truth, range);
        }
    }
}

impl Simulated {
    /// How the call that begins fails, if it does.
    fn begin(&mut self, operation: Operation, change: Option<&Change>) -> Option<Fault> {
        let number = self.operations;
        self.operations += 1;
        if self.is_dead {
            return Some(Fault::PowerCut);
        }
        if let Some(mut watch) = self.watch.take() {
            watch(&Moment {
                operation,
                number,
                inner: self,
                change,
            });
            self.watch = Some(watch);
        }
        let (_, fault) = self.fault.filter(|(at, _)| *at == number)?;
        if fault == Fault::PowerCut {
            self.is_dead = true;
            self.pending.extend(change.cloned());
        }
        Some(fault)
    }

    fn half_done(&mut self, change: &Change, fault: Fault) -> io::Result<()> {
        if let (Fault::Short | Fault::Full, Change::Write(offset, data)) = (fault, change) {
            let half = Change::Write(*offset, data[..data.len() / 2].into());
            self.current.apply(&half);
            self.pending.push(half);
        }
        Err(fault.error())
    }

    fn remains(&self) -> Remains {
        Remains {
            durable: self.durable.clone(),
            pending: self.pending.clone(),
        }
    }
}

/// What a crash leaves something of: what is durable, and the changes of which anything may survive.
#[derive(Clone, Debug)]
pub struct Remains {
    durable: Contents,
    pending: Vec<Change>,
}

/// What became of the un-synced changes in a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Changes of which nothing survived.
    pub lost: usize,
    /// Changes of which some sectors survived.
    pub torn: usize,
    /// Changes that survived whole.
    pub kept: usize,
    /// A later change survived that followed one that did not.
    pub is_reordered: bool,
}

/// Which of the un-synced changes survive.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Each one by its own chance: lost, torn or whole.
    Mixed,
    None,
    All,
    /// All before this one; of this one, some sectors.
    Until(usize),
    /// Only this one, of which some sectors may be missing.
    Only(usize),
    /// All but this one, of which some sectors may survive.
    AllBut(usize),
}

impl Fate {
    fn by_chance(pending: usize, random: &mut Random) -> Fate {
        if pending == 0 {
            return Fate::None;
        }
        let one = random.index(pending);
        // The call under way is the one whose fate matters most often.
        let one = if random.one_in(2) { pending - 1 } else { one };
        match random.below(8) {
            0..3 => Fate::Mixed,
            3 => Fate::None,
            4 => Fate::All,
            5 => Fate::Until(one),
            6 => Fate::Only(one),
            _ => Fate::AllBut(one),
        }
    }

    fn of(self, number: usize, random: &mut Random) -> Survival {
        let maybe_torn = |random: &mut Random, otherwise| match random.one_in(2) {
            true => Survival::Torn,
            false => otherwise,
        };
        match self {
            Fate::Mixed => [Survival::Lost, Survival::Torn, Survival::Kept][random.index(3)],
            Fate::Only(one) if number == one => maybe_torn(random, Survival::Kept),
            Fate::AllBut(one) if number == one => maybe_torn(random, Survival::Lost),
            Fate::Until(one) if number == one => Survival::Torn,
            Fate::Until(one) if number > one => Survival::Lost,
            Fate::None | Fate::Only(_) => Survival::Lost,
            Fate::All | Fate::AllBut(_) | Fate::Until(_) => Survival::Kept,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Lost,
    Torn,
    Kept,
}

impl Remains {
    /// What the next start finds after a power cut, and what it cost.
    pub fn crash(&self, random: &mut Random) -> (SimDisk, Losses) {
        let fate = Fate::by_chance(self.pending.len(), random);
        let mut contents = self.durable.clone();
        let mut losses = Losses::default();
        for (number, change) in self.pending.iter().enumerate() {
            let survival = contents.apply_some(change, fate.of(number, random), random);
            match survival {
                Survival::Lost => losses.lost += 1,
                Survival::Torn => losses.torn += 1,
                Survival::Kept => losses.kept += 1,
            }
            losses.is_reordered |= survival != Survival::Lost && losses.lost > 0;
        }
        let disk = SimDisk::from(Simulated {
            current: contents.clone(),
            durable: contents,
            ..Simulated::default()
        });
        (disk, losses)
    }

    /// What the next start finds when only the process died: the call under way was done or not, the rest is there,
    /// none of it more durable than it was.
    pub fn kill(&self, random: &mut Random) -> SimDisk {
        let mut remains = self.clone();
        if random.one_in(2) {
            remains.pending.pop();
        }
        SimDisk::from(Simulated {
            current: remains.everything(),
            durable: remains.durable,
            pending: remains.pending,
            ..Simulated::default()
        })
    }

    /// True when nothing is un-synced.
    pub fn is_certain(&self) -> bool {
        self.pending.is_empty()
    }

    fn everything(&self) -> Contents {
        let mut contents = self.durable.clone();
        self.pending.iter().for_each(|change| contents.apply(change));
        contents
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

    /// Applies what a crash leaves of one change; only writes tear. Says what that was.
    fn apply_some(&mut self, change: &Change, survival: Survival, random: &mut Random) -> Survival {
        match (change, survival) {
            (_, Survival::Lost) => Survival::Lost,
            (Change::Write(offset, data), Survival::Torn) => self.tear(*offset, data, random),
            (change, _) => {
                self.apply(change);
                Survival::Kept
            }
        }
    }

    fn tear(&mut self, offset: u64, data: &[u8], random: &mut Random) -> Survival {
        let sectors = data.len().div_ceil(SECTOR);
        let one = random.index(sectors);
        let shape = random.below(5);
        let mut kept = 0;
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            let survives = match shape {
                0 => number != one,
                1 => number == one,
                2 => number < one,
                3 => number > one,
                _ => random.one_in(2),
            };
            if survives {
                self.write(offset + (number * SECTOR) as u64, sector);
                kept += 1;
            }
        }
        match kept {
            0 => Survival::Lost,
            kept if kept == sectors => Survival::Kept,
            _ => Survival::Torn,
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
            let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(bytes)[within..within + data.len()].copy_from_slice(data);
        });
    }

    fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let pages = start / PAGE as u64..end.div_ceil(PAGE as u64);
        let touched: Vec<u64> = self.pages.range(pages).map(|(page, _)| *page).collect();
        for page in touched {
            let first = page * PAGE as u64;
            let from = start.max(first);
            let to = end.min(first + PAGE as u64);
            if to - from == PAGE as u64 {
                self.pages.remove(&page);
            } else {
                let zeros = [0; PAGE];
                self.write(from, &zeros[..usize::try_from(to - from).expect("within a page")]);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        self.clear(len, self.len);
        self.len = len;
    }

    /// Takes whole pages from another file's contents.
    fn copy(&mut self, other: &Contents, range: Range<u64>) {
        let pages = range.start / PAGE as u64..range.end.div_ceil(PAGE as u64);
        self.clear(pages.start * PAGE as u64, pages.end * PAGE as u64);
        let theirs = other.pages.range(pages);
        self.pages
            .extend(theirs.map(|(page, bytes)| (*page, Arc::clone(bytes))));
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
