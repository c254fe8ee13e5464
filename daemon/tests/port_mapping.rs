//! Routers that map ports: a real one (miniupnpd), none, and some that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;

use harness::{Child, Host, Kinds, Lab, Namespace, PATIENCE, tool, wait_until};
use serde_json::Value;

/// The router's second public address: miniupnpd refuses to work with those that are reserved for documentation, as all
/// others of the lab are.
const EXTERNAL: &str = "11.0.0.10";
/// The port of a's punchd.
const PORT: u16 = 41820;

/// Where miniupnpd puts its rules.
const CHAINS: &str = "
table inet miniupnpd {
    chain forward { type filter hook forward priority filter - 1; policy accept; jump miniupnpd; }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority srcnat - 10; policy accept; jump postrouting_miniupnpd; }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
";

/// The router `ra`, open to its LAN.
struct Router {
    net: Namespace,
    /// Dropped, it is killed, and its rules stay, as those of a crash would.
    daemon: Option<Child>,
}

impl Router {
    fn of(lab: &Lab) -> Self {
        let net = lab.namespace("ra");
        let accept = "insert rule inet router input iifname lan accept";
        net.exec_ok(&[&["nft"], accept.split(' ').collect::<Vec<_>>().as_slice()].concat());
        Self { net, daemon: None }
    }

    /// With miniupnpd, and with an address that others on the internet reach.
    fn with_miniupnpd(lab: &Lab, settings: &str) -> Self {
        let mut router = Self::of(lab);
        let external = format!("{EXTERNAL}/32");
        router
            .net
            .exec_ok(&["ip", "addr", "add", &external, "dev", "wan"]);
        let internet = lab.namespace("inet");
        internet.exec_ok(&["ip", "route", "add", &external, "dev", "ra"]);
        let leases = lab.dir.join("leases");
        let leases = leases.display();
        let config = format!(
            "ext_ifname=wan\next_ip={EXTERNAL}\nlistening_ip=lan\nhttp_port=5000\nipv6_disable=yes\nsecure_mode=yes\n\
             uuid=11111111-2222-3333-4444-555555555555\nupnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\nlease_file={leases}\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n{settings}\n"
        );
        fs::write(lab.dir.join("miniupnpd.conf"), config).unwrap();
        fs::write(lab.dir.join("chains.nft"), CHAINS).unwrap();
        router.net.exec_ok(&["nft", "-f", "chains.nft"]);
        router.start_miniupnpd();
        router
    }

    fn start_miniupnpd(&mut self) {
        let at = |name: &str| self.net.dir.join(name).display().to_string();
        let program = tool("miniupnpd", "miniupnpd-nftables");
        let (config, pid) = (at("miniupnpd.conf"), at("miniupnpd.pid"));
        let argv = [&program, "-d", "-f", &config, "-P", &pid];
        let log = at("miniupnpd.log");
        let natpmp = fs::read_to_string(&config)
            .unwrap()
            .contains("enable_natpmp=yes");
        let ready = if natpmp {
            "Listening for NAT-PMP/PCP"
        } else {
            "HTTP listening"
        };
        let said = || {
            fs::read_to_string(&log)
                .unwrap_or_default()
                .matches(ready)
                .count()
        };
        let before = said();
        self.daemon = Some(self.net.spawn("miniupnpd", &argv));
        wait_until(PATIENCE, "miniupnpd is ready", || said() > before);
    }

