//! What a proxy is asked to do to packets, and what it says it has done. No packets here.

use std::time::Duration;

/// The way a packet travels through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a client to the upstream.
    Up,
    /// From the upstream back to a client.
    Down,
}

impl Direction {
    /// Both, in the order of their names here.
    pub const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];
}

/// What happens to the packets of one direction. The default is nothing: each is passed on at once, in order.
///
/// A probability is a number from 0 to 1 and is drawn for each packet. The order of the faults: cut, loss,
/// duplicate, then for each copy bandwidth, delay and jitter, reorder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a packet disappears.
    pub loss: f64,
    /// Probability that a packet is sent twice.
    pub duplicate: f64,
    /// Probability that a packet is held back until 1 to 8 later ones of its flow have gone, or 20 ms passed.
    pub reorder: f64,
    /// How much later each packet arrives.
    pub delay: Duration,
    /// At most this much is added to the delay of each packet, evenly drawn. Packets still do not overtake each
    /// other, so a burst arrives as late as its latest packet.
    pub jitter: Duration,
    /// The rate of the wire, in bytes of UDP payload. Beyond 200 ms of backlog packets are dropped.
    pub bytes_per_second: Option<u64>,
    /// Nothing passes; what was on its way when this is set is gone, too.
    pub cut: bool,
}

impl Faults {
    /// A wire that is cut, and nothing else.
    pub fn cut() -> Faults {
        Faults {
            cut: true,
            ..Faults::default()
        }
    }

    /// Every packet later by `delay`.
    pub fn delay(delay: Duration) -> Faults {
        Faults {
            delay,
            ..Faults::default()
        }
    }

    /// Loss with this probability.
    pub fn loss(probability: f64) -> Faults {
        Faults {
            loss: probability,
            ..Faults::default()
        }
    }

    /// Fails the test that asks for what cannot be.
    pub(super) fn check(&self) {
        for probability in [self.loss, self.duplicate, self.reorder] {
            assert!((0.0..=1.0).contains(&probability), "{self:?}");
        }
        assert_ne!(self.bytes_per_second, Some(0), "a wire without a rate is `cut`");
    }
}

/// What a proxy did to the packets of one direction since it began.
///
/// Nothing is unaccounted for: `received + duplicated` is the sum of `forwarded`, `lost`, `cut`, `overflowed`,
/// `unsent` and `waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that came in.
    pub received: u64,
    /// Packets passed on.
    pub forwarded: u64,
    /// Bytes passed on, UDP payload only.
    pub forwarded_bytes: u64,
    /// Packets dropped by `loss`.
    pub lost: u64,
    /// Packets dropped by `cut`, those on their way included.
    pub cut: u64,
    /// Packets sent twice.
    pub duplicated: u64,
    /// Packets that at least one later packet of their flow overtook.
    pub reordered: u64,
    /// Packets that `delay`, `jitter` or the wire's rate made later.
    pub delayed: u64,
    /// Packets dropped because the wire's backlog or the proxy's memory was full.
    pub overflowed: u64,
    /// Packets that the operating system did not take (nobody listens there, or its buffer was full).
    pub unsent: u64,
    /// Packets inside the proxy now.
    pub waiting: u64,
}

impl Tally {
    /// True if every packet is accounted for.
    pub fn adds_up(&self) -> bool {
        let out = self.forwarded + self.lost + self.cut + self.overflowed + self.unsent + self.waiting;
        self.received + self.duplicated == out
    }

    /// What was done since `earlier`, a tally of the same direction. `waiting` stays what it is now.
    pub fn since(&self, earlier: &Tally) -> Tally {
        Tally {
            received: self.received - earlier.received,
            forwarded: self.forwarded - earlier.forwarded,
            forwarded_bytes: self.forwarded_bytes - earlier.forwarded_bytes,
            lost: self.lost - earlier.lost,
            cut: self.cut - earlier.cut,
            duplicated: self.duplicated - earlier.duplicated,
            reordered: self.reordered - earlier.reordered,
            delayed: self.delayed - earlier.delayed,
            overflowed: self.overflowed - earlier.overflowed,
            unsent: self.unsent - earlier.unsent,
            waiting: self.waiting,
        }
    }
}

/// What a proxy did since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To the upstream.
    pub up: Tally,
    /// Back to clients.
    pub down: Tally,
    /// Client addresses seen; one that was forgotten and came back counts again.
    pub flows: u64,
}

impl Counts {
    /// The tally of one direction.
    pub fn of(&self, direction: Direction) -> &Tally {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}
