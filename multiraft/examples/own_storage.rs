//! An own storage: a journal, one text file per node. Three nodes of this process count on their journals, stop, start
//! again from the files, and count on. It shows what a `RaftStorage` owes: batches become durable whole and in order,
//! nothing is acknowledged before its fsync, and a restart finds what was acknowledged.
//!
//! What is left out: checkpoints, and with them truncation and snapshots. The state is made from the whole log at every
//! start. `store-redb` of this workspace is a storage with all of it.
//!
//! Run it: `cargo run -p multiraft --example own_storage FOLDER`

use bytes::Bytes;
use multiraft::host::{Failure, Host, Intake, Raft, WorkerParts};
use multiraft::testing::{MemDisk, MemNetwork, SyncMode, Tally};
use multiraft::{
    Birth, Completion, CompletionSink, Control, CutId, Entry, EntryId, FetchRequest, GroupId, GroupRow,
    GroupWrite, HardState, InboxLimits, Index, LogBatch, Membership, NodeId, Payload, RaftStorage, ReplicaId,
    Restored, RestoredGroup, RoleKind, Room, Stamp, Term, WorkerOptions,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

const GROUP: GroupId = GroupId(1);
const NODES: u64 = 3;

/// What the journal says: the groups, as a restart would find them, and whose replicas may not come back.
#[derive(Default)]
struct Contents {
    groups: BTreeMap<GroupId, RestoredGroup>,
    lowest: BTreeMap<GroupId, ReplicaId>,
}

/// One worker's handle. A thread of its own writes: the worker goes on with the next turn meanwhile.
struct JournalStorage {
    jobs: Option<Sender<Job>>,
    contents: Arc<Mutex<Contents>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Write(LogBatch),
    Fetch(FetchRequest),
}

impl JournalStorage {
    /// Opens the journal, or begins one. Completions go to `sink`.
    fn open(path: &Path, sink: Arc<dyn CompletionSink>) -> io::Result<JournalStorage> {
        let (file, contents) = recover(path)?;
        let contents = Arc::new(Mutex::new(contents));
        let (jobs, waiting) = channel();
        let journal = Journal {
            file,
            contents: Arc::clone(&contents),
            sink,
        };
        Ok(JournalStorage {
            jobs: Some(jobs),
            contents,
            thread: Some(thread::spawn(move || journal.work(&waiting))),
        })
    }

    /// What a restart finds.
    fn restored(&self) -> Vec<RestoredGroup> {
        lock(&self.contents).groups.values().cloned().collect()
    }

    fn hand_over(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("open until dropped");
        jobs.send(job).expect("the thread works until the sender is gone");
    }
}

/// Everything that was submitted is written before the file is closed.
impl Drop for JournalStorage {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread ends the process or itself");
        }
    }
}

impl RaftStorage for JournalStorage {
    fn submit(&mut self, batch: LogBatch) {
        self.hand_over(Job::Write(batch));
    }

    fn fetch(&mut self, request: FetchRequest) {
        self.hand_over(Job::Fetch(request));
    }

    /// Nothing is ever checkpointed here, so no log is ever superfluous.
    fn truncate(&mut self, _group: GroupId, _index: Index) {}

    fn cut_wanted(&mut self) -> Option<CutId> {
        None
    }

    fn freeze(&mut self, _cut: CutId, _rows: Vec<GroupRow>) {
        unreachable!("no checkpoint was wanted");
    }

    /// A full disk ends the process. A storage that knows its room says so here, and requests are refused in time.
    fn room(&self) -> Room {
        Room::UNBOUNDED
    }

    fn may_bear(&self, group: GroupId, replica: ReplicaId) -> bool {
        let contents = lock(&self.contents);
        contents
            .lowest
            .get(&group)
            .is_none_or(|lowest| *lowest <= replica)
    }

    fn is_settled(&self, _group: GroupId) -> bool {
        true // this program splits no groups
    }
}

fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    contents
        .lock()
        .expect("nothing panics while it holds the contents")
}

/// The writing end.
struct Journal {
    file: File,
    contents: Arc<Mutex<Contents>>,
    sink: Arc<dyn CompletionSink>,
}

