//! How fast the core is with nothing around it: three nodes in this process, one worker each, a disk without latency.
//! One writer means one write outstanding; n writers mean n. CPU is that of the whole process, all three nodes.
//!
//! Run it: `cargo run --release -p multiraft --example pace [writes-per-run]`

use bytes::Bytes;
use multiraft::host::{Host, Intake, Observer, WorkerParts};
use multiraft::testing::{MemDisk, MemNetwork, SyncMode, Tally};
use multiraft::{
    AnswerSink, Birth, Control, Counters, EntryId, GroupId, InboxLimits, Membership, NodeId, Outcome,
    ReplicaId, Ticket, Turn, WorkerOptions,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const NODES: u64 = 3;

/// Keeps the last counters and who leads.
#[derive(Default)]
struct Seen {
    led: AtomicU64,
    counters: Mutex<Counters>,
}

impl Observer for Seen {
    fn on_turn(&self, _worker: usize, turn: &Turn, counters: &Counters) {
        let led = turn
            .leadership
            .iter()
            .filter(|(_, change)| change.is_self)
            .count();
        self.led.fetch_add(led as u64, Ordering::Relaxed);
        if counters.turns.is_multiple_of(64) {
            self.counters.lock().expect("no panic").clone_from(counters);
        }
    }
}

fn start(network: &MemNetwork, node: u64, groups: u64, seen: Arc<Seen>) -> Host {
    let intake = Intake::new(1, InboxLimits::default());
    let link = Arc::new(network.link(NodeId(node)));
    let disk = MemDisk::new(SyncMode::AtOnce);
    disk.start(vec![intake.sink(0, link.clone())]);
    let receiver = intake.clone();
    network.listen(
        NodeId(node),
        Arc::new(move |from, frame| receiver.deliver(from, &frame).expect("our own frame")),
    );
    for group in 1..=groups {
        intake.order(Control::Create(Birth {
            group: GroupId(group),
            replica: ReplicaId(node),
            membership: Membership::of_voters((1..=NODES).map(|node| (ReplicaId(node), NodeId(node)))),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        }));
    }
    let parts = WorkerParts {
        storage: disk.storage(0),
        machine: Tally::new(disk.clone()),
        restored: disk.restore(),
    };
    let mut options = WorkerOptions {
        seed: node,
        ..WorkerOptions::default()
    };
    // On a crowded machine a worker may not run for a while: that must not end a leadership here.
    options.replica.election_timeout_min = Duration::from_secs(5);
    options.replica.election_timeout_max = Duration::from_secs(10);
    Host::start(intake, link, vec![parts], &options, seen)
}

/// Writers that propose again as soon as they are answered, on the worker's own thread: no cost but the core's.
struct Writers {
    intake: Intake,
    groups: u64,
    payload: Bytes,
    left: AtomicU64,
    outstanding: AtomicU64,
    failed: AtomicBool,
    done: Mutex<mpsc::Sender<()>>,
    this: std::sync::Weak<Writers>,
}

impl Writers {
    fn propose(&self, number: u64) {
        let sink = self.this.upgrade().expect("it is running");
        let group = GroupId(1 + number % self.groups);
        self.intake
            .propose(group, self.payload.clone(), Ticket { sink, number });
    }
}

impl AnswerSink for Writers {
    fn answer(&self, number: u64, outcome: Outcome) {
        if !matches!(outcome, Outcome::Answered(_)) {
            self.failed.store(true, Ordering::Relaxed);
        }
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            self.propose(number);
        } else if self.outstanding.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = self.done.lock().expect("no panic").send(());
        }
    }
}

/// CPU time of this process, in clock ticks of 10 ms, from /proc.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Writes per second, and microseconds of CPU per write.
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn run(writers: u64, groups: u64, writes: u64, bytes: usize) -> (f64, f64) {
    let network = MemNetwork::new();
    let seen = Arc::new(Seen::default());
    let hosts: Vec<Host> = (1..=NODES)
        .map(|node| start(&network, node, groups, Arc::clone(&seen)))
        .collect();
    let (done, finished) = mpsc::channel();
    for group in 1..=groups {
        hosts[0].intake().order(Control::Campaign(GroupId(group)));
    }
    while seen.led.load(Ordering::Relaxed) < groups {
        std::thread::yield_now();
    }
    let all = Arc::new_cyclic(|this| Writers {
        intake: hosts[0].intake().clone(),
        groups,
        payload: Bytes::from(vec![1; bytes]),
        left: AtomicU64::new(writes.saturating_sub(writers)),
        outstanding: AtomicU64::new(writers),
        failed: AtomicBool::new(false),
        done: Mutex::new(done),
        this: this.clone(),
    });
    let (began, spent) = (std::time::Instant::now(), cpu());
    (0..writers).for_each(|number| all.propose(number));
    finished.recv().expect("the writers finish");
    let (took, spent) = (began.elapsed(), cpu() - spent);
    assert!(!all.failed.load(Ordering::Relaxed), "a write was not answered");
    hosts.into_iter().for_each(Host::stop);
    let writes = writes.max(writers) as f64;
    (writes / took.as_secs_f64(), spent.as_secs_f64() * 1e6 / writes)
}

fn main() {
    let writes: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(200_000);
    println!(
        "{:>8} {:>7} {:>6} {:>12} {:>14}",
        "writers", "groups", "bytes", "writes/s", "cpu us/write"
    );
    for (writers, groups, factor) in [(1, 1, 1), (16, 1, 2), (1024, 1, 10), (1024, 1000, 5)] {
        for bytes in [8, 256] {
            let (rate, cost) = run(writers, groups, writes * factor, bytes);
            println!("{writers:>8} {groups:>7} {bytes:>6} {rate:>12.0} {cost:>14.2}");
        }
    }
}

#[test]
fn every_write_is_answered() {
    let (rate, _) = run(32, 4, 2_000, 16);
    assert!(rate > 0.0);
}
