//! Moves frames and requests between nodes, and requests of clients to a node, over QUIC with mutual TLS.
//!
//! One [`Transport`] per node owns one UDP socket. Between two nodes it keeps one *link*: a connection on
//! which both sides have proved their identity and said hello. A link carries two lanes of frames each way
//! (control before entries) and one stream of numbered calls each way; bulk streams have connections of their own. It
//! implements [`multiraft::RaftNetwork`].
//!
//! | promise | where |
//! |---|---|
//! | a frame arrives whole and in the order of its lane, or not at all | `lanes.rs`, `framing.rs` |
//! | sending never blocks: a full queue drops and counts | `lanes.rs`, `calls.rs` |
//! | a call ends as answered, definitely not sent, or unknown | `calls.rs` |
//! | a bulk stream is taken whole or not at all, at a bounded rate | `bulk.rs`, `bucket.rs` |
//! | a link leads to the node its certificate names, of this cluster, once | `accept.rs`, `dial.rs`, `peer.rs` |
//! | a refusal has one reason on both sides | `refusal.rs` |
//! | a link that is dialed anew for new certificates loses nothing | `link.rs` |
//! | every buffer, queue and wait has a bound | `limits.rs` |
//!
//! It never looks inside a frame or a payload, never retries, never touches a disk. Not here yet: liveness datagrams.

mod accept;
mod bucket;
mod bulk;
mod calls;
mod congestion;
mod dial;
mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hello;
mod identity;
mod lanes;
pub mod limits;
mod link;
mod peer;
mod refusal;
mod status;
mod tls;
mod transport;
mod writing;

pub use bulk::BulkStats;
pub use calls::{CallError, NotSent, Reply};
pub use identity::{
    ANY_NODE, CLIENT_PREFIX, CLUSTER_PREFIX, CertifiedName, ClusterId, Credentials, IdentityError,
    NODE_PREFIX, certified_name, client_name, cluster_of, node_name,
};
pub use refusal::{By, Code, Refusal, Refusals};
pub use status::{LaneStats, LinkState, LinkStats};
pub use tls::{ALPN_CLIENT, ALPN_PEER};
pub use transport::{
    CallSink, Client, ClientSink, Config, Congestion, FrameSink, Options, RenewError, Sinks, StartError,
    Transport, TransportStats,
};
