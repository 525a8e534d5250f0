//! The gateway as a whole, without sockets: order, limits, authentication, refusals; and its documentation.

use super::limits::PAYLOAD_BYTES_MAX;
use super::session::Session;
use super::table::COMMANDS;
use super::testing::MemoryService;
use super::{Client, Node, RespOptions};
use crate::service::Kind;
use multiraft::{AnswerSink, GroupId, Outcome, Refusal};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A session over two ranges, divided at `m`: groups 2 and 3.
struct Rig {
    service: Arc<MemoryService>,
    session: Session,
    answers: Arc<Answers>,
}

#[derive(Default)]
struct Answers(Mutex<Vec<(u64, Outcome)>>);

impl AnswerSink for Answers {
    fn answer(&self, number: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((number, outcome));
    }
}

impl Rig {
    fn new(options: RespOptions) -> Rig {
        let service = Arc::new(MemoryService::new(&[b"m"]));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let client = Client {
            id: 7,
            address,
            local: address,
            since: Instant::now(),
            facts: Mutex::default(),
        };
        let answers = Arc::new(Answers::default());
        let node = Arc::new(Node::new(service.clone(), options));
        let session = Session::new(node, Arc::new(client), answers.clone());
        Rig {
            service,
            session,
            answers,
        }
    }

    /// Sends inline commands, or raw bytes; the replies that are due.
    fn send(&mut self, input: &str) -> String {
        self.session.input.extend_from_slice(input.as_bytes());
        self.turn()
    }

    fn turn(&mut self) -> String {
        loop {
            self.session.advance();
            let answers = std::mem::take(&mut *self.answers.0.lock().unwrap());
            if answers.is_empty() {
                return String::from_utf8_lossy(&self.session.out.split()).into_owned();
            }
            for (number, outcome) in answers {
                self.session.on_answer(number, outcome);
            }
        }
    }

    fn release(&mut self, at: usize) -> String {
        self.service.release(at);
        self.turn()
    }
}

const LEFT: GroupId = GroupId(2);
const RIGHT: GroupId = GroupId(3);

#[test]
fn a_read_after_a_write_waits_for_it_and_sees_it() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    assert_eq!(rig.send("SET a 1\nGET a\nGET z\nSET a 2\nGET a\n"), "");
    assert_eq!(
        rig.service.held(),
        [(LEFT, Kind::Write), (RIGHT, Kind::Read)],
        "the other group does not wait"
    );
    assert_eq!(rig.release(0), "+OK\r\n");
    assert_eq!(
        rig.service.held(),
        [(RIGHT, Kind::Read), (LEFT, Kind::Read)],
        "the second write waits for the read"
    );
    assert_eq!(rig.release(1), "$1\r\n1\r\n");
    assert_eq!(
        rig.release(1),
        "",
        "the write is answered, but the read of z comes first"
    );
    assert_eq!(rig.release(1), "");
    assert_eq!(rig.release(0), "$-1\r\n+OK\r\n$1\r\n2\r\n");
}

#[test]
fn requests_of_one_kind_flow_freely_and_replies_keep_their_order() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    rig.send("INCR a\nINCR b\nINCR z\nPING\nINCR c\n");
    assert_eq!(rig.service.held().len(), 4);
    assert_eq!(rig.release(2), "", "an answer out of turn waits");
    assert_eq!(rig.release(0), ":1\r\n");
    assert_eq!(rig.release(0), ":1\r\n:1\r\n+PONG\r\n");
    assert_eq!(rig.release(0), ":1\r\n");
}

#[test]
fn what_follows_watch_waits_for_it_and_a_transaction_is_one_request() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    let all = "WATCH {a}1\nSET {a}1 x\nMULTI\nINCR {a}2\nGET {a}2\nPING\nEXEC\nGET {a}2\n";
    assert_eq!(rig.send(all), "");
    assert_eq!(rig.service.held(), [(RIGHT, Kind::Read)]);
    assert_eq!(rig.release(0), "+OK\r\n");
    assert_eq!(rig.release(0), "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_eq!(rig.service.held(), [(RIGHT, Kind::Write)]);
    assert_eq!(rig.release(0), "*-1\r\n", "the connection's own write counts");
    assert_eq!(rig.release(0), "$-1\r\n");
    rig.send("MULTI\nINCR {a}2\nGET {a}2\nPING\nEXEC\n");
    assert_eq!(rig.service.held(), [(RIGHT, Kind::Write)]);
    assert_eq!(rig.release(0), "*3\r\n:1\r\n$1\r\n1\r\n+PONG\r\n");
}

