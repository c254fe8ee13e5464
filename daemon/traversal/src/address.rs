//! What addresses and ports are good for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address of this machine's own is good for, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressRank {
    /// The default route leaves by its link.
    Outward,
    /// Another link to a network outside of this machine.
    Network,
    /// A bridge or another link inside this machine, as containers and virtual machines have.
    Internal,
    /// Another tunnel of this machine, or a link to one other machine: a path there is the last resort.
    Tunnel,
}

/// An address of this machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnAddress {
    /// What it is good for.
    pub rank: AddressRank,
    /// The address itself.
    pub ip: IpAddr,
}

impl From<IpAddr> for OwnAddress {
    /// An address of which nothing more is known.
    fn from(ip: IpAddr) -> Self {
        Self {
            rank: AddressRank::Network,
            ip,
        }
    }
}

impl From<Ipv4Addr> for OwnAddress {
    fn from(ip: Ipv4Addr) -> Self {
        IpAddr::from(ip).into()
    }
}

impl From<Ipv6Addr> for OwnAddress {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::from(ip).into()
    }
}

/// NATs give out ports from this one (RFC 4787 REQ-3) up to the last.
pub const FIRST_PORT: u16 = 1024;

/// Whether a peer could send to this address at all (RFC 8445 §5.1.1.1).
pub fn usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some()
                // Site-local addresses, which RFC 3879 has withdrawn.
                || ip.segments()[0] & 0xffc0 == 0xfec0
                || ip == Ipv6Addr::UNSPECIFIED
        }
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Whether an address is one of RFC 1918, or of a carrier's network (RFC 6598).
pub fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64)
}
