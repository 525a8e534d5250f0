//! The native protocol, version 1: what clients and nodes say to each other. Framing and encoding, no I/O.
//!
//! A client opens one bidirectional stream (ALPN `flotilla/1`). Both sides send frames: length of what
//! follows in the frame, 8 + payload (u32, big endian), the client's number for the request (u64, big endian), payload.
//! Answers come in any order; one with an empty payload says that the node dropped the request. A payload is
//! the version byte and postcard. Variants and fields are only ever appended within a version.

use crate::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Names the protocol in the TLS handshake.
pub const ALPN: &[u8] = b"flotilla/1";
/// First byte of every payload.
pub const VERSION: u8 = 1;
/// The DNS name in every node's certificate, which a client demands.
pub const SERVER_NAME: &str = "flotilla-node";
/// Bytes before a payload.
pub const HEAD_BYTES: usize = 12;
/// Bytes of a request's number, which the length of a frame includes.
pub const NUMBER_BYTES: usize = 8;

/// Borrowed bytes, encoded as one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice<'a>(pub &'a [u8]);

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Slice<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Slice<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Slice<'de>, E> {
                Ok(Slice(bytes))
            }
        }
        deserializer.deserialize_bytes(Borrow)
    }
}

/// A request and how long the node may take for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Milliseconds until the client gives up.
    pub timeout_ms: u32,
    /// What it wants.
    #[serde(borrow)]
    pub request: Request<'a>,
}

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Answers `Done`. The first request on every connection.
    Ping,
    /// Linearizable. Answers `Value`.
    Get {
        /// The key.
        #[serde(borrow)]
        key: Slice<'a>,
    },
    /// Answers `Done`.
    Put {
        /// The key.
        key: Slice<'a>,
        /// Its new value.
        value: Slice<'a>,
    },
    /// Answers `Deleted`.
    Delete {
        /// The key.
        key: Slice<'a>,
    },
    /// One page of keys in order. Answers `Page`.
    Scan {
        /// First key, included.
        start: Slice<'a>,
        /// First key after it; None: to the end of the key space.
        end: Option<Slice<'a>>,
        /// Most rows in the page; the node may end it sooner.
        limit: u32,
        /// Send values too.
        values: bool,
    },
    /// Writes or deletes a key if it is as expected. Answers `Swapped` or `Mismatch`.
    Cas {
        /// The key.
        key: Slice<'a>,
        /// What must hold.
        expect: Expect<'a>,
        /// The new value; None deletes.
        value: Option<Slice<'a>>,
    },
    /// Puts and deletes all at once. All keys must share one `{tag}`. Answers `Done`.
    Batch {
        /// In this order.
        operations: Vec<Operation<'a>>,
    },
    /// Answers `Status`.
    Status,
    /// Answers `Ranges`.
    RangeLs,
    /// Answers `Nodes`.
    NodeLs,
    /// Who serves what. Answers `Routes`; cheap, asked again and again.
    Routes {
        /// Without them the answer only names the node.
        with_ranges: bool,
    },
}

impl Request<'_> {
    /// Whether it may change state: if its answer is lost, its outcome is unknown.
    pub fn is_write(&self) -> bool {
        match self {
            Request::Put { .. } | Request::Delete { .. } | Request::Cas { .. } | Request::Batch { .. } => {
                true
            }
            Request::Ping
            | Request::Get { .. }
            | Request::Scan { .. }
            | Request::Status
            | Request::RangeLs
            | Request::NodeLs
            | Request::Routes { .. } => false,
        }
    }
}

/// What `Cas` demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this version.
    Version(u64),
    /// The key has this value.
    Value(#[serde(borrow)] Slice<'a>),
}

/// One part of `Batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// Writes a value.
    Put(#[serde(borrow)] Slice<'a>, Slice<'a>),
    /// Removes a key.
    Delete(Slice<'a>),
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response<'a> {
    /// It was done.
    Done,
    /// What `Get` found; None: there is no such key.
    Value(#[serde(borrow)] Option<Versioned<'a>>),
    /// Whether there was such a key.
    Deleted(bool),
    /// Rows of a scan.
    Page {
        /// Keys in order, each with its value if values were asked for.
        rows: Vec<Row<'a>>,
        /// Where to go on; None: the end was reached.
        next: Option<Slice<'a>>,
    },
    /// `Cas` wrote; the key has this version now.
    Swapped(u64),
    /// `Cas` found something else, of this version; None: the key does not exist.
    Mismatch(Option<u64>),
    /// The cluster as this node sees it.
    Status(Status),
    /// All ranges in key order.
    Ranges(Vec<RangeRow>),
    /// All nodes by id.
    Nodes(Vec<NodeRow>),
    /// It was not done, or nobody knows.
    Rejected(Rejection),
    /// Who serves what.
    Routes(Routes),
}

/// A value and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<'a> {
    /// The value.
    #[serde(borrow)]
    pub value: Slice<'a>,
    /// Changes with every write to the key.
    pub version: u64,
}

/// A row of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row<'a> {
    /// The key.
    #[serde(borrow)]
    pub key: Slice<'a>,
    /// Its value, if asked for.
    pub value: Option<Slice<'a>>,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// It definitely had no effect and may be sent again.
    Refused(Reason),
    /// It may or may not have taken effect, or may yet.
    Unknown,
    /// It makes no sense to this node.
    BadRequest(String),
    /// The key is longer than this many bytes.
    KeyTooLarge(u64),
    /// The value is larger than this many bytes.
    ValueTooLarge(u64),
    /// The keys of a batch do not share one `{tag}`.
    CrossRange,
}

