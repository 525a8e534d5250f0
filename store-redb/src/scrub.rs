//! The scrubber: reads everything durable while the node runs, a slice at a time, and compares it with its checksums.
//! redb verifies no page that it reads, and a damaged one can hide rows. It takes no part in what others write: no
//! transaction pins pages for it, and no lock is held while it reads, except that of the header's two slots.
//!
//! A page is verified by what names it, from redb's header down, each slice anew; keys remember how far the last slice
//! came. What a slice finds wrong is damage only if redb's header was not written meanwhile: until then, redb does not
//! overwrite a page of the commit that the header names. In the log, the ring's tail says the same.

use crate::codec::Malformed;
use crate::engine::{Engine, lock};
use crate::header::Position;
use crate::limits::{
    BLOCK_BYTES, PAGE_BYTES, SCRUB_BYTES_MAX, SCRUB_BYTES_MIN, SCRUB_DELAY, SCRUB_NICE, SCRUB_SLICES,
};
use crate::node_file::NodeFile;
use crate::options::Scrubbed;
use crate::pages::{Commit, DEPTH_MAX, Node, PageRef, RowPlace, Tree, Widths, verify};
use crate::record::{HEADER_BYTES, RecordHeader};
use crate::tables::unseal;
use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// A pass under way.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    stage: Stage,
    /// Read in this pass.
    bytes: u64,
    /// `None`: no pass is under way.
    began: Option<Instant>,
    /// What was read, by kind.
    #[cfg(test)]
    pub(crate) seen: Vec<(String, Range<u64>)>,
}

/// What a pass is at.
#[derive(Debug, Default)]
enum Stage {
    /// The two slots of the header.
    #[default]
    Headers,
    /// Our tables.
    Tables(Tables),
    /// redb's own tables.
    System(Tables),
    /// The log, up to this record: what the pass found when it came here.
    Log(Position, u64),
}

/// How far a pass came in a table of tables.
#[derive(Debug, Default)]
struct Tables {
    /// The last table that is done.
    done: Option<Vec<u8>>,
    /// How far it came in the next one.
    rest: Option<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    name: Vec<u8>,
    /// Rows up to this key are verified.
    after: Option<Vec<u8>>,
    rows: u64,
    /// Changes of redb's header when the table was begun.
    since: u64,
}

/// What one slice did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) bytes: u64,
    /// The pass is done.
    pub(crate) is_last: bool,
}

/// What is wrong, in words.
#[derive(Debug)]
struct Damage(String);

impl From<Malformed> for Damage {
    fn from(malformed: Malformed) -> Damage {
        Damage(malformed.0.to_string())
    }
}

/// What the medium does not give back is lost as well.
impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Damage {
        Damage(format!("it can not be read: {error}"))
    }
}

impl Engine {
    /// Scrubs a slice of about `bytes_max` bytes; begins a pass when none is under way.
    pub(crate) fn scrub_once(&self, bytes_max: u64) -> Slice {
        let mut scrub = lock(&self.scrub);
        let began = *scrub.began.get_or_insert_with(Instant::now);
        let mut budget = Budget::new(bytes_max);
        let is_last = self.scrub_stage(&mut scrub.stage, &mut budget);
        self.counters
            .scrub_bytes
            .fetch_add(budget.read, Ordering::Relaxed);
        scrub.bytes += budget.read;
        #[cfg(test)]
        scrub.seen.append(&mut budget.seen);
        let is_last = is_last.unwrap_or_else(|damage| {
            self.counters.scrub_errors.fetch_add(1, Ordering::Relaxed);
            self.corrupt("scrub", &damage.0)
        });
        if is_last {
            self.end_pass(&mut scrub, began);
        }
        Slice {
            bytes: budget.read,
            is_last,
        }
    }

