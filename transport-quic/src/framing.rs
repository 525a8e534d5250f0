//! Lengths before bytes: gathers messages into few large writes and cuts them out of a stream again.
//! Knows nothing of what the bytes mean.
//!
//! One write per message would cost ten times as much: quinn scans its unacknowledged pieces linearly.

use crate::limits::{OWN_CHUNK_BYTES_MIN, PIECE_BYTES_MAX, READ_BYTES_MAX, TRUSTED_BYTES_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use std::ops::RangeInclusive;
use thiserror::Error;

/// Bytes of a length prefix.
const PREFIX: usize = 4;

/// Why a stream yields no more messages.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// A length outside the limits: garbage, or another protocol.
    #[error("a length of {0} bytes, allowed are {1} to {2}")]
    Length(usize, usize, usize),
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// The connection or the stream is gone.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The connection or the stream the other way is gone.
    #[error("{0}")]
    Write(#[from] WriteError),
}

impl FrameError {
    /// True when the other side broke the protocol, false when it is merely gone.
    pub(crate) fn is_violation(&self) -> bool {
        matches!(self, FrameError::Length(..))
    }
}

/// Messages on their way into one write.
#[derive(Default)]
pub(crate) struct Batch {
    small: BytesMut,
    pieces: Vec<Bytes>,
}

impl Batch {
    /// Begins a message of `length` bytes.
    pub(crate) fn begin(&mut self, length: usize) {
        self.small
            .put_u32(u32::try_from(length).expect("queues refuse what is longer than the limits"));
    }

    /// Adds a number to the message begun.
    pub(crate) fn put_number(&mut self, number: u64) {
        self.small.put_u64(number);
    }

    /// Adds bytes to the message begun: copied when small, shared when large.
    pub(crate) fn put(&mut self, mut chunk: Bytes) {
        if chunk.len() < OWN_CHUNK_BYTES_MIN {
            self.small.extend_from_slice(&chunk);
            return;
        }
        self.cut();
        while chunk.len() > PIECE_BYTES_MAX {
            self.pieces.push(chunk.split_to(PIECE_BYTES_MAX));
        }
        self.pieces.push(chunk);
    }

    /// Writes everything gathered and becomes empty. Not cancel-safe.
    pub(crate) async fn write(&mut self, stream: &mut Stream) -> Result<(), WriteError> {
        self.cut();
        let written = stream.inner.write_all_chunks(&mut self.pieces).await;
        self.pieces.clear();
        written
    }

    fn cut(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    #[cfg(test)]
    pub(crate) fn into_pieces(mut self) -> Vec<Bytes> {
        self.cut();
        self.pieces
    }
}

/// A send stream that is reset when dropped: quinn would finish it, and half a message would look whole.
pub(crate) struct Stream {
    inner: SendStream,
    finished: bool,
}

/// Why a stream was reset: its sender is gone.
const ABANDONED: VarInt = VarInt::from_u32(1);

impl Stream {
    pub(crate) fn new(inner: SendStream) -> Stream {
        Stream {
            inner,
            finished: false,
        }
    }

    /// Writes bytes that are no message. Not cancel-safe.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.inner.write_all(bytes).await
    }

    /// Ends the stream, and returns when the other side has everything, or wants no more.
    pub(crate) async fn end(mut self) -> Result<(), WriteError> {
        self.finished = true;
        // Fails when the connection is gone, which the wait then reports.
        let _ = self.inner.finish();
        match self.inner.stopped().await {
            Ok(_) => Ok(()),
            Err(StoppedError::ConnectionLost(error)) => Err(WriteError::ConnectionLost(error)),
            Err(StoppedError::ZeroRttRejected) => Err(WriteError::ZeroRttRejected),
        }
    }

    /// Ends the stream after what was written; the bytes still travel.
    pub(crate) fn finish(mut self) {
        self.finished = true;
        // Fails when the connection is gone: then there is nothing to end.
        let _ = self.inner.finish();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // Fails when it is reset already, which is as good.
            let _ = self.inner.reset(ABANDONED);
        }
    }
}

/// Cuts messages out of a stream. Each message has a buffer of its own, of exactly its size: what keeps a part of a
/// message keeps nothing else alive.
pub(crate) struct FrameReader {
    stream: RecvStream,
    /// Read and not yet cut.
    chunk: Bytes,
    message: Gathering,
    length: RangeInclusive<usize>,
}

impl FrameReader {
    /// Accepts messages whose length lies in `length`.
    pub(crate) fn new(stream: RecvStream, length: RangeInclusive<usize>) -> FrameReader {
        FrameReader {
            stream,
            chunk: Bytes::new(),
            message: Gathering::default(),
            length,
        }
    }

    /// The next message; None when the stream ended between messages. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(message) = self.message.take_from(&mut self.chunk, &self.length)? {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(READ_BYTES_MAX, true).await? {
                Some(chunk) => self.chunk = chunk.bytes,
                None if self.message.is_empty() => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }
}

/// A message of which some bytes may have arrived.
#[derive(Default)]
pub(crate) struct Gathering {
    prefix: [u8; PREFIX],
    prefix_bytes: usize,
    body: BytesMut,
}

