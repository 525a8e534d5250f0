//! How long the linearizability checker takes: 100,000 operations over many keys, of both kinds.
//! `cargo run -p flotilla-tests --example history_speed`

use flotilla_tests::history::random::{Shape, history};
use flotilla_tests::history::{Limits, judge};
use std::time::Instant;

fn main() {
    let base = Shape {
        keys: 1_000,
        clients: 5,
        operations: 20,
        only_registers: true,
        unknown: 20,
        versions: 500,
    };
    measure("registers, 1,000 keys", &base);
    let all = Shape {
        only_registers: false,
        ..base
    };
    measure("all operations, 1,000 keys", &all);
    let long = Shape {
        keys: 200,
        operations: 100,
        unknown: 5,
        ..all
    };
    measure("all operations, 200 keys", &long);
    let one = Shape {
        keys: 1,
        clients: 50,
        operations: 2_000,
        ..base
    };
    measure("registers, 1 key, 50 clients", &one);
}

fn measure(name: &str, shape: &Shape) {
    let operations = history(1, shape);
    let begin = Instant::now();
    let judgement = judge(&operations, Limits::default());
    let took = begin.elapsed();
    judgement.require();
    println!(
        "{name}: {} operations ({} unknown) in {took:.2?}, {} of {} keys by zones",
        judgement.operations, judgement.unknown, judgement.keys_by_zones, judgement.keys
    );
}
