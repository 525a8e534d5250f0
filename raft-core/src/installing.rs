//! The follower's side of snapshots: whether one that is offered is news, and putting it in the place of log and state.
//! Its bytes are the host's business, before (they are staged) and after (the state machine turns to them).
//!
//! What changes when:
//! * `install` resets the log at once: it begins behind the snapshot, whose membership is in force, and nothing of the
//!   log before is left (a conflict beyond the snapshot must not survive it, openraft 674e78aa). What follows is
//!   accepted as usual, in later writes or the same.
//! * Until that write is durable nothing is handed out, and the replica vouches for nothing beyond what it had committed.
//! * Then the state reflects the snapshot, and so do the marks.
//!
//! Nothing undoes an install, whatever term comes meanwhile: what a snapshot holds is committed.

use crate::bugs::{self, Bug};
use crate::log::Log;
use crate::membership::Memberships;
use crate::ready::{Ignored, Snapshot};
use crate::replica::Replica;
use crate::role::Role;
use crate::types::{EntryId, Index, ReplicaId, Term};

impl Replica {
    /// The leader of `term` offers a snapshot. An error: it is not wanted here.
    pub(crate) fn weigh(&mut self, from: ReplicaId, term: Term, snapshot: EntryId) -> Result<(), Ignored> {
        if from == self.id {
            return Err(Ignored::WrongReplica);
        }
        if term < self.hard.term {
            return Err(Ignored::StaleTerm);
        }
        assert!(
            snapshot.term <= term,
            "I2: {from} offers {snapshot} in term {term}"
        );
        if term > self.hard.term {
            self.become_follower(term, Some(from));
        }
        self.follow(from);
        if self.installing.is_some() {
            return Err(Ignored::Installing);
        }
        let is_news = snapshot.index > self.marks.commit && !self.log.contains(snapshot);
        if is_news || bugs::is_on(Bug::OldSnapshotInstalled) {
            return Ok(());
        }
        self.commit_to(snapshot.index.max(self.marks.commit));
        self.confirm_position(from);
        Err(Ignored::KnownSnapshot)
    }

    /// Everything committed here is the leader's log, too.
    fn confirm_position(&mut self, leader: ReplicaId) {
        let commit = self.marks.commit;
        if let Role::Follower(follower) = &mut self.role {
            follower.matched = follower.matched.max(commit);
        }
        self.acknowledge(leader, commit);
    }

    /// The log begins behind the snapshot from now on.
    pub(crate) fn reset(&mut self, from: ReplicaId, snapshot: Snapshot) {
        let Snapshot { id, membership } = snapshot.clone();
        assert!(
            id.index > self.marks.commit,
            "I5: {id} is installed, commit {}",
            self.marks.commit
        );
        self.writes.install(snapshot, self.marks.commit);
        self.log = Log::new(id);
        self.memberships = match membership {
            _ if bugs::is_on(Bug::MembershipSurvivesInstall) => {
                Memberships::new(id.index, self.memberships.effective().clone())
            }
            joint if bugs::is_on(Bug::JointLostInSnapshot) => Memberships::new(id.index, joint.left()),
            membership => Memberships::new(id.index, membership),
        };
        self.marks.commit = id.index;
        self.installing = Some(id.index);
        if let Role::Follower(follower) = &mut self.role {
            // What is still owed is of the log before; the snapshot answers for it.
            follower.owed = None;
        }
        self.confirm_position(from);
    }

    /// Once the install is durable, state and log begin there.
    pub(crate) fn finish_install(&mut self) {
        if let Some(index) = self.installing.take_if(|index| *index <= self.writes.durable()) {
            self.marks.handed = index;
            self.marks.applied = index;
            self.marks.checkpointed = index;
        }
    }

    /// How far the log may be handed out.
    pub(crate) fn committed_through(&self) -> Index {
        match self.installing {
            Some(_) => self.marks.handed,
            None => self.marks.commit.min(self.writes.durable()),
        }
    }
}
