//! Every metric of one node, as handles resolved once: no label look-up, no macro and no registry at a call site.
//! This is the only module that knows the metrics crate. It measures nothing itself and never blocks.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use transport_quic::{By, Refusal, Refusals};

/// A counter that only grows.
pub type Counter = IntCounter;
/// A value that goes up and down.
pub type Gauge = IntGauge;
/// A gauge with a fraction (seconds).
pub type FloatGauge = prometheus::Gauge;

/// Which door a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// RESP2 or RESP3 over TCP.
    Resp,
    /// The native protocol over QUIC.
    Native,
    /// Another node that forwards its clients' requests.
    Peer,
    /// This node's own duties (expiry stamps).
    Internal,
}

/// The text of each `Api`, at its own index.
const APIS: [&str; 4] = ["resp", "native", "peer", "internal"];

/// Read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A linearizable read.
    Read,
    /// A proposal.
    Write,
}

const OPS: [&str; 2] = ["read", "write"];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Answered.
    Ok,
    /// No leader took it in time.
    NotLeader,
    /// Too much was waiting already.
    Overloaded,
    /// It may or may not have taken effect.
    Unknown,
    /// The process is stopping, or the group is not here.
    Unavailable,
    /// It can never be taken.
    Invalid,
    /// Disk space is short.
    NoSpace,
}

const CODES: [&str; 7] = [
    "ok",
    "not_leader",
    "overloaded",
    "unknown",
    "unavailable",
    "invalid",
    "no_space",
];

/// The stages of a write on the node that leads, in order. Together they are the whole time from `submit` to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the gateway's hand-over until a worker's turn took it.
    Queue,
    /// From there until the worker handed the batch that holds it to the disk.
    Propose,
    /// From there until the batch was durable here.
    Durable,
    /// From there until a quorum held it; zero when the followers were faster than our own disk.
    Replicate,
    /// Applying the batch it was committed with.
    Apply,
    /// From applied until the gateway had the answer.
    Answer,
}

const STAGES: [&str; 6] = ["queue", "propose", "durable", "replicate", "apply", "answer"];

/// Requests by door, kind and end.
#[derive(Debug)]
pub struct Requests {
    total: [[[Counter; 7]; 2]; 4],
    duration: [Histogram; 2],
    /// Requests handed over and not yet answered.
    pub inflight: Gauge,
    /// Requests sent on to the node that leads their group.
    pub forwarded: Counter,
    /// Requests sent again after a definite refusal.
    pub resent: Counter,
    /// Answers that came after their request had been given up.
    pub late: Counter,
}

impl Requests {
    /// Counts one finished request.
    pub fn finished(&self, api: Api, op: Op, code: Code, took: Duration) {
        self.total[api as usize][op as usize][code as usize].inc();
        self.duration[op as usize].observe(took.as_secs_f64());
    }
}

/// Where the time of a write goes.
#[derive(Debug)]
pub struct Stages {
    seconds: [Histogram; 6],
}

impl Stages {
    /// Records one stage of one traced write.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.seconds[stage as usize].observe(took.as_secs_f64());
    }
}

/// Consensus, summed over the groups of this node.
#[derive(Debug)]
pub struct Raft {
    /// Elections this node's replicas won.
    pub elections_won: Counter,
    /// Changes of leader seen.
    pub leader_changes: Counter,
    /// Proposals handed to workers.
    pub proposals: Counter,
    /// Times a peer needed log that is cut.
    pub snapshots_wanted: Counter,
    /// Snapshots that peers took.
    pub snapshots_sent: Counter,
    /// Snapshots that peers did not take, or not wholly.
    pub snapshots_failed: Counter,
    /// Snapshots that took the place of a range's state here.
    pub snapshots_installed: Counter,
    /// Entries applied.
    pub applied_entries: Counter,
    /// Groups led here.
    pub groups_leader: Gauge,
    /// Groups followed here.
    pub groups_follower: Gauge,
    /// Groups whose leader is not known here.
    pub groups_leaderless: Gauge,
    /// How long each apply call took.
    pub apply_duration: Histogram,
}

