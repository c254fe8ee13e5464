//! How this machine's NAT behaves, found out against NATs of which the answer is known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::{
    Allocation, Family, Filtering, Mapping, Netcheck, Probe, ProbeOutcome, SocketId,
};

use crate::nat::{ALL, Depends, Nat, Outcome, Quirk, Server, World};
use crate::{addr, ms, origin, secs};

const ONE: &str = "198.51.100.1:3478";
const TWO: &str = "198.51.100.77:3478";

fn mapping(kind: Depends) -> Option<Mapping> {
    Some(match kind {
        Depends::Nothing => Mapping::EndpointIndependent,
        Depends::Address => Mapping::AddressDependent,
        Depends::AddressAndPort => Mapping::AddressAndPortDependent,
    })
}

fn filtering(kind: Depends) -> Option<Filtering> {
    Some(match kind {
        Depends::Nothing => Filtering::EndpointIndependent,
        Depends::Address => Filtering::AddressDependent,
        Depends::AddressAndPort => Filtering::AddressAndPortDependent,
    })
}

/// Where the packets went that did not go back to the NAT itself.
fn asked(outcome: &Outcome) -> BTreeSet<SocketAddr> {
    let to = outcome.sent.iter().map(|transmit| transmit.to);
    to.filter(|to| to.ip() != addr("203.0.113.5:1").ip())
        .collect()
}

fn on_one_socket(servers: &[SocketAddr], seed: u64) -> Netcheck {
    let sockets = vec![(SocketId(7), 5000)];
    Netcheck::new(Family::V4, sockets, Vec::new(), servers, seed, origin())
}

#[test]
fn every_kind_of_nat_is_named_by_what_it_does() {
    for mapped in ALL {
        for filtered in ALL {
            let world = World::new(
                Some(Nat::new(mapped, filtered)),
                vec![Server::with_two_addresses()],
            );

            let profile = world.check().profile;

            assert_eq!(profile.mapping, mapping(mapped), "{mapped:?} {filtered:?}");
            assert_eq!(
                profile.filtering,
                filtering(filtered),
                "{mapped:?} {filtered:?}"
            );
            assert_eq!(profile.public, Some(addr("203.0.113.5:40007")));
            assert_eq!(
                (profile.preserves_port, profile.udp_blocked),
                (Some(false), false)
            );
            assert_eq!(profile.family, Family::V4);
        }
    }
}

#[test]
fn every_kind_of_nat_is_named_although_two_of_three_packets_are_lost() {
    for mapped in ALL {
        for filtered in ALL {
            let nat = Nat::new(mapped, filtered);
            let mut world = World::new(Some(nat), vec![Server::with_two_addresses()]);
            world.loses_first = 2;

            let outcome = world.check();

            assert_eq!(
                outcome.profile.mapping,
                mapping(mapped),
                "{mapped:?} {filtered:?}"
            );
            assert_eq!(
                outcome.profile.filtering,
                filtering(filtered),
                "{mapped:?} {filtered:?}"
            );
            assert!(outcome.took <= secs(12), "{:?}", outcome.took);
        }
    }
}

#[test]
fn a_nat_that_keeps_the_port_is_seen_to() {
    let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort).preserving();
    let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.public, Some(addr("203.0.113.5:5000")));
    assert_eq!(profile.allocation, Some(Allocation::Preserving));
    assert_eq!(profile.preserves_port, Some(true));
    assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
}

#[test]
fn without_a_nat_there_is_no_mapping_and_everything_comes_in() {
    let outcome = World::new(None, vec![Server::with_two_addresses()]).check();
    assert_eq!(outcome.profile.mapping, Some(Mapping::None));
    assert_eq!(
        outcome.profile.filtering,
        Some(Filtering::EndpointIndependent)
    );
    assert_eq!(outcome.profile.public, Some(addr("192.168.1.2:5000")));
    assert!(outcome.took < secs(1), "{:?}", outcome.took);
}

