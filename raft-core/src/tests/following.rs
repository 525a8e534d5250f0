//! Replicas against messages and completions that our own peers and hosts do not give today, but may: what a
//! follower is told about commit is capped by what the same leader has matched, and what cannot be checked is
//! refused.

use crate::{
    AppendOutcome, Entry, EntryId, Envelope, HardState, Ignored, Index, Instant, Membership, Message, NodeId,
    Options, Payload, Replica, ReplicaId, Restored, Round, Stamp, Term,
};

fn entries(terms: &[u64]) -> Vec<Entry> {
    let numbered = terms.iter().zip(1..);
    let entry = |(term, index): (&u64, u64)| Entry {
        id: EntryId::new(*term, index),
        payload: Payload::Noop(Stamp(0)),
    };
    numbered.map(entry).collect()
}

/// Replica 2 of three, with a durable log of these terms.
fn follower(terms: &[u64]) -> Replica {
    let restored = Restored {
        hard_state: HardState {
            term: Term(*terms.last().unwrap()),
            vote: None,
        },
        membership: Membership::of_voters((1..=3).map(|id| (ReplicaId(id), NodeId(id)))),
        entries: entries(terms),
        ..Restored::default()
    };
    Replica::new(ReplicaId(2), restored, Options::default(), 0, Instant(0))
}

/// The same, with leases; started at time 0.
fn pledger(terms: &[u64]) -> Replica {
    let mut replica = follower(terms);
    replica.options.leases = true;
    replica
}

fn tell_at(ms: u64, replica: &mut Replica, from: u64, term: u64, message: Message) -> Result<(), Ignored> {
    let envelope = Envelope {
        from: ReplicaId(from),
        to: ReplicaId(2),
        term: Term(term),
        message,
    };
    replica.step(Instant(ms * 1_000_000), envelope)
}

fn tell(replica: &mut Replica, from: u64, term: u64, message: Message) -> Result<(), Ignored> {
    let envelope = Envelope {
        from: ReplicaId(from),
        to: ReplicaId(2),
        term: Term(term),
        message,
    };
    replica.step(Instant(1), envelope)
}

fn append(previous: EntryId, entries: Vec<Entry>, commit: u64) -> Message {
    Message::Append {
        previous,
        entries,
        commit: Index(commit),
        replicated: Index(0),
    }
}

#[test]
fn an_append_commits_at_most_what_it_matched() {
    let mut replica = follower(&[1, 1, 1, 1]);
    let known = entries(&[1, 1])[1..].to_vec();
    tell(&mut replica, 1, 2, append(EntryId::new(1, 1), known, 4)).unwrap();
    // 3@1 and 4@1 may be anything in the leader's log.
    assert_eq!(replica.status().commit, Index(2));
}

#[test]
fn a_heartbeat_commits_at_most_what_its_leader_matched() {
    let mut replica = follower(&[1, 1, 1, 1]);
    let heartbeat = || Message::Heartbeat {
        commit: Index(4),
        replicated: Index(0),
        round: Round(1),
    };
    tell(&mut replica, 1, 2, heartbeat()).unwrap();
    assert_eq!(replica.status().commit, Index(0));
    tell(&mut replica, 1, 2, append(EntryId::new(1, 3), Vec::new(), 0)).unwrap();
    tell(&mut replica, 1, 2, heartbeat()).unwrap();
    assert_eq!(replica.status().commit, Index(3));
}

#[test]
fn a_match_is_acknowledged_only_once_the_term_is_durable() {
    let mut replica = follower(&[1, 1]);
    tell(&mut replica, 1, 2, append(EntryId::new(1, 2), Vec::new(), 0)).unwrap();
    let ready = replica.ready();
    let write = ready.write.unwrap();
    assert!(ready.messages.is_empty() && write.entries.is_empty());
    let matched = Message::AppendReply(AppendOutcome::Matched { index: Index(2) });
    assert_eq!(write.then_send[0].message, matched);
    // The same question while that write is on its way: answered when it is done, without another write.
    tell(&mut replica, 1, 2, append(EntryId::new(1, 2), Vec::new(), 0)).unwrap();
    assert!(replica.ready().is_empty());
    replica.on_durable(Instant(2), write.id);
    assert_eq!(replica.ready().messages[0].message, matched);
}

#[test]
#[should_panic(expected = "I5")]
fn a_committed_entry_is_never_replaced() {
    let mut replica = follower(&[1, 1]);
    tell(&mut replica, 1, 1, append(EntryId::new(1, 2), Vec::new(), 2)).unwrap();
    let other = Entry {
        id: EntryId::new(2, 2),
        payload: Payload::Noop(Stamp(0)),
    };
    let _ = tell(&mut replica, 3, 2, append(EntryId::new(1, 1), vec![other], 0));
}

#[test]
#[should_panic(expected = "two leaders")]
fn two_leaders_of_one_term_are_a_bug() {
    let mut replica = follower(&[1, 1]);
    tell(&mut replica, 1, 1, append(EntryId::new(1, 2), Vec::new(), 0)).unwrap();
    let _ = tell(&mut replica, 3, 1, append(EntryId::new(1, 2), Vec::new(), 0));
}

#[test]
fn messages_for_others_and_replies_to_nobody_are_ignored() {
    let mut replica = follower(&[1, 1]);
    let granted = Message::VoteReply { granted: true };
    assert_eq!(
        tell(&mut replica, 2, 1, Message::TimeoutNow),
        Err(Ignored::WrongReplica)
    );
    assert_eq!(
        tell(&mut replica, 1, 1, granted.clone()),
        Err(Ignored::StaleReply)
    );
    assert_eq!(tell(&mut replica, 1, 0, granted), Err(Ignored::StaleTerm));
    assert!(replica.ready().is_empty());
}

