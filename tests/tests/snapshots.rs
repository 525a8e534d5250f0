//! A node that was down while the others cut their logs comes back by snapshots: real processes, small logs, kill -9 in
//! the middle of the installs. Afterwards the node files are opened side by side and hold the same keys and values.

use flotilla_tests::cluster::{Cluster, Node, get, wait_until};
use multiraft::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::{Duration, Instant};
use store_redb::{ClusterId, Identity, Options, Store};

const RANGES: usize = 4;
/// Keys that live at any time; they are written over and over.
const KEYS: usize = 800;
const VALUE_BYTES: usize = 4096;
/// Each round writes 3 MiB.
const ROUNDS: usize = 8;

/// Logs of which next to nothing is kept, checkpoints all the time, and snapshots that take a while.
const SMALL: [&str; 10] = [
    "--storage-ring-bytes",
    "32MiB",
    "--storage-memtable-bytes",
    "1MiB",
    "--storage-kept-log-bytes",
    "64KiB",
    "--network-bulk-rate",
    "1MiB",
    "--limits-value-bytes-max",
    "1MiB",
];

fn key(number: usize) -> String {
    format!("{:02x}:{number}", number * 7 % 256)
}

/// Writes these keys once; the value names the round.
fn write(port: u16, round: usize, keys: Range<usize>) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let mut connection = client.get_connection().expect("a ready node takes connections");
    for first in keys.step_by(50) {
        let mut pipeline = redis::pipe();
        for number in first..first + 50 {
            let mut value = format!("{round}:{number}:").into_bytes();
            value.resize(VALUE_BYTES - number % 64, b'.');
            pipeline.cmd("SET").arg(key(number)).arg(value).ignore();
        }
        wait_until("the writes of a round", || {
            pipeline.query::<()>(&mut connection).is_ok()
        });
    }
}

fn write_round(port: u16, round: usize) {
    write(port, round, 0..KEYS);
}

/// Keys that the node knew and that go while it is down: they must not come back.
fn delete_some(port: u16) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let mut connection = client.get_connection().expect("a ready node takes connections");
    for number in (0..KEYS).step_by(10) {
        let mut delete = redis::cmd("DEL");
        delete.arg(key(number));
        wait_until("a delete", || delete.query::<()>(&mut connection).is_ok());
    }
}

/// Waits until no node has applied anything for a while.
fn wait_until_quiet(cluster: &Cluster) {
    const QUIET: Duration = Duration::from_secs(3);
    let applied = |node: &Node| node.metric("flotilla_raft_applied_entries_total");
    let (mut last, mut since) = (Vec::new(), Instant::now());
    wait_until("the nodes are quiet", || {
        let now: Vec<f64> = cluster.nodes.iter().map(applied).collect();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > QUIET
    });
}

fn cluster_id(node: &Node) -> ClusterId {
    let (_, page) = get(node.http_port, "/metrics").expect("a ready node has metrics");
    let (_, rest) = page
        .split_once("cluster_id=\"")
        .expect("metrics name the cluster");
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&rest[2 * at..2 * at + 2], 16).expect("hexadecimal digits");
    }
    ClusterId(id)
}

type Content = BTreeMap<GroupId, BTreeMap<Vec<u8>, Vec<u8>>>;

/// All groups' keys and values, as a stopped node's file holds them.
fn content(directory: &Path, cluster: ClusterId, node: u64) -> Content {
    let identity = Identity {
        cluster,
        node: NodeId(node),
    };
    let path = directory.join(format!("data-{node}")).join("node.redb");
    let opened = Store::open(&path, identity, Options::small(1)).expect("a stopped node's file opens");
    let state = opened.store.state(0);
    let content = opened.groups.iter().map(|found| {
        let mut rows = BTreeMap::new();
        state.scan(found.group, &[], None, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        });
        (found.group, rows)
    });
    content.collect()
}

fn file_bytes(directory: &Path, node: usize) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = directory.join(format!("data-{node}")).join("node.redb");
    std::fs::metadata(file).expect("the node file is there").blocks() * 512
}

#[test]
fn a_node_that_was_down_past_the_log_comes_back_by_snapshots_with_the_same_data() {
    let mut cluster = Cluster::start(3, RANGES, &SMALL);
    let port = cluster.nodes[0].resp_port;
    write_round(port, 0);
    cluster.nodes[2].kill();
    for round in 1..ROUNDS {
        write_round(port, round);
    }
    delete_some(port);
    let used = file_bytes(cluster.dir.path(), 1);
    println!(
        "{} MiB written while node 3 was down, node 1 uses {} MiB",
        3 * ROUNDS,
        used >> 20
    );

    // Down again in the middle, twice: once at its first snapshot, once between two.
    let installed = |node: &Node| node.metric("flotilla_raft_snapshots_installed_total");
    let wanted = |cluster: &Cluster| {
        let each = cluster.nodes[..2].iter();
        each.map(|node| node.metric("flotilla_raft_snapshots_wanted_total"))
            .sum::<f64>()
    };
    cluster.nodes[2].spawn();
    wait_until("a snapshot for node 3 is on its way", || wanted(&cluster) > 0.0);
    cluster.nodes[2].kill();
    cluster.nodes[2].spawn();
    wait_until("node 3 installs a snapshot", || {
        installed(&cluster.nodes[2]) > 0.0
    });
    let between = installed(&cluster.nodes[2]);
    cluster.nodes[2].kill();
    cluster.nodes[2].spawn();

    write_round(port, ROUNDS);
    delete_some(port);
    cluster.wait_ready();
    // Without node 1, every write needs node 3: when it has acknowledged one in each range, it holds all before.
    assert_eq!(cluster.nodes[0].stop().code(), Some(0));
    write(cluster.nodes[2].resp_port, ROUNDS + 1, 0..50);
    cluster.nodes[0].spawn();
    cluster.wait_ready();
    wait_until_quiet(&cluster);
    println!(
        "{between} installs before the second kill, {} after",
        installed(&cluster.nodes[2])
    );
    let id = cluster_id(&cluster.nodes[0]);
    for node in &mut cluster.nodes {
        assert_eq!(node.stop().code(), Some(0), "node {} stops cleanly", node.id);
    }
    let [first, second, third] = [1, 2, 3].map(|node| content(cluster.dir.path(), id, node));
    let keys: usize = first.values().map(BTreeMap::len).sum();
    assert!(keys >= KEYS - KEYS / 10, "{keys} keys are left");
    assert!(first == second && first == third, "the nodes' data differ");
}
