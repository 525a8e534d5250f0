//! The simulator's own tests: it repeats itself, it finds nothing in sound code, and it finds every seeded bug.

use super::{Bug, Report, Settings, run};

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=3 {
        let settings = Settings {
            transcript: true,
            ..Settings::default()
        };
        let (first, second) = (run(seed, &settings), run(seed, &settings));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.transcript, second.transcript, "seed {seed}");
        assert_eq!(first.totals, second.totals, "seed {seed}");
        let silent = run(seed, &Settings::default());
        assert_eq!(first.hash, silent.hash, "writing it down changes seed {seed}");
    }
    assert_ne!(
        run(1, &Settings::default()).hash,
        run(2, &Settings::default()).hash
    );
}

#[test]
fn sound_code_passes_and_every_fault_happens() {
    let mut sum = super::Totals::default();
    let reports: Vec<Report> = (1..=20).map(|seed| run(seed, &Settings::default())).collect();
    for report in &reports {
        assert_eq!(report.violation, None, "seed {}: {}", report.seed, report.options);
        sum += report.totals;
    }
    let invalid = reports.iter().filter(|report| report.invalid.is_some()).count();
    assert!(invalid <= 1, "{invalid} of 20 runs prove nothing");
    let counts = [
        ("elections", sum.elections),
        ("crashes", sum.crashes),
        ("partitions", sum.partitions),
        ("pauses", sum.pauses),
        ("transfers", sum.transfers),
        ("changes of memberships", sum.changes),
        ("replaced replicas", sum.replaced),
        ("snapshots", sum.snapshots),
        ("snapshots that broke off", sum.snapshots_broken),
        ("installs", sum.installs),
        ("replayed frames", sum.replays),
        ("failed syncs", sum.sync_failures),
        ("nodes left out while the rest serves", sum.left_out),
        ("lost frames", sum.frames_lost),
        ("doubled frames", sum.frames_doubled),
        ("checkpoints", sum.checkpoints),
        ("truncations", sum.truncations),
        ("cold entries fetched", sum.fetches),
        ("entries replayed at a restart", sum.replayed),
        ("writes", sum.writes),
        ("reads", sum.reads),
    ];
    for (name, count) in counts {
        assert!(count > 0, "20 runs without {name}: {sum}");
    }
}

/// Runs seeds with a broken part until `checker` complains; other checkers may be faster in some runs.
fn finds(bug: Bug, checker: &str, seeds_max: u64) {
    let settings = Settings {
        bug: Some(bug),
        ..Settings::default()
    };
    let mut others = Vec::new();
    for seed in 1..=seeds_max {
        match run(seed, &settings).violation {
            Some(violation) if violation.invariant == checker => return,
            other => others.extend(other.map(|violation| violation.invariant)),
        }
    }
    panic!("{bug}: `{checker}` did not fire in {seeds_max} seeds; others: {others:?}");
}

macro_rules! finds {
    ($($name:ident: $bug:ident, $checker:literal, $seeds:literal;)*) => {
        $(
            #[test]
            fn $name() {
                finds(Bug::$bug, $checker, $seeds);
            }
        )*
        const SEEDED: &[Bug] = &[$(Bug::$bug),*];
    };
}

finds! {
    an_early_report_breaks_i1: DiskReportsEarly, "I1 one vote per term", 5;
    a_forgotten_vote_breaks_i1: DiskForgetsVotes, "I1 one vote per term", 150;
    an_early_acknowledgement_breaks_i8: DiskReportsEntriesEarly, "I8 acknowledged means durable", 5;
    an_early_checkpoint_breaks_i3: DiskReportsCheckpointsEarly, "I3 order of positions", 20;
    a_lost_tail_breaks_leader_completeness: DiskLosesTail, "I5 leader completeness", 40;
    a_skipped_entry_breaks_state_machine_safety: MachineSkipsEntry, "state machine safety", 20;
    an_entry_applied_twice_breaks_state_machine_safety: CheckpointRunsAhead, "state machine safety", 20;
    a_forged_vote_breaks_election_safety: NetworkForgesVotes, "election safety", 40;
    a_raised_match_breaks_the_commit_quorum: NetworkRaisesMatches, "I5 commit needs a durable majority", 20;
    a_raised_commit_breaks_the_commit_quorum: NetworkRaisesCommits, "I5 commit needs a durable majority", 5;
    an_altered_command_breaks_log_matching: NetworkAltersCommands, "I2 log matching", 10;
    a_local_read_breaks_linearizability: GatewayReadsLocally, "linearizability", 10;
    an_unknown_called_refused_is_found: GatewayRefusesUnknowns, "refused means without effect", 10;
    a_lost_answer_is_found: GatewayLosesAnswers, "every request is answered once", 10;
}

#[test]
fn every_bug_has_its_checker() {
    assert!(Bug::ALL.iter().all(|bug| SEEDED.contains(bug)));
}
