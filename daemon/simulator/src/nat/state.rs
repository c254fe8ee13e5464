//! What a NAT remembers, and what it does with a packet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::iter::successors;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::{Allocation, NatSpec, Pooling, scope};
use crate::hash::FixedMap;

/// Random and sequential ports lie between these.
const LOW: u16 = 1024;
const HIGH: u16 = u16::MAX;

/// The state of one NAT. Only outbound packets keep a mapping alive (RFC 4787 REQ-6).
///
/// Filtering looks at what was sent *through the mapping that receives*, as symmetric NATs do;
/// RFC 4787 section 5 read literally would let a hard NAT admit on the strength of a sibling
/// mapping. A dependent mapping whose filter is at least as strict shares its port with mappings
/// to other destinations, as Linux does, so that more mappings than ports can be alive.
#[derive(Debug, Clone)]
pub struct Nat {
    spec: NatSpec,
    /// Entries by number; those in `unused` are free.
    entries: Vec<Entry>,
    unused: Vec<u32>,
    /// From inside endpoint and destination to the entry.
    keys: FixedMap<Flow, u32>,
    /// From public endpoint and remote to the entry.
    slots: FixedMap<Flow, u32>,
    /// How many slots each public endpoint has.
    ports: FixedMap<u64, u32>,
    /// One for each entry, no later than it expires.
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
    /// What unsolicited packets occupy: public endpoint and remote.
    unsolicited: FixedMap<Flow, Instant>,
    unsolicited_deadlines: BinaryHeap<Reverse<(Instant, Flow)>>,
    paired: BTreeMap<IpAddr, IpAddr>,
    last_port: Option<u16>,
    /// When another host makes its next mapping.
    next_other: Option<Instant>,
    own: usize,
    peak: usize,
}

/// An inside endpoint and a destination, or a public endpoint and a remote; only as much of each
/// as matters there, and short, because a birthday run looks up millions of them.
type Flow = (u64, u64);

#[derive(Debug, Clone)]
struct Entry {
    inside: SocketAddr,
    public: SocketAddr,
    key: Flow,
    slot: Flow,
    expires: Instant,
    /// The first permission; a dependent mapping mostly needs no more.
    first: (u64, Instant),
    permits: FixedMap<u64, Instant>,
    is_other: bool,
}

impl Nat {
    /// An empty table.
    pub fn new(spec: NatSpec) -> Self {
        Self {
            spec,
            entries: Vec::new(),
            unused: Vec::new(),
            keys: FixedMap::default(),
            slots: FixedMap::default(),
            ports: FixedMap::default(),
            deadlines: BinaryHeap::new(),
            unsolicited: FixedMap::default(),
            unsolicited_deadlines: BinaryHeap::new(),
            paired: BTreeMap::new(),
            last_port: None,
            next_other: None,
            own: 0,
            peak: 0,
        }
    }

    /// What this NAT was built from.
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// How many mappings are alive at `now`, those of other hosts included.
    pub fn mappings(&self, now: Instant) -> usize {
        let alive = |id: &&u32| self.entries[**id as usize].expires > now;
        self.keys.values().filter(alive).count()
    }

    /// The most mappings that were alive at once, without those of other hosts.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Passes a packet from inside `src` to outside `dst`; answers with the source that the
    /// outside sees, or nothing if there is no room, port or public address for a new mapping.
    pub fn outbound(
        &mut self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
        rng: &mut impl RngCore,
    ) -> Option<SocketAddr> {
        if self.spec.others > 0.0 {
            self.let_others_map(now, rng);
        }
        self.expire(now);
        self.pass(now, (src, dst), false, rng)
    }

    /// Passes a packet from outside `src` to public `to`; answers with the inside destination.
    pub fn inbound(&mut self, now: Instant, src: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        let inside = self.admit(now, src, to);
        if inside.is_none() && self.spec.keeps_unsolicited {
            self.remember(now, src, to);
        }
        inside
    }

