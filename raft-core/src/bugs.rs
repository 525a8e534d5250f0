//! The ledger of known bugs: each was a bug of some Raft system, re-created here in one line, so that the tests can be
//! asked whether they would have found it (`tests/ledger.rs`). In a build that is no test of this crate none is ever on,
//! and the lines compile to nothing.

/// A bug of somebody's. The catalogue's number of each is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    VotesTwice,
    GrantLeavesEarly,
    AcknowledgementLeavesEarly,
    RefusedVoteCounts,
    LogsComparedByLength,
    RepeatedVoteRefused,
    OverwrittenWriteAcknowledges,
    OldTermCounted,
    RejectionAcknowledges,
    ShortAppendCuts,
    AcknowledgesBeyondAppend,
    BaseTakenForConflict,
    ForeignEntriesSent,
    ProgressUnsorted,
    LateRejectionRewinds,
    UncommittedBytesLeak,
    LeaderCountsItselfEarly,
    ChangeBeforeFirstCommit,
    SecondChangeInFlight,
    LearnersCounted,
    UnionTallied,
    RemovedLeaderStays,
    DemotedLeaderRefusesToLead,
    JointNeverLeft,
    JointLostInSnapshot,
    MembershipSurvivesInstall,
    StrangerRefusesToVote,
    TransferToLearner,
    TransferTooEarly,
    RefusedPreVoteTeachesNothing,
    ReadsForgottenByChange,
    LastVoterRemoved,
    OldSnapshotInstalled,
    ReadBeforeFirstCommit,
    QuestionReused,
    DeposedLeaderServes,
    ReadBeforeRound,
    LeaseKeptInTransfer,
    PledgeForgottenAtStart,
    LeaseCountsFromAnswer,
    DeafLeaderStays,
}

#[cfg(not(test))]
pub(crate) const fn is_on(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use seeded::{is_on, with};

#[cfg(test)]
mod seeded {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// True while this thread runs with that bug.
    pub(crate) fn is_on(bug: Bug) -> bool {
        ON.get() == Some(bug)
    }

    /// Runs `test` with the bug, on this thread; what it panics with is its answer.
    pub(crate) fn with<T>(bug: Bug, test: impl FnOnce() -> T) -> std::thread::Result<T> {
        ON.set(Some(bug));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        ON.set(None);
        result
    }
}
