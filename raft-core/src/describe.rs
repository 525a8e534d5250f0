//! The one stable text form of every type: scripts, panics and logs use it, so a change here is a change of
//! every transcript. Ids are printed by `types.rs`: `r1`, `42@3`.

use crate::message::{AppendOutcome, Envelope, Message};
use crate::ready::{
    ChangeRefused, Ignored, LogFetch, LogWrite, ReadGrant, Refused, RoleKind, Snapshot, SnapshotOrder,
    SnapshotOutcome, Status,
};
use crate::types::{Entry, HardState, Index, Membership, Payload, ReplicaId};
use std::fmt::{Display, Formatter, Result};

/// Items between brackets, separated by commas.
struct List<I>(I);

impl<T: Display, I: Iterator<Item = T> + Clone> Display for List<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "[")?;
        for (position, item) in self.0.clone().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{item}")?;
        }
        write!(f, "]")
    }
}

/// ` name=index`, unless it is 0.
struct Mark(&'static str, Index);

impl Display for Mark {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.1 {
            Index(0) => Ok(()),
            index => write!(f, " {}={index}", self.0),
        }
    }
}

/// `none` or the replica.
struct Maybe(Option<ReplicaId>);

impl Display for Maybe {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            Some(replica) => write!(f, "{replica}"),
            None => write!(f, "none"),
        }
    }
}

impl Display for Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Payload::Noop(stamp) if stamp.0 == 0 => write!(f, "noop"),
            Payload::Noop(stamp) => write!(f, "stamp {}", stamp.0),
            Payload::Command(_, bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Payload::Membership(membership) => write!(f, "{membership}"),
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}", self.id, self.payload)
    }
}

impl Display for Membership {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "voters={}", List(self.voters.iter()))?;
        if self.is_joint() {
            write!(f, " outgoing={}", List(self.outgoing.iter()))?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners={}", List(self.learners.iter()))?;
        }
        Ok(())
    }
}

impl Display for HardState {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "term={} vote={}", self.term, Maybe(self.vote))
    }
}

impl Display for Envelope {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}->{} {}", self.from, self.to, self.message)
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let verdict = |granted: &bool| if *granted { "granted" } else { "refused" };
        match self {
            Message::PreVote { last } => write!(f, "PreVote last={last}"),
            Message::PreVoteReply { granted } => write!(f, "PreVoteReply {}", verdict(granted)),
            Message::Vote {
                last,
                transfer: false,
            } => write!(f, "Vote last={last}"),
            Message::Vote { last, transfer: true } => write!(f, "Vote last={last} transfer"),
            Message::VoteReply { granted } => write!(f, "VoteReply {}", verdict(granted)),
            Message::Append {
                previous,
                entries,
                commit,
                replicated,
            } => {
                let entries = List(entries.iter());
                let replicated = Mark("replicated", *replicated);
                write!(
                    f,
                    "Append previous={previous} {entries} commit={commit}{replicated}"
                )
            }
            Message::AppendReply(outcome) => write!(f, "AppendReply {outcome}"),
            Message::Heartbeat {
                commit,
                replicated,
                round,
            } => {
                let replicated = Mark("replicated", *replicated);
                write!(f, "Heartbeat round={round} commit={commit}{replicated}")
            }
            Message::HeartbeatReply {
                round,
                matched,
                pledge,
            } => {
                write!(f, "HeartbeatReply round={round} matched={matched}")?;
                match pledge.is_zero() {
                    true => Ok(()),
                    false => write!(f, " pledge={pledge:?}"),
                }
            }
            Message::ReadIndex { request } => write!(f, "ReadIndex {request}"),
            Message::ReadIndexReply { request, index } => write!(f, "ReadIndexReply {request} index={index}"),
            Message::TimeoutNow => write!(f, "TimeoutNow"),
        }
    }
}

impl Display for AppendOutcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            AppendOutcome::Matched { index } => write!(f, "matched={index}"),
            AppendOutcome::Rejected { previous, hint } => write!(f, "rejected={previous} hint={hint}"),
        }
    }
}

