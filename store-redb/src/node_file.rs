//! The node file: redb's part and the log region in one sparse file, and the header that holds them together.
//! It knows where things lie and in which order lengths become durable; not what records or tables mean.

use crate::disk::{Disk, DiskSpace};
use crate::error::OpenError;
use crate::header::{FORMAT, Header, Position, Remembered, Slot};
use crate::limits::{BLOCK_BYTES, FILL_BYTES, LOG_AT, MARKER_AT, RING_AT};
use crate::options::{Identity, Options};
use crate::pages;
use crate::waiting::Waiting;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// Empty: a new node.
    New,
    /// A redb file without log region: a node that stopped cleanly.
    Plain,
    /// With log region: a running node or one that crashed.
    Attached(Header),
}

/// The file of one node.
#[derive(Debug)]
pub(crate) struct NodeFile {
    disk: Arc<dyn Disk>,
    /// `None` while there is no log region: then redb's part is the whole file.
    header: Mutex<Option<Header>>,
    /// Length of redb's part; follows the header.
    redb_bytes: AtomicU64,
    /// What redb wrote since its last sync.
    waiting: Waiting,
    /// What redb's header is, while it is not being written.
    head: Mutex<Head>,
}

/// redb's header as it was written last. Pages of the commit that it names are not overwritten before it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Counts when a write began and when it ended.
    pub(crate) changes: u64,
    /// `None`: it is being written, or was not since the file was opened.
    pub(crate) bytes: Option<[u8; pages::HEADER_BYTES]>,
}

