//! The first words on a connection between nodes, and the headers of their streams.
//!
//! Every stream between nodes begins with two bytes: [`STREAM_VERSION`] and a [`StreamKind`]. The dialer's
//! first bidirectional stream is the hello: header, then one message (u32 BE length, body); the other side
//! answers with its own hello on the same stream, and only then does the link count as up. A body is the wire
//! version (u16 BE) and, for version 1, a postcard [`Hello`]. Nothing else is accepted on the connection
//! before. A refusal closes the connection with a code and a reason; both sides log it.
//!
//! Reserved for what comes: `StreamKind::Bulk`, one unidirectional stream per snapshot. Today's nodes refuse
//! it.

use crate::framing::{Batch, FrameError, FrameReader, Stream};
use crate::identity::ClusterId;
use crate::limits::HELLO_BYTES_MAX;
use bytes::{Buf, Bytes};
use multiraft::NodeId;
use quinn::{ReadExactError, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of what nodes say to each other. A node speaks one; the next release that changes it will
/// speak two.
pub(crate) const WIRE_VERSION: u16 = 1;
/// The version of the stream header.
const STREAM_VERSION: u8 = 1;

/// What a stream between nodes carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StreamKind {
    /// Bidirectional, once, by the dialer.
    Hello = 1,
    /// Bidirectional, once per side, by the caller.
    Calls = 2,
    /// Unidirectional, once per side.
    Control = 3,
    /// Unidirectional, once per side.
    Entries = 4,
    /// Reserved: unidirectional, one per snapshot.
    Bulk = 5,
}

impl StreamKind {
    /// The two bytes a stream of this kind begins with.
    pub(crate) fn header(self) -> [u8; 2] {
        [STREAM_VERSION, self as u8]
    }

