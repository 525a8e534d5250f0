//! redis-cli, redis-benchmark and redis-py against three real processes: what depends on there being a cluster.
//! What each command means is checked by the differential test, what each client needs by `redis_clients.rs`.

use flotilla_tests::cluster::Cluster;
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

/// A pipeline over all ranges through a node that leads a third of them, and a scan over all of them.
const REDIS_PY: &str = r#"
import sys, redis
r = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
p = r.pipeline(transaction=False)
for i in range(500):
    p.set(f"{i % 256:02x}:py:{i}", i)
    p.get(f"{i % 256:02x}:py:{i}")
answers = p.execute()
assert answers == [x for i in range(500) for x in (True, str(i))], answers[:6]
assert len(set(r.scan_iter(match="*:py:*", count=100))) == 500
assert r.delete(*(f"{i % 256:02x}:py:{i}" for i in range(500))) == 500
print("redis-py", redis.__version__, "works")
"#;

#[test]
fn the_tools_people_have_work_on_a_cluster() {
    let cluster = Cluster::start(3, 16, &[]);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.resp_port).collect();
    redis_cli_works_on_every_node(&ports);
    println!(
        "{}",
        tool("/usr/bin/python3", &["-c", REDIS_PY, &ports[1].to_string()]).trim_end()
    );
    redis_benchmark_runs_clean(ports[0]);
}
