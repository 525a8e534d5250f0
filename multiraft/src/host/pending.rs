//! The answers that one caller awaits: of one request, or of a batch. One request is not a batch of one: it needs a single
//! allocation, and most requests are that.

use crate::types::{AnswerSink, Outcome, Ticket};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{self, Poll, Waker};

/// Requests on their way. Dropping it forgets the answers, not the requests.
pub(super) struct Pending {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    waker: Option<Waker>,
}

impl Pending {
    /// Room for the outcomes of `count` requests.
    pub(super) fn new(count: usize) -> Pending {
        let state = State {
            outcomes: vec![None; count],
            missing: count,
            waker: None,
        };
        Pending {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
            }),
        }
    }

    /// The ticket of request `number`.
    pub(super) fn ticket(&self, number: usize) -> Ticket {
        Ticket {
            sink: Arc::clone(&self.shared) as Arc<dyn AnswerSink>,
            number: number as u64,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the outcomes")
    }
}

impl AnswerSink for Shared {
    fn answer(&self, number: u64, outcome: Outcome) {
        let waker = {
            let mut state = self.lock();
            let slot = &mut state.outcomes[usize::try_from(number).expect("a number we gave out")];
            let before = slot.replace(outcome);
            assert!(before.is_none(), "a ticket is answered once");
            state.missing -= 1;
            match state.missing {
                0 => state.waker.take(),
                _ => None,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Pending {
    type Output = Vec<Outcome>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Vec<Outcome>> {
        let mut state = self.shared.lock();
        if state.missing > 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let outcomes = std::mem::take(&mut state.outcomes);
        let outcomes = outcomes
            .into_iter()
            .map(|outcome| outcome.expect("none is missing"));
        Poll::Ready(outcomes.collect())
    }
}

/// One request on its way. Dropping it forgets the answer, not the request.
pub(super) struct Lone {
    slot: Arc<Slot>,
}

struct Slot(Mutex<Waiting>);

enum Waiting {
    Unheard(Option<Waker>),
    Answered(Outcome),
    Taken,
}

impl Lone {
    /// Room for one outcome.
    pub(super) fn new() -> Lone {
        let slot = Arc::new(Slot(Mutex::new(Waiting::Unheard(None))));
        Lone { slot }
    }

    /// The request's ticket; there is one.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            sink: Arc::clone(&self.slot) as Arc<dyn AnswerSink>,
            number: 0,
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("nothing panics while it holds the outcome")
    }
}

impl AnswerSink for Slot {
    fn answer(&self, _number: u64, outcome: Outcome) {
        let before = std::mem::replace(&mut *self.lock(), Waiting::Answered(outcome));
        match before {
            Waiting::Unheard(Some(waker)) => waker.wake(),
            Waiting::Unheard(None) => {}
            Waiting::Answered(_) | Waiting::Taken => unreachable!("a ticket is answered once"),
        }
    }
}

impl Future for Lone {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Outcome> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut *slot, Waiting::Taken) {
            Waiting::Answered(outcome) => Poll::Ready(outcome),
            Waiting::Unheard(_) => {
                *slot = Waiting::Unheard(Some(cx.waker().clone()));
                Poll::Pending
            }
            Waiting::Taken => unreachable!("a future is not polled after its end"),
        }
    }
}
