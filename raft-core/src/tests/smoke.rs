//! The public calls alone, without the script runner: three replicas whose host answers at once.

use crate::{
    Entry, Envelope, HardState, Index, Instant, Membership, NodeId, Options, ReadId, Replica, ReplicaId,
    Restored, Stamp,
};
use bytes::Bytes;

/// A replica with a disk that syncs at once.
struct Host {
    replica: Replica,
    hard_state: HardState,
    entries: Vec<Entry>,
    commit: Index,
    applied: Vec<Entry>,
    reads: Vec<ReadId>,
}

fn hosts(count: u64) -> Vec<Host> {
    (1..=count)
        .map(|id| host(id, count, Restored::default()))
        .collect()
}

fn host(id: u64, count: u64, mut restored: Restored) -> Host {
    restored.membership = Membership::of_voters((1..=count).map(|id| (ReplicaId(id), NodeId(id))));
    Host {
        hard_state: restored.hard_state,
        entries: restored.entries.clone(),
        commit: restored.commit,
        replica: Replica::new(ReplicaId(id), restored, Options::default(), 7, Instant(0)),
        applied: Vec::new(),
        reads: Vec::new(),
    }
}

/// Carries out one `ready`; returns what left.
fn turn(host: &mut Host) -> Vec<Envelope> {
    let ready = host.replica.ready();
    let mut sent = ready.messages;
    if let Some(write) = ready.write {
        host.hard_state = write.hard_state.unwrap_or(host.hard_state);
        if let Some(first) = write.entries.first() {
            host.entries.truncate(first.id.index.0 as usize - 1);
        }
        host.entries.extend(write.entries);
        host.commit = write.commit;
        sent.extend(write.then_send);
        host.replica.on_durable(Instant(0), write.id);
    }
    if let Some(last) = ready.committed.last() {
        host.replica.on_applied(last.id.index);
    }
    host.applied.extend(ready.committed);
    host.reads.extend(ready.reads.iter().map(|grant| grant.read));
    sent
}

fn run(hosts: &mut [Host]) {
    while hosts.iter().any(|host| host.replica.has_ready()) {
        let sent: Vec<Envelope> = hosts.iter_mut().flat_map(turn).collect();
        for envelope in sent {
            let to = envelope.to.0 as usize - 1;
            let _ = hosts[to].replica.step(Instant(0), envelope);
        }
    }
}

#[test]
fn three_replicas_elect_commit_read_and_restart() {
    let mut hosts = hosts(3);
    hosts[0].replica.campaign(Instant(0));
    run(&mut hosts);
    assert!(hosts[0].replica.is_leader());
    assert_eq!(hosts[2].replica.leader(), Some(ReplicaId(1)));

    let payloads = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let range = hosts[0].replica.propose(Instant(0), Stamp(5), payloads).unwrap();
    assert_eq!(range, Index(2)..=Index(3));
    hosts[0].replica.read(Instant(0), ReadId(9)).unwrap();
    run(&mut hosts);
    assert_eq!(hosts[0].applied.len(), 3);
    assert_eq!(hosts[0].reads, [ReadId(9)]);

    let restored = Restored {
        hard_state: hosts[0].hard_state,
        entries: hosts[0].entries.clone(),
        commit: hosts[0].commit,
        ..Restored::default()
    };
    hosts[0] = host(1, 3, restored);
    hosts[1].replica.campaign(Instant(0));
    run(&mut hosts);
    assert_eq!(hosts[1].replica.status().commit, Index(4));
    assert_eq!(hosts[0].replica.status().last.index, Index(4));
    assert!(hosts[1].replica.is_leader());
    assert_eq!(hosts[0].replica.leader(), Some(ReplicaId(2)));
}

#[test]
fn a_sole_voter_needs_nobody() {
    let mut hosts = hosts(1);
    hosts[0].replica.tick(Instant(1_000_000_000));
    // `turn` completes writes at time 0 in the other test only; a sole voter has no clock to disturb.
    let ready = hosts[0].replica.ready();
    let write = ready.write.unwrap();
    assert!(!hosts[0].replica.is_leader(), "its vote is not durable yet");
    hosts[0].replica.on_durable(Instant(1_000_000_000), write.id);
    assert!(hosts[0].replica.is_leader());
    assert_eq!(hosts[0].replica.deadline(), None);
    let write = hosts[0].replica.ready().write.unwrap();
    hosts[0].replica.on_durable(Instant(1_000_000_000), write.id);
    assert_eq!(hosts[0].replica.ready().committed.len(), 1);
}
