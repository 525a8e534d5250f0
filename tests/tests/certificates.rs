//! Certificates of real processes: a CA takes the place of another under load, by SIGHUP, without an error to any
//! client and without a link going down; a broken file changes nothing; and a killed node is missed in no time.

use flotilla_tests::cluster::{Cluster, Node, flotilla, run, wait_until};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Acknowledged writes demanded around each step, or the test proves nothing.
const ENOUGH: u64 = 100;
const RELOADED: &str = "flotilla_tls_reloads_total{result=\"ok\"}";
const NOT_RELOADED: &str = "flotilla_tls_reloads_total{result=\"failed\"}";
const EXPIRY: &str = "flotilla_tls_certificate_expiry_timestamp_seconds{certificate=\"node\"}";
const REFUSED: &str = "flotilla_connections_refused_total{by=\"this_node\",reason=\"wrong_ca\"}";

/// The cluster id, from the metric that names the node.
fn cluster_id(node: &Node) -> String {
    let (_, page) = flotilla_tests::cluster::get(node.http_port, "/metrics").expect("metrics");
    let line = page
        .lines()
        .find(|line| line.starts_with("flotilla_node_info{"))
        .expect("the metric");
    let after = line.split("cluster_id=\"").nth(1).expect("the label");
    after.split('"').next().expect("its end").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Puts a file in place at once, as a careful operator does.
fn put(content: &[u8], path: &Path) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).expect("written");
    std::fs::rename(&beside, path).expect("renamed");
}

fn copy(from: &Path, to: &Path) {
    put(&std::fs::read(from).expect("read"), to);
}

/// SIGHUP to all, until each has read its certificates, every link was dialed anew, and enough was written meanwhile
/// and afterwards.
fn reload_all(cluster: &Cluster, written: &AtomicU64) {
    let enough = written.load(Ordering::Relaxed) + ENOUGH;
    let renewals =
        |node: &Node, peer: usize| node.metric(&format!("flotilla_peer_renewals_total{{peer=\"{peer}\"}}"));
    let peers = |id: usize| (1..=3).filter(move |peer| *peer != id);
    let before: Vec<Vec<f64>> = cluster
        .nodes
        .iter()
        .map(|node| peers(node.id).map(|peer| renewals(node, peer)).collect())
        .collect();
    let reloads: Vec<f64> = cluster.nodes.iter().map(|node| node.metric(RELOADED)).collect();
    cluster.nodes.iter().for_each(Node::hang_up);
    for (at, node) in cluster.nodes.iter().enumerate() {
        wait_until(&format!("node {} reads its certificates", node.id), || {
            node.metric(RELOADED) > reloads[at]
        });
        for (which, peer) in peers(node.id).enumerate() {
            wait_until(&format!("the link of {} to {peer} is renewed", node.id), || {
                renewals(node, peer) > before[at][which]
            });
        }
    }
    wait_until("clients write around the renewal", || {
        written.load(Ordering::Relaxed) >= enough
    });
}

/// Writes over every node in turn until told to stop; returns the errors.
fn write_until_stopped(ports: &[u16], stop: &AtomicBool, written: &AtomicU64) -> Vec<String> {
    let connect = |port: &u16| {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("a URL");
        client.get_connection().expect("a ready node takes connections")
    };
    let mut connections: Vec<_> = ports.iter().map(connect).collect();
    let mut errors = Vec::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = usize::try_from(number).expect("small") % connections.len();
        let key = format!("{:02x}:{number}", number % 256);
        match redis::cmd("SET")
            .arg(key)
            .arg("x")
            .query::<()>(&mut connections[at])
        {
            Ok(()) => drop(written.fetch_add(1, Ordering::Relaxed)),
            Err(error) => errors.push(error.to_string()),
        }
        std::thread::sleep(Duration::from_millis(1)); // pace: some traffic all the time, not a load test
    }
    errors
}

/// Runs the CLI's `get` with these certificates.
fn get_with(node: &Node, ca: &Path, client: &Path) -> (bool, String) {
    let endpoint = format!("127.0.0.1:{}", node.quic_port);
    let (cert, key) = (client.with_extension("crt"), client.with_extension("key"));
    let output = Command::new(flotilla())
        .args(["kv", "get", "any", "--endpoints", &endpoint, "--ca", text(ca)])
        .args(["--cert", text(&cert), "--key", text(&key)])
        .output()
        .expect("the binary runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    // Not found is an answer, too.
    (matches!(output.status.code(), Some(0 | 3)), words)
}

#[test]
fn a_ca_is_replaced_under_load_by_sighup_and_nobody_notices() {
    let cluster = Cluster::start(3, 8, &[]);
    let (dir, first) = (cluster.dir.path(), &cluster.nodes[0]);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until_stopped(&ports, &stop, &written));
        replace_ca(&cluster, dir, &written);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(
            writer.join().expect("no panic"),
            Vec::<String>::new(),
            "no write fails"
        );
    });
    let written = written.load(Ordering::Relaxed);
    assert!(
        written >= ENOUGH,
        "only {written} writes: this run proves nothing"
    );
    for node in &cluster.nodes {
        assert_eq!(
            node.metric("flotilla_peer_reconnects_total"),
            0.0,
            "node {}",
            node.id
        );
    }
    refuses_the_old_and_takes_the_new(first, dir);
    a_broken_file_changes_nothing(first, dir);
}

