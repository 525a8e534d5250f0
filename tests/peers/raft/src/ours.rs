//! Ours, through the public handle: three hosts of one worker each, all groups on all of them.

use crate::MEMBERS;
use crate::drive::{Cluster, Plan};
use crate::memory::{Count, MemLog};
use bytes::Bytes;
use multiraft::host::{Failure, Host, Intake, Raft, WorkerParts};
use multiraft::{
    Birth, Control, EntryId, GroupId, InboxLimits, Membership, NodeId, Options, Outgoing, RaftNetwork,
    Refusal, ReplicaId, RoleKind, WorkerOptions,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The command of every write.
pub const COMMAND: Bytes = Bytes::from_static(b"\0\0\0\0\0\0\0\x01");

/// The hosts of a process.
pub struct Nodes {
    groups: Vec<Group>,
    _hosts: Vec<Host>,
}

struct Group {
    rafts: Vec<Raft>,
    /// Its place in `rafts`, as far as known.
    leader: AtomicUsize,
}

/// One node's way to the others: a function call.
struct Link {
    node: NodeId,
    intakes: Arc<[Intake]>,
}

impl RaftNetwork for Link {
    fn send(&self, outgoing: Outgoing) {
        let to = &self.intakes[place(outgoing.to)];
        to.deliver(self.node, &outgoing.frame.to_bytes())
            .expect("frames of this build");
    }
}

/// Nodes and replicas are numbered from 1.
pub fn place(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).expect("three nodes")
}

/// How each replica behaves.
pub fn options(plan: &Plan, seed: u64) -> WorkerOptions {
    let (election_timeout_min, election_timeout_max) = plan.election_timeouts();
    WorkerOptions {
        seed,
        deputy_events_max: if plan.helped {
            usize::MAX
        } else {
            WorkerOptions::default().deputy_events_max
        },
        replica: Options {
            election_timeout_min,
            election_timeout_max,
            heartbeat_interval: plan.heartbeat,
            ..Options::default()
        },
        ..WorkerOptions::default()
    }
}

/// The replica of `group` on `node` begins to exist.
pub fn birth(group: usize, node: u64) -> Control {
    Control::Create(Birth {
        group: group_id(group),
        replica: ReplicaId(node),
        membership: Membership::of_voters((1..=MEMBERS as u64).map(|node| (ReplicaId(node), NodeId(node)))),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    })
}

pub fn group_id(group: usize) -> GroupId {
    GroupId(group as u64 + 1)
}

fn start_node(plan: &Plan, node: u64, intakes: &Arc<[Intake]>) -> Host {
    let intake = intakes[place(NodeId(node))].clone();
    let link = Arc::new(Link {
        node: NodeId(node),
        intakes: Arc::clone(intakes),
    });
    let storage = MemLog::new(intake.sink(0, link.clone()));
    for group in 0..plan.groups {
        intake.order(birth(group, node));
    }
    let parts = WorkerParts {
        storage,
        machine: Count::default(),
        restored: Vec::new(),
    };
    Host::start(intake, link, vec![parts], &options(plan, node), Arc::new(()))
}

impl Cluster for Nodes {
    fn on_thread_start() {
        multiraft::host::helps();
    }

    async fn start(plan: &Plan) -> Nodes {
        let intakes: Arc<[Intake]> = (0..MEMBERS)
            .map(|_| Intake::new(1, InboxLimits::default()))
            .collect();
        let hosts: Vec<Host> = (1..=MEMBERS as u64)
            .map(|node| start_node(plan, node, &intakes))
            .collect();
        for deputy in hosts.iter().flat_map(Host::deputies) {
            tokio::spawn(deputy);
        }
        let groups: Vec<Group> = (0..plan.groups)
            .map(|group| Group {
                rafts: hosts.iter().map(|host| host.raft(group_id(group))).collect(),
                leader: AtomicUsize::new(group % MEMBERS),
            })
            .collect();
        for group in &groups {
            let raft = &group.rafts[group.leader.load(Ordering::Relaxed)];
            raft.campaign();
            let mut metrics = raft.metrics();
            let leads = metrics.wait_for(|status| {
                status
                    .as_ref()
                    .is_some_and(|status| status.role == RoleKind::Leader)
            });
            tokio::time::timeout(Duration::from_secs(10), leads)
                .await
                .expect("elected in time")
                .expect("the host runs");
        }
        Nodes {
            groups,
            _hosts: hosts,
        }
    }

    async fn write(&self, group: usize, batch: usize) {
        let group = &self.groups[group];
        loop {
            let raft = &group.rafts[group.leader.load(Ordering::Relaxed)];
            let failure = match batch {
                1 => raft.write(COMMAND).await.err(),
                _ => raft
                    .write_many(vec![COMMAND; batch])
                    .await
                    .into_iter()
                    .find_map(Result::err),
            };
            match failure {
                None => return,
                Some(Failure::Refused(Refusal::NotLeader(Some(node)))) => {
                    group.leader.store(place(node), Ordering::Relaxed)
                }
                Some(failure) => eprintln!("a write failed: {failure}"),
            }
            // pace: leaders change rarely
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
