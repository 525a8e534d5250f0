//! Limits, cold entries, and what a program may order by hand, through the handle that it holds.

use super::*;
use crate::Options;
use crate::types::Index;

const GROUP: GroupId = GroupId(1);

/// Three nodes; the first leads, the third is cut off from the others.
struct Scene {
    network: MemNetwork,
    disks: Vec<MemDisk>,
    hosts: Vec<Host>,
}

impl Scene {
    /// With timeouts that a slow machine does not reach: nobody campaigns but by hand.
    fn start(replica: Options) -> Scene {
        let network = MemNetwork::new();
        let disks: Vec<MemDisk> = (0..NODES).map(|_| MemDisk::new(SyncMode::AtOnce)).collect();
        let replica = Options {
            election_timeout_min: Duration::from_secs(60),
            election_timeout_max: Duration::from_secs(90),
            heartbeat_interval: Duration::from_millis(20),
            ..replica
        };
        let host = |(node, disk): (u64, &MemDisk)| {
            let options = WorkerOptions {
                seed: node,
                replica: replica.clone(),
                ..WorkerOptions::default()
            };
            start_on(&network, node, vec![disk.clone()], 1, &options, Arc::new(()))
        };
        let hosts = (1..=NODES).zip(&disks).map(host).collect();
        let scene = Scene {
            network,
            disks,
            hosts,
        };
        scene.cut_third(true);
        scene
    }

    fn cut_third(&self, is_cut: bool) {
        for other in [1, 2] {
            self.network.set_cut(NodeId(other), NodeId(3), is_cut);
            self.network.set_cut(NodeId(3), NodeId(other), is_cut);
        }
    }

    fn cut_second(&self, is_cut: bool) {
        self.network.set_cut(NodeId(1), NodeId(2), is_cut);
        self.network.set_cut(NodeId(2), NodeId(1), is_cut);
        if !is_cut {
            self.hosts[0].intake.unreachable(NodeId(2)); // or it would wait for the election timeout
        }
    }

    /// The leader's handle, once it leads.
    async fn leader(&self) -> Raft {
        let raft = self.hosts[0].raft(GROUP);
        raft.campaign();
        await_role(&raft, RoleKind::Leader).await;
        raft
    }

    fn stop(self) {
        self.hosts.into_iter().for_each(Host::stop);
    }
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await; // pace: polling, bounded by PATIENCE
        }
    };
    let held = tokio::time::timeout(PATIENCE, polling).await;
    held.unwrap_or_else(|_| panic!("still waiting: {what}"));
}

fn third_holds(status: &Metrics, index: Index) -> bool {
    let peers = status.as_ref().map(|status| &status.peers);
    peers.is_some_and(|peers| {
        let third = peers.iter().find(|peer| peer.id == replica(GROUP, 3));
        third.is_some_and(|third| third.matched >= index)
    })
}

#[test]
fn writes_go_on_while_a_slow_disk_reads_for_a_member_that_lags() {
    let scene = Scene::start(Options {
        tail_bytes_max: 100,
        append_bytes_max: 200,
        ..Options::default()
    });
    runtime().block_on(async {
        let raft = scene.leader().await;
        for _ in 0..50 {
            raft.write(Tally::add(1)).await.unwrap();
        }
        scene.disks[0].hold_fetches(true);
        scene.cut_third(false);
        wait_until("the leader asks its disk", || scene.disks[0].fetches() > 0).await;
        for number in 51..=100 {
            let answer = raft.write(Tally::add(1)).await.unwrap();
            assert_eq!(Tally::number(&answer), number);
        }
        assert_eq!(Tally::number(&raft.read(Bytes::new()).await.unwrap()), 100);
        assert_eq!(scene.disks[0].fetches(), 1, "one fetch at a time for one member");
        let mut metrics = raft.metrics();
        let last = metrics
            .borrow_and_update()
            .as_ref()
            .map_or(Index(101), |status| status.last.index);
        assert!(!third_holds(&metrics.borrow(), last));
        scene.disks[0].hold_fetches(false);
        scene.disks[0].sync();
        let caught_up = metrics.wait_for(|status| third_holds(status, last));
        let caught_up = tokio::time::timeout(PATIENCE, caught_up).await;
        caught_up.expect("the third catches up").expect("the host runs");
    });
    scene.stop();
}

#[test]
fn a_leader_without_its_quorum_takes_what_fits_and_refuses_the_rest_at_once() {
    let scene = Scene::start(Options {
        uncommitted_bytes_max: 1000,
        ..Options::default()
    });
    runtime().block_on(async {
        let raft = scene.leader().await;
        raft.write(Tally::add(1)).await.unwrap();
        scene.cut_second(true);
        let overloaded = Err(Failure::Refused(Refusal::Overloaded));
        let batch = vec![Tally::add(1); 200];
        let many = tokio::spawn({
            let raft = raft.clone();
            async move { raft.write_many(batch).await }
        });
        let mut metrics = raft.metrics();
        let taken =
            metrics.wait_for(|status| status.as_ref().is_some_and(|status| status.last.index > Index(2)));
        drop(taken.await.expect("the host runs"));
        // It would wait for ever if it were taken.
        let one = tokio::time::timeout(PATIENCE, raft.write(Tally::add(1))).await;
        assert_eq!(one.expect("refused at once"), overloaded);
        scene.cut_second(false);
        let answers = many.await.unwrap();
        let taken = answers.iter().take_while(|answer| answer.is_ok()).count();
        assert!((10..40).contains(&taken), "{taken} of 200 fit into 1000 bytes");
        assert!(answers[taken..].iter().all(|answer| *answer == overloaded));
        assert_eq!(
            Tally::number(&raft.write(Tally::add(1)).await.unwrap()),
            2 + taken as u64
        );
    });
    scene.stop();
}

#[test]
fn a_checkpoint_and_a_truncation_by_hand() {
    let scene = Scene::start(Options::default());
    runtime().block_on(async {
        let raft = scene.leader().await;
        for _ in 0..10 {
            raft.write(Tally::add(1)).await.unwrap();
        }
        let held = raft.snapshot().await.unwrap();
        assert_eq!(held, Index(11), "the first entry is the leader's own");
        let mut metrics = raft.metrics();
        let truncated = |status: &Metrics| status.as_ref().map(|status| status.truncated);
        metrics
            .wait_for(|status| truncated(status).is_some())
            .await
            .unwrap();
        assert_eq!(truncated(&metrics.borrow()), Some(Index(0)), "kept for the third");
        raft.truncate(Index(7));
        metrics
            .wait_for(|status| truncated(status) == Some(Index(7)))
            .await
            .unwrap();
        raft.truncate(Index(100));
        metrics
            .wait_for(|status| truncated(status) == Some(held))
            .await
            .unwrap();
        raft.write(Tally::add(1)).await.unwrap();
        assert_eq!(raft.snapshot().await, Ok(Index(12)));
        metrics
            .wait_for(|status| truncated(status) == Some(Index(12)))
            .await
            .unwrap();
        let elsewhere = scene.hosts[0].raft(GroupId(77)).snapshot().await;
        assert_eq!(elsewhere, Err(Failure::Refused(Refusal::NoSuchGroup)));
        raft.shutdown().await;
        assert_eq!(raft.snapshot().await, Err(Failure::Refused(Refusal::Stopping)));
    });
    scene.stop();
}
