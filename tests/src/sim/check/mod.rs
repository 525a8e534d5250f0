//! The checkers: each watches one property, sees everything every node does, and never influences it.
//! This file only tells them what happened, and keeps the first violation.

mod answers;
mod commit_quorum;
mod committed;
mod durability;
mod durable_acks;
mod election_safety;
mod linearizable;
mod log_matching;
mod one_vote;
mod own_term;
mod positions;
mod state_machine;

use super::clock::Nanos;
use super::disk::{Disk, GroupLog, Held};
use super::machine::{Applied, List};
use multiraft::wire::GroupMessage;
use multiraft::{EntryId, GroupId, GroupWrite, Index, NodeId, Outcome, ReplicaId, Status};
use std::fmt;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property's name, as the checker's file gives it.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// What a checker says.
type Verdict = Result<(), Violation>;

/// `Err` with the text, unless the property holds.
fn require(holds: bool, invariant: &'static str, text: impl FnOnce() -> String) -> Verdict {
    if holds {
        return Ok(());
    }
    Err(Violation {
        invariant,
        text: text(),
    })
}

/// A replica of a group on a node: the one that is born there first, or one that came after others were removed. Ids
/// are not node numbers, so that a mix-up shows.
pub(super) fn replica_of(group: GroupId, node: NodeId, incarnation: u64) -> ReplicaId {
    ReplicaId(group.0 * 100_000 + incarnation * 10 + node.0)
}

/// The disks of all nodes, by node and worker: what a crash at this moment would leave.
#[derive(Debug)]
pub(super) struct View {
    disks: Vec<Vec<Disk>>,
}

impl View {
    pub(super) fn new(disks: Vec<Vec<Disk>>) -> View {
        View { disks }
    }

    fn disk(&self, node: NodeId, group: GroupId) -> &Disk {
        let at = |number: u64| usize::try_from(number).expect("small");
        let workers = &self.disks[at(node.0 - 1)];
        &workers[at(group.0) % workers.len()]
    }

    /// Looks at a group's durable log; None before its birth is durable.
    fn durable<T>(&self, node: NodeId, group: GroupId, look: impl FnOnce(&GroupLog) -> T) -> Option<T> {
        self.disk(node, group).lock().durable.get(&group).map(look)
    }

    /// Looks at the log as the replica believes it to be.
    fn accepted<T>(&self, node: NodeId, group: GroupId, look: impl FnOnce(&GroupLog) -> T) -> Option<T> {
        self.disk(node, group).lock().accepted.get(&group).map(look)
    }
}

/// How a client's request ended, as far as the client knows.
#[derive(Clone, Debug)]
pub(super) struct Finished<'a> {
    pub(super) number: u64,
    pub(super) now: Nanos,
    pub(super) outcome: &'a Outcome,
}

/// All checkers of a run.
#[derive(Debug)]
pub(super) struct Checkers {
    view: View,
    one_vote: one_vote::OneVote,
    election_safety: election_safety::ElectionSafety,
    log_matching: log_matching::LogMatching,
    positions: positions::Positions,
    committed: committed::Committed,
    commit_quorum: commit_quorum::CommitQuorum,
    state_machine: state_machine::StateMachineSafety,
    linearizable: linearizable::Linearizable,
    answers: answers::Answers,
    /// The first property that did not hold.
    pub(super) found: Option<Violation>,
}

impl Checkers {
    pub(super) fn new(view: View) -> Checkers {
        Checkers {
            view,
            one_vote: one_vote::OneVote::default(),
            election_safety: election_safety::ElectionSafety::default(),
            log_matching: log_matching::LogMatching::default(),
            positions: positions::Positions::default(),
            committed: committed::Committed::default(),
            commit_quorum: commit_quorum::CommitQuorum::default(),
            state_machine: state_machine::StateMachineSafety::default(),
            linearizable: linearizable::Linearizable::default(),
            answers: answers::Answers::default(),
            found: None,
        }
    }

