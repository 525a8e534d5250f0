//! Bugs seeded on purpose: adapters between the production code and the disk, and hands in its memory, that break one
//! promise each. They prove that the checks can fail; production code knows nothing of them.

use crate::checkpoint::write_data;
use crate::disk::Disk;
use crate::engine::lock;
use crate::group_log::{GroupLog, LogIndex};
use crate::header::{Header, Slot};
use crate::install::Staging;
use crate::limits::{BLOCK_BYTES, LOG_AT, MARKER_AT, RING_AT};
use crate::record::{HEADER_BYTES, OpId, RecordHeader};
use crate::slots::Chores;
use crate::span::Piece;
use crate::store::Store;
use multiraft::{GroupId, Index, LogBatch, ReplicaId};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Records are acknowledged before they are durable.
    AcknowledgesEarly,
    /// No sync does anything: checkpoints are believed durable before they are.
    SyncsNothing,
    /// A record's payload is taken without looking at its checksum.
    SkipsPayloadChecksum,
    /// Room in the ring is given back before the checkpoint that makes it unnecessary is durable.
    ReleasesRoomEarly,
    /// The tail leaves live entries behind that are not in the cold table.
    LeavesEntriesBehind,
    /// The log is truncated above what the state in redb reflects.
    TruncatesUnreflected,
    /// A checkpoint's data and its rows are two transactions.
    HalvesCheckpoints,
    /// redb grows before the header says so.
    GrowsUnannounced,
    /// The log region is made without the length that tells that it is unfinished.
    AttachesUnmarked,
    /// What recovery finds in a cache is believed: it syncs nothing, not even redb.
    TrustsCaches,
    /// A start does not count.
    KeepsIncarnation,
    /// The first record after a start has the number of the last one before.
    ReusesRecordNumbers,
    /// Terms and votes are not in the record that acknowledges them.
    ForgetsVotes,
    /// Commit marks are not in the record that acknowledges them.
    ForgetsCommitMarks,
    /// The record of an install is written before the rows that it names are durable.
    InstallsUnstaged,
    /// Snapshots are staged over the state that they will replace, before any record says so.
    StagesOverLiveState,
    /// A checkpoint passes over the rows of logs that were installed, and the tail moves past the installs.
    PassesInstalls,
    /// Rows do not say with which op their log began.
    ForgetsBeginnings,
    /// A checkpoint does not hold the tombstones that the tail moves past.
    ForgetsTombstones,
    /// A checkpoint holds parents behind their splits, but no rows of children that are not durably born.
    ForgetsNewborns,
    /// A checkpoint holds children's rows, but their parents' rows do not know that keys went away.
    ForgetsSplits,
    /// The record of a birth by split does not carry the parent's commit mark.
    ForgetsParentsMark,
    /// What one of two groups that share a slot gives up is deleted, whatever the other one maps.
    FreesSharedSlots,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 23] = [
        Bug::AcknowledgesEarly,
        Bug::SyncsNothing,
        Bug::SkipsPayloadChecksum,
        Bug::ReleasesRoomEarly,
        Bug::LeavesEntriesBehind,
        Bug::TruncatesUnreflected,
        Bug::HalvesCheckpoints,
        Bug::GrowsUnannounced,
        Bug::AttachesUnmarked,
        Bug::TrustsCaches,
        Bug::KeepsIncarnation,
        Bug::ReusesRecordNumbers,
        Bug::ForgetsVotes,
        Bug::ForgetsCommitMarks,
        Bug::InstallsUnstaged,
        Bug::StagesOverLiveState,
        Bug::PassesInstalls,
        Bug::ForgetsBeginnings,
        Bug::ForgetsTombstones,
        Bug::ForgetsNewborns,
        Bug::ForgetsSplits,
        Bug::ForgetsParentsMark,
        Bug::FreesSharedSlots,
    ];

    /// The checks that are meant to find it: one of them stands in the failure's message. A log that does not fit
    /// together is refused by recovery before anything can be compared.
    pub fn found_by(self) -> &'static [&'static str] {
        match self {
            Bug::ForgetsVotes | Bug::ForgetsCommitMarks | Bug::ForgetsParentsMark => &["[logs]"],
            Bug::AcknowledgesEarly
            | Bug::ReusesRecordNumbers
            | Bug::PassesInstalls
            | Bug::ForgetsTombstones => &["[logs]", "the node file is damaged"],
            Bug::ForgetsBeginnings | Bug::ForgetsNewborns => &["[logs]", "[state]"],
            Bug::HalvesCheckpoints
            | Bug::InstallsUnstaged
            | Bug::StagesOverLiveState
            | Bug::ForgetsSplits
            | Bug::FreesSharedSlots => &["[state]"],
            Bug::KeepsIncarnation => &["[incarnation]"],
            Bug::SyncsNothing
            | Bug::SkipsPayloadChecksum
            | Bug::ReleasesRoomEarly
            | Bug::LeavesEntriesBehind
            | Bug::TruncatesUnreflected
            | Bug::GrowsUnannounced
            | Bug::AttachesUnmarked
            | Bug::TrustsCaches => &["the node file is damaged"],
        }
    }

    /// The bug with this name, as printed.
    pub fn parse(name: &str) -> Result<Bug, String> {
        let found = Bug::ALL.into_iter().find(|bug| bug.to_string() == name);
        found.ok_or_else(|| {
            let names = Bug::ALL.map(|bug| bug.to_string()).join(", ");
            format!("no such bug; there are {names}")
        })
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Applies a bug to one start of a node.
#[derive(Clone, Debug)]
pub(super) struct Sabotage {
    bug: Option<Bug>,
    is_open: Arc<AtomicBool>,
    /// Set aside while a checkpoint is written.
    aside: Arc<Mutex<Aside>>,
}

#[derive(Debug, Default)]
struct Aside {
    tombstones: Vec<(GroupId, ReplicaId)>,
    dying: Vec<Piece>,
}

impl Sabotage {
    pub(super) fn new(bug: Option<Bug>) -> Sabotage {
        Sabotage {
            bug,
            is_open: Arc::default(),
            aside: Arc::default(),
        }
    }

    /// What the node is given for a disk.
    pub(super) fn disk(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        match self.bug {
            None => disk,
            Some(bug) => Arc::new(BrokenDisk {
                bug,
                is_new: disk.bytes().is_ok_and(|bytes| bytes == 0),
                is_open: Arc::clone(&self.is_open),
                disk,
            }),
        }
    }

    /// The node is open.
    pub(super) fn opened(&self, store: &Store) {
        self.is_open.store(true, Ordering::Relaxed);
        if self.bug == Some(Bug::ReusesRecordNumbers) {
            let mut index = lock(&store.engine.index);
            index.durable.sequence = (index.durable.sequence - 1).max(1);
        }
    }

    /// What the node is given for a batch.
    pub(super) fn batch(&self, mut batch: LogBatch) -> LogBatch {
        for write in &mut batch.writes {
            match self.bug {
                Some(Bug::ForgetsVotes) => write.hard_state = None,
                Some(Bug::ForgetsCommitMarks) => write.commit = Index(0),
                _ => {}
            }
        }
        for split in batch.births.iter_mut().filter_map(|birth| birth.split.as_mut()) {
            if self.bug == Some(Bug::ForgetsParentsMark) {
                split.at = Index(0);
            }
        }
        batch
    }

    /// A snapshot begins to arrive.
    pub(super) fn begins_to_stage(&self, store: &Store, staging: &Staging, group: GroupId) {
        if self.bug == Some(Bug::StagesOverLiveState)
            && let Some(log) = lock(&store.engine.index).groups.get(&group)
            && let Some(piece) = log.places.pieces().first()
        {
            staging.redirect(piece.slot);
        }
    }

    /// Whether an install may name what is not durable.
    pub(super) fn takes_unstaged(&self) -> bool {
        self.bug == Some(Bug::InstallsUnstaged)
    }

    /// Whether a checkpoint goes without the row of a group that was installed.
    pub(super) fn passes_over(&self, is_new: bool) -> bool {
        is_new && self.bug == Some(Bug::PassesInstalls)
    }

    /// All workers had their turn.
    pub(super) fn turn(&self, store: &Store) {
        let engine = &store.engine;
        if self.bug == Some(Bug::ReleasesRoomEarly) && engine.frozen().len() == engine.options.workers {
            let captured = lock(&engine.index).captured;
            lock(&engine.ring).release(captured);
        }
    }

    /// A checkpoint may be ready; `installed` are groups that have no row since their install.
    pub(super) fn before_checkpoint(&self, store: &Store, installed: &[GroupId]) {
        let engine = &store.engine;
        let frozen = engine.frozen();
        if frozen.len() < engine.options.workers {
            return;
        }
        if self.bug == Some(Bug::HalvesCheckpoints) {
            let database = engine.database.read().expect("nobody panics here");
            let transaction = database.as_ref().expect("open").begin_write().expect("no fault");
            write_data(&transaction, &frozen, &mut Chores::default()).expect("no fault");
            // The power may be cut: what follows will find that.
            let _ = transaction.commit();
        }
        drop(frozen);
        self.meddle(store, installed);
    }

    fn meddle(&self, store: &Store, installed: &[GroupId]) {
        let engine = &store.engine;
        match self.bug {
            Some(Bug::LeavesEntriesBehind) => leave_entries_behind(store),
            Some(Bug::TruncatesUnreflected) => {
                for log in lock(&engine.index).groups.values_mut() {
                    log.checkpointed = log.commit;
                    log.truncate(log.commit);
                }
            }
            Some(Bug::PassesInstalls) => {
                let groups = &mut lock(&engine.index).groups;
                for group in installed {
                    groups
                        .get_mut(group)
                        .into_iter()
                        .for_each(|log| log.is_dirty = false);
                }
            }
            Some(Bug::ForgetsBeginnings) => {
                let logs = &mut lock(&engine.index).groups;
                logs.values_mut().for_each(|log| log.began = OpId::default());
            }
            Some(Bug::ForgetsTombstones) => self.hide_tombstones(store),
            Some(Bug::ForgetsNewborns) => forget_moved(store, |index, group| {
                !index.groups.get(&group).is_some_and(GroupLog::is_initialised)
            }),
            Some(Bug::ForgetsSplits) => forget_moved(store, |index, group| {
                index.groups.get(&group).is_some_and(GroupLog::is_initialised)
            }),
            Some(Bug::FreesSharedSlots) => lock(&self.aside).dying = given_up(store),
            _ => {}
        }
    }

    fn hide_tombstones(&self, store: &Store) {
        let lives = &mut lock(&store.engine.index).lives;
        let aside = &mut lock(&self.aside).tombstones;
        for group in &lives.unwritten {
            let lowest = lives.tombstones.insert(*group, ReplicaId(0));
            aside.extend(lowest.map(|lowest| (*group, lowest)));
        }
    }

    /// A checkpoint was written, or there was none.
    pub(super) fn after_checkpoint(&self, store: &Store, is_written: bool) {
        let lives = &mut lock(&store.engine.index).lives;
        let Aside { tombstones, dying } = std::mem::take(&mut *lock(&self.aside));
        lives.tombstones.extend(tombstones);
        if is_written {
            lives.dead.extend(dying);
        }
    }
}

/// Everything that some group gives up with the next checkpoint, though another may map it.
fn given_up(store: &Store) -> Vec<Piece> {
    let index = lock(&store.engine.index);
    let mut given_up = index.lives.dying.clone();
    for frozen in store.engine.frozen() {
        let split = frozen
            .table
            .moved
            .keys()
            .filter_map(|group| index.groups.get(group));
        given_up.extend(split.flat_map(|log| log.places.pieces().iter().cloned()));
    }
    given_up
}

/// What is frozen no longer says where some groups' keys went.
fn forget_moved(store: &Store, is_forgotten: impl Fn(&LogIndex, GroupId) -> bool) {
    let engine = &store.engine;
    for worker in 0..engine.options.workers {
        let index = lock(&engine.index);
        let mut memory = engine.memory(worker);
        let frozen = memory.frozen.as_mut().and_then(Arc::get_mut);
        if let Some(frozen) = frozen {
            frozen
                .table
                .moved
                .retain(|group, _| !is_forgotten(&index, *group));
        }
    }
}

fn leave_entries_behind(store: &Store) {
    let mut index = lock(&store.engine.index);
    let captured = index.captured;
    for log in index.groups.values_mut() {
        let Some(range) = log.before(captured) else {
            continue;
        };
        for index in (range.start().0..=range.end().0).map(Index) {
            let placed = log.placed(index).expect("live");
            log.spilled(index, placed);
        }
    }
}

/// A disk between the node and the real one.
#[derive(Debug)]
struct BrokenDisk {
    disk: Arc<dyn Disk>,
    bug: Bug,
    is_new: bool,
    is_open: Arc<AtomicBool>,
}

impl BrokenDisk {
    /// Makes the header of the record at `offset` fit whatever payload is there.
    fn bless(&self, offset: u64, header: &mut [u8]) -> io::Result<()> {
        let Some(salt) = self.newest_header()?.map(|header| header.salt) else {
            return Ok(());
        };
        if let Some(found) = RecordHeader::decode(header, salt) {
            let mut payload = vec![0; found.payload_bytes as usize];
            self.disk.read_at(offset + HEADER_BYTES as u64, &mut payload)?;
            header[28..32].copy_from_slice(&salted(salt, &payload).to_le_bytes());
            let checksum = salted(salt, &header[8..]);
            header[4..8].copy_from_slice(&checksum.to_le_bytes());
        }
        Ok(())
    }

    fn newest_header(&self) -> io::Result<Option<Header>> {
        let mut newest: Option<Header> = None;
        for at in [LOG_AT, LOG_AT + BLOCK_BYTES] {
            let mut block = vec![0; BLOCK_BYTES as usize];
            self.disk.read_at(at, &mut block)?;
            if let Slot::Valid(header) = Slot::decode(&block)
                && newest.as_ref().is_none_or(|old| old.version < header.version)
            {
                newest = Some(header);
            }
        }
        Ok(newest)
    }

    /// What becomes of a header on its way to the disk. `None`: it does not arrive.
    fn header(&self, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Slot::Valid(mut header) = Slot::decode(data) else {
            return Ok(Some(data.to_vec()));
        };
        match self.bug {
            Bug::KeepsIncarnation => header.incarnation = header.incarnation.min(1),
            Bug::GrowsUnannounced => {
                let old = self.newest_header()?;
                if old.is_some_and(|old| is_growth(&old, &header)) {
                    return Ok(None);
                }
            }
            _ => {}
        }
        Ok(Some(header.encode()))
    }
}

/// Only redb's length differs.
fn is_growth(old: &Header, new: &Header) -> bool {
    old.redb_bytes < new.redb_bytes
        && old.incarnation == new.incarnation
        && old.segments_ready == new.segments_ready
}

/// As records are sealed; see `DESIGN.md`.
fn salted(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

impl Disk for BrokenDisk {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, out)?;
        let is_header = offset >= RING_AT && out.len() == HEADER_BYTES;
        match self.bug {
            Bug::SkipsPayloadChecksum if is_header => self.bless(offset, out),
            _ => Ok(()),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, data)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.bug {
            Bug::AcknowledgesEarly if offset >= RING_AT => self.disk.write_at(offset, data),
            _ if offset < RING_AT => match self.header(data)? {
                Some(header) => self.disk.write_durable(offset, &header),
                None => Ok(()),
            },
            _ => self.disk.write_durable(offset, data),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.bug {
            Bug::AttachesUnmarked if len >= MARKER_AT => Ok(()),
            _ => self.disk.set_len(len),
        }
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.disk.clear(range)
    }

    fn sync(&self) -> io::Result<()> {
        match self.bug {
            Bug::SyncsNothing => Ok(()),
            Bug::TrustsCaches if !self.is_new && !self.is_open.load(Ordering::Relaxed) => Ok(()),
            _ => self.disk.sync(),
        }
    }

    fn write_out(&self) -> io::Result<()> {
        self.disk.write_out()
    }

    fn forget(&self, range: Range<u64>) {
        self.disk.forget(range);
    }
}
