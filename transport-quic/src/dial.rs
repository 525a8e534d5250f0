//! Keeps one peer linked: dials, says hello, waits, dials again. The node with the lower id dials; the other
//! does too when no link came about in a while. A link that lives is dialed anew from time to time, and when this
//! node's certificates change: by the side that dialed it, so that the two never do it at once.

use crate::hello::{self, Heard, Hello, HelloError, Purpose, StreamKind};
use crate::limits::{
    BACKOFF_MAX, BACKOFF_MIN, DIAL_GRACE, DIAL_TIMEOUT, LINK_PROVEN, REDIAL_PAUSE, REDIAL_STAGGER,
};
use crate::link::{self, Greeted, Link};
use crate::node_name;
use crate::peer::{Declined, Peer, Process};
use crate::refusal::{self, By, Refusal, describe, refusal_of_hello};
use crate::status::LinkState;
use crate::transport::Shared;
use quinn::{Connection, ConnectionError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{sleep, timeout};

/// Runs until the transport stops or the peer is removed.
pub(crate) async fn keep_linked(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut stopped = shared.stop.subscribe();
    tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => {}
        () = peer.removed() => {}
        () = dial_forever(&shared, &peer) => {}
    }
}

async fn dial_forever(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let mut backoff = Backoff::default();
    let mut told = None;
    let mut dialing = shared.dialing.subscribe();
    loop {
        if let Some(link) = peer.link() {
            told = None;
            tokio::select! {
                () = peer.left(&link) => {}
                () = renewal_due(shared, peer, &link) => renew(shared, peer, &link).await,
            }
            if link.age() >= LINK_PROVEN {
                backoff = Backoff::default();
            }
            dialing.mark_unchanged();
            continue;
        }
        let theirs = peer.id < shared.us.node;
        let patience = backoff.next() + if theirs { DIAL_GRACE } else { Duration::ZERO };
        tokio::select! {
            waited = timeout(patience, peer.up()) => if waited.is_ok() { continue },
            // Why the last attempt failed may be over.
            _ = dialing.changed() => backoff = Backoff::default(),
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

/// Returns when the link should be dialed anew: for its age, for new certificates, or because the peer asks.
async fn renewal_due(shared: &Shared, peer: &Peer, link: &Link) {
    let old = shared
        .options
        .redial_interval
        .mul_f64(0.9 + 0.2 * fraction(peer.id.0));
    let mut dialing = shared.dialing.subscribe();
    let renewed = async {
        // The sender lives as long as `shared`.
        let _ = dialing
            .wait_for(|dialing| dialing.version > link.credentials)
            .await;
        // pace: a node's links are not all renewed at once.
        sleep(REDIAL_STAGGER.saturating_mul(shared.position(peer.id))).await;
    };
    tokio::select! {
        // pace: the age at which a link is renewed.
        () = sleep(old.saturating_sub(link.age())), if link.dialer == shared.us.node => {}
        () = peer.redial_asked.notified(), if link.dialer == shared.us.node => {}
        () = renewed => {}
    }
}

/// Dials a successor of a living link, or asks the peer to when it dialed this one. The old link stays until the new
/// one is up, and when it does not come up.
async fn renew(shared: &Arc<Shared>, peer: &Arc<Peer>, link: &Arc<Link>) {
    let asked = if link.dialer == shared.us.node {
        dial(shared, peer, 0)
            .await
            .map(|()| tracing::info!(peer = peer.id.0, "the link is dialed anew"))
    } else {
        link.ask_for_redial().await.map_err(DialError::from)
    };
    if let Err(reason) = asked {
        tracing::warn!(peer = peer.id.0, %reason, "the link could not be dialed anew; the old one stays");
    }
    // Nothing to do with the outcome: what is still due shows next time.
    let _ = timeout(REDIAL_PAUSE, peer.left(link)).await;
}

/// A fraction of one that differs from peer to peer and from process to process.
fn fraction(of: u64) -> f64 {
    (RandomState::new().hash_one(of) % 1000) as f64 / 1000.0
}

/// Attempts repeat every few seconds; the log hears of a reason once.
fn tell_once(told: &mut Option<String>, peer: &Peer, reason: &str) {
    let (id, address) = (peer.id.0, peer.address());
    if peer.link().is_some() {
        tracing::debug!(peer = id, %address, %reason, "not needed any more");
        return;
    }
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
pub(crate) enum DialError {
    #[error("`{0}` cannot be resolved: {1}")]
    Resolve(String, io::Error),
    #[error("`{0}` has no address this node can reach from {1}")]
    NoAddress(String, SocketAddr),
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{}", describe(.0))]
    Connection(#[from] ConnectionError),
    #[error("no answer within {DIAL_TIMEOUT:?}")]
    Timeout,
    #[error("refused here: {0}")]
    Hello(#[from] HelloError),
    #[error("refused here: {0}")]
    Declined(#[from] Declined),
    #[error("cannot tell where this node listens: {0}")]
    Local(io::Error),
}

impl DialError {
    /// Who refused, and why; None when nobody did.
    fn refusal(&self) -> Option<(By, Refusal)> {
        match self {
            DialError::Connection(error) => refusal::refusal(error),
            DialError::Hello(error) => Some((By::Us, refusal_of_hello(error))),
            DialError::Declined(Declined::DuplicateNode(_)) => Some((By::Us, Refusal::DuplicateNode)),
            _ => None,
        }
    }
}

/// Dials once and runs the link's tasks in the background.
async fn dial(shared: &Arc<Shared>, peer: &Arc<Peer>, attempt: u32) -> Result<(), DialError> {
    let greeted = connect(shared, peer, Purpose::Link, attempt).await?;
    let connection = greeted.connection.clone();
    let link = peer.adopt(shared, greeted).map_err(|declined| {
        connection.close(declined.code().into(), declined.to_string().as_bytes());
        count(shared, declined.into())
    })?;
    tokio::spawn(link::run(shared.clone(), peer.clone(), link));
    Ok(())
}

/// Dials until both sides have said hello. Counts a refusal, by whichever side.
pub(crate) async fn connect(
    shared: &Shared,
    peer: &Peer,
    purpose: Purpose,
    attempt: u32,
) -> Result<Greeted, DialError> {
    let greeted = async {
        let address = resolve(shared, &peer.address(), attempt).await?;
        let greeted = timeout(DIAL_TIMEOUT, greet(shared, peer, purpose, address));
        greeted.await.map_err(|_| DialError::Timeout)?
    };
    greeted.await.map_err(|error| count(shared, error))
}

fn count(shared: &Shared, error: DialError) -> DialError {
    if let Some((by, refusal)) = error.refusal() {
        shared.refusals.count(by, refusal);
    }
    error
}

async fn greet(
    shared: &Shared,
    peer: &Peer,
    purpose: Purpose,
    address: SocketAddr,
) -> Result<Greeted, DialError> {
    let name = node_name(peer.id);
    let (config, credentials) = shared.dialing();
    let connection = shared.endpoint.connect_with(config, address, &name)?.await?;
    match exchange(shared, peer, purpose, &connection).await {
        Ok(Heard { hello, wire }) => Ok(Greeted {
            connection,
            dialer: shared.us.node,
            process: Process::of(&hello),
            wire,
            credentials,
        }),
        Err(error) => Err(refused(&connection, error)),
    }
}

/// What the acceptor said when it closed counts more than what we noticed of it.
fn refused(connection: &Connection, error: HelloError) -> DialError {
    if let Some(closed) = connection.close_reason() {
        return closed.into();
    }
    let code = refusal_of_hello(&error).code();
    connection.close(code.into(), error.to_string().as_bytes());
    error.into()
}

async fn exchange(
    shared: &Shared,
    peer: &Peer,
    purpose: Purpose,
    connection: &Connection,
) -> Result<Heard, HelloError> {
    let (send, receive) = connection.open_bi().await?;
    let send = hello::begin(send, StreamKind::Hello, 0).await?;
    hello::say(&Hello::new(&shared.us, peer.id, purpose), send).await?;
    let theirs = hello::hear(receive).await?;
    theirs.hello.check(shared.us.cluster, peer.id, shared.us.node)?;
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
