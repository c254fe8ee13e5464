//! The peers' relay links: which attempt each belongs to, and what attempts want of servers.

use std::collections::{BTreeMap, BTreeSet};

use punch_packet::PeerHandle;
use punch_signal_protocol::RelayToken;

use crate::ServerId;
use crate::path::RelayPath;

/// What attempts want done about relay links.
#[derive(Debug, Default)]
pub(crate) struct RelayOrders {
    /// Servers are to be asked for links with these, but for those named with each.
    pub(crate) joins: Vec<(RelayToken, Vec<ServerId>)>,
    /// These are no longer used.
    pub(crate) ended: Vec<RelayToken>,
    /// Servers are to be told that these are no longer needed.
    pub(crate) leaves: Vec<RelayPath>,
}

/// See the module. The tables are as long as there are attempts, of which a peer has two, times servers.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    joined: BTreeMap<RelayToken, PeerHandle>,
    /// The servers that were asked for a link with a token and have not made it.
    asked: BTreeSet<(ServerId, RelayToken)>,
    links: BTreeMap<RelayPath, PeerHandle>,
}

impl Relays {
    /// An attempt with this peer has joined with this token.
    pub(crate) fn join(&mut self, token: RelayToken, peer: PeerHandle) {
        self.joined.insert(token, peer);
    }

    /// The attempt with this token is over.
    pub(crate) fn end(&mut self, token: RelayToken) {
        self.joined.remove(&token);
        self.asked.retain(|(_, other)| *other != token);
    }

    /// A server is asked for a link.
    pub(crate) fn ask(&mut self, server: ServerId, token: RelayToken) {
        self.asked.insert((server, token));
    }

    /// A server says that it has made a link: the peer whose attempt it is for, if the server was asked for one.
    pub(crate) fn answer(&mut self, server: ServerId, token: RelayToken) -> Option<PeerHandle> {
        let was_asked = self.asked.remove(&(server, token));
        self.joined.get(&token).copied().filter(|_| was_asked)
    }

    /// The peer that a link leads to.
    pub(crate) fn owner(&self, path: RelayPath) -> Option<PeerHandle> {
        self.links.get(&path).copied()
    }

    /// Whether a link stands, or is about to be left.
    pub(crate) fn has(&self, path: RelayPath) -> bool {
        self.links.contains_key(&path)
    }

    /// The tokens of all attempts, but for those with this peer.
    pub(crate) fn tokens(&self, but: Option<PeerHandle>) -> impl Iterator<Item = RelayToken> {
        let joined = self.joined.iter();
        let others = joined.filter(move |(_, peer)| Some(**peer) != but);
        others.map(|(token, _)| *token)
    }

    /// A link of this peer's stands.
    pub(crate) fn add(&mut self, path: RelayPath, peer: PeerHandle) {
        self.links.insert(path, peer);
    }

    /// A link is gone; returns whose it was.
    pub(crate) fn remove(&mut self, path: RelayPath) -> Option<PeerHandle> {
        self.links.remove(&path)
    }

    /// All links over a server are gone.
    pub(crate) fn remove_server(&mut self, server: ServerId) {
        self.links.retain(|path, _| path.server != server);
        self.asked.retain(|(other, _)| *other != server);
    }

    /// How many tokens and links are known.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.joined.len(), self.links.len())
    }
}
