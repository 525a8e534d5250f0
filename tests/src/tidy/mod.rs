//! The rules of the repository that no compiler checks: who may import whom, module docs, words, function lengths.
//! A rule that is not here, in clippy or in another test is a wish. Each rule is proved to fire in `proofs.rs`.

mod manifests;
mod proofs;
mod scan;
mod sources;

use std::path::{Path, PathBuf};

/// The workspace's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

/// Every tracked-looking file under `folder` with one of these extensions, without build output and hidden folders.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "flotilla-dev" {
                folders.push(path);
            } else if extensions.iter().any(|wanted| name.ends_with(wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Fails with all complaints at once, so that one run shows everything.
fn require_none(rule: &str, complaints: Vec<String>) {
    assert!(
        complaints.is_empty(),
        "{rule}: {} complaints\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    require_none("imports", manifests::check(&root()));
}

#[test]
fn sources_obey_the_style_rules() {
    let mut complaints = Vec::new();
    for path in files(&root(), &[".rs"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        complaints.extend(sources::check(&name, &text));
    }
    require_none("sources", complaints);
}

#[test]
fn half_of_all_functions_have_at_most_ten_lines() {
    let mut lengths: Vec<usize> = files(&root(), &[".rs"])
        .iter()
        .flat_map(|path| scan::functions(&scan::code_only(&std::fs::read_to_string(path).unwrap())))
        .map(|function| function.lines)
        .collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    println!(
        "{} functions, median {median} lines, longest {}",
        lengths.len(),
        lengths[lengths.len() - 1]
    );
    assert!(median <= 10, "the median function has {median} lines");
}

#[test]
fn texts_speak_of_the_project_alone() {
    let mut complaints = Vec::new();
    for path in files(
        &root(),
        &[
            ".rs", ".md", ".toml", ".sh", ".json", ".yml", ".txt", ".py", "run",
        ],
    ) {
        let text = std::fs::read_to_string(&path).unwrap();
        complaints.extend(sources::check_words_of_places(&path.display().to_string(), &text));
    }
    require_none("texts", complaints);
}
