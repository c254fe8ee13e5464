//! Searches for ports when something goes wrong in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_connect::{LinkState, Path};
use punch_simulator::nat::{Allocation, DEFAULT_CAPACITY, NatSpec};
use punch_simulator::network::{Gateway, HostId, INTERNET, LinkSpec, Network, ZoneId};
use punch_simulator::scenario::{Kind, Place, world};
use punch_simulator::world::{Side, World};
use punch_traversal::{Budget, Caps, Outcome, StepKind, StepReport};

const LINK: LinkSpec = LinkSpec {
    loss: 0.0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    duplicate: 0.0,
};
const BOTH: [Side; 2] = [Side::A, Side::B];
/// Time for logins and STUN before the user says `up`.
const SETTLE: Duration = Duration::from_secs(6);
/// A hard side, an easy one.
const HOLD: Place = Place::Apart(Kind::Symmetric, Kind::PortRestricted);
/// Both are hard, and do not meet soon: a search that goes on for a while.
const LONG: Place = Place::Apart(Kind::SymmetricBlock, Kind::SymmetricBlock);

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn settled(place: Place, seed: u64) -> World {
    let mut world = world(place, LINK, seed, Instant::now());
    world.run_for(SETTLE);
    for side in BOTH {
        assert_eq!(world.sockets(side), 2);
    }
    world
}

fn search(world: &World, side: Side) -> Option<StepReport> {
    world.link_status(side)?.steps.into_iter().nth(1)
}

fn is_searching(world: &World, side: Side) -> bool {
    search(world, side).is_some_and(|step| step.outcome == Outcome::Running && step.packets > 0)
}

/// Runs until both sides send for a search, and a little longer.
#[track_caller]
fn into_the_search(world: &mut World) {
    let both = |world: &World| BOTH.into_iter().all(|side| is_searching(world, side));
    assert!(world.run_until(seconds(2), both).is_some(), "no search");
    world.run_for(millis(50));
}

#[track_caller]
fn connects(world: &mut World, limit: Duration) -> Duration {
    let took = world.run_until(limit, World::connected);
    let states = BOTH.map(|side| (world.state(side), search(world, side)));
    took.unwrap_or_else(|| panic!("not within {limit:?}: {states:?}"))
}

/// Nothing is open but the main sockets and that of a path.
#[track_caller]
fn is_tidy(world: &World) {
    for side in BOTH {
        let searched = matches!(world.path(side), Some(Path::Direct(path)) if path.socket.0 >= 16);
        let (opened, closed) = world.opened_and_closed(side);
        assert_eq!(opened - closed, u64::from(searched), "{side:?}");
        assert_eq!(world.sockets(side), 2 + usize::from(searched), "{side:?}");
    }
}

fn peaks(world: &World) -> Vec<usize> {
    let gates = world.network().zones().filter(|zone| *zone != INTERNET);
    gates
        .map(|zone| world.network().gate(zone).peak())
        .collect()
}

/// A network made by hand, so that its parts can be changed.
struct Parts {
    world: World,
    stun: HostId,
    zones: [ZoneId; 2],
}

const STUN: [[u8; 4]; 2] = [[203, 0, 113, 1], [203, 0, 113, 2]];

fn parts(nats: [NatSpec; 2], seed: u64) -> Parts {
    let start = Instant::now();
    let mut network = Network::new(seed, start);
    let zones = nats.map(|nat| network.add_zone(INTERNET, Gateway::Nat(nat), LINK));
    let [a, b] = [0, 1].map(|n| network.add_host(zones[n], &[IpAddr::from([10, 0, n as u8, 2])]));
    let stun = network.add_host(INTERNET, &STUN.map(IpAddr::from));
    let world = World::new(
        network,
        [a, b, stun],
        LINK.delay,
        Budget::Normal,
        seed,
        start,
    );
    Parts { world, stun, zones }
}

fn public(number: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, number])
}

fn easy(number: u8) -> NatSpec {
    NatSpec::port_restricted(public(number))
}

fn hard(number: u8) -> NatSpec {
    NatSpec::symmetric(Allocation::Random, public(number))
}

// --- STUN servers ---

