//! TCP connections where no UDP passes: before and after a path over UDP, and beside the relay.

use punch_engine::{DropReason, EngineEvent, LinkState, Path, TcpOrder};

use crate::packets::{at, udp};
use crate::switchboard::Switchboard;
use crate::trio;
use crate::world::{A, B, Datagram, World, millis, path, seconds};

/// Two hosts that take TCP connections and let each other in; no datagram passes but those with STUN servers.
fn blocked(seed: u64, relay: bool) -> World {
    let mut world = World::pair(seed);
    if relay {
        [A, B].into_iter().for_each(|index| world.sign_out(index));
        world.relay = Some(Switchboard::default());
        [A, B].into_iter().for_each(|index| world.sign_in(index));
    }
    world.open_tcp();
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.filter = Box::new(Datagram::is_with_server);
    world.run_for(seconds(1));
    world
}

fn both(world: &World, is: impl Fn(Path) -> bool) -> bool {
    let mut ends = [(A, B), (B, A)].into_iter();
    ends.all(|(index, peer)| path(world, index, peer).is_some_and(&is))
}

fn is_tcp(path: Path) -> bool {
    matches!(path, Path::Tcp(_))
}

/// Sends one packet each way; returns whether both arrive within a second.
fn talks(world: &mut World) -> bool {
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    world.hosts[A].tun.clear();
    world.hosts[B].tun.clear();
    world.send(A, &udp(a, b, b"there"));
    world.send(B, &udp(b, a, b"back"));
    world.run_for(seconds(1));
    let mut hosts = world.hosts.iter_mut();
    hosts.all(|host| !host.take_tun().is_empty())
}

fn connections(world: &World) -> [usize; 2] {
    [A, B].map(|index| {
        let sizes = world.hosts[index].engine.table_sizes();
        sizes.connector.tcp_connections
    })
}

#[test]
fn where_no_datagram_passes_a_connection_serves_until_a_path_over_udp_is_found() {
    let mut world = blocked(1, false);
    world.set_up(A, B, true);
    let took = world.wait_for_both(seconds(10));
    assert!(took < millis(1500), "{took:?}");
    world.run_for(seconds(1));
    assert!(both(&world, is_tcp));
    let made = world.wires.made;
    // For an hour, although no attempt at a path over UDP succeeds, without a packet lost to them and without a further connection.
    for _ in 0..12 {
        assert!(talks(&mut world));
        world.run_for(seconds(300));
    }
    assert_eq!(world.wires.made, made);
    world.filter = Box::new(|_| true);
    world.run_for(seconds(600));
    assert!(both(&world, |path| matches!(path, Path::Direct(_))));
    assert!(talks(&mut world));
    assert_eq!(connections(&world), [0, 0]);
}

#[test]
fn a_connection_takes_the_place_of_the_relay_and_the_relay_that_of_one_that_dies() {
    let mut world = blocked(2, true);
    world.set_up(A, B, true);
    let took = world.wait_for_both(seconds(10));
    assert!(took < millis(500), "{took:?}");
    assert!(both(&world, |path| matches!(path, Path::Relayed(_))));
    for _ in 0..50 {
        assert!(talks(&mut world));
    }
    assert!(both(&world, is_tcp));
    world.wires.cut = true;
    for _ in 0..40 {
        talks(&mut world);
    }
    assert!(talks(&mut world));
    assert!(!both(&world, is_tcp));
}

#[test]
fn after_sleep_a_relay_goes_before_a_connection_that_has_not_answered_since() {
    for cut in [false, true] {
        let mut world = blocked(7, true);
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world.run_for(seconds(10));
        assert!(both(&world, is_tcp));
        world.wires.cut = cut;
        let now = world.now;
        for index in [A, B] {
            world.hosts[index]
                .engine
                .handle_resume(std::time::Duration::ZERO, now);
            world.drain(index);
        }
        assert!(both(&world, |path| matches!(path, Path::Relayed(_))));
        assert!(talks(&mut world));
        assert_eq!(both(&world, is_tcp), !cut);
    }
}

#[test]
fn so_it_does_when_the_addresses_are_others() {
    let mut world = blocked(9, true);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(10));
    assert!(both(&world, is_tcp));
    world.renumber(A);
    assert!(matches!(path(&world, A, B), Some(Path::Relayed(_))));
}

