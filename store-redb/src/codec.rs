//! Bytes of the things that are stored: varints, entries, memberships. Every decoder treats its input as untrusted.
//! Layouts are drawn in `DESIGN.md`.

use bytes::Bytes;
use crc32fast::Hasher;
use multiraft::{
    Entry, EntryId, GroupId, HardState, Index, Membership, NodeId, Payload, ReplicaId, Stamp, Term,
};
use std::collections::BTreeSet;

/// The bytes are not what this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads a byte string from front to back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: bytes,
            length: bytes.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes read so far.
    pub(crate) fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(
            bytes.try_into().expect("four bytes were taken"),
        ))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(Malformed("a number with more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number without end"))
    }

    /// A count or length that must fit what follows.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or(Malformed("a count larger than what follows"))
    }

    /// A byte string behind its length.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.count()?;
        self.take(length).map(Bytes::copy_from_slice)
    }

    pub(crate) fn entry_id(&mut self) -> Result<EntryId, Malformed> {
        Ok(EntryId::new(self.varint()?, self.varint()?))
    }

    pub(crate) fn hard_state(&mut self) -> Result<HardState, Malformed> {
        let term = Term(self.varint()?);
        let vote = match self.byte()? {
            0 => None,
            1 => Some(ReplicaId(self.varint()?)),
            _ => return Err(Malformed("a vote that is neither absent nor present")),
        };
        Ok(HardState { term, vote })
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, Malformed> {
        let mut membership = Membership {
            voters: self.replicas()?,
            outgoing: self.replicas()?,
            learners: self.replicas()?,
            ..Membership::default()
        };
        for _ in 0..self.count()? {
            let replica = ReplicaId(self.varint()?);
            membership.nodes.insert(replica, NodeId(self.varint()?));
        }
        Ok(membership)
    }

    fn replicas(&mut self) -> Result<BTreeSet<ReplicaId>, Malformed> {
        (0..self.count()?).map(|_| self.varint().map(ReplicaId)).collect()
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A byte string behind its length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_entry_id(out: &mut Vec<u8>, id: EntryId) {
    put_varint(out, id.term.0);
    put_varint(out, id.index.0);
}

pub(crate) fn put_hard_state(out: &mut Vec<u8>, hard_state: HardState) {
    put_varint(out, hard_state.term.0);
    match hard_state.vote {
        None => out.push(0),
        Some(vote) => {
            out.push(1);
            put_varint(out, vote.0);
        }
    }
}

pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    for replicas in [&membership.voters, &membership.outgoing, &membership.learners] {
        put_varint(out, replicas.len() as u64);
        replicas.iter().for_each(|replica| put_varint(out, replica.0));
    }
    put_varint(out, membership.nodes.len() as u64);
    for (replica, node) in &membership.nodes {
        put_varint(out, replica.0);
        put_varint(out, node.0);
    }
}

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Appends an entry with its own checksum, which covers its group and index. The same bytes stand in records and in
/// the cold table.
pub(crate) fn put_entry(out: &mut Vec<u8>, group: GroupId, entry: &Entry) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_varint(out, entry.id.term.0);
    match &entry.payload {
        Payload::Noop(stamp) => {
            out.push(NOOP);
            put_varint(out, stamp.0);
        }
        Payload::Command(stamp, bytes) => {
            out.push(COMMAND);
            put_varint(out, stamp.0);
            out.extend_from_slice(bytes);
        }
        Payload::Membership(membership) => {
            out.push(MEMBERSHIP);
            put_membership(out, membership);
        }
    }
    seal_entry(&mut out[start..], group, entry.id.index);
}

/// Puts the checksum into the room before an entry's bytes.
pub(crate) fn seal_entry(bytes: &mut [u8], group: GroupId, index: Index) {
    let checksum = entry_checksum(group, index, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads what `put_entry` wrote, all of `bytes`.
pub(crate) fn read_entry(group: GroupId, index: Index, bytes: &[u8]) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(bytes);
    let stored = reader.u32()?;
    if stored != entry_checksum(group, index, &bytes[4..]) {
        return Err(Malformed("an entry's checksum does not match"));
    }
    let id = EntryId {
        term: Term(reader.varint()?),
        index,
    };
    let payload = match reader.byte()? {
        NOOP => Payload::Noop(Stamp(reader.varint()?)),
        COMMAND => Payload::Command(Stamp(reader.varint()?), Bytes::copy_from_slice(reader.rest())),
        MEMBERSHIP => Payload::Membership(Box::new(reader.membership()?)),
        _ => return Err(Malformed("an entry of an unknown kind")),
    };
    match reader.is_empty() {
        true => Ok(Entry { id, payload }),
        false => Err(Malformed("bytes after an entry")),
    }
}

fn entry_checksum(group: GroupId, index: Index, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&group.0.to_le_bytes());
    hasher.update(&index.0.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Checksum of a stored key and value.
pub(crate) fn pair_checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}