/// The node file.
#[derive(Debug)]
pub struct Storage {
    /// One durable write of the log.
    pub commit_duration: Histogram,
    /// Entries in one durable write.
    pub commit_entries: Histogram,
    /// Workers' batches folded into one durable write.
    pub commit_batches: Histogram,
    /// Bytes written to the log.
    pub commit_bytes: Counter,
    /// Bytes of the log ring in use.
    pub ring_used_bytes: Gauge,
    /// Bytes of the log ring.
    pub ring_size_bytes: Gauge,
    /// Bytes in memtables, not yet checkpointed.
    pub memtable_bytes: Gauge,
    /// Checkpoints made durable.
    pub checkpoints: Counter,
    /// Bytes of redb's part of the node file.
    pub file_bytes: Gauge,
    /// Bytes free on the disk.
    pub free_bytes: Gauge,
    /// Bytes that free pages of the node file add to them, as last counted.
    pub reusable_bytes: Gauge,
    /// Bytes of both that must be there for the state to grow.
    pub needed_bytes: Gauge,
    /// 0: enough space; 1 and 2: the state may not grow; 3: nothing can be written.
    pub space_shortage: Gauge,
    /// Passes of the scrubber over the node file.
    pub scrub_passes: Counter,
    /// Bytes that the scrubber verified.
    pub scrub_bytes: Counter,
    /// Damage that it found.
    pub scrub_errors: Counter,
    /// When its last pass ended, in seconds since 1970; 0: none did.
    pub scrub_ended: Gauge,
    /// What was refused for want of room, in the order of `REFUSALS`.
    pub refusals: [Counter; 8],
}

/// Label values (what, why) of what was refused.
const REFUSALS: [(&str, &str); 8] = [
    ("proposal", "waiting"),
    ("proposal", "log"),
    ("proposal", "memory"),
    ("proposal", "space"),
    ("proposal", "too_large"),
    ("append", "full"),
    ("append", "space"),
    ("append", "too_large"),
];

/// One link to another node.
#[derive(Clone, Debug)]
pub struct Peer {
    /// 1 while the link is up.
    pub connected: Gauge,
    /// Smoothed round trip time.
    pub rtt: FloatGauge,
    /// Bytes waiting to be sent.
    pub queue_bytes: Gauge,
    /// Frames dropped because the queue was full or the link down.
    pub dropped: Counter,
    /// Bytes sent.
    pub sent_bytes: Counter,
    /// Bytes received.
    pub received_bytes: Counter,
    /// Links that came up after the first.
    pub reconnects: Counter,
    /// Living links that were dialed anew.
    pub renewals: Counter,
}

/// Certificates, and connections refused.
#[derive(Debug)]
pub struct Tls {
    /// When the node's own certificate ends, in seconds since 1970.
    pub node_expiry: Gauge,
    /// When the first of the trusted CAs ends.
    pub ca_expiry: Gauge,
    /// Certificates read again and used.
    pub reloads_ok: Counter,
    /// Certificates that could not be read or used: the old ones stayed.
    pub reloads_failed: Counter,
    /// Connections refused by this node, and by the other side, at the index of the reason.
    refused: [[Counter; Refusal::ALL.len()]; 2],
}

impl Tls {
    /// Brings the counters of refused connections up to date.
    pub fn note_refusals(&self, refusals: &Refusals) {
        for (by, counters) in [By::Us, By::OtherSide].into_iter().zip(&self.refused) {
            for (reason, counter) in Refusal::ALL.into_iter().zip(counters) {
                raise(counter, refusals.count(by, reason));
            }
        }
    }
}

/// Gateways.
#[derive(Debug)]
pub struct Clients {
    /// Open connections by door.
    connections: [Gauge; 4],
}

impl Clients {
    /// Open connections of this door.
    pub fn connections(&self, api: Api) -> &Gauge {
        &self.connections[api as usize]
    }
}

/// Who this node is, for labels that never change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster id.
    pub cluster: String,
    /// The node id.
    pub node: u64,
}

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    peers: Mutex<BTreeMap<u64, Peer>>,
    peer_families: PeerFamilies,
    healthcheck: IntGaugeVec,
    /// Requests.
    pub requests: Requests,
    /// The write path.
    pub stages: Stages,
    /// Consensus.
    pub raft: Raft,
    /// The node file.
    pub storage: Storage,
    /// Gateways.
    pub clients: Clients,
    /// Certificates, and connections refused.
    pub tls: Tls,
}

impl Metrics {
    /// Registers everything, every child at 0.
    pub fn new(identity: &Identity) -> Metrics {
        let registry = Registry::new();
        let maker = Maker(&registry);
        maker.info(identity);
        #[cfg(target_os = "linux")]
        maker.register(prometheus::process_collector::ProcessCollector::for_self());
        Metrics {
            requests: maker.requests(),
            stages: maker.stages(),
            raft: maker.raft(),
            storage: maker.storage(),
            clients: maker.clients(),
            tls: maker.tls(),
            peer_families: maker.peer_families(),
            healthcheck: maker.gauges(
                "flotilla_healthcheck",
                "1 when the health check passed when it was last asked.",
                &["type", "name"],
            ),
            peers: Mutex::new(BTreeMap::new()),
            registry,
        }
    }

