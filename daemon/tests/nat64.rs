//! A machine in a network that has only IPv6 and a translator to IPv4 (NAT64): peers and servers that have only IPv4.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::{IpAddr, SocketAddr};

use harness::{Host, Kinds, Lab, PATIENCE, carry, wait_until};

const LENGTH: u64 = 4 * 1024 * 1024;

/// Below it the lab's translator reaches IPv4.
const PREFIX: &str = "2001:db8:64::/96";

/// A lab whose host a has no IPv4; both hosts are told of servers that have nothing else, and know each other.
fn lab(hint: &str, b: &str, stun: &str, config: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("nat64", b), &[]);
    lab.start_servers();
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(config);
        host.start();
    }
    let signal = format!("ws://{}:8080", lab.env("SERVER_IPV4"));
    for (host, stun) in [(&lab.a, stun), (&lab.b, lab.env("SERVER_IPV4"))] {
        host.ctl_ok(&["server", "add", "signal", &signal]);
        host.ctl_ok(&["server", "add", "stun", stun]);
        host.wait_for_signal();
    }
    lab.introduce();
    lab
}

fn wait_for_translator(lab: &Lab, prefix: Option<&str>) {
    let what = format!("host a uses {prefix:?}");
    wait_until(PATIENCE, &what, || {
        lab.a.ctl_json(&["status"])["network"]["nat64"].as_str() == prefix
    });
}

fn remote(host: &Host, peer: &str) -> SocketAddr {
    let path = host.peer(peer)["path"].clone();
    let remote = path["remote"].as_str();
    remote.unwrap_or_else(|| panic!("{path}")).parse().unwrap()
}

/// Both ends use a direct path between the IPv4 addresses of the translator and of b, on which so much fits and data flows.
fn works(lab: &Lab, mtu: u64) {
    lab.connect();
    for (host, peer, address) in [
        (&lab.a, "b", lab.env("B_PUBLIC_IPV4")),
        (&lab.b, "a", lab.env("A_PUBLIC_IPV4")),
    ] {
        let right: IpAddr = address.parse().unwrap();
        assert_eq!(remote(host, peer).ip(), right, "{}", host.peer(peer));
        let what = format!("{} knows that {mtu} bytes fit", host.name);
        wait_until(PATIENCE, &what, || {
            host.peer(peer)["path"]["mtu"].as_u64() == Some(mtu)
        });
        host.ctl_ok(&["allow", peer, "--host"]);
    }
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        for address in [to.ipv4(), to.ipv6()] {
            carry(from, to, address, LENGTH);
        }
    }
}

#[test]
fn a_peer_behind_an_easy_nat_is_reached() {
    need_lab!();
    let lab = lab("nsix", "port-restricted", "203.0.113.1", "");
    // On the translator's IPv4 side less than Ethernet's 1,500 bytes pass.
    for (machine, link) in [("rb", "wan"), ("inet", "rb")] {
        let namespace = lab.namespace(machine);
        namespace.exec_ok(&["ip", "link", "set", link, "mtu", "1400"]);
    }
    // The peer's own address is one of 10.0.0.0/8, and the translator has a network of its own.
    let inside = lab.a.count("output", "ip6 daddr 2001:db8:64::a00:0/104");
    let cut = lab.a.count("prerouting", "exthdr frag exists");
    let all = lab.a.count("prerouting", "meta l4proto udp");
    works(&lab, 1400 - 60);
    // A translator cuts what does not forbid it, and fragments may not arrive elsewhere.
    let (cut, all) = (cut.packets(), all.packets());
    assert!(20 * cut < all, "{cut} fragments beside {all} datagrams");
    assert_eq!(inside.packets(), 0, "private addresses are not translated");
    assert_eq!(lab.a.peer("b")["path"]["nat64"], PREFIX);
    assert!(lab.b.peer("a")["path"]["nat64"].is_null());
    let profile = lab.a.netcheck();
    let public: IpAddr = lab.env("A_PUBLIC_IPV4").parse().unwrap();
    assert_eq!(profile.public.map(|at| at.ip()), Some(public));
    let mapping = punch_api::Mapping::EndpointIndependent.into();
    assert_eq!(profile.mapping, Some(mapping));
}

