//! Crashes, restarts and moves: what was wanted comes back by itself, and what has a way goes on. Nothing here is judged by
//! how long it takes; how long it took is printed.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use harness::{Echo, Host, Lab, Namespace, PATIENCE, Server, wait_until};

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

fn connected(hint: &str) -> Lab {
    Lab::connected(hint, NATS.0, NATS.1)
}

/// A TCP connection to an echo server, and what has been said on it.
struct Talk {
    stream: TcpStream,
    said: u64,
}

impl Talk {
    /// Begins a connection from `from` to `to`, where an echo server is.
    #[track_caller]
    fn begin(from: &Namespace, to: SocketAddr) -> Self {
        let stream = from.connect_tcp(to).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut talk = Self { stream, said: 0 };
        talk.go_on("at first");
        talk
    }

    /// Says something and hears it come back.
    #[track_caller]
    fn go_on(&mut self, when: &str) {
        let began = Instant::now();
        self.said += 1;
        let word = self.said.to_be_bytes();
        let mut back = [0; 8];
        let result = self
            .stream
            .write_all(&word)
            .and_then(|()| self.stream.read_exact(&mut back));
        let took = began.elapsed().as_secs_f64();
        if let Err(error) = result {
            panic!("{when}: after {took:.1} s the connection is broken: {error}");
        }
        assert_eq!(back, word, "{when}");
        eprintln!("{when}: {took:.1} s");
    }
}

/// An echo server on b that a reaches by a forward, and a connection to it.
fn forwarded(lab: &Lab) -> (Server, Talk) {
    let echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    let talk = Talk::begin(&lab.a, SocketAddr::new(lab.b.ipv4(), 7000));
    (echo, talk)
}

/// Packets pass again both ways, whatever it takes, and both ends say so.
fn returns(lab: &Lab, after: &str) {
    let began = Instant::now();
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        wait_until(PATIENCE, &format!("{peer} answers after {after}"), || {
            host.ctl(&["ping", peer, "-c", "1"]).success()
        });
        host.wait_for_peer_state(peer, "connected");
    }
    eprintln!("back after {after}: {:.1} s", began.elapsed().as_secs_f64());
}

// --- crashes ---

#[test]
fn a_tunnel_outlives_the_loss_of_both_servers() {
    need_lab!();
    let mut lab = connected("serv");
    let (_echo, mut talk) = forwarded(&lab);
    lab.signal.kill();
    lab.stun.kill();
    for _ in 0..20 {
        talk.go_on("without servers");
        std::thread::sleep(Duration::from_millis(200));
    }
    // New connections too, and the state that both show.
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv6(), 7000));
    assert_eq!(lab.a.peer_state("b"), "connected");
    assert_eq!(lab.b.peer_state("a"), "connected");
    lab.start_servers();
    for host in lab.hosts() {
        host.wait_for_signal();
    }
    talk.go_on("with servers again");
    // And what needs servers works again.
    lab.a.ctl_ok(&["down", "b"]);
    lab.b.wait_for_peer_state("a", "down");
    lab.connect();
}

#[test]
fn everything_may_crash_at_once_and_start_in_any_order() {
    need_lab!();
    let mut lab = connected("all");
    let (_echo, talk) = forwarded(&lab);
    drop(talk);
    let again = |lab: &Lab, after: &str| {
        returns(lab, after);
        Talk::begin(&lab.a, SocketAddr::new(lab.b.ipv4(), 7000));
    };
    let crash = |lab: &mut Lab| {
        lab.a.kill();
        lab.signal.kill();
        lab.b.kill();
        lab.stun.kill();
    };
    crash(&mut lab);
    lab.b.start();
    lab.a.start();
    lab.start_servers();
    again(&lab, "a crash of all, servers last");
    crash(&mut lab);
    lab.start_servers();
    lab.a.start();
    lab.b.start();
    again(&lab, "a crash of all, servers first");
    lab.b.kill();
    lab.signal.kill();
    lab.start_signal();
    lab.b.start();
    again(&lab, "a crash of b and punch-signal");
    lab.stun.kill();
    lab.a.kill();
    lab.a.start();
    lab.stun.start();
    again(&lab, "a crash of a and punch-stun");
}

/// Who crashes.
#[derive(Debug, Clone, Copy)]
enum End {
    Client,
    Server,
}