    /// The handles of one peer, made at first use.
    pub fn peer(&self, node: u64) -> Peer {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers
            .entry(node)
            .or_insert_with(|| self.peer_families.peer(node))
            .clone()
    }

    /// Records how a health check ended.
    pub fn health(&self, kind: &str, name: &str, passed: bool) {
        self.healthcheck
            .with_label_values(&[kind, name])
            .set(i64::from(passed));
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing text to memory cannot fail");
        text
    }
}

/// Raises a counter that mirrors a total kept elsewhere.
pub fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[derive(Debug)]
struct PeerFamilies {
    connected: IntGaugeVec,
    rtt: prometheus::GaugeVec,
    queue_bytes: IntGaugeVec,
    dropped: IntCounterVec,
    bytes: IntCounterVec,
    reconnects: IntCounterVec,
    renewals: IntCounterVec,
}

impl PeerFamilies {
    fn peer(&self, node: u64) -> Peer {
        let node = node.to_string();
        let peer = [node.as_str()];
        Peer {
            connected: self.connected.with_label_values(&peer),
            rtt: self.rtt.with_label_values(&peer),
            queue_bytes: self.queue_bytes.with_label_values(&peer),
            dropped: self.dropped.with_label_values(&peer),
            sent_bytes: self.bytes.with_label_values(&[&node, "sent"]),
            received_bytes: self.bytes.with_label_values(&[&node, "received"]),
            reconnects: self.reconnects.with_label_values(&peer),
            renewals: self.renewals.with_label_values(&peer),
        }
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register(&self, collector: impl Collector + 'static) {
        self.0
            .register(Box::new(collector))
            .expect("metric names are unique and valid");
    }

    fn made<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("metric options are valid");
        self.register(made.clone());
        made
    }

    fn counter(&self, name: &str, text: &str) -> Counter {
        self.made(Counter::new(name, text))
    }

    fn counters(&self, name: &str, text: &str, labels: &[&str]) -> IntCounterVec {
        self.made(IntCounterVec::new(Opts::new(name, text), labels))
    }

    fn gauge(&self, name: &str, text: &str) -> Gauge {
        self.made(Gauge::new(name, text))
    }

    fn gauges(&self, name: &str, text: &str, labels: &[&str]) -> IntGaugeVec {
        self.made(IntGaugeVec::new(Opts::new(name, text), labels))
    }

    fn histogram(&self, name: &str, text: &str, buckets: Vec<f64>) -> Histogram {
        self.made(Histogram::with_opts(
            HistogramOpts::new(name, text).buckets(buckets),
        ))
    }

    fn histograms(&self, name: &str, text: &str, label: &str) -> HistogramVec {
        let options = HistogramOpts::new(name, text).buckets(seconds_buckets());
        self.made(HistogramVec::new(options, &[label]))
    }

    fn info(&self, identity: &Identity) {
        let build = self.gauges(
            "flotilla_build_info",
            "Always 1; the labels name the build.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let node = self.gauges(
            "flotilla_node_info",
            "Always 1; the labels name the node.",
            &["cluster_id", "node_id"],
        );
        node.with_label_values(&[&identity.cluster, &identity.node.to_string()])
            .set(1);
    }

    fn requests(&self) -> Requests {
        let total = self.counters(
            "flotilla_requests_total",
            "Finished requests to one group, by door, kind and end.",
            &["api", "op", "code"],
        );
        let duration = self.histograms(
            "flotilla_request_duration_seconds",
            "From hand-over by the gateway until its answer.",
            "op",
        );
        Requests {
            total: APIS.map(|api| OPS.map(|op| CODES.map(|code| total.with_label_values(&[api, op, code])))),
            duration: OPS.map(|op| duration.with_label_values(&[op])),
            inflight: self.gauge("flotilla_requests_inflight", "Requests not yet answered."),
            forwarded: self.counter(
                "flotilla_requests_forwarded_total",
                "Requests sent on to the node that leads their group.",
            ),
            resent: self.counter(
                "flotilla_requests_resent_total",
                "Requests sent again after a refusal that proposed nothing.",
            ),
            late: self.counter(
                "flotilla_requests_late_answers_total",
                "Answers that came after their request had been given up.",
            ),
        }
    }

