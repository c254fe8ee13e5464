//! What happens to a connection that stands: a new exchange takes its place, a machine restarts, somebody says goodbye.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use punch_engine::{EngineEvent, LinkState, PeerRefusal};
use punch_packet::Packet;
use punch_signal_protocol::Frame;
use punch_signal_protocol::seal::Kind;

use crate::packets::{at, udp};
use crate::world::{A, B, World, handle, millis, seconds};

/// Numbered packets from `from` to `to`, one each 10 ms, while `change` happens after 50 of them.
fn numbered(
    world: &mut World,
    ways: &[(usize, usize)],
    count: u32,
    mut change: impl FnMut(&mut World, u32),
) {
    for number in 0..count {
        change(world, number);
        for (from, to) in ways {
            let (a, b) = (
                world.hosts[*from].overlay(true),
                world.hosts[*to].overlay(true),
            );
            world.send(*from, &udp(at(a, 7000), at(b, 7000), &number.to_be_bytes()));
        }
        world.run_for(millis(10));
    }
    world.run_for(seconds(1));
}

fn numbers(world: &mut World, index: usize) -> Vec<u32> {
    let packets = world.hosts[index].take_tun();
    packets
        .iter()
        .filter_map(|packet| {
            let packet = Packet::parse(packet).unwrap();
            Some(u32::from_be_bytes(
                packet.udp_payload()?.try_into().unwrap(),
            ))
        })
        .collect()
}

fn granted(seed: u64) -> World {
    let mut world = World::connected(seed);
    world.grant(A, B, true);
    world.grant(B, A, true);
    world
}

/// How many exchanges have been completed, by the answers that were sent.
fn answers(world: &World) -> usize {
    let kinds = world.envelopes.iter().map(|(_, _, envelope)| envelope[0]);
    kinds.filter(|kind| *kind == 2).count()
}

/// Makes `index` offer anew, by one more address.
fn new_address(world: &mut World, index: usize) {
    let host = &mut world.hosts[index];
    let more = "10.9.8.7".parse::<IpAddr>().unwrap().into();
    let addresses = vec![host.private.into(), host.global.into(), more];
    host.engine.handle_addresses(addresses, world.now);
    world.drain(index);
}

#[test]
fn a_second_exchange_loses_no_packet() {
    for (seed, latency) in [(1, 1), (2, 10), (3, 40), (4, 150)] {
        let mut world = granted(seed);
        world.latency = millis(latency);
        world.run_for(seconds(2));
        let before = answers(&world);

        numbered(&mut world, &[(A, B), (B, A)], 400, |world, number| {
            if number == 50 {
                new_address(world, A);
            }
        });

        assert_eq!(answers(&world), before + 1, "there was a second exchange");
        let all: Vec<_> = (0..400).collect();
        assert_eq!(numbers(&mut world, B), all, "latency {latency} ms");
        assert_eq!(numbers(&mut world, A), all, "latency {latency} ms");
    }
}

#[test]
fn the_keys_are_new_after_a_second_exchange() {
    let mut world = granted(5);
    world.tap = Some(Vec::new());
    numbered(&mut world, &[(A, B)], 10, |_, _| {});
    let index = |world: &mut World| {
        let tap = world.tap.as_mut().unwrap();
        let data = tap.iter().rfind(|datagram| datagram.bytes[0] == 4).unwrap();
        data.bytes[4..8].to_vec()
    };
    let before = index(&mut world);

    new_address(&mut world, A);
    numbered(&mut world, &[(A, B)], 50, |_, _| {});

    assert_ne!(index(&mut world), before, "another session");
}

#[test]
fn second_exchanges_from_both_sides_at_once_lose_no_packet() {
    for latency in [1, 10, 60] {
        let mut world = granted(6);
        world.latency = millis(latency);
        world.run_for(seconds(2));

        numbered(&mut world, &[(A, B), (B, A)], 300, |world, number| {
            if number == 50 {
                new_address(world, A);
                new_address(world, B);
            }
        });

        let all: Vec<_> = (0..300).collect();
        assert_eq!(numbers(&mut world, B), all, "latency {latency} ms");
        assert_eq!(numbers(&mut world, A), all, "latency {latency} ms");
        assert_eq!(world.state(A, B), LinkState::Connected);
    }
}

