//! What this node can tell about the cluster: the answers of `flotilla status`, `range ls` and `node ls`.

use super::board::Board;
use super::duties;
use crate::descriptor::RangeDescriptor;
use crate::gateway::native::Admin;
use crate::health::{Health, Kind};
use flotilla_client::protocol::{NodeRow, RangeRow, Status};
use multiraft::NodeId;
use multiraft::host::Raft;
use std::sync::{Arc, Weak};
use std::time::Instant;
use transport_quic::Transport;

/// This node's view.
pub(super) struct Overview {
    pub(super) node: NodeId,
    pub(super) cluster: String,
    pub(super) nodes: Vec<(NodeId, String)>,
    pub(super) ranges: Vec<(RangeDescriptor, Raft)>,
    pub(super) board: Arc<Board>,
    pub(super) transport: Weak<Transport>,
    pub(super) health: Arc<Health>,
    pub(super) started: Instant,
}

impl Overview {
    fn is_live(&self, node: NodeId) -> bool {
        let transport = self.transport.upgrade();
        node == self.node || transport.is_some_and(|transport| transport.is_up(node))
    }
}

impl Admin for Overview {
    fn status(&self) -> Status {
        let led = self.board.led();
        let known =
            |range: &&(RangeDescriptor, Raft)| led.get(&range.0.group).is_some_and(|led| led.by.is_some());
        let here = |range: &&(RangeDescriptor, Raft)| led.get(&range.0.group).is_some_and(|led| led.here);
        let live = self.nodes.iter().filter(|(node, _)| self.is_live(*node));
        Status {
            cluster_id: self.cluster.clone(),
            node: self.node.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.health.report(Kind::Ready).passed,
            nodes: self.nodes.len() as u64,
            nodes_live: live.count() as u64,
            ranges: self.ranges.len() as u64,
            ranges_led: self.ranges.iter().filter(known).count() as u64,
            leads: self.ranges.iter().filter(here).count() as u64,
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }

    fn ranges(&self) -> Vec<RangeRow> {
        let led = self.board.led();
        let row = |(range, raft): &(RangeDescriptor, Raft)| {
            let status = range.replica_on(self.node).and_then(|_| duties::status_of(raft));
            RangeRow {
                id: range.group.0,
                start: range.start.to_vec(),
                end: range.end.as_ref().map(|end| end.to_vec()),
                leader: led.get(&range.group).and_then(|led| led.by).map(|node| node.0),
                voters: range.replicas.values().map(|node| node.0).collect(),
                term: status.as_ref().map_or(0, |status| status.hard_state.term.0),
                applied: status.map_or(0, |status| status.applied.0),
                generation: range.generation,
            }
        };
        self.ranges.iter().map(row).collect()
    }

    fn nodes(&self) -> Vec<NodeRow> {
        let led = self.board.led();
        let row = |(node, address): &(NodeId, String)| NodeRow {
            id: node.0,
            address: address.clone(),
            live: self.is_live(*node),
            replicas: self
                .ranges
                .iter()
                .filter(|(range, _)| range.replica_on(*node).is_some())
                .count() as u64,
            leads: self
                .ranges
                .iter()
                .filter(|(range, _)| led.get(&range.group).is_some_and(|led| led.by == Some(*node)))
                .count() as u64,
        };
        self.nodes.iter().map(row).collect()
    }
}
