//! What a search for ports can do where ordinary checks cannot, by arithmetic from the topology and the budget alone.
//!
//! A search that harms nobody takes only so many mappings, so that not all that is possible is possible at once: two
//! exclusive blocks of 1,024 ports, three quarters of which each side may take, meet with 1 - exp(-9/16) = 43 % in an
//! attempt, which is minutes. What is compared is one attempt: [`AT_ONCE`] and more is at once, [`WORTH_IT`] and more is
//! minutes, and less is not tried. Destinations of one mapping count like mappings here, though a search may have more of them.

use punch_traversal::{Budget, Caps};

use super::{EIM, Gate, Verdict, Why, can_connect, gateways};
use crate::nat::{Allocation, Mapping, NatSpec, Pooling};
use crate::network::{HostId, Network};

/// The chance of an attempt from which on a pair meets at once.
pub const AT_ONCE: f64 = 0.9;
/// The chance below which no attempt is made: it would harm for nothing.
pub const WORTH_IT: f64 = 0.05;

/// Every port from 1024 up.
const ALL_PORTS: f64 = 64_512.0;
/// Sockets that a side holds open for the other one to probe.
const HELD: f64 = 256.0;
/// Mappings of a search where nobody knows how many there are, but for the budget aggressive.
const UNKNOWN: [f64; 2] = [128.0, 256.0];
/// Mappings of a netcheck, which every machine makes.
const HELD_ANYWAY: f64 = 64.0;
/// What even the budget aggressive leaves of a known capacity.
const RESERVE: f64 = 64.0;

/// When two hosts have a direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prospect {
    /// Ordinary checks find it, or nearly every first search does.
    AtOnce,
    /// A search finds it in some attempts; minutes lie between them, for mappings expire slowly.
    InMinutes,
    /// No search is worth what it costs others.
    NotWorthIt,
    /// There is none.
    Never,
}

/// When two hosts have a direct path with this budget on both sides; no search goes behind a common NAT.
pub fn prospect(network: &Network, a: HostId, b: HostId, budget: Budget) -> Prospect {
    match can_connect(network, a, b) {
        Verdict::Direct { .. } => Prospect::AtOnce,
        Verdict::Impossible {
            why: Why::FilterHidesMapping | Why::BothMappingsDependent,
        } => match chance(&side(network, a, budget), &side(network, b, budget), budget) {
            AT_ONCE.. => Prospect::AtOnce,
            WORTH_IT.. => Prospect::InMinutes,
            _ => Prospect::NotWorthIt,
        },
        Verdict::Impossible { .. } => Prospect::Never,
    }
}

/// What a search may make of one side's gateways.
struct Side {
    mapping: Mapping,
    /// Ports, on all addresses, that a mapping may get.
    places: f64,
    /// Mappings that a search may have alive.
    room: f64,
    /// Ports can be predicted.
    counts: bool,
}

fn side(network: &Network, host: HostId, budget: Budget) -> Side {
    let zone = network.addresses(host).iter().find(|(_, ip)| ip.is_ipv4());
    let gates = zone.map_or(Vec::new(), |(zone, _)| gateways(network, *zone));
    let mut side = Side {
        mapping: EIM,
        places: ALL_PORTS,
        room: f64::from(Caps::of(budget).mappings),
        counts: false,
    };
    for (_, spec) in &gates as &[Gate<'_>] {
        side.mapping = side.mapping.max(spec.visible_mapping());
        side.room = side.room.min(room(spec, budget));
        if spec.visible_mapping() != EIM {
            side.places = places(spec);
            side.counts = matches!(spec.allocation, Allocation::Sequential { .. });
        }
    }
    side
}

fn places(spec: &NatSpec) -> f64 {
    let ports = match spec.allocation {
        Allocation::RandomIn { low, high } => f64::from(high) - f64::from(low) + 1.0,
        _ => ALL_PORTS,
    };
    match spec.pooling {
        Pooling::Arbitrary => ports * spec.public.len() as f64,
        Pooling::Paired => ports,
    }
}

