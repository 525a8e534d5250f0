//! Takes connections: bounds them before they are authenticated, then tells nodes from clients by ALPN and
//! certificate, hears a node's hello, serves a client's requests.

use crate::bulk;
use crate::calls;
use crate::framing::{FrameError, Stream};
use crate::hello::{self, Heard, Hello, HelloError, Purpose, StreamKind};
use crate::identity::{CertifiedName, certified_name};
use crate::limits::{
    CLIENT_RECEIVE_WINDOW, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HANDSHAKES_UNVALIDATED_MAX,
    STRANGER_LOG_INTERVAL,
};
use crate::link::{self, Greeted};
use crate::peer::{Declined, Peer, Process};
use crate::refusal::{self, By, Code, Refusal, describe, refusal_of_hello};
use crate::tls::{ALPN_CLIENT, ALPN_PEER};
use crate::transport::{Client, Shared};
use multiraft::NodeId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming, SendStream};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Why a connection was not taken.
#[derive(Debug, Error)]
enum Refused {
    #[error("{}", describe(.0))]
    Connection(#[from] ConnectionError),
    #[error("no handshake and hello within {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    #[error("the certificate of {0} is not one for nodes")]
    NotANode(CertifiedName),
    #[error("the certificate {0}")]
    Identity(#[from] crate::identity::IdentityError),
    #[error("neither protocol of ours was agreed on")]
    Protocol,
    #[error("node {0} is not a member known to node {1}")]
    NotAMember(u64, u64),
    #[error("{0}")]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Declined(#[from] Declined),
    #[error("a bulk stream of a process of node {0} that is not linked")]
    NotLinked(u64),
    #[error("too many clients are connected")]
    TooManyClients,
}

impl Refused {
    /// Who refused, and why; None when nobody did: the caller left, or a link is up already.
    fn refusal(&self) -> Option<(By, Refusal)> {
        let refusal = match self {
            Refused::Connection(error) => return refusal::refusal(error),
            Refused::Declined(Declined::Outranked) => return None,
            Refused::Timeout => Refusal::Timeout,
            Refused::NotANode(_) | Refused::Identity(_) => Refusal::NotANode,
            Refused::Protocol => Refusal::Protocol,
            Refused::NotAMember(..) | Refused::Declined(Declined::Removed) => Refusal::NotAMember,
            Refused::Declined(Declined::DuplicateNode(_)) => Refusal::DuplicateNode,
            Refused::Hello(error) => refusal_of_hello(error),
            Refused::NotLinked(_) => Refusal::Other,
            Refused::TooManyClients => Refusal::Busy,
        };
        Some((By::Us, refusal))
    }

    fn code(&self) -> Code {
        match (self, self.refusal()) {
            (Refused::Declined(declined), _) => declined.code(),
            (_, Some((_, refusal))) => refusal.code(),
            (_, None) => Code::Refused,
        }
    }
}

/// Runs until the endpoint closes.
pub(crate) async fn accept_all(shared: Arc<Shared>) {
    let (refused, refusals) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(log_refusals(refusals));
    while let Some(incoming) = shared.endpoint.accept().await {
        let Ok(room) = shared.handshakes.clone().try_acquire_owned() else {
            shared.refusals.count(By::Us, Refusal::Busy);
            incoming.refuse();
            continue;
        };
        let under_way = HANDSHAKES_MAX - shared.handshakes.available_permits();
        if under_way > HANDSHAKES_UNVALIDATED_MAX && incoming.may_retry() {
            // Cannot fail: it was just asked whether it may.
            let _ = incoming.retry();
            continue;
        }
        let (shared, refused) = (shared.clone(), refused.clone());
        tokio::spawn(async move {
            let address = incoming.remote_address();
            let taken = take(&shared, incoming).await;
            drop(room);
            match taken {
                Ok(Taken::Node(peer, link)) => link::run(shared, peer, link).await,
                Ok(Taken::Bulk(peer, connection)) => bulk::serve(shared, peer, connection).await,
                Ok(Taken::Client(connection, name)) => serve_client(shared, connection, name).await,
                Err(why) => {
                    if let Some((by, refusal)) = why.refusal() {
                        shared.refusals.count(by, refusal);
                    }
                    // Full: so many were refused at once that one more line says nothing.
                    let _ = refused.try_send((address, why));
                }
            }
        });
    }
}

/// Anybody can make us refuse, so nobody may fill the log with it.
async fn log_refusals(mut refusals: mpsc::Receiver<(SocketAddr, Refused)>) {
    let mut last: Option<Instant> = None;
    let mut silent = 0_u64;
    while let Some((address, why)) = refusals.recv().await {
        let Some((_, reason)) = why.refusal() else {
            tracing::debug!(%address, %why, "connection not taken");
            continue;
        };
        if last.is_some_and(|last| last.elapsed() < STRANGER_LOG_INTERVAL) {
            silent += 1;
            tracing::debug!(%address, %reason, %why, "connection refused");
            continue;
        }
        tracing::warn!(%address, %reason, %why, not_logged = silent, "connection refused");
        (last, silent) = (Some(Instant::now()), 0);
    }
}

enum Taken {
    Bulk(Arc<Peer>, Connection),
    Node(Arc<Peer>, Arc<link::Link>),
    Client(Connection, CertifiedName),
}

async fn take(shared: &Arc<Shared>, incoming: Incoming) -> Result<Taken, Refused> {
    let begun = Instant::now();
    // Asked before the handshake: a certificate that changes meanwhile makes the link look older, never newer.
    let (_, credentials) = shared.dialing();
    let connection = timeout(HANDSHAKE_TIMEOUT, incoming.accept()?)
        .await
        .map_err(|_| Refused::Timeout)??;
    let left = HANDSHAKE_TIMEOUT.saturating_sub(begun.elapsed());
    let taken = timeout(left, welcome(shared, &connection, credentials))
        .await
        .unwrap_or(Err(Refused::Timeout));
    taken.map_err(|refused| {
        // What the other side said when it closed counts more than what we noticed of it.
        if let Some(closed @ ConnectionError::ApplicationClosed(_)) = connection.close_reason() {
            return closed.into();
        }
        connection.close(refused.code().into(), refused.to_string().as_bytes());
        refused
    })
}

async fn welcome(shared: &Arc<Shared>, connection: &Connection, credentials: u64) -> Result<Taken, Refused> {
    let name = peer_name(connection)?;
    match (alpn(connection).as_deref(), name) {
        (Some(ALPN_PEER), CertifiedName::Node(id)) => welcome_node(shared, connection, id, credentials).await,
        (Some(ALPN_PEER), other) => Err(Refused::NotANode(other)),
        (Some(ALPN_CLIENT), name) => Ok(Taken::Client(connection.clone(), name)),
        _ => Err(Refused::Protocol),
    }
}

async fn welcome_node(
    shared: &Arc<Shared>,
    connection: &Connection,
    id: NodeId,
    credentials: u64,
) -> Result<Taken, Refused> {
    let (send, mut receive) = connection.accept_bi().await?;
    match hello::read_kind(&mut receive).await? {
        StreamKind::Hello => {}
        other => return Err(HelloError::Unexpected(other).into()),
    }
    let Heard { hello: theirs, wire } = hello::hear(receive).await?;
    theirs.check(shared.us.cluster, id, shared.us.node)?;
    let peer = shared
        .peer(id)
        .ok_or(Refused::NotAMember(id.0, shared.us.node.0))?;
    if theirs.purpose == Purpose::Bulk {
        return welcome_bulk(shared, connection, peer, (&theirs, send)).await;
    }
    let greeted = Greeted {
        connection: connection.clone(),
        dialer: id,
        process: Process::of(&theirs),
        wire,
        credentials,
    };
    let link = peer.adopt(shared, greeted)?;
    // From here on the link is the peer's: an answer that cannot be sent shows as its loss.
    let ours = Hello::new(&shared.us, id, theirs.purpose);
    if let Err(error) = hello::say(&ours, Stream::new(send)).await {
        tracing::debug!(peer = id.0, %error, "the hello could not be answered");
    }
    Ok(Taken::Node(peer, link))
}

/// Only the process that is linked may send in bulk.
async fn welcome_bulk(
    shared: &Shared,
    connection: &Connection,
    peer: Arc<Peer>,
    (theirs, send): (&Hello, SendStream),
) -> Result<Taken, Refused> {
    let linked = peer
        .link()
        .is_some_and(|link| link.process == Process::of(theirs));
    if !linked {
        return Err(Refused::NotLinked(peer.id.0));
    }
    let ours = Hello::new(&shared.us, peer.id, Purpose::Bulk);
    hello::say(&ours, Stream::new(send)).await?;
    Ok(Taken::Bulk(peer, connection.clone()))
}

fn peer_name(connection: &Connection) -> Result<CertifiedName, Refused> {
    let identity = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = identity.expect("the verifier demands a certificate");
    Ok(certified_name(&chain[0])?)
}

fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

/// Serves a client until it leaves or breaks the protocol.
async fn serve_client(shared: Arc<Shared>, connection: Connection, name: CertifiedName) {
    let Ok(_room) = shared.clients.clone().try_acquire_owned() else {
        shared.refusals.count(By::Us, Refusal::Busy);
        let refused = Refused::TooManyClients;
        return connection.close(refused.code().into(), refused.to_string().as_bytes());
    };
    connection.set_receive_window(CLIENT_RECEIVE_WINDOW.into());
    let client = Arc::new(Client {
        name,
        address: connection.remote_address(),
    });
    tracing::debug!(name = %client.name, address = %client.address, "client connected");
    if let Err(violation) = serve_streams(&shared, &connection, &client).await {
        shared.violations.fetch_add(1, Ordering::Relaxed);
        let (name, address) = (&client.name, client.address);
        tracing::warn!(%name, %address, reason = %violation, "client broke the protocol");
        connection.close(Code::Protocol.into(), violation.as_bytes());
    }
}

/// Ok when the client left, an error when it broke the protocol.
async fn serve_streams(
    shared: &Arc<Shared>,
    connection: &Connection,
    client: &Arc<Client>,
) -> Result<(), String> {
    let mut streams: JoinSet<Result<(), FrameError>> = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, receive)) = stream else { return Ok(()) };
                let (shared, client) = (shared.clone(), client.clone());
                streams.spawn(async move {
                    let deliver = |payload, reply| shared.sinks.clients.call(&client, payload, reply);
                    calls::serve((Stream::new(send), receive), deliver).await
                });
            }
            stream = connection.accept_uni() => match stream {
                Ok(_) => return Err("clients open no unidirectional streams".to_owned()),
                Err(_) => return Ok(()),
            },
            Some(ended) = streams.join_next() => {
                if let Ok(Err(error)) = ended && error.is_violation() {
                    return Err(error.to_string());
                }
            }
        }
    }
}
