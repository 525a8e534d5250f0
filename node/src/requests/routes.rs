//! The route table: which group serves a key, where its replicas live, and who leads it as far as is known.
//! Read on every request, swapped whole when ranges change; hints change in place.

use crate::descriptor::RangeDescriptor;
use crate::service::RangeRoute;
use multiraft::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// No node has this id.
const NOBODY: u64 = 0;

/// All ranges in key order.
#[derive(Debug)]
pub struct Routes {
    ranges: Vec<Route>,
    by_group: BTreeMap<GroupId, usize>,
}

#[derive(Debug)]
struct Route {
    descriptor: RangeDescriptor,
    nodes: Vec<NodeId>,
    leader: AtomicU64,
}

impl Routes {
    /// Routes over these ranges. They must cover the key space without a gap or an overlap.
    pub fn new(mut descriptors: Vec<RangeDescriptor>) -> Routes {
        descriptors.sort_by(|a, b| a.start.cmp(&b.start));
        assert_covers(&descriptors);
        let ranges: Vec<Route> = descriptors.into_iter().map(Route::new).collect();
        let ids = ranges.iter().enumerate();
        Routes {
            by_group: ids.map(|(at, route)| (route.descriptor.group, at)).collect(),
            ranges,
        }
    }

    /// The group that serves this key.
    pub fn group_of(&self, key: &[u8]) -> GroupId {
        let after = self
            .ranges
            .partition_point(|route| route.descriptor.start[..] <= *key);
        self.ranges[after - 1].descriptor.group
    }

    /// All descriptors in key order.
    pub fn descriptors(&self) -> impl Iterator<Item = &RangeDescriptor> {
        self.ranges.iter().map(|route| &route.descriptor)
    }

    /// Who leads the group, as far as is known here.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.route(group)?.leader.load(Ordering::Relaxed);
        (leader != NOBODY).then_some(NodeId(leader))
    }

    /// Where the group's replicas live, in replica order; empty for an unknown group.
    pub fn nodes(&self, group: GroupId) -> &[NodeId] {
        self.route(group).map_or(&[], |route| &route.nodes)
    }

    /// This node leads the group: an answer or a hint said so.
    pub fn learn(&self, group: GroupId, leader: NodeId) {
        if let Some(route) = self.route(group) {
            route.leader.store(leader.0, Ordering::Relaxed);
        }
    }

    /// This node does not lead the group, and named nobody else.
    pub fn forget(&self, group: GroupId, not_leader: NodeId) {
        if let Some(route) = self.route(group) {
            let _ = route
                .leader
                .compare_exchange(not_leader.0, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// All ranges as gateways see them.
    pub fn ranges(&self) -> Vec<RangeRoute> {
        let descriptors = self.descriptors();
        descriptors
            .map(|range| RangeRoute {
                group: range.group,
                start: range.start.clone(),
                end: range.end.clone(),
            })
            .collect()
    }

    fn route(&self, group: GroupId) -> Option<&Route> {
        self.by_group.get(&group).map(|&at| &self.ranges[at])
    }
}

impl Route {
    fn new(descriptor: RangeDescriptor) -> Route {
        Route {
            nodes: descriptor.replicas.values().copied().collect(),
            leader: AtomicU64::new(NOBODY),
            descriptor,
        }
    }
}

fn assert_covers(sorted: &[RangeDescriptor]) {
    let first = sorted.first().expect("a cluster has at least one range");
    assert!(first.start.is_empty(), "the first range starts the key space");
    for pair in sorted.windows(2) {
        assert_eq!(
            pair[0].end.as_ref(),
            Some(&pair[1].start),
            "{} and {} touch",
            pair[0].group,
            pair[1].group
        );
    }
    let last = sorted.last().expect("checked above");
    assert_eq!(last.end, None, "the last range ends the key space");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use multiraft::ReplicaId;

    fn range(group: u64, start: &'static str, end: Option<&'static str>) -> RangeDescriptor {
        RangeDescriptor {
            group: GroupId(group),
            start: Bytes::from_static(start.as_bytes()),
            end: end.map(|end| Bytes::from_static(end.as_bytes())),
            generation: 1,
            replicas: BTreeMap::from([(ReplicaId(1), NodeId(1)), (ReplicaId(2), NodeId(2))]),
        }
    }

    fn routes() -> Routes {
        Routes::new(vec![
            range(4, "m", None),
            range(2, "", Some("c")),
            range(3, "c", Some("m")),
        ])
    }

    #[test]
    fn every_key_has_one_group() {
        let routes = routes();
        for (key, group) in [("", 2), ("bzzz", 2), ("c", 3), ("lz", 3), ("m", 4), ("\u{7f}", 4)] {
            assert_eq!(routes.group_of(key.as_bytes()), GroupId(group), "{key:?}");
        }
    }

    #[test]
    fn a_hint_is_forgotten_only_when_it_named_that_node() {
        let routes = routes();
        routes.learn(GroupId(3), NodeId(2));
        routes.forget(GroupId(3), NodeId(1));
        assert_eq!(routes.leader(GroupId(3)), Some(NodeId(2)));
        routes.forget(GroupId(3), NodeId(2));
        assert_eq!(routes.leader(GroupId(3)), None);
        assert_eq!(routes.leader(GroupId(99)), None);
    }

    #[test]
    #[should_panic(expected = "g2 and g4 touch")]
    fn a_gap_is_refused() {
        Routes::new(vec![range(2, "", Some("c")), range(4, "m", None)]);
    }
}
