//! Garbage and strangers from outside: the tunnel works on, nobody gets in, and the log stays short.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};

use harness::{Echo, Host, Lab, Stranger, fill, tool};

/// The addresses to which others send.
fn addresses(host: &Host) -> Vec<SocketAddr> {
    let status = host.ctl_json(&["status"]);
    let candidates = status["network"]["candidates"].as_array().unwrap();
    let all = candidates
        .iter()
        .map(|candidate| candidate["address"].as_str().unwrap());
    all.map(|address| address.parse().unwrap()).collect()
}

// --- datagrams ---

/// Random bytes; beginnings of STUN and WireGuard messages of every type and length, and whole ones with random contents.
fn garbage(random: &mut u64) -> Vec<Vec<u8>> {
    let mut bytes = |length: usize| {
        let mut bytes = vec![0; length];
        fill(random, &mut bytes);
        bytes
    };
    let mut all: Vec<_> = [0, 1, 2, 19, 20, 31, 32, 148, 1200, 1472, 9000, 65_507]
        .map(&mut bytes)
        .into();
    for kind in [0x0001_u16, 0x0011, 0x0101, 0x0111, 0x3fff] {
        for (length, claimed) in [(0, 0), (8, 8), (8, 4000), (100, 96), (3, 3), (40, 0)] {
            let mut message = kind.to_be_bytes().to_vec();
            message.extend(u16::to_be_bytes(claimed));
            message.extend(0x2112_a442_u32.to_be_bytes());
            message.extend(bytes(12 + length));
            all.extend(
                (0..message.len())
                    .step_by(7)
                    .map(|end| message[..end].to_vec()),
            );
            all.push(message);
        }
    }
    for (kind, length) in [
        (1_u32, 148),
        (2, 92),
        (3, 64),
        (4, 32),
        (4, 96),
        (4, 1452),
        (0, 148),
        (5, 148),
    ] {
        let mut message = kind.to_le_bytes().to_vec();
        message.extend(bytes(length - 4));
        all.extend((0..length).step_by(11).map(|end| message[..end].to_vec()));
        all.push(message);
    }
    all
}

