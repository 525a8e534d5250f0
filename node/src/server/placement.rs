//! The static placement of a new cluster, computed alike by every node from the same options, and its comparison
//! with what a restart finds stored. Moving, splitting and joining come later. Pure.

use crate::descriptor::RangeDescriptor;
use crate::exit::{Code, Failure};
use bytes::Bytes;
use multiraft::{Birth, EntryId, GroupId, NodeId, ReplicaId};
use std::collections::BTreeSet;

/// Replicas of each group, in a cluster that has as many nodes.
const REPLICAS: usize = 3;
/// The first data group; the meta group comes before it.
const FIRST_DATA_GROUP: u64 = GroupId::META.0 + 1;

/// The ranges of a cluster and the meta group's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The meta group: a group without keys.
    pub(super) meta: RangeDescriptor,
    /// The data ranges, in key order; they cover the key space.
    pub(super) ranges: Vec<RangeDescriptor>,
}

impl Placement {
    /// The placement of a new cluster: group 1 on the first three nodes, range i on three nodes from the i-th on.
    /// A replica's id is its node's id: this placement is the only one that makes ids so.
    pub(super) fn of_new_cluster(nodes: &BTreeSet<NodeId>, boundaries: &[Bytes]) -> Placement {
        let nodes: Vec<NodeId> = nodes.iter().copied().collect();
        assert!(!nodes.is_empty(), "this node is one of them");
        let mut starts = vec![Bytes::new()];
        starts.extend_from_slice(boundaries);
        let ends = boundaries.iter().cloned().map(Some).chain([None]);
        let spans = starts.into_iter().zip(ends).enumerate();
        Placement {
            meta: descriptor(GroupId::META, (Bytes::new(), Some(Bytes::new())), &nodes, 0),
            ranges: spans
                .map(|(at, span)| descriptor(GroupId(FIRST_DATA_GROUP + at as u64), span, &nodes, at))
                .collect(),
        }
    }

    /// Every group's descriptor.
    pub(super) fn groups(&self) -> impl Iterator<Item = &RangeDescriptor> {
        std::iter::once(&self.meta).chain(&self.ranges)
    }

    /// How this node's replicas of these groups begin.
    pub(super) fn births(&self, node: NodeId) -> Vec<Birth> {
        let here = |range: &RangeDescriptor| {
            Some(Birth {
                group: range.group,
                replica: range.replica_on(node)?,
                membership: range.membership(),
                base: EntryId::ZERO,
                split: None,
                descriptor: range.encode(),
            })
        };
        self.groups().filter_map(here).collect()
    }

    /// What a start works with, given the descriptors that the node file holds: what is stored wins over what the
    /// options say.
    pub(super) fn settle(self, node: NodeId, stored: &[RangeDescriptor]) -> Result<Settled, Failure> {
        let expected: Vec<&RangeDescriptor> = self
            .groups()
            .filter(|range| range.replica_on(node).is_some())
            .collect();
        if stored.iter().all(|range| expected.contains(&range)) {
            let missing = |birth: &Birth| !stored.iter().any(|range| range.group == birth.group);
            let births = self.births(node).into_iter().filter(missing).collect();
            return Ok(Settled {
                placement: self,
                births,
                warning: None,
            });
        }
        let options = self.ranges.len();
        match stored_placement(stored) {
            Some(placement) if placement != self.nodes_with_ranges_of(&placement) => {
                Err(other_nodes(&self, &placement))
            }
            Some(placement) => Ok(Settled {
                warning: Some(format!(
                    "the data directory holds {} ranges placed by an earlier start; what --ranges, --split-keys and \
                     --initial-cluster say about ranges ({options}) has no effect",
                    placement.ranges.len()
                )),
                placement,
                births: Vec::new(),
            }),
            None => Err(Failure::new(
                Code::Configuration,
                format!("the data directory holds other ranges than these options make ({options})"),
            )
            .hint("start with the --ranges, --split-keys and --initial-cluster of the first start")),
        }
    }

    /// The nodes that hold replicas.
    fn nodes(&self) -> BTreeSet<NodeId> {
        self.groups()
            .flat_map(|range| range.replicas.values().copied())
            .collect()
    }

    /// What this placement's nodes would hold had they begun with the ranges of the other one.
    fn nodes_with_ranges_of(&self, other: &Placement) -> Placement {
        let starts = other.ranges.iter().skip(1).map(|range| range.start.clone());
        Placement::of_new_cluster(&self.nodes(), &starts.collect::<Vec<_>>())
    }
}

