//! Ordinary use by the clients people have: redis-cli, redis-benchmark, redis-py and the Rust `redis` crate, against
//! three real processes. What each command means is checked by the differential test; here: that the tools work.

use flotilla_tests::cluster::Cluster;
use redis::Commands;
use std::process::{Command, Stdio};

/// Runs a tool to its end; what it printed, with its exit status checked.
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (tests/run installs it)"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
    text
}

fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let port = port.to_string();
    let all: Vec<&str> = ["-p", &port]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    tool("redis-cli", &all).trim_end().to_owned()
}

fn redis_cli_works_on_every_node(ports: &[u16]) {
    assert_eq!(redis_cli(ports[0], &["set", "greeting", "hello"]), "OK");
    for port in ports {
        assert_eq!(redis_cli(*port, &["get", "greeting"]), "hello");
        assert_eq!(redis_cli(*port, &["ping"]), "PONG");
        assert!(redis_cli(*port, &["info", "server"]).contains("redis_version"));
    }
    assert_eq!(redis_cli(ports[1], &["-3", "incrby", "counter", "5"]), "5");
    let refused = redis_cli(ports[2], &["mset", "a", "1", "b", "2"]);
    assert!(refused.starts_with("CROSSRANGE"), "{refused}");
    assert_eq!(redis_cli(ports[2], &["mset", "{t}a", "1", "{t}b", "2"]), "OK");
    assert!(redis_cli(ports[0], &["nosuchcommand"]).starts_with("ERR unknown command"));
}

fn redis_benchmark_runs_clean(port: u16) {
    let port = port.to_string();
    let arguments = [
        "-p",
        &port,
        "-t",
        "set,get,incr",
        "-P",
        "16",
        "-r",
        "100000",
        "-n",
        "30000",
        "--csv",
    ];
    let report = tool("redis-benchmark", &arguments);
    println!("{report}");
    for test in ["SET", "GET", "INCR"] {
        let line = report
            .lines()
            .find(|line| line.starts_with(&format!("\"{test}\"")));
        let rate: f64 = line
            .and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok())
            .unwrap_or_else(|| panic!("no rate for {test} in\n{report}"));
        assert!(rate > 0.0, "{report}");
    }
    let complaint = report
        .lines()
        .find(|line| line.contains("Error") || line.contains("WARNING"));
    assert_eq!(complaint, None, "{report}");
}

const REDIS_PY: &str = r#"
import sys, redis
r = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
assert r.ping()
assert r.set("py:a", "1") and r.get("py:a") == "1"
assert r.set("py:a", "2", nx=True) is None
assert r.set("py:t", "x", ex=100) and 0 < r.ttl("py:t") <= 100
assert r.incr("py:n") == 1 and r.incrby("py:n", 41) == 42
assert r.mget("py:a", "py:missing", "py:n") == ["1", None, "42"]
assert r.append("py:a", "23") == 3 and r.strlen("py:a") == 3 and r.getrange("py:a", 1, 2) == "23"
p = r.pipeline(transaction=False)
for i in range(500):
    p.set(f"py:p:{i}", i)
    p.get(f"py:p:{i}")
answers = p.execute()
assert answers == [x for i in range(500) for x in (True, str(i))], answers[:6]
assert sorted(r.scan_iter(match="py:p:1?", count=100)) == sorted(f"py:p:{i}" for i in range(10, 20))
assert r.delete("py:a", "py:n", "py:missing") == 2 and r.exists("py:a") == 0
try:
    r.set("py:s", "text"); r.incr("py:s"); raise SystemExit("INCR of text must fail")
except redis.ResponseError as error:
    assert "not an integer" in str(error), error
print("redis-py", redis.__version__, "works")
"#;

fn rust_redis_works(port: u16) {
    let client =
        redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3")).expect("a valid address");
    let mut connection = client.get_connection().expect("it connects");
    let () = connection.set("rs:a", 7).expect("SET");
    let found: i64 = connection.incr("rs:a", 3).expect("INCRBY");
    assert_eq!(found, 10);
    let () = connection.set_ex("rs:t", "x", 50).expect("SETEX");
    let left: i64 = connection.ttl("rs:t").expect("TTL");
    assert!((1..=50).contains(&left), "{left}");
    let both: (Option<i64>, Option<String>) = connection.mget(&["rs:a", "rs:none"]).expect("MGET");
    assert_eq!(both, (Some(10), None));
}

#[test]
fn the_clients_people_have_work() {
    let cluster = Cluster::start(3, 16, &[]);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    redis_cli_works_on_every_node(&ports);
    println!(
        "{}",
        tool("/usr/bin/python3", &["-c", REDIS_PY, &ports[1].to_string()]).trim_end()
    );
    rust_redis_works(ports[2]);
    redis_benchmark_runs_clean(ports[0]);
}
