//! The faults: what is done to a cluster, undone again, and whether it really happened. Which nodes are hit is drawn
//! from the seed; how long a fault holds, too.

use crate::cluster::{Cluster, Links, Node};
use crate::proxy::Faults;
use crate::sim::Rng;
use std::process::ExitStatus;
use std::time::Duration;

/// Cuts of one `Kind::Flicker`.
const FLICKERS: usize = 6;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// kill -9 of one node.
    KillOne,
    /// kill -9 of one node, and again while it recovers.
    KillTwice,
    /// kill -9 of a majority.
    KillMost,
    /// kill -9 of all nodes at once.
    KillAll,
    /// One node stands still (SIGSTOP).
    FreezeOne,
    /// A majority stands still.
    FreezeMost,
    /// One node is cut off from all others.
    Isolate,
    /// Two nodes are cut off from each other; the third hears both.
    CutPair,
    /// The others do not hear one node.
    Mute,
    /// One node does not hear the others.
    Deafen,
    /// Everything arrives late.
    Delay,
    /// Packets are lost, doubled and out of order.
    Loss,
    /// kill -9 of one node while another is cut off.
    KillBesideCut,
    /// One node stands still behind a cut, and goes on before the cut is mended: it has heard of nothing that was decided
    /// meanwhile.
    WakeAlone,
    /// kill -9 of one node while everything is late: many requests are half done.
    KillInDelay,
    /// The same with two nodes cut apart: what is half done goes on at one of them, and the other cannot know.
    CutInDelay,
    /// Cuts that come and go: one node after the other is cut off, each for as long as it takes to elect another leader, so
    /// that an old one lives on for a moment again and again.
    Flicker,
}

impl Kind {
    pub(super) const ALL: [Kind; 17] = [
        Kind::KillOne,
        Kind::KillTwice,
        Kind::KillMost,
        Kind::KillAll,
        Kind::FreezeOne,
        Kind::FreezeMost,
        Kind::Isolate,
        Kind::CutPair,
        Kind::Mute,
        Kind::Deafen,
        Kind::Delay,
        Kind::Loss,
        Kind::KillBesideCut,
        Kind::WakeAlone,
        Kind::KillInDelay,
        Kind::CutInDelay,
        Kind::Flicker,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::KillOne => "kill -9 of one",
            Kind::KillTwice => "kill -9 of one, twice",
            Kind::KillMost => "kill -9 of two",
            Kind::KillAll => "kill -9 of all at once",
            Kind::FreezeOne => "SIGSTOP of one",
            Kind::FreezeMost => "SIGSTOP of two",
            Kind::Isolate => "one node cut off",
            Kind::CutPair => "two nodes cut apart",
            Kind::Mute => "one node not heard",
            Kind::Deafen => "one node hears nothing",
            Kind::Delay => "20 to 150 ms late",
            Kind::Loss => "5 to 25 % lost",
            Kind::KillBesideCut => "kill -9 beside a cut",
            Kind::WakeAlone => "SIGSTOP behind a cut",
            Kind::KillInDelay => "kill -9 while all is late",
            Kind::CutInDelay => "a cut while all is late",
            Kind::Flicker => "cuts that come and go",
        }
    }

    /// Whether packets must have met it.
    fn is_of_links(self) -> bool {
        matches!(
            self,
            Kind::Isolate
                | Kind::CutPair
                | Kind::Mute
                | Kind::Deafen
                | Kind::Delay
                | Kind::Loss
                | Kind::KillBesideCut
                | Kind::WakeAlone
                | Kind::KillInDelay
                | Kind::CutInDelay
                | Kind::Flicker
        )
    }
}

/// What the faults are done to, and the draws.
pub(super) struct Nemesis {
    pub(super) cluster: Cluster,
    links: Links,
    rng: Rng,
    deck: Vec<Kind>,
    /// Nodes that were to be killed and had ended by themselves.
    dead: Vec<String>,
}

/// A fault that holds.
pub(super) struct Harm {
    pub(super) kind: Kind,
    /// In an order drawn anew: the first is hit first.
    nodes: Vec<usize>,
    killed: usize,
    frozen: usize,
    harmed_before: u64,
    /// Signals did what they should.
    struck: bool,
}

impl Nemesis {
    pub(super) fn new(cluster: Cluster, links: Links, seed: u64) -> Nemesis {
        let rng = Rng::new(seed).fork("nemesis");
        Nemesis {
            cluster,
            links,
            rng,
            deck: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Every kind once, in an order drawn anew, before any comes again.
    pub(super) fn next_kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = Kind::ALL.to_vec();
        }
        let at = self.rng.index(self.deck.len());
        self.deck.swap_remove(at)
    }

    /// A time between these.
    pub(super) fn while_between(&mut self, low: Duration, high: Duration) -> Duration {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("short");
        Duration::from_millis(self.rng.between(millis(low), millis(high)))
    }

    /// Begins a fault.
    pub(super) fn inject(&mut self, kind: Kind) -> Harm {
        let mut nodes: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        for at in (1..nodes.len()).rev() {
            nodes.swap(at, self.rng.index(at + 1));
        }
        let majority = nodes.len() / 2 + 1;
        let mut harm = Harm {
            kind,
            killed: 0,
            frozen: 0,
            harmed_before: self.links.harmed(),
            struck: true,
            nodes,
        };
        match kind {
            Kind::KillOne => self.kill(&mut harm, 1),
            Kind::KillTwice => self.kill_twice(&mut harm),
            Kind::KillMost => self.kill(&mut harm, majority),
            Kind::KillAll => self.kill(&mut harm, self.cluster.nodes.len()),
            Kind::FreezeOne => self.freeze(&mut harm, 1),
            Kind::FreezeMost => self.freeze(&mut harm, majority),
            Kind::Isolate => self.cut(&harm, 0, true, true),
            Kind::CutPair => self.cut_pair(&harm),
            Kind::Mute => self.cut(&harm, 0, true, false),
            Kind::Deafen => self.cut(&harm, 0, false, true),
            Kind::Delay => self.delay(),
            Kind::Loss => self.lose(),
            Kind::KillBesideCut => {
                self.cut(&harm, 1, true, true);
                self.kill(&mut harm, 1);
            }
            Kind::WakeAlone => self.wake_alone(&mut harm),
            Kind::KillInDelay => {
                self.delay_a_while();
                self.kill(&mut harm, 1);
            }
            Kind::CutInDelay => {
                self.delay_a_while();
                self.cut_pair(&harm);
            }
            Kind::Flicker => self.flicker(&harm),
        }
        harm
    }

