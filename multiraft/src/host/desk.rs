//! Who takes a worker's next turn: its own thread, or, while little waits, the thread that brought the work.
//!
//! A lone request passes from thread to thread four times on the leader and twice on a follower if every turn needs the
//! worker's thread; each change costs about as much as the turn. So a runtime whose threads deliver frames and requests may
//! run [`Desk::help`]: what arrives there is then turned over there, as long as it is little. A busy worker is left to its own
//! thread: turns and deliveries go on in parallel. A turn is the same function wherever it runs; the seat admits one at a time.

use super::Observer;
use super::clock::HostClock;
use super::raft::Watches;
use crate::inbox::Inbox;
use crate::limits::HELPED_TURNS_MAX;
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::storage::RaftStorage;
use crate::types::Instant;
use crate::worker::{Clock, Turn, Worker};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::Thread;
use tokio::sync::Notify;

thread_local! {
    static HELPS: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread as one of the runtime that runs the deputies: events pushed from it wake those, not the workers'
/// threads. Call it on every thread of that runtime (`on_thread_start`).
pub fn helps() {
    HELPS.set(true);
}

/// How a worker that sleeps is reached. Until its thread is known nobody sleeps yet.
pub(super) struct ThreadBell {
    thread: OnceLock<Thread>,
    clock: HostClock,
    deputy: Notify,
    /// A deputy waits, or will look again before it waits.
    is_helped: AtomicBool,
}

impl ThreadBell {
    pub(super) fn new(clock: HostClock) -> ThreadBell {
        ThreadBell {
            thread: OnceLock::new(),
            clock,
            deputy: Notify::new(),
            is_helped: AtomicBool::new(false),
        }
    }

    pub(super) fn hang(&self, thread: Thread) {
        self.thread.set(thread).expect("a worker has one thread");
        self.wake_thread(); // in case it fell asleep, and was pushed to, before the bell was up
    }

    /// Past the deputy: for orders after which nobody may count on it.
    pub(super) fn wake_thread(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl crate::inbox::Doorbell for ThreadBell {
    fn ring(&self) {
        if HELPS.get() && self.is_helped.load(Ordering::Acquire) {
            self.deputy.notify_one();
        } else {
            self.wake_thread();
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}

/// A worker and what its turns need. One thread at a time sits here.
pub(super) struct Seat<S, N, M> {
    pub(super) number: usize,
    pub(super) worker: Worker<S, N, M>,
    pub(super) inbox: Inbox,
    pub(super) clock: HostClock,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) watches: Arc<Watches>,
    /// When the next turn is due if nothing arrives before.
    pub(super) due: Option<Instant>,
    /// It was due already when the last turn began.
    pub(super) is_due: bool,
}

impl<S: RaftStorage, N: RaftNetwork, M: StateMachine> Seat<S, N, M> {
    /// One turn, without the disk.
    fn turn(&mut self) -> Turn {
        let _guard = AbortOnPanic;
        let turn = self.worker.turn(&mut self.inbox, &self.clock);
        self.observer.on_turn(self.number, &turn, self.worker.counters());
        self.watches.publish(&self.worker);
        self.due = turn.deadline;
        self.is_due = turn.deadline.is_some_and(|due| due <= turn.now);
        turn
    }

    /// True: nothing waits, nothing was due when the turn began, and the next push will ring. The clock is not read
    /// again: whoever sleeps until a time that has passed does not sleep.
    fn may_rest(&mut self) -> bool {
        !self.worker.is_stopped() && !self.is_due && self.inbox.listen()
    }

    fn alarm(&self) -> u64 {
        self.due.map_or(u64::MAX, |due| due.0)
    }

    fn close(self) {
        self.inbox.close();
        self.watches.close(self.number);
    }
}

/// A worker's seat and the ways to it.
pub(super) struct Desk<S, N, M> {
    bell: Arc<ThreadBell>,
    /// `None` once the worker has stopped.
    seat: Mutex<Option<Seat<S, N, M>>>,
    /// When the worker's thread wakes by itself; the end of time for never.
    alarm: AtomicU64,
    /// `WorkerOptions::deputy_events_max`.
    deputy_events_max: usize,
}

impl<S: RaftStorage, N: RaftNetwork, M: StateMachine> Desk<S, N, M> {
    pub(super) fn new(bell: Arc<ThreadBell>, seat: Seat<S, N, M>) -> Desk<S, N, M> {
        Desk {
            bell,
            deputy_events_max: seat.worker.options().deputy_events_max,
            seat: Mutex::new(Some(seat)),
            alarm: AtomicU64::new(u64::MAX),
        }
    }

    /// The worker's thread: turn after turn until the worker is told to stop; asleep while nothing waits and nothing is
    /// due.
    pub(super) fn work(&self) {
        loop {
            let mut place = self.seat.lock().expect("a panic in a turn ends the process");
            let seat = place.as_mut().expect("only this thread leaves the desk");
            if seat.worker.is_stopped() {
                // Before it sleeps: nobody may ever wake it again.
                return place.take().expect("it sits here").close();
            }
            seat.turn();
            seat.worker.write_here();
            if seat.may_rest() {
                let due = seat.due;
                self.alarm.store(seat.alarm(), Ordering::Release);
                drop(place);
                self.sleep(due);
            } else if !seat.worker.is_stopped() && self.leaves_all() {
                self.alarm.store(u64::MAX, Ordering::Release);
                drop(place);
                self.bell.deputy.notify_one();
                self.sleep(None); // the deputy rings when the next deadline is set, and when it goes
            }
        }
    }

    /// This thread only watches the clock, as long as there is a deputy. A stopped worker is closed here all the same:
    /// nobody may be running the deputy any more.
    fn leaves_all(&self) -> bool {
        self.deputy_takes_all() && self.bell.is_helped.load(Ordering::Acquire)
    }

    fn deputy_takes_all(&self) -> bool {
        self.deputy_events_max == usize::MAX
    }

    fn sleep(&self, until: Option<Instant>) {
        match until {
            Some(due) => std::thread::park_timeout(due - self.bell.clock.now()),
            None => std::thread::park(),
        }
    }

    /// What is left after a deputy wrote what it submitted.
    fn rest(&self, seat: &mut Seat<S, N, M>) -> Next {
        match seat.may_rest() {
            false => Next::Again,
            true if seat.alarm() < self.alarm.load(Ordering::Acquire) => Next::Thread,
            true => Next::Rest,
        }
    }
}

/// What a deputy's turn leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until the bell rings.
    Rest,
    /// The write that belongs to the turn, once the frames it sent have left.
    Write,
    /// Another turn.
    Again,
    /// The worker's own thread goes on.
    Thread,
    /// Nothing ever again.
    Stopped,
}

/// A desk, whatever the worker is made of.
pub(super) trait Helped: Send + Sync {
    /// Takes a turn on the calling thread, if the seat is free and little waits; only the write of the last one, unless
    /// that is done.
    fn help_once(&self, is_written: bool) -> Next;
    fn bell(&self) -> &ThreadBell;
    /// The worker's thread only watches the clock.
    fn deputy_takes_all(&self) -> bool;
}

impl<S, N, M> Helped for Desk<S, N, M>
where
    S: RaftStorage + Send,
    N: RaftNetwork,
    M: StateMachine + Send,
{
    fn help_once(&self, is_written: bool) -> Next {
        let mut place = match self.seat.try_lock() {
            Ok(place) => place,
            Err(TryLockError::WouldBlock) => return Next::Thread,
            Err(TryLockError::Poisoned(_)) => unreachable!("a panic in a turn ends the process"),
        };
        let Some(seat) = place.as_mut() else {
            return Next::Stopped;
        };
        if seat.worker.is_stopped() || seat.inbox.len() > self.deputy_events_max {
            return Next::Thread;
        }
        if is_written {
            let turn = seat.turn();
            if turn.has_sent && turn.has_submitted {
                return Next::Write;
            }
        }
        seat.worker.write_here();
        self.rest(seat)
    }

    fn bell(&self) -> &ThreadBell {
        &self.bell
    }

    fn deputy_takes_all(&self) -> bool {
        Desk::deputy_takes_all(self)
    }
}

/// Takes turns on the runtime it is spawned on, whenever one of that runtime's threads rings. Ends with the worker.
pub(super) async fn help(desk: Arc<dyn Helped>) {
    let _present = Present::at(&desk);
    loop {
        desk.bell().deputy.notified().await;
        let (mut turns, mut next) = (0, Next::Again);
        let left = loop {
            turns += 1;
            next = desk.help_once(next != Next::Write);
            let is_enough = turns > HELPED_TURNS_MAX && !desk.deputy_takes_all();
            if !matches!(next, Next::Again | Next::Write) || is_enough {
                break next;
            }
            tokio::task::yield_now().await; // what was sent leaves first
        };
        match left {
            Next::Rest => {}
            Next::Stopped => return,
            Next::Write | Next::Again | Next::Thread => desk.bell().wake_thread(),
        }
    }
}

/// A deputy at a desk. When it goes, perhaps in the middle of its work, the worker's thread looks.
struct Present<'a>(&'a ThreadBell);

impl Present<'_> {
    fn at(desk: &Arc<dyn Helped>) -> Present<'_> {
        desk.bell().is_helped.store(true, Ordering::Release);
        Present(desk.bell())
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.is_helped.store(false, Ordering::Release);
        self.0.wake_thread();
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests;
