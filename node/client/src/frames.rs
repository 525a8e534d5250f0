//! Cuts the bytes of a stream into frames. No I/O.

use crate::limits::RESPONSE_BYTES_MAX;
use crate::protocol::{HEAD_BYTES, Malformed, NUMBER_BYTES};
use bytes::{Buf, Bytes, BytesMut};

/// What has arrived and is not yet a whole frame.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: BytesMut,
}

impl Frames {
    /// More bytes have arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame: number and payload.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Bytes)>, Malformed> {
        let Some(head) = self.bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let mut head = &head[..];
        let length = head.get_u32() as usize;
        let number = head.get_u64();
        let Some(length) = length.checked_sub(NUMBER_BYTES) else {
            return Err(Malformed::Garbage);
        };
        if length > RESPONSE_BYTES_MAX {
            return Err(Malformed::TooLong(length));
        }
        if self.bytes.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD_BYTES);
        Ok(Some((number, self.bytes.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Response;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut stream = BytesMut::new();
        Response::Done.encode_frame(1, &mut stream);
        Response::Swapped(7).encode_frame(2, &mut stream);
        for step in 1..stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                frames.push(piece);
                while let Some((number, payload)) = frames.next().expect("sound") {
                    seen.push((number, payload));
                }
            }
            assert_eq!(
                seen,
                vec![(1, Response::Done.encode()), (2, Response::Swapped(7).encode())]
            );
        }
    }

    #[test]
    fn impossible_lengths_are_refused_at_once() {
        let mut frames = Frames::default();
        frames.push(&[0; HEAD_BYTES]);
        assert_eq!(frames.next(), Err(Malformed::Garbage));
        let mut frames = Frames::default();
        frames.push(&[0xff; HEAD_BYTES]);
        assert_eq!(
            frames.next(),
            Err(Malformed::TooLong(u32::MAX as usize - NUMBER_BYTES))
        );
    }
}
