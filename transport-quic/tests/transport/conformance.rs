//! multiraft's suite against the real transport, over loopback sockets.

use crate::parts::{Ca, Node, pair, run};
use bytes::Bytes;
use multiraft::testing::{NetworkHarness, bulk_suite, network_suite};
use multiraft::{BulkSink, Lane, NodeId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use transport_quic::Transport;

/// How a frame of the harness begins; no frame of the suite does.
const END: &[u8] = b"everything before this has arrived";
const LANES: [Lane; 2] = [Lane::Control, Lane::Entries];
/// An end that found its lane full is sent again after this time.
const AGAIN: Duration = Duration::from_millis(20);

struct Linked {
    nodes: [Node; 2],
    arrived: [VecDeque<(NodeId, Bytes)>; 2],
    ends: u64,
}

impl Linked {
    fn new() -> Linked {
        let (one, two) = run(pair(&Ca::new()));
        Linked {
            nodes: [one, two],
            arrived: Default::default(),
            ends: 0,
        }
    }

    /// Waits for everything sent to this node until now. Lanes are in order, so an end behind it on each lane tells.
    fn drain(&mut self, to: usize) {
        self.ends += 1;
        let ends = LANES.map(|lane| [END, &[lane as u8], &self.ends.to_le_bytes()].concat());
        let arrived = run(collect(&mut self.nodes, to, ends.map(Bytes::from)));
        self.arrived[to].extend(arrived);
    }
}

async fn collect(nodes: &mut [Node; 2], to: usize, ends: [Bytes; 2]) -> Vec<(NodeId, Bytes)> {
    let receiver = nodes[to].transport.node().0;
    let mut frames = Vec::new();
    let mut missing = vec![true; ends.len()];
    while missing.contains(&true) {
        for (at, end) in ends.iter().enumerate().filter(|(at, _)| missing[*at]) {
            nodes[1 - to].send(receiver, LANES[at], vec![end.clone()]);
        }
        while let Ok((from, frame)) = tokio::time::timeout(AGAIN, nodes[to].frame()).await {
            if let Some(at) = ends.iter().position(|end| *end == frame) {
                missing[at] = false;
            } else if !frame.starts_with(END) {
                frames.push((from, frame)); // else an end sent again
            }
            if !missing.contains(&true) {
                break;
            }
        }
    }
    frames
}

impl NetworkHarness for Linked {
    type Network = Arc<Transport>;

    fn ends(&self) -> [(NodeId, &Arc<Transport>); 2] {
        let [one, two] = &self.nodes;
        [one, two].map(|node| (node.transport.node(), &node.transport))
    }

    fn receive(&mut self, node: NodeId) -> Option<(NodeId, Bytes)> {
        let to = usize::from(node == self.nodes[1].transport.node());
        if self.arrived[to].is_empty() {
            self.drain(to);
        }
        self.arrived[to].pop_front()
    }

    fn take_bulk(&mut self, node: NodeId, sink: Arc<dyn BulkSink>) {
        let to = usize::from(node == self.nodes[1].transport.node());
        self.nodes[to].bulk.set(sink);
    }
}

#[test]
fn the_transport_passes_the_network_suite() {
    network_suite(Linked::new);
}

#[test]
fn the_transport_passes_the_suite_of_bulk_streams() {
    bulk_suite(Linked::new);
}
