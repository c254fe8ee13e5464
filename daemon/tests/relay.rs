//! Packets through the signalling server: where UDP is blocked, until a direct path is found, and when it dies.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Echo, Host, Kinds, Lab, PATIENCE, wait_until};
use punch_api::PathKind;

/// Both daemons run at a signalling server that relays, and know each other.
fn lab(hint: &str, a: &str, b: &str) -> Lab {
    lab_with(hint, a, b, ["", ""])
}

fn lab_with(hint: &str, a: &str, b: &str, configs: [&str; 2]) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
    lab.relay();
    if [a, b].contains(&"udp-blocked") {
        // Over TCP the two would find each other.
        lab.part();
    }
    lab.start_with(configs);
    lab
}

fn is_relayed(host: &Host, peer: &str) -> bool {
    let path = host.why(peer).path;
    path.is_some_and(|path| path.kind == PathKind::Relayed && path.via.is_some())
}

fn is_direct(host: &Host, peer: &str) -> bool {
    let path = host.why(peer).path;
    path.is_some_and(|path| path.kind != PathKind::Relayed && path.via.is_none())
}

/// All that is said of a relayed peer gives the cause, and neither a chance nor an advice that cannot hold where no UDP passes.
#[track_caller]
fn tells_that_udp_is_blocked(host: &Host, peer: &str) {
    let cause = "because no UDP seems to pass";
    wait_until(2 * PATIENCE, "the cause is told", || {
        host.why(peer).summary.contains(cause)
    });
    let view = host.why(peer);
    let impossible = view.steps.iter().all(|step| step.chance == 0.0);
    assert!(impossible && !view.steps.is_empty(), "{view:#?}");
    let helps = &view.advice;
    let is_said = |part: &str| helps.iter().any(|text| text.contains(part));
    assert!(
        is_said("let UDP out") || is_said("Let UDP out"),
        "{view:#?}"
    );
    assert!(is_said("forward the TCP port"), "{view:#?}");
    for part in ["two addresses", "UPnP", "budget"] {
        assert!(!is_said(part), "{part}: {view:#?}");
    }
    let detour = &host.peer(peer)["path"]["detour"];
    let because = detour["because"].as_str().unwrap();
    assert!(view.summary.contains(because), "{view:#?}: {because}");
    assert!(!detour["advice"].as_array().unwrap().is_empty(), "{detour}");
    for command in [&["peers"][..], &["status"]] {
        let text = host.ctl_ok(command);
        let said = format!("{peer} is relayed by ws://");
        assert!(text.contains(&said) && text.contains(cause), "{text}");
        assert!(text.contains("What would help:"), "{text}");
    }
}

/// Since when the path to a peer serves, in milliseconds since 1970, and why.
fn since(host: &Host, peer: &str) -> (u64, String) {
    let path = &host.peer(peer)["path"];
    let reason = path["reason"].as_str().unwrap().to_owned();
    (path["since_ms"].as_u64().unwrap(), reason)
}

#[test]
fn where_udp_is_blocked_everything_works_over_the_relay() {
    need_lab!();
    for (a, b) in [
        ("udp-blocked", "udp-blocked"),
        ("port-restricted", "udp-blocked"),
    ] {
        let lab = lab("blck", a, b);
        let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
        assert!(said.contains("relayed by ws://"), "{said}");
        lab.b.wait_for_peer_state("a", "connected");
        for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
            assert!(is_relayed(host, peer), "{:#?}", host.why(peer));
            let ping = host.ctl_ok(&["ping", peer, "-c", "1"]);
            assert!(ping.contains("relayed by ws://"), "{ping}");
            for command in [&["peers"][..], &["status"], &["why", peer]] {
                let text = host.ctl_ok(command);
                assert!(text.contains("relayed by ws://"), "{command:?}: {text}");
            }
        }
        // Both families, forwards, and more bytes than any queue holds.
        let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
        lab.b.ctl_ok(&["forward", "tcp", "7000"]);
        for ip in [lab.b.ipv4(), lab.b.ipv6()] {
            lab.a.expect_echo(SocketAddr::new(ip, 7000));
        }
        lab.b.ctl_ok(&["allow", "a", "--host"]);
        let mtu = ["ping", "-c", "3", "-i", "0.2", "-s", "1300"];
        lab.a
            .exec_ok(&[&mtu[..], &[&lab.b.ipv4().to_string()]].concat());
        tells_that_udp_is_blocked(&lab.b, "a");
        tells_that_udp_is_blocked(&lab.a, "b");
        lab.a.ctl_ok(&["down", "b"]);
        lab.b.wait_for_peer_state("a", "down");
    }
}

