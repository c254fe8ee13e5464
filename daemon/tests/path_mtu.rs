//! Paths that carry less than Ethernet, or more: what fits is found out, and transfers work both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Echo, Host, Kinds, Lab, PATIENCE, carry, tool, wait_until};

const LENGTH: u64 = 2 * 1024 * 1024;

/// Two connected hosts that let each other in; the link between a's router and the internet carries packets of `longest` bytes.
fn lab(hint: &str, kinds: (&str, &str), longest: u32, config: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(kinds.0, kinds.1), &[]);
    for (machine, link) in [("ra", "wan"), ("inet", "ra")] {
        set_link(&lab, machine, link, longest);
    }
    lab.start_with([config, config]);
    lab.connect();
    lab.a.ctl_ok(&["allow", "b", "--host"]);
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    lab
}

fn set_link(lab: &Lab, machine: &str, link: &str, longest: u32) {
    let longest = longest.to_string();
    lab.namespace(machine)
        .exec_ok(&["ip", "link", "set", link, "mtu", &longest]);
}

fn mtu(host: &Host, peer: &str) -> Option<u64> {
    host.peer(peer)["path"]["mtu"].as_u64()
}

/// Waits until both ends know that so much fits inside the tunnel, and so do their kernels.
fn expect_mtu(lab: &Lab, expected: u64) {
    for (host, peer, other) in [(&lab.a, "b", &lab.b), (&lab.b, "a", &lab.a)] {
        let what = format!("{} knows that {expected} bytes fit", host.name);
        wait_until(PATIENCE, &what, || mtu(host, peer) == Some(expected));
        for (ip, expected) in [(other.ipv4(), expected), (other.ipv6(), expected.max(1280))] {
            let route = || host.exec_ok(&["ip", "route", "get", &ip.to_string()]);
            let words = format!(" mtu {expected} ");
            wait_until(PATIENCE, "the route has it, too", || {
                route().contains(&words)
            });
        }
    }
    let peers = lab.a.ctl_ok(&["peers"]);
    assert!(peers.contains(&format!("MTU {expected}")), "{peers}");
}

/// Both ways, over both families, between kernels and through a forward.
fn carries(lab: &Lab) {
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        for address in [to.ipv4(), to.ipv6()] {
            carry(from, to, address, LENGTH);
            // What IPv6 may send everywhere, and more, in fragments.
            for size in ["1232", "1400", "4000"] {
                let ping = ["ping", "-c", "1", "-W", "5", "-s", size];
                from.exec_ok(&[&ping[..], &[&address.to_string()]].concat());
            }
        }
    }
    lab.b.ctl_ok(&["deny", "a", "--host"]);
    let _echo = Echo::start(&lab.b, "127.0.0.1:7002");
    lab.b.ctl_ok(&["forward", "tcp", "7002"]);
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        lab.a.expect_echo(SocketAddr::new(address, 7002));
    }
}

#[test]
fn pppoe_s_1492_bytes() {
    need_lab!();
    let kinds = ("port-restricted", "full-cone");
    let lab = lab("pppoe", kinds, 1492, "[tun]\nmtu = 1440\n");
    expect_mtu(&lab, 1492 - 60);
    carries(&lab);
}

#[test]
fn an_underlay_of_1280_bytes() {
    need_lab!();
    let kinds = ("port-restricted", "full-cone");
    let lab = lab("low4", kinds, 1280, "");
    expect_mtu(&lab, 1280 - 60);
    carries(&lab);
}

#[test]
fn an_underlay_of_1280_bytes_over_ipv6() {
    need_lab!();
    let lab = lab("low6", ("ipv6-firewall", "ipv6-firewall"), 1280, "");
    expect_mtu(&lab, 1280 - 80);
    carries(&lab);
}

