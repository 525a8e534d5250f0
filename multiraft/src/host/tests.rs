//! Three hosts in one process: threads, wakes, handles.

use super::*;
use crate::inbox::InboxLimits;
use crate::limits::DEPUTY_EVENTS_MAX;
use crate::storage::Birth;
use crate::testing::{MemDisk, MemNetwork, SyncMode, Tally};
use crate::types::{EntryId, GroupId, Membership, NodeId, Refusal, ReplicaId};
use crate::{Control, RoleKind};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

mod flow;
mod members;

const NODES: u64 = 3;

fn replica(group: GroupId, node: u64) -> ReplicaId {
    ReplicaId(group.0 * 10 + node)
}

fn start(network: &MemNetwork, node: u64, workers: usize, groups: u64) -> Host {
    let options = WorkerOptions {
        seed: node,
        ..WorkerOptions::default()
    };
    start_with(network, node, workers, groups, &options, Arc::new(()))
}

fn start_with(
    network: &MemNetwork,
    node: u64,
    workers: usize,
    groups: u64,
    options: &WorkerOptions,
    observer: Arc<dyn Observer>,
) -> Host {
    let disks = (0..workers).map(|_| MemDisk::new(SyncMode::AtOnce)).collect();
    start_on(network, node, disks, groups, options, observer)
}

/// With a worker for each of these disks.
fn start_on(
    network: &MemNetwork,
    node: u64,
    disks: Vec<MemDisk>,
    groups: u64,
    options: &WorkerOptions,
    observer: Arc<dyn Observer>,
) -> Host {
    let intake = Intake::new(disks.len(), InboxLimits::default());
    let link = Arc::new(network.link(NodeId(node)));
    let mut parts = Vec::new();
    for (worker, disk) in disks.into_iter().enumerate() {
        disk.start(vec![
            intake.sink(worker, Arc::clone(&link) as Arc<dyn RaftNetwork>),
        ]);
        parts.push(WorkerParts {
            storage: disk.storage(0),
            machine: Tally::new(disk.clone()),
            restored: disk.restore(),
        });
    }
    let receiver = intake.clone();
    network.listen(
        NodeId(node),
        Arc::new(move |from, frame| receiver.deliver(from, &frame).expect("our own frame")),
    );
    for group in (1..=groups).map(GroupId) {
        intake.order(Control::Create(Birth {
            group,
            replica: replica(group, node),
            membership: Membership::of_voters((1..=NODES).map(|node| (replica(group, node), NodeId(node)))),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        }));
    }
    Host::start(intake, link, parts, options, observer)
}

async fn await_role(raft: &Raft, role: RoleKind) {
    let mut metrics = raft.metrics();
    let found = metrics.wait_for(|status| status.as_ref().is_some_and(|status| status.role == role));
    found.await.expect("the host runs");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn trio(workers: usize, groups: u64) -> Vec<Host> {
    let network = MemNetwork::new();
    (1..=NODES)
        .map(|node| start(&network, node, workers, groups))
        .collect()
}

#[test]
fn writes_and_reads_go_through_the_leader_and_leadership_moves() {
    let hosts = trio(1, 1);
    let group = GroupId(1);
    runtime().block_on(async {
        let rafts: Vec<Raft> = hosts.iter().map(|host| host.raft(group)).collect();
        rafts[0].campaign();
        await_role(&rafts[0], RoleKind::Leader).await;
        let answer = rafts[0].write(Tally::add(40)).await.unwrap();
        assert_eq!(Tally::number(&answer), 40);
        let answers = rafts[0].write_many(vec![Tally::add(1), Tally::add(1)]).await;
        let sums: Vec<u64> = answers
            .into_iter()
            .map(|answer| Tally::number(&answer.unwrap()))
            .collect();
        assert_eq!(sums, [41, 42]);
        assert_eq!(Tally::number(&rafts[0].read(Bytes::new()).await.unwrap()), 42);
        let hint = Refusal::NotLeader(Some(NodeId(1)));
        assert_eq!(rafts[1].write(Tally::add(1)).await, Err(Failure::Refused(hint)));

        rafts[0].transfer_leadership(replica(group, 3)).await.unwrap();
        await_role(&rafts[2], RoleKind::Leader).await;
        assert_eq!(Tally::number(&rafts[2].read(Bytes::new()).await.unwrap()), 42);
        let elsewhere = hosts[0].raft(GroupId(77));
        assert_eq!(
            elsewhere.read(Bytes::new()).await,
            Err(Failure::Refused(Refusal::NoSuchGroup))
        );
    });
    hosts.into_iter().for_each(Host::stop);
}

#[test]
fn groups_spread_over_the_workers_and_each_answers_for_itself() {
    let groups = 8;
    let hosts = trio(2, groups);
    runtime().block_on(async {
        for group in (1..=groups).map(GroupId) {
            let raft = hosts[(group.0 % NODES) as usize].raft(group);
            raft.campaign();
            await_role(&raft, RoleKind::Leader).await;
            let answer = raft.write(Tally::add(group.0)).await.unwrap();
            assert_eq!(Tally::number(&answer), group.0);
        }
    });
    hosts.into_iter().for_each(Host::stop);
}

#[test]
fn a_stopped_host_refuses_and_tells_its_watchers() {
    let hosts = trio(1, 1);
    let raft = hosts[0].raft(GroupId(1));
    runtime().block_on(async {
        raft.campaign();
        await_role(&raft, RoleKind::Leader).await;
        raft.shutdown().await;
        assert_eq!(
            raft.write(Tally::add(1)).await,
            Err(Failure::Refused(Refusal::Stopping))
        );
        assert_eq!(
            raft.read(Bytes::new()).await,
            Err(Failure::Refused(Refusal::Stopping))
        );
        let moved = raft.transfer_leadership(ReplicaId(12)).await;
        assert_eq!(moved, Err(Failure::Refused(Refusal::Stopping)));
        raft.shutdown().await;
    });
    hosts.into_iter().for_each(Host::stop);
}

#[test]
fn a_host_without_groups_sleeps_for_good_and_still_stops() {
    let network = MemNetwork::new();
    let host = start(&network, 1, 2, 0);
    let raft = host.raft(GroupId(1));
    runtime().block_on(async {
        assert_eq!(
            raft.read(Bytes::new()).await,
            Err(Failure::Refused(Refusal::NoSuchGroup))
        );
        raft.shutdown().await;
    });
    host.stop();
}

/// Turns by the thread they were taken on.
#[derive(Default)]
struct Threads(Mutex<BTreeMap<String, u64>>);

impl Observer for Threads {
    fn on_turn(&self, _worker: usize, _turn: &Turn, _counters: &Counters) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        *self.0.lock().unwrap().entry(name).or_default() += 1;
    }
}

