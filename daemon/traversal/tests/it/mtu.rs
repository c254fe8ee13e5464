//! How long packets may be on a path: what two agents find out with their own checks.

use std::time::Duration;

use punch_stun_protocol::{Class, Message};
use punch_traversal::{Agent, AgentConfig, AgentEvent, Role};

use crate::network::{A, B, Network, Wire};
use crate::{config, credentials, host, ms, secs};

/// Two agents whose tunnels send packets of up to 1,420 bytes, over wires of IPv4 (and of IPv6 where the address has a colon).
fn two(wires: &[Wire]) -> Network {
    let named = |side: usize| {
        let ends = wires.iter().map(|wire| wire.ends[side]);
        ends.map(|end| host(&end.to_string())).collect::<Vec<_>>()
    };
    let mut network = Network::new(wires, named(B), named(A));
    for (side, role) in [(A, Role::Controlling), (B, Role::Controlled)] {
        let (mine, theirs) = if side == A { (1, 2) } else { (2, 1) };
        let config = AgentConfig {
            mtu: 1420,
            ..config(
                role,
                credentials(mine),
                credentials(theirs),
                named(1 - side),
                5,
            )
        };
        network.agents[side] = Agent::new(config, network.now);
    }
    network
}

fn wire() -> Wire {
    Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 10)
}

fn said(network: &Network, side: usize) -> Vec<(Duration, u16)> {
    let events = network.events[side].iter();
    let sizes = events.filter_map(|(at, event)| match event {
        AgentEvent::Mtu(size) => Some((*at, *size)),
        _ => None,
    });
    sizes.collect()
}

fn last(network: &Network, side: usize) -> Option<u16> {
    said(network, side).last().map(|(_, size)| *size)
}

#[test]
fn one_round_trip_after_the_path_each_end_knows_that_full_packets_fit() {
    let mut network = two(&[wire()]);
    network.run(secs(20));
    for side in [A, B] {
        let said = said(&network, side);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].1, 1420);
        assert!(said[0].0 < ms(100), "{said:?}");
    }
}

#[test]
fn padded_checks_are_whole_authentic_and_as_long_as_the_packets_they_stand_for() {
    let mut network = two(&[wire()]);
    network.run(secs(20));
    let padded: Vec<_> = network.sent.iter().filter(|sent| sent.whole).collect();
    assert_eq!(padded.len(), 2, "one of each end");
    for sent in padded {
        // WireGuard's 32 bytes around 1,420.
        assert_eq!(sent.bytes.len(), 1452);
        let message = Message::parse(&sent.bytes).unwrap();
        assert_eq!(message.class, Class::Request);
        let receiver = credentials(if sent.side == A { 2 } else { 1 });
        assert!(message.verify_integrity(&receiver.password));
    }
    // The answers are as short as others.
    let answers = network.sent.iter().filter(|s| s.class == Class::Success);
    assert!(
        answers
            .map(|sent| sent.bytes.len())
            .all(|length| length < 100)
    );
}

#[test]
fn each_direction_finds_its_own_size_over_both_families() {
    for (a, b, header) in [
        ("192.168.1.1:1000", "192.168.1.2:2000", 28),
        ("[2001:db8::1]:1000", "[2001:db8::2]:2000", 48),
    ] {
        for limit in [1280, 1300, 1400, 1452, 1492] {
            let mut wire = Wire::new(a, b, 10);
            wire.longest = limit - header;
            let mut network = two(&[wire]);
            network.run(secs(20));
            let inside = u16::try_from(limit - header - 32).unwrap().min(1420);
            for side in [A, B] {
                // The base is known without being said.
                let found = last(&network, side).unwrap_or(1280 - 80);
                assert_eq!(found, inside, "{a} {limit}");
            }
        }
    }
}

#[test]
fn a_path_that_begins_to_swallow_what_is_long_is_noticed_under_traffic() {
    let mut network = two(&[wire()]);
    network.traffic = true;
    network.run(secs(10));
    network.wires[0].longest = 1300 - 28;
    let from = network.elapsed();
    network.run(secs(20));
    for side in [A, B] {
        let said = said(&network, side);
        let shrunk = said.iter().find(|(at, _)| *at > from).unwrap();
        assert_eq!(shrunk.1, 1140);
        assert!(shrunk.0 - from < secs(8), "{said:?}");
        assert_eq!(last(&network, side), Some(1240));
        assert_eq!(network.selections(side), 1, "it is the same path");
    }
}

#[test]
fn another_path_begins_at_the_base() {
    let wires = [
        Wire::new("192.168.1.1:1000", "192.168.1.2:2000", 5),
        Wire::new("198.51.100.1:1001", "203.0.113.1:2001", 5),
    ];
    let mut network = two(&wires);
    network.traffic = true;
    network.run(secs(5));
    let before = network.selected(A).unwrap();
    network.wires[1 - before].longest = 1400 - 28;
    let from = network.elapsed();
    network.cut(before);
    network.run(secs(30));
    assert_eq!(network.selected(A), Some(1 - before));
    let said = said(&network, A);
    let mut after = said.iter().filter(|(at, _)| *at > from);
    assert!(after.all(|(_, size)| *size <= 1340), "{said:?}");
    assert_eq!(last(&network, A), Some(1340));
}

#[test]
fn an_idle_path_costs_no_more_than_its_keepalives() {
    let mut network = two(&[wire()]);
    network.wires[0].longest = 1400;
    network.run(secs(60));
    let padded = |network: &Network| network.sent.iter().filter(|s| s.whole).count();
    let before = padded(&network);
    network.run(secs(3600));
    assert_eq!(padded(&network), before);
}
