//! Everything that tests Flotilla from outside its crates: the simulator, clusters of real processes, tidy.
//! A crate that is never published and that nothing depends on.

pub mod cluster;
pub mod decoders;
pub mod history;
pub mod ordeal;
pub mod proxy;
pub mod sim;

#[cfg(test)]
mod tidy;
