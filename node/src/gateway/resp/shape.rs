//! How a state machine's answer reads as a reply.

use super::call::Refused;
use super::reply::Reply;
use super::table::Spec;
use crate::kv::{Answer, Failure};
use multiraft::{Outcome, Refusal};
use std::borrow::Cow;

/// What the reply to one answer looks like.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// As the answer is: a value, a number, OK, or null.
    Plain,
    /// 1 for done, 0 for not done.
    Flag,
    /// OK, whatever the number.
    Ok,
    /// The number; an error if there is no such key.
    Existing,
    /// OK; an error if there is no such key.
    ExistingOk,
    /// The type of the value.
    TypeName,
    /// Time left to live.
    Remaining(Unit),
    /// Deadline.
    Deadline(Unit),
    /// This error if the key exists, null otherwise.
    ErrorIfPresent(Cow<'static, [u8]>),
}

/// Of times in arguments and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// Writes the reply.
pub(super) fn write_answer(reply: &mut Reply<'_>, spec: &Spec, shape: &Shape, answer: &Answer) {
    match (shape, answer) {
        (_, Answer::Failed(failure)) => reply.error(&failure_text(*failure, spec).0),
        (Shape::Flag, answer) => reply.integer(i64::from(*answer == Answer::Done)),
        (Shape::Existing | Shape::ExistingOk, Answer::Nil) => reply.error("ERR no such key"),
        (Shape::Ok | Shape::ExistingOk, _) => reply.ok(),
        (Shape::TypeName, answer) => reply.simple(if exists(answer) { "string" } else { "none" }),
        (Shape::ErrorIfPresent(error), answer) if exists(answer) => reply.error(error),
        (Shape::ErrorIfPresent(_), _) => reply.null(),
        (Shape::Remaining(_) | Shape::Deadline(_), Answer::Nil) => reply.integer(-2),
        (Shape::Remaining(_) | Shape::Deadline(_), Answer::Expiry { deadline: None, .. }) => {
            reply.integer(-1)
        }
        (
            Shape::Remaining(unit),
            Answer::Expiry {
                deadline: Some(deadline),
                stamp,
            },
        ) => {
            reply.integer(unit.rounded(deadline.saturating_sub(*stamp)));
        }
        (
            Shape::Deadline(unit),
            Answer::Expiry {
                deadline: Some(deadline),
                ..
            },
        ) => {
            reply.integer(unit.rounded(*deadline));
        }
        (_, Answer::Record(record)) => reply.bulk(&record.value),
        (_, Answer::Value(value)) => reply.bulk(value),
        (_, Answer::Integer(number)) => reply.integer(*number),
        (_, Answer::Done) => reply.ok(),
        (_, Answer::Nil) => reply.null(),
        (_, other) => unreachable!("{shape:?} of {other:?}"),
    }
}

/// The error for a request that was not answered.
pub(super) fn refusal_text(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unknown => {
            "UNKNOWN the outcome is not known: the command may have taken effect or may yet; read before you repeat it"
        }
        Outcome::Refused(Refusal::Overloaded) => "TRYAGAIN overloaded: nothing was changed, try again later",
        Outcome::Refused(Refusal::NoSpace) => {
            "OOM disk space is short: nothing was changed; delete keys, or give the nodes more disk space"
        }
        Outcome::Refused(Refusal::Stopping) => {
            "TRYAGAIN this node is stopping: nothing was changed, use another node"
        }
        Outcome::Refused(Refusal::TooLarge) => "ERR the command is too large: nothing was changed",
        Outcome::Refused(
            Refusal::NotLeader(_) | Refusal::NoSuchGroup | Refusal::NotVoter | Refusal::Change(_),
        ) => "CLUSTERDOWN the key's range has no leader that can be reached: nothing was changed, try again",
        Outcome::Answered(_) => unreachable!("answers are not refusals"),
    }
}

/// The error for a command that the state machine refused.
pub(super) fn failure_text(failure: Failure, spec: &Spec) -> Refused {
    match failure {
        Failure::InvalidLifetime => invalid_expire(spec),
        Failure::WrongRange => {
            "TRYAGAIN the key is moving to another range: nothing was changed, try again".into()
        }
        other => format!("ERR {other}").into(),
    }
}

/// The error for a lifetime that makes no sense.
pub(super) fn invalid_expire(spec: &Spec) -> Refused {
    format!("ERR invalid expire time in '{}' command", spec.name).into()
}

fn exists(answer: &Answer) -> bool {
    !matches!(answer, Answer::Nil | Answer::Integer(0))
}

impl Unit {
    /// Milliseconds in this unit; seconds are rounded to the nearest.
    fn rounded(self, milliseconds: u64) -> i64 {
        let number = match self {
            Unit::Seconds => milliseconds.saturating_add(500) / 1000,
            Unit::Milliseconds => milliseconds,
        };
        i64::try_from(number).unwrap_or(i64::MAX)
    }
}
