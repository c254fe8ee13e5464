//! Replies of what this host began come in, for as long as RFC 5382, 4787 and 5508 ask of a firewall; nothing else does.

use std::time::Duration;

use punch_engine::{Offload, SocketId};

use crate::packets::{
    ACK, Answer, FIN, RST, SYN, at, echo, icmp, port_unreachable, refusal, syn, tcp, udp,
};
use crate::plain::Bench;
use crate::world::seconds;

const NONE: Vec<Vec<u8>> = Vec::new();

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

#[test]
fn replies_of_connections_that_this_host_began_come_in() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let asked = [
            syn(at(own, 6000), at(peer, 22)),
            udp(at(own, 6000), at(peer, 53), b"question"),
            echo(own, peer, true, 42),
        ];
        let replies = [
            tcp(at(peer, 22), at(own, 6000), SYN | ACK, 3, 1001, &[]),
            tcp(at(peer, 22), at(own, 6000), ACK, 4, 1001, b"data"),
            tcp(at(peer, 22), at(own, 6000), RST, 8, 0, &[]),
            udp(at(peer, 53), at(own, 6000), b"answer"),
            echo(peer, own, false, 42),
        ];
        for reply in &replies {
            bench.peer_sends(0, reply);
        }
        assert_eq!(bench.take_tun(), NONE, "nothing was asked yet");

        for packet in &asked {
            bench.host_sends(packet);
        }
        bench.take_inbox(0);
        for reply in &replies {
            bench.peer_sends(0, reply);
        }

        assert_eq!(bench.take_tun(), replies);
        assert_eq!(bench.take_inbox(0), NONE);
    });
}

#[test]
fn a_neighbouring_conversation_is_another_one() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.host_sends(&syn(at(own, 6000), at(peer, 22)));
        bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
        bench.host_sends(&echo(own, peer, true, 42));

        for packet in [
            tcp(at(peer, 23), at(own, 6000), SYN | ACK, 3, 1001, &[]),
            tcp(at(peer, 22), at(own, 6001), SYN | ACK, 3, 1001, &[]),
            // The same ports, the other protocol.
            tcp(at(peer, 53), at(own, 6000), SYN | ACK, 3, 1001, &[]),
            udp(at(peer, 22), at(own, 6000), b"answer"),
            // The same ports, exchanged.
            udp(at(peer, 6000), at(own, 53), b"answer"),
            echo(peer, own, false, 43),
        ] {
            bench.peer_sends(0, &packet);
        }

        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_conversation_with_one_peer_opens_nothing_for_another() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let other = bench.add(v6, None);
        bench.connect(other);
        let (own, first, second) = (
            bench.own(v6),
            bench.peers[0].address,
            bench.peers[1].address,
        );
        bench.host_sends(&udp(at(own, 6000), at(first, 53), b"question"));

        bench.peer_sends(other, &udp(at(second, 53), at(own, 6000), b"answer"));
        bench.peer_sends(other, &udp(at(first, 53), at(own, 6000), b"answer"));

        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_peers_echo_request_is_no_reply_even_with_the_identifier_of_ours() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.host_sends(&echo(own, peer, true, 42));
        bench.take_inbox(0);

        bench.peer_sends(0, &echo(peer, own, true, 42));

        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(bench.take_inbox(0), [echo(own, peer, false, 42)]);
    });
}

#[test]
fn an_icmp_error_about_a_packet_of_ours_comes_in() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let question = udp(at(own, 6000), at(peer, 53), b"question");
        let connection = syn(at(own, 6000), at(peer, 22));
        let ping = echo(own, peer, true, 42);
        let short = if v6 { 48 } else { 28 };
        let errors = [
            port_unreachable(peer, own, &question),
            // RFC 792 quotes no more than eight bytes behind the header.
            port_unreachable(peer, own, &connection[..short]),
            port_unreachable(peer, own, &ping),
            // Packet too big, or fragmentation needed.
            icmp(
                peer,
                own,
                if v6 { 2 } else { 3 },
                &[&[0, 0, 5, 0], &connection[..]].concat(),
            ),
        ];
        for error in &errors {
            bench.peer_sends(0, error);
        }
        assert_eq!(bench.take_tun(), NONE, "nothing was sent yet");

        for packet in [question, connection, ping] {
            bench.host_sends(&packet);
        }
        for error in &errors {
            bench.peer_sends(0, error);
        }

        assert_eq!(bench.take_tun(), errors);
    });
}

