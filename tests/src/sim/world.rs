//! The world: nodes, disks, network and clients under one schedule. It pops the next event, lets it happen, shows the
//! checkers what followed, and schedules what that leads to. Clients' part is in `traffic`, faults' in `trouble`.

use super::bugs::Bug;
use super::check::{Checkers, View};
use super::clients::{Answered, Clients};
use super::clock::{MS, Nanos, NodeClock, SECOND, US};
use super::disk::{Disk, Limits};
use super::faults::Plan;
use super::machine::Step;
use super::members::Members;
use super::network::{self, Network, Port};
use super::node::{Node, founders, worker_of};
use super::options::Options;
use super::report::Totals;
use super::rng::Rng;
use super::schedule::{Happening, Place, Schedule};
use super::staging::Staging;
use super::streams::Streams;
use super::transcript::{Transcript, describe};
use super::trouble::{Core, Phase};
use multiraft::wire::GroupMessage;
use multiraft::{Completion, Event, GroupId, Index, NodeId, Outgoing, RoleKind, Status, Term, Turn};
use std::collections::BTreeMap;

/// More turns than any honest run takes: something spins.
const TURNS_MAX: u64 = 3_000_000;

/// Whose disk is slower than the others', in runs that have such a node.
const SLOW_NODE: NodeId = NodeId(1);

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) options: Options,
    pub(super) bug: Option<Bug>,
    pub(super) now: Nanos,
    pub(super) schedule: Schedule,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) plan: Plan,
    pub(super) clients: Clients,
    pub(super) answered: Answered,
    pub(super) checkers: Checkers,
    pub(super) totals: Totals,
    pub(super) transcript: Transcript,
    pub(super) phase: Phase,
    pub(super) members: Members,
    pub(super) streams: Streams,
    /// Who is left out while the rest must serve.
    pub(super) core: Core,
    /// What each replica showed last: leader or not, term, commit.
    shown: BTreeMap<(NodeId, GroupId), (RoleKind, Term, Index)>,
}

