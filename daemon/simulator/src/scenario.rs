//! The kinds of attachment that tests and figures run over, and networks made of two of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use punch_traversal::Budget;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::nat::{Allocation, Filtering, Mapping, NatSpec, Pooling};
use crate::network::{Gateway, HostId, INTERNET, LinkSpec, Network, ZoneId};
use crate::world::World;

/// How a machine is attached to the internet. "Drawn" means: from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// EIM, APDF, sequential ports.
    PortRestrictedSequential,
    /// EIM, APDF, random ports.
    PortRestrictedRandom,
    /// EIM, APDF, four public addresses: each socket gets any of them.
    PortRestrictedPool,
    /// EIM, APDF, port preserved; mappings live for 15 s.
    PortRestrictedBrief,
    /// A Linux router without an input filter: what comes too early takes the port.
    PortRestrictedStateful,
    /// A Linux router with room for 16 entries, one for each destination.
    SmallTable,
    /// A port-restricted home behind a port-restricted carrier.
    DoubleEasy,
    /// ADM, ADF, random ports.
    AddressDependent,
    /// APDM, APDF, sequential ports: step (1 to 8), direction and the other hosts' mappings per
    /// second (0 to 20) are drawn.
    SymmetricSequential,
    /// APDM, APDF, random ports in a block of 1,024; which block is drawn.
    SymmetricBlock,
    /// APDM, APDF, random ports.
    Symmetric,
    /// As `Symmetric`, with four public addresses: each mapping gets any of them.
    SymmetricPool,
    /// A port-restricted home behind a carrier like `Symmetric`.
    DoubleHard,
    /// IPv4 as `Symmetric`, and IPv6 behind a stateful firewall.
    DualStack,
    /// IPv6 only, no NAT, behind a stateful firewall.
    Ipv6Firewall,
}

