//! Overlay addresses and routes in the kernel: never taken from somebody else, set again when they are lost, and nothing escapes
//! when punchd goes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::IpAddr;
use std::time::Duration;

use harness::{Host, Lab, Namespace, PATIENCE, wait_until};
use punch_api::Ipv4Range;
use punch_signal_protocol::Identity;

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

fn connected(hint: &str) -> Lab {
    Lab::connected(hint, NATS.0, NATS.1)
}

fn ip(net: &Namespace, arguments: &[&str]) {
    net.exec_ok(&[&["ip"], arguments].concat());
}

/// Whether an address answers within a second.
fn pings(from: &Namespace, to: IpAddr) -> bool {
    from.exec(&["ping", "-c", "1", "-W", "1", &to.to_string()])
        .success()
}

#[track_caller]
fn wait_for_pings(from: &Namespace, to: IpAddr, after: &str) {
    wait_until(PATIENCE, &format!("{to} answers after {after}"), || {
        pings(from, to)
    });
}

/// What `ip route get` says, also when nothing leads there.
fn way(net: &Namespace, to: IpAddr) -> String {
    let output = net.exec(&["ip", "route", "get", &to.to_string()]);
    format!("{}{}", output.stdout, output.stderr)
}

/// The routes of the main table to exactly this address, or that bear a protocol.
fn routes(net: &Namespace, selector: &[&str]) -> String {
    ["-4", "-6"]
        .iter()
        .map(|family| net.exec_ok(&[&["ip", family, "route", "show"], selector].concat()))
        .collect()
}

