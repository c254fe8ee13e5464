//! The wall clock, which is told to the connector now and then.

use std::time::{Duration, Instant};

/// What the wall clock said, and when.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    told_at: Instant,
    ms: u64,
}

impl WallClock {
    /// It is `ms` milliseconds after the beginning of 1970 now.
    pub(crate) fn new(ms: u64, now: Instant) -> Self {
        Self { told_at: now, ms }
    }

    /// The time since the beginning of 1970.
    pub fn since_epoch(&self, now: Instant) -> Duration {
        Duration::from_millis(self.ms) + now.saturating_duration_since(self.told_at)
    }

    /// Milliseconds since the beginning of 1970.
    pub(crate) fn ms(&self, now: Instant) -> u64 {
        u64::try_from(self.since_epoch(now).as_millis()).unwrap_or(u64::MAX)
    }
}