#[test]
fn an_icmp_error_about_somebody_elses_packet_does_not_come_in() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
        let foreign = if v6 { "2001:db8::5" } else { "10.0.0.5" }.parse().unwrap();

        for quoted in [
            // The wrong way round, another port, another host, another protocol.
            udp(at(peer, 53), at(own, 6000), b"answer"),
            udp(at(own, 6000), at(peer, 54), b"question"),
            udp(at(own, 6001), at(peer, 53), b"question"),
            udp(at(own, 6000), at(foreign, 53), b"question"),
            udp(at(foreign, 6000), at(peer, 53), b"question"),
            syn(at(own, 6000), at(peer, 53)),
        ] {
            bench.peer_sends(0, &port_unreachable(peer, own, &quoted));
        }

        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_conversation_ends_when_it_has_been_idle() {
    both(|v6| {
        for (limit, alive) in [(170, true), (181, false)] {
            let mut bench = Bench::new(v6);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
            bench.pass(seconds(limit));
            bench.peer_sends(0, &udp(at(peer, 53), at(own, 6000), b"answer"));
            assert_eq!(!bench.take_tun().is_empty(), alive, "UDP after {limit} s");
        }
        for (limit, alive) in [(239, true), (241, false)] {
            let mut bench = Bench::new(v6);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            bench.host_sends(&syn(at(own, 6000), at(peer, 22)));
            bench.pass(seconds(limit));
            bench.peer_sends(
                0,
                &tcp(at(peer, 22), at(own, 6000), SYN | ACK, 3, 1001, &[]),
            );
            assert_eq!(
                !bench.take_tun().is_empty(),
                alive,
                "TCP without an answer after {limit} s"
            );
        }
        for (limit, alive) in [(2 * 3600, true), (2 * 3600 + 241, false)] {
            let mut bench = Bench::new(v6);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            bench.host_sends(&syn(at(own, 6000), at(peer, 22)));
            bench.host_sends(&tcp(at(own, 6000), at(peer, 22), ACK, 1001, 4, &[]));
            bench.pass(seconds(limit));
            bench.peer_sends(0, &tcp(at(peer, 22), at(own, 6000), ACK, 3, 1001, b"data"));
            assert_eq!(!bench.take_tun().is_empty(), alive, "TCP after {limit} s");
        }
        for (limit, alive) in [(59, true), (61, false)] {
            let mut bench = Bench::new(v6);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            bench.host_sends(&echo(own, peer, true, 42));
            bench.pass(seconds(limit));
            bench.peer_sends(0, &echo(peer, own, false, 42));
            assert_eq!(!bench.take_tun().is_empty(), alive, "echo after {limit} s");
        }
    });
}

#[test]
fn a_conversation_lives_for_as_long_as_it_is_used() {
    let mut bench = Bench::new(true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    for round in 0..4 {
        bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
        bench.pass(seconds(170));
        // Keys last for three minutes, and the peer's clock is the real one.
        bench.call(0);
        bench.peer_sends(0, &udp(at(peer, 53), at(own, 6000), b"answer"));
        assert_eq!(bench.take_tun().len(), 1, "round {round}");
        bench.pass(seconds(170));
    }
}

/// A connection of this host's that has got as far as `segments` of this host's and, `true`, of the peer's.
fn connection(v6: bool, segments: &[(bool, u8)]) -> Bench {
    let mut bench = Bench::new(v6);
    let (own, peer) = (bench.own(v6), bench.peers[0].address);
    let (here, there) = (at(own, 6000), at(peer, 22));
    for (is_peers, flags) in segments {
        if *is_peers {
            bench.peer_sends(0, &tcp(there, here, *flags, 3, 1001, &[]));
        } else {
            bench.host_sends(&tcp(here, there, *flags, 1000, 4, &[]));
        }
    }
    bench.take_tun();
    bench.take_inbox(0);
    bench
}

const HOST: bool = false;
const PEER: bool = true;

#[test]
fn a_segment_that_asks_for_a_connection_is_no_reply_of_any() {
    let open = [(HOST, SYN), (PEER, SYN | ACK), (HOST, ACK)];
    for segments in [
        &[(HOST, SYN)][..],
        &open,
        &[(HOST, SYN), (HOST, RST)],
        &[(HOST, SYN), (PEER, RST | ACK)],
        &[&open[..], &[(HOST, FIN | ACK), (PEER, FIN | ACK)]].concat(),
    ] {
        both(|v6| {
            let mut bench = connection(v6, segments);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);

            bench.peer_sends(0, &syn(at(peer, 22), at(own, 6000)));
            for flags in [SYN | FIN, SYN | RST] {
                bench.peer_sends(0, &tcp(at(peer, 22), at(own, 6000), flags, 3, 0, &[]));
            }

            assert_eq!(bench.take_tun(), NONE, "{segments:?}");
            let answers = bench.take_inbox(0);
            assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 1001 });
        });
    }
}

