//! The networks of this machine, and who is in them.

use std::net::{IpAddr, SocketAddr};

/// A network that this machine is attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The interface's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// This machine's addresses there, with the length of their prefix in bits.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Whether the sender's address is of this network, so that no router was between.
    pub fn has(&self, sender: SocketAddr) -> bool {
        let mut addresses = self.addresses.iter();
        match sender {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id() == self.index,
            SocketAddr::V4(_) | SocketAddr::V6(_) => addresses.any(|(own, prefix)| {
                let (own, length) = bits(*own);
                let (sender, its_length) = bits(sender.ip());
                let host = u32::from(length.saturating_sub(*prefix));
                let differs = (own ^ sender).checked_shr(host).unwrap_or(0);
                length == its_length && differs == 0
            }),
        }
    }

    /// Whether it has an address of this family.
    pub fn has_family(&self, v6: bool) -> bool {
        self.addresses.iter().any(|(ip, _)| ip.is_ipv6() == v6)
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}
