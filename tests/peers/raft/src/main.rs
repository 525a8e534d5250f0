//! `raft-bench`: one measurement of one Raft implementation, as one line of JSON. Three members in this process, logs in
//! memory, a network that is a function call, a state machine that counts, commands of eight bytes. `tests/peers/raft.sh`
//! runs it in alternation for all contenders; it draws no conclusions itself.

mod bare;
mod drive;
mod memory;
mod openraft09;
mod openraft10;
mod ours;

use clap::{Parser, ValueEnum};
use drive::{Cluster, Plan};
use std::time::Duration;

/// How many members every group has.
const MEMBERS: usize = 3;
/// Entries of a group after which its log is cut (openraft: a snapshot is built first).
const ENTRIES_PER_CUT: u64 = 5_000;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum System {
    /// multiraft, through its public handle.
    Ours,
    /// multiraft's workers without host, threads and handles: what the handle's cost is measured against.
    Bare,
    /// The same, with a thread per worker as it comes, not with all turns on the runtime's threads.
    OursThreads,
    Openraft09,
    Openraft10,
    /// With `broadcast_submitted_on_append`.
    Openraft10Eager,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// Who is measured.
    system: System,
    /// Threads of the runtime that clients and members share; 1 is a current-thread runtime.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Groups of three members.
    #[arg(long, default_value_t = 1)]
    groups: usize,
    /// Clients, each with one outstanding request, spread over the groups.
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Commands per request.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Measured for so long, after a fifth of it unmeasured.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Before the writes: nothing happens for so many seconds, and that is measured too.
    #[arg(long, default_value_t = 0.0)]
    idle: f64,
    /// Between heartbeats, in milliseconds; election timeouts are 20 to 40 times as long.
    #[arg(long, default_value_t = 50)]
    heartbeat: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let plan = Plan {
        groups: arguments.groups,
        writers: arguments.writers,
        batch: arguments.batch,
        seconds: Duration::from_secs_f64(arguments.seconds),
        idle: Duration::from_secs_f64(arguments.idle),
        heartbeat: Duration::from_millis(arguments.heartbeat),
        eager: matches!(arguments.system, System::Openraft10Eager),
        helped: !matches!(arguments.system, System::OursThreads),
    };
    match arguments.system {
        System::Ours | System::OursThreads => measure::<ours::Nodes>(arguments.threads, plan),
        System::Bare => println!("{}", bare::measure(&plan)),
        System::Openraft09 => measure::<openraft09::Nodes>(arguments.threads, plan),
        System::Openraft10 | System::Openraft10Eager => measure::<openraft10::Nodes>(arguments.threads, plan),
    }
}

/// Ends the process with the line: nobody waits for a thousand groups to shut down.
fn measure<C: Cluster>(threads: usize, plan: Plan) {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder
            .worker_threads(threads)
            .on_thread_start(C::on_thread_start);
    } else {
        C::on_thread_start();
    }
    let runtime = builder.enable_all().build().expect("a runtime");
    let line = runtime.block_on(async move {
        let driven = tokio::spawn(drive::measure::<C>(plan)); // off the thread that only blocks, if there are others
        driven.await.expect("the driver does not panic")
    });
    println!("{line}");
    std::process::exit(0);
}
