//! Certificates and links are renewed while frames and calls travel: nothing is lost, nothing goes down. And nodes
//! that leave.

use crate::parts::{Ca, Event, Node, connect, pair, run, within};
use bytes::Bytes;
use multiraft::{Lane, NodeId};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::time::Duration;
use transport_quic::{ALPN_CLIENT, By, Config, LinkState, Options, Refusal};

/// Sends numbered frames and calls both ways until both nodes counted so many renewals.
async fn traffic_until_renewed(one: &mut Node, two: &mut Node, renewals: u64) {
    let mut sent = 0_u32;
    let mut calls = Vec::new();
    while [&*one, &*two]
        .iter()
        .any(|node| node.transport.links()[0].renewals < renewals)
    {
        for (from, to) in [(&*one, 2), (&*two, 1)] {
            for lane in [Lane::Control, Lane::Entries] {
                from.send(to, lane, vec![Bytes::copy_from_slice(&sent.to_be_bytes())]);
            }
            calls.push(from.begin_call(to, Bytes::copy_from_slice(&sent.to_be_bytes())));
        }
        sent += 1;
        tokio::time::sleep(Duration::from_micros(200)).await; // pace: traffic over the whole renewal
    }
    for call in calls {
        assert!(within(call).await.unwrap().is_ok(), "every call is answered");
    }
    for node in [one, two] {
        let mut seen = BTreeMap::new();
        while seen.values().sum::<u32>() < 2 * sent {
            match node.event().await {
                Event::Frame(_, frame) => *seen.entry(frame).or_insert(0) += 1,
                Event::Link(_, state) => assert!(matches!(state, LinkState::Up { .. }), "{state}"),
                Event::Asked(..) => {}
            }
        }
        assert!(seen.values().all(|count| *count == 2), "once on each lane");
        assert_eq!(node.transport.links()[0].reconnects, 0);
    }
}

#[test]
fn links_are_renewed_under_traffic_and_lose_nothing() {
    run(async {
        let ca = Ca::new();
        let (mut one, mut two) = pair(&ca).await;
        one.transport.renew(&ca.node(1)).unwrap();
        traffic_until_renewed(&mut one, &mut two, 1).await;
        // Node 1 dialed: node 2 has to ask it to.
        two.transport.renew(&ca.node(2)).unwrap();
        traffic_until_renewed(&mut one, &mut two, 2).await;
    });
}

#[test]
fn old_links_are_dialed_anew() {
    run(async {
        let ca = Ca::new();
        let start = |id| {
            Node::start_with(Config {
                credentials: ca.node(id),
                incarnation: 1,
                listen: "127.0.0.1:0".parse().unwrap(),
                peers: BTreeMap::new(),
                secret: [id as u8; 32],
                options: Options {
                    redial_interval: Duration::from_millis(100),
                    ..Options::default()
                },
            })
        };
        let (mut one, mut two) = (start(1), start(2));
        two.meet(&one);
        one.meet(&two);
        within(one.transport.up(NodeId(2))).await;
        within(two.transport.up(NodeId(1))).await;
        traffic_until_renewed(&mut one, &mut two, 3).await;
    });
}

/// The certificate a node shows.
async fn shown(ca: &Ca, node: &Node) -> CertificateDer<'static> {
    let (_endpoint, connection) = connect(Some(&ca.client("app")), ca, ALPN_CLIENT, node.address()).await;
    let chain = connection.unwrap().peer_identity().unwrap();
    chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
}

#[test]
fn a_new_certificate_is_shown_at_once_and_a_wrong_one_never() {
    run(async {
        let ca = Ca::new();
        let old = ca.node(1);
        let node = Node::start(old.clone());
        assert_eq!(shown(&ca, &node).await, old.chain[0]);
        let mut foreign = ca.node(1);
        foreign.cluster = transport_quic::ClusterId([9; 16]);
        for (wrong, words) in [
            (
                ca.node(2),
                "the new certificate was made for node-2, this is node 1",
            ),
            (foreign, "the new CA stands for cluster 0909"),
        ] {
            let error = node.transport.renew(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
            assert_eq!(shown(&ca, &node).await, old.chain[0], "the old one stays");
        }
        let new = ca.node(1);
        node.transport.renew(&new).unwrap();
        assert_eq!(shown(&ca, &node).await, new.chain[0]);
    });
}

#[test]
fn a_ca_is_replaced_without_a_link_going_down() {
    run(async {
        let (old, new) = (Ca::named("old"), Ca::named("new"));
        let (mut one, mut two) = pair(&old).await;
        let both = vec![old.certificate.clone(), new.certificate.clone()];
        let steps = [
            (&old, both.clone()),
            (&new, both),
            (&new, vec![new.certificate.clone()]),
        ];
        for (step, (ca, roots)) in steps.into_iter().enumerate() {
            for (node, id) in [(&one, 1), (&two, 2)] {
                let mut credentials = ca.node(id);
                credentials.roots = roots.clone();
                node.transport.renew(&credentials).unwrap();
            }
            // Both nodes renew the link, unless one renewal served both.
            traffic_until_renewed(&mut one, &mut two, step as u64 + 1).await;
        }
        let late = Node::start(old.node(3));
        two.transport.set_peer(NodeId(3), "127.0.0.1:9".to_owned());
        late.meet(&two);
        late.counts(By::Us, Refusal::WrongCa).await;
        two.counts(By::OtherSide, Refusal::WrongCa).await;
    });
}

#[test]
fn new_certificates_end_the_pause_after_refusals() {
    run(async {
        let (ours, theirs) = (Ca::named("ours"), Ca::named("theirs"));
        let (one, two) = (Node::start(ours.node(1)), Node::start(theirs.node(2)));
        two.meet(&one);
        one.meet(&two);
        one.counts(By::Us, Refusal::WrongCa).await;
        one.transport.renew(&theirs.node(1)).unwrap();
        within(one.transport.up(NodeId(2))).await;
    });
}

#[test]
fn a_removed_node_is_told_and_stays_away_until_it_is_added_again() {
    run(async {
        let ca = Ca::new();
        let (one, two) = pair(&ca).await;
        two.transport.remove_peer(NodeId(1));
        one.down_because(2, "the node was removed from the cluster").await;
        assert!(two.transport.links().is_empty());
        one.counts(By::OtherSide, Refusal::NotAMember).await;
        assert!(!one.transport.is_up(NodeId(2)) && !two.transport.is_up(NodeId(1)));
        two.meet(&one);
        within(one.transport.up(NodeId(2))).await;
        within(two.transport.up(NodeId(1))).await;
    });
}
