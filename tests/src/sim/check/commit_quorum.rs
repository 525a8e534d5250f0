//! I5, the ground of it: at the moment an entry is first taken as committed, a majority of every half of the membership in
//! force holds it durably (Raft §5.3, §6), as the disks themselves say.

use super::{Verdict, View, require};
use crate::sim::disk::Held;
use multiraft::{EntryId, GroupId, GroupWrite, Membership, Payload, ReplicaId, RoleKind, Status};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "I5 commit needs a durable majority";

/// Counts who holds what was committed.
#[derive(Debug, Default)]
pub(super) struct CommitQuorum {
    /// Every membership that some replica ever wrote.
    written: BTreeMap<GroupId, Vec<Membership>>,
    /// What each replica had in force when it was last seen.
    before: BTreeMap<ReplicaId, Membership>,
}

impl CommitQuorum {
    pub(super) fn on_written(&mut self, write: &GroupWrite) {
        for entry in &write.entries {
            if let Payload::Membership(membership) = &entry.payload {
                let written = self.written.entry(write.group).or_default();
                if !written.contains(membership) {
                    written.push((**membership).clone());
                }
            }
        }
    }

    /// A replica was seen, and what it had committed was checked.
    pub(super) fn on_seen(&mut self, status: &Status) {
        if self.before.get(&status.id) != Some(&status.membership) {
            self.before.insert(status.id, status.membership.clone());
        }
    }

    /// `status` is of the replica that says so. A leader commits by the membership that it has in force, which it may
    /// have changed in the same turn. Another may have led until a moment ago, by a membership that was replaced since.
    pub(super) fn on_committed(
        &mut self,
        view: &View,
        group: GroupId,
        status: &Status,
        top: EntryId,
    ) -> Verdict {
        let is_enough = |membership: &Membership| {
            let holds = |id: &ReplicaId| holds(view, membership, group, *id, top);
            majority(&membership.voters, holds) && majority(&membership.outgoing, holds)
        };
        let mut others = self.written.get(&group).into_iter().flatten();
        let is_held = is_enough(&status.membership)
            || self.before.get(&status.id).is_some_and(is_enough)
            || status.role != RoleKind::Leader && others.any(is_enough);
        require(is_held, NAME, || {
            let members = status.membership.replicas();
            let holders = members.filter(|id| holds(view, &status.membership, group, *id, top));
            let holders: Vec<String> = holders.map(|id| id.to_string()).collect();
            format!(
                "{group}: {top} is committed and durable on {holders:?} only, of {}",
                status.membership
            )
        })
    }
}

fn majority(half: &BTreeSet<ReplicaId>, holds: impl Fn(&ReplicaId) -> bool) -> bool {
    half.is_empty() || half.iter().filter(|id| holds(id)).count() * 2 > half.len()
}

fn holds(view: &View, membership: &Membership, group: GroupId, id: ReplicaId, top: EntryId) -> bool {
    let held = view.durable(membership.nodes[&id], group, |log| {
        (log.replica == id).then(|| log.held(top.index))
    });
    matches!(held.flatten(), Some(Held::Truncated)) || held.flatten() == Some(Held::Entry(top))
}
