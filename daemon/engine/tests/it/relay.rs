//! Packets through a signalling server: before a direct path is found, where none can be, and when it dies.

use punch_engine::{DropReason, EngineEvent, LinkState, News, Path, RelayPath};
use punch_signal_protocol::{Frame, RelayLink, RelayToken};

use crate::packets::{at, udp};
use crate::switchboard::Switchboard;
use crate::trio;
use crate::world::{A, B, Datagram, SERVER, World, handle, millis, path, seconds};

/// Two hosts at a server that relays; they let each other in.
pub(crate) fn relayed(seed: u64) -> World {
    let mut world = World::pair(seed);
    for index in [A, B] {
        world.sign_out(index);
    }
    world.relay = Some(Switchboard::default());
    for index in [A, B] {
        world.sign_in(index);
    }
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.run_for(seconds(1));
    world
}

/// No datagram passes but those with STUN servers.
pub(crate) fn block_udp(world: &mut World) {
    world.filter = Box::new(Datagram::is_with_server);
}

fn is_relayed(world: &World, index: usize, peer: usize) -> bool {
    matches!(path(world, index, peer), Some(Path::Relayed(_)))
}

fn is_direct(world: &World) -> bool {
    [(A, B), (B, A)]
        .iter()
        .all(|(index, peer)| matches!(path(world, *index, *peer), Some(Path::Direct(_))))
}

/// Sends one packet each way; returns whether both arrive within a second.
fn talks(world: &mut World) -> bool {
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    world.hosts[A].tun.clear();
    world.hosts[B].tun.clear();
    world.send(A, &udp(a, b, b"there"));
    world.send(B, &udp(b, a, b"back"));
    world.run_for(seconds(1));
    [A, B]
        .iter()
        .all(|index| !world.hosts[*index].take_tun().is_empty())
}

fn switchboard(world: &World) -> &Switchboard {
    world.relay.as_ref().unwrap()
}

#[test]
fn where_no_datagram_passes_packets_go_over_the_relay_at_once() {
    let mut world = relayed(1);
    block_udp(&mut world);
    world.set_up(A, B, true);
    let took = world.wait_for_both(seconds(10));
    // Offer, answer, joining, handshake: each a way to the server and one from it.
    assert!(took < millis(120), "{took:?}");
    assert!(is_relayed(&world, A, B) && is_relayed(&world, B, A));
    assert!(talks(&mut world));
    assert!(switchboard(&world).passed >= 2);
    // For hours, although no attempt at a direct path succeeds, and without a packet lost to them.
    for _ in 0..40 {
        world.run_for(seconds(180));
        assert!(is_relayed(&world, A, B) && is_relayed(&world, B, A));
        assert!(talks(&mut world));
        assert_eq!(switchboard(&world).links(), 1);
    }
}

#[test]
fn a_direct_path_takes_over_without_a_lost_packet() {
    let mut world = relayed(2);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let (mut sent, mut heard) = (0, [0, 0]);
    for tick in 0..6000 {
        if tick == 500 {
            world.filter = Box::new(|_| true);
        }
        world.send(A, &udp(a, b, b"there"));
        world.send(B, &udp(b, a, b"back"));
        sent += 1;
        world.run_for(millis(20));
        for (index, heard) in [A, B].into_iter().zip(&mut heard) {
            *heard += world.hosts[index].take_tun().len();
        }
    }
    world.run_for(seconds(1));
    for (index, heard) in [A, B].into_iter().zip(&mut heard) {
        *heard += world.hosts[index].take_tun().len();
    }
    assert!(
        is_direct(&world),
        "{:?} {:?}",
        path(&world, A, B),
        path(&world, B, A)
    );
    assert_eq!(heard, [sent, sent]);
}

#[test]
fn where_a_direct_path_is_found_at_once_the_relay_only_stands_behind_it() {
    let mut world = relayed(3);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(5));
    assert!(is_direct(&world));
    assert_eq!(switchboard(&world).links(), 1);
    let passed = switchboard(&world).passed;
    assert!(talks(&mut world));
    world.run_for(seconds(600));
    assert_eq!(
        switchboard(&world).passed,
        passed,
        "an idle relay costs nothing"
    );
}

#[test]
fn a_direct_path_that_dies_leaves_the_relay() {
    let mut world = relayed(4);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(5));
    assert!(is_direct(&world));
    block_udp(&mut world);
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let began = world.now;
    let mut back = None;
    while world.now - began < seconds(20) {
        world.send(A, &udp(a, b, b"there"));
        world.send(B, &udp(b, a, b"back"));
        world.run_for(millis(20));
        let heard = [A, B].map(|index| world.hosts[index].take_tun().len());
        if heard.iter().all(|count| *count > 0) && world.now - began > millis(100) {
            back.get_or_insert(world.now - began);
        }
    }
    let back = back.unwrap();
    // Two paths have died at once, IPv6 and IPv4: the relay carries the packets as soon as the path is in doubt.
    assert!(back < millis(1500), "{back:?}");
    assert_eq!(world.state(A, B), LinkState::Connected);
    let lost = world.hosts[A].events.iter().any(
        |event| matches!(event, EngineEvent::State { state, .. } if *state != LinkState::Connected),
    );
    let connecting = world.hosts[A].events.iter().filter(|event| {
        matches!(
            event,
            EngineEvent::State {
                state: LinkState::Connecting,
                ..
            }
        )
    });
    assert!(lost && connecting.count() == 1, "only at the beginning");
}

