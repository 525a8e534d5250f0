//! The byte form of what travels between nodes: one frame carries the messages of many groups.
//! Versioned, checked, never trusted: decoding returns errors and never panics. How frames reach the other node
//! (and who that is) is the network's business; so is protection against flipped bits (QUIC authenticates every
//! packet), which is why a frame has no checksum of its own.
//!
//! ```text
//! frame    = version u8, messages u32 LE (upper bit: the sender is short of disk space), message*
//! message  = group, from, to: varint | kind u8 | term: varint | fields of the kind
//! append   = previous.index, previous.term, commit ~ previous.index, replicated ~ previous.index, n: varint
//!            | entry{n} | payload{n}
//! entry    = kind u8 | message term - term: varint | stamp ~ stamp before | payload length: varint
//! ```
//!
//! `a ~ b` is the zigzag varint of the difference: one byte as a rule. Indexes of entries are implied. Payloads stand
//! after all entries of their append, so that a receiver needs one slice per append, and a sender can hand over large
//! payloads uncopied, each as a chunk of its own ([`Frame::chunks`]).
//!
//! **Copy or pin.** A payload sliced out of a frame keeps the whole frame alive. Log tails evict first in, first out,
//! so a frame's payloads of *one* group die together, but a group that falls silent keeps its last payloads for long:
//! ten thousand silent groups, each pinning a different 1 MiB frame, would hold 10 GiB for a megabyte of log. So a
//! payload block is sliced only when its frame is small ([`PIN_FRAME_BYTES_MAX`]) or when it is at least a quarter of
//! the frame; otherwise it is copied, once per append, into a buffer of its own. What a log holds in memory is thus at
//! most four times what its limits count. A state machine that keeps a part of a payload should copy that part.
//!
//! [`PIN_FRAME_BYTES_MAX`]: crate::limits::PIN_FRAME_BYTES_MAX

use crate::limits::{
    CHUNK_BYTES_MIN, ENTRIES_MAX, FRAME_BYTES_MAX, MEMBERS_MAX, MESSAGES_MAX, PAYLOAD_BYTES_MAX,
    PIN_FRAME_BYTES_MAX, PIN_PARTS_MAX,
};
use crate::network::{Frame, Lane};
use crate::snapshot::{Address, HEAD_BYTES_MAX, SnapshotHead};
use crate::types::{Entry, EntryId, GroupId, Index, Membership, NodeId, Payload, ReplicaId, Stamp, Term};
use bytes::Bytes;
use raft_core::{AppendOutcome, Envelope, Message, Round};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The version this build writes, and the only one it reads.
pub const VERSION: u8 = 2;

/// By how much a frame may exceed the last one without being moved in memory.
const FRAME_ROOM_SPARE: usize = 64;

/// One Raft message and the group it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The message.
    pub envelope: Envelope,
}

/// The lane a message travels on. Every append takes the entries lane, the empty ones too: an append that only carries
/// a commit index must not overtake the entries it follows, or the follower would reject it.
pub fn lane_of(message: &Message) -> Lane {
    match message {
        Message::Append { .. } => Lane::Entries,
        _ => Lane::Control,
    }
}

/// Collects messages into one frame.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    /// The header and everything but the large payloads.
    buffer: Vec<u8>,
    /// Large payloads, and where in `buffer` each of them belongs.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
    messages: u32,
    is_short: bool,
    /// What the last frame took, and a little more: the next one will be like it.
    room: usize,
}

impl FrameEncoder {
    /// Appends a message.
    pub fn push(&mut self, group: GroupId, envelope: &Envelope) {
        if self.buffer.is_empty() {
            self.buffer.reserve_exact(self.room);
            self.buffer.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        }
        self.messages += 1;
        let out = &mut self.buffer;
        put_varint(out, group.0);
        put_varint(out, envelope.from.0);
        put_varint(out, envelope.to.0);
        out.push(kind_of(&envelope.message));
        put_varint(out, envelope.term.0);
        self.put_message(envelope);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.large_bytes
    }

