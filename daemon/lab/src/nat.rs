//! Middleboxes as RFC 4787 describes them: a NAT is mapping x filtering x port allocation x expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::RngCore;

/// How long an idle mapping lives unless a spec says otherwise: RFC 4787 REQ-5's least.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How many mappings fit into a table unless a spec says otherwise.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// When two packets from one inside endpoint share a mapping (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mapping {
    /// One mapping for every destination (EIM, an "easy" NAT).
    EndpointIndependent,
    /// One mapping for each destination address (ADM).
    AddressDependent,
    /// One mapping for each destination address and port (APDM, a "hard" NAT).
    AddressAndPortDependent,
}

/// Whose packets may enter through a mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// Anybody's (EIF).
    EndpointIndependent,
    /// Those from addresses to which the mapping has sent (ADF).
    AddressDependent,
    /// Those from endpoints to which the mapping has sent (APDF).
    AddressAndPortDependent,
}

/// Which public port a new mapping gets (RFC 4787 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// The inside port; a random free port when another mapping already holds it.
    Preserving,
    /// The last port plus `step`, from 1024 to 65535, skipping those in use; the first is random.
    Sequential {
        /// The distance, read as two's complement: `u16::MAX` counts down by one.
        step: u16,
    },
    /// Any free port of one block.
    RandomIn {
        /// The lowest port of the block.
        low: u16,
        /// The highest port of the block.
        high: u16,
    },
    /// Any free port from 1024 to 65535.
    Random,
}

/// Everything that distinguishes one NAT from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatSpec {
    /// When a mapping is reused.
    pub mapping: Mapping,
    /// Who may send through a mapping.
    pub filtering: Filtering,
    /// How public ports are chosen.
    pub allocation: Allocation,
    /// How long a mapping, and each permission in it, outlives the last packet sent through it.
    pub timeout: Duration,
    /// Whether inside hosts reach each other through the public addresses (RFC 4787 section 6).
    pub hairpinning: bool,
    /// The public addresses; each inside address sticks to one (paired pooling, RFC 4787 REQ-2).
    /// With none, nothing is translated.
    pub public: Vec<IpAddr>,
    /// The most mappings alive at once; with 0, no UDP passes.
    pub capacity: usize,
}

impl NatSpec {
    /// A port-preserving NAT without hairpinning, with the default timeout and capacity.
    pub fn new(mapping: Mapping, filtering: Filtering, public: IpAddr) -> Self {
        Self {
            mapping,
            filtering,
            allocation: Allocation::Preserving,
            timeout: DEFAULT_TIMEOUT,
            hairpinning: false,
            public: vec![public],
            capacity: DEFAULT_CAPACITY,
        }
    }

    /// EIM and EIF: whoever learns the mapping may use it.
    pub fn full_cone(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::EndpointIndependent, public)
    }

    /// EIM and ADF.
    pub fn address_restricted(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::AddressDependent, public)
    }

    /// EIM and APDF: the usual home router.
    pub fn port_restricted(public: IpAddr) -> Self {
        Self::new(EIM, Filtering::AddressAndPortDependent, public)
    }

    /// APDM and APDF; `Allocation::Random` makes the hardest kind.
    pub fn symmetric(allocation: Allocation, public: IpAddr) -> Self {
        let mut spec = Self::port_restricted(public);
        spec.mapping = Mapping::AddressAndPortDependent;
        Self { allocation, ..spec }
    }

    /// A stateful firewall: translates nothing, APDF, as home routers treat IPv6 (RFC 6092).
    pub fn firewall(timeout: Duration) -> Self {
        let (public, nat) = (Vec::new(), Self::port_restricted(UNSPECIFIED));
        Self {
            timeout,
            public,
            ..nat
        }
    }

    /// Whether this is a firewall, behind which addresses are the same as before it.
    pub fn is_transparent(&self) -> bool {
        self.public.is_empty()
    }
}

/// The state of one NAT. Only outbound packets keep a mapping alive (RFC 4787 REQ-6).
///
/// Filtering looks at what was sent *through the mapping that receives*, as symmetric NATs do;
/// RFC 4787 section 5 read literally would let a hard NAT admit on the strength of a sibling
/// mapping. A dependent mapping whose filter is at least as strict shares its port with mappings
/// to other destinations, as Linux does, so that more mappings than ports can be alive.
#[derive(Debug, Clone)]
pub struct Nat {
    spec: NatSpec,
    /// By inside endpoint and destination.
    entries: BTreeMap<Flow, Entry>,
    /// From public endpoint and remote to the entry's key.
    slots: BTreeMap<Flow, Flow>,
    deadlines: BTreeSet<(Instant, Flow)>,
    paired: BTreeMap<IpAddr, IpAddr>,
    last_port: Option<u16>,
}

