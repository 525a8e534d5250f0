//! One TCP connection: one task that reads, lets the session work, and writes all replies that are ready at once.
//! Answers arrive on other threads: they are queued and wake the task once per batch.

use super::limits::READ_BYTES;
use super::session::Session;
use super::{Client, Node};
use bytes::Buf;
use multiraft::{AnswerSink, Outcome};
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// Answers that wait for the connection's task.
#[derive(Default)]
struct Outbox {
    answers: Mutex<Vec<(u64, Outcome)>>,
    wake: Notify,
}

impl AnswerSink for Outbox {
    fn answer(&self, number: u64, outcome: Outcome) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((number, outcome));
        let first = answers.len() == 1;
        drop(answers);
        if first {
            self.wake.notify_one();
        }
    }
}

/// Serves one client until it leaves, is thrown out, or the node stops.
pub(super) async fn run(
    node: Arc<Node>,
    client: Arc<Client>,
    stream: TcpStream,
    shutdown: watch::Receiver<bool>,
) {
    let address = client.address;
    let _ = stream.set_nodelay(true);
    let outbox = Arc::new(Outbox::default());
    let session = Session::new(node.clone(), client, outbox.clone());
    let now = Instant::now();
    let connection = Connection {
        node,
        stream,
        session,
        outbox,
        taken: Vec::new(),
        active: now,
        progressed: now,
        accepted: now,
    };
    if let Err(error) = connection.serve(shutdown).await {
        tracing::debug!(%address, %error, "a Redis client's connection ended");
    }
}

struct Connection {
    node: Arc<Node>,
    stream: TcpStream,
    session: Session,
    outbox: Arc<Outbox>,
    /// Swapped with the outbox, so that neither allocates anew.
    taken: Vec<(u64, Outcome)>,
    /// When input last arrived.
    active: Instant,
    /// When the client last took output, or there was none to take.
    progressed: Instant,
    accepted: Instant,
}

impl Connection {
    async fn serve(mut self, mut shutdown: watch::Receiver<bool>) -> io::Result<()> {
        loop {
            self.advance();
            self.write()?;
            if self.session.is_finished() {
                return Ok(());
            }
            self.wait(&mut shutdown).await?;
        }
    }

    /// Lets the session work until nothing is ready any more.
    fn advance(&mut self) {
        loop {
            std::mem::swap(
                &mut self.taken,
                &mut *self.outbox.answers.lock().unwrap_or_else(PoisonError::into_inner),
            );
            for (number, outcome) in self.taken.drain(..) {
                self.session.on_answer(number, outcome);
            }
            self.session.advance();
            if self
                .outbox
                .answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
            {
                return;
            }
        }
    }

    /// Sends what the socket takes now; then the session may have room to go on.
    fn write(&mut self) -> io::Result<()> {
        while !self.session.out.is_empty() {
            match self.stream.try_write(&self.session.out) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.session.out.advance(written);
                    self.progressed = Instant::now();
                    self.node
                        .options
                        .counters
                        .bytes_out
                        .fetch_add(written as u64, Ordering::Relaxed);
                    if self.session.out.is_empty() {
                        self.advance();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.progressed = Instant::now();
        Ok(())
    }

    /// Waits for input, room for output, answers, the end of the node, or of the client's time.
    async fn wait(&mut self, shutdown: &mut watch::Receiver<bool>) -> io::Result<()> {
        let deadline = self.deadline();
        tokio::select! {
            () = self.outbox.wake.notified() => Ok(()),
            ready = self.stream.readable(), if self.session.wants_input() => {
                ready?;
                self.read()
            }
            ready = self.stream.writable(), if !self.session.out.is_empty() => ready,
            () = expired(deadline) => Err(ErrorKind::TimedOut.into()),
            _ = shutdown.wait_for(|stop| *stop), if self.session.wants_input() => {
                self.session.close();
                Ok(())
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.session.input.reserve(self.session.wanted().max(READ_BYTES));
        match self.stream.try_read_buf(&mut self.session.input) {
            Ok(0) => {
                self.session.close();
                Ok(())
            }
            Ok(read) => {
                self.active = Instant::now();
                self.node
                    .options
                    .counters
                    .bytes_in
                    .fetch_add(read as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// When the client's patience with us, or ours with it, ends.
    fn deadline(&self) -> Option<Instant> {
        let options = &self.node.options;
        let slow = (!self.session.out.is_empty()).then(|| self.progressed + options.write_timeout);
        let stranger =
            (!self.session.is_authenticated()).then(|| self.accepted + options.authentication_timeout);
        let idle = options
            .idle_timeout
            .filter(|_| self.session.wants_input())
            .map(|timeout| self.active + timeout);
        [slow, stranger, idle].into_iter().flatten().min()
    }
}

async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
