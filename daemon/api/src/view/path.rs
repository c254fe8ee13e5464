//! Paths.

use std::fmt;
use std::net::SocketAddr;

use punch_signal_protocol::CandidateKind;
use serde::{Deserialize, Serialize};

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
    /// The signalling server that relays; `None` on a direct path.
    pub via: Option<String>,
    /// The prefix of the translator (NAT64) through which this machine reaches the remote IPv4 address, such as `64:ff9b::/96`.
    pub nat64: Option<String>,
    /// The longest packet inside the tunnel that fits on the path, in bytes, as far as it was found out; IPv6 packets of 1,280 bytes pass
    /// always.
    pub mtu: Option<u16>,
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
            CandidateKind::TcpPassive => Self::Tcp,
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
