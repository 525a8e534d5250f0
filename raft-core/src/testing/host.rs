//! One replica with a disk: what is written is lost in a crash unless it was synced, what is applied unless
//! it was checkpointed. No fault of a disk is simulated here; that is the simulator's work.

use crate::{
    Entry, EntryId, HardState, Index, Instant, LogWrite, Membership, Options, OrderId, Payload, Replica,
    ReplicaId, Restored, Snapshot, WriteId,
};
use std::collections::VecDeque;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log begins after this entry.
    pub truncated: EntryId,
    /// The membership as of `truncated`.
    pub membership: Membership,
    /// The log.
    pub entries: Vec<Entry>,
    /// The commit mark.
    pub commit: Index,
    /// The state holds the log up to here.
    pub checkpointed: Index,
}

impl Disk {
    /// What a replica is restored from.
    pub fn restored(&self) -> Restored {
        Restored {
            hard_state: self.hard_state,
            truncated: self.truncated,
            membership: self.membership.clone(),
            entries: self.entries.clone(),
            commit: self.commit.max(self.checkpointed),
            applied: self.checkpointed,
            checkpointed: self.checkpointed,
        }
    }

    /// Makes a write durable.
    pub fn write(&mut self, write: &LogWrite) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(snapshot) = &write.install {
            self.install(snapshot);
        }
        if let Some(first) = write.entries.first() {
            self.entries.truncate(self.position(first.id.index));
            assert_eq!(
                self.last().index.next(),
                first.id.index,
                "a write leaves a hole in the log"
            );
            self.entries.extend_from_slice(&write.entries);
        }
        self.commit = write.commit;
    }

    fn install(&mut self, snapshot: &Snapshot) {
        assert!(
            snapshot.id.index > self.commit.max(self.checkpointed),
            "an install leads back to {}",
            snapshot.id
        );
        self.truncated = snapshot.id;
        self.membership = snapshot.membership.clone();
        self.entries.clear();
        self.checkpointed = snapshot.id.index;
    }

    /// What a peer would get.
    pub fn snapshot(&self) -> Snapshot {
        let inside = self.entries.iter();
        let inside: Vec<&Entry> = inside
            .take_while(|entry| entry.id.index <= self.checkpointed)
            .collect();
        let changes = inside.iter().rev().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        Snapshot {
            id: inside.last().map_or(self.truncated, |entry| entry.id),
            membership: changes.into_iter().next().unwrap_or(&self.membership).clone(),
        }
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.truncated, |entry| entry.id)
    }

    /// The entry at `index`, unless it is truncated or not there.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        (index > self.truncated.index).then(|| self.entries.get(self.position(index)))?
    }

    /// True when it holds `id`, in the log or before it.
    pub fn holds(&self, id: EntryId) -> bool {
        id.index <= self.truncated.index || self.entry(id.index).is_some_and(|entry| entry.id == id)
    }

    /// Drops the log up to `index`.
    pub fn truncate(&mut self, index: Index) {
        assert!(
            index <= self.checkpointed,
            "the log is dropped before the state holds it"
        );
        let gone = self.position(index.next());
        for entry in self.entries.drain(..gone) {
            self.truncated = entry.id;
            if let Payload::Membership(membership) = entry.payload {
                self.membership = *membership;
            }
        }
    }

    fn position(&self, index: Index) -> usize {
        usize::try_from(index.0 - self.truncated.index.0 - 1).expect("small logs")
    }
}

/// A replica, up or crashed, with its disk.
#[derive(Debug)]
pub struct Host {
    /// Its id.
    pub id: ReplicaId,
    /// None while crashed.
    pub replica: Option<Replica>,
    /// What a crash leaves.
    pub disk: Disk,
    /// Writes not yet synced, oldest first.
    pub unsynced: VecDeque<LogWrite>,
    /// The last write that is on the disk and of which the replica was not told.
    pub unreported: Option<WriteId>,
    /// Entries handed out and not yet applied, oldest first.
    pub unapplied: VecDeque<Entry>,
    /// The last applied index.
    pub applied: Index,
    /// The leader as told by `Ready.leadership`.
    pub leader: Option<ReplicaId>,
    /// How often it was started: part of its seed.
    pub starts: u64,
    /// The snapshot that it is installing.
    pub arriving: Option<Arriving>,
}

/// A snapshot that was taken: its sender hears of it once it is durable.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    /// The sender.
    pub from: ReplicaId,
    /// Which start of the sender ordered it.
    pub start: u64,
    /// Its order.
    pub order: OrderId,
}

impl Host {
    /// A host that is down.
    pub fn new(id: ReplicaId, disk: Disk) -> Host {
        Host {
            id,
            replica: None,
            disk,
            unsynced: VecDeque::new(),
            unreported: None,
            unapplied: VecDeque::new(),
            applied: Index(0),
            leader: None,
            starts: 0,
            arriving: None,
        }
    }

    /// Everything not durable is gone.
    pub fn crash(&mut self) {
        self.replica = None;
        self.unsynced.clear();
        self.unreported = None;
        self.unapplied.clear();
        self.leader = None;
    }

    /// Starts from the disk.
    pub fn restart(&mut self, options: Options, seed: u64, now: Instant) {
        self.starts += 1;
        let seed = seed.wrapping_mul(31).wrapping_add(self.starts);
        self.applied = self.disk.checkpointed;
        self.replica = Some(Replica::new(self.id, self.disk.restored(), options, seed, now));
    }
}