    fn parse([version, kind]: [u8; 2]) -> Result<StreamKind, HelloError> {
        if version != STREAM_VERSION {
            return Err(HelloError::StreamVersion(version));
        }
        match kind {
            1 => Ok(StreamKind::Hello),
            2 => Ok(StreamKind::Calls),
            3 => Ok(StreamKind::Control),
            4 => Ok(StreamKind::Entries),
            5 => Ok(StreamKind::Bulk),
            unknown => Err(HelloError::StreamKind(unknown)),
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    cluster: [u8; 16],
    from: u64,
    to: u64,
    /// The speaker's incarnation.
    pub(crate) incarnation: u64,
}

/// Why a greeting failed.
#[derive(Debug, Error)]
pub(crate) enum HelloError {
    #[error("a stream header of version {0}, this node speaks {STREAM_VERSION}")]
    StreamVersion(u8),
    #[error("a stream of unknown kind {0}")]
    StreamKind(u8),
    #[error("a stream of kind {0:?} where it does not belong")]
    Unexpected(StreamKind),
    #[error("wire version {0}, this node speaks {WIRE_VERSION}")]
    WireVersion(u16),
    #[error("an unreadable hello")]
    Garbled,
    #[error("a hello for cluster {0}, this is cluster {1}")]
    WrongCluster(ClusterId, ClusterId),
    #[error("node {0} in the hello, node {1} in the certificate")]
    WrongNode(u64, u64),
    #[error("a hello for node {0}, this is node {1}")]
    WrongReceiver(u64, u64),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the stream ended early: {0}")]
    Header(#[from] ReadExactError),
    #[error("the hello could not be sent: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
}

impl HelloError {
    /// True when the other side broke the protocol, false when it is merely gone.
    pub(crate) fn is_violation(&self) -> bool {
        match self {
            HelloError::Header(_) | HelloError::Write(_) | HelloError::Connection(_) => false,
            HelloError::Frame(error) => error.is_violation(),
            _ => true,
        }
    }
}

impl Hello {
    pub(crate) fn new(cluster: ClusterId, from: NodeId, to: NodeId, incarnation: u64) -> Hello {
        Hello {
            cluster: cluster.0,
            from: from.0,
            to: to.0,
            incarnation,
        }
    }

    /// Checks that the hello comes from `from`, as its certificate says, and is meant for `to` of `cluster`.
    pub(crate) fn check(&self, cluster: ClusterId, from: NodeId, to: NodeId) -> Result<(), HelloError> {
        let theirs = ClusterId(self.cluster);
        if theirs != cluster {
            Err(HelloError::WrongCluster(theirs, cluster))
        } else if self.from != from.0 {
            Err(HelloError::WrongNode(self.from, from.0))
        } else if self.to != to.0 {
            Err(HelloError::WrongReceiver(self.to, to.0))
        } else {
            Ok(())
        }
    }

    fn encode(&self) -> Bytes {
        let body = WIRE_VERSION.to_be_bytes().to_vec();
        let body = postcard::to_extend(self, body).expect("a hello of fixed fields is encodable");
        Bytes::from(body)
    }

    fn decode(mut body: Bytes) -> Result<Hello, HelloError> {
        let version = body.try_get_u16().map_err(|_| HelloError::Garbled)?;
        if version != WIRE_VERSION {
            return Err(HelloError::WireVersion(version));
        }
        postcard::from_bytes(&body).map_err(|_| HelloError::Garbled)
    }
}

/// Gives a stream its priority, before anything is written to it.
pub(crate) fn prioritized(stream: SendStream, priority: i32) -> Stream {
    // Fails only on a stream that is closed, which the first write then reports.
    let _ = stream.set_priority(priority);
    Stream::new(stream)
}

/// Begins a stream.
pub(crate) async fn begin(stream: SendStream, kind: StreamKind, priority: i32) -> Result<Stream, HelloError> {
    let mut stream = prioritized(stream, priority);
    stream.write_all(&kind.header()).await?;
    Ok(stream)
}

/// Reads how a stream begins.
pub(crate) async fn read_kind(stream: &mut RecvStream) -> Result<StreamKind, HelloError> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).await?;
    StreamKind::parse(header)
}

/// Says hello on a stream, and nothing after it.
pub(crate) async fn say(hello: &Hello, mut stream: Stream) -> Result<(), HelloError> {
    let body = hello.encode();
    let mut batch = Batch::default();
    batch.begin(body.len());
    batch.put(body);
    batch.write(&mut stream).await?;
    stream.finish();
    Ok(())
}

/// Hears the other side's hello.
pub(crate) async fn hear(stream: RecvStream) -> Result<Hello, HelloError> {
    let mut reader = FrameReader::new(stream, 2..=HELLO_BYTES_MAX);
    let body = reader.next().await?.ok_or(FrameError::Truncated)?;
    Hello::decode(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([9; 16]);

    fn hello() -> Hello {
        Hello::new(CLUSTER, NodeId(1), NodeId(2), 7)
    }

    #[test]
    fn a_hello_survives_the_wire_and_is_checked_field_by_field() {
        let heard = Hello::decode(hello().encode()).unwrap();
        assert_eq!(heard, hello());
        assert!(heard.check(CLUSTER, NodeId(1), NodeId(2)).is_ok());
        let other = ClusterId([8; 16]);
        assert!(matches!(
            heard.check(other, NodeId(1), NodeId(2)),
            Err(HelloError::WrongCluster(..))
        ));
        assert!(matches!(
            heard.check(CLUSTER, NodeId(3), NodeId(2)),
            Err(HelloError::WrongNode(1, 3))
        ));
        assert!(matches!(
            heard.check(CLUSTER, NodeId(1), NodeId(3)),
            Err(HelloError::WrongReceiver(2, 3))
        ));
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        let mut newer = hello().encode().to_vec();
        newer[1] = 2;
        assert!(matches!(
            Hello::decode(newer.into()),
            Err(HelloError::WireVersion(2))
        ));
        assert!(matches!(
            Hello::decode(Bytes::from_static(&[0])),
            Err(HelloError::Garbled)
        ));
        assert!(matches!(
            Hello::decode(Bytes::from_static(&[0, 1, 5])),
            Err(HelloError::Garbled)
        ));
    }

    #[test]
    fn every_kind_of_stream_has_a_header() {
        use StreamKind as K;
        for kind in [K::Hello, K::Calls, K::Control, K::Entries, K::Bulk] {
            assert_eq!(K::parse(kind.header()).unwrap(), kind);
        }
        assert!(matches!(K::parse([1, 6]), Err(HelloError::StreamKind(6))));
        assert!(matches!(K::parse([2, 1]), Err(HelloError::StreamVersion(2))));
    }
}
