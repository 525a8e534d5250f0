//! The replicated state of the simulation: per group and key an append-only list of the ids of the writes that reached
//! it, kept as its length and a hash of its prefix, plus a checksum over everything applied.
//! What it applied is reported entry by entry, so that the checkers see every step of every replica.

use super::bugs::Bug;
use super::rng::fold;
use bytes::Bytes;
use multiraft::{
    CutId, Entry, EntryId, GroupId, Index, Membership, Payload, Queried, Stamp, StateMachine, Term,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// One write: which one, to which key. Padding gives it a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Command {
    pub(super) write: u64,
    pub(super) key: u8,
}

impl Command {
    pub(super) fn encode(self, pad: usize) -> Bytes {
        let mut bytes = self.write.to_le_bytes().to_vec();
        bytes.push(self.key);
        bytes.resize(bytes.len() + pad, 0xa5);
        Bytes::from(bytes)
    }

    fn decode(bytes: &[u8]) -> Command {
        let (write, rest) = bytes.split_first_chunk().expect("a command holds its number");
        Command {
            write: u64::from_le_bytes(*write),
            key: rest[0],
        }
    }
}

/// One read: of which key, at which group clock at least (0: any).
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) key: u8,
    /// How far past the applied stamps the group clock must be, in milliseconds before the grant's stamp.
    pub(super) ahead: bool,
}

impl Query {
    pub(super) fn encode(self) -> Bytes {
        Bytes::from(vec![self.key, u8::from(self.ahead)])
    }
}

/// A key's list: how long, and a hash of what is in it, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) len: u64,
    pub(super) hash: u64,
}

impl List {
    pub(super) fn append(&mut self, write: u64) {
        self.len += 1;
        self.hash = fold(self.hash, &write.to_le_bytes());
    }

    fn encode(self) -> Bytes {
        Bytes::from([self.len.to_le_bytes(), self.hash.to_le_bytes()].concat())
    }

    /// What a client makes of an answer.
    pub(super) fn decode(answer: &[u8]) -> List {
        let word = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().expect("eight bytes"));
        List {
            len: word(0),
            hash: word(8),
        }
    }
}

/// The state of one group as of its last applied entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupState {
    pub(super) applied: EntryId,
    clock: Stamp,
    lists: BTreeMap<u8, List>,
    pub(super) checksum: u64,
    descriptor: Bytes,
}

impl GroupState {
    /// As a snapshot carries it. The head of its stream says the rest: what it reflects, and the descriptor.
    pub(super) fn encode(&self) -> Bytes {
        let mut words = vec![
            self.applied.term.0,
            self.applied.index.0,
            self.clock.0,
            self.checksum,
        ];
        for (key, list) in &self.lists {
            words.extend([u64::from(*key), list.len, list.hash]);
        }
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
            .into()
    }

    /// Whole words only: a stream that lost a piece is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<GroupState> {
        let (words, []) = bytes.as_chunks() else {
            return None;
        };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (head, rows) = words.split_at_checked(4)?;
        let (rows, []) = rows.as_chunks() else { return None };
        let list = |[key, len, hash]: &[u64; 3]| {
            let (len, hash) = (*len, *hash);
            Some((u8::try_from(*key).ok()?, List { len, hash }))
        };
        Some(GroupState {
            applied: EntryId {
                term: Term(head[0]),
                index: Index(head[1]),
            },
            clock: Stamp(head[2]),
            checksum: head[3],
            lists: rows.iter().map(list).collect::<Option<_>>()?,
            descriptor: Bytes::new(),
        })
    }
}

/// The state of a worker's groups: what a checkpoint holds.
pub(super) type Image = BTreeMap<GroupId, GroupState>;

/// One entry as one replica applied it.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) group: GroupId,
    pub(super) id: EntryId,
    pub(super) command: Option<Command>,
    pub(super) membership: Option<Membership>,
    /// Over the whole state after it.
    pub(super) checksum: u64,
}

/// A step of one replica's state.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// By an entry.
    Applied(Applied),
    /// By a snapshot of this entry, with the checksum after it.
    Installed(GroupId, EntryId, u64),
}

/// A worker's state machine, visible to the simulation.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) groups: Image,
    frozen: BTreeMap<CutId, Image>,
    /// Installed on the disk; the worker has not heard yet.
    arrived: BTreeMap<GroupId, GroupState>,
    /// Since the last look.
    pub(super) news: Vec<Step>,
    bug: Option<Bug>,
}

