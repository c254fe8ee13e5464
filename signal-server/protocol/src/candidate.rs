//! Addresses at which a machine may be reached (RFC 8445 §5.1).

use std::net::SocketAddr;

use crate::codec::{DecodeError, Reader, put_socket_addr};

/// Where a candidate comes from. The numbers are on the wire for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CandidateKind {
    /// An address of one of the machine's own interfaces.
    Host = 1,
    /// The address that a STUN server saw.
    ServerReflexive = 2,
    /// The address that the peer saw in a connectivity check.
    PeerReflexive = 3,
    /// A port of the router's that leads here because this machine has asked for it (PCP, NAT-PMP, UPnP IGD).
    PortMapped = 4,
    /// A port on which the machine takes TCP connections (the passive candidates of RFC 6544 §4.5), wherever its address comes from.
    TcpPassive = 5,
    /// An address from which the machine connects by TCP, in the hope that the peer connects to it at the same time (the simultaneous-open
    /// candidates of RFC 6544 §4.5): both NATs or firewalls then let the connection out, and neither needs to let one in.
    TcpSimultaneous = 6,
}

impl CandidateKind {
    /// The type preference of RFC 8445 §5.1.2.2.
    fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::PortMapped => 108,
            Self::ServerReflexive => 100,
            // Behind all UDP candidates (RFC 6544 §4.2).
            Self::TcpPassive => 90,
            Self::TcpSimultaneous => 85,
        }
    }
}

/// One address at which a machine may be reached, over UDP unless its kind says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address itself.
    pub address: SocketAddr,
    /// The local preference of RFC 8445 §5.1.2.1: larger is better among candidates of one kind.
    pub preference: u16,
}

impl Candidate {
    /// The highest priority of a candidate with the type preference 0: only those inside another tunnel have it.
    pub const LOWEST_KIND: u32 = 0x00FF_FFFF;

    /// A candidate whose local preference puts IPv6 before IPv4 (RFC 8421 §4).
    pub fn new(kind: CandidateKind, address: SocketAddr) -> Self {
        let preference = if address.is_ipv6() { 0xFFFF } else { 0x7FFF };
        Self {
            kind,
            address,
            preference,
        }
    }

    /// A host candidate inside another tunnel of this machine, such as a company's VPN: behind all others, whatever their kind,
    /// because packets would travel inside of other packets, and perhaps by way of a hub.
    pub fn in_tunnel(address: SocketAddr) -> Self {
        Self {
            kind: CandidateKind::Host,
            address,
            preference: Self::new(CandidateKind::Host, address).preference >> 8,
        }
    }

    /// Whether this is a host candidate inside another tunnel: its preference, which is on the wire, is below 256.
    pub fn is_in_tunnel(&self) -> bool {
        self.kind == CandidateKind::Host && self.preference < 256
    }

    /// RFC 8445 §5.1.2.1, component 1. The type preference inside another tunnel is 0, that of relayed candidates.
    pub fn priority(&self) -> u32 {
        let preference = if self.is_in_tunnel() {
            0
        } else {
            self.kind.preference()
        };
        (preference << 24) | (u32::from(self.preference) << 8) | 255
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend_from_slice(&self.preference.to_be_bytes());
        put_socket_addr(out, self.address);
    }

    /// Reads a candidate; `None` for one of a kind or family that only a newer version knows.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let kind = match reader.u8()? {
            0 => return Err(DecodeError::BadValue("candidate kind")),
            1 => Some(CandidateKind::Host),
            2 => Some(CandidateKind::ServerReflexive),
            3 => Some(CandidateKind::PeerReflexive),
            4 => Some(CandidateKind::PortMapped),
            5 => Some(CandidateKind::TcpPassive),
            6 => Some(CandidateKind::TcpSimultaneous),
            _ => None,
        };
        let preference = reader.u16()?;
        let address = reader.socket_addr()?;
        let known = kind.zip(address);
        Ok(known.map(|(kind, address)| Self {
            kind,
            address,
            preference,
        }))
    }
}
