//! The world's part that changes memberships: what each group's is, as far as anyone applied it; orders that change
//! it at random; and the other replica that takes the place of one that was removed, as a node that lost its disk.

use super::faults::Fault;
use super::machine::Applied;
use super::node::worker_of;
use super::rng::Rng;
use super::schedule::Happening;
use super::world::World;
use multiraft::{Control, Event, GroupId, Index, MemberChange, Membership, NodeId, Outcome, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// Who is in which group, and who was.
#[derive(Debug)]
pub(super) struct Members {
    /// The last that anybody applied, and its index.
    latest: BTreeMap<GroupId, (Index, Membership)>,
    /// Ids that were ever members: those that are not any more never come back.
    known: BTreeSet<ReplicaId>,
    /// Orders that somebody may still answer.
    orders: BTreeMap<u64, (NodeId, Fault)>,
}

impl Members {
    pub(super) fn new(founded: impl Iterator<Item = (GroupId, Membership)>) -> Members {
        let latest: BTreeMap<_, _> = founded
            .map(|(group, membership)| (group, (Index(0), membership)))
            .collect();
        let named = latest.values().flat_map(|(_, membership)| membership.replicas());
        Members {
            known: named.collect(),
            latest,
            orders: BTreeMap::new(),
        }
    }

    pub(super) fn on_applied(&mut self, applied: &Applied) {
        let Some(membership) = &applied.membership else {
            return;
        };
        let latest = self.latest.get_mut(&applied.group).expect("a founded group");
        if applied.id.index > latest.0 {
            *latest = (applied.id.index, membership.clone());
            self.known.extend(membership.replicas());
        }
    }

    /// The last membership that anybody applied, and its index.
    pub(super) fn latest(&self, group: GroupId) -> &(Index, Membership) {
        &self.latest[&group]
    }

    /// Was a member, and is not any more: what its disk holds is of no use to anyone.
    fn is_removed(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.known.contains(&replica) && !self.latest(group).1.nodes.contains_key(&replica)
    }

    /// An order goes to a node; no client waits for it.
    fn on_ordered(&mut self, number: u64, node: NodeId, order: Fault) {
        self.orders.insert(number, (node, order));
    }

    /// True while the node may still begin a change that it was asked for, as after a pause.
    pub(super) fn may_change(&self, node: NodeId) -> bool {
        self.orders.values().any(|order| *order == (node, Fault::Change))
    }
}

impl World {
    /// Orders some group's leader to change its membership in some way; now and then somebody who does not lead.
    pub(super) fn change(&mut self) {
        let group = GroupId(self.plan.rng().between(1, self.options.groups));
        let stray = self.plan.node();
        let is_stray = self.plan.rng().chance(50);
        let node = self.leader(group).filter(|_| !is_stray).unwrap_or(stray);
        let worker = worker_of(&self.options, group);
        if !self.node(node).is_up() {
            return;
        }
        let status = self.node(node).seats[worker].worker.status(group);
        let Some(status) = status else { return };
        let changes = self.draw_changes(group, &status.membership);
        if changes.is_empty() || !self.node(node).is_up() {
            return;
        }
        let number = self.order(node, Fault::Change);
        self.transcript.note(self.now, "change", &[node.0, group.0], || {
            format!("{node} {group} changes {changes:?}, order {number}")
        });
        let ticket = self.ticket(number);
        let order = Control::Change {
            group,
            changes,
            ticket,
        };
        self.node(node).seats[worker].sender.push(Event::Control(order));
        self.wake(node, worker);
    }

    /// A number for an order that a node is given.
    pub(super) fn order(&mut self, node: NodeId, order: Fault) -> u64 {
        let number = self.clients.number();
        self.checkers.on_arrived(node, number, self.now);
        self.members.on_ordered(number, node, order);
        number
    }

    /// An order was taken or refused. The late answer of a request that its client gave up comes here too.
    pub(super) fn note_order(&mut self, number: u64, outcome: &Outcome) {
        let order = self.members.orders.remove(&number).map(|(_, order)| order);
        match (order, outcome) {
            (Some(Fault::Transfer), Outcome::Answered(_)) => self.totals.transfers += 1,
            (Some(Fault::Change), Outcome::Answered(_)) => self.totals.changes += 1,
            _ => {}
        }
    }

    /// One to three changes that make sense together.
    fn draw_changes(&mut self, group: GroupId, membership: &Membership) -> Vec<MemberChange> {
        let mut changes = Vec::new();
        let few = if self.plan.rng().chance(50) { 1 } else { 2 };
        for _ in 0..self.plan.rng().pick(&[1, 1, 2, 3]) {
            let Some(change) = self.draw_change(group, membership) else {
                continue;
            };
            changes.push(change);
            let next = membership.changed(&changes);
            let shrinks =
                |next: &Membership| next.voters.len() < few && next.voters.len() < membership.voters.len();
            // A few go out that are refused.
            if next.is_ok_and(|next| shrinks(&next)) || membership.changed(&changes).is_err() && few > 1 {
                changes.pop();
            }
        }
        changes
    }

    fn draw_change(&mut self, group: GroupId, membership: &Membership) -> Option<MemberChange> {
        let pick = |rng: &mut Rng, ids: &BTreeSet<ReplicaId>| {
            (!ids.is_empty()).then(|| *ids.iter().nth(rng.index(ids.len())).expect("within"))
        };
        match self.plan.rng().below(8) {
            0..=2 => self.draw_newcomer(group, membership),
            3 | 4 => pick(self.plan.rng(), &membership.learners).map(MemberChange::Promote),
            5 => pick(self.plan.rng(), &membership.voters).map(MemberChange::Demote),
            6 => pick(self.plan.rng(), &membership.voters).map(MemberChange::Remove),
            _ => pick(self.plan.rng(), &membership.learners).map(MemberChange::Remove),
        }
    }

    /// A replica that may be added. One that was removed makes place first: its process starts anew.
    fn draw_newcomer(&mut self, group: GroupId, membership: &Membership) -> Option<MemberChange> {
        let node = self.plan.node();
        let replica = self.node(node).replica(group);
        if self.members.is_removed(group, replica) {
            if self.node(node).is_up() {
                self.crash_one(node);
            }
            return None;
        }
        let is_member = membership.nodes.values().any(|home| *home == node);
        (!is_member).then_some(MemberChange::Add(replica, node))
    }

    /// What was removed from this node's groups is forgotten before its process starts, and another replica waits in its
    /// place.
    pub(super) fn replace_removed(&mut self, node: NodeId) {
        for group in (1..=self.options.groups).map(GroupId) {
            let replica = self.node(node).replica(group);
            if !self.members.is_removed(group, replica) {
                continue;
            }
            let worker = worker_of(&self.options, group);
            let node = self.node(node);
            node.disks[worker].lock().bury(group);
            *node.incarnations.entry(group).or_default() += 1;
            let (node, heir) = (node.id, node.replica(group));
            self.totals.replaced += 1;
            self.checkers.on_buried(node, group);
            self.transcript
                .note(self.now, "replace", &[node.0, group.0, heir.0], || {
                    format!("{node} {group}: {heir} in the place of {replica}")
                });
        }
    }

    /// The nodes whose replicas are members, as far as anyone applied; a member that makes way for another does not count.
    pub(super) fn homes(&self, group: GroupId) -> Vec<NodeId> {
        let members = self.members.latest(group).1.nodes.iter();
        let living =
            members.filter(|(id, node)| self.nodes[super::trouble::at(**node)].replica(group) == **id);
        living.map(|(_, node)| *node).collect()
    }

    /// True when these nodes hold a quorum of every membership that may be in force in any group: the last that was
    /// applied, and every later one in some log.
    pub(super) fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        (1..=self.options.groups).map(GroupId).all(|group| {
            let worker = worker_of(&self.options, group);
            let (index, latest) = self.members.latest(group);
            let has_quorum = |membership: &Membership| self.holds(nodes, group, membership);
            let logs_agree = self.nodes.iter().all(|node| {
                let contents = node.disks[worker].lock();
                let logs = [contents.durable.get(&group), contents.accepted.get(&group)];
                let mut later = logs
                    .into_iter()
                    .flatten()
                    .flat_map(|log| log.memberships_after(*index));
                later.all(has_quorum)
            });
            has_quorum(latest) && logs_agree
        })
    }

    fn holds(&self, nodes: &BTreeSet<NodeId>, group: GroupId, membership: &Membership) -> bool {
        let is_there = |id: &&ReplicaId| {
            let home = membership.nodes[id];
            nodes.contains(&home) && self.nodes[super::trouble::at(home)].replica(group) == **id
        };
        let majority = |half: &BTreeSet<ReplicaId>| {
            half.is_empty() || half.iter().filter(is_there).count() * 2 > half.len()
        };
        majority(&membership.voters) && majority(&membership.outgoing)
    }

    /// A link fails, or comes back.
    pub(super) fn swizzle(&mut self, from: NodeId, to: NodeId, is_cut: bool) {
        if self.is_faulty() {
            match is_cut {
                true => self.network.cut(from, to),
                false => self.network.mend(from, to),
            }
        }
    }

    /// Schedules that links fail one after the other, and come back in another order.
    pub(super) fn plan_swizzle(&mut self, cuts: Vec<(NodeId, NodeId)>, length: u64) {
        for (from, to) in cuts {
            let begin = self.now + self.plan.rng().below(length);
            let end = self.now + length + self.plan.rng().below(length);
            for (at, is_cut) in [(begin, true), (end, false)] {
                self.schedule.push(at, Happening::Swizzle { from, to, is_cut });
            }
        }
    }
}
