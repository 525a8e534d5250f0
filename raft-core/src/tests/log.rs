//! The log against a plain list of entries: random appends, cuts, truncations and evictions, every question
//! asked after each.

use crate::log::Log;
use crate::rng::Rng;
use crate::{Entry, EntryId, Index, Payload, Stamp, Term};
use bytes::Bytes;

/// The same log without any cleverness.
struct Model {
    truncated: EntryId,
    cold: u64,
    /// Every entry ever known after index 0 that is still part of the log, gone or not.
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn id(&self, index: u64) -> EntryId {
        match index {
            0 => EntryId::ZERO,
            index => self.entries[index as usize - 1].id,
        }
    }

    fn cost(&self, first: u64, last: u64) -> u64 {
        (first..=last)
            .map(|index| self.entries[index as usize - 1].cost() as u64)
            .sum()
    }
}

fn act(rng: &mut Rng, log: &mut Log, model: &mut Model) {
    let last = model.last();
    match rng.next() % 10 {
        0 if last > model.cold => {
            let first = model.cold + 1 + rng.next() % (last - model.cold);
            log.cut_from(Index(first));
            model.entries.truncate(first as usize - 1);
        }
        1 => {
            let base = model.truncated.index.0;
            let to = base + rng.next() % (last - base + 1);
            log.truncate(Index(to));
            model.truncated = model.id(to);
            model.cold = model.cold.max(to);
        }
        2 => {
            let to = model.cold + rng.next() % (last - model.cold + 1);
            log.evict_through(Index(to));
            model.cold = to;
        }
        _ => {
            let term = model.id(last).term.0.max(1) + u64::from(rng.next().is_multiple_of(4));
            let bytes = Bytes::from(vec![b'x'; (rng.next() % 20) as usize]);
            let payload = Payload::Command(Stamp(0), bytes);
            let entry = Entry {
                id: EntryId::new(term, last + 1),
                payload,
            };
            log.push(entry.clone());
            model.entries.push(entry);
        }
    }
}

fn compare(rng: &mut Rng, log: &Log, model: &Model) {
    let (base, last) = (model.truncated.index.0, model.last());
    assert!(log.is_consistent());
    assert_eq!(
        (log.truncated(), log.cold()),
        (model.truncated, Index(model.cold))
    );
    assert_eq!(log.last(), model.id(last));
    for index in 0..=last + 1 {
        let known = (base..=last).contains(&index).then(|| model.id(index).term);
        assert_eq!(log.term(Index(index)), known, "the term at {index}");
    }
    assert_eq!(log.bytes_in_memory(), model.cost(model.cold + 1, last));
    if last > model.cold {
        let first = model.cold + 1 + rng.next() % (last - model.cold);
        let entries = &model.entries[first as usize - 1..];
        assert_eq!(log.slice(Index(first), Index(last)), entries);
        assert_eq!(log.cost_after(Index(first)), model.cost(first + 1, last));
        compare_batch(rng, log, entries);
    }
    compare_search(rng, log, model);
}

fn compare_batch(rng: &mut Rng, log: &Log, entries: &[Entry]) {
    let bytes_max = rng.next() % 200;
    let (first, last) = (entries[0].id.index, entries[entries.len() - 1].id.index);
    let batch = log.batch(first, last, bytes_max);
    let cost = |entries: &[Entry]| entries.iter().map(|entry| entry.cost() as u64).sum::<u64>();
    assert!(!batch.is_empty() && entries.starts_with(&batch));
    assert!(batch.len() == 1 || cost(&batch) <= bytes_max);
    assert!(batch.len() == entries.len() || cost(&entries[..=batch.len()]) > bytes_max);
}

/// The last entry at or before an index whose term is not above another: by looking at each.
fn compare_search(rng: &mut Rng, log: &Log, model: &Model) {
    let at = EntryId {
        term: Term(rng.next() % (log.last().term.0 + 2)),
        index: Index(rng.next() % (model.last() + 3)),
    };
    let base = model.truncated.index.0;
    let expected = if at.index.0 < base {
        at
    } else {
        let candidates = (base + 1..=at.index.0.min(model.last())).rev();
        let found = candidates
            .map(|index| model.id(index))
            .find(|id| id.term <= at.term);
        found.unwrap_or(model.truncated)
    };
    assert_eq!(log.last_not_after(at), expected, "the last entry not after {at}");
}

#[test]
fn the_log_answers_as_a_plain_list_does() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut log = Log::new(EntryId::ZERO);
        let mut model = Model {
            truncated: EntryId::ZERO,
            cold: 0,
            entries: Vec::new(),
        };
        for _ in 0..100 {
            act(&mut rng, &mut log, &mut model);
            compare(&mut rng, &log, &model);
        }
    }
}

#[test]
#[should_panic(expected = "I2")]
fn an_entry_that_leaves_a_gap_is_refused() {
    let mut log = Log::new(EntryId::new(1, 4));
    let payload = Payload::Noop(Stamp(0));
    log.push(Entry {
        id: EntryId::new(1, 6),
        payload,
    });
}
