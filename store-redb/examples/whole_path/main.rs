//! The whole path of a write, durable append + apply + purge, beside the same work with everything in redb; and the
//! log's latency with and without a checkpoint running. 1,000 groups, 1,000 keys each, 100-byte values, 256 writes a
//! batch, uniformly random. The state of both sides is checked against a model at the end.
//!
//! `cargo run --release -p store-redb --example whole_path -- throughput DIRECTORY [ROUNDS] [SECONDS]`
//! `cargo run --release -p store-redb --example whole_path -- latency DIRECTORY [SECONDS]`

mod baseline;
mod device;
mod latency;
mod load;
mod node;

use baseline::Baseline;
use device::Device;
use load::{BATCH, Load};
use node::Node;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a slice of one side's time did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    entries: u64,
    time: Duration,
    /// Bytes the device wrote meanwhile, other processes' included.
    device_bytes: u64,
}

impl Slice {
    fn rate(&self) -> f64 {
        self.entries as f64 / self.time.as_secs_f64()
    }

    /// Bytes written per byte of key and value.
    fn amplification(&self) -> f64 {
        self.device_bytes as f64 / (self.entries as f64 * load::PAIR_BYTES as f64)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| {
        let text = arguments.get(at);
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let directory = PathBuf::from(arguments.get(1).map_or(".", String::as_str));
    match arguments.first().map(String::as_str) {
        Some("throughput") => throughput(&directory, number(2, 5.0) as usize, number(3, 4.0)),
        Some("latency") => latency::run(&directory, number(2, 12.0)),
        _ => eprintln!(
            "usage: whole_path throughput DIRECTORY [ROUNDS] [SECONDS] | latency DIRECTORY [SECONDS]"
        ),
    }
}

/// Both sides in turn. Before the other side's turn a checkpoint writes out what ours still holds in memory.
fn throughput(directory: &Path, rounds: usize, seconds: f64) {
    let device = Device::of(directory);
    let mut baseline = Baseline::open(&directory.join("whole-path-baseline"));
    eprintln!("the baseline holds {} keys", load::KEYS);
    let mut node = Node::open(&directory.join("whole-path-node"));
    eprintln!(
        "both sides hold {} keys; {rounds} rounds of {seconds} s a side",
        load::KEYS
    );
    let slice = Duration::from_secs_f64(seconds);
    let mut rounds_done = Vec::new();
    for round in 1..=rounds {
        let theirs = baseline.run_for(&device, slice);
        let one = node.run_for(&device, slice, 1);
        let two = node.run_for(&device, slice, 2);
        print_round(round, &theirs, &one, &two);
        rounds_done.push((theirs, one, two));
    }
    let median_of =
        |ratio: fn(&(Slice, Slice, Slice)) -> f64| median(rounds_done.iter().map(ratio).collect());
    println!(
        "medians: all in redb {:.0} entries/s; node file, 1 batch outstanding {:.0} ({:.1} times), 2 batches {:.0} \
         ({:.1} times)",
        median_of(|(theirs, ..)| theirs.rate()),
        median_of(|(_, one, _)| one.rate()),
        median_of(|(theirs, one, _)| one.rate() / theirs.rate()),
        median_of(|(.., two)| two.rate()),
        median_of(|(theirs, _, two)| two.rate() / theirs.rate()),
    );
    let longest = node.checkpoints.iter().max().copied().unwrap_or_default();
    println!(
        "{:.0} entries a log write; {} checkpoints, {:.1?} in all, the longest {longest:.1?}; {:.1?} full",
        node.entries_per_commit(),
        node.checkpoints.len(),
        node.checkpoints.iter().sum::<Duration>(),
        node.refused,
    );
    baseline.close();
    node.close();
}

fn print_round(round: usize, theirs: &Slice, one: &Slice, two: &Slice) {
    let show = |slice: &Slice| format!("{:>7.0}/s (wrote {:>5.1}x)", slice.rate(), slice.amplification());
    println!(
        "round {round}: all in redb {}; node file {} and {}; ratios {:.1} and {:.1}; batches of {BATCH}",
        show(theirs),
        show(one),
        show(two),
        one.rate() / theirs.rate(),
        two.rate() / theirs.rate(),
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A fresh file.
pub(crate) fn fresh(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::NotFound,
            "{}: {error}",
            path.display()
        );
    }
}

/// Writes every key once, then checks nothing: both sides start from the same state.
pub(crate) fn preload() -> impl Iterator<Item = load::Batch> {
    let mut load = Load::in_order();
    (0..load::KEYS / BATCH as u64).map(move |_| load.next_batch())
}
