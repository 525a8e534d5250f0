//! The scrubber: damage of every kind in a running node's file is found within one pass, whatever redb's own check finds
//! among it; a sound file under load gives no false alarm; one decayed header slot is repaired.

use super::is_thorough;
use super::world::{IDENTITY, Model, WORKERS, World, options, run};
use crate::engine::{Engine, lock};
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_AT};
use crate::options::Scrubbed;
use crate::recover::check_pages;
use crate::scrub::Scrub;
use crate::testing::{Ended, Script, Setting, told};
use crate::{Disk, ExitReason, Offline, Options, SimDisk, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a slice reads: little, so that a pass has many.
const SLICE_BYTES: u64 = 3 * BLOCK_BYTES;

/// A node that has everything, and runs: a log, cold entries, data in several levels, chunks.
fn node() -> (Arc<SimDisk>, World) {
    let disk = Arc::new(SimDisk::new());
    let script = Script {
        keys: 300,
        ..Script::default()
    };
    let setting = Setting {
        script,
        ..Setting::default()
    };
    let mut world = World::open_with(Arc::clone(&disk) as _, Model::new(6), setting).unwrap();
    while world.model.checkpoints < 8 || world.store().stats().spilled < 10 {
        world.step();
    }
    world.checkpoint();
    for _ in 0..6 {
        world.step();
        world.settle();
    }
    (disk, world)
}

/// A whole pass. `Err`: it ended the node.
fn pass(engine: &Engine) -> Result<Vec<(String, Range<u64>)>, Ended> {
    *lock(&engine.scrub) = Scrub::default();
    run(|| while !engine.scrub_once(SLICE_BYTES).is_last {})?;
    Ok(std::mem::take(&mut lock(&engine.scrub).seen))
}

fn is_found(engine: &Engine) -> bool {
    match pass(engine) {
        Ok(_) => false,
        Err(ended) => {
            assert_eq!(ended.reason, ExitReason::Corrupt, "{}", ended.message);
            true
        }
    }
}

#[test]
fn a_pass_reads_everything_once_per_slice_and_counts() {
    let (_, world) = node();
    let engine = world.store().engine();
    let seen = pass(engine).unwrap();
    let kinds: BTreeSet<&str> = seen.iter().map(|(kind, _)| kind.as_str()).collect();
    for kind in [
        "tables leaf",
        "identity leaf",
        "groups leaf",
        "cold leaf",
        "data branch",
        "data leaf",
        "chunks leaf",
        "allocator_state leaf",
        "log record",
    ] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
    let stats = world.store().stats();
    assert_eq!((stats.scrub_passes, stats.scrub_errors), (1, 0));
    assert!(stats.scrub_bytes > 0 && stats.scrub_ended > 0, "{stats:?}");
}

/// redb says how many pages are in use; the walk must have come to each of them.
#[test]
fn no_page_in_use_is_left_out() {
    let (_, world) = node();
    let engine = world.store().engine();
    let seen = pass(engine).unwrap();
    let pages = seen
        .into_iter()
        .filter(|(_, place)| place.end < LOG_AT && place.end > 0);
    let places: BTreeMap<u64, u64> = pages.map(|(_, place)| (place.start, place.end)).collect();
    let read: u64 = places
        .iter()
        .map(|(start, end)| (end - start) / BLOCK_BYTES)
        .sum();
    let stats = engine.begin_write().unwrap().stats().unwrap();
    let held = stats.allocated_pages();
    // What a commit replaced is counted until the next one has used it again.
    assert!(
        read <= held && read * 10 >= held * 6,
        "{read} pages of {held} were read"
    );
    let named = world.store().engine().begin_read().unwrap();
    let table = named.open_table(crate::tables::DATA).unwrap();
    let data = redb::ReadableTableMetadata::stats(&table).unwrap();
    let of_data = pass(engine).unwrap();
    let of_data: BTreeSet<u64> = of_data
        .iter()
        .filter(|(kind, _)| kind.starts_with("data "))
        .map(|(_, place)| place.start)
        .collect();
    let expected = data.leaf_pages() + data.branch_pages();
    assert_eq!(of_data.len() as u64, expected, "of the largest table, each page");
}

#[test]
fn a_flipped_bit_in_every_kind_of_page_and_record_is_found_within_a_pass() {
    let (disk, world) = node();
    let engine = world.store().engine();
    let seen = pass(engine).unwrap();
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, place) in seen {
        let done = tally.entry(kind.clone()).or_default();
        if place.is_empty() || *done >= if is_thorough() { 2_000 } else { 60 } {
            continue;
        }
        let covered = match kind.as_str() {
            "log record" => place.end - place.start,
            // Most of a page may be unused; a branch with two children takes this much.
            _ => 56,
        };
        for at in [1, 2, 5, 30, 45, covered / 2, covered - 1] {
            let offset = place.start + at.min(covered - 1);
            disk.flip_bit(offset, (at % 8) as u8);
            assert!(is_found(engine), "{kind}, byte {at} of {place:?}");
            disk.flip_bit(offset, (at % 8) as u8);
            *done += 1;
        }
    }
    for at in 0..crate::pages::HEADER_BYTES as u64 {
        disk.flip_bit(at, (at % 8) as u8);
        assert!(is_found(engine), "redb's header, byte {at}");
        disk.flip_bit(at, (at % 8) as u8);
    }
    println!("{tally:?}");
    assert!(tally["data leaf"] >= 60 && tally["log record"] >= 40, "{tally:?}");
    assert!(pass(engine).is_ok(), "nothing is damaged any more");
}

