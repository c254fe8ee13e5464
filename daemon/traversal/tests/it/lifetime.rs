//! How long a mapping lives that nobody uses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, ErrorCode, Message, Writer};
use punch_traversal::{Lifetime, SocketId};

use crate::{addr, ms, origin, secs};

const SERVER: &str = "198.51.100.1:3478";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Answers to the port that it is asked to (RFC 5780 §7.5).
    Good,
    /// Takes no notice of RESPONSE-PORT.
    IgnoresPort,
    /// Answers with an error where RESPONSE-PORT is asked for.
    RefusesPort,
    /// Answers everything with an error.
    Refuses,
    /// Answers from an address that was not asked.
    Elsewhere,
    /// Never answers.
    Silent,
}

struct Run {
    lifetime: Option<Duration>,
    took: Duration,
    packets: usize,
}

/// Measures at a NAT where a mapping that is not used lives so long; every so manyth packet is lost.
fn measure(nat: Duration, server: Server, sockets: u32, loses_every: usize) -> Run {
    let ids: Vec<_> = (10..10 + sockets).map(SocketId).collect();
    let mut run = Lifetime::new(&ids, addr(SERVER), 1, origin()).unwrap();
    assert_eq!(run.sockets().count(), ids.len());
    let mut now = origin();
    let mut used: BTreeMap<u16, Instant> = BTreeMap::new();
    let mut under_way: BTreeMap<(Instant, usize), (SocketId, SocketAddr, Vec<u8>)> =
        BTreeMap::new();
    let mut packets = 0;
    run.handle_timeout(now);
    loop {
        while let Some(transmit) = run.poll_transmit() {
            assert_eq!((transmit.to, transmit.ttl), (addr(SERVER), None));
            packets += 1;
            let port = 40_000 + transmit.socket.0 as u16;
            used.insert(port, now);
            if loses_every > 0 && packets % loses_every == 0 {
                continue;
            }
            let request = Message::parse(&transmit.bytes).unwrap();
            let public = SocketAddr::new([203, 0, 113, 5].into(), port);
            let success = Writer::new(Class::Success, request.transaction).xor_mapped(public);
            let error =
                Writer::new(Class::Error, request.transaction).error(ErrorCode::BAD_REQUEST);
            let (to, from, answer) = match (server, request.response_port) {
                (Server::Silent, _) => continue,
                (Server::Refuses, _) | (Server::RefusesPort, Some(_)) => {
                    (port, addr(SERVER), error)
                }
                (Server::Good, Some(asked)) => (asked, addr(SERVER), success),
                (Server::Elsewhere, _) => (port, addr("198.51.100.1:3479"), success),
                _ => (port, addr(SERVER), success),
            };
            // What comes in from there keeps no mapping alive; whether it comes in depends on what went out.
            let alive = used.get(&to).is_some_and(|last| now - *last < nat);
            if alive {
                let socket = SocketId(u32::from(to - 40_000));
                under_way.insert((now + ms(30), packets), (socket, from, answer.finish()));
            }
        }
        let arrival = under_way.keys().next().map(|(at, _)| *at);
        let Some(next) = arrival.into_iter().chain(run.poll_timeout()).min() else {
            break;
        };
        now = now.max(next);
        while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let (socket, from, bytes) = entry.remove();
            run.handle_response(socket, from, &Message::parse(&bytes).unwrap(), now);
        }
        run.handle_timeout(now);
        assert!(
            packets < 1000 && now < origin() + secs(200),
            "it does not end"
        );
    }
    Run {
        lifetime: run.lifetime(),
        took: now - origin(),
        packets,
    }
}

fn good(nat: u64) -> Option<Duration> {
    measure(secs(nat), Server::Good, Lifetime::SOCKETS as u32, 0).lifetime
}

#[test]
fn the_longest_silence_that_a_mapping_survives_is_found() {
    for (nat, expected) in [
        (10, 8),
        (14, 8),
        (17, 15),
        (30, 25),
        (50, 40),
        (90, 60),
        (150, 120),
        (86_400, 120),
    ] {
        assert_eq!(good(nat), Some(secs(expected)), "{nat}");
    }
}

#[test]
fn a_nat_that_forgets_before_the_shortest_silence_is_over_is_taken_to_keep_mappings_for_5_s() {
    for nat in [6, 7] {
        assert_eq!(good(nat), Some(secs(5)), "{nat}");
    }
}

#[test]
fn lost_packets_do_not_kill_a_mapping() {
    for loses_every in [3, 4, 5, 7] {
        let run = measure(
            secs(50),
            Server::Good,
            Lifetime::SOCKETS as u32,
            loses_every,
        );
        assert_eq!(run.lifetime, Some(secs(40)), "{loses_every}");
    }
    // Of the 40 s, nothing is heard any more: what is said is less, and not more, than the truth.
    let run = measure(secs(50), Server::Good, Lifetime::SOCKETS as u32, 2);
    assert_eq!(run.lifetime, Some(secs(25)));
}

#[test]
fn a_server_that_cannot_help_says_nothing_of_lifetimes() {
    for server in [
        Server::IgnoresPort,
        Server::RefusesPort,
        Server::Refuses,
        Server::Elsewhere,
        Server::Silent,
    ] {
        for nat in [7, 50, 300] {
            let run = measure(secs(nat), server, Lifetime::SOCKETS as u32, 0);
            assert_eq!(run.lifetime, None, "{server:?}");
            assert!(run.took < secs(130), "{server:?}");
        }
    }
}

#[test]
fn a_measurement_costs_few_packets_and_ends_after_two_minutes() {
    let run = measure(secs(300), Server::Good, Lifetime::SOCKETS as u32, 0);
    assert!(run.packets <= 2 * 6, "{}", run.packets);
    assert!(run.took < secs(125), "{:?}", run.took);
    let worst = measure(secs(9), Server::Good, Lifetime::SOCKETS as u32, 0);
    assert!(worst.packets <= 6 + 6 * 3, "{}", worst.packets);
}

#[test]
fn with_fewer_sockets_shorter_silences_are_measured() {
    assert!(Lifetime::new(&[], addr(SERVER), 1, origin()).is_none());
    assert!(Lifetime::new(&[SocketId(1)], addr(SERVER), 1, origin()).is_none());
    for (sockets, expected) in [(2, 8), (3, 15), (5, 40)] {
        let run = measure(secs(300), Server::Good, sockets, 0);
        assert_eq!(run.lifetime, Some(secs(expected)));
    }
}

#[test]
fn a_good_answer_from_elsewhere_or_to_another_socket_is_not_believed() {
    let ids = [SocketId(1), SocketId(2)];
    let mut run = Lifetime::new(&ids, addr(SERVER), 1, origin()).unwrap();
    run.handle_timeout(origin());
    let request = run.poll_transmit().unwrap();
    assert_eq!(request.socket, SocketId(2));
    let id = Message::parse(&request.bytes).unwrap().transaction;
    let bytes = Writer::new(Class::Success, id)
        .xor_mapped(addr("203.0.113.5:7"))
        .finish();
    let message = Message::parse(&bytes).unwrap();

    run.handle_response(SocketId(2), addr("198.51.100.2:3478"), &message, origin());
    run.handle_response(SocketId(1), addr(SERVER), &message, origin());
    assert_eq!(
        run.poll_timeout(),
        Some(origin() + ms(400)),
        "it still asks"
    );

    run.handle_response(SocketId(2), addr(SERVER), &message, origin());
    assert_eq!(run.poll_timeout(), Some(origin() + secs(8)));
    assert_eq!(run.lifetime(), None, "nothing is known yet");
}
