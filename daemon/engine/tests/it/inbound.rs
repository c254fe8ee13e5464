//! The inbound decision, packet by packet: nothing is reachable by default, what is refused is refused fast,
//! and what is forged is not even answered.

use punch_engine::DropReason;

use crate::packets::{
    ACK, Answer, FIN, RST, SYN, at, closed_port, echo, icmp, ip, port_unreachable, refusal, syn,
    tcp, udp,
};
use crate::plain::Bench;
use crate::world::seconds;

const NONE: Vec<Vec<u8>> = Vec::new();

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

#[test]
fn a_tcp_connection_to_a_port_that_is_not_shared_is_reset() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));

        let answers = bench.take_inbox(0);
        assert_eq!(answers.len(), 1);
        assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 1001 });
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Refused, 1)]);
    });
}

#[test]
fn a_datagram_to_a_port_that_is_not_shared_meets_a_closed_port() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let packet = udp(at(peer, 4000), at(own, 53), b"question");

        bench.peer_sends(0, &packet);

        let answers = bench.take_inbox(0);
        assert_eq!(answers.len(), 1);
        assert_eq!(refusal(&answers[0], own, peer), closed_port(own, &packet));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Refused, 1)]);
    });
}

#[test]
fn any_other_protocol_is_refused_with_icmp() {
    both(|v6| {
        // SCTP, GRE, ESP, and an ICMP query that is no echo (timestamp, node information).
        for protocol in [132, 47, 50] {
            let mut bench = Bench::new(v6);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            let packet = ip(peer, own, protocol, &[0; 40]);
            bench.peer_sends(0, &packet);
            let answers = bench.take_inbox(0);
            assert!(
                matches!(refusal(&answers[0], own, peer), Answer::Unreachable { about, .. } if about == packet)
            );
            assert_eq!(bench.take_tun(), NONE);
        }
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &icmp(peer, own, if v6 { 139 } else { 13 }, &[0; 16]));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Refused, 1)]);
    });
}

#[test]
fn a_refusal_is_never_refused() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &tcp(at(peer, 4000), at(own, 22), RST, 1, 0, &[]));
        bench.peer_sends(0, &tcp(at(peer, 4000), at(own, 22), RST | ACK, 1, 1, &[]));
        let never_sent = udp(at(own, 5), at(peer, 6), b"never sent");
        bench.peer_sends(0, &port_unreachable(peer, own, &never_sent));
        bench.peer_sends(0, &port_unreachable(peer, own, b"nonsense"));

        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn echo_requests_to_the_overlay_address_are_answered() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &echo(peer, own, true, 77));

        assert_eq!(bench.take_inbox(0), [echo(own, peer, false, 77)]);
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), []);
    });
}

#[test]
fn a_broken_echo_request_is_not_answered() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let mut packet = echo(peer, own, true, 77);
        *packet.last_mut().unwrap() ^= 1;
        bench.peer_sends(0, &packet);
        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn an_echo_reply_to_nothing_is_no_reply() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &echo(peer, own, false, 77));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Refused, 1)]);
    });
}

#[test]
fn a_packet_with_a_source_that_is_not_the_peers_is_dropped_in_silence() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        // Not even the host's grant helps.
        bench.grant(0, true);
        bench.forward(&[("tcp", "22", "127.0.0.1:22", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let neighbour = bench.add(v6, None);
        let neighbour = bench.peers[neighbour].address;
        let foreign = if v6 { "2001:db8::5" } else { "10.0.0.5" }.parse().unwrap();
        let sources = [neighbour, foreign, own];

        for source in sources {
            bench.peer_sends(0, &syn(at(source, 4000), at(own, 22)));
            bench.peer_sends(0, &udp(at(source, 4000), at(own, 53), b"question"));
            bench.peer_sends(0, &echo(source, own, true, 1));
        }

        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.orders, []);
        assert_eq!(bench.dropped(), [(DropReason::WrongSource, 9)]);
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        assert_eq!(bench.take_tun().len(), 1, "its own address is fine");
    });
}

#[test]
fn a_packet_of_the_other_family_than_the_peers_is_dropped_in_silence() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let own = bench.own(!v6);
        let source = if v6 {
            "100.64.200.0"
        } else {
            "fd70:756e:6368::aaaa:0"
        }
        .parse()
        .unwrap();
        bench.peer_sends(0, &syn(at(source, 4000), at(own, 22)));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.dropped(), [(DropReason::WrongSource, 1)]);
    });
}

#[test]
fn a_packet_for_somebody_else_is_dropped_in_silence() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        // This machine is no router, not even for those who may reach all of it.
        bench.grant(0, true);
        bench.forward(&[("tcp", "22", "127.0.0.1:22", None)]);
        let peer = bench.peers[0].address;
        let neighbour = bench.add(v6, None);
        let neighbour = bench.peers[neighbour].address;
        let others = if v6 {
            ["2001:db8::5", "::1", "ff02::1", "::"]
        } else {
            ["10.0.0.5", "127.0.0.1", "224.0.0.251", "255.255.255.255"]
        };
        let others = others.map(|ip| ip.parse().unwrap());

        for destination in [neighbour].into_iter().chain(others) {
            bench.peer_sends(0, &syn(at(peer, 4000), at(destination, 22)));
            bench.peer_sends(0, &udp(at(peer, 4000), at(destination, 53), b"question"));
            bench.peer_sends(0, &echo(peer, destination, true, 1));
        }

        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.orders, []);
        assert_eq!(bench.dropped(), [(DropReason::WrongDestination, 15)]);
    });
}

