//! The network between the nodes of a cluster: one proxy for every ordered pair, in front of the second as the first
//! sees it. Whoever dialed, what `from` sends to `to` passes one of the pair's two proxies.

use crate::proxy::{Direction, Faults, Proxy};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All links of a cluster. Nodes are named by their place, from 0.
#[derive(Debug)]
pub struct Links {
    /// From a node that dials to the node that listens.
    proxies: BTreeMap<(usize, usize), Proxy>,
}

impl Links {
    /// Proxies between nodes that will listen on these ports.
    pub(super) fn between(ports: &[u16], seed: u64) -> Links {
        let mut proxies = BTreeMap::new();
        for dialer in 0..ports.len() {
            for listener in (0..ports.len()).filter(|listener| *listener != dialer) {
                let seed = seed.wrapping_add((dialer * ports.len() + listener) as u64);
                let proxy = Proxy::start(super::loopback(ports[listener]), seed);
                proxies.insert((dialer, listener), proxy);
            }
        }
        Links { proxies }
    }

    /// Where `from` reaches `to`; None for itself.
    pub(super) fn address(&self, from: usize, to: usize) -> Option<SocketAddr> {
        self.proxies.get(&(from, to)).map(Proxy::address)
    }

    /// What happens from now on to whatever `from` sends to `to`.
    pub fn set(&self, from: usize, to: usize, faults: &Faults) {
        self.proxies[&(from, to)].set(Direction::Up, faults.clone());
        self.proxies[&(to, from)].set(Direction::Down, faults.clone());
    }

    /// The same for all pairs.
    pub fn set_all(&self, faults: &Faults) {
        self.proxies
            .values()
            .for_each(|proxy| proxy.set_both(faults.clone()));
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.proxies.values().for_each(Proxy::heal);
    }

    /// Packets that met a fault since the beginning: lost, cut or late.
    pub fn harmed(&self) -> u64 {
        let harmed = |proxy: &Proxy| {
            let counts = proxy.counts();
            let of = |direction| {
                let tally = counts.of(direction);
                tally.lost + tally.cut + tally.delayed + tally.duplicated + tally.reordered
            };
            Direction::BOTH.map(of).iter().sum::<u64>()
        };
        self.proxies.values().map(harmed).sum()
    }
}
