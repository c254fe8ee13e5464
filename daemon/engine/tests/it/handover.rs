//! A process is replaced by another one that goes on with its tunnels.

use punch_engine::{EngineEvent, LinkState};
use punch_packet::Packet;

use crate::packets::{at, tcp, udp};
use crate::world::{A, B, Nat, World, handle, millis, seconds};

const GO_ON: u8 = 10;

fn granted(mut world: World) -> World {
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.run_for(seconds(1));
    world
}

/// Sends a packet from `from`, and says whether it comes out at `to`.
fn passes(world: &mut World, from: usize, to: usize) -> bool {
    let ends = [from, to].map(|index| world.hosts[index].overlay(true));
    world.hosts[to].take_tun();
    world.send(from, &udp(at(ends[0], 7000), at(ends[1], 7000), b"here"));
    world.run_for(millis(500));
    !world.hosts[to].take_tun().is_empty()
}

fn states(world: &World, index: usize) -> Vec<LinkState> {
    let events = world.hosts[index].events.iter();
    let states = events.filter_map(|event| match event {
        EngineEvent::State { state, .. } => Some(*state),
        _ => None,
    });
    states.collect()
}

#[test]
fn the_next_process_goes_on_at_once_and_the_peer_notices_nothing() {
    for (index, other) in [(A, B), (B, A)] {
        for nats in [false, true] {
            let mut world = granted(match nats {
                false => World::connected(7),
                true => {
                    let mut world = World::natted(7, &[Nat::new(true), Nat::new(false)]);
                    world.set_up(A, B, true);
                    world.wait_for_both(seconds(30));
                    world
                }
            });
            world.hosts[other].events.clear();
            // No server: nothing but what is inherited leads to the peer.
            world.sign_out(other);
            for _ in 0..3 {
                let heritage = world.hosts[index].engine.bequeath(true, world.now);
                world.hand_over(index, millis(300), heritage);
                world.run_for(millis(200));
            }
            assert!(passes(&mut world, index, other), "{index} {nats}");
            assert!(passes(&mut world, other, index), "{index} {nats}");
            assert_eq!(world.state(index, other), LinkState::Connected);
            world.run_for(seconds(60));
            assert_eq!(states(&world, other), [], "{index} {nats}");
            assert!(passes(&mut world, other, index), "{index} {nats}");
        }
    }
}

#[test]
fn the_exchange_goes_on_and_with_it_what_the_two_ends_say_to_each_other() {
    for (says, hears) in [(A, B), (B, A)] {
        let mut world = granted(World::connected(3));
        let before = world.envelopes.len();
        // What is left may be gone on with twice.
        let heritage = world.hosts[A].engine.bequeath(true, world.now);
        for port in [4001, 4002] {
            world.hand_over(A, millis(100), heritage.clone());
            world.sign_in(A);
            new_mapping(&mut world, A, port);
            world.run_for(seconds(20));
        }
        let said = world.envelopes[before..].iter();
        assert!(
            said.clone().all(|(_, _, envelope)| envelope[0] == 3),
            "notes alone"
        );
        let nonces: std::collections::BTreeSet<_> = said
            .clone()
            .map(|(_, _, envelope)| &envelope[1..9])
            .collect();
        assert!(
            !nonces.is_empty() && nonces.len() == said.count(),
            "each once"
        );
        world.edit_peer(says, hears, |entry| {
            (entry.up, entry.blocked) = (false, true)
        });
        world.run_for(seconds(1));
        // The one whose user wants the other waits for it.
        let expected = [LinkState::Waiting, LinkState::Down][hears];
        assert_eq!(world.state(hears, says), expected);
    }
}

/// Its router leads one more address to this host, of which its peers are told.
fn new_mapping(world: &mut World, index: usize, port: u16) {
    let external = format!("198.51.100.7:{port}").parse().unwrap();
    let engine = &mut world.hosts[index].engine;
    engine.handle_port_mapping([Some(external), None], world.now);
    world.drain(index);
}

