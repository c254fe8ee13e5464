//! Packets fit the path: its size is found out, and what is longer is cut, or its sender is told.

use punch_engine::{BEHIND_NAT64, DropReason, EngineEvent, Offload};
use punch_packet::{Checksum, GsoKind, Packet, Transport, echo_request, split, transport_checksum};

use crate::packets::{ACK, at, ip, tcp, udp, udp_fragments};
use crate::switchboard::Switchboard;
use crate::world::{A, B, Datagram, Nat, World, handle, millis, seconds};

/// The longest packet of the path in most tests here, which is over IPv6.
const LIMIT: usize = 1280;
/// What is left of that inside the tunnel.
const INSIDE: usize = LIMIT - 80;

/// Lets packets pass that are no longer than `limit`; whatever is longer vanishes.
fn limit(world: &mut World, limit: usize) {
    world.filter = Box::new(move |datagram: &Datagram| {
        let headers = if datagram.to.is_ipv6() { 48 } else { 28 };
        datagram.bytes.len() + headers <= limit
    });
}

/// Two hosts that let each other in, with a path that carries so much.
fn pair(longest: usize) -> World {
    let mut world = World::pair(1);
    limit(&mut world, longest);
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    world.run_for(seconds(20));
    world.hosts.iter_mut().for_each(|host| host.tun.clear());
    world
}

fn mtu(world: &World, index: usize) -> Option<u16> {
    let report = world.hosts[index].engine.peer_report(handle(1 - index));
    report.unwrap().mtu
}

fn told(world: &World, index: usize) -> Vec<usize> {
    let events = world.hosts[index].events.iter();
    let sizes = events.filter_map(|event| match event {
        EngineEvent::Mtu { peer, mtu, .. } => (*peer == handle(1 - index)).then_some(*mtu),
        _ => None,
    });
    sizes.collect()
}

/// What was found out to fit, each time that it was something else than before, and that.
fn changes(world: &World, index: usize) -> Vec<(usize, usize)> {
    let events = world.hosts[index].events.iter();
    let changes = events.filter_map(|event| match event {
        EngineEvent::Mtu { mtu, before, .. } => Some(((*before)?, *mtu)),
        _ => None,
    });
    changes.collect()
}

fn drops(world: &World, index: usize) -> u64 {
    let drops = world.hosts[index].engine.drops();
    let found = drops.iter().find(|(why, _)| *why == DropReason::TooLong);
    found.unwrap().1
}

/// A UDP packet from A to B of this length in all.
fn packet(world: &World, v6: bool, length: usize) -> Vec<u8> {
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(v6), 4000));
    udp(a, b, &vec![7; length - if v6 { 48 } else { 28 }])
}

