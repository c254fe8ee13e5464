//! Direct paths over TCP, where UDP does not pass: who connects to whom, what strangers at either end get, and what comes after it.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use harness::{Echo, Host, Kinds, Lab, PATIENCE, Server, wait_until};
use punch_api::PathKind;

/// The port of a, which everybody can reach, and of b, which stands behind a NAT.
const PORT: &str = "[underlay]\nport = 41820\n";
const OFF: &str = "[punch]\ntcp = false\n";

/// Nobody relays, and b's router lets no UDP pass.
fn lab(hint: &str, configs: [&str; 2]) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("open", "port-restricted"), &[]);
    let rules = "table inet blocked { chain here { type filter hook forward priority -1; meta l4proto udp drop; }; }";
    lab.namespace("rb").exec_ok(&["nft", rules]);
    lab.start_with(configs);
    lab
}

fn listener(lab: &Lab) -> SocketAddr {
    format!("{}:41820", lab.env("A_IPV4")).parse().unwrap()
}

fn is_over_tcp(host: &Host, peer: &str) -> bool {
    let path = host.why(peer).path;
    path.is_some_and(|path| path.kind == PathKind::Tcp && path.via.is_none())
}

fn is_over_udp(host: &Host, peer: &str) -> bool {
    let path = host.why(peer).path;
    path.is_some_and(|path| path.kind != PathKind::Tcp)
}

/// Whether the other end closes the connection without a word.
fn is_closed_silently(stream: &mut TcpStream) -> bool {
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    said.is_empty()
}

#[test]
fn where_udp_is_blocked_a_direct_path_goes_over_tcp_until_udp_passes() {
    need_lab!();
    let lab = lab("tcp", [PORT, PORT]);
    // Strangers at the same port, one of whom talks nonsense.
    let mut silent: Vec<_> = (0..8)
        .map(|_| lab.server.connect_tcp(listener(&lab)).unwrap())
        .collect();
    let mut ninth = lab.server.connect_tcp(listener(&lab)).unwrap();
    assert!(is_closed_silently(&mut ninth), "one source has eight");
    silent[0].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();

    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("direct over TCP"), "{said}");
    lab.b.wait_for_peer_state("a", "connected");
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        assert!(is_over_tcp(host, peer), "{:#?}", host.why(peer));
        for command in [&["peers"][..], &["status"]] {
            let text = host.ctl_ok(command);
            assert!(text.contains("direct over TCP"), "{command:?}: {text}");
        }
        let why = host.ctl_ok(&["why", peer]);
        assert!(why.contains("directly over TCP"), "{why}");
        let port = host.ctl_json(&["status"])["network"]["tcp_port_v4"].as_u64();
        let said = format!("TCP ports      {} (IPv4)", port.unwrap());
        let status = host.ctl_ok(&["status"]);
        assert!(status.contains(&said), "{said}: {status}");
        let said = format!("{peer} is reached over TCP because ");
        assert!(status.contains(&said), "{said}: {status}");
        let log = host.punchd.log_text();
        assert!(
            log.contains(&format!("packets to {peer} go directly over TCP")),
            "{log}"
        );
        host.ctl_ok(&["ping", peer, "-c", "3"]);
    }
    for stream in &mut silent {
        assert!(is_closed_silently(stream));
    }
    // Both families, both ways, and more bytes than any queue holds.
    for (from, to, peer) in [(&lab.a, &lab.b, "a"), (&lab.b, &lab.a, "b")] {
        let _echo = Echo::start(to, "127.0.0.1:7000");
        to.ctl_ok(&["forward", "tcp", "7000"]);
        for ip in [to.ipv4(), to.ipv6()] {
            from.expect_echo(SocketAddr::new(ip, 7000));
        }
        to.ctl_ok(&["allow", peer, "--host"]);
        let mtu = ["ping", "-c", "3", "-i", "0.2", "-s", "1300"];
        from.exec_ok(&[&mtu[..], &[&to.ipv4().to_string()]].concat());
        let mut stream = from.connect_tcp(SocketAddr::new(to.ipv4(), 7000)).unwrap();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n >> 3) as u8).collect();
        let mut half = stream.try_clone().unwrap();
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| half.write_all(&sent));
            let mut back = vec![0; sent.len()];
            stream.read_exact(&mut back).unwrap();
            assert!(back == sent, "the bytes that come back are others");
            writer.join().unwrap()
        });
        written.unwrap();
    }

    lab.namespace("rb")
        .exec_ok(&["nft", "delete", "table", "inet", "blocked"]);
    wait_until(4 * PATIENCE, "a path over UDP serves", || {
        is_over_udp(&lab.a, "b") && is_over_udp(&lab.b, "a")
    });
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7000));
}