    /// The power fails: nothing is left of its mappings.
    fn crash(&mut self) {
        self.daemon = None;
        let _ = fs::remove_file(self.net.dir.join("leases"));
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            self.net
                .exec_ok(&["nft", "flush", "chain", "inet", "miniupnpd", chain]);
        }
    }

    /// Whether the kernel leads the port to a.
    fn maps(&self, lab: &Lab) -> bool {
        let rules = self
            .net
            .exec_ok(&["nft", "list", "table", "inet", "miniupnpd"]);
        rules.contains(&format!(
            "dport {PORT} dnat ip to {}:{PORT}",
            lab.env("A_IPV4")
        ))
    }

    /// Whether it leads datagrams and TCP connections there.
    fn maps_tcp(&self, lab: &Lab) -> bool {
        let rules = self
            .net
            .exec_ok(&["nft", "list", "table", "inet", "miniupnpd"]);
        // Rules of both protocols look alike.
        let rule = format!("dport {PORT} dnat ip to {}:{PORT}", lab.env("A_IPV4"));
        rules.matches(&rule).count() == 2
    }

    /// One that says what it is told to say.
    fn fake(lab: &Lab, mode: &[&str]) -> Self {
        let mut router = Self::of(lab);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_router.py");
        let python = tool("python3", "python3");
        let argv = [&[python.as_str(), script], mode].concat();
        router.daemon = Some(router.net.spawn("router", &argv));
        wait_until(PATIENCE, "the router is ready", || {
            router.was_asked("ready")
        });
        router
    }

    fn was_asked(&self, words: &str) -> bool {
        let log = fs::read_to_string(self.net.dir.join("router.log")).unwrap_or_default();
        log.lines().any(|line| line.starts_with(words))
    }
}

/// Symmetric NATs on both sides, of which only a mapping leads out; the servers run, punchd does not yet.
fn symmetric(hint: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("symmetric", "symmetric"), &[]);
    lab.start_servers();
    lab.a.configure(&format!("[underlay]\nport = {PORT}\n"));
    lab
}

fn start_all(lab: &mut Lab) {
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.introduce();
}

