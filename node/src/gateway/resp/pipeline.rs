//! Commands of one connection under way: which requests may be sent, and replies in the order of the commands.
//!
//! **Order.** Reads and writes of one connection to one group never overtake each other: a read is held back while an
//! earlier write is outstanding, and the reverse. Requests of the same kind flow freely, so that a pipeline of pure
//! reads or pure writes is sent at once; groups do not wait for each other.

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
    One {
        group: GroupId,
        kind: Kind,
        bytes: usize,
        shape: Shape,
    },
    Answered(Shape, Outcome),
    Many(Box<Many>),
}

struct Many {
    /// (group, kind, payload bytes) of each part.
    parts: Vec<(GroupId, Kind, usize)>,
    outstanding: usize,
    gather: Gather,
}

/// Requests of this connection to one group.
#[derive(Default)]
struct Lane {
    reads: usize,
    writes: usize,
    waiting: VecDeque<(u64, Request)>,
}

impl Lane {
    fn admits(&self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.writes == 0,
            Kind::Write => self.reads == 0,
        }
    }

    fn outstanding(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
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
                let (group, kind, bytes) = (part.group, part.kind, part.payload.len());
                self.slots.push_back(Slot {
                    manner,
                    state: State::One {
                        group,
                        kind,
                        bytes,
                        shape,
                    },
                });
                self.send(number, part);
            }
            Work::Many(parts, gather) => {
                assert!(parts.len() <= PARTS_MAX, "{} parts", parts.len());
                let many = Many {
                    parts: parts
                        .iter()
                        .map(|part| (part.group, part.kind, part.payload.len()))
                        .collect(),
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
        match &mut slot.state {
            State::One { .. } => {
                let State::One {
                    group,
                    kind,
                    bytes,
                    shape,
                } = std::mem::replace(&mut slot.state, State::Ready(Bytes::new()))
                else {
                    unreachable!("just matched");
                };
                slot.state = State::Answered(shape, outcome);
                self.finished(group, kind, bytes);
            }
            State::Many(_) => self.on_part_answer(at, number, outcome),
            State::Ready(_) | State::Answered(..) => panic!("request {number} was answered twice"),
        }
    }

    fn on_part_answer(&mut self, at: u64, number: u64, outcome: Outcome) {
        let State::Many(many) = &mut self.slots[usize::try_from(at).expect("slots are few")].state else {
            unreachable!("the caller has looked");
        };
        let part = usize::try_from(number).expect("64 bits") & (PARTS_MAX - 1);
        let (group, kind, bytes) = many.parts[part];
        match many.gather.take(Place { part, group }, outcome, &*self.service) {
            Next::Done => {
                many.outstanding -= 1;
                self.finished(group, kind, bytes);
            }
            Next::More(next) => {
                many.parts[part] = (next.group, next.kind, next.payload.len());
                if next.group == group && next.kind == kind {
                    self.bytes = self.bytes - bytes + next.payload.len();
                    let request = self.request(next);
                    self.submit(number, request);
                } else {
                    self.finished(group, kind, bytes);
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
        self.bytes += part.payload.len();
        let (group, kind) = (part.group, part.kind);
        let request = self.request(part);
        let lane = self.lanes.entry(group).or_default();
        if lane.waiting.is_empty() && lane.admits(kind) {
            *lane.outstanding(kind) += 1;
            self.submit(number, request);
        } else {
            lane.waiting.push_back((number, request));
        }
    }

    fn submit(&self, number: u64, request: Request) {
        let ticket = Ticket {
            sink: self.sink.clone(),
            number,
        };
        self.service.submit(request, ticket);
    }

    /// A request to this group was answered: others may go.
    fn finished(&mut self, group: GroupId, kind: Kind, bytes: usize) {
        self.bytes -= bytes;
        let lane = self.lanes.get_mut(&group).expect("the request was counted");
        *lane.outstanding(kind) -= 1;
        let mut ready = Vec::new();
        while lane
            .waiting
            .front()
            .is_some_and(|(_, request)| lane.admits(request.kind))
        {
            let (number, request) = lane.waiting.pop_front().expect("there is a front");
            *lane.outstanding(request.kind) += 1;
            ready.push((number, request));
        }
        if lane.reads + lane.writes == 0 {
            self.lanes.remove(&group);
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
            State::One { .. } => false,
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
            State::One { .. } => unreachable!("only complete slots are written"),
        }
    }
}
