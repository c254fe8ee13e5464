//! Peers, and pings to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use super::path::PathView;
use super::refused::RefusedView;
use super::server::ServerState;
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
    /// What the peer may do beside forwards, and what it does for this machine.
    #[serde(flatten)]
    pub rights: RightsView,
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

/// What a peer may do beside forwards, and what it does for this machine; part of its view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsView {
    /// Whether the peer may reach this whole machine (`punchctl allow --host`).
    pub host: bool,
    /// Whether the peer may meet others here, between which this machine relays (`punchctl allow --relay`).
    #[serde(default)]
    pub relay: bool,
    /// What this machine has relayed for the peer; `None` if it may not meet others here.
    #[serde(default)]
    pub relayed: Option<RelayedView>,
    /// The state of the connection to the meeting place that the peer serves for this machine, if it does.
    #[serde(default)]
    pub meeting: Option<OpenEnum<ServerState>>,
}

/// What was relayed for a peer since punchd started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedView {
    /// Whether the peer is at the meeting place now.
    pub present: bool,
    /// Bytes that the peer has sent to others.
    pub from_bytes: u64,
    /// Bytes that the peer was given from others.
    pub to_bytes: u64,
    /// Packets of the peer that were not passed on: too many, or to nobody.
    pub refused_packets: u64,
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
