//! Clients that say nothing any more.

use punch_forward::{MAX_STREAMS_PER_PEER, Order, Presence, Refused};
use smoltcp::socket::tcp::State;

use crate::limits::{LATER, client};
use crate::packets::{RST, SYN, addr, flags, tcp};
use crate::world::{Manner, SERVER_V4, World};
use crate::{ms, noise, secs};

fn was_reset(world: &World, stream: punch_forward::StreamId) -> bool {
    world.orders.contains(&Order::Reset(stream))
}

#[test]
fn a_client_that_vanishes_while_its_machine_is_there_is_noticed_within_forty_seconds() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.client.send(program, b"hi");
    world.run(secs(3));

    world.cut = true;
    world.run(secs(29));
    assert!(!was_reset(&world, stream), "six probes may be lost");
    world.run(secs(8));

    assert!(was_reset(&world, stream));
}

#[test]
fn a_quiet_client_that_answers_keeps_its_connection_and_is_asked_more_and_more_seldom() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    let before = world.to_client.len();

    world.run(secs(15 + 30 + 60 + 120 + 1));
    assert_eq!(world.to_client.len() - before, 4);
    world.run(secs(24 * 3600));

    let probes = world.to_client.len() - before - 4;
    assert!(
        (350..=361).contains(&probes),
        "one in four minutes: {probes}"
    );
    assert!(!was_reset(&world, stream));
    // It still works, both ways.
    world.client.send(program, b"still here");
    world.run(secs(1));
    assert_eq!(world.target(stream).received, b"still here");
    world.target_sends(stream, b"so am I");
    world.run(secs(1));
    assert_eq!(world.client.programs[program].received, b"so am I");
    // After some bytes the first probe follows soon again.
    let before = world.to_client.len();
    world.run(secs(16));
    assert_eq!(world.to_client.len() - before, 1);
}

/// Fills the peer's share up with others, and opens one more.
fn one_too_many(world: &mut World) -> Result<(), Refused> {
    let syn = |n| tcp(client(n), addr("100.64.0.1:5432"), SYN, 1, 0);
    world.manner = Manner::Manual;
    for n in 1..MAX_STREAMS_PER_PEER {
        world.now += ms(1);
        assert_eq!(world.inject(&syn(n)), Ok(()), "{n}");
    }
    world.now += ms(1);
    world.inject(&syn(LATER))
}

#[test]
fn answers_to_probes_are_no_use_of_a_connection_and_so_one_that_is_forgotten_makes_room() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    let before = world.to_client.len();
    world.run(secs(900));
    assert_eq!(world.to_client.len() - before, 6, "probes, all answered");

    assert_eq!(one_too_many(&mut world), Ok(()));
    assert!(world.new_orders().contains(&Order::Reset(stream)));
}

#[test]
fn a_connection_whose_client_only_acknowledges_what_the_target_sends_is_used() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    for _ in 0..15 {
        world.target_sends(stream, b"tick");
        world.run(secs(60));
    }

    assert_eq!(one_too_many(&mut world), Err(Refused::Full));
    assert!(!world.new_orders().contains(&Order::Reset(stream)));
}

#[test]
fn a_client_whose_machine_sleeps_keeps_its_connection_for_an_hour() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.run(secs(20));
    world.cut = true;
    world.presence = Presence::Away;
    world.run(secs(3500));
    assert!(!was_reset(&world, stream));
    // It wakes up.
    world.cut = false;
    world.presence = Presence::Here;
    world.run(secs(120));
    assert!(!was_reset(&world, stream));
    assert_eq!(world.client.state(program), State::Established);

    world.cut = true;
    world.presence = Presence::Away;
    world.run(secs(3800));
    assert!(was_reset(&world, stream));
}

#[test]
fn a_plain_peer_is_asked_once_a_minute_and_has_an_hour() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    world.presence = Presence::Unknown;
    world.cut = true;
    world.run(secs(3500));
    assert!(!was_reset(&world, stream));
    world.run(secs(200));
    assert!(was_reset(&world, stream));
}

#[test]
fn a_client_that_acknowledges_nothing_for_ten_minutes_though_its_machine_is_there_has_vanished() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    world.cut = true;
    world.target_sends(stream, &noise(100_000, 1));
    world.run(secs(590));
    assert!(!was_reset(&world, stream));
    world.run(secs(60));
    assert!(was_reset(&world, stream));
}

#[test]
fn a_client_whose_machine_has_forgotten_the_connection_resets_it_when_it_is_asked() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    // The machine has started anew: what it knew is gone.
    world.client.forget(program);
    world.run(secs(10));
    assert!(!was_reset(&world, stream));
    world.run(secs(6));
    assert!(was_reset(&world, stream));
}

#[test]
fn a_half_closed_connection_is_asked_for_as_well() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    world.target_finishes(stream);
    world.run(secs(5));
    world.cut = true;
    world.run(secs(60));
    assert!(was_reset(&world, stream));
}

#[test]
fn probes_of_many_connections_are_spread_and_few() {
    let mut world = World::new(Manner::Eager);
    for port in 40000..40100 {
        world.connect(port, 5432);
    }
    world.run(secs(3600));
    let before = world.to_client.len();
    world.run(secs(2400));
    let probes = world.to_client.len() - before;
    assert!((900..=1000).contains(&probes), "{probes} in forty minutes");
    let syn = |packet: &&Vec<u8>| flags(packet).unwrap().syn();
    assert_eq!(world.to_client.iter().filter(syn).count(), 100);
}

#[test]
fn a_reset_of_the_clients_machine_ends_the_targets_connection_at_once() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    world.run(secs(100));
    let synack = world.to_client.iter().find(|packet| {
        let flags = flags(packet).unwrap();
        flags.syn()
    });
    // Acknowledged is the byte behind our SYN; theirs is the one behind their own.
    let synack = synack.unwrap();
    let theirs = u32::from_be_bytes(synack[28..32].try_into().unwrap());
    let from = "100.64.0.2:40000".parse().unwrap();
    let to = format!("{SERVER_V4}:5432").parse().unwrap();
    world.inject(&tcp(from, to, RST, theirs, 0)).unwrap();
    world.run(ms(1));
    assert!(was_reset(&world, stream));
}
