//! What is written: which groups and keys, in which order, with which bytes. The same for both sides.

use bytes::Bytes;

/// Raft groups.
pub(crate) const GROUPS: u64 = 1000;
/// Keys of each group.
const KEYS_PER_GROUP: u64 = 1024;
/// Keys of all groups.
pub(crate) const KEYS: u64 = GROUPS * KEYS_PER_GROUP;
/// Entries that become durable together.
pub(crate) const BATCH: usize = 256;
/// redb's page cache, in bytes; it holds everything.
pub(crate) const CACHE_BYTES: usize = 1 << 30;
/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// Bytes of a key and its value.
pub(crate) const PAIR_BYTES: usize = KEY_BYTES + 100;

const _: () = assert!(KEYS_PER_GROUP.is_multiple_of(BATCH as u64) && BATCH as u64 <= GROUPS);

/// One write: the key and its value are one slice of their batch's buffer.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) group: u64,
    pub(crate) pair: Bytes,
}

impl Write {
    pub(crate) fn key(&self) -> &[u8] {
        &self.pair[..KEY_BYTES]
    }

    pub(crate) fn value(&self) -> Bytes {
        self.pair.slice(KEY_BYTES..)
    }
}

/// Writes of different groups.
pub(crate) type Batch = Vec<Write>;

/// Makes batches, and remembers what every key must hold.
#[derive(Debug)]
pub(crate) struct Load {
    random: u64,
    order: Vec<u64>,
    at: usize,
    in_order: Option<u64>,
    versions: Vec<u64>,
}

impl Load {
    /// Visits the groups in a fixed random order, the worst case for locality; keys are uniformly random.
    pub(crate) fn uniform() -> Load {
        let mut load = Load {
            random: 0x9e37_79b9_7f4a_7c15,
            order: (0..GROUPS).collect(),
            at: 0,
            in_order: None,
            versions: vec![1; KEYS as usize],
        };
        for at in (1..load.order.len()).rev() {
            let other = (load.next_random() % (at as u64 + 1)) as usize;
            load.order.swap(at, other);
        }
        load
    }

    /// Every key once, in order: what redb makes of that is as dense as it gets, on both sides.
    pub(crate) fn in_order() -> Load {
        let mut load = Load::uniform();
        load.in_order = Some(0);
        load.versions.fill(0);
        load
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(crate) fn next_batch(&mut self) -> Batch {
        let mut buffer = Vec::with_capacity(BATCH * PAIR_BYTES);
        let groups: Vec<u64> = (0..BATCH).map(|_| self.next_write(&mut buffer)).collect();
        let buffer = Bytes::from(buffer);
        let pair = |at: usize| buffer.slice(at * PAIR_BYTES..(at + 1) * PAIR_BYTES);
        let writes = groups.into_iter().enumerate();
        writes
            .map(|(at, group)| Write {
                group,
                pair: pair(at),
            })
            .collect()
    }

    /// Appends key and value; the value begins with the key's version and goes on with noise.
    fn next_write(&mut self, buffer: &mut Vec<u8>) -> u64 {
        let (group, number) = match &mut self.in_order {
            Some(done) => {
                *done += 1;
                ((*done - 1) / KEYS_PER_GROUP, (*done - 1) % KEYS_PER_GROUP)
            }
            None => {
                let group = self.order[self.at];
                self.at = (self.at + 1) % self.order.len();
                (group, self.next_random() % KEYS_PER_GROUP)
            }
        };
        let version = &mut self.versions[(group * KEYS_PER_GROUP + number) as usize];
        *version += 1;
        let end = buffer.len() + PAIR_BYTES;
        buffer.extend_from_slice(&key(group, number));
        buffer.extend_from_slice(&version.to_le_bytes());
        while buffer.len() < end {
            let noise = self.next_random().to_le_bytes();
            buffer.extend_from_slice(&noise[..noise.len().min(end - buffer.len())]);
        }
        group
    }

    /// Compares a sample of what is stored with what was written last.
    pub(crate) fn check(&mut self, mut get: impl FnMut(u64, &[u8]) -> Option<Bytes>) {
        for _ in 0..10_000 {
            let at = self.next_random() % KEYS;
            let (group, number) = (at / KEYS_PER_GROUP, at % KEYS_PER_GROUP);
            let value = get(group, &key(group, number)).expect("every key was written");
            let version = u64::from_le_bytes(value[..8].try_into().expect("values are longer"));
            assert_eq!(
                version, self.versions[at as usize],
                "key {number} of group {group}"
            );
        }
    }
}

fn key(group: u64, number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}
