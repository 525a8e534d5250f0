//! The checker, checked: against the definition on thousands of small histories, its two paths against each other, and
//! by hand where a reader should see the point. Both verdicts must come up often, or nothing was shown.

use super::operation::{Answer, Ask, Expect, NOT_A_VALUE, Operation, Outcome, Seen};
use super::random::{Shape, drawn};
use super::{Finding, Limits, Verdict, brute, judge, losses, search, zones};
use crate::sim::Rng;

const SMALL: Shape = Shape {
    keys: 1,
    clients: 3,
    operations: 2,
    only_registers: false,
    unknown: 200,
    versions: 400,
};

fn operation(client: u32, called: u64, ask: Ask, outcome: Outcome) -> Operation {
    Operation {
        client,
        key: 7,
        called,
        ask,
        outcome,
    }
}

fn put(value: i64, called: u64, end: u64) -> Operation {
    operation(1, called, Ask::Put(value), Outcome::Answered(end, Answer::Done))
}

fn get(value: i64, called: u64, end: u64) -> Operation {
    let seen = (value != 0).then_some(Seen { value, version: None });
    operation(2, called, Ask::Get, Outcome::Answered(end, Answer::Found(seen)))
}

fn finding(operations: &[Operation]) -> Finding {
    zones::order(operations).unwrap_or_else(|| search::order(operations, Limits::default()))
}

/// Makes one answer, time or outcome wrong, most of the time.
fn spoil(rng: &mut Rng, operations: &mut [Operation]) {
    let (at, other) = (rng.index(operations.len()), rng.index(operations.len()));
    let one = operations[at];
    let Outcome::Answered(end, answer) = one.outcome else {
        operations[at].outcome = Outcome::Refused;
        return;
    };
    match rng.below(4) {
        0 => operations[at].called = one.called + rng.below(end - one.called + 1),
        1 => operations[at].outcome = Outcome::Answered(one.called + rng.below(end - one.called + 1), answer),
        2 if operations[other]
            .answered()
            .is_some_and(|(_, b)| same_kind(answer, b)) =>
        {
            let (end_of_other, taken) = operations[other].answered().expect("just seen");
            operations[at].outcome = Outcome::Answered(end, taken);
            operations[other].outcome = Outcome::Answered(end_of_other, answer);
        }
        _ => operations[at].outcome = Outcome::Answered(end, wrong(rng, answer)),
    }
}

fn same_kind(a: Answer, b: Answer) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

fn wrong(rng: &mut Rng, answer: Answer) -> Answer {
    match answer {
        Answer::Found(None) => Answer::Found(Some(Seen {
            value: 1,
            version: None,
        })),
        Answer::Found(Some(seen)) => match (rng.below(3), seen.version) {
            (0, _) => Answer::Found(None),
            (1, Some(version)) => Answer::Found(Some(Seen {
                version: Some(version + 1),
                ..seen
            })),
            _ => Answer::Found(Some(Seen {
                value: rng.between(1, 6).cast_signed(),
                ..seen
            })),
        },
        Answer::Done => Answer::Done,
        Answer::Written(yes) => Answer::Written(!yes),
        Answer::Sum(sum) => Answer::Sum(sum + 1),
        Answer::Deleted(yes) => Answer::Deleted(!yes),
        Answer::Swapped(version) if rng.chance(500) => Answer::Mismatch(Some(version)),
        Answer::Swapped(version) => Answer::Swapped(version.saturating_sub(rng.between(1, 3))),
        Answer::Mismatch(Some(version)) => Answer::Swapped(version + 1),
        Answer::Mismatch(None) => Answer::Mismatch(Some(1)),
    }
}

/// Judges `count` histories of this shape, some as they are and some spoiled, by both; how often each verdict came up.
fn agree_with_the_definition(name: &str, shape: Shape, count: u64) -> (u64, u64) {
    let (mut ordered, mut impossible) = (0, 0);
    for seed in 0..count {
        let mut rng = Rng::new(seed).fork(name);
        let mut operations = drawn(&mut rng, &shape);
        let spoiled = rng.below(5);
        (0..spoiled).for_each(|_| spoil(&mut rng, &mut operations));
        let expected = brute::has_order(&operations);
        assert!(
            expected || spoiled > 0,
            "seed {seed}: valid by construction: {operations:?}"
        );
        let by_search = search::order(&operations, Limits::default());
        let as_expected = if expected {
            Finding::Ordered
        } else {
            Finding::Impossible
        };
        assert_eq!(by_search, as_expected, "seed {seed}: {operations:#?}");
        if let Some(by_zones) = zones::order(&operations) {
            assert_eq!(by_zones, as_expected, "seed {seed}, zones: {operations:#?}");
        } else {
            assert!(!shape.only_registers, "seed {seed}: zones refuse {operations:?}");
        }
        ordered += u64::from(expected);
        impossible += u64::from(!expected);
    }
    (ordered, impossible)
}