#[test]
fn what_is_no_packet_is_dropped() {
    let mut bench = Bench::new(true);
    bench.grant(0, true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    let good = udp(at(peer, 4000), at(own, 53), b"question");
    // A TCP header without ports, and one that claims to hold eight bytes more than there are.
    let mut long = good.clone();
    long[5] += 8;
    for bytes in [ip(peer, own, 6, &[1, 2, 3]), ip(peer, own, 17, &[]), long] {
        bench.peer_sends(0, &bytes);
    }
    assert_eq!(bench.take_tun(), NONE);
    assert_eq!(bench.take_inbox(0), NONE);
    assert_eq!(bench.orders, []);
}

#[test]
fn a_peer_with_the_hosts_grant_reaches_the_host() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let packets = [
            syn(at(peer, 4000), at(own, 22)),
            tcp(at(peer, 4000), at(own, 22), ACK, 1001, 1, b"data"),
            tcp(at(peer, 4001), at(own, 23), RST, 1, 0, &[]),
            udp(at(peer, 4000), at(own, 53), b"question"),
            echo(peer, own, true, 5),
            echo(peer, own, false, 6),
            ip(peer, own, 47, &[0; 40]),
            port_unreachable(peer, own, &udp(at(own, 1), at(peer, 2), b"x")),
        ];

        for packet in &packets {
            bench.peer_sends(0, packet);
        }

        assert_eq!(bench.take_tun(), packets);
        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.dropped(), []);
    });
}

#[test]
fn the_hosts_grant_is_for_one_peer() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let other = bench.add(v6, None);
        bench.connect(other);
        bench.grant(other, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.take_inbox(0).len(), 1);
    });
}

#[test]
fn after_the_grant_is_taken_back_what_the_peer_began_no_longer_passes() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        // The peer begins; this host's kernel answers.
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        bench.host_sends(&tcp(at(own, 22), at(peer, 4000), SYN | ACK, 7, 1001, &[]));
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        bench.host_sends(&udp(at(own, 53), at(peer, 4000), b"answer"));
        bench.peer_sends(0, &echo(peer, own, true, 9));
        bench.host_sends(&echo(own, peer, false, 9));
        // And conversations that this host began.
        bench.host_sends(&syn(at(own, 6000), at(peer, 22)));
        bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
        bench.take_tun();
        bench.take_inbox(0);

        bench.grant(0, false);
        bench.peer_sends(
            0,
            &tcp(at(peer, 4000), at(own, 22), ACK, 1001, 8, b"rm -rf"),
        );
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.take_inbox(0).len(), 2, "a reset and an unreachable");
        bench.peer_sends(0, &echo(peer, own, true, 9));
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(
            bench.take_inbox(0),
            [echo(own, peer, false, 9)],
            "punchd answers now"
        );

        let ours = [
            tcp(at(peer, 22), at(own, 6000), SYN | ACK, 3, 1001, &[]),
            udp(at(peer, 53), at(own, 6000), b"answer"),
        ];
        for packet in &ours {
            bench.peer_sends(0, packet);
        }
        assert_eq!(bench.take_tun(), ours);

        // The kernel's own repetitions make nothing of it either.
        for _ in 0..3 {
            bench.host_sends(&tcp(at(own, 22), at(peer, 4000), ACK, 8, 1001, b"late"));
            bench.host_sends(&udp(at(own, 53), at(peer, 4000), b"late"));
            bench.pass(seconds(20));
        }
        bench.peer_sends(
            0,
            &tcp(at(peer, 4000), at(own, 22), ACK, 1001, 8, b"rm -rf"),
        );
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_connection_whose_grant_was_taken_back_is_reset_in_the_first_minute_too() {
    both(|v6| {
        let mut bench = Bench::empty();
        bench.add(v6, None);
        bench.connect(0);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        bench.take_tun();

        bench.grant(0, false);
        bench.peer_sends(
            0,
            &tcp(at(peer, 4000), at(own, 22), ACK, 1001, 8, b"rm -rf"),
        );

        let answers = bench.take_inbox(0);
        assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 0 });
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_long_echo_is_answered_in_fragments_that_fit() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let kind = if v6 { 128 } else { 8 };
        bench.peer_sends(0, &icmp(peer, own, kind, &vec![7; 20_000]));
        let answers = bench.take_inbox(0);
        assert!(answers.len() > 10);
        assert!(answers.iter().all(|answer| answer.len() <= 1400));
    });
}

#[test]
fn a_segment_of_an_unknown_connection_is_passed_over_in_the_first_minute_and_reset_later() {
    both(|v6| {
        let mut bench = Bench::empty();
        bench.add(v6, None);
        bench.connect(0);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let segment = tcp(at(peer, 22), at(own, 4000), ACK, 1, 1, b"data");

        bench.peer_sends(0, &segment);
        assert_eq!(bench.take_inbox(0), NONE);
        assert_eq!(bench.dropped(), [(DropReason::Unknown, 1)]);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        assert_eq!(
            bench.take_inbox(0).len(),
            1,
            "new ones are refused from the start"
        );

        bench.pass(seconds(61));
        bench.peer_sends(0, &segment);
        let answers = bench.take_inbox(0);
        assert!(matches!(
            refusal(&answers[0], own, peer),
            Answer::Reset { .. }
        ));
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn odd_tcp_flags_open_nothing() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("tcp", "80", "127.0.0.1:8080", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        for flags in 0..64_u8 {
            if flags & (SYN | ACK | RST) != SYN {
                for port in [80, 81] {
                    bench.peer_sends(0, &tcp(at(peer, 4000), at(own, port), flags, 5, 5, b"x"));
                }
            }
        }
        bench.peer_sends(0, &tcp(at(peer, 4000), at(own, 81), SYN | FIN, 5, 5, b"x"));
        assert_eq!(bench.orders, []);
        assert_eq!(bench.take_tun(), NONE);
    });
}
