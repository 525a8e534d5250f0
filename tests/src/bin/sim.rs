//! `sim`: runs simulator seeds and reports the first properties that fail, with the command that repeats each.

use clap::Parser;
use flotilla_tests::sim::{Bug, Report, Settings, Totals, run};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// More runs than this share (in permille) that prove nothing fail the whole.
const INVALID_PERMILLE_MAX: u64 = 30;

/// Failures shown in full.
const SHOWN_MAX: usize = 10;

/// Deterministic simulation of a Flotilla cluster: one seed, one run.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Seeds to run: `1..500`, both ends included.
    #[arg(long, value_parser = parse_seeds, default_value = "1..500", conflicts_with = "seed")]
    seeds: RangeInclusive<u64>,
    /// One seed, with its options and totals.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event of the one seed.
    #[arg(long, requires = "seed")]
    transcript: bool,
    /// Threads; seeds are independent.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Leave the faults out.
    #[arg(long)]
    calm: bool,
    /// Break something on purpose, to see the checkers fire.
    #[arg(long, value_parser = Bug::parse)]
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = Settings {
        transcript: arguments.transcript,
        bug: arguments.bug,
        calm: arguments.calm,
    };
    match arguments.seed {
        Some(seed) => run_one(seed, &settings),
        None => run_many(&arguments, &settings),
    }
}

fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let form = || format!("`{text}` is no range of seeds; write 1..500");
    let (first, last) = text.split_once("..").ok_or_else(form)?;
    let number = |part: &str| part.trim_start_matches('=').parse::<u64>().map_err(|_| form());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(form());
    }
    Ok(first..=last)
}

fn run_one(seed: u64, settings: &Settings) -> ExitCode {
    let mut report = run(seed, settings);
    println!("seed {seed}: {}", report.options);
    if let Some(text) = report.transcript.take() {
        print!("{text}");
    }
    println!("totals: {}", report.totals);
    println!("hash: {:016x}", report.hash);
    match (&report.violation, &report.invalid) {
        (Some(violation), _) => {
            println!("FAILED: {violation}");
            ExitCode::FAILURE
        }
        (None, Some(why)) => {
            println!("INVALID: {why}");
            ExitCode::SUCCESS
        }
        (None, None) => {
            println!("ok");
            ExitCode::SUCCESS
        }
    }
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    totals: Totals,
    runs: u64,
    failed: Vec<Report>,
    invalid: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.totals += report.totals;
        if let Some(why) = &report.invalid {
            self.invalid.push((report.seed, why.clone()));
        }
        if report.violation.is_some() {
            self.failed.push(report);
        }
    }
}

fn run_many(arguments: &Arguments, settings: &Settings) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(*arguments.seeds.start());
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > *arguments.seeds.end() {
                        break;
                    }
                    let report = run(seed, settings);
                    sum.lock().expect("no thread panics while it adds").add(report);
                }
            });
        }
    });
    let mut sum = sum.into_inner().expect("no thread panics while it adds");
    sum.failed.sort_by_key(|report| report.seed);
    sum.invalid.sort();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s: {:.0} seeds/s",
        sum.runs,
        sum.runs as f64 / seconds
    );
    println!("totals: {}", sum.totals);
    conclude(&sum, arguments)
}

fn conclude(sum: &Sum, arguments: &Arguments) -> ExitCode {
    for report in sum.failed.iter().take(SHOWN_MAX) {
        let violation = report.violation.as_ref().expect("only failures are kept");
        println!("\nFAILED seed {}: {violation}", report.seed);
        println!("  options: {}", report.options);
        println!("  repeat:  {}", command(report.seed, arguments));
    }
    for (seed, why) in sum.invalid.iter().take(SHOWN_MAX) {
        println!("INVALID seed {seed}: {why}");
    }
    let too_few = sum.invalid.len() as u64 * 1000 > sum.runs * INVALID_PERMILLE_MAX;
    println!(
        "{} ok, {} failed, {} invalid{}",
        sum.runs - sum.failed.len() as u64 - sum.invalid.len() as u64,
        sum.failed.len(),
        sum.invalid.len(),
        if too_few {
            ": too many runs prove nothing"
        } else {
            ""
        }
    );
    if sum.failed.is_empty() && !too_few {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn command(seed: u64, arguments: &Arguments) -> String {
    let mut text = format!("cargo run -p flotilla-tests --bin sim -- --seed {seed} --transcript");
    if arguments.calm {
        text += " --calm";
    }
    if let Some(bug) = arguments.bug {
        text += &format!(" --bug {bug}");
    }
    text
}