#[test]
fn any_operations_are_judged_as_the_definition_says() {
    let (ordered, impossible) = agree_with_the_definition("all", SMALL, 10_000);
    let long = Shape {
        clients: 2,
        operations: 4,
        ..SMALL
    };
    let (more_ordered, more_impossible) = agree_with_the_definition("all, long", long, 2_000);
    let (ordered, impossible) = (ordered + more_ordered, impossible + more_impossible);
    println!("{ordered} ordered, {impossible} impossible");
    assert!(
        ordered > 4_000 && impossible > 3_000,
        "{ordered} ordered, {impossible} impossible"
    );
}

#[test]
fn registers_are_judged_by_zones_as_the_definition_says() {
    let shape = Shape {
        only_registers: true,
        ..SMALL
    };
    let (ordered, impossible) = agree_with_the_definition("registers", shape, 10_000);
    println!("{ordered} ordered, {impossible} impossible");
    assert!(
        ordered > 4_000 && impossible > 2_000,
        "{ordered} ordered, {impossible} impossible"
    );
}

#[test]
fn zones_and_search_agree_on_longer_registers() {
    let shape = Shape {
        clients: 5,
        operations: 12,
        only_registers: true,
        unknown: 60,
        ..SMALL
    };
    let (mut ordered, mut impossible) = (0, 0);
    for seed in 0..4_000 {
        let mut rng = Rng::new(seed).fork("longer");
        let mut operations = drawn(&mut rng, &shape);
        (0..rng.below(4)).for_each(|_| spoil(&mut rng, &mut operations));
        let by_zones = zones::order(&operations).expect("registers");
        assert_eq!(
            search::order(&operations, Limits::default()),
            by_zones,
            "seed {seed}"
        );
        ordered += u64::from(by_zones == Finding::Ordered);
        impossible += u64::from(by_zones == Finding::Impossible);
    }
    println!("{ordered} ordered, {impossible} impossible");
    assert!(
        ordered > 1_000 && impossible > 1_000,
        "{ordered} ordered, {impossible} impossible"
    );
}

#[test]
fn long_histories_of_all_operations_pass_and_a_spoiled_answer_is_found() {
    let shape = Shape {
        keys: 20,
        clients: 6,
        operations: 60,
        unknown: 10,
        ..SMALL
    };
    let mut found = 0;
    for seed in 0..5 {
        let mut rng = Rng::new(seed).fork("long");
        let mut operations = drawn(&mut rng, &shape);
        judge(&operations, Limits::default()).require();
        let at = rng.index(operations.len());
        if let Outcome::Answered(end, Answer::Sum(_)) = operations[at].outcome {
            operations[at].outcome = Outcome::Answered(end, Answer::Sum(1_000_000));
        } else {
            let seen = Some(Seen {
                value: NOT_A_VALUE,
                version: None,
            });
            operations[at].ask = Ask::Get;
            operations[at].outcome = Outcome::Answered(operations[at].called + 1, Answer::Found(seen));
        }
        found += u64::from(matches!(
            judge(&operations, Limits::default()).verdict,
            Verdict::Violated(_)
        ));
    }
    assert_eq!(found, 5);
}

#[test]
fn a_stale_read_is_explained_by_the_operations_that_contradict_each_other() {
    let mut operations = vec![put(1, 10, 20), put(2, 30, 40), get(1, 50, 60)];
    operations.extend((0..50).map(|n| {
        put(
            100 + n,
            1000 + 10 * n.unsigned_abs(),
            1005 + 10 * n.unsigned_abs(),
        )
    }));
    let judgement = judge(&operations, Limits::default());
    let Verdict::Violated(explanation) = judgement.verdict else {
        panic!("{judgement:?}")
    };
    let core: Vec<u64> = explanation.core.iter().map(|one| one.called).collect();
    assert_eq!(core, [10, 30, 50], "{explanation}");
    let text = explanation.to_string();
    assert!(
        text.contains("no order of its 53 operations") && text.contains("client 2 get -> 1"),
        "{text}"
    );
}

#[test]
fn a_count_that_went_back_is_explained() {
    let add = |sum, called, end| operation(3, called, Ask::Add(1), Outcome::Answered(end, Answer::Sum(sum)));
    let mut operations: Vec<Operation> = (1..=20)
        .map(|n: i64| add(n, 10 * n.unsigned_abs(), 10 * n.unsigned_abs() + 5))
        .collect();
    operations.push(add(20, 300, 310));
    let judgement = judge(&operations, Limits::default());
    let Verdict::Violated(explanation) = judgement.verdict else {
        panic!("{judgement:?}")
    };
    assert!(explanation.core.len() <= 3, "{explanation}");
    assert!(
        explanation.core.iter().any(|one| one.called == 300),
        "{explanation}"
    );
}