fn crash(lab: &mut Lab, end: End) {
    let host = match end {
        End::Client => &mut lab.a,
        End::Server => &mut lab.b,
    };
    host.kill();
    assert!(!has_interface(host), "the interface goes with punchd");
    // Long enough for the kernel to find no way for what it repeats.
    std::thread::sleep(Duration::from_secs(1));
    host.start();
}

fn has_interface(host: &Host) -> bool {
    host.exec(&["ip", "link", "show", "punch0"]).success()
}

#[test]
fn a_connection_between_the_kernels_outlives_crashes_of_either_end() {
    need_lab!();
    let mut lab = connected("kern");
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    let _echo = Echo::start(&lab.b, "[::]:7000");
    let to = |ip: IpAddr| SocketAddr::new(ip, 7000);
    let mut talks = [lab.b.ipv4(), lab.b.ipv6()].map(|ip| Talk::begin(&lab.a, to(ip)));
    for end in [End::Client, End::Server, End::Client] {
        // Something is under way when it happens.
        std::thread::scope(|scope| {
            let speak = talks.each_mut().map(|talk| {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(300));
                    talk.go_on("said during the crash");
                })
            });
            crash(&mut lab, end);
            for thread in speak {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        returns(&lab, &format!("a crash of the {end:?}"));
        for talk in &mut talks {
            talk.go_on("after the crash");
        }
    }
}

