//! The gateway against a real redis-server: the same commands to both, the replies compared byte by byte, but for the
//! exceptions in `redis_exceptions.toml`. Seeds are printed; `FLOTILLA_SEED=n` repeats a run, `FLOTILLA_RESP=host:port`
//! runs it against a cluster (with flushing allowed) instead of the in-memory service.

use flotilla::gateway::resp::RespOptions;
use flotilla::gateway::resp::testing::{Gateway, MemoryService};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Words = Vec<Vec<u8>>;

/// Random commands per protocol version.
const COMMANDS: usize = 30_000;
const SEED: u64 = 20_261_123;

#[test]
fn random_commands_get_the_replies_that_redis_gives() {
    let seed = std::env::var("FLOTILLA_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("FLOTILLA_SEED={seed}");
    let (redis, ours) = (Redis::start(), Ours::start());
    for protocol in ["2", "3"] {
        let mut pair = Pair::connect(&redis, &ours);
        pair.both(&[words(&["FLUSHALL"]), words(&["HELLO", protocol])]);
        let mut generator = Generator::new(seed.wrapping_add(u64::from(protocol == "3")));
        let mut left = COMMANDS;
        while left > 0 {
            let batch: Vec<Words> = (0..generator.below(16) + 1)
                .map(|_| generator.command())
                .collect();
            left = left.saturating_sub(batch.len());
            pair.both(&batch);
        }
        pair.compare_walks();
        println!(
            "protocol {protocol}: {} replies compared, {} excepted",
            pair.compared, pair.excepted
        );
        assert!(
            pair.compared > COMMANDS * 8 / 10,
            "too little was compared to mean anything"
        );
    }
}

/// Commands that meet keys which just expired.
const AFTER_EXPIRY: [&str; 13] = [
    "INCR counter",
    "APPEND appended x",
    "SETNX px w",
    "SET ex w XX",
    "GETSET psetex w",
    "EXPIRE setex 5",
    "GETDEL kept",
    "SETRANGE expire 2 x",
    "PERSIST cut",
    "SET cut x KEEPTTL",
    "TTL cut",
    "DEL pxat late",
    "STRLEN ex",
];

#[test]
fn keys_expire_as_in_redis() {
    let (redis, ours) = (Redis::start(), Ours::start());
    let mut pair = Pair::connect(&redis, &ours);
    pair.both(&[words(&["FLUSHALL"])]);
    let (soon, later) = (deadline_in(1500).to_string(), deadline_in(900_000).to_string());
    let setup = [
        "SET px v PX 1500",
        "SET ex v EX 2",
        "PSETEX psetex 1500 v",
        "SETEX setex 2 v",
        "SET plain v",
        "SET counter 5 PX 1500",
        "SET late v PX 900000",
        "SET getex v",
        "GETEX getex PX 1500",
        "SET kept v PX 1500",
        "SET kept w KEEPTTL",
        "SET lifted v PX 1500",
        "SET lifted w",
        "SET persisted v PX 1500",
        "PERSIST persisted",
        "SET pexpire v",
        "PEXPIRE pexpire 1500",
        "SET expire v",
        "EXPIRE expire 2",
        "SET appended v PX 1500",
        "APPEND appended w",
        "SET cut v",
        "PEXPIRE cut 900000",
        "PEXPIRE cut 1500 LT",
        "SET uncut v PX 1500",
        "PEXPIRE uncut 900000 GT",
    ];
    let mut names: BTreeSet<&str> = setup.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    pair.both(&setup.map(|line| words(&line.split(' ').collect::<Vec<_>>())));
    pair.both(&[
        words(&["SET", "pxat", "v", "PXAT", &soon]),
        words(&["SET", "pexpireat", "v"]),
    ]);
    pair.both(&[
        words(&["PEXPIREAT", "pexpireat", &soon]),
        words(&["SET", "far", "v", "PXAT", &later]),
    ]);
    names.extend(["pxat", "pexpireat", "far"]);
    for wait in [0, 3000] {
        // pace: keys expire by real time, in steps far coarser than the scheduler.
        thread::sleep(Duration::from_millis(wait));
        for name in &names {
            pair.both(&[
                words(&["GET", name]),
                words(&["TTL", name]),
                words(&["TYPE", name]),
                words(&["EXISTS", name]),
            ]);
        }
        pair.compare_walks();
    }
    pair.both(&AFTER_EXPIRY.map(|line| words(&line.split(' ').collect::<Vec<_>>())));
    pair.compare_walks();
    pair.both(&[words(&["FLUSHALL"])]);
}

#[test]
fn broken_input_ends_the_connection_as_in_redis() {
    let (redis, ours) = (Redis::start(), Ours::start());
    let inputs: [&[u8]; 15] = [
        b"*x\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$536870913\r\n",
        b"*2147483648\r\n",
        b"set \"a\r\n",
        b"set 'a'b c\r\n",
        b"*2\r\n$4\r\nPING\r\n+x\r\n",
        b"PING\r\n*1\r\n$x\r\n",
        b"\r\n\r\nPING\r\n*0\r\n*-5\r\nQUIT\r\n",
        b"quit\r\nping\r\n",
        b"ping 'a b'\r\n\"\\x51uit\"\r\n",
        b"nosuch a b\r\nQUIT\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nQUIT\r\n",
    ];
    for input in inputs {
        let replies = [redis.connect(), ours.connect()].map(|Client { mut stream, .. }| {
            stream.write_all(input).expect("the server reads");
            let mut reply = Vec::new();
            match stream.read_to_end(&mut reply) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    panic!("no end of stream: {error}")
                }
                _ => reply,
            }
        });
        assert_eq!(
            escaped(&replies[1]),
            escaped(&replies[0]),
            "after {}",
            escaped(input)
        );
    }
}

