//! A cluster of replicas in one process, for tests: disks that sync when told, links that lose and reorder,
//! and a script language over them (see testscripts/README.md). Global safety is checked after every event.
//! Never compiled into a binary.

mod checker;
mod cluster;
mod commands;
mod host;
mod script;

pub use checker::Checker;
pub use cluster::{Cluster, Link, Parcel};
pub use host::{Arriving, Disk, Host};
pub use script::{run_script, verify_scripts};
