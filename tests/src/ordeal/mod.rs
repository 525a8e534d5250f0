//! The kill test: three real processes behind proxies, clients of both protocols, and faults by seed. Afterwards every
//! key's history must be linearizable, every acknowledged write be there through every node, and the service must have
//! been back soon after each healing. A run in which too little happened is INVALID and fails.
//!
//! ```text
//! cargo run -p flotilla-tests --bin ordeal -- --seconds 3600 --seed 7
//! ```
//!
//! The seed decides what clients ask for and which faults come when; what they meet is up to the operating system, so a
//! seed brings back the plan of a run, not the run.

mod native;
mod nemesis;
mod probe;
mod record;
mod redis;
mod report;
mod watchdog;
mod workload;

pub use report::Report;

use crate::cluster::{Cluster, Node, flotilla};
use crate::history::{Limits, Operation, Verdict, judge, losses};
use flotilla_client::{ClientOptions, Tls};
use nemesis::Nemesis;
use record::Record;
use redis::Manner;
use report::Fault;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watchdog::{Watchdog, log_ends};
use workload::{Draws, Part};

/// Ranges of the cluster.
const RANGES: usize = 12;
/// Patient clients: the first half speaks the native protocol, the others Redis. They go where they are served.
const CLIENTS: u32 = 8;
/// Besides them, impatient ones stay with each node: on two keys one only reads and one only writes. They see the time in
/// which two nodes may both take themselves for a leader, while patient ones wait for the one that is cut off.
const IMPATIENT: [Part; 4] = [Part::Watcher(0), Part::Hasty(0), Part::Watcher(1), Part::Hasty(1)];
const IMPATIENCE: Manner = Manner {
    patience: Duration::from_millis(100),
    pause_us: 20_000,
    stays: true,
};
/// Readers at the end have numbers from here.
const READERS_FROM: u32 = 100;
/// Mean pause of a patient client between operations, in microseconds.
const PAUSE_US: u64 = 15_000;
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The service must be back this soon after a fault was healed and all processes run again.
const SERVICE_BACK_MAX: Duration = Duration::from_secs(5);
/// They must run this soon after they were started again: little data lies on their disks.
const UP_MAX: Duration = Duration::from_secs(20);
/// SIGTERM must have ended a node by then.
const STOP_MAX: Duration = Duration::from_secs(30);
/// The longest any step of a run may take before the run counts as standing still. Only building may take longer.
const STEP_MAX: Duration = Duration::from_secs(240);
const BUILD_MAX: Duration = Duration::from_secs(1800);

/// How long, and what happens.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Names the draws.
    pub seed: u64,
    /// Faults come for so long; starting, reading and judging take some more.
    pub seconds: u64,
}

impl Plan {
    /// A fault holds between these times: short runs have short ones.
    fn fault_lasts(&self) -> (Duration, Duration) {
        let high = if self.seconds < 120 { 1_200 } else { 4_000 };
        (Duration::from_millis(300), Duration::from_millis(high))
    }

    /// Operations that must be answered.
    fn answered_min(&self) -> u64 {
        self.seconds * 20
    }

    /// How often each kind of fault must have happened: a fault with its recovery takes eight seconds at most, on average.
    fn times_min(&self) -> u64 {
        (self.seconds / (nemesis::Kind::ALL.len() as u64 * 8)).max(1)
    }
}

