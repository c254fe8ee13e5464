//! The turns of the peers to search for ports: one at a time, within what the budget has left.

use std::collections::BTreeSet;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::{Budget, Caps};

use crate::ledger::Ledger;
use crate::schedule::Schedule;

/// Searches that are under way or wait, and the mappings that earlier ones have made.
#[derive(Debug)]
pub(crate) struct Searches {
    /// What an attempt may ask of the routers.
    pub(crate) budget: Budget,
    ledger: Ledger,
    running: BTreeSet<PeerHandle>,
    /// When a search for a peer could begin.
    waiting: Schedule,
}

impl Searches {
    /// No search yet.
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            budget,
            ledger: Ledger::default(),
            running: BTreeSet::new(),
            waiting: Schedule::default(),
        }
    }

    /// Takes note of whether a search for the peer is under way, and when one could begin.
    pub(crate) fn note(&mut self, peer: PeerHandle, running: bool, begins: Option<Instant>) {
        if running {
            self.running.insert(peer);
        } else {
            self.running.remove(&peer);
        }
        self.waiting.set(peer, begins);
    }

    /// Searches have made so many mappings at this machine's NAT.
    pub(crate) fn book(&mut self, mappings: u32, now: Instant) {
        self.ledger.add(mappings, now);
    }

    /// The peer whose search may begin now.
    pub(crate) fn next(&self, now: Instant) -> Option<PeerHandle> {
        let (at, peer) = self.waiting.first()?;
        (self.running.is_empty() && at <= now).then_some(peer)
    }

    /// How many mappings the budget has left.
    pub(crate) fn left(&mut self, now: Instant) -> u32 {
        let cap = Caps::of(self.budget).mappings;
        cap.saturating_sub(self.ledger.alive(now))
    }

    /// When all mappings of earlier searches are gone.
    pub(crate) fn clear_at(&self) -> Option<Instant> {
        self.ledger.clear_at()
    }

    /// When a search could begin.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.waiting.first()?;
        self.running.is_empty().then_some(at)
    }
}
