//! coturn knows nothing of Punch: its clients ask punch-stun, and punchd asks coturn's server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::SocketAddr;

use harness::{Child, Echo, Host, Kinds, Lab, PATIENCE, tool, wait_for, wait_until};

// --- coturn's clients ask punch-stun ---

#[test]
fn coturns_stunclient_understands_punch_stun() {
    need_lab!();
    let mut lab = Lab::bare("stun", Kinds::Apart("port-restricted+ipv6", "open"), &[]);
    lab.start_servers();
    let client = tool("turnutils_stunclient", "coturn");
    for (server, origin, other, mapped) in [
        (
            lab.env("SERVER_IPV4"),
            "203.0.113.1:3478",
            "203.0.113.2:3479",
            lab.env("A_PUBLIC_IPV4"),
        ),
        (
            lab.env("SERVER_IPV6"),
            "2001:db8::1:3478",
            "2001:db8::2:3479",
            lab.env("A_IPV6"),
        ),
    ] {
        // After the first answer it tries RESPONSE-PORT from a mapping that is not open, and waits for ever: it has no
        // timeout. Dropping it ends it.
        let log = lab.dir.join(format!("client of {server}.log"));
        let mut command = lab.a.command(&["stdbuf", "-oL", &client, server]);
        let _client = Child::start(&mut command, &log);
        let said = wait_for(PATIENCE, "turnutils_stunclient reads the answer", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().any(|line| line.contains("reflexive addr"));
            last.then_some(text)
        });
        assert!(said.contains("RFC 5780 response 1"), "{said}");
        for expected in [
            format!("Response origin: : {origin}\n"),
            format!("Other addr: : {other}\n"),
            format!("UDP reflexive addr: {mapped}:"),
        ] {
            assert!(said.contains(&expected), "{expected:?} is not in {said}");
        }
    }
}

#[test]
fn coturns_natdiscovery_names_each_nat_by_punch_stun() {
    need_lab!();
    const EASY: &str = "NAT with Endpoint Independent Mapping!";
    const HARD: &str = "NAT with Address and Port Dependent Mapping!";
    const ALL: &str = "NAT with Endpoint Independent Filtering!";
    const ADDRESS: &str = "NAT with Address Dependent Filtering!";
    const PORT: &str = "NAT with Address and Port Dependent Filtering!";
    let cases = [
        ("full-cone", EASY, ALL),
        ("address-restricted", EASY, ADDRESS),
        ("port-restricted", EASY, PORT),
        ("symmetric", HARD, PORT),
        // Also over IPv6, where there is no NAT, and a firewall or none.
        ("ipv6-firewall", EASY, PORT),
        ("open+ipv6", EASY, ALL),
    ];
    // At once: the program waits for 3 s whenever nothing comes.
    std::thread::scope(|scope| {
        for (kind, mapping, filtering) in cases {
            scope.spawn(move || {
                let mut lab = Lab::bare("disc", Kinds::Apart(kind, "open"), &[]);
                lab.start_servers();
                let discover = tool("turnutils_natdiscovery", "coturn");
                let server = if kind.contains("ipv6") {
                    lab.env("SERVER_IPV6")
                } else {
                    lab.env("SERVER_IPV4")
                };
                for (option, verdict) in [("-m", mapping), ("-f", filtering)] {
                    let said = lab.a.exec_ok(&[&discover, option, server]);
                    assert!(said.contains(verdict), "{kind}: {said}");
                }
            });
        }
    });
}

// --- punchd asks coturn ---

/// coturn's server, as its documentation says for RFC 5780: two addresses, and nothing else than STUN.
fn start_coturn(lab: &Lab) -> Child {
    let mut argv = vec![tool("turnserver", "coturn")];
    for option in ["-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls"] {
        argv.push(option.to_owned());
    }
    for address in ["IPV4", "IPV4_ALT", "IPV6", "IPV6_ALT"] {
        argv.push(format!(
            "--listening-ip={}",
            lab.env(&format!("SERVER_{address}"))
        ));
    }
    argv.extend(["--log-file=stdout".into(), "--simple-log".into()]);
    for (option, file) in [("--pidfile", "turn.pid"), ("--userdb", "turn.db")] {
        argv.push(format!("{option}={}", lab.dir.join(file).display()));
    }
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    lab.server.spawn("coturn", &argv)
}

