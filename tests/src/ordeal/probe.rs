//! When is the service back? When every range takes a write through every node.

use super::record::Record;
use super::redis::connect;
use std::time::{Duration, Instant};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1000);
/// Nobody waits longer: the run has failed.
pub(super) const GIVEN_UP: Duration = Duration::from_secs(60);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until every range takes a write through every node: how long it took, without the time in which this process
/// was held up itself. None: it never did.
pub(super) fn service_back(record: &Record, ports: &[u16], ranges: usize) -> Option<Duration> {
    let (begin, held_up) = (Instant::now(), record.held_up());
    let spent = || begin.elapsed().saturating_sub(record.held_up() - held_up);
    for port in ports {
        while !takes_writes(*port, ranges) {
            if spent() > GIVEN_UP {
                return None;
            }
            std::thread::sleep(PAUSE); // pace: polling, bounded by GIVEN_UP
        }
    }
    Some(spent())
}

fn takes_writes(port: u16, ranges: usize) -> bool {
    let Ok(mut connection) = connect(port, ATTEMPT) else {
        return false;
    };
    let mut pipeline = redis::pipe();
    for range in 0..ranges {
        let key = format!("{:02x}:probe", range * 256 / ranges);
        pipeline.cmd("SET").arg(key).arg(range);
    }
    pipeline.query::<Vec<String>>(&mut connection).is_ok()
}
