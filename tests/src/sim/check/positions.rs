//! I3 and I4: `truncated <= checkpointed <= applied <= min(committed, durable)`, `committed <= last`,
//! `durable <= last`; committed and applied never fall while a process lives, and a restart starts from what was kept.
//! The disk is the judge of what is durable and checkpointed, not the replica. From when a snapshot is submitted until
//! the machine turns to it, the log is ahead of the state: only what is committed says something then.

use super::{Verdict, View, require};
use multiraft::{GroupId, Index, NodeId, Status};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "I3 order of positions";

/// What each replica said last in its present life.
#[derive(Debug, Default)]
pub(super) struct Positions {
    seen: BTreeMap<(NodeId, GroupId), (Index, Index)>,
    installing: BTreeSet<(NodeId, GroupId)>,
}

impl Positions {
    pub(super) fn on_install(&mut self, node: NodeId, group: GroupId) {
        self.installing.insert((node, group));
    }

    pub(super) fn on_installed(&mut self, node: NodeId, group: GroupId) {
        self.installing.remove(&(node, group));
    }

    pub(super) fn on_truncated(&self, view: &View, node: NodeId, group: GroupId, index: Index) -> Verdict {
        let checkpointed = view.durable(node, group, |log| log.checkpointed.index);
        require(checkpointed.is_some_and(|kept| index <= kept), NAME, || {
            format!("{node} {group}: truncates to {index}, checkpointed is {checkpointed:?}")
        })
    }

    pub(super) fn on_status(
        &mut self,
        view: &View,
        node: NodeId,
        group: GroupId,
        status: &Status,
        machine: Index,
    ) -> Verdict {
        let settled = status.truncated <= status.applied && status.applied <= status.durable;
        let ordered = (settled || self.installing.contains(&(node, group)))
            && status.applied <= status.commit
            && status.commit <= status.last.index
            && status.durable <= status.last.index
            && status.applied == machine;
        require(ordered, NAME, || {
            format!("{node} {group}: the machine applied {machine}, {status:?}")
        })?;
        let durable = view
            .durable(node, group, |log| log.last().index)
            .unwrap_or_default();
        // Entries that were replaced by a write on its way are still on the disk: it may hold more, never less.
        require(status.durable <= durable, NAME, || {
            format!(
                "{node} {group}: believes {} durable, the disk holds {durable}",
                status.durable
            )
        })?;
        let now = (status.commit, status.applied);
        let before = self.seen.insert((node, group), now).unwrap_or_default();
        require(before.0 <= now.0 && before.1 <= now.1, NAME, || {
            format!("{node} {group}: (committed, applied) fell from {before:?} to {now:?}")
        })
    }

    pub(super) fn on_crashed(&mut self, node: NodeId) {
        self.seen.retain(|(other, _), _| *other != node);
        self.installing.retain(|(other, _)| *other != node);
    }
}
