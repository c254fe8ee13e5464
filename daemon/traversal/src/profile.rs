//! What is known of a NAT (RFC 4787's terms), and what samples of its mappings say about how it allots ports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use punch_signal_protocol::{
    Allocation, Budget, Filtering, MAX_NAT_ADDRESSES, Mapping, NatSummary, SearchFacts,
};

use crate::capacity;
use crate::evidence::{Sample, ServerCheck};
use crate::socket::Family;

/// Fewer new mappings than this tell nothing about a sequence.
const MIN_SEQUENCE_SAMPLES: usize = 4;
/// With fewer new mappings than this, a block cannot be told from the whole range.
const MIN_BLOCK_SAMPLES: usize = 8;
/// Mappings of a run that no server sees: towards closed filters and towards itself.
const UNSEEN: u32 = 6;
/// Ports that lie closer together than this come from a block.
const WIDEST_BLOCK: u16 = 16_384;

/// What a run has found for one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatProfile {
    /// The family that was tested.
    pub family: Family,
    /// No server answered at all.
    pub udp_blocked: bool,
    /// The machine's address as servers see it.
    pub public: Option<SocketAddr>,
    /// All public addresses that were seen.
    pub addresses: Vec<IpAddr>,
    /// What a mapping depends on.
    pub mapping: Option<Mapping>,
    /// From where packets may come in; `None` when no server could test that.
    pub filtering: Option<Filtering>,
    /// Whether the public port equals the local one.
    pub preserves_port: Option<bool>,
    /// How ports are allotted; `None` when there were too few samples.
    pub allocation: Option<Allocation>,
    /// Whether machines behind the NAT reach each other through its public address (RFC 4787 §6).
    pub hairpinning: Option<bool>,
    /// A mapping that is not used lives at least so long; measured long after everything else.
    pub lifetime: Option<Duration>,
    /// The smallest TTL with which a packet opens everything that filters on this side.
    pub opening_ttl: Option<u8>,
    /// More than one NAT in a row.
    pub double_nat: Option<bool>,
    /// What every server said.
    pub evidence: Vec<ServerCheck>,
    /// All mappings that were seen, in the order in which they were asked for.
    pub samples: Vec<Sample>,
    /// What a search must know beside the NAT's behaviour.
    pub search: SearchBasis,
}

/// What a search must know beside the NAT's behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SearchBasis {
    /// The run is not over: what it has found so far may be wrong.
    pub measuring: bool,
    /// The mappings that there are, if a search or a run has come to their end or the administrator says so.
    pub capacity: Option<u32>,
    /// The NAT gave this run no more mappings after the first ones, or none at all: its ports were used up.
    pub used_up: bool,
}

impl NatProfile {
    /// The mappings that there are, as far as that is known: those of a block, unless fewer or more are known of.
    pub fn capacity(&self) -> Option<u32> {
        let hard = self.mapping.is_some_and(capacity::is_dependent);
        capacity::capacity(self.search.capacity, self.allocation.filter(|_| hard))
    }

    /// Whether another run might tell how a NAT allots its ports that makes more than one mapping of a socket, which this one could
    /// not.
    pub fn is_partial(&self) -> bool {
        let hard = self.mapping.is_some_and(capacity::is_dependent);
        hard && self.allocation.is_none()
    }

    /// What is said of a NAT while a run has not begun to tell anything.
    pub fn unmeasured(family: Family) -> Self {
        Self {
            family,
            udp_blocked: false,
            public: None,
            addresses: Vec::new(),
            mapping: None,
            filtering: None,
            preserves_port: None,
            allocation: None,
            hairpinning: None,
            lifetime: None,
            opening_ttl: None,
            double_nat: None,
            evidence: Vec::new(),
            samples: Vec::new(),
            search: SearchBasis {
                measuring: true,
                ..SearchBasis::default()
            },
        }
    }

    /// The most mappings that a search may hold.
    pub fn allowed(&self, budget: Budget) -> u32 {
        capacity::allowed(budget, self.mapping, self.allocation, self.search.capacity)
    }

