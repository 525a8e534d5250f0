//! One key as it should behave when operations come one after the other. Versions grow with every write, by how much
//! nobody outside knows; so after a write whose answer names no version, the model knows a floor and learns the rest
//! from the next answer that names it.

use super::operation::{Answer, Ask, Expect, Seen};

/// What is known about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    value: Option<i64>,
    /// The version if `exact`; otherwise it is greater than this. Of an absent key: the next one is greater.
    version: u64,
    exact: bool,
}

impl State {
    /// A key that was never written.
    pub const NEVER: State = State {
        value: None,
        version: 0,
        exact: true,
    };

    /// The state after `ask` was answered like this, None if it cannot be answered like this here. Without an answer:
    /// the state after it took effect, None if it would have none.
    pub fn after(&self, ask: &Ask, answer: Option<Answer>) -> Option<State> {
        let told = |expected: Answer| answer.is_none_or(|answer| answer == expected);
        match *ask {
            Ask::Get => match answer? {
                Answer::Found(seen) => self.showing(seen),
                _ => None,
            },
            Ask::Put(value) => told(Answer::Done).then(|| self.holding(Some(value))),
            Ask::PutIfAbsent(value) => self.put_if(self.value.is_none(), value, answer),
            Ask::PutIfPresent(value) => self.put_if(self.value.is_some(), value, answer),
            Ask::Add(delta) => {
                let sum = self.value.unwrap_or(0).checked_add(delta)?;
                told(Answer::Sum(sum)).then(|| self.holding(Some(sum)))
            }
            Ask::Delete => match (self.value, answer) {
                (None, Some(Answer::Deleted(false))) => Some(*self),
                (Some(_), None | Some(Answer::Deleted(true))) => Some(self.holding(None)),
                _ => None,
            },
            Ask::Cas(expect, value) => self.cas(expect, value, answer),
        }
    }

    fn put_if(&self, holds: bool, value: i64, answer: Option<Answer>) -> Option<State> {
        match (holds, answer) {
            (true, None | Some(Answer::Written(true))) => Some(self.holding(Some(value))),
            (false, Some(Answer::Written(false))) => Some(*self),
            _ => None,
        }
    }

    fn cas(&self, expect: Expect, value: Option<i64>, answer: Option<Answer>) -> Option<State> {
        match answer {
            None => Some(self.meeting(expect)?.holding(value)),
            Some(Answer::Swapped(version)) => {
                let met = self.meeting(expect)?;
                // Deleting what is absent moves no counter on.
                let is_idle = value.is_none() && met.value.is_none();
                (version > met.version || is_idle && version == met.version).then_some(State {
                    value,
                    version,
                    exact: true,
                })
            }
            Some(Answer::Mismatch(None)) => {
                (self.value.is_none() && expect != Expect::Absent).then_some(*self)
            }
            Some(Answer::Mismatch(Some(version))) => {
                let found = self.with_version(version)?;
                found.meeting(expect).is_none().then_some(found)
            }
            Some(_) => None,
        }
    }

    /// Another value; of its version only a floor is known.
    fn holding(&self, value: Option<i64>) -> State {
        State {
            value,
            version: self.version,
            exact: value.is_none(),
        }
    }

    /// This state if a reader may see that.
    fn showing(&self, seen: Option<Seen>) -> Option<State> {
        let Some(seen) = seen else {
            return self.value.is_none().then_some(*self);
        };
        match seen.version {
            _ if self.value != Some(seen.value) => None,
            Some(version) => self.with_version(version),
            None => Some(*self),
        }
    }

    fn with_version(&self, version: u64) -> Option<State> {
        let possible = match self.exact {
            true => version == self.version,
            false => version > self.version,
        };
        let exact = State {
            version,
            exact: true,
            ..*self
        };
        (self.value.is_some() && possible).then_some(exact)
    }

    /// What is known if the expectation holds; None if it does not.
    fn meeting(&self, expect: Expect) -> Option<State> {
        match expect {
            Expect::Absent => self.value.is_none().then_some(*self),
            Expect::Present => self.value.is_some().then_some(*self),
            Expect::Value(value) => (self.value == Some(value)).then_some(*self),
            Expect::Version(version) => self.with_version(version),
        }
    }
}