impl Journal {
    fn work(mut self, jobs: &Receiver<Job>) {
        for job in jobs {
            let completion = match job {
                Job::Write(batch) => self.write(batch),
                Job::Fetch(request) => self.fetch(request),
            };
            self.sink.complete(completion);
        }
    }

    /// There is no way to report a failed write, and after a failed fsync nobody knows what the disk holds.
    fn write(&mut self, batch: LogBatch) -> Completion {
        let record = record_of(&batch);
        let written = self
            .file
            .write_all(seal(&record).as_bytes())
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            eprintln!("the journal cannot be written: {error}");
            std::process::abort();
        }
        lock(&self.contents).replay(&record).expect("what was just made");
        let echo = |write: &GroupWrite| (write.group, write.life, write.write);
        Completion::Durable {
            batch: batch.id,
            writes: batch.writes.iter().map(echo).collect(),
            then_send: batch.then_send,
        }
    }

    fn fetch(&self, request: FetchRequest) -> Completion {
        let contents = lock(&self.contents);
        let found = contents.groups.get(&request.group);
        let entries = found.map_or(&[][..], |found| &found.restored.entries);
        let mut bytes = 0;
        let wanted = entries
            .iter()
            .filter(|entry| request.range.contains(&entry.id.index))
            .take_while(|entry| {
                let is_first = bytes == 0;
                bytes += size_of::<Entry>() + command_bytes(entry);
                is_first || bytes <= request.bytes_max
            });
        Completion::Fetched {
            group: request.group,
            life: request.life,
            peer: request.peer,
            entries: wanted.cloned().collect(),
        }
    }
}

fn command_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Command(_, bytes) => bytes.len(),
        Payload::Noop(_) | Payload::Membership(_) => 0,
    }
}

// The file: records of lines, each record followed by its checksum on a line.

fn record_of(batch: &LogBatch) -> String {
    assert!(
        batch.installs.is_empty(),
        "without snapshots nothing is installed"
    );
    let mut record = String::new();
    batch
        .births
        .iter()
        .for_each(|birth| put_birth(&mut record, birth));
    batch
        .writes
        .iter()
        .for_each(|write| put_write(&mut record, write));
    for gone in &batch.tombstones {
        put(
            &mut record,
            format_args!("gone {} {}", gone.group.0, gone.lowest.0),
        );
    }
    record
}

fn put(record: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(record, "{line}").expect("a string takes everything");
}

fn put_birth(record: &mut String, birth: &Birth) {
    let Birth {
        group, replica, base, ..
    } = birth;
    let members = members_text(&birth.membership);
    let descriptor = hex(&birth.descriptor);
    let base = format_args!("{} {}", base.term.0, base.index.0).to_string();
    put(
        record,
        format_args!("born {} {} {base} {members} {descriptor}", group.0, replica.0),
    );
}

fn put_write(record: &mut String, write: &GroupWrite) {
    let group = write.group.0;
    if let Some(HardState { term, vote }) = write.hard_state {
        let vote = vote.map_or(0, |vote| vote.0); // replicas are numbered from 1
        put(record, format_args!("vote {group} {} {vote}", term.0));
    }
    for Entry { id, payload } in &write.entries {
        let payload = match payload {
            Payload::Noop(stamp) => format!("noop {}", stamp.0),
            Payload::Command(stamp, bytes) => format!("command {} {}", stamp.0, hex(bytes)),
            Payload::Membership(membership) => format!("members {}", members_text(membership)),
        };
        put(
            record,
            format_args!("entry {group} {} {} {payload}", id.term.0, id.index.0),
        );
    }
    put(record, format_args!("commit {group} {}", write.commit.0));
}

fn seal(record: &str) -> String {
    format!("{record}end {:08x}\n", crc32fast::hash(record.as_bytes()))
}

