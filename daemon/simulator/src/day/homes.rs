//! Where the two machines are: each has some networks, behind routers that it moves between.

use std::net::{IpAddr, Ipv4Addr};

use super::program::Dice;
use crate::nat::NatSpec;
use crate::network::{Gateway, HostId, INTERNET, LinkSpec, Network, ZoneId};
use crate::scenario::Kind;

/// How many networks each machine has.
const PLACES: u8 = 3;
/// Behind these, ordinary checks find a path to each other.
const EASY: [Kind; 8] = [
    Kind::Open,
    Kind::FullCone,
    Kind::AddressRestricted,
    Kind::PortRestricted,
    Kind::PortRestricted,
    Kind::PortRestricted,
    Kind::PortRestrictedRandom,
    Kind::PortRestrictedBrief,
];
/// Behind these it takes a search, or the relay.
const HARD: [Kind; 4] = [
    Kind::Symmetric,
    Kind::SymmetricBlock,
    Kind::AddressDependent,
    Kind::PortRestrictedStateful,
];

/// One of a machine's networks.
struct Place {
    kind: Kind,
    zone: ZoneId,
    nat: Option<NatSpec>,
    address: IpAddr,
}

/// A machine's networks, and the one in which it is.
pub(super) struct Home {
    pub(super) host: HostId,
    places: Vec<Place>,
    current: usize,
    /// How often a router has got another address.
    renumbered: u8,
    side: u8,
}

impl Home {
    /// The networks of a machine, which is in the first one.
    pub(super) fn new(network: &mut Network, side: u8, dice: &mut Dice) -> Self {
        let places: Vec<_> = (0..PLACES)
            .map(|number| {
                let kind = if dice.below(5) == 0 {
                    dice.one(HARD)
                } else {
                    dice.one(EASY)
                };
                let public = Ipv4Addr::new(198, 18 + side, number, 1);
                match kind.nat(public, &mut dice.0) {
                    Some(nat) => {
                        let gateway = Gateway::Nat(nat.clone());
                        Place {
                            kind,
                            zone: network.add_zone(INTERNET, gateway, LinkSpec::default()),
                            nat: Some(nat),
                            address: [10, side, number, 2].into(),
                        }
                    }
                    None => Place {
                        kind,
                        zone: INTERNET,
                        nat: None,
                        address: public.into(),
                    },
                }
            })
            .collect();
        let host = network.add_host(places[0].zone, &[places[0].address]);
        Self {
            host,
            places,
            current: 0,
            renumbered: 0,
            side,
        }
    }

    /// The kinds of its networks.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        self.places.iter().map(|place| place.kind).collect()
    }

    /// The kind of network that the machine is in.
    pub(super) fn kind(&self) -> Kind {
        self.places[self.current].kind
    }

    /// The machine's address.
    pub(super) fn address(&self) -> IpAddr {
        self.places[self.current].address
    }

    /// The machine goes to its next network.
    pub(super) fn go(&mut self, network: &mut Network) {
        self.current = (self.current + 1) % self.places.len();
        let place = &self.places[self.current];
        network.set_addresses(self.host, place.zone, &[place.address]);
    }

    /// The router forgets everything; returns whether there is one.
    pub(super) fn reboot(&self, network: &mut Network) -> bool {
        let Place { zone, nat, .. } = &self.places[self.current];
        if let Some(nat) = nat {
            network.set_gateway(*zone, Gateway::Nat(nat.clone()));
        }
        nat.is_some()
    }

    /// The router gets another public address; returns whether there is one.
    pub(super) fn renumber(&mut self, network: &mut Network) -> bool {
        self.renumbered = self.renumbered % 250 + 1;
        let number = u8::try_from(self.current).unwrap_or(u8::MAX);
        let public = Ipv4Addr::new(198, 18 + self.side, number, 1 + self.renumbered);
        if let Some(nat) = &mut self.places[self.current].nat {
            nat.public = vec![public.into()];
        }
        self.reboot(network)
    }
}
