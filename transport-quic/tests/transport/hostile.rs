//! Bytes that break the protocol, from strangers and from members: the connection ends, the node goes on.

use crate::parts::{Ca, Node, connect, run, within};
use multiraft::NodeId;
use quinn::{Connection, ConnectionError};
use transport_quic::{ALPN_CLIENT, ALPN_PEER, By, Code, Refusal};

/// Waits until the node closes the connection, and returns the code and the reason.
pub(crate) async fn closed(connection: &Connection) -> (u64, String) {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => (
            close.error_code.into_inner(),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        other => panic!("closed in another way: {other}"),
    }
}

async fn uni(connection: &Connection, bytes: &[u8]) {
    within(connection.open_uni())
        .await
        .unwrap()
        .write_all(bytes)
        .await
        .unwrap();
}

/// A hello by hand, as `hello.rs` describes it: from node 2 to node 1.
pub(crate) async fn say_hello(connection: &Connection, ca: &Ca, purpose: u8) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let mut body = vec![0, 2, 0, 2];
    body.extend_from_slice(&ca.cluster.0);
    body.extend_from_slice(&[2, 1, 1, 77, purpose]);
    let mut hello = vec![1, 1, 0, 0, 0, body.len() as u8];
    hello.extend_from_slice(&body);
    send.write_all(&hello).await.unwrap();
    send.finish().unwrap();
    let answer = within(receive.read_to_end(1024)).await.unwrap();
    assert_eq!(answer[4..8], [0, 2, 0, 2], "the node says hello in turn");
}

/// A member that has said hello and may now misbehave.
pub(crate) async fn member(ca: &Ca, node: &Node) -> (quinn::Endpoint, Connection) {
    node.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
    let (endpoint, connection) = connect(Some(&ca.node(2)), ca, ALPN_PEER, node.address()).await;
    let connection = connection.unwrap();
    say_hello(&connection, ca, 0).await;
    (endpoint, connection)
}

async fn still_serves(ca: &Ca, node: &Node) {
    let (_endpoint, connection) = connect(Some(&ca.client("app")), ca, ALPN_CLIENT, node.address()).await;
    let (mut send, mut receive) = connection.unwrap().open_bi().await.unwrap();
    let message = [0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
    send.write_all(&message).await.unwrap();
    let mut answer = [0; 13];
    within(receive.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, message);
}

#[test]
fn a_client_with_a_bad_length_is_closed() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        for bad in [[0, 0, 0, 7], [255, 255, 255, 255]] {
            let (_endpoint, connection) =
                connect(Some(&ca.client("app")), &ca, ALPN_CLIENT, node.address()).await;
            let connection = connection.unwrap();
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            send.write_all(&bad).await.unwrap();
            let (code, reason) = closed(&connection).await;
            assert_eq!(code, Code::Protocol as u64);
            assert!(reason.contains("a length of"), "{reason}");
        }
        assert_eq!(node.transport.stats().violations, 2);
        still_serves(&ca, &node).await;
    });
}

#[test]
fn a_client_that_opens_a_lane_is_closed() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        let (_endpoint, connection) =
            connect(Some(&ca.client("app")), &ca, ALPN_CLIENT, node.address()).await;
        let connection = connection.unwrap();
        uni(&connection, b"x").await;
        assert_eq!(closed(&connection).await.0, Code::Protocol as u64);
        still_serves(&ca, &node).await;
    });
}

#[test]
fn strangers_without_a_certificate_or_protocol_are_refused() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        // TLS 1.3 lets a client believe it is connected before the server has looked at its certificate.
        let (_endpoint, nobody) = connect(None, &ca, ALPN_CLIENT, node.address()).await;
        if let Ok(connection) = nobody {
            let error = within(connection.closed()).await;
            assert!(!matches!(error, ConnectionError::ApplicationClosed(_)), "{error}");
        }
        let (_endpoint, stranger) =
            connect(Some(&Ca::new().client("app")), &ca, ALPN_CLIENT, node.address()).await;
        if let Ok(connection) = stranger {
            let error = within(connection.closed()).await;
            assert!(!matches!(error, ConnectionError::ApplicationClosed(_)), "{error}");
        }
        let (_endpoint, other) = connect(Some(&ca.client("app")), &ca, b"h3", node.address()).await;
        assert!(other.is_err());
        still_serves(&ca, &node).await;
    });
}

#[test]
fn a_client_cannot_pose_as_a_node() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        let (_endpoint, connection) = connect(Some(&ca.client("app")), &ca, ALPN_PEER, node.address()).await;
        let (code, reason) = closed(&connection.unwrap()).await;
        assert_eq!(
            (code, reason.as_str()),
            (
                Code::NotANode as u64,
                "the certificate of client-app is not one for nodes"
            )
        );
    });
}

#[test]
fn garbage_instead_of_a_hello_is_refused() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        node.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        let garbage: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[1, 9],
            &[1, 2],
            &[1, 1, 255, 255, 255, 255],
            &[1, 1, 0, 0, 0, 5, 0, 2, 0, 2, 9],
        ];
        for bytes in garbage {
            let (_endpoint, connection) = connect(Some(&ca.node(2)), &ca, ALPN_PEER, node.address()).await;
            let connection = connection.unwrap();
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            send.finish().unwrap();
            let (code, reason) = closed(&connection).await;
            assert_eq!(code, Code::Protocol as u64, "{reason}");
        }
        let refusals = node.transport.stats().refusals;
        assert_eq!(refusals.count(By::Us, Refusal::Protocol), garbage.len() as u64);
    });
}

#[test]
fn a_member_that_breaks_the_protocol_loses_its_link() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        let garbage: [&[u8]; 6] = [
            &[1, 3, 0, 0, 0, 0],
            &[1, 4, 255, 0, 0, 0],
            &[1, 5],
            &[1, 77],
            &[2, 3],
            b"GET / HTTP/1.1\r\n\r\n",
        ];
        for bytes in garbage {
            let (_endpoint, connection) = member(&ca, &node).await;
            uni(&connection, bytes).await;
            let (code, reason) = closed(&connection).await;
            assert_eq!(code, Code::Protocol as u64, "{reason}");
            node.down_because(2, "").await;
        }
        still_serves(&ca, &node).await;
    });
}

#[test]
fn half_a_frame_is_not_delivered() {
    run(async {
        let ca = Ca::new();
        let mut node = Node::start(ca.node(1));
        let (_endpoint, connection) = member(&ca, &node).await;
        let mut lane = connection.open_uni().await.unwrap();
        lane.write_all(&[1, 3, 0, 0, 0, 2, b'o', b'k', 0, 0, 0, 9, b'h', b'a', b'l', b'f'])
            .await
            .unwrap();
        lane.finish().unwrap();
        assert_eq!(node.frame().await.1, "ok");
        let (_, reason) = closed(&connection).await;
        assert_eq!(reason, "the stream ended inside a message");
    });
}
