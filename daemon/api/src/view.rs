//! What punchd shows. Times are seconds or milliseconds as the field's name says; absent values are `null`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::{PeerName, PortRange, Protocol, ServerKind, Target};

/// `GET /v1/id`.
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

/// `GET /v1/key`; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The identity, `punch1…`.
    pub id: PeerId,
    /// The WireGuard public key, base64.
    pub wireguard: String,
    /// The file that holds the secret.
    pub file: String,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// punchd's version.
    pub version: String,
    /// Who this machine is.
    #[serde(flatten)]
    pub id: IdView,
    /// The TUN interface.
    pub interface: String,
    /// Seconds since punchd started.
    pub uptime_s: u64,
    /// How the outside sees this machine.
    pub network: NetworkView,
    /// Signalling and STUN servers.
    pub servers: Vec<ServerView>,
    /// All peers.
    pub peers: Vec<PeerView>,
    /// All forwards.
    pub forwards: Vec<ForwardView>,
    /// Packets that were not let through, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// This machine on the underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NetworkView {
    /// The UDP port of the IPv4 socket.
    pub port_v4: Option<u16>,
    /// The UDP port of the IPv6 socket.
    pub port_v6: Option<u16>,
    /// Addresses at which this machine may be reached, with their kind.
    pub candidates: Vec<CandidateView>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateView {
    /// `host`, `server_reflexive`, `peer_reflexive`, `port_mapped`.
    pub kind: PathKind,
    /// The address.
    pub address: SocketAddr,
}

/// How a path's remote address was found (RFC 8445 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// The peer's own address.
    Host,
    /// What a STUN server saw.
    ServerReflexive,
    /// What this machine saw in a check.
    PeerReflexive,
    /// What a router leads to the peer because the peer has asked for it.
    PortMapped,
    /// A fixed endpoint.
    Fixed,
}

impl PathKind {
    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "server_reflexive",
            Self::PeerReflexive => "peer_reflexive",
            Self::PortMapped => "port_mapped",
            Self::Fixed => "fixed",
        }
    }
}

/// A server and how it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// What it is for.
    pub kind: ServerKind,
    /// Its address.
    pub address: String,
    /// Whether it stands in punchd.toml, where only the administrator removes it.
    pub fixed: bool,
    /// How it does.
    pub state: ServerState,
    /// The last trouble with it.
    pub trouble: Option<String>,
}

/// How a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Not reached yet, or not any more.
    Connecting,
    /// In use.
    Connected,
}

/// How a connection to a peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Nobody has asked for a connection.
    Down,
    /// Asked for, but the peer is not to be found on any signalling server.
    Waiting,
    /// Offers, answers and checks are under way.
    Connecting,
    /// Packets can flow.
    Connected,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its local name.
    pub name: PeerName,
    /// Its identity; `null` for a plain WireGuard peer.
    pub id: Option<PeerId>,
    /// Its WireGuard public key, base64.
    pub wireguard: String,
    /// Its overlay IPv4 address, if the pair uses IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// Its overlay IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether `up` was asked for.
    pub up: bool,
    /// Whether it may reach this whole machine (`punchctl allow --host`).
    pub host: bool,
    /// How the connection does.
    pub state: PeerState,
    /// Which way packets go.
    pub path: Option<PathView>,
    /// Bytes received inside the tunnel.
    pub received_bytes: u64,
    /// Bytes sent inside the tunnel.
    pub sent_bytes: u64,
    /// Seconds since the last WireGuard handshake.
    pub last_handshake_s: Option<u64>,
    /// Something to know, for instance that only IPv6 is used and why.
    pub note: Option<String>,
}

/// A selected path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer's underlay address.
    pub remote: SocketAddr,
    /// How it was found.
    pub kind: PathKind,
    /// Smoothed round trip of the checks.
    pub rtt_ms: Option<f64>,
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardView {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The shared ports.
    pub ports: PortRange,
    /// Where the first port leads.
    pub target: Target,
    /// Who may use it; all peers when empty.
    pub peers: Vec<PeerName>,
    /// Connections (or UDP flows) open now.
    pub open: u64,
    /// Connections (or UDP flows) since punchd started.
    pub total: u64,
}

/// `POST /v1/peers/NAME/ping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingView {
    /// The overlay address that answered.
    pub address: IpAddr,
    /// Round trip through the tunnel.
    pub rtt_ms: f64,
    /// The path that it took.
    pub path: Option<PathView>,
}

