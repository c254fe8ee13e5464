//! How two engines come together, and what they then say of themselves.

use std::net::IpAddr;

use punch_engine::{DropReason, EngineEvent, LinkState, News, OwnAddress};
use punch_packet::Packet;
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{CandidateKind, Frame};

use crate::packets::{at, echo, syn, tcp, udp};
use crate::world::{A, B, World, handle, millis, seconds};

#[test]
fn two_engines_connect_once_one_of_them_wants_to() {
    let mut world = World::pair(1);
    assert_eq!(world.state(A, B), LinkState::Down);

    world.set_up(A, B, true);
    let took = world.wait_for_both(seconds(10));

    assert!(took < millis(500), "{took:?}");
    for (index, peer) in [(A, B), (B, A)] {
        let report = world.hosts[index].engine.peer_report(handle(peer)).unwrap();
        let path = report.path.unwrap();
        assert!(report.established);
        assert_eq!(
            path.endpoint().unwrap().ip(),
            IpAddr::from(world.hosts[peer].global),
            "IPv6 is preferred"
        );
    }
}

#[test]
fn they_connect_over_ipv4_through_their_nats_where_there_is_no_ipv6() {
    let mut world = World::pair(2);
    for index in [A, B] {
        let (private, now) = (world.hosts[index].private, world.now);
        let engine = &mut world.hosts[index].engine;
        engine.handle_addresses(vec![private.into()], now);
        world.drain(index);
    }
    world.run_for(seconds(1));
    let candidates = world.hosts[A].engine.candidates();
    let reflexive = candidates
        .iter()
        .find(|c| c.kind == CandidateKind::ServerReflexive);
    assert_eq!(
        reflexive.unwrap().address,
        at(world.hosts[A].public.into(), 51_820)
    );

    world.set_up(B, A, true);
    world.wait_for_both(seconds(10));

    let report = world.hosts[A].engine.peer_report(handle(B)).unwrap();
    assert_eq!(
        report.path.unwrap().endpoint().unwrap().ip(),
        IpAddr::from(world.hosts[B].public)
    );
}

#[test]
fn they_connect_over_a_network_that_loses_every_third_datagram() {
    for seed in 0..20 {
        let mut world = World::pair(seed);
        world.loss = 0.3;
        world.set_up(A, B, true);
        let took = world.wait_for_both(seconds(30));
        assert!(took < seconds(15), "{took:?}");
    }
}

#[test]
fn every_single_datagram_of_the_beginning_may_be_lost() {
    for lost in 0..40 {
        let mut world = World::pair(3);
        let mut count = 0;
        world.set_up(A, B, true);
        world.filter = Box::new(move |datagram| {
            count += u32::from(!datagram.is_with_server());
            count != lost + 1 || datagram.is_with_server()
        });
        let took = world.wait_for_both(seconds(5));
        assert!(took < millis(2500), "without datagram {lost}: {took:?}");
    }
}

#[test]
fn events_tell_the_life_of_the_connection() {
    let mut world = World::pair(3);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));

    for (index, peer) in [(A, B), (B, A)] {
        let events = &world.hosts[index].events;
        let states: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                EngineEvent::State {
                    peer: who, state, ..
                } if *who == handle(peer) => Some(*state),
                _ => None,
            })
            .collect();
        assert_eq!(states, [LinkState::Connecting, LinkState::Connected]);
        assert!(
            events
                .iter()
                .any(|event| matches!(event, EngineEvent::News(News::Selected { .. })))
        );
        assert!(
            events
                .iter()
                .any(|event| matches!(event, EngineEvent::News(News::Stamps { .. })))
        );
    }
}

