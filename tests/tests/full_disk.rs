//! Real processes on disks that are really full. When their own data fills the disks: writes that grow the state are
//! refused with a reason, nobody ends, deletes work and make room. When somebody else fills the disk within a moment:
//! the same, or the end with code 70. No acknowledged write is lost, also by kill -9; with more space it goes on.
//!
//! A disk is a tmpfs in a mount namespace of the test's own, which needs no privileges on most systems. Where it can not
//! be had, the test says NOT RUN; `store-redb/src/tests/space.rs` proves the same rules on a simulated disk.

use flotilla_tests::cluster::{Cluster, Node, flotilla, wait_until};
use redis::{Connection, ConnectionLike, RedisError, RedisResult, Value};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NODES: usize = 3;
const WRITERS: u64 = 4;
const VALUE_BYTES: usize = 1_900;
/// Reads, and deletes, on their way at a time.
const PIPELINED: usize = 100;
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
    let done = done.expect("there is a `mount`: the namespace was tried before");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{options:?}: {said}");
}

/// Set in the process that may mount.
const INSIDE: &str = "FLOTILLA_TESTS_MAY_MOUNT";

/// Ways to a mount namespace: of an ordinary user, and of root where users may not have one.
const WAYS: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];

/// True in a process that may mount what nobody else sees. Otherwise runs the same test in such a process, and fails if
/// it fails there.
fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = tempfile::tempdir().expect("a temporary directory");
    let unshare = |way: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(way);
        command
    };
    let is_open = |way: &&&[&str]| {
        let mut tried = unshare(way);
        let tried = tried.args(["mount", "-t", "tmpfs", "tmpfs"]).arg(probe.path());
        tried.output().is_ok_and(|tried| tried.status.success())
    };
    let Some(way) = WAYS.iter().find(is_open) else {
        // Not through the macros: what they print is seen only when a test fails.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: no tmpfs can be mounted here");
        return false;
    };
    let inside = unshare(way)
        .arg(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env("FLOTILLA_TESTS_BINARY", flotilla())
        .output()
        .expect("it was tried");
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", told(&inside.stdout));
    assert!(inside.status.success(), "{}", told(&inside.stderr));
    false
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
                Err(error) if error.is_io_error() => return, // the node has gone: others ask why
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

    /// As often until so many writes were acknowledged: what deletes free can be used some checkpoints later.
    fn fill_until(&self, round: &str, ports: &[u16], enough: usize) -> usize {
        let (mut written, mut attempt) = (0, 0);
        wait_until(&format!("{enough} writes fit in the {round} round"), || {
            attempt += 1;
            written += self.fill(&format!("{round}-{attempt}"), ports);
            written >= enough
        });
        written
    }

    /// Deletes the first half of all keys: neighbours, as pages are used again only when nothing is left in them. A full
    /// disk takes deletes; only while a checkpoint waits for space nothing is taken, so what was refused is asked for again.
    fn delete_half(&self, port: u16) -> usize {
        let mut connection = connect(port).expect("a ready node takes connections");
        let mut kept = self.kept.lock().expect("sound");
        let doomed: Vec<String> = kept.iter().take(kept.len() / 2).cloned().collect();
        for keys in doomed.chunks(PIPELINED) {
            let mut left: Vec<&String> = keys.iter().collect();
            wait_until("keys are deleted", || {
                left = delete(&mut connection, &left);
                left.is_empty()
            });
            keys.iter().for_each(|key| {
                kept.remove(key);
            });
        }
        doomed.len()
    }

    fn require_all_kept(&self, port: u16) {
        let mut connection = connect(port).expect("a ready node takes connections");
        let kept: Vec<String> = self.kept.lock().expect("sound").iter().cloned().collect();
        for keys in kept.chunks(PIPELINED) {
            let mut gets = redis::pipe();
            keys.iter().for_each(|key| {
                gets.cmd("GET").arg(key);
            });
            let found: Vec<Option<String>> = gets.query(&mut connection).expect("reads work on a full disk");
            for (key, found) in keys.iter().zip(found) {
                assert_eq!(found, Some(value_of(key)), "{key} was acknowledged");
            }
        }
    }
}

/// Deletes these keys; returns those that were refused, or whose fate is not known.
fn delete<'a>(connection: &mut Connection, keys: &[&'a String]) -> Vec<&'a String> {
    let mut deletes = redis::pipe();
    keys.iter().for_each(|key| {
        deletes.cmd("DEL").arg(*key);
    });
    let answers = connection.req_packed_commands(&deletes.get_packed_pipeline(), 0, keys.len());
    let answers = answers.expect("every node is there");
    let is_refused = |answer: &Value| matches!(answer, Value::ServerError(_));
    let refused = keys.iter().zip(&answers).filter(|(_, answer)| is_refused(answer));
    refused.map(|(key, _)| *key).collect()
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

