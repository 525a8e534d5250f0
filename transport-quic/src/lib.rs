//! Moves frames and requests between nodes over QUIC with mutual TLS.

mod identity;

pub use identity::{
    ANY_NODE, CLIENT_PREFIX, CLUSTER_PREFIX, CertifiedName, ClusterId, Credentials, IdentityError,
    NODE_PREFIX, certified_name, client_name, cluster_of, node_name,
};
