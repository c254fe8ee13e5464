//! What carries a peer's packets, for all who need not know how a path is found.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

use punch_signal_protocol::RelayLink;
use punch_traversal::{DirectPath, SocketId};

/// A signalling server's number, given by the one who holds the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// What carries a peer's packets. Whoever needs an address or a socket matches on the kind: not every kind has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Datagrams from a socket of this machine straight to an address of the peer.
    Direct(DirectPath),
    /// Packets go through a signalling server, which passes them on to the peer.
    Relayed(RelayPath),
    /// Packets go over a TCP connection straight to the peer.
    Tcp(TcpPath),
}

/// A TCP connection of this machine's, made or taken for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpId(pub u32);

/// A TCP connection to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpPath {
    /// The connection's number.
    pub connection: TcpId,
    /// The other end's address.
    pub remote: SocketAddr,
}

/// A link of a signalling server's to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayPath {
    /// The server that passes the packets on.
    pub server: ServerId,
    /// This machine's number for the link.
    pub link: RelayLink,
}

impl RelayPath {
    /// An address that stands for the link where one is needed to tell senders apart: of the prefix that is never on the wire
    /// (RFC 6666).
    fn stand_in(&self) -> SocketAddr {
        let bits = 0x0100_u128 << 112 | u128::from(self.server.0) << 64 | u128::from(self.link.0);
        SocketAddr::new(Ipv6Addr::from_bits(bits).into(), 0)
    }
}

impl Path {
    /// The direct path from `socket` to `remote`.
    pub fn direct(socket: SocketId, remote: SocketAddr) -> Self {
        Self::Direct(DirectPath { socket, remote })
    }

    /// The peer's address outside the tunnel, where packets go straight to it.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct(direct) => Some(direct.remote),
            Self::Tcp(tcp) => Some(tcp.remote),
            Self::Relayed(_) => None,
        }
    }

    /// What tells this sender from others: its address, or what stands for its link.
    pub fn origin(&self) -> SocketAddr {
        match self {
            Self::Direct(direct) => direct.remote,
            Self::Tcp(tcp) => tcp.remote,
            Self::Relayed(relayed) => relayed.stand_in(),
        }
    }
}

impl From<DirectPath> for Path {
    fn from(direct: DirectPath) -> Self {
        Self::Direct(direct)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(direct) => direct.fmt(f),
            Self::Tcp(tcp) => write!(f, "{} over TCP", tcp.remote),
            Self::Relayed(RelayPath { server, link }) => {
                write!(f, "link {} of server {}", link.0, server.0)
            }
        }
    }
}
