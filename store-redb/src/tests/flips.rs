//! Flipped bits in every kind of record: noticed (code 71) or without effect; never served, never taken for "absent"
//! where a checksum of ours can tell. What redb hides is counted and bounded; see DESIGN.md, Known limits.

use super::is_thorough;
use super::world::{IDENTITY, Model, WORKERS, World, contents, options};
use crate::engine::lock;
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_AT};
use crate::record::{HEADER_BYTES, Op, RecordHeader, parse};
use crate::tables::{CHUNKS, COLD, DATA, GROUPS, IDENTITY as IDENTITY_TABLE};
use crate::testing::{Contents, Ended, SimDisk};
use crate::{Disk, ExitReason, Store, worker_of};
use multiraft::GroupId;
use redb::{ReadableDatabase, ReadableTable};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What became of a flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Code 71, told by our checks.
    Noticed,
    /// redb panicked; the binary's hook makes that code 71.
    Panicked,
    /// Everything is as before.
    Harmless,
    /// A scan finds fewer rows than there were; what it finds is right.
    Hidden,
    /// The same, but only for single reads.
    Absent,
    /// A log, a vote or a whole group is not what it was.
    Forgotten,
    /// Something else than what was written was served.
    Wrong,
    /// The node ended with another code than 71.
    Misnamed,
}

type Tally = BTreeMap<(String, Fate), u64>;

/// Everything that can be read from a node.
#[derive(Clone, Debug, PartialEq)]
struct Everything {
    logs: Vec<String>,
    gets: BTreeMap<GroupId, Contents>,
    scans: BTreeMap<GroupId, Contents>,
}

/// A node that has everything: a log that lapped the ring, cold entries, data, chunks; killed.
fn node() -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new());
    let mut world = World::open(Arc::clone(&disk) as _, Model::new(6)).unwrap();
    while world.model.checkpoints < 4 || world.store().stats().spilled < 10 {
        world.step();
    }
    world.checkpoint();
    for _ in 0..6 {
        world.step();
        world.settle();
    }
    let killed = Arc::new(disk.kill());
    disk.cut_power();
    killed
}

fn read_everything(disk: &SimDisk, known: Option<&Everything>) -> Result<Everything, Fate> {
    let read = || {
        let opened = Store::open_on(Arc::new(disk.kill()), IDENTITY, options(WORKERS))?;
        let mut everything = Everything {
            logs: opened.groups.iter().map(|found| format!("{found:?}")).collect(),
            gets: BTreeMap::new(),
            scans: BTreeMap::new(),
        };
        for group in opened.groups.iter().map(|found| found.group) {
            let state = opened.store.state(worker_of(group, WORKERS));
            let keys = known
                .and_then(|known| known.scans.get(&group))
                .into_iter()
                .flatten();
            let values = keys.filter_map(|(key, _)| Some((key.clone(), state.get(group, key)?)));
            everything.gets.insert(group, values.collect());
            everything.scans.insert(group, contents(&state, group));
        }
        Ok(everything)
    };
    let corrupt = ExitReason::Corrupt;
    let fate = |is_corrupt| if is_corrupt { Fate::Noticed } else { Fate::Misnamed };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(everything)) => Ok(everything),
        Ok(Err(refused)) => {
            let refused: crate::OpenError = refused;
            Err(fate(refused.code() == corrupt.code()))
        }
        Err(payload) => Err(payload
            .downcast_ref::<Ended>()
            .map_or(Fate::Panicked, |ended| fate(ended.reason == corrupt))),
    }
}

fn fate_of_flip(disk: &SimDisk, offset: u64, expected: &Everything) -> Fate {
    let bit = (offset % 8) as u8;
    disk.flip_bit(offset, bit);
    let found = read_everything(disk, Some(expected));
    disk.flip_bit(offset, bit);
    match found {
        Err(fate) => fate,
        Ok(found) if found == *expected => Fate::Harmless,
        Ok(found) if found.logs != expected.logs => Fate::Forgotten,
        Ok(found) if !is_part(&found.gets, &expected.gets) || !is_part(&found.scans, &expected.scans) => {
            Fate::Wrong
        }
        Ok(found) if found.scans == expected.scans => Fate::Absent,
        Ok(_) => Fate::Hidden,
    }
}

/// True when rows may be missing, but none is wrong.
fn is_part(found: &BTreeMap<GroupId, Contents>, expected: &BTreeMap<GroupId, Contents>) -> bool {
    let is_right = |group, key, value| expected[group].get(key) == Some(value);
    found
        .iter()
        .all(|(group, contents)| contents.iter().all(|(key, value)| is_right(group, key, value)))
}

