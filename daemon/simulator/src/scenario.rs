//! The kinds of attachment that tests and figures run over, and networks made of two of them.

mod kinds;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use punch_traversal::Budget;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

pub use kinds::{HardClass, Kind, UnknownKind};

use crate::nat::NatSpec;
use crate::network::{Gateway, HostId, INTERNET, LinkSpec, Network, ZoneId};
use crate::world::World;

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

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;
    use crate::nat::Allocation;
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
    fn scarce_kinds_have_the_capacity_of_their_name_and_brief_mappings() {
        for kind in Kind::ALL {
            let (_, number) = kind.name().rsplit_once('-').unwrap_or(("", kind.name()));
            let capacity = number.parse::<u16>().ok();
            assert_eq!(kind.capacity(), capacity, "{kind}");
            assert_eq!(Kind::SCARCE.contains(&kind), capacity.is_some(), "{kind}");
        }
        for kind in Kind::SCARCE {
            let capacity = kind.capacity().unwrap();
            let mut lives = Vec::new();
            for seed in 0..100 {
                let rng = &mut ChaCha8Rng::seed_from_u64(seed);
                let spec = kind.nat(Ipv4Addr::new(203, 0, 113, 10), rng).unwrap();
                lives.push(spec.timeout.as_secs());
                match spec.allocation {
                    Allocation::RandomIn { low, high } => {
                        assert!(spec.exclusive && low >= 1024, "{kind}: {spec:?}");
                        assert_eq!(u32::from(high) + 1, u32::from(low) + u32::from(capacity));
                    }
                    _ => assert_eq!(spec.host_limit, usize::from(capacity), "{kind}"),
                }
            }
            lives.sort_unstable();
            lives.dedup();
            assert_eq!(lives, [30, 60, 120], "{kind}");
        }
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
