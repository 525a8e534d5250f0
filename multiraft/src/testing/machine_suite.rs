//! What every `StateMachine` must do, as one suite: the tally and the key-value machine over the real store run the
//! same checks. Every check compares with one group's undisturbed run, entry by entry.

use crate::machine::{Queried, StateMachine};
use crate::storage::{BatchId, Birth, CutId, GroupRow, GroupWrite, LogBatch, RestoredGroup};
use crate::types::{
    Entry, EntryId, GroupId, HardState, Index, Life, Membership, NodeId, Payload, ReplicaId, Stamp, Term,
};
use bytes::Bytes;
use raft_core::WriteId;

/// One worker's state machine and the storage that keeps its state. A harness begins with nothing.
pub trait MachineHarness {
    /// The machine.
    type Machine: StateMachine;

    /// A process starts: the machine over the state kept last, none of its groups open, and what was restored.
    fn start(&mut self) -> (Self::Machine, Vec<RestoredGroup>);

    /// Makes births and logs durable. Called once, after the first start, before anything is applied.
    fn submit(&mut self, batch: LogBatch);

    /// What the node knows about the group.
    fn descriptor(&self, group: GroupId) -> Bytes;

    /// A command. Different numbers should do different things, and answer by what was there before.
    fn command(&self, number: u64) -> Bytes;

    /// Reads whose answers together show the state. At the end of the suite's log, and much later than its stamps,
    /// at least one must depend on whether the clock has advanced.
    fn queries(&self) -> Vec<Bytes>;

    /// Makes the storage want a checkpoint; its cut. The machine's `freeze` follows.
    fn cut(&mut self) -> CutId;

    /// The storage's part of the cut. When this returns, the frozen state survives a crash.
    fn keep(&mut self, cut: CutId, rows: Vec<GroupRow>);

    /// The process dies here.
    fn crash(&mut self, machine: Self::Machine);
}

/// Runs every check, each with harnesses of its own.
pub fn machine_suite<H: MachineHarness>(mut make: impl FnMut() -> H) {
    let [first, second] = GROUPS.map(|group| Trace::record(&mut make(), group));
    the_suite_can_see_something(&first, &second);
    the_clock_is_the_largest_stamp(&first);
    a_stamp_answers_what_waited_for_it(&mut make(), &first);
    for size in [2, 7, ENTRIES] {
        batches_change_nothing(&mut make(), &first, size);
    }
    a_group_does_not_see_another(&mut make(), [&first, &second]);
    a_freeze_is_not_seen(&mut make(), &first);
    a_restart_goes_on_after_what_it_kept(&mut make(), [&first, &second]);
    what_was_never_kept_is_applied_again(&mut make(), &first);
}

const GROUPS: [GroupId; 2] = [GroupId(7), GroupId(8)];
/// A group to which nothing is applied.
const IDLE: GroupId = GroupId(9);
const ENTRIES: usize = 60;
/// The stamp of the last entry: long after all others.
const LATE: Stamp = Stamp(1_000_000);

/// What can be seen of a group: its clock, and what each query finds at this clock and at `LATE`.
#[derive(Debug, PartialEq)]
struct View {
    clock: Stamp,
    now: Vec<Queried>,
    late: Vec<Queried>,
}

/// One group's undisturbed run.
struct Trace {
    group: GroupId,
    log: Vec<Entry>,
    answers: Vec<Bytes>,
    /// After so many entries; one more than there are entries.
    views: Vec<View>,
}

impl Trace {
    /// Alone in a machine, entry by entry.
    fn record<H: MachineHarness>(harness: &mut H, group: GroupId) -> Trace {
        let log = log(harness, group);
        let mut run = Run::begin(harness, &[group]);
        let mut trace = Trace {
            group,
            answers: Vec::new(),
            views: vec![run.view(group)],
            log,
        };
        for entry in &trace.log {
            trace
                .answers
                .extend(run.apply(group, std::slice::from_ref(entry)));
            trace.views.push(run.view(group));
        }
        trace
    }

    /// The id of the entry after which so many are applied.
    fn id(&self, applied: usize) -> EntryId {
        applied.checked_sub(1).map_or(EntryId::ZERO, |at| self.log[at].id)
    }
}

fn the_suite_can_see_something(first: &Trace, second: &Trace) {
    for trace in [first, second] {
        let changes = trace.views.windows(2).filter(|pair| pair[0].now != pair[1].now);
        assert!(changes.count() > ENTRIES / 4, "the queries hardly show the state");
    }
    assert_ne!(
        first.views[ENTRIES].now, second.views[ENTRIES].now,
        "the groups' commands hardly differ"
    );
}

