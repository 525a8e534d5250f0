//! A client of the native protocol. It trusts the client library's word on what a failure means: `Unknown` may have
//! taken effect, everything else has not. That word is what the judgement then holds it to.

use super::record::Record;
use super::workload::{Draws, key_name, value_bytes, value_of};
use crate::history::{Answer, Ask, Expect, Operation, Outcome, Seen};
use flotilla_client::{Client, ClientOptions, Condition, Error, Pool, Swapped};
use std::time::Duration;

/// Asks over so many connections until the run stops.
pub(super) async fn run(
    record: &Record,
    options: ClientOptions,
    connections: usize,
    mut draws: Draws,
    pause_us: u64,
) {
    let Some(pool) = connect(record, options, connections).await else {
        return;
    };
    while !record.is_stopped() {
        let (key, ask) = draws.draw(record);
        let begun = record.begin(draws.client, key, ask);
        let outcome = match perform(pool.for_key(key_name(key).as_bytes()), key, ask).await {
            Ok(answer) => Outcome::Answered(record.now(), answer),
            Err(error) => outcome_of(record, ask, &error),
        };
        let operation = Operation { outcome, ..begun };
        draws.learn(&operation);
        record.add(operation);
        let pause = Duration::from_micros(draws.pause_us(pause_us));
        tokio::time::sleep(pause).await; // pace: the workload's rate
    }
}

/// Tries again until it works: faults may have begun already. None: the run is over.
async fn connect(record: &Record, options: ClientOptions, connections: usize) -> Option<Pool> {
    while !record.is_stopped() {
        if let Ok(pool) = Pool::connect(options.clone(), connections).await {
            return Some(pool);
        }
        tokio::time::sleep(Duration::from_millis(100)).await; // pace: nobody dials in a loop
    }
    None
}

fn outcome_of(record: &Record, ask: Ask, error: &Error) -> Outcome {
    match error {
        Error::Unknown => Outcome::Unknown,
        Error::Refused(_) | Error::TimedOut | Error::CannotConnect(_) => Outcome::Refused,
        Error::Disconnected | Error::Dropped if ask == Ask::Get => Outcome::Refused,
        _ => {
            record.odd(format!("native client: {ask}: {error}"));
            Outcome::Unknown
        }
    }
}

async fn perform(client: &Client, key: u64, ask: Ask) -> Result<Answer, Error> {
    let name = key_name(key);
    let name = name.as_bytes();
    match ask {
        Ask::Get => {
            let seen = client.get(name).await?.map(|found| Seen {
                value: value_of(key, &found.value),
                version: Some(found.version),
            });
            Ok(Answer::Found(seen))
        }
        Ask::Put(value) => {
            client.put(name, &value_bytes(key, value)).await?;
            Ok(Answer::Done)
        }
        Ask::Delete => Ok(Answer::Deleted(client.delete(name).await?)),
        Ask::Cas(expect, value) => {
            let expected;
            let condition = match expect {
                Expect::Absent => Condition::Absent,
                Expect::Present => Condition::Present,
                Expect::Version(version) => Condition::Version(version),
                Expect::Value(value) => {
                    expected = value_bytes(key, value);
                    Condition::Value(&expected)
                }
            };
            let value = value.map(|value| value_bytes(key, value));
            Ok(match client.cas(name, condition, value.as_deref()).await? {
                Swapped::Yes(version) => Answer::Swapped(version),
                Swapped::No(version) => Answer::Mismatch(version),
            })
        }
        Ask::PutIfAbsent(_) | Ask::PutIfPresent(_) | Ask::Add(_) => unreachable!("not in this protocol"),
    }
}
