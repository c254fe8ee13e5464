//! Packets of a run that are no questions to a server: what matters is whether they arrive at all.

use std::net::SocketAddr;
use std::time::Instant;

use punch_stun_protocol::{Class, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;

use crate::request::transaction;
use crate::socket::{SocketId, Transmit};

/// Opening packets, which shall die on their way to a server.
#[derive(Debug, Default)]
pub(super) struct Openings {
    sent: Vec<(TransactionId, u8)>,
    /// The smallest TTL with which one has arrived.
    arrived: Option<u8>,
}

impl Openings {
    /// A packet with this TTL.
    pub(super) fn packet(
        &mut self,
        socket: SocketId,
        to: SocketAddr,
        ttl: u8,
        rng: &mut ChaCha8Rng,
    ) -> Transmit {
        let id = transaction(rng);
        self.sent.push((id, ttl));
        Transmit {
            ttl: Some(ttl),
            whole: false,
            ..Transmit::new(socket, to, Writer::new(Class::Request, id).finish())
        }
    }

    /// A response has come; returns whether a server has sent it because an opening packet arrived.
    pub(super) fn handle_response(&mut self, id: TransactionId) -> bool {
        let Some((_, ttl)) = self.sent.iter().find(|(sent, _)| *sent == id) else {
            return false;
        };
        self.arrived = Some(self.arrived.map_or(*ttl, |least| least.min(*ttl)));
        true
    }

    /// How many have left.
    pub(super) fn count(&self) -> usize {
        self.sent.len()
    }

    /// The smallest TTL with which one has arrived.
    pub(super) fn arrived(&self) -> Option<u8> {
        self.arrived
    }
}

/// Requests to this machine's own public endpoints, which come back only if the NAT sends them back (RFC 5780 §4.5).
#[derive(Debug, Default)]
pub(super) struct Hairpins {
    sent: Vec<TransactionId>,
    came_back: bool,
    /// Until when one may still come back.
    until: Option<Instant>,
}

impl Hairpins {
    /// A packet to a public endpoint of this machine.
    pub(super) fn packet(
        &mut self,
        socket: SocketId,
        to: SocketAddr,
        rng: &mut ChaCha8Rng,
    ) -> Transmit {
        let id = transaction(rng);
        self.sent.push(id);
        Transmit::new(socket, to, Writer::new(Class::Request, id).finish())
    }

    /// Waits until then for what may come back.
    pub(super) fn wait_until(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// A request has come: perhaps one of these.
    pub(super) fn handle_request(&mut self, id: TransactionId) {
        self.came_back |= self.sent.contains(&id);
    }

    /// The wait is over if its time has come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.until = self.until.filter(|until| *until > now);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// How many have left.
    pub(super) fn count(&self) -> usize {
        self.sent.len()
    }

    /// Whether one has come back.
    pub(super) fn came_back(&self) -> bool {
        self.came_back
    }
}
