//! What a seed decides before its run begins: the cluster's shape, and which faults are on and how strong (a *swarm*:
//! every run switches different ones off, so that none hides another). Printed first.

use super::clock::{MS, Nanos, SECOND, US};
use super::rng::Rng;
use std::fmt;
use std::time::Duration;

/// Everything a run is made of, besides chance.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) nodes: u64,
    /// The first of them hold the founding voters of every group; on the others replicas wait to be added.
    pub(super) founders: u64,
    /// Workers per node; a group lives on the worker that its number names.
    pub(super) workers: u64,
    pub(super) groups: u64,
    pub(super) raft: raft_core::Options,
    pub(super) load: Load,
    pub(super) network: Network,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) crashes: Option<Every>,
    /// In permille of crashes: the whole cluster loses power.
    pub(super) blackouts: u64,
    pub(super) partitions: Option<Every>,
    /// In permille of partitions: only one direction is cut.
    pub(super) one_way: u64,
    /// In permille of partitions: links fail one after the other, and come back in another order.
    pub(super) swizzles: u64,
    pub(super) pauses: Option<Every>,
    pub(super) transfers: Option<Every>,
    /// Members come and go.
    pub(super) changes: Option<Every>,
    /// How long the faults last.
    pub(super) safety: Nanos,
}

/// Something that begins about every `gap` and lasts about `length`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Every {
    pub(super) gap: Nanos,
    pub(super) length: Nanos,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Each has one request outstanding.
    pub(super) clients: u64,
    /// Keys per group.
    pub(super) keys: u64,
    /// In permille of requests.
    pub(super) reads: u64,
    /// In permille of reads: they go to any replica, and it asks its leader.
    pub(super) here: u64,
    /// In permille of the other reads: the leader may answer by its lease.
    pub(super) lease: u64,
    /// In permille of reads: they ask for a group clock ahead of what was applied.
    pub(super) ahead: u64,
    /// Longest pause between two requests.
    pub(super) think: Nanos,
    /// Most padding bytes of a command.
    pub(super) pad: u64,
    /// After this long a client gives a request up as unknown.
    pub(super) timeout: Nanos,
}

/// How bad the network is. Shares are in permille of frames.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) delay_min: Nanos,
    pub(super) delay_max: Nanos,
    pub(super) loss: u64,
    pub(super) duplicates: u64,
    /// Frames may overtake each other, as across reconnects.
    pub(super) reorder: bool,
    /// These are late by up to `late_max`.
    pub(super) late: u64,
    pub(super) late_max: Nanos,
    /// Another frame, of any link and time, arrives once more.
    pub(super) replays: u64,
    /// In permille of the steps of a snapshot's stream: it breaks off.
    pub(super) broken_streams: u64,
}

/// How slow and forgetful the disks are.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) sync_min: Nanos,
    pub(super) sync_max: Nanos,
    /// In permille of syncs: one takes up to `stall_max`.
    pub(super) stalls: u64,
    pub(super) stall_max: Nanos,
    /// How many times slower one node's disk is.
    pub(super) slow_factor: u64,
    /// A checkpoint is wanted after this many bytes of log.
    pub(super) checkpoint_bytes: u64,
    /// In permille of crashes: some writes whose sync did not return survive all the same.
    pub(super) survivors: u64,
    /// In permille of syncs: the disk says it is full until the next one.
    pub(super) full: u64,
    /// In permille of syncs: it fails, which ends the process.
    pub(super) failures: u64,
}

/// How wrong the clocks are.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) drift_ppm: i64,
    pub(super) wall_ahead_ms: u64,
}

