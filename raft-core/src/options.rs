//! The knobs of one replica, checked once. Limits that relate to each other are asserted here.

use std::time::Duration;

/// How a replica behaves. All replicas of a group should agree on the timeouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Shortest silence after which a follower asks for votes. Also how long it stays loyal to a leader it
    /// heard.
    pub election_timeout_min: Duration,
    /// Longest; each wait is drawn from `min..max` (Raft §5.2).
    pub election_timeout_max: Duration,
    /// A leader contacts each peer at least this often.
    pub heartbeat_interval: Duration,
    /// Followers pledge, with every answer to a heartbeat, to support nobody else for `election_timeout_min`, and
    /// leaders serve lease reads while a quorum is pledged. A voter that restarts keeps silent that long: it may
    /// have pledged. The host's clock must count suspended time. To lower the timeouts of a group with leases,
    /// switch them off first: a pledge must not outlive a restart.
    pub leases: bool,
    /// How much faster or slower than true time any clock of the group may run. Leases end that much earlier.
    pub clock_drift_percent: u32,
    /// Waits this much longer than others before it campaigns: a hint that they should lead rather. Nobody
    /// depends on it.
    pub campaign_delay: Duration,
    /// Most bytes of entries in one append (one entry may exceed it).
    pub append_bytes_max: usize,
    /// Most bytes of entries in flight to one peer.
    pub inflight_bytes_max: usize,
    /// Most appends in flight to one peer.
    pub inflight_messages_max: usize,
    /// Proposals are refused while this many bytes are uncommitted (one entry may exceed it).
    pub uncommitted_bytes_max: usize,
    /// Entries kept in memory after they are applied and durable, in bytes; colder ones are fetched.
    pub tail_bytes_max: usize,
    /// Bytes of checkpointed entries that are kept for members that do not hold them yet; beyond that the log is cut, oldest
    /// first, and they need a snapshot. More than is written while a snapshot travels, or another one must follow it.
    pub kept_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            heartbeat_interval: Duration::from_millis(100),
            leases: false,
            clock_drift_percent: 10,
            campaign_delay: Duration::ZERO,
            append_bytes_max: 256 << 10,
            inflight_bytes_max: 4 << 20,
            inflight_messages_max: 64,
            uncommitted_bytes_max: 16 << 20,
            tail_bytes_max: 1 << 20,
            kept_bytes_max: u64::MAX,
        }
    }
}

impl Options {
    /// Checks the relations between the knobs; the text says which one is broken and how to mend it.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (
                self.election_timeout_min < self.election_timeout_max,
                "election_timeout_min must be below election_timeout_max",
            ),
            (
                self.heartbeat_interval * 2 <= self.election_timeout_min,
                "heartbeat_interval must be at most half of election_timeout_min",
            ),
            (
                self.append_bytes_max <= self.inflight_bytes_max,
                "append_bytes_max must not exceed inflight_bytes_max",
            ),
            (
                self.inflight_messages_max >= 1,
                "inflight_messages_max must be at least 1",
            ),
            (
                self.clock_drift_percent < 100,
                "clock_drift_percent must be below 100",
            ),
            (
                !self.heartbeat_interval.is_zero(),
                "heartbeat_interval must not be zero",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, text)) => Err((*text).to_owned()),
        }
    }

    /// How long a leader may count on a pledge of `pledged`, from the moment its heartbeat left: the shortest
    /// time by our clock that any follower's clock may take for it.
    pub(crate) fn lease_of(&self, pledged: Duration) -> Duration {
        let drift = self.clock_drift_percent;
        pledged.min(self.election_timeout_min) * (100 - drift) / (100 + drift)
    }
}
