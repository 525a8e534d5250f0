//! What must be found after a crash: every batch that was submitted, which of them were acknowledged, and the states
//! and logs that they make. It outlives crashes and knows nothing of files.

use super::random::Random;
use bytes::Bytes;
use multiraft::{
    Entry, EntryId, GroupId, HardState, Index, Membership, NodeId, Payload, ReplicaId, Restored,
    RestoredGroup, Stamp,
};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// What a group's log must be, and everything that was ever committed in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Term and vote.
    pub hard_state: HardState,
    /// From index 1 on, as if nothing were ever truncated.
    pub entries: Vec<Entry>,
    /// The commit mark.
    pub commit: u64,
}

/// All groups.
pub type Groups = BTreeMap<GroupId, Arc<Log>>;

/// What applied entries make.
pub type Contents = BTreeMap<Vec<u8>, Bytes>;

/// One op of a batch.
#[derive(Clone, Debug)]
pub enum Said {
    /// The group begins to exist.
    Born(GroupId),
    /// The group's log changes.
    Wrote {
        /// Whose.
        group: GroupId,
        /// A new term or vote.
        hard_state: Option<HardState>,
        /// They replace everything from the first one's index on.
        entries: Vec<Entry>,
        /// The commit mark.
        commit: u64,
    },
}

impl Said {
    fn entries(&self) -> usize {
        match self {
            Said::Born(_) => 0,
            Said::Wrote { entries, .. } => entries.len(),
        }
    }

    /// Adds this op, with only the first `taken` of its entries, to what the groups are. The commit mark comes with
    /// the last entry.
    fn apply(&self, taken: usize, groups: &mut Groups) {
        let Said::Wrote {
            group,
            hard_state,
            entries,
            commit,
        } = self
        else {
            let Said::Born(group) = self else {
                unreachable!("two kinds")
            };
            groups.insert(*group, Arc::default());
            return;
        };
        let log = groups.get_mut(group).expect("born before it writes");
        let log = Arc::make_mut(log);
        log.hard_state = hard_state.unwrap_or(log.hard_state);
        if let Some(first) = entries.first().filter(|_| taken > 0) {
            log.entries.truncate(place(first.id.index));
            log.entries.extend_from_slice(&entries[..taken]);
        }
        if taken == entries.len() {
            log.commit = log.commit.max(*commit);
        }
    }
}

/// The ops of a batch, in order.
pub type Batch = Vec<Said>;

/// How much had been submitted up to the end of some record: batches that are complete in it, and entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Complete batches since the start of the process.
    pub batches: usize,
    /// Entries since then.
    pub entries: usize,
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
    /// What committed entries make: in one history they never change again.
    states: States,
}

type States = Arc<Mutex<BTreeMap<(GroupId, u64), Arc<Contents>>>>;

impl Model {
    /// Of a node that never was.
    pub fn new(seed: u64) -> Model {
        Model {
            random: Random::new(seed),
            acknowledged: Groups::new(),
            extent: Extent::default(),
            submitted: Vec::new(),
            records: Arc::default(),
            incarnation: 0,
            checkpoints: 0,
            states: States::default(),
        }
    }

