//! A WireGuard that knows nothing of Punch as a peer.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::{
    Child, Echo, Host, Kinds, Lab, Namespace, PATIENCE, number_from_env, tool, wait_until,
};
use nix::sys::signal::Signal;

/// wireguard-go on a host that everybody can reach.
struct WireGuard {
    name: String,
    key: String,
    endpoint: String,
    net: Namespace,
    child: Child,
}

impl WireGuard {
    const ADDRESSES: [&str; 2] = ["10.9.0.1", "fd09::1"];

    /// On b. Its interface is called as the lab is, so it meets no other one's control socket.
    fn start(lab: &Lab) -> Self {
        let (net, name) = (lab.b.net.clone(), lab.name.clone());
        assert!(name.len() <= 15, "too long for an interface: {name}");
        let child = net.spawn(
            "wireguard",
            &[&tool("wireguard-go", "wireguard-go"), "-f", &name],
        );
        let this = Self {
            key: net
                .exec_ok(&[
                    "sh",
                    "-c",
                    "umask 077; [ -e wg.key ] || wg genkey >wg.key; wg pubkey <wg.key",
                ])
                .trim()
                .to_owned(),
            endpoint: format!("{}:51820", lab.env("B_PUBLIC_IPV4")),
            name,
            net,
            child,
        };
        wait_until(PATIENCE, "wireguard-go listens", || this.socket().exists());
        this.set(&["private-key", "wg.key", "listen-port", "51820"]);
        for address in Self::ADDRESSES {
            this.ip(&["address", "add", address, "dev", &this.name]);
        }
        this.ip(&["link", "set", &this.name, "mtu", "1420", "up"]);
        for address in [lab.a.ipv4(), lab.a.ipv6()] {
            this.ip(&["route", "add", &address.to_string(), "dev", &this.name]);
        }
        this
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/wireguard/{}.sock", self.name))
    }

    fn ip(&self, arguments: &[&str]) {
        self.net.exec_ok(&[&["ip"], arguments].concat());
    }

    fn set(&self, arguments: &[&str]) {
        let wg = tool("wg", "wireguard-tools");
        self.net
            .exec_ok(&[&[&wg, "set", &self.name], arguments].concat());
    }

