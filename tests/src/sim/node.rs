//! One simulated node: its clock, its disks, its way out, and, while it is up, a process of production workers.

use super::check::replica_of;
use super::clock::{Nanos, NodeClock};
use super::disk::Disk;
use super::machine::Machine;
use super::network::Port;
use super::options::Options;
use super::schedule::Place;
use super::staging::Staging;
use bytes::Bytes;
use multiraft::{
    Birth, Clock, Control, EntryId, Event, GroupId, Inbox, InboxLimits, InboxSender, Instant, Membership,
    NodeId, ReplicaId, RestoredGroup, SilentBell, Snapshots, Stamp, Turn, Worker, WorkerOptions,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node, up or down.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clock: NodeClock,
    /// One per worker.
    pub(super) disks: Vec<Disk>,
    pub(super) port: Port,
    /// Empty while it is down.
    pub(super) seats: Vec<Seat>,
    /// What its process staged.
    pub(super) staging: Staging,
    /// While it is up: the way in for snapshots.
    pub(super) snapshots: Option<Snapshots>,
    /// How often its replica of a group was removed and another came in its place.
    pub(super) incarnations: BTreeMap<GroupId, u64>,
    /// Counts its processes.
    pub(super) life: u64,
    /// Its process does nothing before then.
    pub(super) paused_until: Nanos,
}

/// A worker and the way to it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) worker: Worker<Disk, Port, Machine>,
    pub(super) machine: Machine,
    pub(super) sender: InboxSender,
    inbox: Inbox,
    /// A turn is scheduled.
    pub(super) awake: bool,
    /// The deadline that is scheduled.
    pub(super) timer: Option<Nanos>,
}

/// What a turn reads: time stands still during it.
struct Reading {
    now: Instant,
    stamp: Stamp,
}

impl Clock for Reading {
    fn now(&self) -> Instant {
        self.now
    }

    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

impl Node {
    pub(super) fn is_up(&self) -> bool {
        !self.seats.is_empty()
    }

    /// Its replica of a group, whether that is a member or waits to become one.
    pub(super) fn replica(&self, group: GroupId) -> ReplicaId {
        replica_of(
            group,
            self.id,
            self.incarnations.get(&group).copied().unwrap_or(0),
        )
    }

    /// The way in for snapshots.
    pub(super) fn snapshots(&self) -> &Snapshots {
        self.snapshots.as_ref().expect("the process is up")
    }

    /// The place of a worker in the present life.
    pub(super) fn place(&self, worker: usize) -> Place {
        Place {
            node: self.id,
            worker,
            life: self.life,
        }
    }

    /// True while this life lasts.
    pub(super) fn is_alive(&self, place: Place) -> bool {
        self.is_up() && self.life == place.life
    }

    /// Starts a process on what the disks kept. Groups of a node that never ran are born.
    pub(super) fn start(&mut self, now: Nanos, options: &Options) -> Vec<RestoredGroup> {
        self.life += 1;
        self.paused_until = 0;
        self.staging.clear();
        let mut found = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            let (restored, machine) = disk.lock().open();
            let (inbox, sender) = Inbox::new(InboxLimits::default(), Arc::new(SilentBell));
            let seed = self.id.0 ^ (self.life << 8) ^ ((number as u64) << 32);
            let worker_options = worker_options(options, seed);
            found.extend(restored.iter().cloned());
            let births = self.births(options, number);
            let missing = births
                .into_iter()
                .filter(|birth| restored.iter().all(|group| group.group != birth.group));
            sender.push_all(missing.map(|birth| Event::Control(Control::Create(birth))));
            let mut worker = Worker::new(
                disk.clone(),
                self.port.clone(),
                machine.clone(),
                restored.clone(),
                worker_options,
                self.clock.read(now),
            );
            worker.connect(sender.clone());
            self.seats.push(Seat {
                worker,
                machine,
                sender,
                inbox,
                awake: false,
                timer: None,
            });
        }
        let senders: Vec<InboxSender> = self.seats.iter().map(|seat| seat.sender.clone()).collect();
        let workers = options.workers;
        let way = move |group: GroupId| senders[worker_at(workers, group)].clone();
        self.snapshots = Some(Snapshots::new(Arc::new(self.staging.clone()), Arc::new(way)));
        found
    }

    /// The groups of a worker that are not born here, as they are founded: each has a replica on every node, which waits
    /// to be added where it is no founder.
    fn births(&self, options: &Options, worker: usize) -> Vec<Birth> {
        let groups = (1..=options.groups).map(GroupId);
        let groups = groups.filter(|group| worker_of(options, *group) == worker);
        groups
            .map(|group| Birth {
                group,
                replica: self.replica(group),
                membership: founders(options, group),
                base: EntryId::ZERO,
                split: None,
                descriptor: Bytes::from(format!("range of {group}")),
            })
            .collect()
    }

    /// The process is gone, and what it had not sent with it.
    pub(super) fn stop(&mut self) {
        self.seats.clear();
        self.snapshots = None;
        self.port.take();
    }

    /// Takes a turn.
    pub(super) fn turn(&mut self, worker: usize, now: Nanos) -> Turn {
        let reading = Reading {
            now: self.clock.read(now),
            stamp: self.clock.stamp(now),
        };
        let seat = &mut self.seats[worker];
        seat.awake = false;
        seat.worker.turn(&mut seat.inbox, &reading)
    }
}

fn worker_options(options: &Options, seed: u64) -> WorkerOptions {
    WorkerOptions {
        replica: options.raft.clone(),
        patience: options.raft.election_timeout_max * 2,
        seed,
        ..WorkerOptions::default()
    }
}

/// The members a group begins with.
pub(super) fn founders(options: &Options, group: GroupId) -> Membership {
    let nodes = (1..=options.founders).map(NodeId);
    Membership::of_voters(nodes.map(|node| (replica_of(group, node, 0), node)))
}

/// Which worker a group lives on.
pub(super) fn worker_of(options: &Options, group: GroupId) -> usize {
    worker_at(options.workers, group)
}

fn worker_at(workers: u64, group: GroupId) -> usize {
    usize::try_from(group.0 % workers).expect("a few workers")
}