/// What stands between a kind and a peer, over IPv4 if it has that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HardClass {
    /// The endpoint is known, and whoever is at an address to which this one has sent gets in:
    /// ordinary checks suffice with any peer that has one address.
    Reachable,
    /// The endpoint is known, but only packets from where this one has sent get in.
    Easy,
    /// As `Easy`, for as long as this one sends before the other's packets arrive.
    Fragile,
    /// One unknown port for each address of a peer, open to all its ports.
    AddressDependent,
    /// Unknown ports that can be predicted.
    Sequential,
    /// Unknown ports in a block of 1,024.
    Block,
    /// Unknown ports anywhere.
    Random,
    /// Unknown ports anywhere, on one of several addresses.
    RandomPool,
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

    /// The kinds between which ordinary checks do what the oracle says, no more and no less.
    pub const ICE: [Self; 14] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedSequential,
        Self::PortRestrictedRandom,
        Self::PortRestrictedPool,
        Self::PortRestrictedBrief,
        Self::SmallTable,
        Self::DoubleEasy,
        Self::AddressDependent,
        Self::Symmetric,
        Self::Ipv6Firewall,
    ];

    /// All of them, the easier ones first.
    pub const ALL: [Self; 20] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedSequential,
        Self::PortRestrictedRandom,
        Self::PortRestrictedPool,
        Self::PortRestrictedBrief,
        Self::PortRestrictedStateful,
        Self::SmallTable,
        Self::DoubleEasy,
        Self::AddressDependent,
        Self::SymmetricSequential,
        Self::SymmetricBlock,
        Self::Symmetric,
        Self::SymmetricPool,
        Self::DoubleHard,
        Self::DualStack,
        Self::Ipv6Firewall,
    ];

    /// Its name in arguments, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::PortRestrictedSequential => "port-restricted-sequential",
            Self::PortRestrictedRandom => "port-restricted-random",
            Self::PortRestrictedPool => "port-restricted-pool",
            Self::PortRestrictedBrief => "port-restricted-brief",
            Self::PortRestrictedStateful => "port-restricted-stateful",
            Self::SmallTable => "small-table",
            Self::DoubleEasy => "double-easy",
            Self::AddressDependent => "address-dependent",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::SymmetricBlock => "symmetric-block",
            Self::Symmetric => "symmetric",
            Self::SymmetricPool => "symmetric-pool",
            Self::DoubleHard => "double-hard",
            Self::DualStack => "dual-stack",
            Self::Ipv6Firewall => "ipv6-firewall",
        }
    }

    /// What stands between it and a peer.
    pub fn class(self) -> HardClass {
        match self {
            Self::Open | Self::FullCone | Self::AddressRestricted => HardClass::Reachable,
            Self::Firewall
            | Self::PortRestricted
            | Self::PortRestrictedSequential
            | Self::PortRestrictedRandom
            | Self::PortRestrictedPool
            | Self::PortRestrictedBrief
            | Self::SmallTable
            | Self::DoubleEasy
            | Self::Ipv6Firewall => HardClass::Easy,
            Self::PortRestrictedStateful => HardClass::Fragile,
            Self::AddressDependent => HardClass::AddressDependent,
            Self::SymmetricSequential => HardClass::Sequential,
            Self::SymmetricBlock => HardClass::Block,
            Self::Symmetric | Self::DoubleHard | Self::DualStack => HardClass::Random,
            Self::SymmetricPool => HardClass::RandomPool,
        }
    }

    /// Whether it has an IPv4 address.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6Firewall
    }

    /// Whether it has an IPv6 address.
    pub fn has_ipv6(self) -> bool {
        matches!(self, Self::Ipv6Firewall | Self::DualStack)
    }

    /// The NAT at `public`, with its pool at the next addresses; `None` where there is none.
    fn nat(self, public: Ipv4Addr, rng: &mut ChaCha8Rng) -> Option<NatSpec> {
        let ip = IpAddr::V4(public);
        let easy = NatSpec::port_restricted(ip);
        let pool = || (0..4).map(|n| Ipv4Addr::from_bits(public.to_bits() + n).into());
        Some(match self {
            Self::Open | Self::Firewall | Self::Ipv6Firewall => return None,
            Self::FullCone => NatSpec::full_cone(ip),
            Self::AddressRestricted => NatSpec::address_restricted(ip),
            Self::PortRestricted | Self::DoubleEasy | Self::DoubleHard => easy,
            Self::PortRestrictedSequential => NatSpec {
                allocation: Allocation::Sequential { step: 1 },
                ..easy
            },
            Self::PortRestrictedRandom => NatSpec {
                allocation: Allocation::Random,
                ..easy
            },
            Self::PortRestrictedPool => NatSpec {
                public: pool().collect(),
                pooling: Pooling::Arbitrary,
                ..easy
            },
            Self::PortRestrictedBrief => NatSpec {
                timeout: Duration::from_secs(15),
                ..easy
            },
            Self::PortRestrictedStateful => NatSpec {
                keeps_unsolicited: true,
                ..NatSpec::linux(ip)
            },
            Self::SmallTable => NatSpec {
                capacity: 16,
                ..NatSpec::linux(ip)
            },
            Self::AddressDependent => NatSpec {
                allocation: Allocation::Random,
                ..NatSpec::new(Mapping::AddressDependent, Filtering::AddressDependent, ip)
            },
            Self::SymmetricSequential => {
                let step = 1 + pick(rng, 8) as u16;
                let is_down = pick(rng, 2) == 1;
                let step = if is_down { step.wrapping_neg() } else { step };
                NatSpec {
                    others: f64::from(pick(rng, 21)),
                    ..NatSpec::symmetric(Allocation::Sequential { step }, ip)
                }
            }
            Self::SymmetricBlock => {
                let low = BLOCK * (1 + pick(rng, 63) as u16);
                let high = low + (BLOCK - 1);
                NatSpec::symmetric(Allocation::RandomIn { low, high }, ip)
            }
            Self::Symmetric | Self::DualStack => hard(ip),
            Self::SymmetricPool => NatSpec {
                public: pool().collect(),
                pooling: Pooling::Arbitrary,
                ..hard(ip)
            },
        })
    }

    /// The carrier's NAT in front of the home's, if there is one.
    fn carrier(self, public: Ipv4Addr) -> Option<NatSpec> {
        match self {
            Self::DoubleEasy => Some(NatSpec::port_restricted(public.into())),
            Self::DoubleHard => Some(hard(public.into())),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind(pub String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Kind::ALL.map(Kind::name).join(", ");
        write!(f, "there is no kind \"{}\"; use one of: {names}", self.0)
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// Where the two machines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Each behind its own.
    Apart(Kind, Kind),
    /// In one LAN behind one NAT of this kind.
    SameLan(Kind),
    /// In two homes of this kind, both behind one port-restricted carrier.
    SameCarrier {
        /// The homes' NATs.
        home: Kind,
        /// Whether the carrier lets them meet at its public address.
        hairpinning: bool,
    },
}

/// How many ports [`Kind::SymmetricBlock`] has.
const BLOCK: u16 = 1024;

/// A network with two machines and a STUN server, all ready, with the normal budget.
pub fn world(place: Place, link: LinkSpec, seed: u64, start: Instant) -> World {
    world_with(place, link, Budget::Normal, seed, start)
}

/// As [`world`], with another budget on both sides.
pub fn world_with(
    place: Place,
    link: LinkSpec,
    budget: Budget,
    seed: u64,
    start: Instant,
) -> World {
    let mut network = Network::new(seed, start);
    // Half of the one-way delay on each side's access line.
    let stun: [IpAddr; 4] = [
        Ipv4Addr::new(203, 0, 113, 1).into(),
        Ipv4Addr::new(203, 0, 113, 2).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
    ];
    let stun = network.add_host(INTERNET, &stun);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6b69_6e64);
    let mut builder = Builder {
        network: &mut network,
        link,
        rng: &mut rng,
    };
    let (a, b) = match place {
        Place::Apart(a, b) => (builder.attach(a, 10), builder.attach(b, 20)),
        Place::SameLan(kind) => {
            let zone = builder.zone(kind, 10);
            let a = network.add_host(zone, &[IpAddr::from([10, 1, 10, 2])]);
            let b = network.add_host(zone, &[IpAddr::from([10, 1, 10, 3])]);
            (a, b)
        }
        Place::SameCarrier { home, hairpinning } => builder.neighbours(home, hairpinning),
    };
    let signal_delay = link.delay.max(Duration::from_micros(100));
    World::new(
        network,
        [a, b, stun],
        signal_delay,
        budget,
        seed ^ 0x5eed,
        start,
    )
}

/// Adds zones and hosts; `number` tells the sides apart in their addresses.
struct Builder<'a> {
    network: &'a mut Network,
    link: LinkSpec,
    rng: &'a mut ChaCha8Rng,
}

