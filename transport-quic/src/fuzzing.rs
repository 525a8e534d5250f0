//! The decoders of this crate as functions of bytes. Each says whether it took the bytes for what they should be,
//! and panics when a promise is broken. For fuzzers, and for the tests that replay what they found.

use crate::framing::Gathering;
use crate::hello::{Hello, Identity, Purpose, StreamKind, WIRE_VERSIONS};
use crate::identity::{ClusterId, certified_name, cluster_of};
use bytes::Bytes;
use multiraft::NodeId;
use rustls::pki_types::CertificateDer;

/// The longest message that `frames` takes: short, so that limits are met often.
const LENGTH_MAX: usize = 1 << 10;

/// A stream of messages: however it is cut into pieces, the same messages come out. The first byte says how.
pub fn frames(data: &[u8]) -> bool {
    let Some((step, stream)) = data.split_first() else {
        return false;
    };
    let whole = cut_all(std::iter::once(stream));
    let pieces = cut_all(stream.chunks(1 + usize::from(*step)));
    assert_eq!(whole, pieces, "a stream reads the same however it arrives");
    whole.1 == Some(true)
}

/// The messages in a stream, and whether the last one is whole; None if a length is refused.
fn cut_all<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, Option<bool>) {
    let (mut message, mut found) = (Gathering::default(), Vec::new());
    for piece in pieces {
        let mut chunk = Bytes::copy_from_slice(piece);
        loop {
            match message.take_from(&mut chunk, &(2..=LENGTH_MAX)) {
                Ok(Some(whole)) => found.push(whole),
                Ok(None) => break,
                Err(_) => return (found, None),
            }
        }
        assert!(chunk.is_empty(), "what is not a whole message is kept");
    }
    (found, Some(message.is_empty()))
}

/// Streams for `frames`.
pub fn frames_seeds() -> Vec<Vec<u8>> {
    let message = |length: u8| [&[0, 0, 0, length][..], &vec![length; usize::from(length)]].concat();
    vec![
        vec![0],
        [vec![2], message(2), message(100), message(3)].concat(),
        [vec![255], message(50), message(51)].concat(),
    ]
}

/// A hello, and the header of a stream before it.
pub fn hello(data: &[u8]) -> bool {
    if let Some(header) = data.first_chunk()
        && let Ok(kind) = StreamKind::parse(*header)
    {
        assert_eq!(kind.header(), *header);
    }
    let Ok(heard) = Hello::decode(Bytes::copy_from_slice(data)) else {
        return false;
    };
    let again = Hello::decode(heard.hello.encode(WIRE_VERSIONS)).expect("what is written can be read");
    assert_eq!(
        again.hello, heard.hello,
        "what is read can be written and read again"
    );
    true
}

/// Hellos.
pub fn hello_seeds() -> Vec<Vec<u8>> {
    let hello = |node, to, purpose| {
        let us = Identity {
            cluster: ClusterId([7; 16]),
            node: NodeId(node),
            incarnation: 70_000,
            process: u64::MAX,
        };
        Hello::new(&us, NodeId(to), purpose)
            .encode(WIRE_VERSIONS)
            .to_vec()
    };
    vec![hello(1, 2, Purpose::Link), hello(u64::MAX, 300, Purpose::Bulk)]
}

/// A certificate: whose it is, and whether it is a CA's.
pub fn certificate(data: &[u8]) -> bool {
    let certificate = CertificateDer::from(data);
    let name = certified_name(&certificate);
    if let Ok(name) = &name {
        assert!(!name.to_string().is_empty());
    }
    name.is_ok() | cluster_of(&certificate).is_ok()
}
