//! Where the answer to a message from outside goes.

use std::net::IpAddr;

use punch_connect::Path;
use punch_packet::PeerHandle;

/// Where a message came from, and which of this machine's addresses it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) path: Path,
    pub(crate) local: Option<IpAddr>,
    /// The peer that alone is let in there, if it came over a link: a relay's, or a TCP connection.
    pub(crate) owner: Option<PeerHandle>,
}

impl ReplyTo {
    /// Where a peer's path leads.
    pub(crate) fn path(path: Path) -> Self {
        Self {
            path,
            local: None,
            owner: None,
        }
    }

    /// Where a datagram came from.
    pub(crate) fn datagram(path: Path, local: Option<IpAddr>) -> Self {
        Self {
            local,
            ..Self::path(path)
        }
    }

    /// Where a message came from over a link of this peer's.
    pub(crate) fn link(path: Path, owner: PeerHandle) -> Self {
        Self {
            owner: Some(owner),
            ..Self::path(path)
        }
    }

    /// Whether this peer is let in there.
    pub(crate) fn lets_in(&self, peer: Option<PeerHandle>) -> bool {
        self.owner.is_none() || self.owner == peer
    }
}
