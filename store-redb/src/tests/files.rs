//! Real files: locks, identities, formats, bit flips, and what stock redb makes of them.

use super::world::{IDENTITY, Model, World, command, options};
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_AT};
use crate::record::{HEADER_BYTES, Record};
use crate::testing::{Script, Setting, SimDisk};
use crate::{Closed, ClusterId, Disk, FileDisk, Identity, OpenError, Options, Store};
use multiraft::{GroupId, GroupWrite, HardState, Index, Life, NodeId, ReplicaId, Term, WriteId};
use redb::{ReadableDatabase, ReadableTableMetadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn file_disk(path: &Path) -> Arc<FileDisk> {
    let mut options = std::fs::OpenOptions::new();
    Arc::new(FileDisk::new(
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap(),
    ))
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node");
    (directory, path)
}

#[test]
fn a_cleanly_stopped_node_is_a_plain_redb_file() {
    let (_directory, path) = scratch();
    let mut model = Model::new(3);
    for _ in 0..3 {
        let mut world = World::open(file_disk(&path), model).unwrap();
        (0..60).for_each(|_| world.step());
        world.settle();
        world.check_contents();
        let (closed, after) = world.close();
        assert_eq!(closed, Closed::Plain);
        model = after;
        let database = redb::Database::open(&path).expect("stock redb opens it");
        let transaction = database.begin_read().unwrap();
        let data = transaction.open_table(crate::tables::DATA).unwrap();
        assert!(data.len().unwrap() > 0);
    }
}

#[test]
fn a_node_that_died_is_not_taken_for_a_plain_file() {
    let (_directory, path) = scratch();
    let mut world = World::open(file_disk(&path), Model::new(3)).unwrap();
    (0..30).for_each(|_| world.step());
    let model = world.kill();
    assert!(std::fs::metadata(&path).unwrap().len() > LOG_AT);
    World::open(file_disk(&path), model).unwrap().check_contents();
}

#[test]
fn a_file_in_use_is_refused() {
    let (_directory, path) = scratch();
    let first = Store::open(&path, IDENTITY, options(1)).unwrap();
    let error = Store::open(&path, IDENTITY, options(1)).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert_eq!(error.code(), 72);
    drop(first);
    Store::open(&path, IDENTITY, options(1)).unwrap();
}

#[test]
fn a_closed_store_is_closed_also_while_the_network_keeps_its_way_in_for_snapshots() {
    let (_directory, path) = scratch();
    let opened = Store::open(&path, IDENTITY, options(1)).unwrap();
    let door = opened.store.staging();
    assert!(door.stage().is_ok());
    assert_eq!(opened.store.close(), Closed::Plain);
    let refused = door.stage().err();
    assert_eq!(refused.as_deref(), Some("the store is closed"));
    Store::open(&path, IDENTITY, options(1)).unwrap();
}

#[test]
fn another_node_or_cluster_is_refused_after_a_crash_and_after_a_clean_stop() {
    for is_clean in [false, true] {
        let (_directory, path) = scratch();
        let opened = Store::open(&path, IDENTITY, options(1)).unwrap();
        if is_clean {
            assert_eq!(opened.store.close(), Closed::Plain);
        } else {
            drop(opened);
        }
        let node = Identity {
            node: NodeId(4),
            ..IDENTITY
        };
        let error = Store::open(&path, node, options(1)).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::OtherNode {
                    found: 3,
                    expected: 4
                }
            ),
            "{error}"
        );
        assert_eq!(error.code(), 72);
        let cluster = Identity {
            cluster: ClusterId([8; 16]),
            ..IDENTITY
        };
        let error = Store::open(&path, cluster, options(1)).unwrap_err();
        assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");
        let opened = Store::open(&path, IDENTITY, options(1)).unwrap();
        assert_eq!(opened.incarnation, 2, "a refused start does not count");
    }
}

#[test]
fn every_start_has_its_own_incarnation_and_the_file_keeps_its_uuid() {
    let (_directory, path) = scratch();
    let mut uuids = Vec::new();
    for start in 1..=6 {
        let opened = Store::open(&path, IDENTITY, options(1)).unwrap();
        assert_eq!(opened.incarnation, start);
        uuids.push(opened.file_uuid);
        if start % 2 == 0 {
            assert_eq!(opened.store.close(), Closed::Plain);
        }
    }
    assert!(uuids.iter().all(|uuid| *uuid == uuids[0]));
}

