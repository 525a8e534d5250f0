//! What this node's workers know about leadership, where other threads can read it. Written by the workers' threads
//! after their turns; changes nothing.

use crate::descriptor::RangeDescriptor;
use crate::metrics::{Raft, raise};
use multiraft::{Counters, GroupId, LeadershipChange, NodeId, Refusals, ReplicaId, Turn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Who leads a group, as this node's replica knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Led {
    /// The leader's node.
    pub(super) by: Option<NodeId>,
    /// Whether that is this node.
    pub(super) here: bool,
}

/// Hears who leads a group; None: nobody, as far as this node's replica knows.
type News = Box<dyn Fn(GroupId, Option<NodeId>) + Send + Sync>;

/// The board of one node.
pub(super) struct Board {
    homes: BTreeMap<(GroupId, ReplicaId), NodeId>,
    led: Mutex<BTreeMap<GroupId, Led>>,
    changes: AtomicU64,
    totals: Vec<Totals>,
    news: OnceLock<News>,
}

/// One worker's counters, as far as metrics want them.
#[derive(Default)]
struct Totals {
    elected: AtomicU64,
    proposed: AtomicU64,
    refusals: Mutex<Refusals>,
    snapshots_wanted: AtomicU64,
    snapshots_sent: AtomicU64,
    snapshots_failed: AtomicU64,
    snapshots_installed: AtomicU64,
}

