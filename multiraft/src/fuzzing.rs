//! The decoder of this crate as a function of bytes. It says whether it took the bytes for what they should be, and
//! panics when a promise is broken. For fuzzers, and for the tests that replay what they found.

use crate::types::{Entry, EntryId, GroupId, Index, Membership, NodeId, Payload, ReplicaId, Stamp, Term};
use crate::wire::{FrameEncoder, GroupMessage, decode};
use bytes::Bytes;
use raft_core::{AppendOutcome, Envelope, Message, Round};
use std::time::Duration;

/// A frame between nodes.
pub fn frame(data: &[u8]) -> bool {
    let Ok(messages) = decode(&Bytes::copy_from_slice(data)) else {
        return false;
    };
    if !messages.is_empty() {
        let again = decode(&encode(&messages));
        assert_eq!(again, Ok(messages), "what is read can be written and read again");
    }
    true
}

fn encode(messages: &[GroupMessage]) -> Bytes {
    let mut encoder = FrameEncoder::default();
    for message in messages {
        encoder.push(message.group, &message.envelope);
    }
    encoder.finish().to_bytes()
}

/// Frames: one of each message, and one of all.
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let messages: Vec<GroupMessage> = messages().into_iter().map(addressed).collect();
    let mut seeds: Vec<Vec<u8>> = messages
        .chunks(1)
        .map(|message| encode(message).to_vec())
        .collect();
    seeds.push(encode(&messages).to_vec());
    seeds
}

fn addressed(message: Message) -> GroupMessage {
    GroupMessage {
        group: GroupId(300),
        envelope: Envelope {
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: Term(7),
            message,
        },
    }
}

fn messages() -> Vec<Message> {
    let last = EntryId::new(6, 400);
    let (index, round) = (Index(401), Round(9));
    vec![
        Message::PreVote { last },
        Message::PreVoteReply { granted: true },
        Message::Vote { last, transfer: true },
        Message::VoteReply { granted: false },
        Message::Append {
            previous: last,
            entries: entries(),
            commit: Index(399),
            replicated: Index(398),
        },
        Message::AppendReply(AppendOutcome::Matched { index }),
        Message::AppendReply(AppendOutcome::Rejected {
            previous: index,
            hint: last,
        }),
        Message::Heartbeat {
            commit: index,
            replicated: Index(400),
            round,
        },
        Message::HeartbeatReply {
            round,
            matched: index,
            pledge: Duration::from_millis(300),
        },
        Message::ReadIndex { request: 1 << 40 },
        Message::ReadIndexReply {
            request: 1 << 40,
            index,
        },
        Message::TimeoutNow,
    ]
}

fn entries() -> Vec<Entry> {
    let stamp = Stamp(1_800_000_000_000);
    let members = [(ReplicaId(1), NodeId(1)), (ReplicaId(2), NodeId(2))];
    let payloads = [
        Payload::Noop(stamp),
        Payload::Command(stamp, Bytes::from_static(b"some command")),
        Payload::Membership(Box::new(Membership::of_voters(members))),
        Payload::Command(Stamp(stamp.0 + 5), Bytes::new()),
    ];
    let ids = (401..).map(|index| EntryId::new(7, index));
    ids.zip(payloads)
        .map(|(id, payload)| Entry { id, payload })
        .collect()
}