/// Mappings that a search may have at a gateway, and that the gateway has for it.
fn room(spec: &NatSpec, budget: Budget) -> f64 {
    let table = spec.capacity.min(spec.host_limit) as f64;
    let share = match (spec.allocation, budget) {
        // A block is seen in samples, and its size is taken for what there is.
        (Allocation::RandomIn { .. }, Budget::Gentle) => places(spec) / 4.0,
        (Allocation::RandomIn { .. }, Budget::Normal) => places(spec) * 3.0 / 4.0,
        (Allocation::RandomIn { .. }, Budget::Aggressive) => places(spec) - RESERVE,
        _ if spec.visible_mapping() == EIM => f64::INFINITY,
        (_, Budget::Gentle) => UNKNOWN[0],
        (_, Budget::Normal) => UNKNOWN[1],
        (_, Budget::Aggressive) => f64::INFINITY,
    };
    share.min(table)
}

/// The chance of one attempt. A table that is full before it begins, with what every machine holds, is left alone.
fn chance(a: &Side, b: &Side, budget: Budget) -> f64 {
    if a.room.min(b.room) < HELD_ANYWAY {
        return 0.0;
    }
    let packets = f64::from(Caps::of(budget).packets());
    let by_probes = |holder: &Side, prober: &Side| {
        let held = HELD.min(holder.room).min(holder.places);
        let probes = prober.room.min(packets);
        1.0 - (1.0 - held / holder.places).powf(probes)
    };
    match (a.mapping, b.mapping) {
        (EIM, _) if b.counts => 1.0,
        (_, EIM) if a.counts => 1.0,
        (EIM, _) => by_probes(b, a),
        (_, EIM) => by_probes(a, b),
        (Mapping::AddressDependent, _) => by_probes(a, b),
        (_, Mapping::AddressDependent) => by_probes(b, a),
        _ if a.counts && b.counts => 1.0,
        // The other one meets the predicted ports from all that it may have.
        _ if a.counts => 1.0 - (-b.room / b.places).exp(),
        _ if b.counts => 1.0 - (-a.room / a.places).exp(),
        _ => {
            let pairs = a.room.min(packets) * b.room.min(packets);
            1.0 - (-pairs / (a.places * b.places)).exp()
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "it is a test: virtual time begins at some instant"
)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::network::LinkSpec;
    use crate::scenario::{Kind, Place, world};
    use crate::world::Side as End;

    #[test]
    fn pairs_meet_at_once_in_minutes_or_not_as_the_ports_allow() {
        use Budget::{Aggressive, Gentle, Normal};
        use Kind::{
            Exclusive256, Exclusive1024, Ipv6Firewall, PortRestricted, SmallTable, Symmetric,
            SymmetricBlock, SymmetricSequential,
        };
        for (a, b, budget, expected) in [
            (PortRestricted, PortRestricted, Gentle, Prospect::AtOnce),
            // 192 of 256 ports are held, or 64 of them.
            (PortRestricted, Exclusive256, Normal, Prospect::AtOnce),
            (PortRestricted, Exclusive256, Gentle, Prospect::AtOnce),
            // Three quarters each: 43 %. A quarter each: 6 %. All but 64: 58 %.
            (Exclusive1024, Exclusive1024, Normal, Prospect::InMinutes),
            (Exclusive1024, Exclusive1024, Gentle, Prospect::InMinutes),
            (
                Exclusive1024,
                Exclusive1024,
                Aggressive,
                Prospect::InMinutes,
            ),
            (SymmetricBlock, SymmetricBlock, Normal, Prospect::InMinutes),
            (Symmetric, Symmetric, Normal, Prospect::NotWorthIt),
            (Symmetric, Symmetric, Aggressive, Prospect::AtOnce),
            (Symmetric, Exclusive1024, Normal, Prospect::NotWorthIt),
            (
                SymmetricSequential,
                SymmetricSequential,
                Normal,
                Prospect::AtOnce,
            ),
            (
                SmallTable,
                SymmetricSequential,
                Normal,
                Prospect::NotWorthIt,
            ),
            (Ipv6Firewall, Symmetric, Normal, Prospect::Never),
        ] {
            let place = Place::Apart(a, b);
            let world = world(place, LinkSpec::default(), 1, Instant::now());
            let hosts = [End::A, End::B].map(|side| world.host(side));
            let found = prospect(world.network(), hosts[0], hosts[1], budget);
            assert_eq!(found, expected, "{a} x {b}, {budget:?}");
        }
    }
}
