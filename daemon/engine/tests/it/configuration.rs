//! What a host's user has configured, and the changes that tell an engine about it.

use std::net::SocketAddr;

use punch_engine::{Change, PeerConfig, PeerHandle, Rules};

/// All that is configured.
#[derive(Clone, Default)]
pub(crate) struct Configuration {
    pub(crate) peers: Vec<PeerConfig>,
    pub(crate) rules: Rules,
    pub(crate) stun_servers: Vec<SocketAddr>,
}

impl Configuration {
    /// The change that brings an engine which knows `before` to this configuration. What is the same is named once more, which
    /// must do nothing.
    pub(crate) fn since(&self, before: &Self) -> Change {
        let is_here = |handle: PeerHandle| self.peers.iter().any(|peer| peer.handle == handle);
        Change {
            peers: self.peers.clone(),
            gone: before
                .peers
                .iter()
                .map(|peer| peer.handle)
                .filter(|handle| !is_here(*handle))
                .collect(),
            rules: Some(self.rules.clone()),
            stun_servers: Some(self.stun_servers.clone()),
        }
    }
}
