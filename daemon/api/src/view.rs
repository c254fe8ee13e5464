//! What punchd shows. Times are seconds or milliseconds as the field's name says; absent values are `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use punch_signal_protocol::{Budget, CandidateKind, Filtering, Mapping, PeerId};
use serde::{Deserialize, Serialize};

use crate::nat::AllocationView;
use crate::open_enum::OpenEnum;
use crate::values::{PeerName, PortRange, Protocol, ServerKind, Target, ValueError, text_form};

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
    /// How it was found; never [`PathKind::Fixed`].
    pub kind: OpenEnum<PathKind>,
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

impl From<CandidateKind> for PathKind {
    fn from(kind: CandidateKind) -> Self {
        match kind {
            CandidateKind::Host => Self::Host,
            CandidateKind::ServerReflexive => Self::ServerReflexive,
            CandidateKind::PeerReflexive => Self::PeerReflexive,
            CandidateKind::PortMapped => Self::PortMapped,
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
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
    pub kind: OpenEnum<ServerKind>,
    /// Its address.
    pub address: String,
    /// Whether it stands in punchd.toml, where only the administrator removes it.
    pub fixed: bool,
    /// How it does.
    pub state: OpenEnum<ServerState>,
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
    pub state: OpenEnum<PeerState>,
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
    /// How the address was found.
    pub kind: OpenEnum<PathKind>,
    /// Smoothed round trip of the checks.
    pub rtt_ms: Option<f64>,
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardView {
    /// TCP or UDP.
    pub protocol: OpenEnum<Protocol>,
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
    /// The address family that was checked.
    pub family: OpenEnum<AddressFamily>,
    /// No STUN server answered.
    pub udp_blocked: bool,
    /// This machine as servers see it.
    pub public: Option<SocketAddr>,
    /// All public addresses that were seen.
    pub addresses: Vec<IpAddr>,
    /// On what a mapping depends; `null` when it could not be measured.
    pub mapping: Option<OpenEnum<Mapping>>,
    /// Whose packets the NAT lets in; `null` when it could not be measured.
    pub filtering: Option<OpenEnum<Filtering>>,
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

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

/// The port that the router maps, or why it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingView {
    /// How the router was asked; `null` without a mapping.
    pub protocol: Option<OpenEnum<MappingProtocol>>,
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
    /// What the server was asked.
    pub probe: OpenEnum<ProbeKind>,
    /// The address that it saw; `null` without an answer.
    pub mapped: Option<SocketAddr>,
    /// How long the answer took.
    pub rtt_ms: Option<f64>,
}

impl fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// What a STUN server is asked by one probe (RFC 5780).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// A Binding.
    Binding,
    /// An answer from the server's other address and other port.
    AnswerFromOtherAddressAndPort,
    /// An answer from the server's other port.
    AnswerFromOtherPort,
    /// A further Binding that shows how the NAT allots ports.
    Sample,
    /// A Binding from another socket.
    BindingFromAnotherSocket,
    /// An answer from the other address and port, after a packet with this TTL has opened the way.
    AnswerThroughOpening {
        /// The TTL.
        ttl: u8,
    },
}

const THROUGH_OPENING: &str = "answer_through_opening_with_ttl_";

impl FromStr for ProbeKind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let unknown = || ValueError::Probe(text.to_owned());
        Ok(match text {
            "binding" => Self::Binding,
            "answer_from_other_address_and_port" => Self::AnswerFromOtherAddressAndPort,
            "answer_from_other_port" => Self::AnswerFromOtherPort,
            "sample" => Self::Sample,
            "binding_from_another_socket" => Self::BindingFromAnotherSocket,
            text => {
                let ttl = text.strip_prefix(THROUGH_OPENING).ok_or_else(unknown)?;
                let ttl = ttl.parse().map_err(|_| unknown())?;
                Self::AnswerThroughOpening { ttl }
            }
        })
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binding => "binding",
            Self::AnswerFromOtherAddressAndPort => "answer_from_other_address_and_port",
            Self::AnswerFromOtherPort => "answer_from_other_port",
            Self::Sample => "sample",
            Self::BindingFromAnotherSocket => "binding_from_another_socket",
            Self::AnswerThroughOpening { ttl } => return write!(f, "{THROUGH_OPENING}{ttl}"),
        })
    }
}

text_form!(ProbeKind);

/// `GET /v1/peers/NAME/why`: why the path to a peer is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// Whom it is about.
    pub peer: PeerName,
    /// How the connection does.
    pub state: OpenEnum<PeerState>,
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
    pub mapping: Option<OpenEnum<Mapping>>,
    /// As in [`NetcheckView`].
    pub filtering: Option<OpenEnum<Filtering>>,
    /// As in [`NetcheckView`].
    pub allocation: Option<AllocationView>,
    /// Its public addresses.
    pub addresses: Vec<IpAddr>,
}

/// One step of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// What was tried.
    pub step: OpenEnum<Step>,
    /// The chance that was computed beforehand, from 0 to 1.
    pub chance: f64,
    /// How long it takes in the median if it succeeds, in seconds.
    pub typical_s: f64,
    /// How long it takes on the average until some attempt succeeds, in seconds; `null` when the first one should.
    pub expected_s: Option<f64>,
    /// What came of it.
    pub outcome: OpenEnum<StepOutcome>,
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

/// What is tried to find a path, in the order in which it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Connectivity checks (RFC 8445 §2.2).
    Checks,
    /// One side holds ports open, the other one probes for them.
    HoldAndProbe,
    /// Both sides send to predicted ports.
    Meet,
    /// Both sides search over random ports.
    Birthday,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It has not begun.
    Waiting,
    /// It is under way.
    Running,
    /// It has found a path.
    Found,
    /// Another step found a path first.
    NotNeeded,
    /// It has spent what it may, and found no path.
    Exhausted,
    /// Mappings of earlier attempts are still alive, and nothing is left of the budget.
    OverBudget,
    /// No socket could be opened.
    NoSockets,
    /// The peer, or the STUN servers, did not tell where its sequence stands.
    NoPrediction,
}

/// What an attempt may ask of the routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Its name, as in punchd.toml.
    pub name: OpenEnum<Budget>,
    /// Mappings alive at once.
    pub mappings: u32,
    /// Packets per second.
    pub packets_per_s: u32,
    /// Packets to an address that a peer has named, in one attempt.
    pub packets_per_address: u32,
    /// How long a search lasts, in seconds.
    pub duration_s: u64,
}
