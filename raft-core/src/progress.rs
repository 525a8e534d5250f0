//! What a leader knows of one peer, and what it may send next.
//!
//! ```text
//!            matched                     next entry truncated
//!   Probe ------------> Replicate    Probe, Replicate -----------> Snapshot: ordered <---> failed
//!     ^                     |                                          |
//!     +---------------------+       it arrived, or was not needed      |
//!     | rejected, lost,     <------------------------------------------+
//!       or unreachable
//! ```

use crate::bugs::{self, Bug};
use crate::log::Log;
use crate::options::Options;
use crate::ready::{OrderId, PeerStatus, Sending};
use crate::types::{Index, Instant, ReplicaId, Round};
use std::collections::VecDeque;
use std::time::Duration;

/// A leader's view of one other member. `matched < next` always (I10).
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: ReplicaId,
    /// Its log is durable and equal to ours up to here.
    pub(crate) matched: Index,
    /// The next index to send.
    pub(crate) next: Index,
    /// When it last answered in this term, or when it became a peer.
    pub(crate) heard: Instant,
    /// The last round it echoed.
    pub(crate) round: Round,
    /// Until then, by our clock, it supports nobody else.
    pub(crate) pledged: Instant,
    pub(crate) progress: Progress,
    /// The first index of an outstanding fetch for it.
    pub(crate) fetching: Option<Index>,
}

/// How entries are sent to a peer.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// Where the logs agree is unknown: one append at a time.
    Probe {
        /// When the unanswered one left.
        sent: Option<Instant>,
    },
    /// The logs agree up to `matched`: appends are pipelined.
    Replicate(Inflight),
    /// The log it needs is gone: it gets a snapshot.
    Snapshot(Shipment),
}

/// How far a peer's snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shipment {
    /// The host was asked to send it.
    Ordered(OrderId),
    /// It did not arrive. Another one is ordered when the peer shows a sign of life, but not at once.
    Failed {
        /// When we heard.
        since: Instant,
    },
}

/// The unanswered appends of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    /// The last index and the bytes of each, oldest first.
    sent: VecDeque<(Index, u64)>,
    bytes: u64,
    /// Since when nothing was acknowledged while something was unanswered.
    waiting_since: Instant,
}

impl Inflight {
    pub(crate) fn new(now: Instant) -> Inflight {
        Inflight {
            sent: VecDeque::new(),
            bytes: 0,
            waiting_since: now,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// True when nothing more may leave before an acknowledgement.
    pub(crate) fn is_full(&self, options: &Options) -> bool {
        self.sent.len() >= options.inflight_messages_max || self.bytes >= options.inflight_bytes_max as u64
    }

    fn add(&mut self, now: Instant, last: Index, bytes: u64) {
        if self.sent.is_empty() {
            self.waiting_since = now;
        }
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn acknowledge(&mut self, now: Instant, matched: Index) {
        while let Some((_, bytes)) = self.sent.front().copied().filter(|(last, _)| *last <= matched) {
            self.sent.pop_front();
            self.bytes -= bytes;
        }
        self.waiting_since = now;
    }
}

/// What to do next for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextSend {
    /// Nothing now.
    Wait,
    /// Entries from `next` on, or an empty probe.
    Append,
    /// They must be read from the host's store first.
    Fetch,
    /// They are gone.
    Snapshot,
}

impl Peer {
    /// A peer whose log is assumed to equal ours up to `last`, until it says otherwise.
    pub(crate) fn new(id: ReplicaId, last: Index, now: Instant) -> Peer {
        Peer {
            id,
            matched: Index(0),
            next: last.next(),
            heard: now,
            round: Round(0),
            pledged: Instant(0),
            progress: Progress::Probe { sent: None },
            fetching: None,
        }
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            id: self.id,
            matched: self.matched,
            next: self.next,
            sending: match &self.progress {
                Progress::Probe { .. } => Sending::Probe,
                Progress::Replicate(_) => Sending::Pipeline,
                Progress::Snapshot { .. } => Sending::Snapshot,
            },
            silent: now - self.heard,
        }
    }

    pub(crate) fn next_send(&self, now: Instant, log: &Log, options: &Options) -> NextSend {
        let behind = self.next <= log.last().index;
        let may_send = match &self.progress {
            Progress::Probe { sent } => sent.is_none(),
            Progress::Replicate(inflight) => behind && !inflight.is_full(options),
            Progress::Snapshot(_) => false,
        };
        if !may_send || self.fetching.is_some() {
            NextSend::Wait
        } else if self.next <= log.truncated().index {
            // A snapshot for somebody who does not answer would hold the place of one that is taken.
            match now - self.heard < options.election_timeout_max {
                true => NextSend::Snapshot,
                false => NextSend::Wait,
            }
        } else if self.next <= log.cold() {
            NextSend::Fetch
        } else {
            NextSend::Append
        }
    }

    /// An append with entries up to `last` (none: an empty probe) left.
    pub(crate) fn on_sent(&mut self, now: Instant, last: Option<Index>, bytes: u64) {
        match &mut self.progress {
            Progress::Probe { sent } => *sent = Some(now),
            Progress::Replicate(inflight) => {
                if let Some(last) = last {
                    inflight.add(now, last, bytes);
                    self.next = last.next();
                }
            }
            Progress::Snapshot(_) => {}
        }
    }

    /// It holds our log up to `index`, durably. True when that is news.
    pub(crate) fn on_matched(&mut self, now: Instant, index: Index) -> bool {
        let news = index > self.matched;
        self.matched = self.matched.max(index);
        match &mut self.progress {
            Progress::Replicate(inflight) => {
                if news {
                    inflight.acknowledge(now, index);
                }
                self.next = self.next.max(self.matched.next());
            }
            // Only an answer to this probe, or better, ends it.
            Progress::Probe { .. } if index.next() >= self.next => self.replicate(now),
            Progress::Probe { .. } | Progress::Snapshot(_) => {
                self.next = self.next.max(self.matched.next());
            }
        }
        news
    }

    /// It has no entry `previous`, or another one; `guess` is the last of ours that it may have.
    /// False when the answer is stale.
    pub(crate) fn on_rejected(&mut self, previous: Index, guess: Index) -> bool {
        let current = match &self.progress {
            // The answer to a message that was overtaken: it has acknowledged more since.
            Progress::Replicate(_) => previous > self.matched,
            Progress::Probe { .. } => previous.next() == self.next && previous > self.matched,
            Progress::Snapshot(_) => false,
        };
        if bugs::is_on(Bug::LateRejectionRewinds) {
            self.next = previous;
            self.progress = Progress::Probe { sent: None };
        }
        if current {
            self.probe(guess.min(previous.previous()).next());
        }
        current
    }

    /// Goes back to one append at a time, from `next`.
    pub(crate) fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.progress = Progress::Probe { sent: None };
        self.fetching = None;
    }