fn known(disk: &SimDisk) -> Everything {
    let once = read_everything(disk, None).expect("the file is sound");
    let expected = read_everything(disk, Some(&once)).expect("the file is sound");
    assert_eq!(expected.gets, expected.scans);
    assert!(
        expected.scans.values().all(|contents| contents.len() > 5),
        "{expected:?}"
    );
    expected
}

fn tally(disk: &SimDisk, expected: &Everything, flips: impl IntoIterator<Item = (String, u64)>) -> Tally {
    let mut tally = Tally::new();
    for (what, offset) in flips {
        *tally
            .entry((what, fate_of_flip(disk, offset, expected)))
            .or_default() += 1;
    }
    tally
        .iter()
        .for_each(|((what, fate), count)| println!("{what}: {count} {fate:?}"));
    tally
}

fn count(tally: &Tally, what: &str, fate: Fate) -> u64 {
    let of_kind = tally
        .iter()
        .filter(|((kind, found), _)| kind.starts_with(what) && *found == fate);
    of_kind.map(|(_, count)| count).sum()
}

#[test]
fn a_flip_in_a_header_slot_costs_nothing() {
    let disk = node();
    let expected = known(&disk);
    let slots = [LOG_AT, LOG_AT + BLOCK_BYTES];
    let flips = slots.into_iter().flat_map(|slot| slot..slot + 256);
    let named = flips.map(|offset| match offset % BLOCK_BYTES {
        8..12 => ("format".into(), offset),
        _ => ("header".into(), offset),
    });
    let tally = tally(&disk, &expected, named);
    assert_eq!(
        count(&tally, "header", Fate::Harmless),
        2 * 252,
        "the other slot says the same"
    );
    // A larger format number is refused before anything else is believed, as code 73.
    let formats = count(&tally, "format", Fate::Harmless) + count(&tally, "format", Fate::Misnamed);
    assert_eq!(formats, 8, "{tally:?}");
}

/// Ring offsets of every live record's header, and of its payload, by the kinds of ops in it.
fn records(disk: &SimDisk) -> Vec<(String, std::ops::Range<u64>)> {
    let opened = Store::open_on(Arc::new(disk.kill()), IDENTITY, options(WORKERS)).unwrap();
    let salt = opened.store.engine.salt;
    let tail = lock(&opened.store.engine.index).captured.sequence;
    let mut found = BTreeMap::new();
    for offset in (0..options(WORKERS).ring_bytes).step_by(BLOCK_BYTES as usize) {
        let mut block = vec![0; HEADER_BYTES];
        disk.read_at(RING_AT + offset, &mut block).unwrap();
        if let Some(header) = RecordHeader::decode(&block, salt) {
            let mut payload = vec![0; header.payload_bytes as usize];
            disk.read_at(RING_AT + offset + HEADER_BYTES as u64, &mut payload)
                .unwrap();
            if header.sequence >= tail && header.matches(&payload, salt) {
                found.insert(header.sequence, (offset, kinds(&payload), payload.len() as u64));
            }
        }
    }
    // A damaged last record can not be told from a torn one; here no checkpoint reflects it.
    found.pop_last();
    let parts = found
        .into_values()
        .rev()
        .take(6)
        .flat_map(|(offset, kinds, payload)| {
            let start = RING_AT + offset;
            let body = start + HEADER_BYTES as u64;
            [
                ("record header".into(), start..body),
                (format!("record of {kinds}"), body..body + payload),
            ]
        });
    parts.collect()
}

fn kinds(payload: &[u8]) -> String {
    let mut kinds: Vec<String> = parse(payload)
        .unwrap()
        .iter()
        .map(|op| match op {
            Op::Write(_) => "writes".to_string(),
            other => format!("{other:?}")
                .split('(')
                .next()
                .unwrap_or_default()
                .to_lowercase(),
        })
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds.join(" and ")
}

#[test]
fn a_flip_in_a_live_record_ends_the_node() {
    let disk = node();
    let expected = known(&disk);
    let flips = records(&disk).into_iter().flat_map(|(what, range)| {
        let step = if what == "record header" { 1 } else { 41 };
        range.step_by(step).map(move |offset| (what.clone(), offset))
    });
    let tally = tally(&disk, &expected, flips);
    let noticed = count(&tally, "record", Fate::Noticed);
    assert!(noticed > 200, "{tally:?}");
    assert_eq!(noticed, tally.values().sum::<u64>(), "{tally:?}");
}

/// The rows of all tables: (table, key, sealed value), as redb has them.
fn rows(disk: &SimDisk) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let opened = Store::open_on(Arc::new(disk.kill()), IDENTITY, options(WORKERS)).unwrap();
    let database = opened.store.engine.database.read().unwrap();
    let transaction = database.as_ref().unwrap().begin_read().unwrap();
    let mut rows = Vec::new();
    for (name, table) in [("identity", IDENTITY_TABLE), ("data", DATA), ("chunks", CHUNKS)] {
        for row in transaction.open_table(table).unwrap().iter().unwrap() {
            let (key, value) = row.unwrap();
            rows.push((name, key.value().to_vec(), value.value().to_vec()));
        }
    }
    for row in transaction.open_table(GROUPS).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.push(("groups", key.value().to_vec(), value.value().to_vec()));
    }
    for row in transaction.open_table(COLD).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.push(("cold", key.value().to_vec(), value.value().to_vec()));
    }
    rows
}

