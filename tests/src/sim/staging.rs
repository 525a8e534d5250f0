//! Snapshots on the simulated disks: reading a group's state as of its row, and staging one that arrives.
//! How they travel is in `streams`.

use super::disk::Disk;
use super::machine::GroupState;
use bytes::Bytes;
use multiraft::{GroupId, SnapshotHead, SnapshotReader, SnapshotStaging, SnapshotWriter, Staged, StagingId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// A piece of a stream: small, so that streams break off in the middle.
const PIECE_BYTES: usize = 48;

/// Reads a group's state in pieces. It was opened at one moment: what is checkpointed meanwhile does not show.
#[derive(Debug)]
pub(super) struct Reader {
    disk: Disk,
    group: GroupId,
    state: Bytes,
}

impl Reader {
    pub(super) fn new(disk: Disk, group: GroupId) -> Reader {
        Reader {
            disk,
            group,
            state: Bytes::new(),
        }
    }
}

impl SnapshotReader for Reader {
    fn open(&mut self) -> Result<SnapshotHead, String> {
        let contents = self.disk.lock();
        let (log, state) = contents
            .state(self.group)
            .ok_or("no checkpoint holds the group yet")?;
        self.state = state.encode();
        Ok(SnapshotHead {
            snapshot: log.checkpointed,
            membership: log.row.clone(),
            descriptor: log.descriptor.clone(),
        })
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        let piece = self.state.split_to(self.state.len().min(PIECE_BYTES));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// What one process has staged and not installed.
#[derive(Clone, Debug, Default)]
pub(super) struct Staging(Arc<Mutex<Stages>>);

#[derive(Debug, Default)]
struct Stages {
    last: u64,
    states: BTreeMap<StagingId, GroupState>,
}

impl Staging {
    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.0.lock().expect("one thread runs the world")
    }

    /// The process ended: so did what it staged.
    pub(super) fn clear(&self) {
        self.lock().states.clear();
    }

    /// What was staged under this name, for the install that uses it up.
    pub(super) fn take(&self, staging: StagingId) -> GroupState {
        let state = self.lock().states.remove(&staging);
        state.expect("a snapshot is staged before it is installed")
    }
}

impl SnapshotStaging for Staging {
    fn stage(&self) -> Result<Box<dyn SnapshotWriter>, String> {
        Ok(Box::new(Writer {
            staging: self.clone(),
            bytes: Vec::new(),
        }))
    }
}

/// Collects a snapshot's pieces.
struct Writer {
    staging: Staging,
    bytes: Vec<u8>,
}

impl SnapshotWriter for Writer {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, String> {
        let state = GroupState::decode(&self.bytes).ok_or("no state of a group")?;
        let mut stages = self.staging.lock();
        stages.last += 1;
        let staging = StagingId(stages.last);
        stages.states.insert(staging, state);
        drop(stages);
        Ok(Box::new(Kept {
            staging: self.staging,
            name: Some(staging),
        }))
    }
}

/// What was staged, until somebody takes it over.
#[derive(Debug)]
struct Kept {
    staging: Staging,
    name: Option<StagingId>,
}

impl Staged for Kept {
    fn hand_over(mut self: Box<Self>) -> StagingId {
        self.name.take().expect("handed over once")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.staging.lock().states.remove(&name);
        }
    }
}
