//! Looks at a node file that no process holds, and never writes to it: opens it as a start would, on a view that keeps
//! the changes in memory, then walks everything it holds. How the findings look is the caller's business.

use crate::codec::read_entry;
use crate::disk::{Disk, FileDisk};
use crate::engine::{Engine, lock};
use crate::error::OpenError;
use crate::header::{Position, Slot as HeaderSlot};
use crate::limits::{BLOCK_BYTES, LOG_AT, RING_BYTES_MIN};
use crate::node_file::io_error;
use crate::options::Options;
use crate::order::Order;
use crate::overlay::Overlay;
use crate::record::{Fate, HEADER_BYTES, Op, ParsedWrite, RecordHeader, parse};
use crate::recover::{check_pages, open_error, recover, whose};
use crate::slot::Slot;
use crate::span::Piece;
use crate::tables::{
    Base, Broken, CHUNKS, COLD, DATA, GROUPS, TOMBSTONES, chunks_of, split_cold_key, unseal,
};
use multiraft::{GroupId, HardState, Payload, RestoredGroup};
use redb::{Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, Value as RedbValue};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Page cache of a look, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// One cell of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A count, an id, a number of bytes.
    Number(u64),
    /// Words.
    Text(String),
    /// A key.
    Bytes(Vec<u8>),
}

/// Named cells, in the order in which they are shown.
pub type Cells = Vec<(&'static str, Cell)>;

/// What `dump` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The log's records that a start would replay, one line per op.
    Log,
    /// Every group as a start would restore it.
    Groups,
    /// Entries that outlived their place in the ring.
    Cold,
    /// Who may not be born any more.
    Tombstones,
    /// Stored keys and the sizes of their values.
    Data,
}

/// Takes a row; says whether the dump goes on.
pub type Take<'a> = dyn FnMut(Cells) -> ControlFlow<()> + 'a;

/// A node file, opened as a start would open it, and left as it is.
#[derive(Debug)]
pub struct Offline {
    /// Below the view.
    disk: Arc<dyn Disk>,
    engine: Engine,
    groups: Vec<RestoredGroup>,
}

impl Offline {
    /// Opens a file for reading and keeps others from writing to it. `Locked` while a node runs on it; `Corrupt` if
    /// no node could start on it, or if a page of redb's part does not match its checksum.
    pub fn open(path: &Path) -> Result<Offline, OpenError> {
        let file =
            File::open(path).map_err(|source| io_error(&format!("open {}", path.display()), source))?;
        match file.try_lock_shared() {
            Ok(()) => Offline::open_on(Arc::new(FileDisk::new(file))),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(io_error(&format!("lock {}", path.display()), source)),
        }
    }

