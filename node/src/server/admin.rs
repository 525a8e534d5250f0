//! What this node can tell about the cluster: the answers of `flotilla status`, `range ls` and `node ls`.

use super::board::{Board, Led};
use super::duties;
use crate::descriptor::RangeDescriptor;
use crate::gateway::native::Admin;
use crate::health::{Health, Kind};
use crate::requests::Requests;
use flotilla_client::protocol::{NodeRow, RangeRow, RouteRow, Routes, Status};
use multiraft::host::Raft;
use multiraft::{GroupId, NodeId};
use std::collections::BTreeMap;
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
    pub(super) requests: Requests,
    pub(super) transport: Weak<Transport>,
    pub(super) health: Arc<Health>,
    pub(super) started: Instant,
}

impl Overview {
    /// The leader of a range: its replica here knows, or else whoever answered last.
    fn leader(&self, led: &BTreeMap<GroupId, Led>, range: &RangeDescriptor) -> Option<NodeId> {
        match led.get(&range.group) {
            Some(led) => led.by,
            None => self.requests.routes().leader(range.group),
        }
    }

    fn is_live(&self, node: NodeId) -> bool {
        let transport = self.transport.upgrade();
        node == self.node || transport.is_some_and(|transport| transport.is_up(node))
    }
}

impl Admin for Overview {
    fn status(&self) -> Status {
        let led = self.board.led();
        let known = |range: &&(RangeDescriptor, Raft)| self.leader(&led, &range.0).is_some();
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
                leader: self.leader(&led, range).map(|node| node.0),
                voters: range.replicas.values().map(|node| node.0).collect(),
                term: status.as_ref().map_or(0, |status| status.hard_state.term.0),
                applied: status.map_or(0, |status| status.applied.0),
                generation: range.generation,
            }
        };
        self.ranges.iter().map(row).collect()
    }

    /// Asks no worker: every client of a pool asks this every second.
    fn routes(&self, with_ranges: bool) -> Routes {
        let led = self.board.led();
        let row = |(range, _): &(RangeDescriptor, Raft)| RouteRow {
            start: range.start.to_vec(),
            leader: self.leader(&led, range).map(|node| node.0),
        };
        let ranges = if with_ranges {
            self.ranges.iter().map(row).collect()
        } else {
            Vec::new()
        };
        Routes {
            node: self.node.0,
            ranges,
        }
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
                .filter(|(range, _)| self.leader(&led, range) == Some(*node))
                .count() as u64,
        };
        self.nodes.iter().map(row).collect()
    }
}
