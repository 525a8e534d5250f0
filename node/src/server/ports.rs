//! Listening sockets, taken before anything else starts: a taken port is one clear line.

use crate::exit::{Code, Failure};
use crate::options::ListenOptions;
use std::net::{SocketAddr, TcpListener};
use transport_quic::StartError;

/// The TCP listeners of a node.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) resp: TcpListener,
    pub(super) http: TcpListener,
}

impl Listeners {
    /// Takes both ports.
    pub(super) fn bind(listen: &ListenOptions) -> Result<Listeners, Failure> {
        Ok(Listeners {
            resp: bind(listen.resp, "resp")?,
            http: bind(listen.http, "http")?,
        })
    }
}

fn bind(address: SocketAddr, option: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| taken(address, "tcp", option, &error))
}

fn taken(address: SocketAddr, protocol: &str, option: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        Code::Port,
        format!("cannot listen on {address}/{protocol}: {error}"),
    )
    .hint(format!(
        "stop the process that uses the port, or choose another (--listen-{option}; for `dev`: --{option}-port)"
    ))
}

/// A transport that did not start.
pub(super) fn transport_failure(error: StartError) -> Failure {
    match error {
        StartError::Listen { address, source } => taken(address, "udp", "quic", &source),
        StartError::NotANode(_) | StartError::Tls(_) => Failure::new(Code::Configuration, error.to_string()),
    }
}
