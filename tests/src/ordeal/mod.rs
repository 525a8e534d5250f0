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
mod workload;

pub use report::Report;

use crate::cluster::Cluster;
use crate::history::{Limits, Operation, judge, losses};
use flotilla_client::{ClientOptions, Pool, Tls};
use nemesis::Nemesis;
use record::Record;
use report::Fault;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use workload::{Draws, Protocol};

/// Ranges of the cluster.
const RANGES: usize = 12;
/// Clients: the first half speaks the native protocol, the others Redis.
const CLIENTS: u32 = 8;
/// Readers at the end have numbers from here.
const READERS_FROM: u32 = 100;
/// Mean pause of a client between operations, in microseconds.
const PAUSE_US: u64 = 15_000;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The service must be back this soon after a fault was healed.
const SERVICE_BACK_MAX: Duration = Duration::from_secs(5);

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

    /// How often each kind of fault must have happened: a fault with its recovery takes ten seconds at most.
    fn times_min(&self) -> u64 {
        (self.seconds / (nemesis::Kind::ALL.len() as u64 * 10)).max(1)
    }
}

/// Runs it.
pub fn run(plan: Plan) -> Report {
    let begin = Instant::now();
    let (mut cluster, links) = Cluster::start_behind_links(3, RANGES, &[], plan.seed);
    cluster.dir.disable_cleanup(true);
    let record = Arc::new(Record::new());
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    let clients = Clients::start(&record, &cluster, plan.seed);
    let mut nemesis = Nemesis::new(cluster, links, plan.seed);
    let (faults, mut failures) = torment(&plan, &record, &mut nemesis, &ports);
    record.stop();
    clients.join();
    let last_reads = record.now();
    let keys: BTreeSet<u64> = record.history().iter().map(|one| one.key).collect();
    failures.extend(read_everything(
        &record,
        &ports,
        &keys.into_iter().collect::<Vec<_>>(),
    ));
    failures.extend(nemesis.deaths());
    failures.extend(stop_cleanly(&mut nemesis));
    failures.extend(record.odds().into_iter().take(5));
    let history = record.history();
    failures.extend(
        losses(&history, last_reads)
            .iter()
            .take(5)
            .map(ToString::to_string),
    );
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
fn torment(plan: &Plan, record: &Record, nemesis: &mut Nemesis, ports: &[u16]) -> (Vec<Fault>, Vec<String>) {
    let (low, high) = plan.fault_lasts();
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut faults: Vec<Fault> = Vec::new();
    while Instant::now() < end || faults.len() < nemesis::Kind::ALL.len() {
        let calm = nemesis.while_between(low, high / 3);
        std::thread::sleep(calm); // pace: clients work undisturbed between two faults
        let kind = nemesis.next_kind();
        let (began, before) = (record.now(), record.answered());
        let harm = nemesis.inject(kind);
        let lasts = nemesis.while_between(low, high);
        std::thread::sleep(lasts); // pace: the fault holds
        let answered = record.answered() - before;
        let deaths = nemesis.deaths();
        if !deaths.is_empty() {
            return (faults, deaths);
        }
        let happened = nemesis.heal(&harm);
        let healed = record.now();
        let back = probe::service_back(record, ports, RANGES);
        faults.push(Fault {
            kind: harm.kind,
            began,
            healed,
            back,
            happened,
            answered,
        });
        if back.is_none() {
            break;
        }
    }
    (faults, Vec::new())
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
        for number in natives..CLIENTS {
            let (record, ports) = (Arc::clone(record), ports.clone());
            let draws = Draws::new(seed, number, Protocol::Redis);
            let run = move || redis::run(&record, &ports, draws, PATIENCE, PAUSE_US);
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
                let draws = Draws::new(seed, number, Protocol::Native);
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    // Every other one has a connection for each node and asks leaders; the others let nodes forward.
                    let connections = if number % 2 == 0 { 1 } else { 3 };
                    let pool = Pool::connect(options, connections).await;
                    let pool = pool.expect("all nodes are ready");
                    native::run(&record, pool, draws, PAUSE_US).await;
                })
            });
            for client in clients.collect::<Vec<_>>() {
                client.await.expect("no client panics");
            }
        });
    })
}

/// Every key through every node.
fn read_everything(record: &Record, ports: &[u16], keys: &[u64]) -> Option<String> {
    let readers = (READERS_FROM..).zip(ports);
    let failed = |(reader, port): (u32, &u16)| redis::read_all(record, *port, reader, keys).err();
    let error = readers.filter_map(failed).next()?;
    Some(format!("the last reads: {error}"))
}

/// SIGTERM ends every node with code 0.
fn stop_cleanly(nemesis: &mut Nemesis) -> Vec<String> {
    let running = nemesis.cluster.nodes.iter_mut().filter(|node| node.is_running());
    let ended = running.map(|node| (node.id, node.stop()));
    ended
        .filter(|(_, status)| status.code() != Some(0))
        .map(|(id, status)| format!("node {id} ended with {status} after SIGTERM"))
        .collect()
}

/// After a failure logs, data and history stay.
fn keep_or_remove(record: &Record, cluster: &mut Cluster, report: &Report) {
    if report.failure().is_none() {
        return cluster.dir.disable_cleanup(false);
    }
    let path = cluster.dir.path().join("history.jsonl");
    let kept = record.write(&path);
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
