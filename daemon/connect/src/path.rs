//! What carries a peer's packets, for all who need not know how a path is found.

use std::fmt;
use std::net::SocketAddr;

use punch_traversal::{DirectPath, SocketId};

/// What carries a peer's packets. Whoever needs an address or a socket matches on the kind: not every kind has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Datagrams from a socket of this machine straight to an address of the peer.
    Direct(DirectPath),
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
        }
    }
}
