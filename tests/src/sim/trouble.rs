//! The world's part that breaks things, heals them, first for some nodes and then for all, and judges whether the
//! cluster came back.

use super::clients::Request;
use super::clock::{MS, Nanos};
use super::faults::{ALL, Fault};
use super::node::worker_of;
use super::schedule::Happening;
use super::world::World;
use multiraft::{Control, Event, GroupId, NodeId};
use std::collections::BTreeSet;

/// Between two looks at whether the cluster is back.
const JUDGE_EVERY: Nanos = 20 * MS;

const LIVENESS: &str = "liveness after healing";
const CORE_LIVENESS: &str = "a reachable quorum makes progress";

/// Who is left out while the rest must serve. A random set that holds a quorum of every group heals (the core); a
/// cluster that heals as a whole would hide that it needs every node.
#[derive(Debug, Default)]
pub(super) struct Core {
    /// These do not come back before the end.
    down: BTreeSet<NodeId>,
}

/// What becomes of a node that is not in the core.
#[derive(Clone, Copy)]
enum Lot {
    Down,
    CutOff,
    /// It is heard and hears nothing.
    Deaf,
    /// It hears and is not heard.
    Mute,
}

/// What the run is about now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults, and nothing may go wrong.
    Safety,
    /// All is well within the core since `since`: every group must serve a write called after that.
    Core { since: Nanos, silent: BTreeSet<GroupId> },
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
            Fault::Change => self.change(),
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

    /// A process ends at once, and starts again later.
    pub(super) fn crash_one(&mut self, node: NodeId) {
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
        if !self.node(node).is_up() && !self.core.down.contains(&node) {
            self.transcript
                .note(self.now, "restart", &[node.0], || format!("{node} restart"));
            self.start(node);
        }
    }

    fn partition(&mut self) {
        let cuts = self.plan.cuts();
        self.totals.partitions += u64::from(!cuts.is_empty());
        if self.plan.is_swizzle() {
            let length = self.plan.length(Fault::Partition);
            return self.plan_swizzle(cuts, length);
        }
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
        if !self.is_faulty() {
            return; // the links that are cut now are to stay so
        }
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
        let target = self.plan.node();
        let target = self.node(target).replica(group);
        let Some(node) = self.leader(group).filter(|node| self.nodes[at(*node)].is_up()) else {
            return;
        };
        let number = self.order(node, Fault::Transfer);
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

    /// True while nothing has healed.
    pub(super) fn is_faulty(&self) -> bool {
        self.phase == Phase::Safety
    }

    /// The faults are over, for the core.
    pub(super) fn heal(&mut self) {
        let core = self.draw_core();
        self.transcript
            .note(self.now, "heal", &[], || format!("{core:?} heal"));
        self.options.heal();
        self.network.options = self.options.network.clone();
        self.network.heal();
        let nodes: Vec<NodeId> = (1..=self.options.nodes).map(NodeId).collect();
        for node in &nodes {
            self.refresh(*node);
            if !core.contains(node) {
                self.leave_out(*node);
            }
        }
        nodes.iter().for_each(|node| self.restart(*node));
        self.clients.nodes = core.into_iter().collect();
        self.phase = Phase::Core {
            since: self.now,
            silent: (1..=self.options.groups).map(GroupId).collect(),
        };
        self.schedule.push(self.now + JUDGE_EVERY, Happening::Judge);
    }

    /// Leaves out whom a quorum of every group can do without, in random order, but not always.
    fn draw_core(&mut self) -> BTreeSet<NodeId> {
        let mut core: BTreeSet<NodeId> = (1..=self.options.nodes).map(NodeId).collect();
        if core.iter().any(|node| self.is_change_due(*node)) {
            return core; // which nodes that change will need, no log says yet
        }
        let mut order: Vec<NodeId> = core.iter().copied().collect();
        while !order.is_empty() {
            let node = order.swap_remove(self.plan.index(order.len()));
            if self.plan.rng().chance(700) {
                core.remove(&node);
                if !self.is_quorum(&core) {
                    core.insert(node);
                }
            }
        }
        core
    }

    /// True when the node has an order to change a membership that it has not looked at.
    fn is_change_due(&self, node: NodeId) -> bool {
        let process = &self.nodes[at(node)];
        let is_idle = process.paused_until <= self.now && process.seats.iter().all(|seat| !seat.awake);
        !is_idle && self.members.may_change(node)
    }

    /// Ends a pause, and makes space.
    fn refresh(&mut self, node: NodeId) {
        let node = self.node(node);
        node.paused_until = 0;
        for disk in &node.disks {
            disk.lock().is_full = false;
        }
    }

    /// The node has no part in what follows, in one way or another.
    fn leave_out(&mut self, node: NodeId) {
        let lots = [Lot::Down, Lot::CutOff, Lot::Deaf, Lot::Mute];
        let lot = self.plan.rng().pick(&lots);
        self.totals.left_out += 1;
        if let Lot::Down = lot {
            self.core.down.insert(node);
            if self.node(node).is_up() {
                self.crash_one(node);
            }
        }
        for other in (1..=self.options.nodes).map(NodeId) {
            if matches!(lot, Lot::CutOff | Lot::Deaf) {
                self.network.cut(other, node);
            }
            if matches!(lot, Lot::CutOff | Lot::Mute) {
                self.network.cut(node, other);
            }
        }
    }

    /// The rest heals, too.
    fn heal_all(&mut self) {
        self.transcript
            .note(self.now, "heal all", &[], || "everything heals".to_owned());
        self.network.heal();
        self.core.down.clear();
        self.clients.nodes = (1..=self.options.nodes).map(NodeId).collect();
        for node in self.clients.nodes.clone() {
            self.restart(node);
        }
    }

    /// A write was acknowledged: its group serves, if the write was called after everything healed.
    pub(super) fn note_service(&mut self, request: &Request) {
        if let Phase::Core { since, silent } | Phase::Service { since, silent } = &mut self.phase
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
            Phase::Core { since, silent } | Phase::Service { since, silent } => {
                (*since, self.silence(silent))
            }
            Phase::Agreement { since } => (*since, self.disagreement()),
            Phase::Settling { since } => (*since, self.disagreement()),
        };
        match missing {
            Some(text) if now - since > self.options.recovery_max() => {
                let is_core = matches!(self.phase, Phase::Core { .. });
                let name = if is_core { CORE_LIVENESS } else { LIVENESS };
                self.checkers.fail(name, text);
            }
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
        let group = groups.find(|group| !self.checkers.all_applied(*group, &self.homes(*group)))?;
        Some(format!("{group}: some replica does not catch up"))
    }

    fn advance_phase(&mut self) {
        let now = self.now;
        if let Phase::Core { .. } = self.phase {
            self.heal_all();
        }
        self.phase = match &self.phase {
            Phase::Core { .. } => Phase::Service {
                since: now,
                silent: (1..=self.options.groups).map(GroupId).collect(),
            },
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
                let groups = (1..=self.options.groups).map(GroupId);
                let homes: Vec<_> = groups.map(|group| (group, self.homes(group))).collect();
                self.checkers.at_end(&homes);
                Phase::Over
            }
        };
    }
}

/// Its place among the nodes.
pub(super) fn at(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).expect("a few nodes")
}