    fn keep(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.found.get_or_insert(violation);
        }
    }

    /// The world itself saw a property fail.
    pub(super) fn fail(&mut self, invariant: &'static str, text: String) {
        self.keep(Err(Violation { invariant, text }));
    }

    /// True while a living process owes an answer.
    pub(super) fn is_someone_waiting(&self) -> bool {
        self.answers.is_someone_waiting()
    }

    /// A replica handed a write to its disk; `after` is the entry its first one follows.
    pub(super) fn on_written(&mut self, node: NodeId, write: &GroupWrite, after: EntryId) {
        let verdict = self
            .one_vote
            .on_written(&self.view, node, write)
            .and_then(|()| self.log_matching.on_written(&self.view, node, write, after))
            .map(|()| self.commit_quorum.on_written(write))
            .and_then(|()| self.committed.on_written(node, write));
        self.keep(verdict);
    }

    /// A message left a node.
    pub(super) fn on_sent(&mut self, node: NodeId, message: &GroupMessage) {
        let verdict = self
            .one_vote
            .on_sent(&self.view, node, message)
            .and_then(|()| self.election_safety.on_sent(message))
            .and_then(|()| self.log_matching.on_sent(message))
            .and_then(|()| durable_acks::on_sent(&self.view, node, message));
        self.keep(verdict);
    }

    /// A replica asked to drop the log up to here.
    pub(super) fn on_truncated(&mut self, node: NodeId, group: GroupId, index: Index) {
        let verdict = self.positions.on_truncated(&self.view, node, group, index);
        self.keep(verdict);
    }

    /// A turn ended: this is a replica's state. Returns true when a new leader was seen.
    pub(super) fn on_status(&mut self, node: NodeId, group: GroupId, status: &Status) -> bool {
        let elected = self.election_safety.is_new(group, status);
        let verdict = self.check_status(node, group, status, elected);
        self.keep(verdict);
        elected
    }

    fn check_status(&mut self, node: NodeId, group: GroupId, status: &Status, elected: bool) -> Verdict {
        let Checkers { view, committed, .. } = self;
        self.election_safety.on_status(group, status)?;
        let applied = self.state_machine.applied(node, group);
        self.positions.on_status(view, node, group, status, applied)?;
        if elected {
            committed.on_elected(view, node, group, status)?;
        }
        if let Some(top) = committed.on_status(view, node, group, status)? {
            self.commit_quorum.on_committed(view, group, status, top)?;
            own_term::on_committed(group, status, top)?;
        }
        self.commit_quorum.on_seen(status);
        Ok(())
    }

    /// A replica applied an entry.
    pub(super) fn on_applied(&mut self, node: NodeId, applied: &Applied) {
        let verdict = self.state_machine.on_applied(node, applied);
        self.keep(verdict);
        self.linearizable.on_applied(applied);
    }

    /// A replica submitted a snapshot, to take the place of its log and state.
    pub(super) fn on_install(&mut self, node: NodeId, group: GroupId, snapshot: EntryId) {
        self.positions.on_install(node, group);
        let verdict = self.committed.on_install(node, group, snapshot);
        self.keep(verdict);
    }

    /// A replica's state is the snapshot's now.
    pub(super) fn on_installed(&mut self, node: NodeId, group: GroupId, snapshot: EntryId, checksum: u64) {
        self.positions.on_installed(node, group);
        let verdict = self.state_machine.on_restarted(node, group, snapshot, checksum);
        self.keep(verdict);
    }

    /// A node let go of a replica that was removed; another takes its place.
    pub(super) fn on_buried(&mut self, node: NodeId, group: GroupId) {
        self.state_machine.on_buried(node, group);
    }

    /// A node lost its memory.
    pub(super) fn on_crashed(&mut self, node: NodeId) {
        self.one_vote.on_crashed(node);
        self.positions.on_crashed(node);
        self.committed.on_crashed(node);
        self.answers.on_crashed(node);
    }

    /// A node came back: its machine reflects this entry of the group.
    pub(super) fn on_restarted(&mut self, node: NodeId, group: GroupId, applied: EntryId, checksum: u64) {
        let verdict = self.state_machine.on_restarted(node, group, applied, checksum);
        self.keep(verdict);
    }

    /// A client called.
    pub(super) fn on_called(&mut self, call: Call) {
        self.linearizable.on_called(call);
    }

    /// A node took a client's request.
    pub(super) fn on_arrived(&mut self, node: NodeId, number: u64, now: Nanos) {
        self.answers.on_arrived(node, number, now);
    }

    /// A node answered a request, whether the client still waits or not.
    pub(super) fn on_answered(&mut self, number: u64) {
        let verdict = self.answers.on_answered(number);
        self.keep(verdict);
    }

    /// A client heard the answer.
    pub(super) fn on_finished(&mut self, finished: &Finished<'_>) {
        let verdict = self.linearizable.on_finished(finished);
        self.keep(verdict);
    }

    /// The run is over and every node is up: nobody may still wait, every member must have everything.
    pub(super) fn at_end(&mut self, homes: &[(GroupId, Vec<NodeId>)]) {
        let mut verdict = self.answers.at_end();
        for (group, nodes) in homes {
            verdict = verdict
                .and_then(|()| durability::at_end(&self.linearizable, &self.state_machine, *group, nodes));
        }
        let verdict = verdict.and_then(|()| self.linearizable.at_end());
        self.keep(verdict);
    }

    /// True when all these nodes applied what any node has.
    pub(super) fn all_applied(&self, group: GroupId, nodes: &[NodeId]) -> bool {
        let last = self.state_machine.last(group);
        nodes
            .iter()
            .all(|node| self.state_machine.applied(*node, group) == last)
    }
}

pub(super) use linearizable::{Call, Kind};

/// For messages: an entry or where it would be.
fn show(held: Option<Held>) -> String {
    match held {
        None | Some(Held::Absent) => "nothing".to_owned(),
        Some(Held::Truncated) => "a truncated entry".to_owned(),
        Some(Held::Entry(id)) => id.to_string(),
    }
}

/// For messages: a list as a read saw it.
fn show_list(list: List) -> String {
    format!("{} writes, hash {:016x}", list.len, list.hash)
}
