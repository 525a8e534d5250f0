//! Majorities against their definition: exhaustively for five replicas in every simple and joint membership,
//! by property for many voters.

use crate::quorum::{Outcome, agreed, is_sole_voter, majority, outcome};
use crate::{Membership, ReplicaId};
use proptest::prelude::*;
use std::collections::BTreeSet;

const REPLICAS: u64 = 5;

/// The replicas whose bit is set, numbered from 1.
fn set(bits: u64) -> BTreeSet<ReplicaId> {
    (0..64)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| ReplicaId(bit + 1))
        .collect()
}

fn memberships() -> impl Iterator<Item = Membership> {
    let all = 1 << REPLICAS;
    (1..all).flat_map(move |voters| {
        (0..all).map(move |outgoing| Membership {
            voters: set(voters),
            outgoing: set(outgoing),
            ..Membership::default()
        })
    })
}

/// The digits of `number` in `base`, one per replica.
fn digits(number: u64, base: u64) -> Vec<u64> {
    (0..REPLICAS as u32)
        .map(|place| number / base.pow(place) % base)
        .collect()
}

fn halves(membership: &Membership) -> Vec<&BTreeSet<ReplicaId>> {
    let both = [&membership.voters, &membership.outgoing];
    both.into_iter().filter(|half| !half.is_empty()).collect()
}

/// More than half of every half satisfies `holds`.
fn has_majorities(membership: &Membership, holds: impl Fn(ReplicaId) -> bool) -> bool {
    let enough = |half: &&BTreeSet<ReplicaId>| half.iter().filter(|id| holds(**id)).count() * 2 > half.len();
    halves(membership).iter().all(enough)
}

#[test]
fn agreed_is_the_greatest_value_of_a_majority_of_every_half() {
    const VALUES: u64 = 3;
    for membership in memberships() {
        for number in 0..VALUES.pow(REPLICAS as u32) {
            let values = digits(number, VALUES);
            let value = |id: ReplicaId| values[id.0 as usize - 1];
            let reached = |least: &u64| has_majorities(&membership, |id| value(id) >= *least);
            let expected = (0..VALUES).rev().find(reached);
            assert_eq!(agreed(&membership, value), expected, "{membership} {values:?}");
        }
    }
}

#[test]
fn a_vote_is_won_or_lost_by_majorities_of_every_half() {
    for membership in memberships() {
        for number in 0..3u64.pow(REPLICAS as u32) {
            let answers = digits(number, 3);
            let answer = |id: ReplicaId| [None, Some(true), Some(false)][answers[id.0 as usize - 1] as usize];
            let won = has_majorities(&membership, |id| answer(id) == Some(true));
            let winnable = has_majorities(&membership, |id| answer(id) != Some(false));
            let expected = match (won, winnable) {
                (true, _) => Outcome::Won,
                (false, true) => Outcome::Pending,
                (false, false) => Outcome::Lost,
            };
            assert_eq!(outcome(&membership, answer), expected, "{membership} {answers:?}");
        }
    }
}

#[test]
fn two_majorities_share_a_voter() {
    for voters in 1..100 {
        assert!(2 * majority(voters) > voters && 2 * (majority(voters) - 1) <= voters);
    }
}

#[test]
fn nothing_is_agreed_without_voters() {
    let nobody = Membership::default();
    assert_eq!(agreed(&nobody, |_| 7u64), None);
    assert_eq!(outcome(&nobody, |_| Some(true)), Outcome::Lost);
    assert!(!is_sole_voter(&nobody, ReplicaId(1)));
}

#[test]
fn a_sole_voter_is_alone_in_every_half() {
    for membership in memberships() {
        let alone = halves(&membership).iter().all(|half| **half == set(1));
        assert_eq!(is_sole_voter(&membership, ReplicaId(1)), alone, "{membership}");
    }
}

proptest! {
    #[test]
    fn many_voters_agree_by_the_same_rule(values in prop::collection::vec(0u64..100, 1..40)) {
        let voters = (1..=values.len() as u64).map(ReplicaId).collect();
        let membership = Membership { voters, ..Membership::default() };
        let value = |id: ReplicaId| values[id.0 as usize - 1];
        let reached = |least: &u64| has_majorities(&membership, |id| value(id) >= *least);
        prop_assert_eq!(agreed(&membership, value), (0..100).rev().find(reached));
    }
}
