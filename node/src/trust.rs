//! Certificates: makes the cluster's CA, node and client certificates, and loads them with errors that say
//! what to do. Plain functions over a directory; who presents which certificate to whom is transport-quic's
//! business.
//!
//! A directory holds `ca.crt`, `ca.key`, `node-<id>.crt`, `node-<id>.key`, `client.crt`, `client.key`, all
//! PEM. Keys are readable by their owner only. Nothing is ever overwritten. `ca.key` is needed only to make
//! certificates: keep it away from the nodes. A `ca.crt` with several certificates makes all of them trusted: that is
//! how one CA takes the place of another; the first is the one that `ca.key` belongs to.

mod validity;

pub use validity::valid_until;

use multiraft::NodeId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use transport_quic::{
    ANY_NODE, CLIENT_PREFIX, CLUSTER_PREFIX, CertifiedName, ClusterId, Credentials, IdentityError,
    NODE_PREFIX, certified_name, client_name, cluster_of, node_name,
};

/// How long a CA lives.
pub const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long node and client certificates live unless told otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(730 * 24 * 3600);
/// Certificates are valid from this long before they are made, so that clocks need not agree exactly.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// The longest name of a client: a DNS label holds 63 bytes.
const CLIENT_NAME_MAX: usize = 63 - CLIENT_PREFIX.len();

/// A certificate and its key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
}

impl Files {
    fn new(directory: &Path, stem: &str) -> Files {
        Files {
            certificate: directory.join(format!("{stem}.crt")),
            key: directory.join(format!("{stem}.key")),
        }
    }

    /// `ca.crt` and `ca.key`.
    pub fn of_ca(directory: &Path) -> Files {
        Files::new(directory, "ca")
    }

    /// `node-<id>.crt` and `node-<id>.key`.
    pub fn of_node(directory: &Path, id: NodeId) -> Files {
        Files::new(directory, &node_name(id))
    }

    /// `client.crt` and `client.key`.
    pub fn of_client(directory: &Path) -> Files {
        Files::new(directory, "client")
    }
}