/// Both sessions want new keys at the same time.
#[test]
fn a_second_exchange_beside_a_renewal_of_keys_costs_a_packet_or_two() {
    for (wakes, offset) in [A, B]
        .into_iter()
        .flat_map(|index| (0..12).map(move |offset| (index, offset)))
    {
        let mut world = granted(8);
        numbered(&mut world, &[(A, B), (B, A)], 200, |world, number| {
            if number == 50 {
                new_address(world, A);
            }
            if number == 50 + offset {
                let now = world.now;
                world.hosts[wakes].engine.handle_resume(Duration::ZERO, now);
            }
        });

        // Those that are sealed with the keys before, and come when two renewals are over, may be lost.
        for index in [A, B] {
            let count = numbers(&mut world, index).len();
            assert!(count >= 196, "{wakes} {offset}: {count}");
        }
    }
}

#[test]
fn one_exchange_after_the_other_loses_no_packet() {
    let mut world = granted(7);
    let before = answers(&world);

    numbered(&mut world, &[(A, B), (B, A)], 600, |world, number| {
        if number % 100 == 50 {
            let host = &mut world.hosts[(number as usize / 100) % 2];
            let more = Ipv4Addr::from([10, 9, 8, (number / 100) as u8]).into();
            let addresses = vec![host.private.into(), host.global.into(), more];
            host.engine.handle_addresses(addresses, world.now);
        }
    });

    assert!(answers(&world) >= before + 5, "{}", answers(&world));
    let all: Vec<_> = (0..600).collect();
    assert_eq!(numbers(&mut world, B), all);
    assert_eq!(numbers(&mut world, A), all);
}

#[test]
fn a_second_exchange_survives_the_loss_of_any_datagram() {
    // One way only, so that no other packet repairs what was lost.
    for (from, to) in [(A, B), (B, A)] {
        for lost in 0..24 {
            let mut world = granted(8);
            world.run_for(seconds(2));
            let mut count = 0;
            new_address(&mut world, A);
            world.filter = Box::new(move |datagram| {
                // Numbered packets are 96 bytes long on the way.
                let ours = !datagram.is_with_server() && datagram.bytes.len() != 96;
                count += u32::from(ours);
                !ours || count != lost + 1
            });

            numbered(&mut world, &[(from, to)], 2500, |_, _| {});

            let got = numbers(&mut world, to).len();
            assert_eq!(got, 2500, "without datagram {lost}, {from} to {to}");
        }
    }
}

#[test]
fn a_machine_that_moves_to_another_network_takes_its_connections_along() {
    for (mover, other) in [(A, B), (B, A)] {
        let mut world = granted(8);

        world.renumber(mover);
        let (now, remote) = (world.now, world.hosts[mover].global);
        world.wait_for(seconds(10), |world| {
            let report = world.hosts[other]
                .engine
                .peer_report(handle(mover))
                .unwrap();
            report
                .path
                .and_then(|path| path.endpoint())
                .is_some_and(|at| at.ip() == remote)
        });
        assert!(world.now - now < seconds(2), "{:?}", world.now - now);

        numbered(&mut world, &[(A, B), (B, A)], 20, |_, _| {});
        assert_eq!(numbers(&mut world, B).len(), 20);
        assert_eq!(numbers(&mut world, A).len(), 20);
    }
}