#[test]
fn redis_benchmark_runs_clean() {
    const REQUESTS: u32 = 100_000;
    let ours = Ours::start();
    let before = cpu_ticks();
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            &ours.address.ip().to_string(),
            "-p",
            &ours.address.port().to_string(),
        ])
        .args([
            "-t",
            "set,get,incr",
            "-P",
            "16",
            "-r",
            "100000",
            "-n",
            "100000",
            "-q",
        ])
        .output()
        .expect("redis-benchmark is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let micros =
        f64::from(u32::try_from(cpu_ticks() - before).expect("a short run")) * 1e4 / f64::from(3 * REQUESTS);
    println!(
        "{}\n{micros:.1} us of this process's CPU per command",
        text.replace('\r', "\n")
    );
    assert!(output.status.success());
    assert_eq!(text.matches("requests per second").count(), 3, "{text}");
    assert!(
        !text.to_lowercase().contains("error") && output.stderr.is_empty(),
        "{text}"
    );
}

/// CPU time of this process (user and kernel), in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("a name")
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn one_command_cannot_write_over_several_tags() {
    let ours = Ours::start();
    let mut client = ours.connect();
    for line in ["MSET a 1 b 2", "MSETNX {a}1 1 {b}1 2", "MSET {}a 1 {}b 2"] {
        client.send(&[words(&line.split(' ').collect::<Vec<_>>())]);
        let reply = client.reply();
        assert!(
            reply.starts_with(b"-CROSSRANGE ") && escaped(&reply).contains("{tag}"),
            "{}",
            escaped(&reply)
        );
    }
}