/// What can be wrong with certificates, and what to do about it.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file that must be there is not.
    #[error("{path} is missing; make it with `{remedy}` or point to the right directory")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
    },
    /// A file that must not be there is.
    #[error("{0} exists already and is never overwritten; move it away or choose another directory")]
    Exists(PathBuf),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the PEM text it should be.
    #[error("{path} holds no PEM {expected} ({why}); restore the file or make a new one")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// What the parser said.
        why: String,
    },
    /// The certificate belongs to another key.
    #[error("{key} is not the key of {certificate}; restore the pair that was made together")]
    KeyMismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// The key cannot be used at all.
    #[error("{path} holds a key that cannot be used: {why}")]
    BadKey {
        /// The key file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Past its end, or the clock is wrong.
    #[error(
        "{0} has expired; make a new certificate with the same CA, or set the clock of this machine right"
    )]
    Expired(PathBuf),
    /// Before its beginning: the clock is wrong.
    #[error("{0} is not valid yet; set the clock of this machine right")]
    NotYetValid(PathBuf),
    /// Issued by some other CA.
    #[error("{certificate} was not issued by {ca}; use the ca.crt that it was made with")]
    WrongCa {
        /// The certificate file.
        certificate: PathBuf,
        /// The CA file.
        ca: PathBuf,
    },
    /// Refused for another reason.
    #[error("{path} is not an acceptable certificate: {why}")]
    Unacceptable {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The names in it are not ours.
    #[error("{path} {source}")]
    Names {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// A genuine certificate of somebody else.
    #[error("{path} was made for {found}, not for {wanted}; use that certificate there")]
    WrongName {
        /// The certificate file.
        path: PathBuf,
        /// Whom it names.
        found: CertifiedName,
        /// Who wants to use it.
        wanted: String,
    },
    /// CAs of several clusters in one file.
    #[error("{path} holds CAs of clusters {first} and {other}; a node belongs to one cluster")]
    MixedClusters {
        /// The CA file.
        path: PathBuf,
        /// The cluster of the first certificate.
        first: ClusterId,
        /// That of a later one.
        other: ClusterId,
    },
    /// A host name that cannot stand in a certificate or would forge an identity.
    #[error("`{0}` cannot be a host of a node certificate; give DNS names or IP addresses")]
    BadHost(String),
    /// A client name that cannot stand in a certificate.
    #[error("`{0}` cannot be a client name; use 1 to {CLIENT_NAME_MAX} of a-z, 0-9 and inner -")]
    BadClientName(String),
    /// Node ids begin at 1.
    #[error("0 is no node id; use 1 or more")]
    BadNodeId,
    /// The crypto library refused.
    #[error("making a certificate failed: {0}")]
    Crypto(String),
}

/// Makes a CA with a new cluster id: `ca.crt` and `ca.key` in `directory`, which is created if need be.
pub fn create_ca(directory: &Path) -> Result<ClusterId, TrustError> {
    let cluster = mint_cluster_id()?;
    create_ca_of(directory, cluster)?;
    Ok(cluster)
}

/// Makes one more CA for a cluster that exists, to take the place of the old one.
pub fn create_ca_of(directory: &Path, cluster: ClusterId) -> Result<(), TrustError> {
    let files = Files::of_ca(directory);
    refuse_existing(&files)?;
    let key = new_key()?;
    let certificate = ca_params(cluster)?.self_signed(&key).map_err(crypto)?;
    write_pair(directory, &files, &certificate.pem(), &key)
}

/// Makes the certificate of node `id`, valid under `hosts` too (DNS names or addresses clients may check).
pub fn create_node(
    directory: &Path,
    id: NodeId,
    hosts: &[String],
    lifetime: Duration,
) -> Result<Files, TrustError> {
    if id.0 == 0 {
        return Err(TrustError::BadNodeId);
    }
    hosts.iter().try_for_each(|host| check_host(host))?;
    let mut names = vec![node_name(id), ANY_NODE.to_owned()];
    names.extend_from_slice(hosts);
    let files = Files::of_node(directory, id);
    let usages = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    issue(
        directory,
        &files,
        &Leaf {
            names,
            usages: &usages,
            expires: SystemTime::now() + lifetime,
        },
    )?;
    Ok(files)
}

/// Makes `client.crt` and `client.key` for the client `name`.
pub fn create_client(directory: &Path, name: &str, lifetime: Duration) -> Result<Files, TrustError> {
    check_client_name(name)?;
    let files = Files::of_client(directory);
    let usages = [ExtendedKeyUsagePurpose::ClientAuth];
    issue(
        directory,
        &files,
        &Leaf {
            names: vec![client_name(name)],
            usages: &usages,
            expires: SystemTime::now() + lifetime,
        },
    )?;
    Ok(files)
}

/// Loads what node `id` needs from `directory`: `ca.crt` and its own pair.
pub fn load_node(directory: &Path, id: NodeId) -> Result<Credentials, TrustError> {
    load_node_files(
        &Files::of_ca(directory).certificate,
        &Files::of_node(directory, id),
        id,
    )
}

/// Loads what node `id` needs from files given one by one.
pub fn load_node_files(ca: &Path, files: &Files, id: NodeId) -> Result<Credentials, TrustError> {
    let credentials = load(ca, files, "flotilla cert node")?;
    if credentials.name != CertifiedName::Node(id) {
        return Err(TrustError::WrongName {
            path: files.certificate.clone(),
            found: credentials.name,
            wanted: node_name(id),
        });
    }
    Ok(credentials)
}

/// Loads what a client needs from `directory`: `ca.crt`, `client.crt` and `client.key`.
pub fn load_client(directory: &Path) -> Result<Credentials, TrustError> {
    load(
        &Files::of_ca(directory).certificate,
        &Files::of_client(directory),
        "flotilla cert client",
    )
}

/// Loads the trusted CA certificates and a pair issued by one of them, and checks that they belong together and are
/// valid now.
pub fn load(ca: &Path, files: &Files, remedy: &'static str) -> Result<Credentials, TrustError> {
    let roots = read_certificates(ca, "flotilla cert ca")?;
    let cluster = cluster_of_all(&roots, ca)?;
    let chain = read_certificates(&files.certificate, remedy)?;
    let key = read_key(&files.key, remedy)?;
    check_key(&chain, &key, files)?;
    check_issued(ca, &roots, &chain, &files.certificate)?;
    let name = certified_name(&chain[0]).map_err(names(&files.certificate))?;
    Ok(Credentials {
        roots,
        chain,
        key: Arc::new(key),
        cluster,
        name,
    })
}

/// The cluster that every one of these CAs stands for.
fn cluster_of_all(roots: &[CertificateDer<'static>], path: &Path) -> Result<ClusterId, TrustError> {
    let clusters = roots.iter().map(|root| cluster_of(root).map_err(names(path)));
    let clusters: Vec<ClusterId> = clusters.collect::<Result<_, _>>()?;
    match clusters.iter().find(|cluster| **cluster != clusters[0]) {
        None => Ok(clusters[0]),
        Some(&other) => Err(TrustError::MixedClusters {
            path: path.to_owned(),
            first: clusters[0],
            other,
        }),
    }
}

/// The cluster id that `ca.crt` in `directory` carries.
pub fn cluster_id(directory: &Path) -> Result<ClusterId, TrustError> {
    let path = Files::of_ca(directory).certificate;
    cluster_of(&read_certificates(&path, "flotilla cert ca")?[0]).map_err(names(&path))
}

struct Leaf<'a> {
    names: Vec<String>,
    usages: &'a [ExtendedKeyUsagePurpose],
    expires: SystemTime,
}

/// Signs a leaf with the directory's CA and writes it, after checking it as its users will.
fn issue(directory: &Path, files: &Files, leaf: &Leaf<'_>) -> Result<(), TrustError> {
    refuse_existing(files)?;
    let ca_files = Files::of_ca(directory);
    let ca = read_certificates(&ca_files.certificate, "flotilla cert ca")?.swap_remove(0);
    let (certificate, key) = sign(&ca_files, &ca, leaf)?;
    let chain = [certificate.der().clone()];
    check_issued(
        &ca_files.certificate,
        std::slice::from_ref(&ca),
        &chain,
        &files.certificate,
    )?;
    write_pair(directory, files, &certificate.pem(), &key)
}

/// Only the CA's name and key enter a signature, and its name follows from the cluster id: nothing to parse.
fn sign(
    ca_files: &Files,
    ca: &CertificateDer<'static>,
    leaf: &Leaf<'_>,
) -> Result<(Certificate, KeyPair), TrustError> {
    let cluster = cluster_of(ca).map_err(names(&ca_files.certificate))?;
    let ca_key = read_key(&ca_files.key, "flotilla cert ca")?;
    check_key(std::slice::from_ref(ca), &ca_key, ca_files)?;
    let issuer = Issuer::new(ca_params(cluster)?, KeyPair::try_from(&ca_key).map_err(crypto)?);
    let key = new_key()?;
    let certificate = leaf_params(leaf)?.signed_by(&key, &issuer).map_err(crypto)?;
    Ok((certificate, key))
}

fn ca_params(cluster: ClusterId) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::new(vec![format!("{CLUSTER_PREFIX}{cluster}")]).map_err(crypto)?;
    params.distinguished_name = subject(&format!("flotilla-ca {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, SystemTime::now() + CA_LIFETIME);
    Ok(params)
}

fn leaf_params(leaf: &Leaf<'_>) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::new(leaf.names.clone()).map_err(crypto)?;
    params.distinguished_name = subject(&leaf.names[0]);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = leaf.usages.to_vec();
    set_validity(&mut params, leaf.expires);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, expires: SystemTime) {
    params.not_before = (SystemTime::now() - CLOCK_SLACK).into();
    params.not_after = expires.into();
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// A host must not be a name that stands for an identity, or a certificate would be two things at once.
fn check_host(host: &str) -> Result<(), TrustError> {
    let reserved = [NODE_PREFIX, CLIENT_PREFIX, CLUSTER_PREFIX]
        .iter()
        .any(|p| host.starts_with(p));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:_".contains(&b);
    if host.is_empty() || host.len() > 253 || reserved || !host.bytes().all(plain) {
        return Err(TrustError::BadHost(host.to_owned()));
    }
    Ok(())
}

fn check_client_name(name: &str) -> Result<(), TrustError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = !name.starts_with('-') && !name.ends_with('-');
    if name.is_empty() || name.len() > CLIENT_NAME_MAX || !edges || !name.bytes().all(plain) {
        return Err(TrustError::BadClientName(name.to_owned()));
    }
    Ok(())
}

fn mint_cluster_id() -> Result<ClusterId, TrustError> {
    let mut id = [0; 16];
    let random = provider().secure_random.fill(&mut id);
    random.map_err(|_| TrustError::Crypto("the system gave no random bytes".to_owned()))?;
    Ok(ClusterId(id))
}

fn new_key() -> Result<KeyPair, TrustError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read_certificates(path: &Path, remedy: &'static str) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = read(path, remedy)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let not_pem = |why: String| TrustError::NotPem {
        path: path.to_owned(),
        expected: "certificate",
        why,
    };
    match found {
        Ok(chain) if chain.is_empty() => Err(not_pem("no CERTIFICATE section".to_owned())),
        Ok(chain) => Ok(chain),
        Err(e) => Err(not_pem(e.to_string())),
    }
}

fn read_key(path: &Path, remedy: &'static str) -> Result<PrivateKeyDer<'static>, TrustError> {
    let text = read(path, remedy)?;
    warn_if_readable_by_others(path);
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| TrustError::NotPem {
        path: path.to_owned(),
        expected: "private key",
        why: e.to_string(),
    })
}

fn read(path: &Path, remedy: &'static str) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TrustError::Missing {
            path: path.to_owned(),
            remedy,
        },
        _ => TrustError::Io {
            path: path.to_owned(),
            source,
        },
    })
}