/// Where in redb's part each row's key and value lie; older copies of pages hold some twice.
fn places_of_rows(disk: &SimDisk) -> Vec<(String, u64)> {
    let rows = rows(disk);
    let mut places = Vec::new();
    for block in disk.blocks().into_iter().filter(|block| *block < LOG_AT) {
        let mut page = vec![0; BLOCK_BYTES as usize];
        disk.read_at(block, &mut page).unwrap();
        for (table, key, value) in &rows {
            let Some(at) = find(&page, value) else { continue };
            let step = (value.len() / 5).max(1);
            places.extend(
                (0..value.len())
                    .step_by(step)
                    .map(|n| (format!("{table} value"), block + (at + n) as u64)),
            );
            if let Some(at) = find(&page, key) {
                places.push((format!("{table} key"), block + (at + key.len() - 1) as u64));
            }
        }
    }
    places
}

fn find(page: &[u8], part: &[u8]) -> Option<usize> {
    page.windows(part.len()).position(|window| window == part)
}

#[test]
fn a_flip_in_a_row_is_noticed_or_hits_an_old_copy() {
    let disk = node();
    let expected = known(&disk);
    let places = places_of_rows(&disk);
    let step = places.len().div_ceil(if is_thorough() { 3_000 } else { 800 });
    let tally = tally(&disk, &expected, places.into_iter().step_by(step));
    for table in ["identity", "groups", "cold", "data", "chunks"] {
        assert!(count(&tally, table, Fate::Noticed) > 0, "{table}: {tally:?}");
    }
    for fate in [
        Fate::Wrong,
        Fate::Forgotten,
        Fate::Misnamed,
        Fate::Hidden,
        Fate::Absent,
    ] {
        assert_eq!(count(&tally, "", fate), 0, "{fate:?}: {tally:?}");
    }
}

/// A damaged branch sends walks to wrong pages: they may go back, and without a check for ever.
#[test]
fn a_flip_in_a_branch_ends_in_a_verdict() {
    const BRANCH: u8 = 2;
    let disk = node();
    let expected = known(&disk);
    let blocks = disk.blocks().into_iter().filter(|block| *block < LOG_AT);
    let branches = blocks.filter(|block| {
        let mut first = [0];
        disk.read_at(*block, &mut first).unwrap();
        first[0] == BRANCH
    });
    let used = |block: &u64| {
        let mut page = vec![0; BLOCK_BYTES as usize];
        disk.read_at(*block, &mut page).unwrap();
        let length = page.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        *block..*block + length as u64
    };
    let bytes: Vec<u64> = branches.flat_map(|block| used(&block)).collect();
    assert!(bytes.len() > 100, "{} bytes of branches", bytes.len());
    let step = bytes.len().div_ceil(if is_thorough() { 6_000 } else { 400 });
    let flips = bytes.iter().step_by(step);
    let tally = tally(&disk, &expected, flips.map(|offset| ("branch".into(), *offset)));
    for fate in [Fate::Wrong, Fate::Forgotten, Fate::Misnamed] {
        assert_eq!(count(&tally, "branch", fate), 0, "{fate:?}: {tally:?}");
    }
    assert!(count(&tally, "branch", Fate::Noticed) > 4, "{tally:?}");
}

#[test]
fn a_flip_anywhere_in_redb_is_never_read_as_another_value() {
    let disk = node();
    let expected = known(&disk);
    let stride = if is_thorough() { 331 } else { 911 };
    let blocks = disk.blocks().into_iter().filter(|block| *block < LOG_AT);
    let flips = blocks.flat_map(|block| (block..block + BLOCK_BYTES).step_by(stride));
    let tally = tally(&disk, &expected, flips.map(|offset| ("redb".into(), offset)));
    for fate in [Fate::Wrong, Fate::Forgotten, Fate::Misnamed] {
        assert_eq!(count(&tally, "redb", fate), 0, "{fate:?}: {tally:?}");
    }
    let noticed = count(&tally, "redb", Fate::Noticed) + count(&tally, "redb", Fate::Panicked);
    let hidden = count(&tally, "redb", Fate::Hidden) + count(&tally, "redb", Fate::Absent);
    assert!(noticed > 50, "{tally:?}");
    assert!(hidden * 50 <= noticed, "see DESIGN.md, Known limits: {tally:?}");
}
