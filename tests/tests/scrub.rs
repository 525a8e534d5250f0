//! A real node whose file decays while it runs: the scrubber ends it with code 71 and says why, although no client reads
//! what is damaged; before that, passes over the sound file are counted.

use flotilla_tests::cluster::{Cluster, wait_until};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longer than a memtable may be, so that a checkpoint brings some of it to redb's part.
const KEYS: usize = 3_000;
const VALUE_BYTES: usize = 1_000;
/// redb's part of the file is smaller.
const LOOKED_AT_BYTES: u64 = 64 << 20;

fn value(key: usize) -> String {
    format!("value-{key:06}-").repeat(VALUE_BYTES / 13)
}

fn fill(port: u16) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let mut connection = client.get_connection().expect("a ready node takes connections");
    for keys in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("SET").arg(format!("{key:06}")).arg(value(*key)).ignore();
        }
        pipe.query::<()>(&mut connection).expect("writes are taken");
    }
}

/// Flips a bit in every copy of a value in redb's part. Returns how many there were.
fn damage(path: &Path, value: &str) -> usize {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the node file");
    let part = read_start(&file);
    let found: Vec<usize> = part
        .windows(value.len())
        .enumerate()
        .filter(|(_, window)| *window == value.as_bytes())
        .map(|(at, _)| at + value.len() / 2)
        .collect();
    for at in &found {
        file.write_all_at(&[part[*at] ^ 4], *at as u64).expect("one byte");
    }
    found.len()
}

fn read_start(file: &File) -> Vec<u8> {
    let mut part = vec![0; LOOKED_AT_BYTES as usize];
    file.read_exact_at(&mut part, 0)
        .expect("the file is sparse and long");
    part
}

#[test]
fn a_file_that_decays_ends_the_node_though_nobody_reads_it() {
    let more = [
        "--storage-ring-bytes=16MiB",
        "--storage-memtable-bytes=1MiB",
        "--storage-scrub-rate=64MiB",
        "--storage-scrub-interval=1s",
    ];
    let mut cluster = Cluster::start(1, 1, &more);
    let path = cluster.dir.path().join("data-1/node.redb");
    let node = &mut cluster.nodes[0];
    fill(node.resp_port);
    wait_until("a checkpoint", || {
        node.metric("flotilla_storage_checkpoints_total") > 0.0
    });
    let passes = node.metric("flotilla_storage_scrub_passes_total");
    wait_until("whole passes", || {
        node.metric("flotilla_storage_scrub_passes_total") > passes + 1.0
    });
    assert_eq!(node.metric("flotilla_storage_scrub_errors_total"), 0.0);
    assert!(node.metric("flotilla_storage_scrub_last_pass_seconds") > 0.0);

    assert!(
        damage(&path, &value(7)) > 0,
        "INVALID: the first keys are not in redb's part yet"
    );
    let mut status = None;
    wait_until("the scrubber finds it", || {
        status = node.ended();
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(71));
    let log = std::fs::read_to_string(&node.log).expect("the node's log");
    let told = log
        .lines()
        .filter(|line| line.contains("cannot scrub: the node file is damaged"));
    assert_eq!(told.count(), 1, "{log}");
}
