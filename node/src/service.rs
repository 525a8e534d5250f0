//! The seam between gateways and the cluster: a gateway hands over a request with a ticket and gets one outcome.
//! Implemented by `requests::Requests` (routing, forwarding, retries) and, for gateway tests, by one in-memory group.

use bytes::Bytes;
use multiraft::{GroupId, Ticket};
use std::time::Duration;

/// Whom a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The range that holds this user key.
    Key(Bytes),
    /// This group, whatever it holds (scans and counts walk the groups in key order).
    Group(GroupId),
}

/// Whether a request may change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `payload` is an encoded `kv::Query`: a linearizable read.
    Read,
    /// `payload` is an encoded `kv::Command`: a proposal.
    Write,
}

/// One request to one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom it is for.
    pub target: Target,
    /// Read or write.
    pub kind: Kind,
    /// For the state machine.
    pub payload: Bytes,
    /// Give up after this long: a read is then refused, a write that may have been proposed is `Unknown`.
    pub timeout: Duration,
}

/// A range as routing sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRoute {
    /// The group that serves it.
    pub group: GroupId,
    /// First key, included.
    pub start: Bytes,
    /// First key after it; None: to the end of the key space.
    pub end: Option<Bytes>,
}

/// Takes requests. Cheap to share; never blocks.
pub trait Service: Send + Sync {
    /// Hands over a request; the ticket is answered exactly once with kv's encoded answer, a refusal or `Unknown`.
    fn submit(&self, request: Request, ticket: Ticket);
    /// The group that serves this user key now. Use it to batch keys of one command by group.
    fn group_of(&self, key: &[u8]) -> GroupId;
    /// All ranges in key order.
    fn ranges(&self) -> Vec<RangeRoute>;
}
