//! Which peer's attempt a relay link belongs to.

use std::collections::{BTreeMap, BTreeSet};

use punch_packet::PeerHandle;
use punch_signal_protocol::RelayToken;

use crate::ServerId;
use crate::path::RelayPath;

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

    /// A server says that it has made a link: the peer whose attempt it is for, if the server was asked for one and has given it a new
    /// number.
    pub(crate) fn answer(&mut self, token: RelayToken, path: RelayPath) -> Option<PeerHandle> {
        if self.links.contains_key(&path) || !self.asked.remove(&(path.server, token)) {
            return None;
        }
        self.joined.get(&token).copied()
    }

    /// Whether a link stands, or is about to be left.
    pub(crate) fn has(&self, path: RelayPath) -> bool {
        self.links.contains_key(&path)
    }

    /// The tokens of all attempts.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = RelayToken> {
        self.joined.keys().copied()
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
