//! What must be found after a crash: every batch that was submitted, and which of them were acknowledged. It outlives
//! crashes and knows nothing of files; what ops make of groups is `history`'s business.

use super::history::{Found, Groups, Said};
use super::random::Random;
use multiraft::{Entry, GroupId, Restored, RestoredGroup};
use std::fmt::Write;
use std::sync::Arc;

/// The ops of a batch, in order.
pub type Batch = Vec<Said>;

/// How much had been submitted up to the end of some record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Complete batches since the start of the process.
    pub batches: usize,
    /// Entries since then.
    pub entries: usize,
    /// Births, installs and tombstones since then.
    pub fates: usize,
}

impl Extent {
    fn add(&mut self, said: &Said) {
        self.entries += said.entries();
        self.fates += usize::from(said.is_fate());
    }
}

/// What the outside may rely on, and what may be there besides.
#[derive(Clone, Debug)]
pub struct Model {
    /// Drives the script.
    pub random: Random,
    /// As of the last acknowledged batch.
    pub acknowledged: Groups,
    /// Where that is.
    extent: Extent,
    /// Submitted later, in order.
    submitted: Vec<Arc<Batch>>,
    /// Where records of this process ended: a crash finds one of these places.
    records: Arc<Vec<Extent>>,
    /// The largest incarnation that was ever told.
    pub incarnation: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}

impl Model {
    /// Of a node that never was.
    pub fn new(seed: u64) -> Model {
        Model {
            random: Random::new(seed),
            acknowledged: Groups::default(),
            extent: Extent::default(),
            submitted: Vec::new(),
            records: Arc::default(),
            incarnation: 0,
            checkpoints: 0,
        }
    }

    /// As of everything submitted.
    pub fn newest(&self) -> Groups {
        let mut groups = self.acknowledged.clone();
        self.under_way()
            .for_each(|said| said.apply(said.entries(), &mut groups));
        groups
    }

    /// The ops that are not acknowledged yet.
    pub fn under_way(&self) -> impl Iterator<Item = &Said> {
        self.submitted.iter().flat_map(|batch| batch.iter())
    }

    /// A batch is under way.
    pub fn submit(&mut self, batch: Arc<Batch>) {
        self.submitted.push(batch);
    }

    /// The oldest batch under way is durable.
    pub fn acknowledge_one(&mut self) {
        let batch = self.submitted.remove(0);
        for said in batch.iter() {
            said.apply(said.entries(), &mut self.acknowledged);
            self.extent.add(said);
        }
        self.extent.batches += 1;
    }

    /// True when a batch that is not acknowledged yet has this entry.
    pub fn is_under_way(&self, of: GroupId, entry: &Entry) -> bool {
        self.under_way().any(|said| match said {
            Said::Wrote { group, entries, .. } => *group == of && entries.contains(entry),
            _ => false,
        })
    }

    /// Acknowledges until so many batches of this process are.
    pub fn acknowledge_until(&mut self, batches: usize) {
        while self.extent.batches < batches {
            self.acknowledge_one();
        }
    }

    /// As of an earlier moment, when `submitted` batches of this process were; all of it under way, as `self` is.
    pub fn when_submitted(&self, submitted: usize) -> Model {
        let mut model = self.clone();
        model.submitted.truncate(submitted - self.extent.batches);
        model
    }

    /// The history goes on differently from here.
    pub fn branch(&mut self) {
        self.acknowledged.branch();
    }

    /// The places where records ended, for crashes in the middle of a batch.
    pub fn set_records(&mut self, records: Arc<Vec<Extent>>) {
        self.records = records;
    }

    /// Everything acknowledged is there, and nothing half: takes what was found as the new truth.
    /// Panics otherwise.
    pub fn settle(&mut self, found: Found<'_>) {
        let Some(groups) = self.settled(found) else {
            panic!(
                "[logs] found:\n{}{:?}\nexpected at least:\n{}at most:\n{}",
                summary(found.groups),
                found.tombstones,
                describe_all(&self.acknowledged),
                describe_all(&self.newest())
            );
        };
        self.acknowledged = groups;
        self.submitted.clear();
        self.records = Arc::default();
        self.extent = Extent::default();
    }

    /// Looks for the end of a record behind which nothing was found.
    fn settled(&self, found: Found<'_>) -> Option<Groups> {
        let mut groups = self.acknowledged.clone();
        let mut extent = self.extent;
        let mut fitting = groups.fit(found);
        for batch in &self.submitted {
            for said in batch.iter() {
                for taken in 0..said.entries() {
                    if fitting.is_none() && self.is_end_of_record(extent, taken) {
                        let mut partly = groups.clone();
                        said.apply(taken, &mut partly);
                        fitting = partly.fit(found);
                    }
                }
                if fitting.is_some() {
                    return fitting;
                }
                said.apply(said.entries(), &mut groups);
                extent.add(said);
                if self.is_end_of_record(extent, 0) {
                    fitting = groups.fit(found);
                }
            }
            extent.batches += 1;
            if fitting.is_none() && self.is_end_of_record(extent, 0) {
                fitting = groups.fit(found);
            }
        }
        fitting
    }

    fn is_end_of_record(&self, extent: Extent, more: usize) -> bool {
        let end = Extent {
            entries: extent.entries + more,
            ..extent
        };
        self.records.binary_search(&end).is_ok()
    }
}

fn describe_all(groups: &Groups) -> String {
    let mut text = String::new();
    for (group, log) in &groups.logs {
        let last = log.id(log.last());
        let (replica, hard_state, commit) = (log.replica, log.hard_state, log.commit);
        writeln!(
            text,
            "  {group} {replica} {hard_state:?} last {last:?} commit {commit} splits {:?}",
            log.splits
        )
        .expect("strings grow");
    }
    writeln!(text, "{:?}", groups.tombstones).expect("strings grow");
    text
}

fn summary(groups: &[RestoredGroup]) -> String {
    groups.iter().fold(String::new(), |mut text, found| {
        let Restored {
            hard_state,
            truncated,
            entries,
            commit,
            applied,
            ..
        } = &found.restored;
        let last = entries.last().map(|entry| entry.id);
        let (group, replica) = (found.group, found.replica);
        writeln!(
            text,
            "  {group} {replica} {hard_state:?} last {last:?} commit {commit} applied {applied} truncated {truncated}"
        )
        .expect("strings grow");
        text
    })
}
