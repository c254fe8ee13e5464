//! Two machines that both have a tunnel to a third one reach each other through it.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use harness::{Echo, Host, Kinds, Lab, PATIENCE, wait_until};
use punch_api::{MEETING_PORT, PathKind};
use punch_signal_protocol::{Frame, Identity, Refusal, meeting_url};
use tokio_tungstenite::tungstenite::protocol::WebSocket;
use tokio_tungstenite::tungstenite::{self, Message};

/// a and b behind routers that pass nothing of each other on, and a third machine that both are connected to.
struct Three {
    lab: Lab,
    home: Host,
}

impl Three {
    fn start(hint: &str, kinds: [&str; 2]) -> Self {
        let mut lab = Lab::bare(hint, Kinds::Apart(kinds[0], kinds[1]), &[]);
        let mut home = lab.home();
        lab.start_with(["", ""]);
        home.start();
        home.ctl_ok(&["server", "add", "signal", &lab.signal_url("a")]);
        home.wait_for_signal();
        for host in [&lab.a, &lab.b] {
            home.ctl_ok(&["peer", "add", &host.name, host.key()]);
            host.ctl_ok(&["peer", "add", "home", home.key()]);
            host.ctl_ok(&["up", "home", "--timeout", "30"]);
            home.wait_for_peer_state(&host.name, "connected");
        }
        lab.part();
        Self { lab, home }
    }

    fn place(&self) -> SocketAddr {
        SocketAddr::new(self.home.ipv6(), MEETING_PORT)
    }

    fn allow(&self) {
        for host in [&self.lab.a, &self.lab.b] {
            self.home.ctl_ok(&["allow", &host.name, "--relay"]);
            wait_until(PATIENCE, "it has come to the meeting place", || {
                host.peer("home")["meeting"] == "connected"
            });
        }
    }
}

fn is_relayed_by_home(host: &Host, peer: &str) -> bool {
    let path = host.why(peer).path;
    path.is_some_and(|path| path.kind == PathKind::Relayed && path.via.as_deref() == Some("home"))
}

#[test]
fn two_machines_meet_at_a_third_with_no_server_left_until_it_says_otherwise() {
    need_lab!();
    let mut three = Three::start("meet", ["port-restricted", "port-restricted"]);
    three.lab.signal.kill();
    three.lab.stun.kill();
    let place = three.place();
    let Three { lab, home } = &three;
    let (a, b) = (&lab.a, &lab.b);
    let _echo = Echo::start(b, "127.0.0.1:7000");
    b.ctl_ok(&["forward", "tcp", "7000"]);
    let to = SocketAddr::new(b.ipv6(), 7000);

    // Nobody is allowed, then one alone: nothing is there, and nobody to be met.
    assert!(a.is_refused(place) && b.is_refused(place));
    home.ctl_ok(&["allow", "a", "--relay"]);
    wait_until(PATIENCE, "a has come to the meeting place", || {
        a.peer("home")["meeting"] == "connected"
    });
    assert!(b.is_refused(place));
    a.ctl_refused(&["up", "b", "--timeout", "2"]);
    assert_eq!(b.peer("home")["meeting"], serde_json::Value::Null);

    three.allow();
    let said = a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("relayed by home"), "{said}");
    b.wait_for_peer_state("a", "connected");
    a.expect_echo(to);
    for (host, peer) in [(a, "b"), (b, "a")] {
        assert!(is_relayed_by_home(host, peer), "{:#?}", host.why(peer));
        for command in [
            &["peers"][..],
            &["status"],
            &["why", peer],
            &["ping", peer, "-c", "1"],
        ] {
            let text = host.ctl_ok(command);
            assert!(text.contains("relayed by home"), "{command:?}: {text}");
        }
        let servers = host.ctl_ok(&["server", "list"]);
        assert!(!servers.contains("home"), "{servers}");
    }
    let log = a.punchd.log_text();
    assert!(log.contains("packets to b are relayed by home"), "{log}");
    for name in ["a", "b"] {
        let relayed = home.peer(name)["relayed"].clone();
        assert_eq!(relayed["present"], true);
        assert!(relayed["from_bytes"].as_u64() > Some(0), "{relayed}");
        assert!(relayed["to_bytes"].as_u64() > Some(0), "{relayed}");
    }
    let socket = home.socket.display().to_string();
    let metrics = [
        "curl",
        "-s",
        "--unix-socket",
        &socket,
        "http://punch/metrics",
    ];
    let metrics = home.exec_ok(&metrics);
    assert!(
        metrics.contains("punch_peer_relayed_bytes_total{peer=\"a\",direction=\"from\"}"),
        "{metrics}"
    );

    // A direct path takes over where there is one, and home again when it is gone.
    lab.heal();
    wait_until(2 * PATIENCE, "a direct path serves", || {
        !is_relayed_by_home(a, "b") && a.peer_state("b") == "connected"
    });
    a.expect_echo(to);
    lab.part();
    wait_until(PATIENCE, "home serves", || is_relayed_by_home(a, "b"));
    a.expect_echo(to);

    // Both processes at the ends of the connection may be others.
    home.ctl_ok(&["deny", "b", "--relay"]);
    wait_until(PATIENCE, "b is no longer met", || {
        a.peer_state("b") != "connected" && b.peer("home")["meeting"].is_null()
    });
    assert!(b.is_refused(place));
    assert_eq!(home.peer("b")["relayed"], serde_json::Value::Null);
    assert_eq!(a.peer("home")["meeting"], "connected");

    home.ctl_ok(&["allow", "b", "--relay"]);
    wait_until(PATIENCE, "b is met again", || is_relayed_by_home(a, "b"));
    home.ctl_ok(&["peer", "remove", "b"]);
    wait_until(PATIENCE, "who is no peer is not met", || {
        a.peer_state("b") != "connected"
    });
}

