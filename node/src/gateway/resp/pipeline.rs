//! Commands of one connection under way: which requests may be sent, and replies in the order of the commands.
//!
//! **Order.** Reads and writes of one connection to one group never overtake each other: a read is held back while an
//! earlier write is outstanding, and the reverse. Writes to the same key, and writes to several keys, do not overtake
//! other writes either: the service may resend one of them after another was taken. Everything else flows freely, so
//! that a pipeline of reads, or of writes to different keys, is sent at once; groups do not wait for each other.

use super::gather::{Gather, Next, Place};
use super::limits::{OUTPUT_BYTES_SOFT, PARTS_BITS, PARTS_MAX, PIPELINE_BYTES_MAX, PIPELINE_COMMANDS_MAX};
use super::reply::{Protocol, Reply};
use super::shape::{Shape, refusal_text, write_answer};
use super::table::Spec;
use crate::kv::Answer;
use crate::service::{Kind, Request, Service, Target};
use bytes::{Bytes, BytesMut};
use multiraft::{AnswerSink, GroupId, Outcome, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// One request to one group, before it is sent.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The group, for ordering.
    pub(super) group: GroupId,
    /// How it is routed.
    pub(super) target: Target,
    /// Read or write.
    pub(super) kind: Kind,
    /// The encoded command or query.
    pub(super) payload: Bytes,
    /// Which keys it writes, for ordering.
    pub(super) keys: Keys,
}

/// The keys of a write, as far as order needs them. Reads do not need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// One key, by its hash.
    One(u64),
    /// Several, or all of the group.
    Several,
}

impl Keys {
    /// Of a request for one key.
    pub(super) fn one(key: &[u8]) -> Keys {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        Keys::One(hasher.finish())
    }
}

/// What a command still has to do.
pub(super) enum Work {
    /// Nothing: its reply is written.
    Ready(Bytes),
    /// One request, whose answer has this shape.
    One(Part, Shape),
    /// Several requests.
    Many(Vec<Part>, Gather),
}

/// How a command is replied to.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// The command.
    pub(super) spec: &'static Spec,
    /// In this version of the protocol.
    pub(super) protocol: Protocol,
    /// Not at all (CLIENT REPLY).
    pub(super) silent: bool,
}

/// See the module.
pub(super) struct Pipeline {
    service: Arc<dyn Service>,
    sink: Arc<dyn AnswerSink>,
    timeout: Duration,
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u64,
    lanes: BTreeMap<GroupId, Lane>,
    /// Payload bytes not answered yet.
    bytes: usize,
}

struct Slot {
    manner: Manner,
    state: State,
}

enum State {
    Ready(Bytes),
    One(Claim, Shape),
    Answered(Shape, Outcome),
    Many(Box<Many>),
}

struct Many {
    parts: Vec<Claim>,
    outstanding: usize,
    gather: Gather,
}

/// What an outstanding request keeps others from.
#[derive(Clone, Copy)]
struct Claim {
    group: GroupId,
    kind: Kind,
    keys: Keys,
    /// Of the payload.
    bytes: usize,
}

impl Claim {
    fn of(part: &Part) -> Claim {
        Claim {
            group: part.group,
            kind: part.kind,
            keys: part.keys,
            bytes: part.payload.len(),
        }
    }
}

/// Requests of this connection to one group.
#[derive(Default)]
struct Lane {
    reads: usize,
    /// Outstanding writes to one key each.
    writes: Vec<u64>,
    /// A write to several keys is outstanding.
    several: bool,
    waiting: VecDeque<(u64, Claim, Request)>,
}

impl Lane {
    fn admits(&self, claim: &Claim) -> bool {
        match (claim.kind, claim.keys) {
            (Kind::Read, _) => self.writes.is_empty() && !self.several,
            (Kind::Write, Keys::One(key)) => self.reads == 0 && !self.several && !self.writes.contains(&key),
            (Kind::Write, Keys::Several) => self.is_idle(),
        }
    }

    fn is_idle(&self) -> bool {
        self.reads == 0 && self.writes.is_empty() && !self.several
    }

    fn enter(&mut self, claim: &Claim) {
        match (claim.kind, claim.keys) {
            (Kind::Read, _) => self.reads += 1,
            (Kind::Write, Keys::One(key)) => self.writes.push(key),
            (Kind::Write, Keys::Several) => self.several = true,
        }
    }

    fn leave(&mut self, claim: &Claim) {
        match (claim.kind, claim.keys) {
            (Kind::Read, _) => self.reads -= 1,
            (Kind::Write, Keys::One(key)) => {
                let at = self.writes.iter().position(|other| *other == key);
                self.writes.swap_remove(at.expect("it has entered"));
            }
            (Kind::Write, Keys::Several) => self.several = false,
        }
    }
}

