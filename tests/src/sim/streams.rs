//! The world's part that carries snapshots: bulk streams between nodes, piece by piece, which break off when either
//! end's process ends or the link between them is cut, and now and then without a reason.

use super::clock::{MS, Nanos, US};
use super::network::Departure;
use super::schedule::Happening;
use super::world::World;
use multiraft::{BulkOutcome, BulkSource, Incoming, NodeId, Question};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Between two looks at whether a worker has answered.
const POLL_EVERY: Nanos = 300 * US;

/// All streams under way.
#[derive(Debug, Default)]
pub(super) struct Streams {
    last: u64,
    open: BTreeMap<u64, Stream>,
}

struct Stream {
    /// The two processes, by node and life.
    from: (NodeId, u64),
    to: (NodeId, u64),
    header: bytes::Bytes,
    source: Box<dyn BulkSource>,
    cancelled: Arc<AtomicBool>,
    stage: Stage,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream from {:?} to {:?}", self.from, self.to)
    }
}

enum Stage {
    /// Nothing has arrived.
    New,
    /// Its first piece has, or all: the receiving worker was asked.
    Offered(Incoming, Question),
    /// Pieces pass.
    Body(Incoming),
    Arrived(Question),
}

/// What a step of a stream led to.
enum Next {
    /// Another step, this much later.
    Step(Nanos),
    End(BulkOutcome),
}

impl World {
    /// A node began a stream.
    pub(super) fn depart(&mut self, from: NodeId, departure: Departure) {
        let Departure { bulk, cancelled } = departure;
        let to = bulk.to;
        self.streams.last += 1;
        let number = self.streams.last;
        self.transcript
            .note(self.now, "stream", &[from.0, to.0, number], || {
                format!("{from} > {to} stream {number} begins")
            });
        let stream = Stream {
            from: (from, self.node(from).life),
            to: (to, self.node(to).life),
            header: bulk.header,
            source: bulk.source,
            cancelled,
            stage: Stage::New,
        };
        self.streams.open.insert(number, stream);
        let delay = self.network.pace();
        self.schedule.push(self.now + delay, Happening::Carry { number });
    }

    /// A stream's next step.
    pub(super) fn carry(&mut self, number: u64) {
        let Some(mut stream) = self.streams.open.remove(&number) else {
            return;
        };
        if !self.is_life(stream.from) {
            return; // nobody is left to hear of the end; the other end forgets what it has
        }
        let pause = self.pause_of(&[stream.from.0, stream.to.0]);
        let next = match pause {
            Some(rest) => Next::Step(rest),
            None => self.step(&mut stream),
        };
        match next {
            Next::Step(delay) => {
                self.streams.open.insert(number, stream);
                self.schedule.push(self.now + delay, Happening::Carry { number });
            }
            Next::End(outcome) => {
                let (from, to) = (stream.from.0, stream.to.0);
                let is_taken = matches!(outcome, BulkOutcome::Taken(_));
                self.totals.snapshots += u64::from(is_taken);
                self.totals.snapshots_broken += u64::from(!is_taken);
                self.transcript
                    .note(self.now, "stream ends", &[from.0, to.0, number], || {
                        format!("{from} > {to} stream {number}: {outcome:?}")
                    });
                stream.source.ended(outcome);
                self.wake_all(from);
            }
        }
    }

    fn is_life(&self, (node, life): (NodeId, u64)) -> bool {
        let node = &self.nodes[super::trouble::at(node)];
        node.is_up() && node.life == life
    }

    /// How long until neither process stands still.
    fn pause_of(&self, nodes: &[NodeId]) -> Option<Nanos> {
        let until = nodes
            .iter()
            .map(|node| self.nodes[super::trouble::at(*node)].paused_until);
        let until = until.max().expect("two nodes");
        until.checked_sub(self.now).filter(|rest| *rest > 0)
    }

    fn wake_all(&mut self, node: NodeId) {
        for worker in 0..self.node(node).seats.len() {
            self.wake(node, worker);
        }
    }

    fn step(&mut self, stream: &mut Stream) -> Next {
        let (from, to) = (stream.from.0, stream.to.0);
        if stream.cancelled.load(Ordering::Relaxed) {
            return Next::End(BulkOutcome::Cancelled("given up".to_owned()));
        }
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        if is_cut || !self.is_life(stream.to) || self.network.breaks() {
            return Next::End(BulkOutcome::Lost("cut".to_owned()));
        }
        match std::mem::replace(&mut stream.stage, Stage::New) {
            Stage::New => self.offer(stream),
            Stage::Offered(mut incoming, question) => match question.poll() {
                None => {
                    stream.stage = Stage::Offered(incoming, question);
                    Next::Step(POLL_EVERY)
                }
                Some(Err(words)) => Next::End(BulkOutcome::Refused(words)),
                Some(Ok(_)) => match incoming.welcome() {
                    Err(words) => Next::End(BulkOutcome::Refused(words)),
                    Ok(()) => {
                        stream.stage = Stage::Body(incoming);
                        Next::Step(self.network.pace())
                    }
                },
            },
            Stage::Body(incoming) => self.pass(stream, incoming),
            Stage::Arrived(question) => match question.poll() {
                None => {
                    stream.stage = Stage::Arrived(question);
                    Next::Step(POLL_EVERY)
                }
                Some(Err(words)) => Next::End(BulkOutcome::Refused(words)),
                Some(Ok(answer)) => Next::End(BulkOutcome::Taken(answer)),
            },
        }
    }

    /// The first piece: is it news?
    fn offer(&mut self, stream: &mut Stream) -> Next {
        let (from, to) = (stream.from.0, stream.to.0);
        let incoming = self.node(to).snapshots().admit(from, &stream.header);
        let asked = incoming.map_err(BulkOutcome::Refused).and_then(|mut incoming| {
            let head = stream.source.next().map_err(BulkOutcome::Cancelled)?;
            let head = head.expect("a stream begins with a head");
            let question = incoming.take(head).map_err(BulkOutcome::Refused)?;
            Ok((incoming, question.expect("the head is a question")))
        });
        match asked {
            Err(outcome) => Next::End(outcome),
            Ok((incoming, question)) => {
                stream.stage = Stage::Offered(incoming, question);
                self.wake_all(to);
                Next::Step(POLL_EVERY)
            }
        }
    }

    /// Another piece, or the end.
    fn pass(&mut self, stream: &mut Stream, mut incoming: Incoming) -> Next {
        let question = match stream.source.next() {
            Err(words) => return Next::End(BulkOutcome::Cancelled(words)),
            Ok(Some(piece)) => {
                if let Err(words) = incoming.take(piece) {
                    return Next::End(BulkOutcome::Refused(words));
                }
                stream.stage = Stage::Body(incoming);
                return Next::Step(self.network.pace() + 10 * US);
            }
            Ok(None) => incoming.arrive(),
        };
        match question {
            Err(words) => Next::End(BulkOutcome::Refused(words)),
            Ok(question) => {
                stream.stage = Stage::Arrived(question);
                self.wake_all(stream.to.0);
                Next::Step(POLL_EVERY.min(MS))
            }
        }
    }
}