/// A server that only sends: its client's kernel says nothing by which a new punchd could know the flow, but for the grant.
#[test]
fn a_stream_towards_a_client_goes_on_after_its_crash_if_the_server_may_reach_the_host() {
    need_lab!();
    let mut lab = connected("push");
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    lab.a.ctl_ok(&["allow", "b", "--host"]);
    let stop = Arc::new(AtomicBool::new(false));
    let _server = Server::start(&lab.b, "[::]:7000", {
        let stop = stop.clone();
        move |mut stream| {
            while !stop.load(Ordering::Relaxed) && stream.write_all(b"tick").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let mut stream = lab
        .a
        .connect_tcp(SocketAddr::new(lab.b.ipv4(), 7000))
        .unwrap();
    let mut tick = [0; 4];
    stream.read_exact(&mut tick).unwrap();
    for end in [End::Client, End::Server] {
        crash(&mut lab, end);
        let began = Instant::now();
        // More than what waits in the socket's buffer.
        for _ in 0..100 {
            stream
                .read_exact(&mut tick)
                .unwrap_or_else(|error| panic!("after a crash of the {end:?}: {error}"));
            assert_eq!(&tick, b"tick");
        }
        eprintln!(
            "100 ticks after a crash of the {end:?}: {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }
    stop.store(true, Ordering::Relaxed);
}

#[test]
fn a_stop_says_goodbye_and_leaves_nothing() {
    need_lab!();
    let mut lab = connected("bye");
    assert_eq!(lab.a.stop(), 0);
    assert!(!lab.a.socket.exists(), "the control socket is gone");
    assert!(!has_interface(&lab.a), "the interface is gone");
    // Only a goodbye makes it so: a peer that is merely silent would be looked for, for minutes.
    lab.b.wait_for_peer_state("a", "down");
    let rules = lab.a.exec_ok(&["ip", "route"]);
    assert!(!rules.contains("punch0"), "{rules}");
    lab.a.start();
    returns(&lab, "a stop and a start");
    // The other end, of which `up` was asked here, is waited for.
    assert_eq!(lab.b.stop(), 0);
    lab.a.wait_for_peer_state("b", "waiting");
    lab.b.start();
    returns(&lab, "a stop and a start of the other end");
}

#[test]
fn a_daemon_that_was_frozen_goes_on() {
    need_lab!();
    let lab = connected("cold");
    let (_echo, mut talk) = forwarded(&lab);
    for (host, seconds) in [(&lab.a, 2), (&lab.b, 12)] {
        host.punchd.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(seconds));
        host.punchd.signal(Signal::SIGCONT);
        returns(&lab, "a pause of its punchd");
        talk.go_on("after a pause of its punchd");
    }
}

// --- the network changes ---

#[test]
fn traffic_goes_on_after_a_change_of_the_hosts_address() {
    need_lab!();
    let lab = connected("addr");
    let (_echo, mut talk) = forwarded(&lab);
    for address in ["10.1.1.77", "10.1.1.2"] {
        renumber(&lab.a, "eth0", &format!("{address}/24"), "10.1.1.1");
        returns(&lab, "a change of the host's address");
        talk.go_on("after a change of the host's address");
        let status = lab.a.ctl_json(&["status"]);
        let candidates = status["network"]["candidates"].as_array().unwrap();
        let known = candidates.iter().any(|candidate| {
            candidate["kind"] == "host"
                && candidate["address"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("{address}:"))
        });
        assert!(known, "{status:#}");
    }
}

#[test]
fn a_signalling_server_that_went_silent_is_left_once_it_is_needed() {
    need_lab!();
    let lab = connected("mute");
    // The router has forgotten the connection, and drops what comes.
    let sockets = lab.a.exec_ok(&["ss", "-Htn", "dst", ":8080"]);
    let local = sockets.split_whitespace().nth(3).unwrap();
    let port = local.rsplit_once(':').unwrap().1;
    lab.namespace("ra").exec_ok(&[
        "nft",
        &format!(
            "table inet mute {{ chain forward {{ type filter hook forward priority -10; \
             tcp sport {port} drop; tcp dport {port} drop; }}; }}"
        ),
    ]);
    lab.a.ctl_ok(&["down", "b"]);
    lab.a.ctl_ok(&["up", "b", "--timeout", "60"]);
    lab.a
        .punchd
        .wait_for_log("the server has not answered for 5 s");
    lab.b.wait_for_peer_state("a", "connected");
}

#[test]
fn traffic_goes_on_behind_another_public_address() {
    need_lab!();
    let lab = connected("wan");
    let (_echo, mut talk) = forwarded(&lab);
    renumber(
        &lab.namespace("ra"),
        "wan",
        "203.0.113.11/24",
        "203.0.113.254",
    );
    // Nothing on host a changes: only silence tells.
    returns(&lab, "a change of a's public address");
    talk.go_on("after a change of a's public address");
    let remote = lab.b.peer("a")["path"]["remote"].clone();
    assert!(
        remote.as_str().unwrap().starts_with("203.0.113.11:"),
        "{remote}"
    );
    // The other end, which was called and did not call.
    renumber(
        &lab.namespace("rb"),
        "wan",
        "203.0.113.21/24",
        "203.0.113.254",
    );
    returns(&lab, "a change of b's public address");
    talk.go_on("after a change of b's public address");
}

#[test]
fn traffic_goes_on_when_both_hosts_move_at_once() {
    need_lab!();
    let lab = connected("move");
    let (_echo, mut talk) = forwarded(&lab);
    renumber(
        &lab.namespace("ra"),
        "wan",
        "203.0.113.11/24",
        "203.0.113.254",
    );
    renumber(
        &lab.namespace("rb"),
        "wan",
        "203.0.113.21/24",
        "203.0.113.254",
    );
    renumber(&lab.a, "eth0", "10.1.1.77/24", "10.1.1.1");
    renumber(&lab.b, "eth0", "10.1.2.77/24", "10.1.2.1");
    returns(&lab, "a move of both");
    talk.go_on("after both have moved");
}

#[test]
fn traffic_goes_on_after_the_link_was_down() {
    need_lab!();
    let lab = connected("link");
    let (_echo, mut talk) = forwarded(&lab);
    // Shorter, and longer than it takes to give a path up.
    for seconds in [1, 12] {
        let before = lab.a.punchd.log_text().len();
        lab.a.exec_ok(&["ip", "link", "set", "eth0", "down"]);
        std::thread::sleep(Duration::from_secs(seconds));
        // What follows from that is in the log for whoever looks for faults only.
        let meanwhile = lab.a.punchd.log_text().split_off(before);
        let is_told = |line: &str| {
            ["INFO", "WARN", "ERROR"]
                .iter()
                .any(|level| line.contains(level))
        };
        assert!(!meanwhile.lines().any(is_told), "{meanwhile}");
        lab.a.exec_ok(&["ip", "link", "set", "eth0", "up"]);
        lab.a
            .exec_ok(&["ip", "route", "replace", "default", "via", "10.1.1.1"]);
        returns(&lab, "the link was down");
        talk.go_on("after the link was down");
    }
}

/// Gives an interface this address instead of those it has.
fn renumber(machine: &Namespace, device: &str, address: &str, gateway: &str) {
    machine.exec_ok(&["ip", "-4", "address", "flush", "dev", device]);
    machine.exec_ok(&["ip", "address", "add", address, "dev", device]);
    machine.exec_ok(&["ip", "route", "replace", "default", "via", gateway]);
}
