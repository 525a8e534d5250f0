//! Links come up, carry frames in order, refuse strangers with a reason, and come back.

use crate::parts::{Ca, DEADLINE, Node, pair, run, within};
use bytes::Bytes;
use multiraft::{Lane, NodeId};
use std::time::{Duration, Instant};
use transport_quic::LinkState;
use transport_quic::limits::{LANE_BYTES_MAX, LANE_FRAMES_MAX};

/// A frame whose bytes follow from its number.
fn numbered(number: u32) -> Vec<Bytes> {
    let head = Bytes::copy_from_slice(&number.to_be_bytes());
    let size = match number % 50 {
        0 => 300_000,
        1..=5 => 5_000,
        other => other as usize,
    };
    vec![head, Bytes::from(vec![number as u8; size])]
}

async fn expect_frames(node: &mut Node, from: u64, lanes: u32, count: u32) {
    let mut next = vec![0; lanes as usize];
    for _ in 0..lanes * count {
        let (sender, frame) = node.frame().await;
        assert_eq!(sender, NodeId(from));
        let tagged = u32::from_be_bytes(frame[..4].try_into().unwrap());
        let (lane, number) = (tagged % lanes, tagged / lanes);
        assert_eq!(number, next[lane as usize], "frames of lane {lane} are in order");
        next[lane as usize] += 1;
        assert_eq!(
            frame,
            numbered(tagged).concat(),
            "frame {number} of lane {lane} is whole"
        );
    }
}

#[test]
fn frames_arrive_whole_and_in_order_on_each_lane_both_ways() {
    run(async {
        let (mut one, mut two) = pair(&Ca::new()).await;
        for number in 0..1000 {
            for (node, to) in [(&one, 2), (&two, 1)] {
                node.send(to, Lane::Control, numbered(2 * number));
                node.send(to, Lane::Entries, numbered(2 * number + 1));
            }
        }
        expect_frames(&mut two, 1, 2, 1000).await;
        expect_frames(&mut one, 2, 2, 1000).await;
        let stats = one.transport.links().remove(0);
        assert_eq!((stats.control.sent, stats.entries.received), (1000, 1000));
        assert_eq!(
            (stats.control.dropped, stats.entries.dropped, stats.reconnects),
            (0, 0, 0)
        );
        assert!(stats.rtt > Duration::ZERO && stats.sent_bytes > 1_000_000);
    });
}

#[test]
fn three_nodes_link_once_per_pair_and_the_lower_id_dials() {
    run(async {
        let ca = Ca::new();
        let nodes: Vec<Node> = (1..=3).map(|id| Node::start(ca.node(id))).collect();
        for (a, b) in [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)] {
            nodes[a].meet(&nodes[b]);
        }
        for (node, id) in nodes.iter().zip(1..) {
            for peer in (1..=3).filter(|peer| *peer != id) {
                let dialer = NodeId(peer.min(id));
                node.state(peer, |s| {
                    *s == LinkState::Up {
                        dialer,
                        incarnation: 1,
                    }
                })
                .await;
            }
        }
    });
}

#[test]
fn the_higher_id_dials_when_the_lower_one_does_not() {
    run(async {
        let ca = Ca::new();
        let (one, two) = (Node::start(ca.node(1)), Node::start(ca.node(2)));
        // Nobody listens there; but node 1 knows that node 2 is a member.
        one.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        two.meet(&one);
        one.state(2, |s| {
            *s == LinkState::Up {
                dialer: NodeId(2),
                incarnation: 1,
            }
        })
        .await;
    });
}

#[test]
fn a_killed_and_restarted_peer_is_noticed_and_linked_within_a_second() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        let address = two.kill();
        let restarted = Instant::now();
        let two = Node::start_at(ca.node(2), address, 2, [7; 32]);
        two.meet(&one);
        // Something to answer with a reset; raft would send within milliseconds.
        one.send(2, Lane::Control, vec![Bytes::from_static(b"anybody there?")]);
        one.state(2, |s| {
            *s == LinkState::Up {
                dialer: NodeId(1),
                incarnation: 2,
            }
        })
        .await;
        let took = restarted.elapsed();
        println!("linked {took:?} after the restart");
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        assert_eq!(one.transport.links()[0].reconnects, 1);
    });
}

#[test]
fn a_restarted_lower_id_replaces_its_old_link() {
    run(async {
        let ca = Ca::new();
        let (one, mut two) = pair(&ca).await;
        let address = one.kill();
        let one = Node::start_at(ca.node(1), address, 2, [8; 32]);
        one.meet(&two);
        assert_eq!(
            two.link().await,
            LinkState::Up {
                dialer: NodeId(1),
                incarnation: 1
            }
        );
        let replaced = LinkState::Down {
            reason: "replaced by a newer link".to_owned(),
        };
        assert_eq!(two.link().await, replaced);
        assert_eq!(
            two.link().await,
            LinkState::Up {
                dialer: NodeId(1),
                incarnation: 2
            }
        );
    });
}

#[test]
fn a_full_lane_drops_and_counts_and_the_other_lane_goes_on() {
    run(async {
        let (one, mut two) = pair(&Ca::new()).await;
        two.recorder.shut_gate();
        let bulk = Bytes::from(vec![255; 64 << 10]);
        let begun = Instant::now();
        for _ in 0..3 * LANE_BYTES_MAX / bulk.len() {
            one.send(2, Lane::Entries, vec![bulk.clone()]);
        }
        assert!(begun.elapsed() < DEADLINE / 2, "sending never waits for the peer");
        let entries = one.transport.links()[0].entries;
        assert!(entries.dropped > 0, "{entries:?}");
        assert!(entries.queued_bytes <= LANE_BYTES_MAX && entries.queued_frames <= LANE_FRAMES_MAX);
        one.send(2, Lane::Control, vec![Bytes::from_static(b"beat")]);
        assert_eq!(two.frame().await.1, "beat");
        two.recorder.open_gate();
        // What was not dropped still arrives.
        assert_eq!(two.frame().await.1, bulk);
    });
}

#[test]
fn frames_without_a_link_are_counted_not_kept() {
    run(async {
        let ca = Ca::new();
        let (one, mut two) = (Node::start(ca.node(1)), Node::start(ca.node(2)));
        one.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        one.send(2, Lane::Entries, vec![Bytes::from_static(b"lost")]);
        assert_eq!(one.transport.links()[0].entries.unlinked, 1);
        one.meet(&two);
        two.meet(&one);
        within(one.transport.up(NodeId(2))).await;
        one.send(2, Lane::Entries, vec![Bytes::from_static(b"sent")]);
        assert_eq!(two.frame().await.1, "sent");
    });
}

#[test]
fn a_shutdown_is_heard_at_once() {
    run(async {
        let (mut one, two) = pair(&Ca::new()).await;
        let begun = Instant::now();
        within(two.transport.shutdown()).await;
        assert!(matches!(one.link().await, LinkState::Up { .. }));
        let reason = "closed by the peer: the node is stopping".to_owned();
        assert_eq!(one.link().await, LinkState::Down { reason });
        assert!(begun.elapsed() < Duration::from_secs(3));
        drop(two);
    });
}