/// Why a request definitely had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The range has no leader that this node can reach.
    NoLeader,
    /// Too much is waiting already.
    Overloaded,
    /// The node is stopping.
    Stopping,
    /// The time ran out before it was proposed or evaluated.
    TimedOut,
    /// The key moved to another range meanwhile.
    Moved,
    /// Disk space is short: only what frees space is taken.
    NoSpace,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NoLeader => "the range has no reachable leader",
            Reason::Overloaded => "too many requests are waiting",
            Reason::Stopping => "the node is stopping",
            Reason::TimedOut => "the time ran out before anything was done",
            Reason::Moved => "the key moved to another range",
            Reason::NoSpace => "disk space is short: delete keys, or give the nodes more disk space",
        })
    }
}

/// The cluster in one screen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's id.
    pub cluster_id: String,
    /// The node that answers.
    pub node: u64,
    /// Its version.
    pub version: String,
    /// Whether it serves requests.
    pub ready: bool,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Nodes it can reach, itself included.
    pub nodes_live: u64,
    /// Ranges of the cluster.
    pub ranges: u64,
    /// Ranges with a leader, as far as it knows.
    pub ranges_led: u64,
    /// Ranges it leads itself.
    pub leads: u64,
    /// Seconds since it started.
    pub uptime_seconds: u64,
}

/// A range as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRow {
    /// Its id: the group's.
    pub id: u64,
    /// First key, included.
    pub start: Vec<u8>,
    /// First key after it; None: to the end of the key space.
    pub end: Option<Vec<u8>>,
    /// The node that leads it, if known.
    pub leader: Option<u64>,
    /// Nodes that vote.
    pub voters: Vec<u64>,
    /// The term this node knows.
    pub term: u64,
    /// The last index applied on this node.
    pub applied: u64,
    /// Bumped by every change of the range.
    pub generation: u64,
}

/// Who serves what, as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The node that answers.
    pub node: u64,
    /// In key order, without gaps; empty if not asked for.
    pub ranges: Vec<RouteRow>,
}

/// One range, as far as a router needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// First key, included.
    pub start: Vec<u8>,
    /// The node that leads it, if known.
    pub leader: Option<u64>,
}

/// A node as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its id.
    pub id: u64,
    /// `host:port` of its QUIC endpoint.
    pub address: String,
    /// Whether it can be reached.
    pub live: bool,
    /// Ranges with a replica there.
    pub replicas: u64,
    /// Ranges it leads, as far as the answering node knows.
    pub leads: u64,
}

/// Bytes that are not this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A length beyond the limit for its direction.
    TooLong(usize),
    /// A version this side does not speak.
    Version(u8),
    /// Anything else.
    Garbage,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::TooLong(length) => write!(f, "a payload of {length} bytes is over the limit"),
            Malformed::Version(version) => {
                write!(f, "protocol version {version}, this side speaks {VERSION}")
            }
            Malformed::Garbage => write!(f, "not a message of protocol version {VERSION}"),
        }
    }
}

impl std::error::Error for Malformed {}

impl<'a> Call<'a> {
    /// Reads a request's payload; trailing bytes are an error.
    pub fn decode(payload: &'a [u8]) -> Result<Call<'a>, Malformed> {
        decode(payload, REQUEST_BYTES_MAX)
    }

    /// Appends a whole frame.
    pub fn encode_frame(&self, number: u64, out: &mut BytesMut) {
        frame(self, number, out);
    }
}

impl<'a> Response<'a> {
    /// Reads a response's payload; trailing bytes are an error.
    pub fn decode(payload: &'a [u8]) -> Result<Response<'a>, Malformed> {
        decode(payload, RESPONSE_BYTES_MAX)
    }

    /// Appends a whole frame.
    pub fn encode_frame(&self, number: u64, out: &mut BytesMut) {
        frame(self, number, out);
    }

    /// The payload alone.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        payload(self, &mut out);
        out.freeze()
    }
}

fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8], most: usize) -> Result<T, Malformed> {
    if payload.len() > most {
        return Err(Malformed::TooLong(payload.len()));
    }
    match payload.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(Malformed::Garbage),
        },
        Some((&version, _)) => Err(Malformed::Version(version)),
        None => Err(Malformed::Garbage),
    }
}