#[test]
fn a_candidate_that_leads_to_an_http_server_gets_one_check_and_no_more() {
    need_lab!();
    let lab = lab("http", [PORT, PORT]);
    // What b connects to is no punchd, and a, which could pass b's NAT from there, does not connect.
    lab.a.exec_ok(&[
        "nft",
        "table inet lie { chain here { type nat hook prerouting priority -100; tcp dport 41820 redirect to :80; }; chain out { type filter hook output priority 0; tcp dport 41820 tcp flags & (syn | ack) == syn drop; }; }",
    ]);
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let server = Server::start(&lab.a, "0.0.0.0:80", {
        let heard = heard.clone();
        move |mut stream| {
            let mut bytes = vec![0; 2];
            stream.read_exact(&mut bytes).unwrap();
            let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            bytes.resize(2 + length, 0);
            stream.read_exact(&mut bytes[2..]).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut bytes);
            heard.lock().unwrap().push(bytes);
        }
    });
    assert!(!lab.a.ctl(&["up", "b", "--timeout", "5"]).success());
    wait_until(PATIENCE, "b has connected", || {
        !heard.lock().unwrap().is_empty()
    });
    lab.a.ctl_ok(&["down", "b"]);
    wait_until(PATIENCE, "each connection is closed", || {
        heard.lock().unwrap().len() == server.accepted()
    });
    for bytes in heard.lock().unwrap().iter() {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        assert_eq!(bytes.len(), 2 + length, "one check");
        // A Binding request of RFC 8489.
        assert_eq!(bytes[2..4], [0, 1]);
        assert_eq!(bytes[6..10], 0x2112_a442_u32.to_be_bytes());
    }
    assert!(!is_over_tcp(&lab.a, "b") && !is_over_tcp(&lab.b, "a"));
}

#[test]
fn whoever_has_switched_tcp_off_neither_connects_nor_listens() {
    need_lab!();
    let lab = lab("off", [&format!("{PORT}{OFF}"), PORT]);
    assert!(lab.server.is_refused(listener(&lab)));
    assert!(!lab.a.ctl_ok(&["status"]).contains("TCP ports"));
    assert!(!lab.a.ctl(&["up", "b", "--timeout", "5"]).success());
    assert!(!is_over_tcp(&lab.a, "b") && !is_over_tcp(&lab.b, "a"));
}

/// Packets go directly over TCP both ways, and the port is open to nobody else.
#[track_caller]
fn expect_simultaneous_open(lab: &Lab) {
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("direct over TCP"), "{said}");
    lab.b.wait_for_peer_state("a", "connected");
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        assert!(is_over_tcp(host, peer), "{:#?}", host.why(peer));
        host.ctl_ok(&["ping", peer, "-c", "3"]);
    }
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7000));
    // The next connection is between the same two ports, which are free at once.
    lab.a.ctl_ok(&["down", "b"]);
    wait_until(PATIENCE, "the connection is over", || {
        !is_over_tcp(&lab.b, "a")
    });
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("direct over TCP"), "{said}");
}

#[test]
fn two_firewalls_that_let_nobody_in_are_passed_when_both_connect_at_the_same_time() {
    need_lab!();
    let mut lab = Lab::bare("fire", Kinds::Apart("firewall", "firewall"), &[]);
    let rules = "table inet blocked { chain here { type filter hook forward priority -1; meta l4proto udp drop; }; }";
    for router in ["ra", "rb"] {
        lab.namespace(router).exec_ok(&["nft", rules]);
    }
    lab.start_with([PORT, PORT]);
    expect_simultaneous_open(&lab);
}

/// Only STUN over TCP tells as what the port is seen.
#[test]
fn two_nats_that_keep_the_port_are_passed_likewise() {
    need_lab!();
    let mut lab = Lab::bare("nats", Kinds::Apart("udp-blocked", "udp-blocked"), &[]);
    lab.start_with([PORT, PORT]);
    expect_simultaneous_open(&lab);
}