#[test]
fn a_peer_waits_for_who_is_away_and_not_for_longer_than_was_said() {
    for returns in [true, false] {
        let mut world = granted(World::connected(5));
        world.hosts[B].events.clear();
        let heritage = world.hosts[A].engine.bequeath(true, world.now);
        world.hosts[A].engine.go_away(GO_ON, world.now);
        world.drain(A);
        world.run_for(millis(100));
        if returns {
            world.hand_over(A, millis(900), heritage);
            world.run_for(seconds(30));
            assert_eq!(states(&world, B), []);
            assert!(passes(&mut world, B, A));
            continue;
        }
        world.vanish(A);
        world.run_for(seconds(8));
        assert_eq!(world.state(B, A), LinkState::Connected);
        world.run_for(seconds(3));
        // As after a goodbye: nobody here wants it.
        assert_eq!(world.state(B, A), LinkState::Down);
    }
}

#[test]
fn a_peer_that_was_back_in_time_is_not_given_up_for_a_check_that_is_open_then() {
    let mut world = granted(World::connected(5));
    let heritage = world.hosts[A].engine.bequeath(true, world.now);
    world.hosts[A].engine.go_away(GO_ON, world.now);
    world.drain(A);
    world.run_for(millis(100));
    world.hand_over(A, millis(900), heritage);
    world.run_for(seconds(1));
    for _ in 0..14 {
        assert!(passes(&mut world, B, A));
    }
    // From 9 s on nothing gets through, and the check that notices it is open at 10 s.
    world.vanish(A);
    for _ in 0..3 {
        passes(&mut world, B, A);
    }
    assert_eq!(world.state(B, A), LinkState::Connected);
}

#[test]
fn what_the_user_has_said_since_counts() {
    let mut world = granted(World::connected(11));
    let heritage = world.hosts[A].engine.bequeath(true, world.now);
    world.edit_peer(A, B, |entry| (entry.up, entry.blocked) = (false, true));
    world.hand_over(A, millis(100), heritage);
    assert!(!passes(&mut world, A, B));
    assert_eq!(world.state(A, B), LinkState::Down);
}

#[test]
fn a_path_that_leads_nowhere_any_more_is_left_like_any_other() {
    let mut world = granted(World::connected(13));
    let heritage = world.hosts[A].engine.bequeath(true, world.now);
    world.restart(B);
    world.hand_over(A, millis(100), heritage);
    world.sign_in(A);
    world.wait_for_both(seconds(20));
    assert!(passes(&mut world, A, B) && passes(&mut world, B, A));
}

#[test]
fn replies_of_a_conversation_that_the_earlier_process_has_seen_begin_may_come_in() {
    let mut world = World::connected(17);
    world.grant(B, A, true);
    let ends = [A, B].map(|index| at(world.hosts[index].overlay(true), 7000));
    world.send(A, &tcp(ends[0], ends[1], 0x02, 1000, 0, &[]));
    world.run_for(millis(200));
    world.send(B, &tcp(ends[1], ends[0], 0x12, 2000, 1001, &[]));
    world.run_for(millis(200));
    world.send(A, &tcp(ends[0], ends[1], 0x10, 1001, 2001, &[]));
    world.run_for(millis(200));
    let heritage = world.hosts[A].engine.bequeath(true, world.now);
    assert_eq!(heritage.flows.len(), 1);
    for flows in [true, false] {
        let heritage = world.hosts[A].engine.bequeath(flows, world.now);
        world.hand_over(A, millis(100), heritage);
        world.run_for(millis(500));
        world.hosts[A].take_tun();
        world.send(B, &tcp(ends[1], ends[0], 0x10, 1001, 2001, &[]));
        world.run_for(millis(500));
        let came = world.hosts[A].take_tun();
        let came = came.iter().filter(|packet| Packet::parse(packet).is_ok());
        assert_eq!(came.count(), usize::from(flows), "with flows: {flows}");
    }
    assert_eq!(
        world.hosts[A].engine.peer_state(handle(B)),
        Some(LinkState::Connected)
    );
}
