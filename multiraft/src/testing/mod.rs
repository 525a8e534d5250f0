//! In-memory parts for tests, simulators and examples, and the suites that every implementation of a contract passes.
//! Nothing here is made for production: the disk forgets what was not synced, the network drops what it is told to.

mod bulk_suite;
mod machine_suite;
mod mem_disk;
mod mem_network;
mod network_suite;
mod storage_suite;
mod tally;
#[cfg(test)]
mod tests;

pub use bulk_suite::{BulkRecorder, BulkRun, BulkSeen, BulkWatch, bulk_suite};
pub use machine_suite::{MachineHarness, machine_suite};
pub use mem_disk::{MemDisk, MemStorage, SyncMode};
pub use mem_network::{BulkFault, MemLink, MemNetwork, Receive};
pub use network_suite::{NetworkHarness, network_suite};
pub use storage_suite::{StorageHarness, storage_suite};
pub use tally::Tally;
