//! The kinds of attachment that tests run over, and networks made of two of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::nat::{Allocation, Filtering, Mapping, NatSpec};
use crate::network::{Gateway, HostId, INTERNET, LinkSpec, Network, ZoneId};
use crate::world::World;

/// How a machine is attached to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A public address, nothing in between.
    Open,
    /// A public IPv4 address behind a stateful firewall.
    Firewall,
    /// EIM, EIF.
    FullCone,
    /// EIM, ADF.
    AddressRestricted,
    /// EIM, APDF, port preserved.
    PortRestricted,
    /// EIM, APDF, random ports.
    PortRestrictedRandom,
    /// ADM, ADF.
    AddressDependent,
    /// APDM, APDF, random ports.
    Symmetric,
    /// IPv6 only, no NAT, behind a stateful firewall.
    Ipv6Firewall,
}

impl Kind {
    /// The kinds between which ordinary checks must always find a path.
    pub const EASY: [Self; 5] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedRandom,
    ];

    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedRandom,
        Self::AddressDependent,
        Self::Symmetric,
        Self::Ipv6Firewall,
    ];

    /// The NAT at `public`; `None` where there is none.
    fn nat(self, public: IpAddr) -> Option<NatSpec> {
        Some(match self {
            Self::Open | Self::Firewall | Self::Ipv6Firewall => return None,
            Self::FullCone => NatSpec::full_cone(public),
            Self::AddressRestricted => NatSpec::address_restricted(public),
            Self::PortRestricted => NatSpec::port_restricted(public),
            Self::PortRestrictedRandom => NatSpec {
                allocation: Allocation::Random,
                ..NatSpec::port_restricted(public)
            },
            Self::AddressDependent => NatSpec {
                allocation: Allocation::Random,
                ..NatSpec::new(
                    Mapping::AddressDependent,
                    Filtering::AddressDependent,
                    public,
                )
            },
            Self::Symmetric => NatSpec::symmetric(Allocation::Random, public),
        })
    }
}

/// Where the two machines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Each behind its own.
    Apart(Kind, Kind),
    /// In one LAN behind one NAT of this kind.
    SameLan(Kind),
}

/// A network with two machines and a STUN server, all ready.
pub fn world(place: Place, link: LinkSpec, seed: u64, start: Instant) -> World {
    let mut network = Network::new(seed, start);
    // Half of the one-way delay on each side's access line.
    let stun: [IpAddr; 4] = [
        Ipv4Addr::new(203, 0, 113, 1).into(),
        Ipv4Addr::new(203, 0, 113, 2).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
    ];
    let stun = network.add_host(INTERNET, &stun);
    let (a, b) = match place {
        Place::Apart(a, b) => {
            let a = attach(&mut network, a, 10, link);
            let b = attach(&mut network, b, 20, link);
            (a, b)
        }
        Place::SameLan(kind) => {
            let zone = zone(&mut network, kind, 10, link);
            let a = network.add_host(zone, &[IpAddr::from([10, 1, 10, 2])]);
            let b = network.add_host(zone, &[IpAddr::from([10, 1, 10, 3])]);
            (a, b)
        }
    };
    let signal_delay = link.delay.max(Duration::from_micros(100));
    World::new(network, [a, b, stun], signal_delay, seed ^ 0x5eed, start)
}

fn zone(network: &mut Network, kind: Kind, number: u8, link: LinkSpec) -> ZoneId {
    let public = IpAddr::from([203, 0, 113, number]);
    match kind.nat(public) {
        Some(nat) => network.add_zone(INTERNET, Gateway::Nat(nat), link),
        None if kind == Kind::Open => INTERNET,
        None => network.add_zone(INTERNET, Gateway::Firewall, link),
    }
}

fn attach(network: &mut Network, kind: Kind, number: u8, link: LinkSpec) -> HostId {
    let zone = zone(network, kind, number, link);
    let address: IpAddr = match kind {
        Kind::Open => [203, 0, 113, number].into(),
        Kind::Firewall => [198, 51, 100, number].into(),
        Kind::Ipv6Firewall => Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, 2).into(),
        _ => [10, 1, number, 2].into(),
    };
    let host = network.add_host(zone, &[address]);
    if kind == Kind::Open {
        network.set_access_link(host, link);
    }
    host
}
