//! Who may reach what: nothing by default, and exactly what was shared after that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use harness::{Echo, Host, Lab, Namespace, PATIENCE, wait_until};
use punch_signal_protocol::Identity;

const NATS: (&str, &str) = ("port-restricted", "full-cone");

fn connected(hint: &str) -> Lab {
    Lab::connected(hint, NATS.0, NATS.1)
}

fn overlay(host: &Host) -> [IpAddr; 2] {
    [host.ipv4(), host.ipv6()]
}

/// Sends a datagram and waits for an answer or an ICMP error.
fn ask(from: &Namespace, to: SocketAddr) -> io::Result<Vec<u8>> {
    let socket =
        from.inside(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    let mut buffer = vec![0; 1500];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn is_refused_udp(from: &Namespace, to: SocketAddr) -> bool {
    ask(from, to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Answers each datagram with itself.
fn udp_echo(host: &Namespace, address: &str) {
    let socket = host.inside(|| UdpSocket::bind(address)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// A key of nobody here.
fn stranger() -> String {
    Identity::from_seed(&[9; 32]).id().to_string()
}

#[test]
fn nothing_is_reachable_by_default_and_refused_at_once() {
    need_lab!();
    let lab = connected("deny");
    // Programs that listen everywhere, so that only the daemon stands between.
    let _tcp = Echo::start(&lab.b, "[::]:7100");
    udp_echo(&lab.b, "[::]:7100");
    for address in overlay(&lab.b) {
        for port in [7100, 22, 1] {
            let to = SocketAddr::new(address, port);
            assert!(lab.a.is_refused(to), "tcp {to}");
            assert!(is_refused_udp(&lab.a, to), "udp {to}");
        }
    }
    let dropped = &lab.b.ctl_json(&["status"])["dropped"];
    assert_eq!(
        dropped["refused"], 12,
        "each refusal was counted: {dropped}"
    );
}

#[test]
fn a_forward_opens_one_port_of_one_protocol() {
    need_lab!();
    let lab = connected("port");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    udp_echo(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["forward", "tcp", "7100"]);
    for address in overlay(&lab.b) {
        let to = SocketAddr::new(address, 7100);
        lab.a.expect_echo(to);
        assert!(is_refused_udp(&lab.a, to), "udp was not shared");
        assert!(
            lab.a.is_refused(SocketAddr::new(address, 7101)),
            "nor was the next port"
        );
    }
    lab.b.ctl_ok(&["forward", "udp", "7100"]);
    for address in overlay(&lab.b) {
        assert_eq!(
            ask(&lab.a, SocketAddr::new(address, 7100)).unwrap(),
            b"hello"
        );
    }
    lab.b.ctl_ok(&["unforward", "tcp", "7100"]);
    lab.b.ctl_ok(&["unforward", "udp", "7100"]);
    for address in overlay(&lab.b) {
        let to = SocketAddr::new(address, 7100);
        assert!(lab.a.is_refused(to), "the forward is gone");
        assert!(is_refused_udp(&lab.a, to), "the forward is gone");
    }
}

#[test]
fn unforward_ends_the_connections_that_use_it() {
    need_lab!();
    let lab = connected("unfw");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["forward", "tcp", "7100"]);
    let mut stream = lab
        .a
        .connect_tcp(SocketAddr::new(lab.b.ipv4(), 7100))
        .unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    lab.b.ctl_ok(&["unforward", "tcp", "7100"]);
    let end = stream.read(&mut [0]);
    assert!(
        end.as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
}

#[test]
fn a_forward_for_another_peer_is_refused() {
    need_lab!();
    let lab = connected("othr");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["peer", "add", "c", &stranger()]);
    lab.b.ctl_ok(&["forward", "tcp", "7100", "--peer", "c"]);
    lab.b.ctl_ok(&[
        "forward",
        "tcp",
        "7200",
        "--to",
        "127.0.0.1:7100",
        "--peer",
        "c",
        "--peer",
        "a",
    ]);
    for address in overlay(&lab.b) {
        assert!(lab.a.is_refused(SocketAddr::new(address, 7100)));
        lab.a.expect_echo(SocketAddr::new(address, 7200));
    }
    // When c goes, its forward must not become one for everybody.
    lab.b.ctl_ok(&["peer", "remove", "c"]);
    assert!(lab.a.is_refused(SocketAddr::new(lab.b.ipv4(), 7100)));
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7200));
}

#[test]
fn allow_opens_the_whole_host_and_deny_closes_it_again() {
    need_lab!();
    let lab = connected("host");
    let _tcp = Echo::start(&lab.b, "[::]:7100");
    udp_echo(&lab.b, "[::]:7100");
    let [v4, v6] = overlay(&lab.b).map(|address| SocketAddr::new(address, 7100));
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    for to in [v4, v6] {
        lab.a.expect_echo(to);
    }
    assert_eq!(ask(&lab.a, v4).unwrap(), b"hello");
    // The kernel refuses what does not listen, no longer punchd.
    assert!(lab.a.is_refused(SocketAddr::new(v4.ip(), 7101)));
    let mut established = [v4, v6].map(|to| lab.a.connect_tcp(to).unwrap());
    for stream in &mut established {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    lab.b.ctl_ok(&["deny", "a", "--host"]);
    for stream in &mut established {
        // Reset or silence (a daemon that has just started does not reset what it may have forgotten), but no echo.
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let _ = stream.write_all(b"y");
        let end = stream.read(&mut [0]);
        assert!(end.is_err(), "{end:?}");
    }
    for to in [v4, v6] {
        assert!(lab.a.is_refused(to));
        assert!(is_refused_udp(&lab.a, to));
    }
}

#[test]
fn replies_to_what_the_host_began_come_in() {
    need_lab!();
    let lab = connected("repl");
    let _tcp = Echo::start(&lab.a, "127.0.0.1:7100");
    udp_echo(&lab.a, "127.0.0.1:7100");
    lab.a.ctl_ok(&["forward", "tcp", "7100"]);
    lab.a.ctl_ok(&["forward", "udp", "7100"]);
    for address in overlay(&lab.a) {
        let to = SocketAddr::new(address, 7100);
        lab.b.expect_echo(to);
        assert_eq!(ask(&lab.b, to).unwrap(), b"hello");
        // What was refused comes back too, although b shares nothing.
        assert!(is_refused_udp(&lab.b, SocketAddr::new(address, 7101)));
    }
    for address in overlay(&lab.b) {
        assert!(
            lab.a.is_refused(SocketAddr::new(address, 7100)),
            "that opened nothing on b"
        );
    }
}

#[test]
fn overlay_addresses_answer_pings() {
    need_lab!();
    let lab = connected("ping");
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        for address in overlay(to) {
            let address = address.to_string();
            from.exec_ok(&["ping", "-c", "2", "-i", "0.2", "-w", "30", &address]);
            // Larger than the tunnel's MTU: in fragments.
            from.exec_ok(&["ping", "-c", "1", "-s", "3000", "-w", "30", &address]);
        }
        let answers = from.ctl_json(&["ping", &to.name, "-c", "2"]);
        assert_eq!(answers.as_array().unwrap().len(), 2, "{answers}");
    }
}

#[test]
fn down_ends_it_and_refuses_traffic() {
    need_lab!();
    let lab = connected("down");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["forward", "tcp", "7100"]);
    let to = overlay(&lab.b).map(|address| SocketAddr::new(address, 7100));
    lab.a.expect_echo(to[0]);
    lab.a.ctl_ok(&["down", "b"]);
    assert_eq!(lab.a.peer_state("b"), "refused");
    lab.b.wait_for_peer_state("a", "down");
    for to in to {
        // At once, by an ICMP error of its own punchd: a silent drop would last minutes.
        let error = lab.a.connect_tcp(to).expect_err("there is no connection");
        assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    let refused = lab.a.ctl_refused(&["ping", "b", "-c", "1"]);
    assert!(refused.contains("b is not connected"), "{refused}");
    lab.a.ctl_ok(&["up", "b", "--timeout", "60"]);
    lab.a.expect_echo(to[0]);
}

#[test]
fn a_removed_peer_is_a_stranger() {
    need_lab!();
    let lab = connected("gone");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["forward", "tcp", "7100", "--peer", "a"]);
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7100));
    lab.b.ctl_ok(&["peer", "remove", "a"]);
    assert_eq!(lab.b.ctl_json(&["peers"]), serde_json::json!([]));
    assert_eq!(
        lab.b.ctl_json(&["forwards"]),
        serde_json::json!([]),
        "a's own forward went with it"
    );
    for address in overlay(&lab.a) {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let routes = lab
            .b
            .exec_ok(&["ip", family, "route", "show", &address.to_string()]);
        assert_eq!(routes, "", "no route is left");
    }
    wait_until(PATIENCE, "a notices", || {
        lab.a.peer_state("b") != "connected"
    });
    assert!(
        !lab.a.ctl(&["up", "b", "--timeout", "4"]).success(),
        "b does not even answer"
    );
    lab.b.ctl_ok(&["peer", "add", "a", lab.a.key()]);
    // Who types `up` again does not wait for the next attempt that is due anyway.
    lab.a.ctl_ok(&["up", "b", "--timeout", "10"]);
    assert!(
        lab.a.is_refused(SocketAddr::new(lab.b.ipv4(), 7100)),
        "and what it had before is not given back"
    );
}

