//! Whoever must not be linked is refused, and both sides know why: each case is asserted on the dialer and on the
//! acceptor, in the state of the link or the log, in the words and in the counter by reason.

use crate::logs;
use crate::parts::{Ca, DAY, Node, connect, pair, run, within};
use multiraft::NodeId;
use std::time::{Duration, SystemTime};
use transport_quic::{ALPN_PEER, By, CertifiedName, ClusterId, Code, Credentials, Refusal};

/// What both sides must say of a refused connection.
struct Expected {
    reason: Refusal,
    /// Words in the dialer's link state and log.
    dialer: &'static str,
    /// Words in the acceptor's log.
    acceptor: &'static str,
    /// Who refuses.
    by_dialer: bool,
}

/// Node 1 dials node 2, which knows node 1 to be a member; returns once both sides have told what is expected.
async fn refused(first: Credentials, second: Credentials, expected: &Expected) {
    let (dialer, acceptor) = (Node::start(first), Node::start(second));
    let id = acceptor.transport.node();
    // Nobody listens there: the acceptor does not dial.
    acceptor
        .transport
        .set_peer(dialer.transport.node(), "127.0.0.1:9".to_owned());
    dialer.meet(&acceptor);
    both_know(&dialer, &acceptor, id.0, expected).await;
    assert!(!dialer.transport.is_up(id) && !acceptor.transport.is_up(dialer.transport.node()));
}

async fn both_know(dialer: &Node, acceptor: &Node, dialed: u64, expected: &Expected) {
    let (there, here) = if expected.by_dialer {
        (By::Us, By::OtherSide)
    } else {
        (By::OtherSide, By::Us)
    };
    dialer.down_because(dialed, expected.dialer).await;
    logs::expect(&["no link", &acceptor.address().to_string(), expected.dialer]).await;
    dialer.counts(there, expected.reason).await;
    let reason = format!("reason={}", expected.reason);
    let words = [
        "connection refused",
        &dialer.address().to_string(),
        &reason,
        expected.acceptor,
    ];
    logs::expect(&words).await;
    acceptor.counts(here, expected.reason).await;
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_the_dialer() {
    run(async {
        // Of another name, and of the same name with another key.
        for name in ["another CA", "a test CA"] {
            let expected = Expected {
                reason: Refusal::WrongCa,
                dialer: "refused here: the other side's certificate was issued by another CA",
                acceptor: "refused by the other side: this node's certificate was issued by another CA",
                by_dialer: true,
            };
            refused(Ca::new().node(1), Ca::named(name).node(2), &expected).await;
        }
    });
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_the_acceptor() {
    run(async {
        for name in ["another CA", "a test CA"] {
            let (ours, other) = (Ca::new(), Ca::named(name));
            let mut credentials = ours.node(1);
            credentials.roots.push(other.certificate.clone());
            let expected = Expected {
                reason: Refusal::WrongCa,
                dialer: "refused by the other side: this node's certificate was issued by another CA",
                acceptor: "refused here: the other side's certificate was issued by another CA",
                by_dialer: false,
            };
            refused(credentials, other.node(2), &expected).await;
        }
    });
}

#[test]
fn another_cluster_under_the_same_ca_is_refused() {
    run(async {
        let ca = Ca::new();
        let mut credentials = ca.node(1);
        credentials.cluster = ClusterId([6; 16]);
        let expected = Expected {
            reason: Refusal::WrongCluster,
            dialer: "closed by the peer: a hello for cluster 06060606060606060606060606060606, this is cluster \
                     05050505050505050505050505050505",
            acceptor: "a hello for cluster 06060606060606060606060606060606, this is cluster 0505050505050505",
            by_dialer: false,
        };
        refused(credentials, ca.node(2), &expected).await;
    });
}

#[test]
fn a_node_that_claims_another_id_than_its_certificate_is_refused() {
    run(async {
        let ca = Ca::new();
        let mut credentials = ca.node(1);
        credentials.name = CertifiedName::Node(NodeId(3));
        let expected = Expected {
            reason: Refusal::WrongNode,
            dialer: "closed by the peer: node 3 in the hello, node 1 in the certificate",
            acceptor: "node 3 in the hello, node 1 in the certificate",
            by_dialer: false,
        };
        refused(credentials, ca.node(5), &expected).await;
    });
}

#[test]
fn another_node_than_the_one_configured_at_an_address_is_refused() {
    run(async {
        let ca = Ca::new();
        let (one, three) = (Node::start(ca.node(1)), Node::start(ca.node(3)));
        three.transport.set_peer(NodeId(1), "127.0.0.1:9".to_owned());
        one.transport.set_peer(NodeId(2), three.address().to_string());
        let expected = Expected {
            reason: Refusal::WrongNode,
            dialer: "refused here: the other side's certificate names another node (invalid peer certificate: \
                     certificate not valid for name \"node-2\"",
            acceptor: "refused by the other side: this node's certificate names another node",
            by_dialer: true,
        };
        // The log escapes the quotes.
        let expected = Expected {
            dialer: &expected.dialer[..80],
            ..expected
        };
        both_know(&one, &three, 2, &expected).await;
    });
}

#[test]
fn a_node_that_is_no_member_is_refused() {
    run(async {
        let ca = Ca::new();
        let (one, two) = (Node::start(ca.node(1)), Node::start(ca.node(2)));
        one.meet(&two);
        let expected = Expected {
            reason: Refusal::NotAMember,
            dialer: "closed by the peer: node 1 is not a member known to node 2",
            acceptor: "node 1 is not a member known to node 2",
            by_dialer: false,
        };
        both_know(&one, &two, 2, &expected).await;
    });
}

#[test]
fn a_certificate_that_has_expired_or_is_not_valid_yet_is_refused_by_either_side() {
    run(async {
        let (ca, now) = (Ca::new(), SystemTime::now());
        let cases = [
            (
                now - DAY..now - Duration::from_secs(60),
                Refusal::Expired,
                ["has expired", "certificate expired"],
            ),
            (
                now + DAY..now + 2 * DAY,
                Refusal::NotYetValid,
                ["is not valid yet", "certificate not valid yet"],
            ),
        ];
        for (valid, reason, [ours, library]) in cases {
            for by_dialer in [true, false] {
                let detail = format!("{ours} (invalid peer certificate: {library}");
                let here = format!("refused here: the other side's certificate {detail}").leak();
                let there = format!("refused by the other side: this node's certificate {detail}").leak();
                let bad = ca.node_valid(if by_dialer { 2 } else { 1 }, valid.clone());
                let (first, second) = if by_dialer {
                    (ca.node(1), bad)
                } else {
                    (bad, ca.node(2))
                };
                let (dialer, acceptor) = if by_dialer { (here, there) } else { (there, here) };
                let expected = Expected {
                    reason,
                    dialer,
                    acceptor,
                    by_dialer,
                };
                refused(first, second, &expected).await;
            }
        }
    });
}

#[test]
fn an_older_process_of_a_node_is_refused_and_stays_refused() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        let stale = Node::start_at(ca.node(1), "127.0.0.1:0".parse().unwrap(), 0, [9; 32]);
        let expected = Expected {
            reason: Refusal::DuplicateNode,
            dialer: "node 1 calls with incarnation 0, but was seen with 1",
            acceptor: "node 1 calls with incarnation 0, but was seen with 1",
            by_dialer: false,
        };
        stale.meet(&two);
        both_know(&stale, &two, 2, &expected).await;
        assert!(two.transport.is_up(NodeId(1)), "the living link stays");
        // Also when the newer process is gone: a disk that was rolled back must not vote again.
        within(one.transport.shutdown()).await;
        two.state(1, |state| !matches!(state, transport_quic::LinkState::Up { .. }))
            .await;
        let before = two
            .transport
            .stats()
            .refusals
            .count(By::Us, Refusal::DuplicateNode);
        while two
            .transport
            .stats()
            .refusals
            .count(By::Us, Refusal::DuplicateNode)
            == before
        {
            tokio::time::sleep(Duration::from_millis(10)).await; // pace: `run` bounds it
        }
        assert!(!stale.transport.is_up(NodeId(2)));
    });
}

