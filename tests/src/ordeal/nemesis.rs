//! The faults: what is done to a cluster, undone again, and whether it really happened. Which nodes are hit is drawn
//! from the seed; how long a fault holds, too.

use crate::cluster::{Cluster, Links};
use crate::proxy::Faults;
use crate::sim::Rng;
use std::time::Duration;

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
}

impl Kind {
    pub(super) const ALL: [Kind; 13] = [
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
        )
    }
}

/// What the faults are done to, and the draws.
pub(super) struct Nemesis {
    pub(super) cluster: Cluster,
    links: Links,
    rng: Rng,
    deck: Vec<Kind>,
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
        }
        harm
    }

    /// Ends the fault: everything runs and every link is whole. Whether the fault had really been there.
    pub(super) fn heal(&mut self, harm: &Harm) -> bool {
        let nodes = &mut self.cluster.nodes;
        let frozen = &harm.nodes[..harm.frozen];
        let stood_still = frozen.iter().all(|at| nodes[*at].is_frozen());
        frozen.iter().for_each(|at| nodes[*at].thaw());
        let met = self.links.harmed() > harm.harmed_before;
        self.links.heal();
        harm.nodes[..harm.killed].iter().for_each(|at| nodes[*at].spawn());
        harm.struck && stood_still && (met || !harm.kind.is_of_links())
    }

    /// Nodes that ended by themselves, with how.
    pub(super) fn deaths(&mut self) -> Vec<String> {
        let death = |node: &mut crate::cluster::Node| {
            let status = node.ended()?;
            Some(format!(
                "node {} ended by itself: {status}; its log: {}",
                node.id,
                node.log.display()
            ))
        };
        self.cluster.nodes.iter_mut().filter_map(death).collect()
    }

    fn kill(&mut self, harm: &mut Harm, count: usize) {
        use std::os::unix::process::ExitStatusExt;
        let nodes = &mut self.cluster.nodes;
        let victims = &harm.nodes[..count];
        victims.iter().for_each(|at| nodes[*at].strike());
        let by_us = |at: &usize| nodes[*at].bury().signal() == Some(9);
        for died in victims.iter().map(by_us) {
            harm.struck &= died;
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