fn warn_if_readable_by_others(path: &Path) {
    let mode = std::fs::metadata(path)
        .map(|m| m.permissions().mode() & 0o077)
        .unwrap_or(0);
    if mode != 0 {
        let path = path.display();
        tracing::warn!(%path, "this private key can be read by others; run chmod 600 on it");
    }
}

fn check_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    files: &Files,
) -> Result<(), TrustError> {
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let Files { certificate, key } = files.clone();
            Err(TrustError::KeyMismatch { key, certificate })
        }
        Err(e) => Err(TrustError::BadKey {
            path: files.key.clone(),
            why: e.to_string(),
        }),
    }
}

/// Checks `chain` as the other side of a connection will.
fn check_issued(
    ca_path: &Path,
    trusted: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
    path: &Path,
) -> Result<(), TrustError> {
    let unacceptable = |path: &Path, why: String| TrustError::Unacceptable {
        path: path.to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for root in trusted {
        let added = roots.add(root.clone());
        added.map_err(|e| unacceptable(ca_path, e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|e| unacceptable(ca_path, e.to_string()))?;
    let outcome = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
    use CertificateError as E;
    match outcome {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. })) => {
            Err(TrustError::Expired(path.to_owned()))
        }
        Err(rustls::Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. })) => {
            Err(TrustError::NotYetValid(path.to_owned()))
        }
        Err(rustls::Error::InvalidCertificate(E::UnknownIssuer | E::BadSignature)) => {
            Err(TrustError::WrongCa {
                certificate: path.to_owned(),
                ca: ca_path.to_owned(),
            })
        }
        Err(e) => Err(unacceptable(path, e.to_string())),
    }
}

