//! How much the connector's tables hold that others can make grow; threat-model.md, part 5, has their bounds.

use crate::Connector;

/// Entries, each of all peers together unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectorSizes {
    /// Exchanges that live, of the peer that has most.
    pub exchanges: usize,
    /// Checks whose answers are recognized.
    pub transactions: usize,
    /// Sockets beside the two main ones.
    pub sockets: usize,
    /// Frames for the signalling servers that nobody has taken yet.
    pub frames: usize,
    /// Peers and servers whose watches wait for their turn.
    pub watches: usize,
    /// What is said of relay links and waits for its turn.
    pub relay_frames: usize,
    /// Attempts that have asked for relay links.
    pub relay_tokens: usize,
    /// Relay links that stand, or are about to be left.
    pub relay_links: usize,
    /// TCP connections that stand, are being made, or are about to be closed.
    pub tcp_connections: usize,
    /// Addresses that TCP connections were made to lately.
    pub dialled: usize,
}

impl ConnectorSizes {
    /// Those of a connector, now.
    pub fn of(connector: &Connector) -> Self {
        let (frames, watches, relay_frames) = connector.signalling.servers.sizes();
        let (relay_tokens, relay_links) = connector.signalling.relays.sizes();
        Self {
            exchanges: connector.peers.most_exchanges(),
            transactions: connector.peers.transactions.count(),
            sockets: connector.sockets.count(),
            frames,
            watches,
            relay_frames,
            relay_tokens,
            relay_links,
            tcp_connections: connector.connections.count(),
            dialled: connector.connections.dials.count(),
        }
    }
}
