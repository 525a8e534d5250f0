//! The ledger of known bugs: for each, who finds it. A bug counts as found by a script when its transcript becomes another,
//! or the script panics; by chaos when a seed within the budget breaks the rule that is meant to notice.
//!
//! Every run plays all the scripts of the ledger, and chaos for a sample that changes with the day.
//! `FLOTILLA_LEDGER=all` plays chaos for every bug, `FLOTILLA_LEDGER=measure` says which scripts and which seed find each.

use super::chaos;
use crate::bugs::{Bug, with};
use crate::testing::run_script;
use std::fs;
use std::path::{Path, PathBuf};

/// Bugs for which an ordinary run plays chaos.
const SAMPLE: usize = 3;

/// One bug.
struct Row {
    bug: Bug,
    /// Its numbers in the project's catalogue; see testscripts/README.md.
    source: &'static str,
    /// Below testscripts/, without its ending; empty: no script gets there.
    script: &'static str,
    /// What chaos must panic with, and in how many seeds. None: a rule of liveness or of refusals, which chaos does not
    /// judge, or a scene too rare for it.
    chaos: Option<(&'static str, u64)>,
}

const fn row(
    bug: Bug,
    source: &'static str,
    script: &'static str,
    chaos: Option<(&'static str, u64)>,
) -> Row {
    Row {
        bug,
        source,
        script,
        chaos,
    }
}

const LEDGER: [Row; 41] = [
    row(
        Bug::VotesTwice,
        "B1",
        "election/a_voter_gives_one_vote_per_term",
        Some(("I1", 100)),
    ),
    row(
        Bug::GrantLeavesEarly,
        "B2 S4",
        "durability/a_vote_leaves_only_after_it_is_durable",
        Some(("I1", 100)),
    ),
    row(
        Bug::AcknowledgementLeavesEarly,
        "B2 S4",
        "durability/an_append_is_acknowledged_only_after_it_is_durable",
        Some(("I8", 100)),
    ),
    row(
        Bug::RefusedVoteCounts,
        "B4 S7",
        "election/a_candidate_with_an_older_log_is_refused",
        Some(("election safety", 100)),
    ),
    row(
        Bug::LogsComparedByLength,
        "B5 S8",
        "election/a_candidate_with_an_older_log_is_refused",
        Some(("leader completeness", 1000)),
    ),
    row(
        Bug::RepeatedVoteRefused,
        "B126",
        "election/a_voter_gives_one_vote_per_term",
        None,
    ),
    row(
        Bug::OverwrittenWriteAcknowledges,
        "B10",
        "durability/an_overwritten_write_in_flight_does_not_acknowledge_its_successor",
        Some(("I4", 1000)),
    ),
    row(
        Bug::OldTermCounted,
        "B11",
        "replication/an_entry_of_an_older_term_is_not_committed_by_counting",
        Some(("I7", 100)),
    ),
    row(
        Bug::RejectionAcknowledges,
        "B12",
        "replication/a_diverged_log_is_repaired_by_terms_not_by_entries",
        Some(("which is on", 100)),
    ),
    row(
        Bug::ShortAppendCuts,
        "B13 S9",
        "replication/a_delayed_short_append_cuts_nothing",
        Some(("I5", 200)),
    ),
    row(
        Bug::AcknowledgesBeyondAppend,
        "B14",
        "replication/a_delayed_short_append_cuts_nothing",
        None,
    ),
    row(
        Bug::BaseTakenForConflict,
        "B15 S10",
        "truncation/an_append_that_begins_below_the_base_is_no_conflict",
        Some(("does not work", 1000)),
    ),
    row(
        Bug::ForeignEntriesSent,
        "B16 S16 S17",
        "",
        Some(("the entry before", 100)),
    ),
    row(
        Bug::ProgressUnsorted,
        "B17 S1",
        "replication/a_minority_commits_nothing",
        Some(("which is on", 100)),
    ),
    row(
        Bug::LateRejectionRewinds,
        "B18 S3",
        "replication/a_rejection_that_was_overtaken_is_ignored",
        Some(("I10", 1500)),
    ),
    row(
        Bug::UncommittedBytesLeak,
        "B23",
        "replication/proposals_are_refused_when_too_much_is_uncommitted",
        None,
    ),
    row(
        Bug::LeaderCountsItselfEarly,
        "S6",
        "durability/a_leader_counts_its_own_copy_only_when_durable",
        Some(("which is on", 100)),
    ),
    row(
        Bug::ChangeBeforeFirstCommit,
        "B25 S19",
        "membership/a_change_waits_for_the_first_commit_of_the_term",
        None,
    ),
    row(
        Bug::SecondChangeInFlight,
        "B26 B39",
        "membership/a_second_change_is_refused_while_one_is_in_flight",
        Some(("I9", 100)),
    ),
    row(
        Bug::LearnersCounted,
        "B27 S18",
        "election/a_learner_never_campaigns_and_never_counts",
        Some(("which is on", 100)),
    ),
    row(
        Bug::UnionTallied,
        "B28",
        "membership/a_joint_commit_needs_both_halves",
        Some(("which is on", 100)),
    ),
    row(
        Bug::RemovedLeaderStays,
        "B29",
        "membership/a_removed_leader_finishes_and_steps_down",
        None,
    ),
    row(
        Bug::DemotedLeaderRefusesToLead,
        "B30",
        "membership/a_demoted_leader_may_lead_until_the_joint_membership_is_left",
        Some(("does not work", 300)),
    ),
    row(
        Bug::JointNeverLeft,
        "B31",
        "membership/voters_change_by_way_of_a_joint_membership",
        None,
    ),
    row(
        Bug::JointLostInSnapshot,
        "B32",
        "snapshot/a_joint_membership_comes_with_a_snapshot",
        None,
    ),
    row(
        Bug::MembershipSurvivesInstall,
        "B47 S14",
        "snapshot/a_snapshot_brings_the_membership_in_force",
        Some(("I9", 1500)),
    ),
    row(
        Bug::StrangerRefusesToVote,
        "B33",
        "membership/a_voter_that_does_not_know_it_yet_answers_a_campaign",
        Some(("does not work", 1000)),
    ),
    row(
        Bug::TransferToLearner,
        "B35",
        "transfer/a_transfer_to_a_non_voter_is_refused",
        None,
    ),
    row(
        Bug::TransferTooEarly,
        "L8",
        "transfer/a_transfer_waits_until_the_target_has_caught_up",
        None,
    ),
    row(
        Bug::RefusedPreVoteTeachesNothing,
        "B37 L7",
        "election/a_refused_pre_vote_teaches_the_term",
        Some(("does not work", 300)),
    ),
    row(
        Bug::ReadsForgottenByChange,
        "B43",
        "membership/a_smaller_quorum_confirms_a_waiting_read",
        None,
    ),
    row(
        Bug::LastVoterRemoved,
        "B44",
        "membership/changes_that_make_no_sense_are_refused",
        None,
    ),
    row(
        Bug::OldSnapshotInstalled,
        "B49",
        "snapshot/a_snapshot_that_is_not_news_is_answered_with_the_position",
        Some(("I3", 1000)),
    ),
    row(
        Bug::ReadBeforeFirstCommit,
        "B65 R4",
        "read/a_read_waits_for_the_first_commit_of_the_term",
        Some(("was committed before it", 100)),
    ),
    row(
        Bug::QuestionReused,
        "B66 B79",
        "read/an_answer_to_a_question_of_an_earlier_life_confirms_nothing",
        None,
    ),
    row(
        Bug::DeposedLeaderServes,
        "B67 B70 R7",
        "read/reads_are_refused_when_leadership_is_lost",
        Some(("was committed before it", 1000)),
    ),
    row(
        Bug::ReadBeforeRound,
        "B69",
        "read/a_read_waits_for_a_round_of_heartbeats",
        Some(("was committed before it", 1500)),
    ),
    row(
        Bug::LeaseKeptInTransfer,
        "B76 R2",
        "read/a_leader_that_hands_over_gives_its_lease_up",
        Some(("was committed before it", 1500)),
    ),
    row(
        Bug::PledgeForgottenAtStart,
        "B78 R1",
        "read/a_lease_is_safe_though_a_voter_restarts",
        Some(("was committed before it", 1000)),
    ),
    row(
        Bug::LeaseCountsFromAnswer,
        "R3",
        "read/a_lease_counts_from_when_its_heartbeat_left",
        None,
    ),
    row(
        Bug::DeafLeaderStays,
        "L1 R6 B123",
        "election/a_leader_out_of_contact_with_a_quorum_steps_down",
        None,
    ),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts")
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_default()
}

/// How a script notices the bug; None: it does not.
fn noticed_by(bug: Bug, path: &Path) -> Option<String> {
    let script = fs::read_to_string(path).expect("the ledger names a script that exists");
    match with(bug, || run_script(&script)) {
        Ok(Ok(output)) if output == script => None,
        Ok(Ok(_)) => Some("transcript".to_owned()),
        Ok(Err(text)) => Some(text),
        Err(panic) => Some(words_of(&*panic)),
    }
}

/// The first seed that breaks a rule whose text begins so, or any rule.
fn chaos_finds(bug: Bug, rule: &str, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let panic = with(bug, || chaos::run_once(seed)).err()?;
        let text = words_of(&*panic);
        text.contains(rule).then_some((seed, text))
    })
}

