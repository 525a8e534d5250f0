//! Which part of the log and of the hard state is durable: the writes handed to the host and not yet
//! completed. It keeps `durable <= submitted <= last` (I4) true of *the log as it is now*, also when entries
//! of a write that is still on its way to the disk are overwritten.
//!
//! The ABA story. (1) Entry 5@2 is in write 1, in flight. (2) A leader of term 3 replaces it by 5@3, in write
//! 2. (3) Write 1 completes. Index 5 is on the disk, but it is 5@2, and saying "5 is durable" would
//! acknowledge an entry that a crash now would lose. So cutting the log clips what every write in flight
//! covers: write 1 now covers only up to 4, and 5 becomes durable with write 2. See
//! testscripts/durability/an_overwritten_write_in_flight_does_not_acknowledge_its_successor.txt.
//!
//! Several inputs may come before one `ready`, and they share one write. Why that is safe: what a write says
//! is the *state* after all of them, and each message in `then_send` needs only that state or a later one to
//! be durable.
//! * Two appends of one term: the later acknowledgement covers the earlier, both are true once all entries
//!   are there.
//! * A truncating append after an append: a truncation comes only with a newer term, and a newer term removes
//!   every message of older terms that has not been taken (`forget_older_terms`), so nothing acknowledges the
//!   entries lost.
//! * Votes in two terms: the same rule removes the older grant; its candidate is outrun anyway.

use crate::bugs::{self, Bug};
use crate::log::Log;
use crate::message::{AppendOutcome, Envelope, Message};
use crate::ready::{LogWrite, Snapshot};
use crate::types::{HardState, Index, ReplicaId, Term, WriteId};
use std::collections::VecDeque;

/// The writes of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    last_id: WriteId,
    submitted: Index,
    durable: Index,
    hard_submitted: HardState,
    hard_durable: HardState,
    flights: VecDeque<Flight>,
    /// For the next write: takes the place of log and state.
    install: Option<Snapshot>,
    /// Messages for the next write.
    then_send: Vec<Envelope>,
}

/// A write that the host has taken and not yet completed.
#[derive(Clone, Copy, Debug)]
struct Flight {
    id: WriteId,
    hard_state: HardState,
    /// When this write is durable, so is the log as it is now up to here.
    covers: Index,
}

impl Writes {
    /// Everything restored is durable.
    pub(crate) fn new(hard_state: HardState, last: Index) -> Writes {
        Writes {
            last_id: WriteId(0),
            submitted: last,
            durable: last,
            hard_submitted: hard_state,
            hard_durable: hard_state,
            flights: VecDeque::new(),
            install: None,
            then_send: Vec::new(),
        }
    }

    /// The last index handed to the host.
    pub(crate) fn submitted(&self) -> Index {
        self.submitted
    }

    /// The last index that is durable.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// The term and vote that a crash would leave.
    pub(crate) fn hard_durable(&self) -> HardState {
        self.hard_durable
    }

    /// True when `ready` has something to write.
    pub(crate) fn is_due(&self, hard_state: HardState, last: Index) -> bool {
        hard_state != self.hard_submitted
            || last > self.submitted
            || !self.then_send.is_empty()
            || self.install.is_some()
    }

    /// Queues a message that asserts what the next write makes durable. A newer acknowledgement replaces an
    /// older.
    pub(crate) fn send_after(&mut self, envelope: Envelope) {
        if let Message::AppendReply(AppendOutcome::Matched { index }) = envelope.message
            && let Some(older) = self.queued_acknowledgement(envelope.to)
        {
            *older = index.max(*older);
            return;
        }
        if !self.then_send.contains(&envelope) {
            self.then_send.push(envelope);
        }
    }

    fn queued_acknowledgement(&mut self, to: ReplicaId) -> Option<&mut Index> {
        let queued = self.then_send.iter_mut().rev().find(|queued| queued.to == to)?;
        match &mut queued.message {
            Message::AppendReply(AppendOutcome::Matched { index }) => Some(index),
            _ => None,
        }
    }

    /// Drops queued messages of terms before `term`: what they assert may not be in the write any more.
    pub(crate) fn forget_older_terms(&mut self, term: Term) {
        self.then_send.retain(|envelope| envelope.term >= term);
    }

    /// The log was cut: the entries at and after `first` are other entries now.
    pub(crate) fn clip(&mut self, first: Index) {
        let kept = first.previous();
        self.submitted = self.submitted.min(kept);
        self.durable = self.durable.min(kept);
        if bugs::is_on(Bug::OverwrittenWriteAcknowledges) {
            return;
        }
        for flight in &mut self.flights {
            flight.covers = flight.covers.min(kept);
        }
    }

    /// A snapshot takes the log's place with the next write. Until that is durable, only what is committed (up to
    /// `commit`) can be said of the log as it is now: the snapshot holds it too.
    pub(crate) fn install(&mut self, snapshot: Snapshot, commit: Index) {
        assert!(self.install.is_none(), "one install at a time");
        self.clip(commit.next());
        self.install = Some(snapshot);
    }

    /// Everything accepted and not yet submitted, as one write.
    pub(crate) fn take(&mut self, hard_state: HardState, log: &Log, commit: Index) -> Option<LogWrite> {
        let last = log.last().index;
        if !self.is_due(hard_state, last) {
            return None;
        }
        self.last_id = WriteId(self.last_id.0 + 1);
        let install = self.install.take();
        if let Some(snapshot) = &install {
            self.submitted = snapshot.id.index;
        }
        let write = LogWrite {
            id: self.last_id,
            hard_state: (hard_state != self.hard_submitted).then_some(hard_state),
            install,
            entries: if last > self.submitted {
                log.slice(self.submitted.next(), last)
            } else {
                Vec::new()
            },
            commit,
            then_send: std::mem::take(&mut self.then_send),
        };
        self.submitted = last;
        self.hard_submitted = hard_state;
        self.flights.push_back(Flight {
            id: write.id,
            hard_state,
            covers: last,
        });
        Some(write)
    }

    /// Write `id`, and every write before it, is durable.
    pub(crate) fn complete(&mut self, id: WriteId) {
        let oldest = self.flights.front().map(|flight| flight.id);
        assert!(
            oldest.is_some_and(|oldest| oldest <= id) && id <= self.last_id,
            "I4: write {id} completes, in flight from {oldest:?}, submitted {}",
            self.last_id
        );
        while let Some(flight) = self.flights.front().copied().filter(|flight| flight.id <= id) {
            self.flights.pop_front();
            self.durable = self.durable.max(flight.covers);
            self.hard_durable = flight.hard_state;
        }
    }
}
