//! Bulk streams between transports: bounds, the rate, ends in the middle, and bytes that break the protocol. What every
//! network must do with them is in the suite of `conformance.rs`.

use crate::hostile::{closed, member, say_hello};
use crate::parts::{Ca, Node, connect, pair, run, within};
use bytes::Bytes;
use multiraft::testing::{BulkRecorder, BulkRun, BulkSeen, BulkWatch};
use multiraft::{Bulk, BulkHandle, BulkOutcome, NodeId, RaftNetwork};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use transport_quic::limits::{BULK_IN_MAX, BULK_OUT_MAX};
use transport_quic::{ALPN_PEER, Code, Config, Options};

/// Lets `node` take bulk streams.
fn takes_bulk(node: &Node) -> (BulkRecorder, Receiver<BulkSeen>) {
    let (recorder, seen) = BulkRecorder::new();
    node.bulk.set(Arc::new(recorder.clone()));
    (recorder, seen)
}

fn send(node: &Node, to: u64, bytes: usize) -> (BulkHandle, BulkWatch) {
    let (source, watch) = BulkRun::new(Bytes::from(vec![7; bytes]), 100_000, false);
    let (to, header) = (NodeId(to), Bytes::from_static(b"header"));
    (node.transport.send_bulk(Bulk { to, header, source }), watch)
}

/// Waits on a thread of its own: the test's may be needed meanwhile.
async fn outcome(watch: BulkWatch) -> BulkOutcome {
    within(tokio::task::spawn_blocking(move || watch.outcome()))
        .await
        .unwrap()
}

fn not_sent(words: &str) -> BulkOutcome {
    BulkOutcome::NotSent(words.to_owned())
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(2)).await; // pace: `run` bounds it
    }
}

#[test]
fn a_node_sends_and_receives_a_bounded_number_of_streams_at_once() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        let three = Node::start(ca.node(3));
        three.meet(&two);
        two.meet(&three);
        within(three.transport.up(NodeId(2))).await;
        let (recorder, _seen) = takes_bulk(&two);
        recorder.hold(true);
        let running: Vec<_> = (0..BULK_OUT_MAX).map(|_| send(&one, 2, 200_000).1).collect();
        until(|| two.transport.stats().bulk.receiving == BULK_IN_MAX as u64).await;
        assert_eq!(one.transport.stats().bulk.sending, BULK_OUT_MAX as u64);
        let one_more = outcome(send(&one, 2, 1).1).await;
        assert_eq!(one_more, not_sent("too many bulk streams are being sent"));
        let another = outcome(send(&three, 2, 1).1).await;
        assert_eq!(another, not_sent("too many bulk streams are being received"));
        recorder.hold(false);
        for watch in running {
            assert!(matches!(outcome(watch).await, BulkOutcome::Taken(_)));
        }
        assert!(
            matches!(outcome(send(&three, 2, 1).1).await, BulkOutcome::Taken(_)),
            "there is room again"
        );
        until(|| two.transport.stats().bulk.receiving == 0).await;
        assert_eq!(two.transport.stats().bulk.received_bytes, 400_001);
    });
}

#[test]
fn a_stream_of_a_node_that_dies_or_to_one_is_forgotten_and_its_fate_unknown() {
    run(async {
        for receiver_dies in [true, false] {
            let (one, two) = pair(&Ca::new()).await;
            let (recorder, seen) = takes_bulk(&two);
            recorder.hold(true);
            let (_handle, watch) = send(&one, 2, 50_000_000);
            until(|| two.transport.stats().bulk.received_bytes > 0).await;
            recorder.hold(false);
            recorder.hold(true);
            if receiver_dies {
                within(two.transport.shutdown()).await;
                recorder.hold(false);
            } else {
                within(one.transport.shutdown()).await;
                recorder.hold(false);
            }
            let ended = outcome(watch).await;
            assert!(matches!(ended, BulkOutcome::Lost(_)), "{ended:?}");
            let met = tokio::task::spawn_blocking(move || seen.iter().nth(1));
            let met = within(met).await.unwrap();
            assert!(matches!(met, Some(BulkSeen::Dropped(_))), "{met:?}");
        }
    });
}

#[test]
fn a_stream_to_a_node_that_is_removed_or_not_linked_ends() {
    run(async {
        let (one, two) = pair(&Ca::new()).await;
        let (recorder, _seen) = takes_bulk(&two);
        recorder.hold(true);
        let (_handle, watch) = send(&one, 2, 50_000_000);
        until(|| two.transport.stats().bulk.received_bytes > 0).await;
        one.transport.remove_peer(NodeId(2));
        let ended = outcome(watch).await;
        assert_eq!(
            ended,
            BulkOutcome::Cancelled("the node is no member any more".to_owned())
        );
        recorder.hold(false);
        assert_eq!(outcome(send(&one, 2, 1).1).await, not_sent("no link is up"));
    });
}