#[test]
fn without_stun_servers_an_open_side_is_reached_and_the_others_wait_for_them() {
    let Parts {
        mut world, stun, ..
    } = parts([easy(1), easy(2)], 1);
    world.network_mut().set_addresses(stun, INTERNET, &[]);
    world.run_for(seconds(20));
    world.up(Side::A);
    world.run_for(seconds(30));
    assert!(!world.connected());
    assert_ne!(world.state(Side::A), LinkState::Connected);
    is_tidy(&world);

    world
        .network_mut()
        .set_addresses(stun, INTERNET, &STUN.map(IpAddr::from));
    connects(&mut world, seconds(90));

    // One whose address needs no STUN server.
    let place = Place::Apart(Kind::Open, Kind::PortRestricted);
    let mut world = punch_simulator::scenario::world(place, LINK, 1, Instant::now());
    world.set_lie(Some(SocketAddr::from(([192, 0, 2, 77], 7777))));
    world.run_for(SETTLE);
    world.up(Side::B);
    connects(&mut world, seconds(5));
}

#[test]
fn a_lying_stun_server_leads_nobody_astray_for_longer_than_it_lies() {
    for seed in 0..5 {
        let Parts { mut world, .. } = parts([easy(1), easy(2)], seed);
        world.set_lie(Some(SocketAddr::from(([192, 0, 2, 77], 7777))));
        world.run_for(SETTLE);
        let before = world.datagrams();
        world.up(Side::A);
        world.run_for(seconds(30));
        assert!(!world.connected(), "there is no other way");
        // Checks to one wrong endpoint each.
        let sent = world.datagrams() - before;
        assert!(sent < 2 * 200, "{sent} datagrams");
        is_tidy(&world);

        world.set_lie(None);
        connects(&mut world, seconds(120));
    }
}

#[test]
fn a_stun_server_that_names_a_victim_costs_it_no_more_than_the_cap() {
    // Both sides are random, and believed to be at the victim's address.
    let Parts {
        mut world, stun, ..
    } = parts([hard(1), hard(2)], 3);
    world.run_for(SETTLE);
    let _ = stun;
    world.set_lie(Some(SocketAddr::from(([192, 0, 2, 77], 7777))));
    let before = world.datagrams();
    world.up(Side::A);
    world.run_for(seconds(8));
    let sent = world.datagrams() - before;
    let caps = Caps::of(Budget::Normal);
    assert!(sent <= 2 * u64::from(caps.packets()), "{sent}");
}

// --- NATs ---

#[test]
fn a_nat_whose_table_is_full_is_tried_again_when_it_has_room() {
    for seed in 0..5 {
        let room = |capacity| NatSpec {
            capacity,
            ..hard(1)
        };
        let Parts {
            mut world, zones, ..
        } = parts([room(DEFAULT_CAPACITY), easy(2)], seed);
        world.run_for(SETTLE);
        world
            .network_mut()
            .set_gateway(zones[0], Gateway::Nat(room(0)));
        world.up(Side::A);
        world.run_for(seconds(20));
        assert!(!world.connected());
        world
            .network_mut()
            .set_gateway(zones[0], Gateway::Nat(room(DEFAULT_CAPACITY)));
        connects(&mut world, seconds(120));
        world.run_for(seconds(300));
        is_tidy(&world);
    }
}

#[test]
fn a_nat_with_room_for_few_of_the_mappings_is_punched_by_those() {
    let mut count = 0;
    for seed in 0..20 {
        let small = NatSpec {
            capacity: 150,
            ..hard(1)
        };
        let Parts { mut world, .. } = parts([small, easy(2)], seed);
        world.run_for(SETTLE);
        world.up(Side::A);
        // Where the first ones do not meet, they have to expire before there are others.
        count += u32::from(world.run_until(seconds(200), World::connected).is_some());
        world.run_for(seconds(5));
        assert!(peaks(&world)[0] <= 150);
    }
    assert!(count >= 15, "{count} of 20");
}

#[test]
fn a_nat_that_forgets_everything_in_the_middle_of_a_search_is_punched_all_the_same() {
    for seed in 0..10 {
        let Parts {
            mut world, zones, ..
        } = parts([hard(1), easy(2)], seed);
        world.run_for(SETTLE);
        world.up(Side::A);
        let until = |world: &World| is_searching(world, Side::A);
        world.run_until(seconds(2), until);
        for (zone, nat) in zones.into_iter().zip([hard(1), easy(2)]) {
            world.network_mut().set_gateway(zone, Gateway::Nat(nat));
        }
        connects(&mut world, seconds(60));
    }
}