    fn end_pass(&self, scrub: &mut Scrub, began: Instant) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.counters
            .scrub_ended
            .store(now.map_or(0, |now| now.as_secs()), Ordering::Relaxed);
        self.counters.scrub_passes.fetch_add(1, Ordering::Relaxed);
        self.tell_scrub(Scrubbed::Pass {
            bytes: scrub.bytes,
            took: began.elapsed(),
        });
        (scrub.stage, scrub.bytes, scrub.began) = (Stage::Headers, 0, None);
    }

    fn tell_scrub(&self, scrubbed: Scrubbed) {
        if let Some(tap) = &self.options.on_scrub {
            tap(scrubbed);
        }
    }

    /// True: the pass is done.
    fn scrub_stage(&self, stage: &mut Stage, budget: &mut Budget) -> Result<bool, Damage> {
        match stage {
            Stage::Headers => {
                self.scrub_headers(budget)?;
                *stage = Stage::Tables(Tables::default());
            }
            Stage::Tables(tables) => {
                if self.scrub_tables(tables, budget, |commit| commit.tables, Some(unsealed))? {
                    *stage = Stage::System(Tables::default());
                }
            }
            Stage::System(tables) => {
                if self.scrub_tables(tables, budget, |commit| commit.system, None)? {
                    let until = lock(&self.index).durable.sequence;
                    *stage = Stage::Log(lock(&self.ring).tail(), until);
                }
            }
            Stage::Log(at, until) => return self.scrub_log(at, *until, budget),
        }
        Ok(false)
    }

    fn scrub_headers(&self, budget: &mut Budget) -> Result<(), Damage> {
        let decayed = self.file.decayed_slots()?;
        budget.read += 2 * BLOCK_BYTES;
        match decayed[..] {
            [] => return Ok(()),
            [slot] => {
                if let Err(error) = self.file.repair_slot(slot) {
                    self.write_failed("write a header again", &error);
                }
            }
            _ => return Err(Damage("both headers of the log region are unreadable".into())),
        }
        self.counters.scrub_errors.fetch_add(1, Ordering::Relaxed);
        self.tell_scrub(Scrubbed::Repaired);
        Ok(())
    }

    /// Goes on in the tables of one of redb's two tables of tables. True: all of them are done.
    fn scrub_tables(
        &self,
        tables: &mut Tables,
        budget: &mut Budget,
        which: fn(&Commit) -> Tree,
        row: Option<CheckRow>,
    ) -> Result<bool, Damage> {
        let head = self.file.head();
        let Some(bytes) = &head.bytes else {
            return Ok(false); // it is being written
        };
        let mut read = || -> Result<bool, Damage> {
            let mut stored = [0; crate::pages::HEADER_BYTES];
            self.file.read_stored(0, &mut stored)?;
            if stored != *bytes {
                return Err(Damage("redb's header is not what was written".into()));
            }
            let commit = Commit::decode(bytes)?;
            let reader = Reader {
                file: &self.file,
                commit: &commit,
                changes: head.changes,
            };
            reader.go_on(which(&commit), tables, budget, row)
        };
        match read() {
            // Pages of the commit that was read may have been overwritten.
            Err(_) if self.file.head().changes != head.changes => {
                budget.see("again", || 0..0);
                Ok(false)
            }
            found => found,
        }
    }

    /// True: the log is done.
    fn scrub_log(&self, at: &mut Position, until: u64, budget: &mut Budget) -> Result<bool, Damage> {
        while !budget.is_spent() {
            let tail = lock(&self.ring).tail();
            if tail.sequence > at.sequence {
                *at = tail;
            }
            if at.sequence >= until {
                return Ok(true);
            }
            match self.scrub_record(*at, budget) {
                Ok(next) => *at = next,
                // Room was given back, and may have been used again.
                Err(_) if lock(&self.ring).tail().sequence > at.sequence => budget.see("again", || 0..0),
                Err(damage) => return Err(damage),
            }
        }
        Ok(false)
    }

    /// Verifies a record that is durable; returns where the next one is.
    fn scrub_record(&self, at: Position, budget: &mut Budget) -> Result<Position, Damage> {
        let ready = lock(&self.ring).ring.ready();
        for offset in [at.offset, 0] {
            if offset + BLOCK_BYTES > ready {
                continue;
            }
            let mut block = vec![0; BLOCK_BYTES as usize];
            self.file.read_stored_ring(offset, &mut block)?;
            budget.read += BLOCK_BYTES;
            let Some(header) = RecordHeader::decode(&block, self.salt).filter(|found| {
                found.sequence == at.sequence
                    && found.incarnation <= self.incarnation
                    && offset + found.record_bytes() <= ready
            }) else {
                continue;
            };
            self.scrub_payload(offset, &header, block, budget)?;
            return Ok(Position {
                offset: offset + header.record_bytes(),
                sequence: at.sequence + 1,
            });
        }
        Err(Damage(format!("log record {} is not there", at.sequence)))
    }

    fn scrub_payload(
        &self,
        offset: u64,
        header: &RecordHeader,
        mut record: Vec<u8>,
        budget: &mut Budget,
    ) -> Result<(), Damage> {
        let first = record.len();
        record.resize(HEADER_BYTES + header.payload_bytes as usize, 0);
        if let Some(rest) = record.get_mut(first..).filter(|rest| !rest.is_empty()) {
            self.file.read_stored_ring(offset + first as u64, rest)?;
            budget.read += rest.len() as u64;
        }
        budget.see("log record", || {
            let start = crate::limits::RING_AT + offset;
            start..start + record.len() as u64
        });
        match header.matches(&record[HEADER_BYTES..], self.salt) {
            true => Ok(()),
            false => Err(Damage(format!(
                "log record {} does not match its checksum",
                header.sequence
            ))),
        }
    }

    /// The scrubber's thread.
    pub(crate) fn scrub_until_stopped(&self) {
        let (rate, interval) = (self.options.scrub_rate, self.options.scrub_interval);
        if rate == 0 {
            return;
        }
        // Refused, it is no less correct.
        let _ = rustix::process::nice(SCRUB_NICE);
        let slice_bytes = (rate / SCRUB_SLICES).clamp(SCRUB_BYTES_MIN, SCRUB_BYTES_MAX);
        self.rest_from_scrubbing(SCRUB_DELAY.min(interval));
        while !self.is_stopping() {
            let began = Instant::now();
            self.scrub_pass(slice_bytes, rate);
            self.rest_from_scrubbing(interval.saturating_sub(began.elapsed()));
        }
    }

    fn scrub_pass(&self, slice_bytes: u64, rate: u64) {
        while !self.is_stopping() {
            let began = Instant::now();
            let slice = self.scrub_once(slice_bytes);
            if slice.is_last {
                return;
            }
            let due = Duration::from_secs_f64(slice.bytes.max(PAGE_BYTES) as f64 / rate as f64);
            self.rest_from_scrubbing(due.saturating_sub(began.elapsed()));
        }
    }

    /// Ends early when the store stops.
    fn rest_from_scrubbing(&self, time: Duration) {
        let waited = self
            .scrub_wake
            .wait_timeout_while(lock(&self.scrub), time, |_| !self.is_stopping());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a slice may still read.
#[derive(Debug)]
struct Budget {
    most: u64,
    read: u64,
    #[cfg(test)]
    seen: Vec<(String, Range<u64>)>,
}

impl Budget {
    fn new(most: u64) -> Budget {
        Budget {
            most,
            read: 0,
            #[cfg(test)]
            seen: Vec::new(),
        }
    }

    fn is_spent(&self) -> bool {
        self.read >= self.most
    }

    #[cfg(test)]
    fn see(&mut self, kind: &str, place: impl FnOnce() -> Range<u64>) {
        self.seen.push((kind.to_string(), place()));
    }

    #[cfg(not(test))]
    fn see(&mut self, _kind: &str, _place: impl FnOnce() -> Range<u64>) {}
}

/// Verifies a row.
type CheckRow = fn(&[u8], &[u8]) -> Result<(), Malformed>;

/// All rows of all our tables are sealed.
fn unsealed(key: &[u8], row: &[u8]) -> Result<(), Malformed> {
    unseal(key, row).map(drop)
}

/// Reads pages of one commit.
struct Reader<'a> {
    file: &'a NodeFile,
    commit: &'a Commit,
    changes: u64,
}

