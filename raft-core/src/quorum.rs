//! Pure arithmetic of majorities: what has a majority reached, and has a vote been won.
//! A joint membership needs a majority of each half; the union is never tallied (Raft §6).

use crate::bugs::{self, Bug};
use crate::limits::VOTERS_INLINE;
use crate::types::{Membership, ReplicaId};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// How many of `voters` make a majority.
pub(crate) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Enough grants in every half.
    Won,
    /// Some half can no longer reach a majority.
    Lost,
    /// Neither yet.
    Pending,
}

/// The greatest value that a majority of every half has reached. None without voters: nothing is ever agreed.
pub(crate) fn agreed<T: Ord + Copy + Default>(
    membership: &Membership,
    value: impl Fn(ReplicaId) -> T,
) -> Option<T> {
    let mut voters = Cow::Borrowed(&membership.voters);
    if bugs::is_on(Bug::LearnersCounted) {
        voters.to_mut().extend(&membership.learners);
    } else if bugs::is_on(Bug::UnionTallied) {
        voters.to_mut().extend(&membership.outgoing);
        return agreed_by(&voters, &value);
    }
    let incoming = agreed_by(&voters, &value)?;
    if !membership.is_joint() {
        return Some(incoming);
    }
    agreed_by(&membership.outgoing, &value).map(|outgoing| incoming.min(outgoing))
}

fn agreed_by<T: Ord + Copy + Default>(
    voters: &BTreeSet<ReplicaId>,
    value: impl Fn(ReplicaId) -> T,
) -> Option<T> {
    let count = voters.len();
    if count == 0 {
        return None;
    }
    let mut inline = [T::default(); VOTERS_INLINE];
    let mut heap = Vec::new();
    let values = if count <= VOTERS_INLINE {
        &mut inline[..count]
    } else {
        heap.resize(count, T::default());
        &mut heap[..]
    };
    for (slot, voter) in values.iter_mut().zip(voters) {
        *slot = value(*voter);
    }
    if !bugs::is_on(Bug::ProgressUnsorted) {
        values.sort_unstable();
    }
    Some(values[count - majority(count)])
}

/// How an election stands, given each voter's answer if it has one.
pub(crate) fn outcome(membership: &Membership, answer: impl Fn(ReplicaId) -> Option<bool>) -> Outcome {
    let incoming = outcome_of(&membership.voters, &answer);
    if !membership.is_joint() {
        return incoming;
    }
    match (incoming, outcome_of(&membership.outgoing, &answer)) {
        (Outcome::Lost, _) | (_, Outcome::Lost) => Outcome::Lost,
        (Outcome::Won, Outcome::Won) => Outcome::Won,
        _ => Outcome::Pending,
    }
}

fn outcome_of(voters: &BTreeSet<ReplicaId>, answer: impl Fn(ReplicaId) -> Option<bool>) -> Outcome {
    let answers = || voters.iter().map(|voter| answer(*voter));
    let granted = answers().filter(|answer| *answer == Some(true)).count();
    let refused = answers().filter(|answer| *answer == Some(false)).count();
    let needed = majority(voters.len());
    if granted >= needed {
        Outcome::Won
    } else if voters.len() - refused < needed {
        Outcome::Lost
    } else {
        Outcome::Pending
    }
}

/// True when `replica` alone is a majority of every half.
pub(crate) fn is_sole_voter(membership: &Membership, replica: ReplicaId) -> bool {
    let alone = |voters: &BTreeSet<ReplicaId>| voters.len() == 1 && voters.contains(&replica);
    alone(&membership.voters) && (!membership.is_joint() || alone(&membership.outgoing))
}