#[test]
fn traffic_flows_again_after_a_machine_has_restarted() {
    // Whoever restarts, and whoever wants the connection.
    for (restarts, wants) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut world = World::pair(9);
        world.grant(A, B, true);
        world.grant(B, A, true);
        world.set_up(wants, 1 - wants, true);
        world.wait_for_both(seconds(10));
        world.run_for(seconds(60));

        world.restart(restarts);
        let took = world.wait_for_both(seconds(30));
        world.run_for(seconds(1));

        assert!(
            took < seconds(2),
            "{took:?} ({restarts} restarts, {wants} wants)"
        );
        numbered(&mut world, &[(A, B), (B, A)], 20, |_, _| {});
        assert_eq!(numbers(&mut world, B), (0..20).collect::<Vec<_>>());
        assert_eq!(numbers(&mut world, A), (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn traffic_flows_again_soon_after_a_machine_has_restarted_under_load() {
    let mut world = granted(10);
    numbered(&mut world, &[(A, B), (B, A)], 50, |_, _| {});
    world.hosts[A].take_tun();

    world.restart(B);
    numbered(&mut world, &[(A, B), (B, A)], 300, |_, _| {});

    let lost = |numbers: Vec<u32>| 300 - numbers.len();
    assert!(lost(numbers(&mut world, B)) < 150);
    assert!(lost(numbers(&mut world, A)) < 150);
}

#[test]
fn a_machine_that_restarts_right_after_its_answer_is_asked_again_soon() {
    // It was away for long, so that the next retry would come late.
    let mut world = World::pair(20);
    world.latency = millis(100);
    world.sign_out(B);
    world.set_up(A, B, true);
    world.run_for(seconds(600));
    world.sign_in(B);
    world.wait_for(seconds(5), |world| answers(world) == 1);
    world.run_for(millis(150));

    world.restart(B);

    let took = world.wait_for_both(seconds(30));
    assert!(took < seconds(5), "{took:?}");
}

#[test]
fn a_machine_that_appears_twice_in_a_row_is_asked_twice() {
    // It was away for long; its first connection to the server breaks before the offer arrives.
    let mut world = World::pair(21);
    world.latency = millis(100);
    world.sign_out(B);
    world.set_up(A, B, true);
    world.run_for(seconds(600));
    world.sign_in(B);
    world.run_for(millis(150));
    world.sign_out(B);
    world.run_for(seconds(1));
    assert_eq!(answers(&world), 0);

    world.sign_in(B);

    let took = world.wait_for_both(seconds(120));
    assert!(took < seconds(5), "{took:?}");
}

#[test]
fn goodbye_closes_both_ends() {
    let mut world = World::connected(11);

    world.set_up(A, B, false);
    assert_eq!(world.state(A, B), LinkState::Down);
    world.run_for(millis(100));

    assert_eq!(world.state(B, A), LinkState::Down);
    for (index, peer) in [(A, B), (B, A)] {
        let report = world.hosts[index].engine.peer_report(handle(peer)).unwrap();
        assert_eq!((report.path, report.established), (None, false));
        let last = world.hosts[index]
            .events
            .iter()
            .rev()
            .find_map(|event| match event {
                EngineEvent::State { state, .. } => Some(*state),
                _ => None,
            });
        assert_eq!(last, Some(LinkState::Down));
    }
    world.tap = Some(Vec::new());
    world.run_for(seconds(120));
    let tap = world.tap.take().unwrap();
    assert!(
        tap.iter().all(|datagram| datagram.is_with_server()),
        "nothing but STUN"
    );
}

#[test]
fn a_closed_connection_lets_nothing_through() {
    let mut world = granted(12);
    world.tap = Some(Vec::new());
    numbered(&mut world, &[(A, B)], 3, |_, _| {});
    let old = world.tap.take().unwrap();
    world.hosts[B].take_tun();
    let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));

    world.set_up(A, B, false);
    world.run_for(millis(100));
    let datagrams = old.iter().filter(|datagram| datagram.bytes[0] == 4);
    for datagram in datagrams {
        world.receive(B, datagram.from, &datagram.bytes);
    }
    world.send(A, &udp(at(a, 1), at(b, 2), b"hello"));
    world.run_for(millis(100));

    assert_eq!(world.hosts[B].take_tun(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_connection_that_was_closed_can_be_opened_again() {
    for wants in [A, B] {
        let mut world = granted(13);
        world.set_up(A, B, false);
        world.run_for(seconds(1));

        world.set_up(wants, 1 - wants, true);
        let took = world.wait_for_both(seconds(10));

        assert!(took < millis(500), "{took:?}");
        numbered(&mut world, &[(A, B), (B, A)], 5, |_, _| {});
        assert_eq!(numbers(&mut world, B).len(), 5);
    }
}

#[test]
fn a_connection_that_the_user_has_closed_stays_closed_however_often_the_peer_asks() {
    let mut world = granted(18);
    world.set_up(B, A, true);
    world.edit_peer(A, B, |entry| (entry.up, entry.blocked) = (false, true));
    world.run_for(millis(100));
    assert_ne!(world.state(B, A), LinkState::Connected);
    world.frames.clear();
    world.tap = Some(Vec::new());

    world.run_for(seconds(600));

    assert_eq!(world.state(A, B), LinkState::Down);
    let tap = world.tap.take().unwrap();
    assert!(tap.iter().all(|datagram| datagram.is_with_server()));
    let said = |by: usize| {
        let frames = world.frames.iter().filter(move |(from, _)| *from == by);
        let kinds = frames.filter_map(|(_, frame)| match frame {
            Frame::Send { envelope, .. } => Kind::of(envelope),
            _ => None,
        });
        kinds.collect::<Vec<_>>()
    };
    let (asked, told) = (said(B), said(A));
    assert!(asked.len() > 5, "it does ask");
    assert!(told.len() <= asked.len());
    assert!(told.iter().all(|kind| *kind == Kind::Refusal), "{told:?}");
    let status = world.hosts[B].engine.link_status(handle(A), world.now);
    let (refusal, _) = status.unwrap().refused.unwrap();
    assert_eq!(refusal, PeerRefusal::NotWanted);

    // Until the user says otherwise.
    world.edit_peer(A, B, |entry| entry.blocked = false);
    world.wait_for_both(seconds(90));
}

#[test]
fn a_connection_that_only_the_peer_asked_for_ends_when_the_user_closes_it() {
    let mut world = World::pair(20);
    world.set_up(B, A, true);
    world.wait_for_both(seconds(10));

    world.edit_peer(A, B, |entry| entry.blocked = true);
    world.run_for(seconds(1));

    assert_ne!(world.state(A, B), LinkState::Connected);
    assert_ne!(world.state(B, A), LinkState::Connected);
    world.run_for(seconds(60));
    assert_ne!(world.state(A, B), LinkState::Connected);
}

#[test]
fn asking_for_a_peer_that_was_disconnected_connects_it() {
    let mut world = granted(19);
    world.edit_peer(A, B, |entry| (entry.up, entry.blocked) = (false, true));
    world.run_for(seconds(1));
    world.edit_peer(A, B, |entry| (entry.up, entry.blocked) = (true, false));
    let took = world.wait_for_both(seconds(10));
    assert!(took < millis(500), "{took:?}");
}

#[test]
fn a_removed_peer_hears_goodbye_and_then_silence() {
    let mut world = granted(14);
    let b = world.hosts[B].id();

    world.edit(A, |configuration| configuration.peers.clear());

    assert!(world.hosts[A].engine.peer_report(handle(B)).is_none());
    let said: Vec<_> = world
        .frames
        .iter()
        .rev()
        .take(2)
        .map(|(_, frame)| frame.clone())
        .collect();
    assert!(said.contains(&Frame::Unwatch(b)), "{said:?}");
    world.run_for(millis(100));
    assert_eq!(world.state(B, A), LinkState::Down);

    // The other one wants the connection now: no answer, no datagram, however often it asks.
    world.frames.clear();
    world.tap = Some(Vec::new());
    world.set_up(B, A, true);
    world.run_for(seconds(300));

    assert!(world.frames.iter().all(|(from, _)| *from == B));
    let tap = world.tap.take().unwrap();
    assert!(tap.iter().all(|datagram| datagram.is_with_server()));
}

#[test]
fn a_dead_path_is_noticed_and_found_anew() {
    let mut world = granted(15);
    world.cut = true;
    // Idle paths are checked every 25 s, and given up after four unanswered checks.
    world.wait_for(seconds(35), |world| {
        world.state(A, B) != LinkState::Connected
    });
    world.cut = false;

    let took = world.wait_for_both(seconds(30));

    assert!(took < seconds(10), "{took:?}");
    numbered(&mut world, &[(A, B), (B, A)], 5, |_, _| {});
    assert_eq!(numbers(&mut world, A).len(), 5);
    assert_eq!(numbers(&mut world, B).len(), 5);
}

#[test]
fn a_short_outage_needs_no_new_exchange() {
    let mut world = granted(16);
    let before = answers(&world);
    numbered(&mut world, &[(A, B), (B, A)], 100, |_, _| {});

    world.cut = true;
    numbered(&mut world, &[(A, B), (B, A)], 100, |_, _| {});
    world.cut = false;
    world.hosts[A].take_tun();
    world.hosts[B].take_tun();
    numbered(&mut world, &[(A, B), (B, A)], 100, |_, _| {});

    assert_eq!(answers(&world), before);
    assert_eq!(numbers(&mut world, A).len(), 100);
    assert_eq!(numbers(&mut world, B).len(), 100);
}

#[test]
fn a_machine_that_has_slept_finds_its_connections_again() {
    let mut world = granted(17);
    world.cut = true;
    // Asleep: the clock goes on, nothing runs. Its neighbour notices and gives up.
    world.run_for(Duration::from_secs(3600));
    world.cut = false;
    let (now, wall) = (world.now, world.wall());
    world.hosts[A].engine.handle_resume(Duration::ZERO, now);
    world.hosts[A].engine.handle_wall_clock(wall, now);
    world.drain(A);

    world.wait_for_both(seconds(90));

    numbered(&mut world, &[(A, B), (B, A)], 5, |_, _| {});
    assert_eq!(numbers(&mut world, B).len(), 5);
}
