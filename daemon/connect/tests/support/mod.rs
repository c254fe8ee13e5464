//! What the tests and the benchmarks of the connector begin with.

use std::net::Ipv4Addr;
use std::time::Instant;

use punch_connect::{Connector, ConnectorConfig, ServerId};
use punch_signal_protocol::{Candidate, Capabilities, Credentials, Description, Identity, PeerId};
use punch_traversal::{Budget, NatOverrides, SocketId};

mod start;
pub(crate) use start::start;

pub(crate) const SERVER: ServerId = ServerId(1);
/// 2026-01-01, in milliseconds.
pub(crate) const WALL: u64 = 1_767_225_600_000;

/// A machine with one socket and one address, its identity, and the start of virtual time.
pub(crate) fn connector() -> (Connector, PeerId, Instant) {
    let identity = Identity::from_seed(&[255; 32]);
    let own = identity.id();
    let config = ConnectorConfig {
        relay: true,
        mtu: 0,
        tcp: true,
        identity,
        ipv4_range: None,
        seed: [1; 32],
        wall_ms: WALL,
        budget: Budget::default(),
        nat: NatOverrides::default(),
    };
    let now = start();
    let mut connector = Connector::new(config, now);
    connector.handle_socket(SocketId::MAIN_V4, 4000, now);
    connector.handle_addresses(vec![Ipv4Addr::new(192, 168, 1, 2).into()], now);
    (connector, own, now)
}

/// What a peer with these credentials and candidates says in its offer.
pub(crate) fn description(credentials: Credentials, candidates: Vec<Candidate>) -> Description {
    Description {
        stamp: WALL,
        credentials,
        candidates,
        kem: Vec::new(),
        ipv4_range: None,
        nat: None,
        capabilities: Capabilities::NONE,
    }
}

/// Credentials that are made of one byte.
pub(crate) fn credentials(byte: u8) -> Credentials {
    Credentials {
        fragment: [byte; 8],
        password: [byte; 32],
    }
}

/// The USERNAME of a check (RFC 8445 §7.2.2: `receiver:sender`).
pub(crate) fn username(receiver: &Credentials, sender: &Credentials) -> String {
    let hex = |credentials: &Credentials| {
        let digits = credentials.fragment.map(|byte| format!("{byte:02x}"));
        digits.concat()
    };
    format!("{}:{}", hex(receiver), hex(sender))
}
