//! The kill test in the ordinary suite: every kind of fault once or twice. `FLOTILLA_ORDEAL_SECONDS` makes it longer,
//! `FLOTILLA_ORDEAL_SEED` draws it otherwise; `cargo run -p flotilla-tests --bin ordeal` is the same by command.

use flotilla_tests::ordeal::{Plan, run};

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    }
}

#[test]
fn what_clients_saw_is_linearizable_whatever_is_killed_frozen_or_cut_off() {
    let report = run(Plan {
        seed: from_environment("FLOTILLA_ORDEAL_SEED", 1),
        seconds: from_environment("FLOTILLA_ORDEAL_SECONDS", 30),
    });
    println!("{report}");
    assert_eq!(report.failure(), None);
}
