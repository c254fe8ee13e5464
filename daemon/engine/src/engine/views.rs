//! What the desk may ask the engine.

use std::time::Instant;

use punch_api::ForwardKey;
use punch_connect::{Connector, LinkState, LinkStatus};
use punch_forward::Rules;
use punch_packet::PeerHandle;
use punch_signal_protocol::{Candidate, Ipv4Range};

use super::{Engine, Peer};
use crate::config::PeerKind;
use crate::report::{DropReason, PeerReport};

/// A Punch peer is connected when it has a path *and* keys; a plain WireGuard peer has a path from the start.
pub(super) fn state(connector: &Connector, handle: PeerHandle, peer: &Peer) -> LinkState {
    match &peer.config.kind {
        PeerKind::Punch { .. } => match connector.link_state(handle) {
            LinkState::Connected if !peer.tunnel.is_ready() => LinkState::Connecting,
            state => state,
        },
        PeerKind::Wireguard { .. } if peer.lately_established => LinkState::Connected,
        PeerKind::Wireguard { .. } if peer.config.up => LinkState::Connecting,
        PeerKind::Wireguard { .. } => LinkState::Down,
    }
}

impl Engine {
    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerHandle> {
        self.peers.keys().copied()
    }

    /// All forwards.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How the connection to a peer does.
    pub fn peer_state(&self, handle: PeerHandle) -> Option<LinkState> {
        let peer = self.peers.get(&handle)?;
        Some(state(&self.connector, handle, peer))
    }

    /// What is known of a peer's tunnel.
    pub fn peer_report(&self, handle: PeerHandle) -> Option<PeerReport> {
        let peer = self.peers.get(&handle)?;
        Some(PeerReport {
            path: peer.path,
            established: peer.tunnel.established(),
            last_handshake: peer.tunnel.last_handshake(),
            received: peer.received,
            sent: peer.sent,
        })
    }

    /// What is known of the way to a Punch peer.
    pub fn link_status(&self, handle: PeerHandle, now: Instant) -> Option<LinkStatus> {
        self.connector.link_status(handle, now)
    }

    /// Whether a peer takes its IPv4 address from another range than this machine, as its offer or answer said.
    pub fn ipv4_differs(&self, handle: PeerHandle) -> bool {
        self.connector
            .peer_range(handle)
            .is_some_and(|range| range != self.ipv4_range)
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.connector.candidates()
    }

    /// STUN servers that answer, and what they see.
    pub fn reflexive(&self) -> Vec<(std::net::SocketAddr, std::net::SocketAddr)> {
        self.connector.reflexive()
    }

    /// The range of this machine's overlay IPv4 address.
    pub fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.ipv4_range
    }

    /// Streams of a forward: open now, and in all.
    pub fn forward_counts(&self, forward: ForwardKey) -> (u64, u64) {
        self.stack.counts(forward)
    }

    /// How many packets, datagrams and envelopes were not let through.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let envelopes = self.connector.dropped_envelopes();
        DropReason::ALL
            .into_iter()
            .map(|reason| {
                let count = match reason {
                    DropReason::Stranger => envelopes.strangers,
                    DropReason::BadEnvelope => envelopes.unusable,
                    packets => self.drops.get(packets),
                };
                (reason, count)
            })
            .collect()
    }
}