/// The mapped addresses that this host offers.
fn offered(host: &Host) -> Vec<String> {
    let status = host.ctl_json(&["status"]);
    let candidates = status["network"]["candidates"].as_array().unwrap().iter();
    candidates
        .filter(|candidate| candidate["kind"] == "port_mapped")
        .map(|candidate| candidate["address"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_for_mapping(host: &Host, external: &str) {
    let what = format!("{external} is mapped");
    wait_until(PATIENCE, &what, || offered(host) == [external]);
}

/// What netcheck says of the router; the host has a STUN server.
fn seen_by_netcheck(host: &Host) -> Value {
    let views = host.ctl_json(&["netcheck"]);
    let mut views = views.as_array().unwrap().iter();
    views.find(|view| view["family"] == "ipv4").unwrap()["port_mapping"].clone()
}

fn add_stun(lab: &Lab) {
    lab.a
        .ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
}

fn mapped() -> String {
    format!("{EXTERNAL}:{PORT}")
}

#[test]
fn a_port_is_mapped_by_pcp_and_given_back_at_the_end() {
    need_lab!();
    let mut lab = symmetric("pcp");
    let router = Router::with_miniupnpd(&lab, "enable_natpmp=yes");
    lab.a.start();
    wait_for_mapping(&lab.a, &mapped());
    assert!(router.maps(&lab));
    let status = lab.a.ctl_ok(&["status"]);
    let line = format!("reachable at   {} (port mapped)", mapped());
    assert!(status.contains(&line), "{status}");
    add_stun(&lab);
    let view = seen_by_netcheck(&lab.a);
    assert_eq!(view["protocol"], "pcp", "{view}");
    assert_eq!(view["external"], mapped(), "{view}");
    assert_eq!(view["double_nat"], false, "{view}");
    assert!(view["trouble"].is_null(), "{view}");
    let text = lab.a.ctl_ok(&["netcheck"]);
    let line = format!("maps {} here (PCP)", mapped());
    assert!(text.contains(&line), "{text}");
    wait_until(PATIENCE, "a port is mapped for TCP", || {
        router.maps_tcp(&lab)
    });

    assert_eq!(lab.a.stop(), 0);
    assert!(!router.maps(&lab), "it is given back before punchd ends");
}

#[test]
fn a_port_is_mapped_by_upnp_and_given_back_at_the_end() {
    need_lab!();
    let mut lab = symmetric("upnp");
    let router = Router::with_miniupnpd(&lab, "enable_natpmp=no\nenable_upnp=yes");
    lab.a.start();
    wait_for_mapping(&lab.a, &mapped());
    assert!(router.maps(&lab));
    add_stun(&lab);
    let view = seen_by_netcheck(&lab.a);
    assert_eq!(view["protocol"], "upnp", "{view}");
    assert_eq!(view["external"], mapped(), "{view}");
    wait_until(PATIENCE, "a port is mapped for TCP", || {
        router.maps_tcp(&lab)
    });

    assert_eq!(lab.a.stop(), 0);
    assert!(!router.maps(&lab), "it is given back before punchd ends");
}

#[test]
fn where_udp_is_blocked_a_mapping_for_tcp_connects() {
    need_lab!();
    let mut lab = symmetric("tcp");
    let router = Router::with_miniupnpd(&lab, "enable_natpmp=yes");
    let rules = "table inet blocked { chain here { type filter hook forward priority -1; meta l4proto udp drop; }; }";
    lab.namespace("rb").exec_ok(&["nft", rules]);
    start_all(&mut lab);
    wait_until(PATIENCE, "a port is mapped for TCP", || {
        router.maps_tcp(&lab)
    });
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("direct over TCP"), "{said}");
    lab.b.wait_for_peer_state("a", "connected");
    let path = lab.b.peer("a")["path"].clone();
    assert_eq!(path["kind"], "tcp", "{path}");
    assert_eq!(path["remote"], mapped(), "{path}");
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        host.ctl_ok(&["ping", peer, "-c", "3"]);
    }
}

#[test]
fn without_tcp_no_port_is_mapped_for_it() {
    need_lab!();
    let mut lab = symmetric("notcp");
    let router = Router::fake(&lab, &["nat-pmp", "203.0.113.10"]);
    lab.a.configure(&format!(
        "[underlay]\nport = {PORT}\n[punch]\ntcp = false\n"
    ));
    lab.a.start();
    wait_for_mapping(&lab.a, &format!("203.0.113.10:{PORT}"));
    lab.a.stop();
    assert!(router.was_asked(&format!("NAT-PMP MAP {PORT} lifetime 0")));
    assert!(!router.was_asked("TCP"));
}

#[test]
fn after_a_crash_the_same_port_is_mapped_again() {
    need_lab!();
    let mut lab = symmetric("again");
    let router = Router::fake(&lab, &["pcp", "203.0.113.10"]);
    let external = format!("203.0.113.10:{PORT}");
    lab.a.start();
    wait_for_mapping(&lab.a, &external);
    lab.a.kill();
    assert!(!router.was_asked("PCP MAP lifetime 0"));
    lab.a.start();
    wait_for_mapping(&lab.a, &external);
    assert!(!router.was_asked("refused"), "it is known again");
    lab.a.stop();
    assert!(router.was_asked("PCP MAP lifetime 0"));
}

#[test]
fn a_mapping_at_one_end_connects_two_symmetric_nats() {
    need_lab!();
    let mut lab = symmetric("symm");
    let _router = Router::with_miniupnpd(&lab, "enable_natpmp=yes");
    start_all(&mut lab);
    lab.connect();
    let path = lab.b.peer("a")["path"].clone();
    assert_eq!(path["remote"], mapped(), "{path}");
    assert_eq!(path["kind"], "port_mapped", "{path}");
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        host.ctl_ok(&["ping", peer, "-c", "3"]);
    }
}

#[test]
fn without_leave_the_router_is_not_asked() {
    need_lab!();
    let mut lab = symmetric("off");
    let router = Router::with_miniupnpd(&lab, "enable_natpmp=yes");
    lab.a.configure(&format!(
        "[underlay]\nport = {PORT}\n[nat]\nport_mapping = false\n"
    ));
    start_all(&mut lab);
    lab.a.ctl_refused(&["up", "b", "--timeout", "5"]);
    assert!(!router.maps(&lab));
    assert_eq!(offered(&lab.a), [""; 0]);
    let view = seen_by_netcheck(&lab.a);
    let trouble = view["trouble"].as_str().unwrap();
    assert!(trouble.starts_with("switched off"), "{view}");
}

