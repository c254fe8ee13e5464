//! What punchd.toml may say, and what is said of the rest.

use super::*;

fn refusal(text: &str) -> String {
    format!("{:#}", Config::parse(text).expect_err("is refused"))
}

#[test]
fn nodes_of_a_dht_are_servers_that_users_cannot_remove() {
    let config = Config::parse("[dht]\nbootstrap = [\"node.example\", \"192.0.2.1:7000\"]");
    let servers = config.expect("it is right").channels.servers;
    let servers: Vec<_> = servers.iter().map(ServerAddress::as_str).collect();
    assert_eq!(servers, ["node.example:6881", "192.0.2.1:7000"]);
    let error = Config::parse("\n[dht]\nbootstrap = [\"a b\"]").expect_err("it is no address");
    let error = format!("{error:#}");
    assert!(error.starts_with("line 3: `a b` is not a node"), "{error}");
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(Config::parse("").expect("parses"), Config::default());
}

#[test]
fn every_setting_is_taken() {
    let text = r#"
        [signal]
        servers = ["wss://signal.example", "wss://signal.example:443"]
        proxy = "http://user:secret@proxy.example:3128"
        [stun]
        servers = ["stun.example", "[2001:db8::1]:3479"]
        [underlay]
        port = 41820
        nat64 = "2001:db8:64::/96"
        [tun]
        name = "vpn0"
        mtu = 1380
        [overlay]
        ipv4 = "off"
        [punch]
        budget = "aggressive"
        direct_only = true
        tcp = false
        [nat]
        mapping = "address-and-port-dependent"
        filtering = "address-dependent"
        allocation = "40000-41023"
        addresses = ["203.0.113.9"]
        hairpinning = false
        lifetime = 30
        opening_ttl = 3
        capacity = 1000
        port_mapping = false
        [offload]
        tun_tso = false
        tun_uso = false
        tun_gro = false
        udp_gso = false
        udp_gro = false
        [metrics]
        listen = "127.0.0.1:9586"
    "#;
    let config = Config::parse(text).expect("parses");
    let Channels { servers, proxy, .. } = &config.channels;
    let servers: Vec<_> = servers.iter().map(ServerAddress::as_str).collect();
    let [one, two] = ["stun.example:3478", "[2001:db8::1]:3479"];
    assert_eq!(servers, ["wss://signal.example:443/", one, two]);
    let ProxySetting::Proxy(proxy) = proxy else {
        panic!("{proxy:?}");
    };
    assert_eq!(proxy.place(), "proxy.example:3128");
    assert_eq!((config.port, config.mtu), (41820, 1380));
    assert!(matches!(config.nat64, Nat64Setting::Prefix(_)));
    assert_eq!((config.interface.as_str(), config.ipv4), ("vpn0", None));
    assert_eq!(config.budget, Budget::Aggressive);
    assert!(config.direct_only);
    let nat = NatOverrides {
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressDependent),
        allocation: Some(Allocation::Block {
            low: 40_000,
            high: 41_023,
        }),
        addresses: vec![[203, 0, 113, 9].into()],
        hairpinning: Some(false),
        lifetime: Some(Duration::from_secs(30)),
        opening_ttl: Some(3),
        capacity: Some(1000),
    };
    assert_eq!(config.nat, nat);
    assert!(!config.port_mapping && !config.tcp);
    let offloads = Offloads {
        tun_tso: false,
        tun_uso: false,
        tun_gro: false,
        udp_gso: false,
        udp_gro: false,
    };
    assert_eq!(config.offloads, offloads);
    assert_eq!(config.metrics, Some(([127, 0, 0, 1], 9586).into()));
}

#[test]
fn the_network_of_this_machine_may_be_left_alone() {
    let config = Config::parse("[lan]\nenabled = false\nport = 45118\n").expect("parses");
    let lan = config.channels.lan;
    assert_eq!((lan.enabled, lan.port), (false, 45118));
}

#[test]
fn everybodys_port_in_the_network_is_nobodys_own() {
    let refusal = refusal("[lan]\nport = 45117\n");
    assert!(
        refusal.contains("line 2") && refusal.contains("everybody's"),
        "{refusal}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let refusal = refusal("[tun]\nname = \"a\"\ncolour = 1\n");
    assert!(
        refusal.contains("line 3") && refusal.contains("colour"),
        "{refusal}"
    );
}

