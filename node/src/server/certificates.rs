//! Certificates of a running node: puts new ones to use, and tells metrics and log when they end. Reading and checking
//! files is `trust`'s business, renewing links the transport's.

use crate::exit::Failure;
use crate::metrics::Metrics;
use crate::trust::valid_until;
use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transport_quic::{Credentials, Transport};

/// The log warns when a certificate ends within this time.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Uses what was read, unless it could not be read or used: then everything stays as it was.
pub(super) fn reload(transport: &Transport, metrics: &Metrics, read: Result<Credentials, Failure>) {
    let used = read
        .map_err(|failure| failure.to_string())
        .and_then(|credentials| {
            transport.renew(&credentials).map_err(|error| error.to_string())?;
            Ok(credentials)
        });
    match used {
        Ok(credentials) => {
            metrics.tls.reloads_ok.inc();
            note_expiry(metrics, &credentials);
            tracing::info!("the certificates were read again; links are dialed anew with them");
        }
        Err(error) => {
            metrics.tls.reloads_failed.inc();
            tracing::error!(%error, "the certificates could not be read again; the old ones stay in use");
        }
    }
}

/// Tells until when the certificates are valid.
pub(super) fn note_expiry(metrics: &Metrics, credentials: &Credentials) {
    let tls = &metrics.tls;
    let own = [
        (&credentials.chain, &tls.node_expiry, "node"),
        (&credentials.roots, &tls.ca_expiry, "ca"),
    ];
    for (certificates, gauge, which) in own {
        let Some(until) = earliest(certificates) else {
            continue;
        };
        let seconds = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        if left < SOON {
            let days = left.as_secs() / (24 * 3600);
            tracing::warn!(
                certificate = which,
                days,
                "a certificate expires soon: replace it and send SIGHUP"
            );
        }
    }
}

fn earliest(certificates: &[CertificateDer<'_>]) -> Option<SystemTime> {
    certificates.iter().filter_map(valid_until).min()
}
