//! What ordinary ICE must achieve between two hosts, judged from the topology alone.
//!
//! Ordinary means: host, server-reflexive and peer-reflexive candidates (RFC 8445 sections
//! 5.1.1.1, 5.1.1.2 and 7.3.1.3), a STUN server in the public internet, checks in both directions
//! and triggered checks (7.3.1.4). It means no port prediction, no birthday search and no relay.
//! So `Direct` is a duty, while `Impossible` may yet be beaten by those.
//!
//! A path is a pair of outside endpoints X and Y so that what A sends to Y leaves from X, and what B
//! sends to X leaves from Y: an answer must come back the way the check went (7.2.5.2.1). What
//! decides is whether either side can learn the other's half:
//!
//! - EIM (RFC 4787 section 4.1) has one outside endpoint, which STUN tells. Two such sides open
//!   whatever filters they have (section 5) by sending to each other. A firewall translates
//!   nothing, and is EIM in this sense; so IPv6 behind two of them works (RFC 6092).
//! - APDM makes X only when A sends to Y, and no STUN server sees it. B learns it from A's check,
//!   if that passes B's filter: EIF lets it in, ADF too, since B has sent to A's address before;
//!   APDF wants the port that is not known yet.
//! - APDM on both sides never ends: X is made for a Y that is not made before X is known.
//! - ADM is like APDM against EIM. But ADM has one X for all ports of an address, so ADM against
//!   ADM or APDM needs only one check to get through: to a server-reflexive endpoint behind EIF,
//!   with a filter on the other side that admits the answer from a new port, EIF or ADF.
//! - Several gateways in a row map as their most dependent one does; each filters by what was sent
//!   through the mapping as it is there.
//! - Behind a common outer NAT, server-reflexive endpoints lead back to that NAT, so hairpinning
//!   decides (section 6), unless a host candidate is within reach.
//!
//! Below, this is not a table: both sides are played with idealized gateways until nothing new is
//! learned. Links are taken as good, tables as large enough, mappings as long-lived.

use std::collections::BTreeSet;
use std::iter::successors;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::nat::{Filtering, Mapping, NatSpec, scope};
use crate::network::{HostId, INTERNET, Network, Stage, ZoneId};

/// What ordinary ICE can do; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It must find a direct path.
    Direct {
        /// How.
        via: Via,
    },
    /// It cannot.
    Impossible {
        /// What stands in the way.
        why: Why,
    },
}

/// Why a direct path exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Both are in one zone.
    SameZone,
    /// One side has a known endpoint that admits everybody.
    OpenSide,
    /// Both sides' endpoints are known, and both open their filters by sending.
    BothKnown,
    /// A dependent mapping is learned from a check that gets through.
    PeerReflexive,
    /// Their common NAT sends packets for its own addresses back inside.
    Hairpinning,
}

/// Why there is no direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Their common NAT does not send packets back inside.
    NoHairpinning,
    /// One side's mapping is dependent, and the other's filter hides it.
    FilterHidesMapping,
    /// Both mappings are dependent, and no check gets through.
    BothMappingsDependent,
    /// A gateway passes no UDP.
    UdpBlocked,
    /// Neither knows an address of the other that leads there.
    Unreachable,
    /// No two of their addresses are of one family.
    NoCommonFamily,
}

/// Whether ordinary ICE finds a direct path between two hosts: the best verdict over all pairs of
/// their addresses, which are tried independently (RFC 8445 section 6.1.2.2, RFC 8421).
pub fn can_connect(network: &Network, a: HostId, b: HostId) -> Verdict {
    let ends = |host| {
        let places = network.addresses(host).iter();
        places.map(move |&(zone, ip)| End { host, zone, ip })
    };
    let pairs = ends(a).flat_map(|a| ends(b).map(move |b| (a, b)));
    let same_family = pairs.filter(|(a, b)| a.ip.is_ipv4() == b.ip.is_ipv4());
    match same_family.map(|(a, b)| judge(network, a, b)).min() {
        Some(Ok(via)) => Verdict::Direct { via },
        Some(Err(why)) => Verdict::Impossible { why },
        None => Verdict::Impossible {
            why: Why::NoCommonFamily,
        },
    }
}

