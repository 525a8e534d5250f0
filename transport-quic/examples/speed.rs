//! Measures two transports on loopback in one process: frames and bytes per second on a lane, round trips of
//! calls, and round trips of frames while a bulk stream runs beside them. Prints one line per figure; CPU is that of
//! both ends together. `cargo run --release -p transport-quic --example speed [-- bulk]`

use bytes::Bytes;
use multiraft::{
    Bulk, BulkOutcome, BulkReceiver, BulkSink, BulkSource, Frame, Lane, NodeId, Outgoing, RaftNetwork,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant};
use transport_quic::{
    ANY_NODE, CallSink, CertifiedName, Client, ClientSink, ClusterId, Config, Credentials, FrameSink,
    Options, Reply, Sinks, Transport, node_name,
};

const RUN: Duration = Duration::from_secs(3);

/// Bytes of the bulk stream, and rates at which it runs.
const BULK_BYTES: usize = 1 << 30;
const BULK_RATES: [u64; 2] = [100_000_000, 300_000_000];

#[derive(Default)]
struct Sink {
    frames: AtomicU64,
    bytes: AtomicU64,
    /// The way back for frames that are to be answered, or the way on for answers.
    back: OnceLock<Weak<Transport>>,
    answers: OnceLock<mpsc::Sender<Bytes>>,
}

impl FrameSink for Sink {
    fn deliver(&self, from: NodeId, frame: Bytes) {
        if let Some(answers) = self.answers.get() {
            let _ = answers.send(frame);
            return;
        }
        if let Some(back) = self.back.get().and_then(Weak::upgrade) {
            let frame = Frame {
                chunks: vec![Bytes::copy_from_slice(&frame)],
            };
            return back.send(Outgoing {
                to: from,
                lane: Lane::Entries,
                frame,
            });
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
    }
}

impl CallSink for Sink {
    fn call(&self, _: NodeId, payload: Bytes, reply: Reply) {
        reply.send(payload);
    }
}

impl ClientSink for Sink {
    fn call(&self, _: &Arc<Client>, payload: Bytes, reply: Reply) {
        reply.send(payload);
    }
}

impl BulkSink for Sink {
    fn begin(&self, _: NodeId, _: Bytes) -> Result<Box<dyn BulkReceiver>, String> {
        Ok(Box::new(Counting(0)))
    }
}

/// Counts what arrives.
struct Counting(usize);

impl BulkReceiver for Counting {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        self.0 += piece.len();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Bytes, String> {
        Ok(Bytes::from(self.0.to_string()))
    }
}

/// So many zeros.
struct Zeros {
    left: usize,
    piece: Bytes,
    ended: mpsc::Sender<BulkOutcome>,
}

impl BulkSource for Zeros {
    fn next(&mut self) -> Result<Option<Bytes>, String> {
        let bytes = self.left.min(self.piece.len());
        self.left -= bytes;
        Ok((bytes > 0).then(|| self.piece.slice(..bytes)))
    }

    fn ended(self: Box<Self>, outcome: BulkOutcome) {
        let _ = self.ended.send(outcome);
    }
}

/// Both nodes' credentials under one CA.
fn credentials() -> Result<[Credentials; 2], Box<dyn Error>> {
    let cluster = ClusterId([1; 16]);
    let mut params = CertificateParams::new(vec![format!("cluster-{cluster}")])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = KeyPair::generate()?;
    let ca = params.self_signed(&ca_key)?.der().clone();
    let issuer = Issuer::new(params, ca_key);
    let issue = |id: u64| -> Result<Credentials, Box<dyn Error>> {
        let mut params = CertificateParams::new(vec![node_name(NodeId(id)), ANY_NODE.to_owned()])?;
        params.extended_key_usages = vec![Usage::ServerAuth, Usage::ClientAuth];
        let key = KeyPair::generate()?;
        let chain = vec![params.signed_by(&key, &issuer)?.der().clone()];
        let key = Arc::new(PrivateKeyDer::try_from(key.serialize_der())?);
        Ok(Credentials {
            roots: vec![ca.clone()],
            chain,
            key,
            cluster,
            name: CertifiedName::Node(NodeId(id)),
        })
    };
    Ok([issue(1)?, issue(2)?])
}

fn start(credentials: Credentials, sink: &Arc<Sink>, bulk: u64) -> Result<Arc<Transport>, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let listen = "127.0.0.1:0".parse()?;
    let config = Config {
        credentials,
        incarnation: 1,
        listen,
        peers: BTreeMap::new(),
        secret: [1; 32],
        options: Options {
            bulk_bytes_per_second: bulk,
            ..Options::default()
        },
    };
    let sinks = Sinks {
        frames: sink.clone(),
        calls: sink.clone(),
        clients: sink.clone(),
        bulk: sink.clone(),
    };
    let transport = Transport::start(config, runtime.handle(), sinks)?;
    // It serves until the process ends.
    std::mem::forget(runtime);
    Ok(transport)
}

