//! Each rule of each change, and each text that refuses one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod difference;
mod forwards;
mod pairing;
mod peers;
mod rights;
mod servers;

use punch_api::{AddForward, AddPeer, ApiError, ErrorCode, Ipv4Range, PeerId, PeerKey, PeerName};
use punch_signal_protocol::Identity;
use punch_state::{Machine, Refusal, State, forward, peer};

/// An identity; the same number gives the same one.
fn id(number: u8) -> PeerId {
    Identity::from_seed(&[number; 32]).id()
}

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

/// The machine that is configured: number 0, IPv4 on, no server in punchd.toml.
fn machine() -> Machine {
    Machine {
        id: id(0),
        ipv4: Some(Ipv4Range::DEFAULT),
        servers: Vec::new(),
    }
}

fn punch(called: &str, number: u8) -> AddPeer {
    AddPeer {
        name: name(called),
        key: PeerKey::Punch {
            key: id(number),
            ipv6_only: false,
        },
    }
}

/// A state with these peers, numbered from 1 on.
fn with_peers(names: &[&str]) -> State {
    let mut state = State::default();
    for (number, called) in (1..).zip(names) {
        state = peer::add(&state, &machine(), punch(called, number)).unwrap();
    }
    state
}

fn share(protocol: &str, ports: &str, target: Option<&str>, peers: &[&str]) -> AddForward {
    AddForward {
        protocol: protocol.parse().unwrap(),
        ports: ports.parse().unwrap(),
        target: target.map(|target| target.parse().unwrap()),
        peers: peers.iter().map(|peer| name(peer)).collect(),
    }
}

/// The state with one more forward.
fn sharing(state: &State, protocol: &str, ports: &str, peers: &[&str]) -> State {
    forward::add(state, share(protocol, ports, None, peers)).unwrap()
}

/// What the user is told.
#[track_caller]
fn refused<T: std::fmt::Debug>(
    result: Result<T, Refusal>,
    code: ErrorCode,
    message: &str,
) -> Refusal {
    let refusal = result.expect_err("is refused");
    let error = ApiError::from(refusal.clone());
    assert_eq!((error.code, error.message.as_str()), (code.into(), message));
    refusal
}
