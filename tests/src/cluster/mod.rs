//! Clusters of real `flotilla start` processes on loopback: started, killed and restarted by pid, never by name.
//! No load and no checks here; those are the tests'.

mod http;
mod links;
mod node;
mod ports;
pub mod threads;

pub use http::get;
pub use links::Links;
pub use node::Node;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a wait may take before the test fails: generous, because a loaded machine is slow, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A static cluster with its own CA, directories and ports. Dropping it kills what still runs.
#[derive(Debug)]
pub struct Cluster {
    /// Nodes 1..=n in order.
    pub nodes: Vec<Node>,
    /// Holds certificates, node directories and logs; removed when dropped.
    pub dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` processes with `ranges` ranges and waits until each says it is ready.
    pub fn start(count: usize, ranges: usize, more: &[&str]) -> Cluster {
        Cluster::start_in(temporary(), count, ranges, more)
    }

    /// The same in a directory that may hold the nodes' directories `data-<id>` already.
    pub fn start_in(dir: tempfile::TempDir, count: usize, ranges: usize, more: &[&str]) -> Cluster {
        let ports = free_ports(count);
        let members = members(ports.iter().map(|ports| loopback(ports[0])));
        Cluster::start_on(dir, &ports, |_| members.clone(), ranges, more)
    }

    /// The same, but every node reaches every other through a proxy of its own.
    pub fn start_behind_links(count: usize, ranges: usize, more: &[&str], seed: u64) -> (Cluster, Links) {
        let ports = free_ports(count);
        let links = Links::between(&ports.iter().map(|ports| ports[0]).collect::<Vec<_>>(), seed);
        let view = |from: usize| {
            let reach = |to: usize| links.address(from, to).unwrap_or_else(|| loopback(ports[to][0]));
            members((0..count).map(reach))
        };
        (Cluster::start_on(temporary(), &ports, view, ranges, more), links)
    }

    fn start_on(
        dir: tempfile::TempDir,
        ports: &[[u16; 3]],
        view: impl Fn(usize) -> String,
        ranges: usize,
        more: &[&str],
    ) -> Cluster {
        make_certificates(dir.path(), ports.len());
        let node =
            |(at, ports): (usize, &[u16; 3])| Node::new(at + 1, *ports, dir.path(), &view(at), ranges, more);
        let mut nodes: Vec<Node> = ports.iter().enumerate().map(node).collect();
        nodes.iter_mut().for_each(Node::spawn);
        let cluster = Cluster { nodes, dir };
        cluster.wait_ready();
        cluster
    }

    /// Waits until every running node says it is ready; fails the test with the node's log if one does not.
    pub fn wait_ready(&self) {
        self.nodes
            .iter()
            .filter(|node| node.is_running())
            .for_each(Node::wait_ready);
    }
}

/// Polls `condition` until it holds; fails the test with `what` after `PATIENCE`.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < PATIENCE,
            "still waiting after {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20)); // pace: polling, bounded by PATIENCE
    }
}

/// The binary under test, built once per run in the profile of this test, unless `FLOTILLA_TESTS_BINARY` names another
/// one: a release, or one with a bug that the tests must find.
pub fn flotilla() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    if let Some(given) = std::env::var_os("FLOTILLA_TESTS_BINARY") {
        return given.into();
    }
    let exe = std::env::current_exe().expect("a test has a path");
    // Tests run from target/PROFILE/deps, binaries from target/PROFILE.
    let mut folders = exe.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    let profile = folders.next().expect("target/PROFILE").to_owned();
    let release: &[&str] = if profile.ends_with("release") {
        &["--release"]
    } else {
        &[]
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Minutes, if nothing is built yet or another cargo holds the folder: nobody should take that for a test that hangs.
    eprintln!("building the binary under test (FLOTILLA_TESTS_BINARY names none)");
    let status = Command::new(cargo)
        // The whole workspace's features, as in the run of the tests: nothing is compiled twice.
        .args(["build", "--quiet", "--workspace", "--bins"])
        .args(release)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build of the binary failed");
    profile.join("flotilla")
}

/// Runs the binary with these arguments and fails the test if it fails.
pub fn run(arguments: &[&str]) -> String {
    let output = Command::new(flotilla())
        .args(arguments)
        .output()
        .expect("the binary runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "flotilla {arguments:?}: {}\n{out}\n{err}",
        output.status
    );
    out.into_owned()
}

/// A CA, a certificate for each node, and one for a client, made by the CLI.
fn make_certificates(dir: &std::path::Path, count: usize) {
    let dir = dir.to_str().expect("temporary paths are text");
    run(&["cert", "ca", "--dir", dir]);
    for id in 1..=count {
        run(&[
            "cert",
            "node",
            "--dir",
            dir,
            "--id",
            &id.to_string(),
            "--host",
            "127.0.0.1",
        ]);
    }
    run(&["cert", "client", "--dir", dir]);
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Ports for QUIC, HTTP and RESP of so many nodes.
fn free_ports(count: usize) -> Vec<[u16; 3]> {
    (0..count).map(|_| [(); 3].map(|()| ports::free())).collect()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The text of `--initial-cluster`.
fn members(addresses: impl Iterator<Item = SocketAddr>) -> String {
    let member = |(at, address)| format!("{}={address}", at + 1);
    addresses.enumerate().map(member).collect::<Vec<_>>().join(",")
}
