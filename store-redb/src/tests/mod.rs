//! Tests of the whole crate; each file names its subject.

mod conformance;
mod crash;
mod faults;
mod files;
mod flips;
mod format;
mod lives;
mod lone;
mod members;
mod node;
mod offline;
mod reads;
mod room;
mod scrub;
mod space;
mod threads;
mod world;

/// True in the long run of these tests, see CONTRIBUTING.md: every call and way, not a sample.
fn is_thorough() -> bool {
    std::env::var_os("FLOTILLA_THOROUGH").is_some()
}