fn forbid_fragments(packet: &mut [u8]) {
    packet[6] |= 0x40;
    packet[10..12].fill(0);
    let sum = Checksum::default().with(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_path_begins_small_and_a_round_trip_later_takes_what_the_interface_has() {
    let world = pair(1500);
    for index in [A, B] {
        assert_eq!(told(&world, index), [1200, 1400]);
        assert_eq!(mtu(&world, index), Some(1400));
        assert_eq!(changes(&world, index), [], "nothing was known before");
    }
}

#[test]
fn until_a_path_is_known_what_nobody_may_cut_takes_its_chance() {
    let mut world = World::pair(1);
    limit(&mut world, 1500);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for(seconds(10), |world| told(world, A) == [1200]);
    assert_eq!(mtu(&world, A), None, "nothing is known yet");
    let mut long = [packet(&world, false, 1400), packet(&world, true, 1400)];
    forbid_fragments(&mut long[0]);
    long.iter().for_each(|packet| world.send(A, packet));
    world.run_for(seconds(1));
    assert_eq!(world.hosts[B].take_tun(), long);
    assert_eq!((drops(&world, A), mtu(&world, A)), (0, Some(1400)));
}

#[test]
fn an_outage_while_a_path_is_measured_makes_it_no_shorter() {
    for outage in [1, 2, 3] {
        let mut world = World::pair(1);
        limit(&mut world, 1500);
        world.grant(B, A, true);
        world.set_up(A, B, true);
        world.wait_for(seconds(10), |world| told(world, A) == [1200]);
        world.cut = true;
        world.run_for(seconds(outage));
        world.cut = false;
        world.run_for(seconds(20));
        assert_eq!(mtu(&world, A), Some(1400), "{outage} s");
    }
}

#[test]
fn ipv6_s_shortest_long_packet_passes_from_the_beginning() {
    let mut world = World::pair(1);
    limit(&mut world, LIMIT);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for(seconds(10), |world| told(world, A) == [1200]);
    assert_eq!(mtu(&world, A), None, "nothing is known yet");
    let long = packet(&world, true, 1280);
    world.send(A, &long);
    world.run_for(seconds(1));
    assert_eq!(world.hosts[B].take_tun().len(), 1);
}

#[test]
fn what_fits_is_found_out_and_told() {
    for limit in [1280, 1300, 1400, 1452, 1472] {
        let world = pair(limit);
        for index in [A, B] {
            assert_eq!(mtu(&world, index).map(usize::from), Some(limit - 80));
            assert_eq!(told(&world, index).last(), Some(&(limit - 80)));
        }
    }
}

#[test]
fn a_packet_that_may_not_be_cut_and_does_not_fit_is_answered_with_what_would() {
    let mut world = pair(LIMIT);
    for (v6, fits) in [(false, INSIDE), (true, 1280)] {
        let mut long = packet(&world, v6, fits + 1);
        if !v6 {
            forbid_fragments(&mut long);
        }
        let before = drops(&world, A);
        world.send(A, &long);
        assert_eq!(drops(&world, A), before + 1);
        let [error] = &world.hosts[A].take_tun()[..] else {
            panic!("one answer")
        };
        let error = Packet::parse(error).unwrap();
        assert_eq!(error.transport(), Transport::IcmpError);
        // In the name of the destination, to the sender.
        assert_eq!(error.source(), world.hosts[B].overlay(v6));
        assert_eq!(error.destination(), world.hosts[A].overlay(v6));
        let segment = error.segment();
        assert_eq!(segment[..2], if v6 { [2, 0] } else { [3, 4] });
        let word = u32::from_be_bytes(segment[4..8].try_into().unwrap());
        assert_eq!(word as usize, fits);
        assert!(long.starts_with(&segment[8..]), "it quotes the packet");
        world.run_for(seconds(1));
        assert!(world.hosts[B].take_tun().is_empty());
    }
}

#[test]
fn a_packet_of_ipv4_that_may_be_cut_arrives_in_fragments() {
    let mut world = pair(LIMIT);
    let long = packet(&world, false, 1400);
    world.send(A, &long);
    world.run_for(seconds(1));
    // B's engine puts them together.
    let arrived = world.hosts[B].take_tun();
    assert_eq!(arrived.len(), 1);
    let [was, is] = [&long, &arrived[0]].map(|packet| Packet::parse(packet).unwrap());
    assert_eq!((was.flow(), was.segment()), (is.flow(), is.segment()));
    assert_eq!(drops(&world, A), 0);
}

#[test]
fn ipv6_s_shortest_long_packet_passes_where_the_path_carries_less() {
    let mut world = pair(LIMIT);
    world.tap = Some(Vec::new());
    let long = packet(&world, true, 1280);
    world.send(A, &long);
    world.run_for(seconds(1));
    let arrived = world.hosts[B].take_tun();
    assert_eq!(arrived.len(), 1);
    let [was, is] = [&long, &arrived[0]].map(|packet| Packet::parse(packet).unwrap());
    assert_eq!((was.flow(), was.segment()), (is.flow(), is.segment()));
    let sent = world.tap.take().unwrap();
    assert_eq!(sent.iter().filter(|d| d.bytes.len() > 200).count(), 1);
}

#[test]
fn tcp_is_cut_to_what_fits_whatever_the_kernel_took_it_for() {
    let mut world = pair(LIMIT);
    for v6 in [false, true] {
        let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(v6), 4000));
        let (headers, kind) = if v6 {
            (60, GsoKind::Tcp6)
        } else {
            (40, GsoKind::Tcp4)
        };
        let data: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let size = 1400 - headers;
        for (data, gso) in [
            (&data[..], Some((kind, size as u16))),
            // Without segmentation offload, and from before the route's MTU was known.
            (&data[..size], None),
        ] {
            world.tap = Some(Vec::new());
            let joined = tcp(a, b, ACK, 1000, 1, data);
            let offload = Offload {
                checksum: None,
                gso,
            };
            let engine = &mut world.hosts[A].engine;
            engine.handle_tun(&joined, offload, world.now);
            engine.flush(world.now);
            world.drain(A);
            world.run_for(seconds(1));
            let sent = world.tap.take().unwrap();
            assert!(sent.iter().all(|d| d.bytes.len() + 48 <= LIMIT));
            let mut arrived: Vec<u8> = Vec::new();
            for packet in world.hosts[B].take_tun() {
                let packet = Packet::parse(&packet).unwrap();
                let number = u32::from_be_bytes(packet.segment()[4..8].try_into().unwrap());
                assert_eq!(number as usize, 1000 + arrived.len());
                arrived.extend(packet.tcp_payload().unwrap());
            }
            assert!(arrived == data, "{} of {}", arrived.len(), data.len());
        }
    }
    assert_eq!(drops(&world, A), 0);
}

