//! Where everything for one worker arrives: bounded queues by class, drained whole at the start of a turn.
//! The one place in this crate that is shared between threads outside `host`; what it holds, it moves, never changes.

use crate::event::{Control, Event};
use crate::limits;
use crate::shares::{Shares, is_fair, is_tight};
use crate::types::{GroupId, Instant, Outcome, Refusal};
use crate::wire::GroupMessage;
use raft_core::Message;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// How a push reaches a sleeping worker, and what time it is for whoever pushes.
pub trait Doorbell: Send + Sync {
    /// Wakes the worker. Called by the first push after the worker went to sleep, on the pusher's thread.
    fn ring(&self);
    /// The worker's clock. Read once per turn at most, by the first request after a drain.
    fn now(&self) -> Instant;
}

/// A doorbell for hosts that look for themselves: simulators and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentBell;

impl Doorbell for SilentBell {
    fn ring(&self) {}
    fn now(&self) -> Instant {
        Instant(0)
    }
}

/// How much may wait in one inbox. Of reads and proposals, a group that holds most gets no more before the limit is
/// reached: see `limits::GREED`. Storage completions, news of snapshots and control orders are never refused: the first
/// may not get lost, of the second there are few, the third come from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Raft messages; more are dropped, as the network may.
    pub messages_max: usize,
    /// Bytes of entries in those messages.
    pub message_bytes_max: usize,
    /// Reads; more are answered `Refused(Overloaded)`.
    pub reads_max: usize,
    /// Proposals; more are answered `Refused(Overloaded)`.
    pub proposals_max: usize,
    /// Bytes of reads and proposals together; more are answered `Refused(Overloaded)`.
    pub request_bytes_max: usize,
}

impl Default for InboxLimits {
    fn default() -> InboxLimits {
        InboxLimits {
            messages_max: limits::INBOX_MESSAGES_MAX,
            message_bytes_max: limits::INBOX_MESSAGE_BYTES_MAX,
            reads_max: limits::INBOX_REQUESTS_MAX,
            proposals_max: limits::INBOX_REQUESTS_MAX,
            request_bytes_max: limits::INBOX_REQUEST_BYTES_MAX,
        }
    }
}

/// The worker's end.
pub struct Inbox {
    shared: Arc<Shared>,
    /// Swapped with the shared queues at each drain, so that both keep their room.
    taken: Classes,
}

/// Everyone else's end. Cheap to clone.
#[derive(Clone)]
pub struct InboxSender {
    shared: Arc<Shared>,
}

/// What a drain found.
pub struct Drained<'a> {
    /// By class: storage completions, births, messages, reads, proposals, other control; within a class as they came.
    /// Births come before messages: the first message to a newborn replica may already wait beside its birth.
    pub events: Events<'a>,
    /// When the first read or proposal among them arrived.
    pub oldest_request: Option<Instant>,
}

/// The events of a drain, class by class.
pub struct Events<'a> {
    classes: std::slice::IterMut<'a, Vec<Event>>,
    current: Option<std::vec::Drain<'a, Event>>,
}

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.current.as_mut().and_then(Iterator::next) {
                return Some(event);
            }
            self.current = Some(self.classes.find(|class| !class.is_empty())?.drain(..));
        }
    }
}

impl Inbox {
    /// An empty inbox and the way into it.
    pub fn new(limits: InboxLimits, bell: Arc<dyn Doorbell>) -> (Inbox, InboxSender) {
        let queues = Mutex::new(Queues::default());
        let shared = Arc::new(Shared { queues, bell, limits });
        let taken = Classes::default();
        (
            Inbox {
                shared: Arc::clone(&shared),
                taken,
            },
            InboxSender { shared },
        )
    }

