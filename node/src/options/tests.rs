//! Precedence, errors and the generated documentation.

use super::*;

const NO_ENV: &dyn Fn(&str) -> Option<String> = &|_| None;

fn flags(flags: &[(&str, &str)]) -> Vec<(&'static OptionSpec, String)> {
    flags
        .iter()
        .map(|(key, text)| (table::find(key).expect("in the table"), (*text).to_string()))
        .collect()
}

fn minimal() -> Vec<(&'static OptionSpec, String)> {
    flags(&[("node_id", "1"), ("initial_cluster", "1=a:7400,2=b:7400")])
}

fn from_file(text: &str) -> Result<NodeOptions, ConfigError> {
    resolve(Layers {
        file: Some(("f.toml", text)),
        env: NO_ENV,
        flags: &minimal(),
    })
}

fn refused(text: &str) -> (String, String) {
    let error = from_file(text).expect_err("must be refused");
    (error.to_string(), error.hint)
}

#[test]
fn every_default_is_valid_and_enough_with_id_and_cluster() {
    let options = resolve(Layers {
        file: None,
        env: NO_ENV,
        flags: &minimal(),
    })
    .expect("valid");
    assert_eq!(options.node_id, NodeId(1));
    assert_eq!(options.advertise, "a:7400");
    assert_eq!(options.listen.quic.to_string(), "0.0.0.0:7400");
    assert_eq!(options.certs.key, PathBuf::from("./certs/node-1.key"));
    assert_eq!(options.boundaries().len(), 15);
    assert!(!options.resp.allow_flush);
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let file = "workers = 2\nranges = 32\n[log]\nlevel = \"debug\"\n[storage]\ncache_bytes = \"128MiB\"\n";
    let env = |name: &str| match name {
        "FLOTILLA_RANGES" => Some("64".to_string()),
        "FLOTILLA_WORKERS" => Some("3".to_string()),
        _ => None,
    };
    let mut flags = minimal();
    flags.extend(self::flags(&[("workers", "4")]));
    let options = resolve(Layers {
        file: Some(("f.toml", file)),
        env: &env,
        flags: &flags,
    })
    .expect("valid");
    assert_eq!((options.workers, options.ranges), (4, 64));
    assert_eq!(
        (options.log.level.as_str(), options.storage.cache_bytes),
        ("debug", 128 << 20)
    );
    assert_eq!(options.storage.memtable_bytes, 128 << 20);
}

#[test]
fn unknown_keys_are_refused_with_the_line_and_a_suggestion() {
    let (text, hint) = refused("workers = 2\n\n[listen]\nquick = \"1.2.3.4:5\"\n");
    assert_eq!(text, "listen.quick (f.toml:4): there is no such option");
    assert_eq!(hint, "did you mean `listen.quic`?");
    let (text, hint) = refused("[lissten]\nquic = \"127.0.0.1:7400\"\n");
    assert_eq!(text, "lissten (f.toml:1): there is no such option");
    assert_eq!(hint, "did you mean `[listen]`?");
    let (text, _) = refused("[colours]\nred = 1\n");
    assert_eq!(text, "colours (f.toml:1): there is no such option");
}

#[test]
fn bad_values_name_key_and_origin() {
    let (text, hint) = refused("[storage]\nring_bytes = \"64MB/s\"\n");
    assert_eq!(
        text,
        "storage.ring_bytes (f.toml:2): `64MB/s` is not a size: write it like 64MiB or 4096"
    );
    assert!(hint.starts_with("SIZE: "));
    let env = |name: &str| (name == "FLOTILLA_LISTEN_QUIC").then(|| "nowhere".to_string());
    let error = resolve(Layers {
        file: None,
        env: &env,
        flags: &minimal(),
    })
    .expect_err("refused");
    assert!(
        error
            .to_string()
            .starts_with("listen.quic (environment FLOTILLA_LISTEN_QUIC): `nowhere`"),
        "{error}"
    );
    let bad = flags(&[("workers", "many")]);
    let error = resolve(Layers {
        file: None,
        env: NO_ENV,
        flags: &bad,
    })
    .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "workers (flag --workers): `many` is not a whole number"
    );
    assert_eq!(Failure::from(error).code as u8, 75);
}

#[test]
fn a_ring_that_can_not_hold_the_largest_value_is_refused() {
    let (text, hint) = refused(
        "[storage]\nring_bytes = \"16MiB\"\nmemtable_bytes = \"1MiB\"\n[limits]\nvalue_bytes_max = \"2MiB\"\n",
    );
    assert!(
        text.starts_with("storage.ring_bytes (f.toml:2): 16777216 bytes"),
        "{text}"
    );
    assert!(hint.contains("limits.value_bytes_max"), "{hint}");
}

#[test]
fn toml_errors_and_wrong_types_name_the_line() {
    assert!(
        refused("workers = 2\nranges = = 3\n")
            .0
            .starts_with("TOML (f.toml:2): ")
    );
    assert!(
        refused("workers = 1.5\n")
            .0
            .contains("(f.toml:1): a value of the wrong type")
    );
    assert!(refused("split_keys = [\"a,b\"]\n").1.contains("hex:2c"));
}

