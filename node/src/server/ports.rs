//! Listening sockets, taken before anything else starts: a taken port is one clear line.

use crate::exit::{Code, Failure};
use crate::options::ListenOptions;
use std::io::ErrorKind;
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
    .hint(advice(option, error.kind()))
}

fn advice(option: &str, kind: ErrorKind) -> String {
    let flags = format!("(--listen-{option}; for `dev`: --{option}-port)");
    match kind {
        ErrorKind::AddrNotAvailable => {
            format!("this machine does not have that address; choose one of its own {flags}")
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 want privileges; choose a higher one {flags}")
        }
        _ => format!("stop the process that uses the port, or choose another {flags}"),
    }
}

/// A transport that did not start.
pub(super) fn transport_failure(error: StartError) -> Failure {
    match error {
        StartError::Listen { address, source } => taken(address, "udp", "quic", &source),
        StartError::NotANode(_) | StartError::Tls(_) => Failure::new(Code::Configuration, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_refusal() {
        let foreign = bind("192.0.2.1:6380".parse().unwrap(), "resp").unwrap_err();
        assert_eq!(foreign.code, Code::Port);
        assert!(foreign.hint.unwrap().contains("does not have that address"));
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = bind(held.local_addr().unwrap(), "http").unwrap_err();
        assert!(taken.hint.unwrap().contains("--http-port"));
    }
}