fn frame<T: Serialize>(value: &T, number: u64, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32(0);
    out.put_u64(number);
    payload(value, out);
    let length =
        u32::try_from(out.len() - start - HEAD_BYTES + NUMBER_BYTES).expect("payloads are far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn payload<T: Serialize>(value: &T, out: &mut BytesMut) {
    out.put_u8(VERSION);
    postcard::serialize_with_flavor::<T, Append<'_>, ()>(value, Append(out))
        .expect("these types always encode");
}

/// Lets postcard append to a buffer, whole blocks at a time.
struct Append<'a>(&'a mut BytesMut);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request<'static>> {
        let (key, value) = (Slice(b"k"), Slice(b"\x00\xff"));
        vec![
            Request::Ping,
            Request::Get { key },
            Request::Put { key, value },
            Request::Delete { key },
            Request::Scan {
                start: key,
                end: Some(value),
                limit: 7,
                values: true,
            },
            Request::Cas {
                key,
                expect: Expect::Value(value),
                value: None,
            },
            Request::Cas {
                key,
                expect: Expect::Version(9),
                value: Some(value),
            },
            Request::Batch {
                operations: vec![Operation::Put(key, value), Operation::Delete(key)],
            },
            Request::Status,
            Request::RangeLs,
            Request::NodeLs,
            Request::Routes { with_ranges: true },
        ]
    }

    fn responses() -> Vec<Response<'static>> {
        let row = Row {
            key: Slice(b"k"),
            value: Some(Slice(b"v")),
        };
        vec![
            Response::Done,
            Response::Value(None),
            Response::Value(Some(Versioned {
                value: Slice(b"v"),
                version: 3,
            })),
            Response::Page {
                rows: vec![row],
                next: Some(Slice(b"l")),
            },
            Response::Swapped(4),
            Response::Mismatch(None),
            Response::Status(Status {
                node: 2,
                ..Status::default()
            }),
            Response::Ranges(vec![RangeRow {
                end: Some(vec![1]),
                ..RangeRow::default()
            }]),
            Response::Nodes(vec![NodeRow {
                live: true,
                ..NodeRow::default()
            }]),
            Response::Rejected(Rejection::Refused(Reason::Overloaded)),
            Response::Rejected(Rejection::BadRequest("why".to_string())),
            Response::Routes(Routes {
                node: 1,
                ranges: vec![RouteRow::default()],
            }),
        ]
    }

    #[test]
    fn messages_survive_a_round_trip() {
        for (number, request) in requests().into_iter().enumerate() {
            let call = Call {
                timeout_ms: 5000,
                request,
            };
            let mut out = BytesMut::new();
            call.encode_frame(number as u64, &mut out);
            let length = u32::from_be_bytes(out[..4].try_into().expect("four bytes")) as usize;
            assert_eq!(out.len(), HEAD_BYTES - NUMBER_BYTES + length);
            assert_eq!(out[4..12], (number as u64).to_be_bytes());
            assert_eq!(Call::decode(&out[HEAD_BYTES..]), Ok(call));
        }
        for response in responses() {
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    #[test]
    fn truncated_and_extended_messages_are_refused() {
        for response in responses() {
            let bytes = response.encode();
            for end in 0..bytes.len() {
                assert!(
                    Response::decode(&bytes[..end]).is_err(),
                    "{response:?} cut at {end}"
                );
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Response::decode(&longer), Err(Malformed::Garbage));
        }
        assert_eq!(Response::decode(&[2, 0]), Err(Malformed::Version(2)));
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = vec![VERSION];
            for _ in 0..state % 40 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push((state >> 32) as u8 & if state & 1 == 0 { 0x0f } else { 0xff });
            }
            state = state.wrapping_add(0x9e37_79b9);
            let _ = Call::decode(&bytes);
            let _ = Response::decode(&bytes);
        }
    }

    /// The wire format is fixed: these bytes must not change within version 1.
    #[test]
    fn the_bytes_are_pinned() {
        let mut out = BytesMut::new();
        let request = Request::Put {
            key: Slice(b"k"),
            value: Slice(b"vw"),
        };
        Call {
            timeout_ms: 300,
            request,
        }
        .encode_frame(5, &mut out);
        assert_eq!(
            &out[..],
            b"\0\0\0\x11\0\0\0\0\0\0\0\x05\x01\xac\x02\x02\x01k\x02vw"
        );
        let found = Response::Value(Some(Versioned {
            value: Slice(b"v"),
            version: 3,
        }));
        assert_eq!(&found.encode()[..], b"\x01\x01\x01\x01v\x03");
    }
}