impl Reader<'_> {
    /// True: all tables are done.
    fn go_on(
        &self,
        all: Tree,
        tables: &mut Tables,
        budget: &mut Budget,
        row: Option<CheckRow>,
    ) -> Result<bool, Damage> {
        while !budget.is_spent() {
            let Some((name, tree)) = self.next_table(all, tables.done.as_deref(), budget)? else {
                return Ok(true);
            };
            let rest = tables.rest.take().filter(|rest| rest.name == name);
            let rest = tables.rest.insert(rest.unwrap_or(Rest {
                name,
                after: None,
                rows: 0,
                since: self.changes,
            }));
            if !self.go_on_in(tree, rest, budget, row)? {
                return Ok(false);
            }
            tables.done = tables.rest.take().map(|rest| rest.name);
        }
        Ok(false)
    }

    /// The first table behind this one.
    fn next_table(
        &self,
        all: Tree,
        done: Option<&[u8]>,
        budget: &mut Budget,
    ) -> Result<Option<(Vec<u8>, Tree)>, Damage> {
        let mut next: Option<(Vec<u8>, Tree)> = None;
        let mut take = |name: &[u8], row: &[u8]| {
            if next.is_none() && done.is_none_or(|done| name > done) {
                next = Some((name.to_vec(), Tree::of_row(row)?));
            }
            Ok(())
        };
        let mut walk = Walk {
            reader: self,
            kind: "tables",
            widths: all.widths,
            after: None,
            resumes: false,
            rows: 0,
            check: &mut take,
        };
        let mut whole = Budget::new(u64::MAX);
        walk.tree(all, &mut whole)?;
        let rows = walk.rows;
        budget.read += whole.read;
        #[cfg(test)]
        budget.seen.append(&mut whole.seen);
        same_rows("of tables", rows, all.rows)?;
        Ok(next)
    }

    /// Walks on in a table. True: it is done. redb's own tables are small and do not order their keys as bytes, so they
    /// are walked whole.
    fn go_on_in(
        &self,
        tree: Tree,
        rest: &mut Rest,
        budget: &mut Budget,
        row: Option<CheckRow>,
    ) -> Result<bool, Damage> {
        let name = String::from_utf8_lossy(&rest.name).into_owned();
        let mut check = |key: &[u8], value: &[u8]| row.map_or(Ok(()), |row| row(key, value));
        let mut walk = Walk {
            reader: self,
            kind: &name,
            widths: tree.widths,
            after: rest.after.take(),
            resumes: row.is_some(),
            rows: 0,
            check: &mut check,
        };
        let walked = walk.tree(tree, budget);
        rest.after = walk.after.take();
        rest.rows += walk.rows;
        let is_done = walked.map_err(|damage| Damage(format!("table {name}: {}", damage.0)))?;
        // Rows can be counted only while nothing changes them.
        if is_done && rest.since == self.changes {
            same_rows(&name, rest.rows, tree.rows)?;
        }
        Ok(is_done)
    }

    fn read(
        &self,
        page: PageRef,
        widths: Widths,
        kind: &str,
        budget: &mut Budget,
    ) -> Result<(Vec<u8>, Node), Damage> {
        let place = self.commit.place(page)?;
        if place.end > self.file.redb_bytes() {
            return Err(Damage("a page of redb lies behind its end".into()));
        }
        let bytes = usize::try_from(place.end - place.start).expect("redb's pages are at most 4 GiB");
        let mut bytes = vec![0; bytes];
        self.file.read_stored(place.start, &mut bytes)?;
        budget.read += bytes.len() as u64;
        let node = verify(&bytes, page, widths)
            .map_err(|malformed| Damage(format!("{} (at byte {})", malformed.0, place.start)))?;
        budget.see(&format!("{kind} {}", node.name()), || place);
        Ok((bytes, node))
    }
}

