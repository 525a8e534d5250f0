//! Snapshots as a run of bytes: a group's rows on their way out, in pieces, and on their way into a staging. Both ends
//! hold one piece and the largest row, whatever the snapshot's size.
//!
//! ```text
//! row = key bytes, u32 LE | value bytes, u32 LE | key | value;  rows follow each other, pieces end anywhere
//! ```
//!
//! Nothing here is checked against damage: the store verifies rows as it reads them, the transport what it carries.

use crate::engine::Engine;
use crate::install::{Rows, Staging};
use crate::limits::{OFFERED_BYTES, STREAMED_ROW_BYTES_MAX};
use crate::snapshot::Snapshot;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use multiraft::bulk::BULK_PIECE_BYTES_MAX;
use multiraft::{GroupId, SnapshotHead, SnapshotReader, SnapshotStaging, SnapshotWriter, Staged, StagingId};
use std::fmt;
use std::sync::{Arc, Weak};

const ROW_HEADER_BYTES: usize = 8;

/// Reads one group's rows. Opened by whoever sends it, on its thread: a worker only makes it.
pub(crate) struct Reader {
    engine: Arc<Engine>,
    group: GroupId,
    open: Option<Snapshot>,
    buffer: BytesMut,
}

impl Reader {
    pub(crate) fn new(engine: Arc<Engine>, group: GroupId) -> Reader {
        Reader {
            engine,
            group,
            open: None,
            buffer: BytesMut::new(),
        }
    }

    /// Reads on until there is a piece, or nothing more.
    fn fill(&mut self) -> Result<(), String> {
        while self.buffer.len() < BULK_PIECE_BYTES_MAX
            && let Some(snapshot) = &mut self.open
        {
            let rows = snapshot.next_rows(BULK_PIECE_BYTES_MAX);
            let rows = rows.map_err(|aborted| aborted.to_string())?;
            if rows.is_empty() {
                self.open = None;
            }
            for (key, value) in rows {
                put_row(&mut self.buffer, &key, &value)?;
            }
        }
        Ok(())
    }
}

impl SnapshotReader for Reader {
    fn open(&mut self) -> Result<SnapshotHead, String> {
        let snapshot = Snapshot::begin(&self.engine, self.group).map_err(|error| error.to_string())?;
        let head = SnapshotHead {
            snapshot: snapshot.applied(),
            membership: snapshot.membership().clone(),
            descriptor: snapshot.descriptor().clone(),
        };
        self.open = Some(snapshot);
        Ok(head)
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        self.fill()?;
        let bytes = self.buffer.len().min(BULK_PIECE_BYTES_MAX);
        let piece = self.buffer.split_to(bytes).freeze();
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

fn put_row(out: &mut BytesMut, key: &[u8], value: &[u8]) -> Result<(), String> {
    let bytes = key.len() + value.len();
    if bytes > STREAMED_ROW_BYTES_MAX {
        return Err(format!("a row of {bytes} bytes"));
    }
    out.reserve(ROW_HEADER_BYTES + bytes);
    for length in [key.len(), value.len()] {
        out.put_u32_le(u32::try_from(length).expect("rows are bounded"));
    }
    out.put_slice(key);
    out.put_slice(value);
    Ok(())
}

/// The first row of the buffer, if it is all there.
fn take_row(buffer: &mut BytesMut) -> Result<Option<(Bytes, Bytes)>, String> {
    let Some(mut header) = buffer.get(..ROW_HEADER_BYTES) else {
        return Ok(None);
    };
    let (key, value) = (header.get_u32_le() as usize, header.get_u32_le() as usize);
    if key.saturating_add(value) > STREAMED_ROW_BYTES_MAX {
        return Err(format!("a row of {key} and {value} bytes"));
    }
    if buffer.len() < ROW_HEADER_BYTES + key + value {
        return Ok(None);
    }
    buffer.advance(ROW_HEADER_BYTES);
    // Copied: a slice would keep the whole buffer while it waits for redb.
    let (key, value) = (buffer.split_to(key), buffer.split_to(value));
    Ok(Some((
        Bytes::copy_from_slice(&key),
        Bytes::copy_from_slice(&value),
    )))
}

/// Where snapshots come into a store. Whoever keeps it (a network, which the store's own sinks lead to) does not keep the
/// store open.
pub(crate) struct Door(pub(crate) Weak<Engine>);

impl SnapshotStaging for Door {
    fn stage(&self) -> Result<Box<dyn SnapshotWriter>, String> {
        let engine = self.0.upgrade().ok_or("the store is closed")?;
        let staging = Staging::begin(Arc::clone(&engine));
        let staging = staging.ok_or("too many snapshots are being staged, or disk space is short")?;
        Ok(Box::new(Writer {
            engine,
            staging,
            buffer: BytesMut::new(),
            rows: Rows::new(),
            bytes: 0,
        }))
    }
}

struct Writer {
    engine: Arc<Engine>,
    staging: Staging,
    /// The beginning of a row.
    buffer: BytesMut,
    /// Whole rows, not yet offered.
    rows: Rows,
    bytes: usize,
}

impl Writer {
    /// Hands the rows to the store, when it has room.
    fn offer(&mut self) -> Result<(), String> {
        self.bytes = 0;
        let mut rows = std::mem::take(&mut self.rows);
        while let Err(back) = self.staging.offer(rows) {
            if self.engine.is_stopping() {
                return Err("the store stops".to_owned());
            }
            rows = back;
            self.staging.wait_for_room();
        }
        Ok(())
    }
}

impl SnapshotWriter for Writer {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        self.buffer.extend_from_slice(&piece);
        while let Some((key, value)) = take_row(&mut self.buffer)? {
            self.bytes += key.len() + value.len();
            self.rows.push((key, value));
        }
        match self.bytes < OFFERED_BYTES {
            true => Ok(()),
            false => self.offer(),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Box<dyn Staged>, String> {
        if !self.buffer.is_empty() {
            return Err("it ends in the middle of a row".to_owned());
        }
        if !self.rows.is_empty() {
            self.offer()?;
        }
        match self.staging.wait_until_durable() {
            true => Ok(Box::new(Complete(self.staging))),
            false => Err("the store stops".to_owned()),
        }
    }
}

/// Staged and durable.
#[derive(Debug)]
struct Complete(Staging);

impl Staged for Complete {
    fn hand_over(self: Box<Self>) -> StagingId {
        self.0.hand_over()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({})", self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut the bytes gives the same rows; a row that could not be held is refused by its header.
    #[test]
    fn rows_survive_any_cut_of_their_bytes() {
        let rows: Rows = [("a", "1"), ("", ""), ("key", ""), ("b", "a longer value")]
            .map(|(key, value)| (Bytes::from(key), Bytes::from(value)))
            .into();
        let mut all = BytesMut::new();
        for (key, value) in &rows {
            put_row(&mut all, key, value).unwrap();
        }
        for step in 1..=all.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Rows::new());
            for piece in all.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(row) = take_row(&mut buffer).unwrap() {
                    found.push(row);
                }
            }
            assert_eq!((found, buffer.len()), (rows.clone(), 0), "pieces of {step}");
        }
        let mut huge = BytesMut::from(&[0xff; ROW_HEADER_BYTES][..]);
        assert!(take_row(&mut huge).is_err());
    }
}
