//! What the threads of a process are doing, from /proc: evidence about one that does not end.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// One line per thread: its name, its state, and where in the kernel it waits. Empty if there is no such process.
pub fn of(pid: u32) -> String {
    let mut lines = String::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let read = |name: &str| read(&task.path(), name);
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let state = state.unwrap_or("gone").trim();
        writeln!(lines, "  {:<16} {state:<14} {}", read("comm"), read("wchan")).expect("writing to a string");
    }
    lines
}

/// Processes that this one started and that are still there.
pub fn children() -> Vec<u32> {
    let own = format!("PPid:\t{}", std::process::id());
    let is_child = |pid: &u32| {
        let status = read(Path::new(&format!("/proc/{pid}")), "status");
        status.lines().any(|line| line == own)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

fn read(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    text.trim_end().to_owned()
}