fn note(host: &Host, peer: &str) -> String {
    host.peer(peer)["note"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[track_caller]
fn wait_for_note(host: &Host, peer: &str, note_is: impl Fn(&str) -> bool) {
    wait_until(PATIENCE, "the note says so", || note_is(&note(host, peer)));
}

/// The network of 16 bits that an IPv4 address lies in.
fn network(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        panic!("not IPv4");
    };
    let [a, b, ..] = address.octets();
    format!("{a}.{b}.0.0/16")
}

// --- never taken from somebody else ---

#[test]
fn an_address_that_is_reached_otherwise_is_left_to_whoever_has_it() {
    need_lab!();
    let lab = connected("take");
    let (a, b4, b6) = (&lab.a, lab.b.ipv4(), lab.b.ipv6());
    wait_for_pings(a, b4, "the start");
    let there = network(b4);
    ip(a, &["route", "add", &there, "dev", "eth0"]);
    let right =
        format!("IPv6 only: {b4} is not used: this machine reaches it by eth0 (route {there})");
    wait_for_note(a, "b", |note| note == right);
    assert!(way(a, b4).contains("dev eth0"), "{}", way(a, b4));
    assert!(
        a.why("b").advice.contains(&right),
        "{:?}",
        a.why("b").advice
    );
    assert_eq!(a.peer("b")["ipv4"], serde_json::Value::Null);
    assert!(pings(a, b6), "IPv6 goes on");
    let foreign = routes(a, &["dev", "eth0"]);
    assert!(foreign.contains(&there), "{foreign}");

    // A restart finds it so.
    let mut lab = lab;
    lab.a.restart();
    wait_for_note(&lab.a, "b", |note| note == right);
    assert!(way(&lab.a, b4).contains("dev eth0"));
    ip(&lab.a, &["route", "del", &there, "dev", "eth0"]);
    wait_for_note(&lab.a, "b", str::is_empty);
    wait_for_pings(&lab.a, b4, "the address was free again");
}

/// The same prefix and metric as ours: the kernel would let us replace it.
#[test]
fn a_route_to_the_very_address_is_not_replaced() {
    need_lab!();
    let mut lab = connected("same");
    let b4 = lab.b.ipv4();
    lab.a.stop();
    let to = b4.to_string();
    ip(&lab.a, &["route", "add", &to, "dev", "eth0"]);
    lab.a.start();
    let right =
        format!("IPv6 only: {b4} is not used: this machine reaches it by eth0 (route {b4}/32)");
    wait_for_note(&lab.a, "b", |note| note == right);
    assert!(way(&lab.a, b4).contains("dev eth0"));
    wait_for_pings(&lab.a, lab.b.ipv6(), "the start");
    // What is ours goes with the peer, and nothing else.
    lab.a.ctl_ok(&["peer", "remove", "b"]);
    assert!(way(&lab.a, b4).contains("dev eth0"));
    assert_eq!(routes(&lab.a, &["proto", "112"]), "");
}

#[test]
fn a_router_at_a_peers_address_stays_the_router() {
    need_lab!();
    let lab = connected("gate");
    let (a, b4) = (&lab.a, lab.b.ipv4());
    let via = b4.to_string();
    ip(
        a,
        &[
            "route",
            "add",
            "198.51.100.0/24",
            "via",
            &via,
            "dev",
            "eth0",
            "onlink",
        ],
    );
    let right = format!("IPv6 only: {b4} is not used: it is a router behind eth0");
    wait_for_note(a, "b", |note| note == right);
    assert!(!way(a, b4).contains("punch0"), "{}", way(a, b4));
}

#[test]
fn without_its_own_ipv4_address_a_machine_uses_ipv6() {
    need_lab!();
    let lab = connected("own");
    let (a, own, b6) = (&lab.a, lab.a.ipv4(), lab.b.ipv6());
    let there = network(own);
    ip(a, &["route", "add", &there, "dev", "eth0"]);
    let because = format!(
        "IPv6 only: this machine's own address {own} is not used: this machine reaches it by eth0 (route {there})"
    );
    wait_for_note(a, "b", |note| note == because);
    let warnings = &a.ctl_json(&["status"])["warnings"];
    assert_eq!(warnings, &serde_json::json!([because]));
    let addresses = a.exec_ok(&["ip", "-4", "address", "show", "dev", "punch0"]);
    assert!(!addresses.contains("inet "), "{addresses}");
    assert!(pings(a, b6), "IPv6 goes on");
    ip(a, &["route", "del", &there, "dev", "eth0"]);
    wait_for_note(a, "b", str::is_empty);
    wait_for_pings(a, lab.b.ipv4(), "the address was free again");
}

#[test]
fn a_plain_peer_gets_no_address_that_this_machine_needs() {
    need_lab!();
    let lab = connected("odd");
    let a = &lab.a;
    wait_for_pings(a, lab.b.ipv4(), "the start");
    let key = "jGkTgSEqLPRbVCXgpVpJMBX7S4TxBjxWbKZoPnbMn1A=";
    let router = a.exec_ok(&["sh", "-c", "ip -4 route show default | cut -d' ' -f3"]);
    let router = router.trim().to_owned();
    let own = a.exec_ok(&[
        "sh",
        "-c",
        "ip -4 -o address show dev eth0 | awk '{print $4}' | cut -d/ -f1",
    ]);
    let server = lab.env("SERVER_IPV4").to_owned();
    let b_public = lab.env("B_PUBLIC_IPV4").to_owned();
    let others = lab.b.ipv4().to_string();
    for (address, endpoint, why) in [
        (
            router.as_str(),
            "203.0.113.99:9",
            "it is a router behind eth0",
        ),
        (
            own.trim(),
            "203.0.113.99:9",
            "this machine has it itself, on eth0",
        ),
        (
            &server,
            "203.0.113.99:9",
            "a signalling or STUN server is there",
        ),
        (
            &b_public,
            "203.0.113.99:9",
            "packets to a peer go there outside of the tunnel",
        ),
        (&others, "203.0.113.99:9", "is that of b too"),
        (
            "203.0.113.99",
            "203.0.113.99:9",
            "the tunnel would lead into itself",
        ),
        (
            "169.254.1.1",
            "203.0.113.99:9",
            "169.254.1.1 cannot be an address inside the tunnel",
        ),
    ] {
        let before = way(a, address.parse().unwrap());
        let refused = a.ctl_refused(&[
            "peer",
            "add",
            "odd",
            "--wireguard",
            key,
            "--endpoint",
            endpoint,
            "--address",
            address,
        ]);
        assert!(refused.contains(why), "{address}: {refused}");
        assert_eq!(way(a, address.parse().unwrap()), before);
    }
    needed_later_on(a, key);
}

/// An address that is added, and needed later on, is given back.
fn needed_later_on(a: &Host, key: &str) {
    a.ctl_ok(&[
        "peer",
        "add",
        "odd",
        "--wireguard",
        key,
        "--endpoint",
        "203.0.113.99:9",
        "--address",
        "10.9.0.7",
    ]);
    let inside: IpAddr = "10.9.0.7".parse().unwrap();
    assert!(way(a, inside).contains("punch0"));
    ip(a, &["route", "add", "10.9.0.0/24", "dev", "eth0"]);
    let right = "10.9.0.7 is not used: this machine reaches it by eth0 (route 10.9.0.0/24)";
    wait_for_note(a, "odd", |note| note == right);
    assert!(way(a, inside).contains("eth0"));
    // And it stays so when the network is looked at again: what is free is taken back after 5 s.
    ip(a, &["route", "add", "10.10.0.0/24", "dev", "eth0"]);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(note(a, "odd"), right);
    assert!(way(a, inside).contains("eth0"));
}

/// Two identities whose addresses are the same in a range, and different in the default one.
fn twins(range: Ipv4Range) -> [String; 2] {
    let ids: Vec<_> = (1..=u8::MAX)
        .map(|seed| Identity::from_seed(&[seed; 32]).id())
        .collect();
    let twins = ids.iter().enumerate().find_map(|(at, one)| {
        let same = |two: &&_| {
            one.overlay_ipv4(range) == punch_signal_protocol::PeerId::overlay_ipv4(two, range)
        };
        Some([one.to_string(), ids[..at].iter().find(same)?.to_string()])
    });
    twins.expect("among 255 identities two have the same of 254 addresses")
}

#[test]
fn two_peers_with_one_address_in_a_smaller_range_have_ipv6_only() {
    need_lab!();
    let mut lab = Lab::new("twin", NATS.0, NATS.1);
    let range: Ipv4Range = "10.77.3.0/24".parse().unwrap();
    let [one, two] = twins(range);
    let host = &mut lab.a;
    host.ctl_ok(&["peer", "add", "one", &one]);
    host.ctl_ok(&["peer", "add", "two", &two]);
    host.stop();
    host.configure("[overlay]\nipv4 = \"10.77.3.0/24\"\n");
    let check = host.exec_ok(&[
        &harness::program("punchd"),
        "--check",
        "--config",
        &host.config.display().to_string(),
        "--state-dir",
        &host.state_dir.display().to_string(),
    ]);
    assert!(check.contains("one and two have it both"), "{check}");
    host.start();
    for name in ["one", "two"] {
        let view = host.peer(name);
        let note = view["note"].as_str().unwrap();
        assert!(note.starts_with("IPv6 only: 10.77.3."), "{note}");
        assert!(
            note.ends_with("is not used: one and two have it both"),
            "{note}"
        );
        assert_eq!(view["ipv4"], serde_json::Value::Null);
    }
    let log = host.punchd.log_text();
    assert!(log.contains("the overlay address 10.77.3."), "{log}");
    let said = note(host, "one");
    let address = said.split(' ').nth(2).unwrap();
    let ours = routes(host, &["proto", "112"]);
    assert!(
        !ours.contains(&format!("{address} ")),
        "{address} in {ours}"
    );
    // When one goes, the other has it.
    host.ctl_ok(&["peer", "remove", "one"]);
    assert_eq!(note(host, "two"), "");
    assert_eq!(host.peer("two")["ipv4"], address);
    assert!(way(host, address.parse().unwrap()).contains("punch0"));
}

// --- set again ---

#[test]
fn what_the_interface_loses_is_set_again() {
    need_lab!();
    let lab = connected("lose");
    let (a, b4, b6) = (&lab.a, lab.b.ipv4(), lab.b.ipv6());
    let ipv6 = |value: &str| format!("echo {value} >/proc/sys/net/ipv6/conf/punch0/disable_ipv6");
    let off_and_on = format!("{}; sleep 1; {}", ipv6("1"), ipv6("0"));
    for (what, command) in [
        ("its IPv4 route", format!("ip route del {b4} dev punch0")),
        (
            "all routes",
            "ip -4 route flush dev punch0; ip -6 route flush dev punch0".to_owned(),
        ),
        (
            "its IPv4 address",
            "ip -4 address flush dev punch0".to_owned(),
        ),
        ("all addresses", "ip address flush dev punch0".to_owned()),
        ("its being up", "ip link set punch0 down".to_owned()),
        ("its MTU", "ip link set punch0 mtu 1500".to_owned()),
        ("IPv6", ipv6("1")),
        ("IPv6 for a while", off_and_on),
        (
            "the routes that refuse",
            "ip -4 route flush proto 112; ip -6 route flush proto 112".to_owned(),
        ),
    ] {
        a.exec_ok(&["sh", "-c", &command]);
        wait_for_pings(a, b4, what);
        wait_for_pings(a, b6, what);
        wait_until(PATIENCE, &format!("all is set after {what}"), || {
            let link = a.exec_ok(&["ip", "link", "show", "punch0"]);
            let refused = routes(a, &["type", "unreachable", "proto", "112"]);
            link.contains("mtu 1420") && link.contains(",UP,") && refused.lines().count() == 2
        });
    }
    assert_eq!(a.ctl_json(&["status"])["warnings"], serde_json::json!([]));
}

// --- nothing escapes ---

#[test]
fn without_punchd_the_overlays_packets_are_refused() {
    need_lab!();
    let mut lab = connected("gone");
    let (b4, b6) = (lab.b.ipv4(), lab.b.ipv6());
    wait_for_pings(&lab.a, b4, "the start");
    let escaped = [
        lab.a
            .count("output", &format!("oifname eth0 ip daddr {b4}")),
        lab.a
            .count("output", &format!("oifname eth0 ip6 daddr {b6}")),
    ];
    for crash in [true, false] {
        if crash {
            lab.a.kill();
        } else {
            lab.a.stop();
        }
        for to in [b4, b6] {
            let way = way(&lab.a, to);
            let refused = ["unreachable", "No route to host"];
            assert!(refused.iter().any(|word| way.contains(word)), "{way}");
            assert!(!pings(&lab.a, to));
        }
        lab.a.start();
        for to in [b4, b6] {
            wait_for_pings(&lab.a, to, "a new start");
        }
    }
    for count in &escaped {
        assert_eq!(count.packets(), 0);
    }
    // What is ours and of no use goes at the next start, and with the peer; what others have set stays.
    lab.a.kill();
    let mark = ["proto", "112", "metric", "4000000000"];
    ip(
        &lab.a,
        &[&["route", "add", "unreachable", "100.64.99.99"], &mark[..]].concat(),
    );
    ip(&lab.a, &["route", "add", "unreachable", "100.64.98.98"]);
    lab.a.start();
    let left = routes(&lab.a, &["type", "unreachable"]);
    assert!(!left.contains("100.64.99.99"), "{left}");
    lab.a.ctl_ok(&["peer", "remove", "b"]);
    let left = routes(&lab.a, &["type", "unreachable"]);
    assert_eq!(left.trim(), "unreachable 100.64.98.98");
    assert_eq!(routes(&lab.a, &["proto", "112"]), "");
}

// --- what else is on the machine ---

#[test]
fn another_tunnel_in_the_overlays_range_is_told() {
    need_lab!();
    let lab = Lab::new("tail", NATS.0, NATS.1);
    let a = &lab.a;
    ip(a, &["tuntap", "add", "tailscale0", "mode", "tun"]);
    ip(
        a,
        &["address", "add", "100.101.102.103/32", "dev", "tailscale0"],
    );
    ip(a, &["link", "set", "tailscale0", "up"]);
    ip(
        a,
        &[
            "route",
            "add",
            "100.100.100.100",
            "dev",
            "tailscale0",
            "table",
            "52",
        ],
    );
    ip(a, &["rule", "add", "priority", "5270", "lookup", "52"]);
    let warnings = || {
        let status = a.ctl_json(&["status"]);
        let warnings = status["warnings"].as_array().unwrap().clone();
        let texts = warnings
            .iter()
            .map(|text| text.as_str().unwrap().to_owned());
        texts.collect::<Vec<_>>()
    };
    wait_until(PATIENCE, "both are told", || warnings().len() == 2);
    let [link, table] = &warnings()[..] else {
        panic!("{:?}", warnings());
    };
    assert!(
        link.starts_with("tailscale0 (a tunnel of another program) has the address 100.101.102.103, which lies in the overlay's IPv4 range 100.64.0.0/10"),
        "{link}"
    );
    assert!(
        table.contains("routing table 52 before Punch's routes"),
        "{table}"
    );
    let advice = a.why("b").advice;
    assert!(
        advice.contains(link) && advice.contains(table),
        "{advice:?}"
    );
    let shown = a.ctl_ok(&["status"]);
    assert!(shown.contains(&format!("warning: {link}")), "{shown}");
    ip(a, &["rule", "del", "priority", "5270"]);
    ip(a, &["link", "del", "tailscale0"]);
    wait_until(PATIENCE, "nothing is in the way", || warnings().is_empty());
}
