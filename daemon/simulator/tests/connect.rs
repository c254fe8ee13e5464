//! The whole traversal in the simulated internet, over many seeds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

use std::time::{Duration, Instant};

use punch_connect::LinkState;
use punch_simulator::network::{INTERNET, LinkSpec};
use punch_simulator::oracle::{Verdict, can_connect};
use punch_simulator::scenario::{Kind, Place, world, world_with};
use punch_simulator::world::{Side, World};
use punch_traversal::{Budget, Filtering, Mapping, Outcome, StepKind};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const PERFECT: LinkSpec = LinkSpec {
    loss: 0.0,
    delay: Duration::from_millis(5),
    jitter: Duration::ZERO,
    duplicate: 0.0,
};

/// Time for logins and STUN before the user says `up`.
const SETTLE: Duration = Duration::from_secs(6);
/// Offers are made anew at growing intervals: within this, several have been.
const LIMIT: Duration = Duration::from_secs(60);

fn every_place() -> Vec<Place> {
    let mut places = Vec::new();
    for (index, a) in Kind::EASY.iter().enumerate() {
        for b in &Kind::EASY[index..] {
            places.push(Place::Apart(*a, *b));
        }
        if *a != Kind::Open {
            places.push(Place::SameLan(*a));
        }
    }
    places.push(Place::Apart(Kind::Ipv6Firewall, Kind::Ipv6Firewall));
    places.push(Place::Apart(Kind::Firewall, Kind::PortRestricted));
    places
}

/// A link of 0 to 20 % loss, 5 to 300 ms delay, with reordering and duplication, all drawn from the seed.
fn random_link(rng: &mut ChaCha8Rng) -> LinkSpec {
    let mut fraction = || f64::from(rng.next_u32()) / f64::from(u32::MAX);
    let delay = Duration::from_millis(5).mul_f64(1.0 + 59.0 * fraction());
    LinkSpec {
        // Two lines and two directions: together up to 20 % one way.
        loss: 0.1 * fraction(),
        delay: delay / 2,
        jitter: delay.mul_f64(0.3 * fraction()),
        duplicate: 0.05 * fraction(),
    }
}

fn run(place: Place, link: LinkSpec, seed: u64, start: Instant) -> (World, Option<Duration>) {
    let mut world = world(place, link, seed, start);
    world.run_for(SETTLE);
    world.up(Side::A);
    let took = world.run_until(LIMIT, World::connected);
    (world, took)
}

#[test]
fn two_thousand_seeded_runs_connect_wherever_the_oracle_says_so() {
    let runs: u64 =
        std::env::var("PUNCH_SIMULATOR_RUNS").map_or(2000, |runs| runs.parse().unwrap());
    let start = Instant::now();
    let places = every_place();
    let mut failures = Vec::new();
    for seed in 0..runs {
        let place = places[seed as usize % places.len()];
        let link = random_link(&mut ChaCha8Rng::seed_from_u64(seed));
        let (world, took) = run(place, link, seed, start);
        let verdict = can_connect(world.network(), world.host(Side::A), world.host(Side::B));
        assert!(
            matches!(verdict, Verdict::Direct { .. }),
            "{place:?}: {verdict:?}"
        );
        if took.is_none() {
            failures.push((seed, place, link));
        }
    }
    assert!(failures.is_empty(), "did not connect: {failures:#?}");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let start = Instant::now();
    let trace = |seed| {
        let link = random_link(&mut ChaCha8Rng::seed_from_u64(seed));
        let place = Place::Apart(Kind::PortRestricted, Kind::AddressRestricted);
        let (mut world, _) = run(place, link, seed, start);
        world.run_for(Duration::from_secs(120));
        (world.trace(), world.datagrams())
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7).0, trace(8).0);
}

