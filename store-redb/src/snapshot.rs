//! Snapshots on their way out: one group's rows as of one checkpoint, in bounded chunks, under one read transaction.
//! Such a transaction pins pages, and the file grows for good: readers are bounded in number and time.

use crate::engine::{Engine, lock};
use crate::group_log::Row;
use crate::install::Rows;
use crate::limits::SNAPSHOTS_MAX;
use crate::order::Order;
use crate::slot::Slot;
use crate::span::Piece;
use crate::tables::{Base, Broken, GROUPS, group_key, unseal};
use bytes::Bytes;
use multiraft::{EntryId, GroupId, Membership, ReplicaId};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Why a snapshot can not be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSnapshot {
    /// The group has no row, or its row is older than its log: a checkpoint, which is now wanted, brings one.
    #[error("no checkpoint holds the group yet")]
    NotYet,
    /// As many as may be are being read.
    #[error("too many snapshots are being read")]
    TooMany,
}

/// The snapshot was read for too long, or the store needs its room: begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was aborted: it was read for too long")]
pub struct Aborted;

/// Everyone who reads a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    open: Vec<Weak<Reader>>,
}

/// A group's rows as of its row. Ends when dropped.
pub struct Snapshot {
    engine: Arc<Engine>,
    reader: Arc<Reader>,
    row: Row,
    group: GroupId,
    /// What is still to be read.
    rest: VecDeque<Piece>,
    /// The stored key to go on with; `None`: the start of the next piece.
    next: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Reader {
    begun: Instant,
    /// `None`: aborted.
    base: Mutex<Option<Held>>,
}

struct Held(Arc<Base>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Snapshot {
    pub(crate) fn begin(engine: &Arc<Engine>, group: GroupId) -> Result<Snapshot, NoSnapshot> {
        let reader = {
            // Read and registered under one lock, so that their number holds.
            let mut readers = lock(&engine.readers);
            readers.open.retain(|reader| reader.strong_count() > 0);
            if readers.open.len() >= SNAPSHOTS_MAX {
                return Err(NoSnapshot::TooMany);
            }
            let found =
                read_row(engine, group).unwrap_or_else(|broken| engine.broken("begin a snapshot", broken));
            found.inspect(|(reader, _)| readers.open.push(Arc::downgrade(reader)))
        };
        let Some((reader, row)) = reader.filter(|(_, row)| engine.is_usable(group, row)) else {
            engine.want_cut();
            return Err(NoSnapshot::NotYet);
        };
        Ok(Snapshot {
            engine: Arc::clone(engine),
            reader,
            rest: row.places.pieces().to_vec().into(),
            row,
            group,
            next: None,
        })
    }

    /// The last entry that the rows reflect.
    pub fn applied(&self) -> EntryId {
        self.row.applied
    }

    /// The replica whose state this is.
    pub fn replica(&self) -> ReplicaId {
        self.row.replica
    }

    /// The membership as of `applied`.
    #[expect(
        clippy::misnamed_getters,
        reason = "of the two memberships of a row this is the one meant"
    )]
    pub fn membership(&self) -> &Membership {
        &self.row.applied_membership
    }

    /// The descriptor as of `applied`; opaque here.
    pub fn descriptor(&self) -> &Bytes {
        &self.row.descriptor
    }

    /// The next rows, in key order: as many as have `bytes_max` bytes of keys and values together, but at least one.
    /// Empty at the end.
    pub fn next_rows(&mut self, bytes_max: usize) -> Result<Rows, Aborted> {
        if self.reader.begun.elapsed() >= self.engine.options.snapshot_time {
            self.reader.abort();
        }
        let base = self.reader.base()?;
        let mut rows = Rows::new();
        let mut bytes = 0;
        while let Some(piece) = self.rest.front().cloned() {
            let read = self.read_piece(&base, &piece, bytes_max, &mut bytes, &mut rows);
            match read {
                Err(broken) => self.engine.broken("read a snapshot", broken),
                Ok(true) => {
                    self.rest.pop_front();
                    self.next = None;
                }
                Ok(false) => break,
            }
        }
        Ok(rows)
    }

    /// True: the piece is read to its end.
    fn read_piece(
        &mut self,
        base: &Base,
        piece: &Piece,
        bytes_max: usize,
        bytes: &mut usize,
        rows: &mut Rows,
    ) -> Result<bool, Broken> {
        let lower = self.next.take().unwrap_or_else(|| piece.span.lower(piece.slot));
        let upper = piece.span.upper(piece.slot);
        let mut order = Order::within(&lower, Some(&upper));
        for row in base.data.range(lower.as_slice()..upper.as_slice())? {
            let (stored_key, row) = row?;
            let stored_key = stored_key.value();
            order.pass(stored_key)?;
            let key = Bytes::copy_from_slice(Slot::user_key(stored_key)?);
            let value = base.value(stored_key, row.value())?;
            *bytes += key.len() + value.len();
            if *bytes > bytes_max && !rows.is_empty() {
                self.next = Some(stored_key.to_vec());
                return Ok(false);
            }
            rows.push((key, value));
        }
        Ok(true)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} at {})", self.group, self.row.applied)
    }
}

impl Reader {
    fn base(&self) -> Result<Arc<Base>, Aborted> {
        let held = lock(&self.base);
        held.as_ref().map(|held| Arc::clone(&held.0)).ok_or(Aborted)
    }

    fn abort(&self) {
        *lock(&self.base) = None;
    }
}

impl Engine {
    /// A row that was frozen before the log it belongs to was replaced is of no use to anybody: what follows it is gone.
    fn is_usable(&self, group: GroupId, row: &Row) -> bool {
        let index = lock(&self.index);
        let log = index.groups.get(&group);
        log.is_some_and(|log| log.replica == row.replica && log.truncated.index <= row.applied.index)
    }

    /// Ends the snapshots that are read for too long. Called where it helps: before redb frees pages.
    pub(crate) fn abort_overdue_snapshots(&self) {
        self.abort_snapshots(self.options.snapshot_time);
    }

    /// Ends the snapshots that are read for this long.
    pub(crate) fn abort_snapshots(&self, age: Duration) {
        let readers = lock(&self.readers);
        let open = readers.open.iter().filter_map(Weak::upgrade);
        open.filter(|reader| reader.begun.elapsed() >= age)
            .for_each(|reader| reader.abort());
    }
}

/// The group's row and the rows of its state, as of one transaction.
fn read_row(engine: &Engine, group: GroupId) -> Result<Option<(Arc<Reader>, Row)>, Broken> {
    let transaction = engine.begin_read()?;
    let key = group_key(group);
    let table = transaction.open_table(GROUPS)?;
    let Some(row) = table.get(&key)? else {
        return Ok(None);
    };
    let row = Row::decode(unseal(&key, row.value())?)?;
    let base = Arc::new(Base::open(&transaction)?);
    let reader = Reader {
        begun: Instant::now(),
        base: Mutex::new(Some(Held(base))),
    };
    Ok(Some((Arc::new(reader), row)))
}
