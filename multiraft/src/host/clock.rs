//! The host's clocks: the one place where this crate asks the system for the time.

use crate::types::{Instant, Stamp};
use crate::worker::Clock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Monotonic time since this clock was made, and wall time. All threads of a host share one origin.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    origin: std::time::Instant,
}

impl HostClock {
    /// Begins to count.
    #[expect(clippy::disallowed_methods, reason = "the host owns the clock")]
    pub fn new() -> HostClock {
        HostClock {
            origin: std::time::Instant::now(),
        }
    }
}

impl Default for HostClock {
    fn default() -> HostClock {
        HostClock::new()
    }
}

impl Clock for HostClock {
    fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).expect("centuries of uptime"))
    }

    /// A wall clock before 1970 counts as 1970: leaders never stamp below the group clock anyway.
    #[expect(clippy::disallowed_methods, reason = "the host owns the clock")]
    fn stamp(&self) -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp(u64::try_from(since.as_millis()).expect("a year below 584 million"))
    }
}
