//! How many packets of an attempt leave in any one second: searches and probes keep to the budget's rate together. Answers to the
//! peer's checks, and checks that they set off, are counted but not held back.

use std::time::{Duration, Instant};

/// Packets are counted in slots of this length.
const SLOT: Duration = Duration::from_millis(25);
/// The slots of one second, and the one in which it began.
const SLOTS: usize = 41;

/// Counts what has left within the last second and a little more.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u32,
    start: Instant,
    /// The number of the newest slot since the start.
    newest: u64,
    counts: [u32; SLOTS],
}

impl Pace {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate,
            start: now,
            newest: 0,
            counts: [0; SLOTS],
        }
    }

    /// How many more may leave now.
    pub(crate) fn room(&mut self, now: Instant) -> u32 {
        self.rate.saturating_sub(self.recent(now))
    }

    /// One leaves now.
    pub(crate) fn count(&mut self, now: Instant) {
        self.advance(now);
        self.counts[(self.newest % SLOTS as u64) as usize] += 1;
    }

    /// How many have left within the last second.
    pub(crate) fn recent(&mut self, now: Instant) -> u32 {
        self.advance(now);
        self.counts.iter().sum()
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start);
        let slot = (elapsed.as_millis() / SLOT.as_millis()) as u64;
        while self.newest < slot {
            // After a long pause all of them are old.
            self.newest = (self.newest + 1).max(slot.saturating_sub(SLOTS as u64));
            self.counts[(self.newest % SLOTS as u64) as usize] = 0;
        }
    }
}
