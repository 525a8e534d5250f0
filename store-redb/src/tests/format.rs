//! Files of every format version ever released: each must open with exactly its content, or be refused by name.
//! A fixture is a node killed after one of everything, packed: its length, then gaps of zeros and runs of bytes. A new format gets a new fixture and keeps the old ones; `MAKE_FIXTURE=1` makes one that is not there.

use super::node::{Node, kill, members, put, replica, split};
use super::world::{IDENTITY, contents, options};
use crate::codec::{Reader, put_varint};
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_AT};
use crate::{Cell, Disk, Offline, Section, SimDisk, Store};
use bytes::Bytes;
use multiraft::{EntryId, GroupId, Payload, RaftStorage, ReplicaId, Stamp};
use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

const PARENT: GroupId = GroupId(2);
const INSTALLED: GroupId = GroupId(6);
const REMOVED_LATE: GroupId = GroupId(8);
const REMOVED: GroupId = GroupId(10);
const CHILD: GroupId = GroupId(12);
const NEWBORN: GroupId = GroupId(14);

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// A node with a row in every table and an op of every kind in the log behind its last checkpoint, killed.
fn one_of_everything() -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new());
    let mut node = Node::open(&disk);
    for group in [PARENT, INSTALLED, REMOVED_LATE, REMOVED] {
        node.found(group, replica(group));
    }
    let large = put("large", &"0".repeat(4100));
    node.write(
        PARENT,
        1,
        &[put("a", "1"), put("m", "2"), put("z", "3"), large],
        0,
    );
    for group in [INSTALLED, REMOVED_LATE, REMOVED] {
        node.write(group, 1, &[put("old", "state")], 0);
    }
    node.commit();
    node.checkpoint();
    let kinds = [
        Payload::Noop(Stamp(7)),
        Payload::Membership(Box::new(members(PARENT))),
        Payload::Command(Stamp(8), put("b", "4")),
    ];
    node.write_payloads(PARENT, 2, &kinds, 3); // not committed: it moves to the cold table
    node.bury(REMOVED, 101);
    node.commit();
    (0..3).for_each(|_| node.checkpoint());
    node.write(PARENT, 3, &[split(CHILD, "m")], 0);
    node.commit();
    node.write(CHILD, 5, &[put("n", "5")], 0);
    let staging = node.stage(&[("new", "state"), ("other", "row")]);
    node.install(INSTALLED, staging, EntryId::new(7, 9));
    node.bury(REMOVED_LATE, 81);
    node.found(NEWBORN, replica(NEWBORN));
    node.commit();
    node.write(NEWBORN, 4, &[put("k", "6"), put("open", "7")], 1);
    node.commit();
    kill(node, &disk)
}

fn parts(length: u64) -> Vec<Range<u64>> {
    const REDB_BYTES_MAX: u64 = 16 << 20;
    let ring = RING_AT..RING_AT + (1 << 20);
    [0..REDB_BYTES_MAX, LOG_AT..LOG_AT + 2 * BLOCK_BYTES, ring]
        .map(|part| part.start.min(length)..part.end.min(length))
        .to_vec()
}

fn pack(disk: &SimDisk) -> Vec<u8> {
    let length = disk.bytes().unwrap();
    let mut out = Vec::new();
    put_varint(&mut out, length);
    let mut end = 0;
    for part in parts(length) {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        disk.read_at(part.start, &mut bytes).unwrap();
        let mut at = 0;
        while let Some(first) = bytes[at..].iter().position(|byte| *byte != 0) {
            let first = at + first;
            put_varint(&mut out, part.start + first as u64 - end);
            at = put_run(&mut out, &bytes, first);
            end = part.start + at as u64;
        }
    }
    out
}

/// One byte many times, or bytes up to the next such run; returns where they end.
fn put_run(out: &mut Vec<u8>, bytes: &[u8], first: usize) -> usize {
    const WORTH: usize = 8;
    let same = bytes[first..]
        .iter()
        .take_while(|byte| **byte == bytes[first])
        .count();
    if same >= WORTH {
        put_varint(out, (same as u64) << 1 | 1);
        out.push(bytes[first]);
        return first + same;
    }
    let is_run = |window: &[u8]| window.iter().all(|byte| *byte == window[0]);
    let length = bytes[first..].windows(WORTH).position(is_run);
    let length = length.unwrap_or(bytes.len() - first);
    put_varint(out, (length as u64) << 1);
    out.extend_from_slice(&bytes[first..first + length]);
    first + length
}