    /// Whether a public endpoint leads inside, if only for some; those behind a firewall do.
    pub fn is_mapped(&self, public: SocketAddr) -> bool {
        self.spec.is_transparent() || self.ports.contains_key(&short(public))
    }

    fn pass(
        &mut self,
        now: Instant,
        flow: (SocketAddr, SocketAddr),
        is_other: bool,
        rng: &mut impl RngCore,
    ) -> Option<SocketAddr> {
        let (src, dst) = flow;
        let key = (short(src), short(scope(self.spec.mapping as u8, dst)));
        let permit = short(scope(self.spec.filtering as u8, dst));
        let expires = now + self.spec.timeout;
        if let Some(id) = self.keys.get(&key) {
            let entry = &mut self.entries[*id as usize];
            entry.expires = expires;
            entry.permit(permit, expires);
            return Some(entry.public);
        }
        let public = self.allocate(flow, rng)?;
        let slot = self.slot(public, dst);
        let entry = Entry {
            inside: src,
            public,
            key,
            slot,
            expires,
            first: (permit, expires),
            permits: FixedMap::default(),
            is_other,
        };
        let id = match self.unused.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.keys.insert(key, id);
        self.slots.insert(slot, id);
        *self.ports.entry(slot.0).or_default() += 1;
        self.deadlines.push(Reverse((expires, id)));
        self.own += usize::from(!is_other);
        self.peak = self.peak.max(self.own);
        Some(public)
    }

    fn admit(&self, now: Instant, src: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let id = *self.slots.get(&self.slot(to, src))?;
        let entry = &self.entries[id as usize];
        let permit = short(scope(self.spec.filtering as u8, src));
        let expires = match entry.first {
            (first, expires) if first == permit => expires,
            _ => *entry.permits.get(&permit)?,
        };
        (expires > now).then_some(entry.inside)
    }

    fn remember(&mut self, now: Instant, src: SocketAddr, to: SocketAddr) {
        let slot = (short(to), short(src));
        let expires = now + self.spec.timeout;
        if let Some(known) = self.unsolicited.get_mut(&slot) {
            *known = expires;
        } else if !self.is_full() && self.spec.public.contains(&to.ip()) {
            self.unsolicited.insert(slot, expires);
            self.unsolicited_deadlines.push(Reverse((expires, slot)));
        }
    }

    /// Others come and go as a Poisson process does, each from a socket and to a server of its own.
    fn let_others_map(&mut self, now: Instant, rng: &mut impl RngCore) {
        let rate = self.spec.others;
        let pause = |rng: &mut dyn RngCore| {
            Duration::from_secs_f64(
                -(1.0 - f64::from(rng.next_u32()) / 4_294_967_296.0).ln() / rate,
            )
        };
        let mut at = match self.next_other {
            Some(at) => at,
            None => now + pause(rng),
        };
        while at <= now {
            self.expire(at);
            let bytes = rng.next_u64().to_be_bytes();
            let [host, high, low, x, y, z, ..] = bytes;
            let src = SocketAddr::from(([240, 0, 0, host], u16::from_be_bytes([high, low]) | LOW));
            let dst = SocketAddr::from(([241, x, y, z], 443));
            self.pass(at, (src, dst), true, rng);
            at += pause(rng);
        }
        self.next_other = Some(at);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek()
            && deadline <= now
        {
            self.deadlines.pop();
            let expires = self.entries[id as usize].expires;
            if expires > now {
                self.deadlines.push(Reverse((expires, id)));
            } else {
                self.remove(id);
            }
        }
        while let Some(&Reverse((deadline, slot))) = self.unsolicited_deadlines.peek()
            && deadline <= now
        {
            self.unsolicited_deadlines.pop();
            match self.unsolicited.get(&slot) {
                Some(&expires) if expires > now => {
                    self.unsolicited_deadlines.push(Reverse((expires, slot)));
                }
                _ => drop(self.unsolicited.remove(&slot)),
            }
        }
    }

