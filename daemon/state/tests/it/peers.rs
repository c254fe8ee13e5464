//! Peers are added, removed, renamed, connected and let in.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{AddPeer, ErrorCode, PeerKey, Secret};
use punch_state::{Holder, Machine, Refusal, State, peer};

use super::{id, machine, name, punch, refused, sharing, with_peers};

/// A plain WireGuard peer; the number makes its key.
fn wireguard(called: &str, number: u8, address: &str) -> AddPeer {
    AddPeer {
        name: name(called),
        key: PeerKey::Wireguard {
            key: BASE64_STANDARD.encode(id(number).x25519()),
            endpoint: Some("203.0.113.5:51820".parse().unwrap()),
            address: address.parse().unwrap(),
            preshared: None,
        },
    }
}

/// A plain WireGuard peer of which one thing is different.
fn changed(change: impl FnOnce(&mut String, &mut IpAddr, &mut Option<Secret>)) -> AddPeer {
    let mut ask = wireguard("router", 9, "10.0.0.9");
    if let PeerKey::Wireguard {
        key,
        address,
        preshared,
        ..
    } = &mut ask.key
    {
        change(key, address, preshared);
    }
    ask
}

fn add(state: &State, ask: AddPeer) -> Result<State, Refusal> {
    peer::add(state, &machine(), ask)
}

#[test]
fn a_peer_that_nobody_can_call_is_waited_for_from_the_start() {
    let mut ask = wireguard("phone", 9, "10.0.0.9");
    if let PeerKey::Wireguard { endpoint, .. } = &mut ask.key {
        *endpoint = None;
    }
    let state = add(&State::default(), ask).unwrap();
    let phone = &state.peers[&name("phone")];
    assert!(phone.up && !phone.blocked && !phone.host);
}

#[test]
fn a_new_peer_is_down_and_may_reach_nothing_but_forwards() {
    let state = add(&State::default(), punch("db", 1)).unwrap();

    let db = &state.peers[&name("db")];
    assert_eq!((db.up, db.blocked, db.host), (false, false, false));
    assert_eq!(db.id(), Some(id(1)));
    assert_eq!(db.public(), Some(id(1).x25519()));
}

#[test]
fn a_change_leaves_the_state_before_it_as_it_was() {
    let before = with_peers(&["db"]);
    let copy = before.clone();

    let after = add(&before, punch("web", 2)).unwrap();

    assert_eq!(before, copy);
    assert_eq!(after.peers.len(), 2);
}

#[test]
fn the_same_peer_again_changes_nothing() {
    let state = with_peers(&["db"]);
    let up = peer::set_up(&state, &name("db"), true, None).unwrap();
    assert_eq!(add(&up, punch("db", 1)).unwrap(), up);
    // It must be the same in everything that is asked for.
    let mut ask = punch("db", 1);
    if let PeerKey::Punch { ipv6_only, .. } = &mut ask.key {
        *ipv6_only = true;
    }
    assert!(matches!(add(&up, ask), Err(Refusal::PeerExists(_))));
}

#[test]
fn a_name_is_taken_once() {
    refused(
        add(&with_peers(&["db"]), punch("db", 2)),
        ErrorCode::Conflict,
        "a peer called db exists already; choose another name, or remove it with: punchctl peer remove db",
    );
}

#[test]
fn a_machine_is_a_peer_once_and_not_its_own() {
    refused(
        add(&with_peers(&["db"]), punch("web", 1)),
        ErrorCode::Conflict,
        "that machine is a peer already, called db; rename it with: punchctl peer rename db web",
    );
    // The same machine, described as a plain WireGuard peer.
    let twin = refused(
        add(&with_peers(&["db"]), wireguard("web", 1, "10.0.0.9")),
        ErrorCode::Conflict,
        "that machine is a peer already, called db; rename it with: punchctl peer rename db web",
    );
    assert!(matches!(twin, Refusal::SameMachine { .. }));
    for own in [punch("me", 0), wireguard("me", 0, "10.0.0.9")] {
        refused(
            add(&State::default(), own),
            ErrorCode::Invalid,
            "that is this machine's own key; ask the other machine for its: punchctl id",
        );
    }
}

#[test]
fn an_address_inside_the_tunnel_is_taken_once() {
    let range = machine().ipv4.unwrap();
    let state = with_peers(&["db"]);
    let taken = id(1).overlay_ipv4(range).to_string();
    let refusal = refused(
        add(&state, wireguard("router", 9, &taken)),
        ErrorCode::Conflict,
        &format!(
            "the peer's overlay address {taken} is that of db too; add it for IPv6 only with: --ipv6-only"
        ),
    );
    assert_eq!(
        refusal,
        Refusal::AddressTaken {
            ip: taken.parse().unwrap(),
            holder: Holder::Peer(name("db"))
        }
    );
    let taken = id(1).overlay_ipv6().to_string();
    refused(
        add(&state, wireguard("router", 9, &taken)),
        ErrorCode::Conflict,
        &format!("the peer's overlay address {taken} is that of db too"),
    );
    let own = id(0).overlay_ipv4(range).to_string();
    refused(
        add(&state, wireguard("router", 9, &own)),
        ErrorCode::Conflict,
        &format!(
            "the peer's overlay address {own} is that of this machine too; add it for IPv6 only with: --ipv6-only"
        ),
    );
}

#[test]
fn a_peer_for_ipv6_only_takes_no_ipv4_address() {
    let range = machine().ipv4;
    let taken = id(1).overlay_ipv4(range.unwrap()).to_string();
    let mut ask = punch("db", 1);
    ask.key = PeerKey::Punch {
        key: id(1),
        ipv6_only: true,
    };
    let state = add(&State::default(), ask).unwrap();

    let ipv6 = IpAddr::from(id(1).overlay_ipv6());
    assert_eq!(state.peers[&name("db")].addresses(range), [ipv6]);
    add(&state, wireguard("router", 9, &taken)).expect("the IPv4 address is free");
}

