//! Is this node alive, and should clients be sent to it? A list of named checks, asked when somebody asks.
//! It decides nothing and repairs nothing; `gateway/http.rs` shows it.

use crate::metrics::Metrics;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a check guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process works. Never depends on other nodes: a lost quorum must not restart the survivors.
    Live,
    /// The node can serve clients.
    Ready,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Live => "livez",
            Kind::Ready => "readyz",
        }
    }
}

/// One named question. The error text says what is wrong.
pub struct Check {
    /// What it guards.
    pub kind: Kind,
    /// In `snake_case`; a label value.
    pub name: &'static str,
    /// Asks. May block for up to a second.
    pub ask: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// The checks of one node.
pub struct Health {
    checks: Vec<Check>,
    metrics: Arc<Metrics>,
    started: AtomicBool,
    draining: AtomicBool,
}

/// What all checks of one kind said.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// True when every check passed.
    pub passed: bool,
    /// One line per check, `[+]name ok` or `[-]name failed: why`, then a verdict.
    pub text: String,
}

impl Health {
    /// A node that has not started yet.
    pub fn new(metrics: Arc<Metrics>, checks: Vec<Check>) -> Health {
        Health {
            checks,
            metrics,
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// Everything that serves clients runs now.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// The node is stopping: no new clients, please.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks every check of this kind. May block for about a second per check: not for a runtime's own threads.
    pub fn report(&self, kind: Kind) -> Report {
        let mut report = Report {
            passed: true,
            text: String::new(),
        };
        if kind == Kind::Ready {
            self.note(&mut report, kind, "started", self.started_answer());
            self.note(&mut report, kind, "not_draining", self.draining_answer());
        }
        for check in self.checks.iter().filter(|check| check.kind == kind) {
            self.note(&mut report, kind, check.name, (check.ask)());
        }
        let verdict = if report.passed { "passed" } else { "failed" };
        writeln!(report.text, "{} check {verdict}", kind.name()).expect("writing to a string");
        report
    }

    fn started_answer(&self) -> Result<(), String> {
        let started = self.started.load(Ordering::Relaxed);
        started.then_some(()).ok_or_else(|| "still starting".to_owned())
    }

    fn draining_answer(&self) -> Result<(), String> {
        let draining = self.draining.load(Ordering::Relaxed);
        (!draining).then_some(()).ok_or_else(|| "stopping".to_owned())
    }

    fn note(&self, report: &mut Report, kind: Kind, name: &str, answer: Result<(), String>) {
        self.metrics.health(kind.name(), name, answer.is_ok());
        match answer {
            Ok(()) => writeln!(report.text, "[+]{name} ok"),
            Err(why) => {
                report.passed = false;
                writeln!(report.text, "[-]{name} failed: {why}")
            }
        }
        .expect("writing to a string");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Identity;

    fn health(leaders: Result<(), String>) -> Health {
        let identity = Identity {
            cluster: "c".into(),
            node: 1,
        };
        let ask = Box::new(move || leaders.clone());
        Health::new(
            Arc::new(Metrics::new(&identity)),
            vec![Check {
                kind: Kind::Ready,
                name: "leaders",
                ask,
            }],
        )
    }

    #[test]
    fn a_node_is_ready_only_between_start_and_drain() {
        let health = health(Ok(()));
        assert!(health.report(Kind::Live).passed);
        assert!(!health.report(Kind::Ready).passed);
        health.set_started();
        assert!(health.report(Kind::Ready).passed);
        health.set_draining();
        let report = health.report(Kind::Ready);
        assert!(report.text.contains("[-]not_draining failed: stopping"));
        assert!(report.text.contains("[+]leaders ok"));
    }

    #[test]
    fn a_failed_check_says_why_and_leaves_liveness_alone() {
        let health = health(Err("3 of 17 groups have no leader".into()));
        health.set_started();
        let report = health.report(Kind::Ready);
        assert!(!report.passed);
        assert!(
            report
                .text
                .contains("[-]leaders failed: 3 of 17 groups have no leader")
        );
        assert!(report.text.ends_with("readyz check failed\n"));
        assert!(health.report(Kind::Live).passed);
    }
}
