//! The general path: looks for an order of one key's operations, each placed between its call and its answer, with the
//! model agreeing to every answer. Depth first, and never twice from the same place: the same operations placed and the
//! same state (Lowe's memo). Exponential at worst in how many operations overlap; the limits end that.
//!
//! Four observations keep it short. Each speaks of an order with as few operations of unknown outcome as possible:
//! * An answer that fits now, of an operation that changes nothing and teaches nothing, may as well be placed now.
//! * An operation of unknown outcome that is overwritten at once, unseen, may as well never have happened.
//! * Of two such operations that ask for the same, the one that was called first goes first.
//! * Those are tried after all others.

use super::model::State;
use super::operation::{Answer, Ask, Operation, Outcome};
use super::{Finding, Limits};
use std::collections::HashSet;

/// An operation to be placed. The answered ones come first, then those of unknown outcome, each in order of their calls.
#[derive(Clone, Copy, Debug)]
struct Piece {
    called: u64,
    ask: Ask,
    answer: Option<Answer>,
    /// Of unknown outcome: the one before it that asks for the same.
    twin: Option<usize>,
}

/// A call or an answer in the list of those not placed yet. Number 0 is the list's head and end.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: u64,
    piece: usize,
    is_answer: bool,
    before: usize,
    after: usize,
}

/// What to try next at the current place.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    /// The answered operation called in this event.
    Answered(usize),
    /// This piece of unknown outcome, if it was called by then.
    Unknown(usize, u64),
}

/// A piece that was placed, and how to go back to where it was.
#[derive(Clone, Copy, Debug)]
struct Step {
    piece: usize,
    state: State,
    after_unknown: bool,
    next: Cursor,
    /// There is no alternative to try.
    forced: bool,
}

type Place = (Box<[u64]>, State, bool);

struct Search {
    pieces: Vec<Piece>,
    /// How many of them were answered.
    answered: usize,
    /// For each answered piece, its call and its answer.
    events_of: Vec<[usize; 2]>,
    events: Vec<Event>,
    placed: Box<[u64]>,
    left: usize,
    state: State,
    /// The last piece placed was one of unknown outcome.
    after_unknown: bool,
    path: Vec<Step>,
    searched: HashSet<Place>,
}

/// Whether there is an order for these operations of one key.
pub(super) fn order(operations: &[Operation], limits: Limits) -> Finding {
    Search::new(operations).run(limits)
}

impl Search {
    fn new(operations: &[Operation]) -> Search {
        let mut answered: Vec<(u64, Piece)> = Vec::new();
        let mut unknown: Vec<Piece> = Vec::new();
        for one in operations {
            let piece = |answer| Piece {
                called: one.called,
                ask: one.ask,
                answer,
                twin: None,
            };
            match one.outcome {
                Outcome::Answered(at, answer) => answered.push((at, piece(Some(answer)))),
                Outcome::Unknown if one.ask != Ask::Get => unknown.push(piece(None)),
                Outcome::Unknown | Outcome::Refused => {}
            }
        }
        answered.sort_by_key(|(_, piece)| piece.called);
        unknown.sort_by_key(|piece| piece.called);
        let ends: Vec<u64> = answered.iter().map(|(at, _)| *at).collect();
        let mut pieces: Vec<Piece> = answered.into_iter().map(|(_, piece)| piece).collect();
        pieces.extend(with_twins(unknown, ends.len()));
        let (events, events_of) = events(&pieces, &ends);
        Search {
            answered: ends.len(),
            left: ends.len(),
            placed: vec![0; pieces.len().div_ceil(64)].into(),
            pieces,
            events_of,
            events,
            state: State::NEVER,
            after_unknown: false,
            path: Vec::new(),
            searched: HashSet::new(),
        }
    }

    fn run(&mut self, limits: Limits) -> Finding {
        let places_max = limits.words / (self.placed.len() + 4);
        let mut steps = 0;
        let mut cursor = self.first();
        while self.left > 0 {
            steps += 1;
            if steps > limits.steps || self.searched.len() > places_max {
                return Finding::GaveUp;
            }
            cursor = match self.candidate(cursor) {
                Some((piece, next)) if self.place(piece, next) => self.first(),
                Some((_, next)) => next,
                None => match self.take_back() {
                    Some(next) => next,
                    None => return Finding::Impossible,
                },
            };
        }
        Finding::Ordered
    }

    fn first(&self) -> Cursor {
        Cursor::Answered(self.events[0].after)
    }