impl Node {
    fn name(&self) -> &'static str {
        match self {
            Node::Leaf(_) => "leaf",
            Node::Branch(_) => "branch",
        }
    }
}

fn same_rows(name: &str, found: u64, expected: u64) -> Result<(), Damage> {
    match found == expected {
        true => Ok(()),
        false => Err(Damage(format!(
            "table {name} shows {found} rows, but should have {expected}"
        ))),
    }
}

/// Hears of each row behind `Walk::after`.
type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Malformed> + 'a;

/// A walk over a tree's pages, in key order.
struct Walk<'a> {
    reader: &'a Reader<'a>,
    kind: &'a str,
    widths: Widths,
    /// Rows up to this key are verified.
    after: Option<Vec<u8>>,
    /// Whether keys are ordered as bytes, so that a walk can end early and be resumed.
    resumes: bool,
    /// Rows behind `after`.
    rows: u64,
    check: &'a mut EachRow<'a>,
}

impl Walk<'_> {
    /// True: the end was reached.
    fn tree(&mut self, tree: Tree, budget: &mut Budget) -> Result<bool, Damage> {
        match tree.root {
            None => Ok(true),
            Some(root) => self.page(root, 0, budget),
        }
    }

    fn page(&mut self, page: PageRef, depth: usize, budget: &mut Budget) -> Result<bool, Damage> {
        if depth > DEPTH_MAX {
            return Err(Damage("redb's pages name each other in a circle".into()));
        }
        let (bytes, node) = self.reader.read(page, self.widths, self.kind, budget)?;
        match node {
            Node::Branch(children) => {
                for (child, last) in children {
                    let is_done = last.is_some_and(|last| self.is_verified(&bytes[last]));
                    if !is_done && !self.page(child, depth + 1, budget)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Leaf(rows) => {
                let is_new = self.leaf(&bytes, &rows)?;
                Ok(!(is_new && self.resumes && budget.is_spent()))
            }
        }
    }

    fn is_verified(&self, key: &[u8]) -> bool {
        self.resumes && self.after.as_deref().is_some_and(|after| key <= after)
    }

    /// False: all of it was verified before. A slice must come further, whatever it may read: the last leaf of the one
    /// before is read again when the key behind it in the branch is not its last one.
    fn leaf(&mut self, bytes: &[u8], rows: &[RowPlace]) -> Result<bool, Damage> {
        let mut before: Option<&[u8]> = None;
        for (key, value) in rows {
            let key = &bytes[key.clone()];
            if self.resumes && before.is_some_and(|before| key <= before) {
                return Err(Damage("keys are not in order".into()));
            }
            before = Some(key);
            if !self.is_verified(key) {
                (self.check)(key, &bytes[value.clone()])?;
                self.rows += 1;
            }
        }
        match before.filter(|last| self.resumes && !self.is_verified(last)) {
            None => Ok(false),
            Some(last) => {
                self.after = Some(last.to_vec());
                Ok(true)
            }
        }
    }
}