    /// True before the first message.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many messages it holds.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Whether frames closed from now on say that this node is short of disk space.
    pub fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Closes the frame. The encoder starts over.
    pub fn finish(&mut self) -> Frame {
        assert!(self.messages > 0, "a frame holds at least one message");
        let mark = if self.is_short { SHORT_MARK } else { 0 };
        self.buffer[1..HEADER_BYTES].copy_from_slice(&(self.messages | mark).to_le_bytes());
        self.room = self.buffer.len() + FRAME_ROOM_SPARE;
        let buffer = Bytes::from(std::mem::take(&mut self.buffer));
        let mut chunks = Vec::with_capacity(2 * self.large.len() + 1);
        let mut from = 0;
        for (at, payload) in self.large.drain(..) {
            if at > from {
                chunks.push(buffer.slice(from..at));
            }
            chunks.push(payload);
            from = at;
        }
        if from < buffer.len() {
            chunks.push(buffer.slice(from..));
        }
        self.large_bytes = 0;
        self.messages = 0;
        Frame { chunks }
    }

    fn put_message(&mut self, envelope: &Envelope) {
        let out = &mut self.buffer;
        match &envelope.message {
            Message::PreVote { last } => put_entry_id(out, *last),
            Message::Vote { last, transfer } => {
                put_entry_id(out, *last);
                out.push(u8::from(*transfer));
            }
            Message::PreVoteReply { granted } | Message::VoteReply { granted } => {
                out.push(u8::from(*granted))
            }
            Message::Append {
                previous,
                entries,
                commit,
                replicated,
            } => {
                put_entry_id(out, *previous);
                put_difference(out, commit.0, previous.index.0);
                put_difference(out, replicated.0, previous.index.0);
                self.put_entries(envelope.term, *previous, entries);
            }
            Message::AppendReply(AppendOutcome::Matched { index }) => put_varint(out, index.0),
            Message::AppendReply(AppendOutcome::Rejected { previous, hint }) => {
                put_varint(out, previous.0);
                put_entry_id(out, *hint);
            }
            Message::Heartbeat {
                commit,
                replicated,
                round,
            } => {
                put_varint(out, commit.0);
                put_difference(out, replicated.0, commit.0);
                put_varint(out, round.0);
            }
            Message::HeartbeatReply {
                round,
                matched,
                pledge,
            } => {
                put_varint(out, round.0);
                put_varint(out, matched.0);
                put_varint(out, u64::try_from(pledge.as_millis()).unwrap_or(ORDINAL_MAX));
            }
            Message::ReadIndex { request } => put_varint(out, *request),
            Message::ReadIndexReply { request, index } => {
                put_varint(out, *request);
                put_varint(out, index.0);
            }
            Message::TimeoutNow => {}
        }
    }

    fn put_entries(&mut self, term: Term, previous: EntryId, entries: &[Entry]) {
        assert!(
            entries.len() <= ENTRIES_MAX,
            "an append of {} entries",
            entries.len()
        );
        put_varint(&mut self.buffer, entries.len() as u64);
        let mut stamp = 0;
        let mut index = previous.index;
        for entry in entries {
            index = index.next();
            assert_eq!(entry.id.index, index, "the entries of an append are contiguous");
            put_entry(&mut self.buffer, term, &mut stamp, entry);
        }
        for entry in entries {
            if let Payload::Command(_, bytes) = &entry.payload {
                self.put_payload(bytes);
            }
        }
    }

    fn put_payload(&mut self, payload: &Bytes) {
        assert!(
            payload.len() <= PAYLOAD_BYTES_MAX,
            "a payload of {} bytes",
            payload.len()
        );
        if payload.len() < CHUNK_BYTES_MIN {
            self.buffer.extend_from_slice(payload);
        } else {
            self.large.push((self.buffer.len(), payload.clone()));
            self.large_bytes += payload.len();
        }
    }
}

/// Whether a frame says that its sender is short of disk space. `decode` says whether it is a frame at all.
pub fn is_short(frame: &[u8]) -> bool {
    let count = frame.get(1..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok());
    count.is_some_and(|count| u32::from_le_bytes(count) & SHORT_MARK > 0)
}