#[test]
fn where_udp_is_blocked_nothing_is_known_after_two_seconds() {
    let mut world = World::new(
        None,
        vec![Server::with_two_addresses(), Server::with_one_address(TWO)],
    );
    world.udp_blocked = true;

    let outcome = world.check();

    let profile = outcome.profile;
    assert!(profile.udp_blocked);
    assert_eq!(
        (profile.public, profile.mapping, profile.filtering),
        (None, None, None)
    );
    assert_eq!(profile.preserves_port, None);
    assert_eq!(outcome.took, ms(1_750));
    for check in profile.evidence {
        let silent = |(_, outcome): &(Probe, ProbeOutcome)| *outcome == ProbeOutcome::Silence;
        assert!(check.probes.iter().all(silent) && check.probes.len() >= 2);
    }
    let mut sends = BTreeMap::new();
    outcome
        .sent
        .iter()
        .for_each(|t| *sends.entry((t.socket.0, t.to)).or_insert(0) += 1);
    let each = |socket, server| ((socket, addr(server)), 3);
    let first = (0..6).map(|socket| each(socket, ONE));
    let second = (0..2).map(|socket| each(socket, TWO));
    assert_eq!(sends, first.chain(second).collect::<BTreeMap<_, _>>());
}

#[test]
fn without_a_server_nothing_is_claimed() {
    let profile = World::new(None, Vec::new()).check().profile;
    assert!(!profile.udp_blocked);
    assert_eq!(
        (profile.public, profile.mapping, profile.filtering),
        (None, None, None)
    );
}

#[test]
fn one_server_with_one_address_tells_the_public_address_and_no_more() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let outcome = World::new(Some(nat), vec![Server::with_one_address(ONE)]).check();
    assert_eq!(outcome.profile.public, Some(addr("203.0.113.5:40007")));
    assert_eq!(
        (outcome.profile.mapping, outcome.profile.filtering),
        (None, None)
    );
    assert_eq!(asked(&outcome), BTreeSet::from([addr(ONE)]));
}

#[test]
fn two_servers_with_one_address_each_tell_whether_the_mapping_depends() {
    for (kind, expected) in [
        (Depends::Nothing, Mapping::EndpointIndependent),
        (Depends::Address, Mapping::Dependent),
        (Depends::AddressAndPort, Mapping::Dependent),
    ] {
        let nat = Nat::new(kind, Depends::AddressAndPort);
        let servers = vec![Server::with_one_address(ONE), Server::with_one_address(TWO)];

        let profile = World::new(Some(nat), servers).check().profile;

        assert_eq!((profile.mapping, profile.filtering), (Some(expected), None));
    }
}

#[test]
fn two_ports_of_one_address_do_not_prove_independence() {
    let nat = Nat::new(Depends::Address, Depends::AddressAndPort);
    let servers = vec![
        Server::with_one_address(ONE),
        Server::with_one_address("198.51.100.1:3479"),
    ];
    assert_eq!(World::new(Some(nat), servers).check().profile.mapping, None);
}

#[test]
fn a_server_that_answers_a_change_request_from_where_it_was_asked_shows_nothing_about_the_filter() {
    for kind in ALL {
        let nat = Nat::new(kind, Depends::AddressAndPort);

        let profile = World::new(Some(nat), vec![Server::quirky(Quirk::IgnoresChange)])
            .check()
            .profile;

        assert_eq!(profile.filtering, None);
        assert_eq!(
            profile.mapping,
            mapping(kind),
            "its other address still tells"
        );
        let probes = &profile.evidence[0].probes;
        assert!(probes.contains(&(Probe::ChangeBoth, ProbeOutcome::Refused)));
        assert!(probes.contains(&(Probe::ChangePort, ProbeOutcome::Refused)));
    }
}

#[test]
fn what_one_server_cannot_tell_another_one_does() {
    let nat = Nat::new(Depends::AddressAndPort, Depends::Address);
    let servers = vec![Server::with_one_address(TWO), Server::with_two_addresses()];

    let profile = World::new(Some(nat), servers).check().profile;

    assert_eq!(profile.mapping, Some(Mapping::AddressAndPortDependent));
    assert_eq!(profile.filtering, Some(Filtering::AddressDependent));
    assert_eq!(profile.evidence.len(), 2);
    assert_eq!(profile.evidence[0].server, addr(TWO));
}