#[test]
fn a_mapping_comes_back_when_the_router_has_restarted() {
    need_lab!();
    let mut lab = symmetric("boot");
    let mut router = Router::with_miniupnpd(&lab, "enable_natpmp=yes");
    lab.a.start();
    wait_for_mapping(&lab.a, &mapped());
    router.crash();
    assert!(!router.maps(&lab));
    router.start_miniupnpd();
    wait_until(PATIENCE, "the mapping is back", || router.maps(&lab));
    assert_eq!(offered(&lab.a), [mapped()]);
}

#[test]
fn a_mapping_goes_and_comes_with_the_network() {
    need_lab!();
    let mut lab = symmetric("net");
    let mut router = Router::with_miniupnpd(&lab, "enable_natpmp=no");
    lab.a.start();
    wait_for_mapping(&lab.a, &mapped());
    lab.a.exec_ok(&["ip", "link", "set", "eth0", "down"]);
    wait_until(PATIENCE, "the mapping is gone", || {
        offered(&lab.a).is_empty()
    });
    // The next network has another router, which happens to look the same.
    router.crash();
    router.start_miniupnpd();
    lab.a.exec_ok(&["ip", "link", "set", "eth0", "up"]);
    let gateway = lab.env("RA_LAN_IPV4");
    lab.a
        .exec_ok(&["ip", "route", "add", "default", "via", gateway]);
    wait_for_mapping(&lab.a, &mapped());
    assert!(router.maps(&lab));
}

#[test]
fn a_router_that_maps_nothing_holds_nobody_up() {
    need_lab!();
    let mut lab = Lab::bare(
        "none",
        Kinds::Apart("port-restricted", "port-restricted"),
        &[],
    );
    lab.start_servers();
    start_all(&mut lab);
    lab.connect();
    let trouble = "answers neither PCP nor NAT-PMP nor UPnP";
    lab.a.punchd.wait_for_log(trouble);
    let view = seen_by_netcheck(&lab.a);
    assert!(
        view["trouble"].as_str().unwrap().contains(trouble),
        "{view}"
    );
    assert!(
        view["protocol"].is_null() && view["external"].is_null(),
        "{view}"
    );
    let text = lab.a.ctl_ok(&["netcheck"]);
    assert!(text.contains("router     no mapped port: "), "{text}");
    let log = lab.a.punchd.log_text();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(trouble)).collect();
    assert!(lines.len() == 1 && lines[0].contains("DEBUG"), "{lines:#?}");
    assert_eq!(offered(&lab.a), [""; 0]);
}

#[test]
fn an_old_router_is_asked_by_nat_pmp_and_a_double_nat_is_told() {
    need_lab!();
    let mut lab = symmetric("pmp");
    let router = Router::fake(&lab, &["nat-pmp", "100.64.7.7"]);
    lab.a.start();
    wait_for_mapping(&lab.a, &format!("100.64.7.7:{PORT}"));
    add_stun(&lab);
    let view = seen_by_netcheck(&lab.a);
    assert_eq!(view["protocol"], "nat_pmp", "{view}");
    assert_eq!(view["double_nat"], true, "{view}");
    let text = lab.a.ctl_ok(&["netcheck"]);
    assert!(text.contains("double NAT"), "{text}");
    assert!(router.was_asked(&format!("NAT-PMP MAP {PORT} lifetime 7200")));
    wait_until(PATIENCE, "a port is mapped for TCP", || {
        router.was_asked("TCP by NAT-PMP, lifetime 7200")
    });
    lab.a.stop();
    assert!(router.was_asked(&format!("NAT-PMP MAP {PORT} lifetime 0")));
    assert!(router.was_asked("TCP by NAT-PMP, lifetime 0"));
}

