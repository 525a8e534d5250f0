//! One lane of one link: a bounded queue, the task that writes it to a stream, the task that reads the other
//! side's. A full queue drops and counts; nothing here ever blocks a sender, and nothing is sent twice.
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

/// Frames waiting for the writer of one lane.
pub(crate) struct LaneQueue {
    state: Mutex<LaneState>,
    wake: Notify,
    counters: Arc<LaneCounters>,
}

struct LaneState {
    open: bool,
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl LaneQueue {
    pub(crate) fn new(counters: Arc<LaneCounters>) -> LaneQueue {
        let state = LaneState {
            open: true,
            frames: VecDeque::new(),
            bytes: 0,
        };
        LaneQueue {
            state: Mutex::new(state),
            wake: Notify::new(),
            counters,
        }
    }

    /// Queues a frame, or drops and counts it.
    pub(crate) fn push(&self, frame: Frame) {
        let bytes = frame.len();
        let mut state = self.lock();
        if !state.open {
            drop(state);
            self.counters.frames_unlinked.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let full = state.frames.len() >= LANE_FRAMES_MAX || state.bytes + bytes > LANE_BYTES_MAX;
        if full || bytes == 0 || bytes > FRAME_BYTES_MAX {
            drop(state);
            self.counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += bytes;
        state.frames.push_back(frame);
        let first = state.frames.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
    }

    /// Frames and bytes that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.frames.len(), state.bytes)
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

    fn queue() -> (LaneQueue, Arc<LaneCounters>) {
        let counters = Arc::new(LaneCounters::default());
        (LaneQueue::new(counters.clone()), counters)
    }

    #[test]
    fn a_lane_is_bounded_by_frames() {
        let (queue, counters) = queue();
        (0..LANE_FRAMES_MAX + 3).for_each(|_| queue.push(frame(1)));
        assert_eq!(queue.waiting(), (LANE_FRAMES_MAX, LANE_FRAMES_MAX));
        assert_eq!(counters.frames_dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_lane_is_bounded_by_bytes() {
        let (queue, counters) = queue();
        let half = frame(LANE_BYTES_MAX / 4);
        (0..5).for_each(|_| queue.push(half.clone()));
        assert_eq!(queue.waiting(), (4, LANE_BYTES_MAX));
        queue.push(frame(1));
        assert_eq!(counters.frames_dropped.load(Ordering::Relaxed), 2);
        let mut taken = Vec::new();
        assert_eq!(queue.take(&mut taken), More::Later);
        assert_eq!((taken.len(), queue.waiting().0), (1, 3));
        queue.push(frame(1));
        assert_eq!(counters.frames_dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn frames_that_cannot_travel_are_dropped() {
        let (queue, counters) = queue();
        queue.push(Frame::default());
        queue.push(frame(FRAME_BYTES_MAX + 1));
        assert_eq!(
            (queue.waiting().0, counters.frames_dropped.load(Ordering::Relaxed)),
            (0, 2)
        );
    }

    #[test]
    fn a_closed_lane_takes_and_keeps_nothing() {
        let (queue, counters) = queue();
        queue.push(frame(1));
        queue.close();
        queue.push(frame(1));
        assert_eq!(
            (queue.waiting(), counters.frames_unlinked.load(Ordering::Relaxed)),
            ((0, 0), 2)
        );
        assert_eq!(queue.take(&mut Vec::new()), More::Never);
    }
}
