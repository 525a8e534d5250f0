//! The one loop that writes a queue to a stream: frames of a lane, calls, replies. What waits is taken at once
//! and written at once; nobody who queues ever waits for it.

use crate::framing::{Batch, FrameError, Stream};
use bytes::Bytes;
use multiraft::Frame;
use tokio::sync::Notify;

/// A queue that a stream is fed from.
pub(crate) trait Outbound {
    /// Adds what fits into one write, or nothing when nothing waits.
    fn take(&self, batch: &mut Vec<Message>) -> More;

    /// Told when the queue stops being empty, or closes.
    fn wake(&self) -> &Notify;
}

/// Whether a queue will have something to write again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// It may: wait for it.
    Later,
    /// It will not: the stream ends behind what was taken.
    Never,
}

/// What goes behind one length on a stream.
pub(crate) enum Message {
    /// A frame of a lane, as it is.
    Frame(Frame),
    /// A call or reply: the number, then the payload.
    Numbered(u64, Bytes),
}

impl Message {
    fn put(self, batch: &mut Batch) {
        match self {
            Message::Frame(frame) => {
                batch.begin(frame.len());
                frame.chunks.into_iter().for_each(|chunk| batch.put(chunk));
            }
            Message::Numbered(number, payload) => {
                batch.begin(size_of_val(&number) + payload.len());
                batch.put_number(number);
                batch.put(payload);
            }
        }
    }
}

/// Writes until the queue ends, then ends the stream and waits until the other side has everything.
pub(crate) async fn write_all(queue: &impl Outbound, mut stream: Stream) -> Result<(), FrameError> {
    let mut taken = Vec::new();
    let mut batch = Batch::default();
    loop {
        let more = queue.take(&mut taken);
        if taken.is_empty() {
            match more {
                More::Later => queue.wake().notified().await,
                More::Never => break,
            }
            continue;
        }
        taken.drain(..).for_each(|message| message.put(&mut batch));
        batch.write(&mut stream).await?;
        // A write is done as soon as quinn has the bytes; let its driver send them before more are gathered.
        tokio::task::yield_now().await;
    }
    Ok(stream.end().await?)
}