#[derive(Clone, Copy)]
struct End {
    host: HostId,
    zone: ZoneId,
    ip: IpAddr,
}

fn judge(network: &Network, a: End, b: End) -> Result<Via, Why> {
    let (up_a, up_b) = (gateways(network, a.zone), gateways(network, b.zone));
    let pairs = up_a.iter().rev().zip(up_b.iter().rev());
    let shared = pairs.take_while(|(a, b)| a.0 == b.0).count();
    let (own_a, common) = up_a.split_at(up_a.len() - shared);
    let own_b = &up_b[..up_b.len() - shared];
    let outermost = common.iter().rposition(|gate| !is_bare(&[*gate]));
    if a.zone == b.zone {
        return Ok(Via::SameZone);
    }
    if is_blocked(own_a) || is_blocked(own_b) {
        return Err(Why::UdpBlocked);
    }

    // In the lowest zone above both. An end that nothing below translates is seen there as it is,
    // and its address must not mean somebody else to the other. That of a translated end is known
    // if STUN is within reach and no NAT further up makes it see another.
    let meets = (!is_bare(own_a) || leads_to(network, b.zone, a))
        && (!is_bare(own_b) || leads_to(network, a.zone, b));
    let is_seen = |up: &[Gate<'_>]| outermost.is_none() && !is_blocked(up);
    let mut side_a = Side::new(1, own_a, is_bare(own_a) || is_seen(&up_a));
    let mut side_b = Side::new(2, own_b, is_bare(own_b) || is_seen(&up_b));
    if meets && converge(&mut side_a, &mut side_b) {
        return Ok(match (side_a.mapping(), side_b.mapping()) {
            _ if side_a.is_open() || side_b.is_open() => Via::OpenSide,
            (EIM, EIM) => Via::BothKnown,
            _ => Via::PeerReflexive,
        });
    }
    if is_blocked(common) {
        return Err(Why::UdpBlocked);
    }

    // Or beyond the NAT whose address the server-reflexive candidates of both have.
    if let Some(outermost) = outermost {
        if !common[outermost].1.hairpinning {
            return Err(Why::NoHairpinning);
        }
        side_a = Side::new(1, &up_a[..=own_a.len() + outermost], true);
        side_b = Side::new(2, &up_b[..=own_b.len() + outermost], true);
        if converge(&mut side_a, &mut side_b) {
            return Ok(Via::Hairpinning);
        }
    }
    Err(match (side_a.mapping(), side_b.mapping()) {
        _ if !meets && outermost.is_none() => Why::Unreachable,
        (EIM, EIM) => Why::Unreachable,
        (EIM, _) | (_, EIM) => Why::FilterHidesMapping,
        _ => Why::BothMappingsDependent,
    })
}

/// The zone behind a gateway, and the gateway.
type Gate<'a> = (ZoneId, &'a NatSpec);

/// The gateways between a zone and the internet, innermost first.
fn gateways(network: &Network, zone: ZoneId) -> Vec<Gate<'_>> {
    let up = successors(Some(zone), |zone| Some(network.parent(*zone)));
    let below = up.take_while(|zone| *zone != INTERNET);
    let gate = |zone| (zone, network.gate(zone).spec());
    below.map(gate).collect()
}