#[test]
fn an_unknown_write_may_take_effect_later_or_never_but_only_once() {
    let lost = operation(1, 10, Ask::Put(1), Outcome::Unknown);
    assert_eq!(finding(&[lost, get(0, 20, 30), get(1, 40, 50)]), Finding::Ordered);
    assert_eq!(finding(&[lost, get(0, 20, 30), get(0, 40, 50)]), Finding::Ordered);
    assert_eq!(
        finding(&[lost, get(1, 1, 5)]),
        Finding::Impossible,
        "before it was called"
    );
    let twice = [lost, get(1, 20, 30), put(2, 40, 50), get(1, 60, 70)];
    assert_eq!(finding(&twice), Finding::Impossible);
    let refused = operation(1, 10, Ask::Put(1), Outcome::Refused);
    assert_eq!(finding(&[refused, get(1, 40, 50)]), Finding::Impossible);
}

#[test]
fn only_one_of_two_may_set_an_absent_key_or_swap_the_same_version() {
    let nx = |value, called, end| {
        let outcome = Outcome::Answered(end, Answer::Written(true));
        operation(1, called, Ask::PutIfAbsent(value), outcome)
    };
    assert_eq!(finding(&[nx(1, 1, 9), nx(2, 2, 8)]), Finding::Impossible);
    let swap = |to, version| {
        let ask = Ask::Cas(Expect::Version(5), Some(to));
        operation(1, 20, ask, Outcome::Answered(30, Answer::Swapped(version)))
    };
    assert_eq!(finding(&[put(1, 1, 9), swap(2, 6)]), Finding::Ordered);
    assert_eq!(
        finding(&[put(1, 1, 9), swap(2, 6), swap(3, 7)]),
        Finding::Impossible
    );
    assert_eq!(
        finding(&[put(1, 1, 9), swap(2, 5)]),
        Finding::Impossible,
        "versions grow"
    );
}

#[test]
fn a_search_that_takes_too_long_is_undecided() {
    let adds = (0..24_i64).map(|n| {
        let outcome = Outcome::Answered(1000, Answer::Sum(if n == 23 { 99 } else { n + 1 }));
        operation(1, 1, Ask::Add(1), outcome)
    });
    let puts = (0..20).map(|n| operation(2, 1, Ask::Cas(Expect::Present, Some(n)), Outcome::Unknown));
    let operations: Vec<Operation> = adds.chain(puts).collect();
    let limits = Limits {
        steps: 10_000,
        ..Limits::default()
    };
    let judgement = judge(&operations, limits);
    assert!(
        matches!(
            judgement.verdict,
            Verdict::Undecided {
                key: 7,
                operations: 44
            }
        ),
        "{judgement:?}"
    );
    assert!(
        std::panic::catch_unwind(|| judgement.require()).is_err(),
        "never green"
    );
}

#[test]
fn many_unknown_increments_do_not_explode() {
    let unknown = (0..60).map(|n| operation(1, n, Ask::Add(1), Outcome::Unknown));
    let operations: Vec<Operation> = unknown
        .chain([get(30, 100, 110), get(31, 120, 130), get(61, 140, 150)])
        .collect();
    let limits = Limits {
        steps: 1_000_000,
        ..Limits::default()
    };
    assert_eq!(
        search::order(&operations, limits),
        Finding::Impossible,
        "60 at most"
    );
    assert_eq!(search::order(&operations[..62], limits), Finding::Ordered);
}

#[test]
fn what_was_acknowledged_must_be_there_at_the_end() {
    let kept = [put(1, 10, 20), put(2, 30, 40), get(2, 100, 110)];
    assert_eq!(losses(&kept, 100), []);
    let concurrent = [put(1, 10, 35), put(2, 30, 40), get(1, 100, 110)];
    assert_eq!(losses(&concurrent, 100), []);
    let lost = [put(1, 10, 20), put(2, 30, 40), get(1, 100, 110)];
    assert_eq!(losses(&lost, 100).len(), 1);
    let gone = [put(1, 10, 20), get(0, 100, 110)];
    assert_eq!(losses(&gone, 100).len(), 1);
    let unread = [put(1, 10, 20), get(1, 50, 60)];
    assert_eq!(losses(&unread, 100)[0].read, None);
    let unknown = operation(1, 5, Ask::Put(3), Outcome::Unknown);
    assert_eq!(losses(&[put(1, 10, 20), unknown, get(3, 100, 110)], 100), []);
}

#[test]
fn counts_lie_between_what_was_acknowledged_and_what_was_asked_for() {
    let add = |called: u64, outcome| operation(1, called, Ask::Add(1), outcome);
    let known = |n: i64| {
        add(
            n.unsigned_abs() * 10,
            Outcome::Answered(n.unsigned_abs() * 10 + 5, Answer::Sum(n)),
        )
    };
    let operations = |sum| [known(1), known(2), add(30, Outcome::Unknown), get(sum, 100, 110)];
    assert_eq!(losses(&operations(1), 100).len(), 1);
    assert_eq!(losses(&operations(2), 100), []);
    assert_eq!(losses(&operations(3), 100), []);
    assert_eq!(losses(&operations(4), 100).len(), 1);
}

#[test]
fn operations_survive_as_json_lines() {
    let mut rng = Rng::new(1);
    for one in drawn(&mut rng, &SMALL) {
        let line = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Operation>(&line).unwrap(), one, "{line}");
    }
}
