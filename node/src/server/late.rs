//! Sinks that the network needs before what they lead to exists: until then a request is refused or dropped.
//! And the small translations between this crate's options and what the parts want.

use crate::exit::{Code, Failure};
use crate::gateway::native::Native;
use crate::gateway::resp::{RespCounters, RespOptions};
use crate::options::NodeOptions;
use crate::requests::{Requests, refusal};
use bytes::Bytes;
use multiraft::{NodeId, Refusal};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use transport_quic::{CallSink, Client, ClientSink, Reply};

/// Requests that other nodes forward.
#[derive(Default)]
pub(super) struct Calls(OnceLock<Requests>);

impl Calls {
    /// From now on they are served.
    pub(super) fn set(&self, requests: Requests) {
        assert!(self.0.set(requests).is_ok(), "set once");
    }
}

impl CallSink for Calls {
    fn call(&self, _from: NodeId, payload: Bytes, reply: Reply) {
        match self.0.get() {
            Some(requests) => requests.serve(payload, Box::new(move |answer| reply.send(answer))),
            None => reply.send(refusal(Refusal::NotLeader(None))),
        }
    }
}

/// Requests of native clients.
#[derive(Default)]
pub(super) struct Clients(OnceLock<Native<Reply>>);

impl Clients {
    /// From now on they are served.
    pub(super) fn set(&self, native: Native<Reply>) {
        assert!(self.0.set(native).is_ok(), "set once");
    }
}

impl ClientSink for Clients {
    fn call(&self, client: &Arc<Client>, payload: Bytes, reply: Reply) {
        if let Some(native) = self.0.get() {
            ClientSink::call(native, client, payload, reply);
        }
    }
}

/// What the Redis gateway is told.
pub(super) fn resp_options(options: &NodeOptions, counters: &Arc<RespCounters>) -> RespOptions {
    RespOptions {
        password: options.resp.password.clone(),
        allow_flush: options.resp.allow_flush,
        key_bytes_max: options.limits.key_bytes_max,
        value_bytes_max: options.limits.value_bytes_max,
        clients_max: options.resp.connections_max,
        request_timeout: options.limits.request_timeout,
        counters: counters.clone(),
        ..RespOptions::default()
    }
}

/// The secret of the node's QUIC endpoint: made at the first start, kept beside the node file.
pub(super) fn secret(directory: &Path) -> Result<[u8; 32], Failure> {
    let path = directory.join("quic.secret");
    let failed =
        |error: std::io::Error| Failure::new(Code::WriteFailed, format!("{}: {error}", path.display()));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            Failure::new(
                Code::Corruption,
                format!("{} does not hold 32 bytes", path.display()),
            )
            .hint("remove it: a new one is made, and peers notice this node's restart a little later")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            provider
                .secure_random
                .fill(&mut secret)
                .map_err(|_| Failure::new(Code::Failed, "the system has no random numbers"))?;
            let mut file = OpenOptions::new();
            let mut file = file
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            file.write_all(&secret).map_err(failed)?;
            Ok(secret)
        }
        Err(error) => Err(failed(error)),
    }
}
