//! `GET /v1/events`: server-sent events, one JSON object each.

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::PeerName;
use crate::view::{MetView, PathReason, PeerState, RefusalReason};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The kind of the event, with its values.
    #[serde(flatten)]
    pub kind: EventKind,
    /// The event as a sentence for people.
    pub message: String,
}

/// The kind of an event, with its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The state of the connection to a peer changed.
    Peer {
        /// The peer at the other end of the connection.
        peer: PeerName,
        /// The new state.
        state: OpenEnum<PeerState>,
        /// Over which channel the two have met, of a connection that stands.
        #[serde(default)]
        met_over: Option<MetView>,
    },
    /// A peer's packets take another path.
    Path {
        /// The peer that the packets go to.
        peer: PeerName,
        /// The new remote address.
        remote: std::net::SocketAddr,
        /// Why they do not take the one before.
        reason: Option<OpenEnum<PathReason>>,
    },
    /// A peer's packets go through a signalling server, or through another peer.
    Relayed {
        /// The peer that the packets go to.
        peer: PeerName,
        /// The address of the server, or the name of the peer, that passes them on.
        server: String,
        /// Why they do not take the path before.
        reason: Option<OpenEnum<PathReason>>,
    },
    /// Longer packets fit on the path to a peer than before, or only shorter ones.
    Mtu {
        /// The peer that the path leads to.
        peer: PeerName,
        /// The longest packet inside the tunnel that fits, in bytes.
        mtu: u16,
        /// The longest one before.
        before: Option<u16>,
    },
    /// A search for ports begins, because ordinary checks are not enough for a peer.
    Search {
        /// The peer that is searched for.
        peer: PeerName,
        /// The chance that the search finds a path, from 0 to 1.
        chance: f64,
    },
    /// The connection to a signalling server was made or lost.
    Server {
        /// The address of the server.
        address: String,
        /// Whether the server is in use now.
        connected: bool,
    },
    /// This machine has come to the meeting place of a peer, or has left it.
    Meeting {
        /// The peer that serves it.
        peer: PeerName,
        /// Whether this machine is there now.
        connected: bool,
    },
    /// An offer from a peer was refused.
    OfferRefused {
        /// The peer that made the offer.
        peer: PeerName,
    },
    /// An overlay address is no longer used, because this machine reaches it otherwise or another peer has it too; or it is used again.
    Overlay {
        /// The peer that has the address; `null` when it is this machine.
        peer: Option<PeerName>,
        /// The address inside the tunnel.
        address: std::net::IpAddr,
        /// Whether the address is used now.
        used: bool,
    },
    /// A peer refuses this machine's offers, and has told why.
    Refused {
        /// The peer that refuses.
        peer: PeerName,
        /// The reason, as the peer has told it.
        reason: OpenEnum<RefusalReason>,
        /// For the reason `clock`: this machine's clock minus the peer's, in seconds.
        clock_ahead_s: Option<i64>,
    },
    /// A machine that is no peer has called, for the first time in a while.
    Stranger {
        /// The identity of the machine.
        id: PeerId,
    },
    /// The configuration changed: peers, forwards, servers.
    Configuration,
    /// This machine's addresses changed.
    Network,
    /// An event of a kind that is newer than this program; its message says what happened.
    #[serde(other)]
    Unknown,
}
