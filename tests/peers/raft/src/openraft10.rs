//! openraft 0.10 with a log, a state machine and a network as lean as ours.

use crate::drive::{Cluster, Plan};
use crate::{ENTRIES_PER_CUT, MEMBERS};
use futures::{Stream, StreamExt};
use openraft10::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft10::network::RPCOption;
use openraft10::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft10::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft10::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft10::{
    AnyError, Config, EmptyNode, EntryPayload, OptionalSend, Raft, RaftLogReader, RaftNetworkFactory,
    RaftNetworkV2, RaftSnapshotBuilder, SnapshotPolicy,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

openraft10::declare_raft_types!(pub Types: D = u64, R = u64, Node = EmptyNode);

type Member = Raft<Types, Machine>;

/// A member's log. Clones are the same log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    vote: Option<VoteOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    entries: VecDeque<EntryOf<Types>>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("nothing panics while it holds the log")
    }
}

impl Entries {
    /// The index of the first entry.
    fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |purged| purged.index + 1)
    }

    fn last(&self) -> Option<LogIdOf<Types>> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
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
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
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

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.lock();
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: log.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let mut log = self.lock();
        let kept = last.map_or(0, |last| log.place(last.index + 1));
        log.entries.truncate(kept);
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
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
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    commands: u64,
    snapshot: Option<(SnapshotMetaOf<Types>, u64)>,
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the state")
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = u64;
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut state = self.lock();
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(_) => state.commands += 1,
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
                }
            }
            let commands = state.commands;
            drop(state);
            if let Some(responder) = responder {
                responder.send(commands);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        commands: u64,
    ) -> Result<(), io::Error> {
        let mut state = self.lock();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.commands = commands;
        state.snapshot = Some((meta.clone(), commands));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, u64>>, io::Error> {
        let snapshot = self.lock().snapshot.clone();
        Ok(snapshot.map(|(meta, snapshot)| SnapshotOf::<Types, u64> { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = u64;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, u64>, io::Error> {
        let mut state = self.lock();
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
        };
        state.snapshot = Some((meta.clone(), state.commands));
        Ok(SnapshotOf::<Types, u64> {
            meta,
            snapshot: state.commands,
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

fn unreachable(error: &impl std::fmt::Display) -> Unreachable<Types> {
    Unreachable::new(&AnyError::error(error))
}

impl Link {
    fn peer(&self) -> Result<&Member, Unreachable<Types>> {
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

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.append_entries(request).await;
        answer.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.vote(request).await;
        answer.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, u64>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.peer()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| StreamingError::Unreachable(unreachable(&error)))
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
        broadcast_submitted_on_append: plan.eager.then_some(true),
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
    async fn try_write(&self, batch: usize) -> bool {
        let raft = &self.rafts[self.leader.load(Ordering::Relaxed)];
        if batch == 1 {
            return raft.client_write(1).await.is_ok();
        }
        let Ok(mut answers) = raft.client_write_many(std::iter::repeat_n(1, batch)).await else {
            return false;
        };
        let mut written = 0;
        while let Some(answer) = answers.next().await {
            written += usize::from(matches!(answer, Ok(Ok(_))));
        }
        written == batch
    }

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
        while !group.try_write(batch).await {
            group.look().await;
        }
    }
}