#[test]
fn a_dead_server_does_not_make_udp_blocked() {
    let nat = Nat::new(Depends::Nothing, Depends::Address);
    let world = World::new(Some(nat), vec![Server::with_two_addresses()]);

    let profile = world.check_with(&[addr(TWO), addr(ONE)]).profile;

    assert!(!profile.udp_blocked);
    assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
    let mut probes = profile.evidence[0].probes.iter();
    assert!(probes.all(|(_, outcome)| *outcome == ProbeOutcome::Silence));
}

#[test]
fn a_server_whose_other_address_is_dead_leaves_the_mapping_open() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let profile = World::new(Some(nat), vec![Server::quirky(Quirk::OtherIsDead)])
        .check()
        .profile;
    assert_eq!(profile.mapping, None);
}

#[test]
fn a_server_whose_other_address_nobody_can_reach_is_a_server_with_one_address() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let outcome = World::new(Some(nat), vec![Server::quirky(Quirk::OtherIsUnusable)]).check();
    assert_eq!(asked(&outcome), BTreeSet::from([addr(ONE)]));
    assert_eq!(
        (outcome.profile.mapping, outcome.profile.filtering),
        (None, None)
    );
    assert_eq!(outcome.profile.public, Some(addr("203.0.113.5:40007")));
}

#[test]
fn a_server_that_says_what_cannot_be_is_not_believed() {
    for quirk in [
        Quirk::Lies,
        Quirk::SaysPortZero,
        Quirk::SaysLoopback,
        Quirk::SaysOtherFamily,
    ] {
        let nat = Nat::new(Depends::Nothing, Depends::Nothing);
        let profile = World::new(Some(nat), vec![Server::quirky(quirk)])
            .check()
            .profile;
        assert_eq!(
            (profile.public, profile.mapping, profile.filtering),
            (None, None, None),
            "{quirk:?}"
        );
        assert_eq!((profile.samples, profile.addresses), (vec![], vec![]));
        assert_eq!((profile.allocation, profile.udp_blocked), (None, false));
        let probes = &profile.evidence[0].probes;
        assert!(probes.contains(&(Probe::Primary, ProbeOutcome::Refused)));
        let refused = |(_, outcome): &(Probe, ProbeOutcome)| *outcome == ProbeOutcome::Refused;
        assert!(probes.iter().all(refused), "{probes:?}");
    }
}

#[test]
fn where_a_server_answers_with_an_error_udp_is_not_blocked() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let profile = World::new(Some(nat), vec![Server::quirky(Quirk::Refuses)])
        .check()
        .profile;
    let probes = &profile.evidence[0].probes;
    assert!(probes.contains(&(Probe::Primary, ProbeOutcome::Refused)));
    assert!(!profile.udp_blocked);
}

#[test]
fn a_server_that_is_listed_with_both_its_addresses_does_not_open_the_filter_under_test() {
    for filtered in ALL {
        let nat = Nat::new(Depends::Nothing, filtered);
        let world = World::new(Some(nat), vec![Server::with_two_addresses()]);

        let profile = world
            .check_with(&[addr(ONE), addr("198.51.100.2:3478")])
            .profile;

        // The request to the second address has let that address in: better no answer than a wrong one.
        let found = profile.filtering;
        assert!(
            found.is_none() || found == filtering(filtered),
            "{filtered:?} was named {found:?}"
        );
        assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
    }
}

#[test]
fn a_server_with_two_addresses_and_one_port_does_not_pass_one_kind_of_dependence_for_the_other() {
    let server = Server {
        other: Some(addr("198.51.100.2:3478")),
        ..Server::with_two_addresses()
    };
    let nat = Nat::new(Depends::AddressAndPort, Depends::AddressAndPort);
    assert_eq!(
        World::new(Some(nat), vec![server]).check().profile.mapping,
        None
    );
}

