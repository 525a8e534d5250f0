//! How the process ends: the exit codes (documented, stable) and the one error type that reaches `main`.
//! Not responsible for deciding when to end: whoever fails returns a `Failure`.

use std::fmt;

/// Why the process ends with something other than success. The numbers are part of the interface: scripts and
/// supervisors branch on them (a supervisor must not restart on 70 to 75).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The operation failed.
    Failed = 1,
    /// The command line makes no sense (clap's own code).
    Usage = 2,
    /// The key, range or node does not exist.
    NotFound = 3,
    /// A precondition did not hold (compare-and-set, a stale generation).
    Conflict = 4,
    /// The cluster answers but is not healthy.
    NotHealthy = 5,
    /// No endpoint could be reached, or it refused our certificate.
    CannotConnect = 6,
    /// The time ran out; the operation may still take effect.
    TimedOut = 7,
    /// A write or fsync failed: the outcome of what was being written is unknown.
    WriteFailed = 70,
    /// Stored data does not match its checksum.
    Corruption = 71,
    /// The data directory belongs to another node or cluster.
    Identity = 72,
    /// The data directory was written by a newer version.
    NewerFormat = 73,
    /// A port to listen on is taken or not allowed.
    Port = 74,
    /// The configuration is not usable.
    Configuration = 75,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

impl Code {
    /// The word used for this code in JSON errors.
    pub fn name(self) -> &'static str {
        match self {
            Code::Failed => "failed",
            Code::Usage => "usage",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::NotHealthy => "not_healthy",
            Code::CannotConnect => "cannot_connect",
            Code::TimedOut => "timed_out",
            Code::WriteFailed => "write_failed",
            Code::Corruption => "corruption",
            Code::Identity => "identity",
            Code::NewerFormat => "newer_format",
            Code::Port => "port",
            Code::Configuration => "configuration",
            Code::Interrupted => "interrupted",
        }
    }

    /// Whether running the same command again may help without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Code::NotHealthy | Code::CannotConnect | Code::TimedOut)
    }
}

/// An error that ends the process: what happened, and what the user can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened, in one sentence without a full stop.
    pub message: String,
    /// What to do about it; None when there is nothing useful to say.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// The same failure with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code for the operating system.
    pub fn exit_code(&self) -> std::process::ExitCode {
        std::process::ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