#[test]
fn two_processes_with_one_identity_are_told_apart_and_the_second_is_refused() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        let twin = Node::start_at(ca.node(1), "127.0.0.1:0".parse().unwrap(), 1, [7; 32]);
        twin.meet(&two);
        let expected = Expected {
            reason: Refusal::DuplicateNode,
            dialer: "closed by the peer: node 1 runs twice: another process with the same identity",
            acceptor: "node 1 runs twice: another process with the same identity and incarnation is linked from",
            by_dialer: false,
        };
        both_know(&twin, &two, 2, &expected).await;
        assert!(one.transport.is_up(NodeId(2)) && two.transport.is_up(NodeId(1)));
        assert_eq!(
            two.transport.links()[0].reconnects,
            0,
            "the link did not go back and forth"
        );
    });
}

#[test]
fn a_process_whose_successor_came_is_told_so() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        let next = Node::start_at(ca.node(1), "127.0.0.1:0".parse().unwrap(), 2, [7; 32]);
        next.meet(&two);
        within(next.transport.up(NodeId(2))).await;
        one.counts(By::OtherSide, Refusal::DuplicateNode).await;
        one.down_because(2, "node 1 calls with incarnation 1, but was seen with 2")
            .await;
    });
}

/// A hello by hand from node 2 to node 1 that claims these wire versions.
fn hello_of(versions: [u16; 2], ca: &Ca) -> Vec<u8> {
    let mut body = versions.map(u16::to_be_bytes).concat();
    body.extend_from_slice(&ca.cluster.0);
    body.extend_from_slice(&[2, 1, 1, 77, 0]);
    [&[1, 1, 0, 0, 0, body.len() as u8][..], &body].concat()
}

#[test]
fn a_node_of_other_wire_versions_is_refused_by_name() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        node.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        let (endpoint, connection) = connect(Some(&ca.node(2)), &ca, ALPN_PEER, node.address()).await;
        let connection = connection.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello_of([3, 4], &ca)).await.unwrap();
        let words = "the peer speaks wire versions 3 to 4, this node version 2: upgrade the older of the two";
        let quinn::ConnectionError::ApplicationClosed(close) = within(connection.closed()).await else {
            panic!("closed in another way");
        };
        assert_eq!(close.error_code, quinn::VarInt::from(Code::Version));
        assert_eq!(close.reason, words.as_bytes());
        node.counts(By::Us, Refusal::Version).await;
        let port = endpoint.local_addr().unwrap().port();
        logs::expect(&[
            "connection refused",
            &format!(":{port} "),
            "reason=version",
            words,
        ])
        .await;
    });
}

#[test]
fn a_node_that_also_speaks_newer_versions_is_linked_with_ours() {
    run(async {
        let ca = Ca::new();
        let node = Node::start(ca.node(1));
        node.transport.set_peer(NodeId(2), "127.0.0.1:9".to_owned());
        let (_endpoint, connection) = connect(Some(&ca.node(2)), &ca, ALPN_PEER, node.address()).await;
        let connection = connection.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello_of([1, 9], &ca)).await.unwrap();
        send.finish().unwrap();
        let answer = within(receive.read_to_end(1024)).await.unwrap();
        assert_eq!(answer[4..8], [0, 2, 0, 2], "it says which versions it speaks");
        assert_eq!(node.transport.links()[0].wire, 2);
    });
}
