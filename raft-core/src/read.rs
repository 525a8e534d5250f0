//! Linearizable reads without a log entry (thesis §6.4, "ReadIndex"): a read may be served from the state at
//! the commit index of its arrival, once a round of heartbeats that left after it was answered by a quorum.
//! All reads that wait join the next round; one round is in flight at a time.

use crate::ready::ReadGrant;
use crate::types::{Index, ReadId, Round};

/// A leader's reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<ReadGrant>,
    flight: Option<Flight>,
}

#[derive(Clone, Debug)]
struct Flight {
    round: Round,
    reads: Vec<ReadGrant>,
}

impl Reads {
    /// A read arrived when the commit index was `index`.
    pub(crate) fn add(&mut self, read: ReadId, index: Index) {
        self.waiting.push(ReadGrant { read, index });
    }

    /// True when the next round should leave.
    pub(crate) fn is_round_due(&self) -> bool {
        self.flight.is_none() && !self.waiting.is_empty()
    }

    /// All waiting reads join `round`.
    pub(crate) fn start(&mut self, round: Round) {
        assert!(self.flight.is_none(), "one round of reads is in flight at a time");
        self.flight = Some(Flight {
            round,
            reads: std::mem::take(&mut self.waiting),
        });
    }

    /// A quorum echoed `round`: the reads that it confirms.
    pub(crate) fn confirm(&mut self, round: Round) -> Vec<ReadGrant> {
        match self.flight.take_if(|flight| flight.round <= round) {
            Some(flight) => flight.reads,
            None => Vec::new(),
        }
    }

    /// The round in flight.
    pub(crate) fn round_in_flight(&self) -> Option<Round> {
        self.flight.as_ref().map(|flight| flight.round)
    }

    /// No round is needed: the waiting reads.
    pub(crate) fn take_waiting(&mut self) -> Vec<ReadGrant> {
        std::mem::take(&mut self.waiting)
    }

    /// Leadership is over: every read that was not granted.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = ReadId> + use<> {
        let flight = self.flight.take().map(|flight| flight.reads).unwrap_or_default();
        let waiting = self.take_waiting();
        flight.into_iter().chain(waiting).map(|grant| grant.read)
    }
}
