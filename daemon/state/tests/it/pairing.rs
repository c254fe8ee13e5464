//! Two machines that have met by a code: names, rights, forwards and servers.

use punch_api::{ForwardKey, PortRange, Protocol, ServerAddress, ServerKind};
use punch_state::pairing::{Terms, check, free_name, pair};
use punch_state::{MAX_SERVERS, Refusal, State};

use crate::{id, machine, name, sharing, with_peers};

fn key(ports: &str) -> ForwardKey {
    ForwardKey {
        protocol: Protocol::Tcp,
        ports: ports.parse::<PortRange>().unwrap(),
    }
}

fn stun(number: usize) -> ServerAddress {
    ServerAddress::parse(ServerKind::Stun, &format!("192.0.2.{number}")).unwrap()
}

fn paired(state: &State, number: u8, proposed: &str, terms: &Terms) -> (State, String) {
    let (state, name) = pair(state, &machine(), (id(number), proposed), terms).unwrap();
    (state, name.to_string())
}

#[test]
fn a_name_that_is_proposed_becomes_one_that_is_free() {
    let state = with_peers(&["laptop", "laptop-2"]);
    for (proposed, free) in [
        ("db", "db"),
        ("laptop", "laptop-3"),
        ("Laptop.home.example", "laptop-3"),
        ("my host_7", "my-host-7"),
        ("", "peer"),
        ("localhost", "peer"),
        ("---", "peer"),
        ("\u{e4}\u{f6}", "peer"),
        ("../../etc", "peer"),
    ] {
        assert_eq!(free_name(&state, proposed).as_str(), free, "{proposed}");
    }
    let long = free_name(&state, &"n".repeat(300));
    assert_eq!(long.as_str(), "n".repeat(56));
}

#[test]
fn both_become_peers_that_are_wanted_and_get_what_was_agreed() {
    let terms = Terms {
        forwards: vec![key("5432"), key("8000-8010")],
        host: true,
        servers: vec![stun(1), stun(1)],
        ..Terms::default()
    };
    let (state, called) = paired(&State::default(), 1, "laptop", &terms);
    assert_eq!(called, "laptop");
    let peer = &state.peers[&name("laptop")];
    assert!(peer.up && !peer.blocked && peer.host && !peer.relay);
    assert_eq!(state.servers, [stun(1)]);
    for forward in &state.forwards {
        assert_eq!(forward.peers, [name("laptop")]);
    }
    assert_eq!(state.forwards.len(), 2);
    // Once more changes nothing, whatever name is proposed then.
    assert_eq!(paired(&state, 1, "other", &terms), (state, called));
}

#[test]
fn a_peer_that_is_there_keeps_its_name_and_is_wanted_again() {
    let mut state = with_peers(&["old"]);
    state.peers.get_mut(&name("old")).unwrap().blocked = true;
    let terms = Terms {
        name: Some(name("new")),
        ..Terms::default()
    };
    let (state, called) = paired(&state, 1, "laptop", &terms);
    assert_eq!(called, "old");
    let peer = &state.peers[&name("old")];
    assert!(peer.up && !peer.blocked && !peer.host);
}

#[test]
fn a_forward_that_is_there_is_widened_to_the_newcomer_and_to_nobody_else() {
    let state = with_peers(&["web"]);
    let for_web = sharing(&state, "tcp", "5432", &["web"]);
    let terms = Terms {
        forwards: vec![key("5432")],
        ..Terms::default()
    };
    assert_eq!(check(&for_web, &terms), Ok(()));
    let (after, _) = paired(&for_web, 2, "laptop", &terms);
    assert_eq!(after.forwards[0].peers, [name("laptop"), name("web")]);
    // What all may use stays as it is.
    let for_all = sharing(&state, "tcp", "5430-5440", &[]);
    let (after, _) = paired(&for_all, 2, "laptop", &terms);
    assert_eq!(after.forwards, for_all.forwards);
    // Other ports for others are not opened along.
    let wider = sharing(&state, "tcp", "5430-5440", &["web"]);
    assert!(matches!(
        check(&wider, &terms),
        Err(Refusal::Forwarded { .. })
    ));
    let refused = pair(&wider, &machine(), (id(2), "laptop"), &terms);
    assert!(matches!(refused, Err(Refusal::Forwarded { .. })));
}

#[test]
fn what_cannot_be_is_refused_before_a_code_is_told() {
    let state = with_peers(&["db"]);
    let terms = Terms {
        name: Some(name("db")),
        ..Terms::default()
    };
    let refusal = check(&state, &terms).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "a peer called db exists already; give another name, such as: --name db-2; the same machine once more keeps its name, and needs no --name"
    );
    // It was free when the code was told, and somebody has taken it since.
    assert_eq!(paired(&state, 2, "laptop", &terms).1, "db-2");
    let own = pair(&state, &machine(), (id(0), "me"), &Terms::default());
    assert_eq!(own.unwrap_err(), Refusal::OwnKey);
    let twice = Terms {
        forwards: vec![key("80-90"), key("85")],
        ..Terms::default()
    };
    // The second is a part of the first.
    assert_eq!(check(&state, &twice), Ok(()));
    assert_eq!(paired(&state, 2, "laptop", &twice).0.forwards.len(), 1);
}

#[test]
fn there_are_never_too_many_servers() {
    let terms = Terms {
        servers: (1..=40).map(stun).collect(),
        ..Terms::default()
    };
    let (state, _) = paired(&State::default(), 1, "db", &terms);
    assert_eq!(state.servers.len(), MAX_SERVERS);
}