#[test]
fn a_router_that_lends_nothing_gets_a_permanent_mapping_which_is_removed() {
    need_lab!();
    let mut lab = symmetric("perm");
    let router = Router::fake(&lab, &["upnp", "203.0.113.10"]);
    lab.a.start();
    wait_for_mapping(&lab.a, &format!("203.0.113.10:{PORT}"));
    assert!(router.was_asked("AddPortMapping 7200") && router.was_asked("AddPortMapping 0"));
    wait_until(PATIENCE, "a port is mapped for TCP", || {
        router.was_asked("TCP by UPnP, AddPortMapping 0")
    });
    lab.a.stop();
    assert!(router.was_asked("DeletePortMapping"));
    assert!(router.was_asked("TCP by UPnP, DeletePortMapping"));
}

/// Nothing of what these routers say is offered, and no harm comes of it.
fn are_not_believed(hint: &str, modes: &[&[&str]]) {
    let mut lab = symmetric(hint);
    for mode in modes {
        let router = Router::fake(&lab, mode);
        let _ = fs::remove_file(&lab.a.punchd.log);
        lab.a.start();
        lab.a.punchd.wait_for_log("no port mapping trouble=");
        assert_eq!(offered(&lab.a), [""; 0], "{mode:?}");
        let memory = most_memory(&lab.a);
        assert!(memory < 128 * 1024, "{mode:?}: {memory} KiB");
        assert_eq!(lab.a.stop(), 0, "{mode:?}");
        let log = lab.a.punchd.log_text();
        assert!(!log.contains("panicked"), "{mode:?}: {log}");
        let line = log
            .lines()
            .find(|line| line.contains("no port mapping"))
            .unwrap();
        assert!(line.len() < 300, "{mode:?}: {line}");
        drop(router);
    }
}

#[test]
fn routers_that_lie_by_pcp_and_nat_pmp_are_not_believed() {
    need_lab!();
    are_not_believed(
        "liar",
        &[
            &["pcp", "127.0.0.1"],
            &["pcp", "0.0.0.0"],
            &["pcp-refuses"],
            &["pcp-nothing"],
            &["nat-pmp", "0.0.0.0"],
            &["nat-pmp", "224.0.0.1"],
            &["garbage"],
            &["garbage"],
            &["garbage"],
        ],
    );
}

#[test]
fn routers_that_lie_by_upnp_are_not_believed() {
    need_lab!();
    are_not_believed(
        "upnl",
        &[
            &["upnp", "127.0.0.1"],
            &["upnp", "0.0.0.0"],
            &["upnp", "not an address"],
            &["many"],
            &["endless"],
            &["deep"],
            &["bomb"],
            &["slow"],
            &["elsewhere"],
        ],
    );
}

/// The most that punchd has had so far, in KiB.
fn most_memory(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.punchd.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// Nobody tells a service whether it is stopped or restarted.
#[test]
fn a_service_that_may_come_back_leaves_its_mapping_for_two_minutes() {
    need_lab!();
    let mut lab = symmetric("pmpl");
    let router = Router::fake(&lab, &["nat-pmp", "100.64.7.7"]);
    let place = lab.dir.join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&place).unwrap();
    std::thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
    let service = [
        harness::tool("env", "coreutils"),
        format!("NOTIFY_SOCKET={}", place.display()),
        "FDSTORE=512".to_owned(),
    ];
    lab.a.punchd.argv.splice(0..0, service);
    lab.a.start();
    wait_for_mapping(&lab.a, &format!("100.64.7.7:{PORT}"));
    lab.a.stop();
    assert!(router.was_asked(&format!("NAT-PMP MAP {PORT} lifetime 120")));
    assert!(!router.was_asked(&format!("NAT-PMP MAP {PORT} lifetime 0")));
}
