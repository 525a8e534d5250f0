//! Linearizability of what clients see, per key. A key is an append-only list and every write is unique, so the order of
//! writes is no secret: it is the list. What remains to be checked is real time (Herlihy and Wing 1990): an operation
//! takes its place after everything that had finished before it was called. Reads show a prefix of the list and nothing
//! else; a refused write is in no list; a write is in the list at most once.

use super::{Finished, Verdict, require, show_list};
use crate::sim::machine::{Applied, List};
use multiraft::{GroupId, Outcome};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "linearizability";
const REFUSED: &str = "refused means without effect";
const ONCE: &str = "a write takes effect once";

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Kind {
    /// Append this request's number to the key's list.
    Write,
    /// Show the list.
    Read,
}

/// A request as it leaves its client.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Call {
    pub(in crate::sim) number: u64,
    pub(in crate::sim) group: GroupId,
    pub(in crate::sim) key: u8,
    pub(in crate::sim) kind: Kind,
}

/// A request that is not answered yet, and what it must see.
#[derive(Debug)]
struct Open {
    call: Call,
    /// The longest list anyone had seen when it was called.
    floor: u64,
}

/// One key's list as the replicas agree on it.
#[derive(Debug)]
struct Agreed {
    /// The list after each of its writes; the first is the empty one.
    prefixes: Vec<List>,
    /// The longest list that a finished request has seen.
    seen: u64,
}

impl Default for Agreed {
    fn default() -> Agreed {
        Agreed {
            prefixes: vec![List::default()],
            seen: 0,
        }
    }
}

/// The history of all clients.
#[derive(Debug, Default)]
pub(in crate::sim) struct Linearizable {
    keys: BTreeMap<(GroupId, u8), Agreed>,
    open: BTreeMap<u64, Open>,
    /// Where each applied write stands in its list.
    places: BTreeMap<u64, u64>,
    /// Applied more than once.
    twice: Option<u64>,
    refused: BTreeSet<u64>,
    /// Acknowledged, with its key.
    pub(super) acknowledged: BTreeMap<u64, (GroupId, u8)>,
    /// The next index of each group that has not been applied by anyone.
    applied: BTreeMap<GroupId, u64>,
}

impl Linearizable {
    /// Takes an entry into the agreed lists when it is applied for the first time anywhere.
    pub(super) fn on_applied(&mut self, applied: &Applied) {
        let last = self.applied.entry(applied.group).or_default();
        if applied.id.index.0 <= *last {
            return;
        }
        *last = applied.id.index.0;
        let Some(command) = applied.command else {
            return;
        };
        let agreed = self.keys.entry((applied.group, command.key)).or_default();
        let mut list = *agreed.prefixes.last().expect("never empty");
        list.append(command.write);
        agreed.prefixes.push(list);
        if self.places.insert(command.write, list.len).is_some() {
            self.twice.get_or_insert(command.write);
        }
    }

    pub(super) fn on_called(&mut self, call: Call) {
        let floor = self
            .keys
            .get(&(call.group, call.key))
            .map_or(0, |agreed| agreed.seen);
        self.open.insert(call.number, Open { call, floor });
    }

    pub(super) fn on_finished(&mut self, finished: &Finished<'_>) -> Verdict {
        let Some(open) = self.open.remove(&finished.number) else {
            return Ok(()); // its client gave up: the outcome stays unknown to it
        };
        match finished.outcome {
            Outcome::Answered(bytes) => self.on_answered(&open, List::decode(bytes), finished),
            Outcome::Refused(_) => {
                self.refused.insert(open.call.number);
                Ok(())
            }
            Outcome::Unknown => Ok(()),
        }
    }

    fn on_answered(&mut self, open: &Open, list: List, finished: &Finished<'_>) -> Verdict {
        let Call {
            number,
            group,
            key,
            kind,
        } = open.call;
        let agreed = self.keys.entry((group, key)).or_default();
        let at = usize::try_from(list.len).unwrap_or(usize::MAX);
        let expected = agreed.prefixes.get(at).copied();
        require(expected == Some(list), NAME, || {
            let expected = expected.map_or("no such prefix".to_owned(), show_list);
            format!(
                "{group} key {key}: {kind:?} {number} saw {}; agreed: {expected}",
                show_list(list)
            )
        })?;
        let in_time = match kind {
            Kind::Read => list.len >= open.floor,
            Kind::Write => list.len > open.floor && self.places.get(&number) == Some(&list.len),
        };
        agreed.seen = agreed.seen.max(list.len);
        if kind == Kind::Write {
            self.acknowledged.insert(number, (group, key));
        }
        require(in_time, NAME, || {
            format!(
                "{group} key {key}: {kind:?} {number} finished at {} ns and saw {} writes, {} were seen before it began",
                finished.now, list.len, open.floor
            )
        })
    }

    /// What was refused is nowhere, and nothing took effect twice.
    pub(super) fn at_end(&self) -> Verdict {
        let found = self
            .refused
            .iter()
            .find(|number| self.places.contains_key(number));
        require(found.is_none(), REFUSED, || {
            format!("write {found:?} was refused and applied")
        })?;
        require(self.twice.is_none(), ONCE, || {
            format!("write {:?} was applied twice", self.twice)
        })
    }
}