#[test]
fn a_packet_reaches_the_other_tun_only_where_it_is_granted() {
    for v6 in [false, true] {
        let mut world = World::connected(4);
        let (a, b) = (world.hosts[A].overlay(v6), world.hosts[B].overlay(v6));
        let packets = [
            udp(at(a, 5000), at(b, 53), b"question"),
            syn(at(a, 5000), at(b, 22)),
            echo(a, b, true, 9),
        ];

        for packet in &packets {
            world.send(A, packet);
        }
        world.run_for(seconds(1));
        assert_eq!(world.hosts[B].take_tun(), Vec::<Vec<u8>>::new());
        let back = world.hosts[A].take_tun();
        assert_eq!(back.len(), 3, "each is answered at once: {back:?}");

        world.grant(B, A, true);
        for packet in &packets {
            world.send(A, packet);
        }
        world.run_for(seconds(1));
        assert_eq!(world.hosts[B].take_tun(), packets);
        assert_eq!(world.hosts[A].take_tun(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_conversation_goes_both_ways() {
    let mut world = World::connected(5);
    world.grant(B, A, true);
    let (a, b) = (
        at(world.hosts[A].overlay(false), 5000),
        at(world.hosts[B].overlay(false), 22),
    );

    world.send(A, &syn(a, b));
    world.run_for(millis(50));
    let reply = tcp(b, a, 0x12, 77, 1001, &[]);
    world.send(B, &reply);
    world.run_for(millis(50));

    assert_eq!(world.hosts[A].take_tun(), [reply]);
}

#[test]
fn packets_sent_before_the_keys_are_there_arrive_when_they_are() {
    let mut world = World::pair(6);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for(seconds(10), |world| {
        let report = world.hosts[A].engine.peer_report(handle(B)).unwrap();
        assert!(!report.established);
        report.path.is_some()
    });
    let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));
    let packets: Vec<_> = (0..20).map(|n| udp(at(a, 1), at(b, 2), &[n])).collect();

    for packet in &packets {
        world.send(A, packet);
    }
    world.run_for(seconds(1));

    assert_eq!(world.hosts[B].take_tun(), packets);
}

#[test]
fn packets_of_both_sides_cross_while_the_first_handshake_is_under_way() {
    let mut world = World::pair(7);
    world.grant(B, A, true);
    world.grant(A, B, true);
    world.set_up(A, B, true);
    world.wait_for(seconds(10), |world| {
        let reports = [(A, B), (B, A)]
            .map(|(host, peer)| world.hosts[host].engine.peer_report(handle(peer)).unwrap());
        assert!(reports.iter().all(|report| !report.established));
        reports.iter().all(|report| report.path.is_some())
    });
    let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));
    let there = udp(at(a, 1), at(b, 2), b"there");
    let back = udp(at(b, 3), at(a, 4), b"back");

    world.send(B, &back);
    world.send(A, &there);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(3));

    assert_eq!(world.hosts[A].take_tun(), [back]);
    assert_eq!(world.hosts[B].take_tun(), [there]);
}

#[test]
fn a_packet_for_nobody_and_one_for_a_peer_that_is_down_are_refused_at_once() {
    for v6 in [false, true] {
        let mut world = World::pair(8);
        let a = world.hosts[A].overlay(v6);
        let nobody: IpAddr = if v6 {
            "fd70:756e:6368::9"
        } else {
            "100.64.0.9"
        }
        .parse()
        .unwrap();
        let b = world.hosts[B].overlay(v6);

        for (to, reason) in [(nobody, DropReason::NoPeer), (b, DropReason::NoPath)] {
            world.send(A, &udp(at(a, 1), at(to, 2), b"hello"));
            let answers = world.hosts[A].take_tun();
            let answer = Packet::parse(&answers[0]).unwrap();
            assert_eq!((answer.source(), answer.destination()), (to, a));
            assert_eq!(answer.segment()[..2], if v6 { [1, 3] } else { [3, 1] });
            assert_eq!(world.hosts[A].drops(reason), 1);
        }
        assert!(world.tap.is_none() && world.astray.is_empty());
    }
}

#[test]
fn a_packet_for_a_peer_that_is_being_connected_waits_for_its_senders_repetition() {
    let mut world = World::pair(9);
    world.sign_out(B);
    world.set_up(A, B, true);
    world.run_for(seconds(1));
    assert_eq!(world.state(A, B), LinkState::Waiting);
    let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));

    world.send(A, &udp(at(a, 1), at(b, 2), b"hello"));

    assert_eq!(world.hosts[A].take_tun(), Vec::<Vec<u8>>::new());
    assert_eq!(world.hosts[A].drops(DropReason::NoPath), 1);
}

#[test]
fn a_peer_that_signs_in_later_is_connected_then() {
    let mut world = World::pair(10);
    world.sign_out(B);
    world.set_up(A, B, true);
    world.run_for(seconds(300));
    assert_eq!(world.state(A, B), LinkState::Waiting);

    world.sign_in(B);
    let took = world.wait_for_both(seconds(10));

    assert!(took < millis(500), "{took:?}");
}

#[test]
fn a_machine_that_reaches_its_server_later_connects_then() {
    let mut world = World::pair(11);
    world.sign_out(A);
    world.set_up(A, B, true);
    world.run_for(seconds(300));
    assert_eq!(world.state(A, B), LinkState::Waiting);

    world.sign_in(A);
    let took = world.wait_for_both(seconds(10));

    assert!(took < millis(500), "{took:?}");
}

#[test]
fn a_peer_that_was_called_is_told_when_its_caller_signs_in_again() {
    let mut world = World::connected(23);
    let (a, b) = (world.hosts[A].id(), world.hosts[B].id());
    let watches = |world: &World, frame: Frame| {
        let frames = world.frames.iter();
        frames
            .filter(|(who, said)| *who == B && *said == frame)
            .count()
    };
    // While there is a path, nobody asks.
    assert_eq!(watches(&world, Frame::Watch(a)), 0);

    // Both find the path dead while neither can reach the other; then the caller has a server again.
    world.cut = true;
    world.sign_out(A);
    world.run_for(seconds(300));
    assert_eq!(watches(&world, Frame::Watch(a)), 1);
    world.cut = false;
    let before = world.envelopes.len();
    world.sign_in(A);
    world.run_for(millis(50));
    let called = world.envelopes[before..]
        .iter()
        .any(|(from, to, envelope)| {
            (*from, *to) == (b, a) && Kind::of(envelope) == Some(Kind::Offer)
        });
    assert!(called);
    world.wait_for_both(seconds(5));
    assert_eq!(watches(&world, Frame::Unwatch(a)), 1);
}

