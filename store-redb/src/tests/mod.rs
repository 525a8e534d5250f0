//! Tests of the whole crate; each file names its subject.

mod conformance;
mod crash;
mod files;
mod lives;
mod node;
mod reads;
mod room;
mod threads;
mod world;
