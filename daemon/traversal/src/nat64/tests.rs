use super::*;

/// RFC 6052 §2.4, table 2: 192.0.2.33 below a prefix of each length.
const TEXTS: [(&str, &str); 6] = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
];

fn prefix(text: &str) -> Nat64 {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a name server with this prefix says of `ipv4only.arpa`.
fn answers(prefix: Nat64) -> [IpAddr; 2] {
    WELL_KNOWN.map(|known| prefix.embed(known).into())
}

#[test]
fn addresses_are_embedded_as_the_rfc_shows_it() {
    let ip = Ipv4Addr::new(192, 0, 2, 33);
    for (text, embedded) in TEXTS {
        let prefix = prefix(text);
        assert_eq!(prefix.to_string(), text);
        assert_eq!(prefix.embed(ip), v6(embedded), "{text}");
        assert_eq!(prefix.extract(v6(embedded)), Some(ip), "{text}");
        let outside = v6("2001:db9:122:344::c000:221");
        assert_eq!(prefix.extract(outside), None, "{text}");
    }
    assert_eq!(Nat64::WELL_KNOWN, prefix("64:ff9b::/96"));
    assert_eq!(Nat64::WELL_KNOWN.embed(ip), v6("64:ff9b::c000:221"));
}

#[test]
fn what_is_embedded_is_found_again_and_nothing_else() {
    for (text, _) in TEXTS {
        let prefix = prefix(text);
        for number in [0, 1, 0x0102_0304, 0xCB00_7101, u32::MAX] {
            let ip = Ipv4Addr::from(number);
            assert_eq!(prefix.extract(prefix.embed(ip)), Some(ip), "{text} {ip}");
            let mut octets = prefix.embed(ip).octets();
            octets[ZERO] = 1;
            assert_eq!(prefix.extract(octets.into()), None, "{text} {ip}");
        }
    }
}

#[test]
fn a_prefix_must_be_one() {
    for text in [
        "",
        "64:ff9b::",
        "64:ff9b::/95",
        "64:ff9b::/0",
        "64:ff9b::/128",
        "64:ff9b::1/96",
        "2001:db8:1::/32",
        "2001:db8:0:0:ff00::/96",
        "ff02::/96",
        "fe80::/64",
        "::/96",
        "::ffff:0:0/96",
        "192.0.2.0/24",
        "64:ff9b::/96 ",
    ] {
        assert_eq!(text.parse::<Nat64>(), Err(NoNat64), "{text}");
    }
}

#[test]
fn the_prefix_is_found_by_what_the_name_server_says() {
    for (text, _) in TEXTS {
        let prefix = prefix(text);
        let both = answers(prefix);
        let v4 = WELL_KNOWN.map(IpAddr::from);
        assert_eq!(Nat64::discover(v4.into_iter().chain(both)), Some(prefix));
        for one in both {
            assert_eq!(Nat64::discover([one]), Some(prefix), "{text}");
        }
    }
}

#[test]
fn where_there_is_no_translator_none_is_found() {
    let nothing: [IpAddr; 0] = [];
    assert_eq!(Nat64::discover(nothing), None);
    assert_eq!(Nat64::discover(WELL_KNOWN.map(IpAddr::from)), None);
    // A captive portal has one answer for every name, and some name servers lie.
    for lie in [
        "2001:db8::1",
        "::ffff:192.0.0.170",
        "::192.0.0.170",
        "fe80::c000:aa",
        "ff02::c000:aa",
        "2001:db8::192.0.0.172",
    ] {
        assert_eq!(Nat64::discover([IpAddr::from(v6(lie))]), None, "{lie}");
    }
}

#[test]
fn of_several_places_the_one_counts_that_both_addresses_show() {
    // The well-known address is part of this prefix, too.
    let prefix = prefix("2001:db8:c000:aa::/96");
    let [one, other] = answers(prefix);
    assert_eq!(Nat64::discover([one, other]), Some(prefix));
    assert_eq!(Nat64::discover([other, one]), Some(prefix));
    let zeros = v6("2001:db8:c000:aa::");
    let only = Nat64::discover([IpAddr::from(zeros)]);
    assert_eq!(only, "2001:db8::/32".parse().ok());
}

#[test]
fn any_answers_are_read_without_harm() {
    for length in LENGTHS {
        for number in (0..=u16::MAX).step_by(97) {
            let segments = [number, 0xC000, 0xAA, number, 0xC000, 0xAA, 0xC000, number];
            let found = Nat64::discover([IpAddr::from(Ipv6Addr::from(segments))]);
            assert!(found.is_none_or(|found| LENGTHS.contains(&found.length)));
            let masked = Nat64 {
                prefix: segments.into(),
                length,
            };
            let _ = Nat64::new(masked.masked(segments.into()), length);
        }
    }
}

#[test]
fn nobody_is_asked_for_what_lies_inside_of_the_translators_network() {
    let prefix = prefix("2001:db8:64::/96");
    for ip in [
        "10.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "255.255.255.255",
        "192.0.0.170",
        "192.0.0.1",
        "198.18.0.1",
        "240.0.0.1",
    ] {
        let v4: Ipv4Addr = ip.parse().unwrap();
        assert!(!is_translatable(v4), "{ip}");
        let embedded = SocketAddr::new(prefix.embed(v4).into(), 22);
        assert_eq!(prefix.outwards(embedded), None, "{ip}");
        assert_eq!(prefix.inwards(embedded), None, "{ip}");
        // One of the own network's is reached as before.
        let plain = SocketAddr::new(v4.into(), 22);
        assert_eq!(prefix.outwards(plain), Some(plain), "{ip}");
    }
}

#[test]
fn packets_go_through_the_translator_and_come_back_as_from_ipv4() {
    let prefix = prefix("2001:db8:64::/96");
    let (peer, wire) = (at("203.0.113.9:41"), at("[2001:db8:64::cb00:7109]:41"));
    assert_eq!(prefix.outwards(peer), Some(wire));
    assert_eq!(prefix.outwards(wire), Some(wire));
    assert_eq!(prefix.inwards(wire), Some(peer));
    let native = at("[2001:db8:1::9]:41");
    assert_eq!(prefix.outwards(native), Some(native));
    assert_eq!(prefix.inwards(native), Some(native));
}

#[test]
fn the_range_of_translators_is_known() {
    for (ip, is_one) in [
        ("192.0.0.0", true),
        ("192.0.0.7", true),
        ("192.0.0.8", false),
        ("192.0.1.1", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(is_of_translator(ip.parse().unwrap()), is_one, "{ip}");
    }
    assert!(is_of_translator(BEHIND_NAT64.into()));
}
