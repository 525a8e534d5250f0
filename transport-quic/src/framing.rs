//! Lengths before bytes: gathers messages into few large writes and cuts them out of a stream again.
//! Knows nothing of what the bytes mean.
//!
//! One write per message would cost ten times as much: quinn scans its unacknowledged pieces linearly.

use crate::limits::{OWN_CHUNK_BYTES_MIN, PIECE_BYTES_MAX, READ_BYTES, READ_STEP_BYTES_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use thiserror::Error;
use tokio::io::AsyncReadExt;

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

/// Cuts messages out of a stream.
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    length: std::ops::RangeInclusive<usize>,
}

impl FrameReader {
    /// Accepts messages whose length lies in `length`.
    pub(crate) fn new(stream: RecvStream, length: std::ops::RangeInclusive<usize>) -> FrameReader {
        FrameReader {
            stream,
            buffer: BytesMut::new(),
            length,
        }
    }

    /// The next message; None when the stream ended between messages. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let wanted = match cut_message(&mut self.buffer, &self.length)? {
                Cut::Message(message) => return Ok(Some(message)),
                Cut::Missing(bytes) => bytes,
            };
            self.buffer.reserve(wanted.clamp(READ_BYTES, READ_STEP_BYTES_MAX));
            if self.read().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Truncated)
                };
            }
        }
    }

    async fn read(&mut self) -> Result<usize, FrameError> {
        let read = self.stream.read_buf(&mut self.buffer).await;
        // quinn wraps its own error for tokio's trait; anything else cannot come out of it.
        read.map_err(|e| match e.downcast::<ReadError>() {
            Ok(error) => FrameError::Read(error),
            Err(_) => FrameError::Read(ReadError::ClosedStream),
        })
    }
}

pub(crate) enum Cut {
    Message(Bytes),
    Missing(usize),
}

pub(crate) fn cut_message(
    buffer: &mut BytesMut,
    allowed: &std::ops::RangeInclusive<usize>,
) -> Result<Cut, FrameError> {
    if buffer.len() < PREFIX {
        return Ok(Cut::Missing(PREFIX - buffer.len()));
    }
    let length = (&buffer[..]).get_u32() as usize;
    if !allowed.contains(&length) {
        return Err(FrameError::Length(length, *allowed.start(), *allowed.end()));
    }
    let have = buffer.len() - PREFIX;
    if have < length {
        return Ok(Cut::Missing(length - have));
    }
    buffer.advance(PREFIX);
    Ok(Cut::Message(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(batch: &mut Batch, chunks: &[Bytes]) {
        batch.begin(chunks.iter().map(Bytes::len).sum());
        chunks.iter().for_each(|chunk| batch.put(chunk.clone()));
    }

    fn cut_all(mut wire: BytesMut) -> Vec<Bytes> {
        let mut found = Vec::new();
        while let Cut::Message(message) = cut_message(&mut wire, &(0..=usize::MAX)).unwrap() {
            found.push(message);
        }
        assert!(wire.is_empty());
        found
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
        let wire = BytesMut::from(pieces.concat().as_slice());
        assert_eq!(
            cut_all(wire),
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
        assert_eq!(cut_all(BytesMut::from(pieces.concat().as_slice())).len(), 1);
    }

    #[test]
    fn lengths_outside_the_limits_are_refused() {
        let mut wire = BytesMut::from(&[0, 0, 0, 9, 1][..]);
        assert!(matches!(
            cut_message(&mut wire.clone(), &(0..=8)),
            Err(FrameError::Length(9, 0, 8))
        ));
        assert!(matches!(
            cut_message(&mut wire.clone(), &(10..=20)),
            Err(FrameError::Length(9, ..))
        ));
        assert!(matches!(cut_message(&mut wire, &(0..=9)), Ok(Cut::Missing(8))));
        assert!(matches!(
            cut_message(&mut BytesMut::new(), &(0..=9)),
            Ok(Cut::Missing(PREFIX))
        ));
    }
}