/// What two connections, `a` and `b`, say in turn.
const CONVERSATION: &str = "
    a EXEC / a DISCARD / a UNWATCH / a MULTI / a MULTI / a EXEC / a MULTI / a WATCH {t}1 / a DISCARD
    a MULTI / a SET {t}1 x / a GET {t}1 / b GET {t}1 / a INCR {t}1 / a STRLEN {t}1 / a PING / a PING me / a EXEC / b GET {t}1
    a MULTI / a SET {t}1 / a SET {t}1 y / a EXEC / a GET {t}1 / a MULTI / a NOSUCH x / a EXEC
    a MULTI / a EXPIRE {t}1 1 NX XX / a SET {t}1 1 EX 0 / a DEL {t}1 {t}2 {t}1 / a MGET {t}1 {t}2 / a EXISTS {t}1 {t}1 / a EXEC
    a WATCH {t}1 {t}2 / b SET {t}2 2 / a MULTI / a SET {t}1 3 / a EXEC / a GET {t}1 / a MULTI / a SET {t}1 3 / a EXEC
    a WATCH {t}1 / a SET {t}1 own / a MULTI / a GET {t}1 / a EXEC / a WATCH {t}1 / b DEL {t}1 / a UNWATCH / a MULTI / a EXEC
    a WATCH {t}1 / b SET {t}1 4 / a DISCARD / a MULTI / a DISCARD / a MULTI / a GET {t}1 / a EXEC
    a WATCH {t}9 / b SET {t}9 4 / a MULTI / a EXEC / a WATCH {t}9 / b GET {t}9 / a MULTI / a EXEC
    a RENAME {t}9 {t}8 / a GET {t}8 / a RENAME {t}9 {t}8 / a RENAMENX {t}8 {t}1 / a RENAMENX {t}8 {t}7 / a RENAME {t}7 {t}7
    a RENAMENX {t}7 {t}7 / a RENAMENX {t}9 {t}7 / a SET {t}7 v EX 900 / a RENAME {t}7 {t}1 / b TTL {t}1 / b EXISTS {t}7
    a MULTI / a RENAME {t}1 {t}2 / a RENAME {t}1 {t}2 / a RENAMENX {t}2 {t}3 / a GETDEL {t}3 / a MSET {t}1 1 {t}2 2 / a EXEC
    a WATCH {t}1 / a MULTI / b INCR {t}1 / a RESET / a EXEC / a MULTI / a ECHO x / a SELECT 0 / a UNWATCH / a EXEC
";

#[test]
fn transactions_answer_as_in_redis() {
    let (redis, ours) = (Redis::start(), Ours::start());
    for protocol in ["2", "3"] {
        let mut pairs = [Pair::connect(&redis, &ours), Pair::connect(&redis, &ours)];
        pairs[0].both(&[words(&["FLUSHALL"])]);
        for pair in &mut pairs {
            pair.both(&[words(&["HELLO", protocol])]);
        }
        for line in CONVERSATION.lines().flat_map(|line| line.split(" / ")) {
            let Some((who, command)) = line.trim().split_once(' ') else {
                continue;
            };
            let command = words(&command.split(' ').collect::<Vec<_>>());
            pairs[usize::from(who == "b")].both(&[command]);
        }
        pairs[1].compare_walks();
    }
}

/// Random commands of transactions, on two connections. Nothing that exists is removed outside of a transaction: a key that
/// was absent when it was watched and is absent again is the one thing on which we differ.
#[test]
fn random_transactions_answer_as_in_redis() {
    const ROUNDS: usize = 6_000;
    let seed = std::env::var("FLOTILLA_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("FLOTILLA_SEED={seed}");
    let (redis, ours) = (Redis::start(), Ours::start());
    let mut pairs = [Pair::connect(&redis, &ours), Pair::connect(&redis, &ours)];
    pairs[0].both(&[words(&["FLUSHALL"])]);
    let mut generator = Generator::new(seed);
    let mut voided = 0;
    for _ in 0..ROUNDS {
        let mut batch = Vec::new();
        if generator.one_in(3) {
            pairs[0].both(&[generator.watch()]);
        }
        if generator.one_in(3) {
            pairs[1].both(&[generator.step(false)]);
        }
        batch.push(words(&["MULTI"]));
        batch.extend((0..generator.below(6)).map(|_| generator.step(true)));
        batch.push(words(&[generator.pick(&["EXEC", "EXEC", "EXEC", "DISCARD"])]));
        pairs[0].both(&batch);
        voided += usize::from(pairs[0].last == b"*-1\r\n");
    }
    pairs[1].compare_walks();
    assert!(voided > ROUNDS / 100, "only {voided} transactions met a change");
}

#[test]
fn a_transaction_stays_in_one_range() {
    let ours = Ours::start();
    let mut client = ours.connect();
    let conversation = [
        ("MULTI", "+OK"),
        ("SET {t}1 x", "+QUEUED"),
        ("SET b 1", "-CROSSRANGE "),
        ("EXEC", "-EXECABORT "),
        ("EXISTS {t}1", ":0"),
        ("MULTI", "+OK"),
        ("DBSIZE", "-CROSSRANGE "),
        ("KEYS *", "-CROSSRANGE "),
        ("EXEC", "-EXECABORT "),
        ("WATCH {t}1", "+OK"),
        ("WATCH {t}2 z", "-CROSSRANGE "),
        ("WATCH z", "-CROSSRANGE "),
        ("MULTI", "+OK"),
        ("GET z", "-CROSSRANGE "),
        ("EXEC", "-EXECABORT "),
        ("MULTI", "+OK"),
        ("SET b 1", "+QUEUED"),
        ("GET b", "+QUEUED"),
        ("EXEC", "*2\r\n+OK\r\n$1\r\n1"),
        ("RENAME b c", "-CROSSRANGE "),
    ];
    for (line, expected) in conversation {
        client.send(&[words(&line.split(' ').collect::<Vec<_>>())]);
        let reply = client.reply();
        assert!(
            reply.starts_with(expected.as_bytes()),
            "{line}: {}",
            escaped(&reply)
        );
    }
}

/// A redis-server of our own; ended with this value. On a socket in its own directory: a port could be another's.
struct Redis {
    process: Child,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Redis {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", SOCKET])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(directory.path())
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        let redis = Redis { process, directory };
        redis.wait_until_up();
        redis
    }

    fn wait_until_up(&self) {
        let started = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "redis-server did not start"
            );
            // pace: polling, bounded by the deadline above.
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.socket()).expect("redis listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client::on(stream)
    }
}

