//! The first words on a connection between nodes, and the headers of their streams.
//!
//! Every stream between nodes begins with two bytes: [`STREAM_VERSION`] and a [`StreamKind`]. The dialer's
//! first bidirectional stream is the hello: header, then one message (u32 BE length, body); the other side
//! answers with its own hello on the same stream, and only then does the link count as up. Nothing else is
//! accepted on the connection before. A refusal closes the connection with a code and a reason; both sides log
//! it.
//!
//! A body is the lowest and the highest wire version its speaker speaks (u16 BE each) and a postcard [`Hello`].
//! The four bytes of the versions never change; the two nodes speak the highest version that both know, and
//! refuse each other by name when there is none. Fields may be added behind the last one: who does not know
//! them does not read them.

use crate::framing::{Batch, FrameError, FrameReader, Stream};
use crate::identity::ClusterId;
use crate::limits::HELLO_BYTES_MAX;
use bytes::{Buf, Bytes};
use multiraft::NodeId;
use quinn::{ReadExactError, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The versions of what nodes say to each other that this node speaks. A release that changes it speaks two, so
/// that nodes can be upgraded one by one.
pub(crate) const WIRE_VERSIONS: WireVersions = WireVersions { min: 2, max: 2 };
/// The version of the stream header.
const STREAM_VERSION: u8 = 1;

/// The wire versions a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireVersions {
    min: u16,
    max: u16,
}

impl WireVersions {
    /// The version two nodes speak: the highest that both know.
    fn agree(self, theirs: WireVersions) -> Result<u16, HelloError> {
        let highest = self.max.min(theirs.max);
        if theirs.min <= theirs.max && highest >= self.min.max(theirs.min) {
            Ok(highest)
        } else {
            Err(HelloError::WireVersion(theirs, self))
        }
    }
}

impl fmt::Display for WireVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WireVersions { min, max } if min == max => write!(f, "version {min}"),
            WireVersions { min, max } => write!(f, "versions {min} to {max}"),
        }
    }
}

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
    /// Bidirectional, one per transfer, by the sender, on a connection of their own.
    Bulk = 5,
    /// Unidirectional and empty: the other side is asked to dial anew, for it dialed.
    Redial = 6,
}

impl StreamKind {
    /// The two bytes a stream of this kind begins with.
    pub(crate) fn header(self) -> [u8; 2] {
        [STREAM_VERSION, self as u8]
    }

