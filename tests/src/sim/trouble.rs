//! The world's part that breaks things, heals them, and judges whether the cluster came back.

use super::check::replica_of;
use super::clients::Request;
use super::clock::{MS, Nanos};
use super::faults::{ALL, Fault};
use super::node::worker_of;
use super::schedule::Happening;
use super::world::World;
use multiraft::{Control, Event, GroupId, NodeId, Outcome};
use std::collections::BTreeSet;

/// Between two looks at whether the cluster is back.
const JUDGE_EVERY: Nanos = 20 * MS;

const LIVENESS: &str = "liveness after healing";

/// What the run is about now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults, and nothing may go wrong.
    Safety,
    /// All is well since `since`: every group must serve a write called after that.
    Service { since: Nanos, silent: BTreeSet<GroupId> },
    /// Clients are quiet: every replica must reach the same state, and every request its answer.
    Agreement { since: Nanos },
    /// Everyone agrees; stragglers among the answers may still come.
    Settling { since: Nanos },
    /// The run is over.
    Over,
}

impl World {
    /// Schedules the first fault of each kind and the end of all faults.
    pub(super) fn plan_faults(&mut self) {
        for fault in ALL {
            self.plan_next(fault);
        }
        self.schedule.push(self.options.safety, Happening::Heal);
    }

    fn plan_next(&mut self, fault: Fault) {
        if let Some(gap) = self.plan.gap(fault) {
            self.schedule.push(self.now + gap, Happening::Fault(fault));
        }
    }

    /// Something breaks, and the next fault of its kind is planned.
    pub(super) fn break_something(&mut self, fault: Fault) {
        if self.phase != Phase::Safety {
            return;
        }
        match fault {
            Fault::Crash => self.crash(),
            Fault::Partition => self.partition(),
            Fault::Pause => self.pause(),
            Fault::Transfer => self.transfer(),
        }
        self.plan_next(fault);
    }

    fn crash(&mut self) {
        for node in self.plan.victims() {
            if self.node(node).is_up() {
                self.crash_one(node);
            }
        }
    }

    fn crash_one(&mut self, node: NodeId) {
        let survivors = self.plan.has_survivors();
        let mut rng = self.rng.fork("crash");
        self.rng.next();
        let disks = self.node(node).disks.clone();
        self.node(node).stop();
        disks
            .iter()
            .for_each(|disk| disk.lock().crash(&mut rng, survivors));
        self.totals.crashes += 1;
        self.checkers.on_crashed(node);
        self.forget(node);
        self.transcript
            .note(self.now, "crash", &[node.0], || format!("{node} crash"));
        let at = self.now + self.plan.length(Fault::Crash);
        self.schedule.push(at, Happening::Restart { node });
    }

    /// A process starts again, unless it runs.
    pub(super) fn restart(&mut self, node: NodeId) {
        if !self.node(node).is_up() {
            self.transcript
                .note(self.now, "restart", &[node.0], || format!("{node} restart"));
            self.start(node);
        }
    }

    fn partition(&mut self) {
        let cuts = self.plan.cuts();
        self.totals.partitions += u64::from(!cuts.is_empty());
        for (from, to) in cuts {
            self.network.cut(from, to);
            self.transcript
                .note(self.now, "cut", &[from.0, to.0], || format!("{from} > {to} cut"));
        }
        let at = self.now + self.plan.length(Fault::Partition);
        self.schedule.push(at, Happening::Reconnect);
    }

    /// All links pass again.
    pub(super) fn reconnect(&mut self) {
        self.network.heal();
        self.transcript
            .note(self.now, "reconnect", &[], || "all links pass".to_owned());
    }

    fn pause(&mut self) {
        let node = self.plan.node();
        let until = self.now + self.plan.length(Fault::Pause);
        self.totals.pauses += 1;
        self.transcript.note(self.now, "pause", &[node.0, until], || {
            format!("{node} pauses for {} ms", (until - self.now) / MS)
        });
        self.node(node).paused_until = until;
    }

