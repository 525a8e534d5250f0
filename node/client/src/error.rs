//! What can go wrong, kept apart by what the caller may conclude from it.

use crate::protocol::{Malformed, Reason};
use thiserror::Error;

/// Why a call brought no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// It definitely had no effect: it may be sent again.
    #[error("refused: {0}")]
    Refused(Reason),
    /// A write that may or may not have taken effect, or may yet.
    #[error("outcome unknown: the write may or may not have taken effect")]
    Unknown,
    /// It took too long and definitely had no effect (reads never have one).
    #[error("timed out")]
    TimedOut,
    /// No endpoint could be reached within the time; nothing was sent. The last error of each endpoint.
    #[error("cannot connect: {0}")]
    CannotConnect(String),
    /// The connection was lost twice while a read was under way.
    #[error("the connection was lost")]
    Disconnected,
    /// The node dropped a read: it is stopping, or could not put the answer together.
    #[error("the node dropped the request")]
    Dropped,
    /// The node does not understand the request; the text is its own.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The key is longer than this many bytes.
    #[error("the key is too long: at most {0} bytes")]
    KeyTooLarge(u64),
    /// The value is larger than this many bytes.
    #[error("the value is too large: at most {0} bytes")]
    ValueTooLarge(u64),
    /// The keys of a batch do not share one `{{tag}}`.
    #[error("the keys must share one {{tag}} prefix")]
    CrossRange,
    /// The node answered something this client does not understand.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Protocol(malformed.to_string())
    }
}

/// Why no endpoint could be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}", .0.iter().map(|(at, why)| format!("{at}: {why}")).collect::<Vec<_>>().join("; "))]
pub struct ConnectError(pub Vec<(String, String)>);