/// `POST /v1/netcheck`, for each address family that the machine has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetcheckView {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// No STUN server answered.
    pub udp_blocked: bool,
    /// This machine as servers see it.
    pub public: Option<SocketAddr>,
    /// All public addresses that were seen.
    pub addresses: Vec<IpAddr>,
    /// `none`, `endpoint_independent`, `address_dependent`, `address_and_port_dependent` or `dependent` (RFC 4787 §4.1).
    pub mapping: Option<String>,
    /// `endpoint_independent`, `address_dependent` or `address_and_port_dependent` (RFC 4787 §5).
    pub filtering: Option<String>,
    /// Whether the NAT keeps the local port.
    pub preserves_port: Option<bool>,
    /// How it allots ports; `null` when there were too few samples.
    pub allocation: Option<AllocationView>,
    /// Whether machines behind it reach each other through its public address.
    pub hairpinning: Option<bool>,
    /// An unused mapping lives at least so many seconds; measured in the minutes after a change of the network.
    pub lifetime_s: Option<u64>,
    /// The smallest TTL with which a packet opens everything that filters on this side.
    pub opening_ttl: Option<u8>,
    /// Whether what filters stands further away than the nearest router.
    pub double_nat: Option<bool>,
    /// What each server said.
    pub evidence: Vec<ProbeView>,
    /// The port that the router maps for this machine; `null` for IPv6, where nothing is mapped.
    pub port_mapping: Option<PortMappingView>,
}

/// The port that the router maps, or why it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingView {
    /// How the router was asked; `null` without a mapping.
    pub protocol: Option<MappingProtocol>,
    /// The router's address and port that lead here.
    pub external: Option<SocketAddr>,
    /// Why there is no mapping, or none that is of use.
    pub trouble: Option<String>,
    /// The router is itself behind a NAT: its address is private or the carrier's (RFC 1918, RFC 6598).
    pub double_nat: bool,
}

/// How a router is asked for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingProtocol {
    /// The Port Control Protocol, RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// The Internet Gateway Device protocol.
    Upnp,
}

/// One probe of a netcheck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeView {
    /// The server asked.
    pub server: SocketAddr,
    /// What was asked of it.
    pub probe: String,
    /// The address that it saw; `null` without an answer.
    pub mapped: Option<SocketAddr>,
    /// How long the answer took.
    pub rtt_ms: Option<f64>,
}

/// How a NAT allots ports to new mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "model")]
pub enum AllocationView {
    /// The local port, wherever it is free.
    Preserving,
    /// The last one plus a step.
    Sequential {
        /// From one to the next.
        step: i16,
        /// Mappings per second that others make.
        others: u16,
    },
    /// Any of a block.
    Block {
        /// The lowest port.
        low: u16,
        /// The highest.
        high: u16,
    },
    /// Any of all.
    Random,
}

/// `GET /v1/peers/NAME/why`: why the path to a peer is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// Whom it is about.
    pub peer: PeerName,
    /// How the connection does.
    pub state: PeerState,
    /// Which way packets go.
    pub path: Option<PathView>,
    /// The answer in one sentence.
    pub summary: String,
    /// What this side knows of its NAT; `null` before it was measured.
    pub mine: Option<NatView>,
    /// What the peer has told of its own; `null` before it has answered.
    pub theirs: Option<NatView>,
    /// What was tried in the attempt that is under way, or in the last one.
    pub steps: Vec<StepView>,
    /// Attempts that have failed since there was a path.
    pub failures: u8,
    /// Seconds until the next attempt, when one is planned.
    pub retry_in_s: Option<f64>,
    /// What this side may spend on an attempt.
    pub budget: BudgetView,
    /// What would improve the result.
    pub advice: Vec<String>,
}

/// One end's NAT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NatView {
    /// In words.
    pub summary: String,
    /// As in [`NetcheckView`].
    pub mapping: Option<String>,
    /// As in [`NetcheckView`].
    pub filtering: Option<String>,
    /// As in [`NetcheckView`].
    pub allocation: Option<AllocationView>,
    /// Its public addresses.
    pub addresses: Vec<IpAddr>,
}

/// One step of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// `checks`, `hold_and_probe`, `meet` or `birthday`.
    pub step: String,
    /// The chance that was computed beforehand, from 0 to 1.
    pub chance: f64,
    /// How long it takes in the median if it succeeds, in seconds.
    pub typical_s: f64,
    /// How long it takes on the average until some attempt succeeds, in seconds; `null` when the first one should.
    pub expected_s: Option<f64>,
    /// `waiting`, `running`, `found`, `not_needed`, `exhausted`, `over_budget`, `no_sockets` or `no_prediction`.
    pub outcome: String,
    /// NAT mappings that it has made on this side.
    pub mappings: u32,
    /// Packets that it has sent.
    pub packets: u32,
    /// The most packets within one second.
    pub peak_rate: u32,
    /// Sockets that it wanted and did not get.
    pub refused_sockets: u32,
    /// How long it has taken, in seconds.
    pub took_s: f64,
}

/// What an attempt may ask of the routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// `gentle`, `normal` or `aggressive`.
    pub name: String,
    /// Mappings alive at once.
    pub mappings: u32,
    /// Packets per second.
    pub packets_per_s: u32,
    /// Packets to an address that a peer has named, in one attempt.
    pub packets_per_address: u32,
    /// How long a search lasts, in seconds.
    pub duration_s: u64,
}
