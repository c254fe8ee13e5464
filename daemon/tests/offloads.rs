//! What the kernel does for many packets at once changes how fast they are, never what arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::IpAddr;

use harness::{Count, Host, Kinds, Lab, PATIENCE, carry, tool, wait_until};
use serde_json::Value;

const LENGTH: u64 = 8 * 1024 * 1024;
const MTU: u64 = 1420;

const ALL: &str = "";
const NONE: &str =
    "tun_tso = false\ntun_uso = false\ntun_gro = false\nudp_gso = false\nudp_gro = false\n";

/// Two connected hosts that may reach all of each other, with these lines under [offload].
fn lab(hint: &str, offload: [&str; 2]) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("port-restricted", "full-cone"), &[]);
    lab.start_servers();
    for (host, lines) in [&mut lab.a, &mut lab.b].into_iter().zip(offload) {
        host.configure(&format!("[offload]\n{lines}"));
        host.start();
    }
    lab.add_servers();
    lab.introduce();
    lab.connect();
    lab.a.ctl_ok(&["allow", "b", "--host"]);
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    lab
}

/// Datagrams of 500 bytes, the last one of each call shorter; the sender gives the kernel ten at once (UDP_SEGMENT).
fn datagrams(from: &Host, to: &Host, address: IpAddr) {
    let python = tool("python3", "python3");
    let family = if address.is_ipv4() { "INET" } else { "INET6" };
    let receive = format!(
        "import socket
s = socket.socket(socket.AF_{family}, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
s.bind(('{address}', 7001))
s.settimeout(10)
print('listening', flush=True)
for call in range(20):
    whole = b''
    for at in range(10):
        part = s.recv(65535)
        assert len(part) == (500 if at < 9 else 77), len(part)
        whole += part
    assert whole == bytes((i * 7 + call) % 256 for i in range(4577)), call
print('all', flush=True)"
    );
    let name = format!("receiver of {address}");
    let receiver = to.spawn(&name, &[&python, "-c", &receive]);
    let log = to.dir.join(format!("{name}.log"));
    let said = |what: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(what));
    wait_until(PATIENCE, "the receiver listens", || said("listening"));
    let send = format!(
        "import socket, time
s = socket.socket(socket.AF_{family}, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 500)
for call in range(20):
    s.sendto(bytes((i * 7 + call) % 256 for i in range(4577)), ('{address}', 7001))
    time.sleep(0.002)"
    );
    from.exec_ok(&[&python, "-c", &send]);
    wait_until(PATIENCE, "all datagrams came, in order", || said("all"));
    drop(receiver);
}

fn carries(lab: &Lab) {
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        for address in [to.ipv4(), to.ipv6()] {
            carry(from, to, address, LENGTH);
            datagrams(from, to, address);
        }
    }
    for host in lab.hosts() {
        let counters = host.exec_ok(&["cat", "/proc/net/snmp", "/proc/net/snmp6"]);
        let wrong = checksum_errors(&counters);
        assert_eq!(wrong, 0, "on {}: {counters}", host.name);
    }
}

/// Of TCP and UDP over either family.
fn checksum_errors(counters: &str) -> u64 {
    let lines: Vec<Vec<_>> = counters
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let v4 = lines
        .windows(2)
        .filter(|pair| pair[0].first() == pair[1].first());
    let v4 = v4.flat_map(|pair| pair[0].iter().zip(&pair[1]));
    let v4 = v4.filter(|(name, _)| **name == "InCsumErrors");
    let v6 = lines
        .iter()
        .filter(|line| line[0].starts_with("Udp6InCsum"));
    let all = v4.map(|(_, value)| *value).chain(v6.map(|line| line[1]));
    all.map(|value| value.parse::<u64>().unwrap()).sum()
}

/// The mean length of what the host has given to the interface, after the kernel has cut what the interface does not take.
fn mean_length_sent(host: &Host) -> u64 {
    let text = host.exec_ok(&["ip", "-s", "-j", "link", "show", "dev", "punch0"]);
    let links: Value = serde_json::from_str(&text).unwrap();
    let of = |what: &str| links[0]["stats64"]["tx"][what].as_u64().unwrap();
    of("bytes") / of("packets").max(1)
}

/// Counts the packets of the interface that are longer than its MTU: those that punchd has joined. How many there are is a matter
/// of timing, and whether there are any is not.
fn joined(host: &Host) -> Count {
    host.count("input", &format!("iifname punch0 meta length > {MTU}"))
}

#[test]
fn with_all_of_them_packets_are_large() {
    need_lab!();
    let lab = lab("offall", [ALL, ALL]);
    let joined = lab.hosts().map(joined);
    carries(&lab);

    for (host, joined) in lab.hosts().into_iter().zip(joined) {
        let sent = mean_length_sent(host);
        assert!(sent > MTU, "{sent}");
        assert!(joined.packets() > 0);
        let log = host.punchd.log_text();
        assert!(
            log.contains("tun_tso=true tun_uso=true tun_gro=true"),
            "{log}"
        );
    }
}

#[test]
fn with_none_of_them_all_arrives_too() {
    need_lab!();
    let lab = lab("offnone", [NONE, NONE]);
    let joined = lab.hosts().map(joined);
    carries(&lab);

    for (host, joined) in lab.hosts().into_iter().zip(joined) {
        let sent = mean_length_sent(host);
        assert!(sent <= MTU, "{sent}");
        assert_eq!(joined.packets(), 0);
        let log = host.punchd.log_text();
        assert!(
            log.contains("tun_tso=false tun_uso=false tun_gro=false"),
            "{log}"
        );
    }
}

#[test]
fn each_of_them_may_be_missing_at_either_end() {
    need_lab!();
    for [a, b] in [
        ["tun_tso = false\n", "tun_gro = false\n"],
        ["tun_uso = false\n", "udp_gso = false\n"],
        ["udp_gro = false\n", NONE],
        [
            "tun_tso = false\ntun_uso = false\n",
            "udp_gso = false\nudp_gro = false\n",
        ],
    ] {
        let lab = lab("offmix", [a, b]);
        let joined = lab.hosts().map(joined);
        carries(&lab);
        for ((host, lines), joined) in lab.hosts().into_iter().zip([a, b]).zip(joined) {
            let sent = mean_length_sent(host);
            assert_eq!(sent > MTU, !lines.contains("tso"), "{lines}: {sent}");
            let joins = !lines.contains("tun_gro");
            assert_eq!(joined.packets() > 0, joins, "{lines}");
        }
    }
}

#[test]
fn a_device_that_computes_no_checksums_gets_datagrams_one_by_one() {
    need_lab!();
    let ethtool = tool("ethtool", "ethtool");
    let lab = lab("offdev", [ALL, ALL]);
    for host in lab.hosts() {
        let route = host.exec_ok(&["ip", "-j", "route", "get", lab.env("SERVER_IPV4")]);
        let route: Value = serde_json::from_str(&route).unwrap();
        let device = route[0]["dev"].as_str().unwrap();
        // The kernel refuses trains then: EIO for IPv4 and IPv6.
        host.exec_ok(&[&ethtool, "-K", device, "tx", "off", "gro", "off"]);
    }
    carries(&lab);
}
