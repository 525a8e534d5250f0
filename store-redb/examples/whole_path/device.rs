//! Bytes written by the block device below a directory, as the kernel counts them.

use crate::Slice;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A device's counters; reads as zero where there are none.
pub(crate) struct Device(Option<PathBuf>);

impl Device {
    pub(crate) fn of(directory: &Path) -> Device {
        let number = std::fs::metadata(directory).map(|found| found.dev());
        let path = number.map(|number| {
            let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
            PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"))
        });
        Device(path.ok())
    }

    fn written(&self) -> u64 {
        const SECTOR_BYTES: u64 = 512;
        const SECTORS_WRITTEN: usize = 6;
        let text = self
            .0
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok());
        let sectors = text.and_then(|text| text.split_whitespace().nth(SECTORS_WRITTEN)?.parse::<u64>().ok());
        sectors.unwrap_or(0) * SECTOR_BYTES
    }

    /// Starts measuring.
    pub(crate) fn begin(&self) -> Begun<'_> {
        Begun {
            device: self,
            written: self.written(),
            started: Instant::now(),
        }
    }
}

/// A measurement under way.
pub(crate) struct Begun<'a> {
    device: &'a Device,
    written: u64,
    pub(crate) started: Instant,
}

impl Begun<'_> {
    pub(crate) fn end(&self, entries: u64) -> Slice {
        Slice {
            entries,
            time: self.started.elapsed(),
            device_bytes: self.device.written() - self.written,
        }
    }
}