    fn stages(&self) -> Stages {
        let seconds = self.histograms(
            "flotilla_write_stage_seconds",
            "Where the time of a write goes on the node that leads; the stages add up to the whole. Sampled: one write \
             is followed at a time.",
            "stage",
        );
        Stages {
            seconds: STAGES.map(|stage| seconds.with_label_values(&[stage])),
        }
    }

    fn raft(&self) -> Raft {
        let groups = self.gauges(
            "flotilla_raft_groups",
            "Groups with a replica on this node, by what that replica is.",
            &["role"],
        );
        Raft {
            elections_won: self.counter(
                "flotilla_raft_elections_won_total",
                "Elections that replicas of this node won.",
            ),
            leader_changes: self.counter(
                "flotilla_raft_leader_changes_total",
                "Changes of leader that replicas of this node saw.",
            ),
            proposals: self.counter("flotilla_raft_proposals_total", "Proposals handed to workers."),
            snapshots_wanted: self.counter(
                "flotilla_raft_snapshots_wanted_total",
                "Times a peer needed log that is cut: it is sent a snapshot.",
            ),
            snapshots_sent: self.counter(
                "flotilla_raft_snapshots_sent_total",
                "Snapshots of ranges that other nodes took from this one.",
            ),
            snapshots_failed: self.counter(
                "flotilla_raft_snapshots_failed_total",
                "Snapshots of ranges that other nodes did not take, or not wholly; they are sent again.",
            ),
            snapshots_installed: self.counter(
                "flotilla_raft_snapshots_installed_total",
                "Snapshots that took the place of a range's state on this node.",
            ),
            applied_entries: self.counter("flotilla_raft_applied_entries_total", "Entries applied."),
            groups_leader: groups.with_label_values(&["leader"]),
            groups_follower: groups.with_label_values(&["follower"]),
            groups_leaderless: groups.with_label_values(&["leaderless"]),
            apply_duration: self.histogram(
                "flotilla_raft_apply_duration_seconds",
                "One call that applies committed entries of one group.",
                seconds_buckets(),
            ),
        }
    }

    fn storage(&self) -> Storage {
        let refusals = self.counters(
            "flotilla_storage_refusals_total",
            "Proposals refused to clients and appends not taken from leaders, for want of room, by reason.",
            &["what", "reason"],
        );
        Storage {
            commit_duration: self.histogram(
                "flotilla_storage_commit_duration_seconds",
                "One durable write of the log: the write and its fsync.",
                seconds_buckets(),
            ),
            commit_entries: self.histogram(
                "flotilla_storage_commit_entries",
                "Entries in one durable write of the log.",
                count_buckets(),
            ),
            commit_batches: self.histogram(
                "flotilla_storage_commit_batches",
                "Workers' batches folded into one durable write of the log.",
                count_buckets(),
            ),
            commit_bytes: self.counter(
                "flotilla_storage_commit_bytes_total",
                "Bytes written to the log, padding included.",
            ),
            ring_used_bytes: self.gauge(
                "flotilla_storage_ring_used_bytes",
                "Bytes of the log ring in use.",
            ),
            ring_size_bytes: self.gauge("flotilla_storage_ring_size_bytes", "Size of the log ring."),
            memtable_bytes: self.gauge(
                "flotilla_storage_memtable_bytes",
                "Applied bytes in memory that no checkpoint holds yet.",
            ),
            checkpoints: self.counter("flotilla_storage_checkpoints_total", "Checkpoints made durable."),
            file_bytes: self.gauge(
                "flotilla_storage_file_bytes",
                "Bytes of the node file's data part, without the log ring.",
            ),
            free_bytes: self.gauge("flotilla_storage_free_bytes", "Bytes free on the node file's disk."),
            reusable_bytes: self.gauge(
                "flotilla_storage_reusable_bytes",
                "Bytes in free pages of the node file. Counted only when the disk's free bytes do not suffice.",
            ),
            needed_bytes: self.gauge(
                "flotilla_storage_needed_bytes",
                "Free and reusable bytes that must be there for the state to grow: two checkpoints at worst.",
            ),
            space_shortage: self.gauge(
                "flotilla_storage_space_shortage",
                "0: enough disk space; 1: only what frees space is taken; 2: from leaders, too; 3: nothing is taken.",
            ),
            scrub_passes: self.counter(
                "flotilla_storage_scrub_passes_total",
                "Passes of the scrubber over the node file.",
            ),
            scrub_bytes: self.counter(
                "flotilla_storage_scrub_bytes_total",
                "Bytes that the scrubber compared with their checksums.",
            ),
            scrub_errors: self.counter(
                "flotilla_storage_scrub_errors_total",
                "Damage that the scrubber found: a header that was written again, or what ended the process. Alarm above 0.",
            ),
            scrub_ended: self.gauge(
                "flotilla_storage_scrub_last_pass_seconds",
                "When the scrubber's last pass ended, in seconds since 1970; 0: none did since the start.",
            ),
            refusals: REFUSALS.map(|(what, reason)| refusals.with_label_values(&[what, reason])),
        }
    }

