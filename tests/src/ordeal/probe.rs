//! When is the service back? When every process answers, and then every range takes a write through every node. The two
//! are measured apart: how long a process takes to start is the machine's and the disk's affair, too.

use super::record::Record;
use super::redis::connect;
use crate::cluster::{Node, get};
use std::time::{Duration, Instant};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1000);
/// Nobody waits longer for either part: the run has failed.
pub(super) const GIVEN_UP: Duration = Duration::from_secs(60);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// How a cluster came back, without the time in which this process was held up itself.
#[derive(Clone, Debug)]
pub(super) struct Comeback {
    /// From healing until every process was alive; None: one never was.
    pub(super) up: Option<Duration>,
    /// From then until every range took a write through every node; None: that never happened.
    pub(super) served: Option<Duration>,
    /// For each node that did not serve at once: until when, and what it said last.
    pub(super) obstacles: Vec<String>,
}

/// Waits until the service is back.
pub(super) fn comeback(record: &Record, nodes: &[Node], ranges: usize) -> Comeback {
    let mut back = Comeback {
        up: None,
        served: None,
        obstacles: Vec::new(),
    };
    let clock = Clock::start(record);
    for node in nodes {
        let alive = || match get(node.http_port, "/livez") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("/livez: {other:?}")),
        };
        if !back.wait(&clock, node, alive) {
            return back;
        }
    }
    back.up = Some(clock.spent());
    let clock = Clock::start(record);
    for node in nodes {
        if !back.wait(&clock, node, || takes_writes(node.resp_port, ranges)) {
            return back;
        }
    }
    back.served = Some(clock.spent());
    back
}

impl Comeback {
    /// Tries until it works; whether it did before everybody gave up.
    fn wait(&mut self, clock: &Clock<'_>, node: &Node, attempt: impl Fn() -> Result<(), String>) -> bool {
        let mut last = None;
        let worked = loop {
            match attempt() {
                Ok(()) => break true,
                Err(why) => last = Some(why),
            }
            if clock.spent() > GIVEN_UP || node.has_ended() {
                break false;
            }
            std::thread::sleep(PAUSE); // pace: polling, bounded by GIVEN_UP
        };
        let told = last.map(|why| format!("node {} until {:.2?}: {why}", node.id, clock.spent()));
        self.obstacles.extend(told);
        worked
    }
}

/// Time that passed while this process ran.
struct Clock<'a> {
    record: &'a Record,
    begin: Instant,
    held_up: Duration,
}

impl Clock<'_> {
    fn start(record: &Record) -> Clock<'_> {
        Clock {
            record,
            begin: Instant::now(),
            held_up: record.held_up(),
        }
    }

    fn spent(&self) -> Duration {
        let held_up = self.record.held_up() - self.held_up;
        self.begin.elapsed().saturating_sub(held_up)
    }
}

fn takes_writes(port: u16, ranges: usize) -> Result<(), String> {
    let mut connection = connect(port, ATTEMPT).map_err(|error| format!("connecting: {error}"))?;
    let mut pipeline = redis::pipe();
    for range in 0..ranges {
        let key = format!("{:02x}:probe", range * 256 / ranges);
        pipeline.cmd("SET").arg(key).arg(range);
    }
    let answers = pipeline.query::<Vec<String>>(&mut connection);
    answers.map(drop).map_err(|error| error.to_string())
}