#[test]
fn a_transaction_without_what_watch_saw_is_refused() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    rig.send("WATCH a\n");
    rig.service.refuse(0, Outcome::Refused(Refusal::Overloaded));
    assert!(rig.turn().starts_with("-TRYAGAIN "));
    let replies = rig.send("MULTI\nSET a 1\nEXEC\nMULTI\nSET a 1\nEXEC\n");
    assert!(replies.contains("-EXECABORT a WATCH failed"), "{replies}");
    assert_eq!(rig.service.held(), [(LEFT, Kind::Write)], "only the second one");
    rig.service.refuse(0, Outcome::Unknown);
    assert!(rig.turn().starts_with("-UNKNOWN "));
}

#[test]
fn a_connection_does_not_watch_without_end() {
    let mut rig = Rig::new(RespOptions::default());
    let watch = format!("WATCH{}\n", " a".repeat(1024));
    let replies: String = (0..5).map(|_| rig.send(&watch)).collect();
    assert_eq!(replies.matches("+OK").count(), 3);
    assert!(replies.ends_with("-ERR a connection watches up to 4096 keys: UNWATCH some\r\n"));
    assert_eq!(rig.send("UNWATCH\nWATCH a\n"), "+OK\r\n+OK\r\n");
}

#[test]
fn a_transaction_has_a_size() {
    let mut rig = Rig::new(RespOptions::default());
    rig.send("MULTI\n");
    let value = "v".repeat(1 << 20);
    let mut replies = String::new();
    for _ in 0..=PAYLOAD_BYTES_MAX >> 20 {
        replies += &rig.send(&format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048576\r\n{value}\r\n"));
    }
    assert!(replies.ends_with(&format!(
        "-ERR the transaction is longer than {PAYLOAD_BYTES_MAX} bytes\r\n"
    )));
    assert!(rig.send("EXEC\n").starts_with("-EXECABORT "));
}

#[test]
fn writes_to_the_same_key_do_not_overtake_each_other() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    rig.send("SET a 1\nSET b 1\nSET a 2\nDEL a b\nSET c 1\nMSET {t}a 1 {t}b 1\n");
    assert_eq!(
        rig.service.held().len(),
        3,
        "the second write to a, and all after it, wait; the other range does not"
    );
    rig.release(1);
    assert_eq!(rig.service.held().len(), 2);
    rig.release(0);
    assert_eq!(rig.service.held().len(), 2, "now the second write to a");
    rig.release(1);
    assert_eq!(rig.service.held().len(), 2, "now DEL, alone");
    rig.release(1);
    assert_eq!(rig.service.held().len(), 2, "now the write to c");
}

#[test]
fn commands_over_several_groups_are_gathered() {
    let mut rig = Rig::new(RespOptions {
        allow_flush: true,
        ..RespOptions::default()
    });
    assert_eq!(
        rig.send("SET a 1\nSET z 2\nMGET a nosuch z a\n")
            .matches("+OK")
            .count(),
        2
    );
    assert_eq!(
        rig.send("MGET a nosuch z a\n"),
        "*4\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n$1\r\n1\r\n"
    );
    assert_eq!(
        rig.send("EXISTS a z z nosuch\nDBSIZE\nKEYS *\n"),
        ":3\r\n:2\r\n*2\r\n$1\r\na\r\n$1\r\nz\r\n"
    );
    assert_eq!(rig.send("DEL a z nosuch\nDBSIZE\n"), ":2\r\n:0\r\n");
    rig.send("SET a 1\nSET z 2\n");
    assert_eq!(rig.send("FLUSHALL\nDBSIZE\n"), "+OK\r\n:0\r\n");
    assert!(
        rig.send("MSET a 1 b 2\n")
            .starts_with("-CROSSRANGE the keys of MSET must share a leading {tag}")
    );
    assert_eq!(
        rig.send("MSET {t}a 1 {t}z 2\nMSET a 1 a 2\nMSETNX {t}z 1 {t}y 2\n"),
        "+OK\r\n+OK\r\n:0\r\n"
    );
}

