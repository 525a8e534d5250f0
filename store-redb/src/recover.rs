//! Opening a node file: whose it is, what a crash left, what the groups were. Halts on what can not be a torn tail.

use crate::checkpoint::put_identity;
use crate::codec::{Malformed, Reader, read_entry};
use crate::disk::Disk;
use crate::engine::{Engine, Parts};
use crate::error::OpenError;
use crate::group_log::{GroupLog, LogIndex, Placed, Row};
use crate::header::{FORMAT, Header, Position, Remembered};
use crate::limits::{BLOCK_BYTES, LOOKAHEAD_BYTES, NEED_BYTES_FIXED};
use crate::lives::{Lives, is_known, is_progress};
use crate::memory::Memory;
use crate::node_file::{Found, NodeFile, RedbPart, check_identity, io_error};
use crate::options::{Identity, Options};
use crate::order::Order;
use crate::record::{Born, Fate, HEADER_BYTES, Installed, Op, OpId, ParsedWrite, RecordHeader, parse};
use crate::ring::Ring;
use crate::span::Piece;
use crate::store::worker_of;
use crate::tables::{
    Base, Broken, CHUNKS, COLD, DATA, GROUPS, IDENTITY, IDENTITY_KEY, TOMBSTONES, split_cold_key, unseal,
};
use multiraft::{
    Entry, GroupId, Index, Install, Payload, ReplicaId, Restored, RestoredGroup, Split, Tombstone,
};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Opens a node file on any disk.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    identity: Identity,
    mut options: Options,
) -> Result<(Engine, Vec<RestoredGroup>), OpenError> {
    options.check().map_err(OpenError::Options)?;
    let (file, found) = NodeFile::open(disk)?;
    let database = match found {
        Found::New => create(&file, identity, &options)?,
        Found::Plain => attach(&file, identity, &options)?,
        Found::Attached(header) => resume(&file, &header, identity, &options)?,
    };
    let header = begin_incarnation(&file)?;
    options.ring_bytes = u64::from(header.segments) * header.segment_bytes;
    options.segment_bytes = header.segment_bytes;

    let transaction = database.begin_read().map_err(open_error)?;
    let remembered = read_identity(&database)?;
    let mut scan = Scan::new(&file, &header, &remembered);
    scan.load(&transaction)?;
    scan.run()?;
    let memories = open_memories(&transaction, &scan.groups, options.workers)?;
    let rows = std::mem::take(&mut scan.rows);
    let (mut index, ring, groups) = scan.finish()?;
    index.find_dead(&transaction, &rows).map_err(open_error)?;
    let engine = Engine::new(Parts {
        incarnation: header.incarnation,
        salt: header.salt,
        file,
        options,
        database,
        index,
        ring,
        memories,
    });
    Ok((engine, groups))
}

/// Whose file this is.
pub(crate) fn whose(disk: Arc<dyn Disk>, options: &Options) -> Result<Identity, OpenError> {
    let (file, found) = NodeFile::open(disk)?;
    match found {
        Found::New => Err(OpenError::Corrupt(
            "it is empty: no node was ever born here".into(),
        )),
        Found::Attached(header) => Ok(header.identity),
        Found::Plain => Ok(read_identity(&open_redb(&file, options)?)?.identity),
    }
}

/// Compares every page of redb's part with its checksum. False: redb had to repair something.
pub(crate) fn check_pages(disk: Arc<dyn Disk>, options: &Options) -> Result<bool, OpenError> {
    let (file, _) = NodeFile::open(disk)?;
    let mut database = open_redb(&file, options)?;
    database.check_integrity().map_err(open_error)
}

