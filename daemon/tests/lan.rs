//! Peers in one network find each other without any server and without the internet.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Kinds, Lab, PATIENCE, wait_until};
use punch_signal_protocol::lan::{GROUP_V4, HEADER, PORT};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// The router's address in the network of both hosts.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);

/// Two hosts in one network that know each other; a wants b. There is no server, and b does not run.
fn known(hint: &str, kind: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::SameLan(kind), &[]);
    lab.a.start();
    lab.b.start();
    lab.introduce();
    lab.b.stop();
    lab.a.ctl(&["up", "b", "--timeout", "1"]);
    lab
}

#[track_caller]
fn expect_connected(lab: &Lab) {
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
}

#[track_caller]
fn expect_met_over_the_lan(lab: &Lab) {
    expect_connected(lab);
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        assert_eq!(host.peer(peer)["path"]["met_over"]["channel"], "lan");
        let met = host.why(peer).path.unwrap().met_over.unwrap();
        assert_eq!(met.to_string(), "over the LAN");
        wait_until(PATIENCE, "the peer is heard", || {
            let heard = &host.ctl_json(&["status"])["lan"]["heard"];
            heard[0]["peer"] == *peer
        });
    }
}

#[test]
fn two_machines_in_one_network_meet_without_any_server() {
    need_lab!();
    for kind in ["port-restricted", "ipv6-firewall"] {
        let mut lab = known("lan", kind);
        lab.b.start();
        expect_met_over_the_lan(&lab);
        let lan = &lab.a.ctl_json(&["status"])["lan"];
        assert_eq!(
            lan["links"],
            json!(["eth0"]),
            "not the tunnel, and no loopback"
        );
        assert_eq!(lan["trouble"], Value::Null);
        let text = lab.a.ctl_ok(&["status"]);
        assert!(text.contains("peers are called on eth0"), "{text}");
        let log = lab.a.punchd.log_text();
        assert!(log.contains("connected to b, met over the LAN"), "{log}");
    }
}

/// The network hears that a peer is none any more before the goodbye has gone there.
#[test]
fn a_peer_that_is_removed_hears_the_goodbye() {
    need_lab!();
    let mut lab = known("lang", "port-restricted");
    lab.b.start();
    expect_met_over_the_lan(&lab);
    lab.a.ctl_ok(&["peer", "remove", "b"]);
    // Of a peer that was lost in silence, b would await that it comes back.
    lab.b.wait_for_peer_state("a", "down");
}

/// Prints how long it takes from the second daemon's start until both are connected. `RUNS` says how often; a time is no verdict.
#[test]
fn how_long_it_takes_to_meet() {
    need_lab!();
    let runs = std::env::var("RUNS").map_or(1, |runs| runs.parse().unwrap());
    let mut times = Vec::new();
    for _ in 0..runs {
        let mut lab = known("lanm", "port-restricted");
        let began = Instant::now();
        lab.b.start();
        lab.a.wait_for_peer_state("b", "connected");
        times.push(began.elapsed());
        expect_connected(&lab);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    eprintln!("met over the LAN, p50 of {runs}: {median:?}, all: {times:?}");
}

#[test]
fn a_network_that_comes_back_brings_them_together_and_one_that_is_off_is_told() {
    need_lab!();
    let mut lab = known("lanb", "port-restricted");
    let router = lab.namespace("ra");
    let cable = |state: &str| {
        router.exec_ok(&["ip", "link", "set", "lan-b", state]);
    };
    cable("down");
    lab.b.start();
    let links = || lab.b.ctl_json(&["status"])["lan"]["links"].clone();
    wait_until(PATIENCE, "there is no network", || links() == json!([]));
    lab.b.ctl(&["up", "a", "--timeout", "1"]);
    cable("up");
    expect_met_over_the_lan(&lab);
    cable("down");
    wait_until(PATIENCE, "a has lost b", || {
        lab.a.peer_state("b") != "connected"
    });
    cable("up");
    expect_met_over_the_lan(&lab);
}

#[test]
fn where_multicast_is_dropped_nothing_happens_and_a_server_brings_them_together() {
    need_lab!();
    let mut lab = known("lani", "port-restricted");
    let rules = format!(
        "table bridge isolation {{ chain here {{ type filter hook forward priority 0; ip daddr {GROUP_V4} drop; ip6 daddr ff02::7075:6e63 drop; }}; }}"
    );
    lab.namespace("ra").exec_ok(&["nft", &rules]);
    lab.b.start();
    lab.b.ctl(&["up", "a", "--timeout", "1"]);
    let lan = &lab.b.ctl_json(&["status"])["lan"];
    assert_eq!((&lan["heard"], &lan["trouble"]), (&json!([]), &Value::Null));
    assert_ne!(lab.a.peer_state("b"), "connected");
    wait_until(PATIENCE, "b is not there any more", || {
        let why = lab.a.why("b").summary;
        why.contains("no signalling server, and b is not heard in its networks (eth0)")
    });
    lab.start_servers();
    lab.add_servers();
    expect_connected(&lab);
    assert_eq!(lab.a.peer("b")["path"]["met_over"]["channel"], "server");
}

#[test]
fn a_switched_off_lan_is_left_alone() {
    need_lab!();
    let mut lab = Lab::bare("lano", Kinds::SameLan("port-restricted"), &[]);
    let sent = lab.namespace("ra").count("input", "udp dport 45117");
    for host in [&mut lab.a, &mut lab.b] {
        host.configure("[lan]\nenabled = false\n");
        host.start();
    }
    lab.introduce();
    let waits = lab.a.ctl_refused(&["up", "b", "--timeout", "1"]);
    assert!(waits.contains("no signalling server"), "{waits}");
    assert_eq!(lab.a.ctl_json(&["status"])["lan"], Value::Null);
    assert_eq!(sent.packets(), 0);
}

/// A socket in the group, as anybody in the network can have one.
fn listener() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
        .bind(&SocketAddr::from((GROUP_V4, PORT)).into())
        .unwrap();
    let socket = UdpSocket::from(socket);
    socket
        .join_multicast_v4(&GROUP_V4, &Ipv4Addr::UNSPECIFIED)
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket
}

