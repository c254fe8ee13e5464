//! What a machine finds out about its NAT, against what the NAT is.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_simulator::nat::{Allocation, Filtering, Mapping, NatSpec, Pooling};
use punch_simulator::network::{Gateway, INTERNET, LinkSpec, Network, ZoneId};
use punch_simulator::world::{Side, World};
use punch_traversal::{self as traversal, Budget, NatProfile};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const LINK: LinkSpec = LinkSpec {
    loss: 0.0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    duplicate: 0.0,
};

/// What is tried when the lifetime is measured, in seconds.
const SILENCES: [u64; 6] = [8, 15, 25, 40, 60, 120];

/// A machine behind these NATs, the outermost first, and one in the open.
fn world(nats: &[NatSpec], seed: u64) -> World {
    let start = Instant::now();
    let mut network = Network::new(seed, start);
    let mut zone: ZoneId = INTERNET;
    for (number, nat) in nats.iter().enumerate() {
        let link = if number == 0 {
            LINK
        } else {
            LinkSpec::default()
        };
        zone = network.add_zone(zone, Gateway::Nat(nat.clone()), link);
    }
    let a = network.add_host(zone, &[IpAddr::from([10, 0, 0, 2])]);
    let b = network.add_host(INTERNET, &[IpAddr::from([198, 51, 100, 9])]);
    let stun = [[203, 0, 113, 1], [203, 0, 113, 2]].map(IpAddr::from);
    let stun = network.add_host(INTERNET, &stun);
    let delay = Duration::from_millis(10);
    World::new(network, [a, b, stun], delay, Budget::Normal, seed, start)
}

/// The result of the netcheck that every machine makes for itself.
fn profile(world: &mut World) -> NatProfile {
    let limit = Duration::from_secs(10);
    let took = world.run_until(limit, |world| world.profiles(Side::A).is_some());
    assert!(took.is_some(), "no result");
    world.profiles(Side::A).unwrap()[0].clone()
}

fn public(number: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, 20 + number])
}

fn below(rng: &mut ChaCha8Rng, end: u32) -> u32 {
    rng.next_u32() % end
}

fn random_nat(rng: &mut ChaCha8Rng) -> NatSpec {
    let mapping = [
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ][below(rng, 3) as usize];
    let filtering = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ][below(rng, 3) as usize];
    let mut others = 0.0;
    let allocation = match below(rng, 4) {
        0 => Allocation::Preserving,
        1 => {
            others = f64::from(below(rng, 21));
            let step = 1 + below(rng, 8) as u16;
            let down = below(rng, 2) == 1;
            let step = if down { step.wrapping_neg() } else { step };
            Allocation::Sequential { step }
        }
        2 => {
            let size = 256 << below(rng, 6);
            let block = 1 + below(rng, 65_536 / size - 1);
            let low = (block * size).max(1024) as u16;
            let high = u32::from(low) + size - 1;
            Allocation::RandomIn {
                low,
                high: high.min(65_535) as u16,
            }
        }
        _ => Allocation::Random,
    };
    NatSpec {
        allocation,
        others,
        hairpinning: below(rng, 2) == 1,
        public: (0..=below(rng, 4) as u8).map(public).collect(),
        pooling: [Pooling::Paired, Pooling::Arbitrary][below(rng, 2) as usize],
        timeout: Duration::from_secs(u64::from(10 + below(rng, 290))),
        ..NatSpec::new(mapping, filtering, public(0))
    }
}

/// Whether ports are allotted as the profile says.
fn fits(nat: &NatSpec, found: Option<traversal::Allocation>) -> bool {
    use traversal::Allocation::{Block, Preserving, Random, Sequential};
    let (spec, many) = (
        nat.allocation,
        nat.mapping == Mapping::AddressAndPortDependent,
    );
    match (spec, found) {
        // There are two mappings of one socket at the most.
        (_, None) => {
            nat.mapping == Mapping::AddressDependent || !many && spec != Allocation::Preserving
        }
        (Allocation::Preserving, Some(found)) => {
            // Towards the second destination the port is taken, and another one is random.
            (found == Preserving) != many
                || nat.public.len() > 1
                || nat.mapping == Mapping::AddressDependent
        }
        (
            Allocation::Sequential { step },
            Some(Sequential {
                step: found,
                others,
            }),
        ) => found == step.cast_signed() && f64::from(others) <= 3.0 * nat.others + 10.0,
        (Allocation::RandomIn { low, high }, Some(Block { low: l, high: h })) => {
            // Its edges are guessed: seven of eight places must be among them.
            let common = i32::from(high.min(h)) - i32::from(low.max(l));
            !many || 8 * common >= 7 * i32::from(high - low)
        }
        (Allocation::RandomIn { .. }, Some(Random)) => !many,
        (Allocation::Random, Some(Random)) => true,
        _ => false,
    }
}

