//! I5: a committed entry never changes, on any replica; and leader completeness: whoever leads a term holds every entry
//! that was committed in an earlier one (Raft §5.4).

use super::{Verdict, View, require, show};
use crate::sim::disk::Held;
use multiraft::{EntryId, GroupId, GroupWrite, Index, NodeId, RoleKind, Status, Term};
use std::collections::BTreeMap;

const NAME: &str = "I5 committed entries stay";
const COMPLETENESS: &str = "I5 leader completeness";

/// The one log of each group that may ever be committed.
#[derive(Debug, Default)]
pub(super) struct Committed {
    logs: BTreeMap<GroupId, Vec<Agreed>>,
    /// Up to where each replica's commits were compared in its present life.
    known: BTreeMap<(NodeId, GroupId), Index>,
}

/// One committed entry.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    id: EntryId,
    /// In which term it was committed: its leader commits nothing but by an entry of its own term.
    in_term: Term,
}

fn at(index: Index) -> usize {
    usize::try_from(index.0).expect("a short run")
}

impl Committed {
    /// Compares what the replica newly takes as committed. Returns the top entry when no replica knew it before.
    pub(super) fn on_status(
        &mut self,
        view: &View,
        node: NodeId,
        group: GroupId,
        status: &Status,
    ) -> Result<Option<EntryId>, super::Violation> {
        let known = self.known.entry((node, group)).or_default();
        if status.commit <= *known {
            return Ok(None);
        }
        let agreed = self.logs.entry(group).or_default();
        let held: Vec<(Index, Held)> = view
            .accepted(node, group, |log| {
                let indexes = (known.0 + 1..=status.commit.0).map(Index);
                indexes.map(|index| (index, log.held(index))).collect()
            })
            .unwrap_or_default();
        *known = status.commit;
        let before = agreed.len();
        for (index, held) in held {
            compare(agreed, node, group, index, held)?;
        }
        let top = agreed.last().map_or(EntryId::ZERO, |entry| entry.id);
        // A leader commits by an entry of its own term (I7). Should its report be missed because it stepped down in the
        // same turn, the term of whoever tells is not lower.
        let in_term = if status.role == RoleKind::Leader {
            top.term
        } else {
            status.hard_state.term
        };
        agreed[before..]
            .iter_mut()
            .for_each(|entry| entry.in_term = in_term);
        Ok((agreed.len() > before).then_some(top))
    }

    /// A replica replaces entries: none that it knows to be committed.
    pub(super) fn on_written(&mut self, node: NodeId, write: &GroupWrite) -> Verdict {
        let known = self.known.get(&(node, write.group)).copied().unwrap_or_default();
        let Some(agreed) = self.logs.get(&write.group) else {
            return Ok(());
        };
        for entry in write.entries.iter().take_while(|entry| entry.id.index <= known) {
            let committed = agreed[at(entry.id.index) - 1].id;
            require(committed == entry.id, NAME, || {
                format!(
                    "{node} {}: writes {} over the committed {committed}",
                    write.group, entry.id
                )
            })?;
        }
        Ok(())
    }

    /// A snapshot takes a log's place: what it reflects was committed.
    pub(super) fn on_install(&mut self, node: NodeId, group: GroupId, snapshot: EntryId) -> Verdict {
        let agreed = self.logs.get(&group).map_or(&[][..], Vec::as_slice);
        let committed = agreed.get(at(snapshot.index) - 1).map(|entry| entry.id);
        require(committed == Some(snapshot), NAME, || {
            format!("{node} {group}: installs {snapshot} where {committed:?} is committed")
        })
    }

    /// A new leader: its log holds what earlier terms committed.
    pub(super) fn on_elected(&self, view: &View, node: NodeId, group: GroupId, status: &Status) -> Verdict {
        let term = status.hard_state.term;
        let Some(agreed) = self.logs.get(&group) else {
            return Ok(());
        };
        let missing = view.accepted(node, group, |log| {
            let lacks = |entry: &&Agreed| match log.held(entry.id.index) {
                Held::Truncated => false,
                Held::Entry(id) => id != entry.id,
                Held::Absent => true,
            };
            agreed
                .iter()
                .rev()
                .filter(|entry| entry.in_term < term)
                .find(lacks)
                .copied()
        });
        let missing = missing.flatten();
        require(missing.is_none(), COMPLETENESS, || {
            format!("{group}: {} leads term {term} and lacks {missing:?}", status.id)
        })
    }

    pub(super) fn on_crashed(&mut self, node: NodeId) {
        self.known.retain(|(other, _), _| *other != node);
    }
}

fn compare(agreed: &mut Vec<Agreed>, node: NodeId, group: GroupId, index: Index, held: Held) -> Verdict {
    let expected = agreed.get(at(index) - 1).map(|entry| entry.id);
    match (held, expected) {
        (Held::Truncated, Some(_)) => Ok(()),
        (Held::Entry(id), None) if at(index) == agreed.len() + 1 => {
            agreed.push(Agreed { id, in_term: id.term });
            Ok(())
        }
        (Held::Entry(id), Some(expected)) if id == expected => Ok(()),
        (held, expected) => require(false, NAME, || {
            let (held, expected) = (show(Some(held)), expected.map(Held::Entry));
            format!(
                "{node} {group}: takes {held} at {index} as committed, elsewhere it is {}",
                show(expected)
            )
        }),
    }
}
