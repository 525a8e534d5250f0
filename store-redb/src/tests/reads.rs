//! Reads merge memtables and redb: compared with one ordered map under random writes, freezes and checkpoints.

use super::world::{IDENTITY, Sink, birth, options};
use crate::testing::SimDisk;
use crate::{Store, WorkerState, WorkerStorage};
use bytes::Bytes;
use multiraft::{EntryId, GroupId, GroupRow, LogBatch, Membership, RaftStorage};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

const GROUPS: [GroupId; 2] = [GroupId(5), GroupId(6)];

#[derive(Clone, Debug)]
enum Action {
    Put(usize, Vec<u8>, usize),
    Delete(usize, Vec<u8>),
    Freeze,
    Checkpoint,
    Scan(usize, Vec<u8>, Option<Vec<u8>>, usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters, so that keys meet; 0xff and the empty key are the borders.
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4)
}

fn action() -> impl Strategy<Value = Action> {
    let group = 0..GROUPS.len();
    let length = prop_oneof![8 => 0..40_usize, 1 => 1900..2200_usize, 1 => 3000..20_000_usize];
    prop_oneof![
        8 => (group.clone(), key(), length).prop_map(|(group, key, length)| Action::Put(group, key, length)),
        4 => (group.clone(), key()).prop_map(|(group, key)| Action::Delete(group, key)),
        1 => Just(Action::Freeze),
        1 => Just(Action::Checkpoint),
        4 => (group, key(), proptest::option::of(key()), 0..6_usize)
            .prop_map(|(group, start, end, limit)| Action::Scan(group, start, end, limit)),
    ]
}

struct Node {
    store: Store,
    storage: WorkerStorage,
    state: WorkerState,
    applied: u64,
    is_frozen: bool,
}

impl Node {
    fn open() -> Node {
        let store = Store::open_on(Arc::new(SimDisk::new()), IDENTITY, options(1))
            .unwrap()
            .store;
        store.connect(vec![Arc::new(Sink::default())]);
        let mut storage = store.storage(0);
        storage.submit(LogBatch {
            births: GROUPS.map(birth).to_vec(),
            ..LogBatch::default()
        });
        assert!(store.commit_once());
        let state = store.state(0);
        Node {
            store,
            storage,
            state,
            applied: 0,
            is_frozen: false,
        }
    }

    fn freeze(&mut self) {
        self.store.want_checkpoint();
        let Some(cut) = self.storage.cut_wanted() else {
            return;
        };
        self.state.freeze(cut);
        self.applied += 1;
        let rows = GROUPS.map(|group| GroupRow {
            group,
            replica: birth(group).replica,
            life: multiraft::Life(1),
            applied: EntryId::new(1, self.applied),
            membership: Membership::default(),
            descriptor: Bytes::new(),
        });
        self.storage.freeze(cut, rows.to_vec());
        self.is_frozen = true;
    }

    fn scan(
        &self,
        group: GroupId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        self.state.scan(group, start, end, &mut |key, value| {
            if found.len() == limit {
                return ControlFlow::Break(());
            }
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        found
    }
}

fn expected(
    map: &BTreeMap<Vec<u8>, Vec<u8>>,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    if end.is_some_and(|end| end <= start) {
        return Vec::new();
    }
    let bounds = (
        Bound::Included(start),
        end.map_or(Bound::Unbounded, Bound::Excluded),
    );
    map.range::<[u8], _>(bounds)
        .take(limit)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_the_newest_write_wherever_it_lies(actions in vec(action(), 1..120)) {
        let mut node = Node::open();
        let mut maps = [BTreeMap::new(), BTreeMap::new()];
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Put(group, key, length) => {
                    let value = vec![number as u8; length];
                    node.state.put(GROUPS[group], &key, value.clone().into());
                    maps[group].insert(key, value);
                }
                Action::Delete(group, key) => {
                    node.state.delete(GROUPS[group], &key);
                    maps[group].remove(&key);
                }
                Action::Freeze => node.freeze(),
                Action::Checkpoint => {
                    prop_assert_eq!(node.store.checkpoint_once(), std::mem::take(&mut node.is_frozen));
                }
                Action::Scan(group, start, end, limit) => {
                    let end = end.as_deref();
                    let found = node.scan(GROUPS[group], &start, end, limit);
                    prop_assert_eq!(found, expected(&maps[group], &start, end, limit));
                }
            }
        }
        for (group, map) in GROUPS.into_iter().zip(&maps) {
            prop_assert_eq!(node.scan(group, &[], None, usize::MAX), expected(map, &[], None, usize::MAX));
            for (key, value) in map {
                prop_assert_eq!(node.state.get(group, key), Some(Bytes::from(value.clone())));
            }
            prop_assert_eq!(node.state.get(group, b"never"), None);
        }
    }
}
