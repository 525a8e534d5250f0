//! What a node can be told: one table of options (`table`), layered defaults < TOML file < environment < flags, and
//! the plain structs that come out. Reads no file and no environment itself: the caller passes both in.

pub mod boundaries;
mod docs;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod table;
pub mod values;

pub use boundaries::{BadBoundaries, boundaries};
pub use docs::markdown;
pub use table::{OptionSpec, Scope, TABLE};

use crate::exit::{Code, Failure};
use bytes::Bytes;
use multiraft::NodeId;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transport_quic::Congestion;

/// Everything one node needs to know to start. Checked: the relations between fields hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// This node; never 0.
    pub node_id: NodeId,
    /// Directory of the node file; belongs to this node alone.
    pub data_dir: PathBuf,
    /// Addresses to listen on.
    pub listen: ListenOptions,
    /// `host:port` where other nodes reach this node's QUIC endpoint.
    pub advertise: String,
    /// All nodes of the cluster with `host:port`, this one included, ascending by id.
    pub initial_cluster: Vec<(NodeId, String)>,
    /// Number of ranges of a new cluster, unless `split_keys` names them.
    pub ranges: usize,
    /// First keys of a new cluster's ranges but the first; empty: divide evenly. See [`NodeOptions::boundaries`].
    pub split_keys: Vec<Bytes>,
    /// Certificate files.
    pub certs: CertOptions,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Sizes of the store.
    pub storage: StorageOptions,
    /// The Redis gateway.
    pub resp: RespOptions,
    /// Bounds on requests, whatever the protocol.
    pub limits: RequestLimits,
    /// Timing of elections.
    pub raft: RaftTiming,
    /// Links between nodes.
    pub network: NetworkOptions,
    /// Logging.
    pub log: LogOptions,
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// UDP: nodes and native clients.
    pub quic: SocketAddr,
    /// TCP: health and metrics.
    pub http: SocketAddr,
    /// TCP: Redis clients. Only loopback unless there is a password.
    pub resp: SocketAddr,
}

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertOptions {
    /// The cluster's CA certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
}

/// Sizes of the store, in bytes, and how it is scrubbed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageOptions {
    /// The log ring, fixed at the first start.
    pub ring_bytes: u64,
    /// Applied writes in memory before a checkpoint starts.
    pub memtable_bytes: u64,
    /// Page cache of the node file.
    pub cache_bytes: u64,
    /// Log of each range kept for nodes that lag; 0: everything.
    pub kept_log_bytes: u64,
    /// What the scrubber reads per second at most; 0: there is none.
    pub scrub_rate: u64,
    /// From one pass of it to the next.
    pub scrub_interval: Duration,
}

/// The Redis gateway.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RespOptions {
    /// Asked for by AUTH; None: no authentication.
    pub password: Option<String>,
    /// Whether FLUSHALL works.
    pub allow_flush: bool,
    /// Connections accepted at a time.
    pub connections_max: usize,
}

/// Bounds on requests, whatever the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// Deadline of a request that names none itself.
    pub request_timeout: Duration,
}

/// Timing of elections. `heartbeat * 2 <= election_timeout_min`, `election_timeout_min * 3 / 2 <= election_timeout_max`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftTiming {
    /// Shortest silence before a replica campaigns.
    pub election_timeout_min: Duration,
    /// Longest such silence.
    pub election_timeout_max: Duration,
    /// Interval between a leader's beats.
    pub heartbeat: Duration,
}

/// Links between nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// How the sending rate follows losses.
    pub congestion: Congestion,
    /// Bytes per second that all snapshots sent by this node may take together.
    pub bulk_bytes_per_second: u64,
}

/// Logging, to stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// A filter in tracing's syntax.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Shows whether there is a password, never which.
impl fmt::Debug for RespOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.password.is_some() { "set" } else { "none" };
        write!(
            f,
            "RespOptions {{ password: {password}, allow_flush: {}, ",
            self.allow_flush
        )?;
        write!(f, "connections_max: {} }}", self.connections_max)
    }
}