fn create(file: &Arc<NodeFile>, identity: Identity, options: &Options) -> Result<Database, OpenError> {
    let random = (options.entropy)().map_err(|source| io_error("read random bytes", source))?;
    let (file_uuid, salt) = random.split_first_chunk().expect("24 random bytes hold a uuid");
    let remembered = Remembered {
        identity,
        file_uuid: *file_uuid,
        salt: u64::from_le_bytes(salt.try_into().expect("and a salt")),
        incarnation: 0,
        tail: Position {
            offset: 0,
            sequence: 1,
        },
        reflected: 1,
    };
    check_space(file, options.ring_bytes)?;
    file.attach(&remembered, options)
        .map_err(|source| io_error("make the log region", source))?;
    create_tables(file, &remembered, options)
}

/// A new node needs space for its whole ring; one that stopped cleanly on a disk that filled up since, for a part.
fn check_space(file: &NodeFile, bytes: u64) -> Result<(), OpenError> {
    let free = file
        .space()
        .map_err(|source| io_error("look for free disk space", source))?
        .free;
    let needed = bytes + NEED_BYTES_FIXED;
    match free >= needed {
        true => Ok(()),
        false => Err(OpenError::NoSpace { needed, free }),
    }
}

/// redb's part, new and complete.
fn create_tables(
    file: &Arc<NodeFile>,
    remembered: &Remembered,
    options: &Options,
) -> Result<Database, OpenError> {
    let database = open_redb(file, options)?;
    let write = || -> Result<(), Broken> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(GROUPS)?;
        transaction.open_table(TOMBSTONES)?;
        transaction.open_table(COLD)?;
        transaction.open_table(DATA)?;
        transaction.open_table(CHUNKS)?;
        put_identity(&transaction, remembered)?;
        Ok(transaction.commit()?)
    };
    write().map_err(open_error)?;
    Ok(database)
}

/// A node that stopped cleanly gets a log region again.
fn attach(file: &Arc<NodeFile>, identity: Identity, options: &Options) -> Result<Database, OpenError> {
    let database = open_redb(file, options)?;
    let remembered = read_identity(&database)?;
    check_identity(remembered.identity, identity)?;
    check_space(file, options.segment_bytes)?;
    file.attach(&remembered, options)
        .map_err(|source| io_error("make the log region", source))?;
    Ok(database)
}

/// A node that crashed goes on.
fn resume(
    file: &Arc<NodeFile>,
    header: &Header,
    identity: Identity,
    options: &Options,
) -> Result<Database, OpenError> {
    check_identity(header.identity, identity)?;
    if header.incarnation == 0 {
        file.restart_creation()
            .map_err(|source| io_error("start over an unfinished creation", source))?;
        let remembered = Remembered {
            identity,
            file_uuid: header.file_uuid,
            salt: header.salt,
            incarnation: 0,
            tail: header.first,
            reflected: header.first.sequence,
        };
        return create_tables(file, &remembered, options);
    }
    file.clear_hole()
        .map_err(|source| io_error("clear the space behind redb's part", source))?;
    let database = open_redb(file, options)?;
    let remembered = read_identity(&database)?;
    match remembered.identity == header.identity && remembered.file_uuid == header.file_uuid {
        true => Ok(database),
        false => Err(OpenError::Corrupt(
            "the log region and redb's part belong to different files".into(),
        )),
    }
}

fn open_redb(file: &Arc<NodeFile>, options: &Options) -> Result<Database, OpenError> {
    redb::Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(RedbPart(Arc::clone(file)))
        .map_err(open_error)
}

fn read_identity(database: &Database) -> Result<Remembered, OpenError> {
    let read = || -> Result<_, Broken> {
        let table = database.begin_read()?.open_table(IDENTITY)?;
        let row = table
            .get(IDENTITY_KEY)?
            .ok_or(Malformed("there is no identity row"))?;
        Ok(Remembered::decode(unseal(IDENTITY_KEY, row.value())?)?)
    };
    read()
        .map_err(open_error)?
        .map_err(|found| OpenError::NewerFormat { found, known: FORMAT })
}

