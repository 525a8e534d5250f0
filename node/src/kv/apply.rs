//! Applies commands to one group's state. Deterministic: the same entries in the same order give the same rows and
//! answers on every replica, however they are cut into batches.
//!
//! Time is the **group clock**: the largest stamp applied. A key whose deadline is at or before it does not exist,
//! whether it was purged or not; every entry purges a bounded number of such keys before its command.

use super::answer::{self, Failure};
use super::command::{Command, Condition, Expect, ExpireCondition, Lifetime, Operation, Slice};
use super::limits::{DEADLINE_MAX, FLUSH_KEYS_MAX, PURGE_KEYS_MAX, VALUE_BYTES_MAX};
use super::record::Record;
use super::span::Span;
use super::state::{
    Counters, State, deadline_row, deadline_rows, read_deadline_row, user_key, user_row, user_rows,
};
use super::{float, number};
use bytes::Bytes;
use multiraft::Stamp;
use std::ops::ControlFlow;

/// Applies one batch of entries of one group. The group's counters are read once and written once.
pub struct Applier<'s, S: State + ?Sized> {
    pub(super) state: &'s mut S,
    pub(super) counters: Counters,
    loaded: Counters,
    span: Span<'s>,
}

impl<'s, S: State + ?Sized> Applier<'s, S> {
    /// Begins a batch of a group that serves every key.
    pub fn begin(state: &'s mut S) -> Self {
        Applier::begin_within(state, Span::ALL)
    }

    /// Begins a batch of a group that serves these keys; commands that name others change nothing but the clock.
    pub fn begin_within(state: &'s mut S, span: Span<'s>) -> Self {
        let counters = Counters::load(state);
        Applier {
            state,
            counters,
            loaded: counters,
            span,
        }
    }

    /// An entry without a command: only its stamp counts.
    pub fn stamp(&mut self, stamp: Stamp) {
        self.counters.clock = self.counters.clock.max(stamp.0);
        self.purge();
    }

    /// An entry with a command: its answer. What cannot be decoded changes nothing but the clock.
    pub fn command(&mut self, stamp: Stamp, payload: &[u8]) -> Bytes {
        self.stamp(stamp);
        let outcome = match Command::decode(payload) {
            Ok(command) if !self.span.holds_command(&command) => Err(Failure::WrongRange),
            Ok(command) => self.run(&command),
            Err(_) => Err(Failure::Undecodable),
        };
        outcome.unwrap_or_else(answer::failed)
    }

    /// Ends the batch. Without it the counters are lost. Returns what `next_expiry` would say now.
    pub fn finish(self) -> Option<u64> {
        if self.counters != self.loaded {
            self.counters.save(self.state);
        }
        self.counters.next_expiry()
    }

