//! One node: everything built in order, and stopped in reverse order.

use super::admin::Overview;
use super::board::Board;
use super::placement::{Placement, Settled, first_candidate};
use super::ports::{Listeners, transport_failure};
use super::workers::{FollowedSink, FollowedStorage, Frames};
use super::{certificates, duties, late, make_data_dir};
use crate::apply::{Expiries, Machine, Watch};
use crate::descriptor::RangeDescriptor;
use crate::exit::{Code, Failure};
use crate::gateway::http::{self, Pages};
use crate::gateway::native::Native;
use crate::gateway::resp::{self, RespCounters};
use crate::health::{Check, Health, Kind};
use crate::metrics::{Api, Identity, Metrics};
use crate::options::NodeOptions;
use crate::requests::{Call, CallFailed, Push, Requests, Routes, Wiring};
use crate::stages::Follower;
use multiraft::host::{self, Host, Intake, WorkerParts};
use multiraft::{CompletionSink, Control, InboxLimits, NodeId, Options, RestoredGroup, Space, WorkerOptions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store_redb::{Opened, Scrubbed, Store, worker_of};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use transport_quic::{CallError, Config, Credentials, NotSent, Sinks, Transport};

/// What a node is started from.
pub(super) struct Plan {
    /// How it behaves.
    pub(super) options: NodeOptions,
    /// Who it is.
    pub(super) credentials: Credentials,
    /// Its TCP ports, taken already.
    pub(super) listeners: Listeners,
    /// Sizes of the store.
    pub(super) store: store_redb::Options,
}

/// How long a stop waits for requests in flight, for leaders elsewhere, and for connections to end.
const DRAIN: Duration = Duration::from_secs(3);
/// A log of so many bytes is copied in no time when the file is closed.
const LITTLE_LOG: u64 = 4 << 20;
/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(5);
/// Share of groups that must know a leader for the node to be ready, in percent.
const READY_PERCENT: usize = 95;

/// A running node.
pub(super) struct Node {
    id: NodeId,
    board: Arc<Board>,
    host: Host,
    requests: Requests,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    transport: Arc<Transport>,
    store: Arc<Store>,
    stop: watch::Sender<bool>,
    gateways: Runtime,
    network: Runtime,
}

impl Node {
    /// Builds and starts everything: the node file, the network, the workers, the gateways.
    pub(super) fn start(plan: Plan) -> Result<Node, Failure> {
        let metrics = Arc::new(Metrics::new(&Identity {
            cluster: plan.credentials.cluster.to_string(),
            node: plan.options.node_id.0,
        }));
        certificates::note_expiry(&metrics, &plan.credentials);
        let opened = open_store(&plan, &metrics)?;
        let settled = settle(&plan.options, &opened.groups)?;
        let core = Core::start(&plan, &metrics, opened, settled)?;
        core.open_gateways(plan, &metrics)
    }

    /// Groups that know a leader, and groups with a replica here.
    pub(super) fn known_leaders(&self) -> (usize, usize) {
        self.board.known_leaders()
    }

    /// Ranges of the cluster.
    pub(super) fn ranges(&self) -> usize {
        self.requests.routes().descriptors().count()
    }

    /// Uses certificates that were read again, or keeps the old ones when they cannot be used.
    pub(super) fn reload_certificates(&self, read: Result<Credentials, Failure>) {
        certificates::reload(&self.transport, &self.metrics, read);
    }

    /// Hands leadership to others, as far as that works within a moment. What nobody can take over is not waited for.
    pub(super) fn lead_no_more(&self) {
        let live = || duties::live_peers(&self.transport);
        duties::hand_over(&self.board, &self.host, &live());
        wait_until(|| self.board.led_here_with(&live()).is_empty());
    }

    /// No new clients: gateways close, and what is in flight gets a moment to end.
    pub(super) fn drain(&self) {
        self.health.set_draining();
        // Nobody may be left to hear it.
        let _ = self.stop.send(true);
        wait_until(|| self.requests.open() == 0);
    }

    /// While the workers still run: after a checkpoint they let go of the log that it made needless, and closing the
    /// file has that much less to copy. Two, because the ring gives back what lies before the one before.
    fn checkpoint_first(&self) {
        let begun = self.store.stats();
        if begun.ring_used_bytes < LITTLE_LOG || begun.space != Space::Ample {
            return;
        }
        for _ in 0..2 {
            let before = self.store.stats().checkpoints;
            self.store.want_checkpoint();
            wait_until(|| self.store.stats().checkpoints > before);
        }
    }

    /// Stops everything and closes the node file.
    pub(super) fn stop(self) {
        self.checkpoint_first();
        self.requests.stop();
        self.host.stop();
        self.network.block_on(self.transport.shutdown());
        self.gateways.shutdown_timeout(DRAIN);
        self.network.shutdown_timeout(DRAIN);
        match Arc::into_inner(self.store) {
            Some(store) => {
                let (started, before) = (Instant::now(), store.stats());
                let closed = store.close();
                let (took, log_bytes) = (started.elapsed(), before.ring_used_bytes);
                tracing::info!(
                    node = self.id.0,
                    ?closed,
                    ?took,
                    log_bytes,
                    "closed the node file"
                );
            }
            None => tracing::warn!(node = self.id.0, "the node file is still in use; its log is kept"),
        }
    }
}

/// What runs before any gateway does.
struct Core {
    placement: Placement,
    board: Arc<Board>,
    host: Host,
    requests: Requests,
    expiries: Arc<Expiries>,
    transport: Arc<Transport>,
    clients: Arc<late::Clients>,
    store: Arc<Store>,
    resp_counters: Arc<RespCounters>,
    network: Runtime,
}

impl Core {
    fn start(plan: &Plan, metrics: &Arc<Metrics>, opened: Opened, settled: Settled) -> Result<Core, Failure> {
        let (id, workers) = (plan.options.node_id, plan.options.workers);
        let followers: Vec<Arc<Follower>> = (0..workers).map(|_| Arc::default()).collect();
        let network = runtime(&format!("network-{}", id.0), host::helps)?;
        let intake = Intake::new(workers, InboxLimits::default());
        let (calls, clients) = (
            Arc::new(late::Calls::default()),
            Arc::new(late::Clients::default()),
        );
        let sinks = Sinks {
            frames: Arc::new(Frames(intake.clone())),
            calls: calls.clone(),
            clients: clients.clone(),
            bulk: Arc::new(intake.snapshots(opened.store.staging())),
        };
        let config = config(plan, opened.incarnation)?;
        let transport = Transport::start(config, network.handle(), sinks).map_err(transport_failure)?;
        let board = Arc::new(Board::new(id, workers, settled.placement.groups()));
        let expiries = Arc::new(Expiries::default());
        opened.store.start(sinks_of(&intake, &transport, &followers));
        // Queued before the first turn, so that one durable write holds all births of a worker.
        for birth in settled.births {
            intake.order(Control::Create(birth));
        }
        let parts = worker_parts(&opened.store, opened.groups, &followers, metrics, &expiries);
        let host = Host::start(
            intake.clone(),
            transport.clone(),
            parts,
            &worker_options(&plan.options, &opened.store, opened.incarnation),
            board.clone(),
        );
        host.deputies().for_each(|deputy| drop(network.spawn(deputy)));
        let requests = Requests::start(Wiring {
            node: id,
            routes: Routes::new(settled.placement.ranges.clone()),
            push: pusher(intake),
            call: caller(&transport),
            metrics: metrics.clone(),
            followers,
        });
        calls.set(requests.clone());
        let routing = requests.clone();
        board.tell(move |group, leader| routing.note_leader(group, leader));
        Ok(Core {
            placement: settled.placement,
            board,
            host,
            requests,
            expiries,
            transport,
            clients,
            store: Arc::new(opened.store),
            resp_counters: Arc::default(),
            network,
        })
    }

    /// Starts the gateways and what a node does unasked.
    fn open_gateways(self, plan: Plan, metrics: &Arc<Metrics>) -> Result<Node, Failure> {
        let options = &plan.options;
        let gateways = runtime(&format!("gateway-{}", options.node_id.0), || {})?;
        let health = Arc::new(Health::new(
            metrics.clone(),
            checks(&self.board, self.host.intake()),
        ));
        let overview = Overview {
            node: options.node_id,
            cluster: plan.credentials.cluster.to_string(),
            nodes: options.initial_cluster.clone(),
            ranges: self
                .placement
                .ranges
                .iter()
                .map(|range| (range.clone(), self.host.raft(range.group)))
                .collect(),
            board: self.board.clone(),
            requests: self.requests.clone(),
            transport: Arc::downgrade(&self.transport),
            health: health.clone(),
            started: Instant::now(),
        };
        let native = Native::new(
            self.requests.door(Api::Native),
            Arc::new(overview),
            options.limits.clone(),
        );
        self.clients.set(native);
        let pages = Pages {
            health: health.clone(),
            metrics: metrics.clone(),
            refresh: self.refresher(metrics),
        };
        let (stop, stopping) = watch::channel(false);
        self.serve(&gateways, plan.listeners, options, pages, &stopping)?;
        self.campaign(options.node_id);
        let (board, service) = (self.board.clone(), self.requests.door(Api::Internal));
        let (expiries, requests, id) = (self.expiries.clone(), self.requests.clone(), options.node_id);
        gateways.spawn(async move {
            tokio::select! {
                () = duties::expire(&expiries, &board, &service) => {}
                () = duties::locate(&requests, id, &service) => {}
                () = stopped(stopping) => {}
            }
        });
        health.set_started();
        Ok(Node {
            id: options.node_id,
            board: self.board,
            host: self.host,
            requests: self.requests,
            health,
            metrics: metrics.clone(),
            transport: self.transport,
            store: self.store,
            stop,
            gateways,
            network: self.network,
        })
    }

    fn serve(
        &self,
        gateways: &Runtime,
        listeners: Listeners,
        options: &NodeOptions,
        pages: Pages,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let _entered = gateways.enter();
        let failed = |error: std::io::Error| Failure::new(Code::Port, format!("cannot serve: {error}"));
        let http = tokio::net::TcpListener::from_std(listeners.http).map_err(failed)?;
        let resp = tokio::net::TcpListener::from_std(listeners.resp).map_err(failed)?;
        let until = stopped(stopping.clone());
        gateways.spawn(async move {
            if let Err(error) = http::serve(http, pages, until).await {
                tracing::error!(%error, "the HTTP gateway ended");
            }
        });
        let service = self.requests.door(Api::Resp);
        let resp_options = late::resp_options(options, &self.resp_counters);
        gateways.spawn(resp::serve(resp, service, resp_options, stopping.clone()));
        Ok(())
    }

    /// The first election of each group: once a quorum can be reached, by the node that should lead it, so that
    /// leaders start out spread. Without it, election timeouts decide.
    fn campaign(&self, id: NodeId) {
        for range in self.placement.groups() {
            if first_candidate(range) == id {
                let (transport, raft) = (self.transport.clone(), self.host.raft(range.group));
                let others = range.replicas.values().copied().filter(|&node| node != id);
                let others: Vec<NodeId> = others.collect();
                self.network.spawn(async move {
                    most_up(transport, others).await;
                    raft.campaign();
                });
            }
        }
    }

    fn refresher(&self, metrics: &Arc<Metrics>) -> Arc<dyn Fn() + Send + Sync> {
        let (metrics, board) = (metrics.clone(), self.board.clone());
        let resp = self.resp_counters.clone();
        let (transport, store) = (Arc::downgrade(&self.transport), Arc::downgrade(&self.store));
        Arc::new(move || {
            if let (Some(transport), Some(store)) = (transport.upgrade(), store.upgrade()) {
                duties::refresh(&metrics, &board, &transport, &store);
                duties::refresh_clients(&metrics, &transport, &resp);
            }
        })
    }
}

/// Looks again until it holds or the time of a drain is over.
fn wait_until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() && started.elapsed() < DRAIN {
        std::thread::sleep(LOOK); // pace: between two looks
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the node is gone: stopped, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Waits until so many of the other nodes are linked that they and this one are a quorum.
async fn most_up(transport: Arc<Transport>, others: Vec<NodeId>) {
    let needed = others.len().div_ceil(2);
    let mut waits = tokio::task::JoinSet::new();
    for node in others {
        let transport = transport.clone();
        waits.spawn(async move { transport.up(node).await });
    }
    for _ in 0..needed {
        waits.join_next().await;
    }
}

fn open_store(plan: &Plan, metrics: &Arc<Metrics>) -> Result<Opened, Failure> {
    let directory = &plan.options.data_dir;
    make_data_dir(directory).map_err(|error| {
        Failure::new(
            Code::WriteFailed,
            format!("cannot create {}: {error}", directory.display()),
        )
        .hint("--data-dir names a directory that this user may create and write")
    })?;
    let identity = store_redb::Identity {
        cluster: store_redb::ClusterId(plan.credentials.cluster.0),
        node: plan.options.node_id,
    };
    let (taps, node) = (metrics.clone(), plan.options.node_id.0);
    let options = store_redb::Options {
        on_commit: Some(Arc::new(move |sample| {
            let storage = &taps.storage;
            storage.commit_duration.observe(sample.sync.as_secs_f64());
            storage.commit_entries.observe(sample.entries as f64);
            storage.commit_batches.observe(sample.batches as f64);
            storage.commit_bytes.inc_by(sample.bytes as u64);
        })),
        on_space: Some(Arc::new(move |space| tell_space(node, space))),
        on_scrub: Some(Arc::new(move |scrubbed| tell_scrub(node, scrubbed))),
        ..plan.store.clone()
    };
    Store::open(&directory.join("node.redb"), identity, options).map_err(|error| {
        let code = match error.code() {
            71 => Code::Corruption,
            72 => Code::Identity,
            73 => Code::NewerFormat,
            75 => Code::Configuration,
            _ => Code::WriteFailed,
        };
        let failure = Failure::new(code, error.to_string());
        match code {
            Code::WriteFailed => failure.hint(format!(
                "look at the disk under {}: its free space (a new node needs storage.ring_bytes and more) and its health",
                directory.display()
            )),
            _ => failure,
        }
    })
}

fn tell_space(node: u64, space: Space) {
    match space {
        Space::Ample => tracing::info!(node, "there is enough disk space again"),
        Space::Short | Space::Low => tracing::warn!(
            node,
            "disk space is short: writes that grow the state are refused; delete keys or add space"
        ),
        Space::Gone => tracing::error!(
            node,
            "there is no disk space for the next checkpoint: nothing is written until there is"
        ),
    }
}

fn tell_scrub(node: u64, scrubbed: Scrubbed) {
    match scrubbed {
        Scrubbed::Pass { bytes, took } => tracing::info!(
            node,
            bytes,
            seconds = took.as_secs(),
            "the scrubber read the node file: it is sound"
        ),
        Scrubbed::Repaired => tracing::error!(
            node,
            "one of the node file's two headers had decayed and was written again: look at this disk's health"
        ),
    }
}

fn settle(options: &NodeOptions, stored: &[RestoredGroup]) -> Result<Settled, Failure> {
    let descriptors = stored
        .iter()
        .map(|group| RangeDescriptor::decode(&group.descriptor));
    let descriptors: Vec<RangeDescriptor> = descriptors
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(Code::Corruption, error.to_string()))?;
    let nodes: BTreeSet<NodeId> = options.initial_cluster.iter().map(|(id, _)| *id).collect();
    let placement = Placement::of_new_cluster(&nodes, &options.boundaries());
    let settled = placement.settle(options.node_id, &descriptors)?;
    if let Some(warning) = &settled.warning {
        tracing::warn!("{warning}");
    }
    check_reachable(&settled.placement, &nodes)?;
    Ok(settled)
}

/// Every node that holds a replica must have an address.
fn check_reachable(placement: &Placement, nodes: &BTreeSet<NodeId>) -> Result<(), Failure> {
    let mut placed = placement.groups().flat_map(|range| range.replicas.values());
    match placed.find(|node| !nodes.contains(node)) {
        None => Ok(()),
        Some(node) => Err(Failure::new(
            Code::Configuration,
            format!(
                "ranges of this cluster live on node {}, which has no address",
                node.0
            ),
        )
        .hint("name every node of the cluster in initial_cluster (--initial-cluster)")),
    }
}

/// What each worker is made of, with the follower of its writes beside its log and its machine.
fn worker_parts(
    store: &Store,
    restored: Vec<RestoredGroup>,
    followers: &[Arc<Follower>],
    metrics: &Arc<Metrics>,
    expiries: &Arc<Expiries>,
) -> Vec<WorkerParts<FollowedStorage, Machine>> {
    let restored = split(restored, followers.len()).into_iter();
    let parts = restored
        .zip(followers)
        .enumerate()
        .map(|(at, (restored, follower))| {
            let watch = Watch {
                metrics: metrics.clone(),
                follower: follower.clone(),
                expiries: expiries.clone(),
            };
            let storage = FollowedStorage {
                log: store.storage(at),
                follower: follower.clone(),
            };
            WorkerParts {
                storage,
                machine: Machine::new(store.state(at), watch),
                restored,
            }
        });
    parts.collect()
}

fn split(restored: Vec<RestoredGroup>, workers: usize) -> Vec<Vec<RestoredGroup>> {
    let mut split: Vec<Vec<RestoredGroup>> = (0..workers).map(|_| Vec::new()).collect();
    for group in restored {
        split[worker_of(group.group, workers)].push(group);
    }
    split
}

fn runtime(name: &str, on_start: fn()) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(on_start)
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("cannot start threads: {error}")))
}

