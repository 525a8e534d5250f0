//! Where scans stand: a number per position, so that cursors are unsigned integers as clients expect.
//! The number is a keyed hash of the position, so a position keeps its number however often it is handed out.
//! One node remembers a bounded number of positions; another node, or this one after a restart, does not know them.

use super::limits::{CURSOR_BYTES_MAX, CURSORS_MAX};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// The positions one node remembers; the one not used for longest is forgotten first.
#[derive(Default)]
pub(super) struct Cursors {
    hash: RandomState,
    positions: Mutex<Positions>,
}

#[derive(Default)]
struct Positions {
    by_number: HashMap<u64, (Bytes, u64)>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    bytes: usize,
}

impl Cursors {
    /// The number of this position; never 0.
    pub(super) fn number(&self, position: Bytes) -> u64 {
        let number = self.hash.hash_one(&position).max(1);
        self.positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, position);
        number
    }

    /// The position with this number, if it is remembered.
    pub(super) fn position(&self, number: u64) -> Option<Bytes> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let position = positions.by_number.get(&number)?.0.clone();
        positions.insert(number, position.clone());
        Some(position)
    }
}

impl Positions {
    fn insert(&mut self, number: u64, position: Bytes) {
        self.uses += 1;
        self.bytes += position.len();
        self.by_use.insert(self.uses, number);
        if let Some((old, used)) = self.by_number.insert(number, (position, self.uses)) {
            self.bytes -= old.len();
            self.by_use.remove(&used);
        }
        while self.by_number.len() > CURSORS_MAX || self.bytes > CURSOR_BYTES_MAX {
            let (_, oldest) = self.by_use.pop_first().expect("one use per position");
            let (old, _) = self.by_number.remove(&oldest).expect("one position per use");
            self.bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_keeps_its_number_and_old_ones_are_forgotten() {
        let cursors = Cursors::default();
        let first = cursors.number("first".into());
        assert_eq!(cursors.number("first".into()), first);
        assert_eq!(cursors.position(first), Some("first".into()));
        for number in 0..CURSORS_MAX {
            cursors.number(number.to_string().into());
        }
        assert_eq!(cursors.position(first), None);
        let long = cursors.number(vec![b'x'; CURSOR_BYTES_MAX].into());
        assert!(cursors.position(long).is_some());
        assert_eq!(cursors.positions.lock().unwrap().by_number.len(), 1);
    }
}
