//! Two machines behind routers of all kinds find each other, and packets flow.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::SocketAddr;

use harness::{Echo, Lab, PATIENCE, wait_until};

/// `up` connects, and bytes pass a forward, over IPv4 and IPv6.
fn connects(lab: &Lab) {
    lab.connect();
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        lab.a.expect_echo(SocketAddr::new(address, 7000));
    }
}

const EASY: [&str; 4] = ["open", "full-cone", "address-restricted", "port-restricted"];

#[test]
fn any_two_hosts_behind_easy_nats_connect() {
    need_lab!();
    for (index, a) in EASY.iter().enumerate() {
        for b in &EASY[index..] {
            connects(&Lab::new("easy", a, b));
        }
    }
}

#[test]
fn two_hosts_in_one_lan_talk_directly() {
    need_lab!();
    for kind in ["port-restricted", "full-cone"] {
        let lab = Lab::same_lan("lan", kind);
        connects(&lab);
        for (host, peer) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
            let path = &host.peer(&peer.name)["path"];
            let remote: SocketAddr = path["remote"].as_str().unwrap().parse().unwrap();
            let lan = lab.env(&format!("{}_IPV4", peer.name.to_uppercase()));
            assert_eq!(remote.ip().to_string(), lan, "{kind}: {path}");
            assert_eq!(path["kind"], "host", "{kind}: {path}");
        }
    }
}

#[test]
fn two_hosts_behind_ipv6_firewalls_connect() {
    need_lab!();
    let lab = Lab::new("six", "ipv6-firewall", "ipv6-firewall");
    connects(&lab);
    let path = &lab.a.peer("b")["path"];
    let remote: SocketAddr = path["remote"].as_str().unwrap().parse().unwrap();
    assert_eq!(remote.ip().to_string(), lab.env("B_IPV6"));
}

#[test]
fn a_firewall_and_a_nat_connect() {
    need_lab!();
    for (a, b) in [
        ("firewall", "port-restricted"),
        ("port-restricted", "firewall"),
        ("firewall", "firewall"),
    ] {
        connects(&Lab::new("fire", a, b));
    }
}

#[test]
fn ipv6_is_used_where_only_ipv6_can_connect() {
    need_lab!();
    connects(&Lab::new("mix", "symmetric+ipv6", "symmetric+ipv6"));
}

#[test]
fn both_may_call_up_at_once() {
    need_lab!();
    let lab = Lab::new("both", "port-restricted", "address-restricted");
    std::thread::scope(|scope| {
        scope.spawn(|| lab.a.ctl_ok(&["up", "b", "--timeout", "60"]));
        scope.spawn(|| lab.b.ctl_ok(&["up", "a", "--timeout", "60"]));
    });
    connects(&lab);
}

#[test]
fn up_outlives_restarts_and_crashes_of_either_end() {
    need_lab!();
    let mut lab = Lab::new("rest", "port-restricted", "port-restricted");
    connects(&lab);
    assert_eq!(lab.a.stop(), 0, "a stop that was asked for is a success");
    assert!(!lab.a.socket.exists(), "the control socket went with it");
    lab.a.start();
    returns(&lab);
    lab.a.kill();
    lab.a.start();
    returns(&lab);
    lab.b.restart();
    returns(&lab);
    lab.b.kill();
    lab.b.start();
    returns(&lab);
}

/// The connection comes back by itself, in both views, and carries packets.
fn returns(lab: &Lab) {
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
    wait_until(PATIENCE, "a reaches b again", || {
        lab.a.ctl(&["ping", "b", "-c", "1"]).success()
    });
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    wait_until(PATIENCE, "bytes pass again", || {
        lab.a
            .connect_tcp(SocketAddr::new(lab.b.ipv4(), 7000))
            .is_ok()
    });
}

#[test]
fn a_peer_that_is_offline_is_waited_for() {
    need_lab!();
    let mut lab = Lab::new("late", "port-restricted", "full-cone");
    lab.b.stop();
    let refused = lab.a.ctl_refused(&["up", "b", "--timeout", "1"]);
    assert!(
        refused.contains("b is not online at any signalling server"),
        "{refused}"
    );
    assert_eq!(lab.a.peer_state("b"), "waiting");
    lab.b.start();
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
}
