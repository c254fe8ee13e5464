//! Links: what kind of interface an address belongs to.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// What stands behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// A network card, wired or wireless, also as part of a bond or with a VLAN's tag.
    Physical,
    /// A link to a provider or to one other machine: PPP, a modem.
    PointToPoint,
    /// A switch inside this machine, most often of containers or virtual machines.
    Bridge,
    /// The end of a cable inside this machine. A container's own interface is one.
    Veth,
    /// A tunnel of another program (tun, tap).
    Tun,
    /// A tunnel of the kernel's own WireGuard.
    Wireguard,
    /// Another tunnel of the kernel's: GRE, IPIP, VXLAN and the like.
    Tunnel,
    /// Anything else: dummy, loopback.
    Other,
}

impl LinkKind {
    /// Whether packets leave inside of other packets, which another address of this machine carries.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Tun | Self::Wireguard | Self::Tunnel)
    }

    /// The kind in words, for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Physical => "a network card",
            Self::PointToPoint => "a point-to-point link",
            Self::Bridge => "a bridge",
            Self::Veth => "a virtual cable",
            Self::Tun => "a tunnel of another program",
            Self::Wireguard => "a WireGuard interface",
            Self::Tunnel => "a tunnel",
            Self::Other => "an interface",
        }
    }

    pub(super) fn of(message: &LinkMessage) -> Self {
        let info = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(info) => Some(info),
                _ => None,
            });
        let kind = info.and_then(|info| {
            info.iter().find_map(|part| match part {
                LinkInfo::Kind(kind) => Some(kind),
                _ => None,
            })
        });
        let flags = message.header.flags;
        match kind {
            Some(InfoKind::Bridge) => Self::Bridge,
            Some(InfoKind::Veth | InfoKind::Netkit | InfoKind::Vxcan) => Self::Veth,
            Some(InfoKind::Tun) => Self::Tun,
            Some(InfoKind::Wireguard) => Self::Wireguard,
            Some(
                InfoKind::Vxlan
                | InfoKind::GreTap
                | InfoKind::GreTap6
                | InfoKind::IpIp
                | InfoKind::Ip6Tnl
                | InfoKind::SitTun
                | InfoKind::GreTun
                | InfoKind::GreTun6
                | InfoKind::Vti
                | InfoKind::Vti6
                | InfoKind::Xfrm
                | InfoKind::Gtp
                | InfoKind::Geneve
                | InfoKind::BareUdp
                | InfoKind::Amt
                | InfoKind::ErSpan
                | InfoKind::Ip6ErSpan,
            ) => Self::Tunnel,
            Some(InfoKind::Dummy | InfoKind::Ifb | InfoKind::Nlmon) => Self::Other,
            Some(InfoKind::Wwan) => Self::PointToPoint,
            _ if flags.contains(LinkFlags::Loopback) => Self::Other,
            _ if flags.contains(LinkFlags::Pointopoint) => Self::PointToPoint,
            _ if message.header.link_layer_type == LinkLayerType::Ppp => Self::PointToPoint,
            _ => Self::Physical,
        }
    }
}

/// An address of this machine, and what leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// What its interface is.
    pub kind: LinkKind,
    /// Whether a default route of the address's family, or a part of one, leaves by its interface.
    pub default_route: bool,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
}

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What stands behind it.
    pub kind: LinkKind,
    /// Whether an administrator has switched it on.
    pub up: bool,
    /// Whether it is connected to something, as far as its driver says.
    pub carrier: bool,
    /// Whether one packet can reach several machines on it, and not just this one.
    pub multicast: bool,
    /// Whether it is a part of another interface, of a bridge or a bond, which is the one that has the packets.
    pub part: bool,
    /// The longest packet, in bytes.
    pub mtu: u32,
}

impl Link {
    pub(super) fn of(message: &LinkMessage) -> Self {
        let (mut name, mut mtu) = (String::new(), 0);
        let (mut belongs, mut alone) = (false, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name.clone_from(text),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                LinkAttribute::Controller(_) => belongs = true,
                // One of a VRF has its own addresses.
                LinkAttribute::LinkInfo(info) => {
                    alone |= info.contains(&LinkInfo::PortKind(InfoPortKind::Vrf));
                }
                _ => {}
            }
        }
        let flags = message.header.flags;
        Self {
            index: message.header.index,
            name,
            kind: LinkKind::of(message),
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            multicast: flags.contains(LinkFlags::Multicast) && !flags.contains(LinkFlags::Loopback),
            part: belongs && !alone,
            mtu,
        }
    }
}

/// An address of an interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// The other end's address, on a link to one machine.
    pub other_end: Option<IpAddr>,
    /// Whether packets may come from it, now and for a while: neither tentative nor deprecated.
    pub usable: bool,
}

impl Address {
    pub(super) fn of(message: &AddressMessage) -> Option<Self> {
        // Temporary IPv6 addresses (RFC 8981) come and go; an address that is still tentative cannot be used.
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        let (mut local, mut other, mut usable) = (None, None, true);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => other = Some(*ip),
                AddressAttribute::Flags(flags) => usable &= !flags.intersects(unusable),
                _ => {}
            }
        }
        let ip = local.or(other)?;
        Some(Self {
            link: message.header.index,
            prefix: message.header.prefix_len,
            ip,
            other_end: other.filter(|other| *other != ip),
            usable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<InfoKind>, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.flags = flags;
        message.header.link_layer_type = LinkLayerType::Ether;
        if let Some(kind) = kind {
            let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
            message.attributes.push(info);
        }
        message
    }

    #[test]
    fn a_link_is_what_the_kernel_calls_it() {
        let none = LinkFlags::empty();
        for (kind, flags, right) in [
            (None, none, LinkKind::Physical),
            (Some(InfoKind::Vlan), none, LinkKind::Physical),
            (Some(InfoKind::Bond), none, LinkKind::Physical),
            (Some(InfoKind::Bridge), none, LinkKind::Bridge),
            (Some(InfoKind::Veth), none, LinkKind::Veth),
            (Some(InfoKind::Tun), LinkFlags::Pointopoint, LinkKind::Tun),
            (
                Some(InfoKind::Wireguard),
                LinkFlags::Pointopoint,
                LinkKind::Wireguard,
            ),
            (Some(InfoKind::SitTun), none, LinkKind::Tunnel),
            (
                Some(InfoKind::Other("ppp".to_owned())),
                LinkFlags::Pointopoint,
                LinkKind::PointToPoint,
            ),
            (None, LinkFlags::Loopback, LinkKind::Other),
        ] {
            assert_eq!(LinkKind::of(&link(kind.clone(), flags)), right, "{kind:?}");
        }
    }
}
