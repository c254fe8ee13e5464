//! How much has gone through a tunnel, and which kind of path it has come in over: what says that one path works says nothing of another.

use punch_traversal::Traffic;

use crate::path::Path;

/// Bytes inside the tunnel with one peer, as they have added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerTraffic {
    /// Bytes that have left, over whatever path.
    pub sent: u64,
    direct: u64,
    relayed: u64,
    tcp: u64,
}

impl PeerTraffic {
    /// So many bytes have come in over this path.
    pub fn receive(&mut self, path: Path, bytes: u64) {
        let over = match path {
            Path::Direct(_) => &mut self.direct,
            Path::Relayed(_) => &mut self.relayed,
            Path::Tcp(_) => &mut self.tcp,
        };
        *over += bytes;
    }

    /// Bytes that have come in.
    pub fn received(&self) -> u64 {
        self.direct + self.relayed + self.tcp
    }

    fn of(&self, received: u64) -> Traffic {
        let sent = self.sent;
        Traffic { sent, received }
    }

    /// What a direct path over UDP sees.
    pub(crate) fn over_udp(&self) -> Traffic {
        self.of(self.direct)
    }

    /// What a relay link sees.
    pub(crate) fn over_relay(&self) -> Traffic {
        self.of(self.relayed)
    }

    /// What a TCP connection sees.
    pub(crate) fn over_tcp(&self) -> Traffic {
        self.of(self.tcp)
    }

    /// Bytes that have come in over what serves only where no direct path over UDP does.
    pub(crate) fn received_over_links(&self) -> u64 {
        self.relayed + self.tcp
    }
}