#[test]
fn a_meeting_place_outlasts_other_processes_at_either_end() {
    need_lab!();
    let mut three = Three::start("mrst", ["symmetric", "udp-blocked"]);
    three.allow();
    three.lab.signal.kill();
    three.lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(is_relayed_by_home(&three.lab.a, "b"));
    three.lab.start_signal();
    for _ in 0..2 {
        three.lab.a.restart();
        three.home.restart();
        wait_until(2 * PATIENCE, "a and b meet again", || {
            three.lab.a.peer("home")["meeting"] == "connected"
                && three.lab.b.peer("home")["meeting"] == "connected"
        });
    }
    three.lab.signal.kill();
    wait_until(PATIENCE, "b answers", || {
        three.lab.a.ctl(&["ping", "b", "-c", "1"]).success()
    });
}

/// A guest's own connection, past its punchd.
fn visit(host: &Host, place: SocketAddr, url: &str) -> WebSocket<TcpStream> {
    let stream = host.connect_tcp(place).unwrap();
    let (socket, _) = tungstenite::client(url, stream).unwrap();
    socket
}

fn next_frame(socket: &mut WebSocket<TcpStream>) -> Frame {
    loop {
        match socket.read().unwrap() {
            Message::Binary(bytes) => return Frame::decode(&bytes).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guest_is_itself_alone_and_bounded_whatever_it_says() {
    need_lab!();
    let three = Three::start("mbad", ["port-restricted", "port-restricted"]);
    three.allow();
    let place = three.place();
    let (a, home) = (&three.lab.a, &three.home);
    let url = meeting_url(&home.key().parse().unwrap());
    let authority = format!("[{}]:{MEETING_PORT}", home.ipv6());

    // A guest that logs in as somebody else, whose key it even has, is refused.
    let mut socket = visit(a, place, &url);
    let Frame::Challenge(nonce) = next_frame(&mut socket) else {
        panic!("no challenge");
    };
    let proof = Frame::proof(&Identity::from_seed(&[7; 32]), &nonce, &authority);
    socket.send(Message::Binary(proof.encode().into())).unwrap();
    assert_eq!(next_frame(&mut socket), Frame::Refused(Refusal::BadProof));

    // Bytes that are no HTTP, and a message that is no frame, end the connection.
    let mut garbage = a.connect_tcp(place).unwrap();
    garbage.write_all(&[0xff; 4096]).unwrap();
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest);
    let mut socket = visit(a, place, &url);
    next_frame(&mut socket);
    socket.send(Message::Binary(vec![9; 100].into())).unwrap();
    assert_eq!(next_frame(&mut socket), Frame::Refused(Refusal::BadFrame));

    // Of many connections at once a few are heard, and the place is there for the other guest all the same.
    let many: Vec<_> = (0..200).map(|_| a.connect_tcp(place)).collect();
    let held = many.iter().flatten().count();
    eprintln!("{held} of 200 connections were taken");
    let is_open = |mut stream: &TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let read = stream.read(&mut [0; 1]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    wait_until(PATIENCE, "few are left", || {
        many.iter()
            .flatten()
            .filter(|stream| is_open(stream))
            .count()
            <= 4
    });
    assert_eq!(three.lab.b.peer("home")["meeting"], "connected");
    assert_eq!(home.peer("b")["relayed"]["present"], true);
    drop(many);
    wait_until(PATIENCE, "a is there as before", || {
        a.peer("home")["meeting"] == "connected"
    });
}

#[test]
fn a_forward_and_the_meeting_place_do_not_share_a_port_and_only_peers_that_know_of_it_are_guests() {
    need_lab!();
    let mut lab = Lab::bare("mprt", Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    lab.b.start();
    lab.introduce();
    let (a, b) = (&lab.a, &lab.b);
    let key = "eHiBq8Xu3rTn1Zjz0CzyW6lVJ3v1mJ0qv3b8mQ2nV3E=";
    a.ctl_ok(&[
        "peer",
        "add",
        "printer",
        "--wireguard",
        key,
        "--address",
        "10.9.0.7",
    ]);
    let refused = a.ctl_refused(&["allow", "printer", "--relay"]);
    assert!(refused.contains("plain WireGuard"), "{refused}");

    a.ctl_ok(&["forward", "tcp", "45000-45200", "--to", "127.0.0.1:1000"]);
    let refused = a.ctl_refused(&["allow", "b", "--relay"]);
    assert!(
        refused.contains("punchctl unforward tcp 45000-45200"),
        "{refused}"
    );
    a.ctl_ok(&["unforward", "tcp", "45000-45200"]);
    let said = a.ctl_ok(&["allow", "b", "--relay"]);
    assert!(said.contains("b may meet others here"), "{said}");
    let refused = a.ctl_refused(&["forward", "tcp", "45117"]);
    assert!(refused.contains("meet at TCP port 45117"), "{refused}");
    a.ctl_ok(&["forward", "udp", "45117"]);
    assert_eq!(a.peer("b")["relay"], true);
    assert_eq!(b.peer("a")["relay"], false);
    lab.a.restart();
    assert_eq!(lab.a.peer("b")["relay"], true, "it is remembered");
    lab.a.ctl_ok(&["deny", "b", "--relay"]);
    assert_eq!(lab.a.peer("b")["relay"], false);
    lab.a.ctl_ok(&["forward", "tcp", "45117"]);
    for wrong in [&["deny", "b"][..], &["deny", "b", "--host", "--relay"]] {
        let said = lab.a.ctl(wrong);
        assert!(!said.success(), "{wrong:?}");
        assert!(said.stderr.contains("--host|--relay"), "{said:?}");
    }
}
