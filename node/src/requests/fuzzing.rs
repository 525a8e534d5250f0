//! Forwarded requests and their outcomes as functions of bytes; see `crate::fuzzing`.

use super::wire::{Item, decode_outcome, decode_request, encode_outcome, encode_request};
use crate::service::Kind;
use bytes::Bytes;
use multiraft::{GroupId, NodeId, Outcome, Refusal};

/// A forwarded request, or the outcome of one.
pub fn forwarded(data: &[u8]) -> bool {
    let data = Bytes::copy_from_slice(data);
    let request = decode_request(data.clone());
    if let Ok(item) = &request {
        assert_eq!(encode_request(item), data, "requests have one form only");
    }
    let outcome = decode_outcome(data);
    if let Ok(outcome) = &outcome {
        let again = decode_outcome(encode_outcome(outcome));
        assert_eq!(
            again.as_ref(),
            Ok(outcome),
            "what is read can be written and read again"
        );
    }
    request.is_ok() || outcome.is_ok()
}

/// Requests and outcomes.
pub fn forwarded_seeds() -> Vec<Vec<u8>> {
    let payload = Bytes::from_static(b"some command");
    let item = |kind| Item {
        kind,
        group: GroupId(300),
        payload: payload.clone(),
    };
    let outcomes = [
        Outcome::Answered(payload.clone()),
        Outcome::Unknown,
        Outcome::Refused(Refusal::NotLeader(Some(NodeId(3)))),
        Outcome::Refused(Refusal::Overloaded),
    ];
    let requests = [Kind::Read, Kind::Write].map(|kind| encode_request(&item(kind)));
    let outcomes = outcomes.iter().map(encode_outcome);
    requests
        .into_iter()
        .chain(outcomes)
        .map(|bytes| bytes.to_vec())
        .collect()
}
