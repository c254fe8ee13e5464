//! What a search may ask of the routers, and how many mappings it may hold in this network. A carrier's NAT often has 512 to 2,048 ports for a subscriber, each for
//! one mapping, and a search that takes them all cuts off everything else that lives behind it; closing the sockets frees
//! nothing. So the limit must not be found by hitting it.

use std::time::Duration;

use punch_signal_protocol::{Allocation, Budget, Mapping, NatSummary};

/// Mappings that even the aggressive budget leaves to everybody else where it is known how many there are.
const RESERVE: u32 = 64;
/// Mappings of a search where it is not known how many there are; holding ports open for the other side to probe needs no more.
const UNKNOWN_GENTLE: u32 = 128;
const UNKNOWN_NORMAL: u32 = 256;

/// What one attempt may ask of the routers at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Mappings alive at once, of all attempts together.
    pub mappings: u32,
    /// Destinations of one mapping that may be alive at once: entries of a table that is usually larger than a subscriber's ports.
    pub destinations: u32,
    /// Packets per second.
    pub rate: u32,
    /// How long a search lasts.
    pub duration: Duration,
}

impl Caps {
    /// The caps of a budget.
    pub fn of(budget: Budget) -> Self {
        let (mappings, destinations, rate, seconds) = match budget {
            Budget::Gentle => (256, 256, 100, 30),
            Budget::Normal => (1024, 4096, 1000, 12),
            Budget::Aggressive => (131_072, 131_072, 13_000, 25),
        };
        Self {
            mappings,
            destinations,
            rate,
            duration: Duration::from_secs(seconds),
        }
    }

    /// An address that a peer has named gets no more search packets than this in one attempt, whatever the peer says about
    /// its NAT: 3,000, 12,000 or 325,000.
    pub fn packets(self) -> u32 {
        let seconds = u32::try_from(self.duration.as_secs()).unwrap_or(u32::MAX);
        self.rate.saturating_mul(seconds)
    }
}

/// How many mappings there are: what an earlier search or the administrator says, or as many as the block has ports.
pub(crate) fn capacity(known: Option<u32>, allocation: Option<Allocation>) -> Option<u32> {
    known.or(match allocation {
        Some(Allocation::Block { low, high }) => Some(u32::from(high.saturating_sub(low)) + 1),
        _ => None,
    })
}

/// The share of `capacity` mappings that a search may hold, with everything else that this machine holds.
fn share(budget: Budget, capacity: u32) -> u32 {
    let normal = capacity / 4 * 3 + capacity % 4 * 3 / 4;
    match budget {
        Budget::Gentle => capacity / 4,
        Budget::Normal => normal,
        // Of a handful, three quarters are more.
        Budget::Aggressive => capacity.saturating_sub(RESERVE).max(normal),
    }
}

/// The most mappings that a search may hold at such a NAT, of which `known` is the capacity if that is known.
pub(crate) fn allowed(
    budget: Budget,
    mapping: Option<Mapping>,
    allocation: Option<Allocation>,
    known: Option<u32>,
) -> u32 {
    // Ports of a block are counted only where each destination takes one.
    let hard = mapping.is_some_and(is_dependent);
    let cap = cap(budget, hard);
    let limit = match (capacity(known, allocation.filter(|_| hard)), budget) {
        (Some(capacity), _) => share(budget, capacity),
        (None, _) if !hard => cap,
        (None, Budget::Gentle) => UNKNOWN_GENTLE,
        (None, Budget::Normal) => UNKNOWN_NORMAL,
        (None, Budget::Aggressive) => cap,
    };
    limit.min(cap)
}

/// What the budget allows at once: mappings, or destinations of one.
fn cap(budget: Budget, hard: bool) -> u32 {
    let caps = Caps::of(budget);
    if hard {
        caps.mappings
    } else {
        caps.destinations
    }
}

/// The most mappings that a search of this side may hold: what it says, or what it would say if it were of this version.
pub(crate) fn limit(nat: &NatSummary) -> u32 {
    let told = nat.search.map(|search| search.mappings);
    let allowed = || allowed(nat.budget, nat.mapping, nat.allocation, None);
    told.unwrap_or_else(allowed)
        .min(cap(nat.budget, is_hard(nat)))
}

/// How many mappings a search of this side makes before it looks whether others still get theirs. Where the capacity is known it
/// need not look; where it is not, only the aggressive budget goes on from there.
pub(crate) fn first_stage(nat: &NatSummary) -> u32 {
    let careful = if is_hard(nat) {
        UNKNOWN_NORMAL
    } else {
        Caps::of(Budget::Normal).mappings
    };
    let counted = matches!(nat.allocation, Some(Allocation::Block { .. })) && is_hard(nat);
    let limit = limit(nat);
    if counted { limit } else { limit.min(careful) }
}

/// Whether a NAT gives every destination a mapping of its own.
pub fn is_hard(nat: &NatSummary) -> bool {
    nat.mapping.is_some_and(is_dependent)
}

/// Whether a mapping depends on the destination.
pub(crate) fn is_dependent(mapping: Mapping) -> bool {
    matches!(
        mapping,
        Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::Dependent
    )
}