/// Nodes can not join or leave yet; a node that takes part in groups which the others know without it would only
/// campaign in vain.
fn other_nodes(options: &Placement, stored: &Placement) -> Failure {
    let list = |placement: &Placement| {
        let ids = placement.nodes().into_iter().map(|node| node.0.to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    Failure::new(
        Code::Configuration,
        format!(
            "the ranges in the data directory were placed on nodes {}, the options place them on nodes {}",
            list(stored),
            list(options)
        ),
    )
    .hint(
        "clusters are static: start with the --initial-cluster (for `dev`: --nodes) and the ranges of the first start, or with an \
         empty data directory",
    )
}

/// A placement that fits the node file.
#[derive(Debug)]
pub(super) struct Settled {
    /// Where everything is.
    pub(super) placement: Placement,
    /// Replicas that must be born on this node.
    pub(super) births: Vec<Birth>,
    /// What the user should know.
    pub(super) warning: Option<String>,
}

/// The placement that these descriptors make up, if they are the whole cluster's.
fn stored_placement(stored: &[RangeDescriptor]) -> Option<Placement> {
    let meta = stored.iter().find(|range| range.group == GroupId::META)?.clone();
    let data = stored.iter().filter(|range| range.group != GroupId::META);
    let mut ranges: Vec<RangeDescriptor> = data.cloned().collect();
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let touch = ranges
        .windows(2)
        .all(|pair| pair[0].end.as_ref() == Some(&pair[1].start));
    let whole = ranges.first()?.start.is_empty() && ranges.last()?.end.is_none();
    (touch && whole).then_some(Placement { meta, ranges })
}

/// `at` turns the list of nodes, so that more than three nodes share the ranges evenly.
fn descriptor(group: GroupId, span: (Bytes, Option<Bytes>), nodes: &[NodeId], at: usize) -> RangeDescriptor {
    let turned = nodes.iter().cycle().skip(at % nodes.len());
    let chosen = turned.take(REPLICAS.min(nodes.len()));
    RangeDescriptor {
        group,
        start: span.0,
        end: span.1,
        generation: 1,
        replicas: chosen.map(|&node| (ReplicaId(node.0), node)).collect(),
    }
}

/// The node whose replica campaigns first: leaders start out spread evenly.
pub(super) fn first_candidate(range: &RangeDescriptor) -> NodeId {
    let nodes: Vec<NodeId> = range.replicas.values().copied().collect();
    nodes[usize::try_from(range.group.0).expect("few groups") % nodes.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn nodes(count: u64) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    fn keys(keys: &[&'static str]) -> Vec<Bytes> {
        keys.iter()
            .map(|key| Bytes::from_static(key.as_bytes()))
            .collect()
    }

    fn stored(placement: &Placement) -> Vec<RangeDescriptor> {
        placement.groups().cloned().collect()
    }

    #[test]
    fn ranges_cover_the_key_space_on_three_nodes_each() {
        let placement = Placement::of_new_cluster(&nodes(3), &keys(&["40", "80"]));
        let groups: Vec<u64> = placement.groups().map(|range| range.group.0).collect();
        assert_eq!(groups, [1, 2, 3, 4]);
        assert_eq!(stored_placement(&stored(&placement)).as_ref(), Some(&placement));
        assert!(placement.groups().all(|range| range.replicas.len() == 3));
        assert!(!placement.meta.span().contains(b""));
        assert_eq!(placement.births(NodeId(2)).len(), 4);
        assert_eq!(placement.births(NodeId(2))[0].replica, ReplicaId(2));
    }

    #[test]
    fn more_nodes_share_the_ranges_and_leaders_are_spread() {
        let bounds: Vec<Bytes> = (1..20).map(|i| Bytes::from(format!("{i:02}"))).collect();
        let placement = Placement::of_new_cluster(&nodes(5), &bounds);
        let mut leaders: BTreeMap<NodeId, usize> = BTreeMap::new();
        for range in &placement.ranges {
            assert_eq!(range.replicas.len(), 3);
            *leaders.entry(first_candidate(range)).or_default() += 1;
        }
        assert_eq!(leaders.len(), 5);
        let mut replicas = nodes(5).into_iter().map(|node| placement.births(node).len());
        assert!(replicas.all(|count| (11..=14).contains(&count)));
        let lone = Placement::of_new_cluster(&nodes(1), &[]);
        assert_eq!(lone.ranges[0].replicas.len(), 1);
    }

    #[test]
    fn a_first_start_and_an_interrupted_one_make_what_is_missing() {
        let placement = Placement::of_new_cluster(&nodes(3), &keys(&["40"]));
        let settled = placement.clone().settle(NodeId(1), &[]).unwrap();
        assert_eq!((settled.births.len(), settled.warning), (3, None));
        let some = &stored(&placement)[..2];
        let settled = placement.clone().settle(NodeId(1), some).unwrap();
        assert_eq!(settled.births[0].group, GroupId(3));
        let settled = placement.clone().settle(NodeId(1), &stored(&placement)).unwrap();
        assert!(settled.births.is_empty() && settled.warning.is_none());
    }

    #[test]
    fn what_is_stored_wins_over_the_options() {
        let old = Placement::of_new_cluster(&nodes(3), &keys(&["40"]));
        let new = Placement::of_new_cluster(&nodes(3), &keys(&["40", "80"]));
        let settled = new.clone().settle(NodeId(1), &stored(&old)).unwrap();
        assert_eq!(settled.placement, old);
        assert!(settled.births.is_empty());
        assert!(settled.warning.unwrap().contains("holds 2 ranges"));
        for count in [1, 2, 4] {
            let moved = Placement::of_new_cluster(&nodes(count), &keys(&["40"]));
            let failure = moved.settle(NodeId(1), &stored(&old)).unwrap_err();
            assert_eq!(failure.code, Code::Configuration);
            assert!(failure.message.contains("placed on nodes 1,2,3,"), "{failure}");
        }
        let part = [old.ranges[1].clone()];
        let failure = new.settle(NodeId(1), &part).unwrap_err();
        assert_eq!(failure.code, Code::Configuration);
    }
}
