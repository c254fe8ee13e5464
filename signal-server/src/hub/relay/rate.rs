//! How many bytes may pass in a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use punch_signal_protocol::MAX_RELAY_FRAME;

use super::FRAME_OVERHEAD;

/// What may pass at once after a pause, as the time that it takes at the rate.
const BURST: Duration = Duration::from_millis(250);
/// Yet so many of the longest frames, where the rate is small.
const FRAMES: u64 = 4;

/// A bucket of bytes that many tasks take from without a lock. It holds no bytes but the time at which all that was taken is paid for
/// (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub struct ByteRate {
    mbit: u64,
    burst: u64,
    start: Instant,
    /// Nanoseconds since the start.
    paid: AtomicU64,
}

impl ByteRate {
    /// A full bucket for so many Mbit/s.
    pub fn new(mbit: u32, now: Instant) -> Self {
        let mbit = u64::from(mbit.max(1));
        let frames = FRAMES * nanoseconds(MAX_RELAY_FRAME + FRAME_OVERHEAD, mbit);
        Self {
            mbit,
            burst: u64::try_from(BURST.as_nanos()).map_or(frames, |burst| burst.max(frames)),
            start: now,
            paid: AtomicU64::new(0),
        }
    }

    /// Takes the cost of a frame of this length, or returns false if that is not there.
    pub fn take(&self, length: usize, now: Instant) -> bool {
        self.take_of(length, false, now)
    }

    /// The same, of which a taker that `is_busy` leaves half to others.
    pub fn take_of(&self, length: usize, is_busy: bool, now: Instant) -> bool {
        let burst = if is_busy { self.burst / 2 } else { self.burst };
        let cost = nanoseconds(length + FRAME_OVERHEAD, self.mbit);
        let now = self.since_start(now);
        let pay = |paid: u64| {
            let paid = paid.max(now) + cost;
            (paid <= now + burst).then_some(paid)
        };
        self.paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay)
            .is_ok()
    }

    /// Takes the cost of a frame of this length even if that is not there; returns how long to wait until it is paid for.
    pub fn charge(&self, length: usize, now: Instant) -> Duration {
        let cost = nanoseconds(length + FRAME_OVERHEAD, self.mbit);
        let now = self.since_start(now);
        let pay = |paid: u64| Some(paid.max(now) + cost);
        let before = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay)
            .unwrap_or_default();
        Duration::from_nanos((before.max(now) + cost).saturating_sub(now + self.burst))
    }

    /// Whether most of the burst is used up.
    pub fn is_busy(&self, now: Instant) -> bool {
        let used = self
            .paid
            .load(Ordering::Relaxed)
            .saturating_sub(self.since_start(now));
        used > self.burst / 2
    }

    /// Whether nothing is to be remembered of what was taken.
    pub fn is_full(&self, now: Instant) -> bool {
        self.paid.load(Ordering::Relaxed) <= self.since_start(now)
    }

    fn since_start(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX / 2)
    }
}

/// How long so many bytes take: a bit takes a microsecond at 1 Mbit/s.
fn nanoseconds(bytes: usize, mbit: u64) -> u64 {
    bytes as u64 * 8 * 1000 / mbit
}
