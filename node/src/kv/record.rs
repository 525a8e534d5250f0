//! The row of a user key: flags, version, deadline, value. Also the answer to `Query::Get`, unchanged and uncopied.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Format of a row; at the same time the tag of an answer that is a row.
pub(crate) const RECORD_FORMAT: u8 = 0x01;
const HAS_DEADLINE: u8 = 0x01;

/// A user key's row, decoded without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The group's version counter when the key was last written.
    pub version: u64,
    /// Milliseconds since 1970 at which the key ceases to exist.
    pub deadline: Option<u64>,
    /// The value.
    pub value: Bytes,
}

impl Record {
    /// Reads a row; None if it is not one.
    pub fn decode(mut row: Bytes) -> Option<Record> {
        if row.len() < 10 || row[0] != RECORD_FORMAT || row[1] & !HAS_DEADLINE != 0 {
            return None;
        }
        let flags = row[1];
        row.advance(2);
        let version = row.get_u64_le();
        let deadline = if flags & HAS_DEADLINE == 0 {
            None
        } else {
            Some(row.try_get_u64_le().ok()?)
        };
        Some(Record {
            version,
            deadline,
            value: row,
        })
    }

    /// Writes a row whose value is these parts, one after the other.
    pub(crate) fn encode(version: u64, deadline: Option<u64>, parts: &[&[u8]]) -> Bytes {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut row = BytesMut::with_capacity(18 + length);
        row.put_u8(RECORD_FORMAT);
        row.put_u8(if deadline.is_some() { HAS_DEADLINE } else { 0 });
        row.put_u64_le(version);
        if let Some(deadline) = deadline {
            row.put_u64_le(deadline);
        }
        for part in parts {
            row.put_slice(part);
        }
        row.freeze()
    }
}