impl World {
    /// The world before its first event.
    pub(super) fn new(seed: u64, options: &Options, bug: Option<Bug>, wants_text: bool) -> World {
        let rng = Rng::new(seed).fork("world");
        let nodes: Vec<Node> = (1..=options.nodes)
            .map(|number| {
                found_node(
                    NodeId(number),
                    options,
                    bug,
                    &mut rng.fork(&format!("node {number}")),
                )
            })
            .collect();
        let view = View::new(nodes.iter().map(|node| node.disks.clone()).collect());
        let mut world = World {
            options: options.clone(),
            bug,
            now: 0,
            schedule: Schedule::default(),
            network: Network::new(rng.fork("network"), options.network.clone()),
            plan: Plan::new(rng.fork("faults"), options),
            clients: Clients::new(rng.fork("clients"), options),
            answered: Answered::default(),
            checkers: Checkers::new(view),
            totals: Totals::default(),
            transcript: Transcript::new(wants_text),
            phase: Phase::Safety,
            members: Members::new(
                (1..=options.groups)
                    .map(GroupId)
                    .map(|group| (group, founders(options, group))),
            ),
            streams: Streams::default(),
            core: Core::default(),
            shown: BTreeMap::new(),
            nodes,
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 1..=self.options.nodes {
            self.start(NodeId(node));
        }
        for client in 0..self.options.load.clients {
            let client = usize::try_from(client).expect("a few clients");
            let at = self.rng.below(100 * MS);
            self.schedule.push(at, Happening::Call { client });
        }
        self.plan_faults();
    }

    /// Lets everything happen until the run is over or a property fails.
    pub(super) fn run(&mut self) {
        while self.checkers.found.is_none() && self.phase != Phase::Over {
            let (at, what) = self.schedule.pop().expect("the phases are scheduled");
            self.now = at;
            self.happen(what);
            assert!(self.totals.turns < TURNS_MAX, "too many turns: a worker spins");
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Turn(place) => self.turn(place),
            Happening::Timer(place) => self.ring(place),
            Happening::Synced(place) => self.synced(place),
            Happening::Checkpointed(place) => self.checkpointed(place),
            Happening::Fetched(place) => self.fetched(place),
            Happening::Frame { from, to, messages } => self.receive(from, to, messages),
            Happening::Call { client } => self.call(client),
            Happening::Arrive { number } => self.arrive(number),
            Happening::Answer { number, outcome } => self.finish(number, &outcome),
            Happening::GiveUp { number } => self.give_up(number),
            Happening::Fault(fault) => self.break_something(fault),
            Happening::Restart { node } => self.restart(node),
            Happening::Reconnect => self.reconnect(),
            Happening::Swizzle { from, to, is_cut } => self.swizzle(from, to, is_cut),
            Happening::Carry { number } => self.carry(number),
            Happening::Heal => self.heal(),
            Happening::Judge => self.judge(),
        }
    }

    pub(super) fn node(&mut self, node: NodeId) -> &mut Node {
        let at = usize::try_from(node.0 - 1).expect("a few nodes");
        &mut self.nodes[at]
    }

    /// A process starts on what its disks kept.
    pub(super) fn start(&mut self, node: NodeId) {
        self.replace_removed(node);
        let (now, options) = (self.now, self.options.clone());
        let restored = self.node(node).start(now, &options);
        for group in &restored {
            let worker = worker_of(&options, group.group);
            let state = self.node(node).seats[worker].machine.lock().groups[&group.group].clone();
            self.totals.replayed += group.restored.commit.0 - state.applied.index.0;
            self.checkers
                .on_restarted(node, group.group, state.applied, state.checksum);
        }
        for worker in 0..self.node(node).seats.len() {
            self.wake(node, worker);
        }
    }

    /// Makes sure that a worker gets a turn soon.
    pub(super) fn wake(&mut self, node: NodeId, worker: usize) {
        let delay = self.rng.between(US, 40 * US);
        let now = self.now;
        let node = self.node(node);
        let place = node.place(worker);
        if !std::mem::replace(&mut node.seats[worker].awake, true) {
            self.schedule.push(now + delay, Happening::Turn(place));
        }
    }

    /// Postpones what a paused process would do. True when it may not go on.
    fn is_absent(&mut self, place: Place, what: impl FnOnce(Place) -> Happening) -> bool {
        let node = self.node(place.node);
        if !node.is_alive(place) {
            return true;
        }
        let until = node.paused_until;
        if until > self.now {
            self.schedule.push(until, what(place));
        }
        until > self.now
    }

    fn turn(&mut self, place: Place) {
        if self.is_absent(place, Happening::Turn) {
            return;
        }
        let now = self.now;
        let turn = self.node(place.node).turn(place.worker, now);
        self.totals.turns += 1;
        self.transcript
            .note(now, "turn", &[place.node.0, place.worker as u64], || {
                format!("{} turn of worker {}", place.node, place.worker)
            });
        self.watch_disk(place);
        self.watch_machine(place);
        self.watch_replicas(place);
        self.post(place.node);
        self.collect_answers();
        self.arm(place, &turn);
    }

    fn ring(&mut self, place: Place) {
        let now = self.now;
        let node = self.node(place.node);
        if node.is_alive(place) && node.seats[place.worker].timer == Some(now) {
            node.seats[place.worker].timer = None;
            self.wake(place.node, place.worker);
        }
    }

    /// Schedules the worker's deadline.
    fn arm(&mut self, place: Place, turn: &Turn) {
        let now = self.now;
        let node = self.node(place.node);
        let due = turn
            .deadline
            .map(|deadline| node.clock.when(deadline).max(now + US));
        let seat = &mut node.seats[place.worker];
        if seat.timer != due {
            seat.timer = due;
            if let Some(due) = due {
                self.schedule.push(due, Happening::Timer(place));
            }
        }
    }

    fn disk(&mut self, place: Place) -> Disk {
        self.node(place.node).disks[place.worker].clone()
    }

    /// Shows what the worker asked of its disk, and sets the disk to work.
    fn watch_disk(&mut self, place: Place) {
        let disk = self.disk(place);
        let news = std::mem::take(&mut disk.lock().news);
        for (write, after) in &news.writes {
            self.checkers.on_written(place.node, write, *after);
        }
        for (group, snapshot) in &news.installs {
            self.checkers.on_install(place.node, *group, *snapshot);
        }
        for (group, index) in &news.truncations {
            self.totals.truncations += 1;
            self.checkers.on_truncated(place.node, *group, *index);
        }
        for _ in 0..news.fetches {
            let at = self.now + self.rng.between(50 * US, 2 * MS);
            self.schedule.push(at, Happening::Fetched(place));
        }
        if news.checkpoint_begun {
            if self.bug == Some(Bug::DiskReportsCheckpointsEarly) {
                let early = disk.lock().report_checkpoint_early();
                self.complete(place, early);
            }
            let at = self.now + self.rng.between(MS, 60 * MS);
            self.schedule.push(at, Happening::Checkpointed(place));
        }
        let early = disk.lock().report_early();
        self.complete(place, early);
        self.sync(place);
    }

    /// Begins a sync if something waits for one and none runs.
    fn sync(&mut self, place: Place) {
        let disk = self.disk(place);
        if !disk.lock().begin_sync() {
            return;
        }
        let options = &self.options.disk;
        let mut delay = self.rng.between(options.sync_min, options.sync_max);
        if place.node == SLOW_NODE {
            delay *= options.slow_factor;
        }
        if self.rng.chance(options.stalls) {
            delay += self.rng.between(0, options.stall_max);
        }
        disk.lock().is_full = self.rng.chance(options.full);
        self.schedule.push(self.now + delay, Happening::Synced(place));
    }

    fn synced(&mut self, place: Place) {
        if self.is_absent(place, Happening::Synced) {
            return;
        }
        let disk = self.disk(place);
        self.totals.syncs += 1;
        if self.rng.chance(self.options.disk.failures) {
            self.totals.sync_failures += 1;
            return self.crash_one(place.node); // whatever the disk has of it: the process does not go on
        }
        self.transcript.note(self.now, "sync", &[place.node.0], || {
            format!("{} sync of {} batches", place.node, disk.lock().syncing)
        });
        loop {
            let persisted = disk.lock().persist_next();
            let Some(completions) = persisted else { break };
            self.complete(place, completions);
        }
        self.sync(place);
    }

    fn checkpointed(&mut self, place: Place) {
        if self.is_absent(place, Happening::Checkpointed) {
            return;
        }
        let completion = self.disk(place).lock().end_checkpoint();
        self.totals.checkpoints += 1;
        self.transcript.note(self.now, "checkpoint", &[place.node.0], || {
            format!("{} checkpoint: {completion:?}", place.node)
        });
        if self.bug != Some(Bug::DiskReportsCheckpointsEarly) {
            self.complete(place, completion);
        }
    }

    fn fetched(&mut self, place: Place) {
        if self.is_absent(place, Happening::Fetched) {
            return;
        }
        let completion = self.disk(place).lock().end_fetch();
        self.totals.fetches += 1;
        self.complete(place, completion);
    }

    /// What a completion sink does: what waited for the disk leaves, the rest is for the worker.
    fn complete(&mut self, place: Place, completions: impl IntoIterator<Item = Completion>) {
        for mut completion in completions {
            if let Completion::Durable { then_send, .. } = &mut completion {
                let waited = std::mem::take(then_send);
                waited
                    .into_iter()
                    .for_each(|outgoing| self.send(place.node, &outgoing));
            }
            self.node(place.node).seats[place.worker]
                .sender
                .push(Event::Storage(completion));
            self.wake(place.node, place.worker);
        }
    }

    fn watch_machine(&mut self, place: Place) {
        let news = {
            let seat = &self.node(place.node).seats[place.worker];
            std::mem::take(&mut seat.machine.lock().news)
        };
        for step in &news {
            match step {
                Step::Applied(applied) => {
                    self.checkers.on_applied(place.node, applied);
                    self.members.on_applied(applied);
                }
                Step::Installed(group, snapshot, checksum) => {
                    self.totals.installs += 1;
                    self.checkers
                        .on_installed(place.node, *group, *snapshot, *checksum);
                }
            }
        }
    }

    fn watch_replicas(&mut self, place: Place) {
        let worker = &self.node(place.node).seats[place.worker].worker;
        let groups: Vec<GroupId> = worker.groups().collect();
        for group in groups {
            let worker = &self.node(place.node).seats[place.worker].worker;
            let status = worker.status(group).expect("a listed group");
            let elected = self.checkers.on_status(place.node, group, &status);
            self.totals.elections += u64::from(elected);
            self.show(place.node, group, &status);
        }
    }

    /// Notes a replica's state when it changed.
    fn show(&mut self, node: NodeId, group: GroupId, status: &Status) {
        let state = (status.role, status.hard_state.term, status.commit);
        if self.shown.insert((node, group), state) != Some(state) {
            let numbers = [
                node.0,
                group.0,
                state.1.0,
                state.2.0,
                status.applied.0,
                status.last.index.0,
            ];
            self.transcript.note(self.now, "state", &numbers, || {
                format!(
                    "{node} {group} {:?} t{} last {} durable {} commit {} applied {} truncated {}",
                    status.role,
                    status.hard_state.term,
                    status.last,
                    status.durable,
                    status.commit,
                    status.applied,
                    status.truncated
                )
            });
        }
    }

    /// True if the node showed itself as the group's leader last, in the highest term shown.
    pub(super) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |(at, (role, term, _)): (&(NodeId, GroupId), &(RoleKind, Term, Index))| {
            (at.1 == group && *role == RoleKind::Leader).then_some((*term, at.0))
        };
        self.shown.iter().filter_map(leads).max().map(|(_, node)| node)
    }