fn the_clock_is_the_largest_stamp(trace: &Trace) {
    let mut largest = Stamp(0);
    for (entry, view) in trace.log.iter().zip(&trace.views[1..]) {
        if let Payload::Noop(stamp) | Payload::Command(stamp, _) = entry.payload {
            largest = largest.max(stamp);
        }
        assert_eq!(view.clock, largest, "after {}", entry.id);
    }
}

fn a_stamp_answers_what_waited_for_it<H: MachineHarness>(harness: &mut H, trace: &Trace) {
    let waits = |queried: &&Queried| **queried == Queried::AdvanceClock;
    let before = &trace.views[ENTRIES - 1];
    assert!(before.late.iter().any(|queried| waits(&queried)), "{before:?}");
    let mut run = Run::begin(harness, &[trace.group]);
    run.apply(trace.group, &trace.log);
    let after = run.view(trace.group);
    assert_eq!(after.clock, LATE);
    assert_eq!(after.late.iter().find(waits), None, "the clock is there");
}

fn batches_change_nothing<H: MachineHarness>(harness: &mut H, trace: &Trace, size: usize) {
    let mut run = Run::begin(harness, &[trace.group]);
    for (number, batch) in trace.log.chunks(size).enumerate() {
        run.follow(trace, number * size, number * size + batch.len());
    }
}

fn a_group_does_not_see_another<H: MachineHarness>(harness: &mut H, traces: [&Trace; 2]) {
    let mut run = Run::begin(harness, &[GROUPS[0], IDLE, GROUPS[1]]);
    let untouched = run.view(IDLE);
    for at in (0..ENTRIES).step_by(3) {
        for trace in traces {
            run.follow(trace, at, at + 3);
            assert_eq!(run.view(IDLE), untouched);
        }
    }
}

fn a_freeze_is_not_seen<H: MachineHarness>(harness: &mut H, trace: &Trace) {
    let mut run = Run::begin(harness, &[trace.group]);
    run.follow(trace, 0, 20);
    let cut = run.freeze();
    run.check(trace, 20);
    for at in 20..40 {
        run.follow(trace, at, at + 1); // over what is frozen
    }
    run.keep(cut, &[(trace, 20)]);
    run.check(trace, 40);
    run.follow(trace, 40, ENTRIES); // over what is kept
}

/// Every process applies more than it keeps, before and after the cut is kept; the next one must find none of it.
fn a_restart_goes_on_after_what_it_kept<H: MachineHarness>(harness: &mut H, traces: [&Trace; 2]) {
    let mut run = Run::begin(harness, &GROUPS);
    let mut kept = [0, 0];
    for reached in [[20, 11], [21, 41], [47, 42]] {
        for (at, trace) in traces.into_iter().enumerate() {
            run.follow(trace, kept[at], reached[at]);
        }
        let cut = run.freeze();
        for (trace, applied) in traces.into_iter().zip(reached) {
            run.follow(trace, applied, applied + 5);
        }
        run.keep(cut, &[(traces[0], reached[0]), (traces[1], reached[1])]);
        for (trace, applied) in traces.into_iter().zip(reached) {
            run.follow(trace, applied + 5, applied + 9);
        }
        run.restart(&[(traces[0], reached[0]), (traces[1], reached[1])]);
        kept = reached;
    }
    for (trace, applied) in traces.into_iter().zip(kept) {
        run.follow(trace, applied, ENTRIES);
    }
}

fn what_was_never_kept_is_applied_again<H: MachineHarness>(harness: &mut H, trace: &Trace) {
    let mut run = Run::begin(harness, &[trace.group]);
    run.follow(trace, 0, 30);
    run.freeze(); // and the process dies before the cut is kept
    run.follow(trace, 30, 35);
    run.restart(&[(trace, 0)]);
    run.follow(trace, 0, ENTRIES);
}

/// A machine at work. What it restores is checked, and every group is in one term.
struct Run<'h, H: MachineHarness> {
    harness: &'h mut H,
    machine: Option<H::Machine>,
}