#[test]
fn an_empty_password_is_told_apart_from_none() {
    let (text, hint) = refused("[resp]\npassword = \"\"\n");
    assert_eq!(
        text,
        "resp.password (f.toml:2): it is empty: write one, or leave this option (and its environment variable) out"
    );
    assert!(hint.starts_with("SECRET: "), "{hint}");
}

#[test]
fn split_keys_obey_the_limits_of_keys() {
    let limit = "[limits]\nkey_bytes_max = 16\n";
    assert!(from_file(&format!("split_keys = \"{}\"\n{limit}", "k".repeat(16))).is_ok());
    let (text, hint) = refused(&format!("split_keys = \"{}\"\n{limit}", "k".repeat(17)));
    assert_eq!(
        text,
        "split_keys (f.toml:1): a key of 17 bytes, but keys have at most 16"
    );
    assert!(hint.contains("limits.key_bytes_max"), "{hint}");
    let many: Vec<String> = (0..4096).map(|i| format!("k{i:04}")).collect();
    let (text, _) = refused(&format!("split_keys = \"{}\"\n", many.join(",")));
    assert_eq!(text, "split_keys (f.toml:1): 4097 ranges: use 1 to 4096");
}

#[test]
fn lists_may_be_arrays() {
    let options = from_file("split_keys = [\"m\", \"c\"]\n").expect("valid");
    assert_eq!(options.boundaries(), vec![Bytes::from("c"), Bytes::from("m")]);
}

#[test]
fn relations_are_checked() {
    assert!(
        refused("ranges = 4\nsplit_keys = \"a,b\"\n")
            .0
            .starts_with("ranges (f.toml:1): 4 ranges")
    );
    assert!(
        refused("split_keys = \"a,a\"\n")
            .0
            .starts_with("split_keys (f.toml:1): two split keys")
    );
    assert!(
        refused("raft.heartbeat = \"200ms\"\n")
            .0
            .starts_with("raft.heartbeat (f.toml:1)")
    );
    assert!(
        refused("raft.election_timeout_max = \"310ms\"\n")
            .0
            .starts_with("raft.election_timeout_max")
    );
    assert!(
        refused("storage.memtable_bytes = \"1GiB\"\n")
            .0
            .starts_with("storage.memtable_bytes")
    );
    assert!(
        refused("listen.resp = \"0.0.0.0:6380\"\n")
            .1
            .starts_with("set resp.password")
    );
    assert!(from_file("listen.resp = \"0.0.0.0:6380\"\nresp.password = \"x\"\n").is_ok());
}

#[test]
fn a_node_must_say_who_it_is() {
    let nobody = resolve(Layers {
        file: None,
        env: NO_ENV,
        flags: &[],
    })
    .expect_err("no id");
    assert_eq!(
        (nobody.key.as_str(), nobody.hint.as_str()),
        ("node_id", "start it with --node-id 1")
    );
    let stranger = flags(&[("node_id", "3"), ("initial_cluster", "1=a:7400")]);
    let error = resolve(Layers {
        file: None,
        env: NO_ENV,
        flags: &stranger,
    })
    .expect_err("not listed");
    assert_eq!(
        error.to_string(),
        "initial_cluster (flag --initial-cluster): this node is not listed"
    );
}

#[test]
fn secrets_are_not_shown() {
    let options = from_file("resp.password = \"hunter2\"\n").expect("valid");
    assert!(!format!("{options:?}").contains("hunter2"));
}

#[test]
fn dev_nodes_share_a_host_and_differ_in_ports() {
    let env = |name: &str| (name == "FLOTILLA_LISTEN_QUIC").then(|| "0.0.0.0:9".to_string());
    let shared = resolve_shared(Layers {
        file: None,
        env: &env,
        flags: &[],
    })
    .expect("valid");
    assert!(shared.resp.allow_flush);
    let dev = DevOptions {
        data_dir: "d".into(),
        nodes: 3,
        quic_port: 7400,
        http_port: 7401,
        resp_port: 6380,
        shared,
    };
    let third = dev.node(NodeId(3));
    let ports = (
        third.listen.quic.port(),
        third.listen.http.port(),
        third.listen.resp.port(),
    );
    assert_eq!(ports, (7420, 7421, 6382));
    assert_eq!(
        third.initial_cluster[1],
        (NodeId(2), "127.0.0.1:7410".to_string())
    );
    assert_eq!((third.advertise.as_str(), dev.all().len()), ("127.0.0.1:7420", 3));
}

#[test]
fn the_documentation_is_generated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(path, markdown()).expect("docs can be written");
    }
    let stored = std::fs::read_to_string(path).expect("docs/config.md exists");
    assert_eq!(
        stored,
        markdown(),
        "run with UPDATE_GOLDENFILES=1 and commit docs/config.md"
    );
}
