//! Memberships come back from a restart as they were written: from the log, and from the row of a checkpoint.

use super::node::{Node, kill, members, put, replica};
use crate::SimDisk;
use multiraft::{GroupId, Index, Membership, NodeId, Payload, ReplicaId, RestoredGroup};
use std::sync::Arc;

const GROUP: GroupId = GroupId(7);
const NEW: ReplicaId = ReplicaId(79);

/// The second founder becomes a learner, and a new replica takes its place.
fn joint() -> Membership {
    let mut joint = members(GROUP);
    let demoted = ReplicaId(71);
    joint.outgoing = joint.voters.clone();
    joint.voters = [replica(GROUP), NEW].into();
    joint.learners = [demoted].into();
    joint.nodes.insert(NEW, NodeId(9));
    joint
}

/// What is in force: the last one in the log.
fn in_force(group: &RestoredGroup) -> Membership {
    let entries = group.restored.entries.iter().rev();
    let mut memberships = entries.filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(&**membership),
        _ => None,
    });
    memberships.next().unwrap_or(&group.restored.membership).clone()
}

#[test]
fn a_joint_membership_comes_back_from_the_log_from_a_checkpoint_and_without_its_entry() {
    let disk = Arc::new(SimDisk::new());
    let mut node = Node::open(&disk);
    node.found(GROUP, replica(GROUP));
    node.write_payloads(GROUP, 1, &[Payload::Membership(Box::new(joint()))], 1);
    node.commit();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    let found = &node.restored[0].restored;
    assert_eq!((found.commit, &found.membership), (Index(0), &members(GROUP)));
    assert_eq!(in_force(&node.restored[0]), joint(), "uncommitted, and in force");

    node.write(GROUP, 1, &[put("a", "1")], 0);
    node.commit();
    node.checkpoint();
    let disk = kill(node, &disk);
    let mut node = Node::open(&disk);
    assert_eq!(in_force(&node.restored[0]), joint());

    node.truncate();
    node.write_payloads(GROUP, 1, &[Payload::Membership(Box::new(joint().left()))], 1);
    node.commit();
    node.checkpoint();
    let node = Node::open(&kill(node, &disk));
    let found = &node.restored[0];
    assert_eq!(found.restored.membership, joint(), "as of where the log begins");
    assert_eq!(in_force(found), joint().left());
}
