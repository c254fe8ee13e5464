//! What a state is made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{
    ForwardKey, Ipv4Range, MEETING_PORT, PeerId, PeerKey, PeerName, Protocol, ServerAddress, Target,
};

/// The most servers, those of punchd.toml included.
pub const MAX_SERVERS: usize = 16;
/// The most forwards there may be.
pub const MAX_FORWARDS: usize = 4096;

/// All that users have configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The peers, by their local names.
    pub peers: BTreeMap<PeerName, Peer>,
    /// The forwards, in the order of their keys; no two share a port.
    pub forwards: Vec<Forward>,
    /// The servers that users have added, beside those of punchd.toml.
    pub servers: Vec<ServerAddress>,
    /// Whether a user has refused the public DHT and STUN servers, so that nobody is asked again.
    pub refuses_public: bool,
}

/// A peer, and what the user wants of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What the peer is known by.
    pub key: PeerKey,
    /// Whether the user wants a connection.
    pub up: bool,
    /// Whether the user has said `punchctl down`: offers of the peer are refused until `up`.
    pub blocked: bool,
    /// Whether the peer may reach this whole machine.
    pub host: bool,
    /// Whether the peer may meet others of whom this is true at this machine, which relays for them.
    pub relay: bool,
    /// Whether packets never go over a relay between this machine and the peer.
    pub direct_only: bool,
}

impl Peer {
    /// A peer that nobody has asked anything of yet.
    pub fn new(key: PeerKey) -> Self {
        Self {
            key,
            up: false,
            blocked: false,
            host: false,
            relay: false,
            direct_only: false,
        }
    }

    /// The identity of a Punch peer.
    pub fn id(&self) -> Option<PeerId> {
        match &self.key {
            PeerKey::Punch { key, .. } => Some(*key),
            PeerKey::Wireguard { .. } => None,
        }
    }

    /// The WireGuard public key; `None` if the text of a plain WireGuard peer is no key.
    pub fn public(&self) -> Option<[u8; 32]> {
        match &self.key {
            PeerKey::Punch { key, .. } => Some(key.x25519()),
            PeerKey::Wireguard { key, .. } => key_bytes(key),
        }
    }

    /// Whether both have the same WireGuard public key, and so are one machine.
    pub fn is_same_machine(&self, other: &Self) -> bool {
        match (&self.key, &other.key) {
            // Without computing the X25519 form: adding a peer compares it with all others.
            (PeerKey::Punch { key, .. }, PeerKey::Punch { key: other, .. }) => {
                key.has_same_x25519(other)
            }
            _ => self.public().is_some() && self.public() == other.public(),
        }
    }

    /// The addresses inside the tunnel, where those of IPv4 are taken from `range`.
    pub fn addresses(&self, range: Option<Ipv4Range>) -> Vec<IpAddr> {
        match &self.key {
            PeerKey::Punch { key, ipv6_only } => range
                .filter(|_| !ipv6_only)
                .map(|range| key.overlay_ipv4(range).into())
                .into_iter()
                .chain([key.overlay_ipv6().into()])
                .collect(),
            PeerKey::Wireguard { address, .. } => vec![*address],
        }
    }
}

/// Ports of this machine that peers may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Protocol and shared ports.
    pub key: ForwardKey,
    /// Where the first of the ports leads.
    pub target: Target,
    /// The peers that may use the forward; all of them when empty.
    pub peers: Vec<PeerName>,
}

/// Whether the port at which peers meet inside the tunnel is among these.
pub(crate) fn is_meeting(key: ForwardKey) -> bool {
    key.protocol == Protocol::Tcp && key.ports.contains(MEETING_PORT)
}

/// This machine, against which changes are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its identity.
    pub id: PeerId,
    /// The range of IPv4 addresses inside the tunnel; `None` when IPv4 is switched off.
    pub ipv4: Option<Ipv4Range>,
    /// The servers in punchd.toml, which users cannot remove.
    pub servers: Vec<ServerAddress>,
}

impl State {
    /// The peers that may meet here now; none of them was told `down`.
    pub fn guests(&self) -> impl Iterator<Item = &PeerName> {
        let peers = self.peers.iter();
        let guests = peers.filter(|(_, peer)| peer.relay && !peer.blocked);
        guests.map(|(name, _)| name)
    }
}

impl Machine {
    /// This machine's own addresses inside the tunnel.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ipv4 = self.ipv4.map(|range| self.id.overlay_ipv4(range).into());
        ipv4.into_iter()
            .chain([self.id.overlay_ipv6().into()])
            .collect()
    }
}

/// The 32 bytes of a key in base64.
pub fn key_bytes(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}
