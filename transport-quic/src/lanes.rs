//! One lane of one link: a bounded queue, and the task that reads the other side's. A full queue drops and counts;
//! nothing here ever blocks a sender, and nothing is sent twice.
//!
//! On the stream a frame is its length (u32 BE) and its bytes. Checksums are the frame's own business: QUIC
//! authenticates every packet.

use crate::framing::{FrameError, FrameReader};
use crate::limits::{FRAME_BYTES_MAX, LANE_BYTES_MAX, LANE_FRAMES_MAX, WRITE_BYTES};
use crate::writing::{Message, More, Outbound};
use bytes::Bytes;
use multiraft::Frame;
use quinn::RecvStream;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Counters of one direction of one lane to one peer, over all links.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    pub(crate) frames_sent: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    /// Frames dropped because the queue was full or the frame too long.
    pub(crate) frames_dropped: AtomicU64,
    /// Frames dropped because no link was up.
    pub(crate) frames_unlinked: AtomicU64,
}

/// What a full lane drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// What has waited longest, until the newcomer fits.
    DropOldest,
    /// The newcomer.
    DropNewest,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the writer.
    Queued,
    /// It, or older ones for it, were dropped.
    Dropped {
        /// The first since the writer last kept up.
        first: bool,
    },
}

/// Frames waiting for the writer of one lane.
pub(crate) struct LaneQueue {
    state: Mutex<LaneState>,
    wake: Notify,
    counters: Arc<LaneCounters>,
    when_full: WhenFull,
}

struct LaneState {
    open: bool,
    /// Something was dropped since the queue was last empty.
    overflowed: bool,
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl LaneState {
    fn has_room(&self, bytes: usize) -> bool {
        self.frames.len() < LANE_FRAMES_MAX && self.bytes + bytes <= LANE_BYTES_MAX
    }

    /// Drops from the front until `bytes` fit; returns how many frames that cost.
    fn make_room(&mut self, bytes: usize) -> u64 {
        let mut dropped = 0;
        while !self.has_room(bytes)
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.len();
            dropped += 1;
        }
        dropped
    }
}

impl LaneQueue {
    pub(crate) fn new(counters: Arc<LaneCounters>, when_full: WhenFull) -> LaneQueue {
        let state = LaneState {
            open: true,
            overflowed: false,
            frames: VecDeque::new(),
            bytes: 0,
        };
        LaneQueue {
            state: Mutex::new(state),
            wake: Notify::new(),
            counters,
            when_full,
        }
    }

    /// Queues a frame, or drops and counts. Gives it back when the lane takes nothing more.
    pub(crate) fn push(&self, frame: Frame) -> Result<Pushed, Frame> {
        let bytes = frame.len();
        let mut state = self.lock();
        if !state.open {
            return Err(frame);
        }
        if bytes == 0 || bytes > FRAME_BYTES_MAX {
            drop(state);
            return Ok(self.dropped(1, false));
        }
        let dropped = match self.when_full {
            _ if state.has_room(bytes) => 0,
            WhenFull::DropOldest => state.make_room(bytes),
            WhenFull::DropNewest => {
                let first = !std::mem::replace(&mut state.overflowed, true);
                drop(state);
                return Ok(self.dropped(1, first));
            }
        };
        state.bytes += bytes;
        state.frames.push_back(frame);
        let wakes = state.frames.len() == 1;
        let first = dropped > 0 && !std::mem::replace(&mut state.overflowed, true);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
        match dropped {
            0 => Ok(Pushed::Queued),
            frames => Ok(self.dropped(frames, first)),
        }
    }

    fn dropped(&self, frames: u64, first: bool) -> Pushed {
        self.counters.frames_dropped.fetch_add(frames, Ordering::Relaxed);
        Pushed::Dropped { first }
    }

    /// Frames and bytes that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.frames.len(), state.bytes)
    }

    /// Takes nothing more; the writer ends when everything that waits is written.
    pub(crate) fn finish(&self) {
        self.lock().open = false;
        self.wake.notify_one();
    }

    /// Drops everything that waits and ends the writer.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let lost = std::mem::take(&mut state.frames).len();
        state.bytes = 0;
        drop(state);
        self.counters
            .frames_unlinked
            .fetch_add(lost as u64, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().expect("no code that holds it panics")
    }
}

impl Outbound for LaneQueue {
    fn take(&self, batch: &mut Vec<Message>) -> More {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some(frame) = state.frames.pop_front()
        {
            bytes += frame.len();
            batch.push(Message::Frame(frame));
        }
        state.bytes -= bytes;
        state.overflowed &= !state.frames.is_empty();
        self.counters
            .frames_sent
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        if state.open { More::Later } else { More::Never }
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }
}