impl NodeOptions {
    /// First keys of all ranges but the first, for a new cluster.
    pub fn boundaries(&self) -> Vec<Bytes> {
        boundaries(self.ranges, &self.split_keys).expect("options are checked when they are made")
    }

    /// Before any layer: only a place for the defaults to be written to.
    fn blank() -> NodeOptions {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        NodeOptions {
            node_id: NodeId(0),
            data_dir: PathBuf::new(),
            listen: ListenOptions {
                quic: nowhere,
                http: nowhere,
                resp: nowhere,
            },
            advertise: String::new(),
            initial_cluster: Vec::new(),
            ranges: 1,
            split_keys: Vec::new(),
            certs: CertOptions::default(),
            workers: 1,
            storage: StorageOptions::default(),
            resp: RespOptions::default(),
            limits: RequestLimits::default(),
            raft: RaftTiming::default(),
            network: NetworkOptions::default(),
            log: LogOptions::default(),
        }
    }
}

/// A cluster of several nodes in one process, on one host, for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevOptions {
    /// Holds certificates, `client.toml` and a directory `node-<id>` for each node.
    pub data_dir: PathBuf,
    /// How many nodes, with ids from 1.
    pub nodes: usize,
    /// QUIC port of node 1; node i (from 1) uses this + 10 (i - 1).
    pub quic_port: u16,
    /// HTTP port of node 1; likewise.
    pub http_port: u16,
    /// RESP port of node 1; node i uses this + (i - 1).
    pub resp_port: u16,
    /// What all nodes share; its per-node fields mean nothing. Use [`DevOptions::node`].
    pub shared: NodeOptions,
}

impl DevOptions {
    /// Most nodes in one process.
    pub const NODES_MAX: usize = 9;

    /// The options of node `id`, 1 to `nodes`.
    pub fn node(&self, id: NodeId) -> NodeOptions {
        let i = u16::try_from(id.0 - 1).expect("a dev cluster has few nodes");
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let quic = |i: u16| at(self.quic_port + 10 * i);
        let listen = ListenOptions {
            quic: quic(i),
            http: at(self.http_port + 10 * i),
            resp: at(self.resp_port + i),
        };
        let member = |i: usize| (NodeId(i as u64 + 1), quic(i as u16).to_string());
        NodeOptions {
            node_id: id,
            data_dir: self.data_dir.join(format!("node-{}", id.0)),
            advertise: listen.quic.to_string(),
            listen,
            initial_cluster: (0..self.nodes).map(member).collect(),
            certs: CertOptions {
                ca: self.data_dir.join("ca.crt"),
                cert: self.data_dir.join(format!("node-{}.crt", id.0)),
                key: self.data_dir.join(format!("node-{}.key", id.0)),
            },
            ..self.shared.clone()
        }
    }

    /// All nodes' options, by id.
    pub fn all(&self) -> Vec<NodeOptions> {
        (1..=self.nodes as u64).map(|id| self.node(NodeId(id))).collect()
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the TOML file.
    File {
        /// The file as the user named it.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// Why the configuration is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The option's TOML key, or what stood in its place.
    pub key: String,
    /// Where it was said.
    pub origin: Origin,
    /// What is wrong.
    pub problem: String,
    /// What to do; empty when the problem says it.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.origin, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let failure = Failure::new(Code::Configuration, format!("configuration: {error}"));
        if error.hint.is_empty() {
            failure
        } else {
            failure.hint(error.hint)
        }
    }
}

/// What the user said, by layer.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    /// The TOML file's name and text.
    pub file: Option<(&'a str, &'a str)>,
    /// Reads an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Options given as flags, with their text.
    pub flags: &'a [(&'static OptionSpec, String)],
}

/// A value of an option, unparsed.
struct Said {
    spec: &'static OptionSpec,
    text: String,
    origin: Origin,
}

