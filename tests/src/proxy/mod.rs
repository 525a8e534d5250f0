//! A userspace UDP proxy that stands between two QUIC endpoints and does to their packets what networks do: loss,
//! delay, jitter, reordering, duplication, a limited rate, a cut, a cut one way. It never looks into a packet.
//!
//! Faults are set per direction and at run time. A proxy counts what it did, so that a test can demand that the
//! faults it was promised did happen. Every client address gets a socket of its own towards the upstream, as behind a
//! NAT. One thread serves a proxy; dropping the proxy ends it and closes its sockets.
//!
//! ```no_run
//! use flotilla_tests::proxy::{Direction, Faults, Proxy};
//! use std::time::Duration;
//!
//! let upstream = "127.0.0.1:7400".parse().unwrap();
//! let proxy = Proxy::start(upstream, 42);
//! println!("tell the dialer that node 1 is at {}", proxy.address());
//!
//! let bad = Faults { loss: 0.05, reorder: 0.1, delay: Duration::from_millis(5), ..Faults::default() };
//! proxy.set_both(bad);                            // a bad link
//! proxy.set(Direction::Down, Faults::cut());      // the upstream hears us, we do not hear it
//! proxy.heal();
//!
//! let counts = proxy.counts();
//! assert!(counts.up.lost > 0 && counts.down.cut > 0, "the run is INVALID: {counts:?}");
//! ```

mod faults;
mod line;
mod relay;
#[cfg(test)]
mod tests;

pub use faults::{Counts, Direction, Faults, Tally};

use relay::{Lines, Relay, lock};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A running proxy before one upstream address.
pub struct Proxy {
    address: SocketAddr,
    upstream: SocketAddr,
    lines: Arc<Mutex<Lines>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy without faults on a free loopback port. Nobody needs to listen at `upstream` yet. The seed
    /// decides every draw: the n-th packet of a direction meets the same luck in every run.
    pub fn start(upstream: SocketAddr, seed: u64) -> Proxy {
        let lines = Lines::new(seed);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        let relay = Relay::bind(upstream, Arc::clone(&stop), Arc::clone(&lines)).expect("a loopback socket");
        let address = relay.address().expect("a bound socket has an address");
        let thread = std::thread::Builder::new().name(format!("proxy-{}", upstream.port()));
        let thread = thread.spawn(|| relay.run()).expect("a thread");
        Proxy {
            address,
            upstream,
            lines,
            stop,
            thread: Some(thread),
        }
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where their packets go.
    pub fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// From now on the packets of one direction meet these faults, and no others.
    pub fn set(&self, direction: Direction, faults: Faults) {
        lock(&self.lines).set(direction, faults);
    }

    /// The same faults both ways.
    pub fn set_both(&self, faults: Faults) {
        let mut lines = lock(&self.lines);
        for direction in Direction::BOTH {
            lines.set(direction, faults.clone());
        }
    }

    /// Nothing passes either way.
    pub fn cut(&self) {
        self.set_both(Faults::cut());
    }

    /// No faults any more. Packets that are on their way still arrive when they were due.
    pub fn heal(&self) {
        self.set_both(Faults::default());
    }

    /// What was done until now.
    pub fn counts(&self) -> Counts {
        lock(&self.lines).counts()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "proxy {} -> {}: {:?}",
            self.address,
            self.upstream,
            self.counts()
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).expect("an eventfd counts up");
        let ended = self.thread.take().expect("dropped once").join();
        if !std::thread::panicking() {
            ended.expect("a proxy's thread does not panic");
        }
    }
}
