//! Properties of the codec: what goes in comes out, and no bytes whatever make it panic or reserve much.

use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Mostly small, sometimes any number.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..300u64, 2 => 1_700_000_000_000..1_900_000_000_000u64, 1 => 0..=ORDINAL_MAX]
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    (number(), number()).prop_map(|(term, index)| EntryId::new(term, index))
}

fn membership() -> impl Strategy<Value = Membership> {
    btree_map(number(), (number(), 1..8u8), 0..6).prop_map(|members| {
        let mut membership = Membership::default();
        for (replica, (node, roles)) in members {
            let replica = ReplicaId(replica);
            membership.nodes.insert(replica, NodeId(node));
            for (bit, set) in [
                (1, &mut membership.voters),
                (2, &mut membership.outgoing),
                (4, &mut membership.learners),
            ] {
                if roles & bit != 0 {
                    set.insert(replica);
                }
            }
        }
        membership
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let size = prop_oneof![6 => 0..200usize, 1 => 4000..4200usize, 1 => 5000..20_000usize];
    prop_oneof![
        1 => number().prop_map(|stamp| Payload::Noop(Stamp(stamp))),
        6 => (number(), size, any::<u8>())
            .prop_map(|(stamp, size, byte)| Payload::Command(Stamp(stamp), Bytes::from(vec![byte; size]))),
        1 => membership().prop_map(|membership| Payload::Membership(Box::new(membership))),
    ]
}

fn append() -> impl Strategy<Value = (u64, Message)> {
    let previous = (number(), number());
    (
        number(),
        previous,
        vec((0..3u64, payload()), 0..8),
        number(),
        number(),
    )
        .prop_map(|(term, previous, payloads, commit, replicated)| {
            let previous = EntryId::new(previous.0, previous.1);
            let entries = payloads
                .into_iter()
                .zip(1..)
                .map(|((behind, payload), offset)| Entry {
                    id: EntryId::new(term.saturating_sub(behind), previous.index.0 + offset),
                    payload,
                });
            let message = Message::Append {
                previous,
                entries: entries.collect(),
                commit: Index(commit),
                replicated: Index(replicated),
            };
            (term, message)
        })
}

fn small_message() -> impl Strategy<Value = Message> {
    let (n, flag) = (number, any::<bool>);
    prop_oneof![
        entry_id().prop_map(|last| Message::PreVote { last }),
        flag().prop_map(|granted| Message::PreVoteReply { granted }),
        (entry_id(), flag()).prop_map(|(last, transfer)| Message::Vote { last, transfer }),
        flag().prop_map(|granted| Message::VoteReply { granted }),
        n().prop_map(|index| Message::AppendReply(AppendOutcome::Matched { index: Index(index) })),
        (n(), entry_id()).prop_map(|(previous, hint)| {
            let previous = Index(previous);
            Message::AppendReply(AppendOutcome::Rejected { previous, hint })
        }),
        (n(), n(), n()).prop_map(|(commit, replicated, round)| Message::Heartbeat {
            commit: Index(commit),
            replicated: Index(replicated),
            round: Round(round),
        }),
        (n(), n(), n()).prop_map(|(round, matched, pledge)| Message::HeartbeatReply {
            round: Round(round),
            matched: Index(matched),
            pledge: Duration::from_millis(pledge),
        }),
        any::<u64>().prop_map(|request| Message::ReadIndex { request }),
        (any::<u64>(), n()).prop_map(|(request, index)| Message::ReadIndexReply {
            request,
            index: Index(index),
        }),
        Just(Message::TimeoutNow),
    ]
}

fn group_message() -> impl Strategy<Value = GroupMessage> {
    let body = prop_oneof![append(), (number(), small_message())];
    (number(), number(), number(), body).prop_map(|(group, from, to, (term, message))| GroupMessage {
        group: GroupId(group),
        envelope: Envelope {
            from: ReplicaId(from),
            to: ReplicaId(to),
            term: Term(term),
            message,
        },
    })
}

fn encode(messages: &[GroupMessage]) -> Frame {
    let mut encoder = FrameEncoder::default();
    for message in messages {
        encoder.push(message.group, &message.envelope);
    }
    let length = encoder.len();
    let frame = encoder.finish();
    assert_eq!(frame.len(), length);
    assert!(encoder.is_empty());
    frame
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(messages in vec(group_message(), 1..12)) {
        let frame = encode(&messages);
        prop_assert!(frame.chunks.iter().all(|chunk| !chunk.is_empty()));
        prop_assert_eq!(decode(&frame.to_bytes()), Ok(messages));
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused(messages in vec(group_message(), 1..4), at in any::<prop::sample::Index>()) {
        let bytes = encode(&messages).to_bytes();
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(decode(&cut).is_err());
    }

    #[test]
    fn a_mutated_frame_never_panics(
        messages in vec(group_message(), 1..6),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = encode(&messages).to_bytes().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(decoded) = decode(&Bytes::from(bytes)) {
            prop_assert_eq!(decode(&encode(&decoded).to_bytes()), Ok(decoded));
        }
    }

    #[test]
    fn garbage_never_panics(mut bytes in vec(any::<u8>(), 0..300), versioned in any::<bool>()) {
        if versioned && bytes.len() >= HEADER_BYTES {
            bytes[..HEADER_BYTES].copy_from_slice(&[VERSION, 3, 0, 0, 0]);
        }
        let _ = decode(&Bytes::from(bytes));
    }
}

fn command(group: u64, index: u64, size: usize) -> GroupMessage {
    GroupMessage {
        group: GroupId(group),
        envelope: Envelope {
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: Term(7),
            message: Message::Append {
                previous: EntryId::new(7, index - 1),
                entries: vec![Entry {
                    id: EntryId::new(7, index),
                    payload: Payload::Command(Stamp(1_800_000_000_000), Bytes::from(vec![b'x'; size])),
                }],
                commit: Index(index - 1),
                replicated: Index(index - 1),
            },
        },
    }
}

fn payload_of(message: &GroupMessage) -> &Bytes {
    match &message.envelope.message {
        Message::Append { entries, .. } => match &entries[0].payload {
            Payload::Command(_, bytes) => bytes,
            other => panic!("not a command: {other:?}"),
        },
        other => panic!("not an append: {other:?}"),
    }
}

fn lies_in(part: &Bytes, whole: &Bytes) -> bool {
    whole.as_ptr_range().contains(&part.as_ptr())
}

#[test]
fn a_small_append_costs_few_bytes_beside_its_payload() {
    let frame = encode(&[command(9, 42, 64)]);
    assert_eq!(frame.len(), HEADER_BYTES + 64 + 19);
}

#[test]
fn large_payloads_are_chunks_of_their_own_and_not_copied() {
    let messages = [command(1, 5, 100), command(2, 6, 4096), command(3, 7, 100)];
    let frame = encode(&messages);
    assert_eq!(frame.chunks.len(), 3);
    assert_eq!(frame.chunks[1].as_ptr(), payload_of(&messages[1]).as_ptr());
}

#[test]
fn a_payload_pins_a_small_frame_or_one_it_fills_and_nothing_else() {
    let small = encode(&[command(1, 5, 100), command(2, 5, 100)]).to_bytes();
    assert!(lies_in(payload_of(&decode(&small).unwrap()[0]), &small));

    let messages: Vec<_> = (1..=100).map(|group| command(group, 5, 100)).collect();
    let crowded = encode(&messages).to_bytes();
    assert!(!lies_in(payload_of(&decode(&crowded).unwrap()[0]), &crowded));

    let mixed = encode(&[command(1, 5, 9000), command(2, 5, 1000)]).to_bytes();
    let decoded = decode(&mixed).unwrap();
    assert!(lies_in(payload_of(&decoded[0]), &mixed));
    assert!(!lies_in(payload_of(&decoded[1]), &mixed));
}

#[test]
fn refusals_name_their_reason() {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    assert_eq!(decode(&bytes(&[])), Err(DecodeError::Truncated));
    assert_eq!(decode(&bytes(&[9, 0, 0, 0, 0])), Err(DecodeError::Version(9)));
    assert_eq!(
        decode(&bytes(&[VERSION, 0, 0, 0, 0, 5])),
        Err(DecodeError::Trailing)
    );
    assert_eq!(
        decode(&bytes(&[VERSION, 255, 255, 255, 255, 1, 1, 1, 10, 1])),
        Err(DecodeError::TooMany("messages"))
    );
    assert_eq!(
        decode(&bytes(&[VERSION, 1, 0, 0, 0, 1, 1, 2, 77, 1])),
        Err(DecodeError::Kind(77))
    );
    assert_eq!(
        decode(&bytes(&[VERSION, 1, 0, 0, 0, 0x81, 0, 2, 10, 1])),
        Err(DecodeError::Varint)
    );
    assert_eq!(
        decode(&bytes(&[VERSION, 1, 0, 0, 0, 1, 1, 2, 4, 1, 2])),
        Err(DecodeError::Flag(2))
    );
    assert_eq!(
        decode(&bytes(&[
            VERSION, 1, 0, 0, 0, 1, 1, 2, 6, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1
        ])),
        Err(DecodeError::Range("index"))
    );
    // One entry whose term lies before term 0.
    let append = [VERSION, 1, 0, 0, 0, 1, 1, 2, 5, 3, 0, 0, 0, 0, 1, 0, 4, 0];
    assert_eq!(decode(&bytes(&append)), Err(DecodeError::Range("term")));
}
