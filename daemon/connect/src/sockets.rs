//! Sockets beside the two main ones: their numbers, and which attempt each was opened for.

use std::collections::HashMap;

use punch_packet::PeerHandle;
use punch_traversal::SocketId;

/// Sockets that are opened for a purpose are numbered from here on; the main ones are 0 and 1.
const FIRST_SOCKET: u32 = 16;

/// Gives sockets their numbers, and knows those of attempts.
#[derive(Debug)]
pub(crate) struct Sockets {
    next: u32,
    owners: HashMap<SocketId, (PeerHandle, u64)>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            next: FIRST_SOCKET,
            owners: HashMap::new(),
        }
    }
}

impl Sockets {
    /// A number that no socket has.
    pub(crate) fn number(&mut self) -> SocketId {
        let id = SocketId(self.next);
        self.next = self.next.wrapping_add(1).max(FIRST_SOCKET);
        id
    }

    /// A number for a socket of this attempt with the peer.
    pub(crate) fn number_for(&mut self, peer: PeerHandle, attempt: u64) -> SocketId {
        let id = self.number();
        self.owners.insert(id, (peer, attempt));
        id
    }

    /// The attempt that the socket was opened for.
    pub(crate) fn owner(&self, socket: SocketId) -> Option<(PeerHandle, u64)> {
        self.owners.get(&socket).copied()
    }

    /// How many there are for attempts.
    pub(crate) fn count(&self) -> usize {
        self.owners.len()
    }

    /// The socket is closed, or was never opened.
    pub(crate) fn forget(&mut self, socket: SocketId) {
        self.owners.remove(&socket);
    }
}