    fn remove(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        entry.permits = FixedMap::default();
        self.own -= usize::from(!entry.is_other);
        self.keys.remove(&entry.key);
        self.slots.remove(&entry.slot);
        if let Some(count) = self.ports.get_mut(&entry.slot.0) {
            *count -= 1;
            if *count == 0 {
                self.ports.remove(&entry.slot.0);
            }
        }
        self.unused.push(id);
    }

    fn is_full(&self) -> bool {
        self.keys.len() + self.unsolicited.len() >= self.spec.capacity
    }

    fn allocate(
        &mut self,
        flow: (SocketAddr, SocketAddr),
        rng: &mut impl RngCore,
    ) -> Option<SocketAddr> {
        let (src, dst) = flow;
        if self.is_full() {
            return None;
        }
        if self.spec.is_transparent() {
            return Some(src);
        }
        let ip = match self.spec.pooling {
            Pooling::Paired => self.pair(src.ip()),
            Pooling::Arbitrary => {
                let pool = self.pool(src.ip());
                let choice = pool.len().checked_sub(1).map(|_| rng.next_u32() as usize);
                choice.map(|choice| pool[choice % pool.len()])
            }
        }?;
        let at = |port| SocketAddr::new(ip, port);
        let is_occupied = |public| {
            !self.unsolicited.is_empty()
                && self.unsolicited.contains_key(&(short(public), short(dst)))
        };
        let free = |port: &u16| {
            !self.slots.contains_key(&self.slot(at(*port), dst)) && !is_occupied(at(*port))
        };
        let own = Some(src.port()).filter(free);
        let port = match (self.spec.allocation, self.last_port) {
            (Allocation::Preserving, _) if own.is_some() && !self.is_mapped(at(src.port())) => own,
            (Allocation::PreservingShared, _) if own.is_some() => own,
            (Allocation::Sequential { step }, Some(last)) => follow(last, step, free),
            (Allocation::RandomIn { low, high }, _) => draw((low, high), free, rng),
            _ => draw((LOW, HIGH), free, rng),
        };
        self.last_port = port.or(self.last_port);
        port.map(at)
    }

    fn pair(&mut self, inside: IpAddr) -> Option<IpAddr> {
        if let Some(public) = self.paired.get(&inside) {
            return Some(*public);
        }
        let pool = self.pool(inside);
        let turn = self.paired.len().checked_rem(pool.len())?;
        self.paired.insert(inside, pool[turn]);
        Some(pool[turn])
    }

    /// The public addresses of an inside address's family.
    fn pool(&self, inside: IpAddr) -> Vec<IpAddr> {
        let mut pool = self.spec.public.clone();
        pool.retain(|ip| ip.is_ipv4() == inside.is_ipv4());
        pool
    }

    fn slot(&self, public: SocketAddr, remote: SocketAddr) -> Flow {
        let (mapping, filtering) = (self.spec.mapping as u8, self.spec.filtering as u8);
        let strictness = if filtering >= mapping { mapping } else { 0 };
        (short(public), short(scope(strictness, remote)))
    }
}

impl Entry {
    fn permit(&mut self, remote: u64, expires: Instant) {
        if self.first.0 == remote {
            self.first.1 = expires;
        } else {
            self.permits.insert(remote, expires);
        }
    }
}

/// An endpoint in 64 bits: exact for IPv4; an IPv6 address is folded into 47 bits, enough for the
/// few that a simulation has.
fn short(endpoint: SocketAddr) -> u64 {
    let ip = match endpoint.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let (high, low) = ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64);
            let mixed = (high.rotate_left(29) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed >> 17 | 1 << 47
        }
    };
    ip << 16 | u64::from(endpoint.port())
}

fn follow(last: u16, step: u16, free: impl Fn(&u16) -> bool) -> Option<u16> {
    let advance = |port: &u16| match port.wrapping_add(step) {
        next @ LOW.. => Some(next),
        _ if step.cast_signed() < 0 => Some(HIGH),
        _ => Some(LOW),
    };
    let mut ports = successors(advance(&last), advance).take(usize::from(HIGH));
    ports.find(free)
}

