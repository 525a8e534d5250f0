//! The one table of options. Flags, environment, TOML file, `--help` and docs/config.md are all read from it.

use super::boundaries::RANGES_MAX;
use super::values;
use super::{LogFormat, NodeOptions};
use multiraft::NodeId;
use transport_quic::Congestion;

/// Whether an option may differ between the nodes of one process (`dev` sets those itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Names one node: its id, addresses, directory, certificates. Not an option of `dev`.
    Node,
    /// The same for all nodes of a `dev` cluster.
    Any,
}

/// One option.
pub struct OptionSpec {
    /// The TOML key; a dot separates table and key. Flag and environment name follow from it.
    pub key: &'static str,
    /// What a value looks like, for `--help` and the docs.
    pub form: &'static str,
    /// Default as the user would write it; empty: none, and `doc` says what that means.
    pub default: &'static str,
    /// What it is for, with unit and consequences.
    pub doc: &'static str,
    /// Who may set it.
    pub scope: Scope,
    /// Parses and sets it; the error is the problem alone.
    pub set: fn(&mut NodeOptions, &str) -> Result<(), String>,
}

impl OptionSpec {
    /// The long flag without dashes: `listen.quic` is `listen-quic`.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment variable: `listen.quic` is `FLOTILLA_LISTEN_QUIC`.
    pub fn env(&self) -> String {
        format!("FLOTILLA_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        self.form == SECRET
    }

    /// Whether it is true or false.
    pub fn is_switch(&self) -> bool {
        self.form == SWITCH
    }
}

const SECRET: &str = "SECRET";
const SWITCH: &str = "true|false";
const SIZE: &str = "SIZE";
const TIME: &str = "DURATION";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// A size within bounds.
fn size(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let bytes = values::size(text)?;
    if (least..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!(
            "{text} is out of bounds: use {} to {}",
            shown(least),
            shown(most)
        ))
    }
}