const SMALL: [&str; 3] = [
    "--storage-ring-bytes=16MiB",
    "--storage-memtable-bytes=1MiB",
    "--storage-cache-bytes=4MiB",
];

fn require_running(nodes: &mut [Node]) {
    for node in nodes {
        let ended = node.ended();
        assert_eq!(ended, None, "node {} asks before it fills its disk", node.id);
    }
}

#[test]
fn full_disks_refuse_growth_lose_nothing_and_recover() {
    if !may_mount("full_disks_refuse_growth_lose_nothing_and_recover") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disks: Vec<Disk> = (1..=NODES)
        .map(|id| Disk::mount(dir.path().join(format!("data-{id}")), "64m"))
        .collect();
    let mut cluster = Cluster::start_in(dir, NODES, 4, &SMALL);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    let load = Load::default();

    let written = load.fill("first", &ports);
    let refused = load.refused.load(Ordering::Relaxed);
    println!("{written} writes of {VALUE_BYTES} bytes fitted, {refused} were refused");
    assert!(
        written >= ENOUGH && refused >= 20,
        "INVALID: {written} written, {refused} refused"
    );
    let refusals = |what: &str| -> f64 {
        let series = format!("flotilla_storage_refusals_total{{reason=\"space\",what=\"{what}\"}}");
        cluster.nodes.iter().map(|node| node.metric(&series)).sum()
    };
    assert!(refusals("proposal") > 0.0, "somebody counts what was refused");
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| node.metric("flotilla_storage_free_bytes") > 0.0)
    );
    load.require_all_kept(ports[0]);
    require_running(&mut cluster.nodes);

    let deleted = load.delete_half(ports[1]);
    wait_for_growth(&load, ports[2], "after deletes");
    let again = load.fill_until("second", &ports, deleted / 4);
    println!("{deleted} deletes made room for {again} writes");
    load.require_all_kept(ports[1]);

    cluster.nodes.iter_mut().for_each(|node| node.kill());
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.wait_ready();
    load.require_all_kept(ports[2]);
    load.delete_half(ports[0]);

    disks.iter().for_each(|disk| disk.resize("128m"));
    wait_for_growth(&load, ports[0], "on a larger disk");
    load.fill_until("third", &ports, ENOUGH);
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

/// Rounds in which somebody else fills the disk, each at another moment.
const BALLOONS: usize = 4;

/// Takes all that is left of a disk.
fn inflate(balloon: &Path) {
    let mut file = File::create(balloon).expect("a file of nothing fits");
    let air = vec![0xa5; 1 << 16];
    while file.write_all(&air).is_ok() {}
}

/// Writes until the disk is full behind the node's back, then kills the node. True: it had ended by itself, in the one
/// way it may: a checkpoint that was under way can fail long after a write was refused.
fn fill_behind(load: &Load, node: &mut Node, round: usize, balloon: &Path) -> bool {
    let before = load.kept.lock().expect("sound").len();
    let (port, round_name) = (node.resp_port, format!("round-{round}"));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let round = &round_name;
            scope.spawn(move || load.write(round, writer, port));
        }
        wait_until("some writes are taken", || {
            load.kept.lock().expect("sound").len() >= before + 300 * (round + 1)
        });
        inflate(balloon);
    });
    node.strike();
    let status = node.bury();
    let is_ours = status.signal() == Some(9);
    assert!(is_ours || status.code() == Some(70), "round {round}: {status}");
    !is_ours
}

#[test]
fn a_disk_that_somebody_else_fills_costs_no_acknowledged_write() {
    if !may_mount("a_disk_that_somebody_else_fills_costs_no_acknowledged_write") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = Disk::mount(dir.path().join("data-1"), "128m");
    let balloon = disk.0.join("balloon");
    let mut cluster = Cluster::start_in(dir, 1, 2, &SMALL);
    let load = Load::default();
    let mut ends = 0;
    for round in 0..BALLOONS {
        let node = &mut cluster.nodes[0];
        ends += usize::from(fill_behind(&load, node, round, &balloon));
        // Started on the full disk it serves reads, and takes no growth.
        node.spawn();
        node.wait_ready();
        let port = node.resp_port;
        load.require_all_kept(port);
        let mut connection = connect(port).expect("a ready node takes connections");
        let refused = set(&mut connection, "one more").expect_err("the disk is full");
        assert!(is_for_space(&refused), "{refused}");
        std::fs::remove_file(&balloon).expect("the balloon is there");
        wait_for_growth(&load, port, &format!("after round {round}"));
        load.require_all_kept(port);
    }
    let refused = load.refused.load(Ordering::Relaxed);
    println!("{ends} of {BALLOONS} ended the node, {refused} writes were refused");
    assert!(ends > 0 || refused > 0, "INVALID: the disk was never full");
    assert_eq!(cluster.nodes[0].stop().code(), Some(0));
    drop(cluster);
    drop(disk);
}
