//! The leader's side of replication: appending, sending, handling answers, advancing commit, contacting
//! peers. Sends are decided once per `ready`, so that everything proposed in one turn shares one append per
//! peer. The commit index travels with the next append or heartbeat; moving it causes no message of its own.

use crate::bugs::{self, Bug};
use crate::message::{Envelope, Message};
use crate::options::Options;
use crate::progress::{NextSend, Peer, Progress, Shipment};
use crate::quorum;
use crate::ready::{Ignored, LogFetch, Refused};
use crate::replica::Replica;
use crate::role::Role;
use crate::types::{Entry, EntryId, Index, Instant, Payload, ReplicaId, Round};
use std::ops::RangeInclusive;
use std::time::Duration;

impl Replica {
    /// Appends proposals of one turn as far as there is room, or says why none.
    pub(crate) fn append_proposals(
        &mut self,
        payloads: impl ExactSizeIterator<Item = Payload>,
    ) -> Result<RangeInclusive<Index>, Refused> {
        let refused = Refused::NotLeader(self.leader());
        let Role::Leader(leader) = &mut self.role else {
            return Err(refused);
        };
        if leader.transfer.is_some() {
            return Err(Refused::Transferring);
        }
        leader.sends_due = true;
        let first = self.log.last().index.next();
        for payload in payloads {
            if !self.has_room() {
                break;
            }
            self.append_own(payload);
        }
        let last = self.log.last().index;
        (first <= last).then_some(first..=last).ok_or(Refused::Overloaded)
    }

    /// Whether one more entry may wait for its commit, however large it is. The sum over the log itself: a counter kept
    /// beside it could leak (etcd-raft a370b6f).
    fn has_room(&self) -> bool {
        let since = match bugs::is_on(Bug::UncommittedBytesLeak) {
            true => self.log.truncated().index,
            false => self.marks.commit,
        };
        self.log.cost_after(since) < self.options.uncommitted_bytes_max as u64
    }

    /// A leader appends entries of its own term, at the end, and never anything else (I6).
    pub(crate) fn append_own(&mut self, payload: Payload) -> Index {
        let id = EntryId {
            term: self.hard.term,
            index: self.log.last().index.next(),
        };
        let entry = Entry { id, payload };
        if self.memberships.on_appended(&entry) {
            self.reconcile_peers();
        }
        self.log.push(entry);
        id.index
    }

    /// The peers are the members: forget those that left, probe those that came.
    fn reconcile_peers(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let membership = self.memberships.effective();
        leader
            .peers
            .retain(|peer| membership.nodes.contains_key(&peer.id));
        for id in membership.replicas().filter(|id| *id != self.id) {
            if let Err(place) = leader.peers.binary_search_by_key(&id, |peer| peer.id) {
                let peer = Peer::new(id, self.log.last().index, self.now);
                leader.peers.insert(place, peer);
            }
        }
    }

    pub(crate) fn on_matched(&mut self, from: ReplicaId, index: Index) -> Result<(), Ignored> {
        let (base, last) = (self.log.truncated().index, self.log.last().index);
        let now = self.now;
        let (peer, _) = self.hear(from)?;
        assert!(
            index <= last,
            "I8: {from} acknowledges {index}, our last entry is {last}"
        );
        let is_news = peer.on_matched(now, index);
        peer.leave_snapshot(base);
        if is_news {
            self.advance_commit();
            self.continue_transfer();
        }
        Ok(())
    }

    pub(crate) fn on_rejected(
        &mut self,
        from: ReplicaId,
        previous: Index,
        hint: EntryId,
    ) -> Result<(), Ignored> {
        let guess = self.log.last_not_after(hint).index;
        let now = self.now;
        let (peer, _) = self.hear(from)?;
        if bugs::is_on(Bug::RejectionAcknowledges) {
            peer.on_matched(now, previous);
            self.advance_commit();
            return Ok(());
        }
        if peer.on_rejected(previous, guess) {
            Ok(())
        } else {
            Err(Ignored::StaleReply)
        }
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: ReplicaId,
        round: Round,
        matched: Index,
        pledge: Duration,
    ) -> Result<(), Ignored> {
        let (base, last) = (self.log.truncated().index, self.log.last().index);
        let now = self.now;
        let pledged = self.pledged_until(round, pledge);
        let (peer, options) = self.hear(from)?;
        assert!(
            matched <= last,
            "I8: {from} holds {matched}, our last entry is {last}"
        );
        peer.round = peer.round.max(round);
        peer.pledged = peer.pledged.max(pledged);
        let is_news = peer.on_matched(now, matched);
        peer.leave_snapshot(base);
        peer.recover_lost(now, matched, options);
        if is_news {
            self.advance_commit();
            self.continue_transfer();
        }
        self.confirm_reads();
        Ok(())
    }

