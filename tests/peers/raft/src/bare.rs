//! Ours without host, threads and handles: three workers that take turns in a loop. What the public handle costs is the
//! difference to this.

use crate::MEMBERS;
use crate::drive::{self, Mark, Plan};
use crate::memory::{Count, MemLog};
use crate::ours::{COMMAND, birth, group_id, options, place};
use multiraft::host::HostClock;
use multiraft::{
    AnswerSink, Clock, Completion, CompletionSink, Control, Event, GroupId, Inbox, InboxLimits, InboxSender,
    NodeId, Outcome, Outgoing, RaftNetwork, RoleKind, SilentBell, Ticket, Worker, wire,
};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One node's way to the others, and the way of its log's completions.
#[derive(Clone)]
struct Link {
    node: NodeId,
    senders: Arc<[InboxSender]>,
}

impl RaftNetwork for Link {
    fn send(&self, outgoing: Outgoing) {
        let messages = wire::decode(&outgoing.frame.to_bytes()).expect("frames of this build");
        self.senders[place(outgoing.to)].push(Event::Messages {
            from: self.node,
            messages,
        });
    }
}

impl CompletionSink for Link {
    fn complete(&self, mut completion: Completion) {
        if let Completion::Durable { then_send, .. } = &mut completion {
            std::mem::take(then_send)
                .into_iter()
                .for_each(|outgoing| self.send(outgoing));
        }
        self.senders[place(self.node)].push(Event::Storage(completion));
    }
}

/// Writers whose request was answered.
#[derive(Default)]
struct Answered(Mutex<Vec<u64>>);

impl AnswerSink for Answered {
    fn answer(&self, number: u64, outcome: Outcome) {
        assert!(matches!(outcome, Outcome::Answered(_)), "nothing is refused here");
        self.0.lock().expect("one thread").push(number);
    }
}

struct Node {
    worker: Worker<MemLog, Link, Count>,
    inbox: Inbox,
    due: Option<multiraft::Instant>,
}

impl Node {
    fn new(plan: &Plan, node: u64, inbox: Inbox, senders: &Arc<[InboxSender]>, clock: &HostClock) -> Node {
        let link = Link {
            node: NodeId(node),
            senders: Arc::clone(senders),
        };
        let storage = MemLog::new(Arc::new(link.clone()));
        for group in 0..plan.groups {
            senders[place(NodeId(node))].push(Event::Control(birth(group, node)));
        }
        let worker = Worker::new(
            storage,
            link,
            Count::default(),
            Vec::new(),
            options(plan, node),
            clock.now(),
        );
        Node {
            worker,
            inbox,
            due: None,
        }
    }

    fn work(&mut self, clock: &HostClock) {
        while !self.inbox.is_empty() || self.due.is_some_and(|due| due <= clock.now()) {
            self.due = self.worker.turn(&mut self.inbox, clock).deadline;
        }
    }

    fn leads(&self, group: GroupId) -> bool {
        self.worker
            .status(group)
            .is_some_and(|status| status.role == RoleKind::Leader)
    }
}

/// Writes for as long as planned; groups are led by the node whose turn it is.
pub fn measure(plan: &Plan) -> Value {
    let clock = HostClock::new();
    let (inboxes, senders): (Vec<_>, Vec<_>) = (0..MEMBERS)
        .map(|_| Inbox::new(InboxLimits::default(), Arc::new(SilentBell)))
        .unzip();
    let senders: Arc<[InboxSender]> = senders.into();
    let numbered = (1..).zip(inboxes);
    let mut nodes: Vec<Node> = numbered
        .map(|(node, inbox)| Node::new(plan, node, inbox, &senders, &clock))
        .collect();
    let mut turn = || nodes.iter_mut().for_each(|node| node.work(&clock));
    turn();
    for group in 0..plan.groups {
        senders[group % MEMBERS].push(Event::Control(Control::Campaign(group_id(group))));
    }
    (0..100).for_each(|_| turn());
    assert!(
        (0..plan.groups).all(|group| nodes[group % MEMBERS].leads(group_id(group))),
        "all groups have leaders"
    );

    let answered = Arc::new(Answered::default());
    let propose = |number: u64| {
        let group = usize::try_from(number).expect("a writer's number") % plan.groups;
        let ticket = Ticket {
            sink: Arc::clone(&answered) as Arc<dyn AnswerSink>,
            number,
        };
        senders[group % MEMBERS].push(Event::Propose {
            group: group_id(group),
            payload: COMMAND,
            ticket,
        });
    };
    (0..plan.writers as u64).for_each(propose);
    let mut run = |until: Instant| {
        let mut writes = 0;
        while Instant::now() < until {
            nodes.iter_mut().for_each(|node| node.work(&clock));
            let done = std::mem::take(&mut *answered.0.lock().expect("one thread"));
            writes += done.len() as u64;
            done.into_iter().for_each(propose);
        }
        writes
    };
    run(Instant::now() + plan.seconds / 5);
    let mark = Mark::now();
    let writes = run(Instant::now() + plan.seconds);
    drive::rates(writes, mark.elapsed())
}
