//! The way in: frames, requests, completions and orders find the worker that owns their group, and wake it.
//! Exists before the workers do, so that store and network can be started with it.

use super::clock::HostClock;
use super::desk::ThreadBell;
use crate::event::{Control, Event};
use crate::inbox::{Doorbell, Inbox, InboxLimits, InboxSender};
use crate::network::RaftNetwork;
use crate::receiving::Snapshots;
use crate::snapshot::SnapshotStaging;
use crate::storage::{Completion, CompletionSink};
use crate::types::{GroupId, NodeId, Ticket};
use crate::wire::{self, DecodeError, GroupMessage};
use bytes::Bytes;
use raft_core::ReadPolicy;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The worker that owns a group.
pub fn worker_of(group: GroupId, workers: usize) -> usize {
    usize::try_from(group.0 % workers as u64).expect("less than a usize")
}

/// The way into all workers of a host. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    slots: Arc<[Slot]>,
    clock: HostClock,
}

struct Slot {
    sender: InboxSender,
    bell: Arc<ThreadBell>,
    /// Until the worker's thread takes it.
    inbox: Mutex<Option<Inbox>>,
}

impl Intake {
    /// Inboxes for this many workers.
    pub fn new(workers: usize, limits: InboxLimits) -> Intake {
        assert!(workers > 0, "a host has at least one worker");
        let clock = HostClock::new();
        let slots = (0..workers).map(|_| {
            let bell = Arc::new(ThreadBell::new(clock));
            let (inbox, sender) = Inbox::new(limits, Arc::clone(&bell) as Arc<dyn Doorbell>);
            let inbox = Mutex::new(Some(inbox));
            Slot { sender, bell, inbox }
        });
        Intake {
            slots: slots.collect(),
            clock,
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.slots.len()
    }

    /// The clock all workers share.
    pub fn clock(&self) -> HostClock {
        self.clock
    }

    /// Hands over a frame from `from`, as the transport authenticated it. Decodes on the caller's thread. An error
    /// means that the sender speaks another language or lies: close the link.
    pub fn deliver(&self, from: NodeId, frame: &Bytes) -> Result<(), DecodeError> {
        let messages = wire::decode(frame)?;
        if wire::is_short(frame) {
            let tell = |slot: &Slot| slot.sender.push(Event::Short(from));
            self.slots.iter().for_each(tell);
        }
        if self.slots.len() == 1 {
            self.slots[0].sender.push(Event::Messages { from, messages });
            return Ok(());
        }
        let mut parts: Vec<Vec<GroupMessage>> = self.slots.iter().map(|_| Vec::new()).collect();
        for message in messages {
            parts[worker_of(message.group, self.slots.len())].push(message);
        }
        for (slot, messages) in self.slots.iter().zip(parts) {
            if !messages.is_empty() {
                slot.sender.push(Event::Messages { from, messages });
            }
        }
        Ok(())
    }

    /// Proposes to a group. The ticket is answered once, from the worker's thread or at once from this one.
    pub fn propose(&self, group: GroupId, payload: Bytes, ticket: Ticket) {
        self.sender(group).push(Event::Propose {
            group,
            payload,
            ticket,
        });
    }

    /// Reads from a group, linearizably, if its leader is here. Answered as in `propose`.
    pub fn read(&self, group: GroupId, query: Bytes, ticket: Ticket) {
        self.read_as(group, query, ReadPolicy::Confirmed, ticket);
    }

    /// Reads from a group. Answered as in `propose`.
    pub fn read_as(&self, group: GroupId, query: Bytes, policy: ReadPolicy, ticket: Ticket) {
        self.sender(group).push(Event::Read {
            group,
            query,
            policy,
            ticket,
        });
    }

    /// Hands over many requests to one group under one lock and with one wake.
    pub fn submit(&self, group: GroupId, requests: impl IntoIterator<Item = Event>) {
        self.sender(group).push_all(requests);
    }

    /// Gives an order to the worker it concerns; `Stop` concerns all.
    pub fn order(&self, control: Control) {
        let group = match &control {
            Control::Create(birth) => birth.group,
            Control::Campaign(group)
            | Control::Transfer { group, .. }
            | Control::Change { group, .. }
            | Control::Delay { group, .. }
            | Control::Checkpoint { group, .. }
            | Control::Truncate { group, .. } => *group,
            Control::Stop => return self.stop(),
        };
        self.sender(group).push(Event::Control(control));
    }

    /// Frames of entries to `node` were lost before they left: a lane was full.
    pub fn unreachable(&self, node: NodeId) {
        let tell = |slot: &Slot| slot.sender.push(Event::Unreachable(node));
        self.slots.iter().for_each(tell);
    }

    /// Takes the snapshots that other nodes send, for the transport to hand its streams to.
    pub fn snapshots(&self, staging: Arc<dyn SnapshotStaging>) -> Snapshots {
        let intake = self.clone();
        Snapshots::new(staging, Arc::new(move |group| intake.sender(group).clone()))
    }

    /// The way into one worker's inbox.
    pub(super) fn way_into(&self, worker: usize) -> InboxSender {
        self.slots[worker].sender.clone()
    }

    /// What the store reports worker `worker`'s completions to. What waited for the fsync leaves on the store's
    /// thread, before the worker wakes.
    pub fn sink(&self, worker: usize, network: Arc<dyn RaftNetwork>) -> Arc<dyn CompletionSink> {
        Arc::new(WorkerSink {
            network,
            sender: self.slots[worker].sender.clone(),
        })
    }

    /// Makes the group's worker take a turn, if only to publish.
    pub(super) fn wake(&self, group: GroupId) {
        self.slots[worker_of(group, self.slots.len())].bell.ring();
    }

    pub(super) fn stop(&self) {
        for slot in self.slots.iter() {
            slot.sender.push(Event::Control(Control::Stop));
            slot.bell.wake_thread(); // whoever stops a host may block the deputy's thread until it has stopped
        }
    }

    pub(super) fn take_inbox(&self, worker: usize) -> Inbox {
        let mut inbox = self.slots[worker]
            .inbox
            .lock()
            .expect("taking an inbox never panics");
        inbox.take().expect("an intake serves one host")
    }

    pub(super) fn bell(&self, worker: usize) -> &Arc<ThreadBell> {
        &self.slots[worker].bell
    }

    fn sender(&self, group: GroupId) -> &InboxSender {
        &self.slots[worker_of(group, self.slots.len())].sender
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake")
            .field("workers", &self.slots.len())
            .finish_non_exhaustive()
    }
}

struct WorkerSink {
    network: Arc<dyn RaftNetwork>,
    sender: InboxSender,
}

impl CompletionSink for WorkerSink {
    fn complete(&self, mut completion: Completion) {
        if let Completion::Durable { then_send, .. } = &mut completion {
            for outgoing in std::mem::take(then_send) {
                self.network.send(outgoing);
            }
        }
        self.sender.push(Event::Storage(completion));
    }
}