/// Runs it. Always ends: with a report, or with the process itself if something stands still for minutes.
pub fn run(plan: Plan) -> Report {
    let begin = Instant::now();
    let record = Arc::new(Record::new());
    let watchdog = Watchdog::start(Arc::clone(&record), "building the binary", BUILD_MAX);
    flotilla();
    watchdog.enter("starting the cluster", STEP_MAX);
    let (mut cluster, links) = Cluster::start_behind_links(3, RANGES, &[], plan.seed);
    cluster.dir.disable_cleanup(true);
    watchdog.look_into(cluster.dir.path());
    let clients = Clients::start(&record, &cluster, plan.seed);
    let mut nemesis = Nemesis::new(cluster, links, plan.seed);
    let (faults, mut failures) = torment(&plan, &record, &mut nemesis, &watchdog);
    watchdog.enter("the clients' last answers", STEP_MAX);
    record.stop();
    clients.join();
    let last_reads = record.now();
    watchdog.enter("the last reads", STEP_MAX);
    failures.extend(read_everything(&record, &nemesis.cluster));
    failures.extend(nemesis.deaths());
    watchdog.enter("stopping", STEP_MAX);
    failures.extend(stop_cleanly(&mut nemesis));
    failures.extend(record.odds().into_iter().take(5));
    watchdog.enter("judging", STEP_MAX);
    let history = record.history();
    let losses = losses(&history, last_reads);
    failures.extend(losses.iter().take(5).map(ToString::to_string));
    let judging = Instant::now();
    let judgement = judge(&history, Limits::default());
    let report = Report {
        plan,
        took: begin.elapsed(),
        faults,
        judged_in: judging.elapsed(),
        judgement,
        acknowledged_writes: history.iter().filter(|one| one.is_acknowledged_write()).count(),
        history,
        failures,
    };
    keep_or_remove(&record, &mut nemesis.cluster, &report);
    report
}

/// Fault after fault, until the time is over and every kind came, or something broke for good.
fn torment(
    plan: &Plan,
    record: &Record,
    nemesis: &mut Nemesis,
    watchdog: &Watchdog,
) -> (Vec<Fault>, Vec<String>) {
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut faults: Vec<Fault> = Vec::new();
    let mut judged_until = 0;
    while Instant::now() < end || faults.len() < nemesis::Kind::ALL.len() {
        let kind = nemesis.next_kind();
        watchdog.enter(kind.name(), STEP_MAX);
        let fault = strike_and_heal(plan, record, nemesis, kind);
        let is_over = fault.back.served.is_none();
        faults.push(fault);
        let mut failures = nemesis.deaths();
        failures.extend(violated(record, &mut judged_until));
        if is_over || !failures.is_empty() {
            return (faults, failures);
        }
    }
    (faults, Vec::new())
}

/// Whether what clients saw so far has no order, judged over what is new. The last judgement is over everything; this one
/// only ends a run that has found something.
fn violated(record: &Record, judged_until: &mut u64) -> Option<String> {
    let since = std::mem::replace(judged_until, record.now());
    let recent = record.history_of_recent(since);
    let is_violated = matches!(judge(&recent, Limits::default()).verdict, Verdict::Violated(_));
    let seconds = record.now() as f64 / 1e9;
    is_violated.then(|| format!("found {seconds:.1} s after the beginning, by the order of answers"))
}

/// Some calm, a fault, and the way back from it.
fn strike_and_heal(plan: &Plan, record: &Record, nemesis: &mut Nemesis, kind: nemesis::Kind) -> Fault {
    let (low, high) = plan.fault_lasts();
    let calm = nemesis.while_between(low, high / 3);
    std::thread::sleep(calm); // pace: clients work undisturbed between two faults
    let (began, before) = (record.now(), record.answered());
    let harm = nemesis.inject(kind);
    let lasts = nemesis.while_between(low, high);
    std::thread::sleep(lasts); // pace: the fault holds
    let answered = record.answered() - before;
    let happened = nemesis.heal(&harm);
    let healed = record.now();
    let back = probe::comeback(record, &nemesis.cluster.nodes, RANGES);
    Fault {
        kind: harm.kind,
        began,
        healed,
        back,
        happened,
        answered,
    }
}

