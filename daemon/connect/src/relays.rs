//! Which peer's attempt a relay link belongs to.

use std::collections::BTreeMap;

use punch_packet::PeerHandle;
use punch_signal_protocol::RelayToken;

use crate::ServerId;
use crate::path::RelayPath;

/// See the module. Both tables are as long as there are attempts, of which a peer has two.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    joined: BTreeMap<RelayToken, PeerHandle>,
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
    }

    /// The tokens of all attempts.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = RelayToken> {
        self.joined.keys().copied()
    }

    /// The peer whose attempt has joined with this token.
    pub(crate) fn by_token(&self, token: RelayToken) -> Option<PeerHandle> {
        self.joined.get(&token).copied()
    }

    /// A link of this peer's stands.
    pub(crate) fn add(&mut self, path: RelayPath, peer: PeerHandle) {
        self.links.insert(path, peer);
    }

    /// A link is gone; returns whose it was.
    pub(crate) fn remove(&mut self, path: RelayPath) -> Option<PeerHandle> {
        self.links.remove(&path)
    }

    /// All links over a server are gone; returns whose they were.
    pub(crate) fn remove_server(&mut self, server: ServerId) -> Vec<(RelayPath, PeerHandle)> {
        let of = self.links.extract_if(.., |path, _| path.server == server);
        of.collect()
    }

    /// How many tokens and links are known.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.joined.len(), self.links.len())
    }
}
