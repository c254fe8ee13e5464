use punch_api::{
    ForwardKey, PeerName, PortRange, Protocol, ServerAddress, ServerKind, Target, ValueError,
};

fn ports(text: &str) -> PortRange {
    text.parse().unwrap()
}

fn range_error(text: &str) -> String {
    text.parse::<PortRange>().unwrap_err().to_string()
}

fn target_error(text: &str) -> String {
    text.parse::<Target>().unwrap_err().to_string()
}

fn server(kind: ServerKind, text: &str) -> String {
    ServerAddress::parse(kind, text).unwrap().to_string()
}

fn server_error(kind: ServerKind, text: &str) -> String {
    ServerAddress::parse(kind, text).unwrap_err().to_string()
}

// --- names ---

#[test]
fn a_name_is_a_dns_label_in_lower_case() {
    let longest = "a".repeat(63);
    for text in [
        "a",
        "9",
        "db",
        "my-laptop-2",
        "xn--bcher-kva",
        longest.as_str(),
    ] {
        let name: PeerName = text.parse().unwrap();
        assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
    }
}

#[test]
fn a_text_that_is_no_name_is_refused_with_what_to_write_instead() {
    let too_long = "a".repeat(64);
    for text in [
        "",
        "-",
        "-db",
        "db-",
        "DB",
        "my db",
        "db.punch",
        "büro",
        "db_1",
        "a/b",
        " db",
        "db\n",
        too_long.as_str(),
    ] {
        let error = text.parse::<PeerName>().unwrap_err();
        assert_eq!(error, ValueError::PeerName(text.to_owned()));
        assert_eq!(
            error.to_string(),
            format!(
                "`{text}` cannot be a peer's name: use 1 to 63 lower-case letters, digits and inner hyphens"
            )
        );
    }
}

#[test]
fn names_in_a_table_can_be_padded() {
    let name: PeerName = "db".parse().unwrap();
    let shown = format!("[{name:<5}] [{:>4}] [{:<4}]", Protocol::Tcp, ports("80"));
    assert_eq!(shown, "[db   ] [ tcp] [80  ]");
}

// --- protocols ---