// --- what is not known, and what was asked for just before ---

#[test]
fn a_pair_that_says_up_while_the_nats_are_still_being_measured_meets_soon_after_that() {
    let sequence = Place::Apart(Kind::SymmetricSequential, Kind::PortRestricted);
    for place in [HOLD, sequence] {
        for seed in 0..5 {
            for wait in [100, 400, 1500] {
                let mut world = world(place, LINK, seed, Instant::now());
                world.run_for(millis(wait));
                world.up(Side::A);
                // A netcheck is settled after one second at the most, a search takes half a one.
                let took = connects(&mut world, seconds(8));
                assert!(took < seconds(3), "{place:?} after {wait} ms: {took:?}");
            }
        }
    }
}

/// Two machines that were started at the moment at which the user says `up`.
#[test]
fn a_pair_that_knows_nothing_yet_meets_as_surely_as_one_that_was_measured() {
    let stateful = Kind::PortRestrictedStateful;
    let pairs = [
        (stateful, stateful),
        (stateful, Kind::PortRestricted),
        (Kind::PortRestricted, Kind::PortRestricted),
        (Kind::Open, stateful),
        (Kind::FullCone, Kind::AddressRestricted),
    ];
    for (a, b) in pairs {
        for seed in 0..20 {
            let mut world = world(Place::Apart(a, b), LINK, seed, Instant::now());
            for side in BOTH {
                if seed % 3 != 2 || side == Side::A {
                    world.up(side);
                }
            }
            let took = connects(&mut world, seconds(60));
            assert!(took < seconds(2), "{a:?} {b:?} {seed}: {took:?}");
        }
    }
}

#[test]
fn whoever_was_found_is_found_again_at_once_but_not_a_third_time_in_a_minute() {
    let mut world = settled(HOLD, 3);
    for _ in 0..2 {
        world.up(Side::A);
        connects(&mut world, seconds(10));
        world.down(Side::A);
        world.run_for(seconds(1));
    }
    let before = world.datagrams();
    world.up(Side::A);
    world.run_for(seconds(10));
    assert!(!world.connected());
    let outcomes = BOTH.map(|side| search(&world, side).map(|step| step.outcome));
    assert!(
        outcomes.contains(&Some(Outcome::OverBudget)),
        "{outcomes:?}"
    );
    let sent = world.datagrams() - before;
    assert!(sent < 300, "{sent} datagrams");
    connects(&mut world, seconds(200));
}

// --- sockets ---

#[test]
fn a_search_without_sockets_says_so_and_is_made_when_there_are_some() {
    let mut world = settled(HOLD, 1);
    world.refuse_sockets(Side::A, true);
    world.up(Side::A);
    let said = world.run_until(seconds(5), |world| {
        search(world, Side::A).is_some_and(|step| step.outcome == Outcome::NoSockets)
    });
    assert!(said.is_some(), "{:?}", search(&world, Side::A));
    // The other side's probes may still find the main socket.
    world.refuse_sockets(Side::A, false);
    connects(&mut world, seconds(120));
    world.run_for(seconds(300));
    is_tidy(&world);
}

#[test]
fn a_machine_that_gets_no_sockets_at_all_uses_those_that_it_has() {
    for seed in 0..5 {
        let place = Place::Apart(Kind::PortRestricted, Kind::PortRestricted);
        let mut world = world(place, LINK, seed, Instant::now());
        for side in BOTH {
            world.refuse_sockets(side, true);
        }
        world.run_for(SETTLE);
        world.up(Side::A);
        connects(&mut world, seconds(10));
    }
}

// --- in the middle of a search ---

#[test]
fn a_change_of_network_in_the_middle_of_a_search_starts_a_new_attempt() {
    for seed in 0..5 {
        let mut world = settled(LONG, seed);
        world.up(Side::A);
        into_the_search(&mut world);
        assert!(world.sockets(Side::A) > 2 && world.sockets(Side::B) > 2);
        let host = world.host(Side::B);
        let fresh = IpAddr::from([198, 51, 100, 77]);
        world.network_mut().set_addresses(host, INTERNET, &[fresh]);
        world.readdress(Side::B);
        let took = connects(&mut world, seconds(10));
        assert!(took < seconds(5), "{took:?}");
        world.run_for(seconds(10));
        is_tidy(&world);
        assert!(world.connected());
    }
}

