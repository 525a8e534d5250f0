//! A worker's part in snapshots: raft-core's orders become streams, and what arrives is weighed, installed, answered.

use super::{Worker, touch};
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::shipping::Order;
use crate::snapshot::{Address, Arrival, Offer, Reply, Sent, SnapshotEvent, SnapshotHead};
use crate::storage::{Install, RaftStorage, StagingId};
use crate::types::{GroupId, Life, NodeId};
use raft_core::{OrderId, Snapshot, SnapshotOrder, SnapshotOutcome};

/// A snapshot whose install is decided and not durable.
#[derive(Debug)]
pub(crate) struct Installing {
    staging: StagingId,
    head: SnapshotHead,
    reply: Reply,
}

impl<S: RaftStorage, N: RaftNetwork, M: StateMachine> Worker<S, N, M> {
    pub(super) fn on_snapshot(&mut self, event: SnapshotEvent) {
        match event {
            SnapshotEvent::Sent(sent) => self.on_sent(&sent),
            SnapshotEvent::Offered(offer) => self.on_offered(&offer),
            SnapshotEvent::Arrived(arrival) => self.on_arrived(arrival),
        }
    }

    /// A stream of ours has ended.
    fn on_sent(&mut self, sent: &Sent) {
        self.shipping.ended(sent);
        match sent.outcome {
            SnapshotOutcome::Taken(_) => self.counters.snapshots_sent += 1,
            SnapshotOutcome::Failed => {
                self.counters.snapshots_failed += 1;
                let why = (sent.group, sent.peer, sent.words.clone());
                self.turn.snapshots_failed.push(why);
            }
        }
        let now = self.moment.now;
        let Sent {
            group,
            life,
            peer,
            order,
            ..
        } = *sent;
        if let Some(found) = self.live(group, life) {
            found.replica.on_snapshot_sent(now, peer, order, sent.outcome);
        }
    }

    /// The answer goes to a thread that waits, or has given up.
    fn on_offered(&mut self, offer: &Offer) {
        let now = self.moment.now;
        let verdict = self.addressee(offer.node, offer.address).and_then(|found| {
            let Address { from, term, .. } = offer.address;
            let weighed = found.replica.offer(now, from, term, offer.snapshot);
            weighed
                .map(|()| offer.snapshot.index)
                .map_err(|why| why.to_string())
        });
        self.counters.snapshots_declined += u64::from(verdict.is_err());
        let _ = offer.reply.try_send(verdict);
    }

    fn on_arrived(&mut self, arrival: Arrival) {
        let Arrival {
            node,
            address,
            head,
            staged,
            reply,
        } = arrival;
        let now = self.moment.now;
        let decided = self.addressee(node, address).and_then(|found| {
            let snapshot = Snapshot {
                id: head.snapshot,
                membership: head.membership.clone(),
            };
            let installed = found.replica.install(now, address.from, address.term, snapshot);
            installed.map_err(|why| why.to_string())?;
            Ok(found)
        });
        match decided {
            Ok(found) => {
                found.installing = Some(Installing {
                    staging: staged.hand_over(),
                    head,
                    reply,
                });
            }
            Err(why) => {
                self.counters.snapshots_declined += 1;
                let _ = reply.try_send(Err(why)); // what was staged goes with `staged`
            }
        }
    }

    /// The replica that a snapshot is for, if it may have one.
    fn addressee(&mut self, node: NodeId, address: Address) -> Result<&mut super::Group, String> {
        let Address { group, from, to, .. } = address;
        if self.stopped {
            return Err("the process is stopping".to_owned());
        }
        if self.allowance.is_short() {
            return Err("disk space is short".to_owned());
        }
        let found = self.groups.get_mut(&group);
        let found = found.ok_or_else(|| format!("no replica of {group} lives here"))?;
        let home = found.replica.membership().nodes.get(&from);
        if to != found.id || home.is_some_and(|home| *home != node) {
            self.counters.misaddressed += 1;
            return Err(format!("{from} does not live there, or {to} not here"));
        }
        if !self.storage.is_settled(group) {
            return Err(format!("a group that was split off {group} needs its log"));
        }
        touch(&mut self.busy, group, found);
        Ok(found)
    }

    /// The batch that makes the group's snapshot durable carries this.
    pub(super) fn install(&mut self, id: GroupId, snapshot: &Snapshot) {
        let group = self.groups.get(&id).expect("touched groups exist");
        let installing = group.installing.as_ref();
        let installing = installing.expect("raft-core installs only what arrived");
        assert_eq!(
            installing.head.snapshot, snapshot.id,
            "{id} installs another snapshot"
        );
        self.batch.installs.push(Install {
            group: id,
            replica: group.id,
            life: group.life,
            staging: installing.staging,
            snapshot: snapshot.id,
            membership: snapshot.membership.clone(),
            hard_state: group.replica.status().hard_state,
            descriptor: installing.head.descriptor.clone(),
        });
    }

    /// The store has put the snapshot in the place of the group's log and state: so does the machine, before the
    /// replica hears.
    pub(super) fn on_installed(&mut self, id: GroupId, life: Life, is_installed: bool) {
        let Some(group) = self.live(id, life) else { return };
        let installing = group.installing.take();
        let Installing { head, reply, .. } = installing.expect("what is installed was submitted");
        assert!(
            is_installed,
            "{id}: raft-core and the store disagree about {}",
            head.snapshot
        );
        let SnapshotHead {
            snapshot,
            membership,
            descriptor,
        } = head;
        self.machine.install(id, &descriptor, snapshot);
        let group = self.groups.get_mut(&id).expect("it is live");
        group.on_installed(snapshot, membership, &mut self.answers);
        super::mark_dirty(&mut self.dirty, id, group);
        self.counters.snapshots_installed += 1;
        let _ = reply.try_send(Ok(snapshot.index));
    }

    /// Takes what raft-core wants sent, and what it wants no more.
    pub(super) fn ship(&mut self, id: GroupId, orders: Vec<SnapshotOrder>, cancelled: Vec<OrderId>) {
        let group = self.groups.get(&id).expect("touched groups exist");
        let life = group.life;
        for order in cancelled {
            self.shipping.cancel(id, life, order);
        }
        for order in orders {
            self.counters.snapshots_wanted += 1;
            self.shipping.order(Order {
                address: Address {
                    group: id,
                    from: group.id,
                    to: order.peer,
                    term: order.term,
                },
                life,
                node: group.node_of(order.peer).expect("peers are members"),
                id: order.id,
                at_least: order.at_least,
            });
        }
    }

    /// Peers on nodes to which frames were lost: their replicas here stop pipelining to them.
    pub(super) fn heed_losses(&mut self) {
        let now = self.moment.now;
        for node in std::mem::take(&mut self.unreachable) {
            for (id, group) in &mut self.groups {
                if !group.replica.is_leader() {
                    continue;
                }
                let nodes = &group.replica.membership().nodes;
                let peers = nodes.iter().filter(|(_, home)| **home == node);
                let peers: Vec<_> = peers.map(|(peer, _)| *peer).collect();
                for peer in peers {
                    group.replica.unreachable(now, peer);
                    touch(&mut self.busy, *id, group);
                }
            }
        }
    }
}
