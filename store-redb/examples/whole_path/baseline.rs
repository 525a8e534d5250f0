//! The layout to beat: log, state and applied indexes in tables of one redb database, one durable commit per batch,
//! which also applies the batch before it and purges the log in chunks.

use crate::Slice;
use crate::device::Device;
use crate::load::{BATCH, Batch, CACHE_BYTES, GROUPS, Load};
use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// (group, index), big endian -> key and value.
const LOG: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("log");
/// Group -> applied index.
const APPLIED: TableDefinition<'_, &[u8; 8], &[u8; 8]> = TableDefinition::new("applied");
/// Key (it begins with the group) -> value.
const STATE: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("state");

/// Entries kept behind the applied one; as many more are purged at a time, because a range costs less than rows.
const KEPT: u64 = 64;

pub(crate) struct Baseline {
    path: PathBuf,
    database: Database,
    load: Load,
    lasts: Vec<u64>,
    /// Durable in the log; to be applied with the next commit.
    committed: Vec<(u64, u64, Bytes)>,
}

impl Baseline {
    pub(crate) fn open(path: &Path) -> Baseline {
        crate::fresh(path);
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path);
        let baseline = Baseline {
            path: path.to_path_buf(),
            database: database.expect("the directory is writable"),
            load: Load::uniform(),
            lasts: vec![0; GROUPS as usize],
            committed: Vec::new(),
        };
        baseline.preload().expect("redb commits");
        baseline
    }

    fn preload(&self) -> Result<(), redb::Error> {
        let batches: Vec<Batch> = crate::preload().collect();
        for batches in batches.chunks(256) {
            let transaction = self.database.begin_write()?;
            let mut state = transaction.open_table(STATE)?;
            for write in batches.iter().flatten() {
                state.insert(key(write.key()), write.value().as_ref())?;
            }
            drop(state);
            transaction.commit()?;
        }
        Ok(())
    }

    /// Batches until the time is over.
    pub(crate) fn run_for(&mut self, device: &Device, time: Duration) -> Slice {
        let begun = device.begin();
        let mut entries = 0;
        while begun.started.elapsed() < time {
            let batch = self.load.next_batch();
            self.commit(batch).expect("redb commits");
            entries += BATCH as u64;
        }
        begun.end(entries)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut log = transaction.open_table(LOG)?;
        let mut state = transaction.open_table(STATE)?;
        let mut applied = transaction.open_table(APPLIED)?;
        for (group, index, pair) in self.committed.drain(..) {
            state.insert(key(&pair[..16]), &pair[16..])?;
            applied.insert(&group.to_be_bytes(), &index.to_be_bytes())?;
            if index > KEPT && index.is_multiple_of(KEPT) {
                let (from, to) = (log_key(group, 0), log_key(group, index - KEPT));
                log.retain_in::<&[u8; 16], _>(&from..&to, |_, _| false)?;
            }
        }
        for write in batch {
            let last = &mut self.lasts[write.group as usize];
            *last += 1;
            log.insert(&log_key(write.group, *last), write.pair.as_ref())?;
            self.committed.push((write.group, *last, write.pair));
        }
        drop((log, state, applied));
        Ok(transaction.commit()?)
    }

    /// Applies what is left and compares the state with the model.
    pub(crate) fn close(mut self) {
        self.commit(Vec::new()).expect("redb commits");
        let transaction = self.database.begin_read().expect("redb reads");
        let state = transaction.open_table(STATE).expect("it was written");
        self.load.check(|_, wanted| {
            let row = state.get(key(wanted)).expect("redb reads");
            row.map(|row| Bytes::copy_from_slice(row.value()))
        });
        drop((state, transaction));
        drop(self.database);
        crate::fresh(&self.path);
    }
}

fn key(bytes: &[u8]) -> &[u8; 16] {
    bytes.try_into().expect("keys have 16 bytes")
}

fn log_key(group: u64, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}
