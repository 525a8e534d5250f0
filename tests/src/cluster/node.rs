//! One real process: its command line, its pid, its log.

use super::{PATIENCE, flotilla, get, threads, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A `flotilla start` process, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its id, from 1.
    pub id: usize,
    /// UDP port of its QUIC endpoint.
    pub quic_port: u16,
    /// TCP port of health and metrics.
    pub http_port: u16,
    /// TCP port for Redis clients.
    pub resp_port: u16,
    /// Where its output goes.
    pub log: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Prepares node `id`; `members` is the whole `--initial-cluster`, `ports` are quic, http, resp.
    pub fn new(id: usize, ports: [u16; 3], dir: &Path, members: &str, ranges: usize, more: &[&str]) -> Node {
        let path = |name: String| dir.join(name).display().to_string();
        let mut arguments: Vec<String> = vec!["start".into()];
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("node-id", id.to_string());
        flag("data-dir", path(format!("data-{id}")));
        flag("listen-quic", format!("127.0.0.1:{}", ports[0]));
        flag("listen-http", format!("127.0.0.1:{}", ports[1]));
        flag("listen-resp", format!("127.0.0.1:{}", ports[2]));
        flag("initial-cluster", members.to_owned());
        flag("ranges", ranges.to_string());
        flag("certs-ca", path("ca.crt".into()));
        flag("certs-cert", path(format!("node-{id}.crt")));
        flag("certs-key", path(format!("node-{id}.key")));
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        let [quic_port, http_port, resp_port] = ports;
        Node {
            id,
            quic_port,
            http_port,
            resp_port,
            log: dir.join(format!("node-{id}.log")),
            arguments,
            child: None,
        }
    }

    /// Starts the process; its output is appended to `log`.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log opens");
        let child = Command::new(flotilla())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// True from `spawn` until `kill` or `stop`.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process id while running.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9: no goodbye, no flush.
    pub fn kill(&mut self) {
        self.strike();
        self.bury();
    }

    /// Sends SIGKILL and does not wait: so that several fall at once.
    pub fn strike(&mut self) {
        let child = self.child.as_mut().expect("only a running node is killed");
        child.kill().expect("SIGKILL is delivered");
    }

    /// Waits for the end of a process that was struck; how it ended.
    pub fn bury(&mut self) -> ExitStatus {
        let status = self.end_within(PATIENCE);
        status.expect("the kernel ends a process that was killed")
    }

    /// How the process ended by itself, if it did; it counts as running until then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = child.try_wait().expect("our own child");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// SIGSTOP: the process stands still, its sockets stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether the process stands still.
    pub fn is_frozen(&self) -> bool {
        self.pid().is_some_and(|pid| state_of(pid) == Some('T'))
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("only a running node takes signals");
        kill_process(Pid::from_child(child), signal).expect("the signal is delivered");
    }

    /// SIGTERM, and the exit status it leads to; fails the test if that takes longer than `PATIENCE`.
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_within(PATIENCE).unwrap_or_else(|why| panic!("{why}"))
    }

    /// SIGTERM, and the exit status it leads to. A process that is still there after `patience` is killed; the error
    /// says what its threads were doing.
    pub fn stop_within(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        self.signal(Signal::TERM);
        if let Some(status) = self.end_within(patience) {
            return Ok(status);
        }
        let (id, threads) = (self.id, self.pid().map(threads::of).unwrap_or_default());
        self.kill();
        Err(format!(
            "node {id} still ran {patience:?} after SIGTERM; its threads:\n{threads}"
        ))
    }

    /// How the process ended, None if it has not within this time.
    fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            let status = self.ended();
            if status.is_some() || begin.elapsed() > patience {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2)); // pace: polling, bounded by `patience`
        }
    }

    /// SIGHUP: the certificates are read again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// The sum of the series whose line begins with `series` (a name, or a name with labels up to some point).
    pub fn metric(&self, series: &str) -> f64 {
        let page = get(self.http_port, "/metrics").map(|(_, page)| page);
        let values = page.unwrap_or_default();
        let values = values.lines().filter(|line| line.starts_with(series));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until `/readyz` answers 200; fails the test with the log's end otherwise.
    pub fn wait_ready(&self) {
        let log = self.log.clone();
        let tail = move || std::fs::read_to_string(&log).unwrap_or_default();
        wait_until(
            &format!("node {} is ready; its log: {}", self.id, self.log.display()),
            || {
                let ready = matches!(get(self.http_port, "/readyz"), Ok((200, _)));
                assert!(ready || !self.has_ended(), "node {} ended:\n{}", self.id, tail());
                ready
            },
        );
    }

    /// True if there is no process, or only what is left of one that ended by itself.
    pub fn has_ended(&self) -> bool {
        self.pid()
            .is_none_or(|pid| state_of(pid).is_none_or(|state| state == 'Z'))
    }
}

/// The letter of the process's state; None: there is no such process.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}
