//! The bound on everything else: a step of a run that does not end in its time ends the run, as a failure that shows
//! what every process was doing. Waits have bounds of their own where a failure can be told apart; this is for the rest.

use super::record::Record;
use crate::cluster::threads;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);
/// Lines shown of each node's log.
const LOG_LINES: usize = 15;

/// Watches one run until dropped.
pub(super) struct Watchdog(Arc<Watched>);

struct Watched {
    step: Mutex<Step>,
    record: Arc<Record>,
}

/// What the run is at.
struct Step {
    name: &'static str,
    left: Duration,
    /// Where node logs are and the history goes, once there is a cluster.
    folder: Option<PathBuf>,
    over: bool,
}

impl Watchdog {
    pub(super) fn start(record: Arc<Record>, first: &'static str, at_most: Duration) -> Watchdog {
        let step = Mutex::new(Step {
            name: first,
            left: at_most,
            folder: None,
            over: false,
        });
        let watched = Arc::new(Watched { step, record });
        let watching = Arc::clone(&watched);
        std::thread::spawn(move || watching.watch());
        Watchdog(watched)
    }

    /// The next step begins, and may take so long.
    pub(super) fn enter(&self, name: &'static str, at_most: Duration) {
        let mut step = self.0.lock();
        (step.name, step.left) = (name, at_most);
    }

    /// Evidence is found, and left, in this folder.
    pub(super) fn look_into(&self, folder: &Path) {
        self.0.lock().folder = Some(folder.to_owned());
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.lock().over = true;
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Step> {
        self.step.lock().expect("nothing panics while it holds this")
    }

    fn watch(&self) {
        loop {
            let before = Instant::now();
            std::thread::sleep(TICK); // pace: how often it looks
            let mut step = self.lock();
            if step.over {
                return;
            }
            // A tick in which nobody ran, however long, is no sign that the run stands still.
            step.left = step.left.saturating_sub(before.elapsed().min(TICK * 3));
            if step.left.is_zero() {
                self.give_up(&step);
            }
        }
    }

    /// The end: no verdict on the cluster is possible, so the run has failed.
    fn give_up(&self, step: &Step) -> ! {
        let mut text = format!("FAILED: the run stands still at \"{}\"\n", step.name);
        let own = std::process::id();
        write!(text, "this process, {own}:\n{}", threads::of(own)).expect("writing to a string");
        let children = threads::children();
        for child in &children {
            write!(text, "process {child}:\n{}", threads::of(*child)).expect("writing to a string");
        }
        if let Some(folder) = &step.folder {
            text.push_str(&log_ends(folder));
            let kept = self.record.write(&folder.join("history.jsonl"));
            writeln!(text, "logs, data, history: {} ({kept:?})", folder.display())
                .expect("writing to a string");
        }
        // Not by `eprint!`: a test's output is held back until the test ends, and this one never will.
        let _ = std::io::stderr().write_all(text.as_bytes());
        for child in children
            .iter()
            .filter_map(|child| Pid::from_raw(i32::try_from(*child).ok()?))
        {
            let _ = kill_process(child, Signal::KILL); // it may just have ended
        }
        std::process::exit(1)
    }
}

/// The last lines of every log in a cluster's folder.
pub(super) fn log_ends(folder: &Path) -> String {
    let mut text = String::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    for path in logs {
        let log = std::fs::read(&path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        writeln!(text, "the end of {}:\n{last}", path.display()).expect("writing to a string");
    }
    text
}