#[test]
fn a_server_that_dies_takes_its_links_along_and_brings_them_back() {
    let mut world = relayed(5);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    for index in [A, B] {
        world.sign_out(index);
    }
    world.relay = Some(Switchboard::default());
    world.run_for(seconds(3));
    assert_ne!(world.state(A, B), LinkState::Connected);
    assert_eq!(path(&world, A, B), None);
    for index in [A, B] {
        world.sign_in(index);
    }
    let took = world.wait_for_both(seconds(30));
    assert!(took < seconds(2), "{took:?}");
    assert!(talks(&mut world));
}

#[test]
fn a_link_that_one_end_has_lost_with_its_connection_is_made_again() {
    for blocked in [true, false] {
        let mut world = relayed(10);
        if blocked {
            block_udp(&mut world);
        }
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world.run_for(seconds(5));
        world.sign_out(B);
        world.run_for(millis(500));
        assert_eq!(switchboard(&world).links(), 0);
        world.sign_in(B);
        world.run_for(seconds(3));
        assert!(talks(&mut world), "{blocked}");
        assert_eq!(switchboard(&world).links(), 1, "{blocked}");
        assert_eq!(is_direct(&world), !blocked);
    }
}

#[test]
fn a_relay_that_passes_nothing_on_is_no_connection_for_long_and_serves_again_when_it_does() {
    let mut world = relayed(12);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(1));
    let link = |world: &World| {
        let (engine, now) = (&world.hosts[A].engine, world.now);
        engine.link_status(handle(B), now).unwrap()
    };
    assert_eq!(link(&world).round_trip, Some(2 * world.latency));

    world.relay.as_mut().unwrap().swallows = true;
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let mut cut = false;
    for _ in 0..300 {
        world.send(A, &udp(a, b, b"there"));
        world.run_for(millis(100));
        cut |= path(&world, A, B).is_none();
    }
    assert!(cut, "a server's word is not taken for a way to the peer");

    world.relay.as_mut().unwrap().swallows = false;
    world.run_for(seconds(70));
    assert!(is_relayed(&world, A, B) && talks(&mut world));
}

#[test]
fn packets_over_a_link_that_nobody_has_are_dropped() {
    let mut world = relayed(11);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    let before = world.hosts[A].drops(DropReason::NotForUs);
    let path = RelayPath {
        server: SERVER,
        link: RelayLink(77_777),
    };
    let packets = [[4, 0, 0, 0].repeat(8), vec![1; 148]];
    let now = world.now;
    let engine = &mut world.hosts[A].engine;
    engine.handle_relayed(path, packets.iter().map(Vec::as_slice), now);
    assert_eq!(world.hosts[A].drops(DropReason::NotForUs), before + 2);
}

