//! Ordinary use of the gateway by clients that others wrote: redis-cli, redis-py and the Rust crate.

use flotilla::gateway::resp::RespOptions;
use flotilla::gateway::resp::testing::{Gateway, MemoryService};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn gateway(password: Option<&str>) -> Gateway {
    let service = Arc::new(MemoryService::new(&[b"h", b"t"]));
    let options = RespOptions {
        allow_flush: true,
        password: password.map(str::to_owned),
        ..RespOptions::default()
    };
    Gateway::start(service, options).expect("a free port")
}

/// Runs a program with this input; what it prints.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is installed: {error}"));
    process
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    let output = process.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn redis_cli_works() {
    let gateway = gateway(None);
    let port = gateway.address.port().to_string();
    let input = "set k v\nget k\nincr n\nttl k\nget nosuch\nmget k n\nscan 0\ncommand count\nclient setname me\n\
        client getname\nselect 0\nconfig get save\nnosuch\n";
    let output = run("redis-cli", &["-p", &port], input);
    assert!(output.starts_with("OK\nv\n1\n-1\n\nv\n1\n"), "{output}");
    assert!(output.contains("OK\nme\nOK\nsave\n"), "{output}");
    assert!(output.contains("ERR unknown command 'nosuch'"), "{output}");
    for version in ["-2", "-3"] {
        assert_eq!(
            run("redis-cli", &["-p", &port, version, "--scan"], "")
                .lines()
                .count(),
            2
        );
        assert!(
            run("redis-cli", &["-p", &port, version, "info", "server"], "").contains("redis_version:7.0.15")
        );
        assert!(run("redis-cli", &["-p", &port, version, "command", "docs", "get"], "").contains("summary"));
    }
}

#[test]
fn redis_py_works() {
    let gateway = gateway(Some("secret"));
    let script = "
import redis, sys
r = redis.Redis(port=int(sys.argv[1]), password='secret', decode_responses=True, client_name='py')
assert r.ping() and r.client_getname() == 'py'
assert r.set('k', 'v', ex=100) and r.get('k') == 'v' and 99 <= r.ttl('k') <= 100
assert r.set('k', 'w', nx=True) is None and r.set('k', 'w', xx=True, get=True) == 'v'
assert r.incr('n') == 1 and r.incrby('n', 5) == 6 and r.incrbyfloat('f', 0.1) == 0.1
assert r.mget('k', 'n', 'none') == ['w', '6', None]
assert r.mset({'{t}a': 1, '{t}b': 2}) and r.exists('{t}a', '{t}b', 'x') == 2
try:
    r.mset({'a': 1, 'b': 2}); assert False
except redis.ResponseError as error:
    assert 'CROSSRANGE' in str(error), error
pipe = r.pipeline(transaction=False)
for number in range(1000):
    pipe.set(f'p{number}', number); pipe.get(f'p{number}')
replies = pipe.execute()
assert replies[1::2] == [str(number) for number in range(1000)]
assert sorted(r.scan_iter(match='p*', count=100)) == sorted(f'p{number}' for number in range(1000))
assert len(r.keys('p*')) == 1000 and r.dbsize() == 1005
assert r.expire('n', 50) and r.persist('n') and r.type('n') == 'string' and r.getrange('k', 0, 0) == 'w'
assert r.info()['redis_version'] == '7.0.15' and r.config_get('save') == {'save': ''}
assert len(r.client_list()) == 1 and len(r.command()) > 40 and r.time()[0] > 0
with r.client() as one:
    assert one.set('b', b'\\x00\\xff')
assert r.delete('k', 'n', 'f') == 3 and r.flushall() and r.dbsize() == 0
try:
    redis.Redis(port=int(sys.argv[1])).get('k'); assert False
except redis.AuthenticationError:
    pass
";
    run(
        "/usr/bin/python3",
        &["-", &gateway.address.port().to_string()],
        script,
    );
}

#[test]
fn the_rust_crate_works() {
    let gateway = gateway(None);
    for protocol in ["resp2", "resp3"] {
        let client = redis::Client::open(format!("redis://{}/?protocol={protocol}", gateway.address))
            .expect("an address");
        let mut connection = client.get_connection().expect("a connection");
        let () = redis::cmd("SET")
            .arg("k")
            .arg("v")
            .arg("PX")
            .arg(60_000)
            .query(&mut connection)
            .expect("SET");
        let value: Option<String> = redis::cmd("GET").arg("k").query(&mut connection).expect("GET");
        assert_eq!(value.as_deref(), Some("v"));
        let sums: (i64, i64) = redis::pipe()
            .cmd("INCR")
            .arg("n")
            .cmd("INCRBY")
            .arg("n")
            .arg(4)
            .query(&mut connection)
            .expect("a pipeline");
        assert_eq!(sums.1, sums.0 + 4);
        let values: Vec<Option<i64>> = redis::cmd("MGET")
            .arg("n")
            .arg("none")
            .query(&mut connection)
            .expect("MGET");
        assert_eq!(values, [Some(sums.1), None]);
        let error = redis::cmd("INCR")
            .arg("k")
            .query::<i64>(&mut connection)
            .expect_err("not a number");
        assert_eq!(error.detail(), Some("value is not an integer or out of range"));
    }
}
