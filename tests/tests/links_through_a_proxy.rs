//! Two transports with a proxy between them: frames stay whole and in order on each lane under loss, reordering,
//! duplication and delay; a link comes back after a cut both ways or one way. A run whose faults did not happen fails.

use bytes::Bytes;
use flotilla::trust;
use flotilla_tests::cluster::{PATIENCE, wait_until};
use flotilla_tests::proxy::{Direction, Faults, Proxy};
use multiraft::{Frame, Lane, NodeId, Outgoing, RaftNetwork};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use transport_quic::{CallSink, Client, ClientSink, Config, FrameSink, Reply, Sinks, Transport};

const LANES: [Lane; 2] = [Lane::Control, Lane::Entries];

/// Passes frames on.
struct Frames(Mutex<mpsc::Sender<Bytes>>);

impl FrameSink for Frames {
    fn deliver(&self, _: NodeId, frame: Bytes) {
        let sender = self.0.lock().expect("nobody panics with it");
        let _ = sender.send(frame); // the test may be over
    }
}

impl CallSink for Frames {
    fn call(&self, _: NodeId, payload: Bytes, reply: Reply) {
        reply.send(payload);
    }
}

impl ClientSink for Frames {
    fn call(&self, _: &Arc<Client>, payload: Bytes, reply: Reply) {
        reply.send(payload);
    }
}

/// A transport on a runtime of its own.
struct End {
    transport: Arc<Transport>,
    frames: mpsc::Receiver<Bytes>,
    runtime: Option<Runtime>,
}

impl End {
    fn start(dir: &Path, id: u64) -> End {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (sender, frames) = mpsc::channel();
        let sink = Arc::new(Frames(Mutex::new(sender)));
        let config = Config {
            credentials: trust::load_node(dir, NodeId(id)).expect("made by the test"),
            incarnation: 1,
            listen: ([127, 0, 0, 1], 0).into(),
            peers: BTreeMap::new(),
            secret: [7; 32],
            options: transport_quic::Options::default(),
        };
        let sinks = Sinks {
            frames: sink.clone(),
            calls: sink.clone(),
            clients: sink,
            bulk: Arc::new(multiraft::NoBulk),
        };
        End {
            transport: Transport::start(config, runtime.handle(), sinks).expect("it starts"),
            frames,
            runtime: Some(runtime),
        }
    }

    fn other(&self) -> NodeId {
        NodeId(3 - self.transport.node().0)
    }

    fn is_up(&self) -> bool {
        self.transport.is_up(self.other())
    }

    fn send(&self, lane: Lane, frame: Bytes) {
        self.transport.send(Outgoing {
            to: self.other(),
            lane,
            frame: Frame { chunks: vec![frame] },
        });
    }

    /// Takes `count` frames of each lane; each lane's must be whole and in order.
    fn expect_in_order(&self, count: u32) {
        let mut next = [0; LANES.len()];
        while next.iter().any(|next| *next < count) {
            let frame = self.frames.recv_timeout(PATIENCE).expect("frames keep coming");
            let (lane, number) = (usize::from(frame[0]), next[usize::from(frame[0])]);
            assert_eq!(frame, numbered(lane, number), "frame {number} of lane {lane}");
            next[lane] += 1;
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.runtime.take().expect("dropped once").shutdown_background();
    }
}

/// A frame whose bytes follow from its lane and number.
fn numbered(lane: usize, number: u32) -> Bytes {
    let size = if number.is_multiple_of(50) {
        100_000
    } else {
        number as usize
    };
    let mut frame = vec![number as u8; size + 5];
    frame[0] = u8::try_from(lane).expect("two lanes");
    frame[1..5].copy_from_slice(&number.to_be_bytes());
    frame.into()
}

/// Node 1 dials node 2 through the proxy; node 2 knows node 1, but cannot dial it.
struct Pair {
    one: End,
    two: End,
    proxy: Proxy,
}

impl Pair {
    fn linked(seed: u64) -> Pair {
        let dir = tempfile::tempdir().expect("a temporary directory");
        trust::create_ca(dir.path()).expect("a CA");
        for id in [1, 2] {
            trust::create_node(dir.path(), NodeId(id), &[], trust::LEAF_LIFETIME).expect("a certificate");
        }
        let (one, two) = (End::start(dir.path(), 1), End::start(dir.path(), 2));
        let proxy = Proxy::start(two.transport.local_addr().expect("it is bound"), seed);
        two.transport.set_peer(NodeId(1), "127.0.0.1:9".to_owned());
        one.transport.set_peer(NodeId(2), proxy.address().to_string());
        let pair = Pair { one, two, proxy };
        pair.wait_up("the first link");
        pair
    }