/// The three steps of docs/certificates.md: trust both, show the new ones, trust the new one alone.
fn replace_ca(cluster: &Cluster, dir: &Path, written: &AtomicU64) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    std::fs::create_dir(&old).expect("a directory");
    for file in ["ca.crt", "client.crt", "client.key"] {
        copy(&dir.join(file), &old.join(file));
    }
    run(&[
        "cert",
        "ca",
        "--dir",
        text(&new),
        "--cluster",
        &cluster_id(&cluster.nodes[0]),
    ]);
    for node in &cluster.nodes {
        run(&[
            "cert",
            "node",
            "--dir",
            text(&new),
            "--id",
            &node.id.to_string(),
            "--days",
            "7",
        ]);
    }
    run(&["cert", "client", "--dir", text(&new)]);
    let read = |path: &Path| std::fs::read(path).expect("read");
    let both = [read(&new.join("ca.crt")), read(&old.join("ca.crt"))].concat();
    put(&both, &dir.join("ca.crt"));
    reload_all(cluster, written);
    let expiry = cluster.nodes[0].metric(EXPIRY);
    for node in &cluster.nodes {
        for end in ["key", "crt"] {
            let file = format!("node-{}.{end}", node.id);
            copy(&new.join(&file), &dir.join(&file));
        }
    }
    reload_all(cluster, written);
    assert!(
        cluster.nodes[0].metric(EXPIRY) < expiry,
        "the new certificates are the shorter ones"
    );
    copy(&new.join("ca.crt"), &dir.join("ca.crt"));
    reload_all(cluster, written);
}

fn refuses_the_old_and_takes_the_new(node: &Node, dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    let (taken, words) = get_with(node, &new.join("ca.crt"), &new.join("client"));
    assert!(taken, "{words}");
    let (taken, words) = get_with(node, &old.join("ca.crt"), &old.join("client"));
    assert!(
        !taken && words.contains("invalid peer certificate"),
        "it trusts the old CA alone: {words}"
    );
    let before = node.metric(REFUSED);
    let (taken, words) = get_with(node, &new.join("ca.crt"), &old.join("client"));
    assert!(!taken, "the node trusts the new CA alone: {words}");
    wait_until("the refusal is counted by its reason", || {
        node.metric(REFUSED) > before
    });
}

fn a_broken_file_changes_nothing(node: &Node, dir: &Path) {
    let (reloads, expiry) = (node.metric(RELOADED), node.metric(EXPIRY));
    let whole = std::fs::read(dir.join("node-1.crt")).expect("read");
    put(&whole[..whole.len() / 2], &dir.join("node-1.crt"));
    node.hang_up();
    wait_until("the failed reload is counted", || {
        node.metric(NOT_RELOADED) == 1.0
    });
    assert_eq!((node.metric(RELOADED), node.metric(EXPIRY)), (reloads, expiry));
    let log = std::fs::read_to_string(&node.log).expect("the log");
    let told = log.lines().find(|line| line.contains("could not be read again"));
    assert!(
        told.is_some_and(|line| line.contains("node-1.crt holds no PEM certificate")),
        "{told:?}"
    );
    let (taken, words) = get_with(node, &dir.join("new/ca.crt"), &dir.join("new/client"));
    assert!(taken, "it serves with the old certificate: {words}");
}

#[test]
fn a_killed_node_that_starts_again_is_linked_at_once_because_its_peers_hear_of_the_restart() {
    let mut cluster = Cluster::start(3, 4, &[]);
    cluster.nodes[2].kill();
    cluster.nodes[2].spawn();
    let begun = Instant::now();
    cluster.wait_ready();
    let linked = |node: &Node| node.metric("flotilla_peer_connected{peer=\"3\"}") == 1.0;
    wait_until("both others are linked to it", || {
        cluster.nodes[..2].iter().all(linked)
    });
    println!(
        "linked and ready {:?} after the start of the process",
        begun.elapsed()
    );
    for node in &cluster.nodes[..2] {
        let log = std::fs::read_to_string(&node.log).expect("the log");
        let lost = log
            .lines()
            .find(|line| line.contains("link lost") && line.contains("peer=3"));
        assert!(
            lost.is_some_and(|line| line.contains("the peer restarted")),
            "node {}: {lost:?}",
            node.id
        );
    }
}