#[test]
fn down_in_the_middle_of_a_search_closes_every_socket() {
    for (seed, place) in [HOLD, LONG, HOLD, LONG].into_iter().enumerate() {
        for side in BOTH {
            let mut world = settled(place, seed as u64);
            world.up(side);
            world.run_for(millis(40 + 20 * seed as u64));
            let other = BOTH.into_iter().find(|other| *other != side).unwrap();
            let began = !world.link_status(other).unwrap().steps.is_empty();
            world.down(side);
            let sent = world.datagrams();
            // Answers to what is under way, and the end of the peer's own search.
            world.run_for(seconds(3));
            assert!(
                world.datagrams() - sent < 400,
                "{}",
                world.datagrams() - sent
            );
            world.run_for(seconds(20));
            is_tidy(&world);
            for side in BOTH {
                assert_eq!(world.state(side), LinkState::Down, "{place:?}");
                assert_eq!(world.sockets(side), 2);
            }
            // What was tried until then is told further on.
            let told = !world.link_status(other).unwrap().steps.is_empty();
            assert_eq!(told, began, "{place:?}");
        }
    }
}

#[test]
fn nothing_leaks_over_fifty_times_up_and_down() {
    for place in [
        HOLD,
        LONG,
        Place::Apart(Kind::SymmetricSequential, Kind::SymmetricBlock),
    ] {
        let mut world = settled(place, 5);
        for round in 0..50 {
            world.up(BOTH[round % 2]);
            world.run_for(millis(17 * round as u64));
            world.down(BOTH[round % 2]);
            world.run_for(millis(13 * (50 - round as u64)));
        }
        // The measurement of the mappings' lifetime is over by then, too.
        world.run_for(seconds(300));
        is_tidy(&world);
        for side in BOTH {
            assert_eq!(world.state(side), LinkState::Down);
        }
    }
}

#[test]
fn ups_and_downs_stay_within_the_cap_together() {
    let caps = Caps::of(Budget::Normal);
    let mut world = settled(LONG, 6);
    for _ in 0..10 {
        world.up(Side::A);
        world.run_for(seconds(3));
        world.down(Side::A);
        world.run_for(seconds(1));
    }
    for peak in peaks(&world) {
        assert!(peak <= caps.mappings as usize + 200, "{peak} mappings");
    }
}

#[test]
fn a_peer_that_vanishes_in_the_middle_leaves_nothing_behind() {
    for (seed, place) in [HOLD, LONG].into_iter().enumerate() {
        for (stays, goes) in [(Side::A, Side::B), (Side::B, Side::A)] {
            let mut world = settled(place, 7 + seed as u64);
            world.up(stays);
            into_the_search(&mut world);
            let host = world.host(goes);
            world.network_mut().set_addresses(host, INTERNET, &[]);
            let before = world.datagrams();
            world.run_for(seconds(30));
            assert_ne!(world.state(stays), LinkState::Connected);
            let status = world.link_status(stays).unwrap();
            assert!(status.failures > 0, "{status:?}");
            let sent = world.datagrams() - before;
            assert!(sent < 3 * u64::from(Caps::of(Budget::Normal).packets()));
            world.down(stays);
            world.run_for(seconds(5));
            assert_eq!(world.sockets(stays), 2);
        }
    }
}

#[test]
fn the_signalling_server_may_go_when_a_search_has_begun() {
    for seed in 0..10 {
        let mut world = settled(HOLD, seed);
        world.up(Side::A);
        let begun = |world: &World| BOTH.into_iter().all(|side| is_searching(world, side));
        assert!(world.run_until(seconds(2), begun).is_some());
        world.set_hub(false);
        connects(&mut world, seconds(10));
    }
}

