//! Proof that crashes lose nothing, and its parts: a simulated disk, a scripted node, a model of what must be found.
//! Behind the feature `testing`; nothing here runs in production. What is proved, and how to run it: `DESIGN.md`.

mod bugs;
mod crash;
mod disk;
mod model;
mod random;
mod world;

pub use bugs::Bug;
pub use crash::{Counts, Failure, Kind, prove, prove_many};
pub use disk::{Fault, Losses, Moment, Operation, Remains, SimDisk};
pub use model::{
    Batch, Contents, Extent, Groups, Log, Model, Said, command, descriptor, membership, replica,
};
pub use random::Random;
pub use world::{
    Ended, IDENTITY, Phase, Progress, Script, Setting, Sink, WORKERS, World, birth, contents, options, run,
    told,
};
