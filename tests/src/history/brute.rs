//! The definition itself, for histories of a handful of operations: tries every order. Proves the quick paths.

use super::model::State;
use super::operation::{Ask, Operation, Outcome};

/// Whether one key's operations have an order. Exponential.
pub(super) fn has_order(operations: &[Operation]) -> bool {
    let left: Vec<Operation> = operations
        .iter()
        .filter(|one| one.outcome != Outcome::Refused && !(one.is_unknown() && one.ask == Ask::Get))
        .copied()
        .collect();
    any_order(&left, State::NEVER)
}

/// Places one of those left that no other must precede, and goes on with the rest.
fn any_order(left: &[Operation], state: State) -> bool {
    if left.iter().all(Operation::is_unknown) {
        return true;
    }
    let first_end = left
        .iter()
        .filter_map(|one| Some(one.answered()?.0))
        .min()
        .unwrap_or(u64::MAX);
    (0..left.len())
        .filter(|at| left[*at].called <= first_end)
        .any(|at| {
            let answer = left[at].answered().map(|(_, answer)| answer);
            let rest = [&left[..at], &left[at + 1..]].concat();
            state
                .after(&left[at].ask, answer)
                .is_some_and(|state| any_order(&rest, state))
        })
}
