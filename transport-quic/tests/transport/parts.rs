//! What the tests are made of: a CA, certificates, a node on its own runtime, sinks that record, a raw QUIC
//! client.

use crate::logs;
use bytes::Bytes;
use multiraft::{BulkReceiver, BulkSink, Frame, Lane, NoBulk, NodeId, Outgoing, RaftNetwork};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use transport_quic::{
    ANY_NODE, By, CallError, CallSink, CertifiedName, Client, ClientSink, ClusterId, Config, Credentials,
    FrameSink, LinkState, Options, Refusal, Reply, Sinks, Transport, node_name,
};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// Long enough for a busy machine, short enough to fail a run.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test's body on a runtime of its own, within the deadline.
pub(crate) fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(within(body))
}

/// Waits for what must come.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("it did not happen in time")
}

/// A CA.
pub(crate) struct Ca {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) cluster: ClusterId,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        Ca::named("a test CA")
    }

    /// Two CAs of one name have different keys all the same.
    pub(crate) fn named(name: &str) -> Ca {
        let cluster = ClusterId([5; 16]);
        let mut params = CertificateParams::new(vec![format!("cluster-{cluster}")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Ca {
            certificate,
            issuer: Issuer::new(params, key),
            cluster,
        }
    }

    pub(crate) fn node(&self, id: u64) -> Credentials {
        let now = SystemTime::now();
        self.node_valid(id, now - DAY..now + DAY)
    }

    pub(crate) fn node_valid(&self, id: u64, valid: Range<SystemTime>) -> Credentials {
        let names = vec![node_name(NodeId(id)), ANY_NODE.to_owned()];
        let usages = [Usage::ServerAuth, Usage::ClientAuth];
        self.issue(names, CertifiedName::Node(NodeId(id)), &usages, valid)
    }

    pub(crate) fn client(&self, name: &str) -> Credentials {
        let names = vec![format!("client-{name}")];
        let now = SystemTime::now();
        let name = CertifiedName::Client(name.to_owned());
        self.issue(names, name, &[Usage::ClientAuth], now - DAY..now + DAY)
    }

    fn issue(
        &self,
        names: Vec<String>,
        name: CertifiedName,
        usages: &[Usage],
        valid: Range<SystemTime>,
    ) -> Credentials {
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = valid.start.into();
        params.not_after = valid.end.into();
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Credentials {
            roots: vec![self.certificate.clone()],
            chain: vec![certificate.der().clone()],
            key: Arc::new(key),
            cluster: self.cluster,
            name,
        }
    }
}

/// What arrived at a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Link(NodeId, LinkState),
    Frame(NodeId, Bytes),
    Asked(String, Bytes),
}

/// Records frames and link changes, and echoes requests unless told to keep or drop them.
pub(crate) struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    pub(crate) kept: Mutex<Vec<Reply>>,
    pub(crate) keep: AtomicBool,
    pub(crate) drop: AtomicBool,
    gate: (Mutex<bool>, Condvar),
}

impl Recorder {
    /// Holds up every delivery of the frames whose first byte is 255.
    pub(crate) fn shut_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = false;
        self.gate.1.notify_all();
    }

    fn answer(&self, from: String, payload: Bytes, reply: Reply) {
        let asked = Event::Asked(from, payload.clone());
        // Whoever hears of the request finds its reply kept.
        if self.keep.load(Ordering::SeqCst) {
            self.kept.lock().unwrap().push(reply);
        } else if !self.drop.load(Ordering::SeqCst) {
            reply.send(payload);
        }
        let _ = self.events.send(asked);
    }
}

impl FrameSink for Recorder {
    fn deliver(&self, from: NodeId, frame: Bytes) {
        if frame[0] == 255 {
            let shut = self.gate.0.lock().unwrap();
            drop(self.gate.1.wait_while(shut, |shut| *shut).unwrap());
        }
        let _ = self.events.send(Event::Frame(from, frame));
    }

    fn link_changed(&self, peer: NodeId, state: &LinkState) {
        let _ = self.events.send(Event::Link(peer, state.clone()));
    }
}

impl CallSink for Recorder {
    fn call(&self, from: NodeId, payload: Bytes, reply: Reply) {
        self.answer(node_name(from), payload, reply);
    }
}

impl ClientSink for Recorder {
    fn call(&self, client: &Arc<Client>, payload: Bytes, reply: Reply) {
        self.answer(client.name.to_string(), payload, reply);
    }
}

/// Bulk streams go to whoever was put here last.
#[derive(Default)]
pub(crate) struct BulkSwitch(Mutex<Option<Arc<dyn BulkSink>>>);

impl BulkSwitch {
    pub(crate) fn set(&self, sink: Arc<dyn BulkSink>) {
        *self.0.lock().unwrap() = Some(sink);
    }
}

impl BulkSink for BulkSwitch {
    fn begin(&self, from: NodeId, header: Bytes) -> Result<Box<dyn BulkReceiver>, String> {
        let sink = self.0.lock().unwrap().clone();
        sink.unwrap_or_else(|| Arc::new(NoBulk)).begin(from, header)
    }
}

/// A transport on its own runtime, so that it can die without a goodbye.
pub(crate) struct Node {
    pub(crate) transport: Arc<Transport>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) bulk: Arc<BulkSwitch>,
    events: mpsc::UnboundedReceiver<Event>,
    runtime: Option<Runtime>,
}

