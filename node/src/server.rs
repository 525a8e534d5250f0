//! Runs nodes: one for `flotilla start`, several in one process for `flotilla dev`, until a signal ends them.

mod admin;
mod board;
mod certificates;
mod dev;
mod duties;
mod late;
mod node;
mod placement;
mod ports;
mod signals;
mod workers;

#[cfg(test)]
mod tests;

pub use dev::{Cluster, run_dev};

use crate::exit::{Code, Failure};
use crate::options::{CertOptions, LogFormat, LogOptions, NodeOptions, StorageOptions};
use crate::trust::{self, Files};
use multiraft::NodeId;
use node::{Node, Plan};
use ports::Listeners;
use signals::{Signals, Wish};
use std::fs::DirBuilder;
use std::io::{self, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use tracing_subscriber::EnvFilter;
use transport_quic::Credentials;

/// Bytes of the ring prepared at a time, at most.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Runs one node until SIGINT or SIGTERM, then stops it cleanly. A second signal ends the process at once.
pub fn run_node(options: NodeOptions) -> Result<(), Failure> {
    start_logging(&options.log)?;
    let signals = Signals::listen_for_reloads_too()?;
    let plan = Plan {
        credentials: credentials(&options.certs, options.node_id)?,
        listeners: Listeners::bind(&options.listen)?,
        store: store_options(&options.storage, options.workers, SEGMENT_BYTES_MAX),
        options,
    };
    let (listen, certs) = (plan.options.listen.clone(), plan.options.certs.clone());
    let id = plan.options.node_id;
    let node = Node::start(plan)?;
    tracing::info!(
        node = id.0, quic = %listen.quic, http = %listen.http, resp = %listen.resp, "started"
    );
    while signals.next() == Wish::Reload {
        node.reload_certificates(credentials(&certs, id));
    }
    tracing::info!(node = id.0, "stopping; a second signal ends the process at once");
    node.drain();
    node.lead_no_more();
    node.stop();
    Ok(())
}

/// Makes a data directory that only its owner may enter; one that exists keeps the permissions it has.
pub(crate) fn make_data_dir(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    above.map_or(Ok(()), std::fs::create_dir_all)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    }
}

fn start_logging(options: &LogOptions) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&options.level).map_err(|error| {
        Failure::new(Code::Configuration, format!("log.level: {error}"))
            .hint("use a level like `info`, or `info,transport_quic=debug`")
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // An embedder that logs already keeps its own way of doing so.
    let _ = match options.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    Ok(())
}

fn credentials(certs: &CertOptions, id: NodeId) -> Result<Credentials, Failure> {
    let files = Files {
        certificate: certs.cert.clone(),
        key: certs.key.clone(),
    };
    trust::load_node_files(&certs.ca, &files, id)
        .map_err(|error| Failure::new(Code::Configuration, error.to_string()))
}

/// Prepares at most `segment_bytes_max` of the ring at a time.
fn store_options(sizes: &StorageOptions, workers: usize, segment_bytes_max: u64) -> store_redb::Options {
    let options = store_redb::Options {
        segment_bytes: segment_bytes_max,
        memtable_bytes: sizes.memtable_bytes,
        cache_bytes: usize::try_from(sizes.cache_bytes).unwrap_or(usize::MAX),
        workers_write: true,
        scrub_rate: sizes.scrub_rate,
        scrub_interval: sizes.scrub_interval,
        ..store_redb::Options::new(workers)
    };
    options.with_ring(sizes.ring_bytes)
}
