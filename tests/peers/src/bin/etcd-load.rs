//! Closed-loop load on etcd with its native client: one client is one outstanding request; a few connections are shared.
//! The same shape and the same figures as `flotilla bench`, so that the two can stand in one table.

use clap::Parser;
use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use flotilla_peers::{cpu_time, figures};
use hdrhistogram::Histogram;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser, Clone)]
struct Arguments {
    /// Addresses of the members, comma-separated; clients are spread over them.
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Mutual TLS: a folder with ca.crt, client.crt and client.key.
    #[arg(long)]
    certs: Option<PathBuf>,
    /// Outstanding requests.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections they share.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// put or get (linearizable).
    #[arg(long, default_value = "put")]
    op: String,
    /// Keys, spread over the prefixes 00..ff.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 10)]
    duration: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
}

/// The key numbered `number`: a two-hex-digit prefix from a mixed hash, then the number.
fn key(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    format!("{mixed:02x}:{number:010}")
}

/// A small generator of key numbers (SplitMix64).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

async fn one_client(mut client: Client, arguments: Arguments, seed: u64, begin: Instant) -> (Histogram<u64>, u64) {
    let mut histogram = Histogram::new(3).expect("3 digits");
    let (measure_from, end) = (begin + Duration::from_secs(arguments.warmup), begin + Duration::from_secs(arguments.warmup + arguments.duration));
    let (mut state, mut errors) = (seed, 0);
    let value = vec![b'x'; arguments.value_size];
    while Instant::now() < end {
        let name = key(draw(&mut state) % arguments.keys);
        let started = Instant::now();
        let outcome = match arguments.op.as_str() {
            "get" => client.get(name, Some(GetOptions::new())).await.map(|_| ()),
            _ => client.put(name, value.clone(), None).await.map(|_| ()),
        };
        let finished = Instant::now();
        if started >= measure_from && finished <= end {
            match outcome {
                Ok(()) => histogram.record(u64::try_from((finished - started).as_nanos()).unwrap_or(u64::MAX)).expect("in range"),
                Err(_) => errors += 1,
            }
        }
    }
    (histogram, errors)
}

/// Our certificates for both sides; None: no TLS.
fn options(arguments: &Arguments) -> Result<Option<ConnectOptions>, Box<dyn Error>> {
    let Some(folder) = &arguments.certs else {
        return Ok(None);
    };
    let read = |name: &str| std::fs::read(folder.join(name));
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("client.crt")?, read("client.key")?));
    Ok(Some(ConnectOptions::new().with_tls(tls)))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut connections = Vec::new();
    for number in 0..arguments.connections {
        let endpoint = &arguments.endpoints[number % arguments.endpoints.len()];
        connections.push(Client::connect([endpoint], options(&arguments)?).await?);
    }
    let begin = Instant::now();
    let tasks: Vec<_> = (0..arguments.clients)
        .map(|number| {
            let client = connections[number % connections.len()].clone();
            tokio::spawn(one_client(client, arguments.clone(), number as u64, begin))
        })
        .collect();
    // pace: the CPU time of the measured seconds only
    tokio::time::sleep(Duration::from_secs(arguments.warmup)).await;
    let cpu = cpu_time();
    // pace: see above
    tokio::time::sleep(Duration::from_secs(arguments.duration)).await;
    let cpu = cpu_time() - cpu;
    let (mut total, mut errors) = (Histogram::<u64>::new(3)?, 0);
    for task in tasks {
        let (histogram, failed) = task.await?;
        total.add(histogram)?;
        errors += failed;
    }
    let mut line = figures(&total, Duration::from_secs(arguments.duration), cpu);
    line["errors"] = errors.into();
    println!("{line}");
    Ok(())
}
