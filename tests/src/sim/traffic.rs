//! The world's part that carries requests between clients and nodes.

use super::bugs::Bug;
use super::check::{Finished, Kind};
use super::clients::Request;
use super::node::worker_of;
use super::schedule::Happening;
use super::world::World;
use multiraft::{Event, Outcome, Refusal, Ticket};
use std::sync::Arc;

impl World {
    /// A client makes its next request.
    pub(super) fn call(&mut self, client: usize) {
        if self.clients.is_quiet {
            return;
        }
        let now = self.now;
        let request = self.clients.call(client, now);
        let call = request.call;
        self.checkers.on_called(call);
        self.transcript
            .note(now, "call", &[call.number, request.node.0, call.group.0], || {
                format!(
                    "client {client} calls {}: {:?} {} of {} key {}",
                    request.node, call.kind, call.number, call.group, call.key
                )
            });
        let number = call.number;
        let arrival = now + self.clients.travel();
        self.schedule.push(arrival, Happening::Arrive { number });
        self.schedule
            .push(now + self.clients.patience(), Happening::GiveUp { number });
    }

    /// A request reaches its node, which may be down: then nobody took it.
    pub(super) fn arrive(&mut self, number: u64) {
        let Some(request) = self.clients.waiting.get(&number).cloned() else {
            return;
        };
        let (node, now) = (request.node, self.now);
        if !self.node(node).is_up() {
            return self.answer(number, Outcome::Refused(Refusal::Stopping));
        }
        let worker = worker_of(&self.options, request.call.group);
        if self.bug == Some(Bug::GatewayReadsLocally) && request.call.kind == Kind::Read {
            let seat = &self.node(node).seats[worker];
            let answer = seat.machine.lock().look(request.call.group, request.call.key);
            return self.answer(number, Outcome::Answered(answer));
        }
        self.checkers.on_arrived(node, number, now);
        let event = self.event_of(request);
        self.node(node).seats[worker].sender.push(event);
        self.collect_answers();
        self.wake(node, worker);
    }

    fn event_of(&self, request: Request) -> Event {
        let ticket = self.ticket(request.call.number);
        let (group, bytes) = (request.call.group, request.bytes);
        match request.call.kind {
            Kind::Read => Event::Read {
                policy: request.policy,
                group,
                query: bytes,
                ticket,
            },
            Kind::Write => Event::Propose {
                group,
                payload: bytes,
                ticket,
            },
        }
    }

    /// A ticket whose answer comes back to the world.
    pub(super) fn ticket(&self, number: u64) -> Ticket {
        Ticket {
            sink: Arc::new(self.answered.clone()),
            number,
        }
    }

    /// Sends what the workers answered to whom it is for.
    pub(super) fn collect_answers(&mut self) {
        for (number, mut outcome) in self.answered.take() {
            if self.bug == Some(Bug::GatewayLosesAnswers) && number % 50 == 0 {
                continue;
            }
            if self.bug == Some(Bug::GatewayRefusesUnknowns) && outcome == Outcome::Unknown {
                outcome = Outcome::Refused(Refusal::Overloaded);
            }
            self.checkers.on_answered(number);
            self.answer(number, outcome);
        }
    }

    fn answer(&mut self, number: u64, outcome: Outcome) {
        let at = self.now + self.clients.travel();
        self.schedule.push(at, Happening::Answer { number, outcome });
    }

    /// A client hears how its request ended.
    pub(super) fn finish(&mut self, number: u64, outcome: &Outcome) {
        let Some(request) = self.clients.finish(number, outcome) else {
            self.note_order(number, outcome);
            return;
        };
        let now = self.now;
        self.checkers.on_finished(&Finished { number, now, outcome });
        self.transcript.note(now, "answer", &[number], || {
            format!("client {} hears of {number}: {outcome:?}", request.client)
        });
        match (outcome, request.call.kind) {
            (Outcome::Answered(_), Kind::Write) => {
                self.totals.writes += 1;
                self.note_service(&request);
            }
            (Outcome::Answered(_), Kind::Read) => self.totals.reads += 1,
            (Outcome::Refused(_), _) => self.totals.refused += 1,
            (Outcome::Unknown, _) => self.totals.unknown += 1,
        }
        self.call_again(request.client);
    }

    /// A client stops waiting: it will never know.
    pub(super) fn give_up(&mut self, number: u64) {
        if let Some(request) = self.clients.give_up(number) {
            self.totals.unknown += 1;
            if self.bug == Some(Bug::GatewayRefusesUnknowns) {
                let (now, outcome) = (self.now, &Outcome::Refused(Refusal::Overloaded));
                self.checkers.on_finished(&Finished { number, now, outcome });
            }
            self.transcript.note(self.now, "give up", &[number], || {
                format!("client {} gives {number} up", request.client)
            });
            self.call_again(request.client);
        }
    }

    fn call_again(&mut self, client: usize) {
        let at = self.now + self.clients.pause();
        self.schedule.push(at, Happening::Call { client });
    }
}