#[test]
fn the_socket_under_test_never_contacts_the_other_address() {
    for filtered in ALL {
        let nat = Nat::new(Depends::Nothing, filtered);
        let outcome = World::new(Some(nat), vec![Server::with_two_addresses()]).check();

        assert!(outcome.sent_by(0).iter().all(|to| *to == addr(ONE)));
        let order: Vec<_> = outcome.profile.evidence[0].probes.iter().collect();
        assert_eq!(order[0].0, Probe::Primary);
        // The sockets for opening packets contact the other endpoint with those, and with nothing else.
        for transmit in &outcome.sent {
            let opens = transmit.socket.0 >= 2 && transmit.to == addr("198.51.100.2:3479");
            assert_eq!(transmit.ttl.is_some(), opens, "{transmit:?}");
        }
    }
}

#[test]
fn an_answer_tells_how_long_it_took() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let profile = World::new(Some(nat), vec![Server::with_one_address(ONE)])
        .check()
        .profile;
    let expected = ProbeOutcome::Mapped(addr("203.0.113.5:40007"), ms(40));
    assert_eq!(profile.evidence[0].probes[0], (Probe::Primary, expected));
}

#[test]
fn an_answer_from_an_address_that_was_not_asked_is_ignored() {
    let mut run = on_one_socket(&[addr(ONE)], 1);
    let request = run.poll_transmit().unwrap();
    let id = Message::parse(&request.bytes).unwrap().transaction;
    let bytes = |id| {
        Writer::new(Class::Success, id)
            .xor_mapped(addr("203.0.113.5:1"))
            .finish()
    };

    run.handle_response(
        SocketId(7),
        addr(TWO),
        &Message::parse(&bytes(id)).unwrap(),
        origin() + ms(10),
    );
    run.handle_response(
        SocketId(7),
        addr("198.51.100.1:3479"),
        &Message::parse(&bytes(id)).unwrap(),
        origin() + ms(10),
    );
    let other = TransactionId([1; 12]);
    run.handle_response(
        SocketId(7),
        addr(ONE),
        &Message::parse(&bytes(other)).unwrap(),
        origin() + ms(10),
    );

    // Nor does one that comes to another socket than the one that asked.
    run.handle_response(
        SocketId(8),
        addr(ONE),
        &Message::parse(&bytes(id)).unwrap(),
        origin() + ms(10),
    );

    assert_eq!(run.profile().public, None);
    assert!(run.poll_timeout().is_some());
}

#[test]
fn servers_of_the_other_family_are_left_out_and_at_most_four_are_asked() {
    let mut servers = vec![addr("[2001:db8::1]:3478")];
    servers.extend((1..=6).map(|n| addr(&format!("198.51.100.{n}:3478"))));
    let mut run = on_one_socket(&servers, 1);

    let asked: Vec<_> = std::iter::from_fn(|| run.poll_transmit())
        .map(|transmit| transmit.to)
        .collect();

    assert_eq!(asked, servers[1..5]);
}

#[test]
fn the_same_seed_gives_the_same_requests() {
    let first = |seed| on_one_socket(&[addr(ONE)], seed).poll_transmit().unwrap();
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

// --- opening packets ---

#[test]
fn the_smallest_ttl_that_opens_the_filter_is_found() {
    for (hop, expected) in [
        (1, Some(2)),
        (2, Some(3)),
        (3, Some(4)),
        (4, Some(5)),
        (5, None),
        (8, None),
    ] {
        for filtered in [Depends::Address, Depends::AddressAndPort] {
            for kind in ALL {
                let mut nat = Nat::new(kind, filtered);
                nat.hop = hop;
                let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
                    .check()
                    .profile;
                // Where each destination has its own mapping, what is opened is another one's filter.
                let expected = expected.filter(|_| kind == Depends::Nothing);
                assert_eq!(profile.opening_ttl, expected, "{hop} {kind:?} {filtered:?}");
            }
        }
    }
}

#[test]
fn where_nothing_filters_there_is_nothing_to_open() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.opening_ttl, None);
    let profile = World::new(None, vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.opening_ttl, None);
}

#[test]
fn a_server_with_one_address_or_without_change_requests_does_not_measure_the_ttl() {
    for server in [
        Server::with_one_address(ONE),
        Server::quirky(Quirk::IgnoresChange),
        Server::quirky(Quirk::Refuses),
    ] {
        let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
        let profile = World::new(Some(nat), vec![server]).check().profile;
        assert_eq!(profile.opening_ttl, None);
    }
}

