//! One direction of a proxy without its sockets: packets go in with the time, packets come out when they are due.
//! Every draw comes from the seed: the n-th packet meets the same luck in every run; when it comes is the sockets'.

use super::faults::{Faults, Tally};
use crate::sim::Rng;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A packet held back goes on after this time, even if nothing overtook it.
pub(super) const HELD_MAX: Duration = Duration::from_millis(20);
/// Most packets that overtake one that is held back.
const OVERTAKERS_MAX: u64 = 8;
/// A limited wire drops what would wait behind more than this.
const BACKLOG_MAX: Duration = Duration::from_millis(200);
/// Bytes that may be on their way in one direction.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A datagram and the client address of its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) flow: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// A packet that waits to be overtaken.
struct Held {
    packet: Packet,
    until: Instant,
    overtakers: u64,
    overtaken: bool,
}

/// One direction of a proxy.
pub(super) struct Line {
    faults: Faults,
    rng: Rng,
    tally: Tally,
    /// In the order of their times.
    waiting: VecDeque<(Instant, Packet)>,
    held: Vec<Held>,
    waiting_bytes: usize,
    /// When the wire has sent all that it took, if its rate is limited.
    wire_free: Option<Instant>,
}

impl Line {
    pub(super) fn new(rng: Rng) -> Line {
        Line {
            faults: Faults::default(),
            rng,
            tally: Tally::default(),
            waiting: VecDeque::new(),
            held: Vec::new(),
            waiting_bytes: 0,
            wire_free: None,
        }
    }

    /// Holds for packets from now on; a cut also takes those on their way.
    pub(super) fn set(&mut self, faults: Faults) {
        faults.check();
        if faults.cut {
            self.tally.cut += self.waiting_packets();
            self.waiting.clear();
            self.held.clear();
            self.waiting_bytes = 0;
        }
        self.faults = faults;
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            waiting: self.waiting_packets(),
            ..self.tally
        }
    }

    /// A packet came in.
    pub(super) fn take(&mut self, now: Instant, packet: Packet) {
        self.tally.received += 1;
        if self.faults.cut {
            self.tally.cut += 1;
            return;
        }
        if self.happens(self.faults.loss) {
            self.tally.lost += 1;
            return;
        }
        if self.happens(self.faults.duplicate) {
            self.tally.duplicated += 1;
            self.pass(now, packet.clone());
        }
        self.pass(now, packet);
    }

    /// The next packet that must leave by `now`. Whoever takes it says with `sent` what became of it.
    pub(super) fn due(&mut self, now: Instant) -> Option<Packet> {
        self.release_held(now);
        if self.waiting.front()?.0 > now {
            return None;
        }
        let (_, packet) = self.waiting.pop_front()?;
        self.waiting_bytes -= packet.bytes.len();
        Some(packet)
    }

    /// The packet that `due` gave out was passed to the operating system, or not.
    pub(super) fn sent(&mut self, bytes: usize, taken: bool) {
        if taken {
            self.tally.forwarded += 1;
            self.tally.forwarded_bytes += bytes as u64;
        } else {
            self.tally.unsent += 1;
        }
    }

    /// When `due` has something to say next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.front().map(|(at, _)| *at);
        let held = self.held.iter().map(|held| held.until).min();
        waiting.into_iter().chain(held).min()
    }

    fn waiting_packets(&self) -> u64 {
        (self.waiting.len() + self.held.len()) as u64
    }

    fn happens(&mut self, probability: f64) -> bool {
        const STEPS: u64 = 1 << 53; // as fine as an f64 is below 1
        (self.rng.below(STEPS) as f64) < probability * STEPS as f64
    }

    fn pass(&mut self, now: Instant, packet: Packet) {
        let Some(at) = self.arrival(now, packet.bytes.len()) else {
            self.tally.overflowed += 1;
            return;
        };
        self.tally.delayed += u64::from(at > now);
        self.waiting_bytes += packet.bytes.len();
        if self.happens(self.faults.reorder) {
            self.held.push(Held {
                packet,
                until: at + HELD_MAX,
                overtakers: self.rng.between(1, OVERTAKERS_MAX),
                overtaken: false,
            });
            return;
        }
        let flow = packet.flow;
        self.waiting.push_back((at, packet));
        self.overtake(flow, at);
    }

    /// When a packet of this size arrives, never before the one before it; None if there is no room for it.
    fn arrival(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        if self.waiting_bytes + bytes > WAITING_BYTES_MAX {
            return None;
        }
        let leaves = self.leave_wire(now, bytes)?;
        let jitter = u64::try_from(self.faults.jitter.as_nanos()).expect("a jitter below centuries");
        let jitter = Duration::from_nanos(self.rng.between(0, jitter));
        let at = leaves + self.faults.delay + jitter;
        Some(self.waiting.back().map_or(at, |(last, _)| at.max(*last)))
    }

    fn leave_wire(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.faults.bytes_per_second else {
            return Some(now);
        };
        let begin = self.wire_free.map_or(now, |free| free.max(now));
        if begin - now > BACKLOG_MAX {
            return None;
        }
        let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.wire_free = Some(end);
        Some(end)
    }

    /// A packet of this flow goes past those held back; who has been passed often enough follows it.
    fn overtake(&mut self, flow: SocketAddr, at: Instant) {
        for held in self.held.iter_mut().filter(|held| held.packet.flow == flow) {
            held.overtakers -= 1;
            self.tally.reordered += u64::from(!held.overtaken);
            held.overtaken = true;
        }
        for free in self.held.extract_if(.., |held| held.overtakers == 0) {
            self.waiting.push_back((at, free.packet));
        }
    }

    fn release_held(&mut self, now: Instant) {
        for late in self.held.extract_if(.., |held| held.until <= now) {
            let at = self.waiting.back().map_or(now, |(last, _)| now.max(*last));
            self.waiting.push_back((at, late.packet));
        }
    }
}
