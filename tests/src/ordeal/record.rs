//! What clients, faults and checks share: one clock, the history as it grows, and what should never have happened.

use super::workload::weight;
use crate::history::{Ask, Operation, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A gap in this clock's own pulse longer than this is no fault of the cluster: nobody here ran.
const PULSE_LATE: Duration = Duration::from_millis(500);
/// How often the pulse beats.
const PULSE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Record {
    begin: Instant,
    /// Clients end when it is set.
    stop: AtomicBool,
    history: Mutex<History>,
    odd: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
    issued: AtomicU64,
    held_up: AtomicU64,
}

/// What clients asked and were told.
#[derive(Debug, Default)]
struct History {
    ended: Vec<Operation>,
    /// What each client waits for now.
    open: BTreeMap<u32, Operation>,
}

impl Record {
    pub(super) fn new() -> Record {
        Record {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            odd: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            held_up: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run began, never 0.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("a run shorter than centuries") + 1
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A client is about to ask: from now on the question may take effect. What `add` will be told, without the outcome.
    pub(super) fn begin(&self, client: u32, key: u64, ask: Ask) -> Operation {
        let operation = Operation {
            client,
            key,
            called: self.now(),
            ask,
            outcome: Outcome::Unknown,
        };
        self.lock().open.insert(client, operation);
        operation
    }

    /// An operation has ended, or nobody will ever know.
    pub(super) fn add(&self, operation: Operation) {
        self.issued.fetch_add(weight(&operation), Ordering::Relaxed);
        if matches!(operation.outcome, Outcome::Answered(..)) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let mut history = self.lock();
        history.open.remove(&operation.client);
        if says_something(&operation) {
            history.ended.push(operation);
        }
    }

    /// An answer that no client should ever get.
    pub(super) fn odd(&self, what: String) {
        self.odd.lock().expect("no client panics").push(what);
    }

    pub(super) fn odds(&self) -> Vec<String> {
        self.odd.lock().expect("no client panics").clone()
    }

    /// Operations answered.
    pub(super) fn answered(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How much was done, from which the workload knows when to move on to other keys.
    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    pub(super) fn history(&self) -> Vec<Operation> {
        self.lock().ended.clone()
    }

    /// The whole history, up to now, of keys that were asked for since then. What is under way may take effect yet.
    pub(super) fn history_of_recent(&self, since: u64) -> Vec<Operation> {
        let history = self.lock();
        let open = history.open.values().filter(|one| says_something(one));
        let all: Vec<&Operation> = history.ended.iter().chain(open).collect();
        let recent = all.iter().filter(|one| one.called >= since);
        let keys: BTreeSet<u64> = recent.map(|one| one.key).collect();
        let of_keys = all.into_iter().filter(|one| keys.contains(&one.key));
        of_keys.copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no client panics")
    }

    /// Time in which this process did not run, or hardly: no cluster is to blame for it.
    pub(super) fn held_up(&self) -> Duration {
        Duration::from_nanos(self.held_up.load(Ordering::Relaxed))
    }

    /// Feels its own pulse until stopped.
    pub(super) fn feel_pulse(&self) {
        while !self.is_stopped() {
            let before = Instant::now();
            std::thread::sleep(PULSE); // pace: this is the pulse
            let late = before.elapsed();
            if late > PULSE_LATE {
                let late = u64::try_from(late.as_nanos()).expect("a run shorter than centuries");
                self.held_up.fetch_add(late, Ordering::Relaxed);
            }
        }
    }

    /// One JSON object a line.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(std::fs::File::create(path)?);
        for operation in &self.lock().ended {
            serde_json::to_writer(&mut out, operation)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// A read of unknown outcome does not.
fn says_something(operation: &Operation) -> bool {
    !(operation.is_unknown() && operation.ask == Ask::Get)
}
