//! Forwards, as far as the engine decides about them: which packets open which target, and who may.

use punch_api::{ForwardKey, Protocol};
use punch_engine::{Order, PeerHandle, StreamId, TargetEvent};
use punch_packet::{Packet, Transport};

use crate::packets::{
    ACK, Answer, SYN, at, closed_port, echo, refusal, syn, tcp, udp, udp_payload,
};
use crate::plain::Bench;
use crate::world::seconds;

const NONE: Vec<Vec<u8>> = Vec::new();

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

/// The connections that were ordered: stream, protocol, target, peer, forward.
fn connects(bench: &mut Bench) -> Vec<(StreamId, Protocol, String, PeerHandle, ForwardKey)> {
    let orders = std::mem::take(&mut bench.orders);
    orders
        .into_iter()
        .filter_map(|order| match order {
            Order::Connect {
                stream,
                protocol,
                target,
                peer,
                forward,
                ..
            } => Some((stream, protocol, target.to_string(), peer, forward)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_connection_to_a_shared_port_opens_its_target() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[
            ("tcp", "5432", "db.example:15432", None),
            ("tcp", "80", "127.0.0.1:8080", None),
        ]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 5432)));

        let opened = connects(&mut bench);
        assert_eq!(opened.len(), 1);
        let (_, protocol, target, whose, forward) = &opened[0];
        assert_eq!(
            (*protocol, target.as_str()),
            (Protocol::Tcp, "db.example:15432")
        );
        assert_eq!(
            (*whose, forward.ports.first()),
            (bench.peers[0].handle, 5432)
        );
        assert_eq!(bench.take_tun(), NONE);
        assert_eq!(
            bench.take_inbox(0),
            NONE,
            "the client waits until the target answers"
        );
        let counts = bench.engine.forward_counts(*forward);
        assert_eq!((counts.open, counts.total), (1, 1));
    });
}

#[test]
fn a_range_of_ports_leads_to_as_many_at_the_target() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[
            ("tcp", "8000-8010", "[::1]:9000", None),
            ("udp", "8000-8010", "10.0.0.1:53", None),
        ]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 8010)));
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 8003), b"question"));
        let targets: Vec<_> = connects(&mut bench)
            .into_iter()
            .map(|opened| opened.2)
            .collect();
        assert_eq!(targets, ["[::1]:9010", "10.0.0.1:56"]);

        for port in [7999, 8011] {
            bench.peer_sends(0, &syn(at(peer, 4000), at(own, port)));
            bench.peer_sends(0, &udp(at(peer, 4000), at(own, port), b"question"));
        }
        assert_eq!(connects(&mut bench), []);
        assert_eq!(bench.take_inbox(0).len(), 4);
    });
}

#[test]
fn a_datagram_to_a_shared_port_reaches_its_target_and_the_answer_comes_back() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "53", "127.0.0.1:5353", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);

        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"another"));
        let datagrams: Vec<_> = bench
            .orders
            .iter()
            .filter_map(|order| match order {
                Order::Datagram(stream, bytes) => Some((*stream, bytes.to_vec())),
                _ => None,
            })
            .collect();
        let opened = connects(&mut bench);
        assert_eq!(opened.len(), 1);
        let stream = opened[0].0;
        assert_eq!(
            datagrams,
            [
                (stream, b"question".to_vec()),
                (stream, b"another".to_vec())
            ]
        );

        let now = bench.now;
        bench.engine.write_datagram(stream, b"answer", now);
        bench.engine.flush(now);
        bench.pump();
        let answers = bench.take_inbox(0);
        assert_eq!(answers.len(), 1);
        assert_eq!(udp_payload(&answers[0]), b"answer");
        let answer = Packet::parse(&answers[0]).unwrap();
        assert_eq!((answer.source(), answer.destination()), (own, peer));
        assert_eq!(
            answer.transport(),
            Transport::Udp {
                source: 53,
                destination: 4000
            }
        );
    });
}

