//! The simulated internet: zones behind gateways, links between them, packets in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::hash::FixedMap;
use crate::nat::{DEFAULT_TIMEOUT, Nat, NatSpec};

/// The public internet, the zone in which every topology is rooted.
pub const INTERNET: ZoneId = ZoneId(0);

/// How many routers the internet has: a packet with less TTL opens only its sender's gateways.
pub const INTERNET_HOPS: u8 = 8;

/// A network in which addresses reach each other directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(usize);

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// What stands between a zone and its parent.
#[derive(Debug, Clone, PartialEq)]
pub enum Gateway {
    /// Translates; its public addresses belong to the parent zone.
    Nat(NatSpec),
    /// Filters ([`NatSpec::firewall`]); the addresses behind it are valid in the parent zone too.
    Firewall,
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
    /// The node that receives.
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
    /// A gateway had no room, port or public address for a new mapping.
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
    owners: FixedMap<(ZoneId, IpAddr), HostId>,
    /// When which packet goes on; the number in the middle keeps equal times in order.
    events: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    packets: Vec<Option<(Stage, Datagram)>>,
    unused: Vec<usize>,
    sequence: u64,
    drops: BTreeMap<Dropped, u64>,
}

/// The internet is its own parent; its link is what every packet crosses there.
#[derive(Debug)]
struct Zone {
    parent: ZoneId,
    gate: Nat,
    link: LinkSpec,
}

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<(ZoneId, IpAddr)>,
    access: LinkSpec,
}