/// Reads the journal up to the first record that is not whole: it was never acknowledged, and is cut off.
fn recover(path: &Path) -> io::Result<(File, Contents)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (mut contents, mut whole, mut record) = (Contents::default(), 0, String::new());
    for line in text.split_inclusive('\n') {
        if !line.starts_with("end ") {
            record.push_str(line);
            continue;
        }
        let sealed = seal(&record);
        if !sealed.ends_with(line) || contents.replay(&record).is_none() {
            break;
        }
        whole += sealed.len() as u64;
        record.clear();
    }
    file.set_len(whole)?;
    file.sync_all()?;
    Ok((file, contents))
}

impl Contents {
    /// None: this is no record.
    fn replay(&mut self, record: &str) -> Option<()> {
        record.lines().try_for_each(|line| self.replay_line(line))
    }

    fn replay_line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let group = GroupId(number(words.next()?)?);
        if kind == "born" {
            let born = born(group, &mut words)?;
            self.groups.insert(group, born);
            return Some(());
        }
        if kind == "gone" {
            self.groups.remove(&group);
            self.lowest.insert(group, ReplicaId(number(words.next()?)?));
            return Some(());
        }
        let found = &mut self.groups.get_mut(&group)?.restored;
        match kind {
            "vote" => {
                found.hard_state.term = Term(number(words.next()?)?);
                let vote = number(words.next()?)?;
                found.hard_state.vote = (vote > 0).then_some(ReplicaId(vote));
            }
            "entry" => {
                let entry = entry(&mut words)?;
                found.entries.retain(|old| old.id.index < entry.id.index); // it replaces what stood there
                found.entries.push(entry);
            }
            "commit" => found.commit = found.commit.max(Index(number(words.next()?)?)),
            _ => return None,
        }
        Some(())
    }
}

type Words<'a> = std::str::Split<'a, char>;

fn born(group: GroupId, words: &mut Words<'_>) -> Option<RestoredGroup> {
    let replica = ReplicaId(number(words.next()?)?);
    let base = entry_id(words)?;
    let restored = Restored {
        truncated: base,
        membership: members(words.next()?)?,
        commit: base.index,
        applied: base.index,
        checkpointed: base.index,
        ..Restored::default()
    };
    Some(RestoredGroup {
        group,
        replica,
        restored,
        descriptor: unhex(words.next()?)?,
        after: None,
    })
}

fn entry(words: &mut Words<'_>) -> Option<Entry> {
    let id = entry_id(words)?;
    let payload = match words.next()? {
        "noop" => Payload::Noop(Stamp(number(words.next()?)?)),
        "command" => Payload::Command(Stamp(number(words.next()?)?), unhex(words.next()?)?),
        "members" => Payload::Membership(Box::new(members(words.next()?)?)),
        _ => return None,
    };
    Some(Entry { id, payload })
}

