//! What ordinary ICE must achieve between two hosts, judged from the topology alone.
//!
//! Ordinary means: host, server-reflexive and peer-reflexive candidates (RFC 8445 sections 5.1.1
//! and 7.3.1.3), a STUN server in the internet, checks from both sides, triggered checks (7.3.1.4);
//! no port prediction, birthday search or relay, which may yet beat an `Impossible`.
//!
//! A path is a pair of outside endpoints X and Y such that what A sends to Y leaves from X, and what
//! B sends to X leaves from Y: an answer must come back the way the check went (7.2.5.2.1). What
//! decides is whether each side can learn the other's half:
//!
//! - EIM (RFC 4787 section 4.1) has one outside endpoint, which STUN tells. Two such sides open
//!   any filters (section 5) by sending to each other. So do firewalls, which translate nothing.
//! - APDM makes X when A sends to Y, unseen by STUN. B learns it from A's check if B's filter lets
//!   it in: EIF does, ADF too, since B has sent to A's address before; APDF wants the very port.
//! - APDM on both sides never ends: X is made for a Y that is not made before X is known.
//! - ADM against EIM is like APDM. But it has one X for all ports of an address, so against ADM or
//!   APDM one check must get through, to a server-reflexive endpoint behind EIF, and the answer
//!   from a new port must be admitted by the other side's EIF or ADF.
//! - Gateways in a row map as the most dependent one does; each filters by what it has seen sent.
//! - Behind a common NAT, server-reflexive endpoints lead back to that NAT, so hairpinning decides
//!   (section 6), unless a host candidate is within reach.
//!
//! This is not a table below: both sides are played with idealized gateways until nothing new is
//! learned. Links are taken as good, tables as large enough, mappings as long-lived. What a search for ports can do beyond that,
//! and how soon, is [`prospect`]'s.

mod prospect;

use std::collections::BTreeSet;
use std::iter::successors;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use prospect::{AT_ONCE, Prospect, WORTH_IT, prospect};

use crate::nat::{Filtering, Mapping, NatSpec, scope};
use crate::network::{HostId, INTERNET, Network, Stage, ZoneId};

/// What ordinary ICE can do; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It must find a direct path.
    Direct {
        /// The step that finds the path.
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
    let mut best = Err(Why::NoCommonFamily);
    for &(zone, ip) in network.addresses(a) {
        let a = End { host: a, zone, ip };
        for &(zone, ip) in network.addresses(b) {
            best = best.min(judge(network, &a, &End { host: b, zone, ip }));
        }
    }
    match best {
        Ok(via) => Verdict::Direct { via },
        Err(why) => Verdict::Impossible { why },
    }
}

struct End {
    host: HostId,
    zone: ZoneId,
    ip: IpAddr,
}

