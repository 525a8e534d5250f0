//! A service without a cluster: several ranges, each one group in memory, and a clock that a test may steer.
//! It answers within `submit`, or, held back, in the order in which a test lets requests go.

use super::{RespOptions, serve};
use crate::kv::{Applier, State, evaluate};
use crate::service::{Kind, RangeRoute, Request, Service, Target};
use bytes::Bytes;
use multiraft::{GroupId, Outcome, Queried, Stamp, Ticket};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// See the module.
pub struct MemoryService {
    ranges: Vec<RangeRoute>,
    groups: Vec<Mutex<BTreeMap<Bytes, Bytes>>>,
    /// Milliseconds; 0: the wall clock.
    clock: AtomicU64,
    held: Mutex<Option<Vec<(Request, Ticket)>>>,
}

impl MemoryService {
    /// Ranges divided at these keys; none may lie inside a tag.
    pub fn new(splits: &[&[u8]]) -> MemoryService {
        let mut starts = vec![Bytes::new()];
        starts.extend(splits.iter().map(|key| Bytes::copy_from_slice(key)));
        let ends = starts.iter().skip(1).cloned().map(Some).chain([None]);
        let ranges: Vec<RangeRoute> = (GroupId::META.0 + 1..)
            .zip(starts.iter().cloned().zip(ends))
            .map(|(group, (start, end))| RangeRoute {
                group: GroupId(group),
                start,
                end,
            })
            .collect();
        MemoryService {
            groups: ranges.iter().map(|_| Mutex::default()).collect(),
            ranges,
            clock: AtomicU64::new(0),
            held: Mutex::default(),
        }
    }

    /// Stops the clock at this many milliseconds since 1970.
    pub fn set_clock(&self, milliseconds: u64) {
        self.clock.store(milliseconds, Ordering::Relaxed);
    }

    /// Keeps requests back from now on.
    pub fn hold(&self) {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default();
    }

    /// The requests kept back: their groups and kinds.
    pub fn held(&self) -> Vec<(GroupId, Kind)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter()
            .flatten()
            .map(|(request, _)| (self.group(&request.target), request.kind))
            .collect()
    }

    /// Answers the request kept back at this position.
    pub fn release(&self, at: usize) {
        let (request, ticket) = self.take_held(at);
        let outcome = self.run(&request);
        ticket.answer(outcome);
    }

    /// Ends the request kept back at this position in another way.
    pub fn refuse(&self, at: usize, outcome: Outcome) {
        let (_, ticket) = self.take_held(at);
        ticket.answer(outcome);
    }

    fn take_held(&self, at: usize) -> (Request, Ticket) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().expect("requests are held").remove(at)
    }

    fn group(&self, target: &Target) -> GroupId {
        match target {
            Target::Key(key) => self.group_of(key),
            Target::Group(group) => *group,
        }
    }

    fn now(&self) -> Stamp {
        match self.clock.load(Ordering::Relaxed) {
            0 => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Stamp(u64::try_from(now.as_millis()).expect("before the year 500 million"))
            }
            now => Stamp(now),
        }
    }

    fn run(&self, request: &Request) -> Outcome {
        let at = usize::try_from(self.group(&request.target).0 - GroupId::META.0 - 1).expect("a few ranges");
        let mut state = self.groups[at].lock().unwrap_or_else(PoisonError::into_inner);
        Outcome::Answered(answer(&mut *state, request, self.now()))
    }
}

fn answer(state: &mut impl State, request: &Request, now: Stamp) -> Bytes {
    if request.kind == Kind::Write {
        let mut applier = Applier::begin(state);
        let answer = applier.command(now, &request.payload);
        applier.finish();
        return answer;
    }
    loop {
        match evaluate(state, &request.payload, now) {
            Queried::Answer(answer) => return answer,
            Queried::AdvanceClock => {
                let mut applier = Applier::begin(state);
                applier.stamp(now);
                applier.finish();
            }
        }
    }
}

impl Service for MemoryService {
    fn submit(&self, request: Request, ticket: Ticket) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            held.push((request, ticket));
            return;
        }
        drop(held);
        let outcome = self.run(&request);
        ticket.answer(outcome);
    }

    fn group_of(&self, key: &[u8]) -> GroupId {
        let after = self.ranges.partition_point(|range| range.start <= key);
        self.ranges[after - 1].group
    }

    fn ranges(&self) -> Vec<RangeRoute> {
        self.ranges.clone()
    }
}

/// A gateway on a free loopback port, served by a thread of its own until this value is dropped.
pub struct Gateway {
    /// Where clients connect.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts it.
    pub fn start(service: Arc<dyn Service>, options: RespOptions) -> io::Result<Gateway> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = thread::spawn(move || runtime.block_on(serve(listener, service, options, stopped)));
        Ok(Gateway {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
