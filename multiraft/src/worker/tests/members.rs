//! Memberships that change while everything else goes on, and reads that need no round here.

use super::*;
use raft_core::{ChangeRefused, MemberChange};

const EMPTY: Option<Outcome> = Some(Outcome::Answered(Bytes::new()));

fn id(node: u64) -> ReplicaId {
    ReplicaId(GROUP.0 * 10 + node)
}

/// A group of nodes 1 and 2, led by node 1; a replica of it waits on node 3.
fn duo() -> Trio {
    let mut trio = Trio::new(0);
    let founders = Membership::of_voters([(id(1), NodeId(1)), (id(2), NodeId(2))]);
    for node in 0..NODES {
        let birth = Birth {
            membership: founders.clone(),
            ..birth(GROUP, node)
        };
        trio.nodes[node]
            .sender
            .push(Event::Control(Control::Create(birth)));
    }
    trio.lead(0, 1);
    trio
}

impl Trio {
    fn change(&mut self, node: usize, changes: &[MemberChange]) -> u64 {
        let (changes, ticket) = (changes.to_vec(), self.ticket());
        let order = Control::Change {
            group: GROUP,
            changes,
            ticket,
        };
        self.nodes[node].sender.push(Event::Control(order));
        self.tickets
    }

    /// Reads and looks at the answer that is there without time passing.
    fn read_as(&mut self, node: usize, policy: ReadPolicy) -> Option<Outcome> {
        let ticket = self.ticket();
        let number = ticket.number;
        self.nodes[node].sender.push(Event::Read {
            group: GROUP,
            query: Bytes::new(),
            policy,
            ticket,
        });
        self.settle();
        self.outcome(number)
    }
}

#[test]
fn a_group_moves_to_other_nodes_and_every_change_is_answered_when_it_is_complete() {
    let mut trio = duo();
    let wrong = trio.change(0, &[MemberChange::Promote(id(3))]);
    let elsewhere = trio.change(1, &[MemberChange::Add(id(3), NodeId(3))]);
    let added = trio.change(0, &[MemberChange::Add(id(3), NodeId(3))]);
    let early = trio.change(0, &[MemberChange::Remove(id(2))]);
    trio.turn(0);
    let no_member = ChangeRefused::NoSuchMember(id(3));
    assert_eq!(trio.outcome(wrong), refused(Refusal::Change(no_member)));
    assert_eq!(
        trio.outcome(early),
        refused(Refusal::Change(ChangeRefused::InFlight))
    );
    assert_eq!(trio.outcome(added), None, "not before it is committed");
    trio.settle();
    assert_eq!(
        trio.outcome(elsewhere),
        refused(Refusal::NotLeader(Some(NodeId(1))))
    );
    assert_eq!(trio.outcome(added), EMPTY);

    trio.propose(0, GROUP, Tally::add(5));
    trio.settle();
    let moved = trio.change(0, &[MemberChange::Promote(id(3)), MemberChange::Remove(id(1))]);
    trio.turn(0);
    assert!(trio.status(0, GROUP).membership.is_joint());
    trio.settle();
    assert_eq!(trio.outcome(moved), EMPTY, "the leader itself left");
    assert_ne!(trio.status(0, GROUP).role, RoleKind::Leader);
    let leader = [1, 2]
        .into_iter()
        .find(|node| trio.status(*node, GROUP).role == RoleKind::Leader);
    let leader = leader.expect("the successor leads without a timeout");
    let voters = trio.status(leader, GROUP).membership.voters;
    assert_eq!(voters, [id(2), id(3)].into());
    let more = trio.propose(leader, GROUP, Tally::add(2));
    trio.settle();
    assert_eq!(trio.outcome(more), answered(7));
}

#[test]
fn a_joint_membership_is_found_again_after_a_restart_and_left() {
    let mut trio = Trio::led_by_first(1);
    trio.change(0, &[MemberChange::Demote(id(3))]);
    trio.turn(0);
    trio.deliver(0);
    trio.nodes[0].disk.sync();
    trio.turn(1);
    trio.nodes[1].disk.sync();
    (0..NODES).for_each(|node| trio.crash(node));
    let joint = |trio: &Trio, node| trio.status(node, GROUP).membership.is_joint();
    assert!(joint(&trio, 0) && joint(&trio, 1) && !joint(&trio, 2));
    let leader = trio.await_leader(0..NODES);
    trio.pass(Duration::from_millis(500));
    let membership = trio.status(leader, GROUP).membership;
    assert_eq!(membership.voters, [id(1), id(2)].into());
    assert_eq!(membership.learners, [id(3)].into());
    assert!((0..NODES).all(|node| trio.status(node, GROUP).membership == membership));
}

