//! The STUN server, which has two addresses and two ports, and further ones for samples.

use std::net::{IpAddr, SocketAddr};

use punch_stun_protocol::{Endpoint, respond};

use crate::network::Datagram;

const STUN_PORT: u16 = 3478;
const STUN_IPS: [[u8; 4]; 2] = [[203, 0, 113, 1], [203, 0, 113, 2]];
const SAMPLE_PORTS: (u16, u16) = (40_000, 40_031);

/// The server's addresses.
pub(super) fn addresses() -> [IpAddr; 2] {
    STUN_IPS.map(IpAddr::from)
}

/// What machines have configured.
pub(super) fn servers() -> Vec<SocketAddr> {
    vec![SocketAddr::new(IpAddr::from(STUN_IPS[0]), STUN_PORT)]
}

/// What the server says to one datagram.
pub(super) fn answer(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Datagram> {
    let other = STUN_IPS
        .map(IpAddr::from)
        .into_iter()
        .find(|ip| *ip != to.ip());
    let port = if to.port() == STUN_PORT + 1 {
        STUN_PORT
    } else {
        STUN_PORT + 1
    };
    let endpoint = Endpoint {
        local: to,
        other: other.map(|ip| SocketAddr::new(ip, port)),
        samples: Some(SAMPLE_PORTS),
    };
    let answer = respond(payload, from, endpoint)?;
    Some(Datagram {
        src: answer.from,
        // RESPONSE-PORT may ask for another one.
        dst: answer.to,
        ttl: 64,
        payload: answer.bytes,
    })
}