/// An inside endpoint and a destination; in a key or a slot, only as much of it as matters there.
type Flow = (SocketAddr, SocketAddr);

#[derive(Debug, Clone)]
struct Entry {
    public: SocketAddr,
    expires: Instant,
    permits: BTreeMap<SocketAddr, Instant>,
}

impl Nat {
    /// An empty table.
    pub fn new(spec: NatSpec) -> Self {
        Self {
            spec,
            entries: BTreeMap::new(),
            slots: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            paired: BTreeMap::new(),
            last_port: None,
        }
    }

    /// What this NAT was built from.
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// How many mappings are alive at `now`.
    pub fn mappings(&self, now: Instant) -> usize {
        let alive = |entry: &&Entry| entry.expires > now;
        self.entries.values().filter(alive).count()
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
        self.expire(now);
        let key = (src, scope(self.spec.mapping as u8, dst));
        let expires = now + self.spec.timeout;
        if !self.entries.contains_key(&key) {
            let public = self.allocate((src, dst), rng)?;
            self.slots.insert(self.slot(public, dst), key);
            let permits = BTreeMap::new();
            let entry = Entry {
                public,
                expires,
                permits,
            };
            self.entries.insert(key, entry);
        }
        let entry = self.entries.get_mut(&key)?;
        self.deadlines.remove(&(entry.expires, key));
        self.deadlines.insert((expires, key));
        entry.expires = expires;
        let permit = scope(self.spec.filtering as u8, dst);
        entry.permits.insert(permit, expires);
        Some(entry.public)
    }

    /// Passes a packet from outside `src` to public `to`; answers with the inside destination.
    pub fn inbound(&mut self, now: Instant, src: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        let key = self.slots.get(&self.slot(to, src))?;
        let permit = scope(self.spec.filtering as u8, src);
        let expires = self.entries.get(key)?.permits.get(&permit)?;
        (*expires > now).then_some(key.0)
    }

    /// Whether a public endpoint leads inside, if only for some; those behind a firewall do.
    pub fn is_mapped(&self, public: SocketAddr) -> bool {
        let mut slots = self.slots.range((public, ANY)..=(public, LAST));
        self.spec.is_transparent() || slots.next().is_some()
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            if let Some(entry) = self.entries.remove(&key) {
                self.slots.remove(&self.slot(entry.public, key.1));
            }
        }
    }

    fn allocate(&mut self, flow: Flow, rng: &mut impl RngCore) -> Option<SocketAddr> {
        let (src, dst) = flow;
        if self.entries.len() >= self.spec.capacity {
            return None;
        }
        if self.spec.is_transparent() {
            return Some(src);
        }
        let ip = self.pair(src.ip())?;
        let at = |port| SocketAddr::new(ip, port);
        let free = |port: &u16| !self.slots.contains_key(&self.slot(at(*port), dst));
        let port = match (self.spec.allocation, self.last_port) {
            (Allocation::Preserving, _) if !self.is_mapped(at(src.port())) => Some(src.port()),
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
        let mut pool = self.spec.public.clone();
        pool.retain(|ip| ip.is_ipv4() == inside.is_ipv4());
        let turn = self.paired.len().checked_rem(pool.len())?;
        self.paired.insert(inside, pool[turn]);
        Some(pool[turn])
    }

    fn slot(&self, public: SocketAddr, remote: SocketAddr) -> Flow {
        let (mapping, filtering) = (self.spec.mapping as u8, self.spec.filtering as u8);
        let strictness = if filtering >= mapping { mapping } else { 0 };
        (public, scope(strictness, remote))
    }
}

const EIM: Mapping = Mapping::EndpointIndependent;
const LOW: u16 = 1024;
const HIGH: u16 = u16::MAX;
const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY: SocketAddr = SocketAddr::new(UNSPECIFIED, 0);
const LAST: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u16::MAX);

