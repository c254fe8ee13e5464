//! A change that only takes rights away is told from one that gives any.

use punch_api::{AddServer, ServerKind};
use punch_state::{State, forward, peer, rights, server};

use super::{machine, name, punch, sharing, with_peers};

/// Whether going from the first state to the second gives something, and whether going back does.
fn both(before: &State, after: &State) -> (bool, bool) {
    (rights::gives(before, after), rights::gives(after, before))
}

#[test]
fn what_a_peer_may_do_is_given_and_taken() {
    let state = with_peers(&["db", "web"]);
    let db = name("db");
    let up = peer::set_up(&state, &db, true, None).unwrap();
    let down = peer::set_up(&state, &db, false, None).unwrap();
    let host = peer::set_host(&state, &db, true).unwrap();
    let gone = peer::remove(&state, &db).unwrap();
    assert_eq!(both(&state, &state), (false, false));
    assert_eq!(both(&state, &up), (true, false));
    assert_eq!(both(&state, &down), (false, true));
    assert_eq!(both(&up, &down), (false, true));
    assert_eq!(both(&state, &host), (true, false));
    assert_eq!(both(&state, &gone), (false, true));
    assert_eq!(both(&host, &gone), (false, true));
    let relay = peer::set_relay(&state, &db, true).unwrap();
    assert_eq!(both(&state, &relay), (true, false));
    assert_eq!(both(&relay, &gone), (false, true));
    // One thing is taken and another one given.
    assert_eq!(both(&host, &up), (true, true));
    let renamed = peer::rename(&state, &db, &name("db2")).unwrap();
    assert_eq!(both(&state, &renamed), (true, true));
    let other = peer::add(&gone, &machine(), punch("db", 7)).unwrap();
    assert_eq!(both(&state, &other), (true, true), "another machine");
}

#[test]
fn a_forward_is_given_widened_narrowed_and_taken() {
    let state = with_peers(&["db", "web"]);
    let all = sharing(&state, "tcp", "10-20", &[]);
    let two = sharing(&state, "tcp", "10-20", &["db", "web"]);
    let one = sharing(&state, "tcp", "10-20", &["db"]);
    let other = sharing(&state, "tcp", "10-20", &["web"]);
    assert_eq!(both(&state, &all), (true, false));
    assert_eq!(both(&all, &two), (false, true));
    assert_eq!(both(&two, &one), (false, true));
    assert_eq!(both(&one, &other), (true, true));
    assert_eq!(
        both(&all, &sharing(&state, "udp", "10-20", &[])),
        (true, true)
    );

    // Fewer ports, as long as each leads where it led.
    let lead = |ports: &str, target: &str| {
        let mut ask = super::share("tcp", ports, Some(target), &[]);
        ask.peers.clear();
        forward::add(&state, ask).unwrap()
    };
    assert_eq!(both(&all, &lead("12-13", "127.0.0.1:12")), (false, true));
    assert_eq!(both(&all, &lead("12-13", "127.0.0.1:10")), (true, true));
    assert_eq!(both(&all, &lead("9-13", "127.0.0.1:9")), (true, true));
    assert_eq!(both(&all, &lead("20-21", "127.0.0.1:20")), (true, true));
    // A forward that was for the peer alone goes with it; another one is narrowed.
    assert_eq!(
        both(&one, &peer::remove(&one, &name("db")).unwrap()),
        (false, true)
    );
    assert_eq!(
        both(&two, &peer::remove(&two, &name("db")).unwrap()),
        (false, true)
    );
}

#[test]
fn a_server_is_given_and_taken() {
    let state = State::default();
    let ask = AddServer {
        kind: ServerKind::Stun,
        address: "192.0.2.1".to_owned(),
    };
    let (with, _) = server::add(&state, &machine(), &ask).unwrap();
    assert_eq!(both(&state, &with), (true, false));
}

#[test]
fn a_relay_that_is_allowed_again_is_given() {
    let state = with_peers(&["db"]);
    let db = name("db");
    let up = peer::set_up(&state, &db, true, None).unwrap();
    let direct = peer::set_up(&up, &db, true, Some(true)).unwrap();
    assert!(direct.peers[&db].direct_only);
    assert_eq!(both(&up, &direct), (false, true));
    // Nothing is said of it, so nothing changes.
    assert_eq!(peer::set_up(&direct, &db, true, None).unwrap(), direct);
    let down = peer::set_up(&direct, &db, false, None).unwrap();
    assert!(down.peers[&db].direct_only);
    let relayed = peer::set_up(&direct, &db, true, Some(false)).unwrap();
    assert_eq!(relayed, up);
}
