//! The decoders of this crate as functions of bytes. Each says whether it took the bytes for what they should be,
//! and panics when a promise is broken. For fuzzers, and for the tests that replay what they found.
//!
//! Almost everything stored has a checksum, which random bytes never match; so each decoder also gets its bytes with
//! the right checksum put in: what a bug of an older version could have written.

use crate::codec::{put_bytes, put_entry, put_membership, read_entry, seal_entry};
use crate::group_log::Row;
use crate::header::{Header, Position, Remembered, Slot as HeaderSlot, seal_header};
use crate::limits::BLOCK_BYTES;
use crate::options::{ClusterId, Identity};
use crate::record::{
    Born, Fate, HEADER_BYTES, Installed, Op, Record, RecordHeader, parse, seal_record_header,
};
use crate::slot::Slot;
use crate::span::Places;
use crate::tables::{fuzz_row, seal, unseal};
use bytes::Bytes;
use multiraft::{
    Birth, Entry, EntryId, GroupId, GroupWrite, HardState, Index, Install, Life, Membership, NodeId, Payload,
    ReplicaId, Split, StagingId, Stamp, Term, Tombstone, WriteId,
};
use std::sync::Arc;

/// Starts the checksums of records here.
const SALT: u64 = 7;
const GROUP: GroupId = GroupId(300);
const INDEX: Index = Index(401);
const SLOT: Slot = Slot {
    incarnation: 3,
    counter: 9,
};

/// A record of the ring: its header with and without a matching checksum, its payload, the entries in it.
pub fn record(data: &[u8]) -> bool {
    let _ = RecordHeader::decode(data, SALT);
    let mut header = data.to_vec();
    if header.len() >= HEADER_BYTES {
        seal_record_header(&mut header, SALT);
        let header = RecordHeader::decode(&header, SALT).expect("it is sealed");
        let payload = &data[HEADER_BYTES..];
        assert!(!header.matches(payload, SALT) || header.payload_bytes as usize == payload.len());
        assert!(header.record_bytes() >= HEADER_BYTES as u64);
    }
    let Ok(ops) = parse(data) else {
        return false;
    };
    for op in ops {
        if let Op::Write(write) = op {
            write.entries.iter().for_each(|(index, offset, bytes)| {
                assert!(*offset as usize + bytes.len() <= HEADER_BYTES + data.len());
                let _ = read_entry(write.group, *index, bytes);
            });
        }
    }
    true
}

/// A stored entry.
pub fn entry(data: &[u8]) -> bool {
    let _ = read_entry(GROUP, INDEX, data);
    let mut sealed = [&[0; 4], data].concat();
    seal_entry(&mut sealed, GROUP, INDEX);
    let Ok(entry) = read_entry(GROUP, INDEX, &sealed) else {
        return false;
    };
    let mut again = Vec::new();
    put_entry(&mut again, GROUP, &entry);
    let again = read_entry(GROUP, INDEX, &again);
    assert_eq!(again, Ok(entry), "what is read can be written and read again");
    true
}

/// A header slot of the node file.
pub fn header(data: &[u8]) -> bool {
    let _ = HeaderSlot::decode(data);
    let mut block = data.to_vec();
    block.resize(BLOCK_BYTES as usize, 0);
    seal_header(&mut block);
    let HeaderSlot::Valid(header) = HeaderSlot::decode(&block) else {
        return false;
    };
    let again = HeaderSlot::decode(&header.encode());
    assert!(
        matches!(&again, HeaderSlot::Valid(again) if *again == header),
        "what is read can be written and read again: {header:?}, {again:?}"
    );
    true
}

/// The row in which redb's part of the file says whose it is.
pub fn identity(data: &[u8]) -> bool {
    let Ok(Ok(remembered)) = Remembered::decode(data) else {
        return false;
    };
    let again = Remembered::decode(&remembered.encode());
    assert_eq!(
        again,
        Ok(Ok(remembered)),
        "what is read can be written and read again"
    );
    true
}

/// A group's row.
pub fn group_row(data: &[u8]) -> bool {
    Row::decode(data).is_ok()
}

/// A row of data: as it is, and sealed.
pub fn data_row(data: &[u8]) -> bool {
    let key = b"key";
    if let Ok(value) = unseal(key, data) {
        assert_eq!(value, &data[4..]);
    }
    let _ = fuzz_row(key, data);
    fuzz_row(key, &seal(key, data))
}

fn membership() -> Membership {
    Membership::of_voters([(ReplicaId(1), NodeId(1)), (ReplicaId(2), NodeId(2))])
}

