//! The machine over a real node file passes multiraft's suite: real files, real threads, real crashes but for power.

use super::*;
use crate::kv::{Command, Condition, Lifetime, Query, Scan, Slice};
use crate::metrics::Identity;
use multiraft::testing::{MachineHarness, machine_suite};
use multiraft::{Completion, CompletionSink, GroupRow, LogBatch, NodeId, RaftStorage, RestoredGroup};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use store_redb::{ClusterId, Options, Store, WorkerStorage};

/// Long enough for a busy machine, short enough to fail a run.
const DEADLINE: Duration = Duration::from_secs(20);

struct Queue(Sender<Completion>);

impl CompletionSink for Queue {
    fn complete(&self, completion: Completion) {
        let only_wakes = matches!(&completion, Completion::Checkpointed { rows } if rows.is_empty());
        if !only_wakes {
            let _ = self.0.send(completion);
        }
    }
}

/// One process of the node, as far as its store goes.
struct Process {
    store: Store,
    storage: WorkerStorage,
    completions: Receiver<Completion>,
}

struct NodeFile {
    directory: tempfile::TempDir,
    process: Option<Process>,
}

impl NodeFile {
    fn new() -> NodeFile {
        NodeFile {
            directory: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a process runs")
    }
}

impl MachineHarness for NodeFile {
    type Machine = Machine;

    fn start(&mut self) -> (Machine, Vec<RestoredGroup>) {
        let identity = store_redb::Identity {
            cluster: ClusterId([7; 16]),
            node: NodeId(1),
        };
        let options = Options {
            ring_bytes: 16 << 20,
            ..Options::small(1)
        };
        let opened = Store::open(&self.directory.path().join("node"), identity, options).unwrap();
        let (sender, completions) = channel();
        opened.store.start(vec![Arc::new(Queue(sender))]);
        let machine = Machine::new(opened.store.state(0), watch());
        self.process = Some(Process {
            storage: opened.store.storage(0),
            store: opened.store,
            completions,
        });
        (machine, opened.groups)
    }

    fn submit(&mut self, batch: LogBatch) {
        let process = self.process();
        process.storage.submit(batch);
        let completion = process.completions.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(completion, Completion::Durable { .. }), "{completion:?}");
    }

    fn descriptor(&self, group: GroupId) -> Bytes {
        let range = RangeDescriptor {
            group,
            start: Bytes::new(),
            end: None,
            generation: 1,
            replicas: BTreeMap::new(),
        };
        range.encode()
    }

    fn command(&self, number: u64) -> Bytes {
        let (key, value) = (format!("key {}", number % 5), format!("value {number}"));
        let (key, value) = (Slice(key.as_bytes()), Slice(value.as_bytes()));
        let set = |lifetime| Command::Set {
            key,
            value,
            condition: Condition::Always,
            lifetime,
            get: true,
        };
        let command = match number % 8 {
            0 => Command::Put { key, value },
            1 => set(Lifetime::After(25)), // passes while the log is applied
            2 => set(Lifetime::After(5000)),
            3 => Command::Take { key },
            4 => Command::Delete { keys: vec![key] },
            5 => Command::Append {
                key,
                value,
                bytes_max: 40,
            },
            _ => Command::Add {
                key: Slice(b"sum"),
                delta: number.cast_signed(),
            },
        };
        command.encode()
    }

    fn queries(&self) -> Vec<Bytes> {
        let scan = Query::Scan(Scan {
            examine: 100,
            values: true,
            ..Scan::default()
        });
        let keys = ["key 0", "key 1", "key 2", "key 3", "key 4", "sum"].map(|key| Slice(key.as_bytes()));
        let expiries = keys.into_iter().map(|key| Query::Expiry { key });
        let gets = keys.into_iter().map(|key| Query::Get { key });
        let queries = [scan, Query::Count].into_iter().chain(expiries).chain(gets);
        queries.map(|query| query.encode()).collect()
    }

    fn cut(&mut self) -> CutId {
        let process = self.process();
        process.store.want_checkpoint();
        process.storage.cut_wanted().expect("one was just wanted")
    }

    fn keep(&mut self, cut: CutId, rows: Vec<GroupRow>) {
        let process = self.process();
        process.storage.freeze(cut, rows);
        let completion = process.completions.recv_timeout(DEADLINE).unwrap();
        assert!(
            matches!(completion, Completion::Checkpointed { .. }),
            "{completion:?}"
        );
    }

    fn crash(&mut self, machine: Machine) {
        drop(machine);
        self.process = None;
    }
}

fn watch() -> Watch {
    let identity = Identity {
        cluster: "test".to_owned(),
        node: 1,
    };
    Watch {
        metrics: Arc::new(Metrics::new(&identity)),
        follower: Arc::default(),
        expiries: Arc::default(),
    }
}

#[test]
fn the_machine_over_a_node_file_passes_the_suite() {
    machine_suite(NodeFile::new);
}
