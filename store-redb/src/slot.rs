//! Slots: the key spaces that groups' data lives in. Their numbers are never reused, so what a dead group left behind
//! can not show through in a new one.

use crate::codec::{Malformed, Reader, put_varint};

/// Bytes of a slot in front of every stored key.
pub(crate) const SLOT_BYTES: usize = 12;

const SHORT: Malformed = Malformed("a stored key shorter than its slot");

/// Names one key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    /// The incarnation of the node that made it.
    pub(crate) incarnation: u64,
    /// Counts the slots of that incarnation.
    pub(crate) counter: u32,
}

impl Slot {
    /// The stored key of a user key.
    pub(crate) fn key(self, user_key: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(SLOT_BYTES + user_key.len());
        key.extend_from_slice(&self.incarnation.to_be_bytes());
        key.extend_from_slice(&self.counter.to_be_bytes());
        key.extend_from_slice(user_key);
        key
    }

    /// The first stored key behind every key of this slot.
    pub(crate) fn end(self) -> Vec<u8> {
        let counter = self
            .counter
            .checked_add(1)
            .expect("slots are counted from 0 in each incarnation");
        Slot { counter, ..self }.key(&[])
    }

    /// The slot of a stored key.
    pub(crate) fn of(stored_key: &[u8]) -> Result<Slot, Malformed> {
        let (incarnation, rest) = stored_key.split_first_chunk().ok_or(SHORT)?;
        let (counter, _) = rest.split_first_chunk().ok_or(SHORT)?;
        Ok(Slot {
            incarnation: u64::from_be_bytes(*incarnation),
            counter: u32::from_be_bytes(*counter),
        })
    }

    /// The user key of a stored key.
    pub(crate) fn user_key(stored_key: &[u8]) -> Result<&[u8], Malformed> {
        stored_key.get(SLOT_BYTES..).ok_or(SHORT)
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        put_varint(out, self.incarnation);
        put_varint(out, u64::from(self.counter));
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Slot, Malformed> {
        let incarnation = reader.varint()?;
        let counter =
            u32::try_from(reader.varint()?).map_err(|_| Malformed("a slot counter above 32 bits"))?;
        Ok(Slot { incarnation, counter })
    }
}
