//! The contract of the replicated state machine.

use crate::storage::CutId;
use crate::types::{Entry, EntryId, GroupId, Stamp};
use bytes::Bytes;

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queried {
    /// The answer.
    Answer(Bytes),
    /// The answer depends on time that the group clock has not reached (a key whose deadline lies between the group
    /// clock and the stamp): commit a stamp-only entry, apply it, ask again.
    AdvanceClock,
}

/// The state of a worker's groups. Deterministic: same state and entries, same new state and answers on every replica.
/// No wall clock, no random numbers, no I/O errors: what it cannot read or write ends the process.
pub trait StateMachine {
    /// Applies committed entries in order, each exactly once, and pushes exactly one answer per entry onto `answers`
    /// (empty bytes for entries that carry no command).
    fn apply(&mut self, group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>);
    /// Evaluates a read against the applied state. `stamp` is the leader's clock at the grant.
    fn query(&mut self, group: GroupId, query: &Bytes, stamp: Stamp) -> Queried;
    /// The largest stamp applied in this group; leaders stamp max(wall, this).
    fn clock(&self, group: GroupId) -> Stamp;
    /// Freezes the memtables of all groups for the cut: writes from now on belong to the next one.
    fn freeze(&mut self, cut: CutId);
    /// What the node knows about the group (its range descriptor) as of the last applied entry; opaque.
    fn descriptor(&self, group: GroupId) -> Bytes;
    /// Bytes by which applying this command may let the state grow, at most; 0: it does not grow. Cheap: asked for
    /// every command that arrives.
    fn growth(&self, command: &[u8]) -> u64 {
        command.len() as u64
    }
    /// A group begins to exist here (born, or restored): `applied` names the last entry its state reflects.
    fn open(&mut self, group: GroupId, descriptor: &Bytes, applied: EntryId);
    /// A snapshot has taken the place of the group's state, durably: everything before is gone, and `snapshot` names the
    /// last entry that the state reflects now.
    fn install(&mut self, group: GroupId, descriptor: &Bytes, snapshot: EntryId);
}
