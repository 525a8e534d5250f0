//! The deterministic simulator: production workers on simulated disks, clocks and links, in one thread, from one seed.
//! A run has three phases: faults, under which no property may fail; then a random set of nodes that holds a quorum of
//! every group heals, the others stay down or cut, and the set must serve; then everything heals, and the cluster must
//! serve and agree. What it does not contain: the store's file format and QUIC, which have tests of their own.
//!
//! ```text
//! clients --requests--> inbox -> Worker::turn -> frames -> network -> inbox of another node
//!                                     |-> batches -> disk (sync) -> what waited for it, completions -> inbox
//!                                     |-> snapshots -> streams -> staging of another node -> its inbox
//! checkers watch every arrow, every disk and every replica after every turn
//! ```

mod bugs;
mod check;
mod clients;
mod clock;
mod disk;
mod faults;
mod machine;
mod members;
mod network;
mod node;
mod options;
mod panics;
mod report;
mod rng;
mod schedule;
mod staging;
mod streams;
#[cfg(test)]
mod tests;
mod traffic;
mod transcript;
mod trouble;
mod world;

pub use bugs::Bug;
pub use check::Violation;
pub use options::Options;
pub use report::{Report, Totals};
pub(crate) use rng::Rng;

/// What a caller may choose besides the seed.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Write down every event.
    pub transcript: bool,
    /// Break something on purpose.
    pub bug: Option<Bug>,
    /// Leave the faults out.
    pub calm: bool,
}

/// Runs one seed. Deterministic: same seed and settings, same report.
pub fn run(seed: u64, settings: &Settings) -> Report {
    let options = if settings.calm {
        Options::calm(seed)
    } else {
        Options::draw(seed)
    };
    let mut world = world::World::new(seed, &options, settings.bug, settings.transcript);
    let panic = panics::catch(|| world.run()).err();
    let violation = panic.or_else(|| world.checkers.found.take());
    let invalid = match violation {
        None => world.totals.shortfall(&options),
        Some(_) => None,
    };
    Report {
        seed,
        options,
        totals: world.totals,
        violation,
        invalid,
        hash: world.transcript.hash,
        transcript: world.transcript.text.take(),
    }
}
