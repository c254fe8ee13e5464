//! What samples of a NAT's mappings say about how it maps and how it allots ports.

use std::time::Duration;

use punch_traversal::{
    Allocation, Budget, FIRST_PORT, Filtering, Mapping, NatOverrides, NatProfile,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::nat::{ALL, Depends, Nat, Server, World};
use crate::{addr, secs};

const SEEDS: u64 = 24;

/// A profile of a NAT that maps by address and port and allots ports like this, taken with so many sample ports.
fn sampled(
    samples: u16,
    seed: u64,
    allocator: impl FnMut(u16, Duration) -> u16 + 'static,
) -> NatProfile {
    let nat = Nat::new(Depends::AddressAndPort, Depends::AddressAndPort).allotting(allocator);
    let server = match samples {
        0 => Server::with_two_addresses(),
        _ => Server::with_two_addresses().with_samples(20_000, 20_000 + samples - 1),
    };
    let mut world = World::new(Some(nat), vec![server]);
    world.seed = seed;
    world.check().profile
}

/// Ports one step apart; in every gap there are so many of 100 chances that somebody else takes one.
fn sequence(
    start: u16,
    step: i32,
    others: u32,
    seed: u64,
) -> impl FnMut(u16, Duration) -> u16 + 'static {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut port = i32::from(start);
    let span = 65_536 - i32::from(FIRST_PORT);
    move |_, _| {
        while rng.next_u32() % 100 < others {
            port += step;
        }
        port += step;
        let port = i32::from(FIRST_PORT) + (port - i32::from(FIRST_PORT)).rem_euclid(span);
        port as u16
    }
}

fn random(low: u16, high: u16, seed: u64) -> impl FnMut(u16, Duration) -> u16 + 'static {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = u32::from(high - low) + 1;
    move |_, _| low + (rng.next_u32() % count) as u16
}

fn step(profile: &NatProfile) -> Option<i16> {
    match profile.allocation {
        Some(Allocation::Sequential { step, .. }) => Some(step),
        _ => None,
    }
}

// --- how ports are allotted ---

#[test]
fn a_nat_that_keeps_the_port_is_named_so_whatever_its_mapping_depends_on() {
    for kind in ALL {
        let nat = Nat::new(kind, Depends::AddressAndPort).preserving();
        let server = Server::with_two_addresses().with_samples(20_000, 20_031);
        let profile = World::new(Some(nat), vec![server]).check().profile;
        // With a mapping for each destination, the port is free only once.
        if kind == Depends::Nothing {
            assert_eq!(profile.allocation, Some(Allocation::Preserving));
        }
        assert_eq!(profile.preserves_port, Some(true), "{kind:?}");
    }
}

#[test]
fn a_nat_that_keeps_the_port_for_most_sockets_is_named_so() {
    // Every third port is taken by somebody else.
    let mut count = 0;
    let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort).allotting(move |local, _| {
        count += 1;
        if count % 3 == 0 { 33_000 } else { local }
    });
    let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
    assert_eq!(profile.allocation, Some(Allocation::Preserving));
}

#[test]
fn a_sequence_is_named_with_its_step_in_either_direction() {
    for size in 1..=8 {
        for wanted in [size, -size] {
            let profile = sampled(16, 1, sequence(30_000, wanted, 0, 1));
            assert_eq!(step(&profile), Some(wanted as i16));
            assert_eq!(profile.mapping, Some(Mapping::AddressAndPortDependent));
        }
    }
}

