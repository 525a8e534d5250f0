//! Fairness between groups that share a bound: who holds much of it leaves what is left to those who hold little.
//!
//! A group may hold any part while there is plenty. When a bound is nearly reached, a group that holds more than
//! [`GREED`] times what is left gets no more until some of its own is answered. So one flooded or stalled group, or a
//! few of them, never take the last of it: whoever holds nothing is refused only when nothing is left at all.

use crate::limits::GREED;
use crate::types::GroupId;
use std::collections::BTreeMap;

/// Whether a holder of `own`, of the `used` out of `max`, may have more.
pub(crate) fn is_fair(own: usize, used: usize, max: usize) -> bool {
    own <= GREED.saturating_mul(max.saturating_sub(used))
}

/// Whether anybody could hold so much that it matters who does.
pub(crate) fn is_tight(used: usize, max: usize) -> bool {
    !is_fair(used, used, max)
}

/// What each group holds of a queue: counted only once the queue is nearly full.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    groups: BTreeMap<GroupId, Share>,
}

/// What one group holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    /// Requests of each class.
    pub(crate) requests: [usize; 2],
    /// Their bytes.
    pub(crate) bytes: usize,
}

impl Shares {
    /// What the group holds.
    pub(crate) fn of(&self, group: GroupId) -> Share {
        self.groups.get(&group).copied().unwrap_or_default()
    }

    /// One more request of a class.
    pub(crate) fn add(&mut self, group: GroupId, class: usize, bytes: usize) {
        let share = self.groups.entry(group).or_default();
        share.requests[class] += 1;
        share.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups that take whatever they get, in turns, until nobody gets more.
    fn taken_by(hogs: usize, max: usize) -> Vec<usize> {
        let mut held = vec![0; hogs];
        loop {
            let before = held.clone();
            for hog in 0..hogs {
                let used = held.iter().sum();
                held[hog] += usize::from(used < max && is_fair(held[hog], used, max));
            }
            if held == before {
                return held;
            }
        }
    }

    #[test]
    fn hogs_leave_something_and_what_they_take_is_shared_equally() {
        for hogs in 1..20 {
            let held = taken_by(hogs, 10_000);
            let used: usize = held.iter().sum();
            let (least, most) = (held.iter().min(), held.iter().max());
            assert!(used < 10_000, "{hogs} groups left nothing to others");
            assert!(used >= 8_000, "{hogs} groups leave {} unused", 10_000 - used);
            assert!(most.unwrap() - least.unwrap() <= 1, "{held:?}");
            assert!(is_fair(0, used, 10_000));
        }
    }

    #[test]
    fn nobody_is_counted_before_it_matters() {
        assert!(!is_tight(80, 100));
        assert!(is_tight(81, 100));
        assert!(is_tight(100, 100) && is_fair(0, 100, 100));
    }
}