    /// Takes everything that is waiting.
    pub fn drain(&mut self) -> Drained<'_> {
        let oldest_request = {
            let mut queues = self.shared.lock();
            std::mem::swap(&mut queues.classes, &mut self.taken);
            queues.messages = 0;
            queues.message_bytes = 0;
            queues.request_bytes = 0;
            queues.shares = None;
            queues.sleeping = false;
            queues.oldest_request.take()
        };
        Drained {
            events: Events {
                classes: self.taken.iter_mut(),
                current: None,
            },
            oldest_request,
        }
    }

    /// Announces that the worker is about to sleep. True: nothing is waiting, and the next push will ring.
    pub fn listen(&mut self) -> bool {
        let mut queues = self.shared.lock();
        queues.sleeping = queues.classes.iter().all(Vec::is_empty);
        queues.sleeping
    }

    /// Nobody will drain it again: requests that wait or still come are answered `Refused(Stopping)`, the rest is
    /// dropped.
    pub fn close(self) {
        let left = {
            let mut queues = self.shared.lock();
            queues.closed = true;
            std::mem::take(&mut queues.classes)
        };
        left.into_iter()
            .flatten()
            .for_each(|event| refuse(event, Refusal::Stopping));
    }

    /// True when nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.shared.lock().classes.iter().all(Vec::is_empty)
    }

    /// How much is waiting: Raft messages one by one, everything else as it was pushed.
    pub fn len(&self) -> usize {
        let queues = self.shared.lock();
        let others = queues.classes.iter().map(Vec::len).sum::<usize>() - queues.classes[MESSAGES].len();
        queues.messages.max(queues.classes[MESSAGES].len()) + others
    }

    /// Raft messages dropped because too many were waiting, since the start.
    pub fn dropped_messages(&self) -> u64 {
        self.shared.lock().dropped_messages
    }
}

impl InboxSender {
    /// Adds one event.
    pub fn push(&self, event: Event) {
        self.push_all(std::iter::once(event));
    }

    /// Adds events under one lock and with one wake at most.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut refused = Vec::new();
        let wake = {
            let mut queues = self.shared.lock();
            let mut pushed = false;
            for event in events {
                match queues.push(event, &self.shared) {
                    None => pushed = true,
                    Some(refusal) => refused.push(refusal),
                }
            }
            pushed && std::mem::take(&mut queues.sleeping)
        };
        if wake {
            self.shared.bell.ring();
        }
        refused
            .into_iter()
            .for_each(|(event, refusal)| refuse(event, refusal)); // outside the lock: an answer runs the waiter's code
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl fmt::Debug for InboxSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxSender").finish_non_exhaustive()
    }
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Debug for Drained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained").finish_non_exhaustive()
    }
}

/// One queue per class, in the order in which a turn takes them.
type Classes = [Vec<Event>; 6];

const MESSAGES: usize = 2;
const READS: usize = 3;
const PROPOSALS: usize = 4;

struct Shared {
    queues: Mutex<Queues>,
    bell: Arc<dyn Doorbell>,
    limits: InboxLimits,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues
            .lock()
            .expect("nothing panics while it holds the queues")
    }
}

#[derive(Default)]
struct Queues {
    classes: Classes,
    messages: usize,
    message_bytes: usize,
    request_bytes: usize,
    /// Who holds how much, once that matters.
    shares: Option<Shares>,
    sleeping: bool,
    oldest_request: Option<Instant>,
    dropped_messages: u64,
    closed: bool,
}

impl Queues {
    /// Gives the event back when its class is full, or nobody listens.
    fn push(&mut self, event: Event, shared: &Shared) -> Option<(Event, Refusal)> {
        if self.closed {
            return Some((event, Refusal::Stopping));
        }
        let class = class_of(&event);
        let fits = match &event {
            Event::Messages { messages, .. } => self.admit_messages(messages, &shared.limits),
            Event::Read { group, query, .. } => {
                self.admit_request(READS, *group, query.len(), &shared.limits)
            }
            Event::Propose { group, payload, .. } => {
                self.admit_request(PROPOSALS, *group, payload.len(), &shared.limits)
            }
            Event::Short(_) | Event::Unreachable(_) => self.admit_messages(&[], &shared.limits),
            Event::Storage(_) | Event::Snapshot(_) | Event::Control(_) => true,
        };
        if !fits {
            return Some((event, Refusal::Overloaded));
        }
        if matches!(class, READS | PROPOSALS) && self.oldest_request.is_none() {
            self.oldest_request = Some(shared.bell.now());
        }
        self.classes[class].push(event);
        None
    }