/// The header of a snapshot's stream.
pub(crate) fn encode_address(address: &Address) -> Bytes {
    let mut out = vec![VERSION];
    let Address {
        group,
        from,
        to,
        term,
    } = *address;
    for number in [group.0, from.0, to.0, term.0] {
        put_varint(&mut out, number);
    }
    out.into()
}

pub(crate) fn decode_address(header: &Bytes) -> Result<Address, DecodeError> {
    let mut reader = Reader::of_version(header)?;
    let address = Address {
        group: GroupId(reader.varint()?),
        from: ReplicaId(reader.varint()?),
        to: ReplicaId(reader.varint()?),
        term: Term(reader.ordinal("term")?),
    };
    reader.end().map(|()| address)
}

/// The first piece of a snapshot's stream.
pub(crate) fn encode_head(head: &SnapshotHead) -> Result<Bytes, String> {
    let mut out = vec![VERSION];
    put_entry_id(&mut out, head.snapshot);
    put_membership(&mut out, &head.membership);
    out.extend_from_slice(&head.descriptor);
    match out.len() {
        0..=HEAD_BYTES_MAX => Ok(out.into()),
        bytes => Err(format!("a head of {bytes} bytes")),
    }
}

pub(crate) fn decode_head(piece: &Bytes) -> Result<SnapshotHead, DecodeError> {
    let mut reader = Reader::of_version(piece)?;
    Ok(SnapshotHead {
        snapshot: reader.entry_id()?,
        membership: reader.membership()?,
        descriptor: Bytes::copy_from_slice(&piece[reader.at..]),
    })
}

/// The answer to a snapshot: how far the receiver is.
pub(crate) fn encode_position(position: Index) -> Bytes {
    Bytes::copy_from_slice(&position.0.to_le_bytes())
}

pub(crate) fn decode_position(answer: &[u8]) -> Option<Index> {
    let number = u64::from_le_bytes(answer.try_into().ok()?);
    (number <= ORDINAL_MAX).then_some(Index(number))
}

/// Decodes a frame. Payloads are slices of it, or of one copy per append (see the module's text).
pub fn decode(frame: &Bytes) -> Result<Vec<GroupMessage>, DecodeError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::TooMany("bytes"));
    }
    let mut reader = Reader {
        frame,
        at: 0,
        lengths: Vec::new(),
    };
    let version = reader.byte()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = u32::from_le_bytes(reader.array()?) & !SHORT_MARK;
    let count = reader.capped(u64::from(count), MESSAGES_MAX, MESSAGE_BYTES_MIN, "messages")?;
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        messages.push(reader.group_message()?);
    }
    if reader.at == frame.len() {
        Ok(messages)
    } else {
        Err(DecodeError::Trailing)
    }
}

