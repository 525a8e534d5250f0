//! The power is cut at every disk operation of a script; what is found afterwards is compared with a model.

use super::world::{Model, Random, World, run};
use crate::{Closed, ExitReason, OpenError, SimDisk};
use std::sync::Arc;

/// Runs the script until the power is cut; the model as of then.
fn live(disk: &Arc<SimDisk>, model: Model, steps: u64) -> Model {
    // The model must survive the panic that ends the process.
    let kept = std::sync::Mutex::new(model.clone());
    let _ended = run(|| {
        let mut world = match World::open(Arc::clone(disk) as _, model) {
            Ok(world) => world,
            Err(OpenError::Io { .. } | OpenError::Corrupt(_)) if disk.is_dead() => return,
            Err(error) => panic!("{error}"),
        };
        *kept.lock().unwrap() = world.model.clone();
        for _ in 0..steps {
            let died = run(|| world.step()).is_err();
            world.note_acknowledged();
            *kept.lock().unwrap() = world.model.clone();
            if died {
                return;
            }
        }
    });
    kept.into_inner().unwrap()
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let calm = Arc::new(SimDisk::new());
    let finished = live(&calm, Model::new(1), 60);
    assert!(
        finished.checkpoints > 3,
        "the script goes through {} checkpoints",
        finished.checkpoints
    );
    let operations = calm.operations();
    for operation in 0..operations {
        let disk = Arc::new(SimDisk::new());
        disk.fail_at(operation);
        let model = live(&disk, Model::new(1), 60);
        let after = Arc::new(disk.crash(operation));
        let world = World::open(after, model).unwrap_or_else(|error| panic!("after {operation}: {error}"));
        world.check_contents();
    }
}

#[test]
fn many_lives_lose_nothing_acknowledged() {
    for seed in 1..40 {
        let mut model = Model::new(seed);
        let mut random = Random(seed);
        let mut disk = SimDisk::new();
        for _ in 0..6 {
            let current = Arc::new(disk);
            current.fail_at(random.below(400));
            model = live(&current, model, 80);
            disk = current.crash(random.below(1 << 30));
        }
        World::open(Arc::new(disk), model).unwrap().check_contents();
    }
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

#[test]
fn a_power_cut_during_a_clean_stop_loses_nothing() {
    let calm = Arc::new(SimDisk::new());
    let mut world = World::open(Arc::clone(&calm) as _, Model::new(4)).unwrap();
    (0..30).for_each(|_| world.step());
    world.settle();
    let start = calm.operations();
    world.close();
    let end = calm.operations();
    assert!(end > start + 5, "a clean stop works on the disk");
    for operation in start..end {
        let disk = Arc::new(SimDisk::new());
        let mut world = World::open(Arc::clone(&disk) as _, Model::new(4)).unwrap();
        (0..30).for_each(|_| world.step());
        world.settle();
        let model = world.model.clone();
        disk.fail_at(operation);
        let ended = run(|| world.close()).expect_err("the power is cut");
        assert_eq!(ended.reason, ExitReason::WriteFailed, "{}", ended.message);
        let after = Arc::new(disk.crash(operation));
        World::open(after, model)
            .unwrap_or_else(|error| panic!("after {operation}: {error}"))
            .check_contents();
    }
}