    pub(crate) fn parse([version, kind]: [u8; 2]) -> Result<StreamKind, HelloError> {
        if version != STREAM_VERSION {
            return Err(HelloError::StreamVersion(version));
        }
        match kind {
            1 => Ok(StreamKind::Hello),
            2 => Ok(StreamKind::Calls),
            3 => Ok(StreamKind::Control),
            4 => Ok(StreamKind::Entries),
            5 => Ok(StreamKind::Bulk),
            6 => Ok(StreamKind::Redial),
            unknown => Err(HelloError::StreamKind(unknown)),
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Lanes and calls, both ways.
    Link,
    /// Bulk streams of the dialer.
    Bulk,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    cluster: [u8; 16],
    from: u64,
    to: u64,
    /// The speaker's incarnation.
    pub(crate) incarnation: u64,
    /// Random, one per process: tells apart two processes that claim the same incarnation.
    pub(crate) process: u64,
    /// What the connection is for: the dialer decides.
    pub(crate) purpose: Purpose,
}

/// A hello that was heard, and the wire version agreed on.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) hello: Hello,
    pub(crate) wire: u16,
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
    #[error("the peer speaks wire {0}, this node {1}: upgrade the older of the two")]
    WireVersion(WireVersions, WireVersions),
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
    pub(crate) fn new(us: &Identity, to: NodeId, purpose: Purpose) -> Hello {
        Hello {
            cluster: us.cluster.0,
            from: us.node.0,
            to: to.0,
            incarnation: us.incarnation,
            process: us.process,
            purpose,
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

    pub(crate) fn encode(&self, versions: WireVersions) -> Bytes {
        let body = [versions.min.to_be_bytes(), versions.max.to_be_bytes()].concat();
        let body = postcard::to_extend(self, body).expect("a hello of fixed fields is encodable");
        Bytes::from(body)
    }

    pub(crate) fn decode(mut body: Bytes) -> Result<Heard, HelloError> {
        let mut version = || body.try_get_u16().map_err(|_| HelloError::Garbled);
        let (min, max) = (version()?, version()?);
        let wire = WIRE_VERSIONS.agree(WireVersions { min, max })?;
        let hello = postcard::from_bytes(&body).map_err(|_| HelloError::Garbled)?;
        Ok(Heard { hello, wire })
    }
}

/// Who this process is, as it tells every peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) process: u64,
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
    let body = hello.encode(WIRE_VERSIONS);
    let mut batch = Batch::default();
    batch.begin(body.len());
    batch.put(body);
    batch.write(&mut stream).await?;
    stream.finish();
    Ok(())
}

/// Hears the other side's hello.
pub(crate) async fn hear(stream: RecvStream) -> Result<Heard, HelloError> {
    let mut reader = FrameReader::new(stream, 4..=HELLO_BYTES_MAX);
    let body = reader.next().await?.ok_or(FrameError::Truncated)?;
    Hello::decode(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([9; 16]);

    fn hello() -> Hello {
        let us = Identity {
            cluster: CLUSTER,
            node: NodeId(1),
            incarnation: 7,
            process: 99,
        };
        Hello::new(&us, NodeId(2), Purpose::Bulk)
    }

    fn versions(min: u16, max: u16) -> WireVersions {
        WireVersions { min, max }
    }

    #[test]
    fn a_hello_survives_the_wire_and_is_checked_field_by_field() {
        let Heard { hello: heard, wire } = Hello::decode(hello().encode(WIRE_VERSIONS)).unwrap();
        assert_eq!((&heard, wire), (&hello(), WIRE_VERSIONS.max));
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
    fn the_highest_version_that_both_speak_is_agreed_on_or_none() {
        let ours = versions(3, 5);
        for (theirs, agreed) in [((5, 9), 5), ((1, 3), 3), ((1, 9), 5), ((4, 4), 4), ((3, 5), 5)] {
            assert_eq!(
                ours.agree(versions(theirs.0, theirs.1)).unwrap(),
                agreed,
                "{theirs:?}"
            );
        }
        for (min, max) in [(1, 2), (6, 9), (5, 4)] {
            assert!(ours.agree(versions(min, max)).is_err(), "{min} to {max}");
        }
        let text = ours.agree(versions(6, 9)).unwrap_err().to_string();
        assert!(
            text.contains("the peer speaks wire versions 6 to 9, this node versions 3 to 5"),
            "{text}"
        );
    }

    #[test]
    fn another_version_is_told_apart_from_garbage_and_more_fields_are_not_read() {
        let newer = hello().encode(versions(3, 4));
        assert!(matches!(Hello::decode(newer), Err(HelloError::WireVersion(..))));
        for garbage in [&[0][..], &[0, 2, 0, 2, 5], &[0, 1, 0]] {
            let heard = Hello::decode(Bytes::copy_from_slice(garbage));
            assert!(matches!(heard, Err(HelloError::Garbled)), "{heard:?}");
        }
        let longer = [&hello().encode(versions(1, 9))[..], b"a field of tomorrow"].concat();
        assert_eq!(Hello::decode(longer.into()).unwrap().hello, hello());
    }

    #[test]
    fn every_kind_of_stream_has_a_header() {
        use StreamKind as K;
        for kind in [K::Hello, K::Calls, K::Control, K::Entries, K::Bulk, K::Redial] {
            assert_eq!(K::parse(kind.header()).unwrap(), kind);
        }
        assert!(matches!(K::parse([1, 7]), Err(HelloError::StreamKind(7))));
        assert!(matches!(K::parse([2, 1]), Err(HelloError::StreamVersion(2))));
    }
}
