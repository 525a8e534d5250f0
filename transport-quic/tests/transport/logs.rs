//! What the transports of this process logged: one collector for all tests, so look for an address or a name that only
//! one of them has.

use crate::parts::DEADLINE;
use std::io;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Collector;

impl io::Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects from now on.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Collector);
        lines.with_max_level(tracing::Level::INFO).init();
    });
}

/// Waits for a line that contains all of this.
pub(crate) async fn expect(parts: &[&str]) {
    let begun = Instant::now();
    loop {
        let text = String::from_utf8_lossy(&LINES.lock().unwrap()).into_owned();
        if text
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
        {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "no line with {parts:?} in:\n{text}");
        tokio::time::sleep(Duration::from_millis(5)).await; // pace: polling, bounded by the deadline
    }
}