fn judge(network: &Network, a: &End, b: &End) -> Result<Via, Why> {
    if a.ip.is_ipv4() != b.ip.is_ipv4() {
        return Err(Why::NoCommonFamily);
    }
    let (up_a, up_b) = (gateways(network, a.zone), gateways(network, b.zone));
    let pairs = up_a.iter().rev().zip(up_b.iter().rev());
    let shared = pairs.take_while(|(a, b)| a.0 == b.0).count();
    let (own_a, common) = up_a.split_at(up_a.len() - shared);
    let own_b = &up_b[..up_b.len() - shared];
    let outermost = common.iter().rposition(|gate| !is_bare(&[*gate]));
    if a.zone == b.zone {
        return Ok(Via::SameZone);
    }

    // In the lowest zone above both: a bare address is known, but must not mean somebody else to
    // the other side; a translated one is known if STUN sees it, with no NAT further up.
    let meets = (!is_bare(own_a) || leads_to(network, b.zone, a))
        && (!is_bare(own_b) || leads_to(network, a.zone, b))
        && !(is_blocked(own_a) || is_blocked(own_b));
    let is_seen = |up: &[Gate<'_>]| outermost.is_none() && !is_blocked(up);
    let mut side_a = Side::new(1, own_a, is_bare(own_a) || is_seen(&up_a));
    let mut side_b = Side::new(2, own_b, is_bare(own_b) || is_seen(&up_b));
    let is_open = |side: &Side| side.gates.iter().all(|gate| *gate == OPEN);
    if meets && converge(&mut side_a, &mut side_b) {
        return Ok(match (side_a.mapping(), side_b.mapping()) {
            _ if is_open(&side_a) || is_open(&side_b) => Via::OpenSide,
            (EIM, EIM) => Via::BothKnown,
            _ => Via::PeerReflexive,
        });
    }
    if is_blocked(&up_a) || is_blocked(&up_b) {
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

fn is_bare(gates: &[Gate<'_>]) -> bool {
    gates.iter().all(|(_, spec)| spec.is_transparent())
}

fn is_blocked(gates: &[Gate<'_>]) -> bool {
    gates
        .iter()
        .any(|(_, spec)| spec.capacity == 0 || spec.host_limit == 0)
}

/// Whether packets from a zone to an address reach this end, not another with the same address.
fn leads_to(network: &Network, mut zone: ZoneId, end: &End) -> bool {
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
const OPEN: (Mapping, Filtering) = (EIM, Filtering::EndpointIndependent);
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
    advertised: Option<SocketAddr>,
    remotes: BTreeSet<SocketAddr>,
}

impl Side {
    fn new(number: u8, gates: &[Gate<'_>], is_known: bool) -> Self {
        let mut mapping = EIM;
        let dependence = |(_, spec): &Gate<'_>| {
            mapping = mapping.max(spec.visible_mapping());
            (mapping, spec.filtering)
        };
        let mut side = Self {
            number,
            gates: gates.iter().map(dependence).collect(),
            ..Self::default()
        };
        side.advertised = Some(side.send(STUN)).filter(|_| is_known);
        side
    }

    fn mapping(&self) -> Mapping {
        self.gates.last().map_or(EIM, |(mapping, _)| *mapping)
    }

    /// Answers with the source that the destination sees.
    fn send(&mut self, dst: SocketAddr) -> SocketAddr {
        self.sent.insert(dst);
        let part = scope(self.mapping() as u8, dst);
        let known = self.ports.iter().position(|port| *port == part);
        let port = known.unwrap_or(self.ports.len());
        self.ports.extend(known.is_none().then_some(part));
        SocketAddr::from(([192, 0, 2, self.number], port as u16))
    }

    fn check_all(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        let remotes = self.remotes.clone().into_iter();
        remotes.map(|remote| (self.send(remote), remote)).collect()
    }

    fn admits(&self, src: SocketAddr, dst: SocketAddr) -> bool {
        let part = self.ports[usize::from(dst.port())];
        let alike = |rank, x, y| scope(rank, x) == scope(rank, y);
        self.gates.iter().all(|&(mapping, filtering)| {
            let permits = |to| alike(mapping as u8, to, part) && alike(filtering as u8, to, src);
            self.sent.iter().any(|to| permits(*to))
        })
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
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;
    use crate::nat::DEFAULT_TIMEOUT;
    use crate::network::{Datagram, Dropped, Gateway, LinkSpec};
    use Filtering::EndpointIndependent as EIF;
    use Filtering::{AddressAndPortDependent as APDF, AddressDependent as ADF};
    use Mapping::{AddressAndPortDependent as APDM, AddressDependent as ADM};
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};
    use std::time::Instant;

    /// An internet without delays, and its STUN server's addresses.
    struct World(Network, Instant, [SocketAddr; 2]);

    impl World {
        fn new() -> Self {
            let (now, servers) = (Instant::now(), ["198.51.100.9:3478", "[2001:db8::9]:3478"]);
            let servers = servers.map(|server| server.parse().unwrap());
            let mut network = Network::new(1, now);
            network.add_host(INTERNET, &servers.map(|server: SocketAddr| server.ip()));
            Self(network, now, servers)
        }

        fn zone(&mut self, parent: ZoneId, spec: NatSpec) -> ZoneId {
            self.0
                .add_zone(parent, Gateway::Nat(spec), LinkSpec::default())
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

        /// Where the STUN server sees a host.
        fn reflexive(&mut self, host: HostId) -> Option<SocketAddr> {
            let server = self.2[usize::from(self.base(host).is_ipv6())];
            self.send(host, server, 64, "");
            self.0.poll_delivery(self.1).map(|packet| packet.from)
        }

        /// Plays ICE with real packets.
        fn connects(&mut self, hosts: [HostId; 2]) -> bool {
            let [a, b] = hosts.map(|host| [Some(self.base(host)), self.reflexive(host)]);
            let mut remotes = [b, a].map(|known| BTreeSet::from_iter(known.into_iter().flatten()));
            for side in [0, 1].repeat(ROUNDS) {
                for dst in &remotes[side] {
                    self.send(hosts[side], *dst, 64, &format!("{side} check {dst}"));
                }
                while let Some(packet) = self.0.poll_delivery(self.1) {
                    let (side, from) = (usize::from(packet.host == hosts[1]), packet.from);
                    let text = String::from_utf8(packet.payload).unwrap();
                    let words = Vec::from_iter(text.split(' '));
                    if hosts.contains(&packet.host) && words[0] != side.to_string() {
                        remotes[side].insert(from);
                        if words[1] == "check" {
                            let answer = format!("{side} answer {}", words[2]);
                            self.send(packet.host, from, 64, &answer);
                        } else if words[2] == from.to_string() {
                            return true;
                        }
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
        NatSpec::new(mapping, filtering, [10, 0, 0, number as u8].into())
    }

    #[test]
    fn every_pair_of_nats_is_judged_as_the_rfcs_imply_and_as_packets_prove() {
        let kinds = [EIM, ADM, APDM].map(|m| [EIF, ADF, APDF].map(|f| (m, f)));
        let kinds = kinds.as_flattened();
        for (a, b) in (0..81).map(|n| (kinds[n / 9], kinds[n % 9])) {
            let mut world = World::new();
            let specs = [nat(a.0, a.1, 1), nat(b.0, b.1, 2)];
            let homes = specs.map(|spec| world.zone(INTERNET, spec));
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
                let kind = ([EIM, ADM, APDM][pick(3)], [EIF, ADF, APDF][pick(3)]);
                let firewall = NatSpec::firewall(DEFAULT_TIMEOUT);
                let mut spec = [nat(kind.0, kind.1, number), firewall][pick(4) / 3].clone();
                spec.hairpinning = pick(2) == 0;
                spec.capacity *= pick(20).min(1);
                zones.push(world.zone(zones[pick(number)], spec));
            }
            let [zone, other] = [(); 2].map(|()| zones[pick(zones.len())]);
            let (host, ip) = (world.host(zone, "192.168.1.2"), [192, 168, 1, 2].into());
            let is_taken = leads_to(&world.0, other, &End { host, zone, ip });
            let b = world.host(other, ["192.168.1.2", "192.168.1.3"][usize::from(is_taken)]);
            let _ = world.judge(host, b);
        }
    }

    #[test]
    fn lans_carriers_firewalls_and_families_are_judged_as_expected() {
        let mut world = World::new();
        let mut carriers = [nat(EIM, APDF, 1), nat(EIM, APDF, 2)];
        carriers[1].hairpinning = true;
        let [deaf, kind] = carriers.map(|spec| world.zone(INTERNET, spec));
        let homes = [(deaf, 3), (deaf, 4), (kind, 5), (kind, 6)];
        let homes = homes.map(|(carrier, n)| world.zone(carrier, nat(EIM, APDF, n)));
        let [a, b, c, d] = homes.map(|home| world.host(home, "192.168.1.2"));
        let lan = world.host(homes[0], "192.168.1.3");
        let walls = [(); 2].map(|()| world.zone(INTERNET, NatSpec::firewall(DEFAULT_TIMEOUT)));
        let e = world.host(walls[0], "2001:db8::1");
        let f = world.host(walls[1], "2001:db8::2");
        assert_eq!(world.judge(a, lan), Ok(Via::SameZone));
        assert_eq!(world.judge(a, b), Err(Why::NoHairpinning));
        assert_eq!(world.judge(a, c), Ok(Via::BothKnown));
        assert_eq!(world.judge(c, d), Ok(Via::Hairpinning));
        assert_eq!(world.judge(e, f), Ok(Via::BothKnown));
        assert_eq!(world.judge(e, a), Err(Why::NoCommonFamily));
        assert!(world.0.drops()[&Dropped::NoHairpinning] > 0);
    }

    #[test]
    fn a_low_ttl_opens_two_nats_in_a_row_and_reaches_nobody() {
        let mut world = World::new();
        let outer = world.zone(INTERNET, nat(EIM, APDF, 1));
        let inner = world.zone(outer, nat(EIM, APDF, 2));
        let a = world.host(inner, "192.168.1.2");
        let b = world.host(INTERNET, "198.51.100.3");
        world.send(a, world.base(b), 3, "");
        assert_eq!(world.0.poll_delivery(world.1), None);
        assert_eq!(world.0.drops()[&Dropped::TtlExpired], 1);
        let seen = world.reflexive(a).unwrap();
        world.send(b, seen, 64, "");
        let answer = world.0.poll_delivery(world.1);
        assert_eq!(answer.map(|packet| packet.host), Some(a));
        world.0.set_addresses(a, outer, &[]);
        world.send(b, seen, 64, "");
        assert_eq!(world.0.poll_delivery(world.1), None);
        assert_eq!(world.0.drops()[&Dropped::NoRoute], 1);
    }
}
