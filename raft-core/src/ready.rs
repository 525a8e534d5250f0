//! The outputs: everything a replica asks of its host. Rule: after any number of inputs, and before the host
//! waits again, call `ready` once and carry out what it says.

use crate::message::Envelope;
use crate::types::{Entry, EntryId, HardState, Index, Membership, ReadId, ReplicaId, Stamp, Term, WriteId};
use std::ops::RangeInclusive;
use std::time::Duration;

/// What the host must do now. Dropping one loses votes and entries.
#[must_use]
#[derive(Debug, Default)]
pub struct Ready {
    /// May leave now; appends leave before our own fsync (thesis §10.2.1).
    pub messages: Vec<Envelope>,
    /// Must become durable as one unit, in the order given.
    pub write: Option<LogWrite>,
    /// Committed *and* durable here: apply in order. Starts one after the last range handed out.
    pub committed: Vec<Entry>,
    /// Reads that may be served once the group has applied `index`.
    pub reads: Vec<ReadGrant>,
    /// Reads that will not be served here: ask the leader, if known.
    pub reads_refused: Vec<(ReadId, Refused)>,
    /// Cold entries that a lagging peer needs; the core never reads a disk.
    pub fetch: Vec<LogFetch>,
    /// Peers whose next entry is truncated away here. The bytes of a snapshot travel beside Raft.
    pub snapshots: Vec<SnapshotOrder>,
    /// Orders of before that have become pointless: the peer caught up or left, or we do not lead any more.
    pub snapshots_cancelled: Vec<OrderId>,
    /// The log up to here is needed by no one: the host may drop it.
    pub truncate: Option<Index>,
    /// Who leads, when that changed.
    pub leadership: Option<LeadershipChange>,
}

impl Ready {
    /// True when there is nothing to carry out.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.write.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.reads_refused.is_empty()
            && self.fetch.is_empty()
            && self.snapshots.is_empty()
            && self.snapshots_cancelled.is_empty()
            && self.truncate.is_none()
            && self.leadership.is_none()
    }
}

/// A write and the messages that may leave only after it.
#[derive(Debug, Default)]
pub struct LogWrite {
    /// Comes back in `on_durable`; grows by one.
    pub id: WriteId,
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Takes the place of log and state, before the entries. The host reports the write durable only when the state
    /// machine reflects the snapshot, and nothing that it applied before.
    pub install: Option<Snapshot>,
    /// New entries, contiguous. They replace everything at and after the first one's index.
    pub entries: Vec<Entry>,
    /// The commit index now; a mark the store keeps so that a restart can replay without asking anyone.
    pub commit: Index,
    /// Vote requests and grants, acknowledgements of appends: only after the fsync.
    pub then_send: Vec<Envelope>,
}

/// A read may be served once `applied >= index`. Leadership was confirmed after the read arrived (thesis
/// §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadGrant {
    /// The host's name for the batch of reads.
    pub read: ReadId,
    /// The commit index when the read arrived.
    pub index: Index,
}

/// Entries a peer needs that are no longer in memory. Answer with `Replica::on_fetched`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFetch {
    /// The peer they are for.
    pub peer: ReplicaId,
    /// Which; the host may return a prefix.
    pub range: RangeInclusive<Index>,
    /// Stop after this many bytes of entries, but return at least one.
    pub bytes_max: usize,
}

/// Numbers the snapshots that one replica asks its host to send. Never reused while the process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(pub u64);

/// A peer that needs a snapshot because the log it needs is gone. Answer with `Replica::on_snapshot_sent`, once, unless
/// the order is cancelled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// Comes back in the answer.
    pub id: OrderId,
    /// The peer.
    pub peer: ReplicaId,
    /// The term in which we lead: the receiver must know whose snapshot it is.
    pub term: Term,
    /// The snapshot must reflect the log at least up to here: what follows is what our log still has.
    pub at_least: Index,
}

/// How an ordered snapshot fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// The peer reflects the log up to here now, durably, be it with this snapshot or without it.
    Taken(Index),
    /// It did not get there, or that is not known.
    Failed,
}