impl<'h, H: MachineHarness> Run<'h, H> {
    fn begin(harness: &'h mut H, groups: &[GroupId]) -> Run<'h, H> {
        let (machine, restored) = harness.start();
        assert_eq!(restored.len(), 0, "a harness begins with nothing");
        harness.submit(founding(harness, groups));
        let machine = Some(machine);
        let mut run = Run { harness, machine };
        for group in groups {
            run.open(*group, EntryId::ZERO);
        }
        run
    }

    fn machine(&mut self) -> &mut H::Machine {
        self.machine.as_mut().expect("a process runs")
    }

    fn open(&mut self, group: GroupId, applied: EntryId) {
        let descriptor = self.harness.descriptor(group);
        self.machine().open(group, &descriptor, applied);
        assert_eq!(self.machine().descriptor(group), descriptor);
    }

    /// The answers to one batch. Answers of other batches are there before.
    fn apply(&mut self, group: GroupId, entries: &[Entry]) -> Vec<Bytes> {
        let before = Bytes::from_static(b"an earlier answer");
        let mut answers = vec![before.clone()];
        self.machine().apply(group, entries, &mut answers);
        assert_eq!(answers.len(), 1 + entries.len(), "one answer per entry");
        assert_eq!(answers.remove(0), before, "answers are only added");
        for (entry, answer) in entries.iter().zip(&answers) {
            let is_command = matches!(entry.payload, Payload::Command(..));
            assert!(is_command || answer.is_empty(), "{} has no command", entry.id);
        }
        answers
    }

    fn view(&mut self, group: GroupId) -> View {
        let queries = self.harness.queries();
        let machine = self.machine();
        let clock = machine.clock(group);
        let mut ask = |stamp| {
            let found = queries.iter().map(|query| machine.query(group, query, stamp));
            found.collect()
        };
        View {
            clock,
            now: ask(clock),
            late: ask(LATE),
        }
    }

    /// Looks like the undisturbed run after so many entries.
    fn check(&mut self, trace: &Trace, applied: usize) {
        let view = self.view(trace.group);
        assert_eq!(
            view, trace.views[applied],
            "{} after {applied} entries",
            trace.group
        );
    }

    /// Applies one batch as the undisturbed run did: same answers, same view.
    fn follow(&mut self, trace: &Trace, from: usize, to: usize) {
        self.check(trace, from);
        let answers = self.apply(trace.group, &trace.log[from..to]);
        assert_eq!(answers, trace.answers[from..to], "{} from {from}", trace.group);
        self.check(trace, to);
    }

    fn freeze(&mut self) -> CutId {
        let cut = self.harness.cut();
        self.machine().freeze(cut);
        cut
    }

    fn keep(&mut self, cut: CutId, applied: &[(&Trace, usize)]) {
        let rows = applied
            .iter()
            .map(|(trace, applied)| row(self.harness, trace.group, trace.id(*applied)));
        let rows = rows.collect();
        self.harness.keep(cut, rows);
    }

    /// Dies and starts; must find each group as it was after so many entries.
    fn restart(&mut self, kept: &[(&Trace, usize)]) {
        let machine = self.machine.take().expect("a process runs");
        self.harness.crash(machine);
        let (machine, restored) = self.harness.start();
        self.machine = Some(machine);
        let found: Vec<_> = restored
            .iter()
            .map(|found| (found.group, found.restored.applied))
            .collect();
        let expected: Vec<_> = kept
            .iter()
            .map(|(trace, applied)| (trace.group, trace.id(*applied).index))
            .collect();
        assert_eq!(found, expected);
        for (trace, applied) in kept {
            self.open(trace.group, trace.id(*applied));
            self.check(trace, *applied);
        }
    }
}

/// Births and whole logs of these groups.
fn founding<H: MachineHarness>(harness: &H, groups: &[GroupId]) -> LogBatch {
    let births = groups.iter().map(|group| Birth {
        group: *group,
        replica: replica(*group),
        membership: membership(*group),
        base: EntryId::ZERO,
        split: None,
        descriptor: harness.descriptor(*group),
    });
    let writes = groups.iter().map(|group| GroupWrite {
        group: *group,
        replica: replica(*group),
        life: Life(1),
        write: WriteId(1),
        hard_state: Some(HardState {
            term: Term(1),
            vote: None,
        }),
        entries: log(harness, *group),
        commit: Index(ENTRIES as u64),
    });
    LogBatch {
        id: BatchId(1),
        births: births.collect(),
        writes: writes.collect(),
        ..LogBatch::default()
    }
}

fn row<H: MachineHarness>(harness: &H, group: GroupId, applied: EntryId) -> GroupRow {
    GroupRow {
        group,
        replica: replica(group),
        life: Life(1),
        applied,
        membership: membership(group),
        descriptor: harness.descriptor(group),
    }
}

fn replica(group: GroupId) -> ReplicaId {
    ReplicaId(group.0 * 10)
}

fn membership(group: GroupId) -> Membership {
    Membership::of_voters([(replica(group), NodeId(1))])
}

/// Commands between stamps and memberships; the stamps rise, but not always; the last one is `LATE`.
fn log<H: MachineHarness>(harness: &H, group: GroupId) -> Vec<Entry> {
    let entry = |index: u64| {
        let stamp = Stamp(1000 + 10 * index - 25 * (index % 3));
        let payload = match index {
            _ if index == ENTRIES as u64 => Payload::Noop(LATE),
            _ if index.is_multiple_of(10) => Payload::Noop(stamp),
            _ if index % 20 == 5 => Payload::Membership(Box::new(membership(group))),
            _ => Payload::Command(stamp, harness.command(100 * group.0 + index)),
        };
        Entry {
            id: EntryId::new(1, index),
            payload,
        }
    };
    (1..=ENTRIES as u64).map(entry).collect()
}