impl Node {
    pub(crate) fn start(credentials: Credentials) -> Node {
        Node::start_at(credentials, "127.0.0.1:0".parse().unwrap(), 1, [7; 32])
    }

    pub(crate) fn start_at(
        credentials: Credentials,
        listen: SocketAddr,
        incarnation: u64,
        secret: [u8; 32],
    ) -> Node {
        let config = Config {
            credentials,
            incarnation,
            listen,
            peers: BTreeMap::new(),
            secret,
            options: Options::default(),
        };
        Node::start_with(config)
    }

    pub(crate) fn start_with(config: Config) -> Node {
        logs::start();
        let (sender, events) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder {
            events: sender,
            kept: Mutex::default(),
            keep: AtomicBool::new(false),
            drop: AtomicBool::new(false),
            gate: Default::default(),
        });
        let bulk = Arc::new(BulkSwitch::default());
        let sinks = Sinks {
            frames: recorder.clone(),
            calls: recorder.clone(),
            clients: recorder.clone(),
            bulk: bulk.clone(),
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let transport = Transport::start(config, runtime.handle(), sinks).unwrap();
        Node {
            transport,
            recorder,
            bulk,
            events,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_addr().unwrap()
    }

    /// Tells this node of another.
    pub(crate) fn meet(&self, other: &Node) {
        self.transport
            .set_peer(other.transport.node(), other.address().to_string());
    }

    pub(crate) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("the recorder lives")
    }

    /// The next change of a link, skipping other events.
    pub(crate) async fn link(&mut self) -> LinkState {
        loop {
            if let Event::Link(_, state) = self.event().await {
                return state;
            }
        }
    }

    /// The next frame, skipping other events.
    pub(crate) async fn frame(&mut self) -> (NodeId, Bytes) {
        loop {
            if let Event::Frame(from, frame) = self.event().await {
                return (from, frame);
            }
        }
    }

    /// The next request, skipping other events.
    pub(crate) async fn asked(&mut self) -> (String, Bytes) {
        loop {
            if let Event::Asked(from, payload) = self.event().await {
                return (from, payload);
            }
        }
    }

    /// Waits until the link to `peer` is in a state that `wanted` picks.
    pub(crate) async fn state(&self, peer: u64, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
        let mut states = self.transport.watch(NodeId(peer)).unwrap();
        within(states.wait_for(wanted)).await.unwrap().clone()
    }

    /// Waits until the link to `peer` is down for a reason that contains `text`.
    pub(crate) async fn down_because(&self, peer: u64, text: &str) {
        self.state(
            peer,
            |s| matches!(s, LinkState::Down { reason } if reason.contains(text)),
        )
        .await;
    }

    /// Waits until a connection was refused for this reason.
    pub(crate) async fn counts(&self, by: By, reason: Refusal) {
        let count = || self.transport.stats().refusals.count(by, reason);
        let counted = async {
            while count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await; // pace: polling, bounded below
            }
        };
        let counted = tokio::time::timeout(DEADLINE, counted).await;
        let node = self.transport.node();
        assert!(
            counted.is_ok(),
            "{node:?} counted no {reason} {by:?}: {:?}",
            self.transport.stats()
        );
    }

    pub(crate) fn send(&self, to: u64, lane: Lane, chunks: Vec<Bytes>) {
        self.transport.send(Outgoing {
            to: NodeId(to),
            lane,
            frame: Frame { chunks },
        });
    }

    pub(crate) async fn call(&self, to: u64, payload: Bytes) -> Result<Bytes, CallError> {
        within(self.begin_call(to, payload)).await.unwrap()
    }

    pub(crate) fn begin_call(
        &self,
        to: u64,
        payload: Bytes,
    ) -> tokio::sync::oneshot::Receiver<Result<Bytes, CallError>> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        self.transport
            .call(NodeId(to), payload, move |result| drop(done.send(result)));
        outcome
    }

    /// Dies without a word, as a killed process does. Its port is free afterwards.
    pub(crate) fn kill(mut self) -> SocketAddr {
        let address = self.address();
        self.recorder.open_gate();
        let runtime = self.runtime.take().unwrap();
        std::thread::spawn(move || runtime.shutdown_timeout(DEADLINE))
            .join()
            .unwrap();
        address
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.recorder.open_gate();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Two nodes that know each other, linked.
pub(crate) async fn pair(ca: &Ca) -> (Node, Node) {
    let (one, two) = (Node::start(ca.node(1)), Node::start(ca.node(2)));
    two.meet(&one);
    one.meet(&two);
    within(one.transport.up(NodeId(2))).await;
    within(two.transport.up(NodeId(1))).await;
    (one, two)
}

/// Connects as anybody might.
pub(crate) async fn connect(
    credentials: Option<&Credentials>,
    ca: &Ca,
    alpn: &[u8],
    address: SocketAddr,
) -> (Endpoint, Result<Connection, quinn::ConnectionError>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate.clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut tls = match credentials {
        Some(c) => builder
            .with_client_auth_cert(c.chain.clone(), c.key.clone_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, address, ANY_NODE).unwrap();
    let connection = within(connection).await;
    (endpoint, connection)
}
