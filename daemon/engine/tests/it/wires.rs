//! TCP connections between the hosts of a world.

use std::collections::BTreeMap;

use punch_engine::{TcpId, TcpPath};

/// One end: the host, and what it calls the connection.
type End = (usize, TcpPath);

/// See the module.
#[derive(Default)]
pub(crate) struct Wires {
    /// Whether hosts take connections.
    pub(crate) open: bool,
    /// Whether everything on all connections is lost, in silence.
    pub(crate) cut: bool,
    /// How many were made.
    pub(crate) made: usize,
    /// From each end to the other host, and what that calls the connection once it has taken it.
    ends: BTreeMap<End, (usize, Option<TcpPath>)>,
}

impl Wires {
    /// A host connects to another one.
    pub(crate) fn dial(&mut self, from: End, to: usize) {
        self.made += 1;
        self.ends.insert(from, (to, None));
    }

    /// The other end of a connection.
    pub(crate) fn other(&self, end: End) -> Option<(usize, Option<TcpPath>)> {
        self.ends.get(&end).copied().filter(|_| !self.cut)
    }

    /// The other end has taken the connection.
    pub(crate) fn join(&mut self, one: End, other: End) {
        self.ends.insert(one, (other.0, Some(other.1)));
        self.ends.insert(other, (one.0, Some(one.1)));
    }

    /// A host closes a connection; returns the other end, if there is one that has taken it.
    pub(crate) fn close(&mut self, host: usize, connection: TcpId) -> Option<End> {
        let is_it = |end: &&End| end.0 == host && end.1.connection == connection;
        let end = *self.ends.keys().find(is_it)?;
        let (to, path) = self.ends.remove(&end)?;
        let other = (to, path?);
        self.ends.remove(&other);
        Some(other)
    }
}
