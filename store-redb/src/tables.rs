//! The tables in redb's part of the file, and how their rows are sealed with checksums and cut into chunks.
//! Show this file to whoever asks what is stored.

use crate::codec::{Malformed, Reader, pair_checksum, put_varint};
use crate::limits::{CHUNK_BYTES_MIN, CHUNK_ROW_BYTES, INLINE_BYTES_MAX};
use crate::order::Order;
use bytes::Bytes;
use multiraft::{GroupId, Index};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition};
use std::io::ErrorKind;

/// One row: whose file this is; see `header::Remembered`.
pub(crate) const IDENTITY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("identity");
/// The key of the identity row.
pub(crate) const IDENTITY_KEY: &[u8] = b"node";

/// Group id, big endian -> the group's row; see `GroupLog::encode_row`.
pub(crate) const GROUPS: TableDefinition<'_, &[u8; 8], &[u8]> = TableDefinition::new("groups");

/// (group id, index), big endian -> an entry that outlived its place in the ring.
pub(crate) const COLD: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("cold");

/// Group id, big endian -> the lowest replica id that may still be born here, as a varint.
pub(crate) const TOMBSTONES: TableDefinition<'_, &[u8; 8], &[u8]> = TableDefinition::new("tombstones");

/// (slot, user key) -> a value, or the number of its chunks.
pub(crate) const DATA: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");

/// (slot, user key, chunk number as 4 bytes big endian) -> part of a large value. Two keys of one length name the
/// same chunk only if they are the same key, and keys of different lengths have chunk keys of different lengths.
pub(crate) const CHUNKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("chunks");

const INLINE: u8 = 0;
const CHUNKED: u8 = 1;

/// Why something stored could not be read or written.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The bytes are not what was written.
    Corrupt(String),
    /// redb, or the disk under it, failed.
    Failed(redb::Error),
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Broken {
        Broken::Corrupt(malformed.0.to_string())
    }
}

impl<E: Into<redb::Error>> From<E> for Broken {
    fn from(error: E) -> Broken {
        match error.into() {
            redb::Error::Corrupted(what) => Broken::Corrupt(what),
            // Not the system's word, but redb's or ours: a file that does not begin like one, a page that can not be.
            redb::Error::Io(source)
                if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Broken::Corrupt(source.to_string())
            }
            error => Broken::Failed(error),
        }
    }
}

pub(crate) fn group_key(group: GroupId) -> [u8; 8] {
    group.0.to_be_bytes()
}

pub(crate) fn cold_key(group: GroupId, index: Index) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// Reads what `cold_key` wrote.
pub(crate) fn split_cold_key(key: &[u8; 16]) -> (GroupId, Index) {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half of sixteen bytes"));
    (GroupId(number(&key[..8])), Index(number(&key[8..])))
}

/// Puts the checksum over key and value in front of the value.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(4 + value.len());
    sealed.extend_from_slice(&pair_checksum(key, value).to_le_bytes());
    sealed.extend_from_slice(value);
    sealed
}

/// Checks and removes what `seal` added.
pub(crate) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (checksum, value) = sealed
        .split_first_chunk()
        .ok_or(Malformed("a row without checksum"))?;
    match u32::from_le_bytes(*checksum) == pair_checksum(key, value) {
        true => Ok(value),
        false => Err(Malformed("a row's checksum does not match")),
    }
}

/// What a row of `DATA` holds.
enum Stored<'a> {
    Inline(&'a [u8]),
    Chunked { length: usize, chunks: u32 },
}

fn stored<'a>(key: &[u8], row: &'a [u8]) -> Result<Stored<'a>, Malformed> {
    let mut reader = Reader::new(unseal(key, row)?);
    match reader.byte()? {
        INLINE => Ok(Stored::Inline(reader.rest())),
        CHUNKED => Ok(Stored::Chunked {
            length: usize::try_from(reader.varint()?).map_err(|_| Malformed("a value's length"))?,
            chunks: u32::try_from(reader.varint()?).map_err(|_| Malformed("a value's chunks"))?,
        }),
        _ => Err(Malformed("a value of an unknown kind")),
    }
}

/// True if a row of `DATA` is well-formed.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_row(key: &[u8], row: &[u8]) -> bool {
    stored(key, row).is_ok()
}

fn chunk_key(key: &[u8], number: u32) -> Vec<u8> {
    let mut chunk_key = Vec::with_capacity(key.len() + 4);
    chunk_key.extend_from_slice(key);
    chunk_key.extend_from_slice(&number.to_be_bytes());
    chunk_key
}