#[test]
fn what_the_oracle_calls_direct_connects() {
    let start = Instant::now();
    for (seed, a) in Kind::ALL.into_iter().enumerate() {
        for b in Kind::ALL {
            let place = Place::Apart(a, b);
            let world = world(place, PERFECT, seed as u64, start);
            let verdict = can_connect(world.network(), world.host(Side::A), world.host(Side::B));
            let direct = matches!(verdict, Verdict::Direct { .. });
            // Searches do better than that, but nobody gets from one family into the other.
            let apart = !(a.has_ipv4() && b.has_ipv4() || a.has_ipv6() && b.has_ipv6());
            if direct || apart {
                let (_, took) = run(place, PERFECT, seed as u64, start);
                assert_eq!(took.is_some(), direct, "{a:?} x {b:?}: {verdict:?}");
            }
        }
    }
}

#[test]
fn both_ends_use_the_same_path_once_things_are_quiet() {
    let start = Instant::now();
    for (seed, place) in every_place().into_iter().enumerate() {
        let (mut world, took) = run(place, PERFECT, seed as u64, start);
        assert!(took.is_some(), "{place:?}");
        world.run_for(Duration::from_secs(60));
        let [a, b] = [Side::A, Side::B].map(|side| {
            let path = world.path(side).expect("has a path");
            path.endpoint().expect("is direct")
        });
        assert_eq!(a.is_ipv4(), b.is_ipv4(), "{place:?}: {a} and {b}");
        if matches!(place, Place::SameLan(_)) {
            let private =
                |ip: std::net::IpAddr| matches!(ip, std::net::IpAddr::V4(ip) if ip.is_private());
            assert!(private(a.ip()) && private(b.ip()), "{place:?}: {a} and {b}");
        }
    }
}

#[test]
fn a_pair_that_hardly_ever_connects_says_so_and_harms_nobody() {
    let place = Place::Apart(Kind::Symmetric, Kind::Symmetric);
    for (seed, budget) in [(3, Budget::Normal), (4, Budget::Gentle)] {
        let mut world = world_with(place, PERFECT, budget, seed, Instant::now());
        world.run_for(SETTLE);
        let before = (world.datagrams(), peaks(&world));
        world.up(Side::A);
        let failed = |world: &World, side| world.link_status(side).unwrap().failures > 0;
        let over = world.run_until(Duration::from_secs(10), |world| {
            failed(world, Side::A) && failed(world, Side::B)
        });
        assert!(over.is_some() && !world.connected());
        for side in [Side::A, Side::B] {
            assert_eq!(world.sockets(side), 2, "no socket of a search was opened");
            let status = world.link_status(side).unwrap();
            let [checks, search] = &status.steps[..] else {
                panic!("{:?}", status.steps);
            };
            assert_eq!(
                (checks.kind, checks.outcome),
                (StepKind::Checks, Outcome::Exhausted)
            );
            assert_eq!(
                (search.kind, search.outcome),
                (StepKind::Birthday, Outcome::TooUnlikely)
            );
            assert!(search.chance < 0.000_1, "{search:?}");
            assert_eq!((search.mappings, search.packets), (0, 0));
        }
        // Checks, and what keeps the line to the STUN servers open.
        world.run_for(Duration::from_secs(240));
        let sent = world.datagrams() - before.0;
        assert!(sent < 2000, "{sent} datagrams in four minutes");
        for (peak, before) in peaks(&world).iter().zip(before.1) {
            assert!(*peak <= before + 60, "{peak} mappings, {before} before");
        }
    }
}

#[test]
fn a_search_stays_within_its_share_of_a_block_and_waits_for_the_next_one() {
    let place = Place::Apart(Kind::SymmetricBlock, Kind::SymmetricBlock);
    let mut met = 0;
    for seed in 0..10 {
        let mut world = world_with(place, PERFECT, Budget::Normal, seed, Instant::now());
        world.run_for(SETTLE);
        world.up(Side::A);
        let soon = world.run_until(Duration::from_secs(10), World::connected);
        met += u32::from(soon.is_some());
        for side in [Side::A, Side::B] {
            let status = world.link_status(side).unwrap();
            let search = &status.steps[1];
            assert_eq!(search.kind, StepKind::Birthday);
            assert!((0.3..0.5).contains(&search.chance), "{search:?}");
            assert!(search.mappings <= 768, "{search:?}");
        }
        world.run_for(Duration::from_secs(600));
        met += u32::from(soon.is_none() && world.connected());
        // Three quarters of 1,024 ports, with everything that was made before; checks of repeated attempts come on top.
        for peak in peaks(&world) {
            assert!(peak <= 768 + 40, "{peak} mappings");
        }
    }
    assert!(met >= 9, "{met} of 10 within ten minutes");
}