fn shown(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

fn congestion(text: &str) -> Result<Congestion, String> {
    match text {
        "cubic" => Ok(Congestion::Cubic),
        "bbr" => Ok(Congestion::Bbr),
        _ => Err(format!("`{text}` is neither cubic nor bbr")),
    }
}

/// All options, in the order of the docs.
pub const TABLE: &[OptionSpec] = &[
    OptionSpec {
        key: "node_id",
        form: "N",
        default: "",
        doc: "This node's id, 1 or more. Required. Bound to the data directory and the certificate.",
        scope: Scope::Node,
        set: |o, v| values::count(v, 1, u64::MAX).map(|id| o.node_id = NodeId(id)),
    },
    OptionSpec {
        key: "data_dir",
        form: "DIR",
        default: "./flotilla-data",
        doc: "Directory of the node file. Belongs to this node alone; created when missing.",
        scope: Scope::Node,
        set: |o, v| nonempty(v).map(|v| o.data_dir = v.into()),
    },
    OptionSpec {
        key: "listen.quic",
        form: "ADDRESS",
        default: "0.0.0.0:7400",
        doc: "UDP address for nodes and native clients (mutual TLS always).",
        scope: Scope::Node,
        set: |o, v| values::address(v).map(|at| o.listen.quic = at),
    },
    OptionSpec {
        key: "listen.http",
        form: "ADDRESS",
        default: "127.0.0.1:7401",
        doc: "TCP address for health and metrics.",
        scope: Scope::Node,
        set: |o, v| values::address(v).map(|at| o.listen.http = at),
    },
    OptionSpec {
        key: "listen.resp",
        form: "ADDRESS",
        default: "127.0.0.1:6380",
        doc: "TCP address for Redis clients. Other than loopback needs `resp.password`.",
        scope: Scope::Node,
        set: |o, v| values::address(v).map(|at| o.listen.resp = at),
    },
    OptionSpec {
        key: "advertise",
        form: "HOST:PORT",
        default: "",
        doc: "Where other nodes reach this node's QUIC port. Default: its entry in `initial_cluster`.",
        scope: Scope::Node,
        set: |o, v| values::host_port(v).map(|at| o.advertise = at),
    },
    OptionSpec {
        key: "initial_cluster",
        form: "N=HOST:PORT,...",
        default: "",
        doc: "Every node of the cluster, this one included, the same on all of them. Required.",
        scope: Scope::Node,
        set: |o, v| values::members(v).map(|members| o.initial_cluster = members),
    },
    OptionSpec {
        key: "ranges",
        form: "N",
        default: "16",
        doc: "Ranges of a new cluster, 1 to 4096: they divide the two-hex-digit prefixes 00..ff (beyond 256 ranges \
              the four-digit ones) evenly. Only read when the data directory is new; must be the same on all nodes.",
        scope: Scope::Any,
        set: |o, v| values::count(v, 1, RANGES_MAX as u64).map(|n| o.ranges = n as usize),
    },
    OptionSpec {
        key: "split_keys",
        form: "KEY,...",
        default: "",
        doc: "First keys of the ranges of a new cluster instead of `ranges`, at most 255. `hex:00ff` writes any bytes.",
        scope: Scope::Any,
        set: |o, v| values::keys(v).map(|keys| o.split_keys = keys),
    },
    OptionSpec {
        key: "certs.ca",
        form: "FILE",
        default: "./certs/ca.crt",
        doc: "PEM certificate of the cluster's CA (`flotilla cert ca`).",
        scope: Scope::Node,
        set: |o, v| nonempty(v).map(|v| o.certs.ca = v.into()),
    },
    OptionSpec {
        key: "certs.cert",
        form: "FILE",
        default: "",
        doc: "PEM certificate of this node (`flotilla cert node`). Default: ./certs/node-<node_id>.crt.",
        scope: Scope::Node,
        set: |o, v| nonempty(v).map(|v| o.certs.cert = v.into()),
    },
    OptionSpec {
        key: "certs.key",
        form: "FILE",
        default: "",
        doc: "PEM private key of this node. Default: ./certs/node-<node_id>.key.",
        scope: Scope::Node,
        set: |o, v| nonempty(v).map(|v| o.certs.key = v.into()),
    },
    OptionSpec {
        key: "workers",
        form: "N",
        default: "1",
        doc: "Worker threads; each owns a share of the groups. More than the cores helps nobody.",
        scope: Scope::Any,
        set: |o, v| values::count(v, 1, 64).map(|n| o.workers = n as usize),
    },
    OptionSpec {
        key: "storage.ring_bytes",
        form: SIZE,
        default: "1GiB",
        doc: "Size of the log ring, allocated at the first start and fixed then. An eighth of it bounds one write (MSET, batch), so give all nodes the same: a node whose ring is too small for an entry stays behind. A clean stop and a start make the ring anew.",
        scope: Scope::Any,
        set: |o, v| size(v, 16 * MIB, TIB).map(|n| o.storage.ring_bytes = n),
    },
    OptionSpec {
        key: "storage.memtable_bytes",
        form: SIZE,
        default: "128MiB",
        doc: "Applied writes kept in memory before a checkpoint starts. Larger: fewer, cheaper checkpoints.",
        scope: Scope::Any,
        set: |o, v| size(v, MIB, 64 * 1024 * MIB).map(|n| o.storage.memtable_bytes = n),
    },
    OptionSpec {
        key: "storage.cache_bytes",
        form: SIZE,
        default: "64MiB",
        doc: "Page cache of the node file. Should hold its branch pages.",
        scope: Scope::Any,
        set: |o, v| size(v, MIB, TIB).map(|n| o.storage.cache_bytes = n),
    },
    OptionSpec {
        key: "storage.kept_log_bytes",
        form: SIZE,
        default: "128MiB",
        doc: "Log of each range that is kept for nodes which are down or slow, beyond what this node needs itself; 0: \
              everything. A node that needs more than is kept gets a snapshot of the range, so it should be more than is \
              written to a range while a snapshot travels. What is kept takes disk space; docs/operations.md.",
        scope: Scope::Any,
        set: |o, v| size(v, 0, 1024 * TIB).map(|n| o.storage.kept_log_bytes = n),
    },
    OptionSpec {
        key: "storage.scrub_rate",
        form: SIZE,
        default: "4MiB",
        doc: "Bytes per second that the scrubber reads at most: it compares everything in the node file with its \
              checksums while the node runs, and ends it with code 71 when something is damaged. 0: off; then damage \
              in what nobody reads goes unnoticed. docs/operations.md.",
        scope: Scope::Any,
        set: |o, v| size(v, 0, TIB).map(|n| o.storage.scrub_rate = n),
    },
    OptionSpec {
        key: "storage.scrub_interval",
        form: TIME,
        default: "24h",
        doc: "From the beginning of one pass of the scrubber to the next; a pass that takes longer is followed at once.",
        scope: Scope::Any,
        set: |o, v| values::some_time(v).map(|d| o.storage.scrub_interval = d),
    },
    OptionSpec {
        key: "resp.password",
        form: SECRET,
        default: "",
        doc: "Password of the user `default` for Redis clients (AUTH). Prefer the file or environment: flags are \
              visible in the process list. Default: none is asked for.",
        scope: Scope::Any,
        set: |o, v| nonempty(v).map(|v| o.resp.password = Some(v.to_string())),
    },
    OptionSpec {
        key: "resp.allow_flush",
        form: SWITCH,
        default: "false",
        doc: "Whether FLUSHALL and FLUSHDB may delete everything. `dev` turns it on.",
        scope: Scope::Any,
        set: |o, v| values::switch(v).map(|on| o.resp.allow_flush = on),
    },
    OptionSpec {
        key: "resp.connections_max",
        form: "N",
        default: "10000",
        doc: "Redis connections accepted at a time; more are refused with an error.",
        scope: Scope::Any,
        set: |o, v| values::count(v, 1, 1_000_000).map(|n| o.resp.connections_max = n as usize),
    },
    OptionSpec {
        key: "limits.key_bytes_max",
        form: SIZE,
        default: "4KiB",
        doc: "Longest key accepted, over any protocol; at most 64KiB.",
        scope: Scope::Any,
        set: |o, v| size(v, 16, 64 * KIB).map(|n| o.limits.key_bytes_max = n as usize),
    },
    OptionSpec {
        key: "limits.value_bytes_max",
        form: SIZE,
        default: "1MiB",
        doc: "Largest value accepted, over any protocol; at most 8MiB.",
        scope: Scope::Any,
        set: |o, v| size(v, 16, 8 * MIB).map(|n| o.limits.value_bytes_max = n as usize),
    },
    OptionSpec {
        key: "limits.request_timeout",
        form: TIME,
        default: "5s",
        doc: "How long a request from a Redis client may take before it is given up.",
        scope: Scope::Any,
        set: |o, v| values::duration(v).map(|d| o.limits.request_timeout = d),
    },
    OptionSpec {
        key: "raft.election_timeout_min",
        form: TIME,
        default: "300ms",
        doc: "Shortest silence of a leader after which a replica campaigns; the actual one is drawn at random.",
        scope: Scope::Any,
        set: |o, v| values::duration(v).map(|d| o.raft.election_timeout_min = d),
    },
    OptionSpec {
        key: "raft.election_timeout_max",
        form: TIME,
        default: "600ms",
        doc: "Longest such silence. At least 1.5 times the shortest, or replicas campaign at the same time.",
        scope: Scope::Any,
        set: |o, v| values::duration(v).map(|d| o.raft.election_timeout_max = d),
    },
    OptionSpec {
        key: "raft.heartbeat",
        form: TIME,
        default: "100ms",
        doc: "Interval between a leader's beats. At most half the shortest election timeout.",
        scope: Scope::Any,
        set: |o, v| values::duration(v).map(|d| o.raft.heartbeat = d),
    },
    OptionSpec {
        key: "network.congestion",
        form: "cubic|bbr",
        default: "cubic",
        doc: "How the sending rate between nodes follows losses. `bbr` helps on long lines that lose packets, and costs \
              throughput on good ones.",
        scope: Scope::Any,
        set: |o, v| congestion(v).map(|how| o.network.congestion = how),
    },
    OptionSpec {
        key: "network.bulk_rate",
        form: SIZE,
        default: "100MB",
        doc: "Bytes per second that all snapshots sent by this node may take together. Leave the link room for the rest.",
        scope: Scope::Any,
        set: |o, v| size(v, MIB, TIB).map(|n| o.network.bulk_bytes_per_second = n),
    },
    OptionSpec {
        key: "log.level",
        form: "FILTER",
        default: "info",
        doc: "error, warn, info, debug, trace, or per module: info,transport_quic=debug.",
        scope: Scope::Any,
        set: |o, v| values::log_filter(v).map(|filter| o.log.level = filter),
    },
    OptionSpec {
        key: "log.format",
        form: "text|json",
        default: "text",
        doc: "How log lines look (on stderr).",
        scope: Scope::Any,
        set: |o, v| log_format(v).map(|format| o.log.format = format),
    },
];

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither text nor json")),
    }
}