/// Whether addresses behind these gateways are the same before them.
fn is_bare(gates: &[Gate<'_>]) -> bool {
    gates.iter().all(|(_, spec)| spec.is_transparent())
}

fn is_blocked(gates: &[Gate<'_>]) -> bool {
    gates.iter().any(|(_, spec)| spec.capacity == 0)
}

/// Whether packets from a zone to an address reach this end, not another with the same address.
fn leads_to(network: &Network, mut zone: ZoneId, end: End) -> bool {
    loop {
        zone = match network.resolve(zone, end.ip) {
            Some(Stage::AtHost(host)) => return host == end.host,
            Some(Stage::AtGateway(below)) if network.gate(below).spec().is_transparent() => below,
            None if zone != INTERNET => network.parent(zone),
            _ => return false,
        }
    }
}

const EIM: Mapping = Mapping::EndpointIndependent;
const STUN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 3478);

/// More than any two sides need to learn all that they ever will: see the tests.
const ROUNDS: usize = 6;

/// One side with idealized gateways: every mapping has a port of its own.
#[derive(Default)]
struct Side {
    number: u8,
    /// From the inside out: how the mappings depend up to here, and what is filtered here.
    gates: Vec<(Mapping, Filtering)>,
    /// By public port: the part of the destinations on which the mapping depends.
    ports: Vec<SocketAddr>,
    sent: BTreeSet<SocketAddr>,
    /// Where to reach this side, before any check.
    advertised: Option<SocketAddr>,
    /// Where to reach the other side.
    remotes: BTreeSet<SocketAddr>,
}

impl Side {
    fn new(number: u8, gates: &[Gate<'_>], is_known: bool) -> Self {
        let mut mapping = EIM;
        let dependence = |(_, spec): &Gate<'_>| {
            mapping = mapping.max(spec.mapping);
            (mapping, spec.filtering)
        };
        let mut side = Self {
            number,
            gates: gates.iter().map(dependence).collect(),
            ..Self::default()
        };
        let mapped = side.send(STUN);
        side.advertised = is_known.then_some(mapped);
        side
    }

    fn mapping(&self) -> Mapping {
        self.gates.last().map_or(EIM, |(mapping, _)| *mapping)
    }

    fn is_open(&self) -> bool {
        let open = (EIM, Filtering::EndpointIndependent);
        self.advertised.is_some() && self.gates.iter().all(|gate| *gate == open)
    }

    /// Answers with the source that the destination sees.
    fn send(&mut self, dst: SocketAddr) -> SocketAddr {
        self.sent.insert(dst);
        let part = scope(self.mapping() as u8, dst);
        let known = self.ports.iter().position(|port| *port == part);
        let port = known.unwrap_or(self.ports.len());
        if known.is_none() {
            self.ports.push(part);
        }
        SocketAddr::from(([192, 0, 2, self.number], port as u16))
    }

    fn check_all(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        let remotes = self.remotes.clone().into_iter();
        remotes.map(|remote| (self.send(remote), remote)).collect()
    }

    fn admits(&self, src: SocketAddr, dst: SocketAddr) -> bool {
        let Some(part) = self.ports.get(usize::from(dst.port())) else {
            return false;
        };
        let permits = |(mapping, filtering): &(Mapping, Filtering), sent: &SocketAddr| {
            scope(*mapping as u8, *sent) == scope(*mapping as u8, *part)
                && scope(*filtering as u8, *sent) == scope(*filtering as u8, src)
        };
        let gates = &mut self.gates.iter();
        gates.all(|gate| self.sent.iter().any(|sent| permits(gate, sent)))
    }
}

/// Lets both sides check all that they know until they find a path that is the same both ways.
fn converge(a: &mut Side, b: &mut Side) -> bool {
    a.remotes.extend(b.advertised);
    b.remotes.extend(a.advertised);
    for _ in 0..ROUNDS {
        let (mut to_b, mut to_a) = (a.check_all(), b.check_all());
        to_b.retain(|(src, dst)| b.admits(*src, *dst));
        to_a.retain(|(src, dst)| a.admits(*src, *dst));
        if to_b.iter().any(|(x, y)| to_a.contains(&(*y, *x))) {
            return true;
        }
        a.remotes.extend(to_a.into_iter().map(|(src, _)| src));
        b.remotes.extend(to_b.into_iter().map(|(src, _)| src));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Allocation::Random, DEFAULT_TIMEOUT};
    use crate::network::{Datagram, Delivery, Dropped, Gateway, LinkSpec};
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};
    use std::time::Instant;

    const MAPPINGS: [Mapping; 3] = [EIM, Mapping::AddressDependent, APDM];
    const APDM: Mapping = Mapping::AddressAndPortDependent;
    const FILTERINGS: [Filtering; 3] = [EIF, ADF, APDF];
    const EIF: Filtering = Filtering::EndpointIndependent;
    const ADF: Filtering = Filtering::AddressDependent;
    const APDF: Filtering = Filtering::AddressAndPortDependent;

    /// An internet without delays, and its STUN server.
    struct World(Network, Instant, HostId);

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let mut network = Network::new(1, now);
            let addresses = ["198.51.100.9", "2001:db8::9"].map(|ip| ip.parse().unwrap());
            let stun = network.add_host(INTERNET, &addresses);
            Self(network, now, stun)
        }

        fn zone(&mut self, parent: ZoneId, spec: NatSpec) -> ZoneId {
            let link = LinkSpec::default();
            self.0.add_zone(parent, Gateway::Nat(spec), link)
        }

        fn host(&mut self, zone: ZoneId, address: &str) -> HostId {
            self.0.add_host(zone, &[address.parse().unwrap()])
        }

        fn base(&self, host: HostId) -> SocketAddr {
            SocketAddr::new(self.0.addresses(host)[0].1, 5000)
        }

        fn send(&mut self, host: HostId, dst: SocketAddr, ttl: u8, text: &str) {
            let datagram = Datagram {
                src: self.base(host),
                dst,
                ttl,
                payload: text.into(),
            };
            self.0.send(self.1, host, datagram);
        }

        fn next(&mut self) -> Option<Delivery> {
            self.0.poll_delivery(self.1)
        }

        /// Where the STUN server sees a host.
        fn reflexive(&mut self, host: HostId) -> Option<SocketAddr> {
            let is_ipv4 = self.base(host).is_ipv4();
            let server = self.0.addresses(self.2)[usize::from(!is_ipv4)].1;
            self.send(host, SocketAddr::new(server, 3478), 64, "");
            self.next().map(|packet| packet.from)
        }

        /// Plays ICE with real packets.
        fn connects(&mut self, hosts: [HostId; 2]) -> bool {
            let [a, b] = hosts.map(|host| [Some(self.base(host)), self.reflexive(host)]);
            let mut remotes = [b, a].map(|known| BTreeSet::from_iter(known.into_iter().flatten()));
            for side in [0, 1].repeat(ROUNDS) {
                for dst in &remotes[side] {
                    self.send(hosts[side], *dst, 64, &format!("{side} check {dst}"));
                }
                while let Some(packet) = self.next() {
                    let side = usize::from(packet.host == hosts[1]);
                    let text = String::from_utf8(packet.payload).unwrap();
                    let words = Vec::from_iter(text.split(' '));
                    let from = packet.from;
                    if !hosts.contains(&packet.host) || words[0] == side.to_string() {
                        continue;
                    }
                    remotes[side].insert(from);
                    if words[1] == "check" {
                        self.send(
                            hosts[side],
                            from,
                            64,
                            &format!("{side} answer {}", words[2]),
                        );
                    } else if words[2] == from.to_string() {
                        return true;
                    }
                }
            }
            false
        }

        /// The oracle's verdict, which packets must bear out.
        fn judge(&mut self, a: HostId, b: HostId) -> Result<Via, Why> {
            let verdict = match can_connect(&self.0, a, b) {
                Verdict::Direct { via } => Ok(via),
                Verdict::Impossible { why } => Err(why),
            };
            assert_eq!(verdict.is_ok(), self.connects([a, b]));
            verdict
        }
    }

    fn nat(mapping: Mapping, filtering: Filtering, number: usize) -> NatSpec {
        let mut spec = NatSpec::new(mapping, filtering, [10, 0, 0, number as u8].into());
        spec.allocation = Random;
        spec
    }

    #[test]
    fn every_pair_of_nats_is_judged_as_the_rfcs_imply_and_as_packets_prove() {
        for n in 0..81 {
            let a = (MAPPINGS[n % 3], FILTERINGS[n / 3 % 3]);
            let b = (MAPPINGS[n / 9 % 3], FILTERINGS[n / 27]);
            let mut world = World::new();
            let homes = [nat(a.0, a.1, 1), nat(b.0, b.1, 2)].map(|spec| world.zone(INTERNET, spec));
            let [x, y] = homes.map(|home| world.host(home, "192.168.1.2"));
            let expected = match (a, b) {
                ((EIM, EIF), _) | (_, (EIM, EIF)) => Ok(Via::OpenSide),
                ((EIM, _), (EIM, _)) => Ok(Via::BothKnown),
                ((EIM, APDF), _) | (_, (EIM, APDF)) => Err(Why::FilterHidesMapping),
                ((EIM, _), _) | (_, (EIM, _)) => Ok(Via::PeerReflexive),
                ((APDM, _), (APDM, _)) => Err(Why::BothMappingsDependent),
                ((_, EIF), (_, EIF | ADF)) | ((_, ADF), (_, EIF)) => Ok(Via::PeerReflexive),
                _ => Err(Why::BothMappingsDependent),
            };
            assert_eq!(world.judge(x, y), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn packets_bear_the_oracle_out_in_random_topologies() {
        for seed in 0..2000 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut pick = |below: usize| rng.next_u32() as usize % below;
            let (mut world, mut zones) = (World::new(), vec![INTERNET]);
            for number in 1..=pick(6) {
                let parent = zones[pick(number)];
                let mut spec = nat(MAPPINGS[pick(3)], FILTERINGS[pick(3)], number);
                spec.hairpinning = pick(2) == 0;
                spec.capacity *= pick(20).min(1);
                if pick(4) == 0 {
                    spec.public.clear();
                    spec.mapping = EIM;
                    spec.filtering = APDF;
                }
                zones.push(world.zone(parent, spec));
            }
            let [zone, other] = [(); 2].map(|()| zones[pick(zones.len())]);
            let a = world.host(zone, "192.168.1.2");
            let same = End {
                zone,
                ip: [192, 168, 1, 2].into(),
                host: a,
            };
            let clash = leads_to(&world.0, other, same);
            let b = world.host(other, ["192.168.1.2", "192.168.1.3"][usize::from(clash)]);
            let _ = world.judge(a, b);
        }
    }

    #[test]
    fn behind_a_common_nat_hairpinning_decides_unless_a_host_candidate_leads_there() {
        for hairpinning in [false, true] {
            let mut world = World::new();
            let outer = NatSpec {
                hairpinning,
                ..nat(EIM, APDF, 1)
            };
            let outer = world.zone(INTERNET, outer);
            let homes = [2, 3].map(|number| world.zone(outer, nat(EIM, APDF, number)));
            let [a, b] = homes.map(|home| world.host(home, "192.168.1.2"));
            let (c, d) = (
                world.host(homes[0], "192.168.1.3"),
                world.host(outer, "10.0.0.9"),
            );
            let expected = if hairpinning {
                Ok(Via::Hairpinning)
            } else {
                Err(Why::NoHairpinning)
            };
            assert_eq!(world.judge(a, b), expected);
            assert_eq!(
                world.0.drops().contains_key(&Dropped::NoHairpinning),
                !hairpinning
            );
            assert_eq!(world.judge(a, c), Ok(Via::SameZone));
            assert_eq!(world.judge(a, d), Ok(Via::OpenSide));
        }
    }

    #[test]
    fn ipv6_firewalls_open_for_each_other_but_no_family_reaches_the_other() {
        let mut world = World::new();
        let firewalls = [(); 2].map(|()| NatSpec::firewall(DEFAULT_TIMEOUT));
        let homes = firewalls.map(|spec| world.zone(INTERNET, spec));
        let [a, b] = [0, 1].map(|n| world.host(homes[n], ["2001:db8::1", "2001:db8::2"][n]));
        let c = world.host(INTERNET, "198.51.100.3");
        assert_eq!(world.judge(a, b), Ok(Via::BothKnown));
        assert_eq!(world.judge(a, c), Err(Why::NoCommonFamily));
    }

    #[test]
    fn a_low_ttl_opens_two_nats_in_a_row_and_reaches_nobody() {
        let mut world = World::new();
        let outer = world.zone(INTERNET, nat(EIM, APDF, 1));
        let inner = world.zone(outer, nat(EIM, APDF, 2));
        let (a, b) = (
            world.host(inner, "192.168.1.2"),
            world.host(INTERNET, "198.51.100.3"),
        );
        world.send(a, world.base(b), 3, "");
        assert_eq!(world.next(), None);
        assert_eq!(world.0.drops()[&Dropped::TtlExpired], 1);
        assert_eq!(
            [outer, inner].map(|zone| world.0.gate(zone).mappings(world.1)),
            [1, 1]
        );
        let seen = world.reflexive(a).unwrap();
        world.send(b, seen, 64, "");
        assert_eq!(world.next().map(|packet| packet.to), Some(world.base(a)));
        world.0.set_addresses(a, outer, &[]);
        world.send(b, seen, 64, "");
        assert_eq!(world.next(), None);
        assert_eq!(world.0.drops()[&Dropped::NoRoute], 1);
    }
}
