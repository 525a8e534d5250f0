//! Every call to the disk fails once, in every way: the process ends with code 70, acknowledges nothing afterwards, and
//! the next start finds everything acknowledged, whether or not the system went down with it.

use super::is_thorough;
use crate::testing::{Extent, Fault, Model, Moment, Progress, Script, Setting, SimDisk, World, run};
use crate::{ExitReason, OpenError};
use std::sync::{Arc, Mutex};

const SEED: u64 = 3;

/// What of a node outlives its process.
struct Lived {
    disk: Arc<SimDisk>,
    progress: Arc<Progress>,
    /// As of the start, if it came to that.
    opened: Option<Model>,
    /// The exit code; `None`: nothing failed.
    code: Option<i32>,
    /// Batches that were acknowledged when each call began.
    acknowledged: Arc<Mutex<Vec<usize>>>,
}

impl Lived {
    /// A fixed script that goes through everything: creation, laps of the ring, growth, checkpoints, a clean stop.
    fn play(disk: SimDisk) -> Lived {
        let mut lived = Lived {
            disk: Arc::new(disk),
            progress: Arc::default(),
            opened: None,
            code: None,
            acknowledged: Arc::default(),
        };
        let (acknowledged, progress) = (Arc::clone(&lived.acknowledged), Arc::clone(&lived.progress));
        lived.disk.watch(move |_: &Moment<'_>| {
            acknowledged.lock().unwrap().push(progress.acknowledged());
        });
        let ended = run(|| lived.steps());
        lived.code = match ended {
            Ok(Ok(())) => None,
            Ok(Err(refused)) => Some(refused.code()),
            Err(ended) => Some(ended.reason.code()),
        };
        lived.disk.unwatch();
        lived
    }

    fn acknowledged_at(&self, call: u64) -> usize {
        self.acknowledged.lock().unwrap()[call as usize]
    }

    fn steps(&mut self) -> Result<(), OpenError> {
        let script = Script {
            entries: 8,
            value_bytes: 1500,
            lag: 60,
            fate_one_in: 10,
            ..Script::default()
        };
        let setting = Setting {
            script,
            progress: Arc::clone(&self.progress),
            ..Setting::default()
        };
        let mut world = World::open_with(Arc::clone(&self.disk) as _, Model::new(SEED), setting)?;
        self.opened = Some(world.model.clone());
        for _ in 0..3 {
            (0..8).for_each(|_| world.step());
            world.checkpoint();
        }
        (0..3).for_each(|_| world.step());
        world.close();
        Ok(())
    }

    /// What the next start must find.
    fn expected(&self, records: &Arc<Vec<Extent>>) -> Model {
        let mut model = self.opened.clone().unwrap_or_else(|| Model::new(SEED));
        model.set_records(Arc::clone(records));
        self.progress
            .batches()
            .into_iter()
            .for_each(|batch| model.submit(batch));
        model.acknowledge_until(self.progress.acknowledged());
        model
    }

    /// The process starts again, on a system that lived and on one that did not; what it then found must survive that
    /// the power is cut after all.
    fn restart(&self, records: &Arc<Vec<Extent>>, seed: u64) {
        for disk in [self.disk.kill(), self.disk.crash(seed)] {
            let disk = Arc::new(disk);
            let mut world = World::open(Arc::clone(&disk) as _, self.expected(records)).unwrap();
            world.check_log();
            let told = world.model.clone();
            let after = Arc::new(disk.crash(seed));
            disk.cut_power();
            drop(world);
            World::open(after, told).unwrap().check_contents();
        }
    }
}

#[test]
fn every_failed_call_ends_the_process_and_loses_nothing() {
    let calm = Lived::play(SimDisk::new());
    assert_eq!(calm.code, None);
    let (calls, records) = (calm.disk.operations(), calm.progress.records());
    for call in 0..calls {
        let turn = (call % 4) as usize;
        let ways = if is_thorough() { 0..4 } else { turn..turn + 1 };
        for fault in &Fault::WITHOUT_POWER_CUT[ways] {
            let disk = SimDisk::new();
            disk.fail(call, *fault);
            let lived = Lived::play(disk);
            let code = ExitReason::WriteFailed.code();
            assert_eq!(lived.code, Some(code), "call {call} of {calls}, {fault:?}");
            let acknowledged = lived.progress.acknowledged();
            assert_eq!(acknowledged, calm.acknowledged_at(call), "call {call}, {fault:?}");
            lived.restart(&records, call);
        }
    }
    println!(
        "{calls} calls, each failed in {} ways",
        Fault::WITHOUT_POWER_CUT.len()
    );
}

#[test]
fn every_failed_read_ends_the_process_and_loses_nothing() {
    let calm = Lived::play(SimDisk::new());
    let (reads, records) = (calm.disk.reads(), calm.progress.records());
    for read in (0..reads).step_by(if is_thorough() { 3 } else { 23 }) {
        let disk = SimDisk::new();
        disk.fail_read(read);
        let lived = Lived::play(disk);
        assert_eq!(
            lived.code,
            Some(ExitReason::WriteFailed.code()),
            "read {read} of {reads}"
        );
        lived.restart(&records, read);
    }
}
