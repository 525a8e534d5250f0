//! A token bucket: how fast bulk streams may send. All of a node share one, so that snapshots leave room for the rest
//! on a link that they could fill: priorities order only what this node has not sent yet.

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    bytes_per_second: u64,
    /// How far behind its rate the bucket may catch up.
    burst: Duration,
    /// When everything let through so far would have been sent at the rate.
    paid_until: Mutex<Instant>,
}

impl Bucket {
    pub(crate) fn new(bytes_per_second: u64, burst: Duration) -> Bucket {
        Bucket {
            bytes_per_second: bytes_per_second.max(1),
            burst,
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until so many bytes may pass. First come, first served.
    pub(crate) async fn take(&self, bytes: usize) {
        let turn = self.reserve(bytes, Instant::now());
        sleep_until(turn).await;
    }

    /// When so many bytes may pass, which counts them as passed.
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paid_until = self.paid_until.lock().expect("no code that holds it panics");
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        let start = (*paid_until).max(earliest);
        *paid_until = start + cost;
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn bytes_pass_at_the_rate_and_idle_time_is_saved_up_to_the_burst() {
        let bucket = Bucket::new(1_000_000, 5 * MS);
        let begun = Instant::now() + MS;
        assert!(bucket.reserve(10_000, begun) <= begun, "the first goes at once");
        // Ten milliseconds' worth is paid from the start on.
        assert!(bucket.reserve(1_000, begun) >= begun + 4 * MS);
        let late = begun + 1000 * MS;
        assert_eq!(
            bucket.reserve(0, late),
            late - 5 * MS,
            "a second of silence buys a burst, no more"
        );
    }

    #[tokio::test]
    async fn over_any_long_time_the_rate_holds() {
        let bucket = Bucket::new(50_000_000, 4 * MS);
        let begun = Instant::now();
        let mut now = begun;
        let mut bytes = 0_u64;
        while now < begun + 2000 * MS {
            // A sleeper that always oversleeps.
            now = bucket.reserve(65_536, now).max(now) + MS / 2;
            bytes += 65_536;
        }
        assert!(
            (95_000_000..=101_000_000).contains(&bytes),
            "{bytes} bytes in two seconds"
        );
    }
}
