//! Where the load goes: native or Redis connections, and one request over one of them.

use super::super::connect::connect_pool;
use super::super::profile::{DEV_DIRECTORY, Profile};
use super::plan::Operation;
use super::resp::{Reply, RespClient};
use super::{Api, BenchArguments};
use crate::exit::{Code, Failure};
use flotilla_client::{Error, Pool};
use std::path::Path;
use std::time::Duration;

/// Connections to a cluster.
pub(super) enum Target {
    Native(Pool),
    Resp(Vec<RespClient>, Duration),
}

/// How a request went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It definitely had no effect.
    Refused(String),
    /// Nobody knows.
    Unknown,
    /// A read took too long.
    TimedOut,
    /// Anything else.
    Failed(String),
}

impl Target {
    /// Opens all connections, each to the next endpoint.
    pub(super) async fn connect(arguments: &BenchArguments) -> Result<Target, Failure> {
        match arguments.api {
            Api::Native => Ok(Target::Native(native(arguments).await?)),
            Api::Resp => Ok(Target::Resp(resp(arguments).await?, arguments.connection.timeout)),
        }
    }

    pub(super) fn connections(&self) -> usize {
        match self {
            Target::Native(pool) => pool.connections().len(),
            Target::Resp(clients, _) => clients.len(),
        }
    }

    /// One request. Whether the key of a get was there; a put always finds its key.
    pub(super) async fn ask(
        &self,
        client: usize,
        operation: Operation,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, Wrong> {
        match self {
            Target::Native(pool) => {
                let connection = pool.for_key(key);
                match operation {
                    Operation::Put => connection.put(key, value).await.map(|()| true),
                    Operation::Get => connection.get(key).await.map(|found| found.is_some()),
                }
                .map_err(Wrong::from)
            }
            Target::Resp(clients, timeout) => {
                let connection = &clients[client % clients.len()];
                let (set, get): ([&[u8]; 3], [&[u8]; 2]) = ([b"SET", key, value], [b"GET", key]);
                let reply = connection.call(match operation {
                    Operation::Put => &set,
                    Operation::Get => &get,
                });
                match tokio::time::timeout(*timeout, reply).await {
                    Ok(reply) => understand(reply, operation),
                    Err(_elapsed) if operation == Operation::Put => Err(Wrong::Unknown),
                    Err(_elapsed) => Err(Wrong::TimedOut),
                }
            }
        }
    }
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        match error {
            Error::Refused(_) | Error::CannotConnect(_) => Wrong::Refused(error.to_string()),
            Error::Unknown => Wrong::Unknown,
            Error::TimedOut => Wrong::TimedOut,
            other => Wrong::Failed(other.to_string()),
        }
    }
}

fn understand(reply: Option<Reply>, operation: Operation) -> Result<bool, Wrong> {
    match reply {
        Some(Reply::Fine) => Ok(true),
        Some(Reply::Nil) => Ok(false),
        Some(Reply::Error(text)) => {
            let word = text.split(' ').next().unwrap_or_default();
            match word {
                "UNKNOWN" => Err(Wrong::Unknown),
                "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "BUSY" | "OOM" => Err(Wrong::Refused(text)),
                _ => Err(Wrong::Failed(text)),
            }
        }
        None if operation == Operation::Put => Err(Wrong::Unknown),
        None => Err(Wrong::Failed("the connection was lost".to_string())),
    }
}

async fn native(arguments: &BenchArguments) -> Result<Pool, Failure> {
    let options = arguments.connection.resolve()?;
    let default = (options.endpoints.len() as u64).min(arguments.clients);
    let count = arguments.connections.unwrap_or(default);
    connect_pool(options, count as usize).await
}

async fn resp(arguments: &BenchArguments) -> Result<Vec<RespClient>, Failure> {
    let endpoints = resp_endpoints(&arguments.connection.endpoints)?;
    let count = arguments.connections.unwrap_or(arguments.clients);
    let mut clients = Vec::new();
    for i in 0..count as usize {
        let at = &endpoints[i % endpoints.len()];
        let client = RespClient::connect(at, arguments.password.as_deref())
            .await
            .map_err(|error| {
                Failure::new(Code::CannotConnect, format!("cannot connect: {at}: {error}"))
                    .hint("--api resp wants endpoints of Redis clients, like 127.0.0.1:6380")
            })?;
        clients.push(client);
    }
    Ok(clients)
}

fn resp_endpoints(given: &[String]) -> Result<Vec<String>, Failure> {
    const DEFAULT: &str = "127.0.0.1:6380";
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let profile = Profile::read(Path::new(DEV_DIRECTORY))?;
    let listed = profile
        .map(|profile| profile.resp)
        .filter(|listed| !listed.is_empty());
    Ok(listed.unwrap_or_else(|| vec![DEFAULT.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_errors_are_sorted_by_what_they_mean() {
        let error = |text: &str| understand(Some(Reply::Error(text.to_string())), Operation::Put);
        assert_eq!(error("UNKNOWN the outcome"), Err(Wrong::Unknown));
        assert_eq!(
            error("TRYAGAIN overloaded"),
            Err(Wrong::Refused("TRYAGAIN overloaded".to_string()))
        );
        assert_eq!(error("ERR no"), Err(Wrong::Failed("ERR no".to_string())));
        assert_eq!(understand(None, Operation::Put), Err(Wrong::Unknown));
        assert!(matches!(understand(None, Operation::Get), Err(Wrong::Failed(_))));
        assert_eq!(understand(Some(Reply::Nil), Operation::Get), Ok(false));
    }
}
