//! Calls between nodes and requests of clients.

use crate::parts::{Ca, Node, connect, pair, run, within};
use bytes::{BufMut, Bytes, BytesMut};
use multiraft::NodeId;
use quinn::{RecvStream, SendStream};
use std::sync::atomic::Ordering;
use transport_quic::limits::{CALL_BYTES_MAX, CALLS_MAX};
use transport_quic::{ALPN_CLIENT, CallError, NotSent};

#[test]
fn calls_round_trip_both_ways() {
    run(async {
        let (one, two) = pair(&Ca::new()).await;
        let payload = |n: u32| {
            Bytes::from(vec![
                n as u8;
                if n.is_multiple_of(100) {
                    200_000
                } else {
                    1 + n as usize
                }
            ])
        };
        let asked: Vec<_> = (0..1000)
            .map(|n| (n, one.begin_call(2, payload(n)), two.begin_call(1, payload(n))))
            .collect();
        for (number, there, back) in asked {
            assert_eq!(within(there).await.unwrap(), Ok(payload(number)));
            assert_eq!(within(back).await.unwrap(), Ok(payload(number)));
        }
        assert_eq!(one.transport.links()[0].calls, 0);
        assert_eq!(one.transport.links()[0].calls_bytes, 0);
    });
}

#[test]
fn replies_may_come_late_and_in_any_order() {
    run(async {
        let (one, mut two) = pair(&Ca::new()).await;
        two.recorder.keep.store(true, Ordering::SeqCst);
        let mut first = one.begin_call(2, Bytes::from_static(b"first"));
        let second = one.begin_call(2, Bytes::from_static(b"second"));
        assert_eq!(
            two.asked().await,
            ("node-1".to_owned(), Bytes::from_static(b"first"))
        );
        assert_eq!(two.asked().await.1, "second");
        let mut kept: Vec<_> = std::mem::take(&mut *two.recorder.kept.lock().unwrap());
        kept.pop().unwrap().send(Bytes::from_static(b"2"));
        assert_eq!(within(second).await.unwrap().unwrap(), "2");
        assert!(first.try_recv().is_err(), "the first is not answered yet");
        let late = kept.pop().unwrap();
        std::thread::spawn(move || late.send(Bytes::from_static(b"1")));
        assert_eq!(within(first).await.unwrap().unwrap(), "1");
    });
}

#[test]
fn without_a_link_a_call_is_not_sent() {
    run(async {
        let ca = Ca::new();
        let one = Node::start(ca.node(1));
        let no_link = Err(CallError::NotSent(NotSent::NoLink));
        assert_eq!(one.call(2, Bytes::from_static(b"x")).await, no_link, "unknown");
        one.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        assert_eq!(one.call(2, Bytes::from_static(b"x")).await, no_link, "not linked");
    });
}

#[test]
fn a_link_lost_after_delivery_leaves_the_outcome_unknown() {
    run(async {
        let (one, mut two) = pair(&Ca::new()).await;
        two.recorder.keep.store(true, Ordering::SeqCst);
        let outcome = one.begin_call(2, Bytes::from_static(b"x"));
        two.asked().await;
        within(two.transport.shutdown()).await;
        assert_eq!(within(outcome).await.unwrap(), Err(CallError::LinkLost));
        let after = one.call(2, Bytes::from_static(b"y")).await;
        assert_eq!(after, Err(CallError::NotSent(NotSent::NoLink)));
    });
}

#[test]
fn a_transport_that_stops_or_dies_ends_its_own_calls() {
    run(async {
        for kill in [false, true] {
            let (one, mut two) = pair(&Ca::new()).await;
            two.recorder.keep.store(true, Ordering::SeqCst);
            let outcome = one.begin_call(2, Bytes::from_static(b"x"));
            two.asked().await;
            if kill {
                one.kill();
            } else {
                within(one.transport.shutdown()).await;
            }
            assert_eq!(within(outcome).await.unwrap(), Err(CallError::LinkLost));
        }
    });
}

