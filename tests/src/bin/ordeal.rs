//! The kill test by command: real processes, faults by seed, for as long as wanted; or a kept history judged again.

use clap::Parser;
use flotilla_tests::history::{Limits, judge};
use flotilla_tests::ordeal::{Plan, read_history, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Kills, freezes and cuts apart the nodes of a real cluster and judges what its clients saw.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults come.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Names what is asked and which faults come when; drawn from the clock when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Judge this history instead (JSON lines, as a failed run leaves them).
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(path) = arguments.judge {
        let text = std::fs::read_to_string(&path).expect("the history can be read");
        judge(&read_history(&text), Limits::default()).require();
        println!("linearizable");
        return ExitCode::SUCCESS;
    }
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let seed = arguments.seed.unwrap_or_else(clock);
    let seconds = arguments.seconds;
    println!("seed {seed}");
    let report = run(Plan { seed, seconds });
    println!("{report}");
    match report.failure() {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    }
}
