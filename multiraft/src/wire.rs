//! The byte form of what travels between nodes: versioned, checked, never trusted. Decoding returns errors.
//! (The codec itself follows; this is its vocabulary.)

use crate::types::GroupId;
use raft_core::Envelope;

/// One Raft message and the group it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The message.
    pub envelope: Envelope,
}
