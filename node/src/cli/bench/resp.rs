//! As much of a Redis client as the bench needs: requests of any number of callers share a connection, replies come
//! back in order. Not reconnected: a lost connection fails its callers from then on.

use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

/// One connection; it ends when this is dropped.
pub(super) struct RespClient {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// A reply, as far as the bench cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Done, or a value.
    Fine,
    /// No such key.
    Nil,
    /// The server's own words.
    Error(String),
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

struct Queue {
    outgoing: BytesMut,
    waiting: VecDeque<oneshot::Sender<Reply>>,
    lost: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }
}

impl Drop for RespClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RespClient {
    /// Connects and authenticates.
    pub(super) async fn connect(endpoint: &str, password: Option<&str>) -> Result<RespClient> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let queue = Queue {
            outgoing: BytesMut::new(),
            waiting: VecDeque::new(),
            lost: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Notify::new(),
        });
        let task = tokio::spawn(serve(shared.clone(), stream)).abort_handle();
        let client = RespClient { shared, task };
        let hello = match password {
            Some(password) => client.call(&[b"AUTH", password.as_bytes()]).await,
            None => client.call(&[b"PING"]).await,
        };
        match hello {
            Some(Reply::Fine) => Ok(client),
            Some(Reply::Error(text)) => Err(Error::new(ErrorKind::PermissionDenied, text)),
            Some(Reply::Nil) | None => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    /// Sends a command; None: the connection was lost before the reply.
    pub(super) async fn call(&self, arguments: &[&[u8]]) -> Option<Reply> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.shared.lock();
            if queue.lost {
                return None;
            }
            encode(arguments, &mut queue.outgoing);
            queue.waiting.push_back(sender);
        }
        self.shared.wake.notify_one();
        receiver.await.ok()
    }
}

fn encode(arguments: &[&[u8]], out: &mut BytesMut) {
    head(b'*', arguments.len(), out);
    for argument in arguments {
        head(b'$', argument.len(), out);
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

fn head(kind: u8, number: usize, out: &mut BytesMut) {
    let mut text = [0; 24];
    let mut rest = &mut text[..];
    write!(rest, "{}{number}\r\n", kind as char).expect("a number fits");
    let unused = rest.len();
    out.extend_from_slice(&text[..text.len() - unused]);
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let (reader, writer) = stream.into_split();
    tokio::select! {
        _ = write(&shared, writer) => {}
        _ = read(&shared, reader) => {}
    }
    let mut queue = shared.lock();
    queue.lost = true;
    queue.waiting.clear();
}

async fn write(shared: &Shared, mut writer: OwnedWriteHalf) -> Result<()> {
    loop {
        let bytes = shared.lock().outgoing.split();
        if bytes.is_empty() {
            shared.wake.notified().await;
        } else {
            writer.write_all(&bytes).await?;
        }
    }
}

async fn read(shared: &Shared, mut reader: OwnedReadHalf) -> Result<()> {
    let mut bytes = BytesMut::with_capacity(64 << 10);
    loop {
        if reader.read_buf(&mut bytes).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        while let Some(reply) = parse(&mut bytes)? {
            let waiting = shared.lock().waiting.pop_front();
            let waiting = waiting.ok_or(ErrorKind::InvalidData)?;
            // A caller that timed out is gone; its reply still takes its place in the order.
            let _ = waiting.send(reply);
        }
        bytes.reserve(16 << 10);
    }
}

/// Takes one whole reply off the front, None if it is not all there.
fn parse(bytes: &mut BytesMut) -> Result<Option<Reply>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let line = &bytes[..end];
    let (reply, length) = match line.first() {
        Some(b'+' | b':') => (Reply::Fine, end + 2),
        Some(b'_') => (Reply::Nil, end + 2),
        Some(b'-') => (
            Reply::Error(String::from_utf8_lossy(&line[1..]).into_owned()),
            end + 2,
        ),
        Some(b'$') if line[1..] == *b"-1" => (Reply::Nil, end + 2),
        Some(b'$') => {
            let digits = std::str::from_utf8(&line[1..]).map_err(|_| ErrorKind::InvalidData)?;
            let size: usize = digits.parse().map_err(|_| ErrorKind::InvalidData)?;
            (Reply::Fine, end + 2 + size + 2)
        }
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    if bytes.len() < length {
        return Ok(None);
    }
    bytes.advance(length);
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = BytesMut::new();
        encode(&[b"SET", b"k", b""], &mut out);
        assert_eq!(&out[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    #[test]
    fn replies_are_taken_whole() {
        let stream = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n-ERR no\r\n:7\r\n";
        let expected = [
            Reply::Fine,
            Reply::Fine,
            Reply::Nil,
            Reply::Error("ERR no".to_string()),
            Reply::Fine,
        ];
        for step in 1..stream.len() {
            let (mut bytes, mut seen) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                bytes.extend_from_slice(piece);
                while let Some(reply) = parse(&mut bytes).expect("sound") {
                    seen.push(reply);
                }
            }
            assert_eq!(seen, expected, "in pieces of {step}");
        }
        assert!(parse(&mut BytesMut::from(&b"?\r\n"[..])).is_err());
        assert!(parse(&mut BytesMut::from(&b"$x\r\n"[..])).is_err());
    }

    #[tokio::test]
    async fn callers_share_a_connection_until_it_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = listener.local_addr().expect("bound").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut seen = BytesMut::new();
            stream.read_buf(&mut seen).await.expect("PING");
            stream.write_all(b"+PONG\r\n").await.expect("sent");
            while !seen.ends_with(b"GET\r\n$1\r\nb\r\n") {
                stream.read_buf(&mut seen).await.expect("requests");
            }
            stream.write_all(b"$1\r\nx\r\n$-1\r\n").await.expect("sent");
        });
        let client = RespClient::connect(&at, None).await.expect("connected");
        let answers = tokio::join!(client.call(&[b"GET", b"a"]), client.call(&[b"GET", b"b"]));
        assert_eq!(answers, (Some(Reply::Fine), Some(Reply::Nil)));
        server.await.expect("the server did its part");
        assert_eq!(client.call(&[b"GET", b"c"]).await, None);
    }
}
