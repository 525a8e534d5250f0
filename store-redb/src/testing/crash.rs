//! The crash proof: a scripted node runs on a simulated disk; from every call that changes the disk, crash images are
//! made of what may be left, recovered and compared with the model. One seed is one chain of lives of a node.

use super::bugs::Bug;
use super::disk::{Losses, Moment, Operation, Remains, SimDisk};
use super::fates::Lived;
use super::history::Said;
use super::model::Model;
use super::random::Random;
use super::world::{Phase, Progress, Script, Setting, World, told};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_AT};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Lives of a node in one chain.
const LIVES: usize = 5;

/// Steps of one life, at most.
const STEPS: u64 = 160;

/// Images of one life, about.
const IMAGES: u64 = 120;

/// Crashes in a row, at most, before a recovery is allowed to finish.
const DEPTH: usize = 4;

/// One image in so many is looked through for rows that nobody maps.
const CLEAN_ONE_IN: u64 = 8;

/// Changing calls of a recovery, roughly.
const RECOVERY_OPERATIONS: u64 = 12;

/// What a node did when the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A new file was made.
    Creation,
    /// A cleanly stopped file got its log region again.
    Attach,
    /// A crashed file was recovered.
    Recovery,
    /// A record was written.
    Record,
    /// The same, at the start of a new lap of the ring.
    Lap,
    /// A segment of the ring was filled.
    Segment,
    /// A checkpoint's pages were written.
    Pages,
    /// A checkpoint's sync was under way.
    Sync,
    /// A checkpoint's commit was written: redb's own header.
    Commit,
    /// Staged rows, or the deletion of dead ones, were written between checkpoints.
    Tidy,
    /// redb's part grew: the node file's header was written.
    Growth,
    /// A clean stop was under way.
    CleanStop,
    /// Nothing happened.
    Idle,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 13] = [
        Kind::Creation,
        Kind::Attach,
        Kind::Recovery,
        Kind::Record,
        Kind::Lap,
        Kind::Segment,
        Kind::Pages,
        Kind::Sync,
        Kind::Commit,
        Kind::Tidy,
        Kind::Growth,
        Kind::CleanStop,
        Kind::Idle,
    ];

    /// Images of one cut: rare kinds get more.
    fn weight(self) -> u64 {
        match self {
            Kind::Pages | Kind::Tidy => 1,
            Kind::Record | Kind::Sync | Kind::Commit | Kind::Creation | Kind::CleanStop => 3,
            Kind::Attach | Kind::Recovery | Kind::Segment | Kind::Idle => 6,
            Kind::Lap | Kind::Growth => 12,
        }
    }
}

/// What was exercised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recovered and verified states.
    pub images: u64,
    /// By what the node did at the first cut.
    pub kinds: BTreeMap<Kind, u64>,
    /// By how many crashes in a row led to the image.
    pub depths: BTreeMap<usize, u64>,
    /// Images in which a change was lost, torn, kept; in which a later one survived an earlier one.
    pub lost: u64,
    /// See `lost`.
    pub torn: u64,
    /// See `lost`.
    pub kept: u64,
    /// See `lost`.
    pub reordered: u64,
    /// Images of a process that died while the system lived.
    pub killed: u64,
    /// Batches submitted.
    pub batches: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Entries copied to the cold table.
    pub spilled: u64,
    /// Images while a birth was under way; while a birth by split was; an install; a tombstone.
    pub births: u64,
    /// See `births`.
    pub splits: u64,
    /// See `births`.
    pub installs: u64,
    /// See `births`.
    pub burials: u64,
    /// Images in which two groups share a slot; in which something was left to delete; that a child was restored in
    /// whose state only its parent's replay makes.
    pub shared: u64,
    /// See `shared`.
    pub dead: u64,
    /// See `shared`.
    pub after: u64,
    /// What happened to groups, in all lives.
    pub lived: Lived,
    /// Lives of nodes.
    pub lives: u64,
}

impl Counts {
    /// Why this run proves too little, if it does: a promised kind of crash was rare.
    pub fn invalid(&self) -> Option<String> {
        let least = (self.images / 500).max(1);
        let kinds = Kind::ALL.map(|kind| {
            let count = self.kinds.get(&kind).copied().unwrap_or(0);
            (format!("{kind:?}"), count)
        });
        let depth = |depth: usize| self.depths.range(depth..).map(|(_, count)| count).sum();
        let others = [
            ("lost", self.lost),
            ("torn", self.torn),
            ("kept", self.kept),
            ("reordered", self.reordered),
            ("killed", self.killed),
            ("double crash", depth(2)),
            ("triple crash", depth(3)),
            ("spilled", self.spilled),
            ("birth under way", self.births),
            ("split under way", self.splits),
            ("install under way", self.installs),
            ("tombstone under way", self.burials),
            ("shared slot", self.shared),
            ("left to delete", self.dead),
            ("child of a replay", self.after),
        ];
        let others = others.map(|(name, count)| (name.to_string(), count));
        let rare: Vec<String> = kinds
            .into_iter()
            .chain(others)
            .filter(|(_, count)| *count < least)
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        (!rare.is_empty()).then(|| format!("fewer than {least} of {}", rare.join(", ")))
    }

