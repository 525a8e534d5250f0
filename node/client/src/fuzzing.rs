//! The decoders of this crate as functions of bytes. Each says whether it took the bytes for what they should be,
//! and panics when a promise is broken. For fuzzers, and for the tests that replay what they found.

use crate::frames::Frames;
use crate::protocol::{
    Call, Expect, HEAD_BYTES, Malformed, NodeRow, Operation, RangeRow, Reason, Rejection, Request, Response,
    Row, Slice, Status, Versioned,
};
use bytes::{Bytes, BytesMut};

/// A request's payload.
pub fn call(data: &[u8]) -> bool {
    let Ok(call) = Call::decode(data) else {
        return false;
    };
    let mut frame = BytesMut::new();
    call.encode_frame(1, &mut frame);
    let again = Call::decode(&frame[HEAD_BYTES..]);
    assert_eq!(again, Ok(call), "what is read can be written and read again");
    true
}

/// A response's payload.
pub fn response(data: &[u8]) -> bool {
    let Ok(response) = Response::decode(data) else {
        return false;
    };
    let again = response.encode();
    assert_eq!(
        Response::decode(&again),
        Ok(response),
        "what is read can be written and read again"
    );
    true
}

/// A stream of responses: however it is cut into pieces, the same frames come out. The first byte says how.
pub fn frames(data: &[u8]) -> bool {
    let Some((step, stream)) = data.split_first() else {
        return false;
    };
    let whole = cut_all(std::iter::once(stream));
    let pieces = cut_all(stream.chunks(1 + usize::from(*step)));
    assert_eq!(whole, pieces, "a stream reads the same however it arrives");
    whole.1.is_ok()
}

fn cut_all<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(u64, Bytes)>, Result<(), Malformed>) {
    let (mut frames, mut found) = (Frames::default(), Vec::new());
    for piece in pieces {
        frames.push(piece);
        loop {
            match frames.next() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Err(error)),
            }
        }
    }
    (found, Ok(()))
}

/// Requests: one of each kind.
pub fn call_seeds() -> Vec<Vec<u8>> {
    let (key, value) = (Slice(b"key"), Slice(b"\x00value\xff"));
    let cas = |expect, value| Request::Cas { key, expect, value };
    let requests = vec![
        Request::Ping,
        Request::Get { key },
        Request::Put { key, value },
        Request::Delete { key },
        Request::Scan {
            start: key,
            end: Some(value),
            limit: 100,
            values: true,
        },
        cas(Expect::Absent, Some(value)),
        cas(Expect::Present, None),
        cas(Expect::Version(300), Some(value)),
        cas(Expect::Value(value), None),
        Request::Batch {
            operations: vec![Operation::Put(key, value), Operation::Delete(key)],
        },
        Request::Status,
        Request::RangeLs,
        Request::NodeLs,
    ];
    let seed = |request| {
        let mut frame = BytesMut::new();
        let call = Call {
            timeout_ms: 5_000,
            request,
        };
        call.encode_frame(1, &mut frame);
        frame[HEAD_BYTES..].to_vec()
    };
    requests.into_iter().map(seed).collect()
}

fn responses() -> Vec<Response<'static>> {
    let value = Slice(b"value");
    let row = Row {
        key: Slice(b"key"),
        value: Some(value),
    };
    let range = RangeRow {
        id: 2,
        start: b"a".to_vec(),
        end: Some(b"b".to_vec()),
        leader: Some(1),
        voters: vec![1, 2, 3],
        ..RangeRow::default()
    };
    let node = NodeRow {
        id: 1,
        address: "localhost:7400".to_owned(),
        live: true,
        ..NodeRow::default()
    };
    vec![
        Response::Done,
        Response::Value(Some(Versioned { value, version: 3 })),
        Response::Value(None),
        Response::Deleted(true),
        Response::Page {
            rows: vec![row, Row { value: None, ..row }],
            next: Some(value),
        },
        Response::Swapped(4),
        Response::Mismatch(Some(300)),
        Response::Status(Status {
            cluster_id: "0707".to_owned(),
            version: "0.1.0".to_owned(),
            ..Status::default()
        }),
        Response::Ranges(vec![range]),
        Response::Nodes(vec![node]),
        Response::Rejected(Rejection::Refused(Reason::Moved)),
        Response::Rejected(Rejection::Unknown),
        Response::Rejected(Rejection::BadRequest("why".to_owned())),
        Response::Rejected(Rejection::ValueTooLarge(1 << 24)),
        Response::Rejected(Rejection::CrossRange),
    ]
}

/// Responses: one of each kind.
pub fn response_seeds() -> Vec<Vec<u8>> {
    let seed = |response: Response<'_>| response.encode().to_vec();
    responses().into_iter().map(seed).collect()
}

/// Streams of responses.
pub fn frames_seeds() -> Vec<Vec<u8>> {
    let mut stream = BytesMut::new();
    for (number, response) in (1..).zip(responses()) {
        response.encode_frame(number, &mut stream);
    }
    vec![
        [&[0], &stream[..]].concat(),
        [&[6], &stream[..100]].concat(),
        vec![3],
    ]
}
