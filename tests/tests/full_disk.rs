//! A cluster of real processes on disks that are really full: writes that grow the state are refused with a reason,
//! nobody ends, no acknowledged write is lost, deletes work and make room, kill -9 changes nothing, and with a larger
//! disk it goes on. Needs the right to mount a tmpfs: without it the run is INVALID and fails.

use flotilla_tests::cluster::{Cluster, get, wait_until};
use redis::{Connection, RedisError, RedisResult};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NODES: usize = 3;
const WRITERS: u64 = 4;
const VALUE_BYTES: usize = 1_900;
/// Acknowledged writes that must fit at first, and refusals that must be seen.
const ENOUGH: usize = 500;

/// A tmpfs of its own, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Disk {
        std::fs::create_dir(&at).expect("a place to mount");
        mount(
            &["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"],
            &at,
        );
        Disk(at)
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], &self.0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(options: &[&str], at: &Path) {
    let done = Command::new("mount").args(options).arg(at).output();
    let done = done.expect("INVALID: there is no `mount` here");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "INVALID: this test must be able to mount a tmpfs: {said}"
    );
}

fn connect(port: u16) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}

/// What was acknowledged, and what is known to be deleted.
#[derive(Default)]
struct Load {
    kept: Mutex<BTreeSet<String>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

fn value_of(key: &str) -> String {
    let mut value = format!("value-of-{key}-");
    while value.len() < VALUE_BYTES {
        value.push_str(key);
    }
    value
}

fn set(connection: &mut Connection, key: &str) -> RedisResult<()> {
    redis::cmd("SET").arg(key).arg(value_of(key)).query(connection)
}

fn is_for_space(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

impl Load {
    /// Writes new keys until so many in a row were refused for want of space.
    fn write(&self, round: &str, writer: u64, port: u16) {
        let mut connection = connect(port).expect("a ready node takes connections");
        let mut in_a_row = 0;
        for number in 0_u64.. {
            if in_a_row >= 20 || self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{:02x}:{round}:{writer}:{number}", number % 256);
            match set(&mut connection, &key) {
                Ok(()) => {
                    self.kept.lock().expect("sound").insert(key);
                    in_a_row = 0;
                }
                Err(error) if is_for_space(&error) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    in_a_row += 1;
                }
                Err(error) if error.is_io_error() => panic!("a node has gone: {error}"),
                Err(_) => (), // overloaded, or no leader for a moment: promised nothing
            }
        }
    }

    /// All writers until all are refused. Returns how many writes were acknowledged.
    fn fill(&self, round: &str, ports: &[u16]) -> usize {
        let before = self.kept.lock().expect("sound").len();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let port = ports[writer as usize % ports.len()];
                scope.spawn(move || self.write(round, writer, port));
            }
        });
        self.kept.lock().expect("sound").len() - before
    }

    /// Deletes every second key.
    fn delete_half(&self, port: u16) -> usize {
        let mut connection = connect(port).expect("a ready node takes connections");
        let mut kept = self.kept.lock().expect("sound");
        let doomed: Vec<String> = kept.iter().step_by(2).cloned().collect();
        for key in &doomed {
            let removed: i64 = redis::cmd("DEL")
                .arg(key)
                .query(&mut connection)
                .expect("deletes work on a full disk");
            assert_eq!(removed, 1, "{key} was acknowledged");
            kept.remove(key);
        }
        doomed.len()
    }

    fn require_all_kept(&self, port: u16) {
        let mut connection = connect(port).expect("a ready node takes connections");
        let kept = self.kept.lock().expect("sound");
        for key in kept.iter() {
            let found: Option<String> = redis::cmd("GET")
                .arg(key)
                .query(&mut connection)
                .expect("reads work on a full disk");
            assert_eq!(found, Some(value_of(key)), "{key} was acknowledged");
        }
    }
}

/// Waits until a write of a new key is acknowledged.
fn wait_for_growth(load: &Load, port: u16, when: &str) {
    let mut connection = connect(port).expect("a ready node takes connections");
    let key = format!("growth {when}");
    wait_until(&format!("a write is taken {when}"), || {
        let done = set(&mut connection, &key);
        assert!(!done.as_ref().is_err_and(RedisError::is_io_error), "{done:?}");
        done.is_ok()
    });
    load.kept.lock().expect("sound").insert(key);
}

fn metric(port: u16, name: &str) -> u64 {
    let (_, text) = get(port, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("{name} in\n{text}"));
    value.trim().parse().expect("a number")
}

#[test]
fn full_disks_refuse_growth_lose_nothing_and_recover() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disks: Vec<Disk> = (1..=NODES)
        .map(|id| Disk::mount(dir.path().join(format!("data-{id}")), "64m"))
        .collect();
    let more = [
        "--storage-ring-bytes=16MiB",
        "--storage-memtable-bytes=1MiB",
        "--storage-cache-bytes=4MiB",
    ];
    let mut cluster = Cluster::start_in(dir, NODES, 4, &more);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    let load = Load::default();

    let written = load.fill("first", &ports);
    let refused = load.refused.load(Ordering::Relaxed);
    println!("{written} writes of {VALUE_BYTES} bytes fitted, {refused} were refused");
    assert!(
        written >= ENOUGH && refused >= 20,
        "INVALID: {written} written, {refused} refused"
    );
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| metric(node.http_port, "flotilla_storage_free_bytes ") > 0)
    );
    let short = cluster
        .nodes
        .iter()
        .map(|node| metric(node.http_port, "flotilla_storage_space_shortage "));
    assert!(short.sum::<u64>() > 0, "somebody says that space is short");
    load.require_all_kept(ports[0]);

    let deleted = load.delete_half(ports[1]);
    wait_for_growth(&load, ports[2], "after deletes");
    let again = load.fill("second", &ports);
    println!("{deleted} deletes made room for {again} writes");
    assert!(
        again > deleted / 4,
        "INVALID: pages of deleted keys were hardly used again"
    );
    load.require_all_kept(ports[1]);

    cluster.nodes.iter_mut().for_each(|node| node.kill());
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.wait_ready();
    load.require_all_kept(ports[2]);
    load.delete_half(ports[0]);

    disks.iter().for_each(|disk| disk.resize("128m"));
    wait_for_growth(&load, ports[0], "on a larger disk");
    let third = load.fill("third", &ports);
    assert!(third >= ENOUGH, "INVALID: {third} writes on a larger disk");
    load.require_all_kept(ports[0]);
    for node in &mut cluster.nodes {
        let status = node.stop();
        assert_eq!(
            status.code(),
            Some(0),
            "node {} after SIGTERM on a full disk",
            node.id
        );
    }
    drop(cluster);
    drop(disks);
}