    /// Opens any disk.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Offline, OpenError> {
        let options = Options {
            cache_bytes: CACHE_BYTES,
            ..Options::new(1).with_ring(RING_BYTES_MIN)
        };
        let identity = whose(view(&disk)?, &options)?;
        let (engine, groups) = recover(view(&disk)?, identity, options)?;
        Ok(Offline { disk, engine, groups })
    }

    /// Walks everything: redb's pages, every row, what the tables say of each other. Returns counts of what is there,
    /// and in words whatever is wrong.
    pub fn check(&self) -> Result<(Cells, Vec<String>), OpenError> {
        let mut problems = Vec::new();
        if !check_pages(view(&self.disk)?, &self.engine.options)? {
            problems.push("redb's part needed a repair beyond what a crash leaves".to_string());
        }
        let mut found = self.header_cells()?;
        let walked = self.walk(&mut problems).map_err(open_error)?;
        found.extend(walked);
        found.extend(self.log_cells());
        Ok((found, problems))
    }

    /// Sizes: of the file, the ring, each table, and of what a start would apply again.
    pub fn stats(&self) -> Result<Cells, OpenError> {
        let mut found = self.header_cells()?;
        found.extend(self.log_cells());
        found.extend(self.table_cells().map_err(open_error)?);
        Ok(found)
    }

    fn header_cells(&self) -> Result<Cells, OpenError> {
        let length = self
            .disk
            .bytes()
            .map_err(|source| io_error("read the file's length", source))?;
        let header = self.engine.file.header();
        let mut cells = vec![
            ("node", Cell::Number(header.identity.node.0)),
            ("cluster", Cell::Text(header.identity.cluster.to_string())),
            (
                "stopped",
                Cell::Text(if length > LOG_AT { "by a crash" } else { "cleanly" }.to_string()),
            ),
            ("starts", Cell::Number(header.incarnation - 1)),
            ("redb_bytes", Cell::Number(header.redb_bytes)),
        ];
        if length > LOG_AT {
            for (name, at) in [("header_0", LOG_AT), ("header_1", LOG_AT + BLOCK_BYTES)] {
                cells.push((name, Cell::Text(self.header_state(at)?.to_string())));
            }
        }
        Ok(cells)
    }

    /// One damaged slot is what a crash in the middle of its write leaves.
    fn header_state(&self, at: u64) -> Result<&'static str, OpenError> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        let read = self.disk.read_at(at, &mut block);
        read.map_err(|source| io_error("read a header", source))?;
        Ok(match HeaderSlot::decode(&block) {
            HeaderSlot::Valid(_) => "valid",
            HeaderSlot::Blank => "blank",
            HeaderSlot::Damaged => "unreadable, the other one rules",
            HeaderSlot::Newer(_) => "of a newer format",
        })
    }

    fn log_cells(&self) -> Cells {
        let index = lock(&self.engine.index);
        let ring = &lock(&self.engine.ring).ring;
        let entries = self
            .groups
            .iter()
            .map(|group| group.restored.entries.len() as u64);
        vec![
            ("groups", Cell::Number(self.groups.len() as u64)),
            (
                "records",
                Cell::Number(index.durable.sequence - index.captured.sequence),
            ),
            ("next_record", Cell::Number(index.durable.sequence)),
            ("ring_used_bytes", Cell::Number(ring.used())),
            ("ring_ready_bytes", Cell::Number(ring.ready())),
            ("ring_bytes", Cell::Number(ring.capacity())),
            ("live_entries", Cell::Number(entries.sum())),
            ("replayed_bytes", Cell::Number(self.replayed_bytes())),
        ]
    }

    /// What a start would apply again: it becomes the memtables.
    fn replayed_bytes(&self) -> u64 {
        let groups = self.groups.iter().map(|group| &group.restored);
        let entries = groups.flat_map(|found| {
            let again = found.applied.next()..=found.commit;
            found
                .entries
                .iter()
                .filter(move |entry| again.contains(&entry.id.index))
        });
        entries.map(|entry| entry.cost() as u64).sum()
    }

    fn table_cells(&self) -> Result<Cells, Broken> {
        let transaction = self.engine.begin_read()?;
        let mut cells = Vec::new();
        let mut add = |names: [&'static str; 2], rows: u64, bytes: u64| {
            cells.push((names[0], Cell::Number(rows)));
            cells.push((names[1], Cell::Number(bytes)));
        };
        let table = transaction.open_table(GROUPS)?;
        add(
            ["groups_rows", "groups_bytes"],
            table.len()?,
            table.stats()?.stored_bytes(),
        );
        let table = transaction.open_table(TOMBSTONES)?;
        add(
            ["tombstones_rows", "tombstones_bytes"],
            table.len()?,
            table.stats()?.stored_bytes(),
        );
        let table = transaction.open_table(COLD)?;
        add(
            ["cold_rows", "cold_bytes"],
            table.len()?,
            table.stats()?.stored_bytes(),
        );
        let table = transaction.open_table(DATA)?;
        add(
            ["data_rows", "data_bytes"],
            table.len()?,
            table.stats()?.stored_bytes(),
        );
        let fragmented = table.stats()?.fragmented_bytes();
        let table = transaction.open_table(CHUNKS)?;
        add(
            ["chunks_rows", "chunks_bytes"],
            table.len()?,
            table.stats()?.stored_bytes(),
        );
        cells.push(("data_fragmented_bytes", Cell::Number(fragmented)));
        cells.push(("redb_free_bytes", Cell::Number(self.free_bytes()?)));
        Ok(cells)
    }

    /// Pages of redb's part that hold nothing; the transaction that counts them is dropped.
    fn free_bytes(&self) -> Result<u64, Broken> {
        let stats = self.engine.begin_write()?.stats()?;
        let used = stats.allocated_pages() * stats.page_size() as u64;
        Ok(self.engine.file.redb_bytes().saturating_sub(used))
    }

    /// Reads every row of every table and compares checksums, counts, and what belongs to what.
    fn walk(&self, problems: &mut Vec<String>) -> Result<Cells, Broken> {
        let transaction = self.engine.begin_read()?;
        let data = self.walk_data(&transaction, problems)?;
        let chunks = count(&transaction, CHUNKS, problems, |key, row| {
            unseal(key, row)?;
            Ok(())
        })?;
        if data.chunks != chunks {
            problems.push(format!(
                "values have {} chunks, the table of chunks has {chunks}",
                data.chunks
            ));
        }
        let cold = count(&transaction, COLD, problems, |key, row| {
            let (group, index) = split_cold_key(key);
            read_entry(group, index, unseal(key, row)?)?;
            Ok(())
        })?;
        let groups = count(&transaction, GROUPS, problems, |key, row| {
            Ok(unseal(key, row).map(drop)?)
        })?;
        let tombstones = count(&transaction, TOMBSTONES, problems, |key, row| {
            Ok(unseal(key, row).map(drop)?)
        })?;
        Ok(vec![
            ("data_rows", Cell::Number(data.rows)),
            ("unmapped_rows", Cell::Number(data.unmapped)),
            ("value_bytes", Cell::Number(data.bytes)),
            ("chunks_rows", Cell::Number(chunks)),
            ("cold_rows", Cell::Number(cold)),
            ("groups_rows", Cell::Number(groups)),
            ("tombstones_rows", Cell::Number(tombstones)),
        ])
    }

    fn walk_data(
        &self,
        transaction: &ReadTransaction,
        problems: &mut Vec<String>,
    ) -> Result<DataFound, Broken> {
        let owners = self.owners();
        let base = Base::open(transaction)?;
        let mut found = DataFound::default();
        found.rows = count(transaction, DATA, problems, |key, row| {
            let value = base.value(key, row)?;
            found.bytes += value.len() as u64;
            found.chunks += u64::from(chunks_of(key, row)?);
            found.unmapped += u64::from(owner(&owners, key)?.is_none());
            Ok(())
        })?;
        Ok(found)
    }

    fn owners(&self) -> Owners {
        let mut owners = Owners::new();
        for (group, log) in &lock(&self.engine.index).groups {
            for piece in log.places.pieces() {
                owners
                    .entry(piece.slot)
                    .or_default()
                    .push((piece.clone(), *group));
            }
        }
        owners
    }

    /// Shows the rows of a section, of one group or of all.
    pub fn dump(
        &self,
        section: Section,
        only: Option<GroupId>,
        take: &mut Take<'_>,
    ) -> Result<(), OpenError> {
        let mut filtered = |group: Option<GroupId>, cells: Cells| match only.is_none() || group == only {
            true => take(cells),
            false => ControlFlow::Continue(()),
        };
        match section {
            Section::Log => self.dump_log(&mut filtered),
            Section::Groups => self.dump_groups(&mut filtered),
            Section::Cold => self.dump_cold(&mut filtered),
            Section::Tombstones => self.dump_tombstones(&mut filtered),
            Section::Data => self.dump_data(&mut filtered),
        }
        .map_err(open_error)
    }

    fn dump_groups(&self, take: &mut TakeOf<'_>) -> Result<(), Broken> {
        for (group, log) in &lock(&self.engine.index).groups {
            let slots: Vec<String> = log
                .places
                .pieces()
                .iter()
                .map(|piece| slot_name(piece.slot))
                .collect();
            let mut cells = vec![
                ("group", Cell::Number(group.0)),
                ("replica", Cell::Number(log.replica.0)),
            ];
            cells.extend(hard_state_cells(log.hard_state));
            cells.extend([
                ("applied", Cell::Text(log.applied.to_string())),
                ("commit", Cell::Number(log.commit.0)),
                ("truncated", Cell::Text(log.truncated.to_string())),
                ("last", Cell::Number(log.last().0)),
                ("slots", Cell::Text(slots.join(" "))),
            ]);
            if take(Some(*group), cells).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump_tombstones(&self, take: &mut TakeOf<'_>) -> Result<(), Broken> {
        for (group, lowest) in &lock(&self.engine.index).lives.tombstones {
            let cells = vec![
                ("group", Cell::Number(group.0)),
                ("lowest_replica", Cell::Number(lowest.0)),
            ];
            if take(Some(*group), cells).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump_cold(&self, take: &mut TakeOf<'_>) -> Result<(), Broken> {
        let mut order = Order::of_all();
        for row in self.engine.begin_read()?.open_table(COLD)?.iter()? {
            let (key, row) = row?;
            order.pass(key.value())?;
            let (group, index) = split_cold_key(key.value());
            let entry = read_entry(group, index, unseal(key.value(), row.value())?)?;
            let cells = vec![
                ("group", Cell::Number(group.0)),
                ("entry", Cell::Text(entry.id.to_string())),
                ("kind", Cell::Text(kind(&entry.payload).to_string())),
                ("bytes", Cell::Number(row.value().len() as u64)),
            ];
            if take(Some(group), cells).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump_data(&self, take: &mut TakeOf<'_>) -> Result<(), Broken> {
        let owners = self.owners();
        let transaction = self.engine.begin_read()?;
        let base = Base::open(&transaction)?;
        let mut order = Order::of_all();
        for row in base.data.iter()? {
            let (key, row) = row?;
            order.pass(key.value())?;
            let group = owner(&owners, key.value())?;
            let value = base.value(key.value(), row.value())?;
            let cells = vec![
                (
                    "group",
                    group.map_or(Cell::Text(String::new()), |group| Cell::Number(group.0)),
                ),
                ("slot", Cell::Text(slot_name(Slot::of(key.value())?))),
                ("key", Cell::Bytes(Slot::user_key(key.value())?.to_vec())),
                ("bytes", Cell::Number(value.len() as u64)),
                (
                    "chunks",
                    Cell::Number(u64::from(chunks_of(key.value(), row.value())?)),
                ),
            ];
            if take(group, cells).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump_log(&self, take: &mut TakeOf<'_>) -> Result<(), Broken> {
        let (mut at, end) = {
            let index = lock(&self.engine.index);
            (index.captured, index.durable)
        };
        while at.sequence < end.sequence {
            let (offset, header, payload) = self.read_record(at)?;
            for op in parse(&payload)? {
                let (group, mut cells) = op_cells(op);
                cells.insert(0, ("record", Cell::Number(at.sequence)));
                if take(Some(group), cells).is_break() {
                    return Ok(());
                }
            }
            at = Position {
                offset: offset + header.record_bytes(),
                sequence: at.sequence + 1,
            };
        }
        Ok(())
    }

    /// The record with this number; recovery has seen it in one of the two places.
    fn read_record(&self, at: Position) -> Result<(u64, RecordHeader, Vec<u8>), Broken> {
        let ready = lock(&self.engine.ring).ring.ready();
        for offset in [at.offset, 0]
            .into_iter()
            .filter(|offset| offset + BLOCK_BYTES <= ready)
        {
            let mut block = [0; HEADER_BYTES];
            self.read_ring(offset, &mut block)?;
            let header = RecordHeader::decode(&block, self.engine.salt);
            if let Some(header) = header.filter(|header| header.sequence == at.sequence) {
                let mut payload = vec![0; header.payload_bytes as usize];
                self.read_ring(offset + HEADER_BYTES as u64, &mut payload)?;
                return Ok((offset, header, payload));
            }
        }
        Err(Broken::Corrupt(format!("log record {} is gone", at.sequence)))
    }

    fn read_ring(&self, offset: u64, out: &mut [u8]) -> Result<(), Broken> {
        Ok(self.engine.file.read_ring(offset, out).map_err(redb::Error::Io)?)
    }
}

type TakeOf<'a> = dyn FnMut(Option<GroupId>, Cells) -> ControlFlow<()> + 'a;

/// Which groups own what of each slot.
type Owners = BTreeMap<Slot, Vec<(Piece, GroupId)>>;

#[derive(Default)]
struct DataFound {
    rows: u64,
    bytes: u64,
    chunks: u64,
    unmapped: u64,
}

fn view(disk: &Arc<dyn Disk>) -> Result<Arc<dyn Disk>, OpenError> {
    let overlay = Overlay::new(Arc::clone(disk));
    Ok(Arc::new(
        overlay.map_err(|source| io_error("read the file's length", source))?,
    ))
}

/// The group that a stored key belongs to. `None`: what is left of a removed replica, and deleted by and by.
fn owner(owners: &Owners, key: &[u8]) -> Result<Option<GroupId>, Broken> {
    let user_key = Slot::user_key(key)?;
    let pieces = owners.get(&Slot::of(key)?).into_iter().flatten();
    Ok(pieces
        .filter(|(piece, _)| piece.span.contains(user_key))
        .map(|(_, group)| *group)
        .next())
}

/// Visits every row of a table, and compares their number with what redb's root says: a damaged branch may hide some.
fn count<K: Key + 'static, V: RedbValue + 'static>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    problems: &mut Vec<String>,
    mut visit: impl for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>) -> Result<(), Broken>,
) -> Result<u64, Broken> {
    let name = redb::TableHandle::name(&table).to_string();
    let table = transaction.open_table(table)?;
    let mut rows = 0;
    let mut order = Order::of_all();
    for row in table.iter()? {
        let (key, row) = row?;
        if let Err(malformed) = order.pass(K::as_bytes(&key.value()).as_ref()) {
            problems.push(format!("table {name}, behind row {rows}: {}", malformed.0));
            break; // it might never end
        }
        rows += 1;
        if let Err(Broken::Corrupt(what)) = visit(key.value(), row.value()) {
            problems.push(format!("table {name}, row {rows}: {what}"));
        }
    }
    let expected = table.len()?;
    if rows != expected {
        problems.push(format!(
            "table {name} shows {rows} rows, but should have {expected}"
        ));
    }
    Ok(rows)
}

fn slot_name(slot: Slot) -> String {
    format!("{}.{}", slot.incarnation, slot.counter)
}

fn kind(payload: &Payload) -> &'static str {
    match payload {
        Payload::Noop(_) => "noop",
        Payload::Command(..) => "command",
        Payload::Membership(_) => "membership",
    }
}

fn hard_state_cells(hard_state: HardState) -> Cells {
    let vote = hard_state
        .vote
        .map_or(Cell::Text(String::new()), |vote| Cell::Number(vote.0));
    vec![("term", Cell::Number(hard_state.term.0)), ("vote", vote)]
}

fn op_cells(op: Op<'_>) -> (GroupId, Cells) {
    let (group, replica, name, what) = match op {
        Op::Write(write) => (write.group, write.replica, "write", write_text(&write)),
        Op::Fate(Fate::Born(born)) => {
            let text = format!("after {}, {:?}", born.birth.base, born.birth.membership);
            (born.birth.group, born.birth.replica, "birth", text)
        }
        Op::Fate(Fate::Installed(installed)) => {
            let text = format!("state as of {}", installed.install.snapshot);
            (
                installed.install.group,
                installed.install.replica,
                "install",
                text,
            )
        }
        Op::Fate(Fate::Buried(tombstone)) => {
            let text = "no lower replica is born".to_string();
            (tombstone.group, tombstone.lowest, "tombstone", text)
        }
    };
    let cells = vec![
        ("op", Cell::Text(name.to_string())),
        ("group", Cell::Number(group.0)),
        ("replica", Cell::Number(replica.0)),
        ("what", Cell::Text(what)),
    ];
    (group, cells)
}

fn write_text(write: &ParsedWrite<'_>) -> String {
    let mut parts = Vec::new();
    if let (Some((first, ..)), Some((last, ..))) = (write.entries.first(), write.entries.last()) {
        let bytes: usize = write.entries.iter().map(|(.., bytes)| bytes.len()).sum();
        parts.push(format!("entries {}..={}, {bytes} bytes", first.0, last.0));
    }
    if write.commit.0 > 0 {
        parts.push(format!("commit {}", write.commit.0));
    }
    if let Some(HardState { term, vote }) = write.hard_state {
        let vote = vote.map_or("nobody".to_string(), |vote| vote.0.to_string());
        parts.push(format!("term {}, vote for {vote}", term.0));
    }
    parts.join(", ")
}
