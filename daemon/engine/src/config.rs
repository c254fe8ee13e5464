//! What the controller tells the engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use punch_forward::Rules;
use punch_packet::PeerHandle;
use punch_signal_protocol::{Identity, Ipv4Range, PeerId};
use punch_traversal::{Budget, NatOverrides, StepKind};
use zeroize::Zeroizing;

/// What an engine is made from; fixed for its life.
pub struct EngineConfig {
    /// This machine's identity.
    pub identity: Identity,
    /// The range of overlay IPv4 addresses; `None` switches IPv4 off.
    pub ipv4_range: Option<Ipv4Range>,
    /// The longest packet inside the tunnel, in bytes.
    pub mtu: usize,
    /// Fresh randomness from the operating system.
    pub seed: [u8; 32],
    /// What an attempt at a direct path may ask of the routers.
    pub budget: Budget,
    /// What the administrator says about the NAT.
    pub nat: NatOverrides,
    /// Whether packets may go through signalling servers where no direct path is.
    pub relay: bool,
    /// Whether TCP connections to peers are made where UDP does not pass.
    pub tcp: bool,
}

/// What changes while the engine runs: only what differs from before is named, so that a change costs what it changes.
#[derive(Clone, Default)]
pub struct Change {
    /// Peers that are new, or of which something is different.
    pub peers: Vec<PeerConfig>,
    /// Peers that are no longer there.
    pub gone: Vec<PeerHandle>,
    /// All forwards, if one of them is different.
    pub rules: Option<Rules>,
    /// All STUN servers with their names resolved, if one of them is different.
    pub stun_servers: Option<Vec<SocketAddr>>,
}

/// One peer. Its handle stays the same as long as it is the same peer.
#[derive(Clone)]
pub struct PeerConfig {
    /// The number by which the controller knows it.
    pub handle: PeerHandle,
    /// Whether it is a Punch peer or a plain WireGuard one.
    pub kind: PeerKind,
    /// Whether the user wants a connection.
    pub up: bool,
    /// Whether the user has disconnected the peer: its own offers are refused until `up`.
    pub blocked: bool,
    /// Whether the peer may reach this whole machine.
    pub host: bool,
    /// Whether packets never go over a relay between this machine and the peer.
    pub direct_only: bool,
    /// The newest stamps of offers that were exchanged with it, from before the last restart.
    pub stamps: (u64, u64),
    /// What has worked with it from which network, from before the last restart.
    pub memory: Vec<(u64, StepKind)>,
}

/// A Punch peer or a plain WireGuard one.
#[derive(Clone)]
pub enum PeerKind {
    /// A machine that runs punchd, found by signalling and checks.
    Punch {
        /// Its identity.
        id: PeerId,
        /// Its overlay IPv4 address, where IPv4 may be used with it.
        ipv4: Option<Ipv4Addr>,
    },
    /// An unmodified WireGuard implementation.
    Wireguard {
        /// Its X25519 key.
        public: [u8; 32],
        /// The address that it is called at; without it, it must call itself.
        endpoint: Option<SocketAddr>,
        /// Its only address inside the tunnel; `None` while this machine reaches that one otherwise.
        address: Option<IpAddr>,
        /// Mixed into the handshake when given.
        preshared: Option<Zeroizing<[u8; 32]>>,
    },
}

impl PeerConfig {
    /// The WireGuard public key.
    pub fn public(&self) -> [u8; 32] {
        match &self.kind {
            PeerKind::Punch { id, .. } => id.x25519(),
            PeerKind::Wireguard { public, .. } => *public,
        }
    }

    /// The addresses that this peer may send from and is reached at.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.kind {
            PeerKind::Punch { id, ipv4 } => ipv4
                .map(IpAddr::from)
                .into_iter()
                .chain([id.overlay_ipv6().into()])
                .collect(),
            PeerKind::Wireguard { address, .. } => address.iter().copied().collect(),
        }
    }
}
