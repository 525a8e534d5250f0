//! How the state machine sees one group's rows, and the row that holds the group's clock and counters.
//! Where rows live (memtables, redb, a map in a test) is the implementor's business.

use bytes::{BufMut, Bytes, BytesMut};
use multiraft::Stamp;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// Takes a row and says whether to go on.
pub type Visit<'v> = &'v mut (dyn FnMut(&[u8], &Bytes) -> ControlFlow<()> + 'v);

/// One group's rows, ordered by key. Reads see earlier writes. No error path: what cannot be read ends the process.
pub trait State {
    /// The row at this key.
    fn get(&self, key: &[u8]) -> Option<Bytes>;
    /// Writes a row; replaces the one at this key.
    fn put(&mut self, key: Bytes, value: Bytes);
    /// Removes a row; it may be absent.
    fn delete(&mut self, key: &[u8]);
    /// Visits the rows between the bounds in key order until told to stop.
    fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>);
}

impl State for BTreeMap<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.get(key).cloned()
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.remove(key);
    }

    fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) {
        if is_empty(start, end) {
            return;
        }
        for (key, value) in self.range::<[u8], _>((start, end)) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}

/// True if no key lies between the bounds (the standard map panics on those).
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    }
}

/// The largest stamp applied in this group.
pub fn clock<S: State + ?Sized>(state: &S) -> Stamp {
    Stamp(Counters::load(state).clock)
}

/// When the next key may expire (milliseconds since 1970): a lower bound. The leader proposes a stamp once it has
/// passed, so that expired keys leave the state without traffic. None: no key has a deadline.
pub fn next_expiry<S: State + ?Sized>(state: &S) -> Option<u64> {
    Counters::load(state).next_expiry()
}

/// First byte of user keys' rows.
const USER: u8 = 0x10;
/// First byte of the index of deadlines: then the deadline, big-endian, then the user key.
const DEADLINE: u8 = 0x01;
/// The row of the group's clock and counters.
const COUNTERS: &[u8] = &[0x00, 0x00];
/// Format of that row.
const COUNTERS_FORMAT: u8 = 1;
/// Bytes of that row.
const COUNTERS_BYTES: usize = 1 + 4 * 8;

/// The row of a user key.
pub(crate) fn user_row(key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + key.len());
    row.put_u8(USER);
    row.put_slice(key);
    row.freeze()
}

/// The user key of a row, if it is one.
pub(crate) fn user_key(row: &[u8]) -> Option<&[u8]> {
    row.split_first()
        .and_then(|(first, key)| (*first == USER).then_some(key))
}

/// Every user key lies in here.
pub(crate) fn user_rows() -> (Bound<&'static [u8]>, Bound<&'static [u8]>) {
    (Bound::Included(&[USER]), Bound::Excluded(&[USER + 1]))
}

/// The row that finds `key` by its deadline.
pub(crate) fn deadline_row(deadline: u64, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(9 + key.len());
    row.put_u8(DEADLINE);
    row.put_u64(deadline);
    row.put_slice(key);
    row.freeze()
}

/// The deadline and user key of an index row.
pub(crate) fn read_deadline_row(row: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = row.split_first()?;
    let (deadline, key) = rest.split_first_chunk::<8>()?;
    (*first == DEADLINE).then(|| (u64::from_be_bytes(*deadline), key))
}

/// Every index row lies in here.
pub(crate) fn deadline_rows() -> (Bound<&'static [u8]>, Bound<&'static [u8]>) {
    (Bound::Included(&[DEADLINE]), Bound::Excluded(&[DEADLINE + 1]))
}

/// The group's clock and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The largest stamp applied (milliseconds).
    pub(crate) clock: u64,
    /// Grows by one with every change of a key; the version of the key it changed.
    pub(crate) version: u64,
    /// User keys present, those past their deadline but not yet purged included.
    pub(crate) keys: u64,
    /// No index row has a smaller deadline. `u64::MAX`: there is none.
    pub(crate) next_expiry: u64,
}

impl Counters {
    /// When the next key may expire.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        (self.next_expiry != u64::MAX).then_some(self.next_expiry)
    }

    pub(crate) fn load<S: State + ?Sized>(state: &S) -> Counters {
        let Some(row) = state.get(COUNTERS) else {
            return Counters {
                clock: 0,
                version: 0,
                keys: 0,
                next_expiry: u64::MAX,
            };
        };
        assert!(
            row.len() == COUNTERS_BYTES && row[0] == COUNTERS_FORMAT,
            "the row of group counters has {} bytes and format {:?}",
            row.len(),
            row.first()
        );
        let number =
            |at: usize| u64::from_be_bytes(row[1 + at * 8..9 + at * 8].try_into().expect("eight bytes"));
        Counters {
            clock: number(0),
            version: number(1),
            keys: number(2),
            next_expiry: number(3),
        }
    }

    pub(crate) fn save<S: State + ?Sized>(&self, state: &mut S) {
        let mut row = BytesMut::with_capacity(COUNTERS_BYTES);
        row.put_u8(COUNTERS_FORMAT);
        for number in [self.clock, self.version, self.keys, self.next_expiry] {
            row.put_u64(number);
        }
        state.put(Bytes::from_static(COUNTERS), row.freeze());
    }
}