/// An echo request of A's to B with 3,000 bytes, as `ping -s` makes it.
fn long_echo(world: &World, v6: bool) -> Vec<u8> {
    let [a, b] = [A, B].map(|index| world.hosts[index].overlay(v6));
    let header = if v6 { 40 } else { 20 };
    let mut segment = echo_request(a, b, 7).unwrap()[header..].to_vec();
    segment.resize(3000, 7);
    segment[2..4].fill(0);
    let protocol = if v6 { 58 } else { 1 };
    let sum = if v6 {
        transport_checksum(a, b, protocol, &segment)
    } else {
        Checksum::default().with(&segment).finish()
    };
    segment[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(a, b, protocol, &segment)
}

#[test]
fn the_answers_of_this_machine_itself_fit_too() {
    let mut world = pair(LIMIT);
    world.grant(B, A, false);
    for v6 in [false, true] {
        let whole = long_echo(&world, v6);
        world.tap = Some(Vec::new());
        for part in split(whole, if v6 { 1280 } else { INSIDE }, 1) {
            world.send(A, &part);
        }
        world.run_for(seconds(1));
        let sent = world.tap.take().unwrap();
        assert!(sent.iter().all(|d| d.bytes.len() + 48 <= LIMIT), "{v6}");
        // The reply is A's host's, whole.
        let replies = world.hosts[A].take_tun();
        assert_eq!(replies.len(), 1, "{v6}");
        assert_eq!(Packet::parse(&replies[0]).unwrap().segment().len(), 3000);
    }
}

#[test]
fn a_black_hole_is_left_within_seconds_while_packets_flow() {
    let mut world = pair(1500);
    assert_eq!(mtu(&world, A), Some(1400));
    limit(&mut world, 1360);
    let short = packet(&world, false, 100);
    let mut seen = Vec::new();
    for _ in 0..400 {
        world.send(A, &short);
        world.run_for(seconds(1) / 20);
        seen.extend(mtu(&world, A));
    }
    assert_eq!(seen.last(), Some(&1280));
    let noticed = seen.iter().position(|size| *size == 1200).unwrap();
    assert!(noticed < 160, "{noticed} twentieths of a second");
    assert_eq!(changes(&world, A), [(1400, 1200), (1200, 1280)]);
}

#[test]
fn another_path_begins_small_again() {
    let mut world = pair(1500);
    for index in [A, B] {
        world.hosts[index].events.clear();
    }
    world.renumber(A);
    world.run_for(seconds(30));
    let said = told(&world, A);
    assert_eq!(said.last(), Some(&1400), "{said:?}");
    assert!(said.contains(&1200), "{said:?}");
    assert_eq!(changes(&world, A), [], "what fits is the same");
}

#[test]
fn what_a_relay_s_frames_do_not_hold_is_not_sent_over_a_relay() {
    let mut world = World::pair(1);
    world.mtu = 9000;
    for index in [A, B] {
        world.restart(index);
        world.sign_out(index);
    }
    world.relay = Some(Switchboard::default());
    for index in [A, B] {
        world.sign_in(index);
    }
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.filter = Box::new(Datagram::is_with_server);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    assert_eq!(mtu(&world, A), Some(2016));
    let (fits, long) = (packet(&world, true, 2016), packet(&world, true, 2017));
    world.send(A, &long);
    world.send(A, &fits);
    world.run_for(seconds(1));
    assert_eq!(world.hosts[B].take_tun(), [fits]);
    assert_eq!(drops(&world, A), 1);
}

#[test]
fn fragments_of_the_host_s_own_pass_as_they_are() {
    let mut world = pair(1500);
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(false), 4000));
    for part in udp_fragments(a, b, &[7; 3000], 1400, 9) {
        world.send(A, &part);
    }
    world.run_for(seconds(1));
    let arrived = world.hosts[B].take_tun();
    assert_eq!(arrived.len(), 1);
    assert_eq!(Packet::parse(&arrived[0]).unwrap().segment().len(), 3008);
}

/// What B's long packets to A are, once B knows how long they may be: whether each forbids to be cut. B's process may be another one by
/// then, which has taken over.
fn long_ones(translated: bool, handed_over: bool) -> Vec<bool> {
    let mut world = World::natted(3, &[Nat::new(false), Nat::new(false)]);
    if translated {
        let mut addresses = world.hosts[A].addresses();
        addresses.push(BEHIND_NAT64.into());
        let now = world.now;
        world.hosts[A].engine.handle_addresses(addresses, now);
    }
    world.grant(A, B, true);
    world.grant(B, A, true);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(20));
    world.wait_for(seconds(20), |world| mtu(world, B) == Some(1400));
    if handed_over {
        let heritage = world.hosts[B].engine.bequeath(true, world.now);
        world.sign_out(B);
        world.hand_over(B, millis(300), heritage);
        world.wait_for(seconds(20), |world| mtu(world, B) == Some(1400));
    }
    world.tap = Some(Vec::new());
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    world.send(B, &udp(b, a, &[7; 1300]));
    world.run_for(seconds(1));
    let target = world.hosts[A].public;
    let sent = world.tap.take().unwrap_or_default().into_iter();
    // A data message of WireGuard.
    let long =
        sent.filter(|sent| sent.to.ip() == target && sent.bytes.len() > 1300 && sent.bytes[0] == 4);
    long.map(|sent| sent.whole).collect()
}

#[test]
fn what_a_translator_would_cut_is_sent_whole_once_it_is_known_to_fit() {
    for handed_over in [false, true] {
        assert_eq!(long_ones(true, handed_over), [true], "{handed_over}");
        assert_eq!(long_ones(false, handed_over), [false], "{handed_over}");
    }
}
