//! How long a start takes after `kill -9`, with more and more data in the node file: from the start of a process until
//! it has opened the file and applied again what no checkpoint held. Prints one line of JSON per size.
//!
//! `cargo run --release -p store-redb --example restart -- DIRECTORY MEGABYTES...`

use bytes::Bytes;
use multiraft::{
    BatchId, Birth, Completion, CompletionSink, Entry, EntryId, GroupId, GroupRow, GroupWrite, Index, Life,
    LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId, Stamp, WriteId,
};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use store_redb::{ClusterId, Identity, Opened, Options, Store, WorkerState, WorkerStorage};

const GROUPS: u64 = 100;
const VALUE_BYTES: usize = 1000;
const BATCH: u64 = 1000;
const OUTSTANDING: usize = 4;
const STARTS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("fill") => fill(Path::new(&arguments[1]), arguments[2].parse().expect("megabytes")),
        Some("open") => open_and_say(Path::new(&arguments[1])),
        Some(directory) => measure(&PathBuf::from(directory), &arguments[1..]),
        None => eprintln!("usage: restart DIRECTORY MEGABYTES..."),
    }
}

/// For each size: a child fills a file until it is killed in the middle of its work, then others open it.
fn measure(directory: &Path, sizes: &[String]) {
    let path = directory.join("restart-node");
    for megabytes in sizes {
        let _ = std::fs::remove_file(&path);
        let (mut filler, mut said) = run(&["fill".into(), path.display().to_string(), megabytes.clone()]);
        assert!(line(&mut said).starts_with("filled"));
        filler.kill().expect("it runs until it is killed");
        filler.wait().expect("it was killed");
        for _ in 0..STARTS {
            let started = Instant::now();
            let (mut opener, mut said) = run(&["open".into(), path.display().to_string()]);
            let found = line(&mut said);
            let seconds = started.elapsed().as_secs_f64();
            opener.kill().expect("it waits to be killed");
            opener.wait().expect("it was killed");
            println!("{{\"megabytes\":{megabytes},\"seconds\":{seconds:.3},{found}}}");
        }
    }
    let _ = std::fs::remove_file(&path);
}

fn run(arguments: &[String]) -> (Child, BufReader<ChildStdout>) {
    let this = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(this)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run again");
    let said = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, said)
}

fn line(said: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    said.read_line(&mut line).expect("the child says something");
    line.trim().to_string()
}

/// Says a line and waits to be killed.
fn say_and_wait(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
    let _ = std::io::stdin().lines().next();
}

fn open(path: &Path) -> Opened {
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
    };
    Store::open(path, identity, Options::new(1)).expect("the directory is writable")
}

fn open_and_say(path: &Path) {
    let opened = open(path);
    let mut state = opened.store.state(0);
    let mut replayed = 0_u64;
    for group in &opened.groups {
        let found = &group.restored;
        for entry in &found.entries {
            if let Payload::Command(_, pair) = &entry.payload
                && entry.id.index > found.applied
                && entry.id.index <= found.commit
            {
                state.put(group.group, &pair[..8], pair.slice(8..));
                state.mark_applied(group.group, entry.id);
                replayed += 1;
            }
        }
    }
    let stats = opened.store.stats();
    let (ring, redb) = (stats.ring_used_bytes >> 20, stats.redb_bytes >> 20);
    say_and_wait(&format!(
        "\"replayed\":{replayed},\"ring_mb\":{ring},\"redb_mb\":{redb}"
    ));
}

struct Sink(Mutex<Sender<Completion>>);

impl CompletionSink for Sink {
    fn complete(&self, completion: Completion) {
        let _ = self.0.lock().expect("no completion panics").send(completion);
    }
}

/// A worker that writes new keys.
struct Filler {
    storage: WorkerStorage,
    state: WorkerState,
    events: Receiver<Completion>,
    in_flight: VecDeque<(u64, Bytes, u64)>,
    lasts: Vec<u64>,
    applied: Vec<u64>,
    batches: u64,
    key: u64,
}