#[test]
fn a_path_that_begins_to_swallow_long_packets_in_silence() {
    need_lab!();
    let kinds = ("port-restricted", "full-cone");
    // The rule below sees what the kernel has joined as one packet.
    let lab = lab("hole", kinds, 1500, "[offload]\nudp_gso = false\n");
    expect_mtu(&lab, 1420);
    let rule = "table ip hole { chain here { type filter hook forward priority 0; udp sport != 0 ip length > 1380 drop; }; }";
    lab.namespace("inet").exec_ok(&["nft", rule]);
    let (a, b) = (lab.a.ipv4().to_string(), lab.b.ipv4().to_string());
    // Only where packets flow does anybody want to know.
    let ping = ["ping", "-q", "-i", "0.2", "-w", "120"];
    let _there = lab.a.spawn("ping", &[&ping[..], &[&b]].concat());
    let _back = lab.b.spawn("ping", &[&ping[..], &[&a]].concat());
    expect_mtu(&lab, 1380 - 60);
    carries(&lab);
}

#[test]
fn jumbo_frames() {
    need_lab!();
    let mut lab = Lab::bare("jumbo", Kinds::Apart("port-restricted", "full-cone"), &[]);
    for (machine, links) in [
        ("a", &["eth0"][..]),
        ("ra", &["lan-a", "lan", "wan"]),
        ("inet", &["ra", "rb"]),
        ("rb", &["lan-b", "lan", "wan"]),
        ("b", &["eth0"]),
    ] {
        links
            .iter()
            .for_each(|link| set_link(&lab, machine, link, 9000));
    }
    lab.start_with(["[tun]\nmtu = 9000\n"; 2]);
    lab.connect();
    lab.a.ctl_ok(&["allow", "b", "--host"]);
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    expect_mtu(&lab, 9000 - 60);
    carries(&lab);
}

#[test]
fn what_icmp_says_of_the_path_is_not_believed() {
    need_lab!();
    let kinds = ("firewall", "full-cone");
    let lab = lab("forged", kinds, 1500, "");
    expect_mtu(&lab, 1420);
    let python = tool("python3", "python3");
    let (from, to) = (lab.env("A_IPV4"), lab.env("B_PUBLIC_IPV4"));
    let status: serde_json::Value =
        serde_json::from_str(&lab.a.ctl_ok(&["status", "--json"])).unwrap();
    let port = status["network"]["port_v4"].as_u64().unwrap();
    let remote = lab.a.peer("b")["path"]["remote"]
        .as_str()
        .unwrap()
        .to_owned();
    let remote: SocketAddr = remote.parse().unwrap();
    let forge = format!(
        "import socket, struct
def sum16(b):
    b += b'\\0' * (len(b) % 2)
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 1480, 7, 0, 60, 17, 0, socket.inet_aton('{from}'), socket.inet_aton('{to}'))
ip = ip[:10] + struct.pack('!H', sum16(ip)) + ip[12:]
quoted = ip + struct.pack('!HHHH', {port}, {to_port}, 1460, 0)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for mtu in (0, 1, 68, 552, 576, 1280, 65535):
    icmp = struct.pack('!BBHHH', 3, 4, 0, 0, mtu) + quoted
    icmp = icmp[:2] + struct.pack('!H', sum16(icmp)) + icmp[4:]
    s.sendto(icmp, ('{from}', 0))",
        to_port = remote.port(),
    );
    let heard = lab.a.count("input", "icmp type destination-unreachable");
    lab.namespace("inet").exec_ok(&[&python, "-c", &forge]);
    wait_until(PATIENCE, "they have come", || heard.packets() >= 7);
    let route = lab.a.exec_ok(&["ip", "route", "get", to]);
    assert!(!route.contains("mtu"), "{route}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(mtu(&lab.a, "b"), Some(1420));
    let sent = lab.a.count("output", "udp length > 1400");
    carry(&lab.a, &lab.b, lab.b.ipv4(), LENGTH);
    assert!(sent.packets() > 0, "full packets leave");
}