    /// Orders some group's leader to hand over, to any member.
    fn transfer(&mut self) {
        let groups: Vec<GroupId> = (1..=self.options.groups).map(GroupId).collect();
        let group = groups[self.plan.index(groups.len())];
        let target = replica_of(group, self.plan.node());
        let Some(node) = self.leader(group).filter(|node| self.nodes[at(*node)].is_up()) else {
            return;
        };
        let number = self.clients.number();
        self.checkers.on_arrived(node, number, self.now);
        let ticket = self.ticket(number);
        let worker = worker_of(&self.options, group);
        self.transcript
            .note(self.now, "transfer", &[group.0, target.0], || {
                format!("{node} {group} transfer to {target}, order {number}")
            });
        let order = Control::Transfer {
            group,
            target,
            ticket,
        };
        self.node(node).seats[worker].sender.push(Event::Control(order));
        self.wake(node, worker);
    }

    /// An order was taken or refused: only transfers are asked for by nobody who waits.
    pub(super) fn note_order(&mut self, outcome: &Outcome) {
        // The late answer of a request that its client gave up comes here too; it carries bytes.
        let taken = matches!(outcome, Outcome::Answered(bytes) if bytes.is_empty());
        self.totals.transfers += u64::from(taken);
    }

    /// The faults are over.
    pub(super) fn heal(&mut self) {
        self.transcript
            .note(self.now, "heal", &[], || "everything heals".to_owned());
        self.options.heal();
        self.network.options = self.options.network.clone();
        self.network.heal();
        for number in 1..=self.options.nodes {
            self.node(NodeId(number)).paused_until = 0;
            for disk in &self.node(NodeId(number)).disks {
                disk.lock().is_full = false;
            }
            self.restart(NodeId(number));
        }
        self.phase = Phase::Service {
            since: self.now,
            silent: (1..=self.options.groups).map(GroupId).collect(),
        };
        self.schedule.push(self.now + JUDGE_EVERY, Happening::Judge);
    }

    /// A write was acknowledged: its group serves, if the write was called after everything healed.
    pub(super) fn note_service(&mut self, request: &Request) {
        if let Phase::Service { since, silent } = &mut self.phase
            && request.called >= *since
        {
            silent.remove(&request.call.group);
        }
    }

    /// Moves on when what the phase waits for is there; complains when it takes too long.
    pub(super) fn judge(&mut self) {
        let now = self.now;
        let (since, missing) = match &self.phase {
            Phase::Safety | Phase::Over => return,
            Phase::Service { since, silent } => (*since, self.silence(silent)),
            Phase::Agreement { since } => (*since, self.disagreement()),
            Phase::Settling { since } => (*since, None),
        };
        match missing {
            Some(text) if now - since > self.options.recovery_max() => self.checkers.fail(LIVENESS, text),
            Some(_) => {}
            None => self.advance_phase(),
        }
        self.schedule.push(now + JUDGE_EVERY, Happening::Judge);
    }

    fn silence(&self, silent: &BTreeSet<GroupId>) -> Option<String> {
        let first = silent.first()?;
        Some(format!("{first} serves no write"))
    }

    fn disagreement(&self) -> Option<String> {
        let mut groups = (1..=self.options.groups).map(GroupId);
        let group = groups.find(|group| !self.checkers.all_applied(*group))?;
        Some(format!("{group}: some replica does not catch up"))
    }

    fn advance_phase(&mut self) {
        let now = self.now;
        self.phase = match &self.phase {
            Phase::Service { .. } => {
                self.clients.is_quiet = true;
                Phase::Agreement { since: now }
            }
            Phase::Agreement { .. } => Phase::Settling { since: now },
            Phase::Settling { since }
                if self.checkers.is_someone_waiting() && now - since < self.options.recovery_max() =>
            {
                Phase::Settling { since: *since }
            }
            Phase::Settling { .. } | Phase::Safety | Phase::Over => {
                self.checkers.at_end((1..=self.options.groups).map(GroupId));
                Phase::Over
            }
        };
    }
}

fn at(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).expect("a few nodes")
}
