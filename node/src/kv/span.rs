//! The keys that a group serves. Commands and queries that name other keys are answered `WrongRange`: deterministic,
//! because the bounds are part of the replicated state.

use super::command::{Command, Operation};
use super::query::Query;

/// A span of user keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// First key, included.
    pub start: &'a [u8],
    /// First key after it; None: to the end of the key space.
    pub end: Option<&'a [u8]>,
}

impl Span<'_> {
    /// Every key.
    pub const ALL: Span<'static> = Span {
        start: &[],
        end: None,
    };

    /// True for a key of this span.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }

    /// True when every key that the command names is in this span. Flush names none.
    pub(crate) fn holds_command(&self, command: &Command<'_>) -> bool {
        match command {
            Command::Delete { keys } => keys.iter().all(|key| self.contains(key.0)),
            Command::PutMany { pairs, .. } => pairs.iter().all(|(key, _)| self.contains(key.0)),
            Command::Batch { operations } => operations.iter().all(|operation| match operation {
                Operation::Put(key, _) | Operation::Delete(key) => self.contains(key.0),
            }),
            Command::Rename { key, to, .. } => self.contains(key.0) && self.contains(to.0),
            Command::Transaction { watched, steps } => {
                watched.iter().all(|one| self.contains(one.key.0))
                    && steps.iter().all(|step| step.is_within(*self))
            }
            _ => command.routing_key().is_none_or(|key| self.contains(key)),
        }
    }

    /// True when every key that the query names is in this span. Scans and counts see only the group's own keys.
    pub(crate) fn holds_query(&self, query: &Query<'_>) -> bool {
        match query {
            Query::GetMany { keys } | Query::Exists { keys } | Query::Versions { keys } => {
                keys.iter().all(|key| self.contains(key.0))
            }
            _ => query.routing_key().is_none_or(|key| self.contains(key)),
        }
    }
}
