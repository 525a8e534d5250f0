//! `crash`: cuts the power under a node file, everywhere and again and again, and says what was exercised; a failure
//! comes with the command that repeats it.

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use store_redb::testing::{Bug, Counts, Failure, prove, prove_many};

/// Crash proof of the node file: recovers crash images and compares them with a model.
#[derive(Debug, Parser)]
#[command(name = "crash")]
struct Arguments {
    /// Images to recover and verify, at least.
    #[arg(long, default_value_t = 100_000, conflicts_with = "seed")]
    images: u64,
    /// The first seed; each is a chain of lives and some hundred images.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    first: u64,
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; seeds are independent.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Break something on purpose, to see it found.
    #[arg(long, value_parser = Bug::parse)]
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.seed.is_none() {
        // A failed check is a panic that is caught and told below.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let started = Instant::now();
    let (counts, failure) = match arguments.seed {
        Some(seed) => match prove(seed, arguments.bug) {
            Ok(counts) => (counts, None),
            Err(failure) => (Counts::default(), Some(failure)),
        },
        None => prove_many(arguments.first, arguments.images, arguments.jobs, arguments.bug),
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{counts}");
    println!("{seconds:.1} s, {:.0} images/s", counts.images as f64 / seconds);
    report(&arguments, &counts, failure)
}

fn report(arguments: &Arguments, counts: &Counts, failure: Option<Failure>) -> ExitCode {
    if let Some(failure) = failure {
        let bug = arguments.bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
        println!(
            "FAILED: {failure}\nrepeat with: crash --seed {}{bug}",
            failure.seed
        );
        return ExitCode::FAILURE;
    }
    if let Some(why) = counts.invalid().filter(|_| arguments.seed.is_none()) {
        println!("INVALID: {why}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
