//! What no row maps is deleted, in bounded slices; what is staged is written. Both ride on checkpoints, or on
//! transactions of the checkpointer's own between them. Also finds, at a start, what earlier runs left behind.

use crate::engine::{Engine, lock};
use crate::group_log::LogIndex;
use crate::install::StagedRows;
use crate::order::Order;
use crate::slot::Slot;
use crate::span::{Piece, Span};
use crate::tables::{Broken, CHUNKS, DATA, DataWriter};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, WriteTransaction};

/// What a transaction of the checkpointer does beside its own business.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    staged: Vec<StagedRows>,
    /// To be deleted; afterwards what is left of it.
    dead: Vec<Piece>,
    /// How much of that at once.
    slice_rows: usize,
}

impl Chores {
    /// Writes what is staged, then deletes a slice: a snapshot abandoned meanwhile is in both.
    pub(crate) fn run(&mut self, writer: &mut DataWriter<'_>) -> Result<(), Broken> {
        for piece in &self.staged {
            for (key, value) in &piece.rows {
                writer.write(&piece.slot.key(key), Some(value))?;
            }
        }
        delete_slice(writer, &mut self.dead, self.slice_rows)
    }
}

/// Deletes about `budget` rows and chunks of these pieces, and keeps what is left of them.
fn delete_slice(
    writer: &mut DataWriter<'_>,
    pieces: &mut Vec<Piece>,
    mut budget: usize,
) -> Result<(), Broken> {
    while let Some(piece) = pieces.last_mut() {
        let keys = writer.some_keys(
            &piece.span.lower(piece.slot),
            &piece.span.upper(piece.slot),
            budget,
        )?;
        let Some(last) = keys.last() else {
            pieces.pop();
            continue;
        };
        piece.span.start = Bytes::copy_from_slice(Slot::user_key(last)?);
        for key in &keys {
            budget = budget.saturating_sub(1 + writer.delete(key)?);
        }
        if budget == 0 {
            break;
        }
    }
    Ok(())
}

impl Engine {
    /// Writes staged rows and deletes a slice of what nobody maps. False: there is nothing to do.
    pub(crate) fn tidy_once(&self) -> bool {
        if !self.has_chores() || !self.may_tidy() {
            return false;
        }
        let mut chores = self.take_chores();
        let done = self.begin_write().and_then(|transaction| {
            run_chores(&transaction, &mut chores)?;
            Ok(transaction.commit()?)
        });
        if let Err(broken) = done {
            self.broken("write a snapshot or delete an old one", broken);
        }
        self.read_newest(|memory, base| memory.base = Some(base));
        self.finish_chores(chores);
        true
    }

    pub(crate) fn take_chores(&self) -> Chores {
        Chores {
            staged: lock(&self.stagings).take_waiting(),
            dead: std::mem::take(&mut lock(&self.index).lives.dead),
            slice_rows: self.options.slice_rows,
        }
    }

    /// The chores are durable, and reads see them.
    pub(crate) fn finish_chores(&self, chores: Chores) {
        lock(&self.index).lives.dead.extend(chores.dead);
        self.staged(&chores.staged);
    }

    /// True when a transaction of the checkpointer's own would have something to do.
    pub(crate) fn has_chores(&self) -> bool {
        lock(&self.stagings).is_waiting() || !lock(&self.index).lives.dead.is_empty()
    }

    /// The checkpointer looks for work.
    pub(crate) fn wake_checkpointer(&self) {
        drop(lock(&self.cuts));
        self.cut_ready.notify_one();
    }
}

fn run_chores(transaction: &WriteTransaction, chores: &mut Chores) -> Result<(), Broken> {
    let mut writer = DataWriter {
        data: transaction.open_table(DATA)?,
        chunks: transaction.open_table(CHUNKS)?,
    };
    chores.run(&mut writer)
}

impl LogIndex {
    /// At a start: what redb holds and nobody maps is dead; what only a row in redb still maps dies with the next
    /// checkpoint, which replaces or removes that row.
    pub(crate) fn find_dead(&mut self, transaction: &ReadTransaction, rows: &[Piece]) -> Result<(), Broken> {
        let live: Vec<Piece> = self
            .groups
            .values()
            .flat_map(|log| log.places.pieces().iter().cloned())
            .collect();
        self.lives.dying.extend(Piece::subtract(rows, &live));
        let data = transaction.open_table(DATA)?;
        let found = all_slots(&data)?;
        for piece in Piece::subtract(&found, live.iter().chain(rows)) {
            let (lower, upper) = (piece.span.lower(piece.slot), piece.span.upper(piece.slot));
            if data.range(lower.as_slice()..upper.as_slice())?.next().is_some() {
                self.lives.dead.push(piece);
            }
        }
        Ok(())
    }
}

/// Every slot that redb holds rows of, whole: one look per slot.
fn all_slots(data: &ReadOnlyTable<&[u8], &[u8]>) -> Result<Vec<Piece>, Broken> {
    let mut found = Vec::new();
    let mut from = Vec::new();
    while let Some(first) = data.range(from.as_slice()..)?.next() {
        let (key, _) = first?;
        // Without this a damaged page in front of the place that is asked for is found again and again.
        Order::within(&from, None).pass(key.value())?;
        let slot = Slot::of(key.value())?;
        let span = Span::whole();
        found.push(Piece { span, slot });
        from = slot.end();
    }
    Ok(found)
}
