//! Durable writes past the system's page cache: half the CPU of a cached one, which copies into pages and then walks
//! them, and no wait for the file's lock while a checkpoint writes. It knows alignment and fallback, no layout.
//!
//! Reads stay cached. That is sound here: what is written this way is never written otherwise while somebody may read
//! it, and a direct write drops the cached pages of its range before and after.

use crate::limits::{BLOCK_BYTES, DIRECT_BUFFERS_KEPT, DIRECT_BYTES_MAX};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ALIGNMENT: usize = BLOCK_BYTES as usize;

/// A second way into an open file.
pub(crate) struct Direct {
    file: OwnedFd,
    /// True once the file system did not take such a write.
    refused: AtomicBool,
    spare: Mutex<Vec<Aligned>>,
}

impl Direct {
    /// `None` where the file system has no such writes, or the file cannot be opened again.
    pub(crate) fn beside(file: &File) -> Option<Direct> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        Some(Direct {
            file: open(path, flags, Mode::empty()).ok()?,
            refused: AtomicBool::new(false),
            spare: Mutex::default(),
        })
    }

    /// Writes whole blocks durably. `Ok(false)`: not possible this way, write it otherwise.
    pub(crate) fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        if data.len() > DIRECT_BYTES_MAX || !is_aligned(offset, data) || self.refused.load(Ordering::Relaxed)
        {
            return Ok(false);
        }
        let mut buffer = self.spare().pop().unwrap_or_default();
        let written = self.write_all(offset, buffer.fill(data));
        let mut spare = self.spare();
        if spare.len() < DIRECT_BUFFERS_KEPT {
            spare.push(buffer);
        }
        written
    }

    /// A short write is done again from its first byte, with everything: the rest may not be aligned.
    fn write_all(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        loop {
            match pwritev2(&self.file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
                Ok(written) if written == data.len() => return Ok(true),
                Ok(_) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Aligned>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

fn is_aligned(offset: u64, data: &[u8]) -> bool {
    offset.is_multiple_of(BLOCK_BYTES) && data.len().is_multiple_of(ALIGNMENT) && !data.is_empty()
}

/// A buffer whose content begins at a multiple of `ALIGNMENT` in memory, as the device wants it.
#[derive(Default)]
struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    /// The content of `data`, aligned.
    fn fill(&mut self, data: &[u8]) -> &[u8] {
        let needed = data.len() + ALIGNMENT;
        if self.bytes.len() < needed {
            self.bytes = vec![0; needed];
        }
        let start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        let content = &mut self.bytes[start..start + data.len()];
        content.copy_from_slice(data);
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, FileDisk};

    const BLOCK: u64 = BLOCK_BYTES;

    #[test]
    fn a_buffer_is_aligned_however_often_it_is_filled() {
        let mut buffer = Aligned::default();
        for blocks in [1, 3, 2, 17] {
            let data: Vec<u8> = (0..blocks * ALIGNMENT).map(|at| at as u8 ^ 0x5a).collect();
            let filled = buffer.fill(&data);
            assert_eq!(filled.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(filled, data);
        }
    }

    /// What a cached read sees after a direct write returned is what was written, also while the system reads ahead
    /// around it.
    #[test]
    fn cached_reads_see_direct_writes() {
        const BLOCKS: u64 = 64;
        let disk = FileDisk::new(tempfile::tempfile().expect("a file"));
        disk.write_at(0, &vec![0; (BLOCKS * BLOCK) as usize])
            .expect("written");
        disk.sync().expect("synced");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| read_around(&disk, &done));
            for round in 0..400_u64 {
                let at = round * 7 % BLOCKS;
                let value = vec![round as u8 | 1; ALIGNMENT];
                disk.write_durable(at * BLOCK, &value).expect("written");
                let mut seen = vec![0; ALIGNMENT];
                disk.read_at(at * BLOCK, &mut seen).expect("read");
                assert_eq!(seen, value, "block {at} in round {round}");
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    fn read_around(disk: &FileDisk, done: &AtomicBool) {
        let mut all = vec![0; 64 * ALIGNMENT];
        while !done.load(Ordering::Relaxed) {
            disk.forget(0..64 * BLOCK);
            disk.read_at(0, &mut all).expect("read");
        }
    }

    #[test]
    fn what_is_not_whole_blocks_or_too_large_is_left_to_others() {
        let file = tempfile::tempfile().expect("a file");
        let Some(direct) = Direct::beside(&file) else {
            return; // a file system without such writes: nothing to refuse
        };
        let too_large = vec![0; DIRECT_BYTES_MAX + ALIGNMENT];
        for (offset, data) in [
            (1, &too_large[..ALIGNMENT]),
            (0, &too_large[..100]),
            (0, &too_large),
            (0, &[]),
        ] {
            assert!(!direct.write_durable(offset, data).expect("no error"));
        }
        assert_eq!(file.metadata().expect("a length").len(), 0);
    }
}