    fn under_way(&mut self, model: &Model) {
        let any = |is_meant: fn(&Said) -> bool| u64::from(model.under_way().any(is_meant));
        self.births += any(|said| matches!(said, Said::Born(_)));
        self.splits += any(|said| matches!(said, Said::Born(newborn) if newborn.split.is_some()));
        self.installs += any(|said| matches!(said, Said::Installed(_)));
        self.burials += any(|said| matches!(said, Said::Buried(_)));
    }

    fn recovered(&mut self, world: &World) {
        let (is_shared, is_left) = world.sharing();
        self.shared += u64::from(is_shared);
        self.dead += u64::from(is_left);
        self.after += u64::from(world.found().iter().any(|found| found.after.is_some()));
    }

    fn lost(&mut self, losses: Losses) {
        self.lost += u64::from(losses.lost > 0);
        self.torn += u64::from(losses.torn > 0);
        self.kept += u64::from(losses.kept > 0);
        self.reordered += u64::from(losses.is_reordered);
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        self.images += other.images;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
        for (depth, count) in &other.depths {
            *self.depths.entry(*depth).or_default() += count;
        }
        self.lost += other.lost;
        self.torn += other.torn;
        self.kept += other.kept;
        self.reordered += other.reordered;
        self.killed += other.killed;
        self.batches += other.batches;
        self.checkpoints += other.checkpoints;
        self.spilled += other.spilled;
        self.births += other.births;
        self.splits += other.splits;
        self.installs += other.installs;
        self.burials += other.burials;
        self.shared += other.shared;
        self.dead += other.dead;
        self.after += other.after;
        self.lived += other.lived;
        self.lives += other.lives;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images of {} lives:", self.images, self.lives)?;
        for (kind, count) in &self.kinds {
            write!(f, " {kind:?} {count}")?;
        }
        write!(
            f,
            "; lost {} torn {} kept {} reordered {} killed {}; crashes in a row:",
            self.lost, self.torn, self.kept, self.reordered, self.killed
        )?;
        for (depth, count) in &self.depths {
            write!(f, " {depth}: {count}")?;
        }
        write!(
            f,
            "; {} batches, {} checkpoints, {} entries spilled",
            self.batches, self.checkpoints, self.spilled
        )?;
        write!(
            f,
            "; under way: birth {}, of a split {}, install {}, tombstone {}; slots shared {}, rows left to delete {}, \
             child of a replay {}; {}",
            self.births,
            self.splits,
            self.installs,
            self.burials,
            self.shared,
            self.dead,
            self.after,
            self.lived
        )
    }
}

/// A crash that lost something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// The image of that seed, counted from 1.
    pub image: u64,
    /// What was wrong.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, image {}: {}", self.seed, self.image, self.message)
    }
}

/// One chain: deterministic.
pub fn prove(seed: u64, bug: Option<Bug>) -> Result<Counts, Failure> {
    let mut chain = Chain {
        random: Random::new(seed),
        bug,
        counts: Counts::default(),
    };
    chain.run(seed).map_err(|message| Failure {
        seed,
        image: chain.counts.images + 1,
        message,
    })?;
    Ok(chain.counts)
}

