//! What the physics of one client's write costs here: client -> A over QUIC, A -> B over QUIC, B writes 4 KiB with
//! `RWF_DSYNC`, and back. Three processes, mutual TLS 1.3 with the cluster's own certificates, one stream per hop that
//! stays open, no batching, no queue, one thread per process: nothing that replicates a write can be faster.
//!
//! `path-probe client --certs DIR --file DIR/probe` starts A and B itself and prints one JSON line.

use clap::{Parser, Subcommand};
use flotilla_peers::{cpu_time, figures};
use hdrhistogram::Histogram;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, ServerConfig, TransportConfig};
use rustix::io::{ReadWriteFlags, pwritev2};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, crypto::aws_lc_rs};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a request: a 256-byte put with its key and headers.
const REQUEST: usize = 300;
/// Bytes of an answer.
const ANSWER: usize = 16;
const BLOCK: usize = 4096;
/// The file is as large as a small ring and written round and round.
const BLOCKS: u64 = 4096;
const ALPN: &[u8] = b"flotilla-probe";

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Measures.
    Client {
        /// ca.crt, client.*, node-1.* and node-2.*
        #[arg(long)]
        certs: PathBuf,
        /// What B writes; made anew.
        #[arg(long)]
        file: PathBuf,
        /// Seconds measured.
        #[arg(long, default_value_t = 5.0)]
        duration: f64,
        /// Seconds before that.
        #[arg(long, default_value_t = 1.0)]
        warmup: f64,
    },
    /// Passes requests on to B and answers back.
    A {
        #[arg(long)]
        certs: PathBuf,
        #[arg(long)]
        next: SocketAddr,
    },
    /// Writes.
    B {
        #[arg(long)]
        certs: PathBuf,
        #[arg(long)]
        file: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    match Arguments::parse().role {
        Role::Client { certs, file, duration, warmup } => {
            let times = [warmup, duration].map(Duration::from_secs_f64);
            println!("{}", measure(&certs, &file, times).await?);
            Ok(())
        }
        Role::A { certs, next } => pass_on(&certs, next).await,
        Role::B { certs, file } => write(&certs, &file).await,
    }
}

/// A child that says on its first line where it listens, and dies with its parent's interest in it.
struct Part {
    child: Child,
    address: SocketAddr,
}

impl Part {
    fn start(arguments: &[&str]) -> Outcome<Part> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().parse()?;
        Ok(Part { child, address })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure(certs: &Path, file: &Path, [warmup, duration]: [Duration; 2]) -> Outcome<serde_json::Value> {
    let (certs_text, file) = (certs.display().to_string(), file.display().to_string());
    let b = Part::start(&["b", "--certs", &certs_text, "--file", &file])?;
    let a = Part::start(&["a", "--certs", &certs_text, "--next", &b.address.to_string()])?;
    let (mut send, mut receive, _connection) = dial(certs, "client", a.address).await?;
    let mut latencies = Histogram::<u64>::new(3)?;
    let (mut answer, begin) = ([0; ANSWER], Instant::now());
    let mut cpu = cpu_time();
    loop {
        let started = Instant::now();
        send.write_all(&[7; REQUEST]).await?;
        receive.read_exact(&mut answer).await?;
        let finished = Instant::now();
        if finished - begin > warmup + duration {
            break;
        }
        if started - begin >= warmup {
            latencies.record(u64::try_from((finished - started).as_nanos())?)?;
        } else {
            cpu = cpu_time();
        }
    }
    Ok(figures(&latencies, duration, cpu_time() - cpu))
}

async fn pass_on(certs: &Path, next: SocketAddr) -> Outcome<()> {
    let (mut down, mut back, _connection) = dial(certs, "node-1", next).await?;
    let (mut answer_to, mut requests, _dialer) = accept(certs, "node-1").await?;
    let (mut request, mut answer) = ([0; REQUEST], [0; ANSWER]);
    loop {
        requests.read_exact(&mut request).await?;
        down.write_all(&request).await?;
        back.read_exact(&mut answer).await?;
        answer_to.write_all(&answer).await?;
    }
}

async fn write(certs: &Path, path: &Path) -> Outcome<()> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    (0..BLOCKS).try_for_each(|_| (&file).write_all(&[0; BLOCK]))?;
    file.sync_all()?;
    let (mut answer_to, mut requests, _dialer) = accept(certs, "node-2").await?;
    let (mut request, mut block) = ([0; REQUEST], [0; BLOCK]);
    for number in 0_u64.. {
        requests.read_exact(&mut request).await?;
        block[..REQUEST].copy_from_slice(&request);
        let at = number % BLOCKS * BLOCK as u64;
        let written = pwritev2(&file, &[IoSlice::new(&block)], at, ReadWriteFlags::DSYNC)?;
        assert_eq!(written, BLOCK, "a short write");
        answer_to.write_all(&[1; ANSWER]).await?;
    }
    Ok(())
}

async fn dial(certs: &Path, name: &str, to: SocketAddr) -> Outcome<(SendStream, RecvStream, Connection)> {
    let (chain, key) = identity(certs, name)?;
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13])?.with_root_certificates(roots(certs)?);
    let mut tls = builder.with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport()?);
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let connection = endpoint.connect_with(config, to, "flotilla-node")?.await?;
    let (send, receive) = connection.open_bi().await?;
    Ok((send, receive, connection))
}

/// Says where it listens and takes one connection with one stream.
async fn accept(certs: &Path, name: &str) -> Outcome<(SendStream, RecvStream, Connection)> {
    let (chain, key) = identity(certs, name)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(certs)?), provider.clone()).build()?;
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut tls = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport()?);
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    println!("{}", endpoint.local_addr()?);
    let connection = endpoint.accept().await.ok_or("nobody came")?.await?;
    let (send, receive) = connection.accept_bi().await?;
    Ok((send, receive, connection))
}

fn transport() -> Outcome<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(60))?));
    Ok(Arc::new(transport))
}

fn identity(certs: &Path, name: &str) -> Outcome<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(certs.join(format!("{name}.crt")))?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(certs.join(format!("{name}.key")))?))
}

fn roots(certs: &Path) -> Outcome<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.crt"))?)?;
    Ok(roots)
}
