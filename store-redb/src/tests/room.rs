//! Backpressure: what `room` promises is kept while nothing is checkpointed, and what it reserves is there for hard
//! states and births.

use super::lone::{GROUP, Lone};
use super::world::{IDENTITY, Random, command, options};
use crate::{SimDisk, Store};
use bytes::Bytes;
use multiraft::{EntryId, GroupId, RaftStorage};
use std::sync::Arc;

impl Lone {
    /// One turn that takes entries, each of up to `most` bytes, as long as there is room, as a worker does.
    fn fill_turn(&mut self, random: &mut Random, most: u64) -> usize {
        let mut room = self.storage.room().log_bytes;
        let mut entries = Vec::new();
        for _ in 0..=random.below(40) {
            let bytes = random.below(most);
            let Some(left) = room.checked_sub(bytes + 8 + 128) else {
                break;
            };
            room = left;
            let index = self.last + entries.len() as u64 + 1;
            entries.push(command(1, index, index, bytes as usize));
        }
        let taken = entries.len();
        if taken > 0 {
            self.submit(None, None, entries);
        }
        taken
    }

    /// Turns and commits in any order, until ten turns in a row were refused everything.
    fn fill(&mut self, random: &mut Random, most: u64) {
        let mut refused = 0;
        while refused < 10 {
            let taken = self.fill_turn(random, most);
            refused = if taken == 0 { refused + 1 } else { 0 };
            if random.below(3) == 0 {
                self.store.commit_once();
            }
        }
    }
}

#[test]
fn what_room_promises_is_written_and_the_reserve_takes_hard_states() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut lone = Lone::open(Arc::new(SimDisk::new())).unwrap();
        let most = [100, 3_000, 20_000][seed as usize % 3];
        for round in 0..4 {
            lone.fill(&mut random, most);
            lone.commit_all(&format!("seed {seed}, round {round}: what was taken fits"));
            for n in 0..6 {
                lone.submit(Some(GroupId(100 + round * 10 + n)), Some(n + 1), Vec::new());
                lone.commit_all(&format!("seed {seed}, round {round}: births and votes fit"));
            }
            (0..2).for_each(|_| lone.checkpoint());
            let room = lone.storage.room().log_bytes;
            assert!(room > 32 << 10, "seed {seed}: {room} after two checkpoints");
        }
    }
}

#[test]
fn a_full_memtable_leaves_no_room_until_it_is_checkpointed() {
    let mut lone = Lone::open(Arc::new(SimDisk::new())).unwrap();
    lone.commit_all("the birth");
    let before = lone.storage.room().memory_bytes;
    assert_eq!(before, 64 << 10, "four times the limit");
    for key in 0..20_u64 {
        let value = Bytes::from(vec![0; 4096]);
        lone.state.put(GROUP, &key.to_be_bytes(), value);
    }
    lone.state.mark_applied(GROUP, EntryId::ZERO);
    assert_eq!(lone.storage.room().memory_bytes, 0);
    lone.checkpoint();
    assert_eq!(lone.storage.room().memory_bytes, before);
}

#[test]
fn a_ring_that_stays_full_after_a_checkpoint_wants_another_one() {
    let mut random = Random(7);
    let mut lone = Lone::open(Arc::new(SimDisk::new())).unwrap();
    lone.fill(&mut random, 3_000);
    lone.commit_all("what was taken");
    lone.checkpoint(); // the tail follows one behind: nothing is released
    assert_eq!(lone.storage.room().log_bytes, 0);
    assert!(lone.try_checkpoint(), "nobody else would ask: no entry is taken");
    assert!(lone.storage.room().log_bytes > 0);
}

#[test]
fn workers_share_what_there_is() {
    let room = |workers| {
        let opened = Store::open_on(Arc::new(SimDisk::new()), IDENTITY, options(workers)).unwrap();
        opened.store.storage(0).room()
    };
    let (alone, shared) = (room(1), room(4));
    assert_eq!(
        alone.log_bytes / 4,
        shared.log_bytes,
        "all may take theirs at once"
    );
    assert_eq!(alone.memory_bytes / 4, shared.memory_bytes);
}