impl Pipeline {
    pub(super) fn new(service: Arc<dyn Service>, sink: Arc<dyn AnswerSink>, timeout: Duration) -> Pipeline {
        Pipeline {
            service,
            sink,
            timeout,
            slots: VecDeque::new(),
            first: 0,
            lanes: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// True while no more commands should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= PIPELINE_COMMANDS_MAX || self.bytes >= PIPELINE_BYTES_MAX
    }

    /// Takes the next command's work and sends what may be sent.
    pub(super) fn push(&mut self, manner: Manner, work: Work) {
        let number = (self.first + self.slots.len() as u64) << PARTS_BITS;
        match work {
            Work::Ready(reply) => self.slots.push_back(Slot {
                manner,
                state: State::Ready(reply),
            }),
            Work::One(part, shape) => {
                let state = State::One(Claim::of(&part), shape);
                self.slots.push_back(Slot { manner, state });
                self.send(number, part);
            }
            Work::Many(parts, gather) => {
                assert!(parts.len() <= PARTS_MAX, "{} parts", parts.len());
                let claims = parts.iter().map(Claim::of).collect();
                let many = Many {
                    parts: claims,
                    outstanding: parts.len(),
                    gather,
                };
                self.slots.push_back(Slot {
                    manner,
                    state: State::Many(Box::new(many)),
                });
                for (at, part) in parts.into_iter().enumerate() {
                    self.send(number | at as u64, part);
                }
            }
        }
    }

    /// An answer has come.
    pub(super) fn on_answer(&mut self, number: u64, outcome: Outcome) {
        let at = (number >> PARTS_BITS)
            .checked_sub(self.first)
            .expect("answered slots are kept until all parts are");
        let slot = &mut self.slots[usize::try_from(at).expect("slots are few")];
        match std::mem::replace(&mut slot.state, State::Ready(Bytes::new())) {
            State::One(claim, shape) => {
                slot.state = State::Answered(shape, outcome);
                self.finished(&claim);
            }
            State::Many(many) => {
                slot.state = State::Many(many);
                self.on_part_answer(at, number, outcome);
            }
            State::Ready(_) | State::Answered(..) => panic!("request {number} was answered twice"),
        }
    }

    fn on_part_answer(&mut self, at: u64, number: u64, outcome: Outcome) {
        let State::Many(many) = &mut self.slots[usize::try_from(at).expect("slots are few")].state else {
            unreachable!("the caller has looked");
        };
        let part = usize::try_from(number).expect("64 bits") & (PARTS_MAX - 1);
        let claim = many.parts[part];
        let place = Place {
            part,
            group: claim.group,
        };
        match many.gather.take(place, outcome, &*self.service) {
            Next::Done => {
                many.outstanding -= 1;
                self.finished(&claim);
            }
            Next::More(next) => {
                let following = Claim::of(&next);
                many.parts[part] = following;
                if (following.group, following.kind, following.keys) == (claim.group, claim.kind, claim.keys)
                {
                    self.bytes = self.bytes - claim.bytes + following.bytes;
                    let request = self.request(next);
                    self.submit(number, request);
                } else {
                    self.finished(&claim);
                    self.send(number, next);
                }
            }
        }
    }

    /// Writes the replies that are due, in order, until the buffer is full enough.
    pub(super) fn drain(&mut self, out: &mut BytesMut) {
        while out.len() < OUTPUT_BYTES_SOFT && self.slots.front().is_some_and(Slot::is_complete) {
            let slot = self.slots.pop_front().expect("there is a front");
            self.first += 1;
            slot.write(out);
        }
    }

    fn request(&self, part: Part) -> Request {
        Request {
            target: part.target,
            kind: part.kind,
            payload: part.payload,
            timeout: self.timeout,
        }
    }

    /// Sends a request now, or when the requests to its group that it must not overtake are answered.
    fn send(&mut self, number: u64, part: Part) {
        let claim = Claim::of(&part);
        self.bytes += claim.bytes;
        let request = self.request(part);
        let lane = self.lanes.entry(claim.group).or_default();
        if lane.waiting.is_empty() && lane.admits(&claim) {
            lane.enter(&claim);
            self.submit(number, request);
        } else {
            lane.waiting.push_back((number, claim, request));
        }
    }

    fn submit(&self, number: u64, request: Request) {
        let ticket = Ticket {
            sink: self.sink.clone(),
            number,
        };
        self.service.submit(request, ticket);
    }

    /// A request was answered: others to its group may go.
    fn finished(&mut self, claim: &Claim) {
        self.bytes -= claim.bytes;
        let lane = self.lanes.get_mut(&claim.group).expect("the request was counted");
        lane.leave(claim);
        let mut ready = Vec::new();
        while lane
            .waiting
            .front()
            .is_some_and(|(_, claim, _)| lane.admits(claim))
        {
            let (number, claim, request) = lane.waiting.pop_front().expect("there is a front");
            lane.enter(&claim);
            ready.push((number, request));
        }
        if lane.is_idle() {
            self.lanes.remove(&claim.group);
        }
        for (number, request) in ready {
            self.submit(number, request);
        }
    }
}

impl Slot {
    fn is_complete(&self) -> bool {
        match &self.state {
            State::Ready(_) | State::Answered(..) => true,
            State::One(..) => false,
            State::Many(many) => many.outstanding == 0,
        }
    }

    fn write(self, out: &mut BytesMut) {
        if self.manner.silent {
            return;
        }
        let mut reply = Reply {
            out,
            protocol: self.manner.protocol,
        };
        match self.state {
            State::Ready(bytes) => reply.out.extend_from_slice(&bytes),
            State::Answered(shape, Outcome::Answered(bytes)) => match Answer::decode(bytes) {
                Some(answer) => write_answer(&mut reply, self.manner.spec, &shape, &answer),
                None => reply.error("ERR the answer is not in a format this node understands"),
            },
            State::Answered(_, other) => reply.error(refusal_text(&other)),
            State::Many(many) => many.gather.write(&mut reply, self.manner.spec),
            State::One(..) => unreachable!("only complete slots are written"),
        }
    }
}