#[test]
fn a_segment_that_asks_for_a_connection_does_not_come_in_behind_data_of_ours() {
    both(|v6| {
        let mut bench = connection(v6, &[(HOST, SYN), (PEER, SYN | ACK), (HOST, ACK)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let data = tcp(at(peer, 22), at(own, 6000), ACK, 4, 1001, &[7; 400]);
        let asks = syn(at(peer, 22), at(own, 6000));
        let mut train = bench.seal(0, &data);
        let stride = train.len();
        train.extend(bench.seal(0, &asks));

        let (from, socket) = (bench.peers[0].endpoint, SocketId::MAIN_V4);
        bench
            .engine
            .handle_train(socket, None, from, stride, &train, bench.now);
        bench.pump();

        assert_eq!(bench.take_tun(), [data]);
    });
}

#[test]
fn a_connection_that_has_ended_is_soon_forgotten() {
    let open = [(HOST, SYN), (PEER, SYN | ACK), (HOST, ACK)];
    let ended = |end: &[(bool, u8)]| [&open[..], end].concat();
    for (segments, limit) in [
        (ended(&[(HOST, RST)]), 10),
        (ended(&[(PEER, RST)]), 10),
        (vec![(HOST, SYN), (PEER, RST | ACK)], 10),
        (ended(&[(HOST, FIN | ACK), (PEER, FIN | ACK)]), 120),
        (ended(&[(PEER, FIN | ACK), (HOST, FIN | ACK)]), 120),
        // One direction is still open.
        (ended(&[(HOST, FIN | ACK)]), 2 * 3600 + 240),
        (ended(&[(PEER, FIN | ACK)]), 2 * 3600 + 240),
        // A new connection over the same ports.
        (
            ended(&[(HOST, RST), (HOST, SYN), (PEER, SYN | ACK), (HOST, ACK)]),
            2 * 3600 + 240,
        ),
        // The reset was not for this connection, says this host.
        (ended(&[(PEER, RST), (HOST, ACK)]), 2 * 3600 + 240),
    ] {
        for (after, alive) in [(limit - 1, true), (limit + 1, false)] {
            let mut bench = connection(true, &segments);
            let (own, peer) = (bench.own(true), bench.peers[0].address);
            bench.pass(seconds(after));
            bench.call(0);
            bench.peer_sends(0, &tcp(at(peer, 22), at(own, 6000), ACK, 4, 1001, b"data"));
            assert_eq!(
                !bench.take_tun().is_empty(),
                alive,
                "{segments:?}: {after} s"
            );
        }
    }
}

#[test]
fn what_this_host_answers_or_resets_is_not_begun_by_it() {
    both(|v6| {
        for flags in [SYN | ACK, RST, RST | ACK] {
            let mut bench = connection(v6, &[(HOST, flags)]);
            let (own, peer) = (bench.own(v6), bench.peers[0].address);
            bench.peer_sends(0, &tcp(at(peer, 22), at(own, 6000), ACK, 4, 1001, b"data"));
            assert_eq!(bench.take_tun(), NONE, "{flags}");
        }
    });
}

#[test]
fn a_connection_of_the_peers_over_ports_of_ours_ends_with_the_grant() {
    both(|v6| {
        let mut bench = connection(v6, &[(HOST, SYN), (PEER, SYN | ACK), (HOST, ACK)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.grant(0, true);
        bench.peer_sends(0, &syn(at(peer, 22), at(own, 6000)));
        bench.host_sends(&tcp(at(own, 6000), at(peer, 22), SYN | ACK, 7, 1001, &[]));
        bench.grant(0, false);
        bench.take_tun();

        bench.peer_sends(
            0,
            &tcp(at(peer, 22), at(own, 6000), ACK, 1001, 8, b"rm -rf"),
        );

        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn of_icmp_only_errors_about_packets_of_ours_come_in() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let question = udp(at(own, 6000), at(peer, 53), b"question");
        bench.host_sends(&question);
        let mut seen = Vec::new();
        for kind in 0..=255 {
            let rest = [&[0; 4], &question[..]].concat();
            bench.peer_sends(0, &icmp(peer, own, kind, &rest));
            if !bench.take_tun().is_empty() {
                seen.push(kind);
            }
        }
        assert_eq!(
            seen,
            if v6 {
                vec![1, 2, 3, 4]
            } else {
                vec![3, 11, 12]
            }
        );
    });
}

#[test]
fn a_flood_of_conversations_keeps_the_newest() {
    let mut bench = Bench::new(true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    for number in 0..40_000_u32 {
        let port = 1024 + (number % 60_000) as u16;
        bench.engine.handle_tun(
            &udp(at(own, port), at(peer, 53), b"q"),
            Offload::default(),
            bench.now,
        );
        if number % 1000 == 0 {
            bench.pass(Duration::from_millis(1));
        }
    }
    bench.pump();

    let newest = udp(at(peer, 53), at(own, 1024 + 39_999), b"answer");
    let oldest = udp(at(peer, 53), at(own, 1024), b"answer");
    bench.peer_sends(0, &newest);
    bench.peer_sends(0, &oldest);

    assert_eq!(bench.take_tun(), [newest]);
}

#[test]
fn the_oldest_conversations_make_room_for_those_of_one_moment() {
    const OLD: u16 = 10;
    let mut bench = Bench::new(true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    // As many as are remembered, and one more.
    for number in 0..=16_384 {
        if number == OLD {
            bench.pass(Duration::from_millis(1));
        }
        let question = udp(at(own, 1024 + number), at(peer, 53), b"q");
        bench
            .engine
            .handle_tun(&question, Offload::default(), bench.now);
    }
    bench.pump();
    bench.take_tun();

    for number in 0..OLD {
        bench.peer_sends(0, &udp(at(peer, 53), at(own, 1024 + number), b"answer"));
    }
    assert_eq!(bench.take_tun(), NONE);
    let others = (OLD..=16_384).map(|number| udp(at(peer, 53), at(own, 1024 + number), b"answer"));
    others.for_each(|answer| bench.peer_sends(0, &answer));
    assert_eq!(bench.take_tun().len(), 16_384 - 2048 + 1);
}

#[test]
fn a_flood_of_conversations_does_not_make_the_peers_own_into_ours() {
    let mut bench = Bench::new(true);
    bench.grant(0, true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    // A session of the peer's, whose entry it then pushes out of the table.
    bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
    bench.host_sends(&tcp(at(own, 22), at(peer, 4000), SYN | ACK, 7, 1001, &[]));
    for number in 0..20_000_u16 {
        if number % 500 == 0 {
            bench.pass(Duration::from_millis(1));
            bench.take_tun();
        }
        let datagram = bench.seal(0, &udp(at(peer, 5000 + number), at(own, 53), b"q"));
        let (from, socket) = (bench.peers[0].endpoint, SocketId::MAIN_V4);
        bench
            .engine
            .handle_train(socket, None, from, datagram.len(), &datagram, bench.now);
    }
    bench.host_sends(&tcp(at(own, 22), at(peer, 4000), ACK, 8, 1001, b"prompt"));

    bench.grant(0, false);
    bench.take_tun();
    bench.peer_sends(
        0,
        &tcp(at(peer, 4000), at(own, 22), ACK, 1001, 14, b"rm -rf"),
    );

    assert_eq!(bench.take_tun(), NONE);
}
