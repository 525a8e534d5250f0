//! Builds the endpoint: socket, keys, TLS and QUIC settings. Decides nothing at run time.

use crate::congestion::Floored;
use crate::identity::Credentials;
use crate::limits::{
    ACK_DELAY_MAX, BIDI_STREAMS_MAX, HANDSHAKES_MAX, IDLE_TIMEOUT, INCOMING_BYTES_MAX, INCOMING_BYTES_TOTAL,
    INITIAL_RTT, INITIAL_WINDOW, KEEP_ALIVE, PACKETS_PER_ACK, SEND_WINDOW, SOCKET_BYTES, STREAM_WINDOW,
    UNI_STREAMS_MAX,
};
use crate::transport::{Config, Congestion, Options, StartError};
use aws_lc_rs::hmac;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig as TlsServer};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// ALPN of connections between nodes.
pub const ALPN_PEER: &[u8] = b"flotilla-peer/1";
/// ALPN of clients' connections.
pub const ALPN_CLIENT: &[u8] = b"flotilla/1";

/// The UDP payload that fits Ethernet; discovery finds out whether the path carries it.
const MTU_UPPER: u16 = 1452;

/// Binds the socket and starts the endpoint on the current runtime.
pub(crate) fn endpoint(config: &Config) -> Result<Endpoint, StartError> {
    let server = accepting(&config.credentials, &config.options)?;
    let listen = |source| StartError::Listen {
        address: config.listen,
        source,
    };
    let socket = socket(config.listen).map_err(listen)?;
    let keys = endpoint_config(&config.secret);
    Endpoint::new(keys, Some(server), socket, Arc::new(TokioRuntime)).map_err(listen)
}

/// How we dial other nodes. Session resumption is off: a resumed session does not check certificates again.
pub(crate) fn dialing(credentials: &Credentials, options: &Options) -> Result<ClientConfig, StartError> {
    let builder = rustls::ClientConfig::builder_with_provider(crypto()).with_protocol_versions(&[&TLS13]);
    let builder = builder.map_err(tls)?.with_root_certificates(roots(credentials)?);
    let key = credentials.key.clone_key();
    let mut tls_config = builder
        .with_client_auth_cert(credentials.chain.clone(), key)
        .map_err(tls)?;
    tls_config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    tls_config.resumption = Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls_config).map_err(tls)?));
    config.transport_config(Arc::new(transport(options.congestion)));
    Ok(config)
}

/// How others may connect to us. No session can be resumed here either.
pub(crate) fn accepting(credentials: &Credentials, options: &Options) -> Result<ServerConfig, StartError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(credentials)?), crypto()).build();
    let builder = TlsServer::builder_with_provider(crypto()).with_protocol_versions(&[&TLS13]);
    let builder = builder
        .map_err(tls)?
        .with_client_cert_verifier(verifier.map_err(tls)?);
    let key = credentials.key.clone_key();
    let mut tls_config = builder
        .with_single_cert(credentials.chain.clone(), key)
        .map_err(tls)?;
    tls_config.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_CLIENT.to_vec()];
    tls_config.session_storage = Arc::new(NoServerSessionStorage {});
    tls_config.send_tls13_tickets = 0;
    let mut config =
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls_config).map_err(tls)?));
    config.transport_config(Arc::new(transport(options.congestion)));
    config.migration(false).max_incoming(HANDSHAKES_MAX);
    config
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

fn roots(credentials: &Credentials) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for root in &credentials.roots {
        roots.add(root.clone()).map_err(tls)?;
    }
    Ok(roots)
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn tls(error: impl std::fmt::Display) -> StartError {
    StartError::Tls(error.to_string())
}

/// The connection-wide receive window stays unlimited: streams are few and bounded, and a stream that nobody
/// reads would otherwise block the lanes. Fairness stays on, because switching it off breaks priorities.
fn transport(congestion: Congestion) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_UPPER);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(BIDI_STREAMS_MAX.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW)
        .send_fairness(true)
        .max_idle_timeout(Some(
            IdleTimeout::try_from(IDLE_TIMEOUT).expect("seconds fit a varint"),
        ))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(ack_frequency()))
        .datagram_receive_buffer_size(None);
    config.congestion_controller_factory(factory(congestion));
    config
}

fn factory(congestion: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    match congestion {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(INITIAL_WINDOW);
            Arc::new(Floored(Arc::new(cubic)))
        }
        Congestion::Bbr => {
            let mut bbr = BbrConfig::default();
            bbr.initial_window(INITIAL_WINDOW);
            Arc::new(Floored(Arc::new(bbr)))
        }
    }
}

/// Without it every second packet is acknowledged, which costs as many datagrams as a request and its answer.
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(PACKETS_PER_ACK.into())
        .max_ack_delay(Some(ACK_DELAY_MAX));
    config
}

/// Keys that survive a restart: with them our next process answers packets of the last one with a reset, and
/// peers redial at once instead of after the idle timeout. Both are needed: packets with foreign ids are not
/// even looked at.
fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let reset_key = derive(secret, b"flotilla reset key");
    let cid_key = derive(secret, b"flotilla connection id key");
    let cid_key = u64::from_be_bytes(cid_key.as_ref()[..8].try_into().expect("eight bytes"));
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    config
}

/// A number that no other process has.
pub(crate) fn random_number() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| tls("the system has no random numbers"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn derive(secret: &[u8; 32], purpose: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), purpose)
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    warn_if_small(&socket)?;
    Ok(socket.into())
}

/// The kernel cuts what we ask for to its own limit without a word. It reports twice what it grants.
fn warn_if_small(socket: &Socket) -> io::Result<()> {
    let (receive, send) = (socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2);
    if receive < SOCKET_BYTES || send < SOCKET_BYTES {
        tracing::info!(
            receive,
            send,
            wanted = SOCKET_BYTES,
            "small UDP socket buffers: packets may be lost under load; raise net.core.rmem_max and wmem_max"
        );
    }
    Ok(())
}