    pub(super) fn run(&mut self, command: &Command<'_>) -> Result<Bytes, Failure> {
        match command {
            Command::Put { key, value } => self.put(key.0, value.0),
            Command::Set {
                key,
                value,
                condition,
                lifetime,
                get,
            } => {
                let found = self.find(key.0);
                let old = found.live.as_ref().map(|old| old.value.clone());
                let written = self.set(found, value.0, *condition, *lifetime)?;
                Ok(match (get, old) {
                    (true, Some(old)) => answer::value(&old),
                    (false, _) if written => answer::done(),
                    _ => answer::nil(),
                })
            }
            Command::Delete { keys } => Ok(self.delete(keys)),
            Command::Take { key } => Ok(self.take(key.0)),
            Command::Touch { key, lifetime } => self.touch(key.0, *lifetime),
            Command::PutMany { pairs, absent } => self.put_many(pairs, *absent),
            Command::Add { key, delta } => self.add(key.0, *delta),
            Command::AddFloat { key, delta } => self.add_float(key.0, delta.0),
            Command::Append {
                key,
                value,
                bytes_max,
            } => self.append(key.0, value.0, *bytes_max),
            Command::SetRange {
                key,
                offset,
                value,
                bytes_max,
            } => self.set_range(key.0, *offset, value.0, *bytes_max),
            Command::Expire {
                key,
                lifetime,
                condition,
            } => self.expire(key.0, *lifetime, *condition),
            Command::CompareAndSet {
                key,
                expect,
                value,
                lifetime,
            } => self.compare_and_set(key.0, expect, value.map(|value| value.0), *lifetime),
            Command::Batch { operations } => self.batch(operations),
            Command::Flush => Ok(self.flush()),
            Command::Transaction { watched, steps } => self.transaction(watched, steps),
            Command::Rename { key, to, absent } => Ok(self.rename(key.0, to.0, *absent)),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Bytes, Failure> {
        check_length(value.len() as u64, VALUE_BYTES_MAX)?;
        let found = self.find(key);
        self.write(&found, None, &[value]);
        Ok(answer::done())
    }

    /// Writes under a condition; false: it did not hold.
    fn set(
        &mut self,
        found: Found,
        value: &[u8],
        condition: Condition,
        lifetime: Lifetime,
    ) -> Result<bool, Failure> {
        check_length(value.len() as u64, VALUE_BYTES_MAX)?;
        let deadline = self.deadline(lifetime, found.deadline())?;
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => found.live.is_none(),
            Condition::Present => found.live.is_some(),
        };
        if holds {
            self.write_until(&found, deadline, value);
        }
        Ok(holds)
    }

    fn delete(&mut self, keys: &[Slice<'_>]) -> Bytes {
        let mut count = 0;
        for key in keys {
            let found = self.find(key.0);
            if found.live.is_some() {
                count += 1;
                self.remove(&found);
            }
        }
        answer::integer(count)
    }

    fn take(&mut self, key: &[u8]) -> Bytes {
        let found = self.find(key);
        let Some(old) = &found.live else {
            return answer::nil();
        };
        let taken = answer::value(&old.value);
        self.remove(&found);
        taken
    }

    fn touch(&mut self, key: &[u8], lifetime: Lifetime) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let Some(old) = &found.live else {
            return Ok(answer::nil());
        };
        let deadline = self.deadline(lifetime, old.deadline)?;
        if deadline != old.deadline {
            self.write_until(&found, deadline, &old.value);
        }
        Ok(answer::value(&old.value))
    }

    fn put_many(&mut self, pairs: &[(Slice<'_>, Slice<'_>)], absent: bool) -> Result<Bytes, Failure> {
        for (_, value) in pairs {
            check_length(value.0.len() as u64, VALUE_BYTES_MAX)?;
        }
        if absent && pairs.iter().any(|(key, _)| self.find(key.0).live.is_some()) {
            return Ok(answer::integer(0));
        }
        for (key, value) in pairs {
            let found = self.find(key.0);
            self.write(&found, None, &[value.0]);
        }
        Ok(answer::integer(1))
    }

    fn add(&mut self, key: &[u8], delta: i64) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let old = match &found.live {
            None => 0,
            Some(old) => number::parse(&old.value).ok_or(Failure::NotInteger)?,
        };
        let sum = old.checked_add(delta).ok_or(Failure::Overflow)?;
        self.write(&found, found.deadline(), &[number::Text::of(sum).as_bytes()]);
        Ok(answer::integer(sum))
    }