#[test]
fn the_ttl_is_never_taken_too_small_where_packets_get_lost() {
    let mut found = 0;
    for seed in 0..100 {
        let mut nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
        nat.hop = 2;
        let mut world = World::new(Some(nat), vec![Server::with_two_addresses()]);
        (world.loss, world.seed) = (10, seed);
        let ttl = world.check().profile.opening_ttl;
        assert!(ttl.is_none_or(|ttl| (3..=5).contains(&ttl)), "{ttl:?}");
        found += usize::from(ttl == Some(3));
    }
    assert!(found >= 90, "{found} of 100");
}

// --- hairpinning ---

#[test]
fn hairpinning_is_seen_whatever_the_filter() {
    for hairpins in [true, false] {
        for filtered in ALL {
            let mut nat = Nat::new(Depends::Nothing, filtered);
            nat.hairpins = hairpins;
            let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
                .check()
                .profile;
            assert_eq!(profile.hairpinning, Some(hairpins), "{filtered:?}");
        }
    }
}

#[test]
fn without_a_nat_or_without_two_sockets_nothing_is_said_of_hairpinning() {
    let profile = World::new(None, vec![Server::with_two_addresses()])
        .check()
        .profile;
    assert_eq!(profile.hairpinning, None);
    for sockets in 0..=2 {
        let mut nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
        nat.hairpins = true;
        let mut world = World::new(Some(nat), vec![Server::with_two_addresses()]);
        world.sockets = sockets;
        assert_eq!(world.check().profile.hairpinning, None);
    }
}

#[test]
fn somebody_else_s_request_is_no_hairpin() {
    let mut run = on_one_socket(&[addr(ONE)], 1);
    let stranger = Writer::new(Class::Request, TransactionId([5; 12])).finish();
    run.handle_request(&Message::parse(&stranger).unwrap());
    let own = run.poll_transmit().unwrap();
    run.handle_request(&Message::parse(&own.bytes).unwrap());
    assert_eq!(run.profile().hairpinning, None);
}

// --- addresses ---

#[test]
fn all_public_addresses_of_a_pool_are_named() {
    for kind in ALL {
        let mut nat = Nat::new(kind, Depends::AddressAndPort);
        nat.public = (5..=7)
            .map(|n| addr(&format!("203.0.113.{n}:1")).ip())
            .collect();
        let pool = nat.public.clone();
        let server = Server::with_two_addresses().with_samples(20_000, 20_015);
        let profile = World::new(Some(nat), vec![server]).check().profile;
        assert_eq!(profile.addresses, pool, "{kind:?}");
        assert_eq!(profile.mapping, mapping(kind));
    }
}

// --- what is missing ---

#[test]
fn an_easy_nat_is_asked_for_few_mappings_and_a_hard_one_for_many() {
    for (kind, at_least, at_most) in [
        (Depends::Nothing, 0, 12),
        (Depends::AddressAndPort, 60, 100),
    ] {
        let nat = Nat::new(kind, Depends::AddressAndPort);
        let server = Server::with_two_addresses().with_samples(20_000, 20_031);
        let profile = World::new(Some(nat), vec![server]).check().profile;
        let count = profile.samples.len();
        assert!((at_least..=at_most).contains(&count), "{kind:?}: {count}");
    }
}

#[test]
fn a_server_that_offers_all_its_ports_is_asked_at_few_of_them() {
    let nat = Nat::new(Depends::AddressAndPort, Depends::AddressAndPort);
    let server = Server::with_two_addresses().with_samples(1, 65_535);
    let outcome = World::new(Some(nat), vec![server]).check();
    let places: BTreeSet<_> = outcome.sent.iter().map(|t| t.to).collect();
    assert!(places.len() <= 2 * 32 + 4 + 2, "{}", places.len());
}