/// Counts this start, durably, before anything can be said; and makes the ring usable.
fn begin_incarnation(file: &NodeFile) -> Result<Header, OpenError> {
    if file.header().segments_ready == 0 {
        file.fill_segment()
            .map_err(|source| io_error("fill the log's first segment", source))?;
    }
    file.update(|header| header.incarnation += 1)
        .map_err(|source| io_error("count this start", source))?;
    Ok(file.header())
}

/// Visits every row of a table, and fails if they are not as many as the table counts: redb does not verify the pages it
/// reads, and a damaged one can hide rows.
fn each_row<const N: usize>(
    table: &ReadOnlyTable<&'static [u8; N], &'static [u8]>,
    mut each: impl FnMut(&[u8; N], &[u8]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut seen = 0;
    let mut order = Order::of_all();
    for row in table.iter()? {
        let (key, row) = row?;
        order.pass(key.value())?;
        each(key.value(), row.value())?;
        seen += 1;
    }
    match seen == table.len()? {
        true => Ok(()),
        false => Err(Malformed("a table has not as many rows as it counts").into()),
    }
}

pub(crate) fn open_error(error: impl Into<Broken>) -> OpenError {
    match error.into() {
        Broken::Corrupt(what) => OpenError::Corrupt(what),
        Broken::Failed(redb::Error::Io(source)) => io_error("open redb's part of the node file", source),
        Broken::Failed(error) => OpenError::Corrupt(error.to_string()),
    }
}

fn open_memories(
    transaction: &ReadTransaction,
    groups: &BTreeMap<GroupId, FoundGroup>,
    workers: usize,
) -> Result<Vec<Memory>, OpenError> {
    let base = Arc::new(Base::open(transaction).map_err(open_error)?);
    let mut memories: Vec<Memory> = (0..workers).map(|_| Memory::default()).collect();
    memories
        .iter_mut()
        .for_each(|memory| memory.base = Some(Arc::clone(&base)));
    for (group, found) in groups {
        let places = Arc::clone(&found.log.places);
        memories[worker_of(elder(groups, *group), workers)]
            .places
            .insert(*group, places);
    }
    Ok(memories)
}

/// The group that must be replayed before this one; itself, if none.
fn elder(groups: &BTreeMap<GroupId, FoundGroup>, group: GroupId) -> GroupId {
    let mut elder = group;
    while let Some(split) = groups.get(&elder).and_then(|found| found.log.parent) {
        elder = split.parent;
    }
    elder
}

/// A group while it is put together.
struct FoundGroup {
    log: GroupLog,
    /// The live entries, from `log.truncated` on.
    entries: VecDeque<Entry>,
}

/// The walk over the ring.
struct Scan<'a> {
    file: &'a NodeFile,
    header: &'a Header,
    ring: Ring,
    tail: Position,
    /// See `Remembered::reflected`.
    reflected: u64,
    /// Where the next record is expected.
    at: Position,
    incarnation: u64,
    groups: BTreeMap<GroupId, FoundGroup>,
    lives: Lives,
    /// What the rows in redb map.
    rows: Vec<Piece>,
}

