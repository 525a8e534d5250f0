//! Finds an endpoint that answers: dials them one after another without waiting for each to give up.

use crate::error::ConnectError;
use crate::frames::Frames;
use crate::limits::{
    ACK_DELAY_MAX, DIAL_STAGGER, DIAL_TIMEOUT, IDLE_TIMEOUT, INITIAL_WINDOW, KEEP_ALIVE, PACKETS_PER_ACK,
    RECEIVE_WINDOW, SEND_WINDOW, SOCKET_BYTES, WRITE_BYTES_MAX,
};
use crate::protocol::{Call, Request, Response, SERVER_NAME};
use crate::tls::Tls;
use bytes::BytesMut;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A connection that has answered, with its one stream.
pub(crate) struct Link {
    pub(crate) connection: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    pub(crate) receive: quinn::RecvStream,
    pub(crate) frames: Frames,
}

/// Knows the endpoints and how to reach them.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) endpoints: Arc<[String]>,
    pub(crate) first: usize,
    sockets: Sockets,
    config: quinn::ClientConfig,
}

/// One local socket per address family.
#[derive(Clone)]
struct Sockets {
    v4: quinn::Endpoint,
    v6: Option<quinn::Endpoint>,
}

impl Dialer {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(endpoints: Arc<[String]>, first: usize, tls: &Tls) -> std::io::Result<Dialer> {
        let mut config = quinn::ClientConfig::new(tls.config());
        config.transport_config(Arc::new(transport()));
        let sockets = Sockets {
            v4: bind((Ipv4Addr::UNSPECIFIED, 0).into())?,
            v6: bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok(),
        };
        Ok(Dialer {
            endpoints,
            first,
            sockets,
            config,
        })
    }

    /// The first endpoint that answers, or what each of them had to say.
    pub(crate) async fn dial(&self) -> Result<Link, ConnectError> {
        let mut attempts = JoinSet::new();
        let count = self.endpoints.len();
        for i in 0..count {
            let (dialer, endpoint) = (self.clone(), self.endpoints[(self.first + i) % count].clone());
            attempts.spawn(async move {
                // pace: the next endpoint is tried only if the one before is slow.
                sleep(DIAL_STAGGER * i as u32).await;
                let outcome = timeout(DIAL_TIMEOUT, dialer.reach(&endpoint)).await;
                let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {DIAL_TIMEOUT:?}")));
                outcome.map_err(|why| (endpoint, why))
            });
        }
        let mut errors = Vec::new();
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => errors.push(error),
                Err(stopped) => errors.push(("dialing".to_string(), stopped.to_string())),
            }
        }
        errors.sort();
        Err(ConnectError(errors))
    }

    async fn reach(&self, endpoint: &str) -> Result<Link, String> {
        let addresses = tokio::net::lookup_host(endpoint)
            .await
            .map_err(|e| e.to_string())?;
        let mut last = "the name has no address".to_string();
        for address in addresses {
            match self.shake_hands(address).await {
                Ok(link) => return Ok(link),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn shake_hands(&self, address: SocketAddr) -> Result<Link, String> {
        let socket = match (&self.sockets.v6, address) {
            (_, SocketAddr::V4(_)) => &self.sockets.v4,
            (Some(v6), _) => v6,
            (None, _) => return Err("this host has no IPv6".to_string()),
        };
        let connecting = socket.connect_with(self.config.clone(), address, SERVER_NAME);
        let connection = connecting
            .map_err(|e| e.to_string())?
            .await
            .map_err(|e| explain(&e))?;
        let stream = connection.open_bi().await.map_err(|e| explain(&e))?;
        let mut link = Link {
            connection,
            send: stream.0,
            receive: stream.1,
            frames: Frames::default(),
        };
        ping(&mut link)
            .await
            .map_err(|why| match link.connection.close_reason() {
                Some(reason) => explain(&reason),
                None => why,
            })?;
        Ok(link)
    }
}

/// A handshake is complete for us before the node has seen our certificate; only an answer proves it took it.
async fn ping(link: &mut Link) -> Result<(), String> {
    let mut out = BytesMut::new();
    let timeout_ms = DIAL_TIMEOUT.as_millis() as u32;
    Call {
        timeout_ms,
        request: Request::Ping,
    }
    .encode_frame(0, &mut out);
    link.send.write_all(&out).await.map_err(|e| e.to_string())?;
    loop {
        let chunk = link
            .receive
            .read_chunk(WRITE_BYTES_MAX, true)
            .await
            .map_err(|e| e.to_string())?;
        let chunk = chunk.ok_or("the node closed the stream")?;
        link.frames.push(&chunk.bytes);
        if let Some((_, payload)) = link.frames.next().map_err(|e| e.to_string())? {
            return match Response::decode(&payload) {
                Ok(Response::Done) => Ok(()),
                Ok(other) => Err(format!("answered {other:?}")),
                Err(malformed) => Err(malformed.to_string()),
            };
        }
    }
}

fn explain(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::TimedOut => "no answer: is a node running there?".to_string(),
        other => other.to_string(),
    }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut ack_frequency = quinn::AckFrequencyConfig::default();
    ack_frequency
        .ack_eliciting_threshold(PACKETS_PER_ACK.into())
        .max_ack_delay(Some(ACK_DELAY_MAX));
    let idle = Duration::try_into(IDLE_TIMEOUT).expect("the idle timeout fits into a QUIC integer");
    transport
        .max_concurrent_bidi_streams(0u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(RECEIVE_WINDOW.into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(SEND_WINDOW.into())
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .ack_frequency_config(Some(ack_frequency))
        .congestion_controller_factory(Arc::new(congestion))
        .initial_rtt(Duration::from_millis(25))
        .initial_mtu(1452);
    transport
}

fn bind(address: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // Larger buffers only save packets; the kernel may grant less.
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.bind(&address.into())?;
    let runtime = quinn::default_runtime().ok_or_else(|| std::io::Error::other("no tokio runtime"))?;
    quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket.into(), runtime)
}
