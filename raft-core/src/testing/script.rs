//! Golden scripts: blocks of commands, each followed by `---` and what happened. A script passes when running
//! its commands gives the same text again.

use super::commands::run_block;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs a script and returns it with the output of this run.
pub fn run_script(script: &str) -> Result<String, String> {
    let mut output = String::new();
    let mut cluster = None;
    let mut commands = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        output.push_str(line);
        output.push('\n');
        if line != "---" {
            commands.push(line.to_owned());
            continue;
        }
        let happened = run_block(&mut cluster, &commands)?;
        commands.clear();
        if happened.is_empty() {
            output.push_str("ok\n");
        }
        happened.iter().for_each(|line| {
            output.push_str(line);
            output.push('\n');
        });
        // The old output ends at the first empty line.
        if lines.by_ref().any(str::is_empty) {
            output.push('\n');
        }
    }
    if commands.iter().any(|command| !command.trim().is_empty()) {
        return Err("commands after the last `---`".to_owned());
    }
    Ok(output)
}

/// Runs every script below `directory`; returns how many. With UPDATE_GOLDENFILES=1 it rewrites those that
/// differ, otherwise the first difference of each is reported and it panics.
pub fn verify_scripts(directory: &Path) -> usize {
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let mut failures = Vec::new();
    let paths = scripts_below(directory);
    for path in &paths {
        let script = fs::read_to_string(path).expect("the script can be read");
        let result = std::panic::catch_unwind(|| run_script(&script));
        match result {
            Ok(Ok(output)) if output == script => {}
            Ok(Ok(output)) if update => fs::write(path, output).expect("the script can be written"),
            Ok(Ok(output)) => failures.push(format!("{}\n{}", path.display(), difference(&script, &output))),
            Ok(Err(text)) => failures.push(format!("{}: {text}", path.display())),
            Err(_) => failures.push(format!("{}: panicked", path.display())),
        }
    }
    assert!(
        failures.is_empty(),
        "{} scripts failed (UPDATE_GOLDENFILES=1 rewrites)\n{}",
        failures.len(),
        failures.join("\n")
    );
    paths.len()
}

fn scripts_below(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            paths.extend(scripts_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

fn difference(expected: &str, found: &str) -> String {
    let mut found_lines = found.lines();
    for (number, line) in expected.lines().enumerate() {
        let other = found_lines.next().unwrap_or("(end)");
        if line != other {
            return format!("  line {}\n  - {line}\n  + {other}", number + 1);
        }
    }
    format!(
        "  the new output goes on: {}",
        found_lines.next().unwrap_or("(end)")
    )
}
