//! Every command of the README and the guide is run as printed, and answers as printed.
//! ```` ```console ```` blocks hold `$ command` lines and what they print; `...` stands for a line that varies.
//! They run, in order, beside the cluster that the README's first command starts, in an empty directory.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const FIRST_COMMAND: &str = "cargo run --release -- dev";
const TEST_COMMAND: &str = "tests/run";

/// One command and the lines it must print.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    command: String,
    output: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

/// The examples of all `console` blocks of a text.
fn examples(text: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line.starts_with("```"), line.strip_prefix("$ ")) {
            (true, _) => inside = line == "```console",
            (false, Some(command)) if inside => {
                found.push(Example {
                    command: command.to_owned(),
                    output: Vec::new(),
                });
            }
            (false, None) if inside => {
                found
                    .last_mut()
                    .expect("a block begins with a command")
                    .output
                    .push(line.to_owned());
            }
            _ => (),
        }
    }
    found
}

/// Whether what was printed is what was promised; `...` matches any one line, or the rest when it is last.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((want, rest)), _) if want == "..." && rest.is_empty() => true,
        (Some((want, rest)), Some((got, more))) => {
            (want == "..." || want == got.trim_end()) && matches(rest, more)
        }
        _ => false,
    }
}

/// The dev cluster, ended by pid when dropped.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("SIGINT is delivered");
        let status = self.0.wait().expect("the process is reaped");
        assert!(
            std::thread::panicking() || status.success(),
            "dev ended with {status} after SIGINT"
        );
    }
}

/// Runs the README's first command in `folder` and waits for the line that says it is ready.
fn start_dev(folder: &Path) -> Dev {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet"])
        .current_dir(root())
        .status();
    assert!(built.expect("cargo runs").success(), "the release build failed");
    let mut child = Command::new(root_target().join("release/flotilla"))
        .arg("dev")
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let dev = Dev(child);
    let ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("ready in"));
    assert!(ready, "dev ended before it was ready");
    std::thread::spawn(move || lines.for_each(drop)); // keeps the pipe from filling
    dev
}

fn root_target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn run(example: &Example, folder: &Path) {
    let path = format!(
        "{}:{}",
        root_target().join("release").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("bash")
        .args(["-c", &example.command])
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let printed: Vec<&str> = text.trim_end().lines().collect();
    assert!(
        matches(&example.output, &printed),
        "$ {}\nexpected {:#?}\nprinted {printed:#?}",
        example.command,
        example.output
    );
}

#[test]
fn the_commands_of_the_readme_and_the_guide_do_what_they_say() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    assert!(
        readme.contains(FIRST_COMMAND) && readme.contains(TEST_COMMAND),
        "the README shows the two commands"
    );
    let folder = tempfile::tempdir().expect("a temporary directory");
    let dev = start_dev(folder.path());
    let mut count = 0;
    for name in ["README.md", "docs/quickstart.md"] {
        let Ok(text) = std::fs::read_to_string(root().join(name)) else {
            continue;
        };
        for example in examples(&text) {
            run(&example, folder.path());
            count += 1;
        }
    }
    drop(dev);
    assert!(
        count >= 8,
        "only {count} commands found: the blocks are not marked as console"
    );
}

#[test]
fn examples_are_found_and_compared_as_documented() {
    let text = "x\n```console\n$ a b\n1\n...\n$ c\n```\n$ not me\n";
    let found = examples(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].command.as_str(), found[0].output.len()), ("a b", 2));
    assert!(
        matches(&found[0].output, &["1", "2", "3"]),
        "a last `...` takes the rest"
    );
    assert!(
        !matches(&found[0].output, &["2", "3"]),
        "other lines must be equal"
    );
    assert!(
        !matches(&found[1].output, &["unexpected"]),
        "no output was promised"
    );
}