    /// The next piece that nothing unplaced must precede, from the cursor on, and the cursor behind it.
    fn candidate(&self, cursor: Cursor) -> Option<(usize, Cursor)> {
        let (mut piece, horizon) = match cursor {
            Cursor::Answered(number) => {
                let event = self.events[number];
                if !event.is_answer {
                    return Some((event.piece, Cursor::Answered(event.after)));
                }
                (self.answered, event.at)
            }
            Cursor::Unknown(piece, horizon) => (piece, horizon),
        };
        while piece < self.pieces.len() && self.pieces[piece].called <= horizon {
            let waits = self.pieces[piece].twin.is_some_and(|twin| !self.is_placed(twin));
            if !waits && !self.is_placed(piece) {
                return Some((piece, Cursor::Unknown(piece + 1, horizon)));
            }
            piece += 1;
        }
        None
    }

    /// Places the piece if the model agrees and the place that leads to is new.
    fn place(&mut self, number: usize, next: Cursor) -> bool {
        let piece = self.pieces[number];
        let Some(state) = self.state.after(&piece.ask, piece.answer) else {
            return false;
        };
        if self.after_unknown && matches!(piece.ask, Ask::Put(_)) {
            return false;
        }
        let is_unknown = number >= self.answered;
        let is_pure = piece.answer.is_some_and(|answer| !answer.is_of_write());
        let forced = is_pure && state == self.state;
        self.flip(number);
        if !forced && !self.searched.insert((self.placed.clone(), state, is_unknown)) {
            self.flip(number);
            return false;
        }
        self.path.push(Step {
            piece: number,
            state: self.state,
            after_unknown: self.after_unknown,
            next,
            forced,
        });
        (self.state, self.after_unknown) = (state, is_unknown);
        if !is_unknown {
            self.left -= 1;
            let [call, answer] = self.events_of[number];
            self.unlink(call);
            self.unlink(answer);
        }
        true
    }

    /// Goes back to the last place with an alternative; the cursor to try there.
    fn take_back(&mut self) -> Option<Cursor> {
        loop {
            let step = self.path.pop()?;
            (self.state, self.after_unknown) = (step.state, step.after_unknown);
            self.flip(step.piece);
            if step.piece < self.answered {
                self.left += 1;
                let [call, answer] = self.events_of[step.piece];
                self.link(answer);
                self.link(call);
            }
            if !step.forced {
                return Some(step.next);
            }
        }
    }

    fn is_placed(&self, piece: usize) -> bool {
        self.placed[piece / 64] >> (piece % 64) & 1 == 1
    }

    fn flip(&mut self, piece: usize) {
        self.placed[piece / 64] ^= 1 << (piece % 64);
    }

    fn unlink(&mut self, event: usize) {
        let Event { before, after, .. } = self.events[event];
        self.events[before].after = after;
        self.events[after].before = before;
    }

    /// Undoes `unlink`, if everything unlinked since was linked again.
    fn link(&mut self, event: usize) {
        let Event { before, after, .. } = self.events[event];
        self.events[before].after = event;
        self.events[after].before = event;
    }
}

/// Links each piece of unknown outcome to the one before it that asks for the same. `offset`: the number of the first.
fn with_twins(unknown: Vec<Piece>, offset: usize) -> Vec<Piece> {
    let mut last = std::collections::BTreeMap::new();
    let number = |(at, piece): (usize, Piece)| Piece {
        twin: last.insert(piece.ask, offset + at),
        ..piece
    };
    unknown.into_iter().enumerate().map(number).collect()
}

/// The list of calls and answers in order of time; what happens at the same time overlaps.
fn events(pieces: &[Piece], ends: &[u64]) -> (Vec<Event>, Vec<[usize; 2]>) {
    let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(ends.len() * 2);
    for (piece, end) in ends.iter().enumerate() {
        order.push((pieces[piece].called, false, piece));
        order.push((*end, true, piece));
    }
    order.sort_unstable();
    // The head is an answer too, after all others: whoever reaches it has seen every call.
    order.insert(0, (u64::MAX, true, usize::MAX));
    let count = order.len();
    let mut events_of = vec![[0; 2]; ends.len()];
    let event = |(number, (at, is_answer, piece)): (usize, (u64, bool, usize))| {
        if number > 0 {
            events_of[piece][usize::from(is_answer)] = number;
        }
        Event {
            at,
            piece,
            is_answer,
            before: (number + count - 1) % count,
            after: (number + 1) % count,
        }
    };
    (order.into_iter().enumerate().map(event).collect(), events_of)
}
