//! The crash proof in small, and that each seeded bug is found.

use super::world::{Model, World};
use crate::Closed;
use crate::testing::{Bug, SimDisk, prove_many};
use std::sync::Arc;

/// Images in the ordinary suite. The whole number is `crash --images 100000`, see CONTRIBUTING.md.
const IMAGES: u64 = 4000;

#[test]
fn crashes_lose_nothing() {
    let (counts, failure) = prove_many(1, IMAGES, 2, None);
    println!("{counts}");
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    assert_eq!(counts.invalid(), None);
}

/// Images within which each bug must be found; most are within some hundred.
const IMAGES_PER_BUG: u64 = 20_000;

#[test]
fn every_seeded_bug_is_found() {
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| {
            let (counts, failure) = prove_many(1, IMAGES_PER_BUG, 1, Some(*bug));
            let after = counts.images + failure.as_ref().map_or(0, |failure| failure.image);
            let message = failure.map_or_else(String::new, |failure| failure.message);
            println!("{bug}: {after} images, {message:.300}");
            !bug.found_by().iter().any(|check| message.contains(check))
        })
        .collect();
    assert_eq!(
        missed,
        [],
        "not found, or by another check than the one that is meant to"
    );
}

#[test]
fn a_killed_process_finds_everything_and_laps_the_ring() {
    let mut disk = Arc::new(SimDisk::new());
    let mut model = Model::new(5);
    for _ in 0..10 {
        let mut world = World::open(Arc::clone(&disk) as _, model).unwrap();
        (0..150).for_each(|_| world.step());
        world.check_contents();
        let stats = world.store().stats();
        assert!(
            stats.log_bytes > 2 * stats.ring_bytes,
            "the script laps the ring: {stats:?}"
        );
        assert!(stats.fetched > 0 && stats.checkpoints > 0, "{stats:?}");
        model = world.kill();
        disk = Arc::new(disk.kill());
    }
}

#[test]
fn a_clean_stop_leaves_everything_in_redb() {
    let mut disk = Arc::new(SimDisk::new());
    let mut model = Model::new(9);
    for _ in 0..6 {
        let mut world = World::open(Arc::clone(&disk) as _, model).unwrap();
        (0..40).for_each(|_| world.step());
        let (closed, after) = world.close();
        assert_eq!(closed, Closed::Plain);
        model = after;
        disk = Arc::new(disk.crash(1));
        assert!(
            crate::Disk::bytes(&*disk).unwrap() < 1 << 40,
            "the log region is gone"
        );
    }
}
