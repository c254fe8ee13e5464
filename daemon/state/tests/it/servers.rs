//! Servers are added and removed.

use punch_api::{AddServer, ErrorCode, ServerAddress, ServerKind};
use punch_state::{MAX_SERVERS, Machine, State, server};

use super::{machine, refused};

fn stun(address: &str) -> AddServer {
    AddServer {
        kind: ServerKind::Stun,
        address: address.to_owned(),
    }
}

/// The machine whose punchd.toml names one server.
fn administered() -> Machine {
    let fixed = ServerAddress::parse(ServerKind::Stun, "stun.example").unwrap();
    Machine {
        servers: vec![fixed],
        ..machine()
    }
}

#[test]
fn a_server_is_added_once_by_whatever_text() {
    let (state, address) = server::add(&State::default(), &machine(), &stun("A.example")).unwrap();
    assert_eq!(address.as_str(), "a.example:3478");
    assert_eq!(state.servers, [address]);

    for (machine, known) in [
        (machine(), "a.example:3478"),
        (administered(), "stun.example"),
    ] {
        let (again, _) = server::add(&state, &machine, &stun(known)).unwrap();
        assert_eq!(again, state, "{known} is there");
    }
}

/// What is public is allowed once, and taken back or refused, which is kept; it gives strangers something to see, so that it must be saved first.
#[test]
fn what_is_public_is_allowed_or_refused() {
    let ask = AddServer {
        kind: ServerKind::Public,
        address: "public".to_owned(),
    };
    let (state, address) = server::add(&State::default(), &machine(), &ask).unwrap();
    assert_eq!(address, ServerAddress::Public);
    assert!(punch_state::rights::gives(&State::default(), &state));
    let (again, _) = server::add(&state, &machine(), &ask).unwrap();
    assert_eq!(again, state);
    let without = server::remove(&state, &machine(), &ask).unwrap();
    let refused = State {
        refuses_public: true,
        ..State::default()
    };
    assert_eq!(without, refused);
    for before in [State::default(), refused.clone()] {
        assert_eq!(
            server::remove(&before, &machine(), &ask),
            Ok(refused.clone())
        );
    }
    let (allowed, _) = server::add(&refused, &machine(), &ask).unwrap();
    assert_eq!(allowed, state);
    assert!(punch_state::rights::gives(&refused, &allowed));
}

#[test]
fn what_is_no_address_is_neither_added_nor_removed() {
    let wrong = stun("a b");
    let message = "`a b` is not a STUN server: write HOST[:PORT], the port is 3478 unless given";
    let state = State::default();
    refused(
        server::add(&state, &machine(), &wrong),
        ErrorCode::Invalid,
        message,
    );
    refused(
        server::remove(&state, &machine(), &wrong),
        ErrorCode::Invalid,
        message,
    );
}

#[test]
fn there_are_at_most_16_servers_those_of_the_administrator_included() {
    let mut state = State::default();
    for number in 1..MAX_SERVERS {
        let ask = stun(&format!("stun{number}.example"));
        (state, _) = server::add(&state, &administered(), &ask).unwrap();
    }
    refused(
        server::add(&state, &administered(), &stun("one.more.example")),
        ErrorCode::Conflict,
        "16 servers are the most",
    );
    assert_eq!(server::all(&state, &administered()).count(), 16);
    server::add(&state, &machine(), &stun("one.more.example")).expect("there are only 15");
}

#[test]
fn a_server_that_both_have_added_counts_once() {
    let (state, _) = server::add(&State::default(), &machine(), &stun("stun.example")).unwrap();
    assert_eq!(server::all(&state, &administered()).count(), 1);
}

#[test]
fn a_server_is_removed_by_whom_it_was_added() {
    let (state, _) = server::add(&State::default(), &machine(), &stun("a.example")).unwrap();
    refused(
        server::remove(&state, &administered(), &stun("stun.example")),
        ErrorCode::Conflict,
        "stun.example:3478 stands in punchd.toml, where the administrator removes it",
    );
    refused(
        server::remove(&state, &administered(), &stun("b.example")),
        ErrorCode::NotFound,
        "b.example:3478 is not in use",
    );
    let state = server::remove(&state, &administered(), &stun("a.example")).unwrap();
    assert_eq!(state.servers, []);
}
