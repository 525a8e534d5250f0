//! `Raft`: the handle to one group that a program holds, with async calls and a watch on its state.

use super::intake::{Intake, worker_of};
use super::pending::{Lone, Pending};
use crate::event::{Control, Event};
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::storage::RaftStorage;
use crate::types::{GroupId, Index, NodeId, Outcome, Refusal, ReplicaId, Ticket};
use crate::wire;
use crate::worker::Worker;
use bytes::Bytes;
use raft_core::{MemberChange, ReadPolicy, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// A group's state as last published: None before the first time, and while it does not live here.
pub type Metrics = Option<Status>;

/// One group. Cheap to clone; outlives its host, whose end it reports as `Refused(Stopping)`.
///
/// The calls without `async` take a [`Ticket`] and need no runtime: they are what gateways use.
///
/// A group of one, with everything in memory:
///
/// ```
/// use bytes::Bytes;
/// use multiraft::host::{Host, Intake, WorkerParts};
/// use multiraft::testing::{MemDisk, MemNetwork, SyncMode, Tally};
/// use multiraft::{
///     Birth, Control, EntryId, GroupId, InboxLimits, Membership, NodeId, ReplicaId, RoleKind, WorkerOptions,
/// };
/// use std::sync::Arc;
///
/// let intake = Intake::new(1, InboxLimits::default());
/// let link = Arc::new(MemNetwork::new().link(NodeId(1)));
/// let disk = MemDisk::new(SyncMode::AtOnce);
/// disk.start(vec![intake.sink(0, link.clone())]);
/// intake.order(Control::Create(Birth {
///     group: GroupId(1),
///     replica: ReplicaId(1),
///     membership: Membership::of_voters([(ReplicaId(1), NodeId(1))]),
///     base: EntryId::ZERO,
///     split: None,
///     descriptor: Bytes::new(),
/// }));
/// let (storage, machine) = (disk.storage(0), Tally::new(disk.clone()));
/// let parts = vec![WorkerParts { storage, machine, restored: disk.restore() }];
/// let host = Host::start(intake, link, parts, &WorkerOptions::default(), Arc::new(()));
///
/// let raft = host.raft(GroupId(1));
/// raft.campaign();
/// let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
/// let sum = runtime.block_on(async {
///     let mut metrics = raft.metrics();
///     let leads = |status: &Option<multiraft::Status>| {
///         status.as_ref().is_some_and(|status| status.role == RoleKind::Leader)
///     };
///     metrics.wait_for(leads).await.expect("the host runs");
///     raft.write(Tally::add(40)).await?;
///     raft.write(Tally::add(2)).await?;
///     raft.read(Bytes::new()).await
/// });
/// assert_eq!(Tally::number(&sum.expect("a quorum is up")), 42);
/// host.stop();
/// ```
#[derive(Clone)]
pub struct Raft {
    group: GroupId,
    intake: Intake,
    watches: Arc<Watches>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Definitely without effect.
    Refused(Refusal),
    /// A write that may or may not take effect.
    Unknown,
}

impl Raft {
    pub(super) fn new(group: GroupId, intake: Intake, watches: Arc<Watches>) -> Raft {
        Raft {
            group,
            intake,
            watches,
        }
    }

    /// The group it speaks for.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Replicates a command; the state machine's answer once it is applied here, and so durable at a quorum.
    ///
    /// Errors: `Unknown` when leadership was lost while it was on its way: it may still take effect, once. `Refused`
    /// for everything else, and then it never does: `NotLeader`, `NoSuchGroup`, `Overloaded` (try again later),
    /// `TooLarge`, `NoSpace`, `Stopping`. There is no timeout: drop the future to stop waiting, which takes nothing
    /// back.
    pub async fn write(&self, command: Bytes) -> Result<Bytes, Failure> {
        let pending = Lone::new();
        self.propose(command, pending.ticket());
        result(pending.await)
    }

    /// Replicates commands, in this order, as far as they are taken; one answer for each, with the errors of
    /// [`write`](Self::write). They share a turn, an append and a log write as far as limits allow: cheaper by the
    /// command than single writes. None is taken back when a later one is refused.
    pub async fn write_many(&self, commands: Vec<Bytes>) -> Vec<Result<Bytes, Failure>> {
        let pending = Pending::new(commands.len());
        let group = self.group;
        let proposals = commands
            .into_iter()
            .enumerate()
            .map(|(number, payload)| Event::Propose {
                group,
                payload,
                ticket: pending.ticket(number),
            });
        self.intake.submit(group, proposals);
        pending.await.into_iter().map(result).collect()
    }

    /// Evaluates a query against a state that reflects every write answered before this call. The leader confirms by a
    /// round of heartbeats that it still leads; no clock is trusted.
    ///
    /// Errors: `NotLeader`, `NoSuchGroup`, `Overloaded`, `Stopping`, all as `Refused`; a read has no effect.
    pub async fn read(&self, query: Bytes) -> Result<Bytes, Failure> {
        let pending = Lone::new();
        self.read_with(query, pending.ticket());
        result(pending.await)
    }

    /// Evaluates a query here or at the leader, confirmed or by lease, or against a state that may be a little old: see
    /// [`ReadPolicy`] for what each promises. Errors as for [`read`](Self::read); reads that are served here are refused
    /// with `NotLeader(None)` while no leader is known to ask.
    pub async fn read_as(&self, query: Bytes, policy: ReadPolicy) -> Result<Bytes, Failure> {
        let pending = Lone::new();
        self.intake.read_as(self.group, query, policy, pending.ticket());
        result(pending.await)
    }

    /// Adds a learner: a replica of an id that was never used, on a node without one of this group. It must be made
    /// there (`Control::Create`, with a membership that names the group's members, or it could not answer them).
    /// Errors as for [`change_membership`](Self::change_membership).
    pub async fn add_learner(&self, replica: ReplicaId, node: NodeId) -> Result<(), Failure> {
        self.change_membership(vec![MemberChange::Add(replica, node)])
            .await
    }

    /// Changes the membership, all at once, if the leader is here. Ok: the change is complete, and applied here; also
    /// when it removed this very replica. A change of voters goes through a joint membership, which the leader leaves by
    /// itself.
    ///
    /// Errors: `Refused(Change(why))`, each `why` with what to do in `ChangeRefused`; `NotLeader`, `NoSuchGroup`,
    /// `Stopping`. `Unknown`: leadership was lost before; `metrics` tells what became of it.
    pub async fn change_membership(&self, changes: Vec<MemberChange>) -> Result<(), Failure> {
        let pending = Lone::new();
        let (group, ticket) = (self.group, pending.ticket());
        self.intake.order(Control::Change {
            group,
            changes,
            ticket,
        });
        result(pending.await).map(drop)
    }

    /// Makes the replica here wait this much longer than others before it campaigns: a hint that they should lead.
    pub fn delay_campaigns(&self, delay: Duration) {
        let group = self.group;
        self.intake.order(Control::Delay { group, delay });
    }

    /// Asks the leader, if it is here, to hand leadership to another voter. Ok: it has begun; `metrics` tells the end.
    /// Until then, or for an election timeout if the target does not take over, writes are refused.
    ///
    /// Errors, as `Refused`: `NotVoter`, `NotLeader`, `NoSuchGroup`, `Overloaded` while another transfer is under way,
    /// `Stopping`.
    pub async fn transfer_leadership(&self, target: ReplicaId) -> Result<(), Failure> {
        let pending = Lone::new();
        let (group, ticket) = (self.group, pending.ticket());
        self.intake.order(Control::Transfer {
            group,
            target,
            ticket,
        });
        result(pending.await).map(drop)
    }

    /// Like `write`, for callers with a ticket.
    pub fn propose(&self, command: Bytes, ticket: Ticket) {
        self.intake.propose(self.group, command, ticket);
    }

    /// Like `read`, for callers with a ticket.
    pub fn read_with(&self, query: Bytes, ticket: Ticket) {
        self.intake.read(self.group, query, ticket);
    }

    /// Campaigns here and now; of use when a group is founded. Nothing happens while this replica is pledged to a leader.
    pub fn campaign(&self) {
        self.intake.order(Control::Campaign(self.group));
    }

    /// Asks for a checkpoint now. Ok: the state here survives any crash without the log up to this index, which is at
    /// least what was applied at the call. What other members hold, too, is truncated then; so is what `truncate` names.
    pub async fn snapshot(&self) -> Result<Index, Failure> {
        let pending = Lone::new();
        let (group, ticket) = (self.group, pending.ticket());
        self.intake.order(Control::Checkpoint { group, ticket });
        let position = result(pending.await)?;
        Ok(wire::decode_position(&position).expect("a checkpoint is answered with its position"))
    }

    /// Lets go of the log here up to `index`, also where a member still needs it, which then needs a snapshot. What no
    /// checkpoint holds stays until one does. `metrics` tells how far it came.
    pub fn truncate(&self, index: Index) {
        let group = self.group;
        self.intake.order(Control::Truncate { group, index });
    }

    /// The group's state: role, term, leader, positions, membership, and at the leader each peer's progress and the time
    /// since a quorum was heard. Published after every turn that touched the group while someone watches.
    pub fn metrics(&self) -> watch::Receiver<Metrics> {
        let receiver = self.watches.subscribe(self.group);
        self.intake.wake(self.group);
        receiver
    }

    /// Stops the host with all its groups and returns when this group has stopped. Waiting writes become `Unknown`.
    pub async fn shutdown(&self) {
        let mut metrics = self.metrics();
        self.intake.stop();
        while metrics.changed().await.is_ok() {} // the sender goes when the worker has stopped
    }
}

impl fmt::Debug for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raft({})", self.group)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => write!(f, "refused: {refusal}"),
            Failure::Unknown => write!(f, "outcome unknown: leadership was lost"),
        }
    }
}