impl Display for LogWrite {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut parts = Vec::new();
        parts.extend(self.hard_state.map(|hard_state| hard_state.to_string()));
        parts.extend(self.install.iter().map(|snapshot| format!("install {snapshot}")));
        if !self.entries.is_empty() {
            parts.push(List(self.entries.iter()).to_string());
        }
        if self.commit > Index(0) {
            parts.push(format!("commit={}", self.commit));
        }
        write!(f, "write {} {{{}}}", self.id, parts.join(" "))?;
        if !self.then_send.is_empty() {
            write!(f, " then {}", List(self.then_send.iter()))?;
        }
        Ok(())
    }
}

impl Display for ReadGrant {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "read {} granted at {}", self.read.0, self.index)
    }
}

impl Display for LogFetch {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (first, last) = (self.range.start(), self.range.end());
        write!(f, "fetch {first}..={last} for {}", self.peer)
    }
}

impl Display for SnapshotOrder {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "snapshot for {}, at least {}", self.peer, self.at_least)
    }
}

impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}", self.id, self.membership)
    }
}

impl Display for SnapshotOutcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            SnapshotOutcome::Taken(index) => write!(f, "taken, at {index}"),
            SnapshotOutcome::Failed => write!(f, "failed"),
        }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Refused::NotLeader(leader) => write!(f, "not leader, leader={}", Maybe(*leader)),
            Refused::Overloaded => write!(f, "overloaded"),
            Refused::Transferring => write!(f, "transferring"),
            Refused::NotVoter => write!(f, "not a voter"),
            Refused::Change(refused) => write!(f, "{refused}"),
        }
    }
}

impl Display for ChangeRefused {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            ChangeRefused::InFlight => write!(f, "a change is in flight"),
            ChangeRefused::TermNotCommitted => write!(f, "nothing of this term is committed yet"),
            ChangeRefused::QuorumInactive => write!(f, "no majority of the new voters is active"),
            ChangeRefused::Behind(id) => write!(f, "{id} has not caught up"),
            ChangeRefused::NoVoters => write!(f, "no voter would be left"),
            ChangeRefused::TooMany => write!(f, "too many members"),
            ChangeRefused::Nothing => write!(f, "nothing would change"),
            ChangeRefused::NamedTwice(id) => write!(f, "{id} is named twice"),
            ChangeRefused::NoSuchMember(id) => write!(f, "{id} is not a member"),
            ChangeRefused::AlreadyMember(id) => write!(f, "{id} is a member already"),
            ChangeRefused::NotLearner(id) => write!(f, "{id} is not a learner"),
            ChangeRefused::NotVoter(id) => write!(f, "{id} is not a voter"),
        }
    }
}

impl Display for Ignored {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Ignored::StaleTerm => "stale term",
            Ignored::WrongReplica => "wrong replica",
            Ignored::NotMember => "not a member",
            Ignored::LeaderInContact => "leader in contact",
            Ignored::StaleReply => "stale reply",
            Ignored::VoteRefused => "vote refused",
            Ignored::KnownSnapshot => "known snapshot",
            Ignored::Installing => "installing",
        })
    }
}

impl Display for RoleKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            RoleKind::Follower => "follower",
            RoleKind::PreCandidate => "pre-candidate",
            RoleKind::Candidate => "candidate",
            RoleKind::Leader => "leader",
        })
    }
}

/// Marks that say nothing (0, or equal to what is printed before) are left out.
impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let HardState { term, vote } = self.hard_state;
        let (id, role, vote) = (self.id, self.role, Maybe(vote));
        write!(f, "{id}@{term} {role} last={} vote={vote}", self.last)?;
        if let Some(leader) = self.leader.filter(|leader| *leader != id) {
            write!(f, " leader={leader}")?;
        }
        if self.durable != self.last.index {
            write!(f, " durable={}", self.durable)?;
        }
        let marks = [
            Mark("commit", self.commit),
            Mark("applied", self.applied),
            Mark("truncated", self.truncated),
        ];
        marks.iter().try_for_each(|mark| write!(f, "{mark}"))?;
        for peer in &self.peers {
            write!(f, " {}:{}", peer.id, peer.matched)?;
        }
        Ok(())
    }
}
