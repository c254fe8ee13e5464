//! The simulated internet: zones behind gateways, links between them, packets in virtual time.

use std::collections::BTreeMap;
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::nat::{Nat, NatSpec, Refused};

/// The public internet, the zone in which every topology is rooted.
pub const INTERNET: ZoneId = ZoneId(0);

/// How many routers a packet passes in the public internet: with a smaller TTL it opens the
/// sender's gateways and never reaches the other side's.
pub const INTERNET_HOPS: u8 = 8;

/// A network in which addresses reach each other directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(usize);

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// What stands between a zone and its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateway {
    /// Translates; its public addresses belong to the parent zone.
    Nat(NatSpec),
    /// Filters, with this timeout; the addresses behind it are valid in the parent zone too.
    Firewall(Duration),
}

/// What one direction of a link does to a packet; by default, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkSpec {
    /// The chance that a packet is lost, from 0 to 1.
    pub loss: f64,
    /// How long every packet takes.
    pub delay: Duration,
    /// How much longer a packet may take, evenly spread; packets overtake each other.
    pub jitter: Duration,
    /// The chance that a packet arrives twice, from 0 to 1.
    pub duplicate: f64,
}

/// A UDP packet as a host sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// One of the host's addresses; an unspecified one stands for the first of the right family.
    pub src: SocketAddr,
    /// Where to.
    pub dst: SocketAddr,
    /// How many gateways and routers it may pass, plus one.
    pub ttl: u8,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// A UDP packet as a host receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who receives.
    pub host: HostId,
    /// The source that the receiver sees.
    pub from: SocketAddr,
    /// The receiver's own address and port.
    pub to: SocketAddr,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// A link lost it.
    Loss,
    /// The sender does not have the source address, or none of the destination's family.
    NoSourceAddress,
    /// Nobody has the destination address, or nobody any more.
    NoRoute,
    /// It had passed as many gateways and routers as its TTL allows.
    TtlExpired,
    /// A gateway had nothing mapped at the destination.
    NoMapping,
    /// A gateway had no permission for the sender.
    Filtered,
    /// A gateway had no room or no port for a new mapping.
    TableFull,
    /// It was meant for a NAT's own public address, from inside, and the NAT does not do that.
    NoHairpinning,
}

/// All zones, hosts and packets under way.
///
/// [`Network::send`] what the hosts send; wait until [`Network::next_event`]; then call
/// [`Network::poll_delivery`] until it has nothing more. A gateway translates a packet at the
/// moment at which it gets it, so that crossing packets meet the table in order of time.
/// Ids of another network, and an address taken twice in one zone, panic.
#[derive(Debug)]
pub struct Network {
    rng: ChaCha8Rng,
    clock: Instant,
    zones: Vec<Zone>,
    hosts: Vec<Host>,
    events: BTreeMap<(Instant, u64), (Stage, Datagram)>,
    sequence: u64,
    drops: BTreeMap<Dropped, u64>,
}

/// The internet is its own parent; its link is what every packet crosses there.
#[derive(Debug)]
struct Zone {
    parent: ZoneId,
    gate: Nat,
    link: LinkSpec,
    hosts: BTreeMap<IpAddr, HostId>,
}

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<(ZoneId, IpAddr)>,
    access: LinkSpec,
}

/// Where a packet is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In a zone, sent there or on its way up.
    InZone(ZoneId),
    /// In front of a zone's gateway, on its way down.
    AtGateway(ZoneId),
    /// With its receiver.
    AtHost(HostId),
}

