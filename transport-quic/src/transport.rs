//! The transport of one node: what its owner configures, calls and is called with. Links come and go below
//! (`dial.rs`, `accept.rs`, `link.rs`).

use crate::accept;
use crate::calls::{CallError, NotSent, Reply};
use crate::dial;
use crate::identity::{CertifiedName, ClusterId, Credentials};
use crate::limits::{CLIENTS_MAX, GOODBYE_TIMEOUT, HANDSHAKES_MAX};
use crate::link::{Code, LinkState, LinkStats, Peer};
use crate::tls;
use bytes::Bytes;
use multiraft::{NodeId, Outgoing, RaftNetwork};
use quinn::{ClientConfig, Endpoint};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

/// What a transport needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our certificate, its key and the CA. Their names say which node of which cluster we are.
    pub credentials: Credentials,
    /// This process's incarnation, from the node file. A peer takes the higher one for the living one.
    pub incarnation: u64,
    /// Where to listen, for nodes and clients alike. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The other nodes and where they listen (`host:port`, resolved at each dial). Our own entry is ignored.
    pub peers: BTreeMap<NodeId, String>,
    /// Random, secret, and the same across restarts of this node: lets peers notice a restart at once.
    pub secret: [u8; 32],
}

/// Takes frames. Called on network threads: must not block, must not wait for one group.
pub trait FrameSink: Send + Sync {
    /// A frame from a lane of `from`, in the order sent on that lane while a link lives. A slice of it pins
    /// the whole frame or 64 KiB, whichever is more: copy what is kept.
    fn deliver(&self, from: NodeId, frame: Bytes);

    /// The link to `peer` came up ([`LinkState::Up`]) or was lost ([`LinkState::Down`]). A replaced link is
    /// lost and up again. Failed attempts are not told. Must not call the transport.
    fn link_changed(&self, peer: NodeId, state: &LinkState) {
        let _ = (peer, state);
    }
}

/// Takes calls of other nodes. Called on network threads: must not block.
pub trait CallSink: Send + Sync {
    /// Node `from` asks; the answer may come later and from any thread.
    fn call(&self, from: NodeId, payload: Bytes, reply: Reply);
}

/// Who is behind a client connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The name in its certificate.
    pub name: CertifiedName,
    /// Where it called from.
    pub address: SocketAddr,
}

/// Takes requests of clients. Called on network threads: must not block.
pub trait ClientSink: Send + Sync {
    /// A client asks; the answer may come later and from any thread.
    fn call(&self, client: &Arc<Client>, payload: Bytes, reply: Reply);
}

/// Where everything that arrives goes.
#[derive(Clone)]
pub struct Sinks {
    /// Frames of the lanes.
    pub frames: Arc<dyn FrameSink>,
    /// Calls of other nodes.
    pub calls: Arc<dyn CallSink>,
    /// Requests of clients.
    pub clients: Arc<dyn ClientSink>,
}

/// Why a transport did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The certificate is a client's.
    #[error("a node needs a node certificate, this one was made for {0}")]
    NotANode(CertifiedName),
    /// The TLS library refused the credentials.
    #[error("the certificates cannot be used: {0}")]
    Tls(String),
    /// The socket could not be had.
    #[error("cannot listen on {address}/udp: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Counters of the whole transport, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Client connections open now.
    pub clients: u64,
    /// Connections refused: no certificate of ours, no room, or a wrong hello.
    pub refused: u64,
    /// Connections ended because the other side broke the protocol.
    pub violations: u64,
}

/// The transport of one node. See the crate's documentation.
pub struct Transport {
    shared: Arc<Shared>,
}

/// What all tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) dialing: ClientConfig,
    pub(crate) sinks: Sinks,
    pub(crate) peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) clients: Arc<Semaphore>,
    pub(crate) refused: AtomicU64,
    pub(crate) violations: AtomicU64,
    pub(crate) stop: watch::Sender<bool>,
    handle: Handle,
}

