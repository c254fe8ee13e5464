//! Tests of the choice among many addresses: of this machine, and of a server's name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::time::Duration;

use harness::{Child, Host, Kinds, Lab, Namespace, PATIENCE, tool, wait_until};

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

fn remote(host: &Host, peer: &str) -> String {
    let peer = host.peer(peer);
    peer["path"]["remote"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_server_whose_ipv6_leads_nowhere_is_reached_over_ipv4() {
    need_lab!();
    let mut lab = Lab::bare("hole", Kinds::Apart("port-restricted+ipv6", NATS.1), &[]);
    lab.start_servers();
    let names = format!(
        "127.0.0.1 localhost\n{} signal.example\n{} signal.example\n",
        lab.env("SERVER_IPV6"),
        lab.env("SERVER_IPV4")
    );
    for host in ["a", "b"] {
        let folder = format!("/etc/netns/{}", lab.namespace(host).namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(format!("{folder}/hosts"), &names).unwrap();
    }
    // IPv6 of a gets no further than its router, which says nothing.
    let router = lab.namespace("ra");
    router.exec_ok(&["nft", "add table ip6 hole"]);
    router.exec_ok(&[
        "nft",
        "add chain ip6 hole f { type filter hook forward priority -300; policy drop; }",
    ]);
    lab.a.start();
    lab.b.start();
    lab.introduce();
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", "ws://signal.example:8080"]);
        host.ctl_ok(&["server", "add", "stun", "signal.example"]);
        host.wait_for_server("ws://signal.example:8080/");
    }
    let log = lab.a.punchd.log_text();
    assert!(
        !log.contains("not connected"),
        "the first attempt is enough: {log}"
    );
    lab.connect();
}

#[test]
fn container_bridges_do_not_push_out_the_address_of_the_lan() {
    need_lab!();
    let mut lab = Lab::bare("bridges", Kinds::SameLan(NATS.0), &[]);
    lab.start_servers();
    for host in ["a", "b"] {
        let host = lab.namespace(host);
        // The same addresses at both, all of which sort before those of the LAN.
        for n in 1..=30 {
            let (name, address) = (format!("br{n}"), format!("10.0.{n}.1/24"));
            host.exec_ok(&["ip", "link", "add", &name, "type", "bridge"]);
            host.exec_ok(&["ip", "address", "add", &address, "dev", &name]);
            host.exec_ok(&["ip", "link", "set", &name, "up"]);
        }
    }
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.introduce();
    lab.connect();
    assert_eq!(lab.a.peer("b")["path"]["kind"], "host");
    let lan = lab.env("B_IPV4").to_owned();
    assert!(
        remote(&lab.a, "b").starts_with(&format!("{lan}:")),
        "{} is not {lan}",
        remote(&lab.a, "b")
    );
}

/// A host's end of another VPN.
fn other_vpn(host: &Namespace, name: &str, address: &str) -> (Child, String) {
    let interface = format!("wt{name}");
    let go = tool("wireguard-go", "wireguard-go");
    let mut command = host.command(&[
        "env",
        "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1",
        "WG_PROCESS_FOREGROUND=1",
        &go,
        "-f",
        &interface,
    ]);
    let log = host.dir.join(format!("{interface}.log"));
    let child = Child::start(&mut command, &log);
    wait_until(PATIENCE, "the other VPN has its interface", || {
        host.exec(&["ip", "link", "show", &interface]).success()
    });
    let key = host.exec_ok(&["wg", "genkey"]);
    let file = host.dir.join(format!("{interface}.key"));
    fs::write(&file, &key).unwrap();
    let file = file.display().to_string();
    host.exec_ok(&[
        "wg",
        "set",
        &interface,
        "private-key",
        &file,
        "listen-port",
        "51820",
    ]);
    host.exec_ok(&["ip", "address", "add", address, "dev", &interface]);
    host.exec_ok(&["ip", "link", "set", &interface, "mtu", "1420", "up"]);
    let public = host.exec_ok(&["wg", "show", &interface, "public-key"]);
    (child, public.trim().to_owned())
}

#[test]
fn a_path_inside_another_vpn_serves_only_while_there_is_no_other() {
    need_lab!();
    let mut lab = Lab::bare("vpn", Kinds::Apart(NATS.0, NATS.1), &[]);
    lab.start_servers();
    let hub = lab.namespace("server");
    let (_hub, hub_key) = other_vpn(&hub, "s", "10.99.0.1/24");
    hub.exec_ok(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let mut ends = Vec::new();
    for (name, address) in [("a", "10.99.0.2"), ("b", "10.99.0.3")] {
        let host = lab.namespace(name);
        let (end, key) = other_vpn(&host, name, &format!("{address}/24"));
        ends.push(end);
        let only = format!("{address}/32");
        hub.exec_ok(&["wg", "set", "wts", "peer", &key, "allowed-ips", &only]);
        let (interface, endpoint) = (
            format!("wt{name}"),
            format!("{}:51820", lab.env("SERVER_IPV4")),
        );
        host.exec_ok(&[
            "wg",
            "set",
            &interface,
            "peer",
            &hub_key,
            "endpoint",
            &endpoint,
            "allowed-ips",
            "10.99.0.0/24",
            "persistent-keepalive",
            "5",
        ]);
    }
    wait_until(PATIENCE, "the other VPN carries packets", || {
        lab.a.exec(&["ping", "-c1", "-W1", "10.99.0.3"]).success()
    });

    // At first UDP between the two NATs is dropped: only the other VPN leads to the peer.
    let (ra, rb) = (lab.namespace("ra"), lab.namespace("rb"));
    for (router, other) in [
        (&ra, lab.env("B_PUBLIC_IPV4")),
        (&rb, lab.env("A_PUBLIC_IPV4")),
    ] {
        router.exec_ok(&["nft", "add table ip cut"]);
        router.exec_ok(&[
            "nft",
            "add chain ip cut f { type filter hook forward priority -300; }",
        ]);
        router.exec_ok(&["nft", &format!("add rule ip cut f ip daddr {other} drop")]);
    }
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.introduce();
    lab.connect();
    assert!(
        remote(&lab.a, "b").starts_with("10.99.0.3:"),
        "{}",
        remote(&lab.a, "b")
    );
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);

    // The way is free: the next attempt takes it and leaves the other VPN, which goes on.
    for router in [&ra, &rb] {
        router.exec_ok(&["nft", "delete table ip cut"]);
    }
    lab.a.ctl_ok(&["down", "b"]);
    lab.b.wait_for_peer_state("a", "down");
    lab.connect();
    let public = format!("{}:", lab.env("B_PUBLIC_IPV4"));
    wait_until(
        Duration::from_secs(20),
        "the path leaves the other VPN",
        || remote(&lab.a, "b").starts_with(&public),
    );
}
