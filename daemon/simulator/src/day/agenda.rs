//! What is due when.

use std::collections::BTreeMap;
use std::time::Instant;

/// See the module.
pub(super) struct Agenda<T> {
    due: BTreeMap<(Instant, u64), T>,
    sequence: u64,
}

impl<T> Agenda<T> {
    /// Nothing is due.
    pub(super) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Something is due then.
    pub(super) fn add(&mut self, at: Instant, what: T) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), what);
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// What is due now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
