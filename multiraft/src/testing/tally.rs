//! A small deterministic state machine: every group is a sum, a clock and a digest of everything applied.

use super::mem_disk::MemDisk;
use crate::machine::{Queried, StateMachine};
use crate::storage::CutId;
use crate::types::{Entry, EntryId, GroupId, Payload, Stamp};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Adds numbers. A command is a number (8 bytes, little endian; anything else counts as 0), its answer the new sum.
/// The empty query answers the sum; the query `clock` first advances the group clock to the leader's stamp, then
/// answers it.
#[derive(Debug)]
pub struct Tally {
    disk: MemDisk,
    groups: BTreeMap<GroupId, Sum>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    applied: EntryId,
    sum: u64,
    clock: Stamp,
    digest: u64,
}

impl Tally {
    /// A machine whose checkpoints are on `disk`.
    pub fn new(disk: MemDisk) -> Tally {
        Tally {
            disk,
            groups: BTreeMap::new(),
        }
    }

    /// The command that adds `number`.
    pub fn add(number: u64) -> Bytes {
        Bytes::copy_from_slice(&number.to_le_bytes())
    }

    /// Reads an answer.
    pub fn number(answer: &Bytes) -> u64 {
        number(answer)
    }

    /// The group's sum.
    pub fn sum(&self, group: GroupId) -> u64 {
        self.groups[&group].sum
    }

    /// A digest over every entry applied: equal on replicas that applied the same entries in the same order.
    pub fn digest(&self, group: GroupId) -> (EntryId, u64) {
        let sum = &self.groups[&group];
        (sum.applied, sum.digest)
    }
}

impl StateMachine for Tally {
    fn apply(&mut self, group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>) {
        let sum = self
            .groups
            .get_mut(&group)
            .expect("opened before anything is applied");
        for entry in entries {
            answers.push(sum.apply(entry));
        }
    }

    fn query(&mut self, group: GroupId, query: &Bytes, stamp: Stamp) -> Queried {
        let sum = &self.groups[&group];
        match &query[..] {
            b"clock" if sum.clock < stamp => Queried::AdvanceClock,
            b"clock" => Queried::Answer(Tally::add(sum.clock.0)),
            _ => Queried::Answer(Tally::add(sum.sum)),
        }
    }

    fn clock(&self, group: GroupId) -> Stamp {
        self.groups[&group].clock
    }

    fn freeze(&mut self, cut: CutId) {
        for (group, sum) in &self.groups {
            self.disk.stage_state(cut, *group, sum.encode());
        }
    }

    fn descriptor(&self, _group: GroupId) -> Bytes {
        Bytes::new()
    }

    fn open(&mut self, group: GroupId, _descriptor: &Bytes, applied: EntryId) {
        let sum = match self.disk.state(group) {
            Some(state) => Sum::decode(&state),
            None => Sum {
                applied,
                ..Sum::default()
            },
        };
        assert_eq!(
            sum.applied, applied,
            "{group}: the state is not the one the row speaks of"
        );
        let before = self.groups.insert(group, sum);
        assert!(before.is_none(), "{group} is opened twice");
    }

    fn install(&mut self, group: GroupId, _descriptor: &Bytes, snapshot: EntryId) {
        let state = self.disk.state(group).expect("what is installed is on the disk");
        let sum = Sum::decode(&state);
        assert_eq!(sum.applied, snapshot, "{group}: another snapshot's state");
        self.groups.insert(group, sum);
    }
}

impl Sum {
    fn apply(&mut self, entry: &Entry) -> Bytes {
        assert_eq!(
            entry.id.index,
            self.applied.index.next(),
            "applied in order, each once"
        );
        self.applied = entry.id;
        self.digest = mix(self.digest, entry.id.term.0);
        match &entry.payload {
            Payload::Noop(stamp) => {
                self.clock = self.clock.max(*stamp);
                Bytes::new()
            }
            Payload::Command(stamp, command) => {
                self.clock = self.clock.max(*stamp);
                self.sum = self.sum.wrapping_add(number(command));
                self.digest = mix(self.digest, command.len() as u64);
                for word in command.chunks(8) {
                    self.digest = mix(
                        self.digest,
                        word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                    );
                }
                Tally::add(self.sum)
            }
            Payload::Membership(_) => Bytes::new(),
        }
    }

    fn encode(&self) -> Bytes {
        let fields = [
            self.applied.term.0,
            self.applied.index.0,
            self.sum,
            self.clock.0,
            self.digest,
        ];
        fields.iter().flat_map(|field| field.to_le_bytes()).collect()
    }

    fn decode(bytes: &Bytes) -> Sum {
        let fields: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| number(&Bytes::copy_from_slice(chunk)))
            .collect();
        let [term, index, sum, clock, digest] = fields[..] else {
            panic!("five fields, not {}", fields.len());
        };
        Sum {
            applied: EntryId::new(term, index),
            sum,
            clock: Stamp(clock),
            digest,
        }
    }
}

fn number(bytes: &Bytes) -> u64 {
    bytes[..].try_into().map_or(0, u64::from_le_bytes)
}

fn mix(digest: u64, value: u64) -> u64 {
    (digest ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(23)
}
