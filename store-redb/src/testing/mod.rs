//! Proof that crashes lose nothing, and its parts: a simulated disk, a scripted node, a model of what must be found.
//! Behind the feature `testing`; nothing here runs in production. What is proved, and how to run it: `DESIGN.md`.

mod bugs;
mod crash;
mod disk;
mod fates;
mod history;
mod model;
mod random;
mod world;

pub use bugs::Bug;
pub use crash::{Counts, Failure, Kind, prove, prove_many};
pub use disk::{Fault, Losses, Moment, Operation, Remains, SimDisk};
pub use fates::Lived;
pub use history::{
    Arrival, Contents, Effect, Found, Groups, Log, Newborn, Origin, Said, SplitOff, command, descriptor,
    membership, replica,
};
pub use model::{Batch, Extent, Model};
pub use random::Random;
pub use world::{
    Ended, IDENTITY, Phase, Progress, Script, Setting, Sink, WORKERS, World, birth, contents, options, run,
    told,
};
