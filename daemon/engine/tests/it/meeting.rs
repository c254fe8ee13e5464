//! Peers as signalling servers: invitations, and that no two tunnels ever carry each other.

use std::collections::BTreeSet;

use punch_engine::{Change, Channel, EngineEvent, Path, Rules, ServerId, channel};
use punch_signal_protocol::{Capabilities, Frame};

use crate::packets::{at, udp};
use crate::switchboard::Switchboard;
use crate::trio::trio;
use crate::world::{A, B, Datagram, SERVER, World, handle, millis, path, seconds};

/// The third machine.
const C: usize = 2;
/// The meeting place of a peer, as A calls it.
const PLACE: ServerId = ServerId(9);

/// A and the others are connected directly, and the signalling server relays.
fn connected(seed: u64) -> World {
    let mut world = trio(seed);
    world.relay = Some(Switchboard::default());
    for index in [A, B, C] {
        world.sign_in(index);
    }
    for peer in [B, C] {
        world.set_up(A, peer, true);
    }
    world.wait_for(seconds(10), |world| {
        is_direct(world, B) && is_direct(world, C)
    });
    world.run_for(seconds(5));
    world
}

fn is_direct(world: &World, peer: usize) -> bool {
    matches!(path(world, A, peer), Some(Path::Direct(_)))
}

/// A has come to the meeting place of a peer, which relays.
fn come_to(world: &mut World, server: ServerId, host: usize) {
    let now = world.now;
    let engine = &mut world.hosts[A].engine;
    channel::handle_up(engine, server, Channel::Meeting(handle(host)), now);
    let capabilities = Frame::ServerCapabilities(Capabilities::RELAYING);
    engine.handle_frame(server, capabilities, now);
    world.drain(A);
    world.run_for(seconds(2));
}

/// The frames of A for the meeting place since the last call.
fn said(world: &mut World) -> Vec<Frame> {
    let signals = std::mem::take(&mut world.elsewhere).into_iter();
    signals.map(|signal| signal.frame).collect()
}

/// Nothing passes between A and a peer.
fn part(world: &mut World, peer: usize) {
    let ips = |index: usize| {
        let host = &world.hosts[index];
        [host.public.into(), host.private.into(), host.global.into()]
    };
    let (ours, theirs): ([std::net::IpAddr; 3], [std::net::IpAddr; 3]) = (ips(A), ips(peer));
    world.filter = Box::new(move |datagram: &Datagram| {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        let is_of = |one: &[std::net::IpAddr], other: &[std::net::IpAddr]| {
            one.contains(&from) && other.contains(&to)
        };
        !is_of(&ours, &theirs) && !is_of(&theirs, &ours)
    });
}

#[test]
fn nothing_that_concerns_a_peer_goes_over_its_own_meeting_place() {
    let mut world = connected(1);
    come_to(&mut world, PLACE, B);
    world.set_up(A, B, false);
    world.set_up(A, B, true);
    world.run_for(seconds(5));
    let ids = [B, C].map(|index| world.hosts[index].id());
    let (mut joins, mut of_third) = (0, 0);
    for frame in said(&mut world) {
        match frame {
            Frame::RelayJoin(_) => joins += 1,
            Frame::Watch(id) | Frame::Unwatch(id) | Frame::Send { to: id, .. } => {
                assert_ne!(id, ids[0], "it is asked for itself");
                of_third += usize::from(id == ids[1]);
            }
            _ => {}
        }
    }
    assert_eq!(joins, 1, "of the other peer alone");
    assert!(of_third > 0, "it is one more server for the other peer");
}

#[test]
fn a_peer_that_another_one_relays_serves_as_no_server_until_its_path_is_its_own() {
    // C's meeting place has the relay, and B's is one more server.
    let mut world = trio(2);
    world.relay = Some(Switchboard::default());
    for index in [A, B, C] {
        world.sign_in(index);
    }
    let now = world.now;
    world.hosts[A].engine.handle_server(SERVER, false, now);
    come_to(&mut world, SERVER, C);
    for (index, peer) in [(C, A), (A, C), (A, B)] {
        world.set_up(index, peer, true);
        world.run_for(seconds(5));
    }
    assert!(is_direct(&world, B) && is_direct(&world, C));
    come_to(&mut world, PLACE, B);
    assert!(!said(&mut world).is_empty());
    part(&mut world, B);
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let by_third =
        |world: &World| matches!(path(world, A, B), Some(Path::Relayed(by)) if by.server == SERVER);
    for _ in 0..400 {
        if by_third(&world) {
            break;
        }
        world.send(A, &udp(a, b, b"is anybody there?"));
        world.run_for(millis(25));
    }
    assert!(by_third(&world));
    assert_eq!(given_up(&mut world), [PLACE]);
    // B's place is not used while the direct path to B is only in doubt, either: what would be said there would go through C.
    said(&mut world);
    for up in [false, true] {
        world.set_up(A, C, up);
        world.run_for(seconds(5));
    }
    come_to(&mut world, PLACE, B);
    // What B's place says then changes nothing: an answer would go over it.
    let (id, now) = (world.hosts[C].id(), world.now);
    let engine = &mut world.hosts[A].engine;
    engine.handle_frame(PLACE, Frame::Appeared(id), now);
    world.drain(A);
    world.run_for(seconds(5));
    assert_eq!(
        said(&mut world),
        [],
        "the one is gone, and no other takes its place"
    );
    assert_eq!(
        given_up(&mut world),
        [PLACE],
        "its connection ends, so that another one is made when it is of use"
    );

    world.filter = Box::new(|_| true);
    world.wait_for(seconds(300), |world| is_direct(world, B));
    come_to(&mut world, PLACE, B);
    assert!(!said(&mut world).is_empty());
    assert_eq!(given_up(&mut world), []);
}

/// The meeting places whose connections A is to end.
fn given_up(world: &mut World) -> Vec<ServerId> {
    let engine = &mut world.hosts[A].engine;
    std::iter::from_fn(|| channel::poll_given_up(engine)).collect()
}

fn invitations(world: &World) -> usize {
    let events = world.hosts[A].events.iter();
    let is_invitation = |event: &&EngineEvent| **event == EngineEvent::Invited { peer: handle(B) };
    events.filter(is_invitation).count()
}

#[test]
fn a_guest_is_invited_until_it_hears_it_and_again_when_it_is_another_process() {
    let mut world = World::connected(3);
    world.run_for(seconds(5));
    let now = world.now;
    let guests = |guests: &[usize]| Change {
        rules: Some(
            Rules::default().with_guests(
                guests
                    .iter()
                    .map(|index| handle(*index))
                    .collect::<BTreeSet<_>>(),
            ),
        ),
        ..Change::default()
    };
    world.cut = true;
    world.hosts[B].engine.apply(guests(&[A]), now);
    world.drain(B);
    world.run_for(seconds(2));
    assert_eq!(invitations(&world), 0);
    world.cut = false;
    world.run_for(seconds(5));
    assert_eq!(invitations(&world), 1);
    world.run_for(seconds(600));
    let told = invitations(&world);
    assert!(told <= 6, "once in each session: {told}");

    world.restart(A);
    world.wait_for_both(seconds(60));
    world.run_for(seconds(5));
    assert!(invitations(&world) > 0);

    let (now, before) = (world.now, invitations(&world));
    world.hosts[B].engine.apply(guests(&[]), now);
    world.run_for(seconds(600));
    assert_eq!(invitations(&world), before);
}
