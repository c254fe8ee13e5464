//! What a search needs to know of the two ends.

use std::net::{Ipv4Addr, SocketAddr};

use punch_signal_protocol::{Filtering, Mapping};

use crate::capacity::Caps;
use crate::socket::SocketId;

/// What a search needs to know of the two ends.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// This side's socket for ordinary checks.
    pub(crate) base: SocketId,
    /// The peer's endpoints as servers saw them.
    pub(crate) known: Vec<SocketAddr>,
    /// All public addresses of the peer.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// STUN servers that tell where this side's sequence stands.
    pub(crate) samplers: Vec<SocketAddr>,
    /// The TTL of opening packets.
    pub(crate) opening_ttl: u8,
    /// What the peer may spend.
    pub(crate) their_caps: Caps,
    /// Whether the peer's packets may come from any of its addresses.
    pub(crate) moving: bool,
    /// What takes one entry in the table of this side's router.
    pub(crate) mapping_scope: MappingScope,
}

/// What takes one entry in a router's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MappingScope {
    /// A socket, whatever it sends to.
    Socket,
    /// A socket and an address that it sends to.
    Address,
    /// A socket and an address and port that it sends to.
    Endpoint,
}

impl MappingScope {
    /// An entry is a mapping, or a permission for a destination where the router filters; most routers keep one table for both.
    pub(crate) fn of(mapping: Option<Mapping>, filtering: Option<Filtering>) -> Self {
        let (mapping, filtering) = (
            mapping.unwrap_or(Mapping::Dependent),
            filtering.unwrap_or(Filtering::AddressAndPortDependent),
        );
        match (mapping, filtering) {
            (Mapping::None | Mapping::EndpointIndependent, Filtering::EndpointIndependent) => {
                Self::Socket
            }
            (
                Mapping::None | Mapping::EndpointIndependent | Mapping::AddressDependent,
                Filtering::EndpointIndependent | Filtering::AddressDependent,
            ) => Self::Address,
            _ => Self::Endpoint,
        }
    }
}
