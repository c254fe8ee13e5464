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
/// to other destinations, as Linux does, so that more mappings than ports can be alive; not so
/// where ports are exclusive. A full table drops what needs a new mapping; the others live on.
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
    /// How many mappings each inside address has.
    hosts: FixedMap<u64, usize>,
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
            hosts: FixedMap::default(),
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
        *self.hosts.entry(host(src)).or_default() += 1;
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
        let host = host(entry.inside);
        if let Some(count) = self.hosts.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
        self.unused.push(id);
    }

    /// Whether an inside address has all the mappings that it may have.
    fn is_spent(&self, inside: SocketAddr) -> bool {
        let count = self.hosts.get(&host(inside));
        count.is_some_and(|count| *count >= self.spec.host_limit)
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
        if self.is_full() || self.is_spent(src) {
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
        let shares = filtering >= mapping && !self.spec.exclusive;
        let strictness = if shares { mapping } else { 0 };
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

/// An inside address, whatever the port.
fn host(inside: SocketAddr) -> u64 {
    short(SocketAddr::new(inside.ip(), 0))
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
mod tests;