impl Builder<'_> {
    fn attach(&mut self, kind: Kind, number: u8) -> HostId {
        let zone = self.zone(kind, number);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 2).into();
        let address: IpAddr = match kind {
            Kind::Open => [203, 0, 113, number].into(),
            Kind::Firewall => [198, 51, 100, number].into(),
            Kind::Ipv6Firewall => ipv6,
            _ => [10, 1, number, 2].into(),
        };
        let host = self.network.add_host(zone, &[address]);
        if kind == Kind::Open {
            self.network.set_access_link(host, self.link);
        }
        if kind == Kind::DualStack {
            let zone = self
                .network
                .add_zone(INTERNET, Gateway::Firewall, self.link);
            self.network.add_address(host, zone, ipv6);
        }
        host
    }

    /// The zone in which a machine of this kind is.
    fn zone(&mut self, kind: Kind, number: u8) -> ZoneId {
        let public = Ipv4Addr::new(203, 0, 113, number);
        if let Some(carrier) = kind.carrier(public) {
            let carrier = self
                .network
                .add_zone(INTERNET, Gateway::Nat(carrier), self.link);
            let inner = Ipv4Addr::new(100, 64, number, 2);
            return self.home(kind, carrier, inner, LinkSpec::default());
        }
        self.home(kind, INTERNET, public, self.link)
    }

    fn home(&mut self, kind: Kind, parent: ZoneId, public: Ipv4Addr, link: LinkSpec) -> ZoneId {
        match kind.nat(public, self.rng) {
            Some(nat) => self.network.add_zone(parent, Gateway::Nat(nat), link),
            None if kind == Kind::Open => parent,
            None => self.network.add_zone(parent, Gateway::Firewall, link),
        }
    }

    /// Two homes behind one carrier. Each has its own line to it.
    fn neighbours(&mut self, kind: Kind, hairpinning: bool) -> (HostId, HostId) {
        let carrier = NatSpec {
            hairpinning,
            ..NatSpec::port_restricted([203, 0, 113, 10].into())
        };
        let uplink = LinkSpec::default();
        let carrier = self
            .network
            .add_zone(INTERNET, Gateway::Nat(carrier), uplink);
        let mut host = |number: u8| {
            let public = Ipv4Addr::new(100, 64, number, 2);
            let zone = self.home(kind, carrier, public, self.link);
            let address = IpAddr::from([10, 1, number, 2]);
            self.network.add_host(zone, &[address])
        };
        (host(10), host(20))
    }
}