#[test]
fn with_fewer_sockets_less_is_found_but_nothing_wrong() {
    for mapped in ALL {
        for filtered in ALL {
            for sockets in 0..6 {
                let nat = Nat::new(mapped, filtered);
                let mut world = World::new(Some(nat), vec![Server::with_two_addresses()]);
                world.sockets = sockets;

                let profile = world.check().profile;

                let expect = |known: bool| known.then_some(());
                assert_eq!(
                    profile.filtering,
                    expect(sockets >= 1).and(filtering(filtered)),
                    "{mapped:?} {filtered:?} {sockets}"
                );
                assert_eq!(
                    profile.mapping,
                    expect(sockets >= 2).and(mapping(mapped)),
                    "{mapped:?} {filtered:?} {sockets}"
                );
                assert_eq!(profile.public.is_some(), sockets >= 1);
            }
        }
    }
}

#[test]
fn without_a_socket_udp_is_not_called_blocked() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let mut world = World::new(Some(nat), vec![Server::with_two_addresses()]);
    world.sockets = 0;
    assert!(!world.check().profile.udp_blocked);
    // Nor before the first answer could have come.
    let run = on_one_socket(&[addr(ONE)], 1);
    assert!(!run.profile().udp_blocked);
}

#[test]
fn answers_from_elsewhere_are_no_answers() {
    let nat = Nat::new(Depends::Nothing, Depends::Nothing);
    let world = World::new(Some(nat), vec![Server::quirky(Quirk::AnswersFromElsewhere)]);
    let profile = world.check().profile;
    assert_eq!(
        (profile.public, profile.mapping, profile.filtering),
        (None, None, None)
    );
    assert_eq!(profile.samples, []);
    assert!(profile.udp_blocked);
}

#[test]
fn where_packets_get_lost_at_random_nothing_wrong_is_found() {
    for mapped in ALL {
        for filtered in ALL {
            for loss in [5, 20, 50] {
                for seed in 0..10 {
                    let nat = Nat::new(mapped, filtered);
                    let server = Server::with_two_addresses().with_samples(20_000, 20_007);
                    let mut world = World::new(Some(nat), vec![server]);
                    (world.loss, world.seed) = (loss, seed);

                    let outcome = world.check();

                    let label = format!("{mapped:?} {filtered:?} {loss} {seed}");
                    let found = outcome.profile.mapping;
                    let dependent = Some(Mapping::Dependent);
                    let unsure = found.is_none()
                        || (found == dependent && mapped != Depends::Nothing)
                        // Without an answer from another port of one address, the two look alike.
                        || (found == Some(Mapping::AddressDependent) && mapped != Depends::Nothing);
                    assert!(
                        found == mapping(mapped) || (loss > 5 && unsure),
                        "{label} {found:?}"
                    );
                    let took = outcome.took;
                    // Four rounds at most: the server, its samples, some of them again, and more where they were few.
                    assert!(took <= secs(7), "{label} {took:?}");
                }
            }
        }
    }
}

#[test]
fn ipv6_wants_two_sockets_and_is_asked_over_ipv6() {
    assert_eq!(Netcheck::sockets_wanted(Family::V4), 6);
    assert_eq!(Netcheck::sockets_wanted(Family::V6), 2);
    let servers = [addr(ONE), addr("[2001:db8::1]:3478")];
    let sockets = vec![(SocketId(7), 5000), (SocketId(8), 5001)];
    let mut run = Netcheck::new(Family::V6, sockets, Vec::new(), &servers, 1, origin());
    let asked: Vec<_> = std::iter::from_fn(|| run.poll_transmit())
        .map(|transmit| (transmit.socket, transmit.to))
        .collect();
    assert_eq!(
        asked,
        [(SocketId(7), servers[1]), (SocketId(8), servers[1])]
    );
}

// --- when enough is known ---

/// The ports that a NAT allots, one after the other.
fn allotting(kind: Depends, mut next: impl FnMut() -> u16 + 'static) -> Nat {
    Nat::new(kind, Depends::AddressAndPort).allotting(move |_, _| next())
}

