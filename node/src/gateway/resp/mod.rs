//! The Redis gateway: RESP2 and RESP3 over TCP to requests of the service, and back. It holds no data and decides
//! nothing about it: routing, retries and deadlines are the service's, what commands do is the state machine's.

mod call;
mod codec;
mod connection;
mod connection_commands;
mod cursors;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gather;
mod key_commands;
mod limits;
mod pipeline;
mod reply;
mod server_commands;
mod session;
mod shape;
mod string_commands;
mod table;
mod transaction_commands;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;

use crate::service::Service;
use cursors::Cursors;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use table::COMMANDS;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The version of Redis whose behaviour this gateway has; clients choose features by it.
pub const COMPATIBLE_VERSION: &str = "7.0.15";

/// How the gateway behaves.
#[derive(Clone, Debug)]
pub struct RespOptions {
    /// Clients must give this password; None: they need none.
    pub password: Option<String>,
    /// FLUSHALL and FLUSHDB are allowed.
    pub allow_flush: bool,
    /// Longest key (bytes).
    pub key_bytes_max: usize,
    /// Longest value (bytes); more than 16 MiB has no effect.
    pub value_bytes_max: usize,
    /// Most connections at a time.
    pub clients_max: usize,
    /// How long a request may take before it is refused, or its outcome is unknown.
    pub request_timeout: Duration,
    /// Connections without a command for so long are closed; None: never.
    pub idle_timeout: Option<Duration>,
    /// Clients must authenticate within this time, if there is a password.
    pub authentication_timeout: Duration,
    /// A client that takes no byte of its replies for so long is disconnected.
    pub write_timeout: Duration,
    /// Where it counts.
    pub counters: Arc<RespCounters>,
}

impl Default for RespOptions {
    fn default() -> RespOptions {
        RespOptions {
            password: None,
            allow_flush: false,
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            clients_max: 10_000,
            request_timeout: Duration::from_secs(5),
            idle_timeout: None,
            authentication_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            counters: Arc::default(),
        }
    }
}

/// What the gateway has done since the process started. All numbers only grow, except `connections_open`.
#[derive(Debug)]
pub struct RespCounters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections refused because there were too many.
    pub connections_refused: AtomicU64,
    /// Connections closed because their input was no RESP.
    pub protocol_errors: AtomicU64,
    /// Commands refused by the gateway itself.
    pub errors: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Per command of the table.
    commands: Vec<AtomicU64>,
}

impl Default for RespCounters {
    fn default() -> RespCounters {
        RespCounters {
            connections: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            protocol_errors: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            commands: COMMANDS.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl RespCounters {
    /// How often each known command was called: as many lines as the command table has, whatever clients send.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        COMMANDS
            .iter()
            .zip(&self.commands)
            .map(|(spec, count)| (spec.name, count.load(Ordering::Relaxed)))
    }
}

/// Serves clients until `shutdown` turns true (or its sender is gone), then until their replies are sent.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn Service>,
    options: RespOptions,
    mut shutdown: watch::Receiver<bool>,
) {
    let node = Arc::new(Node::new(service, options));
    let mut connections = tokio::task::JoinSet::new();
    while !*shutdown.borrow() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => node.take(stream, address, &shutdown, &mut connections),
                // Out of descriptors, or the peer was faster: pause so that this does not spin.
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    // pace: out of descriptors, most likely: let some connections end.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            changed = shutdown.changed() => if changed.is_err() { break },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections of one node share.
struct Node {
    service: Arc<dyn Service>,
    options: RespOptions,
    cursors: Arc<Cursors>,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    started: Instant,
}

/// What others may know about a connection.
struct Client {
    id: u64,
    address: SocketAddr,
    local: SocketAddr,
    since: Instant,
    facts: Mutex<ClientFacts>,
}

/// What a client has said about itself.
#[derive(Default)]
struct ClientFacts {
    name: String,
    library: String,
    library_version: String,
}

impl Node {
    fn new(service: Arc<dyn Service>, options: RespOptions) -> Node {
        Node {
            service,
            options,
            cursors: Arc::default(),
            clients: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Begins to serve a connection, or refuses it.
    fn take(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        shutdown: &watch::Receiver<bool>,
        connections: &mut tokio::task::JoinSet<()>,
    ) {
        let id = self.options.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        if connections.len() >= self.options.clients_max {
            self.options
                .counters
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            connections.spawn(refuse(stream));
            return;
        }
        let Ok(local) = stream.local_addr() else { return };
        let client = Arc::new(Client {
            id,
            address,
            local,
            since: Instant::now(),
            facts: Mutex::default(),
        });
        let (node, shutdown) = (self.clone(), shutdown.clone());
        connections.spawn(async move {
            node.enter(&client);
            connection::run(node.clone(), client.clone(), stream, shutdown).await;
            node.leave(&client);
        });
    }

    fn enter(&self, client: &Arc<Client>) {
        self.options
            .counters
            .connections_open
            .fetch_add(1, Ordering::Relaxed);
        self.clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(client.id, client.clone());
    }

    fn leave(&self, client: &Client) {
        self.options
            .counters
            .connections_open
            .fetch_sub(1, Ordering::Relaxed);
        self.clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&client.id);
    }
}

async fn refuse(mut stream: TcpStream) {
    let text = b"-ERR max number of clients reached\r\n";
    let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(text)).await;
}

impl Client {
    /// One line of CLIENT LIST.
    fn describe(&self) -> String {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "id={} addr={} laddr={} name={} age={} flags=N db=0 user=default lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local,
            facts.name,
            self.since.elapsed().as_secs(),
            facts.library,
            facts.library_version
        )
    }
}