#[test]
fn a_change_of_the_network_is_one_from_the_first_addresses_on() {
    let mut world = World::pair(24);
    let changes = |world: &World| {
        let events = world.hosts[A].events.iter();
        events
            .filter(|event| **event == EngineEvent::News(News::NetworkChanged))
            .count()
    };
    assert_eq!(changes(&world), 0, "those of the start are no change");
    world.run_for(millis(10));
    world.renumber(A);
    assert_eq!(changes(&world), 1);
    let (now, same) = (
        world.now,
        vec![world.hosts[A].private.into(), world.hosts[A].global.into()],
    );
    world.hosts[A].engine.handle_addresses(same, now);
    world.drain(A);
    assert_eq!(changes(&world), 1);
}

#[test]
fn a_connection_outlives_the_signalling_server() {
    let mut world = World::connected(12);
    world.grant(B, A, true);
    world.sign_out(A);
    world.sign_out(B);

    world.run_for(seconds(120));

    let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));
    let packet = udp(at(a, 1), at(b, 2), b"hello");
    world.send(A, &packet);
    world.run_for(seconds(1));
    assert_eq!(world.hosts[B].take_tun(), [packet]);
    assert_eq!(world.state(A, B), LinkState::Connected);
}

#[test]
fn a_ping_is_answered_with_its_round_trip() {
    let mut world = World::connected(13);
    let now = world.now;

    let id = world.hosts[A].engine.ping(handle(B), now).unwrap();
    world.drain(A);
    world.run_for(seconds(1));

    let pong = world.hosts[A].events.iter().find_map(|event| match event {
        EngineEvent::Pong(pong) => Some((pong.peer, pong.id, pong.address, pong.rtt)),
        _ => None,
    });
    let address = world.hosts[B].overlay(true);
    assert_eq!(pong, Some((handle(B), id, address, millis(20))));
    assert_eq!(world.hosts[A].take_tun(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_ping_to_nobody_connected_is_none() {
    let mut world = World::pair(14);
    let now = world.now;
    assert_eq!(world.hosts[A].engine.ping(handle(B), now), None);
    assert_eq!(world.hosts[A].engine.ping(handle(40), now), None);
}

#[test]
fn three_machines_keep_their_conversations_apart() {
    let range = Some(punch_signal_protocol::Ipv4Range::DEFAULT);
    let mut world = World::new(15, &[range, range, range]);
    for index in 0..3 {
        world.sign_in(index);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        world.set_up(from, to, true);
        world.grant(from, to, true);
        world.grant(to, from, true);
    }
    world.wait_for(seconds(10), |world| {
        let pairs = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)];
        pairs
            .iter()
            .all(|(a, b)| world.state(*a, *b) == LinkState::Connected)
    });

    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] {
        let (source, destination) = (
            world.hosts[from].overlay(false),
            world.hosts[to].overlay(false),
        );
        let packet = udp(at(source, 1), at(destination, 2), &[from as u8, to as u8]);
        world.send(from, &packet);
        world.run_for(millis(100));
        for index in 0..3 {
            let expected = if index == to {
                vec![packet.clone()]
            } else {
                vec![]
            };
            assert_eq!(world.hosts[index].take_tun(), expected);
        }
    }
}

#[test]
fn no_datagram_is_ever_sent_to_an_overlay_address_of_this_machine() {
    // The machine lists its TUN's addresses among its own; they are no candidates.
    let mut world = World::pair(16);
    let (now, private) = (world.now, world.hosts[A].private);
    let own = world.hosts[A].engine.own_addresses().to_vec();
    let mut addresses: Vec<_> = own.into_iter().map(OwnAddress::from).collect();
    addresses.push(private.into());

    world.hosts[A].engine.handle_addresses(addresses, now);
    world.drain(A);

    let candidates = world.hosts[A].engine.candidates();
    assert!(
        candidates
            .iter()
            .all(|c| c.address.ip() == IpAddr::from(private))
    );
}

#[test]
fn a_machine_that_shuts_down_says_goodbye() {
    let mut world = World::connected(17);
    let now = world.now;
    world.hosts[A].engine.shut_down(now);
    world.drain(A);

    world.run_for(millis(100));

    assert_ne!(world.state(B, A), LinkState::Connected);
    let mut said = world.frames.iter().filter(|(who, _)| *who == A);
    assert!(matches!(said.next_back(), Some((_, Frame::Send { .. }))));
}