    fn wait_up(&self, what: &str) {
        wait_until(what, || self.one.is_up() && self.two.is_up());
    }

    /// Frames both ways on both lanes until one of each arrives; those sent while no link was up are gone.
    fn wait_heard(&self) {
        for (from, to) in [(&self.one, &self.two), (&self.two, &self.one)] {
            for lane in LANES {
                let frame = Bytes::from(format!("{lane:?} is back"));
                wait_until("a frame gets through again", || {
                    from.send(lane, frame.clone());
                    let arrived = || to.frames.recv_timeout(Duration::from_millis(100)).ok();
                    std::iter::from_fn(arrived).any(|heard| heard == frame)
                });
            }
        }
    }
}

#[test]
fn frames_stay_in_order_under_loss_reordering_duplication_and_delay() {
    const COUNT: u32 = 400;
    let pair = Pair::linked(11);
    pair.proxy.set_both(Faults {
        loss: 0.03,
        reorder: 0.05,
        duplicate: 0.05,
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(2),
        ..Faults::default()
    });
    for number in 0..COUNT {
        for end in [&pair.one, &pair.two] {
            for (at, lane) in LANES.into_iter().enumerate() {
                end.send(lane, numbered(at, number));
            }
        }
    }
    pair.one.expect_in_order(COUNT);
    pair.two.expect_in_order(COUNT);
    assert!(
        pair.one.is_up() && pair.one.transport.links()[0].reconnects == 0,
        "one link for all"
    );
    let counts = pair.proxy.counts();
    for direction in Direction::BOTH {
        let tally = counts.of(direction);
        assert!(
            tally.lost > 20 && tally.reordered > 20 && tally.duplicated > 20 && tally.delayed > 500,
            "INVALID: {counts:?}"
        );
    }
}

#[test]
fn a_link_comes_back_after_a_cut() {
    let pair = Pair::linked(12);
    pair.proxy.cut();
    wait_until("both notice", || !pair.one.is_up() && !pair.two.is_up());
    pair.proxy.heal();
    let healed = Instant::now();
    pair.wait_up("the link after a cut");
    let took = healed.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    pair.wait_heard();
    let counts = pair.proxy.counts();
    assert!(counts.up.cut > 0 && counts.down.cut > 0, "INVALID: {counts:?}");
}

/// A side that still hears the other takes it for alive until the other has given up.
fn cut_one_way(direction: Direction) {
    let pair = Pair::linked(13);
    pair.proxy.set(direction, Faults::cut());
    wait_until("both notice", || {
        for end in [&pair.one, &pair.two] {
            end.send(Lane::Control, Bytes::from_static(b"anybody there?"));
        }
        !pair.one.is_up() && !pair.two.is_up()
    });
    pair.proxy.heal();
    let healed = Instant::now();
    pair.wait_up("the link after a cut one way");
    let took = healed.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    pair.wait_heard();
    let cut = pair.proxy.counts().of(direction).cut;
    assert!(cut > 0, "INVALID: nothing was cut");
}

#[test]
fn a_link_whose_dialer_is_not_heard_goes_down_on_both_sides_and_comes_back() {
    cut_one_way(Direction::Up);
}

#[test]
fn a_link_whose_dialer_does_not_hear_goes_down_on_both_sides_and_comes_back() {
    cut_one_way(Direction::Down);
}

#[test]
fn a_short_cut_loses_neither_the_link_nor_a_frame() {
    const COUNT: u32 = 100;
    let pair = Pair::linked(14);
    pair.proxy.cut();
    for number in 0..COUNT {
        for (at, lane) in LANES.into_iter().enumerate() {
            pair.one.send(lane, numbered(at, number));
        }
    }
    wait_until("the cut took something", || pair.proxy.counts().up.cut > 5);
    pair.proxy.heal();
    pair.two.expect_in_order(COUNT);
    assert_eq!(pair.one.transport.links()[0].reconnects, 0);
}
