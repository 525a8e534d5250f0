//! openraft 0.9 with a log, a state machine and a network as lean as ours. It has no way to write several commands in one
//! request: a batch is one write after the other.

use crate::drive::{Cluster, Plan};
use crate::{ENTRIES_PER_CUT, MEMBERS};
use openraft09::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft09::network::RPCOption;
use openraft09::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft09::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft09::{
    AnyError, Config, EmptyNode, Entry, EntryPayload, LogId, LogState, OptionalSend, Raft, RaftLogReader,
    RaftNetwork, RaftNetworkFactory, RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy,
    StorageError, StoredMembership, Vote,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

openraft09::declare_raft_types!(pub Types: D = u64, R = u64, Node = EmptyNode);

type Member = Raft<Types>;
type Id = LogId<u64>;
type Stored<T> = Result<T, StorageError<u64>>;

/// A member's log. Clones are the same log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    vote: Option<Vote<u64>>,
    purged: Option<Id>,
    entries: VecDeque<Entry<Types>>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("nothing panics while it holds the log")
    }
}

impl Entries {
    /// The index of the first entry.
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Places of the entries from this index on.
    fn place(&self, index: u64) -> usize {
        let place = usize::try_from(index.saturating_sub(self.first())).expect("less than what is in memory");
        place.min(self.entries.len())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Stored<Vec<Entry<Types>>> {
        let log = self.lock();
        let from = match range.start_bound() {
            Bound::Included(index) => log.place(*index),
            Bound::Excluded(index) => log.place(index + 1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => log.place(index + 1),
            Bound::Excluded(index) => log.place(*index),
            Bound::Unbounded => log.entries.len(),
        };
        Ok(log.entries.range(from..to.max(from)).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        let log = self.lock();
        let last = log.entries.back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(self.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: Id) -> Stored<()> {
        let mut log = self.lock();
        let kept = log.place(from.index);
        log.entries.truncate(kept);
        Ok(())
    }

    async fn purge(&mut self, upto: Id) -> Stored<()> {
        let mut log = self.lock();
        let gone = log.place(upto.index + 1);
        log.entries.drain(..gone);
        log.purged = Some(upto);
        Ok(())
    }
}

/// Counts commands. Clones are the same machine: one of them builds snapshots.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    applied: Option<Id>,
    membership: StoredMembership<u64, EmptyNode>,
    commands: u64,
    snapshot: Option<(SnapshotMeta<u64, EmptyNode>, u64)>,
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the state")
    }
}

fn boxed(commands: u64) -> Box<Cursor<Vec<u8>>> {
    Box::new(Cursor::new(commands.to_le_bytes().to_vec()))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Stored<(Option<Id>, StoredMembership<u64, EmptyNode>)> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.lock();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(_) => state.commands += 1,
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(state.commands);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, EmptyNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        let mut state = self.lock();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.commands = u64::from_le_bytes(snapshot.get_ref()[..8].try_into().expect("eight bytes"));
        state.snapshot = Some((meta.clone(), state.commands));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        let snapshot = self.lock().snapshot.clone();
        Ok(snapshot.map(|(meta, commands)| Snapshot {
            meta,
            snapshot: boxed(commands),
        }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        let mut state = self.lock();
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id: state.commands.to_string(),
        };
        state.snapshot = Some((meta.clone(), state.commands));
        Ok(Snapshot {
            meta,
            snapshot: boxed(state.commands),
        })
    }
}

/// The members of one group, as they come up.
type Peers = Arc<OnceLock<Vec<Member>>>;

#[derive(Clone)]
struct Network(Peers);

/// A way to one member: a function call.
struct Link {
    peers: Peers,
    target: usize,
}

fn place(node: u64) -> usize {
    usize::try_from(node).expect("three members")
}

fn unreachable(error: &impl std::fmt::Display) -> Unreachable {
    Unreachable::new(&AnyError::error(error))
}

impl Link {
    fn peer(&self) -> Result<&Member, Unreachable> {
        let peers = self.peers.get().ok_or_else(|| unreachable(&"not up yet"))?;
        Ok(&peers[self.target])
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link {
            peers: Arc::clone(&self.0),
            target: place(target),
        }
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        let answer = self.peer()?.append_entries(request).await;
        answer.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64, InstallSnapshotError>>>
    {
        let answer = self.peer()?.install_snapshot(request).await;
        answer.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        let answer = self.peer()?.vote(request).await;
        answer.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }
}

/// The groups of a process.
pub struct Nodes {
    groups: Vec<Group>,
}

struct Group {
    rafts: Vec<Member>,
    /// Its place in `rafts`, as far as known.
    leader: AtomicUsize,
}

fn config(plan: &Plan) -> Arc<Config> {
    let (election_min, election_max) = plan.election_timeouts();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).expect("short");
    let config = Config {
        heartbeat_interval: millis(plan.heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_CUT),
        max_in_snapshot_log_to_keep: ENTRIES_PER_CUT,
        purge_batch_size: 1024,
        max_payload_entries: 4096,
        ..Config::default()
    };
    Arc::new(config.validate().expect("sound options"))
}

async fn form(leader: usize, config: &Arc<Config>) -> Group {
    let peers: Peers = Arc::default();
    let mut rafts = Vec::with_capacity(MEMBERS);
    for id in 0..MEMBERS as u64 {
        let network = Network(Arc::clone(&peers));
        let member = Raft::new(
            id,
            Arc::clone(config),
            network,
            Log::default(),
            Machine::default(),
        );
        rafts.push(member.await.expect("an empty member starts"));
    }
    assert!(peers.set(rafts.clone()).is_ok(), "set once");
    let members: BTreeMap<u64, EmptyNode> = (0..MEMBERS as u64).map(|id| (id, EmptyNode {})).collect();
    rafts[leader]
        .initialize(members)
        .await
        .expect("an empty group is initialized");
    Group {
        rafts,
        leader: AtomicUsize::new(leader),
    }
}

impl Group {
    /// Not the leader any more, or not yet.
    async fn look(&self) {
        // pace: leaders change rarely
        tokio::time::sleep(Duration::from_millis(10)).await;
        let before = self.leader.load(Ordering::Relaxed);
        if let Some(leader) = self.rafts[before].current_leader().await {
            self.leader.store(place(leader), Ordering::Relaxed);
        }
    }
}

impl Cluster for Nodes {
    async fn start(plan: &Plan) -> Nodes {
        let config = config(plan);
        let mut groups = Vec::with_capacity(plan.groups);
        for group in 0..plan.groups {
            groups.push(form(group % MEMBERS, &config).await);
        }
        Nodes { groups }
    }

    async fn write(&self, group: usize, batch: usize) {
        let group = &self.groups[group];
        for _ in 0..batch {
            while group.rafts[group.leader.load(Ordering::Relaxed)]
                .client_write(1)
                .await
                .is_err()
            {
                group.look().await;
            }
        }
    }
}
