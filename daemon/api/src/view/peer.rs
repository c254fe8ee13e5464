//! Peers, and pings to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use super::path::PathView;
use super::refused::RefusedView;
use crate::open_enum::OpenEnum;
use crate::values::PeerName;

/// A peer, and the connection to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// The name that this machine has for the peer.
    pub name: PeerName,
    /// The identity of the peer; `null` for a plain WireGuard peer.
    pub id: Option<PeerId>,
    /// The WireGuard public key of the peer, base64.
    pub wireguard: String,
    /// The overlay IPv4 address of the peer, if the pair uses IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// The overlay IPv6 address of the peer.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether the user wants a connection (`punchctl up`).
    pub up: bool,
    /// Whether the peer may reach this whole machine (`punchctl allow --host`).
    pub host: bool,
    /// Whether packets never go over a relay between the two machines (`punchctl up --direct-only`).
    #[serde(default)]
    pub direct_only: bool,
    /// The state of the connection.
    pub state: OpenEnum<PeerState>,
    /// The path that packets take.
    pub path: Option<PathView>,
    /// The refusal of the peer, if it has told why it does not answer.
    pub refused: Option<RefusedView>,
    /// Bytes received inside the tunnel.
    pub received_bytes: u64,
    /// Bytes sent inside the tunnel.
    pub sent_bytes: u64,
    /// Seconds since the last WireGuard handshake.
    pub last_handshake_s: Option<u64>,
    /// A remark for people, for instance that only IPv6 is used, and why.
    pub note: Option<String>,
}

/// The state of the connection to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Nobody has asked for a connection; the peer's own offers are answered.
    Down,
    /// The user has said `punchctl down`: the peer's offers are refused until `punchctl up`.
    Refused,
    /// A connection is wanted, but no signalling server reaches the peer, or the peer has said goodbye.
    Waiting,
    /// Offers, answers and checks are under way.
    Connecting,
    /// There is a path, and packets can flow.
    Connected,
}

/// The answer of `POST /v1/peers/NAME/ping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingView {
    /// The overlay address that answered.
    pub address: IpAddr,
    /// The round-trip time through the tunnel.
    pub rtt_ms: f64,
    /// The path when the ping was sent.
    pub path: Option<PathView>,
}