impl Threads {
    fn helped(&self) -> u64 {
        let turns = self.0.lock().unwrap();
        let by_others = turns.iter().filter(|(name, _)| !name.starts_with("multiraft"));
        by_others.map(|(_, turns)| turns).sum()
    }
}

/// Longer than any of these tests: no timer heals a lost wake.
const NEVER: Duration = Duration::from_secs(1_000);

/// How long a wait may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three hosts, and a runtime on this thread that helps all of them while as much as this waits.
fn helped_trio(deputy_events_max: usize) -> (Vec<Host>, Vec<Arc<Threads>>, tokio::runtime::Runtime) {
    let network = MemNetwork::new();
    let threads: Vec<Arc<Threads>> = (0..NODES).map(|_| Arc::default()).collect();
    let host = |(node, threads): (u64, &Arc<Threads>)| {
        let options = WorkerOptions {
            seed: node,
            replica: raft_core::Options {
                election_timeout_min: 2 * NEVER,
                election_timeout_max: 4 * NEVER,
                heartbeat_interval: NEVER,
                ..raft_core::Options::default()
            },
            deputy_events_max,
            ..WorkerOptions::default()
        };
        start_with(
            &network,
            node,
            1,
            1,
            &options,
            Arc::clone(threads) as Arc<dyn Observer>,
        )
    };
    let hosts: Vec<Host> = (1..=NODES).zip(&threads).map(host).collect();
    let runtime = runtime();
    helps();
    for host in &hosts {
        host.deputies().for_each(|deputy| drop(runtime.spawn(deputy)));
    }
    (hosts, threads, runtime)
}

#[test]
fn a_lone_request_is_turned_over_where_it_arrives() {
    let (hosts, threads, runtime) = helped_trio(DEPUTY_EVENTS_MAX);
    let raft = hosts[0].raft(GroupId(1));
    runtime.block_on(async {
        raft.campaign();
        await_role(&raft, RoleKind::Leader).await;
        let helped = async {
            while threads[0].helped() == 0 {
                add_one(&raft).await;
            }
        };
        let helped = tokio::time::timeout(PATIENCE, helped).await;
        helped.expect("some turns are taken here");
    });
    hosts.into_iter().for_each(Host::stop);
}

async fn add_one(raft: &Raft) {
    let answer = tokio::time::timeout(PATIENCE, raft.write(Tally::add(1))).await;
    answer.expect("nobody was woken").expect("written");
}

#[test]
fn deputies_and_other_threads_lose_no_wake_between_them() {
    write_beside_other_threads(DEPUTY_EVENTS_MAX);
}

#[test]
fn deputies_that_take_every_turn_lose_no_wake_of_other_threads() {
    write_beside_other_threads(usize::MAX);
}

fn write_beside_other_threads(deputy_events_max: usize) {
    const WRITES: u64 = 2_000;
    let (hosts, _, runtime) = helped_trio(deputy_events_max);
    let raft = hosts[0].raft(GroupId(1));
    runtime.block_on(async {
        raft.campaign();
        await_role(&raft, RoleKind::Leader).await;
    });
    // Threads that do not help, each with one request under way, and this one, which does: a lost wake hangs one of them.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = self::runtime();
                (0..WRITES).for_each(|_| runtime.block_on(add_one(&raft)));
            });
        }
        runtime.block_on(async {
            for _ in 0..WRITES {
                add_one(&raft).await;
            }
            // Goes on helping until the others are through.
            while Tally::number(&raft.read(Bytes::new()).await.unwrap()) < 3 * WRITES {
                tokio::task::yield_now().await;
            }
        });
    });
    hosts.into_iter().for_each(Host::stop);
}

#[test]
fn turns_go_back_to_the_workers_thread_when_the_deputy_goes() {
    let (hosts, threads, runtime) = helped_trio(DEPUTY_EVENTS_MAX);
    let raft = hosts[0].raft(GroupId(1));
    runtime.block_on(async {
        raft.campaign();
        await_role(&raft, RoleKind::Leader).await;
    });
    drop(runtime);
    let helped: Vec<u64> = threads.iter().map(|threads| threads.helped()).collect();
    self::runtime().block_on(async {
        for _ in 0..50 {
            add_one(&raft).await;
        }
    });
    assert_eq!(
        helped,
        threads.iter().map(|threads| threads.helped()).collect::<Vec<_>>()
    );
    hosts.into_iter().for_each(Host::stop);
}