/// What is wrong about a profile.
fn wrong(nat: &NatSpec, found: &NatProfile) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let mapping = match nat.mapping {
        Mapping::EndpointIndependent => traversal::Mapping::EndpointIndependent,
        Mapping::AddressDependent => traversal::Mapping::AddressDependent,
        Mapping::AddressAndPortDependent => traversal::Mapping::AddressAndPortDependent,
    };
    expect(
        found.mapping == Some(mapping),
        format!("{:?}", found.mapping),
    );
    let filtering = match nat.filtering {
        Filtering::EndpointIndependent => traversal::Filtering::EndpointIndependent,
        Filtering::AddressDependent => traversal::Filtering::AddressDependent,
        Filtering::AddressAndPortDependent => traversal::Filtering::AddressAndPortDependent,
    };
    expect(
        found.filtering == Some(filtering),
        format!("{:?}", found.filtering),
    );
    let fits = fits(nat, found.allocation);
    expect(fits, format!("{:?}", found.allocation));
    // Where mappings depend on the destination and filters are strict, no socket's public endpoint is of use to another one.
    let meets = nat.mapping == Mapping::EndpointIndependent
        || nat.filtering == Filtering::EndpointIndependent;
    expect(
        !meets || found.hairpinning == Some(nat.hairpinning),
        format!("hairpinning {:?}", found.hairpinning),
    );
    let known = found.addresses.iter().all(|ip| nat.public.contains(ip));
    expect(
        known && !found.addresses.is_empty(),
        format!("{:?}", found.addresses),
    );
    wrong
}

#[test]
fn profiles_name_the_right_kind_in_99_of_100_random_nats() {
    let runs: u64 =
        std::env::var("PUNCH_SIMULATOR_RUNS").map_or(1000, |runs| runs.parse().unwrap());
    let mut misses = Vec::new();
    let mut coincidences = 0;
    for seed in 0..runs {
        let nat = random_nat(&mut ChaCha8Rng::seed_from_u64(seed));
        let found = profile(&mut world(std::slice::from_ref(&nat), seed));
        let easy = found.mapping == Some(traversal::Mapping::EndpointIndependent);
        if easy && nat.mapping != Mapping::EndpointIndependent {
            // In a small block, the only two mappings of a socket may have the same port by chance: one time in 256.
            let chance = nat.mapping == Mapping::AddressDependent
                && matches!(nat.allocation, Allocation::RandomIn { low, high } if high - low < 1024);
            assert!(
                chance,
                "seed {seed}: a dependent mapping is taken for an easy one: {nat:?}"
            );
            coincidences += 1;
        }
        let wrong = wrong(&nat, &found);
        if !wrong.is_empty() {
            misses.push((
                seed,
                wrong,
                nat.mapping,
                nat.filtering,
                nat.allocation,
                nat.others,
                nat.public.len(),
                nat.pooling,
            ));
        }
    }
    assert!(coincidences * 500 <= runs, "{coincidences} of {runs}");
    assert!(
        misses.len() as u64 * 100 <= runs,
        "{} of {runs} are wrong: {misses:#?}",
        misses.len()
    );
}

#[test]
fn linux_looks_easy_and_says_that_it_preserves_ports() {
    for seed in 0..20 {
        let found = profile(&mut world(&[NatSpec::linux(public(0))], seed));
        assert_eq!(found.mapping, Some(traversal::Mapping::EndpointIndependent));
        assert_eq!(found.allocation, Some(traversal::Allocation::Preserving));
        let strict = traversal::Filtering::AddressAndPortDependent;
        assert_eq!(found.filtering, Some(strict));
    }
}

