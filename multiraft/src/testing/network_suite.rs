//! What every `RaftNetwork` must do between two connected nodes: whole frames, unchanged, in order within a lane,
//! from the node that sent them; and `send` returns at once whatever the other side does. That frames may be lost is
//! part of the contract, so the suite counts on gaps but not on silence.

use crate::bulk::BulkSink;
use crate::network::{Frame, Lane, Outgoing, RaftNetwork};
use crate::types::NodeId;
use bytes::Bytes;
use std::sync::Arc;

/// Two nodes with links up in both directions.
pub trait NetworkHarness {
    /// A node's end.
    type Network: RaftNetwork;

    /// The two ends.
    fn ends(&self) -> [(NodeId, &Self::Network); 2];

    /// The next frame that arrived at `node`, and who sent it. Waits a while; None: nothing comes any more.
    fn receive(&mut self, node: NodeId) -> Option<(NodeId, Bytes)>;

    /// Bulk streams to `node` go to `sink` from now on.
    fn take_bulk(&mut self, node: NodeId, sink: Arc<dyn BulkSink>);
}

/// Runs every check, each with a harness of its own.
pub fn network_suite<H: NetworkHarness>(mut make: impl FnMut() -> H) {
    frames_arrive_whole_in_order_and_say_who_sent_them(&mut make());
    chunks_arrive_as_one_frame(&mut make());
    sending_never_blocks_and_order_survives_drops(&mut make());
    frames_to_unknown_nodes_vanish(&mut make());
}

fn frames_arrive_whole_in_order_and_say_who_sent_them<H: NetworkHarness>(harness: &mut H) {
    let [(one, _), (two, _)] = harness.ends();
    for (from, to) in [(0, two), (1, one)] {
        for lane in [Lane::Control, Lane::Entries] {
            for number in 0..100 {
                harness.ends()[from].1.send(numbered(to, lane, number, 20));
            }
            let sender = harness.ends()[from].0;
            let numbers = receive_all(harness, to, sender);
            assert_eq!(
                numbers,
                (0..100).collect::<Vec<u32>>(),
                "an idle link loses nothing"
            );
        }
    }
}

fn chunks_arrive_as_one_frame<H: NetworkHarness>(harness: &mut H) {
    let [(one, _), (two, _)] = harness.ends();
    let chunks = vec![
        Bytes::from_static(b"head"),
        Bytes::from(vec![7; 1 << 20]),
        Bytes::from_static(b"tail"),
    ];
    let frame = Frame { chunks };
    let expected = frame.to_bytes();
    let outgoing = Outgoing {
        to: two,
        lane: Lane::Entries,
        frame,
    };
    harness.ends()[0].1.send(outgoing);
    let (from, bytes) = harness.receive(two).expect("an idle link loses nothing");
    assert_eq!(from, one);
    assert!(bytes == expected, "{} bytes of {}", bytes.len(), expected.len());
}

fn sending_never_blocks_and_order_survives_drops<H: NetworkHarness>(harness: &mut H) {
    let [(one, _), (two, _)] = harness.ends();
    for number in 0..20_000 {
        harness.ends()[0]
            .1
            .send(numbered(two, Lane::Entries, number, 4096)); // nobody receives meanwhile
    }
    let numbers = receive_all(harness, two, one);
    assert!(!numbers.is_empty(), "something arrives");
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, none twice");
}

fn frames_to_unknown_nodes_vanish<H: NetworkHarness>(harness: &mut H) {
    harness.ends()[0]
        .1
        .send(numbered(NodeId(77), Lane::Control, 1, 0));
    let two = harness.ends()[1].0;
    assert_eq!(harness.receive(two), None);
}

fn numbered(to: NodeId, lane: Lane, number: u32, padding: usize) -> Outgoing {
    let chunks = vec![
        Bytes::copy_from_slice(&number.to_le_bytes()),
        Bytes::from(vec![number as u8; padding + 1]),
    ];
    Outgoing {
        to,
        lane,
        frame: Frame { chunks },
    }
}

/// The numbers of the frames that arrive until none comes any more.
fn receive_all<H: NetworkHarness>(harness: &mut H, node: NodeId, sender: NodeId) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some((from, bytes)) = harness.receive(node) {
        assert_eq!(from, sender);
        let (number, padding) = bytes.split_first_chunk().expect("a numbered frame");
        let number = u32::from_le_bytes(*number);
        assert!(
            padding.iter().all(|byte| *byte == number as u8),
            "frame {number} was changed"
        );
        numbers.push(number);
    }
    numbers
}
