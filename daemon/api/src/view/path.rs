//! Paths.

use std::fmt;
use std::net::SocketAddr;

use punch_signal_protocol::CandidateKind;
use serde::{Deserialize, Serialize};

use super::channel::MetView;
use crate::open_enum::OpenEnum;

/// The path that packets to a peer take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer's underlay address, or that of the server that relays.
    pub remote: SocketAddr,
    /// How the address was found.
    pub kind: OpenEnum<PathKind>,
    /// The smoothed round-trip time of the connectivity checks.
    pub rtt_ms: Option<f64>,
    /// The signalling server that relays, or the name of the peer that does; `None` on a direct path.
    pub via: Option<String>,
    /// The prefix of the translator (NAT64) through which this machine reaches the remote IPv4 address, such as `64:ff9b::/96`.
    pub nat64: Option<String>,
    /// The longest packet inside the tunnel that fits on the path, in bytes, as far as it was found out; IPv6 packets of 1,280 bytes pass
    /// always.
    pub mtu: Option<u16>,
    /// How many of the latest connectivity checks on the path were not answered; `None` while there were too few, and where there are
    /// none: over TCP, which loses nothing, and with a plain WireGuard peer.
    pub loss: Option<LossView>,
    /// When packets began to take this path, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Why they take it, and no longer the one before.
    pub reason: Option<OpenEnum<PathReason>>,
    /// The reason as a clause for people.
    pub because: Option<String>,
    /// Over which channel the two machines have met, in the exchange that has brought the path; `None` with a plain WireGuard peer, and where an
    /// earlier process has made it.
    #[serde(default)]
    pub met_over: Option<MetView>,
    /// Why it does not lead straight to the peer over UDP, and what would help; `None` where it does.
    pub detour: Option<DetourView>,
}

/// Why packets are relayed, or go over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetourView {
    /// The cause as a clause for people, to stand behind "because".
    pub because: String,
    /// What would help, for people; empty where nothing is known that would.
    pub advice: Vec<String>,
}

/// The loss on a path, as connectivity checks and keepalives show it: of those that were sent while the path was known to answer, how
/// many were not answered. Lost answers count like lost checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossView {
    /// The part that was not answered, from 0 to 1.
    pub fraction: f64,
    /// How many checks that is a part of.
    pub samples: u32,
    /// They were sent within so many seconds.
    pub window_s: u64,
}

/// Why packets of a peer take another path than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathReason {
    /// The path is the first one of the connection.
    First,
    /// The path leads straight to the peer, or over UDP, as the one before did not.
    Promoted,
    /// The path is better than the one before: faster, or of a better kind.
    Better,
    /// The peer has chosen it among those that answer.
    ChosenByPeer,
    /// The path before does not answer any more.
    Silent,
    /// The path had not answered for a moment, and answers again.
    Recovered,
    /// The relay before was lost.
    RelayLost,
    /// The TCP connection before has ended.
    Closed,
    /// Relays may not be used for the peer any more.
    RelayForbidden,
    /// This machine is in another network, or has slept.
    NetworkChanged,
    /// The peer is at another address.
    PeerMoved,
    /// This machine or the peer has called anew: it has restarted, for instance.
    Renewed,
    /// punchd was restarted, and goes on with the path.
    TakenOver,
    /// The configuration says that a plain WireGuard peer is there.
    Configured,
}

/// How a path's remote address was found (RFC 8445 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// The peer's own address.
    Host,
    /// The address that a STUN server saw.
    ServerReflexive,
    /// The address that a connectivity check came from.
    PeerReflexive,
    /// A port that a router maps to the peer, at the request of the peer.
    PortMapped,
    /// The fixed endpoint of a plain WireGuard peer.
    Fixed,
    /// None: packets go through a signalling server.
    Relayed,
    /// The path is a TCP connection, which this machine or the peer has made.
    Tcp,
}

impl From<CandidateKind> for PathKind {
    fn from(kind: CandidateKind) -> Self {
        match kind {
            CandidateKind::Host => Self::Host,
            CandidateKind::ServerReflexive => Self::ServerReflexive,
            CandidateKind::PeerReflexive => Self::PeerReflexive,
            CandidateKind::PortMapped => Self::PortMapped,
            CandidateKind::TcpPassive | CandidateKind::TcpSimultaneous => Self::Tcp,
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PathKind {
    /// The name in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "server_reflexive",
            Self::PeerReflexive => "peer_reflexive",
            Self::PortMapped => "port_mapped",
            Self::Fixed => "fixed",
            Self::Relayed => "relayed",
            Self::Tcp => "tcp",
        }
    }
}
