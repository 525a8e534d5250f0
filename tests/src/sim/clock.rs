//! Simulated time: one true clock for the world, and per node a monotonic clock that runs a little fast or slow.
//! Nodes see only their own; checkers and clients see the true one.

use raft_core::{Instant, Stamp};

/// True time in nanoseconds since the run began.
pub(super) type Nanos = u64;

/// One microsecond.
pub(super) const US: Nanos = 1_000;
/// One millisecond.
pub(super) const MS: Nanos = 1_000_000;
/// One second.
pub(super) const SECOND: Nanos = 1_000_000_000;

/// A node's clock: monotonic, with a rate that differs from the true one by a bounded share.
#[derive(Clone, Debug)]
pub(super) struct NodeClock {
    /// What it showed when the run began.
    offset: u64,
    /// Parts per million by which it runs fast (or slow, when negative).
    drift_ppm: i64,
    /// How far its wall clock is ahead, in milliseconds.
    wall_ahead_ms: u64,
    /// What it showed last: turns see strictly growing time.
    last: u64,
}

impl NodeClock {
    /// A clock that starts at `offset` and runs fast by `drift_ppm`.
    pub(super) fn new(offset: Nanos, drift_ppm: i64, wall_ahead_ms: u64) -> NodeClock {
        NodeClock {
            offset,
            drift_ppm,
            wall_ahead_ms,
            last: 0,
        }
    }

    /// What the clock shows at `now`; never twice the same.
    pub(super) fn read(&mut self, now: Nanos) -> Instant {
        self.last = self.shows(now).max(self.last + 1);
        Instant(self.last)
    }

    /// What the wall clock shows.
    pub(super) fn stamp(&self, now: Nanos) -> Stamp {
        Stamp(self.wall_ahead_ms + self.shows(now) / MS)
    }

    /// The true time at which the clock shows `local`: the first at or after it.
    pub(super) fn when(&self, local: Instant) -> Nanos {
        let elapsed = i128::from(local.0.saturating_sub(self.offset));
        let scale = 1_000_000 + i128::from(self.drift_ppm);
        let exact = (elapsed * 1_000_000 + scale - 1) / scale;
        Nanos::try_from(exact).unwrap_or(Nanos::MAX)
    }

    fn shows(&self, now: Nanos) -> u64 {
        let scaled = i128::from(now) * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000;
        self.offset + u64::try_from(scaled).expect("a run is shorter than 64 bits of nanoseconds")
    }
}

#[test]
fn a_deadline_is_never_met_early() {
    for drift_ppm in [-100_000, -37, 0, 41, 99_999] {
        let mut clock = NodeClock::new(12_345, drift_ppm, 0);
        for local in [12_345, 12_346, 1_000_000_007, 77 * SECOND] {
            let when = clock.when(Instant(local));
            assert!(clock.shows(when) >= local && (when == 0 || clock.shows(when - 1) <= local));
        }
        assert!(clock.read(5) < clock.read(5));
    }
}
