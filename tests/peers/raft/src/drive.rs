//! The load and the measuring, the same for every contender.

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub groups: usize,
    pub writers: usize,
    pub batch: usize,
    pub seconds: Duration,
    pub idle: Duration,
    pub heartbeat: Duration,
    /// openraft 0.10's `broadcast_submitted_on_append`.
    pub eager: bool,
    /// Ours: all turns on the runtime's threads.
    pub helped: bool,
}

impl Plan {
    /// The same for all contenders.
    pub fn election_timeouts(&self) -> (Duration, Duration) {
        (self.heartbeat * 20, self.heartbeat * 40)
    }
}

/// A contender: groups of three members in this process.
pub trait Cluster: Sized + Send + Sync + 'static {
    /// Called on each thread of the runtime.
    fn on_thread_start() {}
    /// Starts and forms all groups. Every group has a leader when it returns.
    fn start(plan: &Plan) -> impl Future<Output = Self> + Send;
    /// Replicates `batch` commands in one request; returns when the leader has applied them.
    fn write(&self, group: usize, batch: usize) -> impl Future<Output = ()> + Send;
}

/// CPU time and wall time at once.
pub struct Mark {
    cpu: Duration,
    at: Instant,
}

impl Mark {
    pub fn now() -> Mark {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(spent.tv_sec).expect("CPU time is not negative");
        let nanos = u32::try_from(spent.tv_nsec).expect("less than a second");
        Mark {
            cpu: Duration::new(seconds, nanos),
            at: Instant::now(),
        }
    }

    /// CPU time and wall time since then, in seconds.
    pub fn elapsed(&self) -> (f64, f64) {
        let now = Mark::now();
        (
            (now.cpu - self.cpu).as_secs_f64(),
            (now.at - self.at).as_secs_f64(),
        )
    }
}

/// Writes per second and CPU per write.
pub fn rates(writes: u64, (cpu, wall): (f64, f64)) -> Value {
    json!({
        "ops_per_second": writes as f64 / wall,
        "cpu_us_per_op": cpu * 1e6 / writes as f64,
        "writes": writes,
    })
}

/// A counter that shares its cache line with nobody.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicU64);

/// Forms the groups, leaves them alone, writes to them.
pub async fn measure<C: Cluster>(plan: Plan) -> Value {
    let before = resident_bytes();
    let cluster = Arc::new(C::start(&plan).await);
    for group in 0..plan.groups {
        cluster.write(group, 1).await;
    }
    let replicas = (plan.groups * crate::MEMBERS) as f64;
    let bytes_per_replica = (resident_bytes() as f64 - before as f64) / replicas;
    let mut idle = Value::Null;
    if !plan.idle.is_zero() {
        // pace: nothing happens, so that idle costs settle
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mark = Mark::now();
        // pace: as long as was asked for
        tokio::time::sleep(plan.idle).await;
        let (cpu, wall) = mark.elapsed();
        idle = json!(cpu / wall);
    }
    let mut line = load(&cluster, &plan).await;
    line["bytes_per_replica"] = json!(bytes_per_replica);
    line["idle_cores"] = idle;
    line
}

async fn load<C: Cluster>(cluster: &Arc<C>, plan: &Plan) -> Value {
    let counters: Arc<[Counter]> = (0..plan.writers).map(|_| Counter::default()).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..plan.writers)
        .map(|number| {
            let (cluster, counters, is_over) =
                (Arc::clone(cluster), Arc::clone(&counters), Arc::clone(&is_over));
            let (group, batch) = (number % plan.groups, plan.batch);
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    cluster.write(group, batch).await;
                    counters[number].0.fetch_add(batch as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let total = || {
        counters
            .iter()
            .map(|counter| counter.0.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    // pace: nobody measures yet
    tokio::time::sleep(plan.seconds / 5).await;
    let (mark, before) = (Mark::now(), total());
    // pace: as long as was asked for
    tokio::time::sleep(plan.seconds).await;
    let line = rates(total() - before, mark.elapsed());
    is_over.store(true, Ordering::Relaxed);
    drop(writers);
    line
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number is the resident set") * 4096
}
