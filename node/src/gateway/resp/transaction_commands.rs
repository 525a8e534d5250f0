//! MULTI and what belongs to it. Commands are queued as they came and run at EXEC: what they ask of their range goes there as
//! one command (`kv::Command::Transaction`), so that it is atomic, and takes effect once or not at all. Therefore all keys,
//! the watched ones included, must share a tag.

use super::call::{Call, Outcome, Refused};
use super::codec::Arguments;
use super::gather::{Gather, Join, Place};
use super::limits::{PAYLOAD_BYTES_MAX, WATCHED_MAX};
use super::pipeline::{Keys, Part, Work};
use super::reply::Reply;
use super::shape::{Shape, write_answer};
use super::table::Spec;
use crate::kv::{Answer, Command, Query, Slice, Step, Watched, tag};
use crate::service::{Kind, Service};
use bytes::{Bytes, BytesMut};
use multiraft::GroupId;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What a connection has queued since MULTI.
#[derive(Default)]
pub(super) struct Transaction {
    queued: Vec<Queued>,
    /// Of the queued commands.
    bytes: usize,
    /// A command was refused: EXEC will be too.
    is_spoilt: bool,
    /// One of its keys.
    key: Option<Bytes>,
}

/// A command that waits for EXEC.
struct Queued {
    spec: &'static Spec,
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

/// Bytes that a queued command takes besides its arguments.
const QUEUED_BYTES: usize = size_of::<Queued>();

/// What WATCH saw.
pub(super) struct Watch {
    keys: Vec<Bytes>,
    /// Unset: not answered yet. None: it failed.
    versions: OnceLock<Option<Vec<Option<u64>>>>,
}

impl Watch {
    /// True once the range has answered.
    pub(super) fn is_settled(&self) -> bool {
        self.versions.get().is_some()
    }

    /// The range's answer; None: there is none.
    pub(super) fn settle(&self, values: Option<Vec<Option<Bytes>>>) {
        let version =
            |bytes: Bytes| u64::from_le_bytes(bytes[..].try_into().expect("a version has eight bytes"));
        let versions = values.map(|values| values.into_iter().map(|value| value.map(version)).collect());
        self.versions.get_or_init(|| versions);
    }

    fn watched(&self) -> Option<impl Iterator<Item = Watched<'_>>> {
        let versions = self.versions.get()?.as_ref()?;
        let pairs = self.keys.iter().zip(versions);
        Some(pairs.map(|(key, version)| Watched {
            key: Slice(key),
            version: *version,
        }))
    }
}

/// True for a command that is done at once also after MULTI.
pub(super) fn is_done_at_once(spec: &Spec) -> bool {
    matches!(
        spec.name,
        "discard" | "exec" | "multi" | "quit" | "reset" | "watch"
    )
}

pub(super) fn multi(call: &mut Call<'_>) -> Outcome {
    if call.standing.transaction.is_some() {
        return Err("ERR MULTI calls can not be nested".into());
    }
    let watched = call.standing.watches.first();
    call.standing.transaction = Some(Transaction {
        key: watched.map(|watch| watch.keys[0].clone()),
        ..Transaction::default()
    });
    call.reply().ok();
    Ok(None)
}

pub(super) fn discard(call: &mut Call<'_>) -> Outcome {
    if call.standing.transaction.is_none() {
        return Err("ERR DISCARD without MULTI".into());
    }
    call.standing.forget_transaction();
    call.reply().ok();
    Ok(None)
}