#[test]
fn what_an_attempt_must_know_is_known_after_two_round_trips_and_300_ms() {
    for mapped in ALL {
        for filtered in ALL {
            let nat = Nat::new(mapped, filtered);
            let mut seed = 7_u32;
            let nat = nat.allotting(move |_, _| {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                1024 + (seed >> 8) as u16 % 60_000
            });
            let server = Server::with_two_addresses().with_samples(20_000, 20_031);
            let outcome = World::new(Some(nat), vec![server]).check();
            let (took, settled) = outcome.settled.unwrap();
            // A round trip takes 40 ms; behind a NAT that makes many mappings, the samples take a third one.
            assert!(
                took <= ms(2 * 40 + 300),
                "{mapped:?} {filtered:?}: {took:?}"
            );
            assert!(!settled.search.measuring);
            let last = outcome.profile;
            assert_eq!(
                (settled.mapping, settled.filtering, settled.opening_ttl),
                (last.mapping, last.filtering, last.opening_ttl),
            );
            assert_eq!(
                (settled.allocation, settled.double_nat),
                (last.allocation, last.double_nat),
                "{mapped:?} {filtered:?}"
            );
        }
    }
}

#[test]
fn an_answer_that_comes_late_puts_right_what_was_presumed() {
    let mut world = World::new(
        Some(Nat::new(Depends::Nothing, Depends::Nothing)),
        vec![Server::with_two_addresses()],
    );
    world.changed_source_takes = ms(600);
    let outcome = world.check();
    let (took, settled) = outcome.settled.unwrap();
    assert!(took < ms(400), "{took:?}");
    assert_eq!(
        settled.filtering,
        Some(Filtering::AddressAndPortDependent),
        "as strict as a filter can be: that harms nobody"
    );
    assert_eq!(
        outcome.profile.filtering,
        Some(Filtering::EndpointIndependent)
    );
}

#[test]
fn a_sequence_is_known_when_the_late_samples_are() {
    let mut next = 30_000;
    let nat = allotting(Depends::AddressAndPort, move || {
        next += 1;
        next
    });
    let server = Server::with_two_addresses().with_samples(20_000, 20_015);
    let outcome = World::new(Some(nat), vec![server]).check();
    let (took, settled) = outcome.settled.unwrap();
    assert!((ms(600)..ms(900)).contains(&took), "{took:?}");
    assert_eq!(settled.allocation, outcome.profile.allocation);
    assert!(matches!(
        settled.allocation,
        Some(Allocation::Sequential { step: 1, .. })
    ));
}

#[test]
fn ports_that_are_used_up_are_not_taken_for_a_profile() {
    let mut seed = 3_u32;
    let mut nat = allotting(Depends::AddressAndPort, move || {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        1024 + (seed >> 8) as u16 % 60_000
    });
    nat.capacity = Some(20);
    let server = Server::with_two_addresses().with_samples(20_000, 20_031);
    let outcome = World::new(Some(nat), vec![server]).check();
    let (took, settled) = outcome.settled.unwrap();
    assert!(took > secs(1), "{took:?}");
    assert!(settled.search.used_up && outcome.profile.search.used_up);
}

#[test]
fn a_nat_with_a_mapping_for_each_address_shows_its_block_too() {
    for size in [1024_u32, 4096] {
        let mut seed = 5_u32;
        let nat = allotting(Depends::Address, move || {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (32_768 + (seed >> 8) % size) as u16
        });
        let profile = World::new(Some(nat), vec![Server::with_two_addresses()])
            .check()
            .profile;
        assert_eq!(profile.mapping, Some(Mapping::AddressDependent));
        let Some(Allocation::Block { low, high }) = profile.allocation else {
            panic!("{:?}", profile.allocation);
        };
        assert!(low < 33_768 && u32::from(high - low) < 2 * size);
        // The question at its other address comes when nothing is under test any more.
        assert_eq!(profile.filtering, Some(Filtering::AddressAndPortDependent));
    }
}

#[test]
fn a_dead_server_does_not_hold_up_what_another_one_tells() {
    for dead_first in [true, false] {
        let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
        let alive = Server::with_two_addresses();
        let servers = match dead_first {
            true => [addr("192.0.2.9:3478"), addr(ONE)],
            false => [addr(ONE), addr("192.0.2.9:3478")],
        };
        let outcome = World::new(Some(nat), vec![alive]).check_with(&servers);
        let (took, settled) = outcome.settled.unwrap();
        assert!(took <= ms(2 * 40 + 300), "{dead_first}: {took:?}");
        assert_eq!(
            (settled.mapping, settled.filtering),
            (
                Some(Mapping::EndpointIndependent),
                Some(Filtering::AddressAndPortDependent)
            )
        );
    }
}

