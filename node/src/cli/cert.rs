//! `flotilla cert`: certificates of a cluster, its nodes and clients.

use super::output::{self, Format, json_list};
use crate::exit::{Code, Failure};
use crate::trust::{self, Files, TrustError};
use clap::{Args, Subcommand};
use multiraft::NodeId;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use transport_quic::ClusterId;

#[derive(Debug, Subcommand)]
pub(super) enum CertCommand {
    /// Make a CA: a new cluster. Its key makes the other certificates; keep it away from the nodes.
    Ca {
        /// Make one more CA for this cluster instead, to take the place of the old one (32 hex digits).
        #[arg(long, value_name = "ID")]
        cluster: Option<ClusterId>,
        #[command(flatten)]
        place: Place,
    },
    /// Make the certificate of a node, in the CA's directory.
    Node {
        /// The node's id.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// A name or address of the node's host, for clients that check it; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        life: Life,
        #[command(flatten)]
        place: Place,
    },
    /// Make the certificate of a client, in the CA's directory.
    Client {
        /// The client's name.
        #[arg(long, default_value = "cli", value_name = "NAME")]
        name: String,
        #[command(flatten)]
        life: Life,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// Where the CA's files are and the new ones go.
    #[arg(long, default_value = "./certs", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Life {
    /// How long the certificate is valid.
    #[arg(long, default_value_t = trust::LEAF_LIFETIME.as_secs() / SECONDS_PER_DAY, value_name = "DAYS",
          value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
}

const SECONDS_PER_DAY: u64 = 24 * 3600;

impl Life {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.days * SECONDS_PER_DAY)
    }
}

pub(super) fn run(command: CertCommand, output: Format) -> Result<(), Failure> {
    let (whom, files) = match command {
        CertCommand::Ca { cluster, place } => {
            let made = match cluster {
                None => trust::create_ca(&place.dir),
                Some(cluster) => trust::create_ca_of(&place.dir, cluster).map(|()| cluster),
            };
            let cluster = made.map_err(failure)?;
            (format!("cluster {cluster}"), Files::of_ca(&place.dir))
        }
        CertCommand::Node {
            id,
            hosts,
            life,
            place,
        } => {
            let files =
                trust::create_node(&place.dir, NodeId(id), &hosts, life.duration()).map_err(failure)?;
            (format!("node {id}"), files)
        }
        CertCommand::Client { name, life, place } => {
            let files = trust::create_client(&place.dir, &name, life.duration()).map_err(failure)?;
            (format!("client {name}"), files)
        }
    };
    output::print(&render(&whom, &files, output));
    Ok(())
}

fn render(whom: &str, files: &Files, output: Format) -> String {
    let (certificate, key) = (
        files.certificate.display().to_string(),
        files.key.display().to_string(),
    );
    match output {
        Format::Table => format!("made {certificate} and {key} for {whom}"),
        Format::Json => json_list(
            "CertificateList",
            vec![json!({ "for": whom, "certificate": certificate, "key": key })],
        ),
    }
}

fn failure(error: TrustError) -> Failure {
    let code = match &error {
        TrustError::Missing { .. } => Code::NotFound,
        TrustError::Exists(_) => Code::Conflict,
        _ => Code::Failed,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_named() {
        let files = Files::of_node("c".as_ref(), NodeId(2));
        assert_eq!(
            render("node 2", &files, Format::Table),
            "made c/node-2.crt and c/node-2.key for node 2"
        );
        assert_eq!(
            render("node 2", &files, Format::Json),
            r#"{"apiVersion":"v1","items":[{"certificate":"c/node-2.crt","for":"node 2","key":"c/node-2.key"}],"kind":"CertificateList"}"#
        );
    }
}
