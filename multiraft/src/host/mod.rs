//! The async shell around workers: one thread per worker that sleeps between turns, the way in for everything that
//! happens, and [`Raft`], the handle to one group. The only part of this crate that reads clocks and starts threads.
//!
//! ```text
//!  gateways, Raft handles     transport (its threads)       store (its threads)
//!        | propose, read            | deliver                    | complete
//!        v                          v                            v
//!      Intake ---------------> inbox of worker 0..n <------- then_send leaves first
//!                                   | turn, on the worker's thread or a deputy's (see `desk`)
//!                                   v
//!               network.send, storage.submit, machine.apply, ticket.answer
//! ```

mod clock;
mod desk;
mod intake;
mod pending;
mod raft;
#[cfg(test)]
mod tests;

pub use clock::HostClock;
pub use desk::helps;
pub use intake::{Intake, worker_of};
pub use raft::{Failure, Metrics, Raft};

use crate::counters::Counters;
use crate::machine::StateMachine;
use crate::network::RaftNetwork;
use crate::storage::{RaftStorage, RestoredGroup};
use crate::types::GroupId;
use crate::worker::{Clock, Turn, Worker, WorkerOptions};
use desk::{Desk, Helped, Seat};
use raft::Watches;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What one worker is made of.
#[derive(Debug)]
pub struct WorkerParts<S, M> {
    /// Its log.
    pub storage: S,
    /// Its groups' state.
    pub machine: M,
    /// Its groups, as the store found them; each must belong to this worker (see [`worker_of`]).
    pub restored: Vec<RestoredGroup>,
}

/// Hears about every turn, on the worker's thread. Must not block.
pub trait Observer: Send + Sync {
    /// A turn of worker `worker` is over; `counters` are its totals.
    fn on_turn(&self, worker: usize, turn: &Turn, counters: &Counters);
}

impl Observer for () {
    fn on_turn(&self, _worker: usize, _turn: &Turn, _counters: &Counters) {}
}

/// Running workers.
pub struct Host {
    intake: Intake,
    watches: Arc<Watches>,
    threads: Vec<JoinHandle<()>>,
    desks: Vec<Arc<dyn Helped>>,
}

impl Host {
    /// Starts one thread per worker. The store must already know the sinks that `intake` gives out, the network must
    /// already deliver to `intake`; nothing is lost if they begin before this call.
    ///
    /// A panic in a worker ends the process: a broken invariant makes everything this node says untrustworthy.
    pub fn start<S, N, M>(
        intake: Intake,
        network: Arc<N>,
        parts: Vec<WorkerParts<S, M>>,
        options: &WorkerOptions,
        observer: Arc<dyn Observer>,
    ) -> Host
    where
        S: RaftStorage + Send + 'static,
        N: RaftNetwork + 'static,
        M: StateMachine + Send + 'static,
    {
        assert_eq!(parts.len(), intake.workers(), "one set of parts per worker");
        let watches = Arc::new(Watches::new(parts.len()));
        let mut threads = Vec::with_capacity(parts.len());
        let mut desks = Vec::with_capacity(parts.len());
        for (number, parts) in parts.into_iter().enumerate() {
            for group in &parts.restored {
                let owner = worker_of(group.group, intake.workers());
                assert_eq!(owner, number, "{} belongs to another worker", group.group);
            }
            let clock = intake.clock();
            let WorkerParts {
                storage,
                machine,
                restored,
            } = parts;
            let network = Arc::clone(&network);
            let mut worker = Worker::new(storage, network, machine, restored, options.clone(), clock.now());
            worker.connect(intake.way_into(number));
            let seat = Seat {
                number,
                worker,
                inbox: intake.take_inbox(number),
                clock,
                observer: Arc::clone(&observer),
                watches: Arc::clone(&watches),
                due: None,
                is_due: false,
            };
            let desk = Arc::new(Desk::new(Arc::clone(intake.bell(number)), seat));
            desks.push(Arc::clone(&desk) as Arc<dyn Helped>);
            let thread = std::thread::Builder::new()
                .name(format!("multiraft-{number}"))
                .spawn(move || desk.work());
            let thread = thread.expect("the system gives us a thread");
            intake.bell(number).hang(thread.thread().clone());
            threads.push(thread);
        }
        Host {
            intake,
            watches,
            threads,
            desks,
        }
    }

    /// One future per worker, for the runtime whose threads deliver frames and requests and were marked with [`helps`].
    /// It takes that worker's turns there while little waits, which saves a lone request most of its changes of thread.
    /// Dropping it gives all turns back to the worker's thread.
    pub fn deputies(&self) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> {
        self.desks.iter().map(|desk| desk::help(Arc::clone(desk)))
    }

    /// The handle to one group, whether it lives here or not.
    pub fn raft(&self, group: GroupId) -> Raft {
        Raft::new(group, self.intake.clone(), Arc::clone(&self.watches))
    }

    /// The way in.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Answers every waiter, ends the threads, drops the workers' parts. Blocks until that is done.
    pub fn stop(self) {
        self.intake.stop();
        for thread in self.threads {
            thread.join().expect("a worker that panics ends the process");
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("workers", &self.threads.len())
            .finish_non_exhaustive()
    }
}
