//! `flotilla bench`: asks a cluster many things for a while and reports rate, latency, errors and its own CPU time.
//! Closed loop: each client asks again when it has its answer. Open loop (`--rate`): requests are due at fixed times,
//! and latency counts from then, so that a slow server cannot hide behind a waiting client.

mod load;
mod plan;
mod report;
mod resp;
mod target;

use super::connect::{ConnectArguments, runtime};
use super::output::{self, Format};
use crate::exit::{Code, Failure};
use crate::options::values;
use clap::{Args, ValueEnum};
use plan::{Mix, Operation};
use std::time::Duration;
use target::Target;

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    /// The protocol to speak.
    #[arg(long, value_enum, default_value_t)]
    api: Api,
    /// Do only this [default: put].
    #[arg(long, value_enum, conflicts_with = "mix")]
    op: Option<Operation>,
    /// Do these in proportion, like put=20,get=80.
    #[arg(long, value_parser = Mix::parse, value_name = "OP=WEIGHT,...")]
    mix: Option<Mix>,
    /// Requests outstanding at a time.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    clients: u64,
    /// Connections they share [default: one per endpoint; with --api resp one per client].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: Option<u64>,
    /// Open loop: requests due per second, whatever the answers do.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Different keys; they are spread over the prefixes 00..ff.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Size of a value.
    #[arg(long, default_value = "256", value_name = "SIZE", value_parser = values::size)]
    value_size: u64,
    /// How long to measure.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = values::some_time)]
    duration: Duration,
    /// How long to run before measuring.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = values::duration)]
    warmup: Duration,
    /// Write every key once before.
    #[arg(long)]
    prefill: bool,
    /// Starts the choice of operations and keys.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Password for --api resp.
    #[arg(
        long,
        env = "FLOTILLA_RESP_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    password: Option<String>,
    #[command(flatten)]
    connection: ConnectArguments,
}

/// The protocol to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Api {
    /// The native protocol over QUIC.
    #[default]
    Native,
    /// The Redis protocol over TCP.
    Resp,
}

pub(super) fn run(arguments: &BenchArguments, output: Format) -> Result<(), Failure> {
    let plan = plan(arguments);
    let (report, interrupted) = runtime()?.block_on(async {
        let mut target = Target::connect(arguments).await?;
        if arguments.prefill {
            target = load::prefill(target, &plan).await?;
        }
        Ok::<_, Failure>(load::run(target, plan).await)
    })?;
    output::print(&report.render(output));
    if interrupted {
        return Err(Failure::new(
            Code::Interrupted,
            "interrupted: the figures cover the time until then",
        ));
    }
    if report.answered() == 0 {
        let why = report
            .first_error
            .unwrap_or_else(|| "no request was answered in time".to_string());
        return Err(Failure::new(Code::Failed, format!("nothing worked: {why}")));
    }
    Ok(())
}

fn plan(arguments: &BenchArguments) -> plan::Plan {
    let only = |op| Mix::only(op);
    plan::Plan {
        api: arguments.api,
        mix: arguments
            .mix
            .clone()
            .unwrap_or_else(|| only(arguments.op.unwrap_or(Operation::Put))),
        clients: arguments.clients as usize,
        rate: arguments.rate,
        keys: arguments.keys,
        value_size: arguments.value_size as usize,
        duration: arguments.duration,
        warmup: arguments.warmup,
        seed: arguments.seed,
    }
}