pub(super) fn watch(call: &mut Call<'_>) -> Outcome {
    if call.standing.transaction.is_some() {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    let first = call.standing.watches.first().map(|watch| watch.keys[0].clone());
    demand_together(first.as_deref().unwrap_or(call.argument(1)), call)?;
    let already: usize = call.standing.watches.iter().map(|watch| watch.keys.len()).sum();
    if already + call.arguments.len() > WATCHED_MAX {
        return Err(format!("ERR a connection watches up to {WATCHED_MAX} keys: UNWATCH some").into());
    }
    let keys: Vec<Slice<'_>> = call.arguments.iter().skip(1).map(Slice).collect();
    let watch = Arc::new(Watch {
        keys: keys.iter().map(|key| Bytes::copy_from_slice(key.0)).collect(),
        versions: OnceLock::new(),
    });
    let query = Query::Versions { keys };
    let part = call.part(call.argument(1), Keys::Several, Kind::Read, query.encode())?;
    call.standing.watches.push(watch.clone());
    Ok(Some(Work::Many(vec![part], Gather::new(Join::Watch(watch)))))
}

pub(super) fn unwatch(call: &mut Call<'_>) -> Outcome {
    call.standing.watches.clear();
    call.reply().ok();
    Ok(None)
}

/// After MULTI: keeps a command for EXEC.
pub(super) fn queue(call: &mut Call<'_>) -> Outcome {
    let spec = call.spec;
    let is_of_all_ranges =
        spec.keys.0 == 0 && (spec.flags.contains(&"readonly") || spec.flags.contains(&"write"));
    if is_of_all_ranges {
        let name = spec.name.to_uppercase();
        return Err(
            format!("CROSSRANGE {name} concerns all ranges: it can not be part of a transaction").into(),
        );
    }
    let transaction = call.standing.transaction.as_ref().expect("there was a MULTI");
    let key = transaction.key.clone();
    let key = key.or_else(|| spec.keys_of(&call.arguments).next().map(Bytes::copy_from_slice));
    if let Some(key) = &key {
        demand_together(key, call)?;
    }
    let queued = Queued::new(spec, call.arguments);
    let transaction = call.standing.transaction.as_mut().expect("there was a MULTI");
    transaction.bytes += queued.bytes.len() + QUEUED_BYTES;
    if transaction.bytes > PAYLOAD_BYTES_MAX {
        return Err(format!("ERR the transaction is longer than {PAYLOAD_BYTES_MAX} bytes").into());
    }
    transaction.key = key;
    transaction.queued.push(queued);
    call.reply().simple("QUEUED");
    Ok(None)
}

fn demand_together(key: &[u8], call: &Call<'_>) -> Result<(), Refused> {
    let mut keys = call.spec.keys_of(&call.arguments);
    if keys.all(|other| tag::together(key, other)) {
        return Ok(());
    }
    Err("CROSSRANGE the keys of a transaction must share a leading {tag}, so that one range holds them all: {user7}name, {user7}mail".into())
}

impl Queued {
    fn new(spec: &'static Spec, arguments: Arguments<'_>) -> Queued {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::with_capacity(arguments.len()));
        for argument in arguments.iter() {
            let start = bytes.len();
            bytes.extend_from_slice(argument);
            ranges.push(start..bytes.len());
        }
        Queued { spec, bytes, ranges }
    }

    /// Runs it: what it replies, or what it asks of its range.
    fn run(&self, call: &mut Call<'_>, out: &mut BytesMut) -> Outcome {
        let mut call = Call {
            node: call.node,
            standing: call.standing,
            spec: self.spec,
            arguments: Arguments::new(&self.bytes, &self.ranges),
            out,
        };
        (self.spec.run)(&mut call)
    }
}

impl Transaction {
    /// Makes EXEC refuse.
    pub(super) fn spoil(&mut self) {
        self.is_spoilt = true;
    }
}

