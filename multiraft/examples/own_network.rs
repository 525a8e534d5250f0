//! An own network: three nodes of this process find each other over TCP and count together. It shows what a
//! `RaftNetwork` owes, no more: frames arrive whole, unchanged and in order, or not at all, and `send` never waits.
//! Nobody is authenticated and nothing is encrypted: a real network proves who is at the other end.
//!
//! Run it: `cargo run -p multiraft --example own_network`

use bytes::Bytes;
use multiraft::host::{Failure, Host, Intake, Raft, WorkerParts};
use multiraft::limits::FRAME_BYTES_MAX;
use multiraft::testing::{MemDisk, SyncMode, Tally};
use multiraft::{
    Birth, Control, EntryId, Frame, GroupId, InboxLimits, Lane, Membership, NodeId, Outgoing, RaftNetwork,
    ReplicaId, RoleKind, WorkerOptions,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

const GROUP: GroupId = GroupId(1);
const NODES: u64 = 3;

/// Frames that wait for one peer; more are dropped, and Raft sends again what mattered.
const QUEUE_FRAMES_MAX: usize = 256;

/// Takes a frame and the node it came from. False: the sender speaks another language.
type Receive = Arc<dyn Fn(NodeId, Bytes) -> bool + Send + Sync>;

/// Hears that frames of entries to this node were lost.
type Lost = Arc<dyn Fn(NodeId) + Send + Sync>;

/// One node's ways to the others: a queue and a thread each. Both lanes share the queue, so control frames stand
/// behind entries; a network for production gives them a stream of their own.
struct TcpLinks {
    queues: BTreeMap<NodeId, SyncSender<Frame>>,
    lost: Lost,
}

impl TcpLinks {
    fn new(node: NodeId, peers: &BTreeMap<NodeId, SocketAddr>, lost: Lost) -> TcpLinks {
        let queue = |(peer, address): (&NodeId, &SocketAddr)| {
            let (sender, frames) = sync_channel(QUEUE_FRAMES_MAX);
            let address = *address;
            thread::spawn(move || send_all(node, address, &frames));
            (*peer, sender)
        };
        let others = peers.iter().filter(|(peer, _)| **peer != node);
        TcpLinks {
            queues: others.map(queue).collect(),
            lost,
        }
    }
}

impl RaftNetwork for TcpLinks {
    fn send(&self, outgoing: Outgoing) {
        let Some(queue) = self.queues.get(&outgoing.to) else {
            return; // nobody of that name: the frame vanishes, as the contract allows
        };
        if queue.try_send(outgoing.frame).is_err() && outgoing.lane == Lane::Entries {
            (self.lost)(outgoing.to); // the leader then asks before it sends more
        }
    }
}

/// Sends what is queued, until the node is gone. A frame that meets a broken connection is lost; the next one dials.
fn send_all(node: NodeId, peer: SocketAddr, frames: &Receiver<Frame>) {
    let mut link = None;
    for frame in frames {
        let open = link.take().map_or_else(|| dial(node, peer), Ok);
        link = open
            .and_then(|mut stream| send_one(&mut stream, &frame).map(|()| stream))
            .ok();
    }
}

/// A connection begins with the caller's number.
fn dial(node: NodeId, peer: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(peer)?;
    stream.set_nodelay(true)?;
    stream.write_all(&node.0.to_le_bytes())?;
    Ok(stream)
}

/// A frame is its length and its bytes.
fn send_one(stream: &mut TcpStream, frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.len()).expect("frames are bounded");
    stream.write_all(&length.to_le_bytes())?;
    frame.chunks.iter().try_for_each(|chunk| stream.write_all(chunk))
}

/// Accepts connections for as long as the process lives, a thread for each.
fn listen(listener: TcpListener, receive: Receive) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let receive = Arc::clone(&receive);
            thread::spawn(move || receive_all(stream, &receive));
        }
    });
}

