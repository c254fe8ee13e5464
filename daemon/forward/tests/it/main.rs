//! Forwards seen from both ends: a client that is a real TCP stack, and targets that do what the test says; in virtual
//! time, over a link that delays and loses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod client;
mod failures;
mod idle;
mod limits;
mod packets;
mod rough;
mod rules;
mod shares;
mod tcp;
mod teardown;
mod udp;
mod world;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use punch_api::{ForwardKey, Protocol};
use punch_forward::{Access, Presence, Rule, Rules, Stack};
use punch_packet::PeerHandle;

const PEER: PeerHandle = PeerHandle(1);
const OTHER_PEER: PeerHandle = PeerHandle(2);

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

fn key(protocol: Protocol, ports: &str) -> ForwardKey {
    ForwardKey {
        protocol,
        ports: ports.parse().unwrap(),
    }
}

fn rule(protocol: Protocol, ports: &str, target: &str) -> Rule {
    Rule {
        key: key(protocol, ports),
        target: target.parse().unwrap(),
        access: Access::AllPeers,
    }
}

/// The rules of most tests.
fn rules() -> Rules {
    let mut private = rule(Protocol::Tcp, "9000", "127.0.0.1:9000");
    private.access = Access::Peers([OTHER_PEER].into());
    Rules::new([
        rule(Protocol::Tcp, "5432", "127.0.0.1:5432"),
        rule(Protocol::Tcp, "8000-8010", "10.0.0.7:80"),
        rule(Protocol::Udp, "53", "127.0.0.1:5353"),
        rule(Protocol::Udp, "27000-27010", "10.0.0.7:28000"),
        private,
    ])
}

/// How many streams of a forward are open, and how many there were.
fn counts(stack: &Stack, forward: ForwardKey) -> (u64, u64) {
    let counts = stack.counts(forward);
    (counts.open, counts.total)
}

/// Every client's machine is there.
fn here(_: PeerHandle) -> Presence {
    Presence::Here
}

/// Bytes that look random and are the same every time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next().is_multiple_of(n)
    }
}