/// Reads frames until the stream ends.
pub(crate) async fn read_frames(
    stream: RecvStream,
    counters: &LaneCounters,
    mut deliver: impl FnMut(Bytes),
) -> Result<(), FrameError> {
    let mut reader = FrameReader::new(stream, 1..=FRAME_BYTES_MAX);
    while let Some(frame) = reader.next().await? {
        counters.frames_received.fetch_add(1, Ordering::Relaxed);
        deliver(frame);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Frame {
        Frame {
            chunks: vec![Bytes::from(vec![1; bytes])],
        }
    }

    fn queue(when_full: WhenFull) -> (LaneQueue, Arc<LaneCounters>) {
        let counters = Arc::new(LaneCounters::default());
        (LaneQueue::new(counters.clone(), when_full), counters)
    }

    fn dropped(counters: &LaneCounters) -> u64 {
        counters.frames_dropped.load(Ordering::Relaxed)
    }

    /// The lengths of the frames that wait, in order.
    fn drain(queue: &LaneQueue) -> Vec<usize> {
        let mut taken = Vec::new();
        while queue.waiting().0 > 0 {
            queue.take(&mut taken);
        }
        let lengths = taken.into_iter().map(|message| match message {
            Message::Frame(frame) => frame.len(),
            Message::Numbered(..) => panic!("a lane carries frames"),
        });
        lengths.collect()
    }

    #[test]
    fn a_lane_is_bounded_by_frames() {
        for when_full in [WhenFull::DropNewest, WhenFull::DropOldest] {
            let (queue, counters) = queue(when_full);
            for _ in 0..LANE_FRAMES_MAX {
                assert_eq!(queue.push(frame(1)), Ok(Pushed::Queued), "up to the limit");
            }
            assert_eq!(dropped(&counters), 0);
            assert_eq!(
                queue.push(frame(2)),
                Ok(Pushed::Dropped { first: true }),
                "one more"
            );
            assert_eq!(queue.push(frame(2)), Ok(Pushed::Dropped { first: false }));
            assert_eq!((queue.waiting().0, dropped(&counters)), (LANE_FRAMES_MAX, 2));
        }
    }

    #[test]
    fn a_lane_is_bounded_by_bytes() {
        for when_full in [WhenFull::DropNewest, WhenFull::DropOldest] {
            let (queue, counters) = queue(when_full);
            let quarter = frame(LANE_BYTES_MAX / 4);
            (0..4).for_each(|_| assert_eq!(queue.push(quarter.clone()), Ok(Pushed::Queued)));
            assert_eq!(
                (queue.waiting(), dropped(&counters)),
                ((4, LANE_BYTES_MAX), 0),
                "full to the byte"
            );
            assert_eq!(queue.push(frame(1)), Ok(Pushed::Dropped { first: true }));
            assert!(queue.waiting().1 <= LANE_BYTES_MAX);
            assert_eq!(dropped(&counters), 1);
        }
    }

    #[test]
    fn a_full_control_lane_keeps_the_newest_and_a_full_entries_lane_the_oldest() {
        let newest = [vec![1; LANE_FRAMES_MAX - 2], vec![2, 3]].concat();
        let oldest = vec![1; LANE_FRAMES_MAX];
        for (when_full, expected) in [(WhenFull::DropOldest, newest), (WhenFull::DropNewest, oldest)] {
            let (queue, _) = queue(when_full);
            (0..LANE_FRAMES_MAX).for_each(|_| drop(queue.push(frame(1))));
            (2..4).for_each(|bytes| drop(queue.push(frame(bytes))));
            assert_eq!(drain(&queue), expected, "{when_full:?}");
        }
    }

    #[test]
    fn once_the_writer_keeps_up_the_next_overflow_is_the_first_again() {
        let (queue, _) = queue(WhenFull::DropNewest);
        for _ in 0..2 {
            (0..LANE_FRAMES_MAX).for_each(|_| drop(queue.push(frame(1))));
            assert_eq!(queue.push(frame(1)), Ok(Pushed::Dropped { first: true }));
            drain(&queue);
        }
    }

    #[test]
    fn frames_that_cannot_travel_are_dropped() {
        let (queue, counters) = queue(WhenFull::DropOldest);
        for bytes in [0, FRAME_BYTES_MAX + 1] {
            assert_eq!(queue.push(frame(bytes)), Ok(Pushed::Dropped { first: false }));
        }
        assert_eq!(
            queue.push(frame(FRAME_BYTES_MAX)),
            Ok(Pushed::Queued),
            "the longest frame"
        );
        assert_eq!((queue.waiting().0, dropped(&counters)), (1, 2));
    }

    #[test]
    fn a_closed_lane_takes_and_keeps_nothing() {
        let (queue, counters) = queue(WhenFull::DropNewest);
        drop(queue.push(frame(1)));
        queue.close();
        assert_eq!(queue.push(frame(3)), Err(frame(3)), "it comes back");
        let unlinked = counters.frames_unlinked.load(Ordering::Relaxed);
        assert_eq!((queue.waiting(), unlinked), ((0, 0), 1));
        assert_eq!(queue.take(&mut Vec::new()), More::Never);
    }

    #[test]
    fn a_finished_lane_takes_nothing_and_is_written_to_the_end() {
        let (queue, _) = queue(WhenFull::DropNewest);
        (1..4).for_each(|bytes| drop(queue.push(frame(bytes))));
        queue.finish();
        assert_eq!(queue.push(frame(9)), Err(frame(9)));
        assert_eq!(drain(&queue), [1, 2, 3]);
        assert_eq!(queue.take(&mut Vec::new()), More::Never);
    }
}
