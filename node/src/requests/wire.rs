//! The byte form of forwarded batches and of their answers. Versioned; decoding trusts nothing.
//! Payloads and answers are slices of the received buffer, not copies.
//!
//! ```text
//! batch:   format u8 = 1 | count u32 | count x { kind u8 | group u64 | length u32 | payload }
//! answers: format u8 = 1 | count u32 | count x { outcome u8 | node u64 | length u32 | answer }
//! ```
//! Integers are little-endian.

use crate::service::Kind;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use multiraft::{GroupId, NodeId, Outcome, Refusal};

const FORMAT: u8 = 1;
/// Bytes of one item before its variable part: kind or outcome, group or node, length.
const ITEM_HEAD: usize = 1 + 8 + 4;

/// One forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) group: GroupId,
    pub(super) payload: Bytes,
}

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch of forwarded requests")]
pub(super) struct Malformed;

pub(super) fn encode_batch<'a>(items: impl ExactSizeIterator<Item = &'a Item> + Clone) -> Bytes {
    let bytes = items.clone().map(|item| ITEM_HEAD + item.payload.len()).sum();
    let mut out = head(items.len(), bytes);
    for item in items {
        let kind = match item.kind {
            Kind::Read => 0,
            Kind::Write => 1,
        };
        put_item(&mut out, kind, item.group.0, &item.payload);
    }
    out.freeze()
}

pub(super) fn decode_batch(mut bytes: Bytes) -> Result<Vec<Item>, Malformed> {
    let items = take_items(&mut bytes)?;
    let decoded = items.into_iter().map(|(kind, group, payload)| {
        let kind = match kind {
            0 => Kind::Read,
            1 => Kind::Write,
            _ => return Err(Malformed),
        };
        let group = GroupId(group);
        Ok(Item { kind, group, payload })
    });
    decoded.collect()
}

pub(super) fn encode_answers(outcomes: &[Outcome]) -> Bytes {
    let bytes = outcomes
        .iter()
        .map(|outcome| ITEM_HEAD + answer(outcome).len())
        .sum();
    let mut out = head(outcomes.len(), bytes);
    for outcome in outcomes {
        let (code, node) = code_of(outcome);
        put_item(&mut out, code, node, answer(outcome));
    }
    out.freeze()
}

pub(super) fn decode_answers(mut bytes: Bytes) -> Result<Vec<Outcome>, Malformed> {
    let items = take_items(&mut bytes)?;
    let decoded = items
        .into_iter()
        .map(|(code, node, answer)| outcome_of(code, node, answer));
    decoded.collect()
}

fn answer(outcome: &Outcome) -> &[u8] {
    match outcome {
        Outcome::Answered(bytes) => bytes,
        Outcome::Refused(_) | Outcome::Unknown => &[],
    }
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
        Outcome::Refused(Refusal::NotVoter) => (6, 0),
        Outcome::Refused(Refusal::TooLarge) => (7, 0),
    }
}

fn outcome_of(code: u8, node: u64, answer: Bytes) -> Result<Outcome, Malformed> {
    Ok(match code {
        0 => Outcome::Answered(answer),
        1 => Outcome::Unknown,
        2 => Outcome::Refused(Refusal::NotLeader((node != 0).then_some(NodeId(node)))),
        3 => Outcome::Refused(Refusal::NoSuchGroup),
        4 => Outcome::Refused(Refusal::Overloaded),
        5 => Outcome::Refused(Refusal::Stopping),
        6 => Outcome::Refused(Refusal::NotVoter),
        7 => Outcome::Refused(Refusal::TooLarge),
        _ => return Err(Malformed),
    })
}

fn head(count: usize, bytes: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(1 + 4 + bytes);
    out.put_u8(FORMAT);
    out.put_u32_le(u32::try_from(count).expect("batches are bounded"));
    out
}

fn put_item(out: &mut BytesMut, code: u8, id: u64, body: &[u8]) {
    out.put_u8(code);
    out.put_u64_le(id);
    out.put_u32_le(u32::try_from(body.len()).expect("payloads are bounded"));
    out.put_slice(body);
}

fn take_items(bytes: &mut Bytes) -> Result<Vec<(u8, u64, Bytes)>, Malformed> {
    if bytes.len() < 1 + 4 || bytes.get_u8() != FORMAT {
        return Err(Malformed);
    }
    let count = bytes.get_u32_le() as usize;
    // A count that the rest cannot hold must not size an allocation.
    if count > bytes.len() / ITEM_HEAD {
        return Err(Malformed);
    }
    let items = (0..count)
        .map(|_| take_item(bytes))
        .collect::<Result<Vec<_>, _>>()?;
    bytes.is_empty().then_some(items).ok_or(Malformed)
}

fn take_item(bytes: &mut Bytes) -> Result<(u8, u64, Bytes), Malformed> {
    if bytes.len() < ITEM_HEAD {
        return Err(Malformed);
    }
    let (code, id) = (bytes.get_u8(), bytes.get_u64_le());
    let length = bytes.get_u32_le() as usize;
    if bytes.len() < length {
        return Err(Malformed);
    }
    Ok((code, id, bytes.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let item = |kind, group, payload: &'static [u8]| Item {
            kind,
            group: GroupId(group),
            payload: Bytes::from_static(payload),
        };
        vec![item(Kind::Read, 2, b""), item(Kind::Write, u64::MAX, b"payload")]
    }

    fn outcomes() -> Vec<Outcome> {
        vec![
            Outcome::Answered(Bytes::from_static(b"yes")),
            Outcome::Answered(Bytes::new()),
            Outcome::Unknown,
            Outcome::Refused(Refusal::NotLeader(None)),
            Outcome::Refused(Refusal::NotLeader(Some(NodeId(3)))),
            Outcome::Refused(Refusal::NoSuchGroup),
            Outcome::Refused(Refusal::Overloaded),
            Outcome::Refused(Refusal::Stopping),
            Outcome::Refused(Refusal::NotVoter),
            Outcome::Refused(Refusal::TooLarge),
        ]
    }

    #[test]
    fn bytes_round_trip() {
        assert_eq!(decode_batch(encode_batch(items().iter())), Ok(items()));
        assert_eq!(decode_answers(encode_answers(&outcomes())), Ok(outcomes()));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for good in [encode_batch(items().iter()), encode_answers(&outcomes())] {
            for cut in 0..good.len() {
                assert!(decode_batch(good.slice(..cut)).is_err());
                assert!(decode_answers(good.slice(..cut)).is_err());
            }
            for at in 0..good.len() {
                let mut bad = good.to_vec();
                bad[at] ^= 0xff;
                let _ = decode_batch(bad.clone().into());
                let _ = decode_answers(bad.into());
            }
        }
        let huge = [&[FORMAT][..], &u32::MAX.to_le_bytes()].concat();
        assert_eq!(decode_batch(huge.into()), Err(Malformed));
    }
}