#[test]
fn a_stream_stands_once_its_target_does() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("tcp", "80", "127.0.0.1:8080", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 80)));
        let stream = connects(&mut bench)[0].0;

        let now = bench.now;
        bench
            .engine
            .handle_target(stream, TargetEvent::Connected, now);
        bench.engine.flush(now);
        bench.pump();

        let answers = bench.take_inbox(0);
        let segment = Packet::parse(&answers[0]).unwrap().segment().to_vec();
        assert_eq!(segment[13] & (SYN | ACK), SYN | ACK);
        let next = u32::from_be_bytes(segment[4..8].try_into().unwrap()) + 1;
        bench.peer_sends(0, &tcp(at(peer, 4000), at(own, 80), ACK, 1001, next, &[]));
        bench.peer_sends(
            0,
            &tcp(at(peer, 4000), at(own, 80), ACK, 1001, next, b"GET /"),
        );
        assert!(bench.orders.contains(&Order::Readable(stream)));
        assert_eq!(&bench.engine.read_stream(stream, 100)[..], b"GET /");
        assert_eq!(bench.engine.write_stream(stream, b"200 OK"), 6);
        bench.engine.flush(now);
        bench.pump();
        let answers = bench.take_inbox(0);
        assert!(answers.iter().any(|packet| packet.ends_with(b"200 OK")));
        assert_eq!(bench.take_tun(), NONE);
    });
}

#[test]
fn a_target_that_refuses_shows_as_a_closed_port() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("tcp", "80", "127.0.0.1:8080", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 80)));
        let stream = connects(&mut bench)[0].0;
        let now = bench.now;

        bench
            .engine
            .handle_target(stream, TargetEvent::Refused, now);
        bench.engine.flush(now);
        bench.pump();

        let answers = bench.take_inbox(0);
        assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 1001 });
    });
}

#[test]
fn a_forward_that_a_peer_may_not_use_looks_like_a_closed_port() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        let other = bench.add(v6, None);
        bench.connect(other);
        bench.forward(&[
            ("tcp", "22", "127.0.0.1:22", Some(&[other])),
            ("udp", "53", "127.0.0.1:53", Some(&[other])),
        ]);
        let (own, peer, friend) = (
            bench.own(v6),
            bench.peers[0].address,
            bench.peers[other].address,
        );
        let datagram = udp(at(peer, 4000), at(own, 53), b"question");

        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        bench.peer_sends(0, &datagram);

        assert_eq!(connects(&mut bench), []);
        let answers = bench.take_inbox(0);
        assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 1001 });
        assert_eq!(refusal(&answers[1], own, peer), closed_port(own, &datagram));
        bench.peer_sends(other, &syn(at(friend, 4000), at(own, 22)));
        assert_eq!(connects(&mut bench).len(), 1);
    });
}

#[test]
fn tcp_and_udp_are_shared_each_for_itself() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("tcp", "53", "127.0.0.1:53", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        assert_eq!(connects(&mut bench), []);
        assert_eq!(bench.take_inbox(0).len(), 1);
    });
}

#[test]
fn a_forward_comes_before_the_hosts_grant() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("tcp", "22", "10.0.0.1:22", None)]);
        bench.grant(0, true);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        let elsewhere = syn(at(peer, 4000), at(own, 23));

        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 22)));
        bench.peer_sends(0, &elsewhere);

        assert_eq!(connects(&mut bench).len(), 1);
        assert_eq!(bench.take_tun(), [elsewhere]);
    });
}

#[test]
fn a_reply_of_ours_comes_before_a_forward() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[("udp", "6000", "10.0.0.1:22", None)]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.host_sends(&udp(at(own, 6000), at(peer, 53), b"question"));
        let answer = udp(at(peer, 53), at(own, 6000), b"answer");

        bench.peer_sends(0, &answer);

        assert_eq!(bench.take_tun(), [answer]);
        assert_eq!(connects(&mut bench), []);
    });
}