#[test]
fn a_scan_walks_over_the_ranges_and_knows_only_its_own_cursors() {
    let mut rig = Rig::new(RespOptions::default());
    rig.send("SET a 1\nSET b 1\nSET c 1\nSET z 1\n");
    let reply = rig.send("SCAN 0 COUNT 2\n");
    let cursor = reply.lines().nth(2).unwrap().to_owned();
    assert!(
        cursor.parse::<u64>().unwrap() > 0 && reply.ends_with("*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        "{reply}"
    );
    assert_eq!(
        rig.send("SCAN 0 COUNT 2\n"),
        reply,
        "the same position has the same cursor"
    );
    let reply = rig.send(&format!("SCAN {cursor} COUNT 2\n"));
    assert!(reply.ends_with("*1\r\n$1\r\nc\r\n"), "{reply}");
    let cursor = reply.lines().nth(2).unwrap();
    assert_eq!(
        rig.send(&format!("SCAN {cursor}\n")),
        "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nz\r\n"
    );
    assert!(rig.send("SCAN 12345\n").starts_with("-ERR unknown cursor"));
    assert_eq!(
        rig.send("SCAN 0 MATCH z\n"),
        "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nz\r\n",
        "an empty page is skipped"
    );
}

#[test]
fn without_the_password_nothing_but_greetings_is_taken() {
    let mut rig = Rig::new(RespOptions {
        password: Some("secret".into()),
        ..RespOptions::default()
    });
    assert_eq!(rig.send("GET a\n"), "-NOAUTH Authentication required.\r\n");
    assert!(rig.send("HELLO 3\n").starts_with("-NOAUTH HELLO must be called"));
    for wrong in [
        "AUTH wrong",
        "AUTH nobody secret",
        "AUTH secre",
        "HELLO 3 AUTH default wrong",
    ] {
        let reply = rig.send(&format!("{wrong}\n"));
        assert_eq!(
            reply, "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            "{wrong}"
        );
    }
    assert!(
        rig.send("HELLO 3 AUTH default secret SETNAME me\n")
            .starts_with("%7\r\n$6\r\nserver\r\n")
    );
    assert_eq!(rig.send("CLIENT GETNAME\nGET a\n"), "$2\r\nme\r\n_\r\n");
    assert_eq!(
        rig.send("RESET\nGET a\n"),
        "+RESET\r\n-NOAUTH Authentication required.\r\n"
    );
    assert_eq!(
        rig.send("*11\r\n"),
        "-ERR Protocol error: unauthenticated multibulk length\r\n"
    );
    assert!(rig.session.is_finished());
}

#[test]
fn nothing_in_an_http_request_is_executed() {
    for head in ["POST / HTTP/1.1\r\n", "Host: localhost\r\n"] {
        let mut rig = Rig::new(RespOptions::default());
        assert_eq!(
            rig.send(&format!("{head}\r\nSET smuggled 1\r\n")),
            "-ERR this port speaks the Redis protocol, not HTTP\r\n"
        );
        assert!(rig.session.is_finished());
    }
}

#[test]
fn keys_and_values_have_limits_that_do_not_end_the_connection() {
    let mut rig = Rig::new(RespOptions {
        key_bytes_max: 4,
        value_bytes_max: 8,
        ..RespOptions::default()
    });
    assert_eq!(
        rig.send("SET 12345 v\n"),
        "-ERR key too long: 5 bytes, this node takes up to 4\r\n"
    );
    assert_eq!(
        rig.send("MGET a 12345\n"),
        "-ERR key too long: 5 bytes, this node takes up to 4\r\n"
    );
    assert_eq!(
        rig.send("SET k 123456789\n"),
        "-ERR argument too long: 9 bytes, this node takes up to 8\r\n"
    );
    assert_eq!(rig.send("SET k 12345678\n"), "+OK\r\n");
    assert!(
        rig.send("APPEND k 9\n")
            .starts_with("-ERR string exceeds maximum allowed size")
    );
    assert!(
        rig.send("SETRANGE k 8 9\n")
            .starts_with("-ERR string exceeds maximum allowed size")
    );
    assert_eq!(rig.send("GET k\n"), "$8\r\n12345678\r\n");
}

#[test]
fn refusals_say_whether_anything_was_changed() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    let cases = [
        (Outcome::Refused(Refusal::NotLeader(None)), "-CLUSTERDOWN "),
        (Outcome::Refused(Refusal::Overloaded), "-TRYAGAIN overloaded"),
        (Outcome::Refused(Refusal::NoSpace), "-OOM disk space is short"),
        (
            Outcome::Refused(Refusal::Stopping),
            "-TRYAGAIN this node is stopping",
        ),
        (Outcome::Unknown, "-UNKNOWN the outcome is not known"),
    ];
    for (outcome, expected) in cases {
        for command in ["SET a 1\n", "MGET a z\n"] {
            rig.send(command);
            while !rig.service.held().is_empty() {
                rig.service.refuse(0, outcome.clone());
            }
            let reply = rig.turn();
            assert!(
                reply.starts_with(expected) && reply.matches("\r\n").count() == 1,
                "{command} {reply}"
            );
        }
    }
}

