//! How two machines find each other, and how one finds out where it is: the story of the agent, the gatherer and the
//! netcheck, in virtual time and over networks that fit on a page.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod agent;
mod duel;
mod gatherer;
mod lifetime;
mod mtu;
mod nat;
mod netcheck;
mod network;
mod plan;
mod profile;
mod recovery;
mod search;
mod selection;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials};
use punch_traversal::{AgentConfig, Role};

/// The one reading of the clock; all other times are this and a duration.
#[allow(
    clippy::disallowed_methods,
    reason = "virtual time begins at some instant"
)]
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn host(text: &str) -> Candidate {
    Candidate::new(CandidateKind::Host, addr(text))
}

fn reflexive(text: &str) -> Candidate {
    Candidate::new(CandidateKind::ServerReflexive, addr(text))
}

fn credentials(n: u8) -> Credentials {
    Credentials {
        fragment: [n; 8],
        password: [n ^ 0x5A; 32],
    }
}

/// What an agent knows of whose NAT and whose peer's nothing is known.
fn config(
    role: Role,
    local: Credentials,
    remote: Credentials,
    candidates: Vec<Candidate>,
    seed: u64,
) -> AgentConfig {
    AgentConfig {
        role,
        answers: role == Role::Controlled,
        local,
        remote,
        candidates,
        mine: None,
        theirs: None,
        opening_ttl: None,
        lifetime: None,
        samplers: Vec::new(),
        remembered: None,
        patience: None,
        // The base is all that anybody wants: nothing is searched for.
        mtu: 0,
        seed,
    }
}
