//! When which group wants to be woken: one heap per worker. Sleeping groups are not in it.

use crate::types::{GroupId, Instant};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Deadlines, soonest first. A group remembers the one deadline it is armed for and tells [`Timers::arm`] only about
/// earlier ones; an entry that no longer agrees with its group is void. So a timer that keeps being pushed back (an
/// election timeout at every heartbeat) costs nothing until it would have fired.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, GroupId)>>,
}

impl Timers {
    /// Wakes the group at `due`, unless it is armed for that time or an earlier one.
    pub(crate) fn arm(&mut self, group: GroupId, armed: &mut Option<Instant>, due: Option<Instant>) {
        let Some(due) = due else { return };
        if armed.is_none_or(|armed| due < armed) {
            *armed = Some(due);
            self.heap.push(Reverse((due, group)));
        }
    }

    /// The next entry that is due. The caller checks that the group is armed for that very time.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, GroupId)> {
        match self.heap.peek() {
            Some(Reverse((due, _))) if *due <= now => self.heap.pop().map(|Reverse(entry)| entry),
            _ => None,
        }
    }

    /// When to look again: no later than the earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_pushed_back_adds_nothing_and_one_pulled_forward_counts() {
        let mut timers = Timers::default();
        let (group, mut armed) = (GroupId(3), None);
        timers.arm(group, &mut armed, None);
        assert_eq!(timers.next(), None);
        timers.arm(group, &mut armed, Some(Instant(50)));
        timers.arm(group, &mut armed, Some(Instant(70)));
        timers.arm(group, &mut armed, Some(Instant(50)));
        assert_eq!(timers.heap.len(), 1);
        timers.arm(group, &mut armed, Some(Instant(20)));
        assert_eq!((timers.next(), armed), (Some(Instant(20)), Some(Instant(20))));
        assert_eq!(timers.pop(Instant(19)), None);
        assert_eq!(timers.pop(Instant(20)), Some((Instant(20), group)));
        assert_eq!(
            timers.next(),
            Some(Instant(50)),
            "void, and found to be so when it fires"
        );
    }
}
