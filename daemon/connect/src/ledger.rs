//! The mappings that searches have made at this machine's NAT and that may still be alive: the budget's cap counts them all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An unused mapping is forgotten after this at the latest, as far as is known (RFC 4787 REQ-5; Linux takes 30 s). What is
/// measured is only how long mappings live at the least, and an answer that was lost makes it shorter than it is.
const MAPPING_LIFETIME: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// When some mappings are gone at the latest, and how many they are.
    entries: VecDeque<(Instant, u32)>,
}

impl Ledger {
    /// A search has made so many mappings.
    pub(super) fn add(&mut self, mappings: u32, now: Instant) {
        if mappings > 0 {
            self.entries.push_back((now + MAPPING_LIFETIME, mappings));
        }
    }

    /// How many mappings may be alive.
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
