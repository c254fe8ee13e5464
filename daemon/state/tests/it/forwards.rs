//! Forwards are added and ended.

use punch_api::{ErrorCode, ForwardKey};
use punch_state::{MAX_FORWARDS, Refusal, State, forward, peer};

use super::{name, refused, share, sharing, with_peers};

fn key(protocol: &str, ports: &str) -> ForwardKey {
    ForwardKey {
        protocol: protocol.parse().unwrap(),
        ports: ports.parse().unwrap(),
    }
}

#[test]
fn without_a_target_a_forward_leads_to_the_same_ports_here() {
    let state = sharing(&State::default(), "tcp", "8000-8010", &[]);

    let forward = &state.forwards[0];
    assert_eq!(forward.key, key("tcp", "8000-8010"));
    assert_eq!(forward.target.to_string(), "127.0.0.1:8000");
    assert_eq!(forward.peers, []);
}

#[test]
fn the_same_forward_again_changes_nothing() {
    let peers = with_peers(&["db", "web"]);
    let state = sharing(&peers, "tcp", "80-89", &["db", "web"]);
    let again = |target: Option<&str>, peers: &[&str]| {
        forward::add(&state, share("tcp", "80-89", target, peers))
    };
    assert_eq!(again(None, &["web", "db"]).unwrap(), state);
    assert_eq!(again(Some("127.0.0.1:80"), &["db", "web"]).unwrap(), state);
    for (target, peers) in [
        (Some("127.0.0.1:81"), &["db", "web"][..]),
        (None, &["db"]),
        (None, &[]),
    ] {
        let refused = again(target, peers);
        assert!(
            matches!(refused, Err(Refusal::Forwarded { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn two_forwards_share_no_port() {
    let state = sharing(&State::default(), "tcp", "8000-8010", &[]);
    for ports in [
        "8000",
        "8010",
        "7990-8000",
        "8010-8020",
        "8002-8003",
        "1-16000",
    ] {
        refused(
            forward::add(&state, share("tcp", ports, Some("192.0.2.1:80"), &[])),
            ErrorCode::Conflict,
            "tcp 8000-8010 is forwarded already, to 127.0.0.1:8000; end that first with: punchctl unforward tcp 8000-8010",
        );
    }
    for (protocol, ports) in [("udp", "8000-8010"), ("tcp", "7999"), ("tcp", "8011")] {
        sharing(&state, protocol, ports, &[]);
    }
}

#[test]
fn forwards_stand_in_the_order_of_their_ports() {
    let mut state = State::default();
    for (protocol, ports) in [("udp", "53"), ("tcp", "443"), ("tcp", "80"), ("tcp", "90")] {
        state = sharing(&state, protocol, ports, &[]);
    }
    let keys: Vec<_> = state.forwards.iter().map(|forward| forward.key).collect();
    assert_eq!(
        keys,
        [
            key("tcp", "80"),
            key("tcp", "90"),
            key("tcp", "443"),
            key("udp", "53")
        ]
    );
}

#[test]
fn a_forward_is_for_peers_that_exist_each_once() {
    let state = with_peers(&["db", "web"]);
    refused(
        forward::add(&state, share("tcp", "80", None, &["db", "wbe"])),
        ErrorCode::NotFound,
        "no peer is called wbe; did you mean web?",
    );
    let state = sharing(&state, "tcp", "80", &["web", "db", "web"]);
    assert_eq!(state.forwards[0].peers, [name("db"), name("web")]);
}

#[test]
fn the_targets_ports_end_with_65535() {
    let state = State::default();
    refused(
        forward::add(
            &state,
            share("tcp", "1000-1010", Some("192.0.2.1:65526"), &[]),
        ),
        ErrorCode::Invalid,
        "the target's ports would run past 65535",
    );
    let fits = share("tcp", "1000-1010", Some("192.0.2.1:65525"), &[]);
    forward::add(&state, fits).expect("the last one is 65535");
}

#[test]
fn a_forward_ends_by_exactly_its_ports() {
    let state = State::default();
    refused(
        forward::remove(&state, key("tcp", "80")),
        ErrorCode::NotFound,
        "nothing is forwarded",
    );
    let state = sharing(&state, "tcp", "8000-8010", &[]);
    let state = sharing(&state, "udp", "53", &[]);
    refused(
        forward::remove(&state, key("tcp", "8000")),
        ErrorCode::NotFound,
        "tcp 8000 is not forwarded; there is tcp 8000-8010, udp 53",
    );
    let state = forward::remove(&state, key("tcp", "8000-8010")).unwrap();
    let left: Vec<_> = state.forwards.iter().map(|forward| forward.key).collect();
    assert_eq!(left, [key("udp", "53")]);
}

#[test]
fn there_are_at_most_4096_forwards_and_the_next_is_refused_with_what_to_do() {
    let mut state = State::default();
    for port in 0..MAX_FORWARDS {
        let ports = (port + 1).to_string();
        state = forward::add(&state, share("tcp", &ports, None, &[])).unwrap();
    }
    let refused = forward::add(&state, share("udp", "53", None, &[])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "4096 forwards are the most; a range of ports counts as one: punchctl forward tcp 8000-8010"
    );
    let state = forward::remove(&state, key("tcp", "17")).unwrap();
    assert!(forward::add(&state, share("udp", "53", None, &[])).is_ok());
}

#[test]
fn the_port_at_which_peers_meet_is_not_forwarded_in_either_order() {
    let state = with_peers(&["db", "web"]);
    let db = name("db");
    let range = forward::add(&state, share("tcp", "45100-45120", None, &["web"])).unwrap();
    let refused = peer::set_relay(&range, &db, true).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "peers would meet at TCP port 45117 inside the tunnel, which is forwarded; end that first with: punchctl unforward tcp 45100-45120"
    );
    // Another protocol and other ports do not matter, and what is taken away is never refused.
    let beside = forward::add(&state, share("udp", "45117", None, &[])).unwrap();
    let beside = forward::add(&beside, share("tcp", "45118", None, &[])).unwrap();
    let guest = peer::set_relay(&beside, &db, true).unwrap();
    assert!(peer::set_relay(&range, &db, false).is_ok());
    let refused = forward::add(&guest, share("tcp", "45117", None, &["web"])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tcp 45117 cannot be forwarded: peers that were allowed to (punchctl allow NAME --relay) meet at TCP port 45117 inside the tunnel"
    );
    let down = peer::set_up(&guest, &db, false, None).unwrap();
    assert!(forward::add(&down, share("tcp", "45117", None, &[])).is_err());
    let over = peer::set_relay(&guest, &db, false).unwrap();
    assert!(forward::add(&over, share("tcp", "45117", None, &[])).is_ok());
}
