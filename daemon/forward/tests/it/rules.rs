use std::collections::BTreeSet;

use punch_api::Protocol::{Tcp, Udp};
use punch_api::{MEETING_PORT, Target};
use punch_forward::{Access, MEETING, Rules, meeting_target};
use punch_packet::PeerHandle;

use crate::{OTHER_PEER, PEER, key, rule};

fn target(rules: &Rules, protocol: punch_api::Protocol, port: u16) -> Option<String> {
    rules
        .find(protocol, port, PEER)
        .map(|rule| rule.target.to_string())
}

#[test]
fn a_port_leads_where_its_rule_says_and_other_ports_nowhere() {
    let rules = Rules::new([
        rule(Tcp, "5432", "127.0.0.1:5432"),
        rule(Tcp, "8000-8010", "web:80"),
        rule(Tcp, "65535", "last:1"),
    ]);
    for (port, expected) in [
        (1, None),
        (5431, None),
        (5432, Some("127.0.0.1:5432")),
        (5433, None),
        (7999, None),
        (8000, Some("web:80")),
        (8005, Some("web:80")),
        (8010, Some("web:80")),
        (8011, None),
        (65534, None),
        (65535, Some("last:1")),
    ] {
        assert_eq!(target(&rules, Tcp, port).as_deref(), expected, "{port}");
    }
}

#[test]
fn tcp_and_udp_are_different_ports() {
    let rules = Rules::new([rule(Tcp, "53", "t:1"), rule(Udp, "50-60", "u:1")]);
    assert_eq!(target(&rules, Tcp, 53).as_deref(), Some("t:1"));
    assert_eq!(target(&rules, Udp, 53).as_deref(), Some("u:1"));
    assert_eq!(target(&rules, Tcp, 55), None);
}

#[test]
fn a_forward_for_some_peers_is_no_forward_for_others() {
    let mut private = rule(Tcp, "9000", "x:1");
    private.access = Access::Peers([OTHER_PEER].into());
    let mut nobody = rule(Tcp, "9001", "x:1");
    nobody.access = Access::Peers([].into());
    let rules = Rules::new([private, nobody]);

    assert!(rules.find(Tcp, 9000, PEER).is_none());
    assert!(rules.find(Tcp, 9000, OTHER_PEER).is_some());
    assert!(rules.find(Tcp, 9001, OTHER_PEER).is_none());
    assert!(Access::AllPeers.admits(PEER));
}

#[test]
fn of_two_rules_that_share_a_port_the_first_one_counts() {
    for second in [
        "8000",
        "8005",
        "8010",
        "7000-8000",
        "8010-9000",
        "8003-8004",
        "7000-9000",
        "8000-8010",
    ] {
        let rules = Rules::new([
            rule(Tcp, "8000-8010", "first:1"),
            rule(Tcp, second, "second:1"),
        ]);

        assert_eq!(rules.iter().count(), 1, "{second}");
        assert_eq!(
            target(&rules, Tcp, 8005).as_deref(),
            Some("first:1"),
            "{second}"
        );
    }
    let rules = Rules::new([
        rule(Tcp, "8000-8010", "first:1"),
        rule(Tcp, "8011-8020", "second:1"),
        rule(Udp, "8000", "third:1"),
    ]);
    assert_eq!(rules.iter().count(), 3);
}

#[test]
fn an_overlap_is_found_before_it_is_made() {
    let rules = Rules::new([rule(Tcp, "8000-8010", "a:1"), rule(Udp, "53", "b:1")]);
    let overlap = |protocol, ports| {
        rules
            .overlapping(key(protocol, ports))
            .map(|rule| rule.key.to_string())
    };
    assert_eq!(overlap(Tcp, "8010-8020").as_deref(), Some("tcp 8000-8010"));
    assert_eq!(overlap(Tcp, "8011-8020"), None);
    assert_eq!(overlap(Tcp, "53"), None);
    assert_eq!(overlap(Udp, "53").as_deref(), Some("udp 53"));
}

#[test]
fn rules_are_listed_by_protocol_and_port() {
    let rules = Rules::new([
        rule(Udp, "1", "a:1"),
        rule(Tcp, "90", "b:1"),
        rule(Tcp, "80-85", "c:1"),
    ]);
    let listed: Vec<_> = rules.iter().map(|rule| rule.key.to_string()).collect();
    assert_eq!(listed, ["tcp 80-85", "tcp 90", "udp 1"]);
}

#[test]
fn the_meeting_place_is_for_guests_alone_and_comes_before_a_forward_of_its_port() {
    let guests = |peers: &[PeerHandle]| peers.iter().copied().collect::<BTreeSet<_>>();
    let rules = Rules::default().with_guests(guests(&[PEER]));
    let port = MEETING_PORT;
    assert_eq!(rules.find(Tcp, port, PEER).unwrap().key, MEETING);
    assert!(rules.find(Tcp, port, OTHER_PEER).is_none());
    assert!(rules.find(Udp, port, PEER).is_none());
    assert!(rules.find(Tcp, port + 1, PEER).is_none());
    assert!(rules.guests().eq([PEER]));

    // A forward of exactly this port is another thing, and none leads where guests' streams do.
    let own = Rules::new([rule(Tcp, "45117", "127.0.0.1:45117")]);
    let targets = [&rules, &own].map(|rules| rules.find(Tcp, port, PEER).unwrap().target.clone());
    assert_eq!(targets[0], meeting_target());
    assert_ne!(targets[1], meeting_target());
    assert!(meeting_target().to_string().parse::<Target>().is_err());

    let forward = rule(Tcp, "45000-45200", "127.0.0.1:1000");
    let both = Rules::new([forward.clone()]).with_guests(guests(&[PEER]));
    assert_eq!(both.find(Tcp, port, PEER).unwrap().key, MEETING);
    let other = both.find(Tcp, port, OTHER_PEER).unwrap();
    assert_eq!(other.key, forward.key);
    let none = both.with_guests(guests(&[]));
    assert_eq!(none.find(Tcp, port, PEER).unwrap().key, forward.key);
    assert_eq!(none.guests().count(), 0);
}