    /// Ends the fault: everything runs and every link is whole. Whether the fault had really been there.
    pub(super) fn heal(&mut self, harm: &Harm) -> bool {
        let nodes = &mut self.cluster.nodes;
        let frozen = &harm.nodes[..harm.frozen];
        let stood_still = frozen.iter().all(|at| nodes[*at].is_frozen());
        let there = frozen.iter().filter(|at| nodes[**at].is_running());
        there.for_each(|at| nodes[*at].thaw());
        let met = self.links.harmed() > harm.harmed_before;
        self.links.heal();
        harm.nodes[..harm.killed].iter().for_each(|at| nodes[*at].spawn());
        harm.struck && stood_still && (met || !harm.kind.is_of_links())
    }

    /// Nodes that ended by themselves, with how.
    pub(super) fn deaths(&mut self) -> Vec<String> {
        let mut deaths = std::mem::take(&mut self.dead);
        let death = |node: &mut Node| {
            let status = node.ended()?;
            Some(obituary(node, status))
        };
        deaths.extend(self.cluster.nodes.iter_mut().filter_map(death));
        deaths
    }

    fn kill(&mut self, harm: &mut Harm, count: usize) {
        use std::os::unix::process::ExitStatusExt;
        let nodes = &mut self.cluster.nodes;
        let victims = &harm.nodes[..count];
        victims.iter().for_each(|at| nodes[*at].strike());
        for at in victims {
            let status = nodes[*at].bury();
            if status.signal() != Some(9) {
                harm.struck = false;
                self.dead.push(obituary(&nodes[*at], status));
            }
        }
        harm.killed = count;
    }

    fn kill_twice(&mut self, harm: &mut Harm) {
        self.kill(harm, 1);
        self.cluster.nodes[harm.nodes[0]].spawn();
        let soon = self.while_between(Duration::from_millis(5), Duration::from_millis(400));
        std::thread::sleep(soon); // pace: somewhere in its recovery
        self.kill(harm, 1);
    }

    fn freeze(&mut self, harm: &mut Harm, count: usize) {
        harm.nodes[..count]
            .iter()
            .for_each(|at| self.cluster.nodes[*at].freeze());
        harm.frozen = count;
    }

    fn wake_alone(&mut self, harm: &mut Harm) {
        self.cut(harm, 0, true, true);
        self.cluster.nodes[harm.nodes[0]].freeze();
        // Long enough for the others to elect a leader, or not quite.
        let meanwhile = self.while_between(Duration::from_millis(200), Duration::from_millis(1_500));
        std::thread::sleep(meanwhile); // pace: the fault holds
        let node = &self.cluster.nodes[harm.nodes[0]];
        harm.struck = node.is_frozen();
        if node.is_running() {
            node.thaw();
        }
    }

    /// Cuts what this node sends, what it would hear, or both.
    fn cut(&self, harm: &Harm, which: usize, sends: bool, hears: bool) {
        let node = harm.nodes[which];
        for &other in harm.nodes.iter().filter(|other| **other != node) {
            if sends {
                self.links.set(node, other, &Faults::cut());
            }
            if hears {
                self.links.set(other, node, &Faults::cut());
            }
        }
    }

    /// The last cut stays.
    fn flicker(&mut self, harm: &Harm) {
        for turn in 0..FLICKERS {
            let calm = self.while_between(Duration::from_millis(200), Duration::from_millis(400));
            self.links.heal();
            std::thread::sleep(calm); // pace: clients find the leaders
            self.cut(harm, turn % harm.nodes.len(), true, true);
            let lasts = self.while_between(Duration::from_millis(600), Duration::from_millis(1_000));
            std::thread::sleep(lasts); // pace: the fault holds
        }
    }

    fn cut_pair(&self, harm: &Harm) {
        let (one, other) = (harm.nodes[0], harm.nodes[1]);
        self.links.set(one, other, &Faults::cut());
        self.links.set(other, one, &Faults::cut());
    }

    fn delay(&mut self) {
        let delay = self.while_between(Duration::from_millis(20), Duration::from_millis(150));
        let jitter = delay / 2;
        self.links.set_all(&Faults {
            delay,
            jitter,
            ..Faults::default()
        });
    }

    /// Until every client waits for something that is late.
    fn delay_a_while(&mut self) {
        self.delay();
        let meanwhile = self.while_between(Duration::from_millis(300), Duration::from_millis(800));
        std::thread::sleep(meanwhile); // pace: the fault holds
    }

    fn lose(&mut self) {
        let loss = self.rng.between(5, 25) as f64 / 100.0;
        self.links.set_all(&Faults {
            loss,
            duplicate: 0.05,
            reorder: 0.1,
            ..Faults::default()
        });
    }
}

fn obituary(node: &Node, status: ExitStatus) -> String {
    let (id, log) = (node.id, node.log.display());
    format!("node {id} ended by itself: {status}; its log: {log}")
}
