//! What replicas of one group say to each other: one variant per kind, each with its own fields.
//! The byte form lives in multiraft's wire module; the text form in `describe.rs`.

use crate::types::{Entry, EntryId, Index, ReplicaId, Round, Term};
use std::time::Duration;

/// A message with its sender, receiver and the sender's term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The replica that says it.
    pub from: ReplicaId,
    /// The replica it is for.
    pub to: ReplicaId,
    /// The sender's term. In `PreVote` and in a granted `PreVoteReply`: the term the candidate would campaign
    /// in.
    pub term: Term,
    /// What is said.
    pub message: Message,
}

/// Everything one replica can say to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me? Asked without raising the term (thesis §9.6).
    PreVote {
        /// The candidate's last entry.
        last: EntryId,
    },
    /// The answer to `PreVote`.
    PreVoteReply {
        /// Whether it would.
        granted: bool,
    },
    /// Vote for me (Raft §5.2).
    Vote {
        /// The candidate's last entry.
        last: EntryId,
        /// The leader itself asked for this campaign, so stickiness does not apply (thesis §4.2.3).
        transfer: bool,
    },
    /// The answer to `Vote`. A grant leaves only after it is durable (I1).
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries that follow `previous` (Raft §5.3). Empty: a probe.
    Append {
        /// The entry before the first.
        previous: EntryId,
        /// Contiguous, from `previous.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
        /// Durable on every member, as far as the leader knows: nobody needs the log up to here any more.
        replicated: Index,
    },
    /// The answer to `Append`. A match leaves only after the entries are durable (I8).
    AppendReply(AppendOutcome),
    /// I lead; are you there?
    Heartbeat {
        /// The leader's commit index, never past what this follower is known to hold.
        commit: Index,
        /// As in `Append`.
        replicated: Index,
        /// The round of contact it belongs to; echoed.
        round: Round,
    },
    /// The answer to `Heartbeat`.
    HeartbeatReply {
        /// The round it answers.
        round: Round,
        /// The last index that is durable here and known to match the leader's log in this term.
        matched: Index,
        /// Its sender supports nobody else for this long after the heartbeat came. Zero: no pledge. Whole
        /// milliseconds on the wire.
        pledge: Duration,
    },
    /// A follower's reads wait: which index must they see?
    ReadIndex {
        /// Its sender's number for the question; never used again, not even after a restart.
        request: u64,
    },
    /// The answer to `ReadIndex`: a quorum confirmed the leader after the question came.
    ReadIndexReply {
        /// The question.
        request: u64,
        /// What was committed then.
        index: Index,
    },
    /// Campaign now, in the term after the envelope's: leadership is yours to take (thesis §3.10).
    TimeoutNow,
}

/// How an `Append` was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The log matches the leader's up to here, durably.
    Matched {
        /// The last matching durable index.
        index: Index,
    },
    /// The log has no entry `previous`.
    Rejected {
        /// The index that did not match.
        previous: Index,
        /// The last entry that may match: the leader continues from there (Raft §5.3, end).
        hint: EntryId,
    },
}
