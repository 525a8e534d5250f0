//! Whether there is room for more: in the ring, in the memtables, on the disk. What is queued counts as taken, so that
//! a turn which fills the room leaves the reserve to hard states and births that come later.

use crate::engine::{Engine, lock};
use crate::limits::{BLOCK_BYTES, MEMTABLE_FULL_FACTOR, RECORD_BYTES_SOFT};
use multiraft::Room;

impl Engine {
    /// What one worker may still take; each has an equal share, as all may take theirs at once.
    pub(crate) fn room(&self) -> Room {
        let share = self.options.workers as u64;
        let space = self.disk_space();
        let memory = MEMTABLE_FULL_FACTOR * self.memtable_limit();
        Room {
            log_bytes: self.log_room() / share,
            memory_bytes: memory.saturating_sub(self.memtable_bytes()) / share,
            space,
        }
    }

    fn log_room(&self) -> u64 {
        let queued = lock(&self.queue).ring_bytes();
        self.less_padding(self.ring_room().saturating_sub(queued))
    }

    /// What entries may take of so many bytes: records are padded to whole blocks. Two records that follow each other
    /// hold more than one of full length would, so there are at most so many of them.
    fn less_padding(&self, bytes: u64) -> u64 {
        let full = (self.record_bytes_max() as u64).min(RECORD_BYTES_SOFT as u64);
        bytes.saturating_sub((2 * bytes / full + 2) * BLOCK_BYTES)
    }

    /// True when the next appends may find no room, so that a checkpoint must release some whatever was written since
    /// the last one.
    pub(crate) fn is_ring_crowded(&self) -> bool {
        self.ring_room() < lock(&self.ring).ring.reserve()
    }

    fn ring_room(&self) -> u64 {
        let may_grow = self.may_fill();
        lock(&self.ring)
            .ring
            .room(self.record_bytes_max() as u64, may_grow)
    }
}
