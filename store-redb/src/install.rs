//! Snapshots on their way in: rows are staged, durably and in bounded pieces, into a slot that nobody maps. An install
//! in the log then makes the slot a group's. The checkpointer writes staged rows; nobody else commits to redb.

use crate::engine::{Engine, lock};
use crate::limits::{STAGED_BYTES_MAX, STAGINGS_MAX};
use crate::slot::Slot;
use crate::span::{Piece, Span};
use bytes::Bytes;
use multiraft::{Space, StagingId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError};

/// Keys and values of a snapshot.
pub type Rows = Vec<(Bytes, Bytes)>;

/// Snapshots that are being staged.
#[derive(Debug, Default)]
pub(crate) struct Stagings {
    begun: u64,
    open: BTreeMap<StagingId, Stage>,
    waiting: VecDeque<StagedRows>,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct Stage {
    slot: Slot,
    /// Pieces that are not durable yet.
    pieces: usize,
    /// An install may use it: nobody holds it any more.
    is_handed_over: bool,
}

/// One piece of a snapshot, on its way to redb.
#[derive(Debug)]
pub(crate) struct StagedRows {
    staging: StagingId,
    pub(crate) slot: Slot,
    pub(crate) rows: Rows,
}

/// A snapshot that is being staged. Dropped before [`Staging::hand_over`], it is abandoned and its rows are deleted;
/// so it is at the next start unless a durable install used it.
pub struct Staging {
    engine: Arc<Engine>,
    id: StagingId,
    is_handed_over: bool,
}

impl Staging {
    /// `None`: too many snapshots are being staged, or disk space is short.
    pub(crate) fn begin(engine: Arc<Engine>) -> Option<Staging> {
        if engine.disk_space() != Space::Ample {
            return None;
        }
        let slot = engine.new_slot();
        let id = lock(&engine.stagings).begin(slot)?;
        Some(Staging {
            engine,
            id,
            is_handed_over: false,
        })
    }

    /// Queues a piece of the snapshot, in any order of keys; of equal keys the last one counts. Gives the rows back
    /// when too much is waiting for redb: [`Staging::wait_for_room`].
    pub fn offer(&mut self, rows: Rows) -> Result<(), Rows> {
        lock(&self.engine.stagings).offer(self.id, rows)?;
        self.engine.wake_checkpointer();
        Ok(())
    }

    /// Blocks until another piece would be taken, or the store stops. Not for whoever takes the store's steps.
    pub fn wait_for_room(&self) {
        self.wait_while(|stagings| !stagings.has_room());
    }

    /// True when every row that was offered is durable.
    pub fn is_durable(&self) -> bool {
        lock(&self.engine.stagings).is_durable(self.id)
    }

    /// Blocks until every row that was offered is durable. False: the store stops.
    #[must_use]
    pub fn wait_until_durable(&self) -> bool {
        self.wait_while(|stagings| !stagings.is_durable(self.id));
        self.is_durable()
    }

    /// The snapshot is complete and durable: an install in a batch of this process run may name it, once.
    pub fn hand_over(mut self) -> StagingId {
        lock(&self.engine.stagings).hand_over(self.id);
        self.is_handed_over = true;
        self.id
    }

    fn wait_while(&self, holds: impl Fn(&Stagings) -> bool) {
        let mut stagings = lock(&self.engine.stagings);
        while holds(&stagings) && !self.engine.is_stopping() {
            stagings = self
                .engine
                .staged
                .wait(stagings)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// For bugs that tests seed.
#[cfg(any(test, feature = "testing"))]
impl Staging {
    /// Takes it for durable, whether it is or not.
    pub(crate) fn believe(&self) {
        if let Some(stage) = lock(&self.engine.stagings).open.get_mut(&self.id) {
            stage.pieces = 0;
        }
    }

    /// Stages into another slot.
    pub(crate) fn redirect(&self, slot: Slot) {
        if let Some(stage) = lock(&self.engine.stagings).open.get_mut(&self.id) {
            stage.slot = slot;
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.engine.abandon(self.id);
        }
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staging({})", self.id.0)
    }
}

impl Stagings {
    fn begin(&mut self, slot: Slot) -> Option<StagingId> {
        if self.open.len() >= STAGINGS_MAX {
            return None;
        }
        self.begun += 1;
        let id = StagingId(self.begun);
        let stage = Stage {
            slot,
            pieces: 0,
            is_handed_over: false,
        };
        self.open.insert(id, stage);
        Some(id)
    }

    fn has_room(&self) -> bool {
        self.waiting_bytes < STAGED_BYTES_MAX
    }

    fn offer(&mut self, staging: StagingId, rows: Rows) -> Result<(), Rows> {
        if !self.has_room() {
            return Err(rows);
        }
        let stage = self
            .open
            .get_mut(&staging)
            .expect("a staging is open while it is held");
        stage.pieces += 1;
        let slot = stage.slot;
        self.waiting_bytes += bytes_of(&rows);
        self.waiting.push_back(StagedRows { staging, slot, rows });
        Ok(())
    }

    fn is_durable(&self, staging: StagingId) -> bool {
        self.open[&staging].pieces == 0
    }

    fn hand_over(&mut self, staging: StagingId) {
        let stage = self
            .open
            .get_mut(&staging)
            .expect("a staging is open while it is held");
        assert_eq!(
            stage.pieces, 0,
            "a snapshot is durable before an install names it"
        );
        stage.is_handed_over = true;
    }

    /// For an install: nobody else will name it.
    fn take(&mut self, staging: StagingId) -> Slot {
        let stage = self.open.remove(&staging).filter(|stage| stage.is_handed_over);
        stage.expect("an install names a complete snapshot, once").slot
    }

    fn abandon(&mut self, staging: StagingId) -> Slot {
        let stage = self
            .open
            .remove(&staging)
            .expect("a staging is open while it is held");
        self.waiting.retain(|piece| piece.staging != staging);
        self.waiting_bytes = self.waiting.iter().map(|piece| bytes_of(&piece.rows)).sum();
        stage.slot
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What the next transaction writes.
    pub(crate) fn take_waiting(&mut self) -> Vec<StagedRows> {
        self.waiting_bytes = 0;
        self.waiting.drain(..).collect()
    }

    fn stored(&mut self, pieces: &[StagedRows]) {
        for piece in pieces {
            if let Some(stage) = self.open.get_mut(&piece.staging) {
                stage.pieces -= 1;
            }
        }
    }
}

impl Engine {
    /// The slot of a complete snapshot.
    pub(crate) fn take_staged(&self, staging: StagingId) -> Slot {
        lock(&self.stagings).take(staging)
    }

    /// These rows are durable, and reads see them.
    pub(crate) fn staged(&self, pieces: &[StagedRows]) {
        lock(&self.stagings).stored(pieces);
        self.staged.notify_all();
    }

    /// What was staged goes; a transaction that is being written may still bring rows of it, deletion comes later.
    fn abandon(&self, staging: StagingId) {
        let slot = lock(&self.stagings).abandon(staging);
        let span = Span::whole();
        lock(&self.index).lives.dead.push(Piece { span, slot });
        self.staged.notify_all();
        self.wake_checkpointer();
    }
}

fn bytes_of(rows: &Rows) -> usize {
    rows.iter().map(|(key, value)| key.len() + value.len()).sum()
}
