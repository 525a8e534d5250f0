//! I7: a leader commits by counting only entries of its own term; older ones follow by log matching (Raft §5.4.2).

use super::{Verdict, require};
use multiraft::{EntryId, GroupId, RoleKind, Status};

const NAME: &str = "I7 commit by an own entry";

/// `top` was not committed before anywhere: the leader that finds it committed must have counted it.
pub(super) fn on_committed(group: GroupId, status: &Status, top: EntryId) -> Verdict {
    let term = status.hard_state.term;
    require(status.role != RoleKind::Leader || top.term == term, NAME, || {
        format!("{group}: {} commits {top} in term {term}", status.id)
    })
}

#[test]
fn an_old_entry_is_not_enough() {
    use multiraft::{HardState, Index, Membership, ReplicaId, Term};
    let mut status = Status {
        id: ReplicaId(11),
        role: RoleKind::Leader,
        hard_state: HardState {
            term: Term(3),
            vote: None,
        },
        leader: None,
        last: EntryId::new(2, 7),
        durable: Index(7),
        commit: Index(7),
        applied: Index(0),
        truncated: Index(0),
        membership: Membership::default(),
        peers: Vec::new(),
        since_quorum_contact: None,
    };
    let group = GroupId(1);
    assert!(on_committed(group, &status, EntryId::new(2, 7)).is_err());
    assert!(on_committed(group, &status, EntryId::new(3, 8)).is_ok());
    status.role = RoleKind::Follower;
    assert!(on_committed(group, &status, EntryId::new(2, 7)).is_ok());
}
