//! TCP connections with peers: their numbers, and which attempt each belongs to. What is sent over one and when is the attempt's
//! matter (`peer/tcp.rs`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use punch_packet::PeerHandle;

use crate::dials::Dials;
use crate::path::{TcpId, TcpPath};
use crate::seen::Seen;

/// An attempt: the peer, and the attempt's number.
pub(crate) type Owner = (PeerHandle, u64);

/// See the module. An attempt has at most eight, and a peer two attempts and what is left of those before.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: u32,
    owners: BTreeMap<TcpId, Owner>,
    /// How often this machine connects.
    pub(crate) dials: Dials,
    /// As what the port is seen on which they are taken, and from which they are made.
    pub(crate) seen: Seen,
}

impl Connections {
    /// A number that no connection has.
    pub(crate) fn number(&mut self, remote: SocketAddr) -> TcpPath {
        let connection = TcpId(self.next);
        self.next = self.next.wrapping_add(1);
        TcpPath { connection, remote }
    }

    /// The connection is this attempt's.
    pub(crate) fn add(&mut self, connection: TcpId, owner: Owner) {
        self.owners.insert(connection, owner);
    }

    /// The attempt that a connection belongs to.
    pub(crate) fn owner(&self, connection: TcpId) -> Option<Owner> {
        self.owners.get(&connection).copied()
    }

    /// The connection is closed, or about to be; returns whose it was.
    pub(crate) fn remove(&mut self, connection: TcpId) -> Option<Owner> {
        self.owners.remove(&connection)
    }

    /// How many there are, those included that are being made.
    pub(crate) fn count(&self) -> usize {
        self.owners.len()
    }
}