#[test]
fn a_change_whose_leader_is_lost_becomes_unknown() {
    let mut trio = Trio::led_by_first(1);
    trio.cut_off = vec![0];
    let change = trio.change(0, &[MemberChange::Demote(id(3))]);
    trio.pass(Duration::from_millis(500));
    assert_eq!(trio.outcome(change), None);
    trio.pass(Duration::from_secs(3));
    assert_eq!(trio.outcome(change), Some(Outcome::Unknown));
    trio.cut_off.clear();
    trio.pass(Duration::from_secs(2));
    assert!(!trio.status(0, GROUP).membership.is_joint(), "rolled back");
}

#[test]
fn a_replica_that_lags_answers_a_voter_it_does_not_know() {
    let mut trio = duo();
    trio.cut_off = vec![1];
    let added = trio.change(0, &[MemberChange::Add(id(3), NodeId(3))]);
    trio.pass(Duration::from_millis(100));
    assert_eq!(trio.outcome(added), None, "node 2 is needed");
    trio.cut_off = vec![0];
    // Node 3 has the entry that adds it, node 2 has not: whatever node 3 says, node 2 can answer.
    let stranger = GroupMessage {
        group: GROUP,
        envelope: raft_core::Envelope {
            from: id(3),
            to: id(2),
            term: Term(9),
            message: Message::Vote {
                last: EntryId::new(8, 9),
                transfer: false,
            },
        },
    };
    trio.pass(Duration::from_millis(400));
    trio.nodes[1].sender.push(Event::Messages {
        from: NodeId(3),
        messages: vec![stranger],
    });
    trio.turn(1);
    trio.nodes[1].disk.sync();
    trio.turn(1);
    let sent = messages(&trio.sent(1));
    let vote = |message: &GroupMessage| {
        message.envelope.to == id(3) && message.envelope.message == Message::VoteReply { granted: true }
    };
    assert!(sent.iter().any(vote), "{sent:?}");
}

#[test]
fn followers_serve_reads_by_the_leaders_index_and_bounded_ones_alone() {
    let mut trio = Trio::led_by_first(1);
    trio.propose(0, GROUP, Tally::add(3));
    trio.settle();
    assert_eq!(trio.read_as(1, ReadPolicy::Here), answered(3));
    assert_eq!(
        trio.read_as(1, ReadPolicy::Confirmed),
        refused(Refusal::NotLeader(Some(NodeId(1))))
    );
    trio.cut_off = vec![1];
    trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    let second = ReadPolicy::Within(Duration::from_secs(1));
    assert_eq!(trio.read_as(1, second), answered(3));
    trio.pass(Duration::from_millis(1_100));
    assert!(matches!(trio.read_as(1, second), Some(Outcome::Refused(_))));
}

#[test]
fn a_read_for_which_a_follower_never_becomes_ready_is_refused() {
    let mut trio = Trio::led_by_first(1);
    trio.propose(0, GROUP, Tally::add(3));
    trio.settle();
    // Node 2 hears how far it must be, and nothing of how to get there.
    trio.cut_off = vec![2];
    trio.propose(0, GROUP, Tally::add(1));
    trio.settle();
    let ticket = trio.ticket();
    let number = ticket.number;
    trio.nodes[2].sender.push(Event::Read {
        group: GROUP,
        query: Bytes::new(),
        policy: ReadPolicy::Here,
        ticket,
    });
    trio.turn(2);
    let question = messages(&trio.sent(2)).pop().expect("it asks");
    let Message::ReadIndex { request } = question.envelope.message else {
        panic!("{question:?}");
    };
    let (from, to) = (question.envelope.to, question.envelope.from);
    let (index, term) = (trio.status(0, GROUP).commit, question.envelope.term);
    let reply = GroupMessage {
        group: GROUP,
        envelope: raft_core::Envelope {
            from,
            to,
            term,
            message: Message::ReadIndexReply { request, index },
        },
    };
    trio.nodes[2].sender.push(Event::Messages {
        from: NodeId(1),
        messages: vec![reply],
    });
    trio.turn(2);
    assert_eq!(trio.outcome(number), None);
    trio.pass(Duration::from_millis(1_300));
    assert!(matches!(
        trio.outcome(number),
        Some(Outcome::Refused(Refusal::NotLeader(_)))
    ));
    assert_eq!(trio.nodes[2].worker.waiting(), 0);
}

#[test]
fn a_lease_read_is_answered_in_the_turn_in_which_it_comes() {
    let mut options = WorkerOptions::default();
    options.replica.leases = true;
    let mut trio = Trio::with_options(1, options);
    trio.lead(0, 1);
    trio.pass(Duration::from_millis(200));
    let ticket = trio.ticket();
    let number = ticket.number;
    trio.nodes[0].sender.push(Event::Read {
        group: GROUP,
        query: Bytes::new(),
        policy: ReadPolicy::Lease,
        ticket,
    });
    trio.turn(0);
    assert_eq!(trio.outcome(number), answered(0));
    trio.cut_off = vec![0];
    trio.pass(Duration::from_millis(400));
    assert_eq!(trio.read_as(0, ReadPolicy::Lease), None, "the lease is over");
}