/// redb's own check is another program: what it finds in the file, the scrubber finds too.
#[test]
fn what_redb_finds_offline_the_scrubber_finds_online() {
    let (disk, world) = node();
    let engine = world.store().engine();
    let stride = if is_thorough() { 331 } else { 2_477 };
    let blocks = disk.blocks().into_iter().filter(|block| *block < LOG_AT);
    let (mut both, mut ours, mut none) = (0, 0, 0);
    for offset in blocks.flat_map(|block| (block..block + BLOCK_BYTES).step_by(stride)) {
        disk.flip_bit(offset, 3);
        let online = is_found(engine);
        let copy: Arc<dyn Disk> = Arc::new(disk.kill());
        let look = || match check_pages(Arc::clone(&copy), &options(WORKERS)) {
            Ok(true) => Offline::open_on(Arc::clone(&copy)).is_err(),
            Ok(false) | Err(_) => true,
        };
        let offline = catch_unwind(AssertUnwindSafe(look));
        disk.flip_bit(offset, 3);
        match (offline.unwrap_or(true), online) {
            (true, true) => both += 1,
            (false, true) => ours += 1,
            (false, false) => none += 1,
            (true, false) => panic!("redb finds the flip at {offset}, the scrubber does not"),
        }
    }
    println!("{both} found by both, {ours} by the scrubber alone, {none} in what nobody reads");
    assert!(both > 20 && none > 20, "{both} {ours} {none}");
}

