//! What addresses and ports are good for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use punch_stun_protocol::Message;

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
                // A translator shall lead nobody into the network that it is in (RFC 6052 §3.1).
                || embedded(ip).is_some_and(|ip| !is_translatable(ip))
                || ip == Ipv6Addr::UNSPECIFIED
        }
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Whether an address is one of RFC 1918, or of a carrier's network (RFC 6598).
pub fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64)
}

/// Whether a translator may be asked for this address: neither one of its own network or of its machine, nor one that stands for no
/// machine (RFC 6052 §3.1, §5.1).
pub fn is_translatable(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        (0 | 240.., _, _) | (192, 0, 0) | (198, 18 | 19, _)
    );
    !(special || is_private(ip) || ip.is_loopback() || ip.is_link_local() || ip.is_multicast())
}

/// The IPv4 address that an IPv6 address stands for below the prefix that every network with a translator may use (RFC 6052 §2.1).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., high, low] = ip.segments();
    let is_below = ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    is_below.then(|| (u32::from(high) << 16 | u32::from(low)).into())
}

/// The server's other address and port, if both differ (RFC 5780 §6): with the same port the two kinds of dependence would
/// look alike.
pub(crate) fn other_address(server: SocketAddr, message: &Message<'_>) -> Option<SocketAddr> {
    message.other.filter(|other| {
        let differs = other.ip() != server.ip() && other.port() != server.port();
        // A public server must not make this machine ask around in its own network.
        let private = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if is_private(ip));
        other.is_ipv4() == server.is_ipv4()
            && differs
            && other.port() != 0
            && usable(other.ip())
            && (private(server.ip()) || !private(other.ip()))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    #[test]
    fn a_translator_leads_nobody_into_its_own_network() {
        for (ip, is_usable) in [
            ("64:ff9b::203.0.113.1", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::127.0.0.1", false),
            ("64:ff9b::100.64.0.1", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9c::10.0.0.1", true),
        ] {
            assert_eq!(usable(ip.parse().unwrap()), is_usable, "{ip}");
        }
    }
}