impl std::error::Error for Failure {}

fn result(outcome: Outcome) -> Result<Bytes, Failure> {
    match outcome {
        Outcome::Answered(bytes) => Ok(bytes),
        Outcome::Refused(refusal) => Err(Failure::Refused(refusal)),
        Outcome::Unknown => Err(Failure::Unknown),
    }
}

/// Who watches which group. Costs a turn one atomic load while nobody does.
pub(super) struct Watches {
    workers: usize,
    is_watched: AtomicBool,
    state: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    senders: BTreeMap<GroupId, watch::Sender<Metrics>>,
    /// Subscribed to since the last publication.
    fresh: Vec<GroupId>,
    /// Workers that have stopped: nobody will publish for them.
    closed: BTreeSet<usize>,
}

impl Watches {
    pub(super) fn new(workers: usize) -> Watches {
        Watches {
            workers,
            is_watched: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn subscribe(&self, group: GroupId) -> watch::Receiver<Metrics> {
        let mut state = self.lock();
        if state.closed.contains(&worker_of(group, self.workers)) {
            return watch::channel(None).1;
        }
        if !state.fresh.contains(&group) {
            state.fresh.push(group);
        }
        let receiver = state
            .senders
            .entry(group)
            .or_insert_with(|| watch::channel(None).0)
            .subscribe();
        self.is_watched.store(true, Ordering::Release);
        receiver
    }

    /// Publishes what the worker's last turn touched, to those who watch it.
    pub(super) fn publish<S: RaftStorage, N: RaftNetwork, M: StateMachine>(&self, worker: &Worker<S, N, M>) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.lock();
        let WatchState { senders, fresh, .. } = &mut *state;
        senders.retain(|_, sender| !sender.is_closed());
        let fresh = fresh.extract_if(.., |group| worker.status(*group).is_some());
        for group in fresh.chain(worker.touched().iter().copied()) {
            if let Some(sender) = senders.get(&group) {
                let status = worker.status(group);
                sender.send_if_modified(|before| {
                    let is_new = *before != status;
                    *before = status;
                    is_new
                });
            }
        }
        if senders.is_empty() {
            state.fresh.clear();
            self.is_watched.store(false, Ordering::Release);
        }
    }

    /// Ends the watches of a worker that has stopped.
    pub(super) fn close(&self, worker: usize) {
        let mut state = self.lock();
        state.closed.insert(worker);
        state
            .senders
            .retain(|group, _| worker_of(*group, self.workers) != worker);
    }

    fn lock(&self) -> MutexGuard<'_, WatchState> {
        self.state
            .lock()
            .expect("nothing panics while it holds the watches")
    }
}
