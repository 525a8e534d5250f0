//! One client's conversation, without its socket: bytes in, requests and replies out, in order.
//! The socket, and waiting, are in `connection.rs`; what commands mean is in `*_commands.rs`.

use super::call::{Call, Refused, as_c_string, wrong_arity};
use super::codec::{Decoder, ProtocolError};
use super::limits::{KEPT_BUFFER_BYTES, OUTPUT_BYTES_SOFT};
use super::pipeline::{Manner, Pipeline, Work};
use super::reply::{Protocol, Reply};
use super::table::{self, COMMANDS, Spec};
use super::transaction_commands::{Transaction, Watch, is_done_at_once, queue};
use super::{Client, Node};
use bytes::{Buf, BytesMut};
use multiraft::{AnswerSink, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a connection has agreed with its client.
pub(super) struct Standing {
    /// The version of the protocol.
    pub(super) protocol: Protocol,
    /// It gave the password, or there is none.
    pub(super) authenticated: bool,
    /// Whether it wants replies.
    pub(super) replies: Replies,
    /// No further commands are taken; the connection ends once all replies are sent.
    pub(super) closing: bool,
    /// What others may know about it.
    pub(super) client: Arc<Client>,
    /// Since MULTI.
    pub(super) transaction: Option<Transaction>,
    /// Since the first WATCH.
    pub(super) watches: Vec<Arc<Watch>>,
}

impl Standing {
    /// Neither MULTI nor WATCH any more.
    pub(super) fn forget_transaction(&mut self) {
        self.transaction = None;
        self.watches.clear();
    }

    /// WATCH reads before what follows it on the connection is looked at: EXEC may follow, and needs what it saw.
    fn is_looking(&self) -> bool {
        self.watches.iter().any(|watch| !watch.is_settled())
    }

    /// An error to a command after MULTI: EXEC must not do a part of what was meant.
    fn spoil(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.spoil();
        }
    }
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    /// Send them.
    On,
    /// Send none.
    Off,
    /// Send none to the next command.
    SkipNext,
}

/// See the module.
pub(super) struct Session {
    node: Arc<Node>,
    standing: Standing,
    decoder: Decoder,
    pipeline: Pipeline,
    /// Bytes received and not yet understood.
    pub(super) input: BytesMut,
    /// Replies not yet sent.
    pub(super) out: BytesMut,
    /// Where a reply is written that must wait for its turn.
    scratch: BytesMut,
}

impl Session {
    pub(super) fn new(node: Arc<Node>, client: Arc<Client>, sink: Arc<dyn AnswerSink>) -> Session {
        let standing = Standing {
            protocol: Protocol::Two,
            authenticated: node.options.password.is_none(),
            replies: Replies::On,
            closing: false,
            client,
            transaction: None,
            watches: Vec::new(),
        };
        Session {
            pipeline: Pipeline::new(node.service.clone(), sink, node.options.request_timeout),
            node,
            standing,
            decoder: Decoder::default(),
            input: BytesMut::new(),
            out: BytesMut::new(),
            scratch: BytesMut::new(),
        }
    }

    /// True if more input is of use now.
    pub(super) fn wants_input(&self) -> bool {
        !self.standing.closing && !self.is_full() && !self.standing.is_looking()
    }

    /// True if every reply has been sent and no more commands will come.
    pub(super) fn is_finished(&self) -> bool {
        self.standing.closing && self.pipeline.is_empty() && self.out.is_empty()
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.standing.authenticated
    }

    /// Takes no more commands.
    pub(super) fn close(&mut self) {
        self.standing.closing = true;
    }

    /// Bytes worth reserving before the next read.
    pub(super) fn wanted(&self) -> usize {
        self.decoder.wanted(self.input.len())
    }

    /// An answer to one of its requests.
    pub(super) fn on_answer(&mut self, number: u64, outcome: Outcome) {
        self.pipeline.on_answer(number, outcome);
    }

    /// Does what can be done with what has arrived: takes commands, sends requests, writes replies.
    pub(super) fn advance(&mut self) {
        self.pipeline.drain(&mut self.out);
        let mut input = std::mem::take(&mut self.input);
        while self.wants_input() {
            match self.decoder.decode(&input, self.standing.authenticated) {
                Ok(None) => break,
                Ok(Some(length)) => {
                    self.execute(&input);
                    input.advance(length);
                    self.decoder.next();
                }
                Err(error) => self.on_protocol_error(&error),
            }
        }
        self.input = keep_or_give_back(input);
        self.pipeline.drain(&mut self.out);
    }

    fn is_full(&self) -> bool {
        self.pipeline.is_full() || self.out.len() >= OUTPUT_BYTES_SOFT
    }

