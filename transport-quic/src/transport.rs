//! The transport of one node: what its owner configures, calls and is called with. Links come and go below
//! (`dial.rs`, `accept.rs`, `link.rs`).

use crate::accept;
use crate::bulk::{self, BulkRoom, BulkStats};
use crate::calls::{CallError, Done, NotSent, Reply};
use crate::dial;
use crate::hello::Identity;
use crate::identity::{CertifiedName, ClusterId, Credentials};
use crate::limits::{BULK_BYTES_PER_SECOND, CLIENTS_MAX, GOODBYE_TIMEOUT, HANDSHAKES_MAX, REDIAL_INTERVAL};
use crate::peer::Peer;
use crate::refusal::{Code, RefusalCounters, Refusals};
use crate::status::{LinkState, LinkStats};
use crate::tls;
use bytes::Bytes;
use multiraft::{Bulk, BulkHandle, BulkSink, Lane, NodeId, Outgoing, RaftNetwork};
use quinn::{ClientConfig, Endpoint};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
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
    /// What may be tuned.
    pub options: Options,
}

/// What may be tuned. Everything else is a constant in [`limits`](crate::limits).
#[derive(Clone, Debug)]
pub struct Options {
    /// A link this old is dialed anew, give or take a tenth.
    pub redial_interval: Duration,
    /// How the sending rate follows losses.
    pub congestion: Congestion,
    /// Bytes per second that all bulk streams of this node may send together: leave the links room for the rest.
    pub bulk_bytes_per_second: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            redial_interval: REDIAL_INTERVAL,
            congestion: Congestion::Cubic,
            bulk_bytes_per_second: BULK_BYTES_PER_SECOND,
        }
    }
}

/// How the sending rate follows losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Takes every loss for congestion: right in a data centre, and the default.
    #[default]
    Cubic,
    /// Follows delay and delivery rate instead: 35 times as fast over long lines that lose packets (59 instead of
    /// 1.7 MB/s at 1 % loss and 10 ms), slower on a good one. Experimental in the QUIC library.
    Bbr,
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

    /// A lane to `peer` is full, and a frame was dropped: the first since its writer last kept up. Called on the
    /// sender's thread. The groups that sent may take the peer for unreachable until it answers again.
    fn lane_full(&self, peer: NodeId, lane: Lane) {
        let _ = (peer, lane);
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
    /// Bulk streams.
    pub bulk: Arc<dyn BulkSink>,
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

/// Why new certificates were not taken. The old ones stay in use.
#[derive(Debug, Error)]
pub enum RenewError {
    /// They name somebody else.
    #[error("the new certificate was made for {0}, this is node {1}")]
    OtherName(CertifiedName, u64),
    /// Their CA stands for another cluster.
    #[error("the new CA stands for cluster {0}, this node belongs to {1}")]
    OtherCluster(ClusterId, ClusterId),
    /// The TLS library refused them.
    #[error("{0}")]
    Unusable(#[from] StartError),
}

/// Counters of the whole transport, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Client connections open now.
    pub clients: u64,
    /// Connections refused, here and by other sides.
    pub refusals: Refusals,
    /// Connections ended because the other side broke the protocol.
    pub violations: u64,
    /// Bulk streams.
    pub bulk: BulkStats,
}

/// The transport of one node. See the crate's documentation.
pub struct Transport {
    shared: Arc<Shared>,
}

/// What all tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) us: Identity,
    pub(crate) options: Options,
    pub(crate) endpoint: Endpoint,
    /// How we dial, under which version of our certificates.
    pub(crate) dialing: watch::Sender<Dialing>,
    pub(crate) sinks: Sinks,
    pub(crate) peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) clients: Arc<Semaphore>,
    pub(crate) refusals: RefusalCounters,
    pub(crate) violations: AtomicU64,
    pub(crate) bulk: BulkRoom,
    pub(crate) stop: watch::Sender<bool>,
    handle: Handle,
}

/// Our side of a handshake when we dial.
pub(crate) struct Dialing {
    config: ClientConfig,
    /// Grows with every renewal of our certificates.
    pub(crate) version: u64,
}

impl Shared {
    pub(crate) fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .expect("no code that holds it panics")
            .get(&id)
            .cloned()
    }

    /// How to dial now, and under which version of our certificates.
    pub(crate) fn dialing(&self) -> (ClientConfig, u64) {
        let dialing = self.dialing.borrow();
        (dialing.config.clone(), dialing.version)
    }

    /// How many peers stand before this one.
    pub(crate) fn position(&self, id: NodeId) -> u32 {
        let peers = self.peers.read().expect("no code that holds it panics");
        u32::try_from(peers.range(..id).count()).unwrap_or(u32::MAX)
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
            us: Identity {
                cluster: config.credentials.cluster,
                node,
                incarnation: config.incarnation,
                process: tls::random_number()?,
            },
            endpoint: tls::endpoint(&config)?,
            dialing: watch::Sender::new(Dialing {
                config: tls::dialing(&config.credentials, &config.options)?,
                version: 0,
            }),
            bulk: BulkRoom::new(config.options.bulk_bytes_per_second),
            options: config.options,
            sinks,
            peers: RwLock::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            refusals: RefusalCounters::default(),
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
        self.shared.us.node
    }

    /// Where the transport listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Adds a node, or tells where a known one listens now (used from the next dial on).
    pub fn set_peer(&self, id: NodeId, address: String) {
        if id == self.shared.us.node {
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

    /// Forgets a node: its link closes, which it is told, and no other is made or taken until it is added again.
    pub fn remove_peer(&self, id: NodeId) {
        let removed = self
            .shared
            .peers
            .write()
            .expect("no code that holds it panics")
            .remove(&id);
        if let Some(peer) = removed {
            peer.remove();
        }
    }

    /// Uses new certificates of the same node of the same cluster: at once for new connections, those of clients
    /// too; links are dialed anew one after the other, and lose nothing by it. On an error nothing changes.
    pub fn renew(&self, credentials: &Credentials) -> Result<(), RenewError> {
        let us = &self.shared.us;
        if credentials.name != CertifiedName::Node(us.node) {
            return Err(RenewError::OtherName(credentials.name.clone(), us.node.0));
        }
        if credentials.cluster != us.cluster {
            return Err(RenewError::OtherCluster(credentials.cluster, us.cluster));
        }
        let accepting = tls::accepting(credentials, &self.shared.options)?;
        let config = tls::dialing(credentials, &self.shared.options)?;
        self.shared.endpoint.set_server_config(Some(accepting));
        self.shared.dialing.send_modify(|dialing| {
            dialing.config = config;
            dialing.version += 1;
        });
        Ok(())
    }

    /// Asks `to`. One queue operation and a wake-up: cheap from any thread. `done` runs once, on a network
    /// thread, or on this one when the call is not sent; it must not block.
    pub fn call(
        &self,
        to: NodeId,
        payload: Bytes,
        done: impl FnOnce(Result<Bytes, CallError>) + Send + 'static,
    ) {
        let done: Done = Box::new(done);
        let refused = match self.shared.peer(to) {
            Some(peer) => peer.call(payload, done).err(),
            None => Some((done, NotSent::NoLink)),
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
            refusals: self.shared.refusals.read(),
            violations: self.shared.violations.load(Ordering::Relaxed),
            bulk: self.shared.bulk.stats(),
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
        if peer.send(outgoing.lane, outgoing.frame) {
            self.shared.sinks.frames.lane_full(outgoing.to, outgoing.lane);
        }
    }

    fn send_bulk(&self, bulk: Bulk) -> BulkHandle {
        bulk::send(&self.shared, &self.shared.handle, bulk)
    }
}
