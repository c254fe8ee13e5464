//! Overlay IPv4: a pair whose ranges differ has only IPv6.

use punch_engine::{DropReason, PeerKind};
use punch_packet::Packet;
use punch_signal_protocol::Ipv4Range;

use crate::packets::{at, udp};
use crate::world::{A, B, World, handle, millis, seconds};

fn world(ranges: [Option<&str>; 2]) -> World {
    let ranges = ranges.map(|range| range.map(|range| range.parse::<Ipv4Range>().unwrap()));
    let mut world = World::new(1, &ranges);
    world.sign_in(A);
    world.sign_in(B);
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world
}

fn ipv6_works(world: &mut World) {
    for (from, to) in [(A, B), (B, A)] {
        let (source, destination) = (
            world.hosts[from].overlay(true),
            world.hosts[to].overlay(true),
        );
        let packet = udp(at(source, 1), at(destination, 2), b"six");
        world.send(from, &packet);
        world.run_for(millis(100));
        assert_eq!(world.hosts[to].take_tun(), [packet]);
    }
}

#[test]
fn the_same_range_gives_both_families() {
    let mut world = world([Some("10.0.0.0/8"), Some("10.0.0.0/8")]);
    ipv6_works(&mut world);
    for (from, to) in [(A, B), (B, A)] {
        assert!(!world.hosts[from].engine.ipv4_differs(handle(to)));
        let (source, destination) = (
            world.hosts[from].overlay(false),
            world.hosts[to].overlay(false),
        );
        let packet = udp(at(source, 1), at(destination, 2), b"four");
        world.send(from, &packet);
        world.run_for(millis(100));
        assert_eq!(world.hosts[to].take_tun(), [packet]);
    }
}

#[test]
fn different_ranges_leave_ipv6_and_refuse_ipv4() {
    let mut world = world([Some("100.64.0.0/10"), Some("10.0.0.0/8")]);
    ipv6_works(&mut world);
    for (from, to) in [(A, B), (B, A)] {
        let range = world.hosts[from].range.unwrap();
        assert!(world.hosts[from].engine.ipv4_differs(handle(to)));
        let source = world.hosts[from].overlay(false);
        let destination = world.hosts[to].id().overlay_ipv4(range).into();
        let packet = udp(at(source, 1), at(destination, 2), b"four");

        world.send(from, &packet);
        world.run_for(millis(100));

        assert_eq!(world.hosts[to].take_tun(), Vec::<Vec<u8>>::new());
        let answers = world.hosts[from].take_tun();
        let answer = Packet::parse(&answers[0]).unwrap();
        assert_eq!(answer.destination(), source);
        assert_eq!(answer.segment()[..2], [3, 1], "address unreachable");
        assert_eq!(world.hosts[from].drops(DropReason::NoPeer), 1);
    }
}

#[test]
fn a_side_without_ipv4_leaves_ipv6_for_both() {
    let mut world = world([None, Some("100.64.0.0/10")]);
    ipv6_works(&mut world);
    assert_eq!(world.hosts[A].engine.own_addresses().len(), 1);
    assert!(world.hosts[A].engine.ipv4_differs(handle(B)));
    assert!(world.hosts[B].engine.ipv4_differs(handle(A)));
}

#[test]
fn the_difference_is_still_known_after_the_configuration_is_given_again() {
    let mut world = world([Some("100.64.0.0/10"), Some("10.0.0.0/8")]);
    world.grant(A, B, false);
    assert!(world.hosts[A].engine.ipv4_differs(handle(B)));
    let range = world.hosts[A].range.unwrap();
    let (source, destination) = (
        world.hosts[A].overlay(false),
        world.hosts[B].id().overlay_ipv4(range),
    );

    world.send(A, &udp(at(source, 1), at(destination.into(), 2), b"four"));

    assert_eq!(world.hosts[A].drops(DropReason::NoPeer), 1);
}

#[test]
fn a_peer_whose_ipv4_address_collides_is_reached_over_ipv6_only() {
    let mut world = world([Some("100.64.0.0/10"), Some("100.64.0.0/10")]);
    world.edit_peer(A, B, |entry| {
        if let PeerKind::Punch { ipv4, .. } = &mut entry.kind {
            *ipv4 = None;
        }
    });
    ipv6_works(&mut world);
    let (a, b) = (world.hosts[A].overlay(false), world.hosts[B].overlay(false));

    world.send(A, &udp(at(a, 1), at(b, 2), b"four"));
    world.send(B, &udp(at(b, 1), at(a, 2), b"four"));
    world.run_for(millis(100));

    assert_eq!(world.hosts[A].drops(DropReason::NoPeer), 1);
    assert_eq!(world.hosts[A].drops(DropReason::WrongSource), 1);
    assert_eq!(world.hosts[B].take_tun(), Vec::<Vec<u8>>::new());
}
