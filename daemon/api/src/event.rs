//! `GET /v1/events`: server-sent events, one JSON object each.

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::PeerName;
use crate::view::PeerState;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
    /// The same for people.
    pub message: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A peer's connection changed.
    Peer {
        /// Which.
        peer: PeerName,
        /// How it does now.
        state: OpenEnum<PeerState>,
    },
    /// A peer's packets take another path.
    Path {
        /// Which peer.
        peer: PeerName,
        /// The new remote address.
        remote: std::net::SocketAddr,
    },
    /// Ordinary checks are not enough for a peer: a search for ports begins.
    Search {
        /// For whom.
        peer: PeerName,
        /// The chance that it finds a path, from 0 to 1.
        chance: f64,
    },
    /// A server came or went.
    Server {
        /// Its address.
        address: String,
        /// Whether it is in use now.
        connected: bool,
    },
    /// An offer from a peer was refused.
    OfferRefused {
        /// Whose.
        peer: PeerName,
    },
    /// The configuration changed: peers, forwards, servers.
    Configuration,
    /// This machine's addresses changed.
    Network,
    /// Something that is newer than this program; the message tells it.
    #[serde(other)]
    Unknown,
}
