//! Stamps of offers and answers: what makes a replayed or an old offer recognizable.

use std::time::Duration;

/// An offer whose stamp differs from our wall clock by more than this is refused.
pub const MAX_STALE: Duration = Duration::from_secs(600);

/// The newest stamps exchanged with one peer, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamps {
    pub(crate) sent: u64,
    pub(crate) seen: u64,
}

/// Why an offer's stamp is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StampError {
    /// The offer, or a newer one, was seen before.
    Replayed,
    /// The peer's clock minus ours, in seconds.
    Stale(i64),
}

impl Stamps {
    /// The stamp of the next description: larger than any before.
    pub(crate) fn next(&mut self, wall_ms: u64) -> u64 {
        // A stamp from a time when our clock was far ahead was refused by every peer whose clock was right, and may be forgotten.
        self.sent = if self.sent > horizon(wall_ms) {
            wall_ms
        } else {
            wall_ms.max(self.sent + 1)
        };
        self.sent
    }

    /// Takes note of the stamp of a peer's offer, unless it is to be refused.
    pub(crate) fn accept(&mut self, stamp: u64, wall_ms: u64) -> Result<(), StampError> {
        // A stamp that was seen while both clocks were far ahead says nothing any more.
        if stamp <= self.seen && self.seen <= horizon(wall_ms) {
            return Err(StampError::Replayed);
        }
        if stamp.abs_diff(wall_ms) > MAX_STALE.as_millis() as u64 {
            let ahead = i64::try_from(stamp).unwrap_or(i64::MAX) - wall_ms as i64;
            return Err(StampError::Stale(ahead / 1000));
        }
        self.seen = stamp;
        Ok(())
    }
}

fn horizon(wall_ms: u64) -> u64 {
    wall_ms + 2 * MAX_STALE.as_millis() as u64
}
