//! What a transport tells about its links. Figures and words only.

use multiraft::NodeId;
use std::fmt;
use std::time::Duration;

/// Where the link to a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The peer has the lower id: it dials.
    Awaited,
    /// We dial for the first time.
    Dialing,
    /// Both sides have said hello.
    Up {
        /// Who dialed.
        dialer: NodeId,
        /// The peer's incarnation.
        incarnation: u64,
    },
    /// The last link or attempt ended; another attempt follows.
    Down {
        /// How.
        reason: String,
    },
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkState::Awaited => write!(f, "awaited"),
            LinkState::Dialing => write!(f, "dialing"),
            LinkState::Up { dialer, incarnation } => {
                write!(
                    f,
                    "up (dialed by node {}, peer's incarnation {incarnation})",
                    dialer.0
                )
            }
            LinkState::Down { reason } => write!(f, "down: {reason}"),
        }
    }
}

/// One lane's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Frames that wait now.
    pub queued_frames: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Frames handed to the connection.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Frames dropped because the queue was full or the frame too long.
    pub dropped: u64,
    /// Frames dropped because no link was up, or lost in the queue with their link.
    pub unlinked: u64,
}

/// The figures of the link to one peer. Counters cover all links to it since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The peer.
    pub peer: NodeId,
    /// Where it is dialed.
    pub address: String,
    /// Where the link stands.
    pub state: LinkState,
    /// Smoothed round trip; zero while down.
    pub rtt: Duration,
    /// UDP payload bytes sent.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets sent and lost.
    pub lost_packets: u64,
    /// Links that came up after the first, renewals not counted.
    pub reconnects: u64,
    /// Links that replaced a living one, for new certificates or because it was old.
    pub renewals: u64,
    /// The wire version agreed on; zero while down.
    pub wire: u16,
    /// The control lane.
    pub control: LaneStats,
    /// The entries lane.
    pub entries: LaneStats,
    /// Calls to the peer without an answer.
    pub calls: usize,
    /// Their bytes.
    pub calls_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let up = LinkState::Up {
            dialer: NodeId(1),
            incarnation: 7,
        };
        assert_eq!(up.to_string(), "up (dialed by node 1, peer's incarnation 7)");
        let down = LinkState::Down {
            reason: "no packets from the peer".to_owned(),
        };
        assert_eq!(down.to_string(), "down: no packets from the peer");
    }
}
