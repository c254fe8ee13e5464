//! What a change means for those who act on it.

use punch_api::{AddServer, ServerKind};
use punch_state::{Difference, State, peer, server};

use super::{machine, name, punch, sharing, with_peers};

#[test]
fn equal_states_differ_in_nothing() {
    let state = sharing(&with_peers(&["db", "web"]), "tcp", "80", &["db"]);
    assert_eq!(
        Difference::between(&state, &state.clone()),
        Difference::default()
    );
}

#[test]
fn from_nothing_everything_is_new() {
    let state = sharing(&with_peers(&["db", "web"]), "tcp", "80", &[]);
    let difference = Difference::between(&State::default(), &state);
    let expected = Difference {
        changed: vec![name("db"), name("web")],
        forwards: true,
        ..Difference::default()
    };
    assert_eq!(difference, expected);
}

#[test]
fn only_the_peer_that_changes_is_named() {
    let before = with_peers(&["db", "printer", "web"]);
    let between = |after: &State| Difference::between(&before, after);

    let up = between(&peer::set_up(&before, &name("printer"), true, None).unwrap());
    let expected = Difference {
        changed: vec![name("printer")],
        ..Difference::default()
    };
    assert_eq!(up, expected);

    let gone = between(&peer::remove(&before, &name("web")).unwrap());
    let expected = Difference {
        gone: vec![name("web")],
        ..Difference::default()
    };
    assert_eq!(gone, expected);

    let added = between(&peer::add(&before, &machine(), punch("new", 9)).unwrap());
    let expected = Difference {
        changed: vec![name("new")],
        ..Difference::default()
    };
    assert_eq!(added, expected);
}

#[test]
fn a_peer_with_another_name_is_the_same_peer() {
    let before = sharing(&with_peers(&["db", "web"]), "tcp", "80", &["db"]);
    let after = peer::rename(&before, &name("db"), &name("store")).unwrap();

    let expected = Difference {
        renamed: vec![(name("db"), name("store"))],
        forwards: true,
        ..Difference::default()
    };
    assert_eq!(Difference::between(&before, &after), expected);
}

#[test]
fn another_machine_under_the_same_name_is_another_peer() {
    let before = with_peers(&["db"]);
    let empty = peer::remove(&before, &name("db")).unwrap();
    let after = peer::add(&empty, &machine(), punch("db", 9)).unwrap();

    let expected = Difference {
        gone: vec![name("db")],
        changed: vec![name("db")],
        ..Difference::default()
    };
    assert_eq!(Difference::between(&before, &after), expected);
}

#[test]
fn servers_come_and_go() {
    let ask = AddServer {
        kind: ServerKind::Stun,
        address: "stun.example".to_owned(),
    };
    let before = State::default();
    let (after, address) = server::add(&before, &machine(), &ask).unwrap();

    let expected = Difference {
        servers_added: vec![address.clone()],
        ..Difference::default()
    };
    assert_eq!(Difference::between(&before, &after), expected);
    let expected = Difference {
        servers_gone: vec![address],
        ..Difference::default()
    };
    assert_eq!(Difference::between(&after, &before), expected);
}

#[test]
fn who_may_meet_here_is_told_with_the_forwards() {
    let state = with_peers(&["db", "web"]);
    let db = name("db");
    let guest = peer::set_relay(&state, &db, true).unwrap();
    let guests = |state: &State| state.guests().cloned().collect::<Vec<_>>();
    assert_eq!(guests(&guest), std::slice::from_ref(&db));
    assert!(Difference::between(&state, &guest).forwards);
    let up = peer::set_up(&guest, &db, true, None).unwrap();
    assert!(!Difference::between(&guest, &up).forwards);
    // Whoever was told `down` is no guest until `up`.
    let down = peer::set_up(&up, &db, false, None).unwrap();
    assert_eq!(guests(&down), []);
    assert!(Difference::between(&up, &down).forwards);
    assert!(Difference::between(&down, &up).forwards);
    let renamed = peer::rename(&guest, &db, &name("db2")).unwrap();
    assert_eq!(guests(&renamed), [name("db2")]);
    assert!(Difference::between(&guest, &peer::remove(&guest, &db).unwrap()).forwards);
}