#[test]
fn a_connection_that_dies_is_made_anew() {
    let mut world = blocked(3, false);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.wires.cut = true;
    for _ in 0..60 {
        talks(&mut world);
    }
    assert_ne!(world.state(A, B), LinkState::Connected);
    world.wires.cut = false;
    world.run_for(seconds(60));
    assert!(both(&world, is_tcp) && talks(&mut world));
    world.set_up(A, B, false);
    world.run_for(seconds(10));
    assert_eq!(connections(&world), [0, 0]);
}

#[test]
fn a_stranger_who_connects_gets_nothing() {
    let mut world = blocked(4, false);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    let now = world.now;
    let engine = &mut world.hosts[A].engine;
    for said in [&b"GET / HTTP/1.1"[..], &[], &[0; 20]] {
        let from = "198.51.100.77:1234".parse().unwrap();
        assert_eq!(engine.handle_tcp_call(from, said, now), None);
    }
    assert!(engine.poll_train().is_none());
}

/// A path over UDP is found while the connection serves already, and is in doubt later.
#[test]
fn while_a_path_over_udp_is_in_doubt_the_connection_carries_and_then_the_path_does_again() {
    let mut world = blocked(5, false);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    assert!(both(&world, is_tcp));
    world.filter = Box::new(|_| true);
    world.run_for(seconds(8));
    assert!(both(&world, |path| matches!(path, Path::Direct(_))));
    assert_ne!(connections(&world), [0, 0]);
    let made = world.wires.made;
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let (mut was_tcp, mut was_lost) = (false, false);
    for tick in 0..300 {
        match tick {
            50 => world.filter = Box::new(Datagram::is_with_server),
            // 1.4 seconds later: two checks are lost, and the fourth will be answered.
            120 => world.filter = Box::new(|_| true),
            _ => {}
        }
        world.send(A, &udp(a, b, b"there"));
        world.send(B, &udp(b, a, b"back"));
        world.run_for(millis(20));
        was_tcp |= path(&world, A, B).is_some_and(is_tcp);
        was_lost |= path(&world, A, B).is_none();
    }
    assert!(was_tcp && !was_lost);
    assert!(both(&world, |path| matches!(path, Path::Direct(_))));
    assert_eq!(world.wires.made, made);
}

/// Attempts at a path over UDP go on beside the connection, and each could join the relay.
#[test]
fn a_relay_that_is_there_again_does_not_take_over_from_a_connection_that_answers() {
    let mut world = blocked(6, true);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    for _ in 0..10 {
        assert!(talks(&mut world));
    }
    assert!(both(&world, is_tcp));
    let made = world.wires.made;
    for _ in 0..3 {
        // The server starts anew, and knows no link.
        [A, B].into_iter().for_each(|index| world.sign_out(index));
        world.relay = Some(Switchboard::default());
        [A, B].into_iter().for_each(|index| world.sign_in(index));
        for _ in 0..200 {
            assert!(talks(&mut world));
            assert!(both(&world, is_tcp));
        }
    }
    assert_eq!(world.wires.made, made);
}

#[test]
fn what_was_connected_to_and_is_no_peer_is_closed_at_its_first_word() {
    // The header of a check, a handshake, a packet of data, and nothing.
    let check = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    for said in [check, vec![1; 148], [4, 0, 0, 0].repeat(8), Vec::new()] {
        let mut world = blocked(6, false);
        // Nobody answers; what is said comes from here.
        world.wires.cut = true;
        world.set_up(A, B, true);
        world.run_for(seconds(2));
        let mut orders = world.hosts[A].events.iter();
        let dial = orders.find_map(|event| match event {
            EngineEvent::Tcp(TcpOrder::Dial(path)) => Some(*path),
            _ => None,
        });
        let path = dial.unwrap();
        let before = connections(&world)[A];
        let dropped = world.hosts[A].drops(DropReason::NotForUs);
        let now = world.now;
        let engine = &mut world.hosts[A].engine;
        engine.handle_tcp_state(path, true, now);
        engine.flush(now);
        for _ in 0..2 {
            let datagrams = std::iter::repeat_n(said.as_slice(), 1000);
            engine.handle_tcp(path, datagrams, now);
            engine.flush(now);
        }
        let mut closed = 0;
        while let Some(event) = engine.poll_event() {
            let close = TcpOrder::Close(path.connection);
            closed += usize::from(matches!(event, EngineEvent::Tcp(order) if order == close));
        }
        assert_eq!(closed, 1, "{said:?}");
        assert_eq!(connections(&world)[A], before - 1);
        // Once for each that the driver had read: the rest was not looked at.
        assert_eq!(world.hosts[A].drops(DropReason::NotForUs), dropped + 2);
    }
}