#[test]
fn a_plain_wireguard_peer_is_described_by_what_can_be_true() {
    let none = State::default();
    refused(
        add(&none, changed(|key, _, _| *key = "cafe".to_owned())),
        ErrorCode::Invalid,
        "that is not a WireGuard key: 32 bytes in base64, as `wg pubkey` prints",
    );
    refused(
        add(
            &none,
            changed(|key, _, _| *key = BASE64_STANDARD.encode([0; 32])),
        ),
        ErrorCode::Invalid,
        "that WireGuard key is of small order: anybody could take the part of its owner",
    );
    refused(
        add(
            &none,
            changed(|_, _, preshared| *preshared = Some(Secret::new("short".to_owned()))),
        ),
        ErrorCode::Invalid,
        "the file holds no preshared key: 32 bytes in base64, as `wg genpsk` prints",
    );
    for nowhere in [
        "127.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.7.7",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "ff02::1",
    ] {
        refused(
            add(
                &none,
                changed(|_, address, _| *address = nowhere.parse().unwrap()),
            ),
            ErrorCode::Invalid,
            &format!("{nowhere} cannot be an address inside the tunnel"),
        );
    }
    refused(
        add(&none, wireguard("router", 9, "203.0.113.5")),
        ErrorCode::Invalid,
        "203.0.113.5 cannot be both the endpoint and the address inside the tunnel: the tunnel would lead into itself",
    );
    let off = Machine {
        ipv4: None,
        ..machine()
    };
    refused(
        peer::add(&none, &off, wireguard("router", 9, "10.0.0.9")),
        ErrorCode::Invalid,
        "IPv4 inside the tunnel is switched off here ([overlay] ipv4 in punchd.toml)",
    );
    peer::add(&none, &off, wireguard("router", 9, "fd00::9")).expect("IPv6 is not");
    let preshared = BASE64_STANDARD.encode([7; 32]);
    add(
        &none,
        changed(|_, _, key| *key = Some(Secret::new(preshared))),
    )
    .expect("is right");
}

#[test]
fn a_peer_that_does_not_exist_is_told_with_what_there_is() {
    let not_found = |state: &State, asked: &str, message: &str| {
        let asked = name(asked);
        let other = name("other");
        refused(peer::remove(state, &asked), ErrorCode::NotFound, message);
        refused(
            peer::rename(state, &asked, &other),
            ErrorCode::NotFound,
            message,
        );
        refused(
            peer::set_up(state, &asked, true, None),
            ErrorCode::NotFound,
            message,
        );
        refused(
            peer::set_host(state, &asked, true),
            ErrorCode::NotFound,
            message,
        );
    };
    not_found(
        &State::default(),
        "db",
        "no peer is called db; add one with: punchctl peer add db KEY",
    );
    let two = with_peers(&["db", "printer"]);
    not_found(&two, "bd", "no peer is called bd; did you mean db?");
    not_found(
        &two,
        "pritnerr",
        "no peer is called pritnerr; did you mean printer?",
    );
    not_found(&two, "web", "no peer is called web; there is db, printer");
    let names: Vec<_> = (0..11).map(|number| format!("machine-{number}")).collect();
    let many = with_peers(&names.iter().map(String::as_str).collect::<Vec<_>>());
    not_found(
        &many,
        "web",
        "no peer is called web; punchctl peers shows those there are",
    );
}

#[test]
fn a_forward_for_a_removed_peer_alone_does_not_become_one_for_all() {
    let state = with_peers(&["db", "web"]);
    let state = sharing(&state, "tcp", "80", &["db"]);
    let state = sharing(&state, "tcp", "81", &["db", "web"]);
    let state = sharing(&state, "tcp", "82", &[]);

    let state = peer::remove(&state, &name("db")).unwrap();

    let left: Vec<_> = state
        .forwards
        .iter()
        .map(|forward| (forward.key.ports.first(), forward.peers.clone()))
        .collect();
    assert_eq!(left, [(81, vec![name("web")]), (82, vec![])]);
    assert!(!state.peers.contains_key(&name("db")));
}

#[test]
fn forwards_follow_a_peer_to_its_new_name() {
    let state = sharing(&with_peers(&["db", "web"]), "tcp", "80", &["db"]);

    let renamed = peer::rename(&state, &name("db"), &name("store")).unwrap();

    assert_eq!(
        renamed.peers[&name("store")],
        state.peers[&name("db")],
        "nothing else is different"
    );
    assert_eq!(renamed.forwards[0].peers, [name("store")]);
    refused(
        peer::rename(&state, &name("db"), &name("web")),
        ErrorCode::Conflict,
        "a peer called web exists already",
    );
    assert_eq!(
        peer::rename(&state, &name("db"), &name("db")).unwrap(),
        state,
        "its own name is no other's"
    );
}

#[test]
fn down_blocks_a_peer_until_up() {
    let state = with_peers(&["db"]);
    let db = name("db");

    let down = peer::set_up(&state, &db, false, None).unwrap();
    assert_eq!((down.peers[&db].up, down.peers[&db].blocked), (false, true));

    let up = peer::set_up(&down, &db, true, None).unwrap();
    assert_eq!((up.peers[&db].up, up.peers[&db].blocked), (true, false));
}

#[test]
fn the_host_is_granted_and_denied() {
    let db = name("db");
    let granted = peer::set_host(&with_peers(&["db"]), &db, true).unwrap();
    assert!(granted.peers[&db].host);

    let denied = peer::set_host(&granted, &db, false).unwrap();
    assert!(!denied.peers[&db].host);
}