fn refuse_existing(files: &Files) -> Result<(), TrustError> {
    for path in [&files.certificate, &files.key] {
        if path.symlink_metadata().is_ok() {
            return Err(TrustError::Exists(path.clone()));
        }
    }
    Ok(())
}

/// The certificate comes last: where it exists, its key does.
fn write_pair(directory: &Path, files: &Files, certificate: &str, key: &KeyPair) -> Result<(), TrustError> {
    let failed = |source| TrustError::Io {
        path: directory.to_owned(),
        source,
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    write_new(&files.key, &key.serialize_pem(), 0o600)?;
    write_new(&files.certificate, certificate, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TrustError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => TrustError::Exists(path.to_owned()),
        _ => TrustError::Io {
            path: path.to_owned(),
            source,
        },
    })
}

fn names(path: &Path) -> impl FnOnce(IdentityError) -> TrustError {
    let path = path.to_owned();
    move |source| TrustError::Names { path, source }
}

fn crypto(error: rcgen::Error) -> TrustError {
    TrustError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> (tempfile::TempDir, ClusterId) {
        let directory = tempfile::tempdir().unwrap();
        let id = create_ca(directory.path()).unwrap();
        (directory, id)
    }

    fn node(directory: &Path, id: u64) -> Files {
        create_node(
            directory,
            NodeId(id),
            &["localhost".into(), "127.0.0.1".into()],
            LEAF_LIFETIME,
        )
        .unwrap()
    }

    #[test]
    fn what_is_made_can_be_loaded() {
        let (directory, id) = cluster();
        node(directory.path(), 3);
        create_client(directory.path(), "app-1", LEAF_LIFETIME).unwrap();
        let node = load_node(directory.path(), NodeId(3)).unwrap();
        assert_eq!((node.cluster, node.name), (id, CertifiedName::Node(NodeId(3))));
        let client = load_client(directory.path()).unwrap();
        assert_eq!(
            (client.cluster, client.name),
            (id, CertifiedName::Client("app-1".into()))
        );
        assert_eq!(cluster_id(directory.path()).unwrap(), id);
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let (directory, _) = cluster();
        let files = node(directory.path(), 1);
        for key in [&files.key, &Files::of_ca(directory.path()).key] {
            assert_eq!(
                std::fs::metadata(key).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let before = std::fs::read(&files.certificate).unwrap();
        let again = create_node(directory.path(), NodeId(1), &[], LEAF_LIFETIME);
        assert!(matches!(again, Err(TrustError::Exists(_))), "{again:?}");
        assert!(matches!(create_ca(directory.path()), Err(TrustError::Exists(_))));
        assert_eq!(std::fs::read(&files.certificate).unwrap(), before);
    }

    #[test]
    fn two_cas_have_two_cluster_ids_and_do_not_mix() {
        let (one, first) = cluster();
        let (other, second) = cluster();
        assert_ne!(first, second);
        let files = node(one.path(), 1);
        let foreign = load_node_files(&Files::of_ca(other.path()).certificate, &files, NodeId(1));
        assert!(matches!(foreign, Err(TrustError::WrongCa { .. })), "{foreign:?}");
    }

    #[test]
    fn several_cas_of_one_cluster_are_trusted_while_one_takes_the_others_place() {
        let (old, id) = cluster();
        let new = tempfile::tempdir().unwrap();
        create_ca_of(new.path(), id).unwrap();
        let ca = |directory: &tempfile::TempDir| Files::of_ca(directory.path()).certificate;
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let both = new.path().join("both.crt");
        std::fs::write(&both, text(ca(&new)) + &text(ca(&old))).unwrap();
        for directory in [&old, &new] {
            let files = node(directory.path(), 1);
            let loaded = load_node_files(&both, &files, NodeId(1)).unwrap();
            assert_eq!((loaded.roots.len(), loaded.cluster), (2, id));
            assert!(valid_until(&loaded.chain[0]) < valid_until(&loaded.roots[0]));
        }
        let mixed = load_node_files(&ca(&new), &Files::of_node(old.path(), NodeId(1)), NodeId(1));
        assert!(matches!(mixed, Err(TrustError::WrongCa { .. })), "{mixed:?}");
        let (stranger, _) = cluster();
        std::fs::write(&both, text(ca(&new)) + &text(ca(&stranger))).unwrap();
        let mixed = load_node_files(&both, &Files::of_node(new.path(), NodeId(1)), NodeId(1));
        assert!(
            matches!(mixed, Err(TrustError::MixedClusters { .. })),
            "{mixed:?}"
        );
    }

    #[test]
    fn missing_files_name_the_command_that_makes_them() {
        let (directory, _) = cluster();
        let text = load_node(directory.path(), NodeId(1)).unwrap_err().to_string();
        assert!(
            text.contains("node-1.crt is missing") && text.contains("`flotilla cert node`"),
            "{text}"
        );
        let empty = tempfile::tempdir().unwrap();
        let text = create_client(empty.path(), "a", LEAF_LIFETIME)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("ca.crt is missing") && text.contains("`flotilla cert ca`"),
            "{text}"
        );
    }

    #[test]
    fn damaged_files_are_told_apart() {
        let (directory, _) = cluster();
        let files = node(directory.path(), 1);
        let other = node(directory.path(), 2);
        let load = || load_node(directory.path(), NodeId(1));
        let key = std::fs::read(&files.key).unwrap();
        std::fs::copy(&other.key, &files.key).unwrap();
        assert!(matches!(load(), Err(TrustError::KeyMismatch { .. })));
        std::fs::write(&files.key, "nonsense").unwrap();
        assert!(matches!(
            load(),
            Err(TrustError::NotPem {
                expected: "private key",
                ..
            })
        ));
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(&files.certificate, "nonsense").unwrap();
        assert!(matches!(
            load(),
            Err(TrustError::NotPem {
                expected: "certificate",
                ..
            })
        ));
    }

    #[test]
    fn a_certificate_of_another_node_is_refused() {
        let (directory, _) = cluster();
        let other = node(directory.path(), 2);
        let ca = Files::of_ca(directory.path()).certificate;
        let text = load_node_files(&ca, &other, NodeId(1)).unwrap_err().to_string();
        assert!(text.contains("made for node-2, not for node-1"), "{text}");
    }

    #[test]
    fn an_expired_certificate_is_called_expired() {
        let (directory, _) = cluster();
        let files = Files::of_node(directory.path(), NodeId(1));
        let usages = [ExtendedKeyUsagePurpose::ClientAuth];
        let expires = SystemTime::now() - Duration::from_secs(60);
        let leaf = Leaf {
            names: vec!["node-1".into()],
            usages: &usages,
            expires,
        };
        let made = issue(directory.path(), &files, &leaf);
        assert!(matches!(made, Err(TrustError::Expired(_))), "{made:?}");
        assert!(!files.key.exists(), "nothing is written");

        let ca_files = Files::of_ca(directory.path());
        let ca = read_certificates(&ca_files.certificate, "")
            .unwrap()
            .swap_remove(0);
        let (certificate, key) = sign(&ca_files, &ca, &leaf).unwrap();
        write_pair(directory.path(), &files, &certificate.pem(), &key).unwrap();
        let loaded = load_node(directory.path(), NodeId(1));
        assert!(matches!(loaded, Err(TrustError::Expired(_))), "{loaded:?}");
    }

    #[test]
    fn hosts_and_names_cannot_forge_an_identity() {
        let (directory, _) = cluster();
        for host in ["node-2", "client-x", "cluster-1", "", "*", "a b"] {
            let made = create_node(directory.path(), NodeId(1), &[host.to_owned()], LEAF_LIFETIME);
            assert!(matches!(made, Err(TrustError::BadHost(_))), "{host}");
        }
        for name in ["", "-a", "a-", "A", "a.b", &"x".repeat(CLIENT_NAME_MAX + 1)] {
            let made = create_client(directory.path(), name, LEAF_LIFETIME);
            assert!(matches!(made, Err(TrustError::BadClientName(_))), "{name}");
        }
        create_client(directory.path(), &"x".repeat(CLIENT_NAME_MAX), LEAF_LIFETIME).unwrap();
        let zero = create_node(directory.path(), NodeId(0), &[], LEAF_LIFETIME);
        assert!(matches!(zero, Err(TrustError::BadNodeId)));
    }
}
