//! Ports for processes that must know theirs before they start, and keep them while they are down.
//!
//! Port 0 would not do: the kernel gives such a port to the next socket that asks, also while its node is killed and not
//! yet back. These come from below the kernel's own range, and no port is given twice by one process.

use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below Linux's `ip_local_port_range` (32768 and up), above what services are registered with.
const PORTS: Range<u16> = 12_000..32_000;

/// A port on loopback that is free for TCP and UDP.
pub(super) fn free() -> u16 {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    // Test processes that run side by side begin at different places.
    let begin = std::process::id() as usize * 97;
    (0..PORTS.len())
        .map(|_| PORTS.start + ((begin + GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len()) as u16)
        .find(|&port| is_free(port))
        .expect("a free port")
}

fn is_free(port: u16) -> bool {
    let address = ("127.0.0.1", port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}
