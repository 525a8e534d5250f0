//! Who may import whom (ARCHITECTURE.md, "Who may import whom"): the arrows between our crates and the crates that
//! must never appear somewhere. Only normal and build dependencies count; tests may use what they like.

use std::path::Path;

struct Rule {
    folder: &'static str,
    ours: &'static [&'static str],
    forbidden: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        folder: "raft-core",
        ours: &[],
        forbidden: &["tokio", "tracing", "rand", "serde", "fastrand", "quinn", "redb"],
    },
    Rule {
        folder: "multiraft",
        ours: &["raft-core"],
        forbidden: &["quinn", "rustls", "redb", "rand", "serde"],
    },
    Rule {
        folder: "transport-quic",
        ours: &["multiraft"],
        forbidden: &["redb"],
    },
    Rule {
        folder: "store-redb",
        ours: &["multiraft"],
        forbidden: &["tokio", "quinn", "rustls"],
    },
    Rule {
        folder: "node",
        ours: &["multiraft", "transport-quic", "store-redb", "flotilla-client"],
        forbidden: &["redb"],
    },
    Rule {
        folder: "node/client",
        ours: &[],
        forbidden: &["redb", "axum", "clap"],
    },
];

const OURS: &[&str] = &[
    "raft-core",
    "multiraft",
    "transport-quic",
    "store-redb",
    "flotilla",
    "flotilla-client",
    "flotilla-tests",
];

/// Every crate of the workspace against its rule.
pub(super) fn check(root: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in RULES {
        let path = root.join(rule.folder).join("Cargo.toml");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        complaints.extend(check_manifest(rule.folder, &text));
    }
    complaints
}

/// One manifest's text against the rule of `folder`.
pub(super) fn check_manifest(folder: &str, text: &str) -> Vec<String> {
    let rule = RULES
        .iter()
        .find(|rule| rule.folder == folder)
        .expect("a rule for every crate");
    let manifest: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
    let mut complaints = Vec::new();
    for section in ["dependencies", "build-dependencies"] {
        for name in manifest
            .get(section)
            .and_then(|table| table.as_table())
            .into_iter()
            .flat_map(|table| table.keys())
        {
            if OURS.contains(&name.as_str()) && !rule.ours.contains(&name.as_str()) {
                complaints.push(format!("{folder} must not import our crate {name}"));
            }
            if rule.forbidden.contains(&name.as_str()) {
                complaints.push(format!("{folder} must not use {name}"));
            }
        }
    }
    if manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .is_none()
    {
        complaints.push(format!("{folder}/Cargo.toml must inherit the workspace's lints"));
    }
    complaints
}
