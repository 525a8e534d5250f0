//! Acknowledged means kept: real processes under load lose one node to kill -9, then all of them; afterwards every
//! acknowledged write is there. A run in which too little was acknowledged around a fault proves nothing and fails.

use flotilla_tests::cluster::{Cluster, wait_until};
use redis::{Connection, RedisResult};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const WRITERS: u64 = 4;
/// Acknowledged writes demanded around each fault.
const ENOUGH: u64 = 1_000;

/// What the writers share with the test.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Keys whose SET answered OK. Each key is written once, with a value made from it.
    kept: Mutex<Vec<String>>,
}

fn value_of(key: &str) -> String {
    format!("value-of-{key}")
}

fn connect(port: u16) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(connection)
}

/// Writes unique keys over one node until told to stop, moving on to the next node when a connection breaks.
fn write_until_stopped(load: &Load, writer: u64, ports: &[u16]) {
    let mut node = usize::try_from(writer).expect("small");
    let mut connection = None;
    for number in 0_u64.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{:02x}:{writer}:{number}", number % 256);
        if connection.is_none() {
            node += 1;
            connection = connect(ports[node % ports.len()]).ok();
        }
        let Some(open) = connection.as_mut() else {
            std::thread::sleep(Duration::from_millis(10)); // pace: the node is down, do not spin on connect
            continue;
        };
        match redis::cmd("SET").arg(&key).arg(value_of(&key)).query::<()>(open) {
            Ok(()) => {
                load.kept.lock().expect("no writer panics").push(key);
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_io_error() => connection = None,
            Err(_) => (), // refused or unknown: promised nothing
        }
    }
}

fn wait_for_more(load: &Load, when: &str) {
    let before = load.acknowledged.load(Ordering::Relaxed);
    wait_until(&format!("{ENOUGH} more acknowledged writes {when}"), || {
        load.acknowledged.load(Ordering::Relaxed) >= before + ENOUGH
    });
}

fn require_all_kept(load: &Load, port: u16) {
    let kept = load.kept.lock().expect("no writer panics");
    let mut connection = connect(port).expect("a ready node takes connections");
    let mut lost = Vec::new();
    for keys in kept.chunks(100) {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("GET").arg(key);
        }
        let found: Vec<Option<String>> = pipeline
            .query(&mut connection)
            .expect("a healthy cluster answers");
        lost.extend(
            keys.iter()
                .zip(found)
                .filter(|(key, found)| found.as_ref() != Some(&value_of(key))),
        );
    }
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes lost: {:?}",
        lost.len(),
        kept.len(),
        lost.first()
    );
    println!("{} acknowledged writes, all kept", kept.len());
}

#[test]
fn acknowledged_writes_survive_kill_nine_of_one_and_of_all() {
    let mut cluster = Cluster::start(3, 16, &[]);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (load, ports) = (Arc::clone(&load), ports.clone());
            std::thread::spawn(move || write_until_stopped(&load, writer, &ports))
        })
        .collect();

    wait_for_more(&load, "on the healthy cluster");
    cluster.nodes[1].kill();
    wait_for_more(&load, "with node 2 killed");
    cluster.nodes[1].spawn();
    cluster.wait_ready();
    wait_for_more(&load, "after node 2 came back");
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.wait_ready();
    wait_for_more(&load, "after all came back");

    load.stop.store(true, Ordering::Relaxed);
    writers
        .into_iter()
        .for_each(|writer| writer.join().expect("no writer panics"));
    ports.iter().for_each(|port| require_all_kept(&load, *port));
}

#[test]
fn a_clean_stop_exits_with_zero_and_keeps_everything() {
    let mut cluster = Cluster::start(3, 4, &[]);
    let port = cluster.nodes[0].resp_port;
    let mut connection = connect(port).expect("a ready node takes connections");
    redis::cmd("SET")
        .arg("kept")
        .arg("yes")
        .query::<()>(&mut connection)
        .expect("SET works");
    for node in &mut cluster.nodes {
        let status = node.stop();
        assert_eq!(status.code(), Some(0), "node {} after SIGTERM", node.id);
    }
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.wait_ready();
    let mut connection = connect(port).expect("a ready node takes connections");
    let found: Option<String> = redis::cmd("GET")
        .arg("kept")
        .query(&mut connection)
        .expect("GET works");
    assert_eq!(found.as_deref(), Some("yes"));
}
