//! Why connections are refused and closed: the codes on the wire, the reasons that metrics count by, and the words
//! that both sides log. Decides nothing: `accept.rs`, `dial.rs` and `peer.rs` do.
//!
//! A reason reaches the other side in one of two ways: as a TLS alert with the words of the TLS library, while
//! certificates are looked at; afterwards as the application code and the words with which the connection is
//! closed. Here both become the same [`Refusal`].

use crate::hello::HelloError;
use quinn::{ApplicationClose, ConnectionClose, ConnectionError, VarInt};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was closed: the application error code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The node is shutting down.
    Stopping = 0,
    /// Refused for a reason without a code of its own; the words say why.
    Refused = 1,
    /// Both nodes dialed at once, and the other connection is kept.
    Duplicate = 2,
    /// The other side broke the protocol.
    Protocol = 3,
    /// Too many connections.
    Busy = 4,
    /// A link's stream ended without a violation.
    Lost = 5,
    /// The node is no member any more.
    Removed = 6,
    /// Everything moved to a newer connection.
    Replaced = 7,
    /// The bulk stream that the connection was for has ended.
    Done = 8,
    /// The hello names another cluster.
    WrongCluster = 16,
    /// Certificate, hello and configuration do not name the same node.
    WrongNode = 17,
    /// The certificate is not one for nodes.
    NotANode = 18,
    /// The node is not a member known to the other.
    NotAMember = 19,
    /// Another process with the same identity is linked, or was.
    DuplicateNode = 20,
    /// No wire version that both speak.
    Version = 21,
    /// No hello in time.
    Timeout = 22,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> VarInt {
        VarInt::from_u32(code as u32)
    }
}

/// Why a connection was refused, coarse enough to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The certificate was issued by a CA that is not trusted there.
    WrongCa,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// No certificate at all.
    NoCertificate,
    /// The certificate is not one for nodes.
    NotANode,
    /// Another cluster.
    WrongCluster,
    /// Certificate, hello and configuration do not name the same node.
    WrongNode,
    /// The node is not a member known to the other.
    NotAMember,
    /// Two processes with one identity, or an older one after a newer.
    DuplicateNode,
    /// No wire version that both speak.
    Version,
    /// Not our protocol, or not well spoken.
    Protocol,
    /// No room.
    Busy,
    /// No handshake and hello in time.
    Timeout,
    /// Anything else.
    Other,
}

impl Refusal {
    /// All of them, in the order of the counters.
    pub const ALL: [Refusal; 14] = [
        Refusal::WrongCa,
        Refusal::Expired,
        Refusal::NotYetValid,
        Refusal::NoCertificate,
        Refusal::NotANode,
        Refusal::WrongCluster,
        Refusal::WrongNode,
        Refusal::NotAMember,
        Refusal::DuplicateNode,
        Refusal::Version,
        Refusal::Protocol,
        Refusal::Busy,
        Refusal::Timeout,
        Refusal::Other,
    ];

    /// The word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::WrongCa => "wrong_ca",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::NoCertificate => "no_certificate",
            Refusal::NotANode => "not_a_node",
            Refusal::WrongCluster => "wrong_cluster",
            Refusal::WrongNode => "wrong_node",
            Refusal::NotAMember => "not_a_member",
            Refusal::DuplicateNode => "duplicate_node",
            Refusal::Version => "version",
            Refusal::Protocol => "protocol",
            Refusal::Busy => "busy",
            Refusal::Timeout => "timeout",
            Refusal::Other => "other",
        }
    }

    /// The code that tells the other side.
    pub(crate) fn code(self) -> Code {
        match self {
            Refusal::WrongCluster => Code::WrongCluster,
            Refusal::WrongNode => Code::WrongNode,
            Refusal::NotANode => Code::NotANode,
            Refusal::NotAMember => Code::NotAMember,
            Refusal::DuplicateNode => Code::DuplicateNode,
            Refusal::Version => Code::Version,
            Refusal::Protocol => Code::Protocol,
            Refusal::Busy => Code::Busy,
            Refusal::Timeout => Code::Timeout,
            _ => Code::Refused,
        }
    }

    /// What an application code of the other side means; None: it refused nothing.
    fn of_code(code: u64) -> Option<Refusal> {
        if code == Code::Refused as u64 {
            return Some(Refusal::Other);
        }
        let specific = Refusal::ALL
            .into_iter()
            .filter(|refusal| refusal.code() != Code::Refused);
        let mut specific = specific.filter(|refusal| refusal.code() as u64 == code);
        specific.next()
    }

    /// What a TLS alert means, with the words of whoever raised it: expired and not yet valid share an alert.
    fn of_alert(alert: u64, words: &str) -> Option<Refusal> {
        Some(match alert {
            // A CA of the same name with another key makes a bad signature.
            48 | 51 => Refusal::WrongCa,
            45 if words.contains("not valid yet") => Refusal::NotYetValid,
            45 => Refusal::Expired,
            42 if words.contains("not valid for name") => Refusal::WrongNode,
            43 => Refusal::NotANode,
            116 => Refusal::NoCertificate,
            120 => Refusal::Protocol,
            40..=130 => Refusal::Other,
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which side of a connection refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// This node.
    Us,
    /// Whoever is on the other side.
    OtherSide,
}

/// Counts refusals.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounters {
    here: [AtomicU64; Refusal::ALL.len()],
    there: [AtomicU64; Refusal::ALL.len()],
}

impl RefusalCounters {
    pub(crate) fn count(&self, by: By, refusal: Refusal) {
        let counters = match by {
            By::Us => &self.here,
            By::OtherSide => &self.there,
        };
        counters[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Refusals {
        let read = |counters: &[AtomicU64; Refusal::ALL.len()]| {
            std::array::from_fn(|at| counters[at].load(Ordering::Relaxed))
        };
        Refusals {
            here: read(&self.here),
            there: read(&self.there),
        }
    }
}

/// Connections refused since the start, by who refused and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    here: [u64; Refusal::ALL.len()],
    there: [u64; Refusal::ALL.len()],
}

impl Refusals {
    /// How often this side or the other refused for this reason.
    pub fn count(&self, by: By, refusal: Refusal) -> u64 {
        match by {
            By::Us => self.here[refusal as usize],
            By::OtherSide => self.there[refusal as usize],
        }
    }

    /// All of one side.
    pub fn total(&self, by: By) -> u64 {
        let counts = match by {
            By::Us => &self.here,
            By::OtherSide => &self.there,
        };
        counts.iter().sum()
    }
}

/// Who refused a connection that ended so, and why; None: it ended for another reason.
pub(crate) fn refusal(error: &ConnectionError) -> Option<(By, Refusal)> {
    match error {
        ConnectionError::TransportError(error) => {
            Some((By::Us, of_crypto(error.code.into(), &error.reason)?))
        }
        ConnectionError::ConnectionClosed(ConnectionClose {
            error_code, reason, ..
        }) => {
            let words = String::from_utf8_lossy(reason);
            Some((By::OtherSide, of_crypto((*error_code).into(), &words)?))
        }
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => {
            Some((By::OtherSide, Refusal::of_code(error_code.into_inner())?))
        }
        _ => None,
    }
}

/// QUIC carries TLS alerts as 0x100 + alert. Its own refusal is code 2.
fn of_crypto(code: u64, words: &str) -> Option<Refusal> {
    match code {
        2 => Some(Refusal::Busy),
        0x100..=0x1ff => Refusal::of_alert(code - 0x100, words),
        _ => None,
    }
}

/// A connection error in words an operator can use.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "the peer restarted".to_owned(),
        ConnectionError::TimedOut => "no packets from the peer".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        ConnectionError::TransportError(detail) => {
            of_handshake(error, "the other side's certificate", &detail.reason)
        }
        ConnectionError::ConnectionClosed(detail) => {
            let words = String::from_utf8_lossy(&detail.reason);
            of_handshake(error, "this node's certificate", &words)
        }
        other => other.to_string(),
    }
}