/// The state in redb as of one checkpoint.
pub(crate) struct Base {
    pub(crate) data: ReadOnlyTable<&'static [u8], &'static [u8]>,
    chunks: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Base {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Base, Broken> {
        Ok(Base {
            data: transaction.open_table(DATA)?,
            chunks: transaction.open_table(CHUNKS)?,
        })
    }

    /// The value under a stored key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        match self.data.get(key)? {
            None => self.check_absent(key).map(|()| None),
            Some(row) => self.value(key, row.value()).map(Some),
        }
    }

    /// redb does not verify what it reads: where a key is missing, one of the rows beside its place may be the one that
    /// is looked for, with a damaged key.
    fn check_absent(&self, key: &[u8]) -> Result<(), Broken> {
        if let Some(row) = self.data.range(..key)?.next_back() {
            let (found, row) = row?;
            Order::within(&[], Some(key)).pass(found.value())?;
            unseal(found.value(), row.value())?;
        }
        if let Some(row) = self.data.range(key..)?.next() {
            let (found, row) = row?;
            let mut order = Order::of_all();
            order.pass(key)?;
            order.pass(found.value())?;
            unseal(found.value(), row.value())?;
        }
        Ok(())
    }

    /// The value of a row of `DATA`, checked, its chunks gathered.
    pub(crate) fn value(&self, key: &[u8], row: &[u8]) -> Result<Bytes, Broken> {
        match stored(key, row)? {
            Stored::Inline(value) => Ok(Bytes::copy_from_slice(value)),
            Stored::Chunked { length, chunks } => self.gather(key, length, chunks),
        }
    }

    fn gather(&self, key: &[u8], length: usize, chunks: u32) -> Result<Bytes, Broken> {
        let mut value = Vec::new();
        for number in 0..chunks {
            let chunk_key = chunk_key(key, number);
            let row = self
                .chunks
                .get(chunk_key.as_slice())?
                .ok_or(Malformed("a chunk is missing"))?;
            value.extend_from_slice(unseal(&chunk_key, row.value())?);
        }
        match value.len() == length {
            true => Ok(value.into()),
            false => Err(Malformed("a value's chunks have a wrong length").into()),
        }
    }
}

/// The tables of the state, open for a checkpoint.
pub(crate) struct DataWriter<'txn> {
    pub(crate) data: Table<'txn, &'static [u8], &'static [u8]>,
    pub(crate) chunks: Table<'txn, &'static [u8], &'static [u8]>,
}

impl DataWriter<'_> {
    /// Sets or removes the value under a stored key.
    pub(crate) fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Broken> {
        let (old_chunks, new_chunks) = match value {
            None => (self.remove_row(key)?, 0),
            Some(value) if value.len() <= INLINE_BYTES_MAX => (self.insert_inline(key, value)?, 0),
            Some(value) => self.insert_chunked(key, value)?,
        };
        for number in new_chunks..old_chunks {
            self.chunks.remove(chunk_key(key, number).as_slice())?;
        }
        Ok(())
    }

    /// The first stored keys of a range.
    pub(crate) fn some_keys(&self, lower: &[u8], upper: &[u8], most: usize) -> Result<Vec<Vec<u8>>, Broken> {
        let mut order = Order::within(lower, Some(upper));
        let rows = self.data.range(lower..upper)?.take(most);
        rows.map(|row| {
            let (key, _) = row?;
            order.pass(key.value())?;
            Ok(key.value().to_vec())
        })
        .collect()
    }

    /// Removes the value under a stored key, which a walk has just shown; returns the number of its chunks.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<usize, Broken> {
        let chunks = match self.data.remove(key)? {
            // Whoever deletes would be shown it again and again.
            None => return Err(Malformed("a row that a walk shows is not found").into()),
            Some(old) => chunks_of(key, old.value())?,
        };
        for number in 0..chunks {
            self.chunks.remove(chunk_key(key, number).as_slice())?;
        }
        Ok(chunks as usize)
    }

    fn remove_row(&mut self, key: &[u8]) -> Result<u32, Broken> {
        match self.data.remove(key)? {
            None => Ok(0),
            Some(old) => chunks_of(key, old.value()),
        }
    }

    fn insert_row(&mut self, key: &[u8], row: &[u8]) -> Result<u32, Broken> {
        match self.data.insert(key, seal(key, row).as_slice())? {
            None => Ok(0),
            Some(old) => chunks_of(key, old.value()),
        }
    }

    fn insert_inline(&mut self, key: &[u8], value: &[u8]) -> Result<u32, Broken> {
        let mut row = Vec::with_capacity(1 + value.len());
        row.push(INLINE);
        row.extend_from_slice(value);
        self.insert_row(key, &row)
    }

    fn insert_chunked(&mut self, key: &[u8], value: &[u8]) -> Result<(u32, u32), Broken> {
        let mut count = 0;
        for part in value.chunks(CHUNK_ROW_BYTES.saturating_sub(key.len()).max(CHUNK_BYTES_MIN)) {
            let chunk_key = chunk_key(key, count);
            self.chunks
                .insert(chunk_key.as_slice(), seal(&chunk_key, part).as_slice())?;
            count += 1;
        }
        let mut row = vec![CHUNKED];
        put_varint(&mut row, value.len() as u64);
        put_varint(&mut row, u64::from(count));
        Ok((self.insert_row(key, &row)?, count))
    }
}

/// Chunks of the value in a row.
pub(crate) fn chunks_of(key: &[u8], row: &[u8]) -> Result<u32, Broken> {
    Ok(match stored(key, row)? {
        Stored::Inline(_) => 0,
        Stored::Chunked { chunks, .. } => chunks,
    })
}