/// A record as found in the ring.
struct FoundRecord {
    offset: u64,
    header: RecordHeader,
    payload: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(file: &'a NodeFile, header: &'a Header, remembered: &Remembered) -> Scan<'a> {
        let capacity = u64::from(header.segments) * header.segment_bytes;
        let ready = u64::from(header.segments_ready) * header.segment_bytes;
        // After a clean stop the same record number is at a new place: the region's first.
        let tail = match remembered.tail.sequence > header.first.sequence {
            true => remembered.tail,
            false => header.first,
        };
        Scan {
            file,
            header,
            ring: Ring::new(capacity, ready, tail.offset),
            tail,
            reflected: remembered.reflected,
            at: tail,
            incarnation: 0,
            groups: BTreeMap::new(),
            lives: Lives::default(),
            rows: Vec::new(),
        }
    }

    /// Starts from the rows, the cold entries and the tombstones.
    fn load(&mut self, transaction: &ReadTransaction) -> Result<(), OpenError> {
        self.load_rows(transaction)
            .and_then(|()| self.load_cold(transaction))
            .and_then(|()| self.load_tombstones(transaction))
            .map_err(open_error)
    }

    fn load_tombstones(&mut self, transaction: &ReadTransaction) -> Result<(), Broken> {
        each_row(&transaction.open_table(TOMBSTONES)?, |key, row| {
            let lowest = ReplicaId(Reader::new(unseal(key, row)?).varint()?);
            let group = GroupId(u64::from_be_bytes(*key));
            self.bury(Tombstone { group, lowest });
            Ok(())
        })?;
        self.lives.unwritten.clear();
        Ok(())
    }

    fn load_rows(&mut self, transaction: &ReadTransaction) -> Result<(), Broken> {
        each_row(&transaction.open_table(GROUPS)?, |key, row| {
            let log = Row::decode(unseal(key, row)?)?.into_log();
            self.rows.extend_from_slice(log.places.pieces());
            let found = FoundGroup {
                log,
                entries: VecDeque::new(),
            };
            self.groups.insert(GroupId(u64::from_be_bytes(*key)), found);
            Ok(())
        })
    }

    fn load_cold(&mut self, transaction: &ReadTransaction) -> Result<(), Broken> {
        each_row(&transaction.open_table(COLD)?, |key, row| {
            let (group, index) = split_cold_key(key);
            let entry = read_entry(group, index, unseal(key, row)?)?;
            let found = self
                .groups
                .get_mut(&group)
                .ok_or(Malformed("a cold entry of no group"))?;
            found.push(entry, Placed::COLD)?;
            let first = found.log.cold.map_or(index, |(first, _)| first);
            found.log.cold = Some((first, index));
            Ok(())
        })?;
        self.groups
            .values_mut()
            .for_each(|found| found.log.is_dirty = false);
        Ok(())
    }

    /// Replays every record from the tail on.
    fn run(&mut self) -> Result<(), OpenError> {
        while let Some(record) = self.next_record()? {
            self.ring.replay(record.offset, record.header.record_bytes());
            self.incarnation = record.header.incarnation;
            let at = Position {
                offset: record.offset,
                sequence: record.header.sequence,
            };
            self.replay(&record.payload, at).map_err(|malformed| {
                OpenError::Corrupt(format!("log record {}: {}", at.sequence, malformed.0))
            })?;
            self.at = Position {
                offset: self.ring.head(),
                sequence: at.sequence + 1,
            };
        }
        self.check_torn_tail()
    }

    /// The record with the expected number: where the last one ended, or at the ring's start.
    fn next_record(&self) -> Result<Option<FoundRecord>, OpenError> {
        for offset in [self.at.offset, 0] {
            let found = self
                .read_record(offset)
                .map_err(|source| io_error("read the log", source))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn read_record(&self, offset: u64) -> std::io::Result<Option<FoundRecord>> {
        let Some(header) = self.read_header(offset)? else {
            return Ok(None);
        };
        let is_next = header.sequence == self.at.sequence
            && (self.incarnation..=self.header.incarnation).contains(&header.incarnation)
            && offset + header.record_bytes() <= self.ring.ready();
        if !is_next {
            return Ok(None);
        }
        let mut payload = vec![0; header.payload_bytes as usize];
        self.file.read_ring(offset + HEADER_BYTES as u64, &mut payload)?;
        let is_whole = header.matches(&payload, self.header.salt);
        Ok(is_whole.then_some(FoundRecord {
            offset,
            header,
            payload,
        }))
    }

    fn read_header(&self, offset: u64) -> std::io::Result<Option<RecordHeader>> {
        if offset + BLOCK_BYTES > self.ring.ready() {
            return Ok(None);
        }
        let mut block = [0; HEADER_BYTES];
        self.file.read_ring(offset, &mut block)?;
        Ok(RecordHeader::decode(&block, self.header.salt))
    }

    /// One write is outstanding at a time: behind a torn record there is none with a larger number. If there is, or if
    /// a checkpoint reflects it, what looks torn was acknowledged once.
    fn check_torn_tail(&self) -> Result<(), OpenError> {
        if self.at.sequence < self.reflected {
            return Err(OpenError::Corrupt(format!(
                "log record {} is unreadable, but a checkpoint reflects the records before {}",
                self.at.sequence, self.reflected
            )));
        }
        for start in [self.at.offset, 0] {
            let end = self.ring.ready().min(start + LOOKAHEAD_BYTES);
            let mut offset = start;
            while offset < end {
                let header = self
                    .read_header(offset)
                    .map_err(|source| io_error("read the log", source))?;
                if let Some(newer) = header.filter(|header| header.sequence > self.at.sequence) {
                    return Err(OpenError::Corrupt(format!(
                        "log record {} is unreadable, but record {} follows it",
                        self.at.sequence, newer.sequence
                    )));
                }
                offset += BLOCK_BYTES;
            }
        }
        Ok(())
    }

    fn replay(&mut self, payload: &[u8], at: Position) -> Result<(), Malformed> {
        for (number, op) in parse(payload)?.into_iter().enumerate() {
            let id = OpId {
                sequence: at.sequence,
                number: u32::try_from(number).map_err(|_| Malformed("too many ops"))?,
            };
            match op {
                Op::Fate(Fate::Born(born)) => self.replay_birth(&born, id)?,
                Op::Fate(Fate::Installed(installed)) => self.replay_install(&installed, id)?,
                Op::Fate(Fate::Buried(tombstone)) => self.bury(tombstone),
                Op::Write(write) => self.replay_write(&write, at, id)?,
            }
        }
        Ok(())
    }

    /// A birth is history once the group has a row, or was born again; and a tombstone may forbid it.
    fn replay_birth(&mut self, born: &Born, id: OpId) -> Result<(), Malformed> {
        let birth = &born.birth;
        if self.lives.is_forbidden(birth.group, birth.replica) {
            return Ok(());
        }
        if let Some(known) = self.groups.get_mut(&birth.group)
            && is_known(&known.log, birth)
        {
            if let Some(split) = birth.split.filter(|_| known.log.replica == birth.replica) {
                known.log.keep_promises(split.hard_state);
            }
            return Ok(());
        }
        if let Some(split) = birth.split {
            self.mark_parent(split)?;
        }
        let mut log = GroupLog::born(born, id);
        if let Some(before) = self.groups.remove(&birth.group) {
            log.succeed(&before.log);
            self.lives.discard(birth.group, &before.log);
        }
        let entries = VecDeque::new();
        self.groups.insert(birth.group, FoundGroup { log, entries });
        Ok(())
    }

    /// The parent is replayed past the split: its child's state comes from there.
    fn mark_parent(&mut self, split: Split) -> Result<(), Malformed> {
        let parent = self
            .groups
            .get_mut(&split.parent)
            .ok_or(Malformed("a birth without the parent that it needs"))?;
        parent.log.mark(None, split.at);
        Ok(())
    }

    fn replay_install(&mut self, installed: &Installed, id: OpId) -> Result<(), Malformed> {
        let Install {
            group,
            replica,
            snapshot,
            ..
        } = installed.install;
        let Some(found) = self.live(group, replica)? else {
            return Ok(());
        };
        // At and before the op that the log began with, the row tells what became of it.
        if id > found.log.began && is_progress(&found.log, snapshot) {
            let log = GroupLog::installed(installed, id, &found.log);
            let before = std::mem::replace(&mut found.log, log);
            found.entries.clear();
            self.lives.discard(group, &before);
        }
        Ok(())
    }

    fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { group, lowest } = tombstone;
        let is_news = self.lives.bury(tombstone);
        let is_below = |found: &FoundGroup| found.log.replica < lowest;
        if is_news && self.groups.get(&group).is_some_and(is_below) {
            let found = self.groups.remove(&group).expect("just seen");
            self.lives.discard(group, &found.log);
        }
    }

    /// The replica that an op speaks of. `None`: it is gone, the op is history.
    fn live(&mut self, group: GroupId, replica: ReplicaId) -> Result<Option<&mut FoundGroup>, Malformed> {
        if self.lives.is_forbidden(group, replica) {
            return Ok(None);
        }
        let found = self
            .groups
            .get_mut(&group)
            .ok_or(Malformed("an op of a group that was not born"))?;
        match replica.cmp(&found.log.replica) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(found)),
            std::cmp::Ordering::Greater => Err(Malformed("an op of a replica that was not born")),
        }
    }

    fn replay_write(&mut self, write: &ParsedWrite<'_>, at: Position, id: OpId) -> Result<(), Malformed> {
        let reflected = self.reflected;
        let Some(found) = self.live(write.group, write.replica)? else {
            return Ok(());
        };
        if id < found.log.began {
            return Ok(()); // of the log that an install or a birth replaced
        }
        found.log.mark(write.hard_state, write.commit);
        let Some((first, _, _)) = write.entries.first() else {
            return Ok(());
        };
        let from = (*first).max(found.log.truncated.index.next());
        if from > found.log.last().next() {
            return match at.sequence < reflected {
                true => Ok(()),
                false => Err(Malformed("entries are missing in a group's log")),
            };
        }
        found.cut(from);
        for (index, offset, bytes) in &write.entries {
            let entry = read_entry(write.group, *index, bytes)?;
            if *index >= from {
                let length = u32::try_from(bytes.len()).map_err(|_| Malformed("an entry's length"))?;
                let placed = Placed::in_ring(at.sequence, at.offset + u64::from(*offset), length);
                found.push(entry, placed)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(LogIndex, Ring, Vec<RestoredGroup>), OpenError> {
        let mut index = LogIndex {
            groups: BTreeMap::new(),
            durable: self.at,
            captured: self.tail,
            releases: 0,
            lives: self.lives,
        };
        let mut restored = Vec::with_capacity(self.groups.len());
        for (group, mut found) in self.groups {
            restored.push(found.restore(group)?);
            index.groups.insert(group, found.log);
        }
        Ok((index, self.ring, restored))
    }
}

impl FoundGroup {
    fn cut(&mut self, from: Index) {
        self.log.cut(from);
        let kept =
            usize::try_from(from.0 - self.log.truncated.index.0 - 1).expect("at most the live entries");
        self.entries.truncate(kept);
    }

    fn push(&mut self, entry: Entry, placed: Placed) -> Result<(), Malformed> {
        if entry.id.index != self.log.last().next() {
            return Err(Malformed("entries are missing in a group's log"));
        }
        self.log.push(entry.id, placed);
        if let Payload::Membership(membership) = &entry.payload {
            self.log
                .memberships
                .push_back((entry.id.index, (**membership).clone()));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    fn restore(&mut self, group: GroupId) -> Result<RestoredGroup, OpenError> {
        let log = &mut self.log;
        if log.applied.index > log.last() {
            return Err(OpenError::Corrupt(format!(
                "{group} has applied {}, its log ends at {}",
                log.applied,
                log.last()
            )));
        }
        log.commit = log.commit.max(log.applied.index).min(log.last());
        Ok(RestoredGroup {
            group,
            replica: log.replica,
            restored: Restored {
                hard_state: log.hard_state,
                truncated: log.truncated,
                membership: log.membership.clone(),
                entries: std::mem::take(&mut self.entries).into(),
                commit: log.commit,
                applied: log.applied.index,
                checkpointed: log.applied.index,
            },
            descriptor: log.descriptor.clone(),
            after: log.parent.map(|split| split.parent),
        })
    }
}