#[test]
fn a_bad_value_is_named_with_its_line() {
    for (text, line, word) in [
        ("\n[tun]\nmtu = 100\n", "line 3", "100"),
        (
            "[overlay]\nipv4 = \"100.64.0.1/10\"\n",
            "line 2",
            "100.64.0.0/10",
        ),
        (
            "[signal]\nservers = [\n \"http://x\"]\n",
            "line 3",
            "http://x",
        ),
        (
            "[signal]\nproxy = \"https://p:1\"\n",
            "line 2",
            "http://HOST:PORT",
        ),
        ("[signal]\n\nproxy = \"p q\"\n", "line 3", "USER:PASSWORD"),
        ("[signal]\nproxy = true\n", "line 2", "boolean"),
        ("[underlay]\nport = 70000\n", "line 2", "70000"),
        ("[underlay]\nnat64 = \"on\"\n", "line 2", "64:ff9b::/96"),
        ("[underlay]\nnat64 = \"64:ff9b::/95\"\n", "line 2", "96"),
        ("[punch]\nbudget = \"lavish\"\n", "line 2", "aggressive"),
        (
            "[nat]\nmapping = \"cone\"\n",
            "line 2",
            "endpoint-independent",
        ),
        ("[nat]\n\nfiltering = \"\"\n", "line 3", "address-dependent"),
        ("[nat]\nallocation = \"9-8\"\n", "line 2", "LOW-HIGH"),
        ("[nat]\nallocation = \"+0\"\n", "line 2", "sequential"),
        ("[nat]\nlifetime = 1\n", "line 2", "86400"),
        ("[nat]\nopening_ttl = 0\n", "line 2", "TTL"),
        ("[nat]\ncapacity = 0\n", "line 2", "capacity"),
        ("[punch]\ndirect_only = \"no\"\n", "line 2", "boolean"),
        ("[nat]\nport_mapping = \"no\"\n", "line 2", "boolean"),
        ("[punch]\ntcp = \"no\"\n", "line 2", "boolean"),
        ("[metrics]\nlisten = \"9586\"\n", "line 2", "socket address"),
    ] {
        let refusal = refusal(text);
        assert!(
            refusal.contains(line) && refusal.contains(word),
            "{refusal}"
        );
    }
}

#[test]
fn a_refusal_never_shows_a_proxys_password() {
    for (text, line) in [
        ("[signal]\nproxy = \"http://u:secret@p q\"\n", "line 2"),
        ("[signal]\nproxy = \"http://u:secret@p:1\n", "line 2"),
        ("[signal]\nproxy = http://u:secret@p:1\n", "line 2"),
        ("[signal]\nproxi = \"http://u:secret@p:1\"\n", "line 2"),
        ("[signal]\nservers = \"http://u:secret@p:1\"\n", "line 2"),
        ("[signal]\nproxy = [\"http://u:secret@p:1\"]\n", "line 2"),
        ("[relay]\nenabled = \"http://u:secret@p:1\"\n", "line 2"),
        (
            "[signal]\nproxy = \"\"\"\nhttp://u:secret@p:1\"\"\"\nx = 1\n",
            "line",
        ),
        (
            "[relay]\nenabled = \"\"\"\nhttp://u:secret@p:1\"\"\"\n",
            "line 2",
        ),
        (
            "[relay]\nenabled = \"http://u:secret\\u0040p:1\"\n",
            "line 2",
        ),
        (
            "[signal]\nproxy = \"\"\"http://u:\\\nsecret\\q\\\n@p:1\"\"\"\n",
            "line 3",
        ),
        ("[relay]\n\"http://u:secret@p:1\" = true\n", "line 2"),
    ] {
        let refusal = refusal(text);
        assert!(
            refusal.contains(line) && !refusal.contains("secret"),
            "{refusal}"
        );
    }
    let shown = refusal("[tun]\nmtu = many\n");
    assert!(shown.contains("mtu = many"), "{shown}");
}

#[test]
fn a_file_with_a_password_is_not_for_everybody() {
    let path = std::env::temp_dir().join(format!("punchd-{}.toml", std::process::id()));
    let load = |text: &str, mode: u32| {
        std::fs::write(&path, text).expect("it can be written");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("it is ours");
        let loaded = Config::load(Some(&path));
        loaded.map(drop).map_err(|error| format!("{error:#}"))
    };
    let secret = "[signal]\nproxy = \"http://u:secret@p:1\"\n";
    let refused = load(secret, 0o644).expect_err("everybody may read it");
    assert!(
        refused.contains("chmod 640") && !refused.contains("secret"),
        "{refused}"
    );
    assert_eq!(load(secret, 0o640), Ok(()));
    assert_eq!(load("[signal]\nproxy = \"p:1\"\n", 0o644), Ok(()));
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn what_the_packages_file_shows_is_valid_and_is_everything() {
    let shown = include_str!("../../../packaging/punchd.toml");
    let as_it_is = Config::parse(shown).expect("parses");
    assert_eq!(as_it_is, Config::default());

    let is_setting = |line: &str| {
        let rest = line.strip_prefix("# ").unwrap_or_default();
        let (key, value) = rest.split_once(" = ").unwrap_or_default();
        !value.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let all: Vec<_> = shown
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|_| is_setting(line))
                .unwrap_or(line)
        })
        .collect();
    let config = Config::parse(&all.join("\n")).expect("parses without the comment signs");
    assert_eq!(config.channels.servers.len(), 3);
    assert!(config.metrics.is_some() && config.nat.opening_ttl.is_some());

    // The refusal of an unknown key names all that there are.
    let sections = refusal("[nothing]\n");
    let sections: Vec<_> = words_of(&sections);
    for section in sections {
        assert!(shown.contains(&format!("[{section}]")), "[{section}]");
        let keys = refusal(&format!("[{section}]\nnothing = 1\n"));
        for key in words_of(&keys) {
            assert!(shown.contains(&format!("\n# {key} = ")), "{section}.{key}");
        }
    }
}

/// What is quoted after "expected": `a`, or one of `a`, `b`.
fn words_of(refusal: &str) -> Vec<&str> {
    let (_, expected) = refusal
        .split_once("expected")
        .expect("says what it expects");
    let words: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
    assert!(!words.is_empty(), "{refusal}");
    words
}
