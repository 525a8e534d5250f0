//! The command line as a whole: what parses, what does not, and the golden files of all renderings.

use super::*;
use clap::CommandFactory;

/// Compares with node/golden/`name`; `UPDATE_GOLDENFILES=1` rewrites it.
pub(super) fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    let text = format!("{text}\n");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        std::fs::write(&path, &text).expect("golden files can be written");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        stored,
        text,
        "{} differs; UPDATE_GOLDENFILES=1 rewrites it",
        path.display()
    );
}

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("flotilla").chain(line.split_whitespace()))
}

#[test]
fn only_panics_of_redb_are_taken_for_damage() {
    for file in [
        "/home/u/.cargo/registry/src/index.registry-1949cf8c6b5b557f/redb-4.6.0/src/tree_store/btree.rs",
        "vendor/redb/src/db.rs",
    ] {
        assert!(is_in_redb(file), "{file}");
    }
    for file in [
        "store-redb/src/engine.rs",
        "/src/redb-tools/x.rs",
        "node/src/kv/apply.rs",
    ] {
        assert!(!is_in_redb(file), "{file}");
    }
}

#[test]
fn clap_finds_no_fault() {
    Arguments::command().debug_assert();
}

#[test]
fn these_parse() {
    for line in [
        "dev",
        "dev --data-dir d --nodes 5 --ranges 32 --split-keys a,b --resp-port 6390",
        "start --node-id 1 --initial-cluster 1=a:7400,2=b:7400 --listen-quic 0.0.0.0:7400 --resp-allow-flush",
        "start --config f.toml",
        "cert ca",
        "cert ca --cluster 00000000000000000000000000000007 --dir new",
        "cert node --id 3 --host db3.example --host 10.0.0.3 --days 30",
        "cert client --name app --dir c",
        "status -o json",
        "range ls --key-format hex",
        "node ls --endpoints a:1,b:2 --ca ca --cert c --key k --timeout 250ms",
        "kv get k",
        "kv put k v -o json",
        "kv del a b c",
        "kv scan",
        "kv scan a b --limit 10 --keys-only",
        "kv scan --prefix p",
        "kv cas k v --absent",
        "kv cas k --delete --version 3",
        "kv cas k v --value-is old",
        "debug store check d -o json",
        "debug store stats d/node.redb",
        "debug store dump d --table log --group 7 --limit 10",
        "bench",
        "bench --clients 256 --connections 3 --op get --duration 30s --warmup 0s --value-size 1KiB",
        "bench --mix put=20,get=80 --rate 5000 --api resp --endpoints 127.0.0.1:6380 -o json",
    ] {
        assert!(
            parse(line).is_ok(),
            "{line}: {}",
            parse(line).expect_err("it failed")
        );
    }
}

#[test]
fn these_do_not() {
    for line in [
        "",
        "fly",
        "dev --nodes 99",
        "start --unknown 1",
        "cert ca --cluster 7",
        "cert node",
        "cert node --id 0",
        "kv get",
        "kv del",
        "kv cas k v",
        "kv cas k --absent",
        "kv cas k v --absent --present",
        "kv cas k v --delete --absent",
        "kv scan a --prefix p",
        "kv get k --timeout 5",
        "kv get k -o yaml",
        "debug store dump d",
        "debug store dump d --table everything",
        "bench --op fly",
        "bench --mix put=0,get=0",
        "bench --mix put",
        "bench --op put --mix get=1",
        "bench --clients 0",
        "bench --duration 0s",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

/// Every option of the table shows up in `start --help` with its environment variable.
#[test]
fn help_is_fed_by_the_table() {
    let mut command = Arguments::command();
    let start = command.find_subcommand_mut("start").expect("there is one");
    let help = start.render_long_help().to_string();
    for spec in crate::options::TABLE {
        assert!(help.contains(&format!("--{}", spec.flag())), "{}", spec.key);
        assert!(help.contains(&spec.env()), "{}", spec.key);
    }
}

#[test]
fn configuration_errors_have_their_own_exit_code() {
    let arguments = parse("start --node-id 1 --initial-cluster 1=a:7400 --workers many").expect("parses");
    let failure = dispatch(arguments.command, Format::Table).expect_err("refused before anything starts");
    assert_eq!(failure.code, Code::Configuration);
    assert_eq!(
        failure.message,
        "configuration: workers (flag --workers): `many` is not a whole number"
    );
}
