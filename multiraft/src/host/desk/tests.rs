//! What a deputy leaves to the worker's thread, one case at a time, without threads.

use super::*;
use crate::event::{Control, Event};
use crate::inbox::{InboxLimits, InboxSender};
use crate::storage::{Birth, Completion, CompletionSink};
use crate::testing::{MemDisk, MemLink, MemNetwork, MemStorage, SyncMode, Tally};
use crate::types::{EntryId, GroupId, Membership, NodeId, ReplicaId};
use crate::worker::WorkerOptions;
use bytes::Bytes;

type TestDesk = Desk<MemStorage, MemLink, Tally>;

fn desk() -> (TestDesk, InboxSender) {
    desk_with(WorkerOptions::default())
}

fn desk_with(options: WorkerOptions) -> (TestDesk, InboxSender) {
    let clock = HostClock::new();
    let bell = Arc::new(ThreadBell::new(clock));
    let (inbox, sender) = Inbox::new(
        InboxLimits::default(),
        Arc::clone(&bell) as Arc<dyn crate::inbox::Doorbell>,
    );
    let disk = MemDisk::new(SyncMode::AtOnce);
    disk.start(vec![Arc::new(Back(sender.clone()))]);
    let link = MemNetwork::new().link(NodeId(1));
    let (storage, machine) = (disk.storage(0), Tally::new(disk.clone()));
    let worker = Worker::new(storage, link, machine, Vec::new(), options, clock.now());
    let seat = Seat {
        number: 0,
        worker,
        inbox,
        clock,
        observer: Arc::new(()),
        watches: Arc::new(Watches::new(1)),
        due: None,
        is_due: false,
    };
    (Desk::new(bell, seat), sender)
}

struct Back(InboxSender);

impl CompletionSink for Back {
    fn complete(&self, completion: Completion) {
        self.0.push(Event::Storage(completion));
    }
}

fn birth() -> Event {
    Event::Control(Control::Create(Birth {
        group: GroupId(1),
        replica: ReplicaId(1),
        membership: Membership::of_voters((1..=3).map(|node| (ReplicaId(node), NodeId(node)))),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    }))
}

fn help_until_done(desk: &TestDesk) -> Next {
    loop {
        let next = desk.help_once(true);
        if next != Next::Again {
            return next;
        }
    }
}

#[test]
fn a_turn_that_ends_with_an_earlier_deadline_wakes_the_thread() {
    let (desk, sender) = desk();
    assert_eq!(help_until_done(&desk), Next::Rest, "nothing is ever due yet");
    sender.push(birth());
    assert_eq!(help_until_done(&desk), Next::Thread, "an election is due one day");
    desk.alarm.store(0, Ordering::Release);
    assert_eq!(help_until_done(&desk), Next::Rest, "the thread wakes before that");
}

#[test]
fn a_taken_seat_and_a_full_inbox_are_left_to_the_thread() {
    let (desk, sender) = desk();
    let seat = desk.seat.lock().unwrap();
    assert_eq!(desk.help_once(true), Next::Thread);
    drop(seat);
    for _ in 0..=WorkerOptions::default().deputy_events_max {
        sender.push(Event::Short(NodeId(2)));
    }
    assert_eq!(desk.help_once(true), Next::Thread);
    assert_eq!(
        desk.seat
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .worker
            .counters()
            .turns,
        0
    );
}

#[test]
fn a_stopped_worker_is_closed_by_its_thread() {
    let (desk, sender) = desk();
    sender.push(Event::Control(Control::Stop));
    assert_eq!(desk.help_once(true), Next::Again);
    assert_eq!(desk.help_once(true), Next::Thread);
    desk.work();
    assert_eq!(desk.help_once(true), Next::Stopped);
}

#[test]
fn a_deputy_that_takes_all_leaves_no_full_inbox_to_the_thread() {
    let (desk, sender) = desk_with(WorkerOptions {
        deputy_events_max: usize::MAX,
        ..WorkerOptions::default()
    });
    for _ in 0..100 {
        sender.push(Event::Short(NodeId(2)));
    }
    assert_eq!(help_until_done(&desk), Next::Rest);
}

#[test]
fn a_worker_stops_while_the_deputy_that_takes_all_does_not_run() {
    let (desk, sender) = desk_with(WorkerOptions {
        deputy_events_max: usize::MAX,
        ..WorkerOptions::default()
    });
    desk.bell.is_helped.store(true, Ordering::Release);
    sender.push(Event::Control(Control::Stop));
    desk.work();
    assert_eq!(desk.help_once(true), Next::Stopped);
}