fn unpack(packed: &[u8]) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let mut reader = Reader::new(packed);
    disk.set_len(reader.varint().unwrap()).unwrap();
    let mut at = 0;
    while !reader.is_empty() {
        at += reader.varint().unwrap();
        let length = reader.varint().unwrap();
        let bytes = match length & 1 {
            0 => reader.take((length >> 1) as usize).unwrap().to_vec(),
            _ => vec![reader.byte().unwrap(); (length >> 1) as usize],
        };
        disk.write_at(at, &bytes).unwrap();
        at += bytes.len() as u64;
    }
    disk.sync().unwrap();
    Arc::new(disk)
}

/// Everything that a start finds, and every row, in words that do not depend on how this version stores it.
fn content(disk: &Arc<SimDisk>) -> String {
    let mut text = String::new();
    let offline = Offline::open_on(Arc::clone(disk) as _).unwrap();
    for section in [
        Section::Log,
        Section::Groups,
        Section::Cold,
        Section::Tombstones,
        Section::Data,
    ] {
        writeln!(text, "{section:?}").unwrap();
        let mut take = |cells: Vec<(&'static str, Cell)>| {
            let cells = cells.iter().map(|(name, cell)| format!("{name}={}", shown(cell)));
            writeln!(text, "  {}", cells.collect::<Vec<_>>().join(" ")).unwrap();
            ControlFlow::Continue(())
        };
        offline.dump(section, None, &mut take).unwrap();
    }
    let node = Node::open(disk);
    for found in &node.restored {
        writeln!(text, "{} replica {}", found.group, found.replica.0).unwrap();
        writeln!(text, "  descriptor {:?}", found.descriptor).unwrap();
        writeln!(text, "  members {:?}", found.restored.membership.voters).unwrap();
        for entry in &found.restored.entries {
            writeln!(text, "  entry {} {}", entry.id, payload(&entry.payload)).unwrap();
        }
        for (key, value) in contents(&node.state, found.group) {
            let value = String::from_utf8_lossy(&value);
            writeln!(text, "  {} = {value}", String::from_utf8_lossy(&key)).unwrap();
        }
    }
    let borne = |group, replica| node.storage.may_bear(group, ReplicaId(replica));
    let lowest = [
        borne(REMOVED, 100),
        borne(REMOVED, 101),
        borne(REMOVED_LATE, 80),
        borne(REMOVED_LATE, 81),
    ];
    writeln!(text, "may be born: {lowest:?}").unwrap();
    text
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => format!("`{text}`"),
        Cell::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Noop(stamp) => format!("noop at {}", stamp.0),
        Payload::Membership(membership) => format!("members {:?}", membership.voters),
        Payload::Command(stamp, bytes) => format!("command at {}: {}", stamp.0, text_of(bytes)),
    }
}

fn text_of(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

fn make_if_missing(name: &str) {
    let (packed, text) = (fixture(&format!("{name}.pack")), fixture(&format!("{name}.txt")));
    if packed.exists() || std::env::var_os("MAKE_FIXTURE").is_none() {
        return;
    }
    let disk = one_of_everything();
    std::fs::create_dir_all(packed.parent().unwrap()).unwrap();
    std::fs::write(&packed, pack(&disk)).unwrap();
    std::fs::write(text, content(&unpack(&pack(&disk)))).unwrap();
}

#[test]
fn a_file_of_format_1_opens_with_exactly_its_content() {
    make_if_missing("format-1");
    let packed = std::fs::read(fixture("format-1.pack")).unwrap();
    let expected = std::fs::read_to_string(fixture("format-1.txt")).unwrap();
    assert_eq!(content(&unpack(&packed)), expected);
    let offline = Offline::open_on(unpack(&packed)).unwrap();
    assert_eq!(offline.check().unwrap().1, Vec::<String>::new());
}

#[test]
fn what_this_version_writes_reads_like_its_fixture() {
    let expected = std::fs::read_to_string(fixture("format-1.txt")).unwrap();
    assert_eq!(content(&unpack(&pack(&one_of_everything()))), expected);
}

#[test]
fn a_file_of_a_newer_format_is_refused_by_name_and_left_alone() {
    let disk = unpack(&std::fs::read(fixture("format-1.pack")).unwrap());
    for slot in [LOG_AT, LOG_AT + BLOCK_BYTES] {
        disk.write_durable(slot + 8, &2_u32.to_le_bytes()).unwrap();
    }
    let before = pack(&disk);
    let error = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options(1)).unwrap_err();
    assert_eq!(error.code(), 73);
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(Offline::open_on(Arc::clone(&disk) as _).unwrap_err().code(), 73);
    assert!(pack(&disk) == before);
}