/// Why a frame is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by a version this build does not read.
    Version(u8),
    /// It ends in the middle of something.
    Truncated,
    /// A varint of more than 64 bits, or with useless zero bytes at its end.
    Varint,
    /// A flag that is neither 0 nor 1.
    Flag(u8),
    /// No message or entry of this kind exists in this version.
    Kind(u8),
    /// A number that no such field can have.
    Range(&'static str),
    /// More of something than a frame may hold, or than its bytes can.
    TooMany(&'static str),
    /// Bytes after the last message.
    Trailing,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Version(version) => {
                write!(f, "frame of version {version}, this build reads {VERSION}")
            }
            DecodeError::Truncated => write!(f, "frame ends early"),
            DecodeError::Varint => write!(f, "malformed varint"),
            DecodeError::Flag(flag) => write!(f, "flag {flag} is neither 0 nor 1"),
            DecodeError::Kind(kind) => write!(f, "unknown kind {kind}"),
            DecodeError::Range(field) => write!(f, "{field} out of range"),
            DecodeError::TooMany(what) => write!(f, "too many {what}"),
            DecodeError::Trailing => write!(f, "bytes after the last message"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Walks a frame. Every read is checked against its end.
struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
    /// Payload lengths of the append being read; kept to be filled again.
    lengths: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// At the first byte after the version.
    fn of_version(frame: &'a Bytes) -> Result<Reader<'a>, DecodeError> {
        let mut reader = Reader {
            frame,
            at: 0,
            lengths: Vec::new(),
        };
        match reader.byte()? {
            VERSION => Ok(reader),
            version => Err(DecodeError::Version(version)),
        }
    }

    fn end(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(DecodeError::Trailing),
        }
    }
}

impl Reader<'_> {
    fn group_message(&mut self) -> Result<GroupMessage, DecodeError> {
        let group = GroupId(self.varint()?);
        let from = ReplicaId(self.varint()?);
        let to = ReplicaId(self.varint()?);
        let kind = self.byte()?;
        let term = Term(self.ordinal("term")?);
        let message = self.message(kind, term)?;
        let envelope = Envelope {
            from,
            to,
            term,
            message,
        };
        Ok(GroupMessage { group, envelope })
    }

    fn message(&mut self, kind: u8, term: Term) -> Result<Message, DecodeError> {
        Ok(match kind {
            PRE_VOTE => Message::PreVote {
                last: self.entry_id()?,
            },
            PRE_VOTE_REPLY => Message::PreVoteReply {
                granted: self.flag()?,
            },
            VOTE => Message::Vote {
                last: self.entry_id()?,
                transfer: self.flag()?,
            },
            VOTE_REPLY => Message::VoteReply {
                granted: self.flag()?,
            },
            APPEND => self.append(term)?,
            APPEND_MATCHED => Message::AppendReply(AppendOutcome::Matched { index: self.index()? }),
            APPEND_REJECTED => Message::AppendReply(AppendOutcome::Rejected {
                previous: self.index()?,
                hint: self.entry_id()?,
            }),
            HEARTBEAT => {
                let commit = self.index()?;
                Message::Heartbeat {
                    commit,
                    replicated: self.index_near(commit)?,
                    round: Round(self.ordinal("round")?),
                }
            }
            HEARTBEAT_REPLY => Message::HeartbeatReply {
                round: Round(self.ordinal("round")?),
                matched: self.index()?,
                pledge: Duration::from_millis(self.ordinal("pledge")?),
            },
            READ_INDEX => Message::ReadIndex {
                request: self.varint()?,
            },
            READ_INDEX_REPLY => Message::ReadIndexReply {
                request: self.varint()?,
                index: self.index()?,
            },
            TIMEOUT_NOW => Message::TimeoutNow,
            _ => return Err(DecodeError::Kind(kind)),
        })
    }

    fn append(&mut self, term: Term) -> Result<Message, DecodeError> {
        let previous = self.entry_id()?;
        let commit = self.index_near(previous.index)?;
        let replicated = self.index_near(previous.index)?;
        let mut entries = self.entries(term, previous)?;
        self.fill_payloads(&mut entries)?;
        Ok(Message::Append {
            previous,
            entries,
            commit,
            replicated,
        })
    }

    /// The entries of an append; commands still without their bytes, whose lengths are left in `lengths`.
    fn entries(&mut self, term: Term, previous: EntryId) -> Result<Vec<Entry>, DecodeError> {
        let count = self.varint()?;
        let count = self.capped(count, ENTRIES_MAX, ENTRY_BYTES_MIN, "entries")?;
        self.lengths.clear();
        let mut entries = Vec::with_capacity(count);
        let mut stamp = 0;
        let mut index = previous.index;
        for _ in 0..count {
            index = index.next();
            let kind = self.byte()?;
            let behind = self.varint()?;
            let term = Term(term.0.checked_sub(behind).ok_or(DecodeError::Range("term"))?);
            let payload = self.entry_payload(kind, &mut stamp)?;
            let id = EntryId { term, index };
            entries.push(Entry { id, payload });
        }
        Ok(entries)
    }

    fn entry_payload(&mut self, kind: u8, stamp: &mut u64) -> Result<Payload, DecodeError> {
        Ok(match kind {
            ENTRY_NOOP => Payload::Noop(self.stamp(stamp)?),
            ENTRY_COMMAND => {
                let stamp = self.stamp(stamp)?;
                let length = self.varint()?;
                let length = self.capped(length, PAYLOAD_BYTES_MAX, 1, "payload bytes")?;
                self.lengths.push(length);
                Payload::Command(stamp, Bytes::new())
            }
            ENTRY_MEMBERSHIP => Payload::Membership(Box::new(self.membership()?)),
            _ => return Err(DecodeError::Kind(kind)),
        })
    }

    fn stamp(&mut self, before: &mut u64) -> Result<Stamp, DecodeError> {
        *before = self.difference(*before)?;
        Ok(Stamp(*before))
    }

    fn fill_payloads(&mut self, entries: &mut [Entry]) -> Result<(), DecodeError> {
        let total: usize = self.lengths.iter().sum(); // at most ENTRIES_MAX * PAYLOAD_BYTES_MAX = 2^40
        let mut block = self.block(total)?;
        let mut lengths = self.lengths.iter();
        for entry in entries {
            if let Payload::Command(_, bytes) = &mut entry.payload {
                let length = *lengths.next().expect("entries() left one length per command");
                *bytes = block.split_to(length);
            }
        }
        Ok(())
    }

    /// The next `length` bytes: a slice of the frame, or a copy when a slice would pin too much.
    fn block(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let from = self.at;
        if length > self.remaining() {
            return Err(DecodeError::Truncated);
        }
        self.at += length;
        let pins = self.frame.len() <= PIN_FRAME_BYTES_MAX || length * PIN_PARTS_MAX >= self.frame.len();
        Ok(if pins {
            self.frame.slice(from..self.at)
        } else {
            Bytes::copy_from_slice(&self.frame[from..self.at])
        })
    }

    fn membership(&mut self) -> Result<Membership, DecodeError> {
        let voters = self.replicas()?;
        let outgoing = self.replicas()?;
        let learners = self.replicas()?;
        let count = self.varint()?;
        let count = self.capped(count, MEMBERS_MAX, 2, "members")?;
        let mut nodes = std::collections::BTreeMap::new();
        for _ in 0..count {
            nodes.insert(ReplicaId(self.varint()?), NodeId(self.varint()?));
        }
        let named = voters.iter().chain(&outgoing).chain(&learners);
        let named: BTreeSet<ReplicaId> = named.copied().collect();
        if nodes.len() != count || !named.iter().eq(nodes.keys()) {
            return Err(DecodeError::Range("membership"));
        }
        Ok(Membership {
            voters,
            outgoing,
            learners,
            nodes,
        })
    }

    fn replicas(&mut self) -> Result<BTreeSet<ReplicaId>, DecodeError> {
        let count = self.varint()?;
        let count = self.capped(count, MEMBERS_MAX, 1, "members")?;
        (0..count).map(|_| Ok(ReplicaId(self.varint()?))).collect()
    }

    fn entry_id(&mut self) -> Result<EntryId, DecodeError> {
        let index = self.index()?;
        let term = Term(self.ordinal("term")?);
        Ok(EntryId { term, index })
    }

    fn index(&mut self) -> Result<Index, DecodeError> {
        self.ordinal("index").map(Index)
    }

    fn index_near(&mut self, from: Index) -> Result<Index, DecodeError> {
        let index = self.difference(from.0)?;
        in_range(index, "index").map(Index)
    }

    /// A number that something adds to later: so far from the end that nothing can overflow.
    fn ordinal(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        in_range(self.varint()?, what)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Flag(other)),
        }
    }

    fn difference(&mut self, from: u64) -> Result<u64, DecodeError> {
        let zigzag = self.varint()?;
        Ok(from.wrapping_add((zigzag >> 1) ^ (zigzag & 1).wrapping_neg()))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 || shift > 0 && byte == 0 {
                return Err(DecodeError::Varint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.frame.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = &self.frame[self.at..];
        let array = *rest.first_chunk().ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(array)
    }

    /// A count that is within its limit and that the remaining bytes can hold: room may be reserved for it.
    fn capped(&self, count: u64, max: usize, each: usize, what: &'static str) -> Result<usize, DecodeError> {
        match usize::try_from(count) {
            Ok(count) if count <= max && count <= self.remaining() / each => Ok(count),
            _ => Err(DecodeError::TooMany(what)),
        }
    }

    fn remaining(&self) -> usize {
        self.frame.len() - self.at
    }
}

fn in_range(number: u64, what: &'static str) -> Result<u64, DecodeError> {
    if number <= ORDINAL_MAX {
        Ok(number)
    } else {
        Err(DecodeError::Range(what))
    }
}

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::PreVote { .. } => PRE_VOTE,
        Message::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Message::Vote { .. } => VOTE,
        Message::VoteReply { .. } => VOTE_REPLY,
        Message::Append { .. } => APPEND,
        Message::AppendReply(AppendOutcome::Matched { .. }) => APPEND_MATCHED,
        Message::AppendReply(AppendOutcome::Rejected { .. }) => APPEND_REJECTED,
        Message::Heartbeat { .. } => HEARTBEAT,
        Message::HeartbeatReply { .. } => HEARTBEAT_REPLY,
        Message::TimeoutNow => TIMEOUT_NOW,
        Message::ReadIndex { .. } => READ_INDEX,
        Message::ReadIndexReply { .. } => READ_INDEX_REPLY,
    }
}

