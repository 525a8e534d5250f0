//! Reads entries back that are no longer in memory, from the ring or the cold table, for peers that lag.
//! On its own thread: a slow disk delays nobody else.

use crate::codec::read_entry;
use crate::engine::{Engine, lock};
use crate::group_log::Placed;
use crate::limits::FETCH_ENTRIES_MAX;
use crate::tables::{Broken, COLD, cold_key, unseal};
use multiraft::{Completion, Entry, FetchRequest, GroupId, Index, Term};
use redb::ReadTransaction;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// A fetch that waits.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) worker: usize,
    /// It sees everything its worker submitted before: so many batches.
    pub(crate) after: u64,
    pub(crate) request: FetchRequest,
}

/// Fetches that wait, oldest first.
pub(crate) type Fetches = VecDeque<Asked>;

/// Where the entries of a fetch lay when the index was asked, and what must not have changed since.
struct Plan {
    entries: Vec<(Index, Term, Placed)>,
    releases: u64,
    changes: u64,
}

impl Engine {
    /// Queues a fetch. Returns at once.
    pub(crate) fn fetch(&self, worker: usize, request: FetchRequest) {
        let after = lock(&self.queue).submitted[worker];
        lock(&self.fetches).push_back(Asked {
            worker,
            after,
            request,
        });
        self.fetch_work.notify_one();
    }

    /// Answers the oldest fetch that can be answered. False: there is none.
    pub(crate) fn fetch_once(&self) -> bool {
        let Some(asked) = self.take_possible(&mut lock(&self.fetches)) else {
            return false;
        };
        let entries = self.read_entries(&asked.request);
        self.counters
            .fetched
            .fetch_add(entries.len() as u64, Ordering::Relaxed);
        let FetchRequest {
            group, life, peer, ..
        } = asked.request;
        self.complete(
            asked.worker,
            Completion::Fetched {
                group,
                life,
                peer,
                entries,
            },
        );
        true
    }

    fn take_possible(&self, fetches: &mut Fetches) -> Option<Asked> {
        let possible = |asked: &Asked| self.acknowledged[asked.worker].load(Ordering::Acquire) >= asked.after;
        let number = fetches.iter().position(possible)?;
        fetches.remove(number)
    }

    fn read_entries(&self, request: &FetchRequest) -> Vec<Entry> {
        loop {
            let Some(plan) = self.plan_fetch(request) else {
                return Vec::new();
            };
            let read = self.read_planned(request, &plan);
            if self.is_unchanged(request.group, &plan) {
                return read.unwrap_or_else(|broken| self.broken("read the log", broken));
            }
            // Truncated, replaced or moved while it was read: look again. Each round follows such a change.
        }
    }

    fn plan_fetch(&self, request: &FetchRequest) -> Option<Plan> {
        let index = lock(&self.index);
        let log = index.groups.get(&request.group)?;
        let last = (*request.range.end()).min(log.last());
        let entries = (request.range.start().0..=last.0)
            .take(FETCH_ENTRIES_MAX)
            .map_while(|at| {
                log.placed(Index(at))
                    .map(|placed| (Index(at), log.term(Index(at)), placed))
            })
            .collect();
        Some(Plan {
            entries,
            releases: index.releases,
            changes: log.changes,
        })
    }

    fn is_unchanged(&self, group: GroupId, plan: &Plan) -> bool {
        let index = lock(&self.index);
        let changes = index.groups.get(&group).map(|log| log.changes);
        index.releases == plan.releases && changes == Some(plan.changes)
    }

    fn read_planned(&self, request: &FetchRequest, plan: &Plan) -> Result<Vec<Entry>, Broken> {
        let cold = match plan.entries.iter().any(|(_, _, placed)| placed.is_cold()) {
            true => Some(self.begin_read()?),
            false => None,
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (index, term, placed) in &plan.entries {
            let entry = self.read_placed(request.group, *index, *placed, cold.as_ref())?;
            if entry.id.term != *term {
                return Err(Broken::Corrupt(format!(
                    "entry {} where the index has term {term}",
                    entry.id
                )));
            }
            bytes += entry.cost();
            if bytes > request.bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reads one entry and verifies its checksum.
    pub(crate) fn read_placed(
        &self,
        group: GroupId,
        index: Index,
        placed: Placed,
        cold: Option<&ReadTransaction>,
    ) -> Result<Entry, Broken> {
        if placed.is_cold() {
            let table = cold
                .expect("a read transaction is given with cold entries")
                .open_table(COLD)?;
            let key = cold_key(group, index);
            let row = table
                .get(&key)?
                .ok_or_else(|| Broken::Corrupt("a cold entry is missing".into()))?;
            return Ok(read_entry(group, index, unseal(&key, row.value())?)?);
        }
        Ok(read_entry(group, index, &self.read_ring_bytes(placed)?)?)
    }

    /// An entry's bytes as they stand in the ring.
    pub(crate) fn read_ring_bytes(&self, placed: Placed) -> Result<Vec<u8>, Broken> {
        let mut bytes = vec![0; placed.length()];
        self.file
            .read_ring(placed.ring_offset(), &mut bytes)
            .map_err(redb::Error::Io)?;
        Ok(bytes)
    }

    /// A read transaction on redb's part.
    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, Broken> {
        use redb::ReadableDatabase;
        let database = self
            .database
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        Ok(database.begin_read()?)
    }

    /// The fetcher's thread.
    pub(crate) fn fetch_until_stopped(&self) {
        loop {
            while self.fetch_once() {}
            let mut fetches = lock(&self.fetches);
            while !self.is_any_possible(&fetches) {
                if self.is_stopping() {
                    return;
                }
                fetches = self
                    .fetch_work
                    .wait(fetches)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }

    fn is_any_possible(&self, fetches: &Fetches) -> bool {
        fetches
            .iter()
            .any(|asked| self.acknowledged[asked.worker].load(Ordering::Acquire) >= asked.after)
    }
}
