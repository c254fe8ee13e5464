//! Compact offers: when each peer gets one over slow channels, and what an envelope from one of those may do.
//!
//! They stand beside the quick ones and disturb nothing of theirs. What tells late from new is the stamp: of all that a peer has said, in
//! an offer or in an answer, nothing that is older than the exchange that came about last begins another one.

use std::time::{Duration, Instant};

use punch_packet::{PeerHandle, Rate, TokenBucket};
use punch_signal_protocol::Candidate;

use crate::envelopes::Envelopes;
use crate::medium::Channel;
use crate::network::LocalNetwork;
use crate::peer::{PeerConnection, RENEWAL};
use crate::peers::Peers;
use crate::schedule::Schedule;
use crate::servers::Servers;

/// Compact offers to all peers: each costs two key exchanges on the thread that carries packets.
const OFFERS: Rate = Rate {
    burst: 16,
    interval: Duration::from_millis(40),
};

/// The peers to whom a compact offer may be due.
#[derive(Debug)]
pub(crate) struct CompactOffers {
    bucket: TokenBucket,
    due: Schedule,
}

impl Default for CompactOffers {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(OFFERS),
            due: Schedule::default(),
        }
    }
}

impl CompactOffers {
    /// A peer may want a compact offer, not before `at`.
    pub(crate) fn add(&mut self, peer: PeerHandle, at: Instant) {
        self.due.bring_forward(peer, at);
    }

    /// A peer is gone.
    pub(crate) fn remove(&mut self, peer: PeerHandle) {
        self.due.set(peer, None);
    }

    /// The next peer whose turn has come.
    pub(crate) fn next(&mut self, now: Instant) -> Option<PeerHandle> {
        self.bucket.holds(now).then(|| self.due.pop(now))?
    }

    /// When [`Self::next`] has a peer.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (first, _) = self.due.first()?;
        Some(self.bucket.ready_at(0).map_or(first, |at| at.max(first)))
    }

    /// Sends a peer compact offers over those slow channels that want one; returns whether any has gone out.
    pub(crate) fn send(
        &mut self,
        peer: PeerHandle,
        connection: &mut PeerConnection,
        (envelopes, servers): (&mut Envelopes, &mut Servers),
        network: &LocalNetwork,
        now: Instant,
    ) -> bool {
        let mut sent = false;
        let candidates = network.candidates();
        for (server, channel) in servers.reach_slow(connection.id) {
            if !connection.wants_compact(channel != Channel::Dht, now) {
                continue;
            }
            let at = connection.calls.slow.due_at(channel, &candidates);
            if at.is_some_and(|at| at > now) {
                self.due.bring_forward(peer, at.unwrap_or(now));
                continue;
            }
            self.bucket.take(now);
            if let Some(envelope) = envelopes.compact_offer(connection, channel, network, now) {
                servers.send_over(server, connection.id, envelope);
                sent = true;
            }
            if channel == Channel::Dht {
                self.due.bring_forward(peer, now + RENEWAL);
            }
        }
        sent
    }

    /// This machine's addresses are others: peers with an offer that tells the old ones get a new one soon.
    pub(crate) fn handle_candidates(
        &mut self,
        peers: &Peers,
        candidates: &[Candidate],
        now: Instant,
    ) {
        for peer in peers.handles() {
            let calls = peers.get(peer).map(|connection| &connection.calls);
            let at = calls.and_then(|calls| calls.slow.changed_at(candidates));
            if let Some(at) = at {
                self.add(peer, at.max(now));
            }
        }
    }
}