#[test]
fn a_newer_format_is_refused() {
    let disk = Arc::new(SimDisk::new());
    drop(World::open(Arc::clone(&disk) as _, Model::new(1)).unwrap());
    for slot in [LOG_AT, LOG_AT + BLOCK_BYTES] {
        disk.write_durable(slot + 8, &9_u32.to_le_bytes()).unwrap();
    }
    let error = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options(2)).unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found: 9, known: 1 }),
        "{error}"
    );
    assert_eq!(error.code(), 73);
    assert!(error.to_string().contains("upgrade this node"), "{error}");
}

#[test]
fn one_damaged_header_is_survived_two_are_not() {
    let disk = Arc::new(SimDisk::new());
    drop(World::open(Arc::clone(&disk) as _, Model::new(1)).unwrap());
    disk.flip_bit(LOG_AT + 30, 2);
    drop(World::open(Arc::clone(&disk) as _, Model::new(1)).unwrap());
    disk.flip_bit(LOG_AT + 30, 2);
    disk.flip_bit(LOG_AT + 31, 2);
    disk.flip_bit(LOG_AT + BLOCK_BYTES + 30, 2);
    let error = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options(2)).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
    assert_eq!(error.code(), 71);
}

#[test]
fn a_file_that_is_no_node_file_is_damage_not_a_failing_disk() {
    let disk = Arc::new(SimDisk::new());
    disk.write_at(0, &[b'x'; 8192]).unwrap();
    let error = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options(2)).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
    assert_eq!(error.code(), 71);
}

/// A node that writes little: no checkpoint becomes due by itself.
fn frugal(disk: &Arc<SimDisk>) -> World {
    let script = Script {
        value_bytes: 20,
        large_one_in: 1000,
        ..Script::default()
    };
    let setting = Setting {
        script,
        ..Setting::default()
    };
    World::open_with(Arc::clone(disk) as _, Model::new(2), setting).unwrap()
}

/// A node with a log of several records, killed.
fn logged() -> (Arc<SimDisk>, Model, u64) {
    let disk = Arc::new(SimDisk::new());
    let mut world = frugal(&disk);
    let mut used = 0;
    while used < 40_000 {
        world.step();
        world.settle();
        used = world.store().stats().log_bytes;
    }
    assert_eq!(world.store().stats().checkpoints, 0, "all of it is in the ring");
    (disk, world.kill(), used)
}

