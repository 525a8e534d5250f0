//! Several commands and queries as one entry: what the steps of a transaction are, and how they run. Steps stay encoded
//! inside the command, so that decoding a command never recurses; a transaction is no step.

use super::answer::{self, Failure};
use super::apply::Applier;
use super::command::{Command, Slice, Undecodable};
use super::limits::GET_MANY_BYTES_MAX;
use super::query::{self, Query};
use super::span::Span;
use super::state::State;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A key that must be as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched<'a> {
    /// The key.
    #[serde(borrow)]
    pub key: Slice<'a>,
    /// Its version then; None: it did not exist.
    pub version: Option<u64>,
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step<'a> {
    /// An encoded command.
    Write(#[serde(borrow)] Slice<'a>),
    /// An encoded query.
    Read(Slice<'a>),
}

pub(crate) enum Decoded<'a> {
    Write(Command<'a>),
    Read(Query<'a>),
}

impl<'a> Step<'a> {
    /// Bytes of what it holds.
    pub(crate) fn len(&self) -> usize {
        let (Step::Write(Slice(bytes)) | Step::Read(Slice(bytes))) = self;
        bytes.len()
    }

    pub(crate) fn decode(&self) -> Result<Decoded<'a>, Undecodable> {
        match *self {
            Step::Read(query) => Query::decode(query.0).map(Decoded::Read),
            Step::Write(command) => match Command::decode(command.0)? {
                Command::Transaction { .. } => Err(Undecodable),
                command => Ok(Decoded::Write(command)),
            },
        }
    }

    pub(crate) fn routing_key(&self) -> Option<&'a [u8]> {
        match self.decode().ok()? {
            Decoded::Write(command) => command.routing_key(),
            Decoded::Read(query) => query.routing_key(),
        }
    }

    /// True when every key it names is in the span; what cannot be decoded names none.
    pub(crate) fn is_within(&self, span: Span<'_>) -> bool {
        match self.decode() {
            Ok(Decoded::Write(command)) => span.holds_command(&command),
            Ok(Decoded::Read(query)) => span.holds_query(&query),
            Err(Undecodable) => true,
        }
    }
}

impl<S: State + ?Sized> Applier<'_, S> {
    /// Runs all steps, or none if a watched key has changed. A step that fails stops no other; what cannot be decoded stops
    /// all before the first.
    pub(super) fn transaction(
        &mut self,
        watched: &[Watched<'_>],
        steps: &[Step<'_>],
    ) -> Result<Bytes, Failure> {
        let steps = steps.iter().map(Step::decode).collect::<Result<Vec<_>, _>>();
        let steps = steps.map_err(|Undecodable| Failure::Undecodable)?;
        if watched.iter().any(|one| self.version(one.key.0) != one.version) {
            return Ok(answer::nil());
        }
        let mut bytes = 0;
        let answers: Vec<Bytes> = steps
            .iter()
            .map(|step| {
                let given = self.step(step);
                bytes += given.len();
                match bytes > GET_MANY_BYTES_MAX {
                    true => answer::failed(Failure::AnswerTooLong),
                    false => given,
                }
            })
            .collect();
        Ok(answer::many(&answers))
    }

    fn step(&mut self, step: &Decoded<'_>) -> Bytes {
        match step {
            Decoded::Write(command) => self.run(command).unwrap_or_else(answer::failed),
            Decoded::Read(query) => query::evaluate_now(self.state, query, &self.counters),
        }
    }
}
