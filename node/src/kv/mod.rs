//! The key-value state machine of one group: commands, queries, answers, expiry. Pure: no tokio, redb, clock or rng.
//! It sees a group's rows through `State`, time as the stamps that entries and reads carry, and nothing else.
//!
//! Rows of a group (first byte): `0x00` the group's own rows (clock, counters), `0x01` the index of deadlines,
//! `0x10` user keys. User keys may hold any bytes. The first two belong to the group, not to its key span.

pub mod answer;
pub mod apply;
pub mod command;
pub mod float;
pub mod glob;
pub mod growth;
pub mod limits;
pub mod number;
pub mod query;
pub mod record;
pub mod span;
pub mod state;
pub mod tag;
pub mod transaction;

pub use answer::{Answer, Failure};
pub use apply::Applier;
pub use command::{Command, Condition, Expect, ExpireCondition, Lifetime, Operation, Slice};
pub use growth::growth;
pub use query::{Query, Scan, evaluate, evaluate_within};
pub use span::Span;
pub use state::{State, clock, next_expiry};
pub use tag::tag;
pub use transaction::{Step, Watched};

#[cfg(test)]
mod tests;
