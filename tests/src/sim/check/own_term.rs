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
