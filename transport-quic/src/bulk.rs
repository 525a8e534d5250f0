//! Bulk streams: each on a connection of its own, at the pace of the node's token bucket, so that the lanes of the link
//! neither wait behind it nor lack room to send. What the bytes are is not known here.
//!
//! # The bytes
//!
//! The sender dials and says a hello with the purpose *bulk*, which only the process that is linked may; then it opens
//! one bidirectional stream. After the stream's header, messages (u32 BE length, body):
//!
//! ```text
//! sender      header         the application's, as it is
//!             0 piece        any number of times
//!             1 u64 u32      the end: bytes of all pieces, their CRC-32
//! receiver    kind answer    once: 0 taken, 1 refused, 2 too many streams; then the sender closes
//! ```
//!
//! A refusal may come at any time. A stream that is reset, ends early or does not match its trailer is forgotten by the
//! receiver. The answer comes back on the stream itself, so that both belong together without a number.

use crate::bucket::Bucket;
use crate::dial::{self, DialError};
use crate::framing::{Batch, FrameError, FrameReader, Stream};
use crate::hello::{self, HelloError, Purpose, StreamKind};
use crate::limits::{
    BULK_ANSWER_TIMEOUT, BULK_BURST, BULK_GOODBYE_TIMEOUT, BULK_IN_MAX, BULK_OUT_MAX, BULK_PIECES_AHEAD,
    BULK_STALL_TIMEOUT, PIECE_BYTES_MAX,
};
use crate::peer::Peer;
use crate::refusal::Code;
use crate::transport::Shared;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use multiraft::bulk::{BULK_ANSWER_BYTES_MAX, BULK_HEADER_BYTES_MAX, BULK_PIECE_BYTES_MAX, refuse_bulk};
use multiraft::{Bulk, BulkHandle, BulkOutcome, BulkReceiver, BulkSource};
use quinn::{Connection, RecvStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PIECE: u8 = 0;
const END: u8 = 1;
const TAKEN: u8 = 0;
const REFUSED: u8 = 1;
const BUSY: u8 = 2;
/// The kind of a message, before its content.
const KIND: usize = 1;

/// What all bulk streams of a node share.
pub(crate) struct BulkRoom {
    bucket: Bucket,
    out: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// Figures of a node's bulk streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkStats {
    /// Streams being sent now.
    pub sending: u64,
    /// Streams being received now.
    pub receiving: u64,
    /// Bytes of pieces handed to connections since the start.
    pub sent_bytes: u64,
    /// Bytes of pieces received since the start.
    pub received_bytes: u64,
}

impl BulkRoom {
    pub(crate) fn new(bytes_per_second: u64) -> BulkRoom {
        BulkRoom {
            bucket: Bucket::new(bytes_per_second, BULK_BURST),
            out: Arc::new(Semaphore::new(BULK_OUT_MAX)),
            incoming: Arc::new(Semaphore::new(BULK_IN_MAX)),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn stats(&self) -> BulkStats {
        BulkStats {
            sending: (BULK_OUT_MAX - self.out.available_permits()) as u64,
            receiving: (BULK_IN_MAX - self.incoming.available_permits()) as u64,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Why a stream did not end with an answer.
#[derive(Debug, Error)]
enum Broken {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("{0}")]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Write(#[from] quinn::WriteError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("no progress for {BULK_STALL_TIMEOUT:?}")]
    Stalled,
    #[error("no answer for {BULK_ANSWER_TIMEOUT:?}")]
    NoAnswer,
    #[error("the peer broke the protocol")]
    Garbled,
}

/// Starts sending a stream. Returns at once.
pub(crate) fn send(shared: &Arc<Shared>, handle: &tokio::runtime::Handle, bulk: Bulk) -> BulkHandle {
    let Some(peer) = shared.peer(bulk.to).filter(|peer| peer.link().is_some()) else {
        return refuse_bulk(bulk, "no link is up");
    };
    if bulk.header.len() > BULK_HEADER_BYTES_MAX {
        return refuse_bulk(bulk, "the header is too long");
    }
    let Ok(room) = shared.bulk.out.clone().try_acquire_owned() else {
        return refuse_bulk(bulk, "too many bulk streams are being sent");
    };
    let (cancel, cancelled) = watch::channel(false);
    let shared = shared.clone();
    handle.spawn(async move {
        let _room = room;
        let (pieces, outcome) = pull(bulk.source);
        let ended = run(&shared, &peer, bulk.header, pieces, cancelled).await;
        // The source's thread waits for it, unless the runtime is gone.
        let _ = outcome.send(ended);
    });
    BulkHandle::new(move || {
        cancel.send_replace(true);
    })
}

/// What a source gives.
enum Pulled {
    Piece(Bytes),
    End,
    Failed(String),
}

/// Pulls pieces on a thread that may block, a few ahead, and tells the source how it ended.
fn pull(mut source: Box<dyn BulkSource>) -> (mpsc::Receiver<Pulled>, oneshot::Sender<BulkOutcome>) {
    let (pieces, pulled) = mpsc::channel(BULK_PIECES_AHEAD);
    let (outcome, ended) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        loop {
            let next = match source.next() {
                Ok(Some(piece)) if piece.is_empty() || piece.len() > BULK_PIECE_BYTES_MAX => {
                    Pulled::Failed(format!("a piece of {} bytes is out of bounds", piece.len()))
                }
                Ok(Some(piece)) => Pulled::Piece(piece),
                Ok(None) => Pulled::End,
                Err(why) => Pulled::Failed(why),
            };
            let last = !matches!(next, Pulled::Piece(_));
            if pieces.blocking_send(next).is_err() || last {
                break;
            }
        }
        let stopping = |_| BulkOutcome::Lost("the node is stopping".to_owned());
        source.ended(ended.blocking_recv().unwrap_or_else(stopping));
    });
    (pulled, outcome)
}

async fn run(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    header: Bytes,
    pieces: mpsc::Receiver<Pulled>,
    mut cancelled: watch::Receiver<bool>,
) -> BulkOutcome {
    let cancelled = async {
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            // The handle is gone, and nobody can cancel any more.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = transfer(shared, peer, header, pieces) => ended,
        () = cancelled => BulkOutcome::Cancelled("cancelled by the sender".to_owned()),
        () = peer.removed() => BulkOutcome::Cancelled("the node is no member any more".to_owned()),
    }
}

async fn transfer(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    header: Bytes,
    pieces: mpsc::Receiver<Pulled>,
) -> BulkOutcome {
    let connection = match dial::connect(shared, peer, Purpose::Bulk, 0).await {
        Ok(greeted) => greeted.connection,
        Err(error) => return BulkOutcome::NotSent(error.to_string()),
    };
    let outcome = talk(shared, &connection, header, pieces).await;
    connection.close(Code::Done.into(), b"the bulk stream has ended");
    outcome.unwrap_or_else(|broken| BulkOutcome::Lost(broken.to_string()))
}

async fn talk(
    shared: &Shared,
    connection: &Connection,
    header: Bytes,
    mut pieces: mpsc::Receiver<Pulled>,
) -> Result<BulkOutcome, Broken> {
    let (send, receive) = connection.open_bi().await?;
    let mut stream = hello::begin(send, StreamKind::Bulk, 0).await?;
    let mut batch = Batch::default();
    batch.begin(header.len());
    batch.put(header);
    batch.write(&mut stream).await?;
    match write_pieces(shared, &mut stream, &mut pieces).await {
        Ok(Written::All) => stream.finish(),
        Ok(Written::Cancelled(why)) => return Ok(BulkOutcome::Cancelled(why)),
        // A receiver that wants no more stops the stream, after its answer.
        Err(Broken::Write(quinn::WriteError::Stopped(_))) => {}
        Err(broken) => return Err(broken),
    }
    let answer = timeout(BULK_ANSWER_TIMEOUT, read_answer(receive)).await;
    answer.map_err(|_| Broken::NoAnswer)?
}

enum Written {
    All,
    Cancelled(String),
}

async fn write_pieces(
    shared: &Shared,
    stream: &mut Stream,
    pieces: &mut mpsc::Receiver<Pulled>,
) -> Result<Written, Broken> {
    let (mut checksum, mut total) = (crc32fast::Hasher::new(), 0_u64);
    let mut batch = Batch::default();
    loop {
        match pieces.recv().await {
            Some(Pulled::Piece(piece)) => {
                checksum.update(&piece);
                total += piece.len() as u64;
                write_piece(shared, stream, &mut batch, piece).await?;
            }
            Some(Pulled::End) => break,
            Some(Pulled::Failed(why)) => return Ok(Written::Cancelled(why)),
            None => return Ok(Written::Cancelled("the source is gone".to_owned())),
        }
    }
    let mut end = BytesMut::new();
    end.put_u8(END);
    end.put_u64(total);
    end.put_u32(checksum.finalize());
    batch.begin(end.len());
    batch.put(end.freeze());
    batch.write(stream).await?;
    Ok(Written::All)
}

/// Small writes at the bucket's pace, so that the one thread of the network is never busy with bulk for long.
async fn write_piece(
    shared: &Shared,
    stream: &mut Stream,
    batch: &mut Batch,
    mut piece: Bytes,
) -> Result<(), Broken> {
    batch.begin(KIND + piece.len());
    batch.put(Bytes::from_static(&[PIECE]));
    while !piece.is_empty() {
        let part = piece.split_to(piece.len().min(PIECE_BYTES_MAX));
        let bytes = part.len();
        shared.bulk.bucket.take(bytes).await;
        batch.put(part);
        let written = timeout(BULK_STALL_TIMEOUT, batch.write(stream)).await;
        written.map_err(|_| Broken::Stalled)??;
        shared.bulk.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn read_answer(stream: RecvStream) -> Result<BulkOutcome, Broken> {
    let mut reader = FrameReader::new(stream, KIND..=KIND + BULK_ANSWER_BYTES_MAX);
    let mut answer = reader.next().await?.ok_or(Broken::Garbled)?;
    let kind = answer.get_u8();
    let words = |answer: &Bytes| String::from_utf8_lossy(answer).into_owned();
    match kind {
        TAKEN => Ok(BulkOutcome::Taken(Bytes::copy_from_slice(&answer))),
        REFUSED => Ok(BulkOutcome::Refused(words(&answer))),
        BUSY => Ok(BulkOutcome::NotSent(words(&answer))),
        _ => Err(Broken::Garbled),
    }
}

/// Serves a bulk connection until its stream is answered, or its peer is no member any more.
pub(crate) async fn serve(shared: Arc<Shared>, peer: Arc<Peer>, connection: Connection) {
    let served = tokio::select! {
        served = receive(&shared, &peer, &connection) => served,
        () = peer.removed() => return connection.close(Code::Removed.into(), b"the node was removed"),
    };
    let peer = peer.id.0;
    match served {
        Ok(()) => {
            // The sender closes when it has read the answer.
            let _ = timeout(BULK_GOODBYE_TIMEOUT, connection.closed()).await;
        }
        Err(reason) => tracing::warn!(peer, %reason, "a bulk stream did not reach its end"),
    }
    connection.close(Code::Done.into(), b"the bulk stream has ended");
}

async fn receive(shared: &Shared, peer: &Peer, connection: &Connection) -> Result<(), Broken> {
    let (send, mut stream) = connection.accept_bi().await?;
    let kind = hello::read_kind(&mut stream).await?;
    if kind != StreamKind::Bulk {
        return Err(HelloError::Unexpected(kind).into());
    }
    let longest = BULK_HEADER_BYTES_MAX.max(KIND + BULK_PIECE_BYTES_MAX);
    let mut reader = FrameReader::new(stream, 0..=longest);
    let header = timeout(BULK_STALL_TIMEOUT, reader.next()).await;
    let header = header.map_err(|_| Broken::Stalled)??.ok_or(Broken::Garbled)?;
    let Ok(_room) = shared.bulk.incoming.clone().try_acquire_owned() else {
        return answer(send, BUSY, b"too many bulk streams are being received").await;
    };
    match shared.sinks.bulk.begin(peer.id, header) {
        Err(words) => answer(send, REFUSED, words.as_bytes()).await,
        Ok(receiver) => match read_pieces(shared, &mut reader, receiver).await? {
            Ok(words) => answer(send, TAKEN, &words).await,
            Err(words) => answer(send, REFUSED, words.as_bytes()).await,
        },
    }
}

/// What a receiver is given.
enum Arrived {
    Piece(Bytes),
    End,
}

/// Reads until the end or until the receiver refuses. An error: it did not get that far, and the receiver is dropped.
async fn read_pieces(
    shared: &Shared,
    reader: &mut FrameReader,
    receiver: Box<dyn BulkReceiver>,
) -> Result<Result<Bytes, String>, Broken> {
    let (pieces, receiving) = hand_over(receiver);
    let (mut checksum, mut total) = (crc32fast::Hasher::new(), 0_u64);
    loop {
        let message = timeout(BULK_STALL_TIMEOUT, reader.next()).await;
        let message = message.map_err(|_| Broken::Stalled)??;
        let arrived = match cut(message.ok_or(Broken::Garbled)?)? {
            Message::Piece(piece) => {
                checksum.update(&piece);
                total += piece.len() as u64;
                let bytes = piece.len() as u64;
                shared.bulk.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                Arrived::Piece(piece)
            }
            Message::End(bytes, sum) if (bytes, sum) == (total, checksum.clone().finalize()) => Arrived::End,
            Message::End(bytes, _) => {
                return Ok(Err(format!(
                    "{total} bytes do not match the trailer of {bytes} bytes"
                )));
            }
        };
        let last = matches!(arrived, Arrived::End);
        // The receiver is gone when it has refused.
        if pieces.send(arrived).await.is_err() || last {
            break;
        }
    }
    let ended = receiving.await.map_err(|_| Broken::Garbled)?;
    Ok(ended)
}

/// Runs a receiver on a thread that may block.
fn hand_over(
    mut receiver: Box<dyn BulkReceiver>,
) -> (mpsc::Sender<Arrived>, JoinHandle<Result<Bytes, String>>) {
    let (pieces, mut arrived) = mpsc::channel(BULK_PIECES_AHEAD);
    let receiving = tokio::task::spawn_blocking(move || {
        while let Some(next) = arrived.blocking_recv() {
            match next {
                Arrived::Piece(piece) => receiver.piece(piece)?,
                Arrived::End => return receiver.finish(),
            }
        }
        Err("the stream did not reach its end".to_owned())
    });
    (pieces, receiving)
}

enum Message {
    Piece(Bytes),
    End(u64, u32),
}

fn cut(mut message: Bytes) -> Result<Message, Broken> {
    let kind = message.try_get_u8().map_err(|_| Broken::Garbled)?;
    match (kind, message.len()) {
        (PIECE, 1..) => Ok(Message::Piece(message)),
        (END, 12) => Ok(Message::End(message.get_u64(), message.get_u32())),
        _ => Err(Broken::Garbled),
    }
}

async fn answer(send: quinn::SendStream, kind: u8, words: &[u8]) -> Result<(), Broken> {
    let mut stream = Stream::new(send);
    let words = &words[..words.len().min(BULK_ANSWER_BYTES_MAX)];
    let mut batch = Batch::default();
    batch.begin(KIND + words.len());
    batch.put(Bytes::copy_from_slice(&[kind]));
    batch.put(Bytes::copy_from_slice(words));
    batch.write(&mut stream).await?;
    stream.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_and_garbage_is_refused() {
        assert!(matches!(cut(Bytes::from_static(b"\x00abc")), Ok(Message::Piece(piece)) if piece == "abc"));
        let end = [&[1][..], &9_u64.to_be_bytes(), &7_u32.to_be_bytes()].concat();
        assert!(matches!(cut(end.clone().into()), Ok(Message::End(9, 7))));
        let garbage: [&[u8]; 5] = [b"", &[PIECE], &[END, 1], &end[..12], &[2, 3]];
        for bytes in garbage {
            assert!(cut(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