/// Reads frames until the connection breaks, or says what no node of this build says.
fn receive_all(mut stream: TcpStream, receive: &Receive) -> io::Result<()> {
    let from = NodeId(u64::from_le_bytes(read_array(&mut stream)?));
    loop {
        let length = u32::from_le_bytes(read_array(&mut stream)?) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into()); // before anything is allocated for it
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame)?;
        if !receive(from, Bytes::from(frame)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn read_array<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Each node's listener, bound before anybody dials, and where the others find it.
fn listeners() -> io::Result<(Vec<TcpListener>, BTreeMap<NodeId, SocketAddr>)> {
    let listeners: Vec<TcpListener> = (0..NODES)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<io::Result<_>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    let addresses = (1..).map(NodeId).zip(addresses);
    let addresses = addresses
        .map(|(node, address)| Ok((node, address?)))
        .collect::<io::Result<_>>()?;
    Ok((listeners, addresses))
}

/// One node: an intake that the listener fills, and a host whose worker sends by the links.
fn start(node: NodeId, listener: TcpListener, peers: &BTreeMap<NodeId, SocketAddr>) -> Host {
    let intake = Intake::new(1, InboxLimits::default());
    let way_in = intake.clone();
    let lost: Lost = Arc::new(move |peer| way_in.unreachable(peer));
    let links = Arc::new(TcpLinks::new(node, peers, lost));
    let way_in = intake.clone();
    listen(
        listener,
        Arc::new(move |from, frame| way_in.deliver(from, &frame).is_ok()),
    );
    let disk = MemDisk::new(SyncMode::AtOnce);
    disk.start(vec![intake.sink(0, links.clone())]);
    intake.order(Control::Create(Birth {
        group: GROUP,
        replica: ReplicaId(node.0),
        membership: Membership::of_voters((1..=NODES).map(|node| (ReplicaId(node), NodeId(node)))),
        base: EntryId::ZERO,
        split: None,
        descriptor: Bytes::new(),
    }));
    let parts = WorkerParts {
        storage: disk.storage(0),
        machine: Tally::new(disk.clone()),
        restored: disk.restore(),
    };
    let options = WorkerOptions {
        seed: node.0,
        ..WorkerOptions::default()
    };
    Host::start(intake, links, vec![parts], &options, Arc::new(()))
}

/// Writes through whoever leads, until the write is answered.
async fn count(rafts: &[Raft]) -> Result<u64, Failure> {
    rafts[0].campaign();
    let mut metrics = rafts[0].metrics();
    let leads = metrics.wait_for(|status| {
        status
            .as_ref()
            .is_some_and(|status| status.role == RoleKind::Leader)
    });
    leads.await.expect("the host runs");
    for _ in 0..42 {
        rafts[0].write(Tally::add(1)).await?;
    }
    Ok(Tally::number(&rafts[0].read(Bytes::new()).await?))
}

fn run() -> u64 {
    let (listeners, peers) = listeners().expect("this machine has a loopback interface");
    let nodes = (1..).map(NodeId).zip(listeners);
    let hosts: Vec<Host> = nodes
        .map(|(node, listener)| start(node, listener, &peers))
        .collect();
    let rafts: Vec<Raft> = hosts.iter().map(|host| host.raft(GROUP)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let sum = runtime.block_on(count(&rafts)).expect("a quorum is up");
    hosts.into_iter().for_each(Host::stop);
    sum
}

fn main() {
    println!("three nodes counted to {} over TCP", run());
}

#[cfg(test)]
mod tests {
    //! The example as a program, and its network in the suite that every network must pass.

    use super::*;
    use multiraft::bulk::BulkSink;
    use multiraft::testing::{NetworkHarness, network_suite};
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    /// How long nothing may come before the suite takes a link for silent.
    const SILENCE: Duration = Duration::from_secs(2);

    struct Pair {
        ends: Vec<TcpLinks>,
        arrived: Vec<Receiver<(NodeId, Bytes)>>,
    }

    fn pair() -> Pair {
        let (listeners, peers) = listeners().unwrap();
        let (senders, arrived): (Vec<Sender<_>>, Vec<_>) = (0..NODES).map(|_| channel()).unzip();
        for (listener, sender) in listeners.into_iter().zip(senders) {
            listen(
                listener,
                Arc::new(move |from, frame| sender.send((from, frame)).is_ok()),
            );
        }
        let end = |node| TcpLinks::new(NodeId(node), &peers, Arc::new(|_| {}));
        Pair {
            ends: vec![end(1), end(2)],
            arrived,
        }
    }

    impl NetworkHarness for Pair {
        type Network = TcpLinks;

        fn ends(&self) -> [(NodeId, &TcpLinks); 2] {
            [(NodeId(1), &self.ends[0]), (NodeId(2), &self.ends[1])]
        }

        fn receive(&mut self, node: NodeId) -> Option<(NodeId, Bytes)> {
            let place = usize::try_from(node.0 - 1).unwrap();
            self.arrived[place].recv_timeout(SILENCE).ok()
        }

        fn take_bulk(&mut self, _node: NodeId, _sink: Arc<dyn BulkSink>) {
            unreachable!("this network has no bulk streams, and the suite of frames asks for none");
        }
    }

    #[test]
    fn three_nodes_count_to_42_over_tcp() {
        assert_eq!(run(), 42);
    }

    #[test]
    fn the_network_keeps_the_contract() {
        network_suite(pair);
    }

    #[test]
    fn a_frame_longer_than_any_ends_the_connection() {
        let (mut listeners, peers) = listeners().unwrap();
        listen(
            listeners.remove(0),
            Arc::new(|_, _| panic!("nothing of it is delivered")),
        );
        let mut stream = dial(NodeId(2), peers[&NodeId(1)]).unwrap();
        stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the other end closes");
    }
}
