//! The table of open requests: everything submitted and not yet answered. Whoever takes an entry out answers it, so
//! that each is answered exactly once.

use super::limits::{OPEN_PER_SHARD_MAX, SHARDS};
use crate::metrics::Api;
use crate::service::Request;
use multiraft::{GroupId, NodeId, Refusal, Ticket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Low bits of a number that name the shard.
pub(super) const SHARD_BITS: u32 = 4;
/// Bits above them that name the slot.
pub(super) const INDEX_BITS: u32 = 28;

/// Where a request is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Refused for this reason; waits to be sent again.
    Waiting(Refusal),
    /// With a worker of this node.
    Here,
    /// Sent to this node.
    At(NodeId),
}

/// One open request.
#[derive(Debug)]
pub(super) struct Open {
    /// Kept for sending it again.
    pub(super) request: Request,
    /// The group it is routed to.
    pub(super) group: GroupId,
    /// Who waits.
    pub(super) ticket: Ticket,
    /// The door it came in by.
    pub(super) api: Api,
    /// When.
    pub(super) submitted: Instant,
    /// When to give up.
    pub(super) deadline: Instant,
    /// Refusals so far.
    pub(super) refusals: u32,
    /// Where it is.
    pub(super) place: Place,
    /// Whether its stages are being followed.
    pub(super) followed: bool,
}

/// All open requests. A number names one submission: sending again makes a new one, so an answer to an earlier
/// submission finds nothing.
#[derive(Default)]
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    open: Option<Open>,
}

impl Table {
    /// Adds a request and numbers it; gives it back when its shard is full.
    pub(super) fn insert(&self, open: Open) -> Result<u64, Box<Open>> {
        let shard = open.group.0 as usize % SHARDS;
        self.shard(shard).insert(open).map(|number| number | shard as u64)
    }

    /// Takes a request out; None when it was taken already.
    pub(super) fn take(&self, number: u64) -> Option<Open> {
        self.shard(number as usize % SHARDS).take(number)
    }

    /// Takes every request out whose deadline has passed. Returns them and how many remain.
    pub(super) fn take_expired(&self, now: Instant) -> (Vec<Open>, usize) {
        let (mut expired, mut left) = (Vec::new(), 0);
        for shard in 0..SHARDS {
            left += self
                .shard(shard)
                .take_where(|open| open.deadline <= now, &mut expired);
        }
        (expired, left)
    }

    /// Takes every request out.
    pub(super) fn take_all(&self) -> Vec<Open> {
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            self.shard(shard).take_where(|_| true, &mut all);
        }
        all
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn insert(&mut self, open: Open) -> Result<u64, Box<Open>> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.slots.len() >= OPEN_PER_SHARD_MAX => return Err(Box::new(open)),
            None => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[index];
        assert!(slot.open.is_none(), "a free slot is empty");
        slot.open = Some(open);
        Ok(u64::from(slot.generation) << (INDEX_BITS + SHARD_BITS) | (index as u64) << SHARD_BITS)
    }

    fn take(&mut self, number: u64) -> Option<Open> {
        let index = (number >> SHARD_BITS) as u32 & ((1 << INDEX_BITS) - 1);
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.generation) != number >> (INDEX_BITS + SHARD_BITS) {
            return None;
        }
        let open = slot.open.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(open)
    }

    /// Returns how many remain open.
    fn take_where(&mut self, wanted: impl Fn(&Open) -> bool, taken: &mut Vec<Open>) -> usize {
        let mut left = 0;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            match &slot.open {
                Some(open) if wanted(open) => {
                    taken.extend(slot.open.take());
                    slot.generation = slot.generation.wrapping_add(1);
                    self.free.push(u32::try_from(index).expect("slots are bounded"));
                }
                Some(_) => left += 1,
                None => {}
            }
        }
        left
    }
}
