//! Memberships, reads and metrics through the handle that a program holds.

use super::*;
use crate::{ChangeRefused, MemberChange, ReadPolicy, Sending};

/// What a change may be refused for while something else settles.
fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused(Refusal::Change(
            ChangeRefused::InFlight
                | ChangeRefused::Behind(_)
                | ChangeRefused::TermNotCommitted
                | ChangeRefused::QuorumInactive
        ))
    )
}

async fn change(raft: &Raft, changes: &[MemberChange]) {
    let patience = Duration::from_secs(20);
    let attempts = async {
        loop {
            match raft.change_membership(changes.to_vec()).await {
                Ok(()) => return,
                Err(failure) if is_passing(&failure) => tokio::task::yield_now().await,
                Err(failure) => panic!("{changes:?}: {failure}"),
            }
        }
    };
    let done = tokio::time::timeout(patience, attempts).await;
    done.expect("the group has settled by then");
}

#[test]
fn a_fourth_node_joins_takes_over_and_the_first_leaves() {
    let network = MemNetwork::new();
    let hosts: Vec<Host> = (1..=4).map(|node| start(&network, node, 1, 1)).collect();
    let group = GroupId(1);
    runtime().block_on(async {
        let rafts: Vec<Raft> = hosts.iter().map(|host| host.raft(group)).collect();
        rafts[0].campaign();
        await_role(&rafts[0], RoleKind::Leader).await;
        rafts[0].write(Tally::add(1)).await.unwrap();

        let fourth = replica(group, 4);
        rafts[0].add_learner(fourth, NodeId(4)).await.unwrap();
        let again = rafts[0].add_learner(fourth, NodeId(4)).await;
        let known = Refusal::Change(ChangeRefused::AlreadyMember(fourth));
        assert_eq!(again, Err(Failure::Refused(known)));
        change(
            &rafts[0],
            &[
                MemberChange::Promote(fourth),
                MemberChange::Remove(replica(group, 2)),
            ],
        )
        .await;

        let mut metrics = rafts[0].metrics();
        let caught_up = |status: &Metrics| {
            let status = status.as_ref();
            let mut peers = status.iter().flat_map(|status| &status.peers);
            peers.any(|peer| peer.id == fourth && peer.sending == Sending::Pipeline)
        };
        let status = metrics.wait_for(caught_up).await.expect("the host runs").clone();
        let status = status.expect("it was there");
        assert!(status.since_quorum_contact.is_some());
        let voters = [1, 3, 4].map(|node| replica(group, node));
        assert_eq!(status.membership.voters, voters.into());

        let answer = rafts[3].read_as(Bytes::new(), ReadPolicy::Here).await.unwrap();
        assert_eq!(Tally::number(&answer), 1);
        rafts[0].transfer_leadership(fourth).await.unwrap();
        await_role(&rafts[3], RoleKind::Leader).await;
        change(&rafts[3], &[MemberChange::Remove(replica(group, 1))]).await;
        let answer = rafts[3].write(Tally::add(2)).await.unwrap();
        assert_eq!(Tally::number(&answer), 3);
    });
    hosts.into_iter().for_each(Host::stop);
}
