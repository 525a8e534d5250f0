//! One group commit as bytes: gathers the batches of all workers into a record, and takes records apart again.
//! Where a record lies and when it is durable is not known here.

use crate::codec::{
    Malformed, Reader, put_bytes, put_entry, put_entry_id, put_hard_state, put_membership, put_varint,
};
use crate::limits::{BLOCK_BYTES, ENTRY_BYTES_MAX};
use crate::span::Places;
use crc32fast::Hasher;
use multiraft::{
    BatchId, Birth, Completion, Entry, EntryId, GroupId, GroupWrite, HardState, Index, Install, Life,
    Membership, Outgoing, Payload, ReplicaId, Split, StagingId, Tombstone, WriteId,
};
use std::ops::Range;
use std::sync::Arc;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 48;

/// An upper bound of what a record with a single entry holds beside the entry's payload.
pub(crate) const RECORD_OVERHEAD_MAX: usize = HEADER_BYTES + OP_BYTES_MAX + ENTRY_BYTES_FIXED;

/// An upper bound of what an entry takes beside its payload.
const ENTRY_BYTES_FIXED: usize = 64;

const MAGIC: &[u8; 4] = b"FLR1";
const CHECKSUM_AT: usize = 4;
const CHECKED_FROM: usize = 8;

const OP_BIRTH: u8 = 1;
const OP_WRITE: u8 = 2;
const OP_INSTALL: u8 = 3;
const OP_TOMBSTONE: u8 = 4;

const HAS_HARD_STATE: u8 = 1;
const HAS_ENTRIES: u8 = 2;

/// More than any op needs besides its entries, memberships and descriptors.
const OP_BYTES_MAX: usize = 96;

/// Where an entry's bytes lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedEntry {
    pub(crate) id: EntryId,
    /// From the record's start.
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// What one group's write changes, once durable.
#[derive(Debug)]
pub(crate) struct PlacedWrite {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) commit: Index,
    /// In `Record::entries`.
    pub(crate) entries: Range<usize>,
    pub(crate) memberships: Vec<(Index, Membership)>,
}

/// Names one op of the log, for the file's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpId {
    /// The record's number.
    pub(crate) sequence: u64,
    /// Counts the record's ops.
    pub(crate) number: u32,
}

/// A replica that begins to exist, and where its data will live.
#[derive(Clone, Debug)]
pub(crate) struct Born {
    pub(crate) birth: Birth,
    pub(crate) places: Arc<Places>,
}

/// A snapshot that takes a replica's place, and where its rows were staged.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) install: Install,
    pub(crate) places: Arc<Places>,
    /// Who hears about it; not stored.
    pub(crate) worker: usize,
}

/// What a record does to a group's existence, once durable.
#[derive(Debug)]
pub(crate) enum Fate {
    Born(Born),
    Installed(Installed),
    Buried(Tombstone),
}

/// What a record changes once it is durable, in the order of its ops.
#[derive(Debug)]
pub(crate) enum Change {
    /// The op with this number.
    Fate(u32, Box<Fate>),
    Write(PlacedWrite),
}

/// What a worker hears once its batch is durable.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) worker: usize,
    pub(crate) batch: BatchId,
    pub(crate) writes: Vec<(GroupId, Life, WriteId)>,
    pub(crate) then_send: Vec<Outgoing>,
}

/// A record while it gathers batches.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Room for the header, then the payload.
    pub(crate) bytes: Vec<u8>,
    /// Ops so far.
    ops: u32,
    pub(crate) changes: Vec<Change>,
    pub(crate) entries: Vec<PlacedEntry>,
    pub(crate) acknowledgements: Vec<Acknowledgement>,
    /// What workers hear once it is durable, before the acknowledgements.
    pub(crate) told: Vec<(usize, Completion)>,
}

impl Record {
    /// Makes an emptied record ready for gathering.
    pub(crate) fn start(&mut self) {
        assert!(
            self.acknowledgements.is_empty() && self.changes.is_empty(),
            "the record was not emptied"
        );
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
    }

    /// Forgets everything but the buffers.
    pub(crate) fn empty(&mut self) {
        self.bytes.clear();
        self.ops = 0;
        self.changes.clear();
        self.entries.clear();
        self.acknowledgements.clear();
    }

