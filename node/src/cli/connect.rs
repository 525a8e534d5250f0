//! How commands reach a cluster: flags, environment, the profile that `dev` left behind; and what a client's error
//! means for the exit code.

use super::profile::{DEV_DIRECTORY, Profile};
use crate::exit::{Code, Failure};
use crate::options::values;
use clap::Args;
use flotilla_client::{Client, ClientOptions, ConnectError, Error, Pool, Reason, Tls};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where nodes listen unless told otherwise.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";
/// Where `flotilla cert` puts its files unless told otherwise.
const DEFAULT_CERTS: &str = "./certs";

/// Flags of every command that talks to a cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectArguments {
    /// Nodes to talk to, any of them [default: those of ./flotilla-dev, else 127.0.0.1:7400].
    #[arg(
        long,
        env = "FLOTILLA_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,..."
    )]
    pub(super) endpoints: Vec<String>,
    /// The cluster's CA certificate [default: that of ./flotilla-dev, else ./certs/ca.crt].
    #[arg(long, env = "FLOTILLA_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This client's certificate [default: that of ./flotilla-dev, else ./certs/client.crt].
    #[arg(long, env = "FLOTILLA_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// This client's private key [default: that of ./flotilla-dev, else ./certs/client.key].
    #[arg(id = "client_key", long = "key", env = "FLOTILLA_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long one request may take.
    #[arg(long, env = "FLOTILLA_TIMEOUT", default_value = "5s", value_name = "DURATION", value_parser = values::duration)]
    pub(super) timeout: Duration,
}

impl ConnectArguments {
    /// What is not given comes from the profile, if there is one.
    pub(super) fn resolve(&self) -> Result<ClientOptions, Failure> {
        let profile = Profile::read(Path::new(DEV_DIRECTORY))?;
        let file = |given: &Option<PathBuf>, of: fn(&Profile) -> &PathBuf, default: &str| {
            let found = given.as_ref().or(profile.as_ref().map(of));
            found
                .cloned()
                .unwrap_or_else(|| Path::new(DEFAULT_CERTS).join(default))
        };
        let ca = file(&self.ca, |profile| &profile.ca, "ca.crt");
        let cert = file(&self.cert, |profile| &profile.cert, "client.crt");
        let key = file(&self.key, |profile| &profile.key, "client.key");
        let tls = Tls::from_files(&ca, &cert, &key).map_err(|error| {
            Failure::new(Code::CannotConnect, error.to_string()).hint(
                "run this next to a `flotilla dev`, or give --ca, --cert and --key (see `flotilla cert`)",
            )
        })?;
        let endpoints = match (&self.endpoints[..], profile) {
            ([], Some(profile)) => profile.endpoints,
            ([], None) => vec![DEFAULT_ENDPOINT.to_string()],
            (given, _) => given.to_vec(),
        };
        Ok(ClientOptions {
            timeout: self.timeout,
            ..ClientOptions::new(endpoints, tls)
        })
    }
}

/// Connects.
pub(super) async fn connect(options: ClientOptions) -> Result<Client, Failure> {
    Client::connect(options)
        .await
        .map_err(|error| cannot_connect(&error))
}

/// Connects several times, each to the next endpoint.
pub(super) async fn connect_pool(options: ClientOptions, count: usize) -> Result<Pool, Failure> {
    Pool::connect(options, count)
        .await
        .map_err(|error| cannot_connect(&error))
}

fn cannot_connect(error: &ConnectError) -> Failure {
    let message = format!("cannot connect: {error}");
    let hint = advice(&message);
    Failure::new(Code::CannotConnect, message).hint(hint)
}

/// Some node answers when the handshake fails: then it is not the address that is wrong.
fn advice(message: &str) -> &'static str {
    if message.contains("peer certificate") {
        "one side refuses the other's certificate: --ca, --cert and --key must be of the node's cluster, not expired"
    } else {
        "is a node running there? `flotilla dev` starts a cluster; --endpoints names another"
    }
}

/// Connects and runs `command` with the client.
pub(super) fn with_client<T, F>(
    arguments: &ConnectArguments,
    command: impl FnOnce(Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let options = arguments.resolve()?;
    runtime()?.block_on(async { command(connect(options).await?).await })
}

/// One thread is enough for a client, and the cheapest.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Code::Failed, format!("cannot start a runtime: {error}")))
}

/// What a failed call means for the exit code.
pub(super) fn failure(error: Error) -> Failure {
    let text = error.to_string();
    match error {
        Error::Refused(Reason::NoLeader) => {
            Failure::new(Code::NotHealthy, text).hint("`flotilla status` shows what is missing")
        }
        Error::Refused(Reason::NoSpace) => Failure::new(Code::Failed, text)
            .hint("nothing was changed; docs/operations.md says what to do on a full disk"),
        Error::Refused(Reason::TimedOut) | Error::TimedOut => {
            Failure::new(Code::TimedOut, text).hint("nothing was changed; allow more with --timeout")
        }
        Error::Unknown => Failure::new(Code::TimedOut, text).hint("read before you repeat it"),
        Error::Refused(_) => Failure::new(Code::Failed, text).hint("nothing was changed; try again"),
        Error::CannotConnect(_) | Error::Disconnected | Error::Dropped => {
            Failure::new(Code::CannotConnect, text)
        }
        Error::CrossRange => Failure::new(Code::Failed, text).hint("give them a prefix like {tag}"),
        Error::BadRequest(_) | Error::KeyTooLarge(_) | Error::ValueTooLarge(_) | Error::Protocol(_) => {
            Failure::new(Code::Failed, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn wrong_certificates_are_not_taken_for_a_wrong_address() {
        assert!(advice("a:1: invalid peer certificate: UnknownIssuer").contains("--ca"));
        assert!(advice("a:1: no answer within 3s").contains("--endpoints"));
    }
}
