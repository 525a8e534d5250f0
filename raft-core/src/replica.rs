//! One replica: the public calls, dispatch by role, and the invariants checked at the end of each call.
//! (Skeleton of the contract; the rooms follow.)

use crate::message::Envelope;
use crate::options::Options;
use crate::ready::{Ignored, Ready, Refused, Status};
use crate::types::{
    Entry, EntryId, HardState, Index, Instant, Membership, ReadId, ReplicaId, Stamp, WriteId,
};
use bytes::Bytes;
use std::ops::RangeInclusive;

/// What a replica is rebuilt from after a restart, or born with.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Its durable term and vote.
    pub hard_state: HardState,
    /// The log up to and including this entry is gone.
    pub truncated: EntryId,
    /// The membership as of `truncated`; memberships in `entries` follow on top.
    pub membership: Membership,
    /// Every durable entry after `truncated`, contiguous.
    pub entries: Vec<Entry>,
    /// The durable commit mark; at least `applied`.
    pub commit: Index,
    /// The state machine already reflects the log up to here.
    pub applied: Index,
    /// The state up to here survives any crash without the log.
    pub checkpointed: Index,
}

/// One replica of one Raft group, sans-IO.
#[derive(Debug)]
pub struct Replica {}

#[allow(unused_variables, missing_docs)]
impl Replica {
    pub fn new(id: ReplicaId, restored: Restored, options: Options, seed: u64, now: Instant) -> Replica {
        unimplemented!()
    }

    // inputs
    pub fn step(&mut self, now: Instant, message: Envelope) -> Result<(), Ignored> {
        unimplemented!()
    }
    /// Call when `deadline()` has passed.
    pub fn tick(&mut self, now: Instant) {
        unimplemented!()
    }
    /// Campaign now, without waiting for the election timeout.
    pub fn campaign(&mut self, now: Instant) {
        unimplemented!()
    }
    pub fn propose(
        &mut self,
        now: Instant,
        stamp: Stamp,
        payloads: Vec<Bytes>,
    ) -> Result<RangeInclusive<Index>, Refused> {
        unimplemented!()
    }
    /// One no-op entry that only carries a stamp, so that the group clock advances.
    pub fn propose_stamp(&mut self, now: Instant, stamp: Stamp) -> Result<Index, Refused> {
        unimplemented!()
    }
    pub fn read(&mut self, now: Instant, read: ReadId) -> Result<(), Refused> {
        unimplemented!()
    }
    pub fn transfer_leadership(&mut self, now: Instant, target: ReplicaId) -> Result<(), Refused> {
        unimplemented!()
    }

    // completions
    pub fn on_durable(&mut self, now: Instant, write: WriteId) {
        unimplemented!()
    }
    pub fn on_applied(&mut self, applied: Index) {
        unimplemented!()
    }
    /// The state up to here survives any crash without the log.
    pub fn on_checkpointed(&mut self, checkpointed: Index) {
        unimplemented!()
    }
    pub fn on_fetched(&mut self, now: Instant, peer: ReplicaId, entries: Vec<Entry>) {
        unimplemented!()
    }

    // outputs
    pub fn ready(&mut self) -> Ready {
        unimplemented!()
    }
    /// True when `ready` would return something.
    pub fn has_ready(&self) -> bool {
        unimplemented!()
    }
    /// When to call `tick`; None: nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    // questions
    pub fn status(&self) -> Status {
        unimplemented!()
    }
    pub fn is_leader(&self) -> bool {
        unimplemented!()
    }
    pub fn leader(&self) -> Option<ReplicaId> {
        unimplemented!()
    }
    pub fn membership(&self) -> &Membership {
        unimplemented!()
    }
}