/// Both punchds, with coturn as the only STUN server they know.
fn with_coturn(hint: &str, a: &str, b: &str) -> (Lab, Child) {
    let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
    let coturn = start_coturn(&lab);
    lab.start_signal();
    lab.a.start();
    lab.b.start();
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", &lab.signal_url(&host.name)]);
        let v6 = format!("[{}]", lab.env("SERVER_IPV6"));
        for server in [lab.env("SERVER_IPV4"), &v6] {
            host.ctl_ok(&["server", "add", "stun", server]);
        }
    }
    lab.introduce();
    (lab, coturn)
}

#[test]
fn netcheck_names_each_nat_by_coturn() {
    need_lab!();
    const ALL: &str = "endpoint_independent";
    const ADDRESS: &str = "address_dependent";
    const PORT: &str = "address_and_port_dependent";
    // Kind, then mapping and filtering over IPv4, and filtering over IPv6 where the host has it.
    type Case = (
        &'static str,
        &'static str,
        &'static str,
        Option<&'static str>,
    );
    let labs: [[Case; 2]; 3] = [
        [
            ("open+ipv6", "none", ALL, Some(ALL)),
            ("full-cone", ALL, ALL, None),
        ],
        [
            ("address-restricted", ALL, ADDRESS, None),
            ("port-restricted", ALL, PORT, None),
        ],
        [
            ("symmetric+ipv6", PORT, PORT, Some(PORT)),
            ("firewall", "none", PORT, None),
        ],
    ];
    let check = |host: &Host, (kind, mapping, filtering, filtering6): Case| {
        let views = host.ctl_json(&["netcheck"]);
        let families = if filtering6.is_some() { 2 } else { 1 };
        assert_eq!(
            views.as_array().unwrap().len(),
            families,
            "{kind}: {views:#}"
        );
        for view in views.as_array().unwrap() {
            let (mapping, filtering) = match filtering6 {
                Some(filtering) if view["family"] == "ipv6" => ("none", filtering),
                _ => (mapping, filtering),
            };
            assert_eq!(view["udp_blocked"], false, "{kind}: {view:#}");
            assert_eq!(view["mapping"], mapping, "{kind}: {view:#}");
            assert_eq!(view["filtering"], filtering, "{kind}: {view:#}");
        }
    };
    // At once: each check waits for what does not come.
    std::thread::scope(|scope| {
        for [a, b] in labs {
            scope.spawn(move || {
                let (lab, _coturn) = with_coturn("netc", a.0, b.0);
                std::thread::scope(|scope| {
                    scope.spawn(|| check(&lab.a, a));
                    scope.spawn(|| check(&lab.b, b));
                });
            });
        }
    });
}

#[test]
fn two_hosts_connect_with_coturn_as_the_only_stun_server() {
    need_lab!();
    let (lab, _coturn) = with_coturn("ctrn", "port-restricted", "port-restricted");
    for host in lab.hosts() {
        let public = lab.env(&format!("{}_PUBLIC_IPV4", host.name.to_uppercase()));
        wait_until(PATIENCE, "coturn tells the public address", || {
            let status = host.ctl_json(&["status"]);
            let candidates = status["network"]["candidates"].as_array().unwrap().clone();
            candidates.iter().any(|candidate| {
                let address = candidate["address"].as_str().unwrap();
                candidate["kind"] == "server_reflexive"
                    && address.parse::<SocketAddr>().unwrap().ip().to_string() == public
            })
        });
    }
    lab.connect();
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7000));
    let path = &lab.a.peer("b")["path"];
    let remote: SocketAddr = path["remote"].as_str().unwrap().parse().unwrap();
    assert_eq!(remote.ip().to_string(), lab.env("B_PUBLIC_IPV4"));
}
