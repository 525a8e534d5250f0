//! Who a certificate says its holder is, and which cluster a CA stands for. Reads names only: that a
//! certificate is genuine is the TLS handshake's business, who mints certificates is `node::trust`'s.
//!
//! All facts are DNS names among the subject alternative names, so that ordinary tools show them: the CA
//! carries `cluster-<32 hex digits>`, a node `node-<id>` and [`ANY_NODE`] besides its host names, a client
//! `client-<name>`.

use multiraft::NodeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;
use webpki::EndEntityCert;

/// A DNS name that every node certificate carries: a client that knows addresses but no node ids asks for it.
pub const ANY_NODE: &str = "flotilla-node";
/// What the names of a CA begin with; the cluster id follows.
pub const CLUSTER_PREFIX: &str = "cluster-";
/// What the names of a node certificate begin with; the node id follows.
pub const NODE_PREFIX: &str = "node-";
/// What the names of a client certificate begin with; the client's name follows.
pub const CLIENT_PREFIX: &str = "client-";

/// Names one cluster: 128 random bits minted with its CA. Printed as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for ClusterId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<ClusterId, IdentityError> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        let number = number.ok_or_else(|| IdentityError::NotAClusterId(text.to_owned()))?;
        Ok(ClusterId(number.to_be_bytes()))
    }
}

/// Whom a certificate was issued to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertifiedName {
    /// A node of the cluster.
    Node(NodeId),
    /// A client, by the name it was given.
    Client(String),
}

impl fmt::Display for CertifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertifiedName::Node(id) => write!(f, "{}", node_name(*id)),
            CertifiedName::Client(name) => write!(f, "{}", client_name(name)),
        }
    }
}

/// Everything one party needs for mutual TLS. Whoever loads it checks that the parts belong together.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The CAs whose certificates are trusted: one, or several while one takes the other's place.
    pub roots: Vec<CertificateDer<'static>>,
    /// Our certificate and any intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first of them.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// The cluster the CA stands for.
    pub cluster: ClusterId,
    /// Whom our certificate names.
    pub name: CertifiedName,
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Not a certificate at all.
    #[error("not an X.509 certificate: {0}")]
    NotACertificate(String),
    /// No name of ours.
    #[error("names neither node-<id> nor client-<name>; make it with `flotilla cert node|client`")]
    Nameless,
    /// More than one, so that none can be believed.
    #[error("names both {0} and {1}: a certificate stands for one node or one client")]
    Ambiguous(CertifiedName, CertifiedName),
    /// No cluster id in a CA.
    #[error(
        "carries no cluster id (a DNS name cluster-<32 hex digits>); make the CA with `flotilla cert ca`"
    )]
    NoCluster,
    /// Not 32 hex digits.
    #[error("`{0}` is not a cluster id of 32 hex digits")]
    NotAClusterId(String),
}

/// The DNS name by which a dialer demands node `id`.
pub fn node_name(id: NodeId) -> String {
    format!("{NODE_PREFIX}{}", id.0)
}

/// The DNS name in the certificate of the client `name`.
pub fn client_name(name: &str) -> String {
    format!("{CLIENT_PREFIX}{name}")
}

/// The one node or client this certificate was issued to.
pub fn certified_name(certificate: &CertificateDer<'_>) -> Result<CertifiedName, IdentityError> {
    let parsed = parse(certificate)?;
    let mut names = parsed.valid_dns_names().filter_map(parse_name);
    let first = names.next().ok_or(IdentityError::Nameless)?;
    match names.find(|other| *other != first) {
        None => Ok(first),
        Some(other) => Err(IdentityError::Ambiguous(first, other)),
    }
}

/// The cluster whose CA this certificate is.
pub fn cluster_of(ca: &CertificateDer<'_>) -> Result<ClusterId, IdentityError> {
    let parsed = parse(ca)?;
    let name = parsed
        .valid_dns_names()
        .find_map(|name| name.strip_prefix(CLUSTER_PREFIX));
    name.ok_or(IdentityError::NoCluster)?.parse()
}

fn parse<'a>(certificate: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, IdentityError> {
    EndEntityCert::try_from(certificate).map_err(|e| IdentityError::NotACertificate(e.to_string()))
}

fn parse_name(name: &str) -> Option<CertifiedName> {
    if let Some(id) = name.strip_prefix(NODE_PREFIX) {
        let canonical = id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0');
        return canonical
            .then(|| id.parse().ok())
            .flatten()
            .map(|id| CertifiedName::Node(NodeId(id)));
    }
    name.strip_prefix(CLIENT_PREFIX)
        .map(|name| CertifiedName::Client(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_print_and_parse() {
        let id = ClusterId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("12".parse::<ClusterId>().is_err());
        assert!("+0000000000000000000000000000001".parse::<ClusterId>().is_err());
    }

    #[test]
    fn only_canonical_names_name_somebody() {
        assert_eq!(parse_name("node-12"), Some(CertifiedName::Node(NodeId(12))));
        assert_eq!(
            parse_name("client-app"),
            Some(CertifiedName::Client("app".to_owned()))
        );
        for name in [
            "node-",
            "node-012",
            "node-1x",
            "node-0",
            "cluster-1",
            ANY_NODE,
            "localhost",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