impl Options {
    /// The options that a seed names.
    pub fn draw(seed: u64) -> Options {
        let mut rng = Rng::new(seed).fork("options");
        let raft = draw_raft(&mut rng);
        // Lengths are shares of the gaps: a cluster that is down most of the time shows nothing.
        let every = |rng: &mut Rng, on: u64, gap: (u64, u64), eighths: (u64, u64)| {
            let gap = rng.between(gap.0, gap.1) * MS;
            let length = gap * rng.between(eighths.0, eighths.1) / 8;
            rng.chance(on).then_some(Every { gap, length })
        };
        let changes = every(&mut rng, 600, (30, 300), (1, 1));
        let nodes = match changes {
            Some(_) => rng.pick(&[3, 4, 5, 5, 6]),
            None => rng.pick(&[3, 3, 3, 5]),
        };
        let mut options = Options {
            nodes,
            founders: if changes.is_some() {
                rng.pick(&[1, 3, 3])
            } else {
                nodes
            },
            changes,
            workers: rng.pick(&[1, 1, 2]),
            groups: rng.pick(&[1, 2, 2, 3, 4, 6]),
            load: draw_load(&mut rng),
            network: draw_network(&mut rng),
            disk: draw_disk(&mut rng),
            clock: draw_clock(&mut rng),
            crashes: every(&mut rng, 700, (150, 700), (1, 8)),
            blackouts: rng.pick(&[0, 0, 100, 400]),
            partitions: every(&mut rng, 600, (100, 600), (1, 8)),
            one_way: rng.pick(&[0, 300, 700]),
            swizzles: rng.pick(&[0, 300]),
            pauses: every(&mut rng, 400, (150, 600), (1, 8)),
            transfers: every(&mut rng, 500, (60, 500), (1, 1)),
            safety: rng.between(1500, 4000) * MS,
            raft,
        };
        if rng.chance(250) {
            options.heat(&mut rng);
        }
        options
    }

    /// Everyone at one key: a stale read shows only where others just wrote.
    fn heat(&mut self, rng: &mut Rng) {
        self.groups = 1;
        self.load = Load {
            clients: 16,
            keys: 1,
            reads: 500,
            here: rng.pick(&[0, 300]),
            lease: rng.pick(&[0, 500, 1000]),
            ahead: 0,
            think: rng.pick(&[2, 5]) * MS,
            pad: 0,
            timeout: rng.pick(&[100, 300]) * MS,
        };
    }

    /// The same run without faults and with a steady load: what a new checker is tried on first.
    pub fn calm(seed: u64) -> Options {
        let mut options = Options::draw(seed);
        options.heal();
        options.disk.stalls = 0;
        options.clock.drift_ppm = 0;
        options
    }

    /// The liveness phase: no new faults, a fair network, disks that keep up.
    pub(super) fn heal(&mut self) {
        self.network = Network {
            loss: 0,
            duplicates: 0,
            late: 0,
            reorder: false,
            delay_min: 50 * US,
            delay_max: 2 * MS,
            late_max: 0,
            replays: 0,
            broken_streams: 0,
        };
        self.disk.failures = 0;
        self.disk.stalls = 0;
        self.disk.full = 0;
        self.disk.slow_factor = 1;
        self.disk.sync_max = self.disk.sync_max.min(5 * MS);
        self.disk.sync_min = self.disk.sync_min.min(self.disk.sync_max);
        (self.crashes, self.partitions, self.pauses) = (None, None, None);
        (self.transfers, self.changes) = (None, None);
    }

    /// How long a healed cluster may take until every group serves writes again: what a slow round of elections needs,
    /// several times over.
    pub(super) fn recovery_max(&self) -> Nanos {
        let slowest = u64::try_from(self.raft.election_timeout_max.as_nanos()).expect("below a second");
        20 * slowest + 2 * SECOND
    }
}

fn draw_raft(rng: &mut Rng) -> raft_core::Options {
    let election = rng.between(80, 300);
    let heartbeat = election / rng.between(2, 6);
    let append = rng.pick(&[200, 2 << 10, 256 << 10]);
    raft_core::Options {
        election_timeout_min: Duration::from_millis(election),
        election_timeout_max: Duration::from_millis(election * 2),
        heartbeat_interval: Duration::from_millis(heartbeat),
        append_bytes_max: append,
        inflight_bytes_max: append * rng.pick(&[1, 4, 16]),
        inflight_messages_max: rng.pick(&[1, 2, 8, 64]),
        uncommitted_bytes_max: rng.pick(&[2 << 10, 64 << 10, 16 << 20]),
        tail_bytes_max: rng.pick(&[0, 500, 4 << 10, 1 << 20]),
        kept_bytes_max: rng.pick(&[0, 200, 2 << 10, 64 << 10, u64::MAX]),
        leases: rng.chance(500),
        ..raft_core::Options::default()
    }
}