    /// About how many mappings the run has made.
    pub fn mappings_made(&self) -> u32 {
        let mut seen: Vec<_> = self.samples.iter().map(|s| (s.local, s.mapped)).collect();
        seen.sort_unstable();
        seen.dedup();
        u32::try_from(seen.len())
            .unwrap_or(u32::MAX)
            .saturating_add(UNSEEN)
    }

    /// What a peer is told of the NAT.
    pub fn summary(&self, budget: Budget, attempt: u8) -> NatSummary {
        let v4 = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        };
        NatSummary {
            mapping: self.mapping,
            filtering: self.filtering,
            allocation: self.allocation,
            addresses: self
                .addresses
                .iter()
                .filter_map(v4)
                .take(MAX_NAT_ADDRESSES)
                .collect(),
            budget,
            attempt,
            search: Some(SearchFacts {
                measuring: self.search.measuring,
                mappings: self.allowed(budget),
            }),
        }
    }
}

/// What the administrator says about the NAT; this overrides everything that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatOverrides {
    /// What a mapping depends on.
    pub mapping: Option<Mapping>,
    /// From where packets may come in.
    pub filtering: Option<Filtering>,
    /// How ports are allotted.
    pub allocation: Option<Allocation>,
    /// The public addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether hairpinning works.
    pub hairpinning: Option<bool>,
    /// How long an unused mapping lives.
    pub lifetime: Option<Duration>,
    /// The TTL of opening packets.
    pub opening_ttl: Option<u8>,
    /// How many mappings there are for this machine and all others that share them.
    pub capacity: Option<u32>,
}

impl NatOverrides {
    /// Replaces what was measured over IPv4 by what the administrator says.
    pub fn apply(&self, profile: &mut NatProfile) {
        if profile.family != Family::V4 {
            return;
        }
        profile.mapping = self.mapping.or(profile.mapping);
        profile.filtering = self.filtering.or(profile.filtering);
        profile.allocation = self.allocation.or(profile.allocation);
        profile.hairpinning = self.hairpinning.or(profile.hairpinning);
        profile.lifetime = self.lifetime.or(profile.lifetime);
        profile.opening_ttl = self.opening_ttl.or(profile.opening_ttl);
        profile.search.capacity = self.capacity.or(profile.search.capacity);
        if !self.addresses.is_empty() {
            profile.addresses.clone_from(&self.addresses);
        }
    }
}

/// On what mappings depend, by the mappings that one socket got; `local` are the machine's own addresses.
pub(crate) fn mapping(samples: &[Sample], local: &[IpAddr]) -> Option<Mapping> {
    let first = samples.first()?;
    let own = |sample: &Sample| {
        local.contains(&sample.mapped.ip()) && sample.mapped.port() == sample.local
    };
    if samples.iter().all(own) {
        return Some(Mapping::None);
    }
    let differ = |a: &Sample, b: &Sample| a.mapped != b.mapped;
    let pairs = |same_address: bool| {
        samples.iter().enumerate().flat_map(move |(index, a)| {
            let later = samples[index + 1..].iter();
            later
                .filter(move |b| (a.to.ip() == b.to.ip()) == same_address && a.to != b.to)
                .map(move |b| (a, b))
        })
    };
    let over_ports = pairs(true).any(|(a, b)| differ(a, b));
    let over_addresses = pairs(false).any(|(a, b)| differ(a, b));
    let (knows_ports, knows_addresses) =
        (pairs(true).next().is_some(), pairs(false).next().is_some());
    match (over_ports, over_addresses) {
        (true, _) => Some(Mapping::AddressAndPortDependent),
        (false, true) if knows_ports => Some(Mapping::AddressDependent),
        (false, true) => Some(Mapping::Dependent),
        // All at one address: whether another address would see another mapping is not known.
        (false, false) => (knows_addresses
            && samples.iter().all(|sample| sample.mapped == first.mapped))
        .then_some(Mapping::EndpointIndependent),
    }
}