impl NodeFile {
    /// Looks at a file. A log region whose creation was cut short is removed.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<(Arc<NodeFile>, Found), OpenError> {
        // What is read below may sit in a cache only; nobody may act on it before the disk has it.
        disk.sync()
            .map_err(|source| io_error("sync the node file", source))?;
        forget_what_failed(&*disk)?;
        let found = inspect(&*disk)?;
        let (header, redb_bytes) = match &found {
            Found::Attached(header) => (Some(header.clone()), header.redb_bytes),
            Found::New | Found::Plain => (
                None,
                disk.bytes()
                    .map_err(|source| io_error("read the node file's length", source))?,
            ),
        };
        let file = NodeFile {
            disk,
            header: Mutex::new(header),
            redb_bytes: AtomicU64::new(redb_bytes),
            waiting: Waiting::default(),
            head: Mutex::new(Head {
                changes: 0,
                bytes: None,
            }),
        };
        Ok((Arc::new(file), found))
    }

    /// Makes a log region. The file's length goes through a marker that holds redb's length, so that a crash before
    /// the first header is durable loses nothing.
    pub(crate) fn attach(&self, remembered: &Remembered, options: &Options) -> io::Result<()> {
        let mut slot = self.lock();
        assert!(slot.is_none(), "the file has a log region already");
        let redb_bytes = self.disk.bytes()?;
        self.disk.set_len(MARKER_AT + redb_bytes)?;
        self.disk.sync()?;
        let header = first_header(remembered, options, redb_bytes);
        self.disk.write_durable(LOG_AT, &header.encode())?;
        self.disk.set_len(RING_AT + options.ring_bytes)?;
        *slot = Some(header);
        Ok(())
    }

    /// Makes redb's part empty again: its creation was cut short.
    pub(crate) fn restart_creation(&self) -> io::Result<()> {
        self.update(|header| header.redb_bytes = 0)?;
        self.redb_bytes.store(0, Ordering::Release);
        self.disk.clear(0..LOG_AT)
    }

    /// Whatever lies behind redb's part is stale; growth must find zeros.
    pub(crate) fn clear_hole(&self) -> io::Result<()> {
        self.disk.clear(self.redb_bytes()..LOG_AT)
    }

    /// Removes the log region; the rest is a plain redb file. redb must have closed its part.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut slot = self.lock();
        self.disk.set_len(self.redb_bytes())?;
        self.disk.sync()?;
        *slot = None;
        Ok(())
    }

    /// Space on the medium.
    pub(crate) fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }

    /// Takes space that `release_reserve` gives back: behind the ring, where nothing is ever written.
    pub(crate) fn take_reserve(&self, bytes: u64) -> io::Result<()> {
        let start = self.ring_end();
        self.disk.allocate(start..start + bytes)
    }

    /// Gives the reserve back.
    pub(crate) fn release_reserve(&self, bytes: u64) -> io::Result<()> {
        let start = self.ring_end();
        self.disk.clear(start..start + bytes)
    }

    fn ring_end(&self) -> u64 {
        let header = self.header();
        RING_AT + u64::from(header.segments) * header.segment_bytes
    }

    /// Changes the header durably: in both slots, the older one first. When one of them decays, the other says the
    /// same; a crash leaves at least one of them whole.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        let mut slot = self.lock();
        let header = slot.as_mut().expect("the file has a log region");
        let mut next = header.clone();
        change(&mut next);
        next.version += 1;
        let block = next.encode();
        for slot in [next.version % 2, (next.version + 1) % 2] {
            self.disk.write_durable(LOG_AT + slot * BLOCK_BYTES, &block)?;
        }
        *header = next;
        Ok(())
    }

    /// The header as last made durable.
    pub(crate) fn header(&self) -> Header {
        self.lock().clone().expect("the file has a log region")
    }

    /// Length of redb's part.
    pub(crate) fn redb_bytes(&self) -> u64 {
        self.redb_bytes.load(Ordering::Acquire)
    }

    /// Writes a record durably.
    pub(crate) fn write_ring(&self, offset: u64, record: &[u8]) -> io::Result<()> {
        self.disk.write_durable(RING_AT + offset, record)
    }

    /// Reads a piece of the ring.
    pub(crate) fn read_ring(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(RING_AT + offset, out)
    }

    /// Fills the next segment with zeros, so that records there overwrite written extents, and lets the ring use it.
    /// Returns the ring's bytes that are ready now.
    pub(crate) fn fill_segment(&self) -> io::Result<u64> {
        let Header {
            segment_bytes,
            segments_ready,
            segments,
            ..
        } = self.header();
        assert!(
            segments_ready < segments,
            "the ring has all of its {segments} segments"
        );
        let start = RING_AT + u64::from(segments_ready) * segment_bytes;
        let zeros = vec![0; FILL_BYTES];
        let mut done = 0;
        while done < segment_bytes {
            let length = (segment_bytes - done).min(FILL_BYTES as u64);
            // Piece by piece to the medium: the log's next write stands behind one piece, not behind a segment.
            let piece = &zeros[..usize::try_from(length).expect("at most FILL_BYTES")];
            self.disk.write_durable(start + done, piece)?;
            done += length;
        }
        self.disk.sync()?;
        // Written in large pieces, the segment sits in large folios, which make small writes slow.
        self.disk.forget(start..start + segment_bytes);
        self.update(|header| header.segments_ready += 1)?;
        Ok(u64::from(segments_ready + 1) * segment_bytes)
    }

    /// redb's header.
    pub(crate) fn head(&self) -> Head {
        self.lock_head().clone()
    }

    /// Reads a piece of redb's part as the medium has it: not from what waits, nor from the system's cache.
    pub(crate) fn read_stored(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.forget(offset..offset + out.len() as u64);
        self.disk.read_at(offset, out)
    }

    /// As `read_stored`, in the ring.
    pub(crate) fn read_stored_ring(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_stored(RING_AT + offset, out)
    }

    /// Which of the header's two slots do not say what was written last.
    pub(crate) fn decayed_slots(&self) -> io::Result<Vec<u64>> {
        let slot = self.lock();
        let header = slot.as_ref().expect("the file has a log region");
        let mut decayed = Vec::new();
        for number in 0..2 {
            let mut block = vec![0; BLOCK_BYTES as usize];
            self.read_stored(LOG_AT + number * BLOCK_BYTES, &mut block)?;
            if !matches!(Slot::decode(&block), Slot::Valid(found) if found == *header) {
                decayed.push(number);
            }
        }
        Ok(decayed)
    }

    /// Writes a slot of the header again.
    pub(crate) fn repair_slot(&self, number: u64) -> io::Result<()> {
        let slot = self.lock();
        let header = slot.as_ref().expect("the file has a log region");
        self.disk
            .write_durable(LOG_AT + number * BLOCK_BYTES, &header.encode())
    }

    fn lock_head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_head(&self, bytes: Option<[u8; pages::HEADER_BYTES]>) {
        let mut head = self.lock_head();
        head.changes += 1;
        head.bytes = bytes;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Header>> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_attached(&self) -> bool {
        self.lock().is_some()
    }
}

fn first_header(remembered: &Remembered, options: &Options, redb_bytes: u64) -> Header {
    let segments = options.ring_bytes / options.segment_bytes;
    Header {
        version: 0,
        identity: remembered.identity,
        file_uuid: remembered.file_uuid,
        salt: remembered.salt,
        incarnation: remembered.incarnation,
        redb_bytes,
        segment_bytes: options.segment_bytes,
        segments: u32::try_from(segments).expect("Options::check bounds the segments"),
        segments_ready: 0,
        first: Position {
            offset: 0,
            sequence: remembered.tail.sequence,
        },
    }
}

