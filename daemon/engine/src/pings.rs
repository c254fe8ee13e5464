//! Echo requests of this machine to its peers, and who has answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_packet::{Packet, PeerHandle, Transport};

/// Pings that are waited for at once.
const MAX_PINGS: usize = 256;
/// An answer that comes later is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A peer has answered a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// The peer.
    pub peer: PeerHandle,
    /// The number of the ping.
    pub id: u16,
    /// The address that answered.
    pub address: IpAddr,
    /// How long it took.
    pub rtt: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Pings {
    sent: HashMap<u16, (PeerHandle, Instant)>,
}

impl Pings {
    /// The number for a new ping, unless too many are waited for.
    pub(crate) fn start(&mut self, peer: PeerHandle, now: Instant) -> Option<u16> {
        if self.sent.len() >= MAX_PINGS {
            return None;
        }
        let id = (0..=u16::MAX).find(|id| !self.sent.contains_key(id))?;
        self.sent.insert(id, (peer, now));
        Some(id)
    }

    /// Whether a packet from a peer, whose addresses these are, answers a ping.
    pub(crate) fn take(
        &mut self,
        peer: PeerHandle,
        addresses: &[IpAddr],
        packet: &Packet<'_>,
        now: Instant,
    ) -> Option<Pong> {
        let Transport::Echo { request: false, id } = packet.transport() else {
            return None;
        };
        let expected = self.sent.get(&id).is_some_and(|(known, _)| *known == peer);
        let from_it = addresses.contains(&packet.source());
        if !expected || !from_it || !punch_packet::is_our_echo(packet) {
            return None;
        }
        let (peer, sent) = self.sent.remove(&id)?;
        Some(Pong {
            peer,
            id,
            address: packet.source(),
            rtt: now.saturating_duration_since(sent),
        })
    }

    /// Forgets what is not waited for any more.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.sent
            .retain(|_, (_, sent)| now.saturating_duration_since(*sent) < PATIENCE);
    }
}