fn draw(block: (u16, u16), free: impl Fn(&u16) -> bool, rng: &mut impl RngCore) -> Option<u16> {
    let (low, high) = block;
    let size = u64::from(high.checked_sub(low)?) + 1;
    let mut throw = || low + ((u64::from(rng.next_u32()) * size) >> 32) as u16;
    let lucky = (0..64).map(|_| throw()).find(&free);
    let start = throw();
    lucky.or_else(|| (start..=high).chain(low..start).find(free))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::super::{DEFAULT_TIMEOUT, EIM, Filtering, Mapping};
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    const HOST: &str = "192.168.1.2:5000";
    const OTHER_HOST: &str = "192.168.1.3:5000";
    const PEER: &str = "198.51.100.1:40";
    const OTHERS: [&str; 2] = ["198.51.100.1:41", "198.51.100.2:40"];
    const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

    /// A NAT with its own clock and dice.
    struct OneNat(Nat, Instant, ChaCha8Rng);

    impl OneNat {
        fn new(spec: NatSpec) -> Self {
            Self(Nat::new(spec), Instant::now(), ChaCha8Rng::seed_from_u64(1))
        }

        fn hard(allocation: Allocation) -> Self {
            Self::new(NatSpec::symmetric(allocation, PUBLIC))
        }

        fn out(&mut self, src: &str, dst: &str) -> Option<SocketAddr> {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            self.0.outbound(self.1, src, dst, &mut self.2)
        }

        fn back(&mut self, from: &str, to: SocketAddr) -> Option<String> {
            let inside = self.0.inbound(self.1, from.parse().unwrap(), to);
            inside.map(|inside| inside.to_string())
        }

        fn ports(&mut self, count: u16) -> Vec<u16> {
            let port = |n| self.out(HOST, &format!("192.0.2.9:{n}")).unwrap().port();
            (1..=count).map(port).collect()
        }
    }

    #[test]
    fn mappings_are_shared_and_filters_admit_as_far_as_their_behaviour_says() {
        use {Filtering as F, Mapping as M};
        for (mapping, filtering, reach) in [
            (EIM, F::EndpointIndependent, 2),
            (M::AddressDependent, F::AddressDependent, 1),
            (M::AddressAndPortDependent, F::AddressAndPortDependent, 0),
        ] {
            let mut nat = OneNat::new(NatSpec::new(mapping, F::EndpointIndependent, PUBLIC));
            let mapped = nat.out(HOST, PEER);
            let shared = OTHERS.map(|peer| nat.out(HOST, peer) == mapped);
            assert_eq!(shared, [reach > 0, reach > 1]);

            let mut nat = OneNat::new(NatSpec::new(EIM, filtering, PUBLIC));
            let mapped = nat.out(HOST, PEER).unwrap();
            assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
            let admitted = OTHERS.map(|peer| nat.back(peer, mapped).is_some());
            assert_eq!(admitted, [reach > 0, reach > 1]);
        }
    }

    #[test]
    fn a_preserving_nat_keeps_the_port_unless_it_is_taken() {
        let mut nat = OneNat::new(NatSpec::port_restricted(PUBLIC));
        assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);
        assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().port(), 5000);
        assert_ne!(OneNat::hard(Allocation::Preserving).ports(2), [5000, 5000]);
    }

    #[test]
    fn sequential_ports_go_up_or_down_by_the_step_and_wrap_around() {
        let mut up = OneNat::hard(Allocation::Sequential { step: 2 });
        assert!(up.ports(9).is_sorted_by(|a, b| *b == a + 2));
        up.0.last_port = Some(HIGH - 1);
        assert_eq!(up.out(HOST, PEER).unwrap().port(), LOW);
        let mut down = OneNat::hard(Allocation::Sequential { step: u16::MAX });
        assert!(down.ports(9).is_sorted_by(|a, b| *b == a - 1));
    }

    #[test]
    fn random_ports_fill_the_block_and_are_shared_between_destinations() {
        let (low, high) = (7000, 7001);
        let mut block = OneNat::hard(Allocation::RandomIn { low, high });
        assert_eq!(BTreeSet::from_iter(block.ports(40)), [low, high].into());
        assert_ne!(block.out(HOST, PEER), block.out(OTHER_HOST, PEER));
        assert_eq!(block.out("192.168.1.4:1", PEER), None);
        let ports = OneNat::hard(Allocation::Random).ports(2000);
        assert!(ports.iter().all(|port| *port >= LOW) && ports.iter().any(|port| *port > 60_000));
    }

    #[test]
    fn only_outbound_packets_keep_a_mapping_and_its_permissions_alive() {
        let mut nat = OneNat::new(NatSpec::port_restricted(PUBLIC));
        let mapped = nat.out(HOST, PEER).unwrap();
        nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
        assert!(nat.back(PEER, mapped).is_some());
        assert_eq!(nat.out(HOST, OTHERS[1]), Some(mapped));
        nat.1 += Duration::from_secs(1);
        assert_eq!(nat.back(PEER, mapped), None);
        assert!(nat.back(OTHERS[1], mapped).is_some());
        nat.1 += DEFAULT_TIMEOUT;
        assert_eq!(nat.0.mappings(nat.1), 0);
        assert_eq!(nat.back(PEER, mapped), None);
    }

    #[test]
    fn a_full_table_refuses_new_mappings_until_old_ones_expire() {
        let mut nat = OneNat::hard(Allocation::Random);
        nat.0.spec.capacity = 2;
        nat.ports(2);
        assert_eq!(nat.out(HOST, PEER), None);
        nat.1 += DEFAULT_TIMEOUT;
        assert!(nat.out(HOST, PEER).is_some());
    }

    #[test]
    fn each_inside_address_sticks_to_one_public_address_of_its_family() {
        let mut nat = OneNat::hard(Allocation::Random);
        nat.0.spec.public.push([203, 0, 113, 2].into());
        let first = nat.out(HOST, PEER).unwrap().ip();
        assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().ip(), first);
        assert_eq!(nat.out(HOST, OTHERS[1]).unwrap().ip(), first);
        assert_eq!(nat.out("[fd00::1]:1", "[fd00::2]:1"), None);
    }

    #[test]
    fn arbitrary_pooling_draws_an_address_for_each_mapping() {
        let pool: Vec<IpAddr> = (1..=4).map(|n| [203, 0, 113, n].into()).collect();
        for (mapping, addresses) in [(EIM, 1), (Mapping::AddressAndPortDependent, 4)] {
            let mut nat = OneNat::new(NatSpec::new(
                mapping,
                Filtering::AddressAndPortDependent,
                PUBLIC,
            ));
            nat.0.spec.public.clone_from(&pool);
            nat.0.spec.pooling = Pooling::Arbitrary;
            let one_socket = (1..=40).map(|n| nat.out(HOST, &format!("192.0.2.9:{n}")).unwrap());
            let seen = one_socket.map(|public| public.ip());
            assert_eq!(BTreeSet::from_iter(seen).len(), addresses);
            let sockets = (1..=40).map(|n| nat.out(&format!("192.168.1.2:{n}"), PEER).unwrap());
            let seen = sockets.map(|public| public.ip());
            assert_eq!(BTreeSet::from_iter(seen).len(), 4);
            assert_eq!(nat.out("[fd00::1]:1", "[fd00::2]:1"), None);
        }
    }

    #[test]
    fn linux_keeps_the_port_to_every_destination_that_no_other_host_talks_to() {
        let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
        assert!(nat.ports(40).iter().all(|port| *port == 5000));
        assert_eq!(nat.0.mappings(nat.1), 40);
        assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);
        assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().port(), 5000);
        assert_eq!(nat.out(OTHER_HOST, OTHERS[0]).unwrap().port(), 5000);
    }

    #[test]
    fn an_unsolicited_packet_takes_the_port_towards_its_sender_for_a_while() {
        let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
        nat.0.spec.keeps_unsolicited = true;
        let public = SocketAddr::new(PUBLIC, 5000);
        assert_eq!(nat.back(PEER, public), None);
        assert_ne!(nat.out(HOST, PEER).unwrap().port(), 5000);
        assert_eq!(nat.back(PEER, public), None);
        let unharmed = OTHERS.map(|peer| nat.out(HOST, peer).unwrap().port());
        assert_eq!(unharmed, [5000; 2]);

        nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
        assert_eq!(nat.back(PEER, public), None);
        nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
        assert_ne!(nat.out(HOST, PEER).unwrap().port(), 5000);
        nat.1 += DEFAULT_TIMEOUT;
        assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);

        let elsewhere = SocketAddr::from(([203, 0, 113, 9], 5000));
        nat.back(OTHERS[0], elsewhere);
        assert!(nat.0.unsolicited.is_empty());
    }

    #[test]
    fn who_sends_first_keeps_the_port_even_where_unsolicited_packets_are_kept() {
        let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
        nat.0.spec.keeps_unsolicited = true;
        let mapped = nat.out(HOST, PEER).unwrap();
        assert_eq!(mapped.port(), 5000);
        assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
        assert!(nat.0.unsolicited.is_empty());
    }

    #[test]
    fn unsolicited_entries_fill_the_table_too() {
        let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
        (nat.0.spec.keeps_unsolicited, nat.0.spec.capacity) = (true, 2);
        for peer in [PEER, OTHERS[0], OTHERS[1]] {
            assert_eq!(nat.back(peer, SocketAddr::new(PUBLIC, 1)), None);
        }
        assert_eq!(nat.0.unsolicited.len(), 2);
        assert_eq!(nat.out(HOST, PEER), None);
        nat.1 += DEFAULT_TIMEOUT;
        assert!(nat.out(HOST, PEER).is_some());
    }

    #[test]
    fn other_hosts_consume_ports_and_room_but_are_not_counted_as_ours() {
        let mut nat = OneNat::hard(Allocation::Sequential { step: 1 });
        nat.0.spec.others = 20.0;
        let first = nat.ports(1)[0];
        nat.0.last_port = Some(LOW);
        nat.1 += Duration::from_secs(100);
        let gap = nat.ports(2)[1] - LOW;
        assert!((1800..2200).contains(&gap), "{gap} from {first}");
        assert_eq!(nat.0.peak(), 2);
        let alive = nat.0.mappings(nat.1);
        assert!((1800..2200).contains(&alive), "{alive}");

        nat.1 += Duration::from_secs(3600);
        assert!(nat.out(HOST, PEER).is_some());
        let alive = nat.0.mappings(nat.1);
        assert!(
            (2200..2600).contains(&alive),
            "{alive} in {DEFAULT_TIMEOUT:?}"
        );

        nat.0.spec.capacity = 10;
        nat.1 += Duration::from_secs(3600);
        assert_eq!(nat.out(HOST, PEER), None);
    }

    #[test]
    fn short_endpoints_differ_wherever_endpoints_do() {
        let texts = [
            "0.0.0.0:0",
            "0.0.0.0:1",
            "0.0.1.0:0",
            "255.255.255.255:65535",
            "[::]:0",
            "[::1]:0",
            "[::1]:1",
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8:0:1::1]:1",
        ];
        let endpoints = texts.map(|text| short(text.parse().unwrap()));
        assert_eq!(BTreeSet::from(endpoints).len(), texts.len());
    }

    #[test]
    fn a_firewall_translates_nothing_and_admits_only_answers() {
        let mut nat = OneNat::new(NatSpec::firewall(DEFAULT_TIMEOUT));
        let mapped = nat.out(HOST, PEER).unwrap();
        assert_eq!(mapped.to_string(), HOST);
        assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
        assert_eq!(nat.back(OTHERS[0], mapped), None);
    }
}