/// The options of one node.
pub fn resolve(layers: Layers<'_>) -> Result<NodeOptions, ConfigError> {
    let (mut options, origins) = layered(layers, |_| true)?;
    check_shared(&options, &origins)?;
    complete(&mut options, &origins)?;
    Ok(options)
}

/// What the nodes of a `dev` cluster share; options that name one node are not read from anywhere.
/// FLUSHALL is allowed unless somebody said otherwise.
pub fn resolve_shared(layers: Layers<'_>) -> Result<NodeOptions, ConfigError> {
    let (mut options, origins) = layered(layers, |spec| spec.scope == Scope::Any)?;
    if origins["resp.allow_flush"] == Origin::Default {
        options.resp.allow_flush = true;
    }
    check_shared(&options, &origins)?;
    Ok(options)
}

type Origins = BTreeMap<&'static str, Origin>;

fn layered(
    layers: Layers<'_>,
    wanted: fn(&OptionSpec) -> bool,
) -> Result<(NodeOptions, Origins), ConfigError> {
    let mut options = NodeOptions::blank();
    let mut origins: Origins = TABLE.iter().map(|spec| (spec.key, Origin::Default)).collect();
    for spec in TABLE.iter().filter(|spec| !spec.default.is_empty()) {
        (spec.set)(&mut options, spec.default).expect("defaults are valid");
    }
    for said in said(layers, wanted)? {
        (said.spec.set)(&mut options, &said.text).map_err(|problem| bad_value(&said, problem))?;
        origins.insert(said.spec.key, said.origin);
    }
    Ok((options, origins))
}

/// Everything that was said, weakest layer first.
fn said(layers: Layers<'_>, wanted: fn(&OptionSpec) -> bool) -> Result<Vec<Said>, ConfigError> {
    let mut all = match layers.file {
        Some((path, text)) => file::read(path, text)?,
        None => Vec::new(),
    };
    let from_env = |spec: &'static OptionSpec| {
        let name = spec.env();
        (layers.env)(&name).map(|text| Said {
            spec,
            text,
            origin: Origin::Env(name),
        })
    };
    all.extend(TABLE.iter().filter_map(from_env));
    all.extend(layers.flags.iter().map(|(spec, text)| {
        let origin = Origin::Flag(spec.flag());
        Said {
            spec,
            text: text.clone(),
            origin,
        }
    }));
    all.retain(|said| wanted(said.spec));
    Ok(all)
}

fn bad_value(said: &Said, problem: String) -> ConfigError {
    let problem = if said.spec.is_secret() && said.text.is_empty() {
        "it is empty: write one, or leave this option (and its environment variable) out".to_string()
    } else if said.spec.is_secret() {
        "this value cannot be used".to_string()
    } else {
        problem
    };
    ConfigError {
        key: said.spec.key.to_string(),
        origin: said.origin.clone(),
        problem,
        hint: format!("{}: {}", said.spec.form, said.spec.doc),
    }
}

/// One write may take so large a part of the log ring: see store-redb.
const RING_SHARE: u64 = 8;
/// What a write takes in the log besides its key and value, at most.
const ENTRY_BYTES_OVERHEAD: u64 = 16 << 10;