    /// As of everything submitted.
    pub fn newest(&self) -> Groups {
        let mut groups = self.acknowledged.clone();
        let said = self.submitted.iter().flat_map(|batch| batch.iter());
        said.for_each(|said| said.apply(said.entries(), &mut groups));
        groups
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
            self.extent.entries += said.entries();
        }
        self.extent.batches += 1;
    }

    /// True when a batch that is not acknowledged yet has this entry.
    pub fn is_under_way(&self, of: GroupId, entry: &Entry) -> bool {
        let said = self.submitted.iter().flat_map(|batch| batch.iter());
        said.into_iter().any(|said| match said {
            Said::Wrote { group, entries, .. } => *group == of && entries.contains(entry),
            Said::Born(_) => false,
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

    /// The history goes on differently from here: what was computed of the other one does not count.
    pub fn branch(&mut self) {
        self.states = States::default();
    }

    /// The places where records ended, for crashes in the middle of a batch.
    pub fn set_records(&mut self, records: Arc<Vec<Extent>>) {
        self.records = records;
    }

    /// Everything acknowledged is there, and nothing half: takes what was found as the new truth.
    /// Panics otherwise.
    pub fn settle(&mut self, found: &[RestoredGroup]) {
        let mut groups = self.acknowledged.clone();
        let mut extent = self.extent;
        if !is_found(&groups, found) && !self.settle_later(&mut groups, &mut extent, found) {
            panic!(
                "found:\n{}expected at least:\n{}at most:\n{}",
                summary(found),
                describe_all(&self.acknowledged),
                describe_all(&self.newest())
            );
        }
        self.acknowledged = groups;
        self.submitted.clear();
        self.records = Arc::default();
        self.extent = Extent::default();
    }

    /// Looks for the end of a record behind which nothing was found.
    fn settle_later(&self, groups: &mut Groups, extent: &mut Extent, found: &[RestoredGroup]) -> bool {
        for batch in &self.submitted {
            for said in batch.iter() {
                for taken in 0..said.entries() {
                    let mut partly = groups.clone();
                    said.apply(taken, &mut partly);
                    if self.is_end_of_record(*extent, taken) && is_found(&partly, found) {
                        *groups = partly;
                        return true;
                    }
                }
                said.apply(said.entries(), groups);
                extent.entries += said.entries();
                if self.is_end_of_record(*extent, 0) && is_found(groups, found) {
                    return true;
                }
            }
            extent.batches += 1;
            if is_found(groups, found) {
                return true;
            }
        }
        false
    }

    fn is_end_of_record(&self, extent: Extent, more: usize) -> bool {
        let end = Extent {
            entries: extent.entries + more,
            ..extent
        };
        self.records.binary_search(&end).is_ok()
    }

    /// What the entries of a group up to `applied` make. They must be committed and acknowledged.
    pub fn contents(&self, group: GroupId, applied: u64) -> Arc<Contents> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let known = states.range((group, 0)..=(group, applied)).next_back();
        let (from, mut contents) =
            known.map_or((0, Arc::default()), |((_, at), known)| (*at, Arc::clone(known)));
        if from < applied {
            let changed = Arc::make_mut(&mut contents);
            let entries =
                &self.acknowledged[&group].entries[place(Index(from + 1))..place(Index(applied + 1))];
            entries.iter().for_each(|entry| apply(changed, entry));
            states.insert((group, applied), Arc::clone(&contents));
        }
        contents
    }

    /// The membership of a group as of `index`.
    pub fn membership(&self, group: GroupId, index: Index) -> Membership {
        let entries = &self.acknowledged[&group].entries[..place(index.next())];
        let changed = entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        changed.unwrap_or_else(|| membership(group, 0))
    }
}

/// Where the entry with this index stands in `Log::entries`.
fn place(index: Index) -> usize {
    usize::try_from(index.0 - 1).expect("logs of tests are short")
}

/// The state that entries make: the key is the first eight bytes; empty values remove it.
fn apply(contents: &mut Contents, entry: &Entry) {
    if let Payload::Command(_, bytes) = &entry.payload {
        let key = bytes[..8].to_vec();
        match bytes.len() {
            8 => contents.remove(&key),
            _ => contents.insert(key, bytes.slice(8..)),
        };
    }
}

fn is_found(groups: &Groups, found: &[RestoredGroup]) -> bool {
    groups.len() == found.len()
        && found.iter().all(|found| {
            let log = groups.get(&found.group);
            log.is_some_and(|log| is_log_found(log, &found.restored))
        })
}

fn is_log_found(log: &Log, restored: &Restored) -> bool {
    let truncated = restored.truncated.index;
    let base = log.entries.get(..place(truncated.next()));
    log.hard_state == restored.hard_state
        && log.commit == restored.commit.0
        && log.entries.get(place(truncated.next())..) == Some(&restored.entries[..])
        && truncated <= restored.applied
        && restored.applied <= restored.commit
        && restored.checkpointed == restored.applied
        && base.is_some_and(|base| base.last().map_or(EntryId::ZERO, |entry| entry.id) == restored.truncated)
}

fn describe_all(groups: &Groups) -> String {
    groups.iter().fold(String::new(), |mut text, (group, log)| {
        let last = log.entries.last().map(|entry| entry.id);
        let (hard_state, commit) = (log.hard_state, log.commit);
        writeln!(text, "  {group} {hard_state:?} last {last:?} commit {commit}").expect("strings grow");
        text
    })
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
        let group = found.group;
        writeln!(
            text,
            "  {group} {hard_state:?} last {last:?} commit {commit} applied {applied} truncated {truncated}"
        )
        .expect("strings grow");
        text
    })
}

/// The replica of a group on this node.
pub fn replica(group: GroupId) -> ReplicaId {
    ReplicaId(group.0 * 10)
}

/// A membership of a group, with `extra` voters more than three.
pub fn membership(group: GroupId, extra: u64) -> Membership {
    Membership::of_voters((0..3 + extra).map(|n| (ReplicaId(group.0 * 10 + n), NodeId(n + 1))))
}

/// A group's descriptor once it applied so much.
pub fn descriptor(group: GroupId, applied: u64) -> Bytes {
    Bytes::from(format!("range of {group} at {applied}"))
}

/// A command that sets a key to `length` bytes; to none: removes it.
pub fn command(term: u64, index: u64, key: u64, length: usize) -> Entry {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(8 + length, (index % 251) as u8);
    Entry {
        id: EntryId::new(term, index),
        payload: Payload::Command(Stamp(index), bytes.into()),
    }
}
