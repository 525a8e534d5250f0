//! Mutual TLS of the client: whom it trusts and how it proves who it is.

use crate::protocol::ALPN;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Why the certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the kind that is needed.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The pieces do not fit together.
    #[error("certificates: {0}")]
    Unusable(#[from] rustls::Error),
    /// The CA cannot be used for QUIC.
    #[error("certificates: no cipher suite for QUIC")]
    NoSuite,
}

/// The cluster's CA, and the certificate and key of this client.
#[derive(Clone)]
pub struct Tls {
    config: Arc<quinn::crypto::rustls::QuicClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads PEM files.
    pub fn from_files(ca: &Path, cert: &Path, key: &Path) -> Result<Tls, TlsError> {
        let wrong = |path: &Path, error: rustls::pki_types::pem::Error| TlsError::File {
            path: path.to_path_buf(),
            why: error.to_string(),
        };
        let roots = CertificateDer::pem_file_iter(ca)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| wrong(ca, e))?;
        if roots.is_empty() {
            return Err(wrong(ca, rustls::pki_types::pem::Error::NoItemsFound));
        }
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| wrong(cert, e))?;
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e))?;
        Tls::new(roots, chain, key_der)
    }

    /// Takes certificates as they are.
    pub fn from_der(
        ca: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Tls, TlsError> {
        Tls::new(vec![ca], chain, key)
    }

    /// Several CAs are trusted while one takes the place of another.
    fn new(
        trusted: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        trusted.into_iter().try_for_each(|root| roots.add(root))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let config =
            quinn::crypto::rustls::QuicClientConfig::try_from(config).map_err(|_| TlsError::NoSuite)?;
        Ok(Tls {
            config: Arc::new(config),
        })
    }

    pub(crate) fn config(&self) -> Arc<quinn::crypto::rustls::QuicClientConfig> {
        self.config.clone()
    }
}
