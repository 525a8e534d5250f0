//! The contract of durable storage: what a worker submits, what comes back, what a restart finds.
//! Implemented by `mem` (this crate, for tests and the simulator) and by store-redb.

use crate::network::Outgoing;
use crate::room::Room;
use crate::snapshot::{NoReader, SnapshotReader};
use crate::types::{Entry, EntryId, GroupId, HardState, Index, Life, Membership, NodeId, ReplicaId};
use bytes::Bytes;
use raft_core::WriteId;
use std::ops::RangeInclusive;

/// Numbers a worker's batches; grows by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// Numbers the checkpoints (consistent cuts) of one process run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CutId(pub u64);

/// Everything one turn of one worker must make durable, as one unit, with one fsync.
#[derive(Debug, Default)]
pub struct LogBatch {
    /// Comes back in `Completion::Durable`.
    pub id: BatchId,
    /// At most one per group.
    pub writes: Vec<GroupWrite>,
    /// New replicas born in this batch; written before anything of theirs.
    pub births: Vec<Birth>,
    /// Snapshots that take a group's place in this batch; written after the births, before the writes.
    pub installs: Vec<Install>,
    /// Replicas removed from this node; written after everything else.
    pub tombstones: Vec<Tombstone>,
    /// Frames that may leave only after the fsync: votes, grants, acknowledgements. The store hands them, untouched,
    /// to the completion sink, which sends them.
    pub then_send: Vec<Outgoing>,
}

impl LogBatch {
    /// True when nothing in it must become durable.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.births.is_empty()
            && self.installs.is_empty()
            && self.tombstones.is_empty()
    }
}

/// One group's part of a batch.
#[derive(Clone, Debug)]
pub struct GroupWrite {
    /// The group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// The replica's life; echoed in the completion.
    pub life: Life,
    /// raft-core's number of this write; echoed in the completion.
    pub write: WriteId,
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// New entries; they replace everything at and after the first one's index.
    pub entries: Vec<Entry>,
    /// The commit mark.
    pub commit: Index,
}

/// A replica that begins to exist on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The group.
    pub group: GroupId,
    /// The replica's id; never used before.
    pub replica: ReplicaId,
    /// Who is in the group at its first log position.
    pub membership: Membership,
    /// The log begins after this fixed position (term 0, index 0 for a group made at bootstrap).
    pub base: EntryId,
    /// What the node knows about the group (its range descriptor), opaque here.
    pub descriptor: Bytes,
    /// Where it comes from, if its state is part of another group's.
    pub split: Option<Split>,
}

/// The split that a group is born of. Until a durable checkpoint holds the child's row, a restart makes the child's
/// state by replaying the parent past the split: see [`RaftStorage::is_settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The group that was split.
    pub parent: GroupId,
    /// The parent's entry that says so: committed and durable here. The parent's commit mark becomes at least this.
    pub at: Index,
    /// The child's term and vote: it may have voted before this node applied the split.
    pub hard_state: HardState,
}

/// Names a snapshot that is being staged, or is staged, in this process run. How its rows get there is between the
/// state machine and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StagingId(pub u64);

/// A snapshot replaces a replica's log and state: never merges with them. Its rows are staged, durably, before.
/// The replica was born before, or is in this batch, and applies nothing until it hears `Completion::Installed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// Echoed.
    pub life: Life,
    /// The staged state; used up, whatever the outcome.
    pub staging: StagingId,
    /// The last entry that the staged state reflects. At or below the commit mark it installs nothing.
    pub snapshot: EntryId,
    /// The membership as of `snapshot`.
    pub membership: Membership,
    /// The replica's term and vote afterwards.
    pub hard_state: HardState,
    /// As of `snapshot`; opaque here.
    pub descriptor: Bytes,
}

/// A replica was removed from this node: its log and state go, and no replica with an id below `lowest` of this group
/// ever lives here again. Only moves forward: a lower `lowest` than before changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The group.
    pub group: GroupId,
    /// The lowest replica id that may still be born.
    pub lowest: ReplicaId,
}

/// One group as a restart finds it.
#[derive(Clone, Debug)]
pub struct RestoredGroup {
    /// The group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// Everything raft-core needs.
    pub restored: raft_core::Restored,
    /// As in `Birth`, or as last frozen.
    pub descriptor: Bytes,
    /// The group was split off this one, and its state is complete only once this one is replayed up to its commit
    /// mark: it belongs to the same worker and applies nothing before.
    pub after: Option<GroupId>,
}

