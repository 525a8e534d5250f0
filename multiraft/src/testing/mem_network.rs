//! A network in memory: frames go straight to whoever listens on the receiving node. Links can be cut.

use crate::network::{Outgoing, RaftNetwork};
use crate::types::NodeId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};

/// Takes frames that arrive at a node. Must not block.
pub type Receive = Arc<dyn Fn(NodeId, Bytes) + Send + Sync>;

/// All nodes of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemNetwork {
    receivers: Arc<RwLock<BTreeMap<NodeId, Receive>>>,
    cut: Arc<Mutex<BTreeSet<(NodeId, NodeId)>>>,
}

/// One node's end.
#[derive(Clone, Debug)]
pub struct MemLink {
    node: NodeId,
    network: MemNetwork,
}

impl MemNetwork {
    /// No nodes yet.
    pub fn new() -> MemNetwork {
        MemNetwork::default()
    }

    /// Frames for `node` go to `receive` from now on.
    pub fn listen(&self, node: NodeId, receive: Receive) {
        let mut receivers = self
            .receivers
            .write()
            .expect("nothing panics while it holds the receivers");
        receivers.insert(node, receive);
    }

    /// Nobody listens on `node` any more.
    pub fn leave(&self, node: NodeId) {
        let mut receivers = self
            .receivers
            .write()
            .expect("nothing panics while it holds the receivers");
        receivers.remove(&node);
    }

    /// The end that `node` sends with.
    pub fn link(&self, node: NodeId) -> MemLink {
        MemLink {
            node,
            network: self.clone(),
        }
    }

    /// Cuts, or mends, the way from one node to another.
    pub fn set_cut(&self, from: NodeId, to: NodeId, is_cut: bool) {
        let mut cut = self.cut.lock().expect("nothing panics while it holds the cuts");
        match is_cut {
            true => cut.insert((from, to)),
            false => cut.remove(&(from, to)),
        };
    }
}

impl MemLink {
    /// The network it belongs to.
    pub fn network(&self) -> &MemNetwork {
        &self.network
    }
}

impl RaftNetwork for MemLink {
    fn send(&self, outgoing: Outgoing) {
        let way = (self.node, outgoing.to);
        if self
            .network
            .cut
            .lock()
            .expect("nothing panics while it holds the cuts")
            .contains(&way)
        {
            return;
        }
        let receiver = {
            let receivers = self.network.receivers.read();
            receivers
                .expect("nothing panics while it holds the receivers")
                .get(&outgoing.to)
                .cloned()
        };
        if let Some(receive) = receiver {
            receive(self.node, outgoing.frame.to_bytes());
        }
    }
}

impl fmt::Debug for MemNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemNetwork").finish_non_exhaustive()
    }
}