#[test]
fn a_direct_path_takes_over_and_the_relay_when_it_dies() {
    need_lab!();
    // Over TCP the two may find each other before they do over UDP.
    let config = "[punch]\ntcp = false\n";
    let kind = "port-restricted";
    let lab = lab_with("prom", kind, kind, [config; 2]);
    lab.part();
    lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(is_relayed(&lab.a, "b"));
    let (first, reason) = since(&lab.a, "b");
    assert_eq!(reason, "first");
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    let to = SocketAddr::new(lab.b.ipv4(), 7000);
    let before = lab.a.punchd.log_text().matches("connecting to b").count();

    lab.heal();
    wait_until(2 * PATIENCE, "a direct path serves", || {
        is_direct(&lab.a, "b") && is_direct(&lab.b, "a")
    });
    assert!(since(&lab.a, "b").0 > first);
    assert!(lab.a.peer("b")["path"]["detour"].is_null());
    lab.a.expect_echo(to);
    lab.part();
    wait_until(PATIENCE, "the relay serves", || {
        is_relayed(&lab.a, "b") && is_relayed(&lab.b, "a")
    });
    assert_eq!(since(&lab.a, "b").1, "silent");
    lab.a.expect_echo(to);
    let log = lab.a.punchd.log_text();
    for clause in [
        "the first path that was found",
        "a more direct path was found",
        "the path before did not answer any more",
    ] {
        assert!(log.contains(&format!(": {clause}")), "{clause}: {log}");
    }
    assert_eq!(log.matches("connecting to b").count(), before, "{log}");
    assert!(log.contains("packets to b are relayed by ws://"), "{log}");
}

#[test]
fn a_direct_path_is_used_at_once_where_there_is_one() {
    need_lab!();
    let lab = lab("dire", "port-restricted", "full-cone");
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(!said.contains("relayed"), "{said}");
    assert!(is_direct(&lab.a, "b"));
    wait_until(PATIENCE, "the other end's path is direct", || {
        is_direct(&lab.b, "a")
    });
}

#[test]
fn a_signalling_server_that_restarts_relays_again() {
    need_lab!();
    let mut lab = lab("rest", "udp-blocked", "udp-blocked");
    lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    for _ in 0..2 {
        lab.signal.kill();
        wait_until(PATIENCE, "the loss is noticed", || {
            lab.a.peer_state("b") != "connected"
        });
        lab.start_signal();
        wait_until(PATIENCE, "b answers again", || {
            lab.a.ctl(&["ping", "b", "-c", "1"]).success()
        });
        assert!(is_relayed(&lab.a, "b"));
    }
}

#[test]
fn a_daemon_that_crashes_is_back_over_the_relay() {
    need_lab!();
    let mut lab = lab("cras", "udp-blocked", "udp-blocked");
    lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    lab.b.kill();
    lab.b.start();
    wait_until(PATIENCE, "b answers again", || {
        lab.a.ctl(&["ping", "b", "-c", "1"]).success()
    });
    lab.a.kill();
    lab.a.start();
    wait_until(PATIENCE, "b answers again", || {
        lab.a.ctl(&["ping", "b", "-c", "1"]).success()
    });
    assert!(is_relayed(&lab.a, "b") && is_relayed(&lab.b, "a"));
}

#[test]
fn whoever_has_switched_the_relay_off_is_not_relayed() {
    need_lab!();
    let off = "[relay]\nenabled = false\n";
    let direct = "[punch]\ndirect_only = true\n";
    for configs in [[direct, ""], ["", off]] {
        let lab = lab_with("off", "udp-blocked", "udp-blocked", configs);
        let refused = lab.a.ctl(&["up", "b", "--timeout", "5"]);
        assert!(!refused.success(), "{refused:?}");
        std::thread::sleep(Duration::from_secs(2));
        assert!(!is_relayed(&lab.a, "b") && !is_relayed(&lab.b, "a"));
    }
}

#[test]
fn a_peer_that_is_to_be_direct_only_is_not_relayed_until_it_is_said_otherwise() {
    need_lab!();
    let mut lab = lab("only", "udp-blocked", "udp-blocked");
    lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(is_relayed(&lab.a, "b"));
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    let to = SocketAddr::new(lab.b.ipv4(), 7000);
    lab.a.expect_echo(to);

    let refused = lab
        .a
        .ctl_refused(&["up", "b", "--direct-only", "--timeout", "3"]);
    assert!(refused.contains("not connected to b"), "{refused}");
    let why = lab.a.ctl_ok(&["why", "b"]);
    assert!(
        why.contains("not relayed: direct_only is set for this peer")
            && why.contains("punchctl up b --direct-only=false"),
        "{why}"
    );
    for command in ["peers", "status"] {
        let text = lab.a.ctl_ok(&[command]);
        assert!(text.contains("direct only; not relayed"), "{text}");
    }
    // It is remembered, and `up` alone says nothing of it; the other end cannot undo it.
    lab.a.restart();
    lab.a.ctl_refused(&["up", "b", "--timeout", "2"]);
    lab.b.ctl_refused(&["up", "a", "--timeout", "2"]);
    assert_eq!(lab.a.peer("b")["direct_only"], true);
    assert_eq!(lab.b.peer("a")["direct_only"], false);
    assert!(!is_relayed(&lab.a, "b") && !is_relayed(&lab.b, "a"));

    let said = lab
        .a
        .ctl_ok(&["up", "b", "--direct-only=false", "--timeout", "30"]);
    assert!(said.contains("relayed by ws://"), "{said}");
    lab.a.expect_echo(to);
}
