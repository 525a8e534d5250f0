//! Three hosts in one process: threads, wakes, handles.

use super::*;
use crate::inbox::InboxLimits;
use crate::storage::Birth;
use crate::testing::{MemDisk, MemNetwork, SyncMode, Tally};
use crate::types::{EntryId, GroupId, Membership, NodeId, Refusal, ReplicaId};
use crate::{Control, RoleKind};
use bytes::Bytes;

const NODES: u64 = 3;

fn replica(group: GroupId, node: u64) -> ReplicaId {
    ReplicaId(group.0 * 10 + node)
}

fn start(network: &MemNetwork, node: u64, workers: usize, groups: u64) -> Host {
    let intake = Intake::new(workers, InboxLimits::default());
    let link = Arc::new(network.link(NodeId(node)));
    let disks: Vec<MemDisk> = (0..workers).map(|_| MemDisk::new(SyncMode::AtOnce)).collect();
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
    let options = WorkerOptions {
        seed: node,
        ..WorkerOptions::default()
    };
    Host::start(intake, link, parts, &options, Arc::new(()))
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
