//! What must hold over all replicas together, whatever was lost, reordered or crashed (Raft, figure 3).
//! It sees every disk and every memory at once, which no replica does.

use super::host::{Disk, Host};
use crate::{
    AppendOutcome, Entry, EntryId, Envelope, Index, Instant, Membership, Message, Payload, Replica,
    ReplicaId, Term,
};
use crate::{ReadGrant, ReadId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The history that the rules speak about.
#[derive(Debug, Default)]
pub struct Checker {
    /// Election safety: who led each term.
    leaders: BTreeMap<Term, ReplicaId>,
    /// Log matching: each entry ever written, with the one before it.
    entries: BTreeMap<EntryId, (EntryId, Entry)>,
    /// State machine safety: what was committed, from index 1 on, and in which term that was first known.
    committed: Vec<(EntryId, Term)>,
    /// When each of them was first known to be committed.
    times: Vec<Instant>,
    now: Instant,
    /// The commit index of each leader when it was last looked at.
    looked_at: BTreeMap<Term, Index>,
    /// How far each read must see.
    reads: BTreeMap<ReadId, Index>,
    /// The committed memberships, from the first one on.
    memberships: BTreeMap<Index, Membership>,
    /// A test appended a membership that no leader would.
    is_forced: bool,
    /// How many snapshots took a state's place.
    installs: u64,
}

impl Checker {
    /// The last index that any leader has committed.
    pub fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// How many snapshots were offered for installation.
    pub fn installs(&self) -> u64 {
        self.installs
    }

    /// How many terms had a leader.
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// How many memberships were committed after the first one.
    pub fn memberships(&self) -> u64 {
        self.memberships.len() as u64 - 1
    }

    /// The group begins with this membership.
    pub fn on_founded(&mut self, membership: &Membership) {
        self.memberships.insert(Index(0), membership.clone());
    }

    /// A test appended a membership, against the rules perhaps.
    pub fn on_forced(&mut self) {
        self.is_forced = true;
    }

    /// I9: what is committed follows from what was committed before.
    fn on_membership(&mut self, index: Index, membership: &Membership) {
        let before = self.memberships.range(..index).next_back();
        let (since, before) = before.expect("the first one stays");
        assert!(
            self.is_forced || membership.may_follow(before),
            "I9: {membership} at {index} follows {before} at {since}"
        );
        self.memberships.insert(index, membership.clone());
    }

    /// It is `now`.
    pub fn on_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// A read arrived: it must see everything committed by now, by whomever, or by `age` before now.
    pub fn on_read(&mut self, read: ReadId, now: Instant, age: Duration) {
        let then = Instant(now.0.saturating_sub(age.as_nanos() as u64));
        let least = match age.is_zero() {
            true => self.committed(),
            false => self.committed_before(then),
        };
        self.reads.insert(read, least);
    }

    fn committed_before(&self, then: Instant) -> Index {
        let before = self.times.partition_point(|at| *at < then);
        Index(before as u64)
    }

    /// A read was granted.
    pub fn on_grant(&mut self, grant: ReadGrant) {
        let least = self.reads[&grant.read];
        assert!(
            grant.index >= least,
            "{grant} but {least} was committed before it"
        );
    }

    /// An entry was handed to a disk, following `previous`.
    pub fn on_written(&mut self, previous: EntryId, entry: &Entry) {
        let known = self
            .entries
            .entry(entry.id)
            .or_insert_with(|| (previous, entry.clone()));
        assert_eq!(known.0, previous, "log matching: the entry before {}", entry.id);
        assert_eq!(known.1, *entry, "log matching: the entry {}", entry.id);
    }

    /// A disk was made by the test: what it calls committed is.
    pub fn on_restored(&mut self, disk: &Disk) {
        for index in self.committed().0 + 1..=disk.commit.max(disk.truncated.index).0 {
            let index = Index(index);
            let term = disk
                .entry(index)
                .map_or(disk.truncated.term, |entry| entry.id.term);
            self.committed
                .push((EntryId { term, index }, disk.hard_state.term));
            self.times.push(self.now);
        }
    }

    /// An entry is applied.
    pub fn on_applied(&mut self, host: &Host, entry: &Entry) {
        if let Payload::Membership(membership) = &entry.payload {
            self.on_membership(entry.id.index, membership);
        }
        let place = entry.id.index.0 as usize - 1;
        let committed = self.committed.get(place).map(|(committed, _)| *committed);
        assert_eq!(
            committed,
            Some(entry.id),
            "state machine safety: {} applies what no leader committed",
            host.id
        );
        assert!(
            host.disk.holds(entry.id),
            "{} applies {} before it is durable there",
            host.id,
            entry.id
        );
    }

    /// A snapshot takes the place of a replica's state.
    pub fn on_installed(&mut self, id: ReplicaId, snapshot: EntryId) {
        let place = snapshot.index.0 as usize - 1;
        let committed = self.committed.get(place).map(|(committed, _)| *committed);
        self.installs += 1;
        assert_eq!(
            committed,
            Some(snapshot),
            "state machine safety: {id} installs what no leader committed"
        );
    }

    /// A message leaves: what it asserts must be on the disk of its sender.
    pub fn on_leaving(&self, host: &Host, envelope: &Envelope) {
        let term = host.disk.hard_state.term;
        match &envelope.message {
            Message::Vote { .. } => self.check_vote(host, envelope.term, host.id),
            Message::VoteReply { granted: true } => self.check_vote(host, envelope.term, envelope.to),
            Message::AppendReply(AppendOutcome::Matched { index }) => assert!(
                host.disk.last().index >= *index && term >= envelope.term,
                "I8: {envelope} leaves with {} in term {term} on the disk",
                host.disk.last()
            ),
            _ => {}
        }
    }

    fn check_vote(&self, host: &Host, term: Term, candidate: ReplicaId) {
        let durable = host.disk.hard_state;
        assert!(
            durable.term > term || (durable.term == term && durable.vote == Some(candidate)),
            "I1: {} votes for {candidate} in term {term} with {durable} on the disk",
            host.id
        );
    }

    /// Looks at a replica after an event.
    pub fn check(&mut self, hosts: &BTreeMap<ReplicaId, Host>, id: ReplicaId) {
        let host = &hosts[&id];
        let Some(replica) = &host.replica else { return };
        let term = replica.hard.term;
        // A leader may commit its own removal and follow within one event.
        if !replica.is_leader() && self.leaders.get(&term) != Some(&id) {
            return;
        }
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "election safety: two leaders in term {term}");
        self.check_completeness(replica);
        self.check_commit(hosts, replica);
    }

    /// Leader completeness: a leader has every entry that was committed in an earlier term.
    fn check_completeness(&mut self, replica: &Replica) {
        let term = replica.hard.term;
        // Log matching makes the last one stand for all before it.
        let Some((id, _)) = self
            .committed
            .iter()
            .rev()
            .find(|(_, known)| *known < term)
            .copied()
        else {
            return;
        };
        assert!(
            id.index < replica.log.truncated().index || replica.log.contains(id),
            "leader completeness: {} leads {term} without {id}",
            replica.id
        );
    }

    /// What a leader commits must be on the disks of a majority of every half.
    fn check_commit(&mut self, hosts: &BTreeMap<ReplicaId, Host>, replica: &Replica) {
        let term = replica.hard.term;
        let commit = replica.marks.commit;
        let seen = self.looked_at.insert(term, commit).unwrap_or_default();
        if commit <= seen || commit <= self.committed() {
            return;
        }
        let id = EntryId {
            index: commit,
            term: replica.log.term(commit).expect("I3"),
        };
        let membership = replica.membership();
        for half in [&membership.voters, &membership.outgoing] {
            let holders = half.iter().filter(|voter| hosts[voter].disk.holds(id));
            let holders = holders.count();
            assert!(
                half.is_empty() || holders > half.len() / 2,
                "{} commits {id}, which is on {holders} disks of {half:?}",
                replica.id
            );
        }
        for index in self.committed().0 + 1..=commit.0 {
            let index = Index(index);
            let of = replica.log.term(index).expect("the leader knows what it commits");
            self.committed.push((EntryId { term: of, index }, term));
            self.times.push(self.now);
        }
    }
}
