//! The dashboards against reality: the form that Grafana's linter asks for, and the real Prometheus scraping a cluster
//! under load, in which every query of every panel must find data. Needs Debian's `prometheus` (with `promtool`).

use flotilla::options::{DevOptions, Layers, resolve_shared};
use flotilla::server::Cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

fn board(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

fn boards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(dashboards().join("grafana")).expect("the folder");
    let paths = files.map(|file| file.expect("an entry").path());
    let boards = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    boards
        .map(|path| (path.display().to_string(), board(&path)))
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    items(board, "panels")
        .iter()
        .filter(|panel| text(panel, "type") != "row")
}

/// What is wrong with a board; empty when nothing is.
fn lint(board: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    check(text(board, "uid").starts_with("flotilla-"), "uid");
    check(board["id"].is_null(), "id must be null");
    check(board["editable"] == false, "editable");
    check(board["schemaVersion"].as_u64() >= Some(41), "schemaVersion");
    check(text(board, "timezone") == "browser", "timezone");
    check(text(board, "refresh") == "30s", "refresh");
    check(items(board, "tags").contains(&"flotilla".into()), "tags");
    check(board.get("__inputs").is_none(), "__inputs");
    let variables = items(&board["templating"], "list");
    let names: Vec<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
    check(names == ["datasource", "job", "instance"], "variables");
    let ids: BTreeSet<Option<u64>> = items(board, "panels")
        .iter()
        .map(|panel| panel["id"].as_u64())
        .collect();
    check(ids.len() == items(board, "panels").len(), "panel ids");
    check(!overlap(board), "panels overlap");
    for panel in panels(board) {
        wrong.extend(
            lint_panel(panel)
                .into_iter()
                .map(|what| format!("{}: {what}", text(panel, "title"))),
        );
    }
    wrong
}

fn lint_panel(panel: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    let kinds = ["timeseries", "stat", "table", "heatmap"];
    check(kinds.contains(&text(panel, "type")), "type");
    check(!text(panel, "title").is_empty(), "title");
    check(!text(panel, "description").is_empty(), "description");
    let unit = text(&panel["fieldConfig"]["defaults"], "unit");
    check(!unit.is_empty(), "unit");
    let targets = items(panel, "targets");
    check(!targets.is_empty(), "no query");
    for target in targets {
        let expression = text(target, "expr");
        check(
            target["datasource"]["uid"] == "${datasource}",
            "datasource of a query",
        );
        let selects = expression.contains("job=~\"$job\"") && expression.contains("instance=~\"$instance\"");
        check(selects, "a query without job and instance");
        check(
            counters_are_rated(expression),
            "a counter outside rate or increase",
        );
        let rated = !expression.contains("rate(") || expression.contains("[$__rate_interval]");
        check(rated, "rate without $__rate_interval");
    }
    wrong
}

/// A counter's own value means nothing: each must stand directly inside rate or increase.
fn counters_are_rated(expression: &str) -> bool {
    metric_names(expression).into_iter().all(|(at, name)| {
        let counts = ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .any(|end| name.ends_with(end));
        let before = &expression[..at];
        !counts || before.ends_with("rate(") || before.ends_with("increase(")
    })
}

/// Where each metric of ours or of the process stands in an expression.
fn metric_names(expression: &str) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    for prefix in ["flotilla_", "process_"] {
        for (at, _) in expression.match_indices(prefix) {
            let rest = &expression[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            names.push((at, &rest[..end]));
        }
    }
    names
}

fn overlap(board: &Value) -> bool {
    let mut cells = BTreeSet::new();
    items(board, "panels").iter().any(|panel| {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a position");
        let rows = at("y")..at("y") + at("h");
        let mut taken = false;
        for y in rows {
            for x in at("x")..at("x") + at("w") {
                taken |= !cells.insert((x, y));
            }
        }
        taken
    })
}

#[test]
fn boards_follow_the_conventions() {
    let boards = boards();
    assert!(!boards.is_empty());
    for (path, board) in boards {
        assert_eq!(lint(&board), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn the_linter_sees_what_is_wrong() {
    let (_, good) = boards().swap_remove(0);
    let panel = items(&good, "panels")
        .iter()
        .position(|panel| text(panel, "type") == "timeseries");
    let panel = panel.expect("a timeseries");
    let spoil = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a place") = value;
        lint(&bad).len()
    };
    assert_eq!(spoil("/editable", true.into()), 1);
    assert_eq!(spoil("/templating/list/0/name", "ds".into()), 1);
    assert_eq!(spoil(&format!("/panels/{panel}/description"), "".into()), 1);
    assert_eq!(spoil(&format!("/panels/{panel}/type"), "graph".into()), 1);
    assert_eq!(
        spoil(&format!("/panels/{panel}/fieldConfig/defaults/unit"), "".into()),
        1
    );
    let raw = "sum(flotilla_requests_total{job=~\"$job\", instance=~\"$instance\"})";
    assert_eq!(spoil(&format!("/panels/{panel}/targets/0/expr"), raw.into()), 1);
}

/// Three nodes, and Prometheus.
struct Site {
    cluster: Option<Cluster>,
    options: DevOptions,
    prometheus: Child,
    address: String,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.prometheus.kill();
        let _ = self.prometheus.wait();
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().expect("a clean stop");
        }
    }
}

