//! I5, the ground of it: at the moment an entry is first taken as committed, a majority holds it durably (Raft §5.3),
//! as the disks themselves say.

use super::{Verdict, View, require};
use crate::sim::disk::Held;
use multiraft::{EntryId, GroupId};

const NAME: &str = "I5 commit needs a durable majority";

/// Counts who holds what was committed.
#[derive(Debug, Default)]
pub(super) struct CommitQuorum {}

impl CommitQuorum {
    pub(super) fn on_committed(&mut self, view: &View, group: GroupId, top: EntryId) -> Verdict {
        let holders = view.nodes().filter(|node| {
            let held = view.durable(*node, group, |log| log.held(top.index));
            matches!(held, Some(Held::Truncated)) || held == Some(Held::Entry(top))
        });
        let holders: Vec<String> = holders.map(|node| node.to_string()).collect();
        require(holders.len() >= view.majority(), NAME, || {
            format!("{group}: {top} is committed and durable on {holders:?} only")
        })
    }
}
