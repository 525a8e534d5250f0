//! The byte form of a forwarded request and of its outcome. Versioned; decoding trusts nothing.
//!
//! ```text
//! request: format u8 = 1 | kind u8 | group u64 | payload
//! outcome: format u8 = 1 | code u8 | node u64 | answer
//! ```
//! Integers are little-endian.

use super::limits::SLICE_BYTES_MIN;
use crate::service::Kind;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use multiraft::{GroupId, NodeId, Outcome, Refusal};

const FORMAT: u8 = 1;
/// Bytes before the variable part.
const HEAD: usize = 1 + 1 + 8;

/// One forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) group: GroupId,
    pub(super) payload: Bytes,
}

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed forwarded request or outcome")]
pub(super) struct Malformed;

pub(super) fn encode_request(item: &Item) -> Bytes {
    let kind = match item.kind {
        Kind::Read => 0,
        Kind::Write => 1,
    };
    encode(kind, item.group.0, &item.payload)
}

pub(super) fn decode_request(bytes: Bytes) -> Result<Item, Malformed> {
    let (kind, group, payload) = decode(bytes)?;
    let kind = match kind {
        0 => Kind::Read,
        1 => Kind::Write,
        _ => return Err(Malformed),
    };
    let group = GroupId(group);
    Ok(Item { kind, group, payload })
}

pub(super) fn encode_outcome(outcome: &Outcome) -> Bytes {
    let (code, node) = code_of(outcome);
    match outcome {
        Outcome::Answered(answer) => encode(code, node, answer),
        Outcome::Refused(_) | Outcome::Unknown => encode(code, node, &[]),
    }
}

pub(super) fn decode_outcome(bytes: Bytes) -> Result<Outcome, Malformed> {
    let (code, node, answer) = decode(bytes)?;
    Ok(match code {
        0 => Outcome::Answered(answer),
        1 => Outcome::Unknown,
        2 => Outcome::Refused(Refusal::NotLeader((node != 0).then_some(NodeId(node)))),
        3 => Outcome::Refused(Refusal::NoSuchGroup),
        4 => Outcome::Refused(Refusal::Overloaded),
        5 => Outcome::Refused(Refusal::Stopping),
        6 => Outcome::Refused(Refusal::NotVoter),
        7 => Outcome::Refused(Refusal::TooLarge),
        8 => Outcome::Refused(Refusal::NoSpace),
        _ => return Err(Malformed),
    })
}

/// The code of an outcome, and the node a refusal names (0: none).
fn code_of(outcome: &Outcome) -> (u8, u64) {
    match outcome {
        Outcome::Answered(_) => (0, 0),
        Outcome::Unknown => (1, 0),
        Outcome::Refused(Refusal::NotLeader(hint)) => (2, hint.map_or(0, |node| node.0)),
        Outcome::Refused(Refusal::NoSuchGroup) => (3, 0),
        Outcome::Refused(Refusal::Overloaded) => (4, 0),
        Outcome::Refused(Refusal::Stopping) => (5, 0),
        // No forwarded request changes a membership.
        Outcome::Refused(Refusal::NotVoter | Refusal::Change(_)) => (6, 0),
        Outcome::Refused(Refusal::TooLarge) => (7, 0),
        Outcome::Refused(Refusal::NoSpace) => (8, 0),
    }
}

fn encode(code: u8, id: u64, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + body.len());
    out.put_u8(FORMAT);
    out.put_u8(code);
    out.put_u64_le(id);
    out.put_slice(body);
    out.freeze()
}

/// Small bodies are copied: a slice would pin the network buffer it came in for as long as the log keeps the entry.
fn decode(mut bytes: Bytes) -> Result<(u8, u64, Bytes), Malformed> {
    if bytes.len() < HEAD || bytes.get_u8() != FORMAT {
        return Err(Malformed);
    }
    let (code, id) = (bytes.get_u8(), bytes.get_u64_le());
    if bytes.len() < SLICE_BYTES_MIN {
        bytes = Bytes::copy_from_slice(&bytes);
    }
    Ok((code, id, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let item = |kind, group, payload: Vec<u8>| Item {
            kind,
            group: GroupId(group),
            payload: payload.into(),
        };
        vec![
            item(Kind::Read, 2, Vec::new()),
            item(Kind::Write, u64::MAX, vec![7; 2 * SLICE_BYTES_MIN]),
        ]
    }

    fn outcomes() -> Vec<Outcome> {
        let refusals = [
            Refusal::NotLeader(None),
            Refusal::NotLeader(Some(NodeId(3))),
            Refusal::NoSuchGroup,
            Refusal::Overloaded,
            Refusal::NotVoter,
            Refusal::TooLarge,
            Refusal::NoSpace,
            Refusal::Stopping,
        ];
        let mut outcomes: Vec<Outcome> = refusals.map(Outcome::Refused).into();
        outcomes.push(Outcome::Answered(Bytes::from_static(b"yes")));
        outcomes.push(Outcome::Answered(Bytes::new()));
        outcomes.push(Outcome::Unknown);
        outcomes
    }

    #[test]
    fn bytes_round_trip() {
        for item in items() {
            assert_eq!(decode_request(encode_request(&item)), Ok(item));
        }
        for outcome in outcomes() {
            assert_eq!(decode_outcome(encode_outcome(&outcome)), Ok(outcome));
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = encode_request(&items()[0]);
        for cut in 0..HEAD {
            assert!(decode_request(good.slice(..cut)).is_err());
            assert!(decode_outcome(good.slice(..cut)).is_err());
        }
        for at in 0..2 {
            let mut bad = good.to_vec();
            bad[at] ^= 0xff;
            assert!(decode_request(bad.clone().into()).is_err());
            assert!(decode_outcome(bad.into()).is_err());
        }
    }
}