#[test]
fn what_one_peer_sends_over_the_connection_of_another_is_dropped() {
    let mut world = trio::trio(21);
    world.open_tcp();
    world.filter = Box::new(Datagram::is_with_server);
    trio::connect(&mut world, is_tcp);
    trio::lets_in_its_own_alone(&mut world, |engine, way, datagrams, now| match way {
        Path::Tcp(path) => engine.handle_tcp(path, datagrams, now),
        other => panic!("{other:?}"),
    });
}

/// Between two ports there is one connection, and firewalls are passed between these two alone.
#[test]
fn what_is_left_of_an_exchange_makes_way_for_a_connection_to_the_same_address() {
    let mut world = blocked(11, false);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(1));
    assert!(both(&world, is_tcp));
    world.set_up(A, B, false);
    world.set_up(A, B, true);
    world.run_for(seconds(5));
    assert!(both(&world, is_tcp));
    let mut open = std::collections::BTreeMap::new();
    let mut dials = 0;
    for event in &world.hosts[A].events {
        match event {
            EngineEvent::Tcp(TcpOrder::Dial(path)) => {
                let there = open.values().any(|remote| *remote == path.remote);
                assert!(!there, "{path:?} beside {open:?}");
                open.insert(path.connection, path.remote);
                dials += 1;
            }
            EngineEvent::Tcp(TcpOrder::Close(connection)) => {
                open.remove(connection);
            }
            _ => {}
        }
    }
    assert_eq!(dials, 4);
}

/// A peer that names somebody else's address, and makes one exchange after the other.
#[test]
fn an_address_that_is_named_again_and_again_is_connected_to_seldom() {
    let mut world = blocked(10, false);
    world.wires.cut = true;
    let victim: std::net::IpAddr = [198, 51, 100, 25].into();
    let now = world.now;
    let named = vec![victim.into()];
    world.hosts[B].engine.handle_addresses(named, now);
    world.drain(B);
    for _ in 0..100 {
        world.set_up(B, A, true);
        world.run_for(millis(2500));
        world.set_up(B, A, false);
        world.run_for(millis(500));
    }
    let events = world.hosts[A].events.iter();
    let dials = events.filter(|event| match event {
        EngineEvent::Tcp(TcpOrder::Dial(path)) => path.remote.ip() == victim,
        _ => false,
    });
    let dials = dials.count();
    // A burst of twelve, and one in five seconds for five minutes.
    assert!((13..=12 + 60).contains(&dials), "{dials}");
    let sizes = world.hosts[A].engine.table_sizes();
    assert!(sizes.connector.dialled <= 4);
}

#[test]
fn this_machines_own_addresses_are_not_connected_to_whoever_names_them() {
    let mut world = blocked(8, false);
    // No connection comes about that would make others superfluous.
    world.wires.cut = true;
    let own: Vec<_> = world.hosts[A].addresses();
    let named = [own.clone(), world.hosts[B].addresses()].concat();
    let now = world.now;
    world.hosts[B].engine.handle_addresses(named, now);
    world.drain(B);
    world.set_up(A, B, true);
    world.run_for(seconds(20));
    let events = world.hosts[A].events.iter();
    let dials = events.filter_map(|event| match event {
        EngineEvent::Tcp(TcpOrder::Dial(path)) => Some(path.remote.ip()),
        _ => None,
    });
    let dials: Vec<_> = dials.collect();
    assert!(!dials.is_empty());
    assert!(own.iter().all(|own| !dials.contains(&own.ip)), "{dials:?}");
}
