//! The run as text, one line per event, and as one number. The number is the same for the same seed and code; the text
//! is written only when asked for.
//!
//! ```text
//! 1204.350112 n2 > n1 Control g1 r12>r11 t3 AppendReply matched 17
//! time in ms  who   lane      the message: group, from, to, term, kind, fields
//! ```
//! Other lines: `turn` (a worker's turn), `state` (a replica after a turn, when it changed), `sync`, `checkpoint`,
//! `call`/`answer` (a client's request and its end), `crash`, `restart`, `cut`, `pause`, `transfer`, `heal`.

use super::clock::{MS, Nanos};
use super::rng::fold;
use multiraft::wire::GroupMessage;
use raft_core::{AppendOutcome, Message};
use std::fmt::Write;

/// Collects a run.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    /// Over everything noted.
    pub(super) hash: u64,
    /// The lines, if wanted.
    pub(super) text: Option<String>,
}

impl Transcript {
    pub(super) fn new(wants_text: bool) -> Transcript {
        Transcript {
            hash: 0,
            text: wants_text.then(String::new),
        }
    }

    /// Notes an event: its numbers for the hash, its line for the reader.
    pub(super) fn note(&mut self, now: Nanos, kind: &str, numbers: &[u64], line: impl FnOnce() -> String) {
        self.hash = fold(self.hash ^ now, kind.as_bytes());
        for number in numbers {
            self.hash = fold(self.hash, &number.to_le_bytes());
        }
        if let Some(text) = &mut self.text {
            let (ms, rest) = (now / MS, now % MS);
            writeln!(text, "{ms:>6}.{rest:06} {}", line()).expect("writing to a string");
        }
    }
}

/// A message in one line.
pub(super) fn describe(message: &GroupMessage) -> String {
    let envelope = &message.envelope;
    let what = match &envelope.message {
        Message::PreVote { last } => format!("PreVote last {last}"),
        Message::PreVoteReply { granted } => format!("PreVoteReply {}", granted_or_not(*granted)),
        Message::Vote { last, transfer } => {
            format!(
                "Vote last {last}{}",
                if *transfer { " for a transfer" } else { "" }
            )
        }
        Message::VoteReply { granted } => format!("VoteReply {}", granted_or_not(*granted)),
        Message::Append {
            previous,
            entries,
            commit,
            replicated,
        } => {
            let last = entries.last().map_or(*previous, |entry| entry.id);
            format!(
                "Append after {previous}: {} to {last}, commit {commit}, replicated {replicated}",
                entries.len()
            )
        }
        Message::AppendReply(AppendOutcome::Matched { index }) => format!("AppendReply matched {index}"),
        Message::AppendReply(AppendOutcome::Rejected { previous, hint }) => {
            format!("AppendReply rejected {previous}, hint {hint}")
        }
        Message::Heartbeat {
            commit,
            replicated,
            round,
        } => format!("Heartbeat round {round}, commit {commit}, replicated {replicated}"),
        Message::HeartbeatReply { round, matched, .. } => {
            format!("HeartbeatReply round {round}, matched {matched}")
        }
        Message::TimeoutNow => "TimeoutNow".to_owned(),
        Message::ReadIndex { request } => format!("ReadIndex {request}"),
        Message::ReadIndexReply { request, index } => format!("ReadIndexReply {request}, index {index}"),
    };
    format!(
        "{} {}>{} t{} {what}",
        message.group, envelope.from, envelope.to, envelope.term
    )
}

fn granted_or_not(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
