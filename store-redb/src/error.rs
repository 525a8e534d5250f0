//! Why a node file could not be opened, and why the process had to end afterwards. Messages say what to do.

use std::path::PathBuf;

/// Ends the process with the reason's exit code; it must never return. The default logs one line to standard
/// error and exits. Tests panic instead.
pub type Fatal = fn(ExitReason, String) -> !;

/// Why the process ends. Nothing is retried and nothing is acknowledged after one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// A write, fsync or commit failed: what reached the disk is unknown.
    WriteFailed,
    /// Bytes read back do not match their checksum.
    Corrupt,
    /// The file belongs to another node or cluster.
    Identity,
    /// The file was written by a newer version.
    NewerFormat,
}

impl ExitReason {
    /// The process exit code. Supervisors must not restart on any of them.
    pub fn code(self) -> i32 {
        match self {
            ExitReason::WriteFailed => 70,
            ExitReason::Corrupt => 71,
            ExitReason::Identity => 72,
            ExitReason::NewerFormat => 73,
        }
    }
}

/// Exit code of a configuration that can not work.
const CONFIGURATION_CODE: i32 = 75;

/// The default [`Fatal`]: one line on standard error, then exit.
pub fn exit_process(reason: ExitReason, message: String) -> ! {
    eprintln!("flotilla: {message}");
    std::process::exit(reason.code())
}

/// Why a node file was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "{0} is in use by another process; stop that node first, or give this one its own data directory"
    )]
    Locked(PathBuf),
    /// It belongs to another node.
    #[error(
        "the data directory belongs to node {found}, this is node {expected}; start node {found} here, or give \
             this node its own data directory"
    )]
    OtherNode {
        /// The node id in the file.
        found: u64,
        /// The node id asked for.
        expected: u64,
    },
    /// It belongs to another cluster.
    #[error(
        "the data directory belongs to cluster {found}, this node's certificate names cluster {expected}; use the \
             certificates of that cluster, or an empty data directory"
    )]
    OtherCluster {
        /// The cluster id in the file, in hex.
        found: String,
        /// The cluster id asked for, in hex.
        expected: String,
    },
    /// It was written by a newer version.
    #[error("the data directory has format {found}, this version reads up to {known}; upgrade this node")]
    NewerFormat {
        /// The format in the file.
        found: u32,
        /// The newest format this version reads.
        known: u32,
    },
    /// Its contents do not match their checksums.
    #[error(
        "the node file is damaged: {0}; do not repair it by hand: move it away and let the cluster replace this \
             node"
    )]
    Corrupt(String),
    /// The sizes asked for make no sense.
    #[error("the sizes of the node file are not possible: {0}")]
    Options(&'static str),
    /// The disk is too full for the log.
    #[error(
        "the log needs {needed} bytes of disk space, {free} are free; free some, or use a smaller ring \
             (storage.ring_bytes)"
    )]
    NoSpace {
        /// Bytes of the ring that must be written before anything else can be.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The operating system refused.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl OpenError {
    /// The process exit code for a node that cannot start because of this.
    pub fn code(&self) -> i32 {
        match self {
            OpenError::Locked(_) | OpenError::OtherNode { .. } | OpenError::OtherCluster { .. } => {
                ExitReason::Identity.code()
            }
            OpenError::NewerFormat { .. } => ExitReason::NewerFormat.code(),
            OpenError::Corrupt(_) => ExitReason::Corrupt.code(),
            OpenError::Options(_) => CONFIGURATION_CODE,
            OpenError::NoSpace { .. } | OpenError::Io { .. } => ExitReason::WriteFailed.code(),
        }
    }
}