/// What the worker owns; the simulation holds the other end.
#[derive(Clone, Debug)]
pub(super) struct Machine(Arc<Mutex<Lists>>);

impl Machine {
    /// A machine that starts from what a checkpoint holds.
    pub(super) fn new(image: Image, bug: Option<Bug>) -> Machine {
        Machine(Arc::new(Mutex::new(Lists {
            groups: image,
            bug,
            ..Lists::default()
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().expect("one thread runs the world")
    }

    /// The disk has installed this.
    pub(super) fn expect(&self, group: GroupId, state: GroupState) {
        self.lock().arrived.insert(group, state);
    }

    /// The state that was frozen for `cut`.
    pub(super) fn take_frozen(&self, cut: CutId) -> Image {
        self.lock()
            .frozen
            .remove(&cut)
            .expect("a machine freezes before its rows are handed over")
    }
}

impl Lists {
    fn apply_one(&mut self, group: GroupId, entry: &Entry) -> Bytes {
        let skips = self.bug == Some(Bug::MachineSkipsEntry) && entry.id.index.0 % 64 == 63;
        let state = self.groups.get_mut(&group).expect("an entry of an open group");
        state.applied = entry.id;
        let mut answer = Bytes::new();
        let mut command = None;
        let mut changed = None;
        match &entry.payload {
            Payload::Noop(stamp) => state.clock = state.clock.max(*stamp),
            Payload::Membership(membership) => changed = Some((**membership).clone()),
            Payload::Command(stamp, bytes) => {
                let decoded = Command::decode(bytes);
                command = Some(decoded);
                state.clock = state.clock.max(*stamp);
                let list = state.lists.entry(decoded.key).or_default();
                if !skips {
                    list.append(decoded.write);
                    state.checksum = fold(state.checksum, bytes);
                }
                answer = list.encode();
            }
        }
        let place = [entry.id.index.0, entry.id.term.0, state.clock.0]
            .map(u64::to_le_bytes)
            .concat();
        state.checksum = fold(state.checksum, &place);
        self.news.push(Step::Applied(Applied {
            group,
            id: entry.id,
            command,
            membership: changed,
            checksum: state.checksum,
        }));
        answer
    }

    /// What a reader sees; also what a broken node would answer without asking anyone.
    pub(super) fn look(&self, group: GroupId, key: u8) -> Bytes {
        let list = self.groups.get(&group).and_then(|state| state.lists.get(&key));
        list.copied().unwrap_or_default().encode()
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, group: GroupId, entries: &[Entry], answers: &mut Vec<Bytes>) {
        let mut lists = self.lock();
        answers.extend(entries.iter().map(|entry| lists.apply_one(group, entry)));
    }

    fn query(&mut self, group: GroupId, query: &Bytes, stamp: Stamp) -> Queried {
        let lists = self.lock();
        if query[1] == 1 && self_clock(&lists, group) < stamp {
            return Queried::AdvanceClock;
        }
        Queried::Answer(lists.look(group, query[0]))
    }

    fn clock(&self, group: GroupId) -> Stamp {
        self_clock(&self.lock(), group)
    }

    fn freeze(&mut self, cut: CutId) {
        let mut lists = self.lock();
        let image = lists.groups.clone();
        lists.frozen.insert(cut, image);
    }

    fn descriptor(&self, group: GroupId) -> Bytes {
        self.lock().groups[&group].descriptor.clone()
    }

    fn open(&mut self, group: GroupId, descriptor: &Bytes, applied: EntryId) {
        let mut lists = self.lock();
        let state = lists.groups.entry(group).or_default();
        assert_eq!(
            state.applied, applied,
            "the restored state is the one its row names"
        );
        state.descriptor = descriptor.clone();
    }

    fn install(&mut self, group: GroupId, descriptor: &Bytes, snapshot: EntryId) {
        let mut lists = self.lock();
        let state = lists.arrived.remove(&group);
        let mut state = state.expect("the disk installed it before the worker heard");
        assert_eq!(state.applied, snapshot, "{group}: the state is the snapshot's");
        state.descriptor = descriptor.clone();
        lists.news.push(Step::Installed(group, snapshot, state.checksum));
        lists.groups.insert(group, state);
    }
}

fn self_clock(lists: &Lists, group: GroupId) -> Stamp {
    lists.groups.get(&group).map_or(Stamp(0), |state| state.clock)
}
