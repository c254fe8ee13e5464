//! What a connector is made from, and what it has to say.

use std::time::Duration;

use punch_packet::PeerHandle;
use punch_signal_protocol::{Frame, Identity, Ipv4Range, seal};
use punch_traversal::{
    AgentStatus, Budget, Family, NatOverrides, NatProfile, NatSummary, SocketId, StepKind,
    StepReport,
};

use super::{LinkState, Path};

/// A signalling server's number, given by the one who holds the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// A frame for a signalling server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Which server.
    pub server: ServerId,
    /// What to send.
    pub frame: Frame,
}

/// What a connector is made from.
pub struct ConnectorConfig {
    /// Who this machine is.
    pub identity: Identity,
    /// The range of its overlay IPv4 address, told to peers.
    pub ipv4_range: Option<Ipv4Range>,
    /// Randomness; the same seed and the same inputs give the same outputs.
    pub seed: [u8; 32],
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// What an attempt may ask of the routers.
    pub budget: Budget,
    /// What the administrator says about the NAT.
    pub nat: NatOverrides,
}

/// How many envelopes were not let through, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DroppedEnvelopes {
    /// From an identity that is no peer.
    pub strangers: u64,
    /// From a peer: it does not open, or was replayed, or is stale, or came too often.
    pub unusable: u64,
}

/// What a connector has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectorEvent {
    /// A peer has proven a new exchange: a session with this preshared key may begin.
    Proven {
        /// Who.
        peer: PeerHandle,
        /// For the new session.
        preshared: seal::PresharedKey,
        /// Whether this machine starts the handshake.
        initiator: bool,
    },
    /// Packets for the peer go this way now.
    Selected {
        /// Who.
        peer: PeerHandle,
        /// Where.
        path: Path,
    },
    /// No path to the peer is left.
    Lost {
        /// Who.
        peer: PeerHandle,
    },
    /// The peer has said goodbye, or we have.
    Closed {
        /// Who.
        peer: PeerHandle,
    },
    /// A proven exchange came to nothing beside the one that serves: its session is not needed.
    Abandoned {
        /// Who.
        peer: PeerHandle,
    },
    /// The newest stamps with a peer, to be kept across restarts.
    Stamps {
        /// Who.
        peer: PeerHandle,
        /// Of the newest offer or answer sent.
        sent: u64,
        /// Of the newest offer accepted.
        seen: u64,
    },
    /// An offer that opened was refused because its clock is off by this many seconds (the peer's minus ours).
    Stale {
        /// Whose.
        peer: PeerHandle,
        /// How far off.
        seconds: i64,
    },
    /// A socket for one purpose is needed.
    OpenSocket {
        /// Its number.
        socket: SocketId,
        /// Its family.
        family: Family,
    },
    /// It is no longer needed.
    CloseSocket {
        /// Its number.
        socket: SocketId,
    },
    /// A netcheck is finished.
    Netcheck(Vec<NatProfile>),
    /// A search for ports begins.
    Searching {
        /// For whom.
        peer: PeerHandle,
        /// Which.
        step: StepKind,
        /// The chance that it finds a path, from 0 to 1.
        chance: f64,
    },
    /// What has worked with a peer from this network; to be kept across restarts.
    Worked {
        /// With whom.
        peer: PeerHandle,
        /// What stands for this network.
        network: u64,
        /// What has worked.
        step: StepKind,
    },
    /// This machine's addresses are others than those told before, or it has slept.
    NetworkChanged,
}

/// What status shows of a link.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkStatus {
    /// How it does.
    pub state: LinkState,
    /// The checks, when there are any.
    pub agent: Option<AgentStatus>,
    /// The range of the peer's overlay IPv4 address, once it has said so.
    pub peer_range: Option<Option<Ipv4Range>>,
    /// What is known of this side's NAT.
    pub mine: Option<NatProfile>,
    /// What the peer has last told of its own.
    pub theirs: Option<NatSummary>,
    /// What the attempt that is under way, or the last one, has tried.
    pub steps: Vec<StepReport>,
    /// Attempts that have failed since there was a path.
    pub failures: u8,
    /// When the next attempt is due.
    pub retry_in: Option<Duration>,
    /// What this side may spend.
    pub budget: Budget,
}
