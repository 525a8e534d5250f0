//! Durability: after everything healed, every acknowledged write is in the state that every member has reached
//! (Raft §5.4.3 for the state, and the promise to clients that acknowledged means kept).

use super::linearizable::Linearizable;
use super::state_machine::StateMachineSafety;
use super::{Verdict, require};
use multiraft::{GroupId, NodeId};
use std::collections::BTreeSet;

const NAME: &str = "acknowledged writes stay";

pub(super) fn at_end(
    clients: &Linearizable,
    machines: &StateMachineSafety,
    group: GroupId,
    nodes: &[NodeId],
) -> Verdict {
    let last = machines.last(group);
    for node in nodes {
        let applied = machines.applied(*node, group);
        require(applied == last, NAME, || {
            format!("{node} {group}: applied {applied}, the group {last}, long after everything healed")
        })?;
    }
    let present: BTreeSet<u64> = machines.writes(group).map(|command| command.write).collect();
    let of_group = clients.acknowledged.iter().filter(|(_, (of, _))| *of == group);
    let lost = of_group
        .map(|(number, _)| number)
        .find(|number| !present.contains(number));
    require(lost.is_none(), NAME, || {
        format!("{group}: write {lost:?} was acknowledged and is gone")
    })
}