    fn add_float(&mut self, key: &[u8], delta: &[u8]) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let old = found.live.as_ref().map_or(&b"0"[..], |old| &old.value);
        let sum = float::add(old, delta).map_err(|error| match error {
            float::Error::NotFloat => Failure::NotFloat,
            float::Error::NotFinite => Failure::NotFinite,
        })?;
        self.write(&found, found.deadline(), &[sum.as_bytes()]);
        Ok(answer::value(sum.as_bytes()))
    }

    fn append(&mut self, key: &[u8], value: &[u8], bytes_max: u64) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let old = found.value();
        let length = (old.len() + value.len()) as u64;
        check_length(length, bytes_max)?;
        self.write(&found, found.deadline(), &[&old, value]);
        Ok(answer::integer(length.cast_signed()))
    }

    fn set_range(&mut self, key: &[u8], offset: u64, value: &[u8], bytes_max: u64) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let mut bytes = found.value().to_vec();
        if !value.is_empty() {
            let end = offset.saturating_add(value.len() as u64);
            check_length(end, bytes_max)?;
            let start = usize::try_from(offset).map_err(|_| Failure::TooLong)?;
            let end = start + value.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(value);
            self.write(&found, found.deadline(), &[&bytes]);
        }
        Ok(answer::integer((bytes.len() as u64).cast_signed()))
    }

    fn expire(
        &mut self,
        key: &[u8],
        lifetime: Lifetime,
        condition: ExpireCondition,
    ) -> Result<Bytes, Failure> {
        let found = self.find(key);
        let old_deadline = found.deadline();
        let deadline = self.deadline(lifetime, old_deadline)?;
        let Some(old) = &found.live else {
            return Ok(answer::integer(0));
        };
        let unchanged = lifetime == Lifetime::Forever && old_deadline.is_none();
        if unchanged || !permits(condition, old_deadline, deadline) {
            return Ok(answer::integer(0));
        }
        self.write_until(&found, deadline, &old.value);
        Ok(answer::integer(1))
    }

    fn compare_and_set(
        &mut self,
        key: &[u8],
        expect: &Expect<'_>,
        value: Option<&[u8]>,
        lifetime: Lifetime,
    ) -> Result<Bytes, Failure> {
        check_length(value.map_or(0, <[u8]>::len) as u64, VALUE_BYTES_MAX)?;
        let found = self.find(key);
        let deadline = self.deadline(lifetime, found.deadline())?;
        let holds = match (expect, &found.live) {
            (Expect::Absent, old) => old.is_none(),
            (_, None) => false,
            (Expect::Present, Some(_)) => true,
            (Expect::Version(version), Some(old)) => old.version == *version,
            (Expect::Value(value), Some(old)) => old.value == value.0,
        };
        if !holds {
            return Ok(answer::mismatch(found.live.map(|old| old.version)));
        }
        match value {
            Some(value) => self.write_until(&found, deadline, value),
            None => self.remove(&found),
        }
        Ok(answer::integer(self.counters.version.cast_signed()))
    }

    fn batch(&mut self, operations: &[Operation<'_>]) -> Result<Bytes, Failure> {
        for operation in operations {
            if let Operation::Put(_, value) = operation {
                check_length(value.0.len() as u64, VALUE_BYTES_MAX)?;
            }
        }
        for operation in operations {
            match operation {
                Operation::Put(key, value) => {
                    let found = self.find(key.0);
                    self.write(&found, None, &[value.0]);
                }
                Operation::Delete(key) => {
                    let found = self.find(key.0);
                    self.remove(&found);
                }
            }
        }
        Ok(answer::done())
    }

    fn rename(&mut self, key: &[u8], to: &[u8], absent: bool) -> Bytes {
        let found = self.find(key);
        let Some(old) = &found.live else {
            return answer::nil();
        };
        let target = self.find(to);
        if absent && target.live.is_some() {
            return answer::integer(0);
        }
        if key != to {
            self.remove(&found);
            self.write(&target, old.deadline, &[&old.value]);
        }
        answer::integer(1)
    }

    fn flush(&mut self) -> Bytes {
        let (start, end) = user_rows();
        let mut rows = Vec::new();
        self.state.scan(start, end, &mut |row, bytes| {
            rows.push((Bytes::copy_from_slice(row), bytes.clone()));
            if rows.len() < FLUSH_KEYS_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        for (row, bytes) in rows {
            let found = Found::new(row, Some(bytes), self.counters.clock);
            self.remove(&found);
        }
        answer::integer(self.counters.keys.cast_signed())
    }

    /// Removes keys whose deadline has come, no more than `PURGE_KEYS_MAX`.
    fn purge(&mut self) {
        if self.counters.next_expiry > self.counters.clock {
            return;
        }
        let (start, end) = deadline_rows();
        let clock = self.counters.clock;
        let (mut due, mut next) = (Vec::new(), u64::MAX);
        self.state.scan(start, end, &mut |row, _| {
            let (deadline, key) = read_deadline_row(row).expect("only index rows lie between the bounds");
            if deadline > clock || due.len() == PURGE_KEYS_MAX {
                next = deadline;
                return ControlFlow::Break(());
            }
            due.push((Bytes::copy_from_slice(row), user_row(key)));
            ControlFlow::Continue(())
        });
        for (index_row, row) in due {
            self.state.delete(&index_row);
            self.state.delete(&row);
            self.counters.keys -= 1;
            self.counters.version += 1;
        }
        self.counters.next_expiry = next;
    }

    /// The version of a key that exists.
    pub(super) fn version(&self, key: &[u8]) -> Option<u64> {
        self.find(key).live.map(|live| live.version)
    }

    fn find(&self, key: &[u8]) -> Found {
        let row = user_row(key);
        let bytes = self.state.get(&row);
        Found::new(row, bytes, self.counters.clock)
    }

    /// The deadline that a lifetime means now.
    fn deadline(&self, lifetime: Lifetime, old: Option<u64>) -> Result<Option<u64>, Failure> {
        let now = i64::try_from(self.counters.clock).map_err(|_| Failure::InvalidLifetime)?;
        let deadline = match lifetime {
            Lifetime::Forever => return Ok(None),
            Lifetime::Keep => return Ok(old),
            Lifetime::After(ms) => now.checked_add(ms).ok_or(Failure::InvalidLifetime)?,
            Lifetime::Until(ms) => ms,
        };
        Ok(Some(deadline.max(0).unsigned_abs()))
    }

    /// Writes, or removes if the deadline is past already.
    fn write_until(&mut self, found: &Found, deadline: Option<u64>, value: &[u8]) {
        match deadline {
            Some(deadline) if deadline <= self.counters.clock => self.remove(found),
            deadline => self.write(found, deadline, &[value]),
        }
    }

    fn write(&mut self, found: &Found, deadline: Option<u64>, parts: &[&[u8]]) {
        debug_assert!(deadline.is_none_or(|deadline| deadline <= DEADLINE_MAX));
        self.counters.version += 1;
        self.counters.keys += u64::from(!found.is_stored);
        if found.stored_deadline != deadline {
            self.move_deadline(found, deadline);
        }
        self.state.put(
            found.row.clone(),
            Record::encode(self.counters.version, deadline, parts),
        );
    }

    fn remove(&mut self, found: &Found) {
        if found.is_stored {
            self.counters.version += 1;
            self.counters.keys -= 1;
            self.move_deadline(found, None);
            self.state.delete(&found.row);
        }
    }

    fn move_deadline(&mut self, found: &Found, to: Option<u64>) {
        let key = user_key(&found.row).expect("a found row is a user key's");
        if let Some(old) = found.stored_deadline {
            self.state.delete(&deadline_row(old, key));
        }
        if let Some(new) = to {
            self.state.put(deadline_row(new, key), Bytes::new());
            self.counters.next_expiry = self.counters.next_expiry.min(new);
        }
    }
}

/// A key's row as a command finds it.
struct Found {
    row: Bytes,
    /// A row is there, though perhaps past its deadline.
    is_stored: bool,
    /// That row's deadline.
    stored_deadline: Option<u64>,
    /// The row, if the key exists.
    live: Option<Record>,
}

impl Found {
    fn new(row: Bytes, bytes: Option<Bytes>, clock: u64) -> Found {
        let stored = bytes.map(|bytes| Record::decode(bytes).expect("rows are checked when they are read"));
        Found {
            row,
            is_stored: stored.is_some(),
            stored_deadline: stored.as_ref().and_then(|stored| stored.deadline),
            live: stored.filter(|stored| stored.deadline.is_none_or(|deadline| deadline > clock)),
        }
    }

    /// The deadline of a key that exists.
    fn deadline(&self) -> Option<u64> {
        self.live.as_ref()?.deadline
    }

    /// The value of a key that exists, or nothing.
    fn value(&self) -> Bytes {
        self.live
            .as_ref()
            .map_or_else(Bytes::new, |live| live.value.clone())
    }
}

fn check_length(length: u64, bytes_max: u64) -> Result<(), Failure> {
    if length > bytes_max.min(VALUE_BYTES_MAX) {
        Err(Failure::TooLong)
    } else {
        Ok(())
    }
}

/// Whether `Expire` may replace a deadline. No deadline counts as later than any.
fn permits(condition: ExpireCondition, old: Option<u64>, new: Option<u64>) -> bool {
    let new = new.unwrap_or(u64::MAX);
    !(condition.none && old.is_some()
        || condition.some && old.is_none()
        || condition.later && old.is_none_or(|old| new <= old)
        || condition.earlier && old.is_some_and(|old| new >= old))
}