/// The hardest NAT.
fn hard(public: IpAddr) -> NatSpec {
    NatSpec::symmetric(Allocation::Random, public)
}

/// A number below `end`, good enough for a few choices.
fn pick(rng: &mut ChaCha8Rng, end: u32) -> u32 {
    rng.next_u32() % end
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;
    use crate::oracle::{Verdict, Via, Why, can_connect};
    use crate::world::Side;

    fn verdict(place: Place) -> Verdict {
        let world = world(place, LinkSpec::default(), 1, Instant::now());
        can_connect(world.network(), world.host(Side::A), world.host(Side::B))
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_found_by_it() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "cone".parse::<Kind>().unwrap_err().to_string();
        assert!(error.contains("\"cone\"") && error.contains("full-cone, "));
    }

    #[test]
    fn classes_agree_with_the_oracle() {
        for kind in Kind::ALL {
            let expected = match kind.class() {
                HardClass::Reachable => [true, true],
                HardClass::Easy | HardClass::Fragile => [true, false],
                _ => [false, false],
            };
            if kind.has_ipv4() {
                let with = [Kind::PortRestricted, Kind::Symmetric];
                let direct = with.map(|other| {
                    matches!(verdict(Place::Apart(kind, other)), Verdict::Direct { .. })
                });
                assert_eq!(direct, expected, "{kind}");
            }
        }
        let dual = verdict(Place::Apart(Kind::DualStack, Kind::Ipv6Firewall));
        assert_eq!(
            dual,
            Verdict::Direct {
                via: Via::BothKnown
            }
        );
    }

    #[test]
    fn what_is_drawn_depends_on_the_seed_alone_and_stays_within_bounds() {
        let draw = |kind: Kind, seed| {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            kind.nat(Ipv4Addr::new(203, 0, 113, 10), rng).unwrap()
        };
        let (mut steps, mut blocks) = (Vec::new(), Vec::new());
        for seed in 0..200 {
            let sequential = draw(Kind::SymmetricSequential, seed);
            assert_eq!(sequential, draw(Kind::SymmetricSequential, seed));
            assert!((0.0..=20.0).contains(&sequential.others));
            if let Allocation::Sequential { step } = sequential.allocation {
                steps.push(step.cast_signed());
            }
            if let Allocation::RandomIn { low, high } = draw(Kind::SymmetricBlock, seed).allocation
            {
                assert_eq!(u32::from(high) - u32::from(low), 1023);
                blocks.push(low);
            }
        }
        steps.sort_unstable();
        steps.dedup();
        assert!(steps.iter().copied().eq((-8..=-1).chain(1..=8)));
        blocks.sort_unstable();
        blocks.dedup();
        assert!(blocks.len() > 50 && blocks[0] >= 1024);
    }

    #[test]
    fn neighbours_behind_a_carrier_need_hairpinning() {
        let place = |hairpinning| Place::SameCarrier {
            home: Kind::PortRestricted,
            hairpinning,
        };
        let via = Via::Hairpinning;
        assert_eq!(verdict(place(true)), Verdict::Direct { via });
        let why = Why::NoHairpinning;
        assert_eq!(verdict(place(false)), Verdict::Impossible { why });
        let double = Place::Apart(Kind::DoubleEasy, Kind::DoubleEasy);
        assert_eq!(
            verdict(double),
            Verdict::Direct {
                via: Via::BothKnown
            }
        );
    }
}