/// The name of redis's socket in its directory.
const SOCKET: &str = "redis.socket";

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Our gateway: over five ranges in memory, or wherever `FLOTILLA_RESP` says.
struct Ours {
    address: SocketAddr,
    _gateway: Option<Gateway>,
}

impl Ours {
    fn start() -> Ours {
        if let Ok(address) = std::env::var("FLOTILLA_RESP") {
            let address = address
                .to_socket_addrs()
                .expect("host:port")
                .next()
                .expect("an address");
            return Ours {
                address,
                _gateway: None,
            };
        }
        let service = Arc::new(MemoryService::new(&[b"b", b"k", b"{t}", b"{u"]));
        let options = RespOptions {
            allow_flush: true,
            ..RespOptions::default()
        };
        let gateway = Gateway::start(service, options).expect("a free port");
        Ours {
            address: gateway.address,
            _gateway: Some(gateway),
        }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the gateway listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client::on(stream)
    }
}

/// A connection to each server.
struct Pair {
    redis: Client,
    ours: Client,
    exceptions: BTreeMap<String, Exception>,
    /// The latest commands, for the report.
    history: Vec<Words>,
    compared: usize,
    excepted: usize,
    /// Our latest reply.
    last: Vec<u8>,
}

#[derive(Deserialize)]
struct Exceptions {
    exception: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    command: String,
    compare: String,
    #[serde(default)]
    tolerance: i64,
    reason: String,
}

impl Pair {
    fn connect(redis: &Redis, ours: &Ours) -> Pair {
        let Exceptions { exception } =
            toml::from_str(include_str!("../redis_exceptions.toml")).expect("a list of exceptions");
        assert!(
            exception.iter().all(|one| one.reason.len() > 10),
            "every exception has a reason"
        );
        Pair {
            redis: redis.connect(),
            ours: ours.connect(),
            exceptions: exception
                .into_iter()
                .map(|one| (one.command.clone(), one))
                .collect(),
            history: Vec::new(),
            compared: 0,
            excepted: 0,
            last: Vec::new(),
        }
    }

    /// Sends these commands to both at once and compares what comes back.
    fn both(&mut self, commands: &[Words]) {
        self.redis.send(commands);
        self.ours.send(commands);
        for command in commands {
            self.history.push(command.clone());
            let (theirs, ours) = (self.redis.reply(), self.ours.reply());
            self.compare(command, &theirs, &ours);
            self.last = ours;
        }
    }

