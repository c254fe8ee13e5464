//! What a netcheck has found out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use punch_signal_protocol::{Filtering, Mapping};
use serde::{Deserialize, Serialize};

use crate::nat::AllocationView;
use crate::open_enum::OpenEnum;
use crate::values::{ValueError, text_form};

/// The answer of `POST /v1/netcheck`, for each address family that the machine has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetcheckView {
    /// The address family that was checked.
    pub family: OpenEnum<AddressFamily>,
    /// Whether no STUN server answered.
    pub udp_blocked: bool,
    /// The address and port at which servers see this machine.
    pub public: Option<SocketAddr>,
    /// All public addresses at which servers saw this machine.
    pub addresses: Vec<IpAddr>,
    /// On what the public port of a local port depends; `null` when it could not be measured.
    pub mapping: Option<OpenEnum<Mapping>>,
    /// The senders from whom the NAT lets packets in; `null` when that could not be measured.
    pub filtering: Option<OpenEnum<Filtering>>,
    /// Whether the NAT keeps the local port.
    pub preserves_port: Option<bool>,
    /// How the NAT allots ports; `null` when there were too few samples.
    pub allocation: Option<AllocationView>,
    /// How many ports there are, and whether some are free.
    pub ports: PortsView,
    /// Whether machines behind the NAT reach each other through its public address (RFC 4787 §6).
    pub hairpinning: Option<bool>,
    /// The seconds that an unused mapping lives at least; measured in the minutes after a change of the network.
    pub lifetime_s: Option<u64>,
    /// The smallest TTL with which a packet opens every filter on this side.
    pub opening_ttl: Option<u8>,
    /// Whether a filter is further away than the nearest router.
    pub double_nat: Option<bool>,
    /// The answers of the servers, probe by probe.
    pub evidence: Vec<ProbeView>,
    /// The port that the router maps for this machine; `null` for IPv6, where nothing is mapped.
    pub port_mapping: Option<PortMappingView>,
}

/// How many ports the NAT has for this machine and all others that share them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsView {
    /// How many mappings there are: the ports of a block, or as many as were held when no more were given; `null` when that is
    /// not known.
    pub capacity: Option<u32>,
    /// Whether the NAT gave out no more: servers answered an old flow of this machine, and no new one.
    pub used_up: bool,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// Version 4, RFC 791.
    Ipv4,
    /// Version 6, RFC 8200.
    Ipv6,
}

/// The port that the router maps for this machine, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingView {
    /// The protocol by which the router was asked; `null` without a mapping.
    pub protocol: Option<OpenEnum<MappingProtocol>>,
    /// The router's address and port that lead here.
    pub external: Option<SocketAddr>,
    /// Why there is no mapping, or no useful one, for people.
    pub trouble: Option<String>,
    /// Whether the router is itself behind a NAT: its address is private or the carrier's (RFC 1918, RFC 6598).
    pub double_nat: bool,
}

/// The protocol by which a router is asked for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingProtocol {
    /// The Port Control Protocol, RFC 6887.
    Pcp,
    /// The NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// The Internet Gateway Device protocol of UPnP.
    Upnp,
}

/// One probe of a netcheck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeView {
    /// The server that was asked.
    pub server: SocketAddr,
    /// What the server was asked.
    pub probe: OpenEnum<ProbeKind>,
    /// The address that the server saw; `null` without an answer.
    pub mapped: Option<SocketAddr>,
    /// How long the answer took, in milliseconds.
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
    /// A Binding request (RFC 8489).
    Binding,
    /// An answer from the server's other address and other port.
    AnswerFromOtherAddressAndPort,
    /// An answer from the server's other port.
    AnswerFromOtherPort,
    /// One more Binding request, whose answer shows how the NAT allots ports.
    Sample,
    /// A Binding request from another socket.
    BindingFromAnotherSocket,
    /// An answer from the other address and port, after a packet with this TTL has opened the way.
    AnswerThroughOpening {
        /// The TTL of that packet.
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
