//! The sockets of a proxy and the one thread that serves them. What happens to a packet is `line.rs`'.

use super::faults::{Counts, Direction, Faults};
use super::line::{Line, Packet};
use crate::sim::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Client addresses served at once; the one that was silent longest makes room.
const FLOWS_MAX: usize = 256;
/// Packets taken from one socket before the others have their turn.
const BURST: usize = 64;
/// The longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Kernel buffers asked for, each way: a burst must not be lost without being counted.
const SOCKET_BYTES: usize = 4 << 20;

/// What the proxy's owner and its thread share.
pub(super) struct Lines {
    up: Line,
    down: Line,
    flows: u64,
}

impl Lines {
    pub(super) fn new(seed: u64) -> Arc<Mutex<Lines>> {
        let rng = Rng::new(seed);
        Arc::new(Mutex::new(Lines {
            up: Line::new(rng.fork("up")),
            down: Line::new(rng.fork("down")),
            flows: 0,
        }))
    }

    pub(super) fn set(&mut self, direction: Direction, faults: Faults) {
        self.of(direction).set(faults);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            up: self.up.tally(),
            down: self.down.tally(),
            flows: self.flows,
        }
    }

    fn of(&mut self, direction: Direction) -> &mut Line {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let both = [self.up.deadline(), self.down.deadline()];
        both.into_iter().flatten().min()
    }
}

/// One client address and the socket that stands for it towards the upstream.
struct Flow {
    socket: UdpSocket,
    used: Instant,
}

/// A running proxy, as its thread sees it.
pub(super) struct Relay {
    listener: UdpSocket,
    upstream: SocketAddr,
    stop: Arc<OwnedFd>,
    lines: Arc<Mutex<Lines>>,
    flows: BTreeMap<SocketAddr, Flow>,
    buffer: Vec<u8>,
}

/// Which sockets have something to read.
struct Ready {
    stop: bool,
    listener: bool,
    flows: Vec<SocketAddr>,
}

impl Relay {
    /// Binds a loopback port of the upstream's address family.
    pub(super) fn bind(
        upstream: SocketAddr,
        stop: Arc<OwnedFd>,
        lines: Arc<Mutex<Lines>>,
    ) -> io::Result<Relay> {
        Ok(Relay {
            listener: loopback_socket(upstream)?,
            upstream,
            stop,
            lines,
            flows: BTreeMap::new(),
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop; then all sockets are closed.
    pub(super) fn run(mut self) {
        loop {
            let ready = self.wait();
            if ready.stop {
                return;
            }
            if ready.listener {
                self.read_listener();
            }
            for flow in ready.flows {
                self.read_flow(flow);
            }
            self.deliver();
        }
    }

    /// Waits for a packet, the next delivery, or the end.
    fn wait(&self) -> Ready {
        let timeout = lock(&self.lines).deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).expect("deadlines are near")
        });
        let mut fds = vec![
            PollFd::new(&*self.stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let sockets = self.flows.values().map(|flow| &flow.socket);
        fds.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::IN)));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            fds.iter_mut().for_each(PollFd::clear_revents); // interrupted: look again
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let flows = self.flows.keys().zip(&ready[2..]);
        Ready {
            stop: ready[0],
            listener: ready[1],
            flows: flows
                .filter(|(_, ready)| **ready)
                .map(|(flow, _)| *flow)
                .collect(),
        }
    }

    fn read_listener(&mut self) {
        for _ in 0..BURST {
            let Ok((length, client)) = self.listener.recv_from(&mut self.buffer) else {
                return; // empty; or the news that a client is gone, which the next turn reads past
            };
            if self.open_flow(client).is_ok() {
                self.take(Direction::Up, client, length);
            }
        }
    }

    fn read_flow(&mut self, client: SocketAddr) {
        for _ in 0..BURST {
            let Some(flow) = self.flows.get(&client) else {
                return; // made room for another one meanwhile
            };
            let Ok(length) = flow.socket.recv(&mut self.buffer) else {
                return; // empty; or the news that the upstream is gone, which the next turn reads past
            };
            self.take(Direction::Down, client, length);
        }
    }

    fn take(&mut self, direction: Direction, flow: SocketAddr, length: usize) {
        let bytes = self.buffer[..length].to_vec();
        lock(&self.lines)
            .of(direction)
            .take(Instant::now(), Packet { flow, bytes });
    }

    fn open_flow(&mut self, client: SocketAddr) -> io::Result<()> {
        let used = Instant::now();
        if let Some(flow) = self.flows.get_mut(&client) {
            flow.used = used;
            return Ok(());
        }
        if self.flows.len() == FLOWS_MAX {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
            let oldest = *oldest.expect("there are FLOWS_MAX").0;
            self.flows.remove(&oldest);
        }
        let socket = loopback_socket(self.upstream)?;
        socket.connect(self.upstream)?;
        self.flows.insert(client, Flow { socket, used });
        lock(&self.lines).flows += 1;
        Ok(())
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        let mut lines = lock(&self.lines);
        for direction in Direction::BOTH {
            while let Some(packet) = lines.of(direction).due(now) {
                let taken = self.send(direction, &packet);
                lines.of(direction).sent(packet.bytes.len(), taken);
            }
        }
    }

    fn send(&self, direction: Direction, packet: &Packet) -> bool {
        let sent = match (direction, self.flows.get(&packet.flow)) {
            (Direction::Down, _) => self.listener.send_to(&packet.bytes, packet.flow),
            (Direction::Up, Some(flow)) => flow.socket.send(&packet.bytes),
            (Direction::Up, None) => return false,
        };
        sent.is_ok()
    }
}

/// The lines; they stay whole even if a test's thread died while it held them.
pub(super) fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn loopback_socket(like: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match like {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?,
    };
    socket.set_nonblocking(true)?;
    // The kernel gives what its limit allows; less is no error.
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES)?;
    Ok(socket)
}
