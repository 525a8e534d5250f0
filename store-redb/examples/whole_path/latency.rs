//! The log's latency: from handing in a batch until it is durable, beside a checkpoint and without one.

use crate::device::Device;
use crate::load::BATCH;
use crate::node::{Node, Sample};
use hdrhistogram::Histogram;
use std::path::Path;
use std::time::Duration;

/// Batches a second in the open loops.
const RATES: [u64; 2] = [400, 800];

/// Runs open loops, then a closed one.
pub(crate) fn run(directory: &Path, seconds: f64) {
    let mut node = Node::open(&directory.join("whole-path-node"));
    let time = Duration::from_secs_f64(seconds);
    for rate in RATES {
        let refused = node.run_paced(time, Duration::from_secs(1) / u32::try_from(rate).expect("small"));
        println!("{rate} batches of {BATCH}/s, {refused} refused because the node was full:");
        report(&mut node);
    }
    let slice = node.run_for(&Device::of(directory), time, 1);
    println!(
        "closed loop, 1 batch of {BATCH} outstanding, {:.0} entries/s:",
        slice.rate()
    );
    report(&mut node);
    node.close();
}

fn report(node: &mut Node) {
    let samples = std::mem::take(&mut node.samples);
    let checkpoints = std::mem::take(&mut node.checkpoints);
    let longest = checkpoints.iter().max().copied().unwrap_or_default();
    let total: Duration = checkpoints.iter().sum();
    println!(
        "  {} checkpoints, {total:.1?} of them, the longest {longest:.1?}",
        checkpoints.len()
    );
    print_row(
        "without a checkpoint",
        samples.iter().filter(|sample| !sample.is_beside_checkpoint),
    );
    print_row(
        "beside a checkpoint",
        samples.iter().filter(|sample| sample.is_beside_checkpoint),
    );
}

fn print_row<'a>(name: &str, samples: impl Iterator<Item = &'a Sample>) {
    const MICROSECONDS_MAX: u64 = 60_000_000;
    let mut histogram = Histogram::<u64>::new_with_max(MICROSECONDS_MAX, 3).expect("the bounds are sound");
    samples.for_each(|sample| histogram.saturating_record(sample.latency.as_micros() as u64));
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "  {name:<21} {:>7} appends: p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
        histogram.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        histogram.max() as f64 / 1000.0,
    );
}