/// What runs beside the faults.
struct Clients {
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(record: &Arc<Record>, cluster: &Cluster, seed: u64) -> Clients {
        let natives = CLIENTS / 2;
        let mut threads = vec![start_natives(record, cluster, seed, natives)];
        let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
        let patient = Manner {
            patience: PATIENCE,
            pause_us: PAUSE_US,
            stays: false,
        };
        let patients = (natives..CLIENTS).map(|_| (Part::Redis, patient));
        let impatients = IMPATIENT
            .into_iter()
            .flat_map(|part| ports.iter().map(move |_| (part, IMPATIENCE)));
        for (number, (part, manner)) in (natives..).zip(patients.chain(impatients)) {
            let (record, ports) = (Arc::clone(record), ports.clone());
            let draws = Draws::new(seed, number, part);
            let run = move || redis::run(&record, &ports, draws, manner);
            threads.push(std::thread::spawn(run));
        }
        let record = Arc::clone(record);
        threads.push(std::thread::spawn(move || record.feel_pulse()));
        Clients { threads }
    }

    fn join(self) {
        let joined = self.threads.into_iter().map(JoinHandle::join);
        joined.for_each(|thread| thread.expect("no client panics"));
    }
}

/// The native clients, on one thread; each prefers another node.
fn start_natives(record: &Arc<Record>, cluster: &Cluster, seed: u64, count: u32) -> JoinHandle<()> {
    let record = Arc::clone(record);
    let path = |name: &str| cluster.dir.path().join(name);
    let tls = Tls::from_files(&path("ca.crt"), &path("client.crt"), &path("client.key"));
    let tls = tls.expect("the certificates were just made");
    let endpoints: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.quic_port))
        .collect();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let clients = (0..count).map(|number| {
                let mut options = ClientOptions::new(endpoints.clone(), tls.clone());
                options.first = number as usize;
                options.timeout = PATIENCE;
                let draws = Draws::new(seed, number, Part::Native);
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    // Every other one has a connection for each node and asks leaders; the others let nodes forward.
                    let connections = if number % 2 == 0 { 1 } else { 3 };
                    native::run(&record, options, connections, draws, PAUSE_US).await;
                })
            });
            for client in clients.collect::<Vec<_>>() {
                client.await.expect("no client panics");
            }
        });
    })
}

/// Every key through every node.
fn read_everything(record: &Record, cluster: &Cluster) -> Option<String> {
    let keys: BTreeSet<u64> = record.history().iter().map(|one| one.key).collect();
    let keys: Vec<u64> = keys.into_iter().collect();
    let readers = (READERS_FROM..).zip(&cluster.nodes);
    let failed = |(reader, node): (u32, &Node)| {
        let error = redis::read_all(record, node.resp_port, reader, &keys).err()?;
        Some(format!("the last reads, through node {}: {error}", node.id))
    };
    readers.filter_map(failed).next()
}

/// SIGTERM ends every node with code 0.
fn stop_cleanly(nemesis: &mut Nemesis) -> Vec<String> {
    let running = nemesis.cluster.nodes.iter_mut().filter(|node| node.is_running());
    let failed = |node: &mut Node| match node.stop_within(STOP_MAX) {
        Ok(status) if status.code() == Some(0) => None,
        Ok(status) => Some(format!("node {} ended with {status} after SIGTERM", node.id)),
        Err(why) => Some(why),
    };
    running.filter_map(failed).collect()
}

/// After a failure logs, data and history stay.
fn keep_or_remove(record: &Record, cluster: &mut Cluster, report: &Report) {
    if report.failure().is_none() {
        return cluster.dir.disable_cleanup(false);
    }
    let path = cluster.dir.path().join("history.jsonl");
    let kept = record.write(&path);
    print!("{}", log_ends(cluster.dir.path()));
    println!(
        "logs and data of the failed run: {} ({kept:?})",
        cluster.dir.path().display()
    );
    println!("history: {}, {} operations", path.display(), report.history.len());
    println!(
        "again: ordeal --seconds {} --seed {}",
        report.plan.seconds, report.plan.seed
    );
}

/// Reads a history that a failed run left.
pub fn read_history(text: &str) -> Vec<Operation> {
    let parse = |line: &str| serde_json::from_str(line).expect("a line of a history");
    text.lines().map(parse).collect()
}