impl Network {
    /// An empty internet with perfect links; the seed decides all that is random.
    pub fn new(seed: u64, start: Instant) -> Self {
        let mut network = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            clock: start,
            zones: Vec::new(),
            hosts: Vec::new(),
            events: BTreeMap::new(),
            sequence: 0,
            drops: BTreeMap::new(),
        };
        let unused = Gateway::Firewall(Duration::ZERO);
        network.add_zone(INTERNET, unused, LinkSpec::default());
        network
    }

    /// Creates a zone behind a gateway; `link` joins the gateway to the parent zone.
    pub fn add_zone(&mut self, parent: ZoneId, gateway: Gateway, link: LinkSpec) -> ZoneId {
        let (gate, hosts) = (gateway.build(), BTreeMap::new());
        let public = gate.spec().public.iter();
        public.for_each(|ip| self.assert_free(parent, *ip));
        self.zones.push(Zone {
            parent,
            gate,
            link,
            hosts,
        });
        ZoneId(self.zones.len() - 1)
    }

    /// Creates a host with addresses in one zone.
    pub fn add_host(&mut self, zone: ZoneId, addresses: &[IpAddr]) -> HostId {
        self.hosts.push(Host::default());
        let host = HostId(self.hosts.len() - 1);
        self.set_addresses(host, zone, addresses);
        host
    }

    /// Gives a host one more address, in the same zone or another.
    pub fn add_address(&mut self, host: HostId, zone: ZoneId, address: IpAddr) {
        self.assert_free(zone, address);
        self.zones[zone.0].hosts.insert(address, host);
        self.hosts[host.0].addresses.push((zone, address));
    }

    /// Takes a host off the network; packets that are under way to it find nobody.
    pub fn remove_addresses(&mut self, host: HostId) {
        for (zone, address) in take(&mut self.hosts[host.0].addresses) {
            self.zones[zone.0].hosts.remove(&address);
        }
    }

    /// Moves a host to other addresses.
    pub fn set_addresses(&mut self, host: HostId, zone: ZoneId, addresses: &[IpAddr]) {
        self.remove_addresses(host);
        for address in addresses {
            self.add_address(host, zone, *address);
        }
    }

    /// Replaces a zone's gateway; with the same spec, a restart that loses all state.
    pub fn set_gateway(&mut self, zone: ZoneId, gateway: Gateway) {
        self.zones[zone.0].gate = gateway.build();
    }

    /// Sets the link between a zone's gateway and the parent zone; for [`INTERNET`], the one that
    /// every packet crosses there.
    pub fn set_link(&mut self, zone: ZoneId, link: LinkSpec) {
        self.zones[zone.0].link = link;
    }

    /// Sets the link between a host and all its zones.
    pub fn set_access_link(&mut self, host: HostId, link: LinkSpec) {
        self.hosts[host.0].access = link;
    }

    /// The addresses of a host, in the order in which it got them.
    pub fn addresses(&self, host: HostId) -> &[(ZoneId, IpAddr)] {
        &self.hosts[host.0].addresses
    }

    /// The zone in front of a zone's gateway; the internet is its own.
    pub fn parent(&self, zone: ZoneId) -> ZoneId {
        self.zones[zone.0].parent
    }

    /// The state of a zone's gateway.
    pub fn gate(&self, zone: ZoneId) -> &Nat {
        &self.zones[zone.0].gate
    }

    /// How many packets were dropped, by reason.
    pub fn drops(&self) -> &BTreeMap<Dropped, u64> {
        &self.drops
    }

    /// Puts a host's packet on the wire.
    pub fn send(&mut self, now: Instant, host: HostId, mut datagram: Datagram) {
        self.clock = self.clock.max(now);
        let (src, dst) = (datagram.src.ip(), datagram.dst.ip());
        let Host { addresses, access } = &self.hosts[host.0];
        let mut fitting = addresses
            .iter()
            .filter(|(_, ip)| ip.is_ipv4() == dst.is_ipv4());
        match fitting.find(|(_, ip)| *ip == src || src.is_unspecified()) {
            Some(&(zone, ip)) => {
                datagram.src.set_ip(ip);
                self.carry(self.clock, *access, Stage::InZone(zone), datagram);
            }
            None => self.count(Dropped::NoSourceAddress),
        }
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Instant> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// Lets everything happen that is due, up to the next delivery.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<Delivery> {
        while let Some(event) = self.events.first_entry()
            && event.key().0 <= now
        {
            let ((at, _), (stage, packet)) = event.remove_entry();
            match self.step(at, stage, packet) {
                Ok(None) => {}
                Ok(delivery) => return delivery,
                Err(reason) => self.count(reason),
            }
        }
        None
    }

    /// Where a zone sends packets for this address, if not up.
    pub(crate) fn resolve(&self, zone: ZoneId, ip: IpAddr) -> Option<Stage> {
        if let Some(host) = self.zones[zone.0].hosts.get(&ip) {
            return Some(Stage::AtHost(*host));
        }
        let has = |child: &ZoneId| match self.gate(*child).spec() {
            firewall if firewall.is_transparent() => self.resolve(*child, ip).is_some(),
            nat => nat.public.contains(&ip),
        };
        let mut children = (1..self.zones.len())
            .map(ZoneId)
            .filter(|id| self.parent(*id) == zone);
        children.find(has).map(Stage::AtGateway)
    }

    fn step(
        &mut self,
        at: Instant,
        stage: Stage,
        mut packet: Datagram,
    ) -> Result<Option<Delivery>, Dropped> {
        match stage {
            Stage::InZone(INTERNET) => {
                spend(&mut packet, INTERNET_HOPS)?;
                self.route(at, INTERNET, packet)?;
            }
            Stage::InZone(zone) if self.resolve(zone, packet.dst.ip()).is_none() => {
                self.leave(at, zone, packet)?
            }
            Stage::InZone(zone) => self.route(at, zone, packet)?,
            Stage::AtGateway(zone) => {
                spend(&mut packet, 1)?;
                self.enter(at, zone, packet)?;
            }
            Stage::AtHost(host) => return self.receive(host, packet).map(Some),
        }
        Ok(None)
    }
}
