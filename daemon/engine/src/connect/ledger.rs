//! The mappings that searches have made at this machine's NAT and that may still be alive: the budget's cap counts them all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An unused mapping is forgotten after this where its lifetime was not measured (RFC 4787 REQ-5; Linux takes 30 s).
const LIFETIME: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Until when, how many.
    entries: VecDeque<(Instant, u32)>,
}

impl Ledger {
    pub(super) fn add(&mut self, mappings: u32, lifetime: Option<Duration>, now: Instant) {
        if mappings > 0 {
            let until = now + lifetime.unwrap_or(LIFETIME);
            self.entries.push_back((until, mappings));
        }
    }

    /// How many may be alive.
    pub(super) fn alive(&mut self, now: Instant) -> u32 {
        self.entries.retain(|(until, _)| *until > now);
        let counts = self.entries.iter().map(|(_, mappings)| *mappings);
        counts.fold(0, u32::saturating_add)
    }

    /// When all of them are gone.
    pub(super) fn clear_at(&self) -> Option<Instant> {
        self.entries.iter().map(|(until, _)| *until).max()
    }
}
