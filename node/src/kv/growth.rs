//! By how much a command may let the state grow, from its bytes alone: what decides who is refused when space is short.
//! Looks at the kind of the command and decodes only those of which the kind does not tell.

use super::command::{Command, FORMAT, Operation, Slice};
use super::transaction::Step;

/// What a deadline adds to a row, and to the index of deadlines. Not counted as growth: it is small, and setting one is
/// a way to free space.
const NONE: u64 = 0;

/// The variants of `Command` that are looked at without decoding; the encoding begins with their number.
const SET_RANGE: u8 = 9;
const TRANSACTION: u8 = 14;

/// Bytes by which applying `payload` may let the state grow, at most, besides what every row takes; 0 for what only
/// removes or sets deadlines. Overwriting counts as growth: what it replaces is not known here.
pub fn growth(payload: &[u8]) -> u64 {
    let whole = payload.len() as u64;
    match payload {
        // Put, Set, PutMany, Add, AddFloat, Append
        [FORMAT, 0 | 1 | 5..=8, ..] => whole,
        // Delete, Take, Touch, Expire, Flush, Rename
        [FORMAT, 2..=4 | 10 | 13 | 15, ..] => NONE,
        [FORMAT, SET_RANGE, ..] => match Command::decode(payload) {
            Ok(Command::SetRange {
                offset, bytes_max, ..
            }) => whole + offset.min(bytes_max),
            _ => NONE, // refused when it is applied
        },
        [FORMAT, ..] => match Command::decode(payload) {
            Ok(Command::CompareAndSet { value: None, .. }) | Err(_) => NONE,
            Ok(Command::Batch { operations }) if !operations.iter().any(puts) => NONE,
            Ok(Command::Transaction { steps, .. }) => steps.iter().map(growth_of_step).sum(),
            Ok(_) => whole,
        },
        _ => NONE,
    }
}

fn growth_of_step(step: &Step<'_>) -> u64 {
    match step {
        Step::Write(Slice(command)) if !is_transaction(command) => growth(command),
        Step::Write(_) | Step::Read(_) => NONE, // a transaction within one is refused when it is applied
    }
}

fn is_transaction(command: &[u8]) -> bool {
    matches!(command, [FORMAT, TRANSACTION, ..])
}

fn puts(operation: &Operation<'_>) -> bool {
    matches!(operation, Operation::Put(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Condition, Expect, ExpireCondition, Lifetime};

    const KEY: Slice<'_> = Slice(b"key");
    const VALUE: Slice<'_> = Slice(b"value");

    fn grows(command: &Command<'_>) -> bool {
        growth(&command.encode()) > 0
    }

    #[test]
    fn what_only_removes_or_sets_deadlines_does_not_grow() {
        let lifetime = Lifetime::After(1);
        let condition = ExpireCondition::default();
        let operations = vec![Operation::Delete(KEY)];
        let expect = Expect::Present;
        for command in [
            Command::Delete { keys: vec![KEY] },
            Command::Take { key: KEY },
            Command::Touch { key: KEY, lifetime },
            Command::Expire {
                key: KEY,
                lifetime,
                condition,
            },
            Command::CompareAndSet {
                key: KEY,
                expect,
                value: None,
                lifetime,
            },
            Command::Batch { operations },
            Command::Batch {
                operations: Vec::new(),
            },
            Command::Flush,
        ] {
            assert!(!grows(&command), "{command:?}");
        }
    }

    #[test]
    fn what_writes_values_grows_by_its_bytes_at_least() {
        let (key, value, lifetime) = (KEY, VALUE, Lifetime::Forever);
        let (condition, get, bytes_max) = (Condition::Always, false, 9);
        let operations = vec![Operation::Delete(KEY), Operation::Put(KEY, VALUE)];
        let expect = Expect::Absent;
        for command in [
            Command::Put { key, value },
            Command::Set {
                key,
                value,
                condition,
                lifetime,
                get,
            },
            Command::PutMany {
                pairs: vec![(key, value)],
                absent: false,
            },
            Command::Add { key, delta: 1 },
            Command::AddFloat {
                key,
                delta: Slice(b"1"),
            },
            Command::Append {
                key,
                value,
                bytes_max,
            },
            Command::SetRange {
                key,
                offset: 1,
                value,
                bytes_max,
            },
            Command::CompareAndSet {
                key,
                expect,
                value: Some(value),
                lifetime,
            },
            Command::Batch { operations },
        ] {
            assert!(grows(&command), "{command:?}");
        }
        let far = Command::SetRange {
            key,
            offset: 1 << 20,
            value,
            bytes_max: 1 << 23,
        };
        assert!(growth(&far.encode()) > 1 << 20, "the zeros in front count");
    }

    #[test]
    fn garbage_does_not_grow() {
        for bytes in [
            &[][..],
            &[FORMAT],
            &[FORMAT, 200],
            &[FORMAT, SET_RANGE, 1],
            &[7, 0],
        ] {
            assert_eq!(growth(bytes), 0, "{bytes:?}");
        }
    }
}