#[test]
fn strangers_who_call_ten_thousand_times_a_second_stop_nobody() {
    need_lab!();
    let mut lab = known("lanf", "port-restricted");
    let router = lab.namespace("ra");
    // From the network's own address, and to its group.
    let socket = router.inside(|| UdpSocket::bind((ROUTER, 0)).unwrap());
    let listener = lab.a.inside(listener);
    let other: IpAddr = lab.env("B_IPV4").parse().unwrap();
    let over = AtomicBool::new(false);
    let strangers = |lab: &Lab| {
        lab.b.ctl_json(&["status"])["lan"]["strangers"]
            .as_u64()
            .unwrap()
    };
    let key = lab.a.key().to_owned();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (mut datagram, mut sent) = ([0xab; HEADER], 0_u64);
            while !over.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    sent += 1;
                    datagram[..8].copy_from_slice(&sent.to_be_bytes());
                    let _ = socket.send_to(&datagram, (GROUP_V4, PORT));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            sent
        });
        let observer = scope.spawn(|| {
            let (mut buffer, mut seen) = ([0; 2048], BTreeSet::new());
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = listener.recv_from(&mut buffer)
                    && from.ip() == other
                {
                    seen.insert((from.port(), buffer[..length].to_vec()));
                }
            }
            seen
        });
        lab.b.start();
        expect_met_over_the_lan(&lab);
        wait_until(PATIENCE, "b has got many strangers' datagrams", || {
            strangers(&lab) > 20_000
        });
        over.store(true, Ordering::Relaxed);
        eprintln!("{} datagrams of strangers were sent", flood.join().unwrap());
        let seen = observer.join().unwrap();
        assert!(!seen.is_empty());
        for (port, bytes) in &seen {
            assert_eq!((*port, bytes.len()), (PORT, HEADER));
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("punch") && !text.contains(&key));
        }
    });
}

#[test]
fn a_port_that_somebody_has_for_himself_is_told_and_tried_again() {
    need_lab!();
    let mut lab = known("lanp", "port-restricted");
    let taken = lab.b.inside(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    let taken_v6 = lab.b.inside(|| UdpSocket::bind(("::", PORT)));
    lab.b.start();
    let lan = |lab: &Lab| lab.b.ctl_json(&["status"])["lan"].clone();
    wait_until(PATIENCE, "the trouble is told", || {
        let trouble = &lan(&lab)["trouble"];
        trouble.as_str().is_some_and(|text| text.contains("45117"))
    });
    drop((taken, taken_v6));
    wait_until(PATIENCE, "it is tried again", || {
        lan(&lab)["trouble"].is_null()
    });
    expect_met_over_the_lan(&lab);
}
