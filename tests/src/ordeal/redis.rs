//! A Redis client over one connection; when it breaks, the next one leads to the next node, or to the same. Only an error that says
//! "nothing was changed" counts as that; a broken connection leaves its command open for ever.

use super::record::Record;
use super::workload::{Draws, key_name, value_bytes, value_of};
use crate::history::{Answer, Ask, Operation, Outcome, Seen};
use redis::{Cmd, Connection, RedisError, RedisResult};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Connects to a node's Redis port; answers may take `timeout`.
pub(super) fn connect(port: u16, timeout: Duration) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT.min(timeout))?;
    connection.set_read_timeout(Some(timeout))?;
    connection.set_write_timeout(Some(timeout))?;
    Ok(connection)
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// How long it waits for an answer.
    pub(super) patience: Duration,
    /// Its mean pause between operations, in microseconds.
    pub(super) pause_us: u64,
    /// It connects to the same node again and again.
    pub(super) stays: bool,
}

/// Asks until the run stops.
pub(super) fn run(record: &Record, ports: &[u16], mut draws: Draws, manner: Manner) {
    let mut node = draws.client as usize;
    let mut connection = None;
    while !record.is_stopped() {
        let pause = Duration::from_micros(draws.pause_us(manner.pause_us));
        std::thread::sleep(pause); // pace: the workload's rate
        let Some(open) = connection.as_mut() else {
            node += usize::from(!manner.stays);
            connection = connect(ports[node % ports.len()], manner.patience).ok();
            continue;
        };
        let (key, ask) = draws.draw(record);
        let begun = record.begin(draws.client, key, ask);
        let outcome = match perform(open, key, ask) {
            Ok(answer) => Outcome::Answered(record.now(), answer),
            Err(error) => {
                if error.is_io_error() || error.is_connection_dropped() {
                    connection = None;
                }
                outcome_of(record, ask, &error)
            }
        };
        record.add(Operation { outcome, ..begun });
    }
}

fn outcome_of(record: &Record, ask: Ask, error: &RedisError) -> Outcome {
    match error.code() {
        Some("CLUSTERDOWN" | "TRYAGAIN") => Outcome::Refused,
        Some("UNKNOWN") => Outcome::Unknown,
        None if error.is_io_error() || error.is_connection_dropped() => Outcome::Unknown,
        _ => {
            record.odd(format!("Redis client: {ask}: {error}"));
            Outcome::Unknown
        }
    }
}

fn perform(connection: &mut Connection, key: u64, ask: Ask) -> RedisResult<Answer> {
    let name = key_name(key);
    let set = |value| redis::cmd("SET").arg(&name).arg(value_bytes(key, value)).take();
    Ok(match ask {
        Ask::Get => {
            let found: Option<Vec<u8>> = redis::cmd("GET").arg(&name).query(connection)?;
            Answer::Found(found.map(|bytes| seen(key, &bytes)))
        }
        Ask::Put(value) => {
            set(value).query::<()>(connection)?;
            Answer::Done
        }
        Ask::PutIfAbsent(value) => written(set(value).arg("NX"), connection)?,
        Ask::PutIfPresent(value) => written(set(value).arg("XX"), connection)?,
        Ask::Add(delta) => Answer::Sum(redis::cmd("INCRBY").arg(&name).arg(delta).query(connection)?),
        Ask::Delete => Answer::Deleted(redis::cmd("DEL").arg(&name).query::<i64>(connection)? > 0),
        Ask::Cas(..) => unreachable!("not in this protocol"),
    })
}

fn written(set: &Cmd, connection: &mut Connection) -> RedisResult<Answer> {
    let said: Option<String> = set.query(connection)?;
    Ok(Answer::Written(said.is_some()))
}

fn seen(key: u64, bytes: &[u8]) -> Seen {
    let value = value_of(key, bytes);
    Seen { value, version: None }
}

/// Reads these keys through one node; an error if any of them was not answered.
pub(super) fn read_all(record: &Record, port: u16, client: u32, keys: &[u64]) -> RedisResult<()> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let mut connection = connect(port, TIMEOUT)?;
    for keys in keys.chunks(64) {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("GET").arg(key_name(*key));
        }
        let called = record.now();
        let found: Vec<Option<Vec<u8>>> = pipeline.query(&mut connection)?;
        let end = record.now();
        for (&key, found) in keys.iter().zip(found) {
            let answer = Answer::Found(found.map(|bytes| seen(key, &bytes)));
            let outcome = Outcome::Answered(end, answer);
            record.add(Operation {
                client,
                key,
                called,
                ask: Ask::Get,
                outcome,
            });
        }
    }
    Ok(())
}
