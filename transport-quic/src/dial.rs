//! Keeps one peer linked: dials, says hello, waits, dials again. The node with the lower id dials; the other
//! does too when no link came about in a while.

use crate::hello::{self, Hello, HelloError, StreamKind};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, DIAL_GRACE, DIAL_TIMEOUT, LINK_PROVEN};
use crate::link::{self, Code, Greeted, LinkState, Peer};
use crate::node_name;
use crate::transport::Shared;
use quinn::{Connection, ConnectionError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;

/// Runs until the transport stops.
pub(crate) async fn keep_linked(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut stopped = shared.stop.subscribe();
    tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => {}
        () = dial_forever(&shared, &peer) => {}
    }
}

async fn dial_forever(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        if let Some(link) = peer.link() {
            told = None;
            peer.down().await;
            if link.age() >= LINK_PROVEN {
                backoff = Backoff::default();
            }
        }
        let theirs = peer.id < shared.node;
        let patience = backoff.next() + if theirs { DIAL_GRACE } else { Duration::ZERO };
        if timeout(patience, peer.up()).await.is_ok() {
            continue;
        }
        if *peer.watch().borrow() == LinkState::Awaited {
            peer.set_attempt(LinkState::Dialing);
        }
        if let Err(error) = dial(shared, peer, backoff.attempts).await {
            let reason = error.to_string();
            tell_once(&mut told, peer, &reason);
            peer.set_attempt(LinkState::Down { reason });
        }
    }
}

/// Attempts repeat every few seconds; the log hears of a reason once.
fn tell_once(told: &mut Option<String>, peer: &Peer, reason: &str) {
    let (id, address) = (peer.id.0, peer.address());
    if told.as_deref() == Some(reason) {
        tracing::debug!(peer = id, %address, %reason, "still no link");
        return;
    }
    tracing::warn!(peer = id, %address, %reason, "no link");
    *told = Some(reason.to_owned());
}

/// Doubling pauses with jitter; the first is none.
#[derive(Default)]
struct Backoff {
    attempts: u32,
    jitter: RandomState,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let attempt = self.attempts;
        self.attempts += 1;
        let Some(doublings) = attempt.checked_sub(1) else {
            return Duration::ZERO;
        };
        let pause = BACKOFF_MIN
            .saturating_mul(1 << doublings.min(16))
            .min(BACKOFF_MAX);
        // Between half and all of it. The hash of a counter under a random key is random enough.
        let thousandths = 500 + self.jitter.hash_one(attempt) % 501;
        pause.mul_f64(thousandths as f64 / 1000.0)
    }
}

/// Why a dial led to no link.
#[derive(Debug, Error)]
enum DialError {
    #[error("`{0}` cannot be resolved: {1}")]
    Resolve(String, io::Error),
    #[error("`{0}` has no address this node can reach from {1}")]
    NoAddress(String, SocketAddr),
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{}", link::describe(.0))]
    Connection(#[from] ConnectionError),
    #[error("no answer within {DIAL_TIMEOUT:?}")]
    Timeout,
    #[error("refused here: {0}")]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Outranked(&'static str),
    #[error("cannot tell where this node listens: {0}")]
    Local(io::Error),
}

/// Dials once and runs the link's tasks in the background.
async fn dial(shared: &Arc<Shared>, peer: &Arc<Peer>, attempt: u32) -> Result<(), DialError> {
    let address = resolve(shared, &peer.address(), attempt).await?;
    let greeted = timeout(DIAL_TIMEOUT, greet(shared, peer, address));
    let greeted = greeted.await.map_err(|_| DialError::Timeout)??;
    let connection = greeted.connection.clone();
    let link = peer.adopt(shared, greeted).map_err(|why| {
        connection.close(Code::Duplicate.into(), why.as_bytes());
        DialError::Outranked(why)
    })?;
    tokio::spawn(link::run(shared.clone(), peer.clone(), link));
    Ok(())
}

async fn greet(shared: &Shared, peer: &Peer, address: SocketAddr) -> Result<Greeted, DialError> {
    let name = node_name(peer.id);
    let connection = shared
        .endpoint
        .connect_with(shared.dialing.clone(), address, &name)?
        .await?;
    match exchange(shared, peer, &connection).await {
        Ok(theirs) => Ok(Greeted {
            connection,
            dialer: shared.node,
            incarnation: theirs.incarnation,
        }),
        Err(error) => Err(refused(&connection, error)),
    }
}

/// What the acceptor said when it closed counts more than what we noticed of it.
fn refused(connection: &Connection, error: HelloError) -> DialError {
    if let Some(closed) = connection.close_reason() {
        return closed.into();
    }
    connection.close(Code::Refused.into(), error.to_string().as_bytes());
    error.into()
}

async fn exchange(shared: &Shared, peer: &Peer, connection: &Connection) -> Result<Hello, HelloError> {
    let (send, receive) = connection.open_bi().await?;
    let send = hello::begin(send, StreamKind::Hello, 0).await?;
    hello::say(
        &Hello::new(shared.cluster, shared.node, peer.id, shared.incarnation),
        send,
    )
    .await?;
    let theirs = hello::hear(receive).await?;
    theirs.check(shared.cluster, peer.id, shared.node)?;
    Ok(theirs)
}

/// An address of the family this node listens on: resolved anew each time, nodes move; of several each gets
/// its turn.
async fn resolve(shared: &Shared, address: &str, attempt: u32) -> Result<SocketAddr, DialError> {
    let local = shared.endpoint.local_addr().map_err(DialError::Local)?;
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| DialError::Resolve(address.to_owned(), error))?;
    let reachable: Vec<_> = found.filter(|found| local.is_ipv6() || found.is_ipv4()).collect();
    let turn = reachable.get(attempt as usize % reachable.len().max(1)).copied();
    turn.ok_or_else(|| DialError::NoAddress(address.to_owned(), local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), Duration::ZERO);
        for doublings in 0..40 {
            let full = BACKOFF_MIN
                .saturating_mul(1 << doublings.min(16))
                .min(BACKOFF_MAX);
            let pause = backoff.next();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
    }
}