/// Where a packet is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Sent there, or on its way up.
    InZone(ZoneId),
    /// On its way down.
    AtGateway(ZoneId),
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
            owners: FixedMap::default(),
            events: BinaryHeap::new(),
            packets: Vec::new(),
            unused: Vec::new(),
            sequence: 0,
            drops: BTreeMap::new(),
        };
        network.add_zone(INTERNET, Gateway::Firewall, LinkSpec::default());
        network
    }

    /// Creates a zone behind a gateway; `link` joins the gateway to the parent zone.
    pub fn add_zone(&mut self, parent: ZoneId, gateway: Gateway, link: LinkSpec) -> ZoneId {
        let gate = gateway.build();
        let public = gate.spec().public.iter();
        public.for_each(|ip| self.assert_free(parent, *ip));
        self.zones.push(Zone { parent, gate, link });
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
        self.owners.insert((zone, address), host);
        self.hosts[host.0].addresses.push((zone, address));
    }

    /// Moves a host to other addresses, or with none off the network; packets that are under way
    /// to the old ones find nobody.
    pub fn set_addresses(&mut self, host: HostId, zone: ZoneId, addresses: &[IpAddr]) {
        for place in take(&mut self.hosts[host.0].addresses) {
            self.owners.remove(&place);
        }
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

    /// All zones, the internet first.
    pub fn zones(&self) -> impl Iterator<Item = ZoneId> + use<> {
        (0..self.zones.len()).map(ZoneId)
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
        let meant = |ip: IpAddr| ip == src || src.is_unspecified();
        let fits = |ip: IpAddr| meant(ip) && ip.is_ipv4() == dst.is_ipv4();
        let Host { addresses, access } = &self.hosts[host.0];
        if let Some(&(zone, ip)) = addresses.iter().find(|(_, ip)| fits(*ip)) {
            datagram.src.set_ip(ip);
            self.carry(*access, Stage::InZone(zone), datagram);
        } else {
            self.count(Dropped::NoSourceAddress);
        }
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets everything happen that is due, up to the next delivery.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<Delivery> {
        while let Some(&Reverse((at, _, place))) = self.events.peek()
            && at <= now
        {
            self.events.pop();
            self.unused.push(place);
            let Some((stage, packet)) = self.packets[place].take() else {
                continue;
            };
            self.clock = at;
            match self.step(stage, packet) {
                Ok(None) => {}
                Ok(delivery) => return delivery,
                Err(reason) => self.count(reason),
            }
        }
        None
    }

    /// Where a zone sends packets for this address, if not up.
    pub(crate) fn resolve(&self, zone: ZoneId, ip: IpAddr) -> Option<Stage> {
        let host = self.owners.get(&(zone, ip));
        let has = |child: &ZoneId| match self.gate(*child).spec() {
            _ if self.parent(*child) != zone => false,
            spec if spec.is_transparent() => self.resolve(*child, ip).is_some(),
            spec => spec.public.contains(&ip),
        };
        let mut others = (1..self.zones.len()).map(ZoneId);
        let below = || others.find(has).map(Stage::AtGateway);
        host.map(|host| Stage::AtHost(*host)).or_else(below)
    }

    fn step(&mut self, stage: Stage, mut packet: Datagram) -> Outcome {
        let dst = packet.dst.ip();
        match stage {
            Stage::InZone(INTERNET) => {
                spend(&mut packet, INTERNET_HOPS)?;
                self.forward(INTERNET, self.zones[0].link, packet)
            }
            Stage::InZone(zone) if self.resolve(zone, dst).is_none() => self.leave(zone, packet),
            Stage::InZone(zone) => self.forward(zone, LinkSpec::default(), packet),
            Stage::AtGateway(zone) => {
                spend(&mut packet, 1)?;
                self.enter(zone, packet)
            }
            Stage::AtHost(host) => {
                let (from, to, payload) = (packet.src, packet.dst, packet.payload);
                let mut own = self.addresses(host).iter();
                own.find(|(_, ip)| *ip == dst).ok_or(Dropped::NoRoute)?;
                Ok(Some(Delivery {
                    host,
                    from,
                    to,
                    payload,
                }))
            }
        }
    }

    /// Through a zone's gateway to the outside, or straight back in.
    fn leave(&mut self, zone: ZoneId, mut packet: Datagram) -> Outcome {
        spend(&mut packet, 1)?;
        let Zone { parent, gate, link } = &mut self.zones[zone.0];
        let hairpin = gate.spec().public.contains(&packet.dst.ip());
        if hairpin && !gate.spec().hairpinning {
            return Err(Dropped::NoHairpinning);
        }
        let public = gate.outbound(self.clock, packet.src, packet.dst, &mut self.rng);
        packet.src = public.ok_or(Dropped::TableFull)?;
        if hairpin {
            return self.enter(zone, packet);
        }
        let (link, next) = (*link, Stage::InZone(*parent));
        self.carry(link, next, packet);
        Ok(None)
    }

    /// Through a zone's gateway to the inside.
    fn enter(&mut self, zone: ZoneId, mut packet: Datagram) -> Outcome {
        let gate = &mut self.zones[zone.0].gate;
        packet.dst = match gate.inbound(self.clock, packet.src, packet.dst) {
            Some(inside) => inside,
            None if gate.is_mapped(packet.dst) => return Err(Dropped::Filtered),
            None => return Err(Dropped::NoMapping),
        };
        self.forward(zone, LinkSpec::default(), packet)
    }

    fn forward(&mut self, zone: ZoneId, link: LinkSpec, packet: Datagram) -> Outcome {
        let next = self.resolve(zone, packet.dst.ip());
        self.carry(link, next.ok_or(Dropped::NoRoute)?, packet);
        Ok(None)
    }

    /// Over a link, and over that which leads to the next stage.
    fn carry(&mut self, link: LinkSpec, next: Stage, packet: Datagram) {
        let last = match next {
            Stage::InZone(_) => LinkSpec::default(),
            Stage::AtGateway(zone) => self.zones[zone.0].link,
            Stage::AtHost(host) => self.hosts[host.0].access,
        };
        let mut arrivals = [None; 4];
        let mut count = 0;
        for at in self.cross(self.clock, link).into_iter().flatten() {
            for at in self.cross(at, last).into_iter().flatten() {
                arrivals[count] = Some(at);
                count += 1;
            }
        }
        let mut arrivals = arrivals.into_iter().flatten();
        let Some(first) = arrivals.next() else {
            return;
        };
        for at in arrivals {
            self.schedule(at, next, packet.clone());
        }
        self.schedule(first, next, packet);
    }

    fn schedule(&mut self, at: Instant, stage: Stage, packet: Datagram) {
        let place = self.unused.pop().unwrap_or(self.packets.len());
        if place == self.packets.len() {
            self.packets.push(None);
        }
        self.packets[place] = Some((stage, packet));
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, place)));
    }

    /// When the copies of a packet come out of a link. Draws only what the link leaves to chance.
    fn cross(&mut self, at: Instant, link: LinkSpec) -> [Option<Instant>; 2] {
        if link.loss > 0.0 && self.dice() < link.loss {
            self.count(Dropped::Loss);
            return [None; 2];
        }
        let is_double = link.duplicate > 0.0 && self.dice() < link.duplicate;
        let mut late = || match link.jitter {
            Duration::ZERO => at + link.delay,
            jitter => at + link.delay + jitter.mul_f64(self.dice()),
        };
        [Some(late()), is_double.then(late)]
    }

    /// Evenly from 0 to 1, without 1.
    fn dice(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn count(&mut self, reason: Dropped) {
        *self.drops.entry(reason).or_default() += 1;
    }

    fn assert_free(&self, zone: ZoneId, ip: IpAddr) {
        assert_eq!(self.resolve(zone, ip), None, "{ip} is taken in {zone:?}");
    }
}