#[test]
fn what_one_peer_sends_over_the_link_of_another_is_dropped() {
    let mut world = trio::trio(20);
    world.relay = Some(Switchboard::default());
    block_udp(&mut world);
    trio::connect(&mut world, |path| matches!(path, Path::Relayed(_)));
    trio::lets_in_its_own_alone(&mut world, |engine, way, datagrams, now| match way {
        Path::Relayed(link) => engine.handle_relayed(link, datagrams, now),
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_peer_that_restarts_is_back_over_the_relay() {
    for peer in [A, B] {
        let mut world = relayed(6);
        block_udp(&mut world);
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world.run_for(seconds(30));
        world.restart(peer);
        world.run_for(seconds(5));
        assert!(talks(&mut world), "{peer}");
        assert_eq!(switchboard(&world).links(), 1);
    }
}

#[test]
fn goodbye_leaves_the_links_of_both_ends() {
    let mut world = relayed(7);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.set_up(A, B, false);
    world.run_for(seconds(10));
    assert_eq!(switchboard(&world).links(), 0);
    assert_eq!(world.state(A, B), LinkState::Down);
    assert_eq!(world.state(B, A), LinkState::Down);
    let sizes = world.hosts[A].engine.table_sizes().connector;
    assert_eq!((sizes.relay_tokens, sizes.relay_links), (0, 0));
}

#[test]
fn frames_of_the_relay_that_nobody_asked_for_are_passed_over() {
    let mut world = relayed(8);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    let token = RelayToken([7; 16]);
    for number in 0..1000 {
        let link = RelayLink(1_000_000 + number);
        world.hear(A, Frame::RelayReady { token, link });
        world.hear(A, Frame::RelayGone(link));
    }
    world.run_for(seconds(60));
    assert!(talks(&mut world));
    let sizes = world.hosts[A].engine.table_sizes().connector;
    assert_eq!((sizes.relay_tokens, sizes.relay_links), (1, 1));
    let news = |event: &&EngineEvent| matches!(event, EngineEvent::News(News::Selected { .. }));
    assert_eq!(world.hosts[A].events.iter().filter(news).count(), 1);
}

#[test]
fn one_end_that_has_switched_the_relay_off_is_not_relayed() {
    let mut world = World::pair(9);
    world.relay_allowed = false;
    world.restart(B);
    world.relay = Some(Switchboard::default());
    for index in [A, B] {
        world.sign_out(index);
        world.sign_in(index);
    }
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.run_for(seconds(60));
    assert_ne!(world.state(A, B), LinkState::Connected);
    assert!(
        !world
            .frames
            .iter()
            .any(|(_, frame)| matches!(frame, Frame::RelayJoin(_)))
    );
}

#[test]
fn over_a_relay_with_a_round_trip_of_three_seconds_a_session_is_made_too() {
    for one_way in [100, 600, 1500] {
        let mut world = relayed(13);
        block_udp(&mut world);
        world.latency = millis(one_way);
        world.set_up(A, B, true);
        world.wait_for_both(seconds(30));
        world.run_for(seconds(30));
        world.send(
            A,
            &udp(
                at(world.hosts[A].overlay(true), 4000),
                at(world.hosts[B].overlay(true), 4000),
                b"there",
            ),
        );
        world.run_for(seconds(3));
        assert_eq!(world.hosts[B].take_tun().len(), 1, "{one_way} ms");
    }
}

#[test]
fn one_end_that_wants_direct_paths_only_is_not_relayed() {
    for wants in [A, B] {
        let mut world = relayed(12);
        block_udp(&mut world);
        world.edit_peer(wants, A + B - wants, |entry| entry.direct_only = true);
        world.set_up(A, B, true);
        world.run_for(seconds(60));
        assert_ne!(world.state(A, B), LinkState::Connected);
        assert_ne!(world.state(B, A), LinkState::Connected);
        let mut frames = world.frames.iter();
        assert!(!frames.any(|(_, frame)| matches!(frame, Frame::RelayJoin(_))));
    }
}

#[test]
fn a_relay_that_serves_is_left_when_it_is_forbidden_and_serves_again_when_it_is_allowed() {
    for wants in [A, B] {
        let peer = A + B - wants;
        let mut world = relayed(13);
        block_udp(&mut world);
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world.edit_peer(wants, peer, |entry| entry.direct_only = true);
        world.run_for(millis(100));
        assert!(!is_relayed(&world, A, B) && !is_relayed(&world, B, A));
        assert_eq!(switchboard(&world).links(), 0);
        let passed = switchboard(&world).passed;
        for _ in 0..5 {
            assert!(!talks(&mut world));
            world.run_for(seconds(60));
        }
        assert_eq!(switchboard(&world).passed, passed);
        let sizes = world.hosts[wants].engine.table_sizes().connector;
        assert_eq!(sizes.relay_links, 0);

        world.edit_peer(wants, peer, |entry| entry.direct_only = false);
        world.run_for(seconds(30));
        assert!(talks(&mut world), "{wants}");
        assert!(is_relayed(&world, A, B) && is_relayed(&world, B, A));
    }
}

#[test]
fn a_direct_path_stays_when_the_relay_behind_it_is_forbidden() {
    let mut world = relayed(14);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(5));
    assert!(is_direct(&world));
    world.edit_peer(A, B, |entry| entry.direct_only = true);
    world.run_for(seconds(5));
    assert!(is_direct(&world) && talks(&mut world));
    assert_eq!(switchboard(&world).links(), 0);
    let passed = switchboard(&world).passed;
    block_udp(&mut world);
    world.run_for(seconds(120));
    assert_eq!(switchboard(&world).passed, passed);
    assert_ne!(world.state(A, B), LinkState::Connected);
}

/// The path comes back before it is given up.
#[test]
fn while_a_direct_path_is_in_doubt_the_relay_carries_and_then_the_path_does_again() {
    let mut world = relayed(14);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(5));
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let mtu = |world: &World| {
        let engine = &world.hosts[A].engine;
        engine.peer_report(handle(B)).unwrap().mtu
    };
    let before = mtu(&world);
    assert!(before.is_some());
    let (mut was_relayed, mut was_lost) = (false, false);
    for tick in 0..300 {
        match tick {
            50 => block_udp(&mut world),
            // 1.4 seconds later: two checks are lost, and the fourth will be answered.
            120 => world.filter = Box::new(|_| true),
            _ => {}
        }
        world.send(A, &udp(a, b, b"there"));
        world.send(B, &udp(b, a, b"back"));
        world.run_for(millis(20));
        was_relayed |= is_relayed(&world, A, B);
        was_lost |= path(&world, A, B).is_none();
    }
    assert!(was_relayed && !was_lost);
    assert!(is_direct(&world));
    assert_eq!(mtu(&world), before, "it is not searched for again");
}