/// Where everything comes in, the run ends with an answer instead of a wait for one.
#[test]
fn a_run_that_ends_with_an_answer_asks_for_more_as_well() {
    for filtered in ALL {
        let mut seed = 5_u32;
        let nat = Nat::new(Depends::Address, filtered).allotting(move |_, _| {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (32_768 + (seed >> 8) % 2048) as u16
        });
        let server = Server::with_two_addresses().with_samples(20_000, 20_007);
        let profile = World::new(Some(nat), vec![server]).check().profile;
        assert!(
            matches!(profile.allocation, Some(Allocation::Block { .. })),
            "{filtered:?} {:?}",
            profile.allocation
        );
    }
}

// --- nodes of the DHT in place of servers ---

fn node(number: usize) -> Server {
    Server::with_one_address(&format!("198.51.{number}.1:6881"))
}

/// A world in which nodes are asked, some of which say something false.
fn with_nodes(nat: Nat, servers: Vec<Server>, count: usize, liars: &[usize]) -> World {
    let nodes = (1..=count).map(|number| match liars.contains(&number) {
        true => Server {
            quirk: Quirk::SaysAnother,
            ..node(number)
        },
        false => node(number),
    });
    let nodes: Vec<_> = nodes.collect();
    let addresses = nodes.iter().map(|node| node.primary).collect();
    World {
        nodes: addresses,
        ..World::new(Some(nat), servers.into_iter().chain(nodes).collect())
    }
}

#[test]
fn nodes_alone_tell_what_a_mapping_depends_on() {
    for filtered in ALL {
        let easy = with_nodes(Nat::new(Depends::Nothing, filtered), vec![], 8, &[]).check();
        assert_eq!(easy.profile.mapping, Some(Mapping::EndpointIndependent));
        assert_eq!(easy.profile.public, Some(addr("203.0.113.5:40007")));
        assert_eq!(easy.profile.filtering, None, "they answer from one place");
        assert!(!easy.profile.udp_blocked);
        assert_eq!(asked(&easy).len(), 4, "as many as servers");
        assert_eq!(easy.sent.len(), 5 + 4, "with the packets of the hairpin");

        let hard = Nat::new(Depends::AddressAndPort, filtered);
        let hard = with_nodes(hard, vec![], 8, &[]).check();
        assert_eq!(hard.profile.mapping, Some(Mapping::Dependent));
        assert_eq!(asked(&hard).len(), 8, "the others tell more of the ports");
        assert!(hard.profile.allocation.is_some(), "{:?}", hard.profile);
        assert!(hard.settled.is_some());
    }
}

#[test]
fn nodes_that_lie_are_outvoted() {
    for liars in [[1, 3], [2, 8]] {
        for (mapped, mapping) in [
            (Depends::Nothing, Mapping::EndpointIndependent),
            (Depends::AddressAndPort, Mapping::Dependent),
        ] {
            let nat = Nat::new(mapped, Depends::AddressAndPort);
            let world = with_nodes(nat, vec![], 8, &liars);
            let profile = world.check().profile;
            if mapped == Depends::Nothing && liars == [1, 3] {
                // Two of the first four: there is no majority, until the others are asked, as the answers differ.
                assert_eq!(profile.samples.len(), 6, "{:?}", profile.samples);
            }
            assert_eq!(profile.mapping, Some(mapping), "{liars:?}");
            assert_eq!(profile.addresses, [addr("203.0.113.5:1").ip()]);
        }
    }
}

#[test]
fn a_server_is_believed_although_nodes_say_something_else() {
    let nat = Nat::new(Depends::Nothing, Depends::AddressAndPort);
    let server = Server::with_two_addresses();
    let profile = with_nodes(nat, vec![server], 3, &[1]).check().profile;
    assert_eq!(profile.mapping, Some(Mapping::EndpointIndependent));
    assert_eq!(profile.filtering, Some(Filtering::AddressAndPortDependent));
    assert_eq!(profile.addresses, [addr("203.0.113.5:1").ip()]);
}