#[test]
fn flushing_is_off_unless_allowed() {
    let mut rig = Rig::new(RespOptions::default());
    assert!(
        rig.send("FLUSHALL\n")
            .starts_with("-NOPERM FLUSHALL is switched off")
    );
    assert!(rig.send("FLUSHDB ASYNC\n").starts_with("-NOPERM"));
    assert_eq!(rig.send("FLUSHALL NOW\n"), "-ERR syntax error\r\n");
}

#[test]
fn client_reply_off_and_skip_silence_replies() {
    let mut rig = Rig::new(RespOptions::default());
    assert_eq!(rig.send("CLIENT REPLY SKIP\nSET a 1\nGET a\n"), "$1\r\n1\r\n");
    assert_eq!(rig.send("CLIENT REPLY OFF\nSET a 2\nPING\nnosuch\nGET a\n"), "");
    assert_eq!(rig.send("CLIENT REPLY ON\nGET a\n"), "+OK\r\n$1\r\n2\r\n");
}

#[test]
fn after_quit_nothing_more_is_done() {
    let mut rig = Rig::new(RespOptions::default());
    assert_eq!(rig.send("SET a 1\nQUIT\nSET a 2\n"), "+OK\r\n+OK\r\n");
    assert!(rig.session.is_finished());
}

#[test]
fn a_pipeline_longer_than_the_limit_is_taken_in_parts() {
    let mut rig = Rig::new(RespOptions::default());
    rig.service.hold();
    let count = super::limits::PIPELINE_COMMANDS_MAX + 10;
    rig.send(
        &(0..count)
            .map(|number| format!("INCR a{number}\n"))
            .collect::<String>(),
    );
    assert_eq!(rig.service.held().len(), count - 10);
    assert!(!rig.session.wants_input(), "no more is read meanwhile");
    let mut replies = String::new();
    while !rig.service.held().is_empty() {
        replies += &rig.release(0);
    }
    assert_eq!(replies.lines().count(), count);
    assert_eq!(replies.matches(":1\r\n").count(), count);
}

#[test]
fn a_conversation_reads_the_same_wherever_it_is_cut() {
    let input = "HELLO 3\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n*1\r\nget a\n*2\r\n$3\r\nGET\r\n$1\r\nz\r\n\
        *5\r\n$3\r\nset\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\nEX\r\n$3\r\n100\r\nTTL a\nQUIT\r\n";
    let whole = Rig::new(RespOptions::default()).send(input);
    assert!(
        whole.ends_with("+OK\r\n$4\r\n\r\n*1\r\n_\r\n+OK\r\n:100\r\n+OK\r\n"),
        "{whole}"
    );
    for cut in 0..input.len() {
        let mut rig = Rig::new(RespOptions::default());
        let replies = rig.send(&input[..cut]) + &rig.send(&input[cut..]);
        assert_eq!(replies, whole, "cut at {cut}");
    }
}