/// An entry without its bytes. `stamp` is the stamp before it, then its own.
fn put_entry(out: &mut Vec<u8>, message_term: Term, stamp: &mut u64, entry: &Entry) {
    let behind = message_term.0.checked_sub(entry.id.term.0);
    let behind = behind.expect("no leader sends an entry of a later term than its own");
    let (kind, own) = match &entry.payload {
        Payload::Noop(own) => (ENTRY_NOOP, Some(own)),
        Payload::Command(own, _) => (ENTRY_COMMAND, Some(own)),
        Payload::Membership(_) => (ENTRY_MEMBERSHIP, None),
    };
    out.push(kind);
    put_varint(out, behind);
    if let Some(own) = own {
        put_difference(out, own.0, *stamp);
        *stamp = own.0;
    }
    match &entry.payload {
        Payload::Noop(_) => {}
        Payload::Command(_, bytes) => put_varint(out, bytes.len() as u64),
        Payload::Membership(membership) => put_membership(out, membership),
    }
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    assert!(
        membership.nodes.len() <= MEMBERS_MAX,
        "a membership of {}",
        membership.nodes.len()
    );
    for replicas in [&membership.voters, &membership.outgoing, &membership.learners] {
        put_varint(out, replicas.len() as u64);
        for replica in replicas {
            put_varint(out, replica.0);
        }
    }
    put_varint(out, membership.nodes.len() as u64);
    for (replica, node) in &membership.nodes {
        put_varint(out, replica.0);
        put_varint(out, node.0);
    }
}