#[test]
fn one_decayed_header_slot_is_written_again_and_two_end_the_node() {
    let disk = Arc::new(SimDisk::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tap = Arc::clone(&told);
    let options = Options {
        on_scrub: Some(Arc::new(move |scrubbed| tap.lock().unwrap().push(scrubbed))),
        ..options(WORKERS)
    };
    let opened = Store::open_on(Arc::clone(&disk) as _, IDENTITY, options).unwrap();
    let engine = opened.store.engine();
    let slots = || {
        let mut bytes = vec![0; 2 * BLOCK_BYTES as usize];
        disk.read_at(LOG_AT, &mut bytes).unwrap();
        bytes
    };
    let before = slots();
    for slot in [LOG_AT, LOG_AT + BLOCK_BYTES] {
        disk.flip_bit(slot + 80, 1);
        assert_ne!(slots(), before);
        pass(engine).unwrap();
        assert_eq!(slots(), before, "written again");
    }
    let repaired = |told: &[Scrubbed]| told.iter().filter(|told| **told == Scrubbed::Repaired).count();
    assert_eq!(repaired(&told.lock().unwrap()), 2);
    assert_eq!(opened.store.stats().scrub_errors, 2);
    disk.flip_bit(LOG_AT + 80, 1);
    disk.flip_bit(LOG_AT + BLOCK_BYTES + 90, 1);
    assert!(is_found(engine));
}

/// Another thread scrubs while checkpoints and the log overwrite what it reads.
#[test]
fn a_sound_file_under_load_gives_no_false_alarm() {
    let checkpoints = if is_thorough() { 5_000 } else { 500 };
    let disk = Arc::new(SimDisk::new());
    let setting = Setting {
        script: Script {
            keys: 200,
            checkpoint_one_in: 1,
            ..Script::default()
        },
        ..Setting::default()
    };
    let mut world = World::open_with(Arc::clone(&disk) as _, Model::new(11), setting).unwrap();
    let (engine, stop) = (
        Arc::clone(world.store().engine()),
        Arc::new(AtomicBool::new(false)),
    );
    let stopped = Arc::clone(&stop);
    let scrubber = std::thread::spawn(move || {
        let mut again = 0;
        while !stopped.load(Ordering::Relaxed) {
            engine.scrub_once(SLICE_BYTES);
            let seen = std::mem::take(&mut lock(&engine.scrub).seen);
            again += seen.iter().filter(|(kind, _)| kind == "again").count();
        }
        again
    });
    let (begun, started) = (world.model.checkpoints, Instant::now());
    let is_short = |world: &World| {
        let passes = world.store().stats().scrub_passes;
        let is_short = world.model.checkpoints < begun + checkpoints || passes < 20;
        is_short && started.elapsed() < Duration::from_secs(120)
    };
    while is_short(&world) && !scrubber.is_finished() {
        world.step();
        if world.store().stats().ring_used_bytes > options(WORKERS).ring_bytes / 2 {
            world.checkpoint();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let again = scrubber.join().map_err(|ended| told(&*ended)).expect("no alarm");
    let stats = world.store().stats();
    println!(
        "{} passes, {again} slices read again, {stats:?}",
        stats.scrub_passes
    );
    assert_eq!(stats.scrub_errors, 0);
    assert!(stats.scrub_passes >= 20, "INVALID: {} passes", stats.scrub_passes);
}

/// Holds the scrubber's thread before it reads a place, once.
#[derive(Debug)]
struct Gated {
    disk: SimDisk,
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    place: Range<u64>,
    arrived: Sender<()>,
    opened: Receiver<()>,
}

const SCRUBBER: &str = "scrubber";

impl Disk for Gated {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.bytes()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if std::thread::current().name() == Some(SCRUBBER) {
            let gate = self
                .gate
                .lock()
                .unwrap()
                .take_if(|gate| gate.place.contains(&offset));
            if let Some(gate) = gate {
                gate.arrived.send(()).unwrap();
                gate.opened.recv().unwrap();
            }
        }
        self.disk.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, data)
    }
    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_durable(offset, data)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.disk.clear(range)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
}

/// The scrubber knows what a page or a record must be, and before it reads it, the ring is lapped and redb's pages are used
/// again, several times.
#[test]
fn what_is_overwritten_before_it_is_read_is_no_damage() {
    for place in [BLOCK_BYTES..LOG_AT, RING_AT..u64::MAX] {
        let disk = Arc::new(Gated {
            disk: SimDisk::new(),
            gate: Mutex::default(),
        });
        let mut world = World::open(Arc::clone(&disk) as _, Model::new(4)).unwrap();
        while world.model.checkpoints < 4 {
            world.step();
        }
        (0..8).for_each(|_| world.step());
        let ((arrived, arrives), (open, opened)) = (channel(), channel());
        let gate = Gate {
            place: place.clone(),
            arrived,
            opened,
        };
        *disk.gate.lock().unwrap() = Some(gate);
        let engine = Arc::clone(world.store().engine());
        let scrubber = std::thread::Builder::new().name(SCRUBBER.into());
        let scrubber = scrubber.spawn(move || pass(&engine)).unwrap();
        arrives.recv().unwrap();
        let (before, checkpoints) = (world.store().stats().log_bytes, world.model.checkpoints);
        let is_lapped = |world: &World| {
            let written = world.store().stats().log_bytes - before;
            written > 2 * options(WORKERS).ring_bytes && world.model.checkpoints > checkpoints + 8
        };
        while !is_lapped(&world) {
            world.step();
        }
        open.send(()).unwrap();
        let seen = scrubber.join().expect("only the end of the process is caught");
        let seen = seen.unwrap_or_else(|ended| panic!("a false alarm at {place:?}: {}", ended.message));
        assert!(
            seen.iter().any(|(kind, _)| kind == "again"),
            "INVALID: nothing was overwritten"
        );
    }
}

/// The thread itself, on a real file: passes come, one after the other, no faster than the rate allows; 0 means none.
#[test]
fn the_thread_scrubs_at_its_rate_until_the_store_stops() {
    for rate in [0, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            scrub_rate: rate,
            scrub_interval: Duration::from_millis(1),
            ..options(1)
        };
        let opened = Store::open(&directory.path().join("node.redb"), IDENTITY, options).unwrap();
        let sink = Arc::new(super::world::Sink::default());
        opened.store.start(vec![sink as _]);
        let began = Instant::now();
        let passes = || opened.store.stats().scrub_passes;
        while rate > 0 && passes() < 3 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{:?}",
                opened.store.stats()
            );
            std::thread::sleep(Duration::from_millis(5)); // pace: polling, bounded above
        }
        let (read, took) = (opened.store.stats().scrub_bytes, began.elapsed());
        // A pass's last slice is not waited for.
        let most = rate as f64 * (took.as_secs_f64() + 0.1) + 3.0 * 65_536.0;
        assert!(read as f64 <= most, "{read} bytes in {took:?}");
        assert_eq!(passes() > 0, rate > 0);
    }
}
