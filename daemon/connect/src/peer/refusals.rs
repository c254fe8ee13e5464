//! Refusals of offers: what the peer has said last, and how many this machine sends.

use std::time::{Duration, Instant};

use punch_packet::Rate;
use punch_signal_protocol::{OfferRefusal, RefusalReason};

use crate::pace::Buckets;
use crate::{PeerRefusal, ServerId};

/// Refusals to one peer over one server.
const REFUSALS: Rate = Rate {
    burst: 1,
    interval: Duration::from_secs(10),
};
/// The next offer after a refusal for the clocks: either of them may be set right at any time.
const CLOCK_PAUSE: Duration = Duration::from_secs(15);
/// The next offer after any other refusal: the peer will call by itself, or log in anew, when it has changed its mind or its
/// version.
const PAUSE: Duration = Duration::from_secs(60);
/// A clock that is off by so many seconds more or less than before is told again.
const SAME_CLOCK: u64 = 60;

/// See the module.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// The newest refusal of the peer, and when it came; none once there is an exchange.
    received: Option<(PeerRefusal, Instant)>,
    sent: Buckets<ServerId>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            received: None,
            sent: Buckets::new(REFUSALS),
        }
    }
}

impl Refusals {
    /// Takes leave to send the peer a refusal over `server`, if both this peer and `all` of them have some left.
    pub(crate) fn admit(
        &mut self,
        server: ServerId,
        all: &mut Buckets<ServerId>,
        now: Instant,
    ) -> bool {
        // A peer that asks too often takes nothing from the others.
        self.sent.holds(&server, now) && all.take(server, now) && self.sent.take(server, now)
    }

    /// The peer has refused the offer that was out; returns whether that is another thing than what it said before.
    pub(super) fn handle(&mut self, refusal: PeerRefusal, now: Instant) -> bool {
        let before = self.received.replace((refusal, now));
        !before.is_some_and(|(before, _)| before.is_like(refusal))
    }

    /// There is an exchange, or nobody wants one any more.
    pub(super) fn clear(&mut self) {
        self.received = None;
    }

    /// Whether the peer has refused because of the clocks.
    pub(super) fn is_about_clocks(&self) -> bool {
        matches!(self.received, Some((PeerRefusal::Clock { .. }, _)))
    }

    /// The newest refusal of the peer, and its age.
    pub(super) fn received(&self, now: Instant) -> Option<(PeerRefusal, Duration)> {
        let (refusal, at) = self.received?;
        Some((refusal, now.saturating_duration_since(at)))
    }
}

impl PeerRefusal {
    /// What a peer's refusal says to this machine, whose wall clock is at `wall_ms`.
    pub(super) fn read(refusal: &OfferRefusal, wall_ms: u64) -> Self {
        match refusal.reason {
            RefusalReason::Clock => {
                let ahead_ms = i128::from(wall_ms) - i128::from(refusal.clock_ms);
                let ahead_s = i64::try_from(ahead_ms / 1000).unwrap_or(i64::MAX);
                Self::Clock { ahead_s }
            }
            RefusalReason::Version => Self::Version,
            RefusalReason::NotWanted => Self::NotWanted,
            RefusalReason::Unknown(_) => Self::Unknown,
        }
    }

    /// The pause before the next offer.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Clock { .. } => CLOCK_PAUSE,
            Self::Version | Self::NotWanted | Self::Unknown => PAUSE,
        }
    }

    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Clock { ahead_s: one }, Self::Clock { ahead_s: two }) => {
                one.abs_diff(two) < SAME_CLOCK
            }
            (one, two) => one == two,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;
    use crate::start::start;

    #[test]
    fn a_reason_is_told_once_and_a_clock_again_when_it_was_set() {
        let now = start();
        let mut refusals = Refusals::default();
        let clock = |ahead_s| PeerRefusal::Clock { ahead_s };
        for (refusal, news) in [
            (clock(7200), true),
            (clock(7201), false),
            (clock(-7200), true),
            (PeerRefusal::NotWanted, true),
            (PeerRefusal::NotWanted, false),
            (PeerRefusal::Unknown, true),
        ] {
            assert_eq!(refusals.handle(refusal, now), news, "{refusal:?}");
        }
        refusals.clear();
        assert!(refusals.handle(PeerRefusal::Unknown, now));
        let later = now + Duration::from_secs(5);
        let age = Duration::from_secs(5);
        assert_eq!(refusals.received(later), Some((PeerRefusal::Unknown, age)));
    }

    #[test]
    fn a_clock_is_read_in_either_direction_whatever_the_peer_says() {
        let read = |clock_ms, wall_ms| {
            let refusal = OfferRefusal {
                reason: RefusalReason::Clock,
                clock_ms,
                seen: 0,
            };
            PeerRefusal::read(&refusal, wall_ms)
        };
        assert_eq!(read(1_000, 7_201_000), PeerRefusal::Clock { ahead_s: 7200 });
        assert_eq!(
            read(7_201_000, 1_000),
            PeerRefusal::Clock { ahead_s: -7200 }
        );
        let largest = i64::try_from(u64::MAX / 1000).unwrap();
        assert_eq!(read(u64::MAX, 0), PeerRefusal::Clock { ahead_s: -largest });
        assert_eq!(read(0, u64::MAX), PeerRefusal::Clock { ahead_s: largest });
    }
}