    /// Makes the host its only peer.
    fn peer(&self, host: &Host, preshared: Option<&str>) {
        let key = host.ctl_json(&["id"])["wireguard"].clone();
        let key = key.as_str().unwrap();
        self.set(&["peer", key, "remove"]);
        let ips = format!("{},{}", host.ipv4(), host.ipv6());
        self.set(&["peer", key, "allowed-ips", &ips]);
        if let Some(file) = preshared {
            self.set(&["peer", key, "preshared-key", file]);
        }
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        // It removes its control socket when it is asked to end.
        self.child.signal(Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(5);
        while self.child.is_running() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(self.socket());
    }
}

/// `punchctl peer add wg` for one of its addresses.
fn add_wireguard(host: &Host, wireguard: &WireGuard, address: &str, preshared: Option<&str>) {
    let mut ask = vec!["peer", "add", "wg", "--wireguard", &wireguard.key];
    ask.extend(["--endpoint", &wireguard.endpoint, "--address", address]);
    let file = preshared.map(|file| host.dir.join(file).display().to_string());
    if let Some(file) = &file {
        ask.extend(["--preshared-key", file]);
    }
    host.ctl_ok(&ask);
}

fn expect_ping(from: &Namespace, to: IpAddr) {
    from.exec_ok(&["ping", "-c", "2", "-i", "0.2", "-w", "30", &to.to_string()]);
}

/// a (with punchd, behind a NAT) and wireguard-go on b, which is open.
fn with_wireguard() -> (Lab, WireGuard) {
    let mut lab = Lab::bare("wg", Kinds::Apart("port-restricted", "open+ipv6"), &[]);
    lab.a.start();
    let wireguard = WireGuard::start(&lab);
    lab.b.exec_ok(&["sh", "-c", "umask 077; wg genpsk >psk"]);
    (lab, wireguard)
}

#[test]
fn an_unmodified_wireguard_is_a_peer() {
    need_lab!();
    let (lab, wireguard) = with_wireguard();
    let _on_b = Echo::start(&lab.b, "[::]:7000");
    let _on_a = Echo::start(&lab.a, "[::]:7100");
    for address in WireGuard::ADDRESSES {
        let theirs: IpAddr = address.parse().unwrap();
        let mine = if theirs.is_ipv4() {
            lab.a.ipv4()
        } else {
            lab.a.ipv6()
        };
        for preshared in [None, Some("psk")] {
            wireguard.peer(&lab.a, preshared);
            add_wireguard(&lab.a, &wireguard, address, preshared);
            lab.a.ctl_ok(&["up", "wg", "--timeout", "30"]);
            let view = lab.a.peer("wg");
            assert_eq!(view["path"]["kind"], "fixed", "{view:#}");
            assert_eq!(view["path"]["remote"], wireguard.endpoint, "{view:#}");
            expect_ping(&lab.a, theirs);
            expect_ping(&lab.b, mine);
            lab.a.expect_echo(SocketAddr::new(theirs, 7000));
            // The same rules as for every peer: nothing, one port, the host.
            let whole = SocketAddr::new(mine, 7100);
            assert!(lab.b.is_refused(whole));
            lab.a.ctl_ok(&[
                "forward",
                "tcp",
                "7200",
                "--to",
                "127.0.0.1:7100",
                "--peer",
                "wg",
            ]);
            lab.b.expect_echo(SocketAddr::new(mine, 7200));
            assert!(lab.b.is_refused(whole));
            lab.a.ctl_ok(&["allow", "wg", "--host"]);
            lab.b.expect_echo(whole);
            lab.a.ctl_ok(&["down", "wg"]);
            assert_eq!(lab.a.peer_state("wg"), "refused");
            lab.a.ctl_ok(&["peer", "remove", "wg"]);
        }
    }
}

#[test]
fn a_wireguard_peer_comes_back_after_restarts_of_either_end() {
    need_lab!();
    let (mut lab, wireguard) = with_wireguard();
    wireguard.peer(&lab.a, Some("psk"));
    add_wireguard(&lab.a, &wireguard, "10.9.0.1", Some("psk"));
    lab.a.ctl_ok(&["up", "wg", "--timeout", "30"]);
    lab.a.restart();
    lab.a.wait_for_peer_state("wg", "connected");
    expect_ping(&lab.a, "10.9.0.1".parse().unwrap());
    lab.a.kill();
    lab.a.start();
    lab.a.wait_for_peer_state("wg", "connected");
    expect_ping(&lab.a, "10.9.0.1".parse().unwrap());
    // A WireGuard that has forgotten its sessions is silent; after 15 s of that a makes new ones, as the protocol says.
    drop(wireguard);
    let wireguard = WireGuard::start(&lab);
    wireguard.peer(&lab.a, Some("psk"));
    let reply = ["ping", "-c", "1", "-W", "1", "10.9.0.1"];
    wait_until(PATIENCE, "packets pass again", || {
        lab.a.exec(&reply).success()
    });
}

/// A peer without a fixed address calls, is remembered where it was, and is found there after a restart.
#[test]
fn a_wireguard_peer_without_an_endpoint_is_called_where_it_was_last_seen() {
    need_lab!();
    let mut lab = Lab::bare("wg", Kinds::Apart("open+ipv6", "open+ipv6"), &[]);
    lab.a.configure("[underlay]\nport = 41820\n");
    lab.a.start();
    let wireguard = WireGuard::start(&lab);
    let add = ["peer", "add", "phone", "--wireguard", &wireguard.key];
    let shown = lab
        .a
        .ctl_ok(&[&add[..], &["--address", "10.9.0.1", "--show-config"]].concat());
    let own = lab.a.ctl_json(&["id"])["wireguard"]
        .as_str()
        .unwrap()
        .to_owned();
    for line in [
        "[Interface]",
        &format!("# PrivateKey = the secret of {}", wireguard.key),
        "Address = 10.9.0.1/32",
        &format!("PublicKey = {own}"),
        &format!("AllowedIPs = {}/32", lab.a.ipv4()),
        "PersistentKeepalive = 25",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    lab.a.wait_for_peer_state("phone", "connecting");
    wireguard.peer(&lab.a, None);
    let public = format!("{}:41820", lab.env("A_PUBLIC_IPV4"));
    wireguard.set(&[
        "peer",
        &own,
        "endpoint",
        &public,
        "persistent-keepalive",
        "1",
    ]);
    lab.a.wait_for_peer_state("phone", "connected");
    expect_ping(&lab.a, "10.9.0.1".parse().unwrap());
    let there = lab.a.peer("phone")["path"]["remote"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(there, wireguard.endpoint);

    // It falls silent. What remains is where it was.
    wireguard.set(&["peer", &own, "persistent-keepalive", "0"]);
    lab.a.restart();
    lab.a.wait_for_peer_state("phone", "connected");
    expect_ping(&lab.a, "10.9.0.1".parse().unwrap());
}

#[test]
fn a_wireguard_peer_with_another_preshared_key_does_not_connect() {
    need_lab!();
    let (lab, wireguard) = with_wireguard();
    wireguard.peer(&lab.a, Some("psk"));
    add_wireguard(&lab.a, &wireguard, "10.9.0.1", None);
    let refused = lab.a.ctl_refused(&["up", "wg", "--timeout", "2"]);
    assert!(refused.contains("wg"), "{refused}");
    assert_eq!(lab.a.peer_state("wg"), "connecting");
    // With the right key it does, without anything else being changed.
    lab.a.ctl_ok(&["peer", "remove", "wg"]);
    add_wireguard(&lab.a, &wireguard, "10.9.0.1", Some("psk"));
    lab.a.ctl_ok(&["up", "wg", "--timeout", "30"]);
}

// --- minutes: rekeys, and keys that expire ---

/// Whether the tests that take minutes are wanted.
fn long() -> bool {
    let wanted = std::env::var_os("PUNCH_LONG").is_some();
    if !wanted {
        eprintln!(
            "SKIPPED: takes 6 minutes; to run it: PUNCH_LONG=1 cargo test -p punchd --test wireguard minutes"
        );
    }
    wanted
}

/// Answers each datagram with itself.
fn udp_echo(host: &Namespace, address: &str) {
    let socket = host.inside(|| UdpSocket::bind(address)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// A datagram each 0.2 s for five minutes, echoed by `to`: never are more than five in a row lost, and the keys change twice.
fn expect_traffic_across_rekeys(host: &Host, peer: &str, to: SocketAddr) {
    let rounds = number_from_env("PUNCH_LONG_SECONDS", 310) * 5;
    let socket =
        host.inside(|| UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")));
    let socket = socket.unwrap();
    let to = match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    };
    socket.connect(to).unwrap();
    let (mut came, mut handshakes, mut age) = (vec![false; rounds as usize], 0, u64::MAX);
    // What comes late is not lost: the machine may be slow.
    let mut receive_until = |deadline: Instant| loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 8];
        match socket.recv(&mut buffer) {
            Ok(_) => came[u64::from_be_bytes(buffer) as usize] = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    };
    let began = Instant::now();
    for round in 0..rounds {
        socket.send(&round.to_be_bytes()).unwrap();
        receive_until(began + Duration::from_millis(200) * (round as u32 + 1));
        if round % 10 == 0 {
            let now = host.peer(peer)["last_handshake_s"].as_u64().unwrap_or(0);
            handshakes += u64::from(now < age);
            age = now;
        }
    }
    receive_until(Instant::now() + Duration::from_secs(5));
    let lost = came.iter().filter(|came| !**came).count();
    let runs = came.split(|came| *came);
    let worst = runs.map(<[bool]>::len).max().unwrap_or(0);
    eprintln!("{peer}: {rounds} sent, {lost} lost, {worst} in a row, {handshakes} handshakes seen");
    assert!(worst <= 5, "{worst} datagrams in a row were lost");
    assert!(handshakes >= 3, "only {handshakes} handshakes");
}

/// After minutes without traffic, longer than keys live, the first packets get through.
fn expect_traffic_after_silence(host: &Host, to: IpAddr) {
    std::thread::sleep(Duration::from_secs(number_from_env(
        "PUNCH_LONG_SILENCE",
        200,
    )));
    host.exec_ok(&["ping", "-c", "3", "-i", "0.5", "-w", "10", &to.to_string()]);
}

#[test]
fn a_wireguard_peer_stays_reachable_for_minutes() {
    need_lab!();
    if !long() {
        return;
    }
    let (lab, wireguard) = with_wireguard();
    udp_echo(&lab.b, "[::]:7000");
    wireguard.peer(&lab.a, Some("psk"));
    add_wireguard(&lab.a, &wireguard, "10.9.0.1", Some("psk"));
    lab.a.ctl_ok(&["up", "wg", "--timeout", "30"]);
    expect_traffic_across_rekeys(&lab.a, "wg", "10.9.0.1:7000".parse().unwrap());
    expect_traffic_after_silence(&lab.a, "10.9.0.1".parse().unwrap());
}

#[test]
fn a_punch_peer_stays_reachable_for_minutes() {
    need_lab!();
    if !long() {
        return;
    }
    let lab = Lab::connected("min", "port-restricted", "port-restricted");
    udp_echo(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "udp", "7000"]);
    expect_traffic_across_rekeys(&lab.a, "b", SocketAddr::new(lab.b.ipv4(), 7000));
    expect_traffic_after_silence(&lab.a, lab.b.ipv4());
}