    fn compare(&mut self, command: &Words, theirs: &[u8], ours: &[u8]) {
        let name = String::from_utf8_lossy(&command[0]).to_lowercase();
        let exception = self.exceptions.get(&name);
        let same = theirs == ours
            || match exception.map(|exception| (exception.compare.as_str(), exception.tolerance)) {
                Some(("skip", _)) => true,
                Some(("sorted", _)) => sorted(theirs) == sorted(ours),
                Some(("near", tolerance)) => near(theirs, ours, tolerance),
                _ => false,
            };
        if exception.is_some_and(|exception| exception.compare == "skip") {
            self.excepted += 1;
        } else {
            self.compared += 1;
        }
        assert!(same, "{}", self.report(command, theirs, ours));
    }

    fn report(&self, command: &Words, theirs: &[u8], ours: &[u8]) -> String {
        let related = self
            .history
            .iter()
            .filter(|old| old.iter().skip(1).any(|word| command.contains(word)));
        let mut related: Vec<String> = related.map(line).collect();
        let related = related.split_off(related.len().saturating_sub(12)).join("\n  ");
        format!(
            "\n  {related}\nredis: {}\nours:  {}\n",
            escaped(theirs),
            escaped(ours)
        )
    }

    /// Compares everything that is stored, and whole walks with SCAN.
    fn compare_walks(&mut self) {
        self.both(&[words(&["KEYS", "*"])]);
        for options in [
            &["COUNT", "3"][..],
            &["MATCH", "*[a-c1]*", "COUNT", "100"],
            &["TYPE", "string"],
            &["TYPE", "list"],
        ] {
            let (theirs, ours) = (self.redis.walk(options), self.ours.walk(options));
            assert_eq!(ours, theirs, "SCAN {options:?}");
        }
        for key in self.redis.walk(&[]) {
            self.both(&[vec![b"GET".to_vec(), key.clone()], vec![b"TTL".to_vec(), key]]);
        }
    }
}

/// The elements of an array of bulk strings, sorted.
fn sorted(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut elements = elements(reply);
    elements.sort();
    elements
}

/// The bulk strings of a flat array.
fn elements(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = &reply[line_end(reply)..];
    while !rest.is_empty() {
        let end = line_end(rest);
        let length: usize = String::from_utf8_lossy(&rest[1..end - 2])
            .parse()
            .expect("a length");
        found.push(rest[end..end + length].to_vec());
        rest = &rest[end + length + 2..];
    }
    found
}

fn near(theirs: &[u8], ours: &[u8], tolerance: i64) -> bool {
    let number = |reply: &[u8]| -> Option<i64> {
        String::from_utf8_lossy(reply)
            .strip_prefix(':')?
            .trim_end()
            .parse()
            .ok()
    };
    match (number(theirs), number(ours)) {
        (Some(theirs), Some(ours)) if theirs >= 0 && ours >= 0 => {
            theirs.abs_diff(ours) <= tolerance.unsigned_abs()
        }
        _ => false,
    }
}

fn line_end(bytes: &[u8]) -> usize {
    bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .map_or(bytes.len(), |at| at + 2)
}

