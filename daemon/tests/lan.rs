//! Peers in one network find each other without any server and without the internet.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::time::Instant;

use harness::{Kinds, Lab};

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

fn expect_connected(lab: &Lab) {
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
}

#[test]
fn two_machines_in_one_network_meet_without_any_server() {
    need_lab!();
    for kind in ["port-restricted", "ipv6-firewall"] {
        let mut lab = known("lan", kind);
        lab.b.start();
        expect_connected(&lab);
    }
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
    eprintln!(
        "met over the LAN, p50 of {runs}: {:?}, all: {times:?}",
        times[times.len() / 2]
    );
}