fn config(plan: &Plan, incarnation: u64) -> Result<Config, Failure> {
    let options = &plan.options;
    Ok(Config {
        credentials: plan.credentials.clone(),
        incarnation,
        listen: options.listen.quic,
        peers: options.initial_cluster.iter().cloned().collect(),
        secret: late::secret(&options.data_dir)?,
        options: transport_quic::Options {
            congestion: options.network.congestion,
            bulk_bytes_per_second: options.network.bulk_bytes_per_second,
            ..transport_quic::Options::default()
        },
    })
}

/// Timeouts differ from node to node and from start to start.
fn worker_options(options: &NodeOptions, store: &Store, incarnation: u64) -> WorkerOptions {
    let timing = &options.raft;
    WorkerOptions {
        replica: Options {
            election_timeout_min: timing.election_timeout_min,
            election_timeout_max: timing.election_timeout_max,
            heartbeat_interval: timing.heartbeat,
            kept_bytes_max: match options.storage.kept_log_bytes {
                0 => u64::MAX,
                bytes => bytes,
            },
            ..Options::default()
        },
        patience: timing.election_timeout_max * 2,
        payload_bytes_max: store.payload_bytes_max(),
        seed: incarnation << 32 | options.node_id.0,
        ..WorkerOptions::default()
    }
}

