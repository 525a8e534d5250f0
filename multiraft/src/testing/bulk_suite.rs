//! What every network must do with bulk streams: whole, in order, unchanged and acknowledged, or nothing; words of a
//! refusal reach the sender; a slow receiver holds the sender and nobody else.

use super::NetworkHarness;
use crate::bulk::{
    BULK_AHEAD_BYTES_MAX, BULK_HEADER_BYTES_MAX, BULK_PIECE_BYTES_MAX, Bulk, BulkHandle, BulkOutcome,
    BulkReceiver, BulkSink, BulkSource,
};
use crate::network::{Frame, Lane, Outgoing, RaftNetwork};
use crate::types::NodeId;
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver met.
#[derive(Debug, PartialEq, Eq)]
pub enum BulkSeen {
    /// A stream began.
    Began(NodeId, Bytes),
    /// It ended whole, with these bytes.
    Finished(Vec<u8>),
    /// It was dropped after so many bytes.
    Dropped(usize),
}

/// A sink for tests: records, refuses what its header tells it to, and can be held up.
#[derive(Clone)]
pub struct BulkRecorder {
    seen: Arc<Mutex<Sender<BulkSeen>>>,
    /// True while receivers must wait.
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl BulkRecorder {
    /// The recorder and what it tells.
    pub fn new() -> (BulkRecorder, Receiver<BulkSeen>) {
        let (sender, seen) = channel();
        let recorder = BulkRecorder {
            seen: Arc::new(Mutex::new(sender)),
            gate: Arc::default(),
        };
        (recorder, seen)
    }

    /// Holds up every receiver, or lets them go on.
    pub fn hold(&self, held: bool) {
        *self.gate.0.lock().expect("nobody panics with it") = held;
        self.gate.1.notify_all();
    }

    fn tell(&self, seen: BulkSeen) {
        // The test may be over.
        let _ = self.seen.lock().expect("nobody panics with it").send(seen);
    }
}

impl BulkSink for BulkRecorder {
    fn begin(&self, from: NodeId, header: Bytes) -> Result<Box<dyn BulkReceiver>, String> {
        self.tell(BulkSeen::Began(from, header.clone()));
        if header == "refuse at once" {
            return Err("no room for this".to_owned());
        }
        Ok(Box::new(Taking {
            recorder: self.clone(),
            refuses: (header == "refuse later").then_some(1 << 20),
            bytes: Vec::new(),
            finished: false,
        }))
    }
}

struct Taking {
    recorder: BulkRecorder,
    /// Refuse after so many bytes.
    refuses: Option<usize>,
    bytes: Vec<u8>,
    finished: bool,
}

impl BulkReceiver for Taking {
    fn piece(&mut self, piece: Bytes) -> Result<(), String> {
        let held = self.recorder.gate.0.lock().expect("nobody panics with it");
        drop(self.recorder.gate.1.wait_while(held, |held| *held));
        self.bytes.extend_from_slice(&piece);
        match self.refuses {
            Some(limit) if self.bytes.len() >= limit => Err("enough of this".to_owned()),
            _ => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Bytes, String> {
        self.finished = true;
        self.recorder
            .tell(BulkSeen::Finished(std::mem::take(&mut self.bytes)));
        Ok(Bytes::from_static(b"thank you"))
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.finished {
            self.recorder.tell(BulkSeen::Dropped(self.bytes.len()));
        }
    }
}

/// A source for tests: a run of bytes in pieces, which may fail at a point.
pub struct BulkRun {
    left: Bytes,
    piece: usize,
    fails: bool,
    pulled: Arc<AtomicUsize>,
    outcome: Sender<BulkOutcome>,
}

/// What a test keeps of a source.
pub struct BulkWatch {
    /// Bytes pulled so far.
    pub pulled: Arc<AtomicUsize>,
    outcome: Receiver<BulkOutcome>,
}

impl BulkWatch {
    /// Waits for the end.
    pub fn outcome(&self) -> BulkOutcome {
        let outcome = self.outcome.recv_timeout(PATIENCE);
        outcome.expect("the source hears of the end")
    }
}

impl BulkRun {
    /// All of `bytes`, in pieces of this size; after them the source fails, or ends.
    pub fn new(bytes: Bytes, piece: usize, fails: bool) -> (Box<BulkRun>, BulkWatch) {
        let (sender, outcome) = channel();
        let pulled = Arc::new(AtomicUsize::new(0));
        let run = BulkRun {
            left: bytes,
            piece,
            fails,
            pulled: pulled.clone(),
            outcome: sender,
        };
        (Box::new(run), BulkWatch { pulled, outcome })
    }
}

impl BulkSource for BulkRun {
    fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self.left.len().min(self.piece) {
            0 if self.fails => Err("the source failed".to_owned()),
            0 => Ok(None),
            bytes => {
                self.pulled.fetch_add(bytes, Ordering::SeqCst);
                Ok(Some(self.left.split_to(bytes)))
            }
        }
    }

    fn ended(self: Box<Self>, outcome: BulkOutcome) {
        // The test may be over.
        let _ = self.outcome.send(outcome);
    }
}

/// Runs every check, each with a harness of its own.
pub fn bulk_suite<H: NetworkHarness>(mut make: impl FnMut() -> H) {
    streams_arrive_whole_and_are_acknowledged(&mut make());
    words_of_a_refusal_reach_the_sender(&mut make());
    a_stream_without_an_end_leaves_nothing(&mut make());
    a_slow_receiver_holds_the_sender_and_no_frame(&mut make());
    what_cannot_be_sent_ends_at_once(&mut make());
}

struct Pair<'a, H> {
    harness: &'a mut H,
    recorder: BulkRecorder,
    seen: Receiver<BulkSeen>,
}

impl<'a, H: NetworkHarness> Pair<'a, H> {
    fn new(harness: &'a mut H) -> Pair<'a, H> {
        let (recorder, seen) = BulkRecorder::new();
        let to = harness.ends()[1].0;
        harness.take_bulk(to, Arc::new(recorder.clone()));
        Pair {
            harness,
            recorder,
            seen,
        }
    }

    fn send(&self, header: &'static str, source: Box<BulkRun>) -> BulkHandle {
        let [(_, one), (two, _)] = self.harness.ends();
        one.send_bulk(Bulk {
            to: two,
            header: Bytes::from_static(header.as_bytes()),
            source,
        })
    }

    fn saw(&self) -> BulkSeen {
        self.seen
            .recv_timeout(PATIENCE)
            .expect("the receiver met something")
    }

    fn began(&self, header: &'static str) {
        let from = self.harness.ends()[0].0;
        assert_eq!(
            self.saw(),
            BulkSeen::Began(from, Bytes::from_static(header.as_bytes()))
        );
    }

    fn dropped(&self) {
        let seen = self.saw();
        assert!(
            matches!(seen, BulkSeen::Dropped(_)),
            "nothing is left behind: {seen:?}"
        );
    }
}

/// Bytes of which no two places look alike.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

fn streams_arrive_whole_and_are_acknowledged<H: NetworkHarness>(harness: &mut H) {
    let pair = Pair::new(harness);
    for (bytes, piece) in [
        (0, 1),
        (1, 1),
        (1000, 7),
        (5_000_001, BULK_PIECE_BYTES_MAX),
        (3 << 20, 5000),
    ] {
        let whole = pattern(bytes);
        let (source, watch) = BulkRun::new(whole.clone(), piece, false);
        pair.send("all of it", source);
        pair.began("all of it");
        let BulkSeen::Finished(arrived) = pair.saw() else {
            panic!("{bytes} bytes did not arrive")
        };
        assert!(
            arrived == whole,
            "{} bytes of {bytes}, changed or lost",
            arrived.len()
        );
        assert_eq!(
            watch.outcome(),
            BulkOutcome::Taken(Bytes::from_static(b"thank you"))
        );
    }
}

fn words_of_a_refusal_reach_the_sender<H: NetworkHarness>(harness: &mut H) {
    let pair = Pair::new(harness);
    let whole = pattern(64 << 20);
    let (source, watch) = BulkRun::new(whole.clone(), BULK_PIECE_BYTES_MAX, false);
    pair.send("refuse at once", source);
    pair.began("refuse at once");
    assert_eq!(
        watch.outcome(),
        BulkOutcome::Refused("no room for this".to_owned())
    );
    let (source, watch) = BulkRun::new(whole, BULK_PIECE_BYTES_MAX, false);
    pair.send("refuse later", source);
    pair.began("refuse later");
    pair.dropped();
    assert_eq!(watch.outcome(), BulkOutcome::Refused("enough of this".to_owned()));
    let pulled = watch.pulled.load(Ordering::SeqCst);
    assert!(
        pulled <= (2 << 20) + BULK_AHEAD_BYTES_MAX,
        "{pulled} bytes pulled for nothing"
    );
}

fn a_stream_without_an_end_leaves_nothing<H: NetworkHarness>(harness: &mut H) {
    let pair = Pair::new(harness);
    let (source, watch) = BulkRun::new(pattern(1 << 20), 1000, true);
    pair.send("the source fails", source);
    pair.began("the source fails");
    pair.dropped();
    assert_eq!(
        watch.outcome(),
        BulkOutcome::Cancelled("the source failed".to_owned())
    );
    pair.recorder.hold(true);
    let (source, watch) = BulkRun::new(pattern(64 << 20), BULK_PIECE_BYTES_MAX, false);
    let handle = pair.send("the sender gives up", source);
    pair.began("the sender gives up");
    handle.cancel();
    pair.recorder.hold(false);
    assert!(matches!(watch.outcome(), BulkOutcome::Cancelled(_)));
    pair.dropped();
    handle.cancel(); // once more, and late
}

fn a_slow_receiver_holds_the_sender_and_no_frame<H: NetworkHarness>(harness: &mut H) {
    let pair = Pair::new(harness);
    pair.recorder.hold(true);
    let whole = pattern(2 * BULK_AHEAD_BYTES_MAX);
    let (source, watch) = BulkRun::new(whole.clone(), BULK_PIECE_BYTES_MAX, false);
    pair.send("slowly", source);
    pair.began("slowly");
    let [(one, _), (two, _)] = pair.harness.ends();
    for number in 0..200_u32 {
        let chunks = vec![Bytes::copy_from_slice(&number.to_le_bytes())];
        let (to, lane) = (two, Lane::Entries);
        let frame = Frame { chunks };
        pair.harness.ends()[0].1.send(Outgoing { to, lane, frame });
        let arrived = pair.harness.receive(two).expect("frames pass");
        assert_eq!(arrived, (one, Bytes::copy_from_slice(&number.to_le_bytes())));
    }
    let pulled = watch.pulled.load(Ordering::SeqCst);
    assert!(
        pulled <= BULK_AHEAD_BYTES_MAX,
        "{pulled} bytes pulled while nothing is taken"
    );
    pair.recorder.hold(false);
    assert!(matches!(pair.saw(), BulkSeen::Finished(arrived) if arrived == whole));
    assert!(matches!(watch.outcome(), BulkOutcome::Taken(_)));
}

fn what_cannot_be_sent_ends_at_once<H: NetworkHarness>(harness: &mut H) {
    let pair = Pair::new(harness);
    let [(_, one), (two, _)] = pair.harness.ends();
    for (to, header) in [(NodeId(77), 1), (two, BULK_HEADER_BYTES_MAX + 1)] {
        let (source, watch) = BulkRun::new(pattern(10), 10, false);
        let header = Bytes::from(vec![1; header]);
        one.send_bulk(Bulk { to, header, source });
        let outcome = watch.outcome();
        assert!(matches!(outcome, BulkOutcome::NotSent(_)), "{outcome:?}");
    }
    for piece in [0, BULK_PIECE_BYTES_MAX + 1] {
        let (source, watch) = BulkRun::new(pattern(BULK_PIECE_BYTES_MAX + 1), piece.max(1), false);
        let source: Box<dyn BulkSource> = if piece == 0 {
            Box::new(Empty(source))
        } else {
            source
        };
        let header = Bytes::new();
        one.send_bulk(Bulk {
            to: two,
            header,
            source,
        });
        let outcome = watch.outcome();
        assert!(
            matches!(outcome, BulkOutcome::Cancelled(_)),
            "a piece of {piece} bytes: {outcome:?}"
        );
    }
}

/// Gives empty pieces.
struct Empty(Box<BulkRun>);

impl BulkSource for Empty {
    fn next(&mut self) -> Result<Option<Bytes>, String> {
        Ok(Some(Bytes::new()))
    }

    fn ended(self: Box<Self>, outcome: BulkOutcome) {
        self.0.ended(outcome);
    }
}