#[test]
fn a_protocol_is_tcp_or_udp_and_nothing_else() {
    assert_eq!("tcp".parse(), Ok(Protocol::Tcp));
    assert_eq!("udp".parse(), Ok(Protocol::Udp));
    for text in ["", "TCP", "tcp ", "sctp", "6"] {
        let error = text.parse::<Protocol>().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{text}` is not a protocol: use tcp or udp")
        );
    }
}

// --- ports ---

#[test]
fn a_range_is_one_port_or_the_first_and_the_last() {
    for (text, first, last) in [
        ("1", 1, 1),
        ("65535", 65535, 65535),
        ("5432", 5432, 5432),
        ("8000-8010", 8000, 8010),
        ("7-7", 7, 7),
        ("1-16384", 1, 16384),
    ] {
        let range = ports(text);
        assert_eq!((range.first(), range.last()), (first, last), "{text}");
    }
}

#[test]
fn a_range_is_shown_as_short_as_it_can_be() {
    assert_eq!(ports("7-7").to_string(), "7");
    assert_eq!(ports("08000-08010").to_string(), "8000-8010");
}

#[test]
fn a_text_that_is_no_port_is_quoted_in_the_refusal() {
    for text in [
        "0",
        "65536",
        "+5",
        "-5",
        "",
        " 80",
        "80 ",
        "0x50",
        "http",
        "99999999999999999999",
        "٣",
    ] {
        let culprit = if text == "-5" { "" } else { text };
        assert_eq!(
            range_error(text),
            format!("`{culprit}` is not a port: ports are 1 to 65535"),
            "{text}"
        );
    }
}

#[test]
fn of_a_bad_range_the_bad_half_is_quoted() {
    assert_eq!(
        range_error("0-5"),
        "`0` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        range_error("5-65536"),
        "`65536` is not a port: ports are 1 to 65535"
    );
    assert_eq!(range_error("5-"), "`` is not a port: ports are 1 to 65535");
    assert_eq!(
        range_error("5-+6"),
        "`+6` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        range_error("1-2-3"),
        "`2-3` is not a port: ports are 1 to 65535"
    );
}

#[test]
fn a_range_that_runs_backwards_is_refused_with_the_right_order() {
    assert_eq!(
        "20-10".parse::<PortRange>(),
        Err(ValueError::Backwards(20, 10))
    );
    assert_eq!(
        range_error("20-10"),
        "the range 20-10 runs backwards: write 10-20"
    );
}

#[test]
fn a_range_has_at_most_16384_ports() {
    assert_eq!(
        "1-16385".parse::<PortRange>(),
        Err(ValueError::TooMany(16385))
    );
    assert_eq!(
        range_error("1-65535"),
        "a range has at most 16384 ports, this one has 65535"
    );
    assert_eq!(PortRange::MAX_LENGTH, 16384);
}

#[test]
fn a_range_knows_its_ports_and_its_neighbours() {
    let range = ports("8000-8010");
    for (port, inside) in [
        (7999, false),
        (8000, true),
        (8005, true),
        (8010, true),
        (8011, false),
    ] {
        assert_eq!(range.contains(port), inside, "{port}");
    }
    for (other, overlap) in [
        ("7990-7999", false),
        ("7990-8000", true),
        ("8003", true),
        ("7000-9000", true),
        ("8010-8020", true),
        ("8011-8020", false),
    ] {
        assert_eq!(range.overlaps(ports(other)), overlap, "{other}");
        assert_eq!(ports(other).overlaps(range), overlap, "{other}");
    }
}

#[test]
fn a_forward_is_named_by_protocol_and_ports() {
    let key = ForwardKey {
        protocol: Protocol::Udp,
        ports: ports("27015-27020"),
    };
    assert_eq!(key.to_string(), "udp 27015-27020");
    assert_eq!(format!("[{key:>17}]"), "[  udp 27015-27020]");
}

// --- targets ---

#[test]
fn a_target_is_a_host_and_a_port() {
    for (text, host, port) in [
        ("127.0.0.1:5432", "127.0.0.1", 5432),
        ("localhost:1", "localhost", 1),
        ("db.example.org:65535", "db.example.org", 65535),
        ("my_service:80", "my_service", 80),
        ("[::1]:5432", "::1", 5432),
        ("[2001:db8::7]:443", "2001:db8::7", 443),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.host(), target.port()), (host, port), "{text}");
        assert_eq!(target.to_string(), text);
    }
}

#[test]
fn a_text_that_is_no_target_is_refused_with_examples() {
    let too_long = format!("{}:80", "a".repeat(254));
    for text in [
        "",
        "5432",
        "localhost",
        "[::1]",
        "::1:5432",
        "[::1:5432",
        "[::1]5432",
        "[127.0.0.1]:80",
        "[fe80::1%eth0]:80",
        ":5432",
        "a b:80",
        "-oProxyCommand:80",
        ".example:80",
        "a..b:80",
        "ex/ample:80",
        "höst:80",
        too_long.as_str(),
    ] {
        assert_eq!(
            target_error(text),
            format!(
                "`{text}` is not a target: write HOST:PORT, for instance 127.0.0.1:5432 or [::1]:5432"
            )
        );
    }
}

#[test]
fn a_target_with_a_bad_port_is_refused_because_of_the_port() {
    assert_eq!(
        target_error("localhost:0"),
        "`0` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        target_error("localhost:65536"),
        "`65536` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        target_error("localhost:+5"),
        "`+5` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        target_error("[::1]:"),
        "`` is not a port: ports are 1 to 65535"
    );
    assert_eq!(
        target_error("localhost:80:81"),
        "`80:81` is not a port: ports are 1 to 65535"
    );
}

#[test]
fn the_target_of_a_range_moves_with_the_port_and_ends_at_65535() {
    let target: Target = "[::1]:65530".parse().unwrap();
    assert_eq!(target.offset(0), Some(target.clone()));
    assert_eq!(target.offset(5).unwrap().to_string(), "[::1]:65535");
    assert_eq!(target.offset(6), None);
    assert_eq!(
        ValueError::TargetPastEnd.to_string(),
        "the target's ports would run past 65535"
    );
}

#[test]
fn without_a_target_a_forward_leads_to_this_machine() {
    assert_eq!(Target::local(5432).to_string(), "127.0.0.1:5432");
}

// --- servers ---

#[test]
fn a_signalling_server_is_written_out_in_full() {
    for (text, normal) in [
        ("wss://signal.example.org", "wss://signal.example.org:443/"),
        ("ws://signal.example.org", "ws://signal.example.org:80/"),
        ("wss://signal.example.org/", "wss://signal.example.org:443/"),
        (
            "wss://signal.example.org:8443/punch?v=1",
            "wss://signal.example.org:8443/punch?v=1",
        ),
        ("ws://127.0.0.1:9000", "ws://127.0.0.1:9000/"),
        ("wss://[2001:db8::1]", "wss://[2001:db8::1]:443/"),
        ("ws://[::1]:9000/a", "ws://[::1]:9000/a"),
    ] {
        assert_eq!(server(ServerKind::Signal, text), normal);
    }
}

#[test]
fn a_stun_server_has_port_3478_unless_given() {
    for (text, normal) in [
        ("stun.example.org", "stun.example.org:3478"),
        ("stun.example.org:19302", "stun.example.org:19302"),
        ("192.0.2.1", "192.0.2.1:3478"),
        ("[2001:db8::1]", "[2001:db8::1]:3478"),
        ("[2001:db8::1]:3479", "[2001:db8::1]:3479"),
    ] {
        assert_eq!(server(ServerKind::Stun, text), normal);
    }
}

#[test]
fn one_server_has_one_normal_form_however_it_is_written() {
    assert_eq!(
        server(ServerKind::Signal, "wss://Signal.Example.ORG/Path"),
        "wss://signal.example.org:443/Path"
    );
    assert_eq!(
        server(ServerKind::Stun, "STUN.example.org:03478"),
        "stun.example.org:3478"
    );
    assert_eq!(
        server(ServerKind::Stun, "[2001:DB8:0:0::1]"),
        server(ServerKind::Stun, "[2001:db8::1]:3478")
    );
}

#[test]
fn the_normal_form_of_a_server_is_its_own_normal_form() {
    for (kind, text) in [
        (ServerKind::Signal, "wss://a.b"),
        (ServerKind::Signal, "ws://[::1]/x"),
        (ServerKind::Stun, "a.b"),
        (ServerKind::Stun, "[::1]"),
    ] {
        let once = server(kind, text);
        assert_eq!(server(kind, &once), once);
    }
}

#[test]
fn a_text_that_is_no_signalling_server_is_refused_with_its_form() {
    for text in [
        "",
        "signal.example.org",
        "https://signal.example.org",
        "WSS://signal.example.org",
        "wss://",
        "wss:///path",
        "wss://user@signal.example.org",
        "wss://signal.example.org?x",
        "wss://a..b",
        "wss://a b",
        "wss://a/b c",
        "wss://a/ü",
        "wss://[::1",
        "wss://[zz]",
    ] {
        assert_eq!(
            server_error(ServerKind::Signal, text),
            format!(
                "`{text}` is not a signalling server: write ws://HOST[:PORT] or wss://HOST[:PORT][/PATH]"
            )
        );
    }
    assert_eq!(
        server_error(ServerKind::Signal, "wss://a:0"),
        "`0` is not a port: ports are 1 to 65535"
    );
}

#[test]
fn a_text_that_is_no_stun_server_is_refused_with_its_form() {
    for text in ["", "a b", "[::1", "[::1]3478", "a/b", "-a"] {
        assert_eq!(
            server_error(ServerKind::Stun, text),
            format!(
                "`{text}` is not a STUN server: write HOST[:PORT], the port is 3478 unless given"
            )
        );
    }
    assert_eq!(
        server_error(ServerKind::Stun, "a:65536"),
        "`65536` is not a port: ports are 1 to 65535"
    );
}

#[test]
fn the_uri_of_a_stun_server_is_refused_with_what_to_leave_out() {
    for text in [
        "stun:stun.example.org",
        "stun:203.0.113.1",
        "stun:203.0.113.1:3478",
        "stuns:a:1",
        "stun://a",
    ] {
        assert_eq!(
            server_error(ServerKind::Stun, text),
            format!("`{text}` is not an address but a URI: write HOST or HOST:PORT, without stun:")
        );
    }
    // A host may be called `stun`.
    assert_eq!(server(ServerKind::Stun, "stun:3479"), "stun:3479");
}

#[test]
fn only_an_address_needs_no_look_up() {
    let literal = |text| {
        let address = ServerAddress::parse(ServerKind::Stun, text).unwrap();
        address.literal().map(|address| address.to_string())
    };
    assert_eq!(literal("192.0.2.1").as_deref(), Some("192.0.2.1:3478"));
    assert_eq!(
        literal("[2001:db8::1]:1").as_deref(),
        Some("[2001:db8::1]:1")
    );
    assert_eq!(literal("stun.example.org"), None);
}

#[test]
fn a_node_of_a_dht_has_an_address_and_what_is_public_has_none() {
    assert_eq!(server(ServerKind::Dht, "Node.example"), "node.example:6881");
    assert_eq!(server(ServerKind::Dht, "192.0.2.1:7000"), "192.0.2.1:7000");
    assert_eq!(
        server_error(ServerKind::Dht, "a b"),
        "`a b` is not a node of a DHT: write HOST[:PORT], the port is 6881 unless given"
    );
    assert_eq!(server(ServerKind::Public, "public"), "public");
    assert_eq!(
        server_error(ServerKind::Public, "x.example"),
        "`x.example` is one address too many: write `server add public` and nothing else"
    );
}

#[test]
fn a_kind_of_server_is_one_of_four() {
    assert_eq!("signal".parse(), Ok(ServerKind::Signal));
    assert_eq!("stun".parse(), Ok(ServerKind::Stun));
    assert_eq!("dht".parse(), Ok(ServerKind::Dht));
    assert_eq!("public".parse(), Ok(ServerKind::Public));
    assert_eq!(
        "turn".parse::<ServerKind>(),
        Err("`turn` is not a kind of server: use signal, stun, dht or public".to_owned())
    );
    let address = ServerAddress::parse(ServerKind::Stun, "a").unwrap();
    assert_eq!(
        (address.kind(), address.as_str()),
        (ServerKind::Stun, "a:3478")
    );
    assert_eq!(format!("{:<7}|", ServerKind::Stun), "stun   |");
}