/// `whose` certificate is the matter depends on who noticed.
fn of_handshake(error: &ConnectionError, whose: &str, words: &str) -> String {
    let Some((by, refusal)) = refusal(error) else {
        return error.to_string();
    };
    let by = match by {
        By::Us => "refused here",
        By::OtherSide => "refused by the other side",
    };
    let what = match refusal {
        Refusal::WrongCa => format!("{whose} was issued by another CA"),
        Refusal::Expired => format!("{whose} has expired"),
        Refusal::NotYetValid => format!("{whose} is not valid yet"),
        Refusal::NoCertificate => "no certificate was shown".to_owned(),
        Refusal::NotANode => format!("{whose} was not made for this use"),
        Refusal::WrongNode => format!("{whose} names another node"),
        Refusal::Protocol => "no protocol in common".to_owned(),
        Refusal::Busy => "too many connections".to_owned(),
        _ => "the handshake failed".to_owned(),
    };
    format!("{by}: {what} ({words})")
}

/// The reason behind a greeting that failed here.
pub(crate) fn refusal_of_hello(error: &HelloError) -> Refusal {
    match error {
        HelloError::WrongCluster(..) => Refusal::WrongCluster,
        HelloError::WrongNode(..) | HelloError::WrongReceiver(..) => Refusal::WrongNode,
        HelloError::WireVersion(..) => Refusal::Version,
        error if error.is_violation() => Refusal::Protocol,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_at_their_own_reason() {
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, at);
        }
        let counters = RefusalCounters::default();
        counters.count(By::Us, Refusal::Expired);
        counters.count(By::OtherSide, Refusal::Other);
        let read = counters.read();
        assert_eq!(read.count(By::Us, Refusal::Expired), 1);
        assert_eq!(read.count(By::OtherSide, Refusal::Expired), 0);
        assert_eq!((read.total(By::Us), read.total(By::OtherSide)), (1, 1));
    }

    #[test]
    fn every_code_of_a_refusal_is_understood_and_no_other() {
        for refusal in Refusal::ALL {
            let expected = match refusal.code() {
                Code::Refused => Refusal::Other,
                _ => refusal,
            };
            assert_eq!(Refusal::of_code(refusal.code() as u64), Some(expected));
        }
        for code in [
            Code::Stopping,
            Code::Duplicate,
            Code::Lost,
            Code::Removed,
            Code::Replaced,
        ] {
            assert_eq!(Refusal::of_code(code as u64), None, "{code:?}");
        }
    }

    #[test]
    fn alerts_become_reasons() {
        assert_eq!(
            Refusal::of_alert(45, "certificate expired"),
            Some(Refusal::Expired)
        );
        let words = "invalid peer certificate: certificate not valid yet: verification time";
        assert_eq!(Refusal::of_alert(45, words), Some(Refusal::NotYetValid));
        assert_eq!(Refusal::of_alert(48, ""), Some(Refusal::WrongCa));
        assert_eq!(Refusal::of_alert(80, ""), Some(Refusal::Other));
        assert_eq!(of_crypto(0x1, ""), None, "an internal error is no refusal");
    }
}
