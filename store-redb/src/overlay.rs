//! A disk that is read and never written: what is written to it stays in memory. So a file can be opened by the very
//! code that a start runs, repairs included, without changing a byte of it.

use crate::disk::Disk;
use crate::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const BLOCK: usize = BLOCK_BYTES as usize;

/// A view of another disk.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Disk>,
    above: Mutex<Above>,
}

/// What was written since the view was made.
#[derive(Debug)]
struct Above {
    length: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
    /// Ranges in which nothing of the disk below shows.
    cleared: Vec<Range<u64>>,
    /// The length of the disk below.
    below_bytes: u64,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Disk>) -> io::Result<Overlay> {
        let below_bytes = below.bytes()?;
        let above = Above {
            length: below_bytes,
            blocks: BTreeMap::new(),
            cleared: Vec::new(),
            below_bytes,
        };
        Ok(Overlay {
            below,
            above: Mutex::new(above),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Above> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece of one block, as it shows.
    fn read_piece(&self, above: &Above, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let within = (offset % BLOCK_BYTES) as usize;
        if let Some(block) = above.blocks.get(&(offset / BLOCK_BYTES)) {
            out.copy_from_slice(&block[within..within + out.len()]);
            return Ok(());
        }
        let is_cleared = above.cleared.iter().any(|range| range.contains(&offset));
        let shown = match is_cleared {
            true => 0,
            false => above.below_bytes.saturating_sub(offset).min(out.len() as u64) as usize,
        };
        out[shown..].fill(0);
        match shown {
            0 => Ok(()),
            _ => self.below.read_at(offset, &mut out[..shown]),
        }
    }

    fn write_piece(&self, above: &mut Above, offset: u64, data: &[u8]) -> io::Result<()> {
        let number = offset / BLOCK_BYTES;
        if !above.blocks.contains_key(&number) {
            let mut block = vec![0; BLOCK].into_boxed_slice();
            self.read_piece(above, number * BLOCK_BYTES, &mut block)?;
            above.blocks.insert(number, block);
        }
        let block = above.blocks.get_mut(&number).expect("made above");
        let within = (offset % BLOCK_BYTES) as usize;
        block[within..within + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn clear_in(&self, above: &mut Above, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        // Whole blocks are hidden; the rest of the first and the last block is overwritten.
        let first = range.start.next_multiple_of(BLOCK_BYTES).min(range.end);
        let last = (range.end / BLOCK_BYTES * BLOCK_BYTES).max(first);
        for edge in [range.start..first, last..range.end] {
            if !edge.is_empty() {
                let zeros = vec![0; (edge.end - edge.start) as usize];
                self.write_piece(above, edge.start, &zeros)?;
            }
        }
        if first < last {
            let mut behind = above.blocks.split_off(&(first / BLOCK_BYTES));
            above.blocks.append(&mut behind.split_off(&(last / BLOCK_BYTES)));
            above.cleared.push(first..last);
        }
        Ok(())
    }
}

/// Cuts a range at block borders: offset and, in the caller's bytes, the range of each piece.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let taken = (BLOCK - (at % BLOCK_BYTES) as usize).min(length - done);
        let range = done..done + taken;
        done += taken;
        (taken > 0).then_some((at, range))
    })
}

impl Disk for Overlay {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.lock().length)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.lock();
        if offset + out.len() as u64 > above.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, range) in pieces(offset, out.len()) {
            self.read_piece(&above, at, &mut out[range])?;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.lock();
        for (at, range) in pieces(offset, data.len()) {
            self.write_piece(&mut above, at, &data[range])?;
        }
        above.length = above.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.lock();
        let old = above.length.max(above.below_bytes);
        if len < above.length {
            self.clear_in(&mut above, len..old)?;
        }
        above.length = len;
        Ok(())
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.clear_in(&mut self.lock(), range)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimDisk;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Clear(u64, u64),
        Length(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..30_000_u64, prop::collection::vec(any::<u8>(), 1..9000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            (0..30_000_u64, 0..20_000_u64).prop_map(|(at, length)| Step::Clear(at, at + length)),
            (0..40_000_u64).prop_map(Step::Length),
        ]
    }

    proptest! {
        #[test]
        fn it_shows_what_a_written_disk_would_and_leaves_the_one_below(
            before in prop::collection::vec(any::<u8>(), 1..30_000),
            steps in prop::collection::vec(any_step(), 0..12),
        ) {
            let below = Arc::new(SimDisk::new());
            below.write_at(0, &before).unwrap();
            let overlay = Overlay::new(Arc::clone(&below) as _).unwrap();
            let mut model = before.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = at as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                        overlay.write_at(at, &data).unwrap();
                    }
                    Step::Clear(from, to) => {
                        let to = to.min(model.len() as u64);
                        if from < to {
                            model[from as usize..to as usize].fill(0);
                            overlay.clear(from..to).unwrap();
                        }
                    }
                    Step::Length(length) => {
                        model.resize(length as usize, 0);
                        overlay.set_len(length).unwrap();
                    }
                }
            }
            prop_assert_eq!(overlay.bytes().unwrap(), model.len() as u64);
            let mut shown = vec![0; model.len()];
            overlay.read_at(0, &mut shown).unwrap();
            prop_assert!(shown == model);
            let mut kept = vec![0; before.len()];
            below.read_at(0, &mut kept).unwrap();
            prop_assert!(kept == before);
        }
    }
}
