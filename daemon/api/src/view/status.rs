//! This machine: its identity, its keys, and everything at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use super::channel::LanView;
use super::path::PathKind;
use super::peer::PeerView;
use super::server::{DhtView, ServerView};
use super::share::ForwardView;
use crate::open_enum::OpenEnum;

/// The answer of `GET /v1/id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdView {
    /// The identity, `punch1…`.
    pub id: PeerId,
    /// The overlay IPv4 address, unless switched off.
    pub ipv4: Option<Ipv4Addr>,
    /// The overlay IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The WireGuard public key, base64.
    pub wireguard: String,
}

/// The answer of `GET /v1/key`; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The identity, `punch1…`.
    pub id: PeerId,
    /// The WireGuard public key, base64.
    pub wireguard: String,
    /// The file that holds the secret.
    pub file: String,
}

/// The answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of punchd.
    pub version: String,
    /// The identity and the overlay addresses of this machine.
    #[serde(flatten)]
    pub id: IdView,
    /// The name of the TUN interface.
    pub interface: String,
    /// Seconds since punchd started.
    pub uptime_s: u64,
    /// This machine on the underlay.
    pub network: NetworkView,
    /// Signalling and STUN servers.
    pub servers: Vec<ServerView>,
    /// The DHT, if it is switched on.
    pub dht: Option<DhtView>,
    /// The networks of this machine, where peers are called; `None` where that is switched off.
    #[serde(default)]
    pub lan: Option<LanView>,
    /// Whether the public DHT and STUN servers are used, as a user or punchd.toml has said; `None` where nobody has said anything.
    #[serde(default)]
    pub public: Option<bool>,
    /// All peers, by name.
    pub peers: Vec<PeerView>,
    /// All forwards of this machine.
    pub forwards: Vec<ForwardView>,
    /// What is wrong with this machine's part, or in its way, for people; empty when all is well.
    pub warnings: Vec<String>,
    /// Machines that have called this one lately and are no peers, the last one first; at most 8.
    pub strangers: Vec<StrangerView>,
    /// Packets that were refused, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// A machine that has called this one and is no peer. Its identity is proven; nothing else is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangerView {
    /// The identity, `punch1…`.
    pub id: PeerId,
    /// How often it has called.
    pub asked: u32,
    /// Seconds since it has called last.
    pub last_s: u64,
}

/// This machine on the underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NetworkView {
    /// The UDP port of the IPv4 socket.
    pub port_v4: Option<u16>,
    /// The UDP port of the IPv6 socket.
    pub port_v6: Option<u16>,
    /// The prefix of the translator (NAT64, RFC 6052) through which this machine reaches IPv4 because its network has none.
    pub nat64: Option<String>,
    /// The port where peers may connect by TCP over IPv4; `None` if TCP is switched off.
    pub tcp_port_v4: Option<u16>,
    /// The port where peers may connect by TCP over IPv6; `None` if TCP is switched off.
    pub tcp_port_v6: Option<u16>,
    /// Addresses at which this machine may be reached.
    pub candidates: Vec<CandidateView>,
}

/// An address at which a machine may be reached (RFC 8445 §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateView {
    /// How the address was found; never [`PathKind::Fixed`].
    pub kind: OpenEnum<PathKind>,
    /// The IP address and port.
    pub address: SocketAddr,
}