    fn admit_request(&mut self, class: usize, group: GroupId, bytes: usize, limits: &InboxLimits) -> bool {
        let max = if class == READS {
            limits.reads_max
        } else {
            limits.proposals_max
        };
        let used = self.classes[class].len();
        let fits = used < max && self.request_bytes + bytes <= limits.request_bytes_max;
        let is_tight = is_tight(used, max) || is_tight(self.request_bytes, limits.request_bytes_max);
        if !fits || (is_tight && !self.leaves_enough(class, group, max, limits)) {
            return false;
        }
        self.request_bytes += bytes;
        if let Some(shares) = &mut self.shares {
            shares.add(group, class - READS, bytes);
        }
        true
    }

    /// Whether what the group holds leaves enough to the others.
    fn leaves_enough(&mut self, class: usize, group: GroupId, max: usize, limits: &InboxLimits) -> bool {
        let used = self.classes[class].len();
        let share = self.shares.get_or_insert_with(|| count(&self.classes)).of(group);
        is_fair(share.requests[class - READS], used, max)
            && is_fair(share.bytes, self.request_bytes, limits.request_bytes_max)
    }

    fn admit_messages(&mut self, messages: &[GroupMessage], limits: &InboxLimits) -> bool {
        let bytes: usize = messages.iter().map(entry_bytes).sum();
        let fits = self.messages + messages.len() <= limits.messages_max
            && self.message_bytes + bytes <= limits.message_bytes_max;
        // One frame always fits into an empty inbox, or it could never get through.
        if fits || self.messages == 0 {
            self.messages += messages.len();
            self.message_bytes += bytes;
            true
        } else {
            self.dropped_messages += messages.len() as u64;
            false
        }
    }
}

/// Who holds how much of the requests that wait.
fn count(classes: &Classes) -> Shares {
    let mut shares = Shares::default();
    for event in classes[READS].iter().chain(&classes[PROPOSALS]) {
        match event {
            Event::Read { group, query, .. } => shares.add(*group, 0, query.len()),
            Event::Propose { group, payload, .. } => shares.add(*group, PROPOSALS - READS, payload.len()),
            _ => {}
        }
    }
    shares
}

fn class_of(event: &Event) -> usize {
    match event {
        Event::Storage(_) => 0,
        Event::Messages { .. } | Event::Short(_) | Event::Unreachable(_) => MESSAGES,
        Event::Read { .. } => READS,
        Event::Propose { .. } => PROPOSALS,
        Event::Control(Control::Create(_)) => 1,
        Event::Snapshot(_) | Event::Control(_) => 5,
    }
}

fn entry_bytes(message: &GroupMessage) -> usize {
    match &message.envelope.message {
        Message::Append { entries, .. } => entries.iter().map(raft_core::Entry::cost).sum(),
        _ => 0,
    }
}

fn refuse(event: Event, refusal: Refusal) {
    match event {
        Event::Read { ticket, .. }
        | Event::Propose { ticket, .. }
        | Event::Control(
            Control::Transfer { ticket, .. }
            | Control::Change { ticket, .. }
            | Control::Checkpoint { ticket, .. },
        ) => ticket.answer(Outcome::Refused(refusal)),
        // Whoever waits for a word on a snapshot sees that none will come.
        Event::Messages { .. }
        | Event::Short(_)
        | Event::Unreachable(_)
        | Event::Storage(_)
        | Event::Snapshot(_)
        | Event::Control(_) => {}
    }
}

#[cfg(test)]
mod tests;
