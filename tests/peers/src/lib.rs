//! What the drivers share: CPU time of this process, and latencies as the JSON fields that `report.py` reads.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::time::Duration;

/// CPU time of this process so far, user and system.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Rate, latencies in microseconds and CPU per operation, of a histogram of nanoseconds.
pub fn figures(latencies: &Histogram<u64>, measured: Duration, cpu: Duration) -> Value {
    let micros = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let count = latencies.len();
    json!({
        "ops_per_second": count as f64 / measured.as_secs_f64(),
        "p50_us": micros(0.5), "p90_us": micros(0.9), "p99_us": micros(0.99), "max_us": latencies.max() as f64 / 1000.0,
        "cpu_us_per_op": cpu.as_secs_f64() * 1e6 / (count.max(1) as f64),
    })
}