/// When a write or sync failed, the last process ended, and the system may keep what it could not write as if it had:
/// no later sync tells. What is read must come from the medium.
fn forget_what_failed(disk: &dyn Disk) -> Result<(), OpenError> {
    let length = disk
        .bytes()
        .map_err(|source| io_error("read the node file's length", source))?;
    if length > LOG_AT {
        disk.forget(0..length);
    }
    Ok(())
}

/// Finds out what the file is.
fn inspect(disk: &dyn Disk) -> Result<Found, OpenError> {
    let length = disk
        .bytes()
        .map_err(|source| io_error("read the node file's length", source))?;
    if length == 0 {
        return Ok(Found::New);
    }
    if length <= LOG_AT {
        return Ok(Found::Plain);
    }
    if let Some(header) = newest_header(disk, length)? {
        return Ok(Found::Attached(header));
    }
    match length.checked_sub(MARKER_AT) {
        Some(redb_bytes) => undo_attach(disk, redb_bytes),
        None => Err(OpenError::Corrupt(
            "both headers of the log region are unreadable".into(),
        )),
    }
}

fn newest_header(disk: &dyn Disk, length: u64) -> Result<Option<Header>, OpenError> {
    let mut newest: Option<Header> = None;
    for at in [LOG_AT, LOG_AT + BLOCK_BYTES] {
        if at + BLOCK_BYTES > length {
            break;
        }
        let mut block = vec![0; BLOCK_BYTES as usize];
        disk.read_at(at, &mut block)
            .map_err(|source| io_error("read the header", source))?;
        match Slot::decode(&block) {
            Slot::Valid(header) if newest.as_ref().is_none_or(|old| old.version < header.version) => {
                newest = Some(header);
            }
            Slot::Newer(found) => return Err(OpenError::NewerFormat { found, known: FORMAT }),
            Slot::Valid(_) | Slot::Blank | Slot::Damaged => {}
        }
    }
    Ok(newest)
}

/// The first header never became durable: the file goes back to what it was.
fn undo_attach(disk: &dyn Disk, redb_bytes: u64) -> Result<Found, OpenError> {
    disk.set_len(redb_bytes)
        .and_then(|()| disk.sync())
        .map_err(|source| io_error("remove an unfinished log region", source))?;
    Ok(if redb_bytes == 0 { Found::New } else { Found::Plain })
}

/// Compares what a file says with whom it should belong to.
pub(crate) fn check_identity(found: Identity, expected: Identity) -> Result<(), OpenError> {
    if found.cluster != expected.cluster {
        return Err(OpenError::OtherCluster {
            found: found.cluster.to_string(),
            expected: expected.cluster.to_string(),
        });
    }
    if found.node != expected.node {
        return Err(OpenError::OtherNode {
            found: found.node.0,
            expected: expected.node.0,
        });
    }
    Ok(())
}

pub(crate) fn io_error(action: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        action: action.to_string(),
        source,
    }
}

/// redb's view of the node file.
#[derive(Debug)]
pub(crate) struct RedbPart(pub(crate) Arc<NodeFile>);

impl RedbPart {
    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.0.redb_bytes() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl StorageBackend for RedbPart {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.redb_bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        self.0.waiting.read(&*self.0.disk, offset, out)
    }

    /// A longer part is durable in the header before redb uses it; a shorter one before its space is given back.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.0.redb_bytes();
        self.0.waiting.cut(len);
        if !self.0.is_attached() {
            self.0.disk.set_len(len)?;
        } else if len >= LOG_AT {
            return Err(io::ErrorKind::FileTooLarge.into());
        } else {
            self.0.update(|header| header.redb_bytes = len)?;
            if len < old {
                self.0.disk.clear(len..old)?;
            }
        }
        self.0.redb_bytes.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.waiting.drain(&*self.0.disk)?;
        self.0.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        if offset >= pages::HEADER_BYTES as u64 {
            return self.0.waiting.write(&*self.0.disk, offset, data);
        }
        self.0.change_head(None);
        self.0.waiting.write(&*self.0.disk, offset, data)?;
        // A header in a whole page waits like one.
        let header = data.first_chunk().filter(|_| offset == 0);
        let is_there = !(data.len() as u64).is_multiple_of(BLOCK_BYTES);
        self.0.change_head(header.filter(|_| is_there).copied());
        Ok(())
    }

    /// What was never synced need not be there later, but readers of the plain file may still want it.
    fn close(&self) -> io::Result<()> {
        self.0.waiting.drain(&*self.0.disk)
    }
}