#[test]
fn a_public_peer_is_reached_also_when_ipv4_comes_and_goes() {
    need_lab!();
    let mut lab = lab("come", "open", "server4.lab", "[tun]\nmtu = 1440\n");
    lab.a.wait_for_server("server4.lab:3478");
    // 1,500 bytes of IPv6 are 1,480 of IPv4.
    works(&lab, 1480 - 60);
    // The name server does not answer the next process.
    let rules = "table inet silent { chain here { type filter hook output priority -1; th dport 53 drop; }; }";
    lab.a.exec_ok(&["nft", rules]);
    let mut argv = lab.a.punchd.argv.clone();
    argv.push("--take-over".to_owned());
    let mut next = lab.program_on_a(argv);
    next.start();
    next.wait_for_log("INFO ready");
    assert_eq!(lab.a.punchd.wait(), 0);
    lab.a.punchd = next;
    carry(&lab.a, &lab.b, lab.b.ipv4(), LENGTH);
    assert_eq!(lab.a.peer("b")["path"]["nat64"], PREFIX);
    lab.a.exec_ok(&["nft", "delete table inet silent"]);
    let ra = lab.namespace("ra");
    ra.exec_ok(&["ip", "address", "add", "10.1.1.1/24", "dev", "lan"]);
    for command in [
        "address add 10.1.1.2/24 dev eth0",
        "route add default via 10.1.1.1",
    ] {
        let words: Vec<_> = ["ip"].into_iter().chain(command.split(' ')).collect();
        lab.a.exec_ok(&words);
    }
    wait_for_translator(&lab, None);
    wait_until(PATIENCE, "the path is one without translator", || {
        lab.a.peer("b")["path"]["nat64"].is_null()
    });
    carry(&lab.a, &lab.b, lab.b.ipv4(), LENGTH);
    lab.a
        .exec_ok(&["ip", "address", "del", "10.1.1.2/24", "dev", "eth0"]);
    wait_for_translator(&lab, Some(PREFIX));
    lab.a.wait_for_server("server4.lab:3478");
    carry(&lab.a, &lab.b, lab.b.ipv4(), LENGTH);
}

#[test]
fn where_udp_is_blocked_a_peer_is_reached_over_tcp() {
    need_lab!();
    let config = "[underlay]\nport = 41820\n[relay]\nenabled = false\n";
    let lab = lab("ntcp", "open", "203.0.113.1", config);
    let rules = "table inet blocked { chain here { type filter hook forward priority -1; meta l4proto udp drop; }; }";
    lab.namespace("ra").exec_ok(&["nft", rules]);
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("direct over TCP"), "{said}");
    let right: IpAddr = lab.env("B_PUBLIC_IPV4").parse().unwrap();
    assert_eq!(remote(&lab.a, "b").ip(), right);
    lab.b.wait_for_peer_state("a", "connected");
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    carry(&lab.a, &lab.b, lab.b.ipv4(), LENGTH);
}

#[test]
fn it_can_be_switched_off() {
    need_lab!();
    let mut lab = Lab::bare("noff", Kinds::Apart("nat64", "open"), &[]);
    lab.start_servers();
    lab.a.configure("[underlay]\nnat64 = \"off\"\n");
    lab.a.start();
    let signal = format!("ws://{}:8080/", lab.env("SERVER_IPV4"));
    lab.a.ctl_ok(&["server", "add", "signal", &signal]);
    lab.a.wait_for_trouble(&signal, "Network is unreachable");
    lab.a
        .configure("[underlay]\nnat64 = \"2001:db8:64::/96\"\n");
    lab.a.restart();
    wait_for_translator(&lab, Some(PREFIX));
    lab.a.wait_for_server(&signal);
}