#[test]
fn a_dropped_reply_leaves_the_outcome_unknown() {
    run(async {
        let (one, two) = pair(&Ca::new()).await;
        two.recorder.drop.store(true, Ordering::SeqCst);
        assert_eq!(
            one.call(2, Bytes::from_static(b"x")).await,
            Err(CallError::LinkLost)
        );
        two.recorder.drop.store(false, Ordering::SeqCst);
        assert!(
            one.call(2, Bytes::from_static(b"x")).await.is_ok(),
            "the link lives on"
        );
    });
}

#[test]
fn too_many_and_too_long_calls_are_not_sent() {
    run(async {
        let (one, two) = pair(&Ca::new()).await;
        let long = one.call(2, Bytes::from(vec![0; CALL_BYTES_MAX + 1])).await;
        assert_eq!(long, Err(CallError::NotSent(NotSent::TooLong)));
        two.recorder.keep.store(true, Ordering::SeqCst);
        let waiting: Vec<_> = (0..CALLS_MAX)
            .map(|_| one.begin_call(2, Bytes::from_static(b"x")))
            .collect();
        let one_more = one.call(2, Bytes::from_static(b"x")).await;
        assert_eq!(one_more, Err(CallError::NotSent(NotSent::Full)));
        assert_eq!(one.transport.links()[0].calls, CALLS_MAX);
        drop(two);
        drop(waiting);
    });
}

fn message(number: u64, payload: &[u8]) -> BytesMut {
    let mut message = BytesMut::new();
    message.put_u32(8 + payload.len() as u32);
    message.put_u64(number);
    message.extend_from_slice(payload);
    message
}

async fn read_message(stream: &mut RecvStream) -> (u64, Vec<u8>) {
    let mut head = [0; 12];
    within(stream.read_exact(&mut head)).await.unwrap();
    let length = u32::from_be_bytes(head[..4].try_into().unwrap());
    let mut payload = vec![0; length as usize - 8];
    within(stream.read_exact(&mut payload)).await.unwrap();
    (u64::from_be_bytes(head[4..].try_into().unwrap()), payload)
}

async fn write(stream: &mut SendStream, bytes: &[u8]) {
    within(stream.write_all(bytes)).await.unwrap();
}

#[test]
fn a_client_asks_and_is_answered_in_the_documented_bytes() {
    run(async {
        let ca = Ca::new();
        let mut node = Node::start(ca.node(1));
        let app = ca.client("app");
        let (_endpoint, connection) = connect(Some(&app), &ca, ALPN_CLIENT, node.address()).await;
        let (mut send, mut receive) = connection.unwrap().open_bi().await.unwrap();
        let mut both = message(41, b"forty-one");
        both.unsplit(message(7, b"seven"));
        let (begin, rest) = both.split_at(15);
        write(&mut send, begin).await;
        write(&mut send, rest).await;
        assert_eq!(read_message(&mut receive).await, (41, b"forty-one".to_vec()));
        assert_eq!(read_message(&mut receive).await, (7, b"seven".to_vec()));
        assert_eq!(
            node.asked().await,
            ("client-app".to_owned(), Bytes::from_static(b"forty-one"))
        );
        assert_eq!(node.transport.stats().clients, 1);
    });
}

#[test]
fn a_client_that_asks_no_more_still_gets_its_answers() {
    run(async {
        let ca = Ca::new();
        let mut node = Node::start(ca.node(1));
        node.recorder.keep.store(true, Ordering::SeqCst);
        let (_endpoint, connection) = connect(Some(&ca.node(9)), &ca, ALPN_CLIENT, node.address()).await;
        let (mut send, mut receive) = connection.unwrap().open_bi().await.unwrap();
        write(&mut send, &message(1, b"x")).await;
        send.finish().unwrap();
        assert_eq!(node.asked().await.0, "node-9");
        let reply = node.recorder.kept.lock().unwrap().pop().unwrap();
        reply.send(Bytes::from_static(b"answer"));
        assert_eq!(read_message(&mut receive).await, (1, b"answer".to_vec()));
        assert!(
            within(receive.read_to_end(1)).await.unwrap().is_empty(),
            "the server ends the stream"
        );
    });
}