    /// How long we may count on a pledge that came with the echo of `round`.
    fn pledged_until(&self, round: Round, pledge: Duration) -> Instant {
        match &self.role {
            Role::Leader(leader) if !pledge.is_zero() => {
                let left = leader.rounds.left_at(round);
                let left = left
                    .filter(|_| !bugs::is_on(Bug::LeaseCountsFromAnswer))
                    .or(left.map(|_| self.now));
                left.map_or(Instant(0), |left| left + self.options.lease_of(pledge))
            }
            _ => Instant(0),
        }
    }

    /// An answer to us as the leader of this term: from whom, and whatever it says, something may be sendable
    /// now.
    pub(crate) fn hear(&mut self, from: ReplicaId) -> Result<(&mut Peer, &Options), Ignored> {
        let Role::Leader(leader) = &mut self.role else {
            return Err(Ignored::StaleReply);
        };
        leader.sends_due = true;
        let peer = leader.peer(from).ok_or(Ignored::NotMember)?;
        peer.heard = self.now;
        Ok((peer, &self.options))
    }

    /// Commits what a quorum holds durably, our own copy included once it is. Only entries of this term are
    /// counted; older ones are committed by what follows them (Raft §5.4.2, I7).
    pub(crate) fn advance_commit(&mut self) {
        self.advance_replicated();
        let Role::Leader(leader) = &self.role else { return };
        let own = match bugs::is_on(Bug::LeaderCountsItselfEarly) {
            true => (self.id, self.log.last().index),
            false => (self.id, self.writes.durable()),
        };
        let matched = |id| leader.of_member(id, own, |peer| peer.matched);
        let agreed = quorum::agreed(self.memberships.effective(), matched).unwrap_or_default();
        if agreed > self.marks.commit && (agreed >= leader.first || bugs::is_on(Bug::OldTermCounted)) {
            assert_eq!(
                self.log.term(agreed),
                Some(self.hard.term),
                "I7: {agreed} is counted"
            );
            self.commit_to(agreed);
            self.leave_joint();
            self.leave_if_removed();
        }
    }

