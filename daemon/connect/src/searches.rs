//! The turns of the peers to search for ports: one at a time, within what the budget has left.

use std::collections::BTreeSet;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_traversal::{Budget, Caps, NatProfile};

use crate::charges::Charges;
use crate::ledger::Ledger;
use crate::network::LocalNetwork;
use crate::schedule::Schedule;

/// Searches that are under way or wait, and the mappings that earlier ones have made.
#[derive(Debug)]
pub(crate) struct Searches {
    /// What an attempt may ask of the routers.
    pub(crate) budget: Budget,
    ledger: Ledger,
    /// Mappings that netchecks have made.
    netchecks: Ledger,
    /// What the addresses that peers have named have got.
    pub(crate) charges: Charges,
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
            netchecks: Ledger::default(),
            charges: Charges::default(),
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

    /// A connection's searches have made so many mappings, and come to the end of the NAT's ports or not: then it has as many as
    /// were held when others last got theirs. What was sent after that made none.
    pub(crate) fn settle(
        &mut self,
        (mappings, used_up): (u32, Option<u32>),
        network: &mut LocalNetwork,
        now: Instant,
    ) {
        self.book(mappings, now);
        if let Some(granted) = used_up {
            let dropped = mappings.saturating_sub(granted);
            network.learn_capacity(self.held(now).saturating_sub(dropped), now);
        }
    }

    /// A netcheck has made so many mappings at this machine's NAT.
    pub(crate) fn book_netcheck(&mut self, mappings: u32, now: Instant) {
        self.netchecks.add(mappings, now);
    }

    /// How many mappings of searches and netchecks may be alive.
    pub(crate) fn held(&mut self, now: Instant) -> u32 {
        let netchecks = self.netchecks.alive(now);
        self.ledger.alive(now).saturating_add(netchecks)
    }

    /// How many mappings the budget has left at this NAT.
    pub(crate) fn left(&mut self, nat: Option<&NatProfile>, now: Instant) -> u32 {
        let Some(nat) = nat else {
            let caps = Caps::of(self.budget);
            return caps.mappings.saturating_sub(self.ledger.alive(now));
        };
        // A share of what there is includes everything that is held; elsewhere only searches are counted.
        let held = if nat.capacity().is_some() {
            self.held(now)
        } else {
            self.ledger.alive(now)
        };
        nat.allowed(self.budget).saturating_sub(held)
    }

    /// When all mappings of earlier searches and netchecks are gone.
    pub(crate) fn clear_at(&self) -> Option<Instant> {
        self.ledger.clear_at().max(self.netchecks.clear_at())
    }

    /// When a search could begin.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.waiting.first()?;
        self.running.is_empty().then_some(at)
    }
}