#[derive(serde::Deserialize)]
struct Exceptions {
    exception: Vec<Exception>,
}

#[derive(serde::Deserialize)]
struct Exception {
    command: String,
    reason: String,
}

/// docs/resp.md as it should be.
fn documentation() -> String {
    let mut text = String::from(DOCUMENTATION_START);
    let mut groups: Vec<&str> = COMMANDS.iter().map(|spec| spec.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let _ = write!(
            text,
            "\n## Commands: {group}\n\n| command | arity | does |\n|---|--:|---|\n"
        );
        for spec in COMMANDS.iter().filter(|spec| spec.group == group) {
            let subcommands: Vec<String> = spec
                .subcommands
                .iter()
                .map(|(name, _)| name.to_uppercase())
                .collect();
            let subcommands = if subcommands.is_empty() {
                String::new()
            } else {
                format!(" ({})", subcommands.join(", "))
            };
            let (name, arity, summary) = (spec.name.to_uppercase(), spec.arity, spec.summary);
            let _ = writeln!(text, "| {name}{subcommands} | {arity} | {summary} |");
        }
    }
    text.push_str(DOCUMENTATION_DIFFERENCES);
    let Exceptions { exception } = toml::from_str(include_str!("../../../../tests/redis_exceptions.toml"))
        .expect("a list of exceptions");
    for Exception { command, reason } in exception {
        let _ = writeln!(text, "| {} | {reason} |", command.to_uppercase());
    }
    text
}

const DOCUMENTATION_START: &str = "\
# The Redis gateway

Any Redis client can use Flotilla: every node listens on its RESP port (default 6380), takes every key and forwards
each command to the range that holds it. RESP2 and, after `HELLO 3`, RESP3; pipelining; inline commands. The behaviour
is that of Redis 7.0.15 unless a difference is listed below.

This page is generated from the command table and from `tests/redis_exceptions.toml`; a test keeps it current.

## Order and consistency

* Replies come in the order of the commands.
* Every command is linearizable for its keys. What one connection sends for a key takes effect in the order in which it
  was sent: a `GET` after a `SET` in the same pipeline sees it, of two `SET`s the second one stays. Between different
  keys a pipeline has no order.
* To keep that order, a read waits for earlier writes of its connection to the same range, a write for earlier reads, and
  a write for earlier writes to the same key. Pipelines of reads, or of writes to different keys, go out at once.
* Commands with several keys are atomic within a range. Keys that begin with the same `{tag}` always share a range.
* `MULTI` ... `EXEC` is atomic and isolated: it is one entry of the log of the range that holds its keys, which share a `{tag}`.
  `WATCH` reads the keys' versions there, linearizably; `EXEC` compares them when it takes effect. The commands that follow
  `WATCH` on its connection wait for its reply. After `-UNKNOWN` a transaction took effect once or not at all.
* A key exists until its deadline by the clock of its range's leader; once seen absent it stays absent.

## Errors of a cluster

| error | meaning |
|---|---|
| `-CLUSTERDOWN` | no leader of the range can be reached; nothing was changed |
| `-TRYAGAIN` | overloaded, stopping, or the key is moving; nothing was changed; repeat it |
| `-UNKNOWN` | the command may have taken effect or may yet; read before you repeat it |
| `-CROSSRANGE` | MSET, MSETNX, RENAME, WATCH or a transaction over keys that do not share a tag; nothing was changed |
| `-NOPERM` | FLUSHALL or FLUSHDB without `resp.allow_flush` |

A negative arity is a minimum; the name of the command counts.
";

const DOCUMENTATION_DIFFERENCES: &str = "
## Differences from Redis 7.0.15

| command | difference |
|---|---|
";

#[test]
fn the_documentation_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/resp.md");
    let expected = documentation();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/resp.md is not current: run this test with UPDATE_GOLDENFILES=1"
    );
}
