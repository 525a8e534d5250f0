//! `flotilla dev`: a whole cluster in one process. Makes what is missing, waits for leaders, says how to use it.

use super::node::{Node, Plan};
use super::ports::Listeners;
use super::signals::Signals;
use super::{credentials, start_logging, store_options};
use crate::exit::{Code, Failure};
use crate::options::{DevOptions, NodeOptions};
use crate::trust::{self, Files, LEAF_LIFETIME};
use multiraft::NodeId;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for leaders before saying that something is wrong.
const LEADERS_PATIENCE: Duration = Duration::from_secs(30);
/// How often to look for them.
const LOOK: Duration = Duration::from_millis(2);
/// Largest ring, memtables and cache of each node: several share one machine.
const RING_BYTES_MAX: u64 = 256 << 20;
const MEMTABLE_BYTES_MAX: u64 = 32 << 20;
const CACHE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the ring prepared at a time: a first start should be quick.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;

/// Runs a cluster until SIGINT or SIGTERM, then stops it cleanly. A second signal ends the process at once.
pub fn run_dev(options: DevOptions) -> Result<(), Failure> {
    let started = Instant::now();
    start_logging(&options.shared.log)?;
    let signals = Signals::listen()?;
    let cluster = Cluster::start(&options)?;
    if !cluster.wait_for_leaders(&signals)? {
        return cluster.stop();
    }
    print!("{}", welcome(&options, cluster.ranges(), started.elapsed()));
    signals.next();
    println!("stopping; the data stays in {}", options.data_dir.display());
    cluster.stop()
}

/// A development cluster in this process.
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Takes all ports first, then makes certificates, then starts the nodes.
    pub fn start(options: &DevOptions) -> Result<Cluster, Failure> {
        let nodes = options.all();
        let listeners = nodes.iter().map(|node| Listeners::bind(&node.listen));
        let listeners: Vec<Listeners> = listeners.collect::<Result<_, _>>()?;
        make_certificates(&options.data_dir, &nodes)?;
        let plans = nodes
            .into_iter()
            .zip(listeners)
            .map(|(node, listeners)| plan(node, listeners));
        let plans: Vec<Plan> = plans.collect::<Result<_, _>>()?;
        // Side by side: each prepares its log ring, which takes a moment.
        let starting: Vec<_> = plans
            .into_iter()
            .map(|plan| std::thread::spawn(|| Node::start(plan)))
            .collect();
        let mut cluster = Cluster { nodes: Vec::new() };
        let mut failure = None;
        for node in starting {
            match node.join().expect("a start that panics ends the process") {
                Ok(node) => cluster.nodes.push(node),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            None => Ok(cluster),
            Some(failure) => cluster.stop().and(Err(failure)),
        }
    }

    /// Waits until every node knows the leader of every group. False: a signal came first.
    fn wait_for_leaders(&self, signals: &Signals) -> Result<bool, Failure> {
        let started = Instant::now();
        while !self.knows_leaders() {
            if signals.wait_for(LOOK) {
                return Ok(false);
            }
            if started.elapsed() > LEADERS_PATIENCE {
                return Err(Failure::new(
                    Code::NotHealthy,
                    format!("no leaders after {} s", LEADERS_PATIENCE.as_secs()),
                )
                .hint("look at the log above, or start again with --log-level debug"));
            }
        }
        Ok(true)
    }

    /// True when every node knows the leader of every group.
    pub fn knows_leaders(&self) -> bool {
        self.nodes.iter().all(|node| {
            let (known, groups) = node.known_leaders();
            known == groups
        })
    }

    /// Ranges of the cluster.
    pub fn ranges(&self) -> usize {
        self.nodes.first().map_or(0, Node::ranges)
    }

    /// Stops all nodes, side by side: none waits for the others to elect new leaders.
    pub fn stop(self) -> Result<(), Failure> {
        std::thread::scope(|scope| {
            self.nodes
                .iter()
                .for_each(|node| drop(scope.spawn(|| node.drain())))
        });
        let stopping = self
            .nodes
            .into_iter()
            .map(|node| std::thread::spawn(move || node.stop()));
        for node in stopping.collect::<Vec<_>>() {
            node.join().expect("a stop that panics ends the process");
        }
        Ok(())
    }
}

fn plan(mut options: NodeOptions, listeners: Listeners) -> Result<Plan, Failure> {
    let storage = &mut options.storage;
    storage.ring_bytes = storage.ring_bytes.min(RING_BYTES_MAX);
    storage.memtable_bytes = storage.memtable_bytes.min(MEMTABLE_BYTES_MAX);
    storage.cache_bytes = storage.cache_bytes.min(CACHE_BYTES_MAX);
    Ok(Plan {
        credentials: credentials(&options.certs, options.node_id)?,
        listeners,
        store: store_options(&options.storage, options.workers, SEGMENT_BYTES_MAX),
        options,
    })
}

/// Makes the CA, the nodes' certificates and a client's, as far as they are missing.
fn make_certificates(directory: &Path, nodes: &[NodeOptions]) -> Result<(), Failure> {
    let failed = |error: trust::TrustError| Failure::new(Code::Configuration, error.to_string());
    if !Files::of_ca(directory).certificate.exists() {
        trust::create_ca(directory).map_err(failed)?;
    }
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    for node in nodes {
        if !Files::of_node(directory, node.node_id).certificate.exists() {
            trust::create_node(directory, node.node_id, &hosts, LEAF_LIFETIME).map_err(failed)?;
        }
    }
    if !Files::of_client(directory).certificate.exists() {
        trust::create_client(directory, "dev", LEAF_LIFETIME).map_err(failed)?;
    }
    Ok(())
}

/// What a user sees when everything runs.
fn welcome(options: &DevOptions, ranges: usize, took: Duration) -> String {
    let mut text = format!(
        "flotilla dev: {} nodes, {ranges} ranges, ready in {} ms\n\n  data    {} (kept: start again to find it)\n",
        options.nodes,
        took.as_millis(),
        options.data_dir.display()
    );
    for node in options.all() {
        let listen = &node.listen;
        writeln!(
            text,
            "  node {}  redis {}  quic {}  http {}",
            node.node_id.0, listen.resp, listen.quic, listen.http
        )
        .expect("writing to a string");
    }
    let first = &options.node(NodeId(1)).listen;
    let last = &options.node(NodeId(options.nodes as u64)).listen;
    write!(
        text,
        "\nTry\n  redis-cli -p {} set hello world\n  redis-cli -p {} get hello\n  curl 'http://{}/readyz?verbose'\n\
         \nCtrl-C stops.\n",
        first.resp.port(),
        last.resp.port(),
        first.http
    )
    .expect("writing to a string");
    text
}