fn fill(path: &Path, megabytes: u64) {
    let opened = open(path);
    let (sender, events) = channel();
    opened.store.start(vec![Arc::new(Sink(Mutex::new(sender)))]);
    let mut filler = Filler {
        storage: opened.store.storage(0),
        state: opened.store.state(0),
        events,
        in_flight: VecDeque::new(),
        lasts: vec![0; GROUPS as usize],
        applied: vec![0; GROUPS as usize],
        batches: 0,
        key: 0,
    };
    filler.bear();
    let pairs = (megabytes << 20) / (8 + VALUE_BYTES as u64);
    while filler.key < pairs {
        filler.submit();
        while filler.in_flight.len() >= OUTSTANDING || filler.is_full() {
            filler.take();
        }
    }
    while !filler.in_flight.is_empty() {
        filler.take();
    }
    say_and_wait("filled");
}

impl Filler {
    fn is_full(&self) -> bool {
        let room = self.storage.room();
        let needed = BATCH * 2 * VALUE_BYTES as u64;
        !self.in_flight.is_empty() && (room.log_bytes < needed || room.memory_bytes < needed)
    }

    fn bear(&mut self) {
        let births = (0..GROUPS).map(|group| Birth {
            group: GroupId(group),
            replica: ReplicaId(group + 1),
            membership: membership(group),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        });
        let births = births.collect();
        self.storage.submit(LogBatch {
            births,
            ..LogBatch::default()
        });
        self.in_flight.push_back((0, Bytes::new(), 0));
        self.take();
    }

    /// A batch of new keys for one group.
    fn submit(&mut self) {
        self.batches += 1;
        let group = self.batches % GROUPS;
        let mut buffer = Vec::with_capacity(BATCH as usize * (8 + VALUE_BYTES));
        for key in self.key..self.key + BATCH {
            buffer.extend_from_slice(&key.to_be_bytes());
            buffer.resize(buffer.len() + VALUE_BYTES, key as u8);
        }
        self.key += BATCH;
        let buffer = Bytes::from(buffer);
        let first = self.lasts[group as usize] + 1;
        self.lasts[group as usize] += BATCH;
        let entries = pairs(&buffer).zip(first..).map(|(pair, index)| Entry {
            id: EntryId::new(1, index),
            payload: Payload::Command(Stamp(1), pair),
        });
        let write = GroupWrite {
            group: GroupId(group),
            replica: ReplicaId(group + 1),
            life: Life(1),
            write: WriteId(first),
            hard_state: None,
            commit: Index(first + BATCH - 1),
            entries: entries.collect(),
        };
        self.storage.submit(LogBatch {
            id: BatchId(self.batches),
            writes: vec![write],
            ..LogBatch::default()
        });
        self.in_flight.push_back((group, buffer, first));
    }

    fn take(&mut self) {
        match self.events.recv().expect("the store lives") {
            Completion::Durable { .. } => self.apply(),
            Completion::Checkpointed { rows } => {
                let rows = rows.iter();
                rows.for_each(|(group, _, index)| self.storage.truncate(*group, *index));
            }
            _ => {}
        }
        if let Some(cut) = self.storage.cut_wanted() {
            self.state.freeze(cut);
            let rows = (0..GROUPS).zip(&self.applied).map(|(group, applied)| GroupRow {
                group: GroupId(group),
                replica: ReplicaId(group + 1),
                life: Life(1),
                applied: EntryId::new(u64::from(*applied > 0), *applied),
                membership: membership(group),
                descriptor: Bytes::new(),
            });
            self.storage.freeze(cut, rows.collect());
        }
    }

    fn apply(&mut self) {
        let (group, buffer, first) = self.in_flight.pop_front().expect("one was in flight");
        for (pair, index) in pairs(&buffer).zip(first..) {
            self.state.put(GroupId(group), &pair[..8], pair.slice(8..));
            self.state.mark_applied(GroupId(group), EntryId::new(1, index));
            self.applied[group as usize] = index;
        }
    }
}

fn pairs(buffer: &Bytes) -> impl Iterator<Item = Bytes> {
    let bytes = 8 + VALUE_BYTES;
    (0..buffer.len() / bytes).map(move |at| buffer.slice(at * bytes..(at + 1) * bytes))
}

fn membership(group: u64) -> Membership {
    Membership::of_voters([(ReplicaId(group + 1), NodeId(1))])
}