impl Gathering {
    pub(crate) fn is_empty(&self) -> bool {
        self.prefix_bytes == 0
    }

    /// Takes what belongs to the message from the chunk; the message once it is whole.
    pub(crate) fn take_from(
        &mut self,
        chunk: &mut Bytes,
        allowed: &RangeInclusive<usize>,
    ) -> Result<Option<Bytes>, FrameError> {
        let head = chunk.len().min(PREFIX - self.prefix_bytes);
        chunk.copy_to_slice(&mut self.prefix[self.prefix_bytes..self.prefix_bytes + head]);
        self.prefix_bytes += head;
        if self.prefix_bytes < PREFIX {
            return Ok(None);
        }
        let length = u32::from_be_bytes(self.prefix) as usize;
        if !allowed.contains(&length) {
            return Err(FrameError::Length(length, *allowed.start(), *allowed.end()));
        }
        // What is announced gets room at once when it is little, and otherwise as it arrives.
        let missing = length - self.body.len();
        self.body.reserve(missing.min(chunk.len().max(TRUSTED_BYTES_MAX)));
        let part = chunk.split_to(missing.min(chunk.len()));
        self.body.extend_from_slice(&part);
        if part.len() < missing {
            return Ok(None);
        }
        self.prefix_bytes = 0;
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(batch: &mut Batch, chunks: &[Bytes]) {
        batch.begin(chunks.iter().map(Bytes::len).sum());
        chunks.iter().for_each(|chunk| batch.put(chunk.clone()));
    }

    /// Cuts what arrives in steps of `step` bytes.
    fn cut(wire: &[u8], step: usize, allowed: RangeInclusive<usize>) -> Result<Vec<Bytes>, FrameError> {
        let (mut found, mut message) = (Vec::new(), Gathering::default());
        for part in wire.chunks(step) {
            let mut chunk = Bytes::copy_from_slice(part);
            while let Some(whole) = message.take_from(&mut chunk, &allowed)? {
                found.push(whole);
            }
            assert!(chunk.is_empty());
        }
        assert!(message.is_empty(), "the stream ended inside a message");
        Ok(found)
    }

    fn cut_all(wire: &[u8]) -> Vec<Bytes> {
        cut(wire, wire.len(), 0..=usize::MAX).unwrap()
    }

    #[test]
    fn small_messages_share_one_piece_and_large_ones_are_not_copied() {
        let (small, large) = (
            Bytes::from(vec![1; 100]),
            Bytes::from(vec![2; OWN_CHUNK_BYTES_MIN]),
        );
        let mut batch = Batch::default();
        message(&mut batch, std::slice::from_ref(&small));
        message(&mut batch, std::slice::from_ref(&small));
        message(&mut batch, &[small.clone(), large.clone(), small.clone()]);
        let pieces = batch.into_pieces();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(
            cut_all(&pieces.concat()),
            [
                small.clone(),
                small.clone(),
                [&small[..], &large, &small].concat().into()
            ]
        );
    }

    #[test]
    fn huge_chunks_are_cut_into_pieces() {
        let mut batch = Batch::default();
        message(&mut batch, &[Bytes::from(vec![3; 3 * PIECE_BYTES_MAX + 1])]);
        let pieces = batch.into_pieces();
        assert_eq!(pieces.iter().map(Bytes::len).max(), Some(PIECE_BYTES_MAX));
        assert_eq!(cut_all(&pieces.concat()).len(), 1);
    }

    #[test]
    fn messages_come_out_whole_and_alone_however_they_arrive() {
        let messages: Vec<Bytes> = [1usize, 0, 300, 7]
            .iter()
            .map(|&n| Bytes::from(vec![5; n]))
            .collect();
        let mut batch = Batch::default();
        messages
            .iter()
            .for_each(|one| message(&mut batch, std::slice::from_ref(one)));
        let wire = batch.into_pieces().concat();
        for step in 1..=wire.len() {
            assert_eq!(cut(&wire, step, 0..=300).unwrap(), messages);
        }
        let long = cut_all(&wire).swap_remove(2);
        assert!(
            long.try_into_mut().is_ok_and(|own| own.capacity() < 2 * 300),
            "it shares no buffer"
        );
    }

    #[test]
    fn lengths_outside_the_limits_are_refused() {
        let wire = [0, 0, 0, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        assert!(matches!(cut(&wire, 2, 0..=8), Err(FrameError::Length(9, 0, 8))));
        assert!(matches!(cut(&wire, 13, 10..=20), Err(FrameError::Length(9, ..))));
        assert_eq!(cut(&wire, 3, 0..=9).unwrap().len(), 1);
    }

    #[test]
    fn an_announcement_alone_takes_little_room() {
        let mut message = Gathering::default();
        let mut chunk = Bytes::from_static(&[0, 255, 255, 255, 1]);
        assert!(
            message
                .take_from(&mut chunk, &(0..=usize::MAX))
                .unwrap()
                .is_none()
        );
        assert!(message.body.capacity() <= 2 * TRUSTED_BYTES_MAX);
    }
}