fn draw_load(rng: &mut Rng) -> Load {
    Load {
        clients: rng.pick(&[4, 8, 8, 16]),
        keys: rng.between(1, 4),
        reads: rng.pick(&[100, 300, 600]),
        here: rng.pick(&[0, 0, 200, 500]),
        lease: rng.pick(&[0, 500, 1000]),
        ahead: rng.pick(&[0, 0, 50, 300]),
        think: rng.pick(&[4, 10, 20]) * MS,
        pad: rng.pick(&[0, 20, 100, 800]),
        timeout: rng.pick(&[200, 1000]) * MS,
    }
}

fn draw_network(rng: &mut Rng) -> Network {
    let (delay_min, delay_max) = rng.pick(&[
        (30 * US, 300 * US),
        (100 * US, 3 * MS),
        (100 * US, 3 * MS),
        (MS, 15 * MS),
    ]);
    Network {
        delay_min,
        delay_max,
        loss: rng.pick(&[0, 0, 5, 30, 100]),
        duplicates: rng.pick(&[0, 0, 10, 100]),
        reorder: rng.chance(400),
        late: rng.pick(&[0, 0, 5, 30]),
        late_max: rng.pick(&[50, 400, 2000]) * MS,
        replays: rng.pick(&[0, 0, 5, 30]),
        broken_streams: rng.pick(&[0, 20, 200]),
    }
}

fn draw_disk(rng: &mut Rng) -> Disk {
    let (sync_min, sync_max) = rng.pick(&[
        (20 * US, 200 * US),
        (100 * US, 2 * MS),
        (100 * US, 2 * MS),
        (MS, 20 * MS),
    ]);
    Disk {
        sync_min,
        sync_max,
        stalls: rng.pick(&[0, 0, 2, 20]),
        stall_max: rng.pick(&[30, 200, 800]) * MS,
        slow_factor: rng.pick(&[1, 1, 1, 8]),
        checkpoint_bytes: rng.pick(&[500, 4 << 10, 64 << 10]),
        survivors: rng.pick(&[0, 500, 1000]),
        full: rng.pick(&[0, 0, 0, 10]),
        failures: rng.pick(&[0, 0, 0, 2]),
    }
}

fn draw_clock(rng: &mut Rng) -> Clock {
    Clock {
        drift_ppm: rng.pick(&[0, 100, 30_000, 100_000]),
        wall_ahead_ms: rng.pick(&[0, 5, 3000]),
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raft = &self.raft;
        write!(
            f,
            "{} nodes ({} founders) x {} workers, {} groups, {} ms of faults; election {} ms, heartbeat {} ms, \
             append {} B, in flight {} B / {}, uncommitted {} B, tail {} B, kept {} B, {} leases; ",
            self.nodes,
            self.founders,
            self.workers,
            self.groups,
            self.safety / MS,
            raft.election_timeout_min.as_millis(),
            raft.heartbeat_interval.as_millis(),
            raft.append_bytes_max,
            raft.inflight_bytes_max,
            raft.inflight_messages_max,
            raft.uncommitted_bytes_max,
            raft.tail_bytes_max,
            raft.kept_bytes_max,
            if raft.leases { "with" } else { "no" },
        )?;
        write!(
            f,
            "{:?}; {:?}; {:?}; {:?}",
            self.load, self.network, self.disk, self.clock
        )?;
        let faults = [
            ("crashes", self.crashes),
            ("partitions", self.partitions),
            ("pauses", self.pauses),
            ("transfers", self.transfers),
            ("changes", self.changes),
        ];
        for (name, every) in faults {
            match every {
                Some(every) => write!(
                    f,
                    "; {name} every {} ms for {} ms",
                    every.gap / MS,
                    every.length / MS
                )?,
                None => write!(f, "; no {name}")?,
            }
        }
        write!(
            f,
            "; blackouts {}/1000, one-way {}/1000, swizzles {}/1000",
            self.blackouts, self.one_way, self.swizzles
        )
    }
}