#[test]
fn a_flipped_bit_in_an_acknowledged_record_halts_the_node() {
    let (disk, _, used) = logged();
    let mut offset = 20;
    let mut found = 0;
    // Not in the last record: there it can not be told from a torn tail.
    while offset < used - 20_000 {
        disk.flip_bit(RING_AT + offset, 5);
        match Store::open_on(Arc::new(disk.kill()), IDENTITY, options(2)) {
            Err(OpenError::Corrupt(what)) => {
                assert!(what.contains("log record"), "{what}");
                found += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(_) => assert!(
                is_padding(&disk, offset),
                "a flipped bit at {offset} was not noticed"
            ),
        }
        disk.flip_bit(RING_AT + offset, 5);
        offset += 37;
    }
    assert!(found > 30, "{found} flips were found");
}

/// Behind a record's payload there are zeros up to the block's end; a flip there changes nothing.
fn is_padding(disk: &SimDisk, offset: u64) -> bool {
    let end = offset.next_multiple_of(BLOCK_BYTES);
    let mut rest = vec![0; (end - offset - 1) as usize];
    disk.read_at(RING_AT + offset + 1, &mut rest).unwrap();
    rest.iter().all(|byte| *byte == 0)
}

#[test]
fn a_torn_last_record_is_dropped() {
    let (disk, model, _) = logged();
    let mut world = World::open(Arc::new(disk.kill()), model.clone()).unwrap();
    world.check_contents();
    let torn = Arc::new(disk.kill());
    let position = {
        let opened = Store::open_on(Arc::new(disk.kill()), IDENTITY, options(2)).unwrap();
        opened.store.stats().ring_used_bytes
    };
    // The remains of a write that was never acknowledged.
    torn.write_durable(RING_AT + position, b"FLR1 and then nothing that matches")
        .unwrap();
    World::open(torn, model).unwrap().check_contents();
    world.step();
}

/// Where the record with the largest number begins in the ring.
fn last_record(disk: &SimDisk) -> u64 {
    let ring = 0..options(2).ring_bytes;
    let numbered = ring.step_by(BLOCK_BYTES as usize).filter_map(|offset| {
        let mut head = [0; 16];
        disk.read_at(RING_AT + offset, &mut head).unwrap();
        let number = u64::from_le_bytes(head[8..].try_into().unwrap());
        head.starts_with(b"FLR1").then_some((number, offset))
    });
    numbered.max().expect("there are records").1
}

#[test]
fn a_last_record_that_a_checkpoint_reflects_is_not_torn() {
    for reflects in [true, false] {
        let disk = Arc::new(SimDisk::new());
        let mut world = frugal(&disk);
        while world.store().stats().log_bytes < 40_000 {
            world.step();
            world.settle();
        }
        if reflects {
            world.checkpoint();
        }
        drop(world.kill());
        disk.flip_bit(RING_AT + last_record(&disk) + 40, 5);
        // Its votes and entries were acknowledged; the rows know of them, the log would not.
        match Store::open_on(disk, IDENTITY, options(2)) {
            Err(OpenError::Corrupt(what)) => assert!(reflects && what.contains("reflects"), "{what}"),
            Err(error) => panic!("{error}"),
            Ok(_) => assert!(!reflects, "a vote may have been forgotten"),
        }
    }
}

#[test]
fn impossible_sizes_are_refused() {
    let mut sizes = options(1);
    sizes.ring_bytes += 1;
    let error = Store::open_on(Arc::new(SimDisk::new()), IDENTITY, sizes).unwrap_err();
    assert_eq!(error.code(), 75, "{error}");
}

#[test]
fn a_ring_is_as_large_as_was_asked_for() {
    const MIB: u64 = 1 << 20;
    let sized = |bytes| {
        let sizes = Options::new(1).with_ring(bytes);
        sizes.check().expect("possible");
        (sizes.ring_bytes, sizes.segment_bytes)
    };
    assert_eq!(sized(16 * MIB), (16 * MIB, MIB));
    assert_eq!(sized(100 * MIB), (100 * MIB, 25 * MIB / 4));
    assert_eq!(sized(256 * MIB), (256 * MIB, 16 * MIB));
    assert_eq!(sized(1024 * MIB), (1024 * MIB, 64 * MIB));
    assert_eq!(sized(1536 * MIB), (1536 * MIB, 64 * MIB));
    let largest = (1 << 18) * MIB;
    assert_eq!(sized(largest), (largest, 64 * MIB));
    for bytes in (MIB..3000 * MIB).step_by(7_654_321) {
        let (ring, segment) = sized(bytes);
        assert!(
            (bytes..bytes + ring / segment * 4096).contains(&ring),
            "{bytes}: {ring}"
        );
        assert!(segment <= 64 * MIB, "{bytes}: {segment}");
    }
}

#[test]
fn a_new_file_is_its_owners_alone_and_an_old_one_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = scratch();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(Store::open(&path, IDENTITY, options(1)).unwrap());
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    drop(Store::open(&path, IDENTITY, options(1)).unwrap());
    assert_eq!(mode(), 0o640);
}

#[test]
fn the_largest_payload_fits_into_an_empty_record() {
    let opened = Store::open_on(Arc::new(SimDisk::new()), IDENTITY, options(1)).unwrap();
    let payload = opened.store.payload_bytes_max();
    let record_bytes_max = usize::try_from(options(1).ring_bytes / 8).unwrap();
    let taken = |payload: usize| {
        let write = GroupWrite {
            group: GroupId(1),
            replica: ReplicaId(u64::MAX),
            life: Life(1),
            write: WriteId(1),
            hard_state: Some(HardState {
                term: Term(u64::MAX),
                vote: Some(ReplicaId(u64::MAX)),
            }),
            entries: vec![command(u64::MAX, u64::MAX, 0, payload - 8)],
            commit: Index(u64::MAX),
        };
        let mut record = Record::default();
        record.bytes.resize(HEADER_BYTES, 0);
        let taken = record.put_write(&write, 0, record_bytes_max);
        assert!(record.bytes.len() <= record_bytes_max);
        taken
    };
    assert_eq!((taken(payload), taken(payload + 1)), (Some(1), None));
}