fn nonempty(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        Err("must not be empty".to_string())
    } else {
        Ok(text)
    }
}

/// The option with this TOML key.
pub fn find(key: &str) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| spec.key == key)
}

/// The key a user most likely meant: few edits away, or the same last word.
pub fn nearest(wrong: &str) -> Option<&'static str> {
    let wrong = wrong.to_lowercase().replace('-', "_");
    let last = |key: &str| key.rsplit('.').next().map(str::to_string);
    let by_edits = TABLE.iter().map(|spec| (edits(&wrong, spec.key), spec.key)).min();
    let close = by_edits
        .filter(|(edits, _)| *edits <= 1 + wrong.len() / 4)
        .map(|(_, key)| key);
    let dotless = wrong.replace('.', "_");
    close
        .or_else(|| {
            TABLE
                .iter()
                .map(|spec| spec.key)
                .find(|key| key.replace('.', "_") == dotless)
        })
        .or_else(|| {
            TABLE
                .iter()
                .map(|spec| spec.key)
                .find(|key| last(key) == last(&wrong))
        })
}

/// The table a user most likely meant: few edits away.
pub fn nearest_table(wrong: &str) -> Option<&'static str> {
    let wrong = wrong.to_lowercase();
    let tables = TABLE.iter().filter_map(|spec| spec.key.split_once('.'));
    let by_edits = tables.map(|(table, _)| (edits(&wrong, table), table)).min();
    by_edits
        .filter(|(edits, _)| *edits <= 1 + wrong.len() / 4)
        .map(|(_, table)| table)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_key() {
        let spec = find("resp.allow_flush").expect("in the table");
        assert_eq!(
            (spec.flag().as_str(), spec.env().as_str()),
            ("resp-allow-flush", "FLOTILLA_RESP_ALLOW_FLUSH")
        );
    }

    #[test]
    fn keys_flags_and_variables_are_unique() {
        let unique = |names: Vec<String>| {
            let mut sorted = names.clone();
            sorted.sort();
            sorted.dedup();
            sorted.len() == names.len()
        };
        assert!(unique(TABLE.iter().map(OptionSpec::flag).collect()));
        assert!(unique(TABLE.iter().map(OptionSpec::env).collect()));
    }

    #[test]
    fn near_misses_are_understood() {
        assert_eq!(nearest("listen.quick"), Some("listen.quic"));
        assert_eq!(nearest("data-dir"), Some("data_dir"));
        assert_eq!(nearest("password"), Some("resp.password"));
        assert_eq!(nearest("storage.ring_size"), Some("storage.ring_bytes"));
        assert_eq!(nearest("listen_quic"), Some("listen.quic"));
        assert_eq!(nearest("colour"), None);
    }
}