/// The most mappings that were alive at once, for every NAT.
fn peaks(world: &World) -> Vec<usize> {
    let network = world.network();
    let gates = network.zones().filter(|zone| *zone != INTERNET);
    gates.map(|zone| network.gate(zone).peak()).collect()
}

#[test]
fn an_idle_path_survives_an_hour_and_the_loss_of_the_signalling_server() {
    let place = Place::Apart(Kind::PortRestricted, Kind::PortRestricted);
    let (mut world, took) = run(place, PERFECT, 5, Instant::now());
    assert!(took.is_some());
    world.set_hub(false);
    for _ in 0..60 {
        world.run_for(Duration::from_secs(60));
        assert!(world.connected());
    }
}

#[test]
fn a_machine_that_changes_its_network_is_found_again() {
    let place = Place::Apart(Kind::Open, Kind::PortRestricted);
    let (mut world, took) = run(place, PERFECT, 6, Instant::now());
    assert!(took.is_some());
    let host = world.host(Side::A);
    let fresh = std::net::IpAddr::from([203, 0, 113, 77]);
    world
        .network_mut()
        .set_addresses(host, punch_simulator::network::INTERNET, &[fresh]);
    world.readdress(Side::A);
    let found = world.run_until(Duration::from_secs(7), |world| {
        world
            .path(Side::B)
            .and_then(|path| path.endpoint())
            .is_some_and(|at| at.ip() == fresh)
    });
    assert!(found.is_some(), "B sends to {:?}", world.path(Side::B));
}

#[test]
fn a_peer_that_appears_later_is_connected_then() {
    let place = Place::Apart(Kind::PortRestricted, Kind::FullCone);
    let mut world = world(place, PERFECT, 9, Instant::now());
    world.set_hub(false);
    world.up(Side::A);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.state(Side::A), LinkState::Waiting);
    world.set_hub(true);
    let took = world.run_until(Duration::from_secs(5), World::connected);
    assert!(took.is_some());
}

#[test]
fn both_ends_may_say_up_at_the_same_moment() {
    for seed in 0..50 {
        let place = Place::Apart(Kind::PortRestricted, Kind::PortRestricted);
        let mut world = world(place, PERFECT, seed, Instant::now());
        world.run_for(SETTLE);
        world.up(Side::A);
        world.up(Side::B);
        let took = world.run_until(Duration::from_secs(5), World::connected);
        assert!(took.is_some(), "seed {seed}");
    }
}

#[test]
fn netcheck_names_every_kind_of_nat() {
    let cases = [
        (Kind::Open, Mapping::None, Filtering::EndpointIndependent),
        (
            Kind::Firewall,
            Mapping::None,
            Filtering::AddressAndPortDependent,
        ),
        (
            Kind::FullCone,
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
        ),
        (
            Kind::AddressRestricted,
            Mapping::EndpointIndependent,
            Filtering::AddressDependent,
        ),
        (
            Kind::PortRestricted,
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
        ),
        (
            Kind::AddressDependent,
            Mapping::AddressDependent,
            Filtering::AddressDependent,
        ),
        (
            Kind::Symmetric,
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ),
        (
            Kind::Ipv6Firewall,
            Mapping::None,
            Filtering::AddressAndPortDependent,
        ),
    ];
    for (seed, (kind, mapping, filtering)) in cases.into_iter().enumerate() {
        let place = Place::Apart(kind, Kind::Open);
        let mut world = world(place, PERFECT, seed as u64, Instant::now());
        world.run_for(SETTLE);
        world.netcheck(Side::A);
        let done = world.run_until(Duration::from_secs(10), |world| {
            world.profiles(Side::A).is_some()
        });
        assert!(done.is_some(), "{kind:?}: no result");
        let profile = &world.profiles(Side::A).unwrap()[0];
        assert_eq!(profile.mapping, Some(mapping), "{kind:?}");
        assert_eq!(profile.filtering, Some(filtering), "{kind:?}");
    }
}
