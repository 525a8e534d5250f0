//! Faults that no cluster survives, seeded on purpose: adapters between the production code and the simulated world
//! that break a promise. Each proves that a checker can fire. Never on in an ordinary run.

use std::fmt;

/// A broken part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The disk reports a write as durable before it is.
    DiskReportsEarly,
    /// The same, but only for a follower's entries, not for votes.
    DiskReportsEntriesEarly,
    /// The disk reports a checkpoint as durable before it is.
    DiskReportsCheckpointsEarly,
    /// The disk keeps the term over a crash, but not the vote.
    DiskForgetsVotes,
    /// The disk loses the end of a synced log in a crash.
    DiskLosesTail,
    /// The state machine of one node skips some commands.
    MachineSkipsEntry,
    /// A checkpoint claims to reflect an older entry than it does: a restart applies twice.
    CheckpointRunsAhead,
    /// The network turns refused votes into granted ones.
    NetworkForgesVotes,
    /// The network raises acknowledged positions by one.
    NetworkRaisesMatches,
    /// The network raises the leader's commit index by two.
    NetworkRaisesCommits,
    /// The network alters commands on their way.
    NetworkAltersCommands,
    /// A node answers reads from its own state, asking no one.
    GatewayReadsLocally,
    /// A gateway says `Refused` where the outcome is unknown, as after a timeout.
    GatewayRefusesUnknowns,
    /// A gateway never delivers some answers.
    GatewayLosesAnswers,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 14] = [
        Bug::DiskReportsEarly,
        Bug::DiskReportsEntriesEarly,
        Bug::DiskReportsCheckpointsEarly,
        Bug::DiskForgetsVotes,
        Bug::DiskLosesTail,
        Bug::MachineSkipsEntry,
        Bug::CheckpointRunsAhead,
        Bug::NetworkForgesVotes,
        Bug::NetworkRaisesMatches,
        Bug::NetworkRaisesCommits,
        Bug::NetworkAltersCommands,
        Bug::GatewayReadsLocally,
        Bug::GatewayRefusesUnknowns,
        Bug::GatewayLosesAnswers,
    ];

    /// The bug with this name, as printed.
    pub fn parse(name: &str) -> Result<Bug, String> {
        let found = Bug::ALL.into_iter().find(|bug| bug.to_string() == name);
        found.ok_or_else(|| {
            let names = Bug::ALL.map(|bug| bug.to_string()).join(", ");
            format!("no such bug; there are {names}")
        })
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