/// How ports are allotted, by mappings in the order in which they were asked for. Mappings of one endpoint that is seen
/// again count once; `own` more were made meanwhile.
pub(crate) fn allocation(samples: &[Sample], own: usize) -> Option<Allocation> {
    let mut fresh: Vec<&Sample> = Vec::new();
    for sample in samples {
        let known = |seen: &&Sample| seen.local == sample.local && seen.mapped == sample.mapped;
        if !fresh.iter().any(known) {
            fresh.push(sample);
        }
    }
    let kept = fresh
        .iter()
        .filter(|sample| sample.mapped.port() == sample.local)
        .count();
    // A random port equals the local one once in 64,512 times.
    if kept >= 2 && 2 * kept >= fresh.len() {
        return Some(Allocation::Preserving);
    }
    let ports: Vec<u16> = fresh.iter().map(|sample| sample.mapped.port()).collect();
    if ports.len() < MIN_SEQUENCE_SAMPLES {
        return None;
    }
    if let Some(step) = step(&ports) {
        let others = others(&fresh, step, own);
        return Some(Allocation::Sequential { step, others });
    }
    let (low, high) = (*ports.iter().min()?, *ports.iter().max()?);
    if high - low > WIDEST_BLOCK {
        return Some(Allocation::Random);
    }
    (ports.len() >= MIN_BLOCK_SAMPLES).then(|| block(low, high, ports.len()))
}

/// The distance between most neighbours, if most have the same.
fn step(ports: &[u16]) -> Option<i16> {
    let mut distances: Vec<i32> = ports
        .windows(2)
        .map(|pair| i32::from(pair[1]) - i32::from(pair[0]))
        .collect();
    distances.sort_unstable();
    let total = distances.len();
    let runs = distances.chunk_by(|a, b| a == b);
    let (count, step) = runs
        .map(|run| (run.len(), run[0]))
        .max_by_key(|(n, _)| *n)?;
    let small = i16::try_from(step)
        .ok()
        .filter(|step| *step != 0 && step.unsigned_abs() <= 256);
    small.filter(|_| count >= 3 && 5 * count >= 2 * total)
}

/// How many mappings per second others have made between the first of these and the last.
fn others(samples: &[&Sample], step: i16, own: usize) -> u16 {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return 0;
    };
    let taken = samples.windows(2).map(|pair| {
        let distance = i32::from(pair[1].mapped.port()) - i32::from(pair[0].mapped.port());
        let taken = f64::from(distance) / f64::from(step);
        // Only where the sequence begins anew is the distance so large.
        if taken.abs() < 4096.0 { taken } else { 1.0 }
    });
    let made = taken.sum::<f64>() - (samples.len() - 1 + own) as f64;
    let elapsed = last
        .sent
        .saturating_duration_since(first.sent)
        .as_secs_f64();
    if made <= 0.0 || elapsed < 0.1 {
        return 0;
    }
    (made / elapsed).ceil().min(1000.0) as u16
}

/// The block that samples between `low` and `high` come from: an aligned one of a power of two that they fill, or as much
/// more on both sides as so many random samples leave out.
fn block(low: u16, high: u16, samples: usize) -> Allocation {
    let span = u32::from(high - low) + 1;
    let size = span.next_power_of_two();
    let start = u32::from(low) / size * size;
    if 10 * span >= 8 * size && u32::from(high) < start + size {
        let end = (start + size - 1).min(u32::from(u16::MAX));
        return Allocation::Block {
            low: u16::try_from(start).unwrap_or(low).max(1),
            high: u16::try_from(end).unwrap_or(high),
        };
    }
    let margin = u16::try_from(2 * span / u32::try_from(samples.max(1)).unwrap_or(1)).unwrap_or(0);
    Allocation::Block {
        low: low.saturating_sub(margin).max(1),
        high: high.saturating_add(margin),
    }
}