#[test]
fn all_streams_of_a_node_together_keep_to_its_rate() {
    run(async {
        let ca = Ca::new();
        let slow = Node::start_with(Config {
            credentials: ca.node(1),
            incarnation: 1,
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: BTreeMap::new(),
            secret: [1; 32],
            options: Options {
                bulk_bytes_per_second: 10_000_000,
                ..Options::default()
            },
        });
        let two = Node::start(ca.node(2));
        two.meet(&slow);
        slow.meet(&two);
        within(slow.transport.up(NodeId(2))).await;
        let (_recorder, _seen) = takes_bulk(&two);
        let begun = Instant::now();
        let streams: Vec<_> = (0..2).map(|_| send(&slow, 2, 2_500_000).1).collect();
        for watch in streams {
            assert!(matches!(outcome(watch).await, BulkOutcome::Taken(_)));
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(480), "5 MB at 10 MB/s in {took:?}");
    });
}

/// The stream of a peer that says hello by hand, up to and with the header.
async fn by_hand(
    ca: &Ca,
    node: &Node,
) -> (
    quinn::Endpoint,
    quinn::Connection,
    quinn::SendStream,
    quinn::RecvStream,
) {
    let (endpoint, connection) = connect(Some(&ca.node(2)), ca, ALPN_PEER, node.address()).await;
    let connection = connection.unwrap();
    say_hello(&connection, ca, 1).await;
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 5, 0, 0, 0, 2, b'h', b'i']).await.unwrap();
    (endpoint, connection, send, receive)
}

/// One piece of three bytes, then a trailer of these.
fn piece_and_end(bytes: u64, checksum: u32) -> Vec<u8> {
    let end = [
        &[0, 0, 0, 13, 1][..],
        &bytes.to_be_bytes(),
        &checksum.to_be_bytes(),
    ]
    .concat();
    [&[0, 0, 0, 4, 0, b'a', b'b', b'c'][..], &end].concat()
}

/// CRC-32 of "abc".
const ABC: u32 = 0x3524_41c2;

#[test]
fn a_stream_is_taken_only_when_it_matches_its_trailer() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        let (_recorder, seen) = takes_bulk(&node);
        let _link = member(&ca, &node).await;
        for (bytes, checksum, expected) in [
            (3, ABC, "\0thank you"),
            (3, ABC ^ 1, "\x013 bytes do not match the trailer of 3 bytes"),
            (4, ABC, "\x013 bytes do not match the trailer of 4 bytes"),
        ] {
            let (_endpoint, _connection, mut send, mut receive) = by_hand(&ca, &node).await;
            send.write_all(&piece_and_end(bytes, checksum)).await.unwrap();
            let answer = within(receive.read_to_end(1000)).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer[4..]), expected);
            assert!(matches!(seen.recv(), Ok(BulkSeen::Began(NodeId(2), header)) if header == "hi"));
            let met = seen.recv().unwrap();
            let whole = matches!(&met, BulkSeen::Finished(bytes) if bytes == b"abc");
            assert_eq!(whole, expected.starts_with('\0'), "{met:?}");
        }
    });
}

#[test]
fn garbage_on_a_bulk_stream_is_refused_and_nothing_is_taken() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        let (_recorder, seen) = takes_bulk(&node);
        let _link = member(&ca, &node).await;
        let garbage: [&[u8]; 4] = [
            &[0, 0, 0, 1, 9],
            &[255, 255, 255, 255],
            &[0, 0, 0, 1, 0],
            &[0, 0, 0, 5, 1, 2, 3, 4, 5],
        ];
        for bytes in garbage {
            let (_endpoint, connection, mut send, _receive) = by_hand(&ca, &node).await;
            send.write_all(bytes).await.unwrap();
            assert_eq!(closed(&connection).await.0, Code::Done as u64);
            assert!(matches!(seen.recv(), Ok(BulkSeen::Began(..))));
            assert_eq!(seen.recv().unwrap(), BulkSeen::Dropped(0));
        }
    });
}

#[test]
fn only_the_process_that_is_linked_may_send_in_bulk() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        node.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        let (_endpoint, connection) = connect(Some(&ca.node(2)), &ca, ALPN_PEER, node.address()).await;
        let connection = connection.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let mut body = vec![0, 2, 0, 2];
        body.extend_from_slice(&ca.cluster.0);
        body.extend_from_slice(&[2, 1, 1, 77, 1]);
        let hello = [&[1, 1, 0, 0, 0, body.len() as u8][..], &body].concat();
        send.write_all(&hello).await.unwrap();
        let (code, words) = closed(&connection).await;
        assert_eq!(code, Code::Refused as u64);
        assert_eq!(words, "a bulk stream of a process of node 2 that is not linked");
    });
}