fn entries() -> Vec<Entry> {
    let payloads = [
        Payload::Noop(Stamp(1_800_000_000_000)),
        Payload::Command(Stamp(1_800_000_000_001), Bytes::from_static(b"a command")),
        Payload::Membership(Box::new(membership())),
    ];
    let ids = (INDEX.0..).map(|index| EntryId::new(7, index));
    ids.zip(payloads)
        .map(|(id, payload)| Entry { id, payload })
        .collect()
}

/// The payload of a record with these operations.
fn payload(fates: Vec<Fate>, writes: &[&GroupWrite]) -> Vec<u8> {
    let mut record = Record::default();
    record.start();
    fates.into_iter().for_each(|fate| record.put_fate(fate));
    for write in writes {
        let taken = record.put_write(write, 0, 1 << 20);
        taken.expect("there is room in an empty record");
    }
    record.bytes[HEADER_BYTES..].to_vec()
}

/// Payloads of records: a birth, a write, both.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let places = Arc::new(Places::whole(SLOT));
    let hard_state = HardState {
        term: Term(7),
        vote: Some(ReplicaId(1)),
    };
    let birth = |split| Birth {
        group: GROUP,
        replica: ReplicaId(1),
        membership: membership(),
        base: EntryId::new(5, 10),
        descriptor: Bytes::from_static(b"a descriptor"),
        split,
    };
    let split = Split {
        parent: GroupId(2),
        at: INDEX,
        hard_state,
    };
    let install = Install {
        group: GROUP,
        replica: ReplicaId(1),
        life: Life(0),
        staging: StagingId(0),
        snapshot: EntryId::new(5, 90),
        hard_state,
        membership: membership(),
        descriptor: Bytes::new(),
    };
    let born = |split| {
        Fate::Born(Born {
            birth: birth(split),
            places: Arc::clone(&places),
        })
    };
    let installed = Fate::Installed(Installed {
        install,
        places: Arc::clone(&places),
        worker: 0,
    });
    let buried = Fate::Buried(Tombstone {
        group: GROUP,
        lowest: ReplicaId(2),
    });
    let write = GroupWrite {
        group: GROUP,
        replica: ReplicaId(1),
        life: Life(1),
        write: WriteId(1),
        hard_state: Some(hard_state),
        entries: entries(),
        commit: Index(400),
    };
    let empty = GroupWrite {
        entries: Vec::new(),
        hard_state: None,
        ..write.clone()
    };
    vec![
        payload(vec![born(None)], &[]),
        payload(Vec::new(), &[&write]),
        payload(vec![born(Some(split)), installed], &[&write, &empty]),
        payload(vec![buried], &[]),
    ]
}

/// Entries without their checksum.
pub fn entry_seeds() -> Vec<Vec<u8>> {
    let seed = |entry: Entry| {
        let mut out = Vec::new();
        put_entry(&mut out, GROUP, &entry);
        out.split_off(4)
    };
    entries().into_iter().map(seed).collect()
}

fn owner() -> Identity {
    Identity {
        cluster: ClusterId([7; 16]),
        node: NodeId(2),
    }
}

/// The part of a header that is not zero.
pub fn header_seeds() -> Vec<Vec<u8>> {
    let header = Header {
        version: 3,
        identity: owner(),
        file_uuid: [9; 16],
        salt: SALT,
        incarnation: 4,
        redb_bytes: 1 << 20,
        segment_bytes: 1 << 24,
        segments: 16,
        segments_ready: 2,
        first: Position {
            offset: 4096,
            sequence: 12,
        },
    };
    vec![header.encode()[..256].to_vec()]
}

/// Identity rows.
pub fn identity_seeds() -> Vec<Vec<u8>> {
    let remembered = Remembered {
        identity: owner(),
        file_uuid: [9; 16],
        salt: SALT,
        incarnation: 4,
        tail: Position {
            offset: 8192,
            sequence: 77,
        },
        reflected: 80,
    };
    vec![remembered.encode()]
}

/// Rows of groups.
pub fn group_row_seeds() -> Vec<Vec<u8>> {
    // replica, the op it began with, places, term, no vote, commit, applied, truncated; two memberships, a descriptor
    let mut row = vec![1, 200, 1, 2];
    Places::whole(SLOT).put(&mut row);
    row.extend_from_slice(&[7, 0, 100, 6, 99, 5, 98]);
    put_membership(&mut row, &membership());
    put_membership(&mut row, &membership());
    put_bytes(&mut row, b"abc");
    vec![row]
}

/// Rows of data without their checksum: a value as it is, and one in chunks.
pub fn data_row_seeds() -> Vec<Vec<u8>> {
    vec![b"\x00value".to_vec(), vec![1, 200, 50, 2]]
}