#[test]
fn garbage_datagrams_disturb_nobody() {
    need_lab!();
    let mut lab = Lab::exposed("garb");
    lab.add_servers();
    lab.connect();
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    let mut stream = lab
        .a
        .connect_tcp(SocketAddr::new(lab.b.ipv4(), 7000))
        .unwrap();
    let targets: Vec<_> = lab
        .hosts()
        .iter()
        .flat_map(|host| addresses(host))
        .collect();
    let stun =
        [3478, 3479].map(|port| SocketAddr::new(lab.env("SERVER_IPV4").parse().unwrap(), port));
    let before = lab.hosts().map(|host| {
        (
            host.dropped("not_for_us"),
            host.punchd.log_text().lines().count(),
        )
    });
    let stun_before = lab.stun.log_text().lines().count();
    let (from_server, from_a) = (&lab.server, &lab.a);
    let socket = from_server.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let asker = from_a.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let (mut random, mut sent) = (7, 0);
    for _ in 0..10 {
        for datagram in garbage(&mut random) {
            for target in &targets {
                // Addresses inside a's LAN cannot be sent to from here.
                sent += u64::from(socket.send_to(&datagram, target).is_ok());
            }
            for server in &stun {
                let _ = asker.send_to(&datagram, server);
            }
        }
        stream.write_all(b"still there?").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    for (host, (refused, lines)) in lab.hosts().into_iter().zip(before) {
        assert!(
            host.dropped("not_for_us") >= refused + 1000,
            "{}: of {sent}",
            host.name
        );
        let lines = host.punchd.log_text().lines().count() - lines;
        assert!(lines < 10, "{lines} lines in the log for {sent} datagrams");
        assert_eq!(
            host.peer_state(if host.name == "a" { "b" } else { "a" }),
            "connected"
        );
    }
    socket.set_nonblocking(true).unwrap();
    let answer = socket.recv_from(&mut [0; 2000]);
    assert!(answer.is_err(), "somebody answered: {answer:?}");
    assert!(lab.stun.is_running() && lab.stun.log_text().lines().count() < stun_before + 10);
    lab.a.ctl_ok(&["netcheck"]);
}

#[test]
fn punch_signal_survives_what_is_no_websocket() {
    need_lab!();
    let mut lab = Lab::exposed("http");
    let address = format!("{}:8080", lab.env("SERVER_IPV4")).parse().unwrap();
    let lines = lab.signal.log_text().lines().count();
    let mut random = 9;
    let mut noise = vec![0; 100_000];
    fill(&mut random, &mut noise);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\nx";
    let half = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for text in [
        &noise[..],
        long.as_bytes(),
        many.as_bytes(),
        body.as_bytes(),
        half.as_bytes(),
        b"\r\n\r\n",
        b"",
    ] {
        let mut stream = lab.a.connect_tcp(address).unwrap();
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Refused or closed, but not left open.
        let end = stream.read_to_end(&mut Vec::new());
        assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    }
    assert!(lab.signal.is_running());
    assert!(lab.signal.log_text().lines().count() < lines + 10);
    lab.add_servers();
    lab.connect();
}

// --- strangers ---

#[test]
fn a_stranger_meets_silence() {
    need_lab!();
    let mut lab = Lab::exposed("strn");
    lab.add_servers();
    lab.connect();
    // Whatever b sends to the stranger's machine, but for what it asks the STUN server there.
    let rules = "add table inet watch; \
        add chain inet watch out { type filter hook output priority 0; }; \
        add rule inet watch out ip daddr { 203.0.113.1, 203.0.113.2 } udp dport != { 3478, 3479 } counter";
    let nft = tool("nft", "nftables");
    lab.b.exec_ok(&[&nft, rules]);
    let stranger = Stranger::start(&lab);
    stranger
        .ctl(&["server", "add", "signal", "ws://203.0.113.1:8080"])
        .ok();
    stranger.ctl(&["server", "add", "stun", "203.0.113.2"]).ok();
    stranger.ctl(&["peer", "add", "b", lab.b.key()]).ok();
    assert!(!stranger.ctl(&["up", "b", "--timeout", "5"]).success());
    assert!(
        lab.b.dropped("stranger") >= 1,
        "its offer came, and was counted"
    );
    let state = stranger.ctl(&["peers", "--json"]).ok();
    assert!(!state.contains("\"connected\""), "{state}");
    // The same straight to b's door, with the key that b has told nobody about.
    stranger.ctl(&["peer", "remove", "b"]).ok();
    let before = lab.b.dropped("not_for_us");
    let key = lab.b.ctl_json(&["id"])["wireguard"]
        .as_str()
        .unwrap()
        .to_owned();
    let port = lab.b.ctl_json(&["status"])["network"]["port_v4"].clone();
    let endpoint = format!("{}:{port}", lab.env("B_PUBLIC_IPV4"));
    let ask = [
        "peer",
        "add",
        "b",
        "--wireguard",
        &key,
        "--endpoint",
        &endpoint,
        "--address",
    ];
    stranger
        .ctl(&[&ask[..], &[&lab.b.ipv4().to_string()]].concat())
        .ok();
    assert!(!stranger.ctl(&["up", "b", "--timeout", "3"]).success());
    assert!(
        lab.b.dropped("not_for_us") > before,
        "its handshake came, and was counted"
    );
    let counted = || lab.b.exec_ok(&[&nft, "list", "table", "inet", "watch"]);
    let count = counted();
    assert!(count.contains("counter packets 0 "), "b answered: {count}");
    // It does count.
    let socket = lab.b.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.send_to(b"x", "203.0.113.1:9").unwrap();
    let count = counted();
    assert!(count.contains("counter packets 1 "), "{count}");
    let log = lab.b.punchd.log_text();
    assert!(
        !log.to_lowercase().contains("stranger"),
        "no line for each: {log}"
    );
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
    lab.b.ctl_ok(&["ping", "a", "-c", "2"]);
    assert!(lab.b.punchd.is_running());
}
