//! What the signalling protocol promises, seen from outside: bytes that stay for ever, errors that say what happened,
//! and a seal that holds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod compact;
mod description;
mod frame;
mod identity;
mod nat;
mod pairing;
mod paste;
mod range;
mod refusal;
mod relay;
mod seal;
mod second_writing;

use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Credentials, Description, Identity, Ipv4Range,
};

/// Reads hexadecimal digits; spaces are for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// A machine whose seed is 32 times `n`.
fn machine(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn description(stamp: u64) -> Description {
    Description {
        stamp,
        credentials: Credentials {
            fragment: *b"fragment",
            password: [0xAB; 32],
        },
        candidates: vec![
            Candidate::new(CandidateKind::Host, "192.168.1.2:51820".parse().unwrap()),
            Candidate::new(
                CandidateKind::ServerReflexive,
                "[2001:db8::2]:4242".parse().unwrap(),
            ),
        ],
        kem: Vec::new(),
        ipv4_range: Some(Ipv4Range::DEFAULT),
        nat: None,
        capabilities: Capabilities::OURS,
    }
}