/// One group's line in a checkpoint: what the state in the file reflects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// Its life, echoed in `Completion::Checkpointed`.
    pub life: Life,
    /// The last entry the frozen state reflects.
    pub applied: EntryId,
    /// The membership as of `applied`.
    pub membership: Membership,
    /// Opaque here.
    pub descriptor: Bytes,
}

/// What a worker asks for when a lagging peer needs entries that are no longer in memory.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The group.
    pub group: GroupId,
    /// Echoed.
    pub life: Life,
    /// The peer; echoed.
    pub peer: ReplicaId,
    /// Which entries; a prefix may be returned.
    pub range: RangeInclusive<Index>,
    /// Stop after this many bytes of entries, but return at least one.
    pub bytes_max: usize,
}

/// What storage reports, in the order in which it became true. Never lost, never duplicated.
#[derive(Debug)]
pub enum Completion {
    /// The batch is durable. `then_send` must be sent; `writes` must be told to their replicas.
    Durable {
        /// The batch.
        batch: BatchId,
        /// (group, life, write) of each of its writes.
        writes: Vec<(GroupId, Life, WriteId)>,
        /// The frames that waited.
        then_send: Vec<Outgoing>,
    },
    /// This install is durable. Comes before its batch's `Durable`.
    Installed {
        /// The group.
        group: GroupId,
        /// Its life.
        life: Life,
        /// The staged state.
        staging: StagingId,
        /// False: the snapshot was at or below the commit mark, nothing changed.
        is_installed: bool,
    },
    /// The checkpoint is durable: the state of these groups up to these indexes survives any crash.
    /// Without rows it only wakes the worker, so that its next turn boundary asks `cut_wanted`.
    Checkpointed {
        /// Per group.
        rows: Vec<(GroupId, Life, Index)>,
    },
    /// The answer to a fetch. Empty if the range was truncated meanwhile.
    Fetched {
        /// The group.
        group: GroupId,
        /// As asked.
        life: Life,
        /// As asked.
        peer: ReplicaId,
        /// Contiguous from the start of the range.
        entries: Vec<Entry>,
    },
}

/// Takes completions on the store's own thread: sends `then_send`, queues the rest for the worker. Must not block.
pub trait CompletionSink: Send + Sync {
    /// Called once per completion, in order.
    fn complete(&self, completion: Completion);
}

/// The durable log of one worker's groups. Writes are queued, made durable in order and acknowledged in order.
/// There is no error path: a store that cannot write ends the process (design rule 12.4).
pub trait RaftStorage {
    /// Queues a batch. Returns at once; `Completion::Durable` follows. Batches become durable in submit order.
    fn submit(&mut self, batch: LogBatch);
    /// Asks for cold entries; `Completion::Fetched` follows.
    fn fetch(&mut self, request: FetchRequest);
    /// The group's log up to here is no longer needed.
    fn truncate(&mut self, group: GroupId, index: Index);
    /// Asks for a checkpoint soon, whatever the store's own limits say. One that has begun need not be it: who waits for
    /// rows of its own looks at them and asks again.
    fn want_checkpoint(&mut self) {}
    /// A checkpoint that this worker has not frozen for yet, if one is wanted. Asked at every turn boundary.
    fn cut_wanted(&mut self) -> Option<CutId>;
    /// This worker's part of the cut: called at a turn boundary, after the state machine froze its memtables.
    /// One row for every group with a log write or an applied entry since its last row.
    fn freeze(&mut self, cut: CutId, rows: Vec<GroupRow>);
    /// What this worker may still take, besides hard states, births and entries without a command: for those a part
    /// of the log is kept. Asked at the beginning of every turn; what was submitted before counts as taken.
    fn room(&self) -> Room;
    /// False when a tombstone forbids this replica: its birth would be ignored.
    fn may_bear(&self, group: GroupId, replica: ReplicaId) -> bool;
    /// False while a group that was split off this one needs its replay (see [`Split`]): until then neither an install
    /// nor a tombstone of this group may be submitted. A checkpoint settles it.
    fn is_settled(&self, group: GroupId) -> bool;
    /// A reader of the group's state as of its row. Cheap: what takes time it does itself, on another thread.
    fn snapshot(&mut self, group: GroupId) -> Box<dyn SnapshotReader> {
        let _ = group;
        Box::new(NoReader)
    }
    /// The turn is over and the worker would sleep: a store that writes on the worker's own thread does it here, one
    /// batch at most. May block as long as a write takes. Only hosts call it; a store must not rely on it unless told.
    fn write_here(&mut self) {}
}

/// Finds the node a replica lives on. (A convenience for hosts; see `Membership::nodes`.)
pub fn node_of(membership: &Membership, replica: ReplicaId) -> Option<NodeId> {
    membership.nodes.get(&replica).copied()
}