/// Below the ports that the kernel gives to whoever asks for any.
fn free_base() -> u16 {
    (0..1000)
        .map(|at| 12_000 + (std::process::id() as u16 % 97) * 100 + at * 7)
        .find(|base| (0..60).all(|at| is_free(base + at)))
        .expect("60 free ports in a row")
}

fn is_free(port: u16) -> bool {
    let address = ("127.0.0.1", port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

fn site(directory: &Path) -> Site {
    let base = free_base();
    let layers = Layers {
        file: None,
        env: &|_| None,
        flags: &[],
    };
    let options = DevOptions {
        data_dir: directory.join("data"),
        nodes: 3,
        quic_port: base,
        http_port: base + 1,
        resp_port: base + 40,
        shared: resolve_shared(layers).expect("defaults are valid"),
    };
    let cluster = Cluster::start(&options).expect("a cluster");
    let address = format!("127.0.0.1:{}", base + 50);
    let config = directory.join("prometheus.yml");
    std::fs::write(&config, config_text(base + 1)).expect("written");
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's package `prometheus` is installed");
    Site {
        cluster: Some(cluster),
        options,
        prometheus,
        address,
    }
}

/// The shipped configuration with this test's ports and a short interval.
fn config_text(first_http: u16) -> String {
    let shipped = std::fs::read_to_string(dashboards().join("prometheus/prometheus.yml")).expect("the file");
    let mut text = shipped.replace("5s", "1s");
    for node in 0..3 {
        text = text.replace(
            &format!("127.0.0.1:{}", 7401 + 10 * node),
            &format!("127.0.0.1:{}", first_http + 10 * node),
        );
    }
    text
}

/// Writes and reads over all ranges, through every node, until told to stop.
fn load(resp_port: u16, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(("127.0.0.1", resp_port)).expect("a gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut buffer = [0; 4096];
    for i in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{:02x}", i % 256);
        for command in [format!("SET {key} v{i}\r\n"), format!("GET {key}\r\n")] {
            stream.write_all(command.as_bytes()).expect("sent");
            assert_ne!(stream.read(&mut buffer).expect("an answer"), 0);
        }
    }
}

/// The body of a page; HTTP/1.0, so that it is not chunked.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => (byte as char).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// An expression as Grafana would send it.
fn substituted(expression: &str) -> String {
    expression
        .replace("$job", "flotilla")
        .replace("$instance", ".+")
        .replace("$__rate_interval", "10s")
}

/// Whether Prometheus has at least one number for this expression.
fn has_data(address: &str, expression: &str) -> bool {
    let path = format!(
        "/api/v1/query?query={}",
        percent_encoded(&substituted(expression))
    );
    let answer = get(address, &path).and_then(|body| serde_json::from_str::<Value>(&body).ok());
    let Some(answer) = answer else { return false };
    let number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
    items(&answer["data"], "result").iter().any(number)
}

#[test]
fn every_panel_finds_data_in_prometheus_under_load() {
    let directory = tempfile::tempdir().expect("a directory");
    let site = site(directory.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        for node in 0..3 {
            let (port, stop) = (site.options.resp_port + node, &stop);
            scope.spawn(move || load(port, stop));
        }
        let boards = boards();
        let queries = boards
            .iter()
            .flat_map(|(_, board)| panels(board))
            .flat_map(|panel| {
                let targets = items(panel, "targets").iter();
                targets.map(|target| (text(panel, "title"), text(target, "expr")))
            });
        let mut missing: Vec<(&str, &str)> = queries.collect();
        assert!(missing.len() > 30, "{} queries", missing.len());
        let since = Instant::now();
        while !missing.is_empty() && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(500)); // pace: between two looks
            missing.retain(|(_, expression)| !has_data(&site.address, expression));
        }
        assert!(missing.is_empty(), "no data for {missing:#?}");
        metrics_are_sound(&format!("127.0.0.1:{}", site.options.http_port), &boards);
        drop(stopping);
    });
}

/// A failed assertion must end the load, too, or the test would never end.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn metrics_are_sound(http: &str, boards: &[(String, Value)]) {
    let scrape = get(http, "/metrics").expect("a scrape");
    let series = scrape.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series <= 1_500, "{series} series");
    for expression in boards
        .iter()
        .flat_map(|(_, board)| panels(board))
        .flat_map(|panel| items(panel, "targets"))
    {
        for (_, name) in metric_names(text(expression, "expr")) {
            assert!(scrape.contains(name), "{name} is not exported");
        }
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool comes with prometheus");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(scrape.as_bytes()).expect("sent");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool: {said}");
}