#[test]
fn a_transfer_lifts_loyalty_for_the_next_term_only() {
    let mut replica = follower(&[1, 1]);
    tell(&mut replica, 1, 1, append(EntryId::new(1, 2), Vec::new(), 0)).unwrap();
    let vote = Message::Vote {
        last: EntryId::new(1, 2),
        transfer: true,
    };
    assert_eq!(
        tell(&mut replica, 3, 3, vote.clone()),
        Err(Ignored::LeaderInContact)
    );
    assert_eq!(replica.status().hard_state.term, Term(1));
    tell(&mut replica, 3, 2, vote).unwrap();
    assert_eq!(replica.status().hard_state.vote, Some(ReplicaId(3)));
}

#[test]
fn votes_that_overtake_the_completion_of_our_own_win_once_it_is_there() {
    let mut replica = follower(&[1, 1]);
    replica.campaign(Instant(1));
    let write = replica.ready().write.unwrap();
    assert_eq!(write.then_send.len(), 2);
    // A host lets the requests leave as soon as they may; what they bring back may be here before its report.
    for voter in [1, 3] {
        tell(&mut replica, voter, 2, Message::VoteReply { granted: true }).unwrap();
    }
    assert!(!replica.is_leader() && replica.ready().is_empty());
    replica.on_durable(Instant(2), write.id);
    assert!(replica.is_leader());
    assert_eq!(replica.last(), EntryId::new(2, 3));
}

/// A leader whose log is all cold, asked by replica 1 for everything.
fn leader_that_fetches() -> Replica {
    let restored = Restored {
        membership: Membership::of_voters((1..=2).map(|id| (ReplicaId(id), NodeId(id)))),
        entries: entries(&[1, 1, 1]),
        hard_state: HardState {
            term: Term(1),
            vote: None,
        },
        commit: Index(3),
        applied: Index(3),
        ..Restored::default()
    };
    let options = Options {
        tail_bytes_max: 0,
        ..Options::default()
    };
    let mut replica = Replica::new(ReplicaId(2), restored, options, 0, Instant(0));
    replica.campaign(Instant(1));
    let write = replica.ready().write.unwrap();
    replica.on_durable(Instant(1), write.id);
    tell(&mut replica, 1, 2, Message::VoteReply { granted: true }).unwrap();
    let _ = replica.ready();
    let rejected = AppendOutcome::Rejected {
        previous: Index(3),
        hint: EntryId::ZERO,
    };
    tell(&mut replica, 1, 2, Message::AppendReply(rejected)).unwrap();
    assert_eq!(replica.ready().fetch[0].range, Index(1)..=Index(3));
    replica
}

#[test]
fn fetched_entries_are_sent_only_if_they_are_our_log() {
    let mut replica = leader_that_fetches();
    let mut other = entries(&[1, 1, 1]);
    other[2].id.term = Term(2);
    replica.on_fetched(Instant(2), ReplicaId(1), other);
    assert!(replica.ready().messages.is_empty());

    let mut replica = leader_that_fetches();
    replica.on_fetched(Instant(2), ReplicaId(1), entries(&[1, 1]));
    assert_eq!(
        replica.ready().messages[0].message,
        append(EntryId::ZERO, entries(&[1, 1]), 3)
    );
}

fn heartbeat() -> Message {
    Message::Heartbeat {
        commit: Index(0),
        replicated: Index(0),
        round: Round(1),
    }
}

fn vote() -> Message {
    Message::Vote {
        last: EntryId::new(9, 9),
        transfer: false,
    }
}

/// Whoever was told a later term by anybody at all has no leader and no vote given, but it keeps its word.
#[test]
fn a_pledge_outlives_the_term_it_was_given_in() {
    let mut replica = pledger(&[1]);
    tell_at(10, &mut replica, 1, 1, heartbeat()).unwrap();
    let reply = replica.ready().messages.pop().expect("a heartbeat is answered");
    assert!(matches!(reply.message, Message::HeartbeatReply { pledge, .. } if !pledge.is_zero()));
    let refused = Message::VoteReply { granted: false };
    let _ = tell_at(11, &mut replica, 3, 5, refused);
    assert_eq!(replica.status().hard_state.term, Term(5));
    let early = tell_at(309, &mut replica, 3, 5, vote());
    assert_eq!(early, Err(Ignored::LeaderInContact));
    replica.campaign(Instant(309_000_000));
    assert_eq!(
        replica.status().hard_state.term,
        Term(5),
        "it does not campaign either"
    );
    assert_eq!(tell_at(310, &mut replica, 3, 5, vote()), Ok(()));
}

/// The leader that asked for the campaign gave its lease up first.
#[test]
fn a_campaign_that_a_leader_asked_for_is_not_held_up_by_a_pledge() {
    let mut replica = pledger(&[1]);
    tell_at(10, &mut replica, 1, 1, heartbeat()).unwrap();
    let asked = Message::Vote {
        last: EntryId::new(9, 9),
        transfer: true,
    };
    assert_eq!(tell_at(11, &mut replica, 3, 2, asked), Ok(()));
}

#[test]
fn nothing_is_pledged_in_a_term_that_is_not_durable() {
    let mut replica = pledger(&[1]);
    tell_at(10, &mut replica, 1, 2, heartbeat()).unwrap();
    let reply = replica.ready().messages.pop().expect("a heartbeat is answered");
    assert!(matches!(reply.message, Message::HeartbeatReply { pledge, .. } if pledge.is_zero()));
}