#[test]
fn the_lifetime_of_mappings_is_measured_in_the_background() {
    for (seed, timeout) in [10, 16, 20, 30, 45, 61, 90, 119, 125, 180, 300]
        .into_iter()
        .enumerate()
    {
        for mapping in [
            Mapping::EndpointIndependent,
            Mapping::AddressAndPortDependent,
        ] {
            let nat = NatSpec {
                timeout: Duration::from_secs(timeout),
                allocation: Allocation::Random,
                ..NatSpec::new(mapping, Filtering::AddressAndPortDependent, public(0))
            };
            let mut world = world(&[nat], seed as u64);
            assert_eq!(profile(&mut world).lifetime, None, "not before it is known");
            world.run_for(Duration::from_secs(240));
            let found = world.link_status(Side::A).unwrap().mine.unwrap().lifetime;
            let below = SILENCES.into_iter().filter(|silence| *silence < timeout);
            let least = Duration::from_secs(below.max().unwrap());
            let most = Duration::from_secs(timeout);
            let fits = found.is_some_and(|found| (least..=most).contains(&found));
            assert!(fits, "{mapping:?}, {timeout} s: {found:?}");
            assert_eq!(world.sockets(Side::A), 2, "its sockets are closed");
        }
    }
}

#[test]
fn the_lifetime_is_measured_over_a_line_that_loses_packets() {
    for seed in 0..20 {
        let nat = NatSpec {
            timeout: Duration::from_secs(50),
            ..NatSpec::port_restricted(public(0))
        };
        let mut world = world(&[nat], seed);
        let rough = LinkSpec { loss: 0.1, ..LINK };
        let zone = world.network().zones().last().unwrap();
        world.network_mut().set_link(zone, rough);
        world.run_for(Duration::from_secs(300));
        let found = world.link_status(Side::A).unwrap().mine.unwrap().lifetime;
        assert!(
            found.is_none_or(|found| found <= Duration::from_secs(50)),
            "{found:?}"
        );
    }
}

#[test]
fn several_public_addresses_do_not_make_the_lifetime_short() {
    let mut wrong = Vec::new();
    for seed in 0..20 {
        let nat = NatSpec {
            public: (0..4).map(public).collect(),
            pooling: Pooling::Arbitrary,
            ..NatSpec::port_restricted(public(0))
        };
        let mut world = world(&[nat], seed);
        world.run_for(Duration::from_secs(240));
        let found = world.link_status(Side::A).unwrap().mine.unwrap().lifetime;
        if found.is_some_and(|found| found < Duration::from_secs(60)) {
            wrong.push((seed, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_ttl_of_opening_packets_passes_every_nat_in_a_row() {
    for seed in 0..10 {
        for make in [NatSpec::port_restricted, NatSpec::address_restricted] {
            let home = make(public(0));
            let found = profile(&mut world(std::slice::from_ref(&home), seed));
            assert_eq!(found.opening_ttl, Some(2), "{:?}", home.filtering);
            assert_eq!(found.double_nat, Some(false));

            let carrier = NatSpec::port_restricted(public(0));
            let home = make(IpAddr::from([100, 64, 0, 2]));
            let found = profile(&mut world(&[carrier, home], seed));
            assert_eq!(found.opening_ttl, Some(3));
            assert_eq!(found.double_nat, Some(true));
        }
        let open = profile(&mut world(&[NatSpec::full_cone(public(0))], seed));
        assert_eq!(open.opening_ttl, None, "nothing is to be opened");
    }
}

#[test]
fn the_allocation_of_an_address_dependent_nat_is_seen_over_several_sockets() {
    let nat = NatSpec {
        allocation: Allocation::Sequential { step: 2 },
        ..NatSpec::new(
            Mapping::AddressDependent,
            Filtering::AddressDependent,
            public(0),
        )
    };
    let found = profile(&mut world(&[nat], 1)).allocation;
    let fits = matches!(
        found,
        Some(traversal::Allocation::Sequential { step: 2, .. })
    );
    assert!(fits, "{found:?}");
}