#[test]
fn a_forward_does_not_shadow_the_echo() {
    let mut bench = Bench::new(true);
    bench.forward(&[
        ("tcp", "1-16384", "127.0.0.1:1", None),
        ("udp", "1-16384", "127.0.0.1:1", None),
    ]);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    bench.peer_sends(0, &echo(peer, own, true, 80));
    assert_eq!(bench.take_inbox(0), [echo(own, peer, false, 80)]);
    assert_eq!(connects(&mut bench), []);
}

#[test]
fn taking_a_forward_back_ends_its_streams() {
    both(|v6| {
        let mut bench = Bench::new(v6);
        bench.forward(&[
            ("tcp", "80", "127.0.0.1:8080", None),
            ("udp", "53", "127.0.0.1:53", None),
        ]);
        let (own, peer) = (bench.own(v6), bench.peers[0].address);
        bench.peer_sends(0, &syn(at(peer, 4000), at(own, 80)));
        bench.peer_sends(0, &udp(at(peer, 4000), at(own, 53), b"question"));
        let streams: Vec<_> = connects(&mut bench).iter().map(|opened| opened.0).collect();
        assert_eq!(streams.len(), 2);

        bench.forward(&[]);

        for stream in streams {
            assert!(
                bench.orders.contains(&Order::Reset(stream)),
                "{:?}",
                bench.orders
            );
        }
        let answers = bench.take_inbox(0);
        assert_eq!(refusal(&answers[0], own, peer), Answer::Reset { ack: 1001 });
    });
}

#[test]
fn a_forward_is_taken_from_one_peer_and_kept_by_another() {
    let mut bench = Bench::new(true);
    let other = bench.add(true, None);
    bench.connect(other);
    bench.forward(&[("tcp", "80", "127.0.0.1:8080", None)]);
    let (own, peer, friend) = (
        bench.own(true),
        bench.peers[0].address,
        bench.peers[other].address,
    );
    bench.peer_sends(0, &syn(at(peer, 4000), at(own, 80)));
    bench.peer_sends(other, &syn(at(friend, 4000), at(own, 80)));
    let streams: Vec<_> = connects(&mut bench).iter().map(|opened| opened.0).collect();

    bench.forward(&[("tcp", "80", "127.0.0.1:8080", Some(&[other]))]);

    assert!(bench.orders.contains(&Order::Reset(streams[0])));
    assert!(!bench.orders.contains(&Order::Reset(streams[1])));
}

#[test]
fn removing_a_peer_ends_its_streams() {
    let mut bench = Bench::new(true);
    bench.forward(&[("tcp", "80", "127.0.0.1:8080", None)]);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    bench.peer_sends(0, &syn(at(peer, 4000), at(own, 80)));
    let stream = connects(&mut bench)[0].0;

    bench.edit(|configuration| configuration.peers.clear());

    assert!(bench.orders.contains(&Order::Reset(stream)));
    let key = bench.engine.rules().iter().next().unwrap().key;
    let counts = bench.engine.forward_counts(key);
    assert_eq!((counts.open, counts.total), (0, 1));
}

#[test]
fn a_peer_cannot_take_all_room_of_another() {
    let mut bench = Bench::new(true);
    let other = bench.add(true, None);
    bench.connect(other);
    bench.forward(&[("tcp", "1-16384", "127.0.0.1:1", None)]);
    let (own, peer, friend) = (
        bench.own(true),
        bench.peers[0].address,
        bench.peers[other].address,
    );
    for number in 0..5000_u16 {
        bench.peer_sends(
            0,
            &syn(at(peer, 40_000 + number % 1000), at(own, 1 + number / 1000)),
        );
    }
    assert!(connects(&mut bench).len() < 5000, "there is a limit");

    bench.pass(seconds(1));
    bench.peer_sends(other, &syn(at(friend, 4000), at(own, 80)));

    assert_eq!(connects(&mut bench).len(), 1);
}