    fn replicate(&mut self, now: Instant) {
        self.next = self.matched.next();
        self.progress = Progress::Replicate(Inflight::new(now));
        self.fetching = None;
    }

    /// It answered a heartbeat, saying that it holds our log up to `matched`. If what we sent since seems
    /// lost, sends it again. Messages are never resent to a peer that does not answer heartbeats. A probe,
    /// which is all that is in flight, is repeated after a heartbeat interval. Going back from pipelining is
    /// dear and a slow disk looks the same from here (a gap does not: it is rejected), so that takes longer.
    pub(crate) fn recover_lost(&mut self, now: Instant, matched: Index, options: &Options) {
        let is_lost = |since: Instant, patience: Duration| now - since >= patience;
        match &self.progress {
            Progress::Probe { sent: Some(since) } if is_lost(*since, options.heartbeat_interval) => {
                self.probe(self.next);
            }
            Progress::Replicate(inflight) if !inflight.is_empty() => {
                let patience = options.election_timeout_min;
                if matched < self.next.previous() && is_lost(inflight.waiting_since, patience) {
                    self.probe(self.matched.next());
                }
            }
            // It restarted and does not know any more how far its log is ours: an empty probe tells it.
            Progress::Replicate(_) if matched < self.matched => self.probe(self.matched.next()),
            Progress::Snapshot(Shipment::Failed { since })
                if is_lost(*since, options.election_timeout_max) =>
            {
                self.probe(self.next);
            }
            Progress::Probe { .. } | Progress::Replicate(_) | Progress::Snapshot(_) => {}
        }
    }

    /// What is in flight to it is probably lost. Nothing more is sent before it shows a sign of life.
    pub(crate) fn on_unreachable(&mut self, now: Instant) {
        if let Progress::Replicate(inflight) = &self.progress
            && !inflight.is_empty()
        {
            self.probe(self.matched.next());
            self.progress = Progress::Probe { sent: Some(now) };
        }
    }

    /// Its log reaches beyond our base without the snapshot, or with it: whichever way, it needs none any more.
    pub(crate) fn leave_snapshot(&mut self, base: Index) {
        if matches!(self.progress, Progress::Snapshot(_)) && self.next > base {
            self.probe(self.next);
        }
    }

    /// The host is done with this order. When the peer took the snapshot, its log goes on from there.
    pub(crate) fn on_snapshot_sent(&mut self, now: Instant, order: OrderId, taken: Option<Index>) {
        if !self.awaits(order) {
            return;
        }
        match taken {
            Some(index) => {
                // Its own answer is on its way, too; without it, the next sign of life asks.
                self.probe(index.next());
                self.progress = Progress::Probe { sent: Some(now) };
            }
            None => self.progress = Progress::Snapshot(Shipment::Failed { since: now }),
        }
    }

    /// True while this order is wanted.
    pub(crate) fn awaits(&self, order: OrderId) -> bool {
        matches!(self.progress, Progress::Snapshot(Shipment::Ordered(ordered)) if ordered == order)
    }
}