/// A raw client: no library that would read replies its own way.
struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Client {
    fn on(stream: impl Stream + 'static) -> Client {
        Client {
            stream: Box::new(stream),
            buffer: Vec::new(),
        }
    }

    fn send(&mut self, commands: &[Words]) {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
            for word in command {
                bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                bytes.extend_from_slice(word);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.stream.write_all(&bytes).expect("the server reads");
    }

    /// The bytes of the next reply.
    fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = reply_end(&self.buffer, 0) {
                return self.buffer.drain(..end).collect();
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => panic!("the server closed the connection after {}", escaped(&self.buffer)),
                Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    /// All keys that SCAN gives with these options.
    fn walk(&mut self, options: &[&str]) -> BTreeSet<Vec<u8>> {
        let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_owned());
        loop {
            let mut command = words(&["SCAN", &cursor]);
            command.extend(words(options));
            self.send(&[command]);
            let reply = self.reply();
            let page = reply
                .strip_prefix(b"*2\r\n")
                .unwrap_or_else(|| panic!("a page: {}", escaped(&reply)));
            let after = line_end(page);
            let end = after + line_end(&page[after..]);
            cursor = String::from_utf8_lossy(&page[after..end - 2]).into_owned();
            keys.extend(elements(&page[end..]));
            if cursor == "0" {
                return keys;
            }
        }
    }
}

/// Where the reply that begins here ends, if it has arrived whole.
fn reply_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = &bytes[start..];
    let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let after = start + length + 2;
    let number = || {
        String::from_utf8_lossy(&rest[1..length])
            .parse::<i64>()
            .expect("a length")
    };
    match rest[0] {
        b'$' | b'=' | b'!' if number() >= 0 => {
            let end = after + usize::try_from(number()).expect("not negative") + 2;
            (bytes.len() >= end).then_some(end)
        }
        b'*' | b'~' | b'%' => {
            let factor = if rest[0] == b'%' { 2 } else { 1 };
            (0..number().max(0) * factor)
                .try_fold(after, |at, _| (at < bytes.len()).then(|| reply_end(bytes, at))?)
        }
        _ => Some(after),
    }
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn line(command: &Words) -> String {
    command
        .iter()
        .map(|word| format!("{:?}", escaped(word)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn deadline_in(milliseconds: u64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    u64::try_from(now).expect("before the year 500 million") + milliseconds
}

/// Random commands, most of them valid.
struct Generator {
    seed: u64,
    /// Lifetimes (thousands of seconds) handed out: each once, so that GT and LT do not hang on milliseconds.
    lifetimes: BTreeSet<u64>,
    now: u64,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator {
            // Seeds that follow each other give unrelated sequences; 0 would give nothing but zeros.
            seed: (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1,
            lifetimes: BTreeSet::new(),
            now: deadline_in(0) / 1000,
        }
    }

    fn next(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).expect("64 bits") % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// The next command; now and then mutilated.
    fn command(&mut self) -> Words {
        let mut command = self.valid_command();
        match self.below(60) {
            0 => drop(command.pop()),
            1 => command.push(self.value()),
            2 => {
                let at = self.below(command.len());
                command[at] = self.value();
            }
            3 => command[0] = String::from_utf8_lossy(&command[0]).to_lowercase().into_bytes(),
            _ => {}
        }
        // Exceptions that change state or are not compared would only hide what follows.
        let name = command
            .first()
            .map(|name| name.to_ascii_lowercase())
            .unwrap_or_default();
        let untagged = name.starts_with(b"mset")
            && command
                .iter()
                .skip(1)
                .step_by(2)
                .any(|key| !key.starts_with(b"{t}"));
        let barred: [&[u8]; 5] = [b"quit", b"reset", b"hello", b"select", b""];
        if barred.contains(&&name[..]) || untagged {
            words(&["PING"])
        } else {
            command
        }
    }

    fn valid_command(&mut self) -> Words {
        match self.below(8) {
            0 | 1 => self.set(),
            2 => self.string_read(),
            3 => self.string_write(),
            4 => self.deadline(),
            5 => self.number(),
            6 => self.many(),
            _ => self.other(),
        }
    }

    fn watch(&mut self) -> Words {
        let keys = (0..=self.below(2)).map(|_| self.tagged());
        [b"WATCH".to_vec()].into_iter().chain(keys).collect()
    }

    fn tagged(&mut self) -> Vec<u8> {
        self.pick(&["{t}1", "{t}2", "{t}3", "{t}4", "{t}5"])
            .as_bytes()
            .to_vec()
    }

    /// A command that may be part of a transaction; now and then one that spoils it.
    fn step(&mut self, may_remove: bool) -> Words {
        let name = match may_remove {
            true if self.one_in(4) => self.pick(&["DEL", "GETDEL", "RENAME", "RENAMENX", "UNLINK"]),
            true if self.one_in(40) => self.pick(&["NOSUCH", "WATCH", "MULTI", "PING", "UNWATCH"]),
            _ => self.pick(&[
                "SET", "SETNX", "GET", "INCR", "APPEND", "GETSET", "MGET", "EXISTS", "STRLEN",
            ]),
        };
        let arguments = match name {
            "SET" | "SETNX" | "APPEND" | "GETSET" => vec![self.tagged(), self.value()],
            "RENAME" | "RENAMENX" | "MGET" => vec![self.tagged(), self.tagged()],
            "MULTI" | "PING" | "UNWATCH" => vec![],
            _ => vec![self.tagged()],
        };
        [name.as_bytes().to_vec()].into_iter().chain(arguments).collect()
    }

    fn key(&mut self) -> Vec<u8> {
        match self.below(12) {
            0 => b"\x00\xff\r\n".to_vec(),
            1 => Vec::new(),
            _ => self
                .pick(&["a", "b", "c", "k1", "z", "{t}1", "{t}2", "{t}3", "{}", "{t"])
                .as_bytes()
                .to_vec(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => (0..self.below(40))
                .map(|_| self.next().to_le_bytes()[0])
                .collect(),
            1 => self.next().to_string().into_bytes(),
            // No exponents: APPEND could make them so large that the documented difference shows.
            2 => self.decimal(),
            _ => self
                .pick(&[
                    "",
                    "0",
                    "1",
                    "-1",
                    "10",
                    "007",
                    "-0",
                    "+1",
                    " 1",
                    "1 ",
                    "3.25",
                    "hello",
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9223372036854775808",
                    "nan",
                    "inf",
                    "NX",
                    "99999999999999999999",
                ])
                .as_bytes()
                .to_vec(),
        }
    }

    fn decimal(&mut self) -> Vec<u8> {
        let (whole, fraction) = (self.next() % 2_000_000, self.next() % 1_000_000_000);
        let digits = self.below(9) + 1;
        let fraction = &format!("{fraction:09}")[..digits];
        let sign = self.pick(&["", "-", "+"]);
        format!("{sign}{whole}.{fraction}").into_bytes()
    }

    fn float(&mut self) -> Vec<u8> {
        let exponent = self.pick(&["", "", "", "e3", "e-7", "E+15", "e-30", "e18"]);
        [&self.decimal()[..], exponent.as_bytes()].concat()
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.below(5) {
            0 => self.value(),
            1 => format!("-{}", self.below(100)).into_bytes(),
            _ => self.below(200).to_string().into_bytes(),
        }
    }

    /// A lifetime that no other command has: thousands of seconds.
    fn thousands(&mut self) -> u64 {
        loop {
            let lifetime = self.next() % 1_000_000 + 1;
            if self.lifetimes.insert(lifetime) {
                return lifetime * 1000;
            }
        }
    }

    /// An amount of time as this option or command wants it: in milliseconds or not, since 1970 or not.
    fn amount(&mut self, milliseconds: bool, absolute: bool) -> Vec<u8> {
        let seconds = match self.below(12) {
            0 => {
                return self
                    .pick(&[
                        "0",
                        "-1",
                        "abc",
                        "1.5",
                        "9223372036854775807",
                        "-9223372036854775808",
                    ])
                    .into();
            }
            1 => {
                return self
                    .pick(&["9223372036854775", "9223372036854776", "-9223372036854776", ""])
                    .into();
            }
            2 if absolute => 1,
            _ => self.thousands() + if absolute { self.now } else { 0 },
        };
        (if milliseconds { seconds * 1000 } else { seconds })
            .to_string()
            .into_bytes()
    }

    fn expiry_option(&mut self, command: &mut Words) {
        let option = self.pick(&["EX", "px", "EXAT", "PXAT", "pXaT"]);
        command.push(option.into());
        let option = option.to_lowercase();
        let amount = self.amount(option.starts_with('p'), option.ends_with("at"));
        command.push(amount);
    }

    fn set(&mut self) -> Words {
        let mut command = vec![b"SET".to_vec(), self.key(), self.value()];
        while self.one_in(2) && command.len() < 8 {
            if self.one_in(3) {
                self.expiry_option(&mut command);
            } else {
                command.push(
                    self.pick(&["NX", "xx", "GET", "KEEPTTL", "get", "nx", "PERSIST"])
                        .into(),
                );
            }
        }
        command
    }

    fn string_read(&mut self) -> Words {
        let name = self.pick(&[
            "GET", "GET", "STRLEN", "GETRANGE", "SUBSTR", "GETDEL", "GETEX", "TYPE",
        ]);
        let mut command = vec![name.into(), self.key()];
        match name {
            "GETRANGE" | "SUBSTR" => command.extend([self.integer(), self.integer()]),
            "GETEX" if self.one_in(2) => self.expiry_option(&mut command),
            "GETEX" if self.one_in(2) => {
                command.push(self.pick(&["PERSIST", "persist", "KEEPTTL", "NX"]).into())
            }
            _ => {}
        }
        command
    }

    fn string_write(&mut self) -> Words {
        let name = self.pick(&["SETNX", "GETSET", "APPEND", "SETRANGE", "SETEX", "PSETEX"]);
        let mut command = vec![name.into(), self.key()];
        match name {
            "SETRANGE" => command.push(match self.below(10) {
                0 => b"600000000".to_vec(),
                1 => self.pick(&["-1", "x", "9223372036854775807", "1000"]).into(),
                _ => self.below(60).to_string().into_bytes(),
            }),
            "SETEX" => command.push(self.amount(false, false)),
            "PSETEX" => command.push(self.amount(true, false)),
            _ => {}
        }
        command.push(self.value());
        command
    }

    fn deadline(&mut self) -> Words {
        let names = [
            "EXPIRE",
            "PEXPIRE",
            "EXPIREAT",
            "PEXPIREAT",
            "TTL",
            "PTTL",
            "EXPIRETIME",
            "PEXPIRETIME",
            "PERSIST",
        ];
        let name = self.pick(&names);
        let mut command = vec![name.into(), self.key()];
        if name.starts_with("EXPIRETIME") || name.starts_with("PEXPIRETIME") || !name.contains("EXPIRE") {
            return command;
        }
        command.push(self.amount(name.starts_with('P'), name.ends_with("AT")));
        while self.one_in(2) && command.len() < 6 {
            command.push(self.pick(&["NX", "XX", "GT", "LT", "gt", "lt", "EX"]).into());
        }
        command
    }

    fn number(&mut self) -> Words {
        let name = self.pick(&["INCR", "DECR", "INCRBY", "DECRBY", "INCRBYFLOAT", "INCRBYFLOAT"]);
        let mut command = vec![name.into(), self.key()];
        match name {
            "INCRBY" | "DECRBY" => command.push(self.integer()),
            "INCRBYFLOAT" => command.push(if self.one_in(4) {
                self.integer()
            } else {
                self.float()
            }),
            _ => {}
        }
        if self.one_in(3) {
            return vec![b"SET".to_vec(), command[1].clone(), self.integer()];
        }
        command
    }

    fn many(&mut self) -> Words {
        let name = self.pick(&[
            "DEL", "UNLINK", "EXISTS", "TOUCH", "MGET", "MGET", "MSET", "MSETNX",
        ]);
        let mut command: Words = vec![name.into()];
        for _ in 0..self.below(5) + 1 {
            if name.starts_with("MSET") {
                command.push(self.pick(&["{t}1", "{t}2", "{t}3", "{t}4"]).into());
                command.push(self.value());
            } else {
                command.push(self.key());
            }
        }
        command
    }

    fn other(&mut self) -> Words {
        match self.below(12) {
            0 => vec![b"ECHO".to_vec(), self.value()],
            1 => vec![b"PING".to_vec(), self.value()],
            2 => words(&["PING"]),
            3 => vec![
                b"KEYS".to_vec(),
                self.pick(&["*", "[ab]", "{t}?", "k*", "nosuch", "\\{*", "[^a-y]*"])
                    .into(),
            ],
            4 => vec![b"nosuchcommand".to_vec(), self.value(), self.value()],
            5 => words(&["DBSIZE"]),
            6 => vec![b"SCAN".to_vec(), self.value()],
            7 => vec![b"AUTH".to_vec(), b"secret".to_vec()],
            8 => vec![b"AUTH".to_vec(), b"nobody".to_vec(), self.value()],
            9 => words(&["TIME"]),
            10 => vec![b"CLIENT".to_vec(), b"NOSUCH".to_vec()],
            _ => vec![b"GET".to_vec(), self.key()],
        }
    }
}
