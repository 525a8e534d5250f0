//! Tests of the whole crate: the scripts under testscripts/, seeded chaos, pure parts against models, a smoke
//! test.

mod chaos;
mod following;
mod ledger;
mod log;
mod quorum;
mod scripts;
mod smoke;