    /// True before the first op.
    pub(crate) fn has_no_payload(&self) -> bool {
        self.bytes.len() == HEADER_BYTES
    }

    /// Births, installs and tombstones in it.
    pub(crate) fn fates(&self) -> usize {
        let fates = self.changes.iter();
        fates.filter(|change| matches!(change, Change::Fate(..))).count()
    }

    /// Appends what happens to a group's existence.
    pub(crate) fn put_fate(&mut self, fate: Fate) {
        let out = &mut self.bytes;
        match &fate {
            Fate::Born(born) => put_birth(out, born),
            Fate::Installed(installed) => put_install(out, installed),
            Fate::Buried(tombstone) => put_tombstone(out, tombstone),
        }
        let number = self.next_op();
        self.changes.push(Change::Fate(number, Box::new(fate)));
    }

    fn next_op(&mut self) -> u32 {
        self.ops += 1;
        self.ops - 1
    }

    /// Appends what fits of a write, from its `from`th entry on, into a record of at most `bytes_max` bytes, and
    /// returns the number of entries taken. The hard state goes with the first part, the commit mark with the last.
    pub(crate) fn put_write(&mut self, write: &GroupWrite, from: usize, bytes_max: usize) -> Option<usize> {
        let rest = &write.entries[from..];
        let taken = self.entries_that_fit(rest, bytes_max)?;
        let is_last = taken == rest.len();
        let hard_state = write.hard_state.filter(|_| from == 0);
        let commit = if is_last { write.commit } else { Index(0) };
        self.put_write_head(write, hard_state, commit, &rest[..taken]);
        let first = self.entries.len();
        let mut memberships = Vec::new();
        for entry in &rest[..taken] {
            self.put_placed_entry(write.group, entry);
            if let Payload::Membership(membership) = &entry.payload {
                memberships.push((entry.id.index, (**membership).clone()));
            }
        }
        self.next_op();
        self.changes.push(Change::Write(PlacedWrite {
            group: write.group,
            replica: write.replica,
            hard_state,
            commit,
            entries: first..self.entries.len(),
            memberships,
        }));
        Some(taken)
    }

    /// `None`: not even a part of the write fits; it needs a new record.
    fn entries_that_fit(&self, entries: &[Entry], bytes_max: usize) -> Option<usize> {
        let mut length = self.bytes.len() + OP_BYTES_MAX;
        let mut taken = 0;
        for entry in entries {
            length += entry_bytes_bound(entry);
            if length > bytes_max {
                break;
            }
            taken += 1;
        }
        (taken > 0 || (entries.is_empty() && length <= bytes_max)).then_some(taken)
    }

    fn put_write_head(
        &mut self,
        write: &GroupWrite,
        hard_state: Option<HardState>,
        commit: Index,
        entries: &[Entry],
    ) {
        let out = &mut self.bytes;
        out.push(OP_WRITE);
        put_varint(out, write.group.0);
        put_varint(out, write.replica.0);
        let mut flags = 0;
        if hard_state.is_some() {
            flags |= HAS_HARD_STATE;
        }
        if !entries.is_empty() {
            flags |= HAS_ENTRIES;
        }
        out.push(flags);
        put_varint(out, commit.0);
        if let Some(hard_state) = hard_state {
            put_hard_state(out, hard_state);
        }
        if let Some(first) = entries.first() {
            put_varint(out, first.id.index.0);
            put_varint(out, entries.len() as u64);
        }
    }

    fn put_placed_entry(&mut self, group: GroupId, entry: &Entry) {
        let prefix = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let start = self.bytes.len();
        put_entry(&mut self.bytes, group, entry);
        let length = self.bytes.len() - start;
        assert!(
            length <= ENTRY_BYTES_MAX,
            "entry {} of {group} has {length} bytes",
            entry.id
        );
        let length = u32::try_from(length).expect("checked above");
        self.bytes[prefix..start].copy_from_slice(&length.to_le_bytes());
        self.entries.push(PlacedEntry {
            id: entry.id,
            offset: u32::try_from(start).expect("records are shorter than 4 GiB"),
            length,
        });
    }