#[test]
fn a_prediction_that_is_lost_with_the_server_is_made_up_for_when_it_is_back() {
    let place = Place::Apart(Kind::SymmetricSequential, Kind::SymmetricSequential);
    for seed in 0..10 {
        let mut world = settled(place, seed);
        world.up(Side::A);
        // Offer and answer pass, predictions do not.
        let begun = |world: &World| {
            let steps = |side| world.link_status(side).unwrap().steps.len();
            steps(Side::A) > 1 && steps(Side::B) > 1
        };
        assert!(world.run_until(seconds(2), begun).is_some());
        world.set_hub(false);
        world.run_for(seconds(10));
        if !world.connected() {
            let said = BOTH.map(|side| search(&world, side).map(|step| step.outcome));
            assert!(said.contains(&Some(Outcome::NoPrediction)), "{said:?}");
            is_tidy(&world);
        }
        world.set_hub(true);
        connects(&mut world, seconds(90));
    }
}

#[test]
fn the_other_side_may_say_up_too_while_a_search_is_under_way() {
    for seed in 0..20 {
        let mut world = settled(HOLD, seed);
        world.up(Side::A);
        world.run_for(millis(10 + 10 * seed));
        world.up(Side::B);
        connects(&mut world, seconds(10));
        world.run_for(seconds(10));
        assert!(world.connected());
        is_tidy(&world);
    }
}

#[test]
fn both_sides_may_say_up_at_once_and_search_together() {
    for seed in 0..20 {
        let mut world = settled(HOLD, seed);
        world.up(Side::A);
        world.up(Side::B);
        connects(&mut world, seconds(10));
    }
}

// --- memory ---

#[test]
fn what_has_worked_is_tried_at_once_the_next_time() {
    let begun = |world: &mut World| {
        world.up(Side::A);
        let running = |side| {
            move |world: &World| {
                search(world, side).is_some_and(|step| step.outcome == Outcome::Running)
            }
        };
        [Side::A, Side::B].map(|side| world.run_until(seconds(2), running(side)).unwrap())
    };
    let mut first = settled(HOLD, 2);
    let began = begun(&mut first);
    connects(&mut first, seconds(10));
    let memories = BOTH.map(|side| first.worked(side).to_vec());
    for memory in &memories {
        let steps: Vec<_> = memory.iter().map(|(_, step)| *step).collect();
        assert_eq!(steps, [StepKind::HoldAndProbe]);
    }

    let mut second = settled(HOLD, 2);
    for (side, memory) in BOTH.into_iter().zip(memories) {
        second.remember(side, memory);
    }
    let sooner = begun(&mut second);
    assert!(sooner[0] < began[0], "{sooner:?}, {began:?}");
    connects(&mut second, seconds(10));
    for side in BOTH {
        assert_eq!(second.worked(side), [], "it is known");
    }

    // In another network it means nothing.
    let mut third = settled(HOLD, 2);
    for side in BOTH {
        third.remember(side, vec![(1, StepKind::HoldAndProbe)]);
    }
    assert_eq!(begun(&mut third), began);
}

#[test]
fn an_attempt_after_a_path_was_found_remembers_it_without_help() {
    let mut world = settled(HOLD, 3);
    world.up(Side::A);
    connects(&mut world, seconds(10));
    world.down(Side::A);
    world.run_for(seconds(150));
    world.up(Side::A);
    connects(&mut world, seconds(10));
    for side in BOTH {
        assert_eq!(world.worked(side).len(), 1);
    }
}

// --- the same each time ---

#[test]
fn the_same_seed_gives_the_same_search() {
    let pairs = [
        HOLD,
        Place::Apart(Kind::SymmetricSequential, Kind::SymmetricBlock),
        Place::Apart(Kind::SymmetricBlock, Kind::SymmetricBlock),
        Place::Apart(Kind::SymmetricPool, Kind::AddressDependent),
    ];
    let start = Instant::now();
    for place in pairs {
        let trace = |seed| {
            let rough = LinkSpec {
                loss: 0.05,
                jitter: millis(20),
                duplicate: 0.05,
                ..LINK
            };
            let mut world = world(place, rough, seed, start);
            world.run_for(SETTLE);
            world.up(Side::A);
            world.run_for(seconds(20));
            (world.trace(), world.datagrams())
        };
        assert_eq!(trace(7), trace(7), "{place:?}");
        assert_ne!(trace(7).0, trace(8).0);
    }
}