    /// A node's memory is gone: what it showed is no longer so.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.shown.retain(|(other, _), _| *other != node);
    }

    /// Puts what a node sent on its way.
    pub(super) fn post(&mut self, node: NodeId) {
        let departures = self.node(node).port.take();
        for outgoing in departures.frames {
            self.send(node, &outgoing);
        }
        for departure in departures.streams {
            self.depart(node, departure);
        }
    }

    fn send(&mut self, from: NodeId, outgoing: &Outgoing) {
        let (to, lane, now) = (outgoing.to, outgoing.lane, self.now);
        let mut messages = network::decode(outgoing);
        self.totals.frames += 1;
        for message in &messages {
            self.transcript
                .note(now, "send", &[from.0, to.0, message.envelope.term.0], || {
                    format!("{from} > {to} {lane:?} {}", describe(message))
                });
            self.checkers.on_sent(from, message);
        }
        network::tamper(self.bug, &mut messages);
        let times = self.network.deliveries(now, from, to, lane);
        match times.as_slice() {
            [] => {
                self.totals.frames_lost += 1;
                self.transcript
                    .note(now, "lost", &[from.0, to.0], || format!("{from} > {to} lost"));
            }
            [_, _, ..] => self.totals.frames_doubled += 1,
            _ => {}
        }
        if let Some((delay, (from, to, messages))) = self.network.replay(from, to, &messages) {
            self.totals.replays += 1;
            self.schedule
                .push(now + delay, Happening::Frame { from, to, messages });
        }
        for at in times {
            let messages = messages.clone();
            self.schedule.push(at, Happening::Frame { from, to, messages });
        }
    }

    fn receive(&mut self, from: NodeId, to: NodeId, messages: Vec<GroupMessage>) {
        if self.network.is_cut(from, to) || !self.node(to).is_up() {
            self.totals.frames_lost += 1;
            return;
        }
        self.transcript.note(
            self.now,
            "receive",
            &[from.0, to.0, messages.len() as u64],
            || format!("{to} < {from} {} messages", messages.len()),
        );
        let mut parts: BTreeMap<usize, Vec<GroupMessage>> = BTreeMap::new();
        for message in messages {
            parts
                .entry(worker_of(&self.options, message.group))
                .or_default()
                .push(message);
        }
        for (worker, messages) in parts {
            self.node(to).seats[worker]
                .sender
                .push(Event::Messages { from, messages });
            self.wake(to, worker);
        }
    }
}

fn found_node(id: NodeId, options: &Options, bug: Option<Bug>, rng: &mut Rng) -> Node {
    let span = u64::try_from(options.clock.drift_ppm).expect("a share");
    let drift = i64::try_from(rng.below(2 * span + 1)).expect("a share") - options.clock.drift_ppm;
    let ahead = rng.between(0, options.clock.wall_ahead_ms);
    // A fault that all replicas share is no disagreement: only one has it.
    let is_spared = bug == Some(Bug::MachineSkipsEntry) && id != NodeId(2);
    let limits = Limits {
        checkpoint_bytes: options.disk.checkpoint_bytes,
        bug: bug.filter(|_| !is_spared),
    };
    let staging = Staging::default();
    let disks = (0..options.workers).map(|_| Disk::new(limits, staging.clone()));
    Node {
        id,
        clock: NodeClock::new(rng.below(1000 * SECOND), drift, ahead),
        disks: disks.collect(),
        staging,
        snapshots: None,
        incarnations: BTreeMap::new(),
        port: Port::default(),
        seats: Vec::new(),
        life: 0,
        paused_until: 0,
    }
}