fn sinks_of(
    intake: &Intake,
    transport: &Arc<Transport>,
    followers: &[Arc<Follower>],
) -> Vec<Arc<dyn CompletionSink>> {
    let sink = |(at, follower): (usize, &Arc<Follower>)| -> Arc<dyn CompletionSink> {
        Arc::new(FollowedSink {
            sink: intake.sink(at, transport.clone()),
            follower: follower.clone(),
        })
    };
    followers.iter().enumerate().map(sink).collect()
}

fn pusher(intake: Intake) -> Push {
    Arc::new(move |group, event| intake.submit(group, [event]))
}

fn caller(transport: &Arc<Transport>) -> Call {
    let transport = Arc::downgrade(transport);
    Arc::new(move |to, request, done| {
        let Some(transport) = transport.upgrade() else {
            return done(Err(CallFailed::NoLink));
        };
        transport.call(to, request, |answered| {
            done(answered.map_err(|error| match error {
                CallError::NotSent(NotSent::NoLink) => CallFailed::NoLink,
                CallError::NotSent(NotSent::Full | NotSent::TooLong) => CallFailed::Full,
                CallError::LinkLost => CallFailed::Lost,
            }));
        });
    })
}

fn checks(board: &Arc<Board>, intake: &Intake) -> Vec<Check> {
    let (board, intake) = (board.clone(), intake.clone());
    let leaders = move || match board.known_leaders() {
        (known, groups) if known * 100 >= groups * READY_PERCENT => Ok(()),
        (known, groups) => Err(format!("{} of {groups} groups have no leader", groups - known)),
    };
    vec![
        Check {
            kind: Kind::Live,
            name: "workers",
            ask: Box::new(move || duties::ping(&intake)),
        },
        Check {
            kind: Kind::Ready,
            name: "leaders",
            ask: Box::new(leaders),
        },
    ]
}
