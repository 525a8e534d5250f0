//! The leader's side of snapshots: which were ordered from the host, how they fared, which are wanted no more.
//! When a peer needs one is decided in `progress.rs`; what is done with one that arrives, in `installing.rs`.

use crate::ready::{OrderId, SnapshotOrder, SnapshotOutcome};
use crate::replica::Replica;
use crate::role::Role;
use crate::types::{Index, Instant, ReplicaId, Term};
use std::collections::BTreeMap;

/// The orders that the host has and has not answered. At most one per peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shipments {
    last: OrderId,
    open: BTreeMap<ReplicaId, OrderId>,
}

impl Shipments {
    /// A new order for `peer`.
    pub(crate) fn order(&mut self, peer: ReplicaId, term: Term, at_least: Index) -> SnapshotOrder {
        self.last = OrderId(self.last.0 + 1);
        let id = self.last;
        // One that is open for this peer was given up: `take_cancelled` ran since, or the peer would still await it.
        let before = self.open.insert(peer, id);
        assert!(before.is_none(), "{peer} has an order already");
        SnapshotOrder {
            id,
            peer,
            term,
            at_least,
        }
    }

    /// True while the host has orders.
    pub(crate) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }
}

impl Replica {
    pub(crate) fn conclude_order(
        &mut self,
        now: Instant,
        peer: ReplicaId,
        order: OrderId,
        outcome: SnapshotOutcome,
    ) {
        if self.shipments.open.get(&peer) != Some(&order) {
            return; // cancelled meanwhile
        }
        self.shipments.open.remove(&peer);
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.sends_due = true;
        let taken = match outcome {
            SnapshotOutcome::Taken(index) => Some(index.min(last)),
            SnapshotOutcome::Failed => None,
        };
        if let Some(peer) = leader.peer(peer) {
            peer.on_snapshot_sent(now, order, taken);
        }
    }

    /// True when some order is wanted no more.
    pub(crate) fn are_orders_void(&self) -> bool {
        self.shipments.is_busy() && self.void_orders().next().is_some()
    }

    /// Orders whose peer is gone or does not wait for them any more, or whose leader does not lead any more.
    pub(crate) fn take_cancelled(&mut self) -> Vec<OrderId> {
        if !self.shipments.is_busy() {
            return Vec::new();
        }
        let void: Vec<(ReplicaId, OrderId)> = self.void_orders().collect();
        for (peer, _) in &void {
            self.shipments.open.remove(peer);
        }
        void.into_iter().map(|(_, order)| order).collect()
    }

    fn void_orders(&self) -> impl Iterator<Item = (ReplicaId, OrderId)> + '_ {
        let peers = match &self.role {
            Role::Leader(leader) => leader.peers.as_slice(),
            _ => &[],
        };
        let is_awaited = move |peer: ReplicaId, order| {
            let found = peers.iter().find(|candidate| candidate.id == peer);
            found.is_some_and(|found| found.awaits(order))
        };
        let open = self.shipments.open.iter().map(|(peer, order)| (*peer, *order));
        open.filter(move |(peer, order)| !is_awaited(*peer, *order))
    }
}