impl Board {
    /// A board that lists the groups with a replica on this node as leaderless.
    pub(super) fn new<'a>(
        node: NodeId,
        workers: usize,
        groups: impl Iterator<Item = &'a RangeDescriptor>,
    ) -> Board {
        let here: Vec<&RangeDescriptor> = groups.filter(|range| range.replica_on(node).is_some()).collect();
        let homes = here.iter().flat_map(|range| {
            let replicas = range.replicas.iter();
            replicas.map(|(&replica, &node)| ((range.group, replica), node))
        });
        Board {
            homes: homes.collect(),
            led: Mutex::new(here.iter().map(|range| (range.group, Led::default())).collect()),
            changes: AtomicU64::new(0),
            totals: (0..workers).map(|_| Totals::default()).collect(),
            news: OnceLock::new(),
        }
    }

    /// Tells who leads what now, and from now on every change, from the workers' threads.
    pub(super) fn tell(&self, news: impl Fn(GroupId, Option<NodeId>) + Send + Sync + 'static) {
        let led = self.lock(); // no change may come between what is and what will be told
        led.iter().for_each(|(&group, led)| news(group, led.by));
        assert!(self.news.set(Box::new(news)).is_ok(), "one listener");
    }

    /// A worker reports a turn.
    pub(super) fn note(&self, worker: usize, turn: &Turn, counters: &Counters) {
        let totals = &self.totals[worker];
        totals.elected.store(counters.elected, Ordering::Relaxed);
        totals.proposed.store(counters.proposed, Ordering::Relaxed);
        for (total, count) in [
            (&totals.snapshots_wanted, counters.snapshots_wanted),
            (&totals.snapshots_sent, counters.snapshots_sent),
            (&totals.snapshots_failed, counters.snapshots_failed),
            (&totals.snapshots_installed, counters.snapshots_installed),
        ] {
            total.store(count, Ordering::Relaxed);
        }
        for (group, peer, why) in &turn.snapshots_failed {
            tracing::warn!(%group, %peer, why, "a snapshot did not get to its replica; another one will be sent");
        }
        *totals.refusals.lock().unwrap_or_else(PoisonError::into_inner) = counters.refusals;
        if !turn.leadership.is_empty() {
            let mut led = self.lock();
            for (group, change) in &turn.leadership {
                self.note_leader(&mut led, *group, change);
            }
        }
    }

    fn note_leader(&self, led: &mut BTreeMap<GroupId, Led>, group: GroupId, change: &LeadershipChange) {
        let home = |leader| self.homes.get(&(group, leader)).copied();
        let now = Led {
            by: change.leader.and_then(home),
            here: change.is_self,
        };
        let before = led.insert(group, now);
        if let Some(news) = self.news.get() {
            news(group, now.by);
        }
        if now.by.is_some() && before.is_none_or(|before| before.by != now.by) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Who leads each group.
    pub(super) fn led(&self) -> BTreeMap<GroupId, Led> {
        self.lock().clone()
    }

    /// Groups that this node leads.
    pub(super) fn led_here(&self) -> Vec<GroupId> {
        let led = self.lock();
        led.iter()
            .filter(|(_, led)| led.here)
            .map(|(&group, _)| group)
            .collect()
    }

    /// Groups that this node leads and of which one of the `live` nodes has a replica, too.
    pub(super) fn led_here_with(&self, live: &BTreeSet<NodeId>) -> BTreeSet<GroupId> {
        let led = self.lock();
        let others = self.homes.iter().filter(|(_, home)| live.contains(home));
        let groups = others.map(|(&(group, _), _)| group);
        groups
            .filter(|group| led.get(group).is_some_and(|led| led.here))
            .collect()
    }

    /// How many groups know a leader, and how many there are.
    pub(super) fn known_leaders(&self) -> (usize, usize) {
        let led = self.lock();
        let known = led.values().filter(|led| led.by.is_some()).count();
        (known, led.len())
    }

    /// Writes what is here to the metrics.
    pub(super) fn export(&self, raft: &Raft) {
        let led = self.lock().clone();
        let count = |wanted: fn(&Led) -> bool| led.values().filter(|led| wanted(led)).count() as i64;
        raft.groups_leader.set(count(|led| led.here));
        raft.groups_follower
            .set(count(|led| !led.here && led.by.is_some()));
        raft.groups_leaderless.set(count(|led| led.by.is_none()));
        raise(&raft.leader_changes, self.changes.load(Ordering::Relaxed));
        let sum = |of: fn(&Totals) -> &AtomicU64| {
            let each = self
                .totals
                .iter()
                .map(|totals| of(totals).load(Ordering::Relaxed));
            each.sum()
        };
        raise(&raft.elections_won, sum(|totals| &totals.elected));
        raise(&raft.proposals, sum(|totals| &totals.proposed));
        raise(&raft.snapshots_wanted, sum(|totals| &totals.snapshots_wanted));
        raise(&raft.snapshots_sent, sum(|totals| &totals.snapshots_sent));
        raise(&raft.snapshots_failed, sum(|totals| &totals.snapshots_failed));
        raise(
            &raft.snapshots_installed,
            sum(|totals| &totals.snapshots_installed),
        );
    }

    /// What was refused for want of room, by all workers, in the order of the metrics' labels.
    pub(super) fn refusals(&self) -> [u64; 8] {
        let mut sums = [0; 8];
        for totals in &self.totals {
            let refusals = *totals.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let each = [
                refusals.waiting,
                refusals.log,
                refusals.memory,
                refusals.space,
                refusals.too_large,
                refusals.appends_full,
                refusals.appends_space,
                refusals.appends_too_large,
            ];
            sums.iter_mut().zip(each).for_each(|(sum, count)| *sum += count);
        }
        sums
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Led>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use multiraft::Term;

    fn change(leader: Option<u64>, is_self: bool) -> Turn {
        let change = LeadershipChange {
            term: Term(1),
            leader: leader.map(ReplicaId),
            is_self,
        };
        Turn {
            leadership: vec![(GroupId(2), change)],
            ..Turn::default()
        }
    }

    #[test]
    fn leaders_are_noted_and_only_changes_counted() {
        let range = RangeDescriptor {
            group: GroupId(2),
            start: Bytes::new(),
            end: None,
            generation: 1,
            replicas: BTreeMap::from([(ReplicaId(11), NodeId(1)), (ReplicaId(12), NodeId(2))]),
        };
        let board = Board::new(NodeId(1), 1, [&range].into_iter());
        assert_eq!(board.known_leaders(), (0, 1));
        let turns = [
            change(Some(12), false),
            change(None, false),
            change(Some(11), true),
            change(Some(11), true),
        ];
        for turn in &turns {
            board.note(0, turn, &Counters::default());
        }
        assert_eq!(board.known_leaders(), (1, 1));
        assert_eq!(board.led_here(), [GroupId(2)]);
        let with = |live: &[u64]| board.led_here_with(&live.iter().copied().map(NodeId).collect());
        assert_eq!(with(&[2, 3]), BTreeSet::from([GroupId(2)]));
        assert!(
            with(&[]).is_empty() && with(&[3]).is_empty(),
            "nobody can take over"
        );
        assert_eq!(board.led()[&GroupId(2)].by, Some(NodeId(1)));
        assert_eq!(board.changes.load(Ordering::Relaxed), 2);
    }
}