/// Chains from `seed` on, by so many threads, until there are so many images, or one fails.
pub fn prove_many(seed: u64, images: u64, jobs: usize, bug: Option<Bug>) -> (Counts, Option<Failure>) {
    let next = AtomicU64::new(seed);
    let is_over = AtomicBool::new(false);
    let total = Mutex::new((Counts::default(), None));
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let proved = prove(next.fetch_add(1, Ordering::Relaxed), bug);
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            match proved {
                Ok(counts) => total.0 += &counts,
                Err(failure) => {
                    total.1.get_or_insert(failure);
                }
            }
            is_over.fetch_or(total.1.is_some() || total.0.images >= images, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..jobs).for_each(|_| {
            scope.spawn(work);
        });
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A place where the power may be cut.
struct Cut {
    kind: Kind,
    remains: Remains,
    is_open: bool,
    acknowledged: usize,
    submitted: usize,
}

/// Tells kinds apart.
struct Classifier {
    opening: Kind,
    /// Where the last record began.
    last_record: u64,
}

impl Classifier {
    fn new(disk: &SimDisk, model: &Model) -> Classifier {
        let length = disk.bytes().expect("no fault yet");
        let opening = match length {
            _ if model.incarnation == 0 => Kind::Creation,
            0..=LOG_AT => Kind::Attach,
            _ => Kind::Recovery,
        };
        Classifier {
            opening,
            last_record: 0,
        }
    }

    fn kind(&mut self, phase: Phase, operation: &Operation) -> Kind {
        match (phase, operation) {
            (Phase::Opening, _) => self.opening,
            (Phase::Closing, _) => Kind::CleanStop,
            (Phase::Committing, Operation::WriteDurable(range)) if range.start >= RING_AT => {
                let is_lap = range.start < self.last_record;
                self.last_record = range.start;
                if is_lap { Kind::Lap } else { Kind::Record }
            }
            (Phase::Committing, _) => Kind::Segment,
            (Phase::Tidying, Operation::Write(_) | Operation::Sync) => Kind::Tidy,
            (Phase::Checkpointing, Operation::Sync) => Kind::Sync,
            (Phase::Checkpointing, Operation::Write(range)) if range.start >= BLOCK_BYTES => Kind::Pages,
            (Phase::Checkpointing, Operation::Write(_)) => Kind::Commit,
            (Phase::Checkpointing | Phase::Tidying, _) => Kind::Growth,
        }
    }
}

type Cuts = Arc<Mutex<Vec<Cut>>>;

struct Chain {
    random: Random,
    bug: Option<Bug>,
    counts: Counts,
}

impl Chain {
    fn run(&mut self, seed: u64) -> Result<(), String> {
        let mut disk = SimDisk::new();
        let mut model = Model::new(seed);
        for _ in 0..LIVES {
            let (next, after) = self.live(disk, model)?;
            disk = next;
            model = after;
        }
        Ok(())
    }

    fn setting(&self, script: Script) -> Setting {
        Setting {
            script,
            progress: Arc::default(),
            bug: self.bug,
        }
    }

    /// One life and the images of its cuts; one of them goes on to the next life.
    fn live(&mut self, disk: SimDisk, before: Model) -> Result<(SimDisk, Model), String> {
        let disk = Arc::new(disk);
        let script = Script::by_chance(&mut self.random);
        let setting = self.setting(script);
        let progress = Arc::clone(&setting.progress);
        let cuts = watch(&disk, &before, &progress);
        let mut opened = before.clone();
        let lived = quietly(|| self.play(&disk, &mut opened, setting));
        disk.unwatch();
        lived?;
        self.counts.lives += 1;
        self.counts.batches += progress.submitted() as u64;
        let mut cuts = std::mem::take(&mut *cuts.lock().unwrap_or_else(PoisonError::into_inner));
        cuts.push(Cut {
            kind: Kind::Idle,
            remains: disk.remains(),
            is_open: true,
            acknowledged: progress.acknowledged(),
            submitted: progress.submitted(),
        });
        opened.set_records(progress.records());
        for batch in progress.batches() {
            opened.submit(batch);
        }
        self.examine_all(&cuts, &before, opened)
    }

    /// From the start to the end of a process, or of what is looked at.
    fn play(&mut self, disk: &Arc<SimDisk>, opened: &mut Model, setting: Setting) -> Result<(), String> {
        let script_is_long = self.random.one_in(2);
        let mut world = open(disk, opened.clone(), setting)?;
        *opened = world.model.clone();
        let steps = self.random.below(if script_is_long { STEPS } else { STEPS / 8 });
        (0..steps).for_each(|_| world.step());
        world.check_contents();
        let stats = world.store().stats();
        self.counts.checkpoints += stats.checkpoints;
        self.counts.spilled += stats.spilled;
        self.counts.lived += world.lived;
        if self.random.one_in(4) {
            world.close();
        } else {
            disk.unwatch();
            end(world, disk);
        }
        Ok(())
    }

    fn examine_all(
        &mut self,
        cuts: &[Cut],
        before: &Model,
        mut opened: Model,
    ) -> Result<(SimDisk, Model), String> {
        let weight: u64 = cuts.iter().map(|cut| cut.kind.weight()).sum();
        let successor = match self.random.one_in(3) {
            true => cuts.len() - 1,
            false => self.random.index(cuts.len()),
        };
        let mut next = None;
        for (number, cut) in cuts.iter().enumerate() {
            let model = if cut.is_open {
                opened.acknowledge_until(cut.acknowledged);
                opened.when_submitted(cut.submitted)
            } else {
                before.clone()
            };
            let mut images = 0;
            for _ in 0..cut.kind.weight() {
                images += u64::from(self.random.below(weight) < IMAGES);
            }
            images = images.max(u64::from(number == successor));
            for _ in 0..images {
                let survivor = self.examine(cut, &model)?;
                if number == successor {
                    next = Some(survivor);
                }
            }
        }
        let (disk, mut model) = next.expect("the successor has an image");
        model.branch();
        Ok((disk, model))
    }

    /// One image: crashes in a row, then a recovery that is verified, and a second one that must find the same.
    fn examine(&mut self, cut: &Cut, model: &Model) -> Result<(SimDisk, Model), String> {
        let mut random = self.random.fork();
        let mut losses = Losses::default();
        let mut disk = if random.one_in(8) {
            self.counts.killed += 1;
            cut.remains.kill(&mut random)
        } else {
            let (disk, cost) = cut.remains.crash(&mut random);
            losses = cost;
            disk
        };
        let mut model = model.clone();
        self.counts.under_way(&model);
        let mut depth = 1;
        while depth < DEPTH && random.one_in(3) {
            disk = quietly(|| self.crash_again(&disk, &mut model, &mut random))
                .map_err(|message| format!("{:?}, crash {}: {message}", cut.kind, depth + 1))?;
            depth += 1;
        }
        let found = quietly(|| self.verify(&disk, &model, &mut random))
            .map_err(|message| format!("{:?}, {depth} crashes: {message}", cut.kind))?;
        if disk.remains().is_certain() {
            // Nothing else may be found there ever again. Nobody was told of this start, though.
            let incarnation = model.incarnation;
            model = found;
            model.incarnation = incarnation;
        }
        self.counts.images += 1;
        *self.counts.kinds.entry(cut.kind).or_default() += 1;
        *self.counts.depths.entry(depth).or_default() += 1;
        self.counts.lost(losses);
        Ok((disk, model))
    }

    /// Cuts the power again while the node recovers, or right after it did: then what it found counts as told.
    fn crash_again(&self, disk: &SimDisk, model: &mut Model, random: &mut Random) -> Result<SimDisk, String> {
        let disk = Arc::new(disk.kill());
        disk.fail_at(random.below(RECOVERY_OPERATIONS));
        match open(&disk, model.clone(), self.setting(Script::default())) {
            Err(_) if disk.is_dead() => Ok(disk.remains().crash(random).0),
            Err(message) => Err(message),
            Ok(world) => {
                let next = disk.remains().crash(random).0;
                *model = world.model.clone();
                end(world, &disk);
                Ok(next)
            }
        }
    }

    /// The model as of what is found.
    fn verify(&mut self, disk: &SimDisk, model: &Model, random: &mut Random) -> Result<Model, String> {
        let first = Arc::new(disk.kill());
        let mut world = open(&first, model.clone(), self.setting(Script::default()))?;
        world.check_log();
        let again = Arc::new(first.remains().crash(random).0);
        let second = open(&again, world.model.clone(), self.setting(Script::default()))
            .map_err(|message| format!("the second time: {message}"))?;
        for (first, second) in world.found().iter().zip(second.found()) {
            let marks = |found: &multiraft::RestoredGroup| {
                let restored = &found.restored;
                (restored.applied, restored.truncated, found.descriptor.clone())
            };
            if marks(first) != marks(second) {
                return Err(format!(
                    "{} differs the second time: {first:?}, {second:?}",
                    first.group
                ));
            }
        }
        self.counts.recovered(&world);
        let found = world.model.clone();
        end(second, &again);
        if random.one_in(CLEAN_ONE_IN) {
            world.check_nothing_left();
        }
        end(world, &first);
        Ok(found)
    }
}

/// Opens a world; a failed check is an error.
fn open(disk: &Arc<SimDisk>, model: Model, setting: Setting) -> Result<World, String> {
    World::open_with(Arc::clone(disk) as _, model, setting).map_err(|error| match error {
        OpenError::Io { action, source } => format!("not opened: {action}: {source}"),
        error => format!("not opened: {error}"),
    })
}

/// A dead process closes nothing.
fn end(world: World, disk: &SimDisk) {
    disk.cut_power();
    drop(world);
}

fn watch(disk: &SimDisk, model: &Model, progress: &Arc<Progress>) -> Cuts {
    let cuts = Cuts::default();
    let kept = Arc::clone(&cuts);
    let progress = Arc::clone(progress);
    let mut classifier = Classifier::new(disk, model);
    disk.watch(move |moment: &Moment<'_>| {
        let phase = progress.phase();
        let cut = Cut {
            kind: classifier.kind(phase, &moment.operation),
            remains: moment.remains(),
            is_open: phase != Phase::Opening,
            acknowledged: progress.acknowledged(),
            submitted: progress.submitted(),
        };
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(cut);
    });
    cuts
}

/// A panic, or the end of the process, is an error.
fn quietly<T>(what: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|payload| Err(told(&*payload)))
}
