//! The closed list of everything that can happen to a worker, and the inbox that collects it.

use crate::snapshot::SnapshotEvent;
use crate::storage::{Birth, Completion};
use crate::types::{GroupId, Index, NodeId, ReplicaId, Ticket};
use crate::wire::GroupMessage;
use bytes::Bytes;
use raft_core::{MemberChange, ReadPolicy};
use std::time::Duration;

/// Something that has already happened.
#[derive(Debug)]
pub enum Event {
    /// Storage reports.
    Storage(Completion),
    /// A peer node's frame, decoded; only messages for this worker's groups.
    Messages {
        /// The node it came from, as the transport authenticated it.
        from: NodeId,
        /// What it carried.
        messages: Vec<GroupMessage>,
    },
    /// A peer node says that it is short of disk space.
    Short(NodeId),
    /// Frames of entries to this node were lost before they left.
    Unreachable(NodeId),
    /// Something happened to a snapshot.
    Snapshot(SnapshotEvent),
    /// A read of one group.
    Read {
        /// The group.
        group: GroupId,
        /// For `StateMachine::query`.
        query: Bytes,
        /// Where it may be answered, and how old the answer may be.
        policy: ReadPolicy,
        /// Where the answer goes.
        ticket: Ticket,
    },
    /// A proposal to one group.
    Propose {
        /// The group.
        group: GroupId,
        /// For `StateMachine::apply`.
        payload: Bytes,
        /// Where the answer goes.
        ticket: Ticket,
    },
    /// An order from the host.
    Control(Control),
}

/// Orders from the host. Later issues add membership, snapshots, splits.
#[derive(Debug)]
pub enum Control {
    /// A replica begins to exist.
    Create(Birth),
    /// Campaign now.
    Campaign(GroupId),
    /// Hand leadership over.
    Transfer {
        /// The group.
        group: GroupId,
        /// To whom.
        target: ReplicaId,
        /// Answered when the order was taken or refused.
        ticket: Ticket,
    },
    /// Change the membership.
    Change {
        /// The group.
        group: GroupId,
        /// What becomes of which replica, all at once.
        changes: Vec<MemberChange>,
        /// Answered when the change is complete and applied here, or refused; `Unknown` when leadership was lost
        /// before.
        ticket: Ticket,
    },
    /// Wait this much longer than others before campaigning.
    Delay {
        /// The group.
        group: GroupId,
        /// See `Options::campaign_delay`.
        delay: Duration,
    },
    /// Write a checkpoint soon, whatever the store's limits say.
    Checkpoint {
        /// The group.
        group: GroupId,
        /// Answered when a checkpoint holds all that the group has applied by now; with its position, eight bytes
        /// little-endian.
        ticket: Ticket,
    },
    /// Let go of the group's log up to here, even where a member needs it.
    Truncate {
        /// The group.
        group: GroupId,
        /// The last index; what no checkpoint holds stays until one does.
        index: Index,
    },
    /// Answer every waiter `Refused(Stopping)` or `Unknown` and take nothing more.
    Stop,
}
