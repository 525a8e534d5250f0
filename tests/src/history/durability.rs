//! Acknowledged means kept, checked without any search: what the last reads show must not be older than a write that was
//! acknowledged before they began. Weaker than the search on purpose, and independent of it; and it demands that every
//! key that was written was read at the end, without which a run proves nothing.

use super::operation::{Answer, Ask, Operation, Seen};
use std::collections::BTreeMap;
use std::fmt;

/// A key whose acknowledged write is gone, or unproven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The key.
    pub key: u64,
    /// The acknowledged write.
    pub write: Operation,
    /// The last read that does not show it; None: nobody read the key at the end.
    pub read: Option<Operation>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.read {
            Some(read) => write!(
                f,
                "key {}: {} was acknowledged, but {read} at the end",
                self.key, self.write
            ),
            None => write!(
                f,
                "key {}: {} was acknowledged, and nobody read it at the end",
                self.key, self.write
            ),
        }
    }
}

/// What was lost, as far as the gets called at `last_reads` or later show. No other operation may be called after that.
pub fn losses(history: &[Operation], last_reads: u64) -> Vec<Loss> {
    let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let mut losses = Vec::new();
    for (key, operations) in keys {
        let (reads, others): (Vec<_>, Vec<_>) = operations
            .into_iter()
            .partition(|one| one.ask == Ask::Get && one.called >= last_reads);
        let found = match others.iter().any(|one| matches!(one.ask, Ask::Add(_))) {
            true => miscounted(&others, &reads),
            false => overwritten(&others, &reads),
        };
        losses.extend(found.map(|(write, read)| Loss { key, write, read }));
    }
    losses
}

fn found(read: &Operation) -> Option<Option<i64>> {
    match read.answered()?.1 {
        Answer::Found(seen) => Some(seen.map(|Seen { value, .. }| value)),
        _ => None,
    }
}

/// The acknowledged write that began last must not lie wholly after whatever could have left the value that was read.
fn overwritten(others: &[Operation], reads: &[Operation]) -> Option<(Operation, Option<Operation>)> {
    let acknowledged = others.iter().filter(|one| one.is_acknowledged_write());
    let last = *acknowledged.max_by_key(|one| one.called)?;
    let explains = |one: &Operation, value: Option<i64>| {
        let leaves = match one.ask {
            Ask::Get | Ask::Add(_) => false,
            Ask::Delete => value.is_none(),
            ask => ask.value() == value,
        };
        let in_time = one.answered().is_none_or(|(end, _)| end >= last.called);
        leaves && in_time && (one.is_unknown() || one.is_acknowledged_write())
    };
    if !reads.iter().any(|read| found(read).is_some()) {
        return Some((last, None));
    }
    let lost =
        |read: &&Operation| found(read).is_some_and(|value| !others.iter().any(|one| explains(one, value)));
    reads.iter().find(lost).map(|read| (last, Some(*read)))
}

/// Only counted up: the sum lies between what was acknowledged and what was asked for. Mixed with other writes, or
/// counted down, it is left to the search.
fn miscounted(others: &[Operation], reads: &[Operation]) -> Option<(Operation, Option<Operation>)> {
    let delta = |one: &Operation| match one.ask {
        Ask::Add(delta) if delta >= 0 => Some(delta),
        _ => None,
    };
    let writes = || others.iter().filter(|one| one.ask != Ask::Get);
    let last = *writes()
        .filter(|one| one.is_acknowledged_write())
        .max_by_key(|one| one.called)?;
    if !reads.iter().any(|read| found(read).is_some()) {
        return Some((last, None));
    }
    if !writes().all(|one| delta(one).is_some()) {
        return None;
    }
    let sum = |of: &dyn Fn(&Operation) -> bool| writes().filter(|one| of(one)).filter_map(delta).sum::<i64>();
    let low = sum(&Operation::is_acknowledged_write);
    let high = low + sum(&Operation::is_unknown);
    let lost =
        |read: &&Operation| found(read).is_some_and(|value| !(low..=high).contains(&value.unwrap_or(0)));
    reads.iter().find(lost).map(|read| (last, Some(*read)))
}
