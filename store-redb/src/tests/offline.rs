//! Files looked at offline: what a kill, a clean stop and damage leave, and that looking changes nothing.

use super::world::{Model, World};
use crate::limits::RING_AT;
use crate::{Cell, Cells, Closed, Disk, Offline, OpenError, Section, SimDisk};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A node with data, checkpoints and a log, stopped one way or the other.
fn stopped(is_clean: bool) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new());
    let mut world = World::open(Arc::clone(&disk) as _, Model::new(5)).unwrap();
    (0..200).for_each(|_| world.step());
    world.settle();
    if is_clean {
        assert_eq!(world.close().0, Closed::Plain);
    } else {
        world.kill();
    }
    disk
}

fn bytes_of(disk: &SimDisk) -> Vec<u8> {
    let length = disk.bytes().unwrap();
    let mut all = Vec::new();
    for part in [0..length.min(8 << 20), RING_AT.min(length)..length] {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        disk.read_at(part.start, &mut bytes).unwrap();
        all.extend(bytes);
    }
    all
}

fn number(cells: &Cells, name: &str) -> u64 {
    match cells.iter().find(|(cell, _)| *cell == name) {
        Some((_, Cell::Number(number))) => *number,
        other => panic!("{name}: {other:?}"),
    }
}

fn rows(offline: &Offline, section: Section) -> Result<Vec<Cells>, OpenError> {
    let mut rows = Vec::new();
    offline.dump(section, None, &mut |cells| {
        rows.push(cells);
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

#[test]
fn a_sound_file_is_sound_and_stays_as_it_is() {
    for is_clean in [false, true] {
        let disk = stopped(is_clean);
        let before = bytes_of(&disk);
        let offline = Offline::open_on(Arc::clone(&disk) as _).unwrap();
        let (found, problems) = offline.check().unwrap();
        assert_eq!(problems, Vec::<String>::new());
        let data = rows(&offline, Section::Data).unwrap().len() as u64;
        assert!(data > 0);
        assert_eq!(number(&found, "data_rows"), data);
        assert_eq!(number(&offline.stats().unwrap(), "data_rows"), data);
        let groups = rows(&offline, Section::Groups).unwrap().len() as u64;
        assert_eq!(number(&found, "groups"), groups);
        let ops = rows(&offline, Section::Log).unwrap();
        assert_eq!(ops.is_empty(), is_clean, "a clean stop empties the log");
        assert!(bytes_of(&disk) == before, "looking changed the file");
    }
}

#[test]
fn a_group_is_shown_alone() {
    let offline = Offline::open_on(stopped(false)).unwrap();
    let groups = rows(&offline, Section::Groups).unwrap();
    let id = number(&groups[0], "group");
    for section in [Section::Log, Section::Groups, Section::Data] {
        let mut shown = 0;
        let mut take = |cells: Cells| {
            assert_eq!(number(&cells, "group"), id);
            shown += 1;
            ControlFlow::Continue(())
        };
        offline
            .dump(section, Some(multiraft::GroupId(id)), &mut take)
            .unwrap();
        assert!(shown <= rows(&offline, section).unwrap().len());
    }
}

/// What `check` calls sound shows every row; a flip that hides or changes one is found. redb panics on some pages.
#[test]
fn no_flipped_bit_hides_a_row_from_the_check() {
    let disk = stopped(true);
    let sound = rows(&Offline::open_on(Arc::clone(&disk) as _).unwrap(), Section::Data).unwrap();
    let length = disk.bytes().unwrap();
    let (mut found, mut harmless) = (0, 0);
    for step in 0..120 {
        let offset = (step * 977 * 4099) % length;
        disk.flip_bit(offset, 3);
        let look = || -> Result<bool, OpenError> {
            let offline = Offline::open_on(Arc::clone(&disk) as _)?;
            let (_, problems) = offline.check()?;
            if !problems.is_empty() {
                return Ok(true);
            }
            assert_eq!(
                rows(&offline, Section::Data)?,
                sound,
                "a flip at {offset} is not found"
            );
            Ok(false)
        };
        match catch_unwind(AssertUnwindSafe(look)) {
            Ok(Ok(false)) => harmless += 1,
            Ok(Ok(true)) | Ok(Err(OpenError::Corrupt(_))) => found += 1,
            Ok(Err(error)) => panic!("{error}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                assert!(!text.contains("is not found"), "{text}");
                found += 1;
            }
        }
        disk.flip_bit(offset, 3);
    }
    assert!(found > 5, "{found} found, {harmless} in free pages");
}