    /// Contacts every peer, in a new round.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.round = Round(leader.round.0 + 1);
        leader.rounds.on_sent(leader.round, self.now);
        leader.heartbeat_at = self.now + self.options.heartbeat_interval;
        for peer in &leader.peers {
            let message = Message::Heartbeat {
                // A follower takes it at its word, so it may not speak of entries the follower may not hold.
                commit: self.marks.commit.min(peer.matched),
                replicated: self.marks.replicated,
                round: leader.round,
            };
            self.outbox.messages.push(Envelope {
                from: self.id,
                to: peer.id,
                term: self.hard.term,
                message,
            });
        }
    }

    /// The leader's periodic work: is the quorum still there, did a transfer fail; contact all.
    pub(crate) fn tick_leader(&mut self) {
        let is_deaf = self.quorum_contact() + self.options.election_timeout_max <= self.now;
        if is_deaf && !bugs::is_on(Bug::DeafLeaderStays) {
            self.become_follower(self.hard.term, None);
            return;
        }
        self.expire_transfer();
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if now >= leader.heartbeat_at {
            self.broadcast_heartbeat();
        }
    }

    /// True when `send_appends` would send something.
    pub(crate) fn are_appends_due(&self) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let next_send = |peer: &Peer| peer.next_send(self.now, &self.log, &self.options);
        leader.sends_due && leader.peers.iter().any(|peer| next_send(peer) != NextSend::Wait)
    }

    /// Sends each peer what it lacks, within its window.
    pub(crate) fn send_appends(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if !std::mem::take(&mut leader.sends_due) {
            return;
        }
        for at in 0..leader.peers.len() {
            while self.send_next(at) {}
        }
    }

    /// One step for the peer at position `at`; false when it has to wait.
    fn send_next(&mut self, at: usize) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let peer = &mut leader.peers[at];
        let last = self.log.last().index;
        match peer.next_send(self.now, &self.log, &self.options) {
            NextSend::Wait => return false,
            NextSend::Snapshot => {
                let order = self
                    .shipments
                    .order(peer.id, self.hard.term, self.log.truncated().index);
                peer.progress = Progress::Snapshot(Shipment::Ordered(order.id));
                self.outbox.snapshots.push(order);
            }
            NextSend::Fetch => {
                peer.fetching = Some(peer.next);
                self.outbox.fetch.push(LogFetch {
                    peer: peer.id,
                    range: peer.next..=self.log.cold(),
                    bytes_max: self.options.append_bytes_max,
                });
            }
            NextSend::Append => {
                let (id, next) = (peer.id, peer.next);
                let entries = if next <= last {
                    self.log.batch(next, last, self.options.append_bytes_max as u64)
                } else {
                    Vec::new()
                };
                self.send_entries(at, id, next, entries);
            }
        }
        true
    }

    fn send_entries(&mut self, at: usize, id: ReplicaId, next: Index, entries: Vec<Entry>) {
        let previous = EntryId {
            term: self
                .log
                .term(next.previous())
                .expect("the entry before what is sent is known"),
            index: next.previous(),
        };
        if let Role::Leader(leader) = &mut self.role {
            let bytes = entries.iter().map(|entry| entry.cost() as u64).sum();
            let last = entries.last().map(|entry| entry.id.index);
            leader.peers[at].on_sent(self.now, last, bytes);
        }
        self.send_append(id, previous, entries);
    }

    fn send_append(&mut self, to: ReplicaId, previous: EntryId, entries: Vec<Entry>) {
        // A gap here would corrupt the follower's log (openraft #1795).
        assert!(
            entries
                .first()
                .is_none_or(|entry| entry.id.index == previous.index.next()),
            "I6: an append after {previous} begins with {:?}",
            entries.first().map(|entry| entry.id)
        );
        let message = Message::Append {
            previous,
            entries,
            commit: self.marks.commit,
            replicated: self.marks.replicated,
        };
        self.send(to, message);
    }

    /// Cold entries for `peer` arrived. They are sent only if they still are our log and still are what it
    /// needs: both may have changed since they were asked for.
    pub(crate) fn send_fetched(&mut self, peer: ReplicaId, entries: Vec<Entry>) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Ok(at) = leader.peers.binary_search_by_key(&peer, |peer| peer.id) else {
            return;
        };
        let target = &mut leader.peers[at];
        let Some(first) = target.fetching else { return };
        let is_answer = entries.first().is_none_or(|entry| entry.id.index == first);
        if !is_answer {
            return;
        }
        target.fetching = None;
        leader.sends_due = true;
        let next = target.next;
        let numbered = entries.iter().zip(first.0..);
        let is_ours = numbered
            .clone()
            .all(|(entry, index)| entry.id.index.0 == index && self.log.contains(entry.id));
        if bugs::is_on(Bug::ForeignEntriesSent) {
            let next = entries.first().map_or(next, |_| next);
            self.send_entries(at, peer, next, entries);
        } else if entries.is_empty() || !is_ours {
            // The host could not read them: it dropped them meanwhile. Ask again after the next sign of life.
            target.progress = Progress::Probe { sent: Some(self.now) };
        } else if next == first && first > self.log.truncated().index {
            self.send_entries(at, peer, first, entries);
        }
    }

    /// Follows the least durable index of all members: below it nobody needs the log any more.
    pub(crate) fn advance_replicated(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let peers = leader.peers.iter().map(|peer| peer.matched);
        let least = peers.min().unwrap_or(Index(u64::MAX));
        self.learn_replicated(least.min(self.writes.durable()));
    }

    pub(crate) fn learn_replicated(&mut self, replicated: Index) {
        self.marks.replicated = self.marks.replicated.max(replicated);
    }
}