    fn clients(&self) -> Clients {
        let connections = self.gauges(
            "flotilla_client_connections",
            "Open connections by door.",
            &["api"],
        );
        Clients {
            connections: APIS.map(|api| connections.with_label_values(&[api])),
        }
    }

    fn tls(&self) -> Tls {
        let expiry = self.gauges(
            "flotilla_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends.",
            &["certificate"],
        );
        let reloads = self.counters(
            "flotilla_tls_reloads_total",
            "Certificates read again on SIGHUP, by whether they could be used.",
            &["result"],
        );
        let refused = self.counters(
            "flotilla_connections_refused_total",
            "QUIC connections refused, by who refused and why.",
            &["by", "reason"],
        );
        let by = |side: &str| Refusal::ALL.map(|reason| refused.with_label_values(&[side, reason.name()]));
        Tls {
            node_expiry: expiry.with_label_values(&["node"]),
            ca_expiry: expiry.with_label_values(&["ca"]),
            reloads_ok: reloads.with_label_values(&["ok"]),
            reloads_failed: reloads.with_label_values(&["failed"]),
            refused: [by("this_node"), by("other_side")],
        }
    }

    fn peer_families(&self) -> PeerFamilies {
        let peer = &["peer"];
        let rtt = Opts::new(
            "flotilla_peer_rtt_seconds",
            "Smoothed round trip time of the link.",
        );
        PeerFamilies {
            connected: self.gauges("flotilla_peer_connected", "1 while the link is up.", peer),
            rtt: self.made(prometheus::GaugeVec::new(rtt, peer)),
            queue_bytes: self.gauges(
                "flotilla_peer_send_queue_bytes",
                "Bytes waiting to be sent on the link.",
                peer,
            ),
            dropped: self.counters(
                "flotilla_peer_frames_dropped_total",
                "Frames dropped because the queue was full or the link down.",
                peer,
            ),
            bytes: self.counters(
                "flotilla_peer_bytes_total",
                "UDP bytes of the link.",
                &["peer", "direction"],
            ),
            reconnects: self.counters(
                "flotilla_peer_reconnects_total",
                "Links that came up after the first, renewals not counted.",
                peer,
            ),
            renewals: self.counters(
                "flotilla_peer_renewals_total",
                "Living links that were dialed anew, for new certificates or for their age.",
                peer,
            ),
        }
    }
}

/// 50 us doubling to 26 s.
fn seconds_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(50e-6, 2.0, 20).expect("a positive start, a factor above 1, some buckets")
}

/// 1 doubling to 4096.
fn count_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(1.0, 2.0, 13).expect("a positive start, a factor above 1, some buckets")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&Identity {
            cluster: "c".into(),
            node: 1,
        })
    }

    #[test]
    fn every_child_exists_before_the_first_event() {
        let text = String::from_utf8(metrics().render()).expect("text");
        for stage in STAGES {
            assert!(text.contains(&format!(
                "flotilla_write_stage_seconds_count{{stage=\"{stage}\"}} 0"
            )));
        }
        assert!(text.contains("flotilla_requests_total{api=\"resp\",code=\"ok\",op=\"write\"} 0"));
        assert!(text.contains("process_resident_memory_bytes"));
    }

    #[test]
    fn series_stay_within_the_budget_of_a_node_with_many_peers() {
        let metrics = metrics();
        for node in 0..50 {
            metrics.peer(node);
        }
        let text = String::from_utf8(metrics.render()).expect("text");
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series <= 1_500, "{series} series");
    }

    #[test]
    fn a_finished_request_lands_in_its_own_series() {
        let metrics = metrics();
        metrics
            .requests
            .finished(Api::Native, Op::Read, Code::Unknown, Duration::from_millis(3));
        let text = String::from_utf8(metrics.render()).expect("text");
        assert!(text.contains("flotilla_requests_total{api=\"native\",code=\"unknown\",op=\"read\"} 1"));
        assert!(text.contains("flotilla_request_duration_seconds_count{op=\"read\"} 1"));
    }
}