    fn on_protocol_error(&mut self, error: &ProtocolError) {
        self.node
            .options
            .counters
            .protocol_errors
            .fetch_add(1, Ordering::Relaxed);
        self.standing.closing = true;
        let mut reply = Reply {
            out: &mut self.scratch,
            protocol: self.standing.protocol,
        };
        reply.error([b"ERR Protocol error: ", &error.0[..]].concat());
        let silent = self.standing.replies != Replies::On;
        let manner = Manner {
            spec: &UNKNOWN_COMMAND,
            protocol: self.standing.protocol,
            silent,
        };
        self.pipeline
            .push(manner, Work::Ready(self.scratch.split().freeze()));
    }

    /// Runs the command that the decoder has completed.
    fn execute(&mut self, input: &BytesMut) {
        let arguments = self.decoder.arguments(input);
        if arguments.len() == 0 {
            return;
        }
        let before = self.standing.replies;
        if before == Replies::SkipNext {
            self.standing.replies = Replies::On;
        }
        let spec = match table::find(arguments.get(0)) {
            Some(at) => {
                self.node.options.counters.commands[at].fetch_add(1, Ordering::Relaxed);
                &COMMANDS[at]
            }
            None => &UNKNOWN_COMMAND,
        };
        let direct = self.pipeline.is_empty();
        let out = if direct { &mut self.out } else { &mut self.scratch };
        let start = out.len();
        let mut call = Call {
            node: &self.node,
            standing: &mut self.standing,
            spec,
            arguments,
            out,
        };
        let is_queued = call.standing.transaction.is_some() && !is_done_at_once(spec);
        let run = if is_queued && !spec.name.is_empty() {
            queue
        } else {
            spec.run
        };
        let outcome = check(&call).and_then(|()| run(&mut call));
        let work = outcome.unwrap_or_else(|refused| {
            call.node.options.counters.errors.fetch_add(1, Ordering::Relaxed);
            call.out.truncate(start);
            call.reply().error(&refused.0);
            if is_queued {
                call.standing.spoil();
            }
            None
        });
        let silent = before == Replies::SkipNext || self.standing.replies != Replies::On;
        let manner = Manner {
            spec,
            protocol: self.standing.protocol,
            silent,
        };
        match work {
            Some(work) => self.pipeline.push(manner, work),
            None if direct && silent => self.out.truncate(start),
            None if direct => {}
            None => self
                .pipeline
                .push(manner, Work::Ready(self.scratch.split().freeze())),
        }
    }
}

/// Stands for every name that is not in the table.
static UNKNOWN_COMMAND: Spec = Spec {
    name: "",
    arity: -1,
    flags: &[],
    keys: (0, 0, 0),
    group: "",
    summary: "",
    subcommands: &[],
    run: unknown_command,
};

/// What an HTTP request looks like here. A web page can make a browser send one to a loopback port, with commands in
/// its body: nothing after it is executed (as in Redis).
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn unknown_command(call: &mut Call<'_>) -> super::call::Outcome {
    const SHOWN_MAX: usize = 128;
    if is_http(call.argument(0)) {
        call.standing.closing = true;
        return Err("ERR this port speaks the Redis protocol, not HTTP".into());
    }
    let mut shown = Vec::new();
    for at in 1..call.arguments.len() {
        if shown.len() >= SHOWN_MAX {
            break;
        }
        let argument = as_c_string(call.argument(at), SHOWN_MAX - shown.len());
        shown.extend_from_slice(&[b"'", argument, b"' "].concat());
    }
    let name = as_c_string(call.argument(0), SHOWN_MAX);
    let error = [
        b"ERR unknown command '",
        name,
        b"', with args beginning with: ",
        &shown,
    ];
    Err(Refused(error.concat().into()))
}

/// What holds for every command: arity, authentication, lengths of keys and values.
fn check(call: &Call<'_>) -> Result<(), Refused> {
    let (spec, count) = (call.spec, call.arguments.len());
    if !spec.takes(count) {
        return Err(wrong_arity(spec.name));
    }
    if !call.standing.authenticated && !spec.is_open() && !spec.name.is_empty() {
        return Err("NOAUTH Authentication required.".into());
    }
    let longest = spec.keys_of(&call.arguments).map(<[u8]>::len).max().unwrap_or(0);
    check_length("key", longest, call.node.options.key_bytes_max)?;
    let longest = call.arguments.iter().map(<[u8]>::len).max().unwrap_or(0);
    check_length("argument", longest, call.node.options.value_bytes_max)
}

fn check_length(what: &str, length: usize, length_max: usize) -> Result<(), Refused> {
    if length <= length_max {
        return Ok(());
    }
    Err(format!("ERR {what} too long: {length} bytes, this node takes up to {length_max}").into())
}

/// The buffer for the next read: a large one that is empty is not kept.
fn keep_or_give_back(input: BytesMut) -> BytesMut {
    if input.is_empty() && input.capacity() > KEPT_BUFFER_BYTES {
        BytesMut::new()
    } else {
        input
    }
}