/// The part of a remote endpoint that matters to a mapping or filtering behaviour.
pub(crate) fn scope(strictness: u8, remote: SocketAddr) -> SocketAddr {
    match strictness {
        0 => ANY,
        1 => SocketAddr::new(remote.ip(), 0),
        _ => remote,
    }
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
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    const HOST: &str = "192.168.1.2:5000";
    const OTHER_HOST: &str = "192.168.1.3:5000";
    const PEER: &str = "198.51.100.1:40";
    const OTHERS: [&str; 2] = ["198.51.100.1:41", "198.51.100.2:40"];
    const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

    /// A NAT with its own clock and dice.
    struct Lab(Nat, Instant, ChaCha8Rng);

    impl Lab {
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
            let mut lab = Lab::new(NatSpec::new(mapping, F::EndpointIndependent, PUBLIC));
            let mapped = lab.out(HOST, PEER);
            let shared = OTHERS.map(|peer| lab.out(HOST, peer) == mapped);
            assert_eq!(shared, [reach > 0, reach > 1]);

            let mut lab = Lab::new(NatSpec::new(EIM, filtering, PUBLIC));
            let mapped = lab.out(HOST, PEER).unwrap();
            assert_eq!(lab.back(PEER, mapped), Some(HOST.into()));
            let admitted = OTHERS.map(|peer| lab.back(peer, mapped).is_some());
            assert_eq!(admitted, [reach > 0, reach > 1]);
        }
    }

    #[test]
    fn a_preserving_nat_keeps_the_port_unless_it_is_taken() {
        let mut lab = Lab::new(NatSpec::port_restricted(PUBLIC));
        assert_eq!(lab.out(HOST, PEER).unwrap().port(), 5000);
        assert_ne!(lab.out(OTHER_HOST, PEER).unwrap().port(), 5000);
        assert_ne!(Lab::hard(Allocation::Preserving).ports(2), [5000, 5000]);
    }

    #[test]
    fn sequential_ports_go_up_or_down_by_the_step_and_wrap_around() {
        let mut up = Lab::hard(Allocation::Sequential { step: 2 });
        assert!(up.ports(9).is_sorted_by(|a, b| *b == a + 2));
        up.0.last_port = Some(HIGH - 1);
        assert_eq!(up.out(HOST, PEER).unwrap().port(), LOW);
        let mut down = Lab::hard(Allocation::Sequential { step: u16::MAX });
        assert!(down.ports(9).is_sorted_by(|a, b| *b == a - 1));
    }

    #[test]
    fn random_ports_fill_the_block_and_are_shared_between_destinations() {
        let (low, high) = (7000, 7001);
        let mut block = Lab::hard(Allocation::RandomIn { low, high });
        assert_eq!(BTreeSet::from_iter(block.ports(40)), [low, high].into());
        assert_ne!(block.out(HOST, PEER), block.out(OTHER_HOST, PEER));
        assert_eq!(block.out("192.168.1.4:1", PEER), None);
        let ports = Lab::hard(Allocation::Random).ports(2000);
        assert!(ports.iter().all(|port| *port >= LOW) && ports.iter().any(|port| *port > 60_000));
    }

    #[test]
    fn only_outbound_packets_keep_a_mapping_and_its_permissions_alive() {
        let mut lab = Lab::new(NatSpec::port_restricted(PUBLIC));
        let mapped = lab.out(HOST, PEER).unwrap();
        lab.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
        assert!(lab.back(PEER, mapped).is_some());
        assert_eq!(lab.out(HOST, OTHERS[1]), Some(mapped));
        lab.1 += Duration::from_secs(1);
        assert_eq!(lab.back(PEER, mapped), None);
        assert!(lab.back(OTHERS[1], mapped).is_some());
        lab.1 += DEFAULT_TIMEOUT;
        assert_eq!(lab.0.mappings(lab.1), 0);
        assert_eq!(lab.back(PEER, mapped), None);
    }

    #[test]
    fn a_full_table_refuses_new_mappings_until_old_ones_expire() {
        let mut lab = Lab::hard(Allocation::Random);
        lab.0.spec.capacity = 2;
        lab.ports(2);
        assert_eq!(lab.out(HOST, PEER), None);
        lab.1 += DEFAULT_TIMEOUT;
        assert!(lab.out(HOST, PEER).is_some());
    }

    #[test]
    fn each_inside_address_sticks_to_one_public_address_of_its_family() {
        let mut lab = Lab::hard(Allocation::Random);
        lab.0.spec.public.push([203, 0, 113, 2].into());
        let first = lab.out(HOST, PEER).unwrap().ip();
        assert_ne!(lab.out(OTHER_HOST, PEER).unwrap().ip(), first);
        assert_eq!(lab.out(HOST, OTHERS[1]).unwrap().ip(), first);
        assert_eq!(lab.out("[fd00::1]:1", "[fd00::2]:1"), None);
    }

    #[test]
    fn a_firewall_translates_nothing_and_admits_only_answers() {
        let mut lab = Lab::new(NatSpec::firewall(DEFAULT_TIMEOUT));
        let mapped = lab.out(HOST, PEER).unwrap();
        assert_eq!(mapped.to_string(), HOST);
        assert_eq!(lab.back(PEER, mapped), Some(HOST.into()));
        assert_eq!(lab.back(OTHERS[0], mapped), None);
    }
}
