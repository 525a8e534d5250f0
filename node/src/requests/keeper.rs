//! One thread that knows deadlines: gives up requests whose time is over and sends refused ones again when their
//! wait is over. Sleeps while nothing is open.

use super::Shared;
use super::limits::{IDLE_SWEEPS, SWEEP_INTERVAL};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What waits for a point in time, and the way to wake the thread.
#[derive(Default)]
pub(super) struct Keeper {
    schedule: Mutex<Schedule>,
    wake: Condvar,
    asleep: AtomicBool,
}

#[derive(Default)]
struct Schedule {
    again: BinaryHeap<Reverse<(Instant, u64)>>,
    stopping: bool,
}

impl Keeper {
    /// Sends the request with this number again at `when`.
    pub(super) fn again(&self, when: Instant, number: u64) {
        self.lock().again.push(Reverse((when, number)));
        self.wake.notify_one();
    }

    /// A request was opened. Costs one load unless the thread sleeps.
    pub(super) fn opened(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            let _schedule = self.lock();
            self.wake.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_one();
    }

    /// True while nothing is open and the thread waits for that to change.
    #[cfg(test)]
    pub(super) fn sleeps(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is due, `sweep_at` comes, or, without it, until a request is opened.
    /// Returns the numbers that are due; None when stopping.
    fn wait(&self, sweep_at: Option<Instant>) -> Option<Vec<u64>> {
        let mut schedule = self.lock();
        loop {
            let now = Instant::now();
            let due = schedule.due(now);
            if schedule.stopping {
                return None;
            }
            let woken = sweep_at.map_or_else(|| !self.asleep.load(Ordering::SeqCst), |at| at <= now);
            if woken || !due.is_empty() {
                return Some(due);
            }
            let until = [schedule.next(), sweep_at].into_iter().flatten().min();
            schedule = match until {
                None => self.wake.wait(schedule).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let waited = self.wake.wait_timeout(schedule, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Schedule {
    fn next(&self) -> Option<Instant> {
        self.again.peek().map(|Reverse((when, _))| *when)
    }

    fn due(&mut self, now: Instant) -> Vec<u64> {
        let mut due = Vec::new();
        while self.next().is_some_and(|when| when <= now) {
            due.extend(self.again.pop().map(|Reverse((_, number))| number));
        }
        due
    }
}

/// The thread's loop. `sweep_at` is None while it sleeps.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut idle = 0;
    let mut sweep_at = Some(Instant::now() + SWEEP_INTERVAL);
    while let Some(due) = shared.keeper.wait(sweep_at) {
        for number in due {
            shared.send_again(number);
        }
        if sweep_at.is_some_and(|at| at > Instant::now()) {
            continue;
        }
        let found = shared.sweep() > 0 || sweep_at.is_none();
        idle = if found { 0 } else { idle + 1 };
        let sleeps = idle >= IDLE_SWEEPS && dozes_off(shared);
        sweep_at = (!sleeps).then(|| Instant::now() + SWEEP_INTERVAL);
    }
}

/// Says that the thread sleeps, then looks again: a request opened after that look wakes the thread.
fn dozes_off(shared: &Shared) -> bool {
    shared.keeper.asleep.store(true, Ordering::SeqCst);
    let empty = shared.sweep() == 0;
    empty || !shared.keeper.asleep.swap(false, Ordering::SeqCst)
}
