//! The fault plan: what breaks next, where and for how long. It decides; the world carries it out.

use super::clock::{MS, Nanos};
use super::options::{Every, Options};
use super::rng::Rng;
use multiraft::NodeId;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Processes end at once; what was not synced is lost.
    Crash,
    /// Links stop passing frames.
    Partition,
    /// A process stands still.
    Pause,
    /// Not a fault, an order: leadership goes elsewhere.
    Transfer,
    /// An order, too: members come and go.
    Change,
}

/// All kinds.
pub(super) const ALL: [Fault; 5] = [
    Fault::Crash,
    Fault::Partition,
    Fault::Pause,
    Fault::Transfer,
    Fault::Change,
];

/// How long a process is down that nobody crashed on purpose.
const DOWN: Nanos = 30 * MS;

/// Draws the plan as it goes.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    options: Options,
}

impl Plan {
    pub(super) fn new(rng: Rng, options: &Options) -> Plan {
        Plan {
            rng,
            options: options.clone(),
        }
    }

    fn every(&self, fault: Fault) -> Option<Every> {
        match fault {
            Fault::Crash => self.options.crashes,
            Fault::Partition => self.options.partitions,
            Fault::Pause => self.options.pauses,
            Fault::Transfer => self.options.transfers,
            Fault::Change => self.options.changes,
        }
    }

    /// How long until the next fault of this kind; None: never.
    pub(super) fn gap(&mut self, fault: Fault) -> Option<Nanos> {
        self.every(fault).map(|every| self.rng.around(every.gap))
    }

    /// How long it lasts.
    pub(super) fn length(&mut self, fault: Fault) -> Nanos {
        self.every(fault)
            .map_or(DOWN, |every| self.rng.around(every.length))
    }

    /// Some node.
    pub(super) fn node(&mut self) -> NodeId {
        NodeId(self.rng.between(1, self.options.nodes))
    }

    /// Which nodes crash together.
    pub(super) fn victims(&mut self) -> Vec<NodeId> {
        if self.rng.chance(self.options.blackouts) {
            (1..=self.options.nodes).map(NodeId).collect()
        } else {
            vec![self.node()]
        }
    }

    /// True when some of what was not synced survives this crash.
    pub(super) fn has_survivors(&mut self) -> bool {
        self.rng.chance(self.options.disk.survivors)
    }

    /// Which directions are cut: one node from the rest, two camps, or single links; both ways or one.
    pub(super) fn cuts(&mut self) -> Vec<(NodeId, NodeId)> {
        let camps = match self.rng.below(3) {
            0 => 1 << self.rng.below(self.options.nodes),
            _ => self.rng.next(),
        };
        let single = self.rng.chance(250);
        let one_way = self.rng.chance(self.options.one_way);
        let side = |node: u64| camps >> (node - 1) & 1;
        let mut cuts = Vec::new();
        for from in 1..=self.options.nodes {
            for to in (1..=self.options.nodes).filter(|to| *to != from) {
                let crosses = if single {
                    self.rng.chance(300)
                } else {
                    side(from) != side(to)
                };
                if crosses && !(one_way && side(from) < side(to)) {
                    cuts.push((NodeId(from), NodeId(to)));
                }
            }
        }
        cuts
    }

    /// True when the links of this partition fail one after the other.
    pub(super) fn is_swizzle(&mut self) -> bool {
        self.rng.chance(self.options.swizzles)
    }

    /// Chance, for whatever is drawn elsewhere.
    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A draw for whatever the world must choose among the living.
    pub(super) fn index(&mut self, len: usize) -> usize {
        self.rng.index(len)
    }
}
