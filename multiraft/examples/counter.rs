//! A replicated counter inside somebody else's program: three nodes in this process, with the in-memory disk and
//! network. A real program brings a durable `RaftStorage`, a real `RaftNetwork` and its own state machine instead.
//!
//! Run it: `cargo run -p multiraft --example counter`

use bytes::Bytes;
use multiraft::host::{Failure, Host, Intake, Raft, WorkerParts};
use multiraft::testing::{MemDisk, MemNetwork, SyncMode};
use multiraft::{
    Birth, Control, CutId, Entry, EntryId, GroupId, InboxLimits, Membership, NodeId, Payload, Queried,
    ReplicaId, RoleKind, Stamp, StateMachine, WorkerOptions,
};
use std::sync::Arc;

const GROUP: GroupId = GroupId(1);
const NODES: u64 = 3;

/// The state that is replicated: one number.
#[derive(Default)]
struct Counter {
    value: i64,
    clock: Stamp,
}

impl StateMachine for Counter {
    /// A command is a number in decimal digits, its answer the new value.
    fn apply(&mut self, _group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>) {
        for entry in entries {
            let answer = match &entry.payload {
                Payload::Command(stamp, command) => {
                    self.clock = self.clock.max(*stamp);
                    let number = std::str::from_utf8(command)
                        .ok()
                        .and_then(|digits| digits.parse::<i64>().ok());
                    self.value = self.value.wrapping_add(number.unwrap_or(0));
                    Bytes::from(self.value.to_string())
                }
                Payload::Noop(_) | Payload::Membership(_) => Bytes::new(),
            };
            answers.push(answer);
        }
    }

    fn query(&mut self, _group: GroupId, _query: &Bytes, _stamp: Stamp) -> Queried {
        Queried::Answer(Bytes::from(self.value.to_string()))
    }

    fn clock(&self, _group: GroupId) -> Stamp {
        self.clock
    }

    /// A program that keeps its state on disk copies it here. This one starts from the log.
    fn freeze(&mut self, _cut: CutId) {}

    fn descriptor(&self, _group: GroupId) -> Bytes {
        Bytes::new()
    }

    fn open(&mut self, _group: GroupId, _descriptor: &Bytes, _applied: EntryId) {}

    /// A program that takes snapshots reads the installed state here. Without `Intake::snapshots` none arrives.
    fn install(&mut self, _group: GroupId, _descriptor: &Bytes, _snapshot: EntryId) {}
}

/// One node: an intake, a disk and a link around one worker.
fn start(network: &MemNetwork, node: u64) -> Host {
    let intake = Intake::new(1, InboxLimits::default());
    let link = Arc::new(network.link(NodeId(node)));
    let disk = MemDisk::new(SyncMode::AtOnce);
    disk.start(vec![intake.sink(0, link.clone())]);
    let receiver = intake.clone();
    let receive = move |from, frame| {
        receiver
            .deliver(from, &frame)
            .expect("only nodes of this build are connected")
    };
    network.listen(NodeId(node), Arc::new(receive));
    intake.order(Control::Create(Birth {
        group: GROUP,
        replica: ReplicaId(node),
        membership: Membership::of_voters((1..=NODES).map(|node| (ReplicaId(node), NodeId(node)))),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    }));
    let parts = WorkerParts {
        storage: disk.storage(0),
        machine: Counter::default(),
        restored: disk.restore(),
    };
    let options = WorkerOptions {
        seed: node,
        ..WorkerOptions::default()
    };
    Host::start(intake, link, vec![parts], &options, Arc::new(()))
}

/// Waits until this node leads.
async fn lead(raft: &Raft) {
    let mut metrics = raft.metrics();
    let leads = metrics.wait_for(|status| {
        status
            .as_ref()
            .is_some_and(|status| status.role == RoleKind::Leader)
    });
    leads.await.expect("the host runs");
}

async fn count(rafts: &[Raft]) -> Result<String, Failure> {
    rafts[0].campaign();
    lead(&rafts[0]).await;
    rafts[0].write(Bytes::from_static(b"40")).await?;
    for answer in rafts[0]
        .write_many(vec![Bytes::from_static(b"5"), Bytes::from_static(b"-3")])
        .await
    {
        answer?;
    }
    // Another node takes over, and knows everything that was answered.
    rafts[0].transfer_leadership(ReplicaId(2)).await?;
    lead(&rafts[1]).await;
    let value = rafts[1].read(Bytes::new()).await?;
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn run() -> String {
    let network = MemNetwork::new();
    let hosts: Vec<Host> = (1..=NODES).map(|node| start(&network, node)).collect();
    let rafts: Vec<Raft> = hosts.iter().map(|host| host.raft(GROUP)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let value = runtime.block_on(count(&rafts)).expect("a quorum is up");
    hosts.into_iter().for_each(Host::stop);
    value
}

fn main() {
    println!("three nodes counted to {}", run());
}

#[test]
fn three_nodes_count_to_42() {
    assert_eq!(run(), "42");
}