type Outcome = Result<Option<Delivery>, Dropped>;

impl Gateway {
    fn build(self) -> Nat {
        Nat::new(match self {
            Self::Nat(spec) => spec,
            Self::Firewall => NatSpec::firewall(DEFAULT_TIMEOUT),
        })
    }
}

fn spend(packet: &mut Datagram, hops: u8) -> Result<(), Dropped> {
    packet.ttl = packet.ttl.saturating_sub(hops);
    let alive = (packet.ttl > 0).then_some(());
    alive.ok_or(Dropped::TtlExpired)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;

    const ROUGH: LinkSpec = LinkSpec {
        loss: 0.2,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(30),
        duplicate: 0.1,
    };

    /// Sends 2,000 packets, 1 ms apart; answers with their numbers and delays as they arrive.
    fn trace(seed: u64, link: LinkSpec) -> Vec<(u64, u128)> {
        let start = Instant::now();
        let mut network = Network::new(seed, start);
        let [a, b] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let [sender, _] = [a, b].map(|ip| network.add_host(INTERNET, &[ip]));
        network.set_link(INTERNET, link);
        for number in 0..2000_u64 {
            let datagram = Datagram {
                src: SocketAddr::new(a, 1),
                dst: SocketAddr::new(b, 2),
                ttl: INTERNET_HOPS + 1,
                payload: number.to_be_bytes().to_vec(),
            };
            network.send(start + Duration::from_millis(number), sender, datagram);
        }
        let mut arrivals = Vec::new();
        while let Some(now) = network.next_event() {
            while let Some(packet) = network.poll_delivery(now) {
                let number = u64::from_be_bytes(packet.payload.try_into().unwrap());
                arrivals.push((number, (now - start).as_millis() - u128::from(number)));
            }
        }
        arrivals
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        assert_eq!(trace(7, ROUGH), trace(7, ROUGH));
        assert_ne!(trace(7, ROUGH), trace(8, ROUGH));
    }

    #[test]
    fn packets_are_lost_doubled_delayed_and_overtaken_as_the_link_says() {
        let arrivals = trace(7, ROUGH);
        assert!(arrivals.iter().all(|(_, late)| (20..=50).contains(late)));
        assert!(!arrivals.is_sorted_by_key(|(number, _)| *number));
        assert!((1700..1820).contains(&arrivals.len()));
        let distinct = BTreeMap::from_iter(arrivals).len();
        assert!((1560..1640).contains(&distinct));
        assert!(trace(7, LinkSpec::default()).is_sorted());
    }
}
