//! The client against a node made for the purpose: it speaks the protocol over real QUIC from a map in memory, and
//! misbehaves when a key tells it to.

use bytes::BytesMut;
use flotilla_client::protocol::{
    ALPN, Call, HEAD_BYTES, NUMBER_BYTES, Reason, Rejection, Request, Response, RouteRow, Routes, Row, Slice,
    Versioned,
};
use flotilla_client::{Client, ClientOptions, Error, Pool, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Authority {
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a CA").der().clone();
        Authority {
            ca,
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    fn tls(&self) -> Tls {
        let (chain, key) = self.issue("client-test");
        Tls::from_der(self.ca.clone(), chain, key).expect("usable")
    }

    fn server(&self) -> quinn::ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a root");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let (chain, key) = self.issue("flotilla-node");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a server");
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).expect("QUIC suites");
        quinn::ServerConfig::with_crypto(Arc::new(config))
    }
}

#[derive(Clone, Default)]
struct FakeNode {
    data: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    connections: Arc<AtomicUsize>,
    routes: Arc<Mutex<Routes>>,
}

impl FakeNode {
    fn start(&self, authority: &Authority) -> (SocketAddr, quinn::Endpoint) {
        let at = "127.0.0.1:0".parse().expect("an address");
        let endpoint = quinn::Endpoint::server(authority.server(), at).expect("a socket");
        let (node, accepting) = (self.clone(), endpoint.clone());
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let node = node.clone();
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        node.connections.fetch_add(1, Ordering::SeqCst);
                        node.serve(connection).await;
                    }
                });
            }
        });
        (endpoint.local_addr().expect("bound"), endpoint)
    }

    async fn serve(&self, connection: quinn::Connection) {
        let Ok((mut send, mut receive)) = connection.accept_bi().await else {
            return;
        };
        let mut head = [0; HEAD_BYTES];
        while receive.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes")) as usize;
            let number = u64::from_be_bytes(head[4..].try_into().expect("eight bytes"));
            let mut payload = vec![0; length - NUMBER_BYTES];
            if receive.read_exact(&mut payload).await.is_err() {
                return;
            }
            let call = Call::decode(&payload).expect("the client speaks the protocol");
            let Some(out) = self.answer(number, &call, &connection) else {
                continue;
            };
            if send.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    /// None: no answer at all.
    fn answer(&self, number: u64, call: &Call<'_>, connection: &quinn::Connection) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        match told_by(&call.request) {
            Some(b"drop once") if self.connections.load(Ordering::SeqCst) > 1 => {}
            Some(b"drop" | b"drop once") => {
                connection.close(1u32.into(), b"told to");
                return None;
            }
            Some(b"silence") => return None,
            Some(b"dropped") => {
                out.extend_from_slice(&[0, 0, 0, 8]);
                out.extend_from_slice(&number.to_be_bytes());
                return Some(out);
            }
            Some(b"nonsense") => {
                out.extend_from_slice(&[0, 0, 0, 9]);
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&[99]);
                return Some(out);
            }
            _ => {}
        }
        self.obey(&call.request, |response| response.encode_frame(number, &mut out));
        Some(out)
    }

    fn obey(&self, request: &Request<'_>, respond: impl FnOnce(Response<'_>)) {
        let mut data = self.data.lock().expect("not poisoned");
        respond(match request {
            Request::Ping => Response::Done,
            Request::Put {
                key: Slice(b"refuse"),
                ..
            } => Response::Rejected(Rejection::Refused(Reason::Overloaded)),
            Request::Put {
                key: Slice(b"unknown"),
                ..
            } => Response::Rejected(Rejection::Unknown),
            Request::Get { key } => Response::Value(data.get(key.0).map(|v| Versioned {
                value: Slice(v),
                version: 1,
            })),
            Request::Put { key, value } => {
                data.insert(key.0.to_vec(), value.0.to_vec());
                Response::Done
            }
            Request::Delete { key } => Response::Deleted(data.remove(key.0).is_some()),
            Request::Scan { start, limit, .. } => {
                let row = |(key, value)| Row {
                    key: Slice(key),
                    value: Some(Slice(value)),
                };
                let mut rest = data.range(start.0.to_vec()..).map(|(k, v)| (&k[..], &v[..]));
                let rows = rest.by_ref().take(*limit as usize).map(row).collect();
                Response::Page {
                    rows,
                    next: rest.next().map(|(key, _)| Slice(key)),
                }
            }
            Request::Routes { .. } => Response::Routes(self.routes.lock().expect("not poisoned").clone()),
            other => panic!("not part of these tests: {other:?}"),
        });
    }
}

/// The key of a get or a put, which may tell the node to misbehave.
fn told_by<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    match request {
        Request::Get { key } | Request::Put { key, .. } => Some(key.0),
        _ => None,
    }
}

async fn connected(node: &FakeNode) -> (Client, quinn::Endpoint) {
    let authority = Authority::new();
    let (at, endpoint) = node.start(&authority);
    let options = ClientOptions::new([at.to_string()], authority.tls());
    (
        Client::connect(options).await.expect("the node is there"),
        endpoint,
    )
}

