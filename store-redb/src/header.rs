//! One header slot of the log region, as bytes. Which slot is written when is `node_file`'s business.

use crate::codec::Malformed;
use crate::limits::BLOCK_BYTES;
use crate::options::{ClusterId, Identity};
use multiraft::NodeId;

/// The newest format this version reads, and the one it writes.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"FLOTNODE";
const CHECKED: usize = 256;

/// A place in the ring, and the sequence number of the record there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Bytes from the ring's start.
    pub(crate) offset: u64,
    /// Records are numbered without gaps.
    pub(crate) sequence: u64,
}

/// What a header slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The newer of two valid slots has the larger one.
    pub(crate) version: u64,
    pub(crate) identity: Identity,
    pub(crate) file_uuid: [u8; 16],
    /// Starts every checksum of a record, so that bytes inside a payload can not pass for a record.
    pub(crate) salt: u64,
    /// Zero until redb's part is complete for the first time.
    pub(crate) incarnation: u64,
    pub(crate) redb_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) segments: u32,
    /// Segments filled with zeros; the ring uses only these.
    pub(crate) segments_ready: u32,
    /// Where the ring began when the log region was made. Recovery starts here until the first checkpoint; from then
    /// on its place is in redb, where it changes together with what it stands for; see `Remembered::tail`.
    pub(crate) first: Position,
}

/// What a slot's bytes turned out to be.
#[derive(Debug)]
pub(crate) enum Slot {
    Valid(Header),
    /// Never written.
    Blank,
    Damaged,
    /// Written by a version with this newer format.
    Newer(u32),
}

impl Header {
    /// A whole block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES as usize);
        out.extend_from_slice(&[0; 16]); // filled in when it is sealed
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.identity.cluster.0);
        out.extend_from_slice(&self.identity.node.0.to_le_bytes());
        out.extend_from_slice(&self.file_uuid);
        for number in [self.salt, self.incarnation, self.redb_bytes, self.segment_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.segments.to_le_bytes());
        out.extend_from_slice(&self.segments_ready.to_le_bytes());
        out.extend_from_slice(&self.first.offset.to_le_bytes());
        out.extend_from_slice(&self.first.sequence.to_le_bytes());
        assert!(
            out.len() <= CHECKED,
            "a header outgrew its checksum: {} bytes",
            out.len()
        );
        out.resize(BLOCK_BYTES as usize, 0);
        seal_header(&mut out);
        out
    }
}

/// Puts what is fixed, and the checksum, into a block.
pub(crate) fn seal_header(block: &mut [u8]) {
    block[..8].copy_from_slice(MAGIC);
    block[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let checksum = slot_checksum(block);
    block[12..16].copy_from_slice(&checksum.to_le_bytes());
}

impl Slot {
    /// Reads a block.
    pub(crate) fn decode(block: &[u8]) -> Slot {
        if block.iter().all(|byte| *byte == 0) {
            return Slot::Blank;
        }
        if block.len() < CHECKED || &block[..8] != MAGIC {
            return Slot::Damaged;
        }
        let mut fields = Fields(&block[8..CHECKED]);
        let format = fields.u32();
        if format > FORMAT {
            return Slot::Newer(format);
        }
        if fields.u32() != slot_checksum(block) {
            return Slot::Damaged;
        }
        Slot::Valid(fields.header())
    }
}

/// Checksum over the slot without its checksum field.
fn slot_checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..12]);
    hasher.update(&block[16..CHECKED]);
    hasher.finalize()
}

/// Takes fixed-width fields; the caller knows that there are enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N);
        self.0 = rest;
        taken.try_into().expect("split at N")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn header(&mut self) -> Header {
        Header {
            version: self.u64(),
            identity: Identity {
                cluster: ClusterId(self.array()),
                node: NodeId(self.u64()),
            },
            file_uuid: self.array(),
            salt: self.u64(),
            incarnation: self.u64(),
            redb_bytes: self.u64(),
            segment_bytes: self.u64(),
            segments: self.u32(),
            segments_ready: self.u32(),
            first: Position {
                offset: self.u64(),
                sequence: self.u64(),
            },
        }
    }
}

/// What redb's own part says about the file: enough to make the log region again after a clean stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) identity: Identity,
    pub(crate) file_uuid: [u8; 16],
    pub(crate) salt: u64,
    pub(crate) incarnation: u64,
    /// Every record before this one is in redb. After a clean stop, the first record of the next log region gets this
    /// number.
    pub(crate) tail: Position,
    /// The rows reflect every record before this one. Between the two, an entry that the rows and the cold table do
    /// not lead up to was replaced later, and the cold table holds the log after that.
    pub(crate) reflected: u64,
}

impl Remembered {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.identity.cluster.0);
        out.extend_from_slice(&self.identity.node.0.to_le_bytes());
        out.extend_from_slice(&self.file_uuid);
        for number in [
            self.salt,
            self.incarnation,
            self.tail.offset,
            self.tail.sequence,
            self.reflected,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// `Ok(Err(format))`: a newer format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Result<Remembered, u32>, Malformed> {
        const LENGTH: usize = 4 + 16 + 8 + 16 + 5 * 8;
        let mut fields = Fields(bytes);
        if bytes.len() >= 4 {
            let format = fields.u32();
            if format > FORMAT {
                return Ok(Err(format));
            }
        }
        if bytes.len() != LENGTH {
            return Err(Malformed("the identity row has a wrong length"));
        }
        Ok(Ok(Remembered {
            identity: Identity {
                cluster: ClusterId(fields.array()),
                node: NodeId(fields.u64()),
            },
            file_uuid: fields.array(),
            salt: fields.u64(),
            incarnation: fields.u64(),
            tail: Position {
                offset: fields.u64(),
                sequence: fields.u64(),
            },
            reflected: fields.u64(),
        }))
    }
}
