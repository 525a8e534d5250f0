//! State machine safety: every replica applies the same command at an index, each once and in order, and has the same
//! state after it (Raft §5.4.3). A restart continues from a state that some entry produced.

use super::{Verdict, require};
use crate::sim::machine::{Applied, Command};
use multiraft::{EntryId, GroupId, Index, NodeId};
use std::collections::BTreeMap;

const NAME: &str = "state machine safety";

/// The one history of each group that any replica may apply.
#[derive(Debug, Default)]
pub(super) struct StateMachineSafety {
    histories: BTreeMap<GroupId, Vec<Step>>,
    applied: BTreeMap<(NodeId, GroupId), Index>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    id: EntryId,
    command: Option<Command>,
    checksum: u64,
}

impl StateMachineSafety {
    pub(super) fn on_applied(&mut self, node: NodeId, applied: &Applied) -> Verdict {
        let group = applied.group;
        let before = self
            .applied
            .insert((node, group), applied.id.index)
            .unwrap_or_default();
        require(applied.id.index == before.next(), NAME, || {
            format!("{node} {group}: applies {} after {before}", applied.id)
        })?;
        let step = Step {
            id: applied.id,
            command: applied.command,
            checksum: applied.checksum,
        };
        let history = self.histories.entry(group).or_default();
        let at = usize::try_from(before.0).expect("a short run");
        if at == history.len() {
            history.push(step);
        }
        let first = history.get(at).copied();
        require(first == Some(step), NAME, || {
            format!("{node} {group}: {step:x?} where another replica had {first:x?}")
        })
    }

    /// A restart reads its state from a checkpoint, an install from a snapshot: it is one the group has had.
    pub(super) fn on_restarted(
        &mut self,
        node: NodeId,
        group: GroupId,
        applied: EntryId,
        checksum: u64,
    ) -> Verdict {
        self.applied.insert((node, group), applied.index);
        let Some(at) = applied.index.0.checked_sub(1) else {
            return Ok(());
        };
        let history = self.histories.get(&group);
        let at = usize::try_from(at).expect("a short run");
        let step = history.and_then(|history| history.get(at)).copied();
        let same = step.is_some_and(|step| step.id == applied && step.checksum == checksum);
        require(same, NAME, || {
            format!(
                "{node} {group}: continues from {applied} with checksum {checksum:x}, others had {step:x?}"
            )
        })
    }

    /// Another replica begins here.
    pub(super) fn on_buried(&mut self, node: NodeId, group: GroupId) {
        self.applied.remove(&(node, group));
    }

    /// The last position a node applied.
    pub(super) fn applied(&self, node: NodeId, group: GroupId) -> Index {
        self.applied.get(&(node, group)).copied().unwrap_or_default()
    }

    /// The last position any node applied.
    pub(super) fn last(&self, group: GroupId) -> Index {
        Index(
            self.histories
                .get(&group)
                .map_or(0, |history| history.len() as u64),
        )
    }

    /// Every write that was applied, in order.
    pub(super) fn writes(&self, group: GroupId) -> impl Iterator<Item = Command> + '_ {
        let history = self.histories.get(&group).map_or(&[][..], Vec::as_slice);
        history.iter().filter_map(|step| step.command)
    }
}