/// Relations that hold for every node.
fn check_shared(options: &NodeOptions, origins: &Origins) -> Result<(), ConfigError> {
    let wrong = |key: &'static str, problem: String, hint: &str| {
        Err(ConfigError {
            key: key.to_string(),
            origin: origins[key].clone(),
            problem,
            hint: hint.to_string(),
        })
    };
    if let Err(bad) = boundaries(options.ranges, &options.split_keys) {
        return wrong("split_keys", bad.to_string(), "");
    }
    let most = options.limits.key_bytes_max;
    if let Some(long) = options.split_keys.iter().find(|key| key.len() > most) {
        let problem = format!("a key of {} bytes, but keys have at most {most}", long.len());
        return wrong(
            "split_keys",
            problem,
            "use shorter keys, or raise limits.key_bytes_max",
        );
    }
    let explicit = options.split_keys.len() + 1;
    if explicit > 1 && origins["ranges"] != Origin::Default && options.ranges != explicit {
        let problem = format!("{} ranges, but split_keys makes {explicit}", options.ranges);
        return wrong("ranges", problem, "give one of the two");
    }
    let raft = &options.raft;
    if raft.heartbeat.is_zero() || raft.heartbeat * 2 > raft.election_timeout_min {
        let problem = format!(
            "{:?} against an election timeout of {:?}",
            raft.heartbeat, raft.election_timeout_min
        );
        return wrong(
            "raft.heartbeat",
            problem,
            "use at most half of raft.election_timeout_min",
        );
    }
    if raft.election_timeout_min * 3 / 2 > raft.election_timeout_max {
        let problem = format!(
            "{:?} to {:?}",
            raft.election_timeout_min, raft.election_timeout_max
        );
        return wrong(
            "raft.election_timeout_max",
            problem,
            "use at least 1.5 times raft.election_timeout_min",
        );
    }
    if options.limits.request_timeout.is_zero() {
        return wrong(
            "limits.request_timeout",
            "no time at all".to_string(),
            "write it like 5s",
        );
    }
    check_storage(options, origins)
}

/// Sizes of the store against each other and against the largest write.
fn check_storage(options: &NodeOptions, origins: &Origins) -> Result<(), ConfigError> {
    let wrong = |key: &'static str, problem: String, hint: &str| {
        Err(ConfigError {
            key: key.to_string(),
            origin: origins[key].clone(),
            problem,
            hint: hint.to_string(),
        })
    };
    let largest = (options.limits.value_bytes_max + options.limits.key_bytes_max) as u64;
    if options.storage.ring_bytes / RING_SHARE < largest + ENTRY_BYTES_OVERHEAD {
        let problem = format!(
            "{} bytes, of which one write may take an eighth, against values of up to {}",
            options.storage.ring_bytes, options.limits.value_bytes_max
        );
        return wrong(
            "storage.ring_bytes",
            problem,
            "use more than eight times limits.value_bytes_max",
        );
    }
    if options.storage.memtable_bytes * 2 > options.storage.ring_bytes {
        let problem = format!(
            "{} bytes against a ring of {}",
            options.storage.memtable_bytes, options.storage.ring_bytes
        );
        return wrong(
            "storage.memtable_bytes",
            problem,
            "use at most half of storage.ring_bytes",
        );
    }
    Ok(())
}

/// Fills what follows from other options and checks what names this node.
fn complete(options: &mut NodeOptions, origins: &Origins) -> Result<(), ConfigError> {
    let wrong = |key: &'static str, problem: &str, hint: String| {
        Err(ConfigError {
            key: key.to_string(),
            origin: origins[key].clone(),
            problem: problem.to_string(),
            hint,
        })
    };
    let id = options.node_id;
    if id.0 == 0 {
        return wrong(
            "node_id",
            "this node needs an id",
            "start it with --node-id 1".to_string(),
        );
    }
    let Some((_, listed)) = options.initial_cluster.iter().find(|(node, _)| *node == id) else {
        let problem = "this node is not listed";
        return wrong(
            "initial_cluster",
            problem,
            format!("name every node, like {}=host:7400,...", id.0),
        );
    };
    if options.advertise.is_empty() {
        options.advertise = listed.clone();
    }
    let resp = options.listen.resp;
    if !resp.ip().is_loopback() && options.resp.password.is_none() {
        let problem = format!("{resp} is open to other hosts without a password");
        return wrong(
            "listen.resp",
            &problem,
            "set resp.password, or listen on 127.0.0.1".to_string(),
        );
    }
    let name = |end: &str| PathBuf::from(format!("./certs/node-{}.{end}", id.0));
    if options.certs.cert.as_os_str().is_empty() {
        options.certs.cert = name("crt");
    }
    if options.certs.key.as_os_str().is_empty() {
        options.certs.key = name("key");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