#[test]
fn a_sequence_is_named_although_others_take_ports_in_between() {
    for size in 1..=8 {
        for wanted in [size, -size] {
            for seed in 0..SEEDS {
                let profile = sampled(32, seed, sequence(30_000, wanted, 25, seed));
                assert_eq!(step(&profile), Some(wanted as i16), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_sequence_is_named_although_it_wraps_around_at_either_end() {
    for wanted in [1, 2, 4, -1, -2, -4] {
        for into in [0, 1, 3, 10, 20, 30] {
            let start = if wanted > 0 {
                65_535 - wanted * into
            } else {
                1024 - wanted * into
            };
            let profile = sampled(32, 1, sequence(start as u16, wanted, 0, 1));
            assert_eq!(step(&profile), Some(wanted as i16), "{into} before the end");
        }
    }
}

#[test]
fn the_pace_of_others_is_seen_in_the_samples_that_come_late() {
    for pace in [0_u32, 20, 100, 400] {
        let mut made = 0;
        let profile = sampled(16, 1, move |_, at| {
            made += 1;
            20_000 + (made + at.as_millis() as u32 * pace / 1000) as u16
        });
        let Some(Allocation::Sequential { step: 1, others }) = profile.allocation else {
            panic!("{pace}: {:?}", profile.allocation);
        };
        let others = u32::from(others);
        assert!(
            others >= pace && others <= pace + pace / 2 + 30,
            "{others} seen, {pace} made"
        );
    }
}

#[test]
fn the_pace_of_others_is_seen_also_where_the_sequence_counts_down_or_wraps_around() {
    for (start, direction) in [(40_000, -1), (65_500, 1), (1_050, -1)] {
        let mut made = 0;
        let profile = sampled(16, 1, move |_, at| {
            made += 1;
            let ahead = made + at.as_millis() as i32 / 10;
            1024 + (start - 1024 + direction * ahead).rem_euclid(64_512) as u16
        });
        let Some(Allocation::Sequential { step, others }) = profile.allocation else {
            panic!("{start}: {:?}", profile.allocation);
        };
        assert_eq!(i32::from(step), direction);
        assert!(
            (100..=180).contains(&others),
            "{others} seen, 100 made, from {start}"
        );
    }
}

#[test]
fn a_block_is_estimated_nearly_whole_and_not_much_wider() {
    let mut bad = Vec::new();
    let mut total = 0;
    for (low, size) in [
        (32_768_u32, 512_u32),
        (2048, 1024),
        (64_512, 1024),
        (40_960, 2048),
        (49_152, 4096),
        // Not aligned.
        (30_000, 500),
        (20_100, 1000),
        (50_077, 1024),
        (9_999, 3000),
        (64_536, 1000),
    ] {
        let high = low + size - 1;
        for seed in 0..SEEDS {
            let profile = sampled(32, seed, random(low as u16, high as u16, seed));
            total += 1;
            let Some(Allocation::Block {
                low: from,
                high: to,
            }) = profile.allocation
            else {
                bad.push((low, size, seed, profile.allocation));
                continue;
            };
            let (from, to) = (u32::from(from), u32::from(to));
            let covered = (to.min(high) + 1).saturating_sub(from.max(low));
            let width = to - from + 1;
            if 100 * covered < 95 * size || 100 * width > 130 * size {
                bad.push((low, size, seed, profile.allocation));
            }
        }
    }
    // Chance may leave a corner of a block without a sample.
    assert!(50 * bad.len() <= total, "{} of {total}: {bad:?}", bad.len());
}

#[test]
fn random_ports_over_all_are_named_so() {
    for seed in 0..SEEDS {
        for samples in [0, 2, 32] {
            let profile = sampled(samples, seed, random(1024, 65_535, seed));
            // The few endpoints of a server without sample ports may happen to lie close together.
            let known = profile.allocation;
            assert!(
                known == Some(Allocation::Random) || (samples == 0 && known.is_none()),
                "{known:?}, seed {seed}, {samples} samples"
            );
        }
    }
}

#[test]
fn too_few_samples_name_nothing() {
    // One server at one address sees one mapping of each socket.
    for sockets in 1..=3 {
        let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
        let servers = vec![Server::with_one_address("198.51.100.1:3478")];
        let mut world = World::new(Some(nat), servers);
        world.sockets = sockets;
        let profile = world.check().profile;
        assert_eq!(profile.allocation, None, "{sockets} sockets");
    }
    // A block is not named by a handful either.
    let profile = sampled(0, 1, random(30_000, 30_999, 1));
    assert_eq!(profile.allocation, None);
}

#[test]
fn a_machine_without_a_nat_keeps_its_ports() {
    let profile = World::new(None, vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.mapping, Some(Mapping::None));
    assert_eq!(profile.allocation, Some(Allocation::Preserving));
}

// --- on what mappings depend ---

#[test]
fn a_nat_of_which_one_socket_has_two_mappings_is_never_called_easy() {
    for kind in [Depends::Address, Depends::AddressAndPort] {
        for seed in 0..SEEDS {
            for samples in [None, Some(2), Some(16)] {
                for loss in [0, 20, 50] {
                    let nat = Nat::new(kind, Depends::AddressAndPort)
                        .allotting(random(1024, 65_535, seed));
                    let server = Server::with_two_addresses();
                    let server = match samples {
                        Some(count) => server.with_samples(20_000, 20_000 + count - 1),
                        None => server,
                    };
                    let second = Server::with_one_address("192.0.2.33:3478");
                    let mut world = World::new(Some(nat), vec![server, second]);
                    (world.loss, world.seed) = (loss, seed);

                    let profile = world.check().profile;

                    let own = profile.samples.iter().filter(|sample| sample.local == 5001);
                    let mut mapped: Vec<_> = own.map(|sample| sample.mapped).collect();
                    mapped.dedup();
                    let easy = profile.mapping == Some(Mapping::EndpointIndependent);
                    assert!(!easy || mapped.len() < 2, "{kind:?} {mapped:?}");
                    if loss == 0 {
                        let expected = match kind {
                            Depends::Address => Mapping::AddressDependent,
                            _ => Mapping::AddressAndPortDependent,
                        };
                        assert_eq!(profile.mapping, Some(expected));
                    }
                }
            }
        }
    }
}

#[test]
fn a_nat_that_gives_two_sockets_different_addresses_is_easy_all_the_same() {
    let mut nat = Nat::new(Depends::Nothing, Depends::AddressAndPort).preserving();
    nat.public.push(addr("203.0.113.6:1").ip());
    let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
    assert_eq!(
        profile.addresses,
        [addr("203.0.113.5:1").ip(), addr("203.0.113.6:1").ip()]
    );
}

// --- what the administrator says, and what the peer is told ---

fn measured() -> NatProfile {
    let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort).preserving();
    World::new(Some(nat), vec![Server::with_two_addresses()])
        .check()
        .profile
}

#[test]
fn what_the_administrator_says_goes_before_what_was_measured() {
    let overrides = NatOverrides {
        capacity: Some(500),
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::EndpointIndependent),
        allocation: Some(Allocation::Random),
        addresses: vec![addr("198.51.100.200:1").ip()],
        hairpinning: Some(true),
        lifetime: Some(secs(33)),
        opening_ttl: Some(7),
    };
    let mut profile = measured();

    overrides.apply(&mut profile);

    assert_eq!(profile.mapping, overrides.mapping);
    assert_eq!(profile.filtering, overrides.filtering);
    assert_eq!(profile.allocation, overrides.allocation);
    assert_eq!(profile.addresses, overrides.addresses);
    assert_eq!(profile.hairpinning, overrides.hairpinning);
    assert_eq!(profile.lifetime, overrides.lifetime);
    assert_eq!(profile.opening_ttl, overrides.opening_ttl);
    assert_eq!(profile.capacity(), Some(500));
}

#[test]
fn what_the_administrator_does_not_say_stays_as_it_was_measured() {
    let mut profile = measured();
    NatOverrides::default().apply(&mut profile);
    assert_eq!(profile, measured());

    let one = NatOverrides {
        filtering: Some(Filtering::AddressDependent),
        ..NatOverrides::default()
    };
    one.apply(&mut profile);
    let expected = NatProfile {
        filtering: Some(Filtering::AddressDependent),
        ..measured()
    };
    assert_eq!(profile, expected);
}

#[test]
fn what_the_administrator_says_is_about_ipv4() {
    let overrides = NatOverrides {
        mapping: Some(Mapping::AddressAndPortDependent),
        addresses: vec![addr("198.51.100.200:1").ip()],
        ..NatOverrides::default()
    };
    let mut profile = NatProfile {
        family: punch_traversal::Family::V6,
        ..measured()
    };
    let before = profile.clone();

    overrides.apply(&mut profile);

    assert_eq!(profile, before);
}

#[test]
fn a_peer_is_told_what_it_needs_and_no_more_than_eight_ipv4_addresses() {
    let mut profile = measured();
    profile.addresses = (1..=12)
        .map(|n| addr(&format!("203.0.113.{n}:1")).ip())
        .collect();
    profile.addresses.insert(0, addr("[2001:db8::1]:1").ip());

    let summary = profile.summary(Budget::Gentle, 3);

    assert_eq!(
        (summary.mapping, summary.filtering, summary.allocation),
        (profile.mapping, profile.filtering, profile.allocation)
    );
    assert_eq!((summary.budget, summary.attempt), (Budget::Gentle, 3));
    assert_eq!(summary.addresses.len(), 8);
    assert_eq!(summary.addresses[0].octets(), [203, 0, 113, 1]);
}