#[test]
fn a_renamed_peer_keeps_connection_and_rights() {
    need_lab!();
    let lab = connected("name");
    let _tcp = Echo::start(&lab.b, "127.0.0.1:7100");
    lab.b.ctl_ok(&["forward", "tcp", "7100", "--peer", "a"]);
    let mut stream = lab
        .a
        .connect_tcp(SocketAddr::new(lab.b.ipv4(), 7100))
        .unwrap();
    lab.b.ctl_ok(&["peer", "rename", "a", "laptop"]);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    assert_eq!(lab.b.peer_state("laptop"), "connected");
    assert_eq!(
        lab.b.ctl_json(&["forwards"])[0]["peers"],
        serde_json::json!(["laptop"])
    );
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7100));
}

/// A peer with valid keys that lies about its source address: the packets of a WireGuard session must carry its own.
#[test]
fn a_peer_cannot_use_an_address_that_is_not_its_own() {
    need_lab!();
    let lab = connected("spoof");
    udp_echo(&lab.b, "[::]:7100");
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    assert_eq!(
        ask(&lab.a, SocketAddr::new(lab.b.ipv4(), 7100)).unwrap(),
        b"hello"
    );
    lab.a
        .exec_ok(&["ip", "address", "add", "100.64.77.77/32", "dev", "punch0"]);
    let socket = lab.a.inside(|| UdpSocket::bind("100.64.77.77:0")).unwrap();
    socket
        .send_to(b"lie", SocketAddr::new(lab.b.ipv4(), 7100))
        .unwrap();
    wait_until(PATIENCE, "b counts the lie", || {
        lab.b.ctl_json(&["status"])["dropped"]["wrong_source"] == 1
    });
    assert_eq!(
        ask(&lab.a, SocketAddr::new(lab.b.ipv4(), 7100)).unwrap(),
        b"hello",
        "the true address still works"
    );
}