    /// Writes the header and the padding; `bytes` is then what goes to the disk.
    pub(crate) fn finish(&mut self, salt: u64, incarnation: u64, sequence: u64) {
        let header = RecordHeader {
            sequence,
            incarnation,
            payload_bytes: u32::try_from(self.bytes.len() - HEADER_BYTES)
                .expect("records are shorter than 4 GiB"),
            payload_checksum: salted(salt, &self.bytes[HEADER_BYTES..]),
        };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode(salt));
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    }
}

/// An upper bound of what an entry takes in a record.
fn entry_bytes_bound(entry: &Entry) -> usize {
    const PER_REPLICA: usize = 64;
    ENTRY_BYTES_FIXED
        + match &entry.payload {
            Payload::Noop(_) => 0,
            Payload::Command(_, bytes) => bytes.len(),
            Payload::Membership(membership) => membership.nodes.len() * PER_REPLICA,
        }
}

fn put_birth(out: &mut Vec<u8>, born: &Born) {
    let birth = &born.birth;
    out.push(OP_BIRTH);
    put_varint(out, birth.group.0);
    put_varint(out, birth.replica.0);
    born.places.put(out);
    put_entry_id(out, birth.base);
    put_membership(out, &birth.membership);
    put_bytes(out, &birth.descriptor);
    match birth.split {
        None => out.push(0),
        Some(split) => {
            out.push(1);
            put_varint(out, split.parent.0);
            put_varint(out, split.at.0);
            put_hard_state(out, split.hard_state);
        }
    }
}

fn put_install(out: &mut Vec<u8>, installed: &Installed) {
    let install = &installed.install;
    out.push(OP_INSTALL);
    put_varint(out, install.group.0);
    put_varint(out, install.replica.0);
    installed.places.put(out);
    put_entry_id(out, install.snapshot);
    put_hard_state(out, install.hard_state);
    put_membership(out, &install.membership);
    put_bytes(out, &install.descriptor);
}

fn put_tombstone(out: &mut Vec<u8>, tombstone: &Tombstone) {
    out.push(OP_TOMBSTONE);
    put_varint(out, tombstone.group.0);
    put_varint(out, tombstone.lowest.0);
}

impl Fate {
    /// An upper bound of what it takes in a record.
    pub(crate) fn bytes_bound(&self) -> usize {
        const PER_REPLICA: usize = 64;
        OP_BYTES_MAX
            + match self {
                Fate::Born(Born { birth, places }) => {
                    places.bytes_bound() + birth.membership.nodes.len() * PER_REPLICA + birth.descriptor.len()
                }
                Fate::Installed(Installed { install, places, .. }) => {
                    let members = install.membership.nodes.len();
                    places.bytes_bound() + members * PER_REPLICA + install.descriptor.len()
                }
                Fate::Buried(_) => 0,
            }
    }
}

/// What stands before a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) sequence: u64,
    pub(crate) incarnation: u64,
    pub(crate) payload_bytes: u32,
    payload_checksum: u32,
}

impl RecordHeader {
    fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_checksum.to_le_bytes());
        seal_record_header(&mut out, salt);
        out
    }

    /// `None`: no record begins here.
    pub(crate) fn decode(block: &[u8], salt: u64) -> Option<RecordHeader> {
        if block.get(..4)? != MAGIC {
            return None;
        }
        let mut reader = Reader::new(block.get(CHECKSUM_AT..HEADER_BYTES)?);
        let stored = reader.u32().ok()?;
        if stored != salted(salt, &block[CHECKED_FROM..HEADER_BYTES]) {
            return None;
        }
        let mut number = || {
            let low = reader.u32().ok()?;
            let high = reader.u32().ok()?;
            Some(u64::from(high) << 32 | u64::from(low))
        };
        Some(RecordHeader {
            sequence: number()?,
            incarnation: number()?,
            payload_bytes: reader.u32().ok()?,
            payload_checksum: reader.u32().ok()?,
        })
    }

    /// True when the payload is the one that was written with this header.
    pub(crate) fn matches(&self, payload: &[u8], salt: u64) -> bool {
        payload.len() == self.payload_bytes as usize && salted(salt, payload) == self.payload_checksum
    }

    /// Bytes in the ring, padding included.
    pub(crate) fn record_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(BLOCK_BYTES)
    }
}