#[test]
fn every_known_bug_is_found_by_its_script() {
    for Row {
        bug,
        source,
        script,
        chaos,
    } in &LEDGER
    {
        if script.is_empty() {
            assert!(chaos.is_some(), "nobody finds {bug:?}");
            continue;
        }
        let path = directory().join(script).with_extension("txt");
        let noticed = noticed_by(*bug, &path);
        assert!(noticed.is_some(), "{bug:?} ({source}) passes {script}");
    }
}

#[test]
fn a_sample_of_the_known_bugs_is_found_by_chaos() {
    let wanted = std::env::var("FLOTILLA_LEDGER").unwrap_or_default();
    if wanted == "measure" {
        return measure();
    }
    let rows: Vec<&Row> = LEDGER.iter().filter(|row| row.chaos.is_some()).collect();
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    let day = usize::try_from(since.as_secs() / 86_400).expect("days fit");
    let count = if wanted == "all" {
        rows.len()
    } else {
        SAMPLE.min(rows.len())
    };
    for number in 0..count {
        let Row { bug, chaos, .. } = rows[(day * SAMPLE + number) % rows.len()];
        let (rule, seeds) = chaos.expect("only these");
        assert!(
            chaos_finds(*bug, rule, seeds).is_some(),
            "{bug:?} breaks no `{rule}` in {seeds} seeds of chaos"
        );
    }
}

/// For whoever fills the table.
fn measure() {
    for Row { bug, script, .. } in &LEDGER {
        let mut scripts = Vec::new();
        for room in fs::read_dir(directory()).expect("the scripts").flatten() {
            for file in fs::read_dir(room.path()).into_iter().flatten().flatten() {
                let how = noticed_by(*bug, &file.path());
                let name = file.path().with_extension("");
                let name = name
                    .strip_prefix(directory())
                    .expect("below")
                    .display()
                    .to_string();
                scripts.extend(how.map(|how| (name, how)));
            }
        }
        let by_its_own = scripts.iter().find(|(name, _)| name == script);
        let chaos = chaos_finds(*bug, "", 400);
        println!(
            "{bug:?}: {} scripts, its own {by_its_own:?}, others {:?}; chaos {chaos:?}",
            scripts.len(),
            scripts.iter().take(3).map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}
