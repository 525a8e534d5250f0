//! The descriptor of a range: which keys, which group, whose replicas. Its byte form is versioned and never trusted.
//! Who changes descriptors, and when, is decided elsewhere.

use crate::kv::Span;
use bytes::Bytes;
use multiraft::{GroupId, Membership, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The only byte form so far.
const FORMAT: u8 = 1;

/// A key span and the group that serves it. The range's id is the group's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDescriptor {
    /// The group.
    pub group: GroupId,
    /// First key, included.
    pub start: Bytes,
    /// First key after it; None: to the end of the key space.
    pub end: Option<Bytes>,
    /// Bumped by split, merge and membership change.
    pub generation: u64,
    /// The replicas and where they live.
    pub replicas: BTreeMap<ReplicaId, NodeId>,
}

/// Why bytes are no descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer version of this program.
    #[error("range descriptor format {0} is newer than this program understands")]
    Newer(u8),
    /// Cut short, or not a descriptor.
    #[error("not a range descriptor")]
    Malformed,
}

/// The byte form after the format byte. Field order is the format.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    group: u64,
    #[serde(borrow)]
    start: &'a [u8],
    #[serde(borrow)]
    end: Option<&'a [u8]>,
    generation: u64,
    replicas: Vec<(u64, u64)>,
}

impl RangeDescriptor {
    /// The range's keys.
    pub fn span(&self) -> Span<'_> {
        Span {
            start: &self.start,
            end: self.end.as_deref(),
        }
    }

    /// Every replica as a voter: how a group is born at bootstrap.
    pub fn membership(&self) -> Membership {
        Membership::of_voters(self.replicas.iter().map(|(&replica, &node)| (replica, node)))
    }

    /// The replica that lives on this node, if any.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        let mut replicas = self.replicas.iter();
        replicas
            .find(|&(_, &lives)| lives == node)
            .map(|(&replica, _)| replica)
    }

    /// The byte form.
    pub fn encode(&self) -> Bytes {
        let wire = Wire {
            group: self.group.0,
            start: &self.start,
            end: self.end.as_deref(),
            generation: self.generation,
            replicas: self
                .replicas
                .iter()
                .map(|(replica, node)| (replica.0, node.0))
                .collect(),
        };
        postcard::to_extend(&wire, vec![FORMAT])
            .expect("plain data always has a byte form")
            .into()
    }

    /// Reads the byte form; trailing bytes are an error.
    pub fn decode(bytes: &Bytes) -> Result<RangeDescriptor, DecodeError> {
        let (&format, body) = bytes.split_first().ok_or(DecodeError::Malformed)?;
        if format != FORMAT {
            return Err(DecodeError::Newer(format));
        }
        let (wire, rest) = postcard::take_from_bytes::<Wire<'_>>(body).map_err(|_| DecodeError::Malformed)?;
        if !rest.is_empty() {
            return Err(DecodeError::Malformed);
        }
        Ok(RangeDescriptor {
            group: GroupId(wire.group),
            start: Bytes::copy_from_slice(wire.start),
            end: wire.end.map(Bytes::copy_from_slice),
            generation: wire.generation,
            replicas: wire
                .replicas
                .into_iter()
                .map(|(replica, node)| (ReplicaId(replica), NodeId(node)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(start: &'static [u8], end: Option<&'static [u8]>) -> RangeDescriptor {
        RangeDescriptor {
            group: GroupId(7),
            start: Bytes::from_static(start),
            end: end.map(Bytes::from_static),
            generation: 3,
            replicas: BTreeMap::from([(ReplicaId(1), NodeId(1)), (ReplicaId(9), NodeId(2))]),
        }
    }

    #[test]
    fn bytes_round_trip() {
        for descriptor in [descriptor(b"", None), descriptor(b"a\x00", Some(b"b"))] {
            assert_eq!(RangeDescriptor::decode(&descriptor.encode()), Ok(descriptor));
        }
    }

    #[test]
    fn damaged_and_newer_bytes_are_errors() {
        let good = descriptor(b"a", Some(b"b")).encode();
        for cut in 0..good.len() {
            assert_eq!(
                RangeDescriptor::decode(&good.slice(..cut)),
                Err(DecodeError::Malformed)
            );
        }
        let mut newer = good.to_vec();
        newer[0] = 2;
        assert_eq!(RangeDescriptor::decode(&newer.into()), Err(DecodeError::Newer(2)));
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(
            RangeDescriptor::decode(&longer.into()),
            Err(DecodeError::Malformed)
        );
    }

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let bounded = descriptor(b"b", Some(b"d"));
        let holds = |key: &[u8]| bounded.span().contains(key);
        assert!(holds(b"b") && holds(b"c\xff"));
        assert!(!holds(b"d") && !holds(b"a\xff"));
        assert!(descriptor(b"b", None).span().contains(b"\xff\xff"));
        assert_eq!(bounded.replica_on(NodeId(2)), Some(ReplicaId(9)));
        assert_eq!(bounded.replica_on(NodeId(3)), None);
    }
}