fn put_entry_id(out: &mut Vec<u8>, id: EntryId) {
    put_varint(out, id.index.0);
    put_varint(out, id.term.0);
}

/// `value ~ from`: wraps, so any two numbers will do.
fn put_difference(out: &mut Vec<u8>, value: u64, from: u64) {
    let difference = value.wrapping_sub(from);
    let sign = (difference >> 63).wrapping_neg();
    put_varint(out, (difference << 1) ^ sign);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// No index, term or round of a real log comes near it.
const ORDINAL_MAX: u64 = 1 << 60;
const HEADER_BYTES: usize = 5;
/// In the count of messages: the sender is short of disk space.
const SHORT_MARK: u32 = 1 << 31;
const _: () = assert!(MESSAGES_MAX < SHORT_MARK as usize);
const _: () = assert!(
    raft_core::MEMBERS_MAX <= MEMBERS_MAX,
    "what raft-core appends must fit into a frame"
);
/// Group, from, to, kind, term.
const MESSAGE_BYTES_MIN: usize = 5;
/// Kind, term, stamp.
const ENTRY_BYTES_MIN: usize = 3;

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPEND_MATCHED: u8 = 6;
const APPEND_REJECTED: u8 = 7;
const HEARTBEAT: u8 = 8;
const HEARTBEAT_REPLY: u8 = 9;
const TIMEOUT_NOW: u8 = 10;
const READ_INDEX: u8 = 11;
const READ_INDEX_REPLY: u8 = 12;

const ENTRY_NOOP: u8 = 0;
const ENTRY_COMMAND: u8 = 1;
const ENTRY_MEMBERSHIP: u8 = 2;
