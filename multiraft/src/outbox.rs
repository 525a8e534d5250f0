//! Folds the messages of all groups to one node into one frame per lane.

use crate::limits::FRAME_BYTES_SOFT;
use crate::network::{Lane, Outgoing};
use crate::types::{GroupId, NodeId, ReplicaId};
use crate::wire::{FrameEncoder, lane_of};
use raft_core::Envelope;
use std::collections::BTreeMap;

/// Open frames by receiver, and those that are already full.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    open: BTreeMap<(NodeId, Lane), FrameEncoder>,
    full: Vec<Outgoing>,
    is_short: bool,
}

impl Outbox {
    /// Adds the messages of one group. Returns how many had no node to go to: nobody knows the receiver any more.
    pub(crate) fn fold(
        &mut self,
        group: GroupId,
        messages: &[Envelope],
        node_of: impl Fn(ReplicaId) -> Option<NodeId>,
    ) -> u64 {
        let mut unroutable = 0;
        for envelope in messages {
            match node_of(envelope.to) {
                Some(node) => self.push(node, group, envelope),
                None => unroutable += 1,
            }
        }
        unroutable
    }

    /// Whether frames closed from now on say that this node is short of disk space.
    pub(crate) fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Closes all frames; by node, control lane first.
    pub(crate) fn take_frames(&mut self) -> Vec<Outgoing> {
        let mut frames = std::mem::take(&mut self.full);
        for ((to, lane), encoder) in &mut self.open {
            if !encoder.is_empty() {
                encoder.set_short(self.is_short);
                frames.push(close(*to, *lane, encoder));
            }
        }
        frames
    }

    fn push(&mut self, to: NodeId, group: GroupId, envelope: &Envelope) {
        let lane = lane_of(&envelope.message);
        let encoder = self.open.entry((to, lane)).or_default();
        encoder.push(group, envelope);
        if encoder.len() >= FRAME_BYTES_SOFT {
            encoder.set_short(self.is_short);
            self.full.push(close(to, lane, encoder));
        }
    }
}

fn close(to: NodeId, lane: Lane, encoder: &mut FrameEncoder) -> Outgoing {
    let frame = encoder.finish();
    Outgoing { to, lane, frame }
}