/// CPU seconds this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// Sends frames of `size` in bursts of `burst` as fast as the lane takes them.
fn frames(one: &Transport, sink: &Sink, size: usize, burst: usize) {
    let payload = Bytes::from(vec![7; size]);
    let (frames, bytes) = (
        sink.frames.load(Ordering::Relaxed),
        sink.bytes.load(Ordering::Relaxed),
    );
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut busy = 0;
    while begun.elapsed() < RUN {
        let entries = one.links()[0].entries;
        if entries.queued_frames + burst > 4096 || entries.queued_bytes > 32 << 20 {
            busy += 1;
            std::thread::sleep(Duration::from_micros(200)); // pace: the lane is full enough
            continue;
        }
        for _ in 0..burst {
            let frame = Frame {
                chunks: vec![payload.clone()],
            };
            one.send(Outgoing {
                to: NodeId(2),
                lane: Lane::Entries,
                frame,
            });
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let frames = sink.frames.load(Ordering::Relaxed) - frames;
    let bytes = sink.bytes.load(Ordering::Relaxed) - bytes;
    let (entries, cpu) = (one.links()[0].entries, cpu_seconds() - cpu);
    println!(
        "frames of {size:>6} B: {:>9.0}/s {:>6.0} MB/s {:>6.2} CPU us each, dropped {}, paused {busy}",
        frames as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        cpu * 1e6 / frames as f64,
        entries.dropped,
    );
}

/// Keeps `outstanding` calls of 100 bytes open.
fn calls(one: &Arc<Transport>, outstanding: usize) {
    let payload = Bytes::from(vec![7; 100]);
    let (sender, answers) = mpsc::channel();
    let ask = |sender: &mpsc::Sender<Instant>| {
        let (sender, asked) = (sender.clone(), Instant::now());
        one.call(NodeId(2), payload.clone(), move |outcome| {
            assert!(outcome.is_ok(), "{outcome:?}");
            let _ = sender.send(asked);
        });
    };
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    (0..outstanding).for_each(|_| ask(&sender));
    let mut times = Vec::new();
    while begun.elapsed() < RUN {
        let Ok(asked) = answers.recv() else { return };
        times.push(asked.elapsed());
        ask(&sender);
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    // The last ones are still under way.
    let _ = answers.iter().take(outstanding).count();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "calls, {outstanding:>4} at once: {:>8.0} calls/s, p50 {:?} p99 {:?}, {:.2} CPU us/call",
        times.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        cpu * 1e6 / times.len() as f64,
    );
}

/// Round trips of 100-byte frames, one every millisecond, until told to stop or for a while.
fn round_trips(
    one: &Transport,
    answers: &mpsc::Receiver<Bytes>,
    mut goes_on: impl FnMut() -> bool,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while goes_on() {
        let begun = Instant::now();
        let frame = Frame {
            chunks: vec![Bytes::from(vec![7; 100])],
        };
        one.send(Outgoing {
            to: NodeId(2),
            lane: Lane::Entries,
            frame,
        });
        if answers.recv_timeout(Duration::from_secs(5)).is_err() {
            println!("a frame was lost");
            break;
        }
        times.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(1).saturating_sub(begun.elapsed())); // pace: one a millisecond
    }
    times.sort_unstable();
    times
}

fn print_round_trips(what: &str, times: &[Duration]) {
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "small frames {what}: {} round trips, p50 {:?} p90 {:?} p99 {:?} p99.9 {:?} max {:?}",
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// Small frames alone, beside a bulk stream, and alone again, in one run.
fn bulk(rate: u64) -> Result<(), Box<dyn Error>> {
    let [first, second] = credentials()?;
    let (near, far) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
    let (one, two) = (start(first, &near, rate)?, start(second, &far, rate)?);
    let (sender, answers) = mpsc::channel();
    let _ = (near.answers.set(sender), far.back.set(Arc::downgrade(&two)));
    link(&one, &two)?;
    let alone = |what: &str| {
        let begun = Instant::now();
        print_round_trips(what, &round_trips(&one, &answers, || begun.elapsed() < 2 * RUN));
    };
    println!("bulk at {} MB/s:", rate / 1_000_000);
    alone("alone");
    let (ended, end) = mpsc::channel();
    let piece = Bytes::from(vec![0; 256 << 10]);
    let source = Box::new(Zeros {
        left: BULK_BYTES,
        piece,
        ended,
    });
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    one.send_bulk(Bulk {
        to: NodeId(2),
        header: Bytes::new(),
        source,
    });
    let mut outcome = None;
    let times = round_trips(&one, &answers, || {
        outcome = outcome.take().or_else(|| end.try_recv().ok());
        outcome.is_none()
    });
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    print_round_trips("beside bulk", &times);
    println!(
        "bulk: {BULK_BYTES} bytes in {seconds:.2} s, {:.0} MB/s, {cpu:.2} CPU s, {outcome:?}",
        BULK_BYTES as f64 / seconds / 1e6
    );
    alone("alone again");
    Ok(())
}

fn link(one: &Arc<Transport>, two: &Arc<Transport>) -> Result<(), Box<dyn Error>> {
    two.set_peer(NodeId(1), one.local_addr()?.to_string());
    one.set_peer(NodeId(2), two.local_addr()?.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        one.up(NodeId(2)).await;
        two.up(NodeId(1)).await;
    });
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|argument| argument == "bulk") {
        return BULK_RATES.into_iter().try_for_each(bulk);
    }
    let [first, second] = credentials()?;
    let sink = Arc::new(Sink::default());
    let (one, two) = (
        start(first, &sink, BULK_RATES[0])?,
        start(second, &sink, BULK_RATES[0])?,
    );
    link(&one, &two)?;
    for (size, burst) in [(100, 64), (1000, 64), (16 << 10, 16), (256 << 10, 4)] {
        frames(&one, &sink, size, burst);
    }
    for outstanding in [1, 16, 64, 512] {
        calls(&one, outstanding);
    }
    println!("link: {}, rtt {:?}", one.links()[0].state, one.links()[0].rtt);
    Ok(())
}
