//! Tests of the whole crate; each file names its subject.

mod conformance;
mod crash;
mod files;
mod format;
mod lives;
mod lone;
mod node;
mod offline;
mod reads;
mod room;
mod space;
mod threads;
mod world;