pub(super) fn exec(call: &mut Call<'_>) -> Outcome {
    let Some(transaction) = call.standing.transaction.take() else {
        return Err("ERR EXEC without MULTI".into());
    };
    let watches = std::mem::take(&mut call.standing.watches);
    if transaction.is_spoilt {
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    let mut watched = Vec::new();
    for watch in &watches {
        watched.extend(
            watch
                .watched()
                .ok_or("EXECABORT a WATCH failed: nothing was changed")?,
        );
    }
    let mut plan = Plan::default();
    for queued in &transaction.queued {
        plan.add(call, queued)?;
    }
    if plan.parts.is_empty() && watched.is_empty() {
        plan.replies.write(&mut call.reply());
        return Ok(None);
    }
    let key = transaction.key.expect("what has a key was queued or watched");
    let command = Command::Transaction {
        watched,
        steps: plan.parts.iter().map(step_of).collect(),
    };
    let part = call.part(&key, Keys::Several, Kind::Write, command.encode())?;
    Ok(Some(Work::Many(
        vec![part],
        Gather::new(Join::Transaction(plan.replies)),
    )))
}

fn step_of(part: &Part) -> Step<'_> {
    match part.kind {
        Kind::Read => Step::Read(Slice(&part.payload)),
        Kind::Write => Step::Write(Slice(&part.payload)),
    }
}

/// What EXEC is going to do.
#[derive(Default)]
struct Plan {
    parts: Vec<Part>,
    replies: Replies,
}

impl Plan {
    fn add(&mut self, call: &mut Call<'_>, queued: &Queued) -> Result<(), Refused> {
        let mut out = BytesMut::new();
        let outcome = queued.run(call, &mut out);
        let reply = match outcome {
            Ok(None) => Entry::Ready(out.freeze()),
            Ok(Some(Work::Ready(reply))) => Entry::Ready(reply),
            Ok(Some(Work::One(part, shape))) => {
                self.parts.push(part);
                Entry::Shaped(queued.spec, shape)
            }
            Ok(Some(Work::Many(parts, gather))) => {
                let [part] = <[Part; 1]>::try_from(parts).map_err(|_| CROSSED)?;
                let group = part.group;
                self.parts.push(part);
                Entry::Gathered(queued.spec, group, gather)
            }
            Err(refused) => {
                out.clear();
                let protocol = call.standing.protocol;
                Reply {
                    out: &mut out,
                    protocol,
                }
                .error(&refused.0);
                Entry::Ready(out.freeze())
            }
        };
        self.replies.entries.push(reply);
        Ok(())
    }
}

const CROSSED: &str = "CROSSRANGE a command of the transaction concerns several ranges: nothing was changed";

/// What EXEC replies, once its range has answered.
#[derive(Default)]
pub(super) struct Replies {
    entries: Vec<Entry>,
    /// A watched key had changed: nothing was done.
    is_void: bool,
}

enum Entry {
    Ready(Bytes),
    Shaped(&'static Spec, Shape),
    Answered(&'static Spec, Shape, Answer),
    Gathered(&'static Spec, GroupId, Gather),
}

impl Replies {
    /// A watched key had changed.
    pub(super) fn void(&mut self) {
        self.is_void = true;
    }

    /// Takes the answers of the steps, in order.
    pub(super) fn take(&mut self, answers: Vec<Answer>, service: &dyn Service) {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().expect("one answer a step");
        for entry in &mut self.entries {
            match entry {
                Entry::Ready(_) => {}
                Entry::Shaped(spec, shape) => *entry = Entry::Answered(spec, shape.clone(), next()),
                Entry::Gathered(_, group, gather) => {
                    let place = Place {
                        part: 0,
                        group: *group,
                    };
                    gather.take_answer(place, next(), service); // commands that take several steps are not queued
                }
                Entry::Answered(..) => unreachable!("answers come once"),
            }
        }
    }

    pub(super) fn write(self, reply: &mut Reply<'_>) {
        if self.is_void {
            return reply.null_array();
        }
        reply.array(self.entries.len());
        for entry in self.entries {
            match entry {
                Entry::Ready(bytes) => reply.out.extend_from_slice(&bytes),
                Entry::Answered(spec, shape, answer) => write_answer(reply, spec, &shape, &answer),
                Entry::Gathered(spec, _, gather) => gather.write(reply, spec),
                Entry::Shaped(..) => unreachable!("written once all steps are answered"),
            }
        }
    }
}
