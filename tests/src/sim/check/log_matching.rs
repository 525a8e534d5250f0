//! I2 and log matching: indexes are contiguous and terms never fall; two logs that hold an entry of the same index and
//! term hold the same command there and the same entry before it (Raft §5.3), hence the same entries up to there.

use super::{Verdict, View, require};
use crate::sim::rng::fold;
use multiraft::wire::GroupMessage;
use multiraft::{Entry, EntryId, GroupId, GroupWrite, NodeId, Payload};
use raft_core::Message;
use std::collections::BTreeMap;

const NAME: &str = "I2 log matching";

/// What every entry that anyone ever wrote or sent is made of, and what it follows.
#[derive(Debug, Default)]
pub(super) struct LogMatching {
    entries: BTreeMap<(GroupId, EntryId), (u64, EntryId)>,
}

impl LogMatching {
    pub(super) fn on_written(
        &mut self,
        view: &View,
        node: NodeId,
        write: &GroupWrite,
        after: EntryId,
    ) -> Verdict {
        self.check(write.group, after, &write.entries)?;
        let (last, term) = view
            .accepted(node, write.group, |log| (log.last(), log.hard_state.term))
            .expect("a group that writes was born");
        require(last.term <= term, NAME, || {
            format!("{node} {}: entry {last} written in term {term}", write.group)
        })
    }

    pub(super) fn on_sent(&mut self, message: &GroupMessage) -> Verdict {
        match &message.envelope.message {
            Message::Append {
                previous, entries, ..
            } => self.check(message.group, *previous, entries),
            _ => Ok(()),
        }
    }

    fn check(&mut self, group: GroupId, after: EntryId, entries: &[Entry]) -> Verdict {
        let mut before = after;
        for entry in entries {
            let follows = entry.id.index == before.index.next() && entry.id.term >= before.term;
            require(follows, NAME, || {
                format!("{group}: {} follows {before}", entry.id)
            })?;
            let seen = (hash(&entry.payload), before);
            let first = *self.entries.entry((group, entry.id)).or_insert(seen);
            require(first == seen, NAME, || {
                format!(
                    "{group}: {} is {:016x} after {} here and {:016x} after {} elsewhere",
                    entry.id, seen.0, seen.1, first.0, first.1
                )
            })?;
            before = entry.id;
        }
        Ok(())
    }
}

fn hash(payload: &Payload) -> u64 {
    match payload {
        Payload::Noop(stamp) => fold(1, &stamp.0.to_le_bytes()),
        Payload::Command(stamp, bytes) => fold(fold(2, &stamp.0.to_le_bytes()), bytes),
        Payload::Membership(membership) => fold(3, format!("{membership:?}").as_bytes()),
    }
}
