//! A search takes nothing from other programs behind the same NAT, real programs in namespaces.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::thread::{scope, sleep};
use std::time::Duration;

use harness::{Fared, FreshFlows, Host, Kinds, Lab};

/// No router is asked for a port, which would make a search needless.
const CONFIG: &str = "[nat]\nport_mapping = false\n";

/// Daemons that run and know each other and the servers, from this moment on.
#[track_caller]
fn started(hint: &str, a: &str, b: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
    lab.start_servers();
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(CONFIG);
        host.start();
    }
    lab.introduce();
    lab.add_servers();
    lab
}

/// Fresh flows on both hosts while `work` is done, and for three seconds after it.
fn beside(lab: &Lab, work: impl FnOnce()) -> [Fared; 2] {
    let server = format!("{}:3478", lab.env("SERVER_IPV4")).parse().unwrap();
    let flows = lab.hosts().map(|host| FreshFlows::start(host, server));
    work();
    sleep(Duration::from_secs(3));
    flows.map(FreshFlows::finish)
}

/// `up` on a until both ends are connected: an attempt that misses is followed by others.
#[track_caller]
fn connect(lab: &Lab) {
    let up = (0..4).any(|_| lab.a.ctl(&["up", "b", "--timeout", "60"]).success());
    let why = |host: &Host, peer| host.ctl(&["why", peer]).stdout;
    assert!(up, "{}\n{}", why(&lab.a, "b"), why(&lab.b, "a"));
    lab.b.wait_for_peer_state("a", "connected");
}

/// At least 99.5 % worked, and never four in a row failed, which would be longer than 300 ms.
#[track_caller]
fn unharmed(lab: &Lab, fared: [Fared; 2]) {
    for (host, fared) in lab.hosts().into_iter().zip(fared) {
        eprintln!("{}: {fared:?}", host.name);
        assert!(fared.opened > 20, "{fared:?}");
        let failed = fared.opened - fared.worked;
        assert!(failed * 200 <= fared.opened, "on {}: {fared:?}", host.name);
        assert!(fared.longest_row <= 3, "on {}: {fared:?}", host.name);
    }
}

/// The first offer goes out before the NAT is measured: a block of ports looks like all ports then.
#[test]
fn up_right_after_the_start_leaves_a_block_of_ports_to_others() {
    need_lab!();
    let mut lab = started("harma", "exclusive-1024+30s", "port-restricted");
    for host in [&mut lab.a, &mut lab.b] {
        host.kill();
    }
    for host in [&mut lab.a, &mut lab.b] {
        host.start();
    }
    let fared = beside(&lab, || connect(&lab));
    unharmed(&lab, fared);
    for host in lab.hosts() {
        let found = host.netcheck();
        assert!(!found.udp_blocked && found.public.is_some(), "{found:#?}");
    }
}

#[test]
fn up_during_a_netcheck_leaves_a_block_of_ports_to_others() {
    need_lab!();
    let lab = started("harmn", "exclusive-1024+30s", "port-restricted");
    let fared = beside(&lab, || {
        scope(|scope| {
            for host in lab.hosts() {
                scope.spawn(|| host.ctl_ok(&["netcheck"]));
            }
            // It has begun, and is not over.
            sleep(Duration::from_millis(100));
            connect(&lab);
        });
    });
    unharmed(&lab, fared);
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
}