/// Puts what is fixed, and the checksum, into a header.
pub(crate) fn seal_record_header(header: &mut [u8], salt: u64) {
    header[..CHECKSUM_AT].copy_from_slice(MAGIC);
    let checksum = salted(salt, &header[CHECKED_FROM..HEADER_BYTES]);
    header[CHECKSUM_AT..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// One op of a payload.
#[derive(Debug)]
pub(crate) enum Op<'a> {
    Fate(Fate),
    Write(ParsedWrite<'a>),
}

/// One group's write as found in a record.
#[derive(Debug)]
pub(crate) struct ParsedWrite<'a> {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) commit: Index,
    /// Index, offset from the record's start, bytes.
    pub(crate) entries: Vec<(Index, u32, &'a [u8])>,
}

/// Takes a payload apart.
pub(crate) fn parse(payload: &[u8]) -> Result<Vec<Op<'_>>, Malformed> {
    let mut reader = Reader::new(payload);
    let mut ops = Vec::new();
    while !reader.is_empty() {
        ops.push(match reader.byte()? {
            OP_BIRTH => Op::Fate(Fate::Born(parse_birth(&mut reader)?)),
            OP_WRITE => Op::Write(parse_write(&mut reader)?),
            OP_INSTALL => Op::Fate(Fate::Installed(parse_install(&mut reader)?)),
            OP_TOMBSTONE => Op::Fate(Fate::Buried(parse_tombstone(&mut reader)?)),
            _ => return Err(Malformed("an op of an unknown kind")),
        });
    }
    Ok(ops)
}

fn parse_birth(reader: &mut Reader<'_>) -> Result<Born, Malformed> {
    let group = GroupId(reader.varint()?);
    let replica = ReplicaId(reader.varint()?);
    let places = Arc::new(Places::read(reader)?);
    let birth = Birth {
        group,
        replica,
        base: reader.entry_id()?,
        membership: reader.membership()?,
        descriptor: reader.bytes()?,
        split: parse_split(reader)?,
    };
    Ok(Born { birth, places })
}

fn parse_split(reader: &mut Reader<'_>) -> Result<Option<Split>, Malformed> {
    match reader.byte()? {
        0 => Ok(None),
        1 => Ok(Some(Split {
            parent: GroupId(reader.varint()?),
            at: Index(reader.varint()?),
            hard_state: reader.hard_state()?,
        })),
        _ => Err(Malformed("a parent that is neither absent nor present")),
    }
}

/// Who asked for it, and under which name, was never stored.
fn parse_install(reader: &mut Reader<'_>) -> Result<Installed, Malformed> {
    let group = GroupId(reader.varint()?);
    let replica = ReplicaId(reader.varint()?);
    let places = Arc::new(Places::read(reader)?);
    let install = Install {
        group,
        replica,
        life: Life(0),
        staging: StagingId(0),
        snapshot: reader.entry_id()?,
        hard_state: reader.hard_state()?,
        membership: reader.membership()?,
        descriptor: reader.bytes()?,
    };
    Ok(Installed {
        install,
        places,
        worker: 0,
    })
}

fn parse_tombstone(reader: &mut Reader<'_>) -> Result<Tombstone, Malformed> {
    Ok(Tombstone {
        group: GroupId(reader.varint()?),
        lowest: ReplicaId(reader.varint()?),
    })
}

fn parse_write<'a>(reader: &mut Reader<'a>) -> Result<ParsedWrite<'a>, Malformed> {
    let group = GroupId(reader.varint()?);
    let replica = ReplicaId(reader.varint()?);
    let flags = reader.byte()?;
    let commit = Index(reader.varint()?);
    let hard_state = match flags & HAS_HARD_STATE {
        0 => None,
        _ => Some(reader.hard_state()?),
    };
    let mut entries = Vec::new();
    if flags & HAS_ENTRIES != 0 {
        let first = reader.varint()?;
        for number in 0..reader.count()? {
            let length = reader.u32()?;
            let offset = u32::try_from(HEADER_BYTES + reader.offset()).map_err(|_| Malformed("too long"))?;
            entries.push((
                Index(
                    first
                        .checked_add(number as u64)
                        .ok_or(Malformed("an index too far"))?,
                ),
                offset,
                reader.take(length as usize)?,
            ));
        }
    }
    Ok(ParsedWrite {
        group,
        replica,
        hard_state,
        commit,
        entries,
    })
}
