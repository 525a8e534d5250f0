//! Where in the ring a record goes, and which part of the ring is live: arithmetic only, no I/O.

use crate::limits::{BLOCK_BYTES, RESERVE_SHARE};

/// What `Ring::place` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The record goes there.
    At(u64),
    /// The ring must first get another segment.
    Grow,
    /// There is no room until a checkpoint releases some.
    Full,
}

/// The live part of the ring. It runs from `tail` to `head`, or, when wrapped, from `tail` to `lap_end` and on from 0
/// to `head`. Records are contiguous: what a record did not fit into before the wrap is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    capacity: u64,
    ready: u64,
    tail: u64,
    head: u64,
    lap_end: Option<u64>,
}

impl Ring {
    /// A ring whose live part is empty, at `at`. `ready` of its `capacity` bytes are usable.
    pub(crate) fn new(capacity: u64, ready: u64, at: u64) -> Ring {
        assert!(at <= ready && ready <= capacity, "{at} <= {ready} <= {capacity}");
        Ring {
            capacity,
            ready,
            tail: at,
            head: at,
            lap_end: None,
        }
    }

    /// Takes room for a record of `length` bytes at the head. A ring that could grow but may not wraps early.
    pub(crate) fn place(&mut self, length: u64, may_grow: bool) -> Place {
        if self.lap_end.is_some() {
            // Never up to the tail exactly: head == tail means empty.
            return match self.head + length < self.tail {
                true => self.take(length),
                false => Place::Full,
            };
        }
        if self.head + length <= self.ready {
            self.take(length)
        } else if self.ready < self.capacity && may_grow {
            Place::Grow
        } else if length < self.tail {
            self.wrap();
            self.take(length)
        } else {
            Place::Full
        }
    }

    /// Where the record found by recovery at `offset` belongs: the same moves as `place` made.
    pub(crate) fn replay(&mut self, offset: u64, length: u64) {
        if offset != self.head {
            assert!(
                offset == 0 && self.lap_end.is_none(),
                "a record at {offset}, the head is {}",
                self.head
            );
            self.restart();
        }
        self.head += length;
        assert!(
            self.head <= self.ready,
            "a record ends at {}, the ring at {}",
            self.head,
            self.ready
        );
    }

    /// Gives back everything before `to`, which was the head at some time since the tail was there.
    pub(crate) fn release(&mut self, to: u64) {
        match self.lap_end {
            Some(lap_end) if (self.tail..lap_end).contains(&to) => self.tail = to,
            Some(lap_end) if to == lap_end => {
                self.tail = 0;
                self.lap_end = None;
            }
            _ => {
                assert!(to <= self.head, "released up to {to}, the head is {}", self.head);
                self.tail = to;
                self.lap_end = None;
            }
        }
    }

    /// Another segment can be used: `ready` bytes are now.
    pub(crate) fn grow(&mut self, ready: u64) {
        assert!(
            ready <= self.capacity && ready > self.ready,
            "{} < {ready} <= {}",
            self.ready,
            self.capacity
        );
        self.ready = ready;
    }

    /// True when the head nears the last ready segment's end and will want another one soon.
    pub(crate) fn grows_soon(&self, segment_bytes: u64) -> bool {
        self.lap_end.is_none() && self.ready < self.capacity && self.ready - self.head < segment_bytes / 2
    }

    /// Bytes between tail and head, the unused end of a lap included.
    pub(crate) fn used(&self) -> u64 {
        match self.lap_end {
            None => self.head - self.tail,
            Some(lap_end) => lap_end - self.tail + self.head,
        }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn ready(&self) -> u64 {
        self.ready
    }

    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Bytes of records that certainly find a place before anything is released, the reserve kept free. No record is
    /// longer than `record_bytes_max`: so much may stay unused at the lap's end. Without growth the lap ends where the
    /// last segment does that is ready.
    pub(crate) fn room(&self, record_bytes_max: u64, may_grow: bool) -> u64 {
        let end = if may_grow { self.capacity } else { self.ready };
        let free = match self.lap_end {
            Some(_) => (self.tail - self.head).saturating_sub(BLOCK_BYTES),
            None => {
                let rest = end - self.head;
                rest.max((rest + self.tail).saturating_sub(record_bytes_max + BLOCK_BYTES))
            }
        };
        free.saturating_sub(self.reserve())
    }

    /// The part that is kept for hard states and the like.
    pub(crate) fn reserve(&self) -> u64 {
        self.capacity / RESERVE_SHARE
    }

    /// Goes on at the ring's start. When nothing is live before, the tail goes there too: else the head could pass it.
    fn restart(&mut self) {
        if self.lap_end.is_none() && self.tail == self.head {
            (self.tail, self.head) = (0, 0);
        } else {
            self.wrap();
        }
    }

    fn take(&mut self, length: u64) -> Place {
        let at = self.head;
        self.head += length;
        Place::At(at)
    }

    fn wrap(&mut self) {
        self.lap_end = Some(self.head);
        self.head = 0;
    }
}
