//! The seam between this crate and a medium: positioned reads and writes, and what makes them durable.
//! `FileDisk` is a file; `testing::SimDisk` loses what was not synced. No layout is known here.

use crate::direct::Direct;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatvfs};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The unit in which the system counts a file's blocks.
const STAT_BLOCK_BYTES: u64 = 512;

/// One sparse file. All methods may be called from several threads at once.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Bytes in the file.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`; reading past the end is an error.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data`; durable after the next `sync`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Writes all of `data`; durable on return, whether or not other writes are.
    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts or extends (with zeros); durable after the next `sync`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes a range read as zeros and gives its space back, without changing the length.
    fn clear(&self, range: Range<u64>) -> io::Result<()>;
    /// Makes everything written before durable.
    fn sync(&self) -> io::Result<()>;
    /// What the medium has free, and what the file takes of it.
    fn space(&self) -> io::Result<DiskSpace> {
        Ok(DiskSpace::UNKNOWN)
    }
    /// Makes sure that writes to the range find space; the file becomes long enough to hold it.
    fn allocate(&self, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Called between the pages of a checkpoint: the disk writes out what waits now, so that no single `sync` puts
    /// more requests into its queue than a durable write can stand behind. An error means what one of `sync` does.
    fn write_out(&self) -> io::Result<()> {
        Ok(())
    }
    /// The range will not be read soon, or must be read from the medium: the system may drop it from its cache, except
    /// what was not synced. A hint.
    fn forget(&self, _range: Range<u64>) {}
}

/// Space on a medium, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What may still be written where nothing was.
    pub free: u64,
    /// What the file takes.
    pub used: u64,
}

impl DiskSpace {
    /// A medium that does not say; it is taken for endless.
    pub const UNKNOWN: DiskSpace = DiskSpace {
        free: u64::MAX,
        used: 0,
    };
}

/// A disk that is a file of the operating system.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    /// False once the file system refused `RWF_DSYNC`.
    dsync: AtomicBool,
    /// Opened by the first durable write; empty where the file system has no direct writes.
    direct: OnceLock<Option<Direct>>,
}

impl FileDisk {
    /// Takes over an open file.
    pub fn new(file: File) -> FileDisk {
        FileDisk {
            file,
            dsync: AtomicBool::new(true),
            direct: OnceLock::new(),
        }
    }

    fn write_direct(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        match self.direct.get_or_init(|| Direct::beside(&self.file)) {
            Some(direct) => direct.write_durable(offset, data),
            None => Ok(false),
        }
    }

    /// One `pwritev2(RWF_DSYNC)` in the usual case. `Ok(false)`: not supported here, nothing was written.
    fn write_dsync(&self, mut offset: u64, mut data: &[u8]) -> io::Result<bool> {
        let start = offset;
        while !data.is_empty() {
            match pwritev2(&self.file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    data = &data[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if offset == start => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl Disk for FileDisk {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.write_direct(offset, data)? {
            return Ok(());
        }
        if self.dsync.load(Ordering::Relaxed) {
            if self.write_dsync(offset, data)? {
                return Ok(());
            }
            self.dsync.store(false, Ordering::Relaxed);
        }
        self.file.write_all_at(data, offset)?;
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, range.start, length)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let system = fstatvfs(&self.file)?;
        Ok(DiskSpace {
            free: system.f_bavail.saturating_mul(system.f_frsize),
            used: self.file.metadata()?.blocks() * STAT_BLOCK_BYTES,
        })
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let length = range.end.saturating_sub(range.start);
        Ok(fallocate(
            &self.file,
            FallocateFlags::empty(),
            range.start,
            length,
        )?)
    }

    fn write_out(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn forget(&self, range: Range<u64>) {
        let length = NonZeroU64::new(range.end.saturating_sub(range.start));
        // A hint: a file system that does not take it loses nothing.
        let _ = fadvise(&self.file, range.start, length, Advice::DontNeed);
    }
}
