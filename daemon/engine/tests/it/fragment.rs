//! Fragments: the decision is about whole packets, and what may not pass takes no room.

use std::net::IpAddr;

use punch_engine::{DropReason, Order};
use punch_packet::Packet;

use crate::packets::{at, closed_port, echo, ip, refusal, udp, udp_fragments, udp_payload};
use crate::plain::Bench;
use crate::world::seconds;

const NONE: Vec<Vec<u8>> = Vec::new();

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

fn payload() -> Vec<u8> {
    (0..4000_u32).map(|n| (n % 251) as u8).collect()
}

/// A datagram from `from` in pieces of 1,280 bytes.
fn pieces(from: IpAddr, to: IpAddr, port: u16, id: u32) -> Vec<Vec<u8>> {
    let pieces = udp_fragments(at(from, 4000), at(to, port), &payload(), 1280, id);
    assert_eq!(pieces.len(), 4);
    pieces
}

#[test]
fn a_fragmented_datagram_to_a_shared_port_reaches_its_target_whole() {
    both(|v6| {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut bench = Bench::new(v6);
            bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            let pieces = pieces(peer, own, 53, 7);
            for index in &order[..3] {
                bench.peer_sends(0, &pieces[*index]);
            }
            assert_eq!(bench.orders, [], "not before it is whole");

            bench.peer_sends(0, &pieces[order[3]]);

            let got = bench.orders.iter().find_map(|order| match order {
                Order::Datagram(_, bytes) => Some(bytes.to_vec()),
                _ => None,
            });
            assert_eq!(got, Some(payload()));
            assert_eq!(bench.dropped(), []);
        }
    });
}

#[test]
fn a_fragmented_datagram_to_a_closed_port_is_refused_once() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        for piece in pieces(peer, own, 53, 7) {
            bench.peer_sends(0, &piece);
        }
        let answers = bench.take_inbox(0);
        assert_eq!(answers.len(), 1);
        let whole = udp(at(peer, 4000), at(own, 53), &payload());
        let quote = if v6 { 1232 } else { 548 };
        assert_eq!(
            refusal(&answers[0], own, peer),
            closed_port(own, &whole[..quote])
        );
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Refused, 1)]);
    });
}

#[test]
fn a_fragmented_reply_reaches_the_host_whole() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.host_sends(&udp(at(own, 53), at(peer, 4000), b"question"));
        for piece in pieces(peer, own, 53, 7) {
            bench.peer_sends(0, &piece);
        }
        let packets = bench.take_tun();
        assert_eq!(packets.len(), 1);
        assert!(Packet::parse(&packets[0]).unwrap().fragment().is_none());
        assert_eq!(udp_payload(&packets[0]), payload());
    });
}

#[test]
fn a_fragmented_packet_reaches_a_granted_host() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        for piece in pieces(peer, own, 53, 7) {
            bench.peer_sends(0, &piece);
        }
        assert_eq!(udp_payload(&bench.take_tun()[0]), payload());
    });
}

#[test]
fn a_later_fragment_alone_gets_nowhere() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let pieces = pieces(peer, own, 53, 7);
        for piece in &pieces[1..] {
            bench.peer_sends(0, piece);
        }
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.orders, []);
        assert_eq!(bench.take_inbox(0), NONE);
    });
}

#[test]
fn a_fragment_with_a_foreign_source_takes_no_room() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let neighbour = bench.add(v6, None);
        let neighbour = bench.peers[neighbour].address;
        for id in 0..1000 {
            bench.peer_sends(0, &pieces(neighbour, own, 53, id)[0]);
        }
        assert_eq!(bench.dropped(), [(DropReason::WrongSource, 1000)]);

        for piece in pieces(peer, own, 53, 2000) {
            bench.peer_sends(0, &piece);
        }

        assert!(
            bench
                .orders
                .iter()
                .any(|order| matches!(order, Order::Datagram(..)))
        );
        assert_eq!(bench.drops(DropReason::Full), 0);
    });
}

#[test]
fn a_fragment_for_somebody_else_takes_no_room() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let foreign = if v6 { "2001:db8::5" } else { "10.0.0.5" }.parse().unwrap();
        for id in 0..1000 {
            bench.peer_sends(0, &pieces(peer, foreign, 53, id)[0]);
        }

        for piece in pieces(peer, own, 53, 2000) {
            bench.peer_sends(0, &piece);
        }

        assert!(
            bench
                .orders
                .iter()
                .any(|order| matches!(order, Order::Datagram(..)))
        );
    });
}

#[test]
fn fragments_of_two_peers_do_not_mix_and_do_not_starve_each_other() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let other = bench.add(v6, None);
        bench.connect(other);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer, friend) = (
            bench.own(v6),
            bench.peers[0].address,
            bench.peers[other].address,
        );
        // The peer fills all the room that it gets with packets that never become whole.
        for id in 0..1000 {
            bench.peer_sends(0, &pieces(peer, own, 53, id)[0]);
        }

        for piece in pieces(friend, own, 53, 5) {
            bench.peer_sends(other, &piece);
        }

        let whole = bench
            .orders
            .iter()
            .filter(|order| matches!(order, Order::Datagram(..)));
        assert_eq!(whole.count(), 1);
    });
}

#[test]
fn unfinished_packets_make_room_with_time() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        for id in 0..1000 {
            bench.peer_sends(0, &pieces(peer, own, 53, id)[0]);
        }
        assert!(bench.drops(DropReason::Full) > 0);
        bench.pass(seconds(16));

        for piece in pieces(peer, own, 53, 2000) {
            bench.peer_sends(0, &piece);
        }

        assert!(
            bench
                .orders
                .iter()
                .any(|order| matches!(order, Order::Datagram(..)))
        );
    });
}

#[test]
fn a_fragmented_packet_cannot_say_one_thing_first_and_another_later() {
    // Overlapping fragments (RFC 5722): the second claims to be the header of a datagram to the shared port.
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let (bad, good) = (pieces(peer, own, 54, 7), pieces(peer, own, 53, 7));
        bench.peer_sends(0, &bad[0]);
        bench.peer_sends(0, &good[0]);
        for piece in &bad[1..] {
            bench.peer_sends(0, piece);
        }
        assert_eq!(bench.orders, []);
        assert_eq!(bench.take_inbox(0), NONE);
    });
}

#[test]
fn a_fragmented_echo_request_is_answered() {
    let mut bench = Bench::new(false);
    let (own, peer) = (bench.own(false), bench.peers[0].address);
    let whole = echo(peer, own, true, 3);
    // The first eight bytes of the message, then the rest.
    let mut first = ip(peer, own, 1, &whole[20..28]);
    first[6] = 0x20;
    let mut second = ip(peer, own, 1, &whole[28..]);
    second[7] = 1;

    bench.peer_sends(0, &second);
    bench.peer_sends(0, &first);

    assert_eq!(bench.take_inbox(0), [echo(own, peer, false, 3)]);
}
