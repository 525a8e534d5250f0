//! A whole cluster in this process, over real sockets and files.

use super::{Cluster, make_data_dir};
use crate::exit::Code;
use crate::options::{DevOptions, Layers, resolve_shared};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// What one cluster takes, from its first port on.
const PORTS: u16 = 50;

#[test]
fn a_new_data_directory_is_its_owners_alone_and_an_old_one_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    make_data_dir(&path).unwrap();
    assert_eq!(mode(), 0o700);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    make_data_dir(&path).unwrap();
    assert_eq!(mode(), 0o750);
    std::fs::write(directory.path().join("file"), "").unwrap();
    assert!(make_data_dir(&directory.path().join("file")).is_err());
}

/// Options with ports of their own.
fn options(directory: &Path) -> DevOptions {
    let base = free_base();
    DevOptions {
        data_dir: directory.to_owned(),
        nodes: 3,
        quic_port: base,
        http_port: base + 1,
        resp_port: base + 40,
        shared: resolve_shared(Layers {
            file: None,
            env: &|_| None,
            flags: &[],
        })
        .unwrap(),
    }
}

/// A row of free ports that no other test of this process was given: tests run side by side, and their nodes restart.
fn free_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() as u16 % 97) * 100;
    std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed) * PORTS)
        .take(20)
        .find(|base| (*base..base + PORTS).all(is_free))
        .expect("50 free ports in a row")
}

fn is_free(port: u16) -> bool {
    let address = ("127.0.0.1", port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

fn started(options: &DevOptions) -> Cluster {
    let cluster = Cluster::start(options).unwrap();
    let since = Instant::now();
    while !cluster.knows_leaders() {
        assert!(since.elapsed() < PATIENCE, "no leaders");
        std::thread::sleep(Duration::from_millis(5)); // pace: between two looks
    }
    cluster
}

/// One connection of a Redis client that speaks inline commands.
struct Client(BufReader<TcpStream>);

impl Client {
    fn of_node(options: &DevOptions, node: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", options.resp_port + node - 1)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    fn ask(&mut self, command: &str) -> String {
        let stream = self.0.get_mut();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut reply = self.line();
        if let Some(length) = reply.strip_prefix('$')
            && length != "-1"
        {
            reply = self.line();
        }
        reply
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[test]
fn what_one_node_takes_every_node_answers_and_a_restart_finds() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let cluster = started(&options);
    assert_eq!(cluster.ranges(), 16);
    let (mut first, mut third) = (Client::of_node(&options, 1), Client::of_node(&options, 3));
    for i in 0..256 {
        assert_eq!(first.ask(&format!("SET {i:02x}-key value-{i}")), "+OK");
        assert_eq!(third.ask(&format!("GET {i:02x}-key")), format!("value-{i}"));
    }
    assert_eq!(third.ask("INCR counter"), ":1");
    assert_eq!(first.ask("INCR counter"), ":2");
    drop((first, third));
    cluster.stop().unwrap();

    let cluster = started(&options);
    let mut second = Client::of_node(&options, 2);
    for i in 0..256 {
        assert_eq!(second.ask(&format!("GET {i:02x}-key")), format!("value-{i}"));
    }
    assert_eq!(second.ask("INCR counter"), ":3");
    drop(second);
    cluster.stop().unwrap();
}

#[test]
fn expired_keys_leave_without_traffic() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let cluster = started(&options);
    let mut client = Client::of_node(&options, 1);
    for i in 0..200 {
        assert_eq!(client.ask(&format!("SET short-{i} v PX 100")), "+OK");
    }
    assert_eq!(client.ask("SET long v"), "+OK");
    // DBSIZE counts keys that expired and were not purged.
    let since = Instant::now();
    while client.ask("DBSIZE") != ":1" {
        assert!(since.elapsed() < PATIENCE, "still there");
        std::thread::sleep(Duration::from_millis(20)); // pace: between two looks
    }
    drop(client);
    cluster.stop().unwrap();
}

#[test]
fn a_taken_port_and_another_nodes_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let taken = TcpListener::bind(("127.0.0.1", options.resp_port + 1)).unwrap();
    let failure = Cluster::start(&options).err().expect("the port is taken");
    assert_eq!(failure.code, Code::Port);
    assert!(
        failure
            .message
            .contains(&format!("127.0.0.1:{}/tcp", options.resp_port + 1))
    );
    drop(taken);
    started(&options).stop().unwrap();
    let node = |id: u64| directory.path().join(format!("node-{id}"));
    std::fs::rename(node(1), node(9)).unwrap();
    std::fs::rename(node(2), node(1)).unwrap();
    std::fs::rename(node(9), node(2)).unwrap();
    let failure = Cluster::start(&options).err().expect("the nodes are swapped");
    assert_eq!(failure.code, Code::Identity, "{failure}");
}