#[tokio::test]
async fn reads_see_writes() {
    let (client, _node) = connected(&FakeNode::default()).await;
    assert_eq!(client.get(b"k").await, Ok(None));
    client.put(b"k", b"v").await.expect("written");
    client.put(b"l", &vec![7; 1 << 20]).await.expect("written");
    assert_eq!(
        client.get(b"k").await.expect("found").map(|f| f.value),
        Some("v".into())
    );
    assert_eq!(
        client.get(b"l").await.expect("found").map(|f| f.value.len()),
        Some(1 << 20)
    );
    let page = client.scan(b"", None, 1, true).await.expect("scanned");
    assert_eq!(
        (page.rows, page.next),
        (vec![("k".into(), Some("v".into()))], Some("l".into()))
    );
    assert_eq!(client.delete(b"k").await, Ok(true));
    assert_eq!(client.delete(b"k").await, Ok(false));
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let node = FakeNode::default();
    let (client, _node) = connected(&node).await;
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..2000_u32 {
        let client = client.clone();
        calls.spawn(async move {
            let key = i.to_be_bytes();
            client.put(&key, &key).await.expect("written");
            let found = client.get(&key).await.expect("read").expect("there");
            assert_eq!(found.value[..], key);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no call panicked");
    }
    assert_eq!(node.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn refused_unknown_and_timed_out_are_kept_apart() {
    let (client, _node) = connected(&FakeNode::default()).await;
    let soon = client.with_timeout(Duration::from_millis(50));
    assert_eq!(
        client.put(b"refuse", b"v").await,
        Err(Error::Refused(Reason::Overloaded))
    );
    assert_eq!(client.put(b"unknown", b"v").await, Err(Error::Unknown));
    assert_eq!(soon.put(b"silence", b"v").await, Err(Error::Unknown));
    assert_eq!(soon.get(b"silence").await, Err(Error::TimedOut));
    assert_eq!(client.put(b"nonsense", b"v").await, Err(Error::Unknown));
    assert_eq!(client.put(b"dropped", b"v").await, Err(Error::Unknown));
    assert_eq!(client.get(b"dropped").await, Err(Error::Dropped));
    let huge = vec![0; 18 << 20];
    assert!(matches!(
        client.put(b"k", &huge).await,
        Err(Error::ValueTooLarge(_))
    ));
}

#[tokio::test]
async fn a_lost_connection_makes_writes_unknown_and_reads_go_on() {
    let node = FakeNode::default();
    let (client, _node) = connected(&node).await;
    assert_eq!(client.get(b"drop once").await, Ok(None), "a read is sent again");
    assert_eq!(node.connections.load(Ordering::SeqCst), 2);
    assert_eq!(
        client.put(b"drop", b"v").await,
        Err(Error::Unknown),
        "a write is not"
    );
    client.put(b"k", b"v").await.expect("the client has reconnected");
    assert_eq!(node.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn another_endpoint_takes_over() {
    let (authority, node) = (Authority::new(), FakeNode::default());
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = silent.local_addr().expect("bound").to_string();
    let (first, endpoint) = node.start(&authority);
    let (second, _alive) = node.start(&authority);
    let endpoints = [silent, first.to_string(), second.to_string()];
    let started = Instant::now();
    let client = Client::connect(ClientOptions::new(endpoints, authority.tls()))
        .await
        .expect("connected");
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "a silent endpoint is not waited for"
    );
    endpoint.close(0u32.into(), b"stopping");
    client.get(b"k").await.expect("served by the other node");
}

#[tokio::test]
async fn strangers_are_told_apart_at_once() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (at, _node) = FakeNode::default().start(&authority);
    let (chain, key) = stranger.issue("client-test");
    let forged = Tls::from_der(authority.ca.clone(), chain, key).expect("usable");
    for tls in [stranger.tls(), forged] {
        let options = ClientOptions::new([at.to_string()], tls);
        let error = Client::connect(options).await.err().expect("refused").to_string();
        assert!(
            error.contains("certificate") || error.contains("Issuer"),
            "{error}"
        );
    }
}

/// Two nodes, keys from "m" on led by `second`, the others by node 1.
fn lead(nodes: &[FakeNode; 2], second: u64) {
    let row = |start: &[u8], leader| RouteRow {
        start: start.to_vec(),
        leader: Some(leader),
    };
    for (node, id) in nodes.iter().zip(1..) {
        let ranges = vec![row(b"", 1), row(b"m", second)];
        *node.routes.lock().expect("not poisoned") = Routes { node: id, ranges };
    }
}

fn holds(node: &FakeNode, key: &[u8]) -> bool {
    node.data.lock().expect("not poisoned").contains_key(key)
}

#[tokio::test]
async fn a_pool_asks_the_leader_and_follows_it() {
    let (authority, nodes) = (Authority::new(), [FakeNode::default(), FakeNode::default()]);
    lead(&nodes, 2);
    let (first, _one) = nodes[0].start(&authority);
    let (second, two) = nodes[1].start(&authority);
    let options = ClientOptions::new([first.to_string(), second.to_string()], authority.tls());
    let pool = Pool::connect(options, 3).await.expect("connected");
    for key in [&b"a"[..], b"z"] {
        pool.for_key(key).put(key, b"v").await.expect("written");
    }
    assert!(holds(&nodes[0], b"a") && holds(&nodes[1], b"z"));
    assert!(!holds(&nodes[0], b"z") && !holds(&nodes[1], b"a"));

    lead(&nodes, 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds(&nodes[0], b"z") {
        assert!(Instant::now() < deadline, "the pool never learns who leads now");
        pool.for_key(b"z").put(b"z", b"v").await.expect("written");
        // pace: routes are asked for once a second.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    lead(&nodes, 2);
    two.close(0u32.into(), b"stopping");
    pool.for_key(b"zz").put(b"zz", b"v").await.ok();
    pool.for_key(b"zzz")
        .put(b"zzz", b"v")
        .await
        .expect("the node that is left serves it");
    assert!(holds(&nodes[0], b"zzz"));
}
