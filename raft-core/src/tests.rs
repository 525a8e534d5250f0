//! Tests of the whole crate: the scripts under testscripts/, seeded chaos, and a smoke test of the public calls.

mod chaos;
mod scripts;
mod smoke;
