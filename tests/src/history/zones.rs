//! The fast path: a key that is only put and read, every put with a value of its own. Each value then has a zone, from
//! the first end of the operations that speak of it (its put and the gets that saw it) to their last start: if the first
//! end of A lies before the last start of B, then A comes before B. Versions that readers were told order values too.
//! The operations have an order if and only if the values have one (after Gibbons and Korach 1997), and that is found by
//! taking, again and again, a value that nothing left must precede.

use super::Finding;
use super::operation::{Answer, Ask, Operation, Outcome, Seen};
use std::collections::{BTreeMap, BTreeSet};

/// A value, or the absence before the first put, with everybody who speaks of it.
#[derive(Clone, Copy, Debug, Default)]
struct Zone {
    /// When its put was called; None: there is no such put.
    put_called: Option<u64>,
    /// Whether its put was answered, or a get saw it: it was there at some time.
    was_there: bool,
    first_end: Option<u64>,
    last_start: Option<u64>,
    version: Option<u64>,
    impossible: bool,
}

impl Zone {
    fn speaks(&mut self, start: u64, end: Option<u64>) {
        self.last_start = self.last_start.max(Some(start));
        if let Some(end) = end {
            self.was_there = true;
            self.first_end = Some(self.first_end.map_or(end, |first| first.min(end)));
        }
    }

    fn is_put(&mut self, start: u64, end: Option<u64>) {
        self.put_called = Some(start);
        self.speaks(start, end);
    }

    fn is_seen(&mut self, start: u64, end: u64, version: Option<u64>) {
        self.speaks(start, Some(end));
        if let Some(version) = version {
            self.impossible |= self.version.is_some_and(|other| other != version);
            self.version = Some(version);
        }
    }

    /// Seen before it was put, or never put, or with two versions.
    fn contradicts_itself(&self) -> bool {
        let early = |put| self.first_end.is_some_and(|end| end < put);
        self.impossible || self.put_called.is_none_or(early)
    }
}

/// Whether there is an order for these operations of one key; None: this path does not know such operations.
pub(super) fn order(operations: &[Operation]) -> Option<Finding> {
    let mut values: BTreeMap<i64, Zone> = BTreeMap::new();
    let mut absence = Zone {
        put_called: Some(0),
        ..Zone::default()
    };
    let mut puts = BTreeSet::new();
    for one in operations {
        match (one.ask, one.outcome) {
            (_, Outcome::Refused) | (Ask::Get, Outcome::Unknown) => {}
            (Ask::Put(value), _) if !puts.insert(value) => return None,
            (Ask::Put(value), outcome) => {
                let end = match outcome {
                    Outcome::Answered(end, Answer::Done) => Some(end),
                    Outcome::Answered(..) => return None,
                    Outcome::Refused | Outcome::Unknown => None,
                };
                values.entry(value).or_default().is_put(one.called, end);
            }
            (Ask::Get, Outcome::Answered(end, Answer::Found(None))) => absence.is_seen(one.called, end, None),
            (Ask::Get, Outcome::Answered(end, Answer::Found(Some(Seen { value, version })))) => {
                let zone = values.entry(value).or_default();
                zone.is_seen(one.called, end, version);
            }
            _ => return None,
        }
    }
    let zones: Vec<Zone> = values.into_values().filter(|zone| zone.was_there).collect();
    if absence.contradicts_itself() || zones.iter().any(Zone::contradicts_itself) {
        return Some(Finding::Impossible);
    }
    absence.first_end = None; // it ended before anything began
    Some(Left::new(absence, zones).take_all())
}

/// The values that have no place in the order yet.
struct Left {
    zones: Vec<Zone>,
    by_end: BTreeSet<(Option<u64>, usize)>,
    by_start: BTreeSet<(Option<u64>, usize)>,
    by_version: BTreeSet<(u64, usize)>,
    /// Of the value taken last, if it was told.
    version: u64,
}

impl Left {
    fn new(absence: Zone, values: Vec<Zone>) -> Left {
        let zones: Vec<Zone> = std::iter::once(absence).chain(values).collect();
        let numbered = || zones.iter().enumerate();
        Left {
            by_end: numbered()
                .map(|(number, zone)| (zone.first_end, number))
                .collect(),
            by_start: numbered()
                .filter(|(_, zone)| zone.version.is_none())
                .map(|(number, zone)| (zone.last_start, number))
                .collect(),
            by_version: numbered()
                .filter_map(|(number, zone)| Some((zone.version?, number)))
                .collect(),
            version: 0,
            zones,
        }
    }

    fn take_all(&mut self) -> Finding {
        while !self.by_end.is_empty() {
            let candidates = [
                self.by_end.first().map(|(_, number)| *number),
                self.by_start.first().map(|(_, number)| *number),
                self.by_version.first().map(|(_, number)| *number),
            ];
            let free = candidates
                .into_iter()
                .flatten()
                .find(|number| self.is_free(*number));
            match free {
                Some(number) => self.take(number),
                None => return Finding::Impossible,
            }
        }
        Finding::Ordered
    }

    /// Whether nothing left must come before it.
    fn is_free(&self, number: usize) -> bool {
        let zone = self.zones[number];
        let others = self.by_end.iter().filter(|(_, other)| *other != number);
        let in_time = others.take(1).all(|(first_end, _)| *first_end >= zone.last_start);
        let lowest = self.by_version.first().copied();
        let is_next = |version| version > self.version && lowest == Some((version, number));
        in_time && zone.version.is_none_or(is_next)
    }

    fn take(&mut self, number: usize) {
        let zone = self.zones[number];
        self.by_end.remove(&(zone.first_end, number));
        match zone.version {
            Some(version) => {
                self.version = version;
                self.by_version.remove(&(version, number))
            }
            None => self.by_start.remove(&(zone.last_start, number)),
        };
    }
}