/// What a snapshot means to the log: everything up to `id` is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it reflects; committed.
    pub id: EntryId,
    /// The membership as of `id`.
    pub membership: Membership,
}

/// Who leads now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadershipChange {
    /// The term.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<ReplicaId>,
    /// True when that is this replica.
    pub is_self: bool,
}

/// Why a request was not taken. Definite: nothing was proposed, it may be sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Only the leader can; this is who leads, as far as known.
    NotLeader(Option<ReplicaId>),
    /// Uncommitted bytes passed `Options::uncommitted_bytes_max`; try again later.
    Overloaded,
    /// The leader is handing leadership over.
    Transferring,
    /// Leadership can only be handed to a voter that stays one.
    NotVoter,
    /// The membership is not changed in this way, or not now.
    Change(ChangeRefused),
}

/// Why a change of the membership was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeRefused {
    /// The one before is not committed, or still joint. Try again later.
    InFlight,
    /// The leader has not committed an entry of its own term yet. Try again later.
    TermNotCommitted,
    /// Of the voters there would be, no majority acknowledged anything lately: the group would stop.
    QuorumInactive,
    /// This learner lacks too much of the log to become a voter. Try again later.
    Behind(ReplicaId),
    /// There would be no voter.
    NoVoters,
    /// There would be more than `MEMBERS_MAX` members.
    TooMany,
    /// It would change nothing.
    Nothing,
    /// One change says two things about this replica.
    NamedTwice(ReplicaId),
    /// This replica is not in the group.
    NoSuchMember(ReplicaId),
    /// The replica to be added, or this one on the same node, is in the group already.
    AlreadyMember(ReplicaId),
    /// Only a learner can be promoted.
    NotLearner(ReplicaId),
    /// Only a voter can be demoted.
    NotVoter(ReplicaId),
}

/// Why a message had no effect. Counted, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// From an older term.
    StaleTerm,
    /// Not for this replica.
    WrongReplica,
    /// From a replica that is not a member, with nothing to learn from it.
    NotMember,
    /// The current leader is in contact, so no campaign is supported (thesis §4.2.3).
    LeaderInContact,
    /// An answer to a question no longer asked.
    StaleReply,
    /// A candidate's log is behind or it already voted: answered with a refusal.
    VoteRefused,
    /// A snapshot that says nothing new: answered with how far we are.
    KnownSnapshot,
    /// A snapshot while another one is being installed.
    Installing,
}

/// A replica's role, with what the host may want to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether a campaign would succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A replica's state at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: ReplicaId,
    /// Its role.
    pub role: RoleKind,
    /// Its term and vote.
    pub hard_state: HardState,
    /// Who leads, if known.
    pub leader: Option<ReplicaId>,
    /// The last entry, durable or not.
    pub last: EntryId,
    /// The last durable index.
    pub durable: Index,
    /// The commit index.
    pub commit: Index,
    /// The last applied index.
    pub applied: Index,
    /// The log up to here is gone.
    pub truncated: Index,
    /// The effective membership.
    pub membership: Membership,
    /// For a leader: each other member, in id order.
    pub peers: Vec<PeerStatus>,
    /// For a leader: how long ago, at its last input, it last heard a quorum. Zero for a sole voter.
    pub since_quorum_contact: Option<Duration>,
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub id: ReplicaId,
    /// The last index known durable there.
    pub matched: Index,
    /// The next index to send.
    pub next: Index,
    /// How entries are sent to it.
    pub sending: Sending,
    /// How long ago, at the leader's last input, it was last heard in this term, or became a peer.
    pub silent: Duration,
}

/// How entries are sent to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// One append at a time, until it is known where the logs agree.
    Probe,
    /// As they come, within the window.
    Pipeline,
    /// The entries it needs are gone: it waits for a snapshot.
    Snapshot,
}

/// A proposal's stamp and payload; re-exported so that hosts name them once.
pub type Proposal = (Stamp, bytes::Bytes);
