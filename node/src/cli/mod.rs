//! The command line: parses arguments, runs one command, prints its result on stdout and its error on stderr, and
//! turns both into an exit code. What a command does to the cluster is the client's and the server's business.

mod bench;
mod cert;
mod cluster;
mod connect;
mod debug;
mod kv;
pub mod output;
pub mod profile;
mod start;

use crate::exit::{Code, Failure};
use clap::{Parser, Subcommand};
use output::Format;
use std::ffi::OsString;
use std::process::ExitCode;

/// A sharded, strongly consistent key-value store.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, max_term_width = 110)]
#[command(after_help = "Start here: flotilla dev")]
struct Arguments {
    /// How results and errors are printed.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "FLOTILLA_OUTPUT"
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster in this process, for development.
    Dev(start::DevArguments),
    /// Run one node.
    Start(start::StartArguments),
    /// Make certificates.
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Show the cluster in one screen; exit code 5 if it is not healthy.
    Status(connect::ConnectArguments),
    /// Look at ranges.
    #[command(subcommand)]
    Range(cluster::RangeCommand),
    /// Look at nodes.
    #[command(subcommand)]
    Node(cluster::NodeCommand),
    /// Read and write keys.
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// Look into the files of stopped nodes.
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Measure how fast a cluster serves requests.
    Bench(bench::BenchArguments),
}

/// Runs the process's command line.
pub fn main() -> ExitCode {
    abort_on_panic();
    run(std::env::args_os())
}

/// A broken invariant must stop the node, whichever thread found it; the quorum serves on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if let Some(place) = panic.location().filter(|place| is_in_redb(place.file())) {
            let message = format!(
                "the node file is damaged (redb cannot make sense of a page, {}:{}); do not restart this node: move \
                 its data directory away and let the cluster replace it",
                place.file(),
                place.line()
            );
            store_redb::exit_process(store_redb::ExitReason::Corrupt, message);
        }
        std::process::abort();
    }));
}

/// Whether a source file is redb's, from a registry (`redb-4.6.0/src`) or vendored (`redb/src`). redb trusts its pages
/// and panics on some that are damaged.
fn is_in_redb(file: &str) -> bool {
    let mut parts = file.split(['/', '\\']);
    parts.any(|part| part == "redb" || part.strip_prefix("redb-").is_some_and(is_version))
}

fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors, and clap knows where each is printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Usage as u8));
        }
    };
    let output = arguments.output;
    match dispatch(arguments.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_failure(&failure, output);
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command, output: Format) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => start::dev(&arguments),
        Command::Start(arguments) => start::start(&arguments),
        Command::Cert(command) => cert::run(command, output),
        Command::Status(arguments) => cluster::status(&arguments, output),
        Command::Range(command) => cluster::ranges(&command, output),
        Command::Node(command) => cluster::nodes(&command, output),
        Command::Kv(command) => kv::run(&command, output),
        Command::Debug(command) => debug::run(&command, output),
        Command::Bench(arguments) => bench::run(&arguments, output),
    }
}

#[cfg(test)]
mod tests;
