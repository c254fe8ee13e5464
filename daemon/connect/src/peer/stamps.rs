//! Stamps of offers and answers: what makes a replayed or an old offer recognizable.

use std::time::Duration;

/// An offer whose stamp differs from our wall clock by more than this is refused.
pub const MAX_STALE: Duration = Duration::from_secs(600);

/// The newest stamps exchanged with one peer, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps {
    pub(crate) sent: u64,
    pub(crate) seen: u64,
}

/// Why an offer's stamp is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StampError {
    /// The offer, or a newer one, was seen before.
    Replayed,
    /// The peer's clock minus ours, in seconds. The offer may be an old one, sent again, if one as new was seen before.
    Stale {
        /// The difference of the clocks.
        seconds: i64,
        /// Whether the offer is new.
        is_new: bool,
    },
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
        let is_new = stamp > self.seen || self.seen > horizon(wall_ms);
        if stamp.abs_diff(wall_ms) > MAX_STALE.as_millis() as u64 {
            let ahead = (i128::from(stamp) - i128::from(wall_ms)) / 1000;
            let seconds = i64::try_from(ahead).unwrap_or(i64::MAX);
            return Err(StampError::Stale { seconds, is_new });
        }
        if !is_new {
            return Err(StampError::Replayed);
        }
        self.seen = stamp;
        Ok(())
    }

    /// The peer has refused the newest stamp and has accepted none larger than `seen`: stamps of a time when our clock was ahead
    /// need not be surpassed.
    pub(super) fn handle_refused(&mut self, seen: u64) {
        self.sent = self.sent.min(seen);
    }
}

/// A stamp beyond this is of a clock that was wrong.
pub(super) fn horizon(wall_ms: u64) -> u64 {
    wall_ms.saturating_add(2 * MAX_STALE.as_millis() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn a_clock_that_was_ahead_and_is_set_right_makes_stamps_of_its_own_time_again() {
        for ahead_s in [601, 900, 1_199, 7_200, 10_000_000] {
            let wrong = NOW + 1000 * ahead_s;
            let (mut sender, mut receiver) =
                (Stamps { sent: NOW, seen: 0 }, Stamps { sent: 0, seen: NOW });
            let stamp = sender.next(wrong);
            let seconds = i64::try_from(ahead_s).unwrap();
            let is_new = true;
            let stale = Err(StampError::Stale { seconds, is_new });
            assert_eq!(receiver.accept(stamp, NOW), stale);
            sender.handle_refused(receiver.seen);
            let stamp = sender.next(NOW + 1);
            assert_eq!(stamp, NOW + 1);
            assert_eq!(receiver.accept(stamp, NOW + 1), Ok(()));
        }
    }

    #[test]
    fn a_peer_cannot_make_stamps_grow_by_what_it_claims_to_have_seen() {
        let mut stamps = Stamps { sent: NOW, seen: 0 };
        stamps.handle_refused(u64::MAX);
        assert_eq!(stamps.next(NOW), NOW + 1);
    }

    #[test]
    fn an_offer_of_a_clock_that_went_back_is_stale_and_a_fresh_one_seen_before_is_a_replay() {
        let mut stamps = Stamps { sent: 0, seen: NOW };
        let seconds = -7200;
        let is_new = false;
        assert_eq!(
            stamps.accept(NOW - 7_200_000, NOW),
            Err(StampError::Stale { seconds, is_new })
        );
        assert_eq!(stamps.accept(NOW - 1, NOW), Err(StampError::Replayed));
        assert_eq!(stamps.accept(NOW, NOW), Err(StampError::Replayed));
        assert_eq!(stamps.seen, NOW);
        let (seconds, is_new) = (i64::try_from((u64::MAX - NOW) / 1000).unwrap(), true);
        assert_eq!(
            stamps.accept(u64::MAX, NOW),
            Err(StampError::Stale { seconds, is_new })
        );
    }
}