impl Shared {
    pub(crate) fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .expect("no code that holds it panics")
            .get(&id)
            .cloned()
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

impl Transport {
    /// Binds the socket and starts linking to the peers. All tasks run on `handle`'s runtime, which should
    /// not be the one that does the node's other work.
    pub fn start(config: Config, handle: &Handle, sinks: Sinks) -> Result<Arc<Transport>, StartError> {
        let CertifiedName::Node(node) = config.credentials.name else {
            return Err(StartError::NotANode(config.credentials.name));
        };
        let _entered = handle.enter();
        let shared = Arc::new(Shared {
            node,
            cluster: config.credentials.cluster,
            incarnation: config.incarnation,
            endpoint: tls::endpoint(&config)?,
            dialing: tls::dialing(&config.credentials)?,
            sinks,
            peers: RwLock::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            refused: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            handle: handle.clone(),
        });
        let transport = Arc::new(Transport {
            shared: shared.clone(),
        });
        config
            .peers
            .into_iter()
            .for_each(|(id, address)| transport.set_peer(id, address));
        handle.spawn(accept::accept_all(shared));
        Ok(transport)
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Where the transport listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Adds a node, or tells where a known one listens now (used from the next dial on).
    pub fn set_peer(&self, id: NodeId, address: String) {
        if id == self.shared.node {
            return;
        }
        let mut peers = self.shared.peers.write().expect("no code that holds it panics");
        if let Some(peer) = peers.get(&id) {
            return peer.set_address(address);
        }
        let peer = Arc::new(Peer::new(id, address));
        peers.insert(id, peer.clone());
        self.shared
            .handle
            .spawn(dial::keep_linked(self.shared.clone(), peer));
    }

    /// Asks `to`. One queue operation and a wake-up: cheap from any thread. `done` runs once, on a network
    /// thread, or on this one when the call is not sent; it must not block.
    pub fn call(
        &self,
        to: NodeId,
        payload: Bytes,
        done: impl FnOnce(Result<Bytes, CallError>) + Send + 'static,
    ) {
        let link = self.shared.peer(to).and_then(|peer| peer.link());
        let refused = match link {
            Some(link) => link.calls.push(payload, Box::new(done)).err(),
            None => return done(Err(CallError::NotSent(NotSent::NoLink))),
        };
        if let Some((done, why)) = refused {
            done(Err(CallError::NotSent(why)));
        }
    }

    /// True when a link to `peer` is up.
    pub fn is_up(&self, peer: NodeId) -> bool {
        self.shared.peer(peer).is_some_and(|peer| peer.link().is_some())
    }

    /// Waits until a link to `peer` is up. Pends forever for an unknown peer.
    pub async fn up(&self, peer: NodeId) {
        match self.shared.peer(peer) {
            Some(peer) => peer.up().await,
            None => std::future::pending().await,
        }
    }

    /// Tells every change of the state of the link to `peer`; None for an unknown peer.
    pub fn watch(&self, peer: NodeId) -> Option<watch::Receiver<LinkState>> {
        Some(self.shared.peer(peer)?.watch())
    }

    /// The state and counters of every link, by node id.
    pub fn links(&self) -> Vec<LinkStats> {
        let peers = self.shared.peers.read().expect("no code that holds it panics");
        peers.values().map(|peer| peer.stats()).collect()
    }

    /// Counters of the transport.
    pub fn stats(&self) -> TransportStats {
        TransportStats {
            clients: (CLIENTS_MAX - self.shared.clients.available_permits()) as u64,
            refused: self.shared.refused.load(Ordering::Relaxed),
            violations: self.shared.violations.load(Ordering::Relaxed),
        }
    }

    /// Closes every connection, fails every call, and returns when the other sides know or a moment has
    /// passed.
    pub async fn shutdown(&self) {
        self.stop();
        let peers: Vec<_> = {
            let peers = self.shared.peers.read().expect("no code that holds it panics");
            peers.values().cloned().collect()
        };
        let quiet = async {
            for peer in peers {
                peer.down().await;
            }
            self.shared.endpoint.wait_idle().await;
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, quiet).await.is_err() {
            tracing::debug!("some peers did not confirm the end of their connections");
        }
    }

    fn stop(&self) {
        self.shared.stop.send_replace(true);
        self.shared
            .endpoint
            .close(Code::Stopping.into(), b"the node is stopping");
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl RaftNetwork for Transport {
    fn send(&self, outgoing: Outgoing) {
        let Some(peer) = self.shared.peer(outgoing.to) else {
            return;
        };
        match peer.link() {
            Some(link) => link.lane(outgoing.lane).push(outgoing.frame),
            None => peer.count_unlinked(outgoing.lane),
        }
    }
}