fn entry_id(words: &mut Words<'_>) -> Option<EntryId> {
    let (term, index) = (number(words.next()?)?, number(words.next()?)?);
    Some(EntryId::new(term, index))
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

/// `replica@node:roles`, with commas: v a voter, o an outgoing voter, l a learner.
fn members_text(membership: &Membership) -> String {
    let member = |(replica, node): (&ReplicaId, &NodeId)| {
        let sets = [
            (&membership.voters, 'v'),
            (&membership.outgoing, 'o'),
            (&membership.learners, 'l'),
        ];
        let roles = sets
            .iter()
            .filter_map(|(set, role)| set.contains(replica).then_some(*role));
        format!("{}@{}:{}", replica.0, node.0, roles.collect::<String>())
    };
    let members: Vec<String> = membership.nodes.iter().map(member).collect();
    members.join(",")
}

fn members(text: &str) -> Option<Membership> {
    let mut membership = Membership::default();
    for member in text.split(',') {
        let (replica, rest) = member.split_once('@')?;
        let (node, roles) = rest.split_once(':')?;
        let replica = ReplicaId(number(replica)?);
        membership.nodes.insert(replica, NodeId(number(node)?));
        for role in roles.chars() {
            match role {
                'v' => membership.voters.insert(replica),
                'o' => membership.outgoing.insert(replica),
                'l' => membership.learners.insert(replica),
                _ => return None,
            };
        }
    }
    Some(membership)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(digits).collect()
}

// The program.

/// One node: its journal under the folder, a link, and one worker. It is born if the journal knows nothing.
fn start(folder: &Path, network: &MemNetwork, node: u64) -> io::Result<Host> {
    let intake = Intake::new(1, InboxLimits::default());
    let link = Arc::new(network.link(NodeId(node)));
    let path = folder.join(format!("node-{node}"));
    let storage = JournalStorage::open(&path, intake.sink(0, link.clone()))?;
    let way_in = intake.clone();
    let receive = move |from, frame| way_in.deliver(from, &frame).expect("a frame of this build");
    network.listen(NodeId(node), Arc::new(receive));
    let restored = storage.restored();
    if restored.is_empty() {
        intake.order(Control::Create(Birth {
            group: GROUP,
            replica: ReplicaId(node),
            membership: Membership::of_voters((1..=NODES).map(|node| (ReplicaId(node), NodeId(node)))),
            base: EntryId::ZERO,
            split: None,
            descriptor: Bytes::new(),
        }));
    }
    let parts = WorkerParts {
        storage,
        machine: Tally::new(MemDisk::new(SyncMode::AtOnce)),
        restored,
    };
    let options = WorkerOptions {
        seed: node,
        ..WorkerOptions::default()
    };
    Ok(Host::start(intake, link, vec![parts], &options, Arc::new(())))
}

async fn count(rafts: &[Raft]) -> Result<u64, Failure> {
    rafts[0].campaign();
    let mut metrics = rafts[0].metrics();
    let leads = metrics.wait_for(|status| {
        status
            .as_ref()
            .is_some_and(|status| status.role == RoleKind::Leader)
    });
    leads.await.expect("the host runs");
    for _ in 0..21 {
        rafts[0].write(Tally::add(1)).await?;
    }
    Ok(Tally::number(&rafts[0].read(Bytes::new()).await?))
}

/// Starts three nodes, counts 21 further, stops them. What they counted to.
fn run(folder: &Path) -> io::Result<u64> {
    let network = MemNetwork::new();
    let hosts: Vec<Host> = (1..=NODES)
        .map(|node| start(folder, &network, node))
        .collect::<io::Result<_>>()?;
    let rafts: Vec<Raft> = hosts.iter().map(|host| host.raft(GROUP)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let sum = runtime.block_on(count(&rafts)).expect("a quorum is up");
    hosts.into_iter().for_each(Host::stop);
    Ok(sum)
}

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(&folder)?;
    println!("three nodes counted to {}", run(Path::new(&folder))?);
    println!("started again, to {}", run(Path::new(&folder))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    //! What was acknowledged is found again; what was torn is not.

    use super::*;

    struct Silent;

    impl CompletionSink for Silent {
        fn complete(&self, _completion: Completion) {}
    }

    fn found(path: &Path) -> String {
        let storage = JournalStorage::open(path, Arc::new(Silent)).unwrap();
        format!("{:?}", storage.restored())
    }

    #[test]
    fn nodes_that_start_again_count_on() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run(folder.path()).unwrap(), 21);
        assert_eq!(run(folder.path()).unwrap(), 42);
    }

    #[test]
    fn a_torn_record_is_cut_off_and_the_journal_goes_on_before_it() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path()).unwrap();
        let path = folder.path().join("node-1");
        let before = found(&path);
        let whole = std::fs::read(&path).unwrap();
        let end = whole.windows(4).position(|bytes| bytes == b"end ").unwrap();
        let torn = [whole.as_slice(), &whole[..end + 6]].concat(); // in the middle of the record's last line
        std::fs::write(&path, torn).unwrap();
        assert_eq!(found(&path), before);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(run(folder.path()).unwrap(), 42);
    }

    #[test]
    fn a_changed_byte_ends_the_journal_before_its_record() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path()).unwrap();
        let path = folder.path().join("node-1");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 15; // the last digit before the last record's checksum
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        drop(found(&path));
        assert!(std::fs::read(&path).unwrap().len() < bytes.len());
    }

    #[test]
    fn memberships_are_written_as_they_are_read() {
        let text = "1@11:vo,2@12:o,3@13:v,4@14:l,5@15:ol";
        assert_eq!(members_text(&members(text).unwrap()), text);
    }
}
