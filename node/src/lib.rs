//! The product: state machines, routing, gateways, CLI, metrics around multiraft. The binary is `main.rs`.
//! `kv` is pure: no tokio, redb, clock or rng. `service` is the seam between gateways and the cluster.

pub mod apply;
pub mod cli;
pub mod descriptor;
pub mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gateway;
pub mod health;
pub mod kv;
pub mod metrics;
pub mod options;
pub mod requests;
pub mod server;
pub mod service;
pub mod stages;
pub mod trust;
